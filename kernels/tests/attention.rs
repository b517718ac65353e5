//! `attention` against its definition in f64, on every instruction set, thread count and mask; and what it refuses.

mod common;

use common::Seeded;
use half::bf16;
use unswag_kernels::{
    Exec, Isa, KernelError,
    attention::{self, Attention, Word, reference},
};

struct Case<T> {
    config: Attention<'static>,
    qkv: [Vec<T>; 3],
    dy: Vec<T>,
    sinks: Option<Vec<f32>>,
}

struct Outputs<T> {
    y: Vec<T>,
    lse: Vec<f32>,
    gradients: [Vec<T>; 3],
}

impl<T: Word> Case<T> {
    fn new(config: Attention<'static>) -> Self {
        let rows = config.batch * config.seq;
        let sizes =
            [config.heads * config.head_dim, config.kv_heads * config.head_dim, config.kv_heads * config.v_head_dim];
        let mut seed = 0;
        let qkv = sizes.map(|size| {
            seed += 1;
            Seeded(seed).normals(rows * size)
        });
        Case { config, qkv, dy: Seeded(4).normals(rows * config.heads * config.v_head_dim), sinks: None }
    }

    fn inputs(&self) -> [&[T]; 3] {
        let [q, k, v] = &self.qkv;
        [q, k, v]
    }

    fn run(&self, exec: Exec) -> Outputs<T> {
        let rows = self.config.batch * self.config.seq;
        let mut y = vec![T::ZERO; rows * self.config.heads * self.config.v_head_dim];
        let mut lse = vec![0.0; rows * self.config.heads];
        let [forward, backward] = attention::scratch_len::<T>(exec, &self.config).expect("a sound configuration");
        // What is lent holds anything.
        let mut scratch = vec![0x7fc0_7fc0; forward.max(backward)];
        let sinks = self.sinks.as_deref();
        attention::forward(exec, &self.config, self.inputs(), sinks, &mut scratch[..forward], &mut y, &mut lse)
            .expect("y");
        scratch.fill(0x7fc0_7fc0);
        let mut gradients = self.qkv.clone().map(|x| vec![T::from_f32(f32::NAN); x.len()]);
        let [dq, dk, dv] = &mut gradients;
        let [q, k, v] = self.inputs();
        let (saved, to) = ([q, k, v, &y], [&mut dq[..], &mut dk[..], &mut dv[..]]);
        attention::backward(exec, &self.config, &self.dy, saved, &lse, &mut scratch[..backward], to)
            .expect("gradients");
        Outputs { y, lse, gradients }
    }

    /// Holds all outputs to the definition, to `tolerance` of the greatest value of each.
    fn check(&self, exec: Exec, tolerance: f64) {
        let out = self.run(exec);
        let (y, lse) = reference::forward(&self.config, self.inputs(), self.sinks.as_deref());
        let [dq, dk, dv] = reference::backward(&self.config, &self.dy, self.inputs(), self.sinks.as_deref());
        let wide = |x: &[T]| x.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>();
        let [got_dq, got_dk, got_dv] = &out.gradients;
        let pairs =
            [("y", wide(&out.y), y), ("dq", wide(got_dq), dq), ("dk", wide(got_dk), dk), ("dv", wide(got_dv), dv)];
        for (name, got, expected) in pairs {
            // What should cancel to nothing leaves what rounding makes of values around 1.
            let size = expected.iter().fold(1e-3_f64, |size, x| size.max(x.abs()));
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let off = (got - expected).abs();
                assert!(
                    off <= tolerance * size,
                    "{name}[{i}]: {got}, expected {expected}; {exec:?}, {:?}",
                    self.config
                );
            }
        }
        for (got, expected) in out.lse.iter().zip(&lse) {
            assert!(
                (f64::from(*got) - expected).abs() <= 4e-6 * expected.abs().max(1.0),
                "lse: {got}, expected {expected}"
            );
        }
    }

    fn check_all(&self, tolerance: f64) {
        for isa in Isa::available() {
            self.check(Exec { isa, threads: 3 }, tolerance);
        }
    }
}

const CAUSAL: Attention<'static> = Attention {
    batch: 1,
    seq: 0,
    heads: 1,
    kv_heads: 1,
    head_dim: 8,
    v_head_dim: 8,
    scale: 0.3,
    causal: true,
    sliding_window: None,
    logit_softcap: None,
    documents: None,
};

fn check<const N: usize>(configs: [Attention<'static>; N]) {
    for config in configs {
        Case::<f32>::new(config).check_all(4e-6);
        Case::<bf16>::new(config).check_all(2e-2);
    }
}

#[test]
fn any_length_and_any_number_of_heads_agrees_with_the_definition() {
    check([1, 2, 5, 6, 7, 63, 95, 97, 193, 300].map(|seq| Attention { seq, ..CAUSAL }));
    let grouped = Attention { seq: 131, batch: 2, heads: 6, kv_heads: 2, ..CAUSAL };
    check([grouped, Attention { causal: false, ..grouped }]);
}

#[test]
fn any_width_of_heads_agrees_with_the_definition() {
    check([(1, 1), (3, 5), (16, 32), (64, 64), (80, 48), (128, 96)].map(|(head_dim, v_head_dim)| Attention {
        seq: 70,
        head_dim,
        v_head_dim,
        scale: 0.2,
        ..CAUSAL
    }));
}

#[test]
fn windows_caps_and_documents_agree_with_the_definition() {
    let long = Attention { seq: 450, heads: 2, ..CAUSAL };
    let documents: &'static [u32] =
        Vec::leak((0..450).map(|i| [0, 7, 8, 9][(i > 3) as usize + (i > 200) as usize + (i > 386) as usize]).collect());
    check([
        Attention { sliding_window: Some(1), ..long },
        Attention { sliding_window: Some(100), ..long },
        Attention { logit_softcap: Some(2.0), ..long },
        Attention { documents: Some(documents), ..long },
        Attention { documents: Some(documents), causal: false, ..long },
        Attention { documents: Some(documents), sliding_window: Some(90), logit_softcap: Some(0.5), ..long },
    ]);
}

#[test]
fn a_sink_takes_its_part_of_every_row() {
    for sinks in [vec![0.5, -3.0], vec![30.0, f32::NEG_INFINITY]] {
        let config = Attention { seq: 200, heads: 2, ..CAUSAL };
        Case::<f32> { sinks: Some(sinks.clone()), ..Case::new(config) }.check_all(4e-6);
        Case::<bf16> { sinks: Some(sinks), ..Case::new(config) }.check_all(2e-2);
    }
}

#[test]
fn threads_change_no_bit() {
    let config = Attention { seq: 700, batch: 2, heads: 4, kv_heads: 2, head_dim: 32, v_head_dim: 16, ..CAUSAL };
    let case = Case::<bf16>::new(config);
    let run = |threads| case.run(Exec::new(threads));
    let one = run(1);
    for threads in [2, 3, 8, 2, 3, 8] {
        let many = run(threads);
        assert!(one.y == many.y && one.lse == many.lse && one.gradients == many.gradients, "{threads} threads");
    }
}

#[test]
fn scores_of_any_size_neither_overflow_nor_vanish() {
    for scale in [1e-30, 1e-3, 100.0, 1e6] {
        let config = Attention { seq: 40, scale, ..CAUSAL };
        let case = Case::<f32>::new(config);
        let out = case.run(Exec::new(2));
        assert!(out.y.iter().chain(out.gradients.iter().flatten()).all(|x| x.is_finite()), "{scale}");
        let (y, _) = reference::forward(&config, case.inputs(), None);
        // What rounding leaves of a logit of 1e6 decides between equal keys.
        let tolerance = 2e-6 + 1e-6 * f64::from(scale);
        assert!(
            scale > 100.0 || out.y.iter().zip(&y).all(|(got, y)| (f64::from(*got) - y).abs() < tolerance),
            "{scale}"
        );
    }
}

#[test]
fn what_a_query_sees_of_nan_or_infinity_makes_it_nan_and_what_it_does_not_see_never_matters() {
    let config = Attention { seq: 130, head_dim: 16, v_head_dim: 16, ..CAUSAL };
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut case = Case::<f32>::new(config);
            case.qkv[1][100 * 16] = bad;
            let out = case.run(Exec { isa, threads: 2 });
            assert!(out.y[..100 * 16].iter().chain(&out.lse[..100]).all(|x| x.is_finite()), "{bad} {isa:?}");
            let all_nan = |row: usize| out.y[row * 16..(row + 1) * 16].iter().all(|x| x.is_nan());
            // A score of -inf, where q is negative, has the weight 0.
            let spoiled = |row: &usize| bad.is_nan() || case.qkv[0][row * 16] > 0.0;
            assert!((100..130).filter(spoiled).all(all_nan), "{bad} {isa:?}");
        }
    }
}

#[test]
fn a_call_that_cannot_be_is_refused_and_writes_nothing() {
    let config = Attention { seq: 4, ..CAUSAL };
    let exec = Exec::new(2);
    let [len, _] = attention::scratch_len::<f32>(exec, &config).expect("sound");
    let x = vec![1.0_f32; 32];
    let run = |config: &Attention<'_>, q: usize, scratch: usize| {
        let (mut y, mut lse) = (vec![5.0_f32; 32], vec![5.0; 4]);
        let mut scratch = vec![0; scratch];
        let result = attention::forward(exec, config, [&x[..q], &x, &x], None, &mut scratch, &mut y, &mut lse);
        assert!(result.is_ok() || y.iter().chain(&lse).all(|x| *x == 5.0));
        result
    };
    assert_eq!(run(&config, 32, len), Ok(()));
    assert!(matches!(run(&config, 31, len), Err(KernelError::Length { argument: "q", expected: 32, got: 31, .. })));
    assert!(matches!(run(&config, 32, len - 1), Err(KernelError::Length { argument: "scratch", .. })));
    let heads = Attention { heads: 3, kv_heads: 2, ..config };
    assert!(matches!(run(&heads, 32, len), Err(KernelError::Argument { argument: "heads", .. })));
    let window = Attention { sliding_window: Some(0), ..config };
    assert!(matches!(run(&window, 32, len), Err(KernelError::Argument { argument: "sliding_window", .. })));
    let documents = Attention { documents: Some(&[1, 0, 0, 0]), ..config };
    assert!(run(&documents, 32, len).is_err_and(|error| error.to_string().contains("never decrease")));
}
