//! rope: the reference's bits everywhere, the mathematics in f64, and transformers' own bf16.

mod common;

use common::{Golden, Seeded, awkward, execs, far, same, shifted, unit, widened};
use half::{bf16, f16};
use unswag_kernels::{
    Element, Exec, KernelError,
    rope::{self, Config, reference},
};

/// Tokens, heads, head_dim, dim.
const SHAPES: [[usize; 4]; 10] = [
    [0, 3, 64, 64],
    [1, 1, 2, 2],
    [2, 3, 7, 6],
    [6, 42, 123, 122],
    [5, 9, 64, 64],
    [3, 2, 96, 96],
    [4, 2, 128, 32],
    [2, 3, 80, 20],
    [3, 1, 256, 256],
    [200, 9, 64, 64],
];

type Tables<T> = (Vec<T>, Vec<T>);

/// cos and sin of random positions, every frequency twice.
fn tables<T: Element>(tokens: usize, dim: usize) -> Tables<T> {
    let mut random = Seeded(3);
    let mut angles = Vec::new();
    for _ in 0..tokens {
        let position = (random.unit() * 4000.0).floor();
        let angle = |i: usize| position * 10000f64.powf(-2.0 * (i % (dim / 2)) as f64 / dim as f64);
        angles.extend((0..dim).map(angle));
    }
    let round = |f: fn(f64) -> f64| angles.iter().map(|angle| T::from_f32(f(*angle) as f32)).collect();
    (round(f64::cos), round(f64::sin))
}

fn agrees<T: Element>() {
    for [tokens, heads, head_dim, dim] in SHAPES {
        for interleaved in [false, true] {
            let (config, n) = (Config { heads, head_dim, dim, interleaved }, tokens * heads * head_dim);
            let (cos, sin) = tables::<T>(tokens, dim);
            for x in [awkward::<T>(1, n), Seeded(2).normals::<T>(n)] {
                let (mut y, mut dx) = (x.clone(), x.clone());
                reference::forward(&config, &cos, &sin, &mut y);
                reference::backward(&config, &cos, &sin, &mut dx);
                for exec in execs() {
                    let name = format!("{config:?} {} {tokens} tokens, {exec:?}", T::NAME);
                    let mut got = shifted(&x, 1);
                    rope::forward(exec, &config, &cos, &sin, &mut got[1..]).unwrap();
                    same(&got[1..], &y).unwrap_or_else(|e| panic!("{name}: y: {e}"));
                    let mut got = vec![T::from_f32(7.0); n];
                    rope::forward_into(exec, &config, &cos, &sin, &x, &mut got).unwrap();
                    same(&got, &y).unwrap_or_else(|e| panic!("{name}: y into: {e}"));
                    rope::backward_into(exec, &config, &cos, &sin, &x, &mut got).unwrap();
                    same(&got, &dx).unwrap_or_else(|e| panic!("{name}: dx into: {e}"));
                    let mut got = x.clone();
                    rope::backward(exec, &config, &cos, &sin, &mut got).unwrap();
                    same(&got, &dx).unwrap_or_else(|e| panic!("{name}: dx: {e}"));
                }
            }
        }
    }
}

#[test]
fn rope_gives_the_reference_bits() {
    agrees::<f32>();
    agrees::<bf16>();
    agrees::<f16>();
}

/// x turned in f64, written with complex numbers and not with rotate_half.
fn exact(config: &Config, cos: &[f64], sin: &[f64], x: &[f64], direction: f64) -> Vec<f64> {
    let mut y = x.to_vec();
    let width = config.heads * config.head_dim;
    for (token, y) in y.chunks_mut(width).enumerate() {
        for head in y.chunks_mut(config.head_dim) {
            for i in 0..config.dim / 2 {
                let (re, im) = if config.interleaved { (2 * i, 2 * i + 1) } else { (i, i + config.dim / 2) };
                let (c, s) = (cos[token * config.dim + i], direction * sin[token * config.dim + i]);
                (head[re], head[im]) = (head[re] * c - head[im] * s, head[re] * s + head[im] * c);
            }
        }
    }
    y
}

fn is_exact<T: Element>() {
    for [tokens, heads, head_dim, dim] in SHAPES {
        for interleaved in [false, true] {
            let (config, n) = (Config { heads, head_dim, dim, interleaved }, tokens * heads * head_dim);
            let (cos, sin) = tables::<T>(tokens, dim);
            let x: Vec<T> = Seeded(2).normals(n);
            let (wide_cos, wide_sin, wide_x) = (widened(&cos), widened(&sin), widened(&x));
            let largest = wide_x.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            let mut y = x.clone();
            rope::forward(Exec::new(2), &config, &cos, &sin, &mut y).unwrap();
            // Two products and their sum, each rounded.
            let bound = 4.0 * unit::<T>() * largest;
            let expected = exact(&config, &wide_cos, &wide_sin, &wide_x, 1.0);
            assert_eq!(far(&y, &expected, |_| bound), None, "{config:?}");
            let mut dx = x.clone();
            rope::backward(Exec::new(2), &config, &cos, &sin, &mut dx).unwrap();
            // The derivative of a rotation is the rotation the other way.
            let expected = exact(&config, &wide_cos, &wide_sin, &wide_x, -1.0);
            assert_eq!(far(&dx, &expected, |_| bound), None, "{config:?} backward");
            // A backward that turns the wrong way is told apart.
            assert!(tokens < 2 || far(&y, &expected, |_| bound).is_some());
        }
    }
}

#[test]
fn rope_turns_each_pair_by_its_angle_and_back() {
    is_exact::<f32>();
    is_exact::<bf16>();
    is_exact::<f16>();
}

/// `golden/rope.bin` from transformers: see `golden/rope.py`.
#[test]
fn bf16_has_the_bits_of_transformers_both_ways() {
    const TOKENS: usize = 7;
    let mut golden = Golden(include_bytes!("golden/rope.bin"));
    for (dim, interleaved) in [(80, false), (40, true)] {
        let config = Config { heads: 3, head_dim: 80, dim, interleaved };
        let n = TOKENS * config.heads * config.head_dim;
        let (q, cos, sin) = (golden.bf16(n), golden.bf16(TOKENS * dim), golden.bf16(TOKENS * dim));
        let (y, dy, dx) = (golden.bf16(n), golden.bf16(n), golden.bf16(n));
        let mut got = q.clone();
        rope::forward(Exec::new(1), &config, &cos, &sin, &mut got).unwrap();
        same(&got, &y).unwrap_or_else(|e| panic!("{config:?}: {e}"));
        let mut got = dy.clone();
        rope::backward(Exec::new(1), &config, &cos, &sin, &mut got).unwrap();
        same(&got, &dx).unwrap_or_else(|e| panic!("{config:?} backward: {e}"));
        // One rounding less would show.
        let once = exact(&config, &widened(&cos), &widened(&sin), &widened(&q), 1.0);
        let once: Vec<bf16> = once.into_iter().map(|y| bf16::from_f32(y as f32)).collect();
        assert!(same(&once, &y).is_err());
    }
}

#[test]
fn a_bad_call_is_refused_before_anything_is_written() {
    let config = Config { heads: 2, head_dim: 4, dim: 4, interleaved: false };
    let (exec, angles, mut x) = (Exec::new(1), [0.5f32; 4], [9.0f32; 8]);
    let odd = rope::forward(exec, &Config { dim: 3, ..config }, &angles[..3], &angles[..3], &mut x);
    assert_eq!(odd.unwrap_err().to_string(), "rope: `dim` must be even and from 2 to head_dim, 4, got 3");
    assert!(rope::forward(exec, &Config { dim: 6, ..config }, &[0.0; 6], &[0.0; 6], &mut x).is_err());
    assert!(rope::forward(exec, &Config { heads: 0, ..config }, &angles, &angles, &mut x).is_err());
    let part = rope::forward(exec, &config, &angles, &angles, &mut x[..7]);
    assert_eq!(part, Err(KernelError::Length { op: "rope", argument: "x", expected: 0, got: 7 }));
    let short = rope::backward(exec, &config, &angles[..3], &angles, &mut x);
    assert_eq!(short, Err(KernelError::Length { op: "rope", argument: "cos", expected: 4, got: 3 }));
    assert!(rope::forward_into(exec, &config, &angles, &angles, &[1.0; 16], &mut x).is_err());
    assert!(rope::forward(exec, &Config { heads: usize::MAX, ..config }, &angles, &angles, &mut x).is_err());
    assert_eq!(x, [9.0; 8]);
}
