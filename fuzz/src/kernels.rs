//! The packing kernels on any numbers: every instruction set that this CPU has gives the plain reference's bits.
//!
//! An input is a few bytes that choose the case, then the numbers themselves as f32 bits: NaN, infinities, denormals and
//! all. What is left over of the last number is dropped.

use half::bf16;
use unswag_kernels::delhi::{
    Activation, Config, Mode, Rounding, SavedMut, Shape, Weighting, code_words, reference, saved_sizes, silu, swiglu,
    tables,
};
use unswag_kernels::{Exec, Isa};

/// `delhi.silu` at 1 to 4 bits: first byte the bits, second the threads, then x.
pub fn delhi_codes(data: &[u8]) {
    let Some(([bits, threads], numbers)) = data.split_first_chunk() else { return };
    let bits = u32::from(bits % 4) + 1;
    let x = floats(numbers);
    let words = code_words(x.len(), bits).expect("the codes of a small input have a size");
    let table = tables::table(Activation::Silu, bits, &Weighting::Normal).expect("1 to 4 bits have a table");

    let (mut y, mut codes, mut dx) = (vec![0.0; x.len()], vec![0; words], vec![0.0; x.len()]);
    reference::forward(&table, &x, &mut y, &mut codes);
    reference::backward(&table, &x, &codes, &mut dx);
    for isa in Isa::available() {
        let exec = Exec { isa, threads: usize::from(threads % 3) };
        // Filled, so that an element or a bit that is left out shows.
        let (mut fast_y, mut fast_codes, mut fast_dx) = (vec![7.0; x.len()], vec![u32::MAX; words], vec![7.0; x.len()]);
        silu::forward(exec, &table, &x, &mut fast_y, &mut fast_codes).expect("the lengths fit");
        silu::backward(exec, &table, &x, &fast_codes, &mut fast_dx).expect("the lengths fit");
        assert_eq!(codes, fast_codes, "{isa:?}: codes");
        assert_same(&y, &fast_y, isa, "y");
        assert_same(&dx, &fast_dx, isa, "dx");
    }
}

/// `delhi.swiglu` at 8, 4 or 2 bits: bytes for mode, columns, group, rounding, threads; then g and u, each half of it.
pub fn delhi_groups(data: &[u8]) {
    let Some(([mode, cols, group, rounding, threads], numbers)) = data.split_first_chunk() else { return };
    let mode = [Mode::Bits8, Mode::Bits4, Mode::Bits2][usize::from(mode % 3)];
    let cols = usize::from(*cols).max(1);
    let rounding = match rounding {
        0..128 => Rounding::Nearest,
        _ => Rounding::Stochastic { seed: u64::from(*rounding), offset: 3 },
    };
    let config = Config { mode, group: 32 * (usize::from(group % 4) + 1), rounding };
    let numbers = floats(numbers);
    let rows = numbers.len() / 2 / cols;
    let (g, u) = numbers[..2 * rows * cols].split_at(rows * cols);
    let shape = Shape { rows, cols };
    let sizes = saved_sizes(rows, cols, mode, config.group).expect("a small input has sizes");

    let mut expected = Buffers::new(shape, sizes.words_per_row, sizes.params_per_row, 0);
    reference::gated_forward(Activation::Silu, shape, &config, g, u, &mut expected.h, saved(&mut expected.kept));
    let (dg, du) = (&mut expected.dg, &mut expected.du);
    reference::gated_backward(Activation::Silu, shape, &config, u, saved(&mut expected.kept).as_ref(), dg, du);
    for isa in Isa::available() {
        let exec = Exec { isa, threads: usize::from(threads % 3) };
        let mut got = Buffers::new(shape, sizes.words_per_row, sizes.params_per_row, u32::MAX);
        swiglu::forward(exec, shape, &config, g, u, &mut got.h, saved(&mut got.kept)).expect("the lengths fit");
        let kept = saved(&mut got.kept);
        swiglu::backward(exec, shape, &config, u, kept.as_ref(), &mut got.dg, &mut got.du).expect("the lengths fit");
        assert_eq!(expected.kept.bits(), got.kept.bits(), "{isa:?}: saved");
        assert_same(&expected.h, &got.h, isa, "h");
        assert_same(&expected.dg, &got.dg, isa, "dg");
        assert_same(&expected.du, &got.du, isa, "du");
    }
}

struct Buffers {
    h: Vec<f32>,
    dg: Vec<f32>,
    du: Vec<f32>,
    kept: Kept,
}

struct Kept {
    g_codes: Vec<u32>,
    u_codes: Vec<u32>,
    g_params: Vec<bf16>,
    u_params: Vec<bf16>,
}

impl Buffers {
    fn new(shape: Shape, words_per_row: usize, params_per_row: usize, fill: u32) -> Self {
        let (elements, words, params) =
            (shape.rows * shape.cols, shape.rows * words_per_row, shape.rows * params_per_row);
        Buffers {
            h: vec![7.0; elements],
            dg: vec![7.0; elements],
            du: vec![7.0; elements],
            kept: Kept {
                g_codes: vec![fill; words],
                u_codes: vec![fill; words],
                g_params: vec![bf16::ONE; params],
                u_params: vec![bf16::ONE; params],
            },
        }
    }
}

impl Kept {
    /// Codes, and parameters as bits: a NaN equals itself.
    fn bits(&self) -> [Vec<u32>; 4] {
        let params = |of: &[bf16]| of.iter().map(|param| u32::from(param.to_bits())).collect();
        [self.g_codes.clone(), self.u_codes.clone(), params(&self.g_params), params(&self.u_params)]
    }
}

fn saved(kept: &mut Kept) -> SavedMut<'_> {
    SavedMut {
        g_codes: &mut kept.g_codes,
        g_params: &mut kept.g_params,
        u_codes: &mut kept.u_codes,
        u_params: &mut kept.u_params,
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}

/// Equal bits; every NaN is the same, since which payload comes out of a sum is the CPU's choice.
fn assert_same(expected: &[f32], got: &[f32], isa: Isa, what: &str) {
    for (index, (a, b)) in expected.iter().zip(got).enumerate() {
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{isa:?}: {what}[{index}]: {a:e} and {b:e}");
    }
}
