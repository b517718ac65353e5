//! Every policy on SmolLM2-135M in bf16, with adapters that do something: bytes against the plan, loss and gradients against
//! keep.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::path::Path;

use common::Model;
use unswag_engine::{Backend, Batch, Grads, Params, Plan, PlanOptions, Policy, Program, Trainable};
use unswag_tests::smollm2;
use unswag_torch::{FileStore, Torch, TorchTensor};

/// No multiple of a stretch.
const SEQ: u64 = 150;

/// The checkpoint, with adapters of small numbers that no rank has in common.
fn params(model: &Model, torch: &Torch, program: &Program) -> Params<TorchTensor> {
    let mut params = model.params(torch, program);
    for (index, info) in program.params().iter().enumerate().filter(|(_, info)| info.name.contains("lora_")) {
        let elements = info.shape[0] * info.shape[1];
        let value = |i: u64| ((i * 7919 + index as u64 * 104_729) % 997) as f32 * 4e-5 - 0.02;
        let values = || (0..elements).map(value).collect();
        params.tensors_mut()[index] = torch.tensor_from_f32(info.shape, info.dtype, &values).expect("an adapter");
    }
    params
}

#[test]
fn every_policy_takes_the_planned_bytes_and_gives_the_loss_and_gradients_of_keep() {
    // Threads that wait for each other lose much on a busy machine.
    tch::set_num_threads(1);
    let model = Model::open(&smollm2());
    let torch = Torch::cpu();
    let mut program = Program::new(&model.graph, Trainable::Nothing).expect("the engine runs it");
    let adapters = program.add_lora(&common::lora(16)).expect("there are linear layers");
    let params = params(&model, &torch, &program);
    let ids = (0..SEQ).map(|i| (i * 7919 % 49_152) as u32).collect();
    let batch = Batch::causal(1, SEQ, ids);
    let options = PlanOptions { seq: SEQ, loss_rows: 64, tile_rows: 64, ..PlanOptions::default() };
    let run = |policies: &[Policy]| {
        let mut store = FileStore::new(&torch, Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("a store");
        let mut grads = Grads::new(&program);
        torch.meter().reset_peak();
        let step = options.step(policies);
        let loss = program.step_with_store(&torch, &params, &batch, &step, &mut grads, &mut store).expect("a step");
        let plan = Plan::new(&program, &options, policies).expect("a plan");
        assert_eq!(torch.meter().peak(), plan.peak_bytes, "{policies:?}");
        assert_eq!(store.meter().peak(), plan.offloaded_bytes, "{policies:?}");
        let trained = adapters.iter().flat_map(|adapter| [adapter.a, adapter.b]);
        let grad = |index: usize| grads.get(index).expect("trained").to_f32().expect("readable");
        (loss, trained.map(grad).collect::<Vec<_>>())
    };
    let kept = run(&[Policy::Keep; 30]);
    assert!(kept.0.is_finite() && kept.1.iter().flatten().any(|x| *x != 0.0));
    for policy in [Policy::Selective, Policy::Recompute, Policy::Offload] {
        assert!(run(&[policy; 30]) == kept, "{policy:?}");
    }
    // In bf16 each stretch's part of a gradient is rounded before it is added.
    let distance = |a: &[f32], b: &[f32]| {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let off: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
        (off / b.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
    };
    let mixture: Vec<Policy> = (0..30).map(|block| Policy::ALL[block % Policy::ALL.len()]).collect();
    for policies in [vec![Policy::Tile; 30], vec![Policy::OffloadTile; 30], mixture] {
        let (loss, grads) = run(&policies);
        assert!((loss - kept.0).abs() <= 1e-3 * kept.0, "{policies:?}: {loss}, kept {}", kept.0);
        for (at, (found, kept)) in grads.iter().zip(&kept.1).enumerate() {
            let off = distance(found, kept);
            assert!(off <= 0.02, "{policies:?}: gradient {at} is off by {off}");
        }
    }
}
