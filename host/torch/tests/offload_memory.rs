//! That offloading takes resident memory from the process. Alone in its program: what others do would be counted too.

use std::path::Path;

use serde_json::json;
use unswag_abi::doc::{Attrs, Dtype};
use unswag_engine::{Backend, Batch, Grads, Params, Plan, PlanOptions, Policy, Program, Step, Trainable};
use unswag_graph::builders::{self, TensorInfo};
use unswag_torch::{FileStore, Torch};

const LAYERS: u64 = 16;
const HIDDEN: u64 = 32;
/// Many short sequences: what comes into a block is much, and what is computed with it little.
const BATCH: u64 = 1024;
const SEQ: u64 = 64;

fn program() -> Program {
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": LAYERS,
        "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 64, "max_position_embeddings": SEQ
    });
    let config: Attrs = config.as_object().expect("an object").clone().into_iter().collect();
    let tensors = builders::expected(&config).expect("a sound config");
    let infos = tensors.iter().map(|x| TensorInfo { name: &x.name, dtype: Dtype::F32, shape: &x.shape });
    let graph = builders::build(&config, infos).expect("a sound config").graph;
    Program::new(&graph, Trainable::Everything).expect("the engine runs it")
}

/// The most that was resident since the process began.
fn most_resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("every process has it");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

#[test]
fn offloading_takes_what_blocks_would_keep_out_of_resident_memory() {
    tch::set_num_threads(1);
    // Else the C library keeps what is given back to it for a while, some of it in pieces that nobody can use.
    // SAFETY: sets a number inside the allocator; no other thread runs yet that allocates.
    assert_eq!(unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20) }, 1);
    let (program, torch) = (program(), Torch::cpu());
    let params = Params::load(&program, |index, info| {
        let elements = info.shape[0] * info.shape[1];
        let value = move |i: u64| ((i * 7919 + index as u64 * 104_729) % 1000) as f32 * 1e-4 - 0.05;
        torch.tensor_from_f32(info.shape, info.dtype, &|| (0..elements).map(value).collect())
    })
    .expect("weights");
    let ids = (0..BATCH * SEQ).map(|i| (i * 31 % 64) as u32).collect();
    let batch = Batch::causal(BATCH, SEQ, ids);
    let options = PlanOptions { batch: BATCH, seq: SEQ, loss_rows: 8192, tile_rows: 8192, ..PlanOptions::default() };
    let mut store = FileStore::new(&torch, Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("a store");
    let mut run = |policy| {
        let step: Step = options.step(&[policy; LAYERS as usize]);
        let mut grads = Grads::new(&program);
        torch.meter().reset_peak();
        let loss = program.step_with_store(&torch, &params, &batch, &step, &mut grads, &mut store).expect("a step");
        let planned = Plan::new(&program, &options, &step.policies).expect("a plan");
        assert_eq!(torch.meter().peak(), planned.peak_bytes, "{policy:?}");
        (loss.to_bits(), most_resident_bytes(), planned.offloaded_bytes)
    };
    // The high-water mark only rises, so the smaller one comes first.
    let (loss, offloading, offloaded) = run(Policy::OffloadTile);
    let (same_loss, recomputing, _) = run(Policy::RecomputeTile);
    assert_eq!(loss, same_loss);
    assert_eq!(offloaded, LAYERS * BATCH * SEQ * HIDDEN * 4);
    let fell = recomputing - offloading;
    // The block that is worked on has its input in memory either way; the rest is in the file.
    let least = offloaded * (LAYERS - 4) / LAYERS;
    assert!(fell >= least, "resident memory is {fell} bytes less, {offloaded} bytes are offloaded");
}
