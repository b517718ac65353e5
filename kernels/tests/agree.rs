//! Every op, element type, instruction set and thread count gives the reference's bits, at every awkward size and value.

mod common;

use common::{awkward, same, shifted};
use half::{bf16, f16};
use unswag_kernels::{
    Element, Exec, Isa,
    delhi::{
        Activation, Config, Mode, Rounding, SavedMut, Shape, Weighting, code_words, geglu, gelu, reference,
        saved_sizes, silu, swiglu, tables,
    },
};

/// Empty, one, around the lanes and the blocks, 6 x 42 x 123, and enough for several chunks.
const SIZES: [usize; 14] = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 6 * 42 * 123, 3 * 65536 + 7];

fn execs() -> Vec<Exec> {
    let mut execs: Vec<Exec> = Isa::available().into_iter().map(|isa| Exec { isa, threads: 1 }).collect();
    execs.push(Exec::new(0));
    execs.push(Exec::new(3));
    execs
}

fn code_ops_agree<T: Element>() {
    for activation in Activation::ALL {
        for bits in 1..=4 {
            let table = tables::table(activation, bits, &Weighting::Normal).unwrap();
            for n in SIZES {
                let (x, dy) = (awkward::<T>(1, n), awkward::<T>(2, n));
                let words = code_words(n, bits).unwrap();
                let (mut y, mut dx, mut codes) = (vec![T::ZERO; n], vec![T::ZERO; n], vec![0; words]);
                reference::forward(&table, &x, &mut y, &mut codes);
                reference::backward(&table, &dy, &codes, &mut dx);
                for exec in execs() {
                    let name = format!("{} {bits} bits, {} x {n}, {exec:?}", activation.name(), T::NAME);
                    // What was there before must not matter; and slices start off any alignment.
                    let (mut got_y, mut got_dx, mut got_plain) = (dy.clone(), x.clone(), dy.clone());
                    let mut got_codes = vec![!0; words];
                    let x = &shifted(&x, 1)[1..];
                    if activation == Activation::Silu {
                        silu::plain(exec, x, &mut got_plain).unwrap();
                        silu::forward(exec, &table, x, &mut got_y, &mut got_codes).unwrap();
                        silu::backward(exec, &table, &dy, &got_codes, &mut got_dx).unwrap();
                    } else {
                        gelu::plain(exec, activation, x, &mut got_plain).unwrap();
                        gelu::forward(exec, &table, x, &mut got_y, &mut got_codes).unwrap();
                        gelu::backward(exec, &table, &dy, &got_codes, &mut got_dx).unwrap();
                    }
                    same(&got_y, &y).unwrap_or_else(|e| panic!("{name}: y: {e}"));
                    same(&got_plain, &y).unwrap_or_else(|e| panic!("{name}: plain: {e}"));
                    assert!(got_codes == codes, "{name}: codes");
                    same(&got_dx, &dx).unwrap_or_else(|e| panic!("{name}: dx: {e}"));
                }
            }
        }
    }
}

#[test]
fn code_ops_give_the_reference_bits_in_f32() {
    code_ops_agree::<f32>();
}

#[test]
fn code_ops_give_the_reference_bits_in_bf16() {
    code_ops_agree::<bf16>();
}

#[test]
fn code_ops_give_the_reference_bits_in_f16() {
    code_ops_agree::<f16>();
}

const SHAPES: [(usize, usize); 12] = [
    (0, 64),
    (3, 0),
    (1, 1),
    (2, 31),
    (3, 32),
    (3, 33),
    (5, 64),
    (5, 65),
    (4, 100),
    (6 * 42, 123),
    (2, 1536),
    // One row, cut between groups for the threads.
    (1, 3 * 32768 + 77),
];

struct Store {
    g_codes: Vec<u32>,
    g_params: Vec<bf16>,
    u_codes: Vec<u32>,
    u_params: Vec<bf16>,
}

impl Store {
    fn new(shape: Shape, config: &Config) -> Store {
        let sizes = saved_sizes(shape.rows, shape.cols, config.mode, config.group).unwrap();
        let (words, params) = (shape.rows * sizes.words_per_row, shape.rows * sizes.params_per_row);
        assert_eq!(2 * (4 * words + 2 * params), sizes.bytes);
        Store {
            g_codes: vec![!0; words],
            g_params: vec![bf16::ONE; params],
            u_codes: vec![!0; words],
            u_params: vec![bf16::ONE; params],
        }
    }

    fn all(&mut self) -> SavedMut<'_> {
        SavedMut {
            g_codes: &mut self.g_codes,
            g_params: &mut self.g_params,
            u_codes: &mut self.u_codes,
            u_params: &mut self.u_params,
        }
    }
}

fn gated_agree<T: Element>(activation: Activation) {
    for mode in [Mode::Bits8, Mode::Bits4, Mode::Bits2] {
        for (rows, cols) in SHAPES {
            for (group, rounding) in [
                (64, Rounding::Nearest),
                (64, Rounding::Stochastic { seed: 7, offset: 1 << 40 }),
                (96, Rounding::Nearest),
                (32, Rounding::Nearest),
            ] {
                let (shape, config) = (Shape { rows, cols }, Config { mode, group, rounding });
                let n = rows * cols;
                let (g, u, dh) = (awkward::<T>(3, n), awkward::<T>(4, n), awkward::<T>(5, n));
                let mut expected = Store::new(shape, &config);
                let (mut h, mut again) = (vec![T::ZERO; n], vec![T::ZERO; n]);
                let (mut dg, mut du) = (h.clone(), h.clone());
                reference::gated_forward(activation, shape, &config, &g, &u, &mut h, expected.all());
                reference::gated_backward(activation, shape, &config, &dh, expected.all().as_ref(), &mut dg, &mut du);
                reference::gated_rematerialize(activation, shape, &config, expected.all().as_ref(), &mut again);
                for exec in execs() {
                    let name = format!("{} {config:?}, {} {rows} x {cols}, {exec:?}", activation.name(), T::NAME);
                    let mut got = Store::new(shape, &config);
                    let (mut got_h, mut got_again, mut got_dg, mut got_du) =
                        (u.clone(), g.clone(), h.clone(), h.clone());
                    let g = &shifted(&g, 1)[1..];
                    if activation == Activation::Silu {
                        swiglu::forward(exec, shape, &config, g, &u, &mut got_h, got.all()).unwrap();
                        let saved = got.all();
                        swiglu::backward(exec, shape, &config, &dh, saved.as_ref(), &mut got_dg, &mut got_du).unwrap();
                        swiglu::rematerialize(exec, shape, &config, saved.as_ref(), &mut got_again).unwrap();
                    } else {
                        geglu::forward(exec, activation, shape, &config, g, &u, &mut got_h, got.all()).unwrap();
                        let saved = got.all();
                        let (dg, du) = (&mut got_dg, &mut got_du);
                        geglu::backward(exec, activation, shape, &config, &dh, saved.as_ref(), dg, du).unwrap();
                        geglu::rematerialize(exec, activation, shape, &config, saved.as_ref(), &mut got_again).unwrap();
                    }
                    same(&got_h, &h).unwrap_or_else(|e| panic!("{name}: h: {e}"));
                    assert!(got.g_codes == expected.g_codes, "{name}: codes of g");
                    assert!(got.u_codes == expected.u_codes, "{name}: codes of u");
                    same(&got.g_params, &expected.g_params).unwrap_or_else(|e| panic!("{name}: g_params: {e}"));
                    same(&got.u_params, &expected.u_params).unwrap_or_else(|e| panic!("{name}: u_params: {e}"));
                    same(&got_dg, &dg).unwrap_or_else(|e| panic!("{name}: dg: {e}"));
                    same(&got_du, &du).unwrap_or_else(|e| panic!("{name}: du: {e}"));
                    same(&got_again, &again).unwrap_or_else(|e| panic!("{name}: rematerialised h: {e}"));
                }
            }
        }
    }
}

fn exact_agree<T: Element>(activation: Activation) {
    for n in SIZES {
        let (g, u, dh) = (awkward::<T>(3, n), awkward::<T>(4, n), awkward::<T>(5, n));
        let (mut h, mut dg, mut du) = (vec![T::ZERO; n], vec![T::ZERO; n], vec![T::ZERO; n]);
        reference::gated_plain(activation, &g, &u, &mut h);
        reference::gated_exact_backward(activation, &dh, &g, &u, &mut dg, &mut du);
        for exec in execs() {
            let name = format!("{} exact, {} x {n}, {exec:?}", activation.name(), T::NAME);
            let (mut got_h, mut got_dg, mut got_du) = (dh.clone(), g.clone(), u.clone());
            if activation == Activation::Silu {
                swiglu::plain(exec, &g, &u, &mut got_h).unwrap();
                swiglu::exact_backward(exec, &dh, &g, &u, &mut got_dg, &mut got_du).unwrap();
            } else {
                geglu::plain(exec, activation, &g, &u, &mut got_h).unwrap();
                geglu::exact_backward(exec, activation, &dh, &g, &u, &mut got_dg, &mut got_du).unwrap();
            }
            same(&got_h, &h).unwrap_or_else(|e| panic!("{name}: h: {e}"));
            same(&got_dg, &dg).unwrap_or_else(|e| panic!("{name}: dg: {e}"));
            same(&got_du, &du).unwrap_or_else(|e| panic!("{name}: du: {e}"));
        }
    }
}

#[test]
fn gated_ops_give_the_reference_bits_in_f32() {
    for activation in Activation::ALL {
        gated_agree::<f32>(activation);
        exact_agree::<f32>(activation);
    }
}

#[test]
fn gated_ops_give_the_reference_bits_in_bf16() {
    for activation in Activation::ALL {
        gated_agree::<bf16>(activation);
        exact_agree::<bf16>(activation);
    }
}

#[test]
fn gated_ops_give_the_reference_bits_in_f16() {
    for activation in Activation::ALL {
        gated_agree::<f16>(activation);
        exact_agree::<f16>(activation);
    }
}

/// Streamed stores are only taken above a size and at an alignment that the other cases do not reach.
#[test]
fn calls_large_enough_to_stream_give_the_same_bits() {
    let n = (16 << 20) / 2 + 64 * 3 + 5;
    let x: Vec<bf16> = awkward(9, n);
    let table = tables::table(Activation::Silu, 3, &Weighting::Normal).unwrap();
    let words = code_words(n, 3).unwrap();
    let aligned = |mut v: Vec<bf16>| {
        v.resize(n + 32, bf16::ZERO);
        let at = v.as_ptr().align_offset(64);
        (v, at)
    };
    let (mut y, y_at) = aligned(Vec::new());
    let (mut dx, dx_at) = aligned(Vec::new());
    let mut results: Vec<(Vec<bf16>, Vec<u32>, Vec<bf16>)> = Vec::new();
    for exec in execs() {
        let mut codes = vec![0; words];
        silu::forward(exec, &table, &x, &mut y[y_at..y_at + n], &mut codes).unwrap();
        silu::backward(exec, &table, &x, &codes, &mut dx[dx_at..dx_at + n]).unwrap();
        results.push((y[y_at..y_at + n].to_vec(), codes, dx[dx_at..dx_at + n].to_vec()));
        y.fill(bf16::ZERO);
        dx.fill(bf16::ZERO);
    }
    for result in &results[1..] {
        same(&result.0, &results[0].0).unwrap();
        assert!(result.1 == results[0].1);
        same(&result.2, &results[0].2).unwrap();
    }
}
