//! A text that is gone on with token by token has the logits of the text computed at once.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::time::Instant;

use common::{Model, assert_close};
use unswag_abi::doc::Dtype;
use unswag_engine::{Backend, Batch, Cache, Params, Program, Trainable};
use unswag_tests::smollm2;
use unswag_torch::{Torch, TorchTensor};

/// Longer than the cases' windows, and than the lengths at which their rotations change.
const TOKENS: usize = 24;
/// How the text comes: a prompt, single tokens, several at once.
const PARTS: [usize; 8] = [5, 1, 1, 1, 4, 1, 1, 10];

fn last_row(torch: &Torch, program: &Program, params: &Params<TorchTensor>, ids: &[u32]) -> Vec<f32> {
    let batch = Batch::causal(1, ids.len() as u64, ids.to_vec());
    let logits = program.forward(torch, params, &batch).expect("it runs");
    torch.rows(&logits, ids.len() as u64 - 1, 1).to_f32().expect("readable")
}

#[test]
fn every_familys_next_logits_are_those_of_the_whole_text() {
    assert_eq!(PARTS.iter().sum::<usize>(), TOKENS);
    for (case, path) in common::cases() {
        let model = Model::open(&path);
        let program = Program::new(&model.graph, Trainable::Nothing).expect("the engine runs it");
        let ids: Vec<u32> = (0..TOKENS as u32).map(|at| (at * 7 + 3) % 31).collect();
        // With the kernels, and with libtorch's own operations alone.
        for torch in [Torch::cpu(), Torch::plain_cpu()] {
            let params = model.params(&torch, &program);
            let mut cache = Cache::new(&program);
            let mut end = 0;
            for part in PARTS {
                end += part;
                let next = program.next_logits(&torch, &params, &ids[..end], &mut cache).expect("it runs");
                let whole = last_row(&torch, &program, &params, &ids[..end]);
                let next = next.to_f32().expect("readable");
                assert_close(&format!("{case} after {end} tokens"), &next, &whole, 1e-5, 0.0);
                assert_eq!(cache.tokens(), end as u64, "{case}");
            }
            let error = program.next_logits(&torch, &params, &ids, &mut cache).expect_err("there is no new token");
            assert!(error.to_string().contains("more than the 24"), "{error}");
        }
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("some") as u32
}

#[test]
fn smollm2_says_the_same_tokens_with_a_cache_and_without() {
    tch::set_num_threads(1);
    let (model, torch) = (Model::open(&smollm2()), Torch::cpu());
    let mut program = Program::new(&model.graph, Trainable::Nothing).expect("the engine runs it");
    program.set_dtype(Dtype::F32);
    let params = model.params(&torch, &program);
    let mut ids: Vec<u32> = vec![504, 3575, 282, 4649, 314];
    let mut cache = Cache::new(&program);
    for _ in 0..24 {
        let next = program.next_logits(&torch, &params, &ids, &mut cache).expect("it runs");
        let next = next.to_f32().expect("readable");
        let whole = last_row(&torch, &program, &params, &ids);
        assert_close(&format!("after {} tokens", ids.len()), &next, &whole, 1e-4, 0.0);
        assert_eq!(likeliest(&next), likeliest(&whole), "after {} tokens", ids.len());
        ids.push(likeliest(&next));
    }

    // For people: what a token takes behind a long text, against behind a short one.
    let time = |tokens: usize| {
        let text: Vec<u32> = (0..tokens as u32 + 4).map(|at| at * 7919 % 49_152).collect();
        let mut cache = Cache::new(&program);
        program.next_logits(&torch, &params, &text[..tokens], &mut cache).expect("it runs");
        let start = Instant::now();
        (1..=4).for_each(|more| drop(program.next_logits(&torch, &params, &text[..tokens + more], &mut cache)));
        let cached = start.elapsed().as_secs_f64() / 4.0;
        let start = Instant::now();
        last_row(&torch, &program, &params, &text);
        [cached, start.elapsed().as_secs_f64()]
    };
    let ([short, short_whole], [long, long_whole]) = (time(16), time(384));
    eprintln!("a token behind 384 against behind 16: x {:.2}, x {:.2} without", long / short, long_whole / short_whole);
}

#[test]
fn a_cache_of_another_text_is_of_no_use_and_a_cleared_one_begins_anew() {
    tch::set_num_threads(1);
    let folder = common::families();
    let path = std::fs::read_dir(folder).expect("made").map(|entry| entry.expect("readable").path());
    let path = path.filter(|path| path.is_dir()).min().expect("some case");
    let (model, torch) = (Model::open(&path), Torch::cpu());
    let program = Program::new(&model.graph, Trainable::Nothing).expect("the engine runs it");
    let params = model.params(&torch, &program);
    let mut cache = Cache::new(&program);
    let next = |ids: &[u32], cache: &mut Cache<TorchTensor>| {
        program.next_logits(&torch, &params, ids, cache).expect("it runs").to_f32().expect("readable")
    };
    next(&[1, 2, 3], &mut cache);
    let mixed = next(&[9, 9, 9, 4], &mut cache);
    assert_eq!(mixed, {
        let mut own = Cache::new(&program);
        next(&[1, 2, 3], &mut own);
        next(&[1, 2, 3, 4], &mut own)
    });
    cache.clear();
    assert_eq!(cache.tokens(), 0);
    assert_eq!(next(&[9, 9, 9, 4], &mut cache), next(&[9, 9, 9, 4], &mut Cache::new(&program)));
}
