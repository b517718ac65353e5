//! The norms, rope, cross_entropy and element-wise ops against the copy bandwidth of the same cores.
//!
//!     cargo bench -p unswag-kernels --bench fused
//!
//! Every figure's answer is checked first against the reference, on the same random data. `copy` is a plain copy by as many
//! threads: the ceiling. After criterion's own lines a table gives, for each op, the median of its samples in bytes read and
//! written per second, and that as a share of the copy's. Bytes are what the op's header states; where a row is read again
//! from the cache it counts once.

use std::{
    hint::black_box,
    sync::Mutex,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use rayon::prelude::*;
use unswag_kernels::{
    Element, Exec, cross_entropy, elementwise,
    norm::{self, layer_norm, rms_norm, rms_norm::Write},
    rope,
};

/// 8192 tokens of 2048: 32 MiB of bf16.
const ROWS: usize = 8192;
const HIDDEN: usize = 2048;
const ELEMENTS: usize = ROWS * HIDDEN;
/// SmolLM2's vocabulary.
const VOCAB: usize = 49_152;
const LOSS_ROWS: usize = ELEMENTS / VOCAB;
/// Bytes, and the time of one call in every sample.
type Samples = Vec<(String, u64, Vec<Duration>)>;
static SAMPLES: Mutex<Samples> = Mutex::new(Vec::new());

/// Deviates that look normal (the sum of four uniform ones), from a counter: no two runs differ.
fn random<T: Element>(seed: u64, n: usize) -> Vec<T> {
    let at = |i: usize| {
        let mut x = (i as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 32;
        let sum: f32 = (0..4).map(|k| f32::from((x >> (16 * k)) as u16) / 65536.0 - 0.5).sum();
        T::from_f32(sum * 1.732)
    };
    (0..n).into_par_iter().map(at).collect()
}

/// Times `call` on what `fresh` makes ready before each; `bytes` are what one call moves.
fn bench<T: Element>(c: &mut Criterion, op: &str, bytes: usize, mut fresh: impl FnMut(), mut call: impl FnMut()) {
    let name = format!("{op}/{}", T::NAME);
    let mut samples = Vec::new();
    let mut group = c.benchmark_group(op);
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function(T::NAME, |b| {
        b.iter_custom(|calls| {
            let mut spent = Duration::ZERO;
            for _ in 0..calls {
                fresh();
                let start = Instant::now();
                call();
                spent += start.elapsed();
            }
            samples.push(spent / calls as u32);
            spent
        });
    });
    group.finish();
    if !samples.is_empty() {
        SAMPLES.lock().expect("no bench panicked").push((name, bytes as u64, samples));
    }
}

fn exec() -> Exec {
    Exec::new(rayon::current_num_threads())
}

fn copy<T: Element>(c: &mut Criterion) {
    let (from, mut to) = (random::<T>(1, ELEMENTS), vec![T::ZERO; ELEMENTS]);
    to.copy_from_slice(&from);
    bench::<T>(
        c,
        "copy",
        2 * size_of_val(&*from),
        || (),
        || {
            to.par_chunks_mut(1 << 16).zip(from.par_chunks(1 << 16)).for_each(|(to, from)| to.copy_from_slice(from));
            black_box(&to);
        },
    );
    assert!(to == from, "the copy is a copy");
}

fn norms<T: Element>(c: &mut Criterion) {
    let (x, dy) = (random::<T>(2, ELEMENTS), random::<T>(3, ELEMENTS));
    let (weight, bias) = (random::<T>(4, HIDDEN), random::<T>(5, HIDDEN));
    let bytes = size_of_val(&*x);
    let config = rms_norm::Config { hidden: HIDDEN, eps: 1e-5, unit_offset: false };
    let (mut y, mut s, mut rstd) = (vec![T::ZERO; ELEMENTS], vec![T::ZERO; ELEMENTS], vec![0.0; ROWS]);
    let (mut check, mut check_rstd) = (vec![T::ZERO; 64 * HIDDEN], vec![0.0; 64]);
    norm::reference::rms_forward(&config, &x[..64 * HIDDEN], &weight, &mut check, &mut check_rstd);
    rms_norm::forward(exec(), &config, &x, &weight, &mut y, &mut rstd).expect("sizes fit");
    assert!(y[..64 * HIDDEN] == check, "rms_norm gives the reference's bits");
    bench::<T>(
        c,
        "rms_norm_forward",
        2 * bytes,
        || (),
        || {
            rms_norm::forward(exec(), &config, &x, &weight, &mut y, &mut rstd).expect("sizes fit");
        },
    );
    bench::<T>(
        c,
        "rms_norm_forward_add",
        4 * bytes,
        || (),
        || {
            rms_norm::forward_add(exec(), &config, [&x, &dy], &weight, &mut s, &mut y, &mut rstd).expect("sizes fit");
        },
    );
    rms_norm::forward(exec(), &config, &x, &weight, &mut y, &mut rstd).expect("sizes fit");
    let mut dx = vec![T::ZERO; ELEMENTS];
    for (op, write, moved) in [("rms_norm_backward", Write::Set, 3), ("rms_norm_backward_add", Write::Add, 4)] {
        bench::<T>(
            c,
            op,
            moved * bytes,
            || (),
            || {
                rms_norm::backward(exec(), &config, [&dy, &x], &weight, &rstd, &mut dx, write).expect("sizes fit");
            },
        );
    }
    let mut dweight = vec![0.0; HIDDEN];
    bench::<T>(
        c,
        "rms_norm_weight_gradient",
        2 * bytes,
        || (),
        || {
            rms_norm::weight_gradient(exec(), &config, [&dy, &x], &rstd, &mut dweight).expect("sizes fit");
        },
    );
    let (config, mut mean) = (layer_norm::Config { hidden: HIDDEN, eps: 1e-5 }, vec![0.0; ROWS]);
    bench::<T>(
        c,
        "layer_norm_forward",
        2 * bytes,
        || (),
        || {
            layer_norm::forward(exec(), &config, &x, &weight, Some(&bias), &mut y, [&mut mean, &mut rstd])
                .expect("sizes fit");
        },
    );
    bench::<T>(
        c,
        "layer_norm_backward",
        3 * bytes,
        || (),
        || {
            layer_norm::backward(exec(), &config, [&dy, &x], &weight, [&mean, &rstd], &mut dx, Write::Set)
                .expect("sizes fit");
        },
    );
}

fn ropes<T: Element>(c: &mut Criterion) {
    let config = rope::Config { heads: HIDDEN / 64, head_dim: 64, dim: 64, interleaved: false };
    let (cos, sin) = (random::<T>(6, ROWS * 64), random::<T>(7, ROWS * 64));
    let mut x = random::<T>(8, ELEMENTS);
    let mut check = x[..64 * HIDDEN].to_vec();
    rope::reference::forward(&config, &cos[..64 * 64], &sin[..64 * 64], &mut check);
    rope::forward(exec(), &config, &cos, &sin, &mut x).expect("sizes fit");
    assert!(x[..64 * HIDDEN] == check, "rope gives the reference's bits");
    let bytes = 2 * size_of_val(&*x);
    bench::<T>(
        c,
        "rope_forward",
        bytes,
        || (),
        || {
            rope::forward(exec(), &config, &cos, &sin, &mut x).expect("sizes fit");
        },
    );
    let config = rope::Config { interleaved: true, ..config };
    bench::<T>(
        c,
        "rope_forward_interleaved",
        bytes,
        || (),
        || {
            rope::forward(exec(), &config, &cos, &sin, &mut x).expect("sizes fit");
        },
    );
}

fn losses<T: Element>(c: &mut Criterion) {
    let config = cross_entropy::Config { vocab: VOCAB, ignore_index: cross_entropy::IGNORE_INDEX };
    let logits = random::<T>(9, LOSS_ROWS * VOCAB);
    let targets: Vec<i64> = (0..LOSS_ROWS).map(|row| (row * 7919 % VOCAB) as i64).collect();
    let (mut loss, mut lse) = (vec![0.0; LOSS_ROWS], vec![0.0; LOSS_ROWS]);
    let (mut check_loss, mut check_lse) = ([0.0; 2], [0.0; 2]);
    cross_entropy::forward(exec(), &config, &logits, &targets, &mut loss, &mut lse).expect("sizes fit");
    cross_entropy::reference::forward(&config, &logits[..2 * VOCAB], &targets[..2], &mut check_loss, &mut check_lse);
    assert!(loss[..2] == check_loss, "cross_entropy gives the reference's bits");
    let bytes = size_of_val(&*logits);
    bench::<T>(
        c,
        "cross_entropy_forward",
        bytes,
        || (),
        || {
            cross_entropy::forward(exec(), &config, &logits, &targets, &mut loss, &mut lse).expect("sizes fit");
        },
    );
    let x = Mutex::new(logits.clone());
    let fresh = || x.lock().expect("one thread").copy_from_slice(&logits);
    bench::<T>(c, "cross_entropy_forward_backward", 2 * bytes, fresh, || {
        let mut x = x.lock().expect("one thread");
        cross_entropy::forward_backward(exec(), &config, &mut x, &targets, 1.0, &mut loss, &mut lse)
            .expect("sizes fit");
    });
}

fn elements<T: Element>(c: &mut Criterion) {
    let (mut a, b) = (random::<T>(12, ELEMENTS), vec![T::ZERO; ELEMENTS]);
    let bytes = size_of_val(&*a);
    let before = a.clone();
    bench::<T>(c, "add", 3 * bytes, || (), || elementwise::add(exec(), &mut a, &b).expect("sizes fit"));
    assert!(a == before, "a + 0 is a");
    bench::<T>(c, "scale", 2 * bytes, || (), || elementwise::scale(exec(), &mut a, 1.0).expect("sizes fit"));
    let mut wide = vec![0.0f32; ELEMENTS];
    bench::<T>(
        c,
        "to_f32",
        bytes + size_of_val(&*wide),
        || (),
        || {
            elementwise::to_f32(exec(), &a, &mut wide).expect("sizes fit");
        },
    );
    bench::<T>(
        c,
        "from_f32",
        bytes + size_of_val(&*wide),
        || (),
        || {
            elementwise::from_f32(exec(), &wide, &mut a).expect("sizes fit");
        },
    );
    assert!(a == before, "widening and narrowing changes nothing");
}

fn shares(_: &mut Criterion) {
    let mut samples = SAMPLES.lock().expect("no bench panicked");
    let rate = |bytes: u64, times: &mut Vec<Duration>| {
        times.sort();
        bytes as f64 / times[times.len() / 2].as_secs_f64() / 1e9
    };
    let rates: Vec<(String, f64)> =
        samples.iter_mut().map(|(name, bytes, t)| (name.clone(), rate(*bytes, t))).collect();
    let copy_of = |name: &str| {
        let copy = format!("copy/{}", name.rsplit('/').next().unwrap_or(name));
        rates.iter().find(|(name, _)| *name == copy).map_or(f64::NAN, |(_, rate)| *rate)
    };
    println!("\n{:40} {:>8} {:>14}", "median", "GB/s", "share of copy");
    for (name, rate) in &rates {
        println!("{name:40} {rate:8.1} {:13.0}%", 100.0 * rate / copy_of(name));
    }
}

fn all(c: &mut Criterion) {
    copy::<bf16>(c);
    copy::<f32>(c);
    norms::<bf16>(c);
    norms::<f32>(c);
    ropes::<bf16>(c);
    ropes::<f32>(c);
    losses::<bf16>(c);
    losses::<f32>(c);
    elements::<bf16>(c);
    shares(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(12).warm_up_time(std::time::Duration::from_millis(200)).measurement_time(std::time::Duration::from_secs(1));
    targets = all
}
criterion_main!(benches);
