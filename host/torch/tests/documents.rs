//! Documents packed into one row: what each gives, and learns, is what it would alone.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use common::{Model, assert_close};
use unswag_abi::doc::Dtype;
use unswag_engine::{Batch, EngineError, Grads, IGNORED, Program, Step, Trainable};
use unswag_torch::Torch;

/// Rows of documents of these lengths, behind each other.
fn packed(rows: &[&[u32]]) -> Batch {
    let seq: u32 = rows[0].iter().sum();
    let mut batch = Batch { batch: rows.len() as u64, seq: seq.into(), ..Batch::default() };
    for (row, lengths) in rows.iter().enumerate() {
        for (document, &length) in lengths.iter().enumerate() {
            for token in 0..length {
                let next = |token: u32| (row as u32 * 7 + document as u32 * 13 + token * 5 + 3) % 50;
                batch.input_ids.push(next(token));
                batch.position_ids.push(token);
                batch.targets.push(if token + 1 < length { next(token + 1).into() } else { IGNORED });
                batch.document_ids.push(document as u32);
            }
        }
    }
    batch
}

/// The same documents, each a batch of its own.
fn alone(packed: &Batch) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for at in 0..packed.input_ids.len() {
        if packed.position_ids[at] == 0 {
            batches.push(Batch { batch: 1, ..Batch::default() });
        }
        let batch = batches.last_mut().expect("a document begins at position 0");
        batch.seq += 1;
        batch.input_ids.push(packed.input_ids[at]);
        batch.position_ids.push(packed.position_ids[at]);
        batch.targets.push(packed.targets[at]);
    }
    batches
}

fn gradients(grads: &Grads<unswag_torch::TorchTensor>, program: &Program) -> Vec<f32> {
    let found = (0..program.params().len()).filter_map(|index| grads.get(index));
    found.flat_map(|grad| grad.to_f32().expect("readable")).collect()
}

/// The kernels' attention and the one of plain operations, of full and of sliding-window models.
#[test]
fn packed_documents_do_not_see_each_other() {
    tch::set_num_threads(1);
    let folder = common::families();
    let backends = [("kernels", Torch::cpu()), ("libtorch", Torch::plain_cpu())];
    for (case, (name, torch)) in
        ["llama", "mistral", "gemma2"].iter().flat_map(|case| backends.iter().map(move |by| (case, by)))
    {
        let (what, tolerance) = (format!("{case} by {name}"), 1e-5);
        let model = Model::open(&folder.join(case));
        let mut program = Program::new(&model.graph, Trainable::Everything).expect("a model that the engine runs");
        program.set_dtype(Dtype::F32);
        let params = model.params(torch, &program);
        let together = packed(&[&[3, 1, 6, 4], &[9, 5]]);
        let step = Step { loss_count: Some(1), ..Step::default() };

        let logits = program.forward(torch, &params, &together).expect("logits").to_f32().expect("readable");
        let mut grads = Grads::new(&program);
        let loss = program.step(torch, &params, &together, &step, &mut grads).expect("a step");

        let (mut each_logits, mut each_loss, mut each_grads) = (Vec::new(), 0.0, Grads::new(&program));
        for batch in alone(&together) {
            each_logits.extend(program.forward(torch, &params, &batch).expect("logits").to_f32().expect("readable"));
            each_loss += program.step(torch, &params, &batch, &step, &mut each_grads).expect("a step");
        }
        assert_close(&format!("{what}: logits"), &logits, &each_logits, tolerance, 0.0);
        assert_close(&format!("{what}: loss"), &[loss as f32], &[each_loss as f32], tolerance, 0.0);
        let (found, wanted) = (gradients(&grads, &program), gradients(&each_grads, &program));
        assert_close(&format!("{what}: gradients"), &found, &wanted, 10.0 * tolerance, 0.0);

        // Without the mask they do see each other: the test can fail.
        let unmasked = Batch { document_ids: Vec::new(), ..together };
        let other = program.forward(torch, &params, &unmasked).expect("logits");
        assert_ne!(other.to_f32().expect("readable"), logits, "{what}");
    }
}

/// Long enough for several blocks of queries, whose first keys differ, and rows whose documents end at other places.
#[test]
fn documents_longer_than_a_block_of_queries_give_and_learn_what_they_do_alone() {
    let folder = common::families();
    // mistral's window ends within a document.
    for case in ["llama", "mistral"] {
        let model = Model::open(&folder.join(case));
        let program = Program::new(&model.graph, Trainable::Everything).expect("a model that the engine runs");
        let together = packed(&[&[300, 290, 10], &[520, 80]]);
        let step = Step { loss_count: Some(1000), ..Step::default() };
        let mut by_backend = Vec::new();
        for torch in [Torch::cpu(), Torch::plain_cpu()] {
            let params = model.params(&torch, &program);
            let logits = program.forward(&torch, &params, &together).expect("logits").to_f32().expect("readable");
            let mut grads = Grads::new(&program);
            program.step(&torch, &params, &together, &step, &mut grads).expect("a step");
            let (mut each_logits, mut each_grads) = (Vec::new(), Grads::new(&program));
            for batch in alone(&together) {
                each_logits
                    .extend(program.forward(&torch, &params, &batch).expect("logits").to_f32().expect("readable"));
                program.step(&torch, &params, &batch, &step, &mut each_grads).expect("a step");
            }
            let (found, wanted) = (gradients(&grads, &program), gradients(&each_grads, &program));
            assert_close(&format!("{case}: logits"), &logits, &each_logits, 1e-5, 0.0);
            assert_close(&format!("{case}: gradients"), &found, &wanted, 1e-4, 0.0);
            assert!(found.iter().any(|gradient| gradient.abs() > 1e-4), "{case}: nothing is learned");
            by_backend.push((logits, found));
        }
        let [(logits, found), (other_logits, other)] = by_backend.try_into().expect("two");
        assert_close(&format!("{case}: kernels and libtorch, logits"), &logits, &other_logits, 1e-5, 0.0);
        assert_close(&format!("{case}: kernels and libtorch, gradients"), &found, &other, 1e-4, 0.0);
    }
}

#[test]
fn document_numbers_that_fall_are_refused() {
    let folder = common::families();
    let (model, torch) = (Model::open(&folder.join("llama")), Torch::cpu());
    let program = Program::new(&model.graph, Trainable::Nothing).expect("a model that the engine runs");
    let params = model.params(&torch, &program);
    let mut batch = packed(&[&[2, 3]]);
    batch.document_ids[4] = 0;
    let error = program.forward(&torch, &params, &batch).expect_err("1 and then 0");
    assert!(matches!(error, EngineError::Batch { what: "document_ids", .. }), "{error}");
}
