//! `rope`: the first `dim` elements of each head turned by the cosines and sines of the token's position. Su et al. 2021.
//!
//! Math: y = x cos + rotate_half(x) sin. Halves: pair i is (x\[i\], x\[i + dim/2\]), its angles at i and at i + dim/2.
//! Interleaved: pair i is (x\[2i\], x\[2i + 1\]), its angle at i, as GLM has it; the second half of cos and sin is not read.
//! The backward is the transpose: dx = dy cos + rotate_half^T(dy sin); what is beyond `dim` passes unchanged both ways.
//! Layout: x \[tokens, heads, head_dim\] contiguous; cos, sin \[tokens, dim\], which `rotary_embedding` makes, every frequency
//! standing twice. Bytes per element, e bytes wide: 2e, in place or not; cos and sin are read once per token.
//! Precision: as transformers' `apply_rotary_pos_emb`: both products and the sum are rounded to the element type, so a bf16
//! model gets transformers' bits.
//! NaN and infinity touch their own pair only.
//!
//! The ladder: 1. `reference.rs`; 2. sixteen lanes; halves need no shuffle, pairs of neighbours are taken apart in L1.
//! This file must not allocate, and checks every length before the first store.

mod dispatch;
pub mod reference;

pub(crate) use dispatch::Kernels;
use dispatch::{Args, Direction, Done};

use crate::{
    Element, Exec, KernelError,
    error::{elements, length},
    rows::{Pair, load, padded, rows_per_task, store},
    simd::{Body, Simd},
};

pub const OP: &str = "rope";

/// The heads of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// How many of them are turned: even, at most `head_dim`.
    pub dim: usize,
    /// Pairs are neighbours, not halves.
    pub interleaved: bool,
}

/// Turns x where it is. x: \[tokens, heads, head_dim\]; cos, sin: \[tokens, dim\].
///
/// # Errors
/// Where lengths do not fit, `dim` is odd or beyond `head_dim`, or the CPU lacks `exec.isa`. Then nothing was written.
///
/// ```
/// use unswag_kernels::{Exec, rope};
/// let config = rope::Config { heads: 1, head_dim: 3, dim: 2, interleaved: false };
/// let mut x = [1.0f32, 2.0, 3.0];
/// rope::forward(Exec::new(1), &config, &[0.0; 2], &[1.0; 2], &mut x)?;
/// assert_eq!(x, [-2.0, 1.0, 3.0]);
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn forward<T: Element>(exec: Exec, config: &Config, cos: &[T], sin: &[T], x: &mut [T]) -> Result<(), KernelError> {
    turn(exec, config, Args { from: None, cos, sin, x, direction: Direction::Forward })
}

/// [`forward`] from x to y, both \[tokens, heads, head_dim\].
///
/// # Errors
/// As [`forward`].
pub fn forward_into<T: Element>(
    exec: Exec,
    config: &Config,
    cos: &[T],
    sin: &[T],
    x: &[T],
    y: &mut [T],
) -> Result<(), KernelError> {
    turn(exec, config, Args { from: Some(x), cos, sin, x: y, direction: Direction::Forward })
}

/// Turns dy back where it is: the gradient of the forward's x. dy: \[tokens, heads, head_dim\].
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Element>(
    exec: Exec,
    config: &Config,
    cos: &[T],
    sin: &[T],
    dy: &mut [T],
) -> Result<(), KernelError> {
    turn(exec, config, Args { from: None, cos, sin, x: dy, direction: Direction::Backward })
}

/// [`backward`] from dy to dx, both \[tokens, heads, head_dim\].
///
/// # Errors
/// As [`forward`].
pub fn backward_into<T: Element>(
    exec: Exec,
    config: &Config,
    cos: &[T],
    sin: &[T],
    dy: &[T],
    dx: &mut [T],
) -> Result<(), KernelError> {
    turn(exec, config, Args { from: Some(dy), cos, sin, x: dx, direction: Direction::Backward })
}

fn turn<T: Element>(exec: Exec, config: &Config, args: Args<'_, T>) -> Done {
    let refuse = |argument, expected: String, got: usize| {
        Err(KernelError::Argument { op: OP, argument, expected, got: got.to_string() })
    };
    if config.heads == 0 {
        return refuse("heads", "at least 1".into(), 0);
    }
    if config.dim < 2 || !config.dim.is_multiple_of(2) || config.dim > config.head_dim {
        return refuse("dim", format!("even and from 2 to head_dim, {}", config.head_dim), config.dim);
    }
    let width = elements(OP, config.heads, config.head_dim)?;
    let tokens = args.x.len() / width;
    length(OP, "x", tokens * width, args.x.len())?;
    length(OP, "cos", tokens * config.dim, args.cos.len())?;
    length(OP, "sin", args.cos.len(), args.sin.len())?;
    if let Some(from) = args.from {
        length(OP, "x", args.x.len(), from.len())?;
    }
    T::rope(exec, config, args)
}

fn turn_rows<T: Element>(exec: Exec, config: &Config, args: Args<'_, T>) -> Done {
    let Args { from, cos, sin, x, direction } = args;
    let (config, width) = (*config, config.heads * config.head_dim);
    let take = rows_per_task(width);
    let (tasks, cut, angles) = ((x.len() / width).div_ceil(take), take * width, take * config.dim);
    let mut from = from.map(|from| from.chunks(cut));
    let work = x.chunks_mut(cut).zip(cos.chunks(angles).zip(sin.chunks(angles)));
    let work = work.map(move |(x, angles)| (from.as_mut().and_then(Iterator::next), x, angles));
    exec.for_each(tasks, work, |(from, x, (cos, sin))| {
        if let Some(from) = from {
            // The copy stays in the cache: a task's share is some 64 KiB.
            x.copy_from_slice(from);
        }
        T::launch(exec.isa, Turn { config, cos, sin, x, direction });
    })
}

struct Turn<'a, T> {
    config: Config,
    cos: &'a [T],
    sin: &'a [T],
    x: &'a mut [T],
    direction: Direction,
}

impl<T: Element> Body for Turn<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Config { heads, head_dim, dim, interleaved } = self.config;
        let angles = self.cos.chunks_exact(dim).zip(self.sin.chunks_exact(dim));
        for (token, (cos, sin)) in self.x.chunks_exact_mut(heads * head_dim).zip(angles) {
            for head in token.chunks_exact_mut(head_dim) {
                if interleaved {
                    neighbours(s, &mut head[..dim], cos, sin, self.direction);
                } else {
                    halves(s, &mut head[..dim], cos, sin, self.direction);
                }
            }
        }
    }
}

#[inline(always)]
fn halves<S: Simd, T: Element>(s: S, x: &mut [T], cos: &[T], sin: &[T], direction: Direction) {
    let half = x.len() / 2;
    let (a, b) = x.split_at_mut(half);
    let (a_blocks, a_tail) = a.as_chunks_mut::<32>();
    let (b_blocks, b_tail) = b.as_chunks_mut::<32>();
    let ((cos_a, cos_b), (sin_a, sin_b)) = (cos.split_at(half), sin.split_at(half));
    let [cos_a, cos_b, sin_a, sin_b] = [cos_a, cos_b, sin_a, sin_b].map(<[T]>::as_chunks::<32>);
    let cosines = cos_a.0.iter().zip(cos_b.0);
    let sines = sin_a.0.iter().zip(sin_b.0);
    for ((a, b), ((cos_a, cos_b), (sin_a, sin_b))) in a_blocks.iter_mut().zip(b_blocks).zip(cosines.zip(sines)) {
        let angles = [load(s, cos_a), load(s, cos_b), load(s, sin_a), load(s, sin_b)];
        let [turned_a, turned_b] = pair::<S, T>(s, [load(s, a), load(s, b)], angles, direction);
        store(s, a, turned_a);
        store(s, b, turned_b);
    }
    if !a_tail.is_empty() {
        let n = a_tail.len();
        let (mut a, mut b) = (padded(a_tail), padded(b_tail));
        let angles = [cos_a.1, cos_b.1, sin_a.1, sin_b.1];
        let angles = [0, 1, 2, 3].map(|i| padded(angles[i]));
        let angles = [load(s, &angles[0]), load(s, &angles[1]), load(s, &angles[2]), load(s, &angles[3])];
        let [turned_a, turned_b] = pair::<S, T>(s, [load(s, &a), load(s, &b)], angles, direction);
        store(s, &mut a, turned_a);
        store(s, &mut b, turned_b);
        a_tail.copy_from_slice(&a[..n]);
        b_tail.copy_from_slice(&b[..n]);
    }
}

/// Pairs of neighbours, 32 of them at a time.
#[inline(always)]
fn neighbours<S: Simd, T: Element>(s: S, x: &mut [T], cos: &[T], sin: &[T], direction: Direction) {
    for ((x, cos), sin) in x.chunks_mut(64).zip(cos.chunks(32)).zip(sin.chunks(32)) {
        let (mut a, mut b) = ([T::ZERO; 32], [T::ZERO; 32]);
        let pairs = x.as_chunks_mut::<2>().0;
        for ((a, b), pair) in a.iter_mut().zip(&mut b).zip(&*pairs) {
            [*a, *b] = *pair;
        }
        // The last block's angles run on into the half that is not read: there the pairs are padding.
        let n = pairs.len();
        let (cos, sin) = (padded(&cos[..n.min(cos.len())]), padded(&sin[..n.min(sin.len())]));
        let (cos, sin) = (load(s, &cos), load(s, &sin));
        let [turned_a, turned_b] = pair::<S, T>(s, [load(s, &a), load(s, &b)], [cos, cos, sin, sin], direction);
        store(s, &mut a, turned_a);
        store(s, &mut b, turned_b);
        for ((a, b), pair) in a.iter().zip(&b).zip(pairs) {
            *pair = [*a, *b];
        }
    }
}

/// Forward: a cos_a - b sin_a, b cos_b + a sin_b. Backward: a cos_a + b sin_b, b cos_b - a sin_a. Each product is rounded.
#[inline(always)]
fn pair<S: Simd, T: Element>(
    s: S,
    [a, b]: [Pair<S>; 2],
    [cos_a, cos_b, sin_a, sin_b]: [Pair<S>; 4],
    direction: Direction,
) -> [Pair<S>; 2] {
    let (of_b, of_a) = match direction {
        Direction::Forward => ([s.neg(sin_a[0]), s.neg(sin_a[1])], sin_b),
        Direction::Backward => (sin_b, [s.neg(sin_a[0]), s.neg(sin_a[1])]),
    };
    [sum::<S, T>(s, [a, cos_a, b, of_b]), sum::<S, T>(s, [b, cos_b, a, of_a])]
}

#[inline(always)]
fn sum<S: Simd, T: Element>(s: S, [a, b, c, d]: [Pair<S>; 4]) -> Pair<S> {
    [
        s.add(T::round(s, s.mul(a[0], b[0])), T::round(s, s.mul(c[0], d[0]))),
        s.add(T::round(s, s.mul(a[1], b[1])), T::round(s, s.mul(c[1], d[1]))),
    ]
}
