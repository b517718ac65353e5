//! The packed layout: round trips, tails, what a NaN touches, and what is refused. A wrong kernel shows that the cases bite.

mod common;

use common::{Seeded, awkward, same};
use half::bf16;
use proptest::prelude::*;
use unswag_kernels::{
    Exec, Isa, KernelError,
    delhi::{
        Activation::{Gelu, GeluTanh, Silu},
        Config, Mode, Rounding, Saved, SavedMut, Shape, Weighting, code_words, geglu, gelu, reference, saved_sizes,
        silu, swiglu, tables,
    },
};

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

    fn saved(&self) -> Saved<'_> {
        Saved { g_codes: &self.g_codes, g_params: &self.g_params, u_codes: &self.u_codes, u_params: &self.u_params }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn codes_put_and_got_are_the_same(bits in 1u32..=8, codes in prop::collection::vec(any::<u32>(), 0..200)) {
        let mut words = vec![0; code_words(codes.len(), bits).unwrap()];
        for (i, code) in codes.iter().enumerate() {
            reference::put(&mut words, i, bits, code & ((1 << bits) - 1));
        }
        for (i, code) in codes.iter().enumerate() {
            prop_assert_eq!(reference::get(&words, i, bits), code & ((1 << bits) - 1));
        }
    }

    #[test]
    fn every_element_decodes_to_its_own_level(bits in 1u32..=4, x in prop::collection::vec(any::<f32>(), 0..300)) {
        let table = tables::table(Silu, bits, &Weighting::Uniform).unwrap();
        let words = code_words(x.len(), bits).unwrap();
        for isa in Isa::available() {
            let exec = Exec { isa, threads: 1 };
            let (mut y, mut dx, mut codes) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![!0; words]);
            silu::forward(exec, &table, &x, &mut y, &mut codes).unwrap();
            silu::backward(exec, &table, &vec![1.0; x.len()], &codes, &mut dx).unwrap();
            for (x, dx) in x.iter().zip(&dx) {
                prop_assert_eq!(*dx, table.levels()[reference::code(&table, *x) as usize]);
            }
        }
    }

    #[test]
    fn grouped_values_come_back_within_half_a_step(
        mode in prop::sample::select(vec![Mode::Bits8, Mode::Bits4, Mode::Bits2]),
        cols in 1usize..200,
        group in prop::sample::select(vec![32usize, 64, 96]),
        scale in -30i32..30,
        seed in any::<u64>(),
    ) {
        let (shape, config) = (Shape { rows: 2, cols }, Config { mode, group, rounding: Rounding::Nearest });
        let mut random = Seeded(seed);
        let u: Vec<f32> = (0..2 * cols).map(|_| random.normal() as f32 * (scale as f32).exp2()).collect();
        let mut store = Store::new(shape, &config);
        swiglu::forward(Exec::new(1), shape, &config, &u, &u, &mut vec![0.0; 2 * cols], store.all()).unwrap();
        let (g, u_back) = reference::dequantise(shape, &config, store.saved());
        prop_assert_eq!(&g, &u_back);
        let groups = cols.div_ceil(group);
        for (i, (u, back)) in u.iter().zip(&u_back).enumerate() {
            let at = 2 * ((i / cols) * groups + i % cols / group);
            let step = store.u_params[at + 1].to_f32();
            prop_assert!((u - back).abs() <= 0.5001 * step, "{} {} step {}", u, back, step);
        }
    }
}

#[test]
fn tail_of_a_partial_word_is_zero() {
    let x = vec![100.0f32; 33];
    for bits in 1..=4 {
        let table = tables::table(Silu, bits, &Weighting::Normal).unwrap();
        let mut codes = vec![!0; code_words(33, bits).unwrap()];
        silu::forward(Exec::new(1), &table, &x, &mut [0.0; 33], &mut codes).unwrap();
        let ones: u32 = codes.iter().map(|word| word.count_ones()).sum();
        assert_eq!(ones, 33 * bits, "all codes are the highest, and nothing follows them");
    }
}

#[test]
fn three_bit_codes_straddle_words() {
    let table = tables::table(Silu, 3, &Weighting::Normal).unwrap();
    // Code 10 takes bits 30 to 32: two bits in the first word, one in the second.
    let mut x = [-100.0f32; 32];
    x[10] = 100.0;
    let mut codes = [0; 3];
    silu::forward(Exec::new(1), &table, &x, &mut [0.0; 32], &mut codes).unwrap();
    assert_eq!(codes, [0b11 << 30, 0b1, 0]);
}

#[test]
fn a_border_belongs_to_the_piece_above_and_nan_to_the_first() {
    let table = tables::table(Silu, 2, &Weighting::Normal).unwrap();
    let b = table.borders()[2];
    let below = f32::from_bits(b.to_bits() - 1);
    let x = [b, below, -b, 0.0, -0.0, -1e-45, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let mut codes = [0];
    silu::forward(Exec::new(1), &table, &x, &mut [0.0; 9], &mut codes).unwrap();
    let got: Vec<u32> = (0..9).map(|i| reference::get(&codes, i, 2)).collect();
    assert_eq!(got, [3, 2, 1, 2, 2, 1, 0, 3, 0]);
}

#[test]
fn what_is_not_finite_spoils_its_own_group_only() {
    let shape = Shape { rows: 2, cols: 200 };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1e38] {
        for mode in [Mode::Bits8, Mode::Bits4, Mode::Bits2] {
            let config = Config { mode, group: 64, rounding: Rounding::Nearest };
            let mut g: Vec<f32> = Seeded(5).normals(400);
            let u: Vec<f32> = Seeded(6).normals(400);
            let clean = g.clone();
            g[200 + 70] = bad;
            for isa in Isa::available() {
                let exec = Exec { isa, threads: 1 };
                let decoded = |g: &[f32]| {
                    let mut store = Store::new(shape, &config);
                    swiglu::forward(exec, shape, &config, g, &u, &mut vec![0.0; 400], store.all()).unwrap();
                    reference::dequantise(shape, &config, store.saved())
                };
                let ((got, got_u), (expected, expected_u)) = (decoded(&g), decoded(&clean));
                same(&got_u, &expected_u).unwrap();
                let group = 200 + 64..200 + 128;
                for i in 0..400 {
                    if group.contains(&i) {
                        assert!(got[i].is_nan(), "{bad} in {}: element {i} is {}", mode.name(), got[i]);
                    } else {
                        assert_eq!(got[i].to_bits(), expected[i].to_bits(), "{bad} in {}: element {i}", mode.name());
                    }
                }
            }
        }
    }
}

/// Rule: an op's cases must fail a kernel that is wrong. This one packs from the high end of each word.
#[test]
fn a_kernel_that_packs_the_other_way_round_fails_the_cases() {
    let wrong_forward = |x: &[f32], codes: &mut [u32]| {
        let table = tables::table(Silu, 2, &Weighting::Normal).unwrap();
        codes.fill(0);
        for (i, x) in x.iter().enumerate() {
            codes[i / 16] |= reference::code(&table, *x) << (30 - 2 * (i % 16));
        }
    };
    let table = tables::table(Silu, 2, &Weighting::Normal).unwrap();
    let failed = [1, 31, 32, 33, 6 * 42 * 123]
        .into_iter()
        .filter(|n| {
            let x = awkward::<f32>(1, *n);
            let words = code_words(*n, 2).unwrap();
            let (mut right, mut wrong) = (vec![0; words], vec![0; words]);
            reference::forward(&table, &x, &mut vec![0.0; *n], &mut right);
            wrong_forward(&x, &mut wrong);
            right != wrong
        })
        .count();
    assert_eq!(failed, 5);
}

#[test]
fn wrong_lengths_are_errors_that_say_what_was_expected_and_write_nothing() {
    let exec = Exec::new(2);
    let table = tables::table(Silu, 2, &Weighting::Normal).unwrap();
    let (x, mut y, mut codes) = ([1.0f32; 33], [7.0f32; 33], [9u32; 3]);
    for short in 0..3 {
        let got = silu::forward(exec, &table, &x, &mut y, &mut codes[..short]);
        let expected = KernelError::Length { op: "delhi.silu", argument: "codes", expected: 3, got: short };
        assert_eq!(got, Err(expected));
    }
    assert!(silu::forward(exec, &table, &x, &mut y[..32], &mut codes).is_err());
    assert!(silu::backward(exec, &table, &x, &codes[..2], &mut y).is_err());
    assert_eq!((y, codes), ([7.0; 33], [9; 3]));
    let text = silu::forward(exec, &table, &x, &mut y, &mut codes[..1]).unwrap_err().to_string();
    assert_eq!(text, "delhi.silu: `codes` needs 3 elements, got 1; size it with the op's own plan");

    let (shape, config) =
        (Shape { rows: 2, cols: 33 }, Config { mode: Mode::Bits4, group: 64, rounding: Rounding::Nearest });
    let values = [1.0f32; 66];
    for missing in 0..4 {
        let mut store = Store::new(shape, &config);
        match missing {
            0 => drop(store.g_codes.pop()),
            1 => drop(store.g_params.pop()),
            2 => drop(store.u_codes.pop()),
            _ => drop(store.u_params.pop()),
        }
        let got = swiglu::forward(exec, shape, &config, &values, &values, &mut [0.0; 66], store.all());
        assert!(matches!(got, Err(KernelError::Length { .. })), "{got:?}");
        let got = swiglu::backward(exec, shape, &config, &values, store.saved(), &mut [0.0; 66], &mut [0.0; 66]);
        assert!(matches!(got, Err(KernelError::Length { .. })), "{got:?}");
    }
}

#[test]
fn sizes_that_overflow_and_groups_that_do_not_fit_are_refused() {
    for group in [0, 1, 31, 33, 1056, usize::MAX] {
        let got = saved_sizes(1, 64, Mode::Bits4, group);
        assert!(matches!(got, Err(KernelError::Group { .. })), "{got:?}");
    }
    for (rows, cols) in [(usize::MAX, 64), (1, usize::MAX), (usize::MAX, usize::MAX)] {
        let got = saved_sizes(rows, cols, Mode::Bits8, 64);
        assert!(matches!(got, Err(KernelError::Overflow { .. })), "{got:?}");
        let config = Config { mode: Mode::Bits8, group: 64, rounding: Rounding::Nearest };
        let mut store = Store::new(Shape { rows: 0, cols: 0 }, &config);
        let got = swiglu::forward::<f32>(Exec::new(1), Shape { rows, cols }, &config, &[], &[], &mut [], store.all());
        assert!(got.is_err());
    }
    assert_eq!(code_words(usize::MAX, 4), None);
    assert_eq!(saved_sizes(7, 100, Mode::Exact, 64).unwrap().bytes, 0);
    // 100 columns: 13 words of 4-bit codes; 2 groups of 2 bf16; for g and for u.
    assert_eq!(saved_sizes(7, 100, Mode::Bits4, 64).unwrap().bytes, 7 * 2 * (13 * 4 + 2 * 2 * 2));
}

#[test]
fn a_table_of_another_activation_is_refused() {
    let (silu_table, gelu_table) =
        (tables::table(Silu, 1, &Weighting::Normal).unwrap(), tables::table(Gelu, 1, &Weighting::Normal).unwrap());
    let exec = Exec::new(1);
    let (x, mut y, mut codes) = ([1.0f32; 2], [0.0; 2], [0; 1]);
    assert!(silu::forward(exec, &gelu_table, &x, &mut y, &mut codes).is_err());
    assert!(gelu::forward(exec, &silu_table, &x, &mut y, &mut codes).is_err());
    assert!(silu::backward(exec, &gelu_table, &x, &codes, &mut y).is_err());
    assert!(geglu::plain(exec, Silu, &x, &x, &mut y).is_err());
    assert!(geglu::plain(exec, GeluTanh, &x, &x, &mut y).is_ok());
}

#[test]
fn names_read_back() {
    for mode in Mode::ALL {
        assert_eq!(mode.name().parse(), Ok(mode));
    }
    let error = "3bit".parse::<Mode>().unwrap_err().to_string();
    assert_eq!(error, "unknown mode `3bit`: expected one of exact, 8bit, 4bit, 2bit");
    for activation in [Silu, Gelu, GeluTanh] {
        assert_eq!(activation.name().parse(), Ok(activation));
    }
}
