//! Optimizer steps and quantisation against the copy bandwidth of the same cores.
//!
//!     cargo bench -p unswag-kernels --bench optim
//!
//! Criterion's throughput is bytes read and written; the time per parameter is the time over 16 Mi. Every figure's answer is
//! checked against the reference first. Arrays are larger than the last-level cache. `kernels/benches/compare_optim.py`
//! makes the table with bitsandbytes and torch.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use rayon::prelude::*;
use unswag_kernels::{
    Exec,
    optim::{AdamW, Lion, Moment8bit, Step, reference},
    quant::{DynamicMap, Float, blockwise, nf4},
};

const ELEMENTS: usize = 1 << 24;
const CHUNK: usize = 1 << 16;
/// What is checked: enough for several chunks.
const CHECKED: usize = 3 << 14;
const STEP: Step = Step { number: 10, learning_rate: 1e-3, grad_scale: 1.0 };

/// Deviates that look normal (the sum of four uniform ones), from a counter: no two runs differ.
fn random<T: Float>(seed: u64) -> Vec<T> {
    let at = |i: usize| {
        let mut x = (i as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 32;
        let sum: f32 = (0..4).map(|k| f32::from((x >> (16 * k)) as u16) / 65536.0 - 0.5).sum();
        T::from_f32(sum * 1.732)
    };
    (0..ELEMENTS).into_par_iter().map(at).collect()
}

fn exec() -> Exec {
    Exec::new(rayon::current_num_threads())
}

fn time(c: &mut Criterion, group: &str, id: &str, bytes_per_element: f64, mut run: impl FnMut()) {
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Bytes((bytes_per_element * ELEMENTS as f64) as u64));
    group.bench_function(id, |b| b.iter(&mut run));
    group.finish();
}

fn copy(c: &mut Criterion) {
    let (from, mut to) = (random::<f32>(1), vec![0.0f32; ELEMENTS]);
    time(c, "copy", "f32", 8.0, || {
        let pairs = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
        pairs.for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&to);
    });
    assert!(to == from, "the copy is a copy");
}

fn moment(moment: &mut reference::Moment) -> Moment8bit<'_> {
    Moment8bit { codes: &mut moment.codes, absmax: &mut moment.absmax }
}

fn fresh(n: usize) -> reference::Moment {
    reference::Moment { codes: vec![0; n], absmax: vec![0.0; blockwise::blocks(n)] }
}

/// All optimizers on parameters and gradients of one type; each is checked on a part first.
fn optimizers<T: Float>(c: &mut Criterion) {
    let (mut p, g) = (random::<T>(2), random::<T>(3));
    let (adam, lion) = (AdamW::default(), Lion { weight_decay: 0.01, ..Lion::default() });
    // p is read and written, g is read.
    let tensors = 3.0 * size_of::<T>() as f64;
    let codes = 2.0 * (1.0 + 4.0 / 256.0);

    let (mut m, mut v) = (vec![0.0f32; ELEMENTS], vec![0.0f32; ELEMENTS]);
    let (part, mut expected) = (&g[..CHECKED], p[..CHECKED].to_vec());
    let mut got = expected.clone();
    reference::adamw(&adam, STEP, &mut expected, part, &mut m[..CHECKED].to_vec(), &mut v[..CHECKED].to_vec());
    adam.step(exec(), STEP, &mut got, part, &mut m[..CHECKED].to_vec(), &mut v[..CHECKED].to_vec()).expect("sizes fit");
    assert!(got == expected, "AdamW is the reference's");
    time(c, "adamw", T::NAME, tensors + 16.0, || {
        adam.step(exec(), STEP, &mut p, &g, &mut m, &mut v).expect("sizes fit");
    });
    drop(v);
    time(c, "lion", T::NAME, tensors + 8.0, || {
        lion.step(exec(), STEP, &mut p, &g, &mut m).expect("sizes fit");
    });
    drop(m);

    let (mut m, mut v) = (fresh(CHECKED), fresh(CHECKED));
    let (mut expected, mut got) = (p[..CHECKED].to_vec(), p[..CHECKED].to_vec());
    reference::adamw_8bit(&adam, STEP, &mut expected, part, &mut m.clone(), &mut v.clone());
    adam.step_8bit(exec(), STEP, &mut got, part, moment(&mut m), moment(&mut v)).expect("sizes fit");
    assert!(got == expected, "8-bit AdamW is the reference's");
    let (mut m, mut v) = (fresh(ELEMENTS), fresh(ELEMENTS));
    time(c, "adamw_8bit", T::NAME, tensors + 2.0 * codes, || {
        adam.step_8bit(exec(), STEP, &mut p, &g, moment(&mut m), moment(&mut v)).expect("sizes fit");
    });
    time(c, "lion_8bit", T::NAME, tensors + codes, || {
        lion.step_8bit(exec(), STEP, &mut p, &g, moment(&mut m)).expect("sizes fit");
    });
}

fn quantisers<T: Float>(c: &mut Criterion) {
    let (x, map) = (random::<T>(4), DynamicMap::signed());
    let mut y = vec![T::ZERO; ELEMENTS];
    let element = size_of::<T>() as f64;
    let (mut codes, mut absmax) = (vec![0u8; ELEMENTS], vec![0.0f32; blockwise::blocks(ELEMENTS)]);
    let near = |y: &[T], off: f32| x.iter().zip(y).all(|(x, y)| (x.to_f32() - y.to_f32()).abs() < off);
    blockwise::quantize(exec(), map, &x, &mut codes, &mut absmax).expect("sizes fit");
    blockwise::dequantize(exec(), map, &codes, &absmax, &mut y).expect("sizes fit");
    assert!(near(&y, 0.05), "8 bits come back");
    let bits8 = element + 1.0 + 4.0 / 256.0;
    time(c, "quantize_8bit", T::NAME, bits8, || {
        blockwise::quantize(exec(), map, &x, &mut codes, &mut absmax).expect("sizes fit");
    });
    time(c, "dequantize_8bit", T::NAME, bits8, || {
        blockwise::dequantize(exec(), map, &codes, &absmax, &mut y).expect("sizes fit");
    });
    let (mut packed, mut absmax) = (vec![0u8; nf4::packed_bytes(ELEMENTS)], vec![0.0f32; nf4::blocks(ELEMENTS)]);
    nf4::quantize(exec(), &x, &mut packed, &mut absmax).expect("sizes fit");
    nf4::dequantize(exec(), &packed, &absmax, &mut y).expect("sizes fit");
    assert!(near(&y, 0.6) && !near(&y, 0.05), "four bits come back");
    let bits4 = element + 0.5 + 4.0 / 64.0;
    time(c, "quantize_nf4", T::NAME, bits4, || {
        nf4::quantize(exec(), &x, &mut packed, &mut absmax).expect("sizes fit");
    });
    time(c, "dequantize_nf4", T::NAME, bits4, || {
        nf4::dequantize(exec(), &packed, &absmax, &mut y).expect("sizes fit");
    });
    let (mut codes, mut nested) = (vec![0u8; absmax.len()], vec![0.0f32; blockwise::blocks(absmax.len())]);
    let offset = nf4::quantize_absmax(exec(), &absmax, &mut codes, &mut nested).expect("sizes fit");
    let double = nf4::DoubleAbsmax { codes: &codes, nested: &nested, offset };
    y.fill(T::ZERO);
    nf4::dequantize_double(exec(), &packed, double, &mut y).expect("sizes fit");
    assert!(near(&y, 0.6) && !near(&y, 0.05), "four bits come back, with scales of eight");
    time(c, "dequantize_nf4_double", T::NAME, element + 0.5 + 1.0 / 64.0, || {
        nf4::dequantize_double(exec(), &packed, double, &mut y).expect("sizes fit");
    });
}

fn all(c: &mut Criterion) {
    copy(c);
    optimizers::<f32>(c);
    optimizers::<bf16>(c);
    quantisers::<f32>(c);
    quantisers::<bf16>(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(12).warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_secs(2));
    targets = all
}
criterion_main!(benches);
