//! Attention, forward and backward, at the shapes of SmolLM2-135M and of a model with heads of 128.
//!
//!     cargo bench -p unswag-kernels --bench attention
//!
//! Random data; the answer of the first rows is checked against the definition before anything is timed. Figures are products per
//! second: 2 for each element of a score that is seen, of q k^T and p v in the forward, and of five products in the backward.
//! The ceiling is what the same threads reach with the same instruction on registers alone. `compare_attention.py` beside this has
//! libtorch's figures.

#[path = "../tests/common/mod.rs"]
mod common;

use std::{hint::black_box, time::Instant};

use common::Seeded;
use half::bf16;
use unswag_kernels::{
    Exec, Isa,
    attention::{self, Attention, Word, reference},
};

const SMOL: Attention<'static> = Attention {
    batch: 1,
    seq: 2048,
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    v_head_dim: 64,
    scale: 0.125,
    causal: true,
    sliding_window: None,
    logit_softcap: None,
    documents: None,
};

/// The least of nine.
fn seconds(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[0]
}

fn measure<T: Word>(name: &str, config: Attention<'_>, exec: Exec) {
    let (rows, heads) = (config.batch * config.seq, config.heads);
    let keys = rows * config.kv_heads * config.head_dim;
    let [q, dy] = [1, 4].map(|seed| Seeded(seed).normals::<T>(rows * heads * config.head_dim));
    let [k, v] = [2, 3].map(|seed| Seeded(seed).normals::<T>(keys));
    let (mut y, mut lse) = (vec![T::ZERO; q.len()], vec![0.0; rows * heads]);
    let [forward, backward] = attention::scratch_len::<T>(exec, &config).expect("sound");
    let mut scratch = vec![0; forward.max(backward)];
    let mut run = || {
        attention::forward(exec, &config, [&q, &k, &v], None, &mut scratch[..forward], &mut y, &mut lse).expect("y");
    };
    let forward_s = seconds(&mut run);
    let first = Attention { seq: 16, ..config };
    let of = |x: &Vec<T>| x[..16 * x.len() / rows].to_vec();
    let (expected, _) = reference::forward(&first, [&of(&q), &of(&k), &of(&v)], None);
    for (got, expected) in y.iter().zip(&expected) {
        assert!((f64::from(got.to_f32()) - expected).abs() < 0.02, "{got:?} instead of {expected}");
    }
    let mut gradients = [q.clone(), k.clone(), v.clone()];
    let [dq, dk, dv] = &mut gradients;
    let backward_s = seconds(|| {
        let to = [&mut dq[..], &mut dk[..], &mut dv[..]];
        attention::backward(exec, &config, &dy, [&q, &k, &v, &y], &lse, &mut scratch[..backward], to)
            .expect("gradients");
        black_box(&to_first(dq));
    });
    let seen = (config.seq * (config.seq + 1) / 2) as f64;
    let product = 2.0 * seen * (heads * config.head_dim) as f64;
    println!(
        "{name:<28} {:>4} threads {:>8.2} ms forward {:>5.0} GFLOP/s {:>8.2} ms backward {:>5.0} GFLOP/s",
        exec.threads,
        forward_s * 1e3,
        2.0 * product / forward_s / 1e9,
        backward_s * 1e3,
        5.0 * product / backward_s / 1e9,
    );
}

fn to_first<T: Word>(x: &[T]) -> Option<T> {
    x.first().copied()
}

/// Products per second of AVX512_BF16's one instruction, on as many sums as keep it busy.
#[cfg(target_arch = "x86_64")]
fn ceiling(threads: usize) -> f64 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_reduce_add_ps, _mm512_set1_epi16, _mm512_set1_ps,
    };

    const ROUNDS: usize = 10_000_000;
    const SUMS: usize = 16;
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn work() -> f32 {
        let mut sums = [_mm512_set1_ps(0.0); SUMS];
        // SAFETY: both types are 64 bytes of any bits.
        let mut ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(0x3f80)) };
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, ones, ones);
            }
            ones = black_box(ones);
        }
        sums.iter().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
    }
    let seconds = seconds(|| {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                // SAFETY: the caller has found the instructions.
                scope.spawn(|| black_box(unsafe { work() }));
            }
        });
    });
    (threads * ROUNDS * SUMS * 64) as f64 / seconds
}

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let wide = Attention { heads: 8, kv_heads: 2, head_dim: 128, v_head_dim: 128, ..SMOL };
    for threads in [1, threads] {
        let exec = Exec::new(threads);
        #[cfg(target_arch = "x86_64")]
        if exec.isa == Isa::Avx512Bf16 {
            println!("{:<28} {threads:>4} threads {:>41.0} GFLOP/s", "bf16, registers alone", ceiling(threads) / 1e9);
        }
        measure::<bf16>("bf16, 2048 x 9 x 64", SMOL, exec);
        measure::<bf16>("bf16, 512 x 9 x 64", Attention { seq: 512, ..SMOL }, exec);
        measure::<bf16>("bf16, 2048 x 8 x 128", wide, exec);
        measure::<f32>("f32, 2048 x 9 x 64", SMOL, exec);
    }
    for (name, isa) in [("avx512", Isa::Avx512), ("avx2", Isa::Avx2)] {
        let older = Exec { isa, ..Exec::new(threads) };
        if isa.is_available() {
            measure::<bf16>(&format!("bf16_{name}, 2048 x 9 x 64"), SMOL, older);
            measure::<f32>(&format!("f32_{name}, 2048 x 9 x 64"), SMOL, older);
        }
    }
}
