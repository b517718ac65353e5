//! What operations take beside tensors: planned, and as the pool gave it out.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use common::{Model, lora};
use unswag_abi::doc::Dtype;
use unswag_engine::{Batch, Grads, Plan, PlanOptions, Policy, Program, Step, Trainable};
use unswag_torch::Torch;

#[test]
fn a_plan_lists_what_the_kernels_take_within_a_call() {
    tch::set_num_threads(2);
    let folder = common::families();
    let mut shown = 0;
    for case in ["llama", "mistral"] {
        let model = Model::open(&folder.join(case));
        for (dtype, policy) in
            [(Dtype::F32, Policy::Keep), (Dtype::Bf16, Policy::Keep), (Dtype::Bf16, Policy::Recompute)]
        {
            let mut program = Program::new(&model.graph, Trainable::Nothing).expect("a model that the engine runs");
            program.set_dtype(dtype);
            program.add_lora(&lora(2)).expect("linear layers");
            let (torch, batch) = (Torch::cpu(), Batch::causal(2, 700, (0..1400).map(|id| id * 7 % 50).collect()));
            let policies = vec![policy; program.blocks()];
            let params = model.params(&torch, &program);
            let step = Step { policies: policies.clone(), ..Step::default() };
            program.step(&torch, &params, &batch, &step, &mut Grads::new(&program)).expect("a step");
            let options = PlanOptions { batch: 2, seq: 700, threads: 2, ..PlanOptions::default() };
            let plan = Plan::new(&program, &options, &policies).expect("a plan");
            let (planned, found) = (plan.peak_bytes + plan.workspace_bytes, torch.pool_peak_bytes());
            let share = found as f64 / planned as f64;
            // Blocks are whole cache lines; what libtorch's own operations make is not in the pool.
            assert!(
                (0.97..1.01).contains(&share),
                "{case} in {dtype}, {policy:?}: {planned} planned, {found} given out"
            );
            shown += u32::from(plan.workspace_bytes > plan.peak_bytes / 25);
        }
    }
    assert!(shown >= 2, "a workspace that shows in some of the cases, not in {shown}");
}
