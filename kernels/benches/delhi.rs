//! Delhi's kernels against the copy bandwidth of the same cores, in bytes read and written per second.
//!
//!     cargo bench -p unswag-kernels --bench delhi
//!
//! Every figure's answer is checked first, on the same random data. Arrays are larger than the last-level cache. `copy` is a
//! plain copy of as many bytes by as many threads: the ceiling. `kernels/benches/compare.py` makes the table with PyTorch.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use rayon::prelude::*;
use unswag_kernels::{
    Element, Exec,
    delhi::{
        Activation, Config, Mode, Rounding, Saved, SavedMut, Shape, Weighting, code_words, saved_sizes, silu, swiglu,
        tables,
    },
};

/// 32 Mi elements: 64 MiB of bf16.
const ROWS: usize = 16384;
const COLS: usize = 2048;
const ELEMENTS: usize = ROWS * COLS;
const CHUNK: usize = 1 << 16;

/// Deviates that look normal (the sum of four uniform ones), from a counter: no two runs differ.
fn random<T: Element>(seed: u64) -> Vec<T> {
    let at = |i: usize| {
        let mut x = (i as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 32;
        let sum: f32 = (0..4).map(|k| f32::from((x >> (16 * k)) as u16) / 65536.0 - 0.5).sum();
        T::from_f32(sum * 1.732)
    };
    (0..ELEMENTS).into_par_iter().map(at).collect()
}

fn bytes<T>(elements: usize) -> u64 {
    (elements * size_of::<T>()) as u64
}

fn copy<T: Element>(c: &mut Criterion) {
    let (from, mut to) = (random::<T>(1), vec![T::ZERO; ELEMENTS]);
    to.copy_from_slice(&from);
    let mut group = c.benchmark_group("copy");
    group.throughput(Throughput::Bytes(2 * bytes::<T>(ELEMENTS)));
    group.bench_function(T::NAME, |b| {
        b.iter(|| {
            let pairs = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
            pairs.for_each(|(to, from)| to.copy_from_slice(from));
            black_box(&to);
        });
    });
    assert!(to == from, "the copy is a copy");
}

fn ungated<T: Element>(c: &mut Criterion) {
    let exec = Exec::new(rayon::current_num_threads());
    let (x, dy) = (random::<T>(2), random::<T>(3));
    let (mut y, mut plain, mut dx) = (vec![T::ZERO; ELEMENTS], vec![T::ZERO; ELEMENTS], vec![T::ZERO; ELEMENTS]);
    silu::plain(exec, &x, &mut plain).expect("sizes fit");
    for bits in [1, 2, 4] {
        let table = tables::table(Activation::Silu, bits, &Weighting::Uniform).expect("bits are 1 to 4");
        let mut codes = vec![0u32; code_words(ELEMENTS, bits).expect("fits")];
        let moved = 2 * bytes::<T>(ELEMENTS) + bytes::<u32>(codes.len());
        silu::forward(exec, &table, &x, &mut y, &mut codes).expect("sizes fit");
        assert!(y == plain, "the forward is the plain op's");
        silu::backward(exec, &table, &dy, &codes, &mut dx).expect("sizes fit");
        let wrong = (0..ELEMENTS).step_by(997).find(|&i| {
            let code = table.borders().iter().filter(|&&border| x[i].to_f32() >= border).count();
            dx[i] != T::from_f32(dy[i].to_f32() * table.levels()[code])
        });
        assert_eq!(wrong, None, "the backward multiplies by the code's level");

        let mut group = c.benchmark_group("silu_forward");
        group.throughput(Throughput::Bytes(moved));
        let id = format!("{}/{bits}bit", T::NAME);
        group.bench_function(&id, |b| b.iter(|| silu::forward(exec, &table, &x, &mut y, &mut codes)));
        group.finish();
        let mut group = c.benchmark_group("silu_backward");
        group.throughput(Throughput::Bytes(moved));
        group.bench_function(&id, |b| b.iter(|| silu::backward(exec, &table, &dy, &codes, &mut dx)));
        group.finish();
    }
}

fn gated<T: Element>(c: &mut Criterion) {
    let exec = Exec::new(rayon::current_num_threads());
    let shape = Shape { rows: ROWS, cols: COLS };
    let (g, u, dh) = (random::<T>(4), random::<T>(5), random::<T>(6));
    let zeros = || vec![T::ZERO; ELEMENTS];
    let (mut h, mut plain, mut dg, mut du) = (zeros(), zeros(), zeros(), zeros());
    swiglu::plain(exec, &g, &u, &mut plain).expect("sizes fit");
    let element_bytes = bytes::<T>(ELEMENTS);

    let mut group = c.benchmark_group("swiglu_backward");
    group.throughput(Throughput::Bytes(5 * element_bytes));
    group.bench_function(format!("{}/exact", T::NAME), |b| {
        b.iter(|| swiglu::exact_backward(exec, &dh, &g, &u, &mut dg, &mut du));
    });
    group.finish();
    for mode in [Mode::Bits8, Mode::Bits4, Mode::Bits2] {
        let config = Config { mode, group: 64, rounding: Rounding::Nearest };
        let sizes = saved_sizes(ROWS, COLS, mode, config.group).expect("the group size is sound");
        let (mut g_codes, mut u_codes) =
            (vec![0u32; ROWS * sizes.words_per_row], vec![0u32; ROWS * sizes.words_per_row]);
        let (mut g_params, mut u_params) =
            (vec![bf16::ZERO; ROWS * sizes.params_per_row], vec![bf16::ZERO; ROWS * sizes.params_per_row]);
        let moved = 3 * element_bytes + sizes.bytes as u64;
        let mut forward = || {
            let saved = SavedMut {
                g_codes: &mut g_codes,
                g_params: &mut g_params,
                u_codes: &mut u_codes,
                u_params: &mut u_params,
            };
            swiglu::forward(exec, shape, &config, &g, &u, &mut h, saved)
        };
        forward().expect("sizes fit");
        let mut group = c.benchmark_group("swiglu_forward");
        group.throughput(Throughput::Bytes(moved));
        let id = format!("{}/{}", T::NAME, mode.name());
        group.bench_function(&id, |b| b.iter(&mut forward));
        group.finish();
        assert!(h == plain, "the forward is the plain op's");
        let saved = Saved { g_codes: &g_codes, g_params: &g_params, u_codes: &u_codes, u_params: &u_params };
        let mut group = c.benchmark_group("swiglu_backward");
        group.throughput(Throughput::Bytes(moved));
        group.bench_function(&id, |b| {
            b.iter(|| swiglu::backward(exec, shape, &config, &dh, saved, &mut dg, &mut du));
        });
        group.finish();
    }
}

fn all(c: &mut Criterion) {
    copy::<bf16>(c);
    copy::<f32>(c);
    ungated::<bf16>(c);
    ungated::<f32>(c);
    gated::<bf16>(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(12).warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(2));
    targets = all
}
criterion_main!(benches);
