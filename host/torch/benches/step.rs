//! One LoRA step (r = 16 on every linear layer but the head) on a checkpoint, random tokens: seconds, tokens per second, and
//! what memory it took.
//!
//! `cargo bench -p unswag-torch --bench step -- MODEL [--seq 2048] [--dtype BF16] [--policy selective] [--steps 3]`

#[path = "../tests/common/mod.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod common;

use std::{path::Path, time::Instant};

use common::Model;
use unswag_abi::doc::Dtype;
use unswag_engine::{Batch, Grads, Meta, Params, Policy, Program, Step, Trainable};
use unswag_torch::Torch;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let value = |name: &str, otherwise: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(otherwise.to_owned(), String::clone)
    };
    let Some(path) = arguments.first().filter(|path| !path.starts_with("--")) else {
        println!("give a model's folder; nothing was measured");
        return;
    };
    let seq: u64 = value("--seq", "2048").parse().expect("a length");
    let steps: u32 = value("--steps", "3").parse().expect("a number of steps");
    let dtype = Dtype::from_name(&value("--dtype", "BF16")).expect("an element type");
    let policy = value("--policy", Policy::Selective.name());
    let policy =
        Policy::IN_MEMORY.into_iter().find(|known| known.name() == policy).expect("a policy that needs no store");

    let model = Model::open(Path::new(path));
    let mut program = Program::new(&model.graph, Trainable::Nothing).expect("a model that the engine runs");
    program.set_dtype(dtype);
    program.add_lora(&common::lora(16)).expect("linear layers");
    let torch = Torch::cpu();
    let params = model.params(&torch, &program);
    let vocabulary = model.graph.params["model.embed_tokens.weight"].shape[0];
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((random >> 33) % vocabulary) as u32
    };
    let batch = Batch::causal(1, seq, (0..seq).map(|_| next()).collect());
    let step = Step { policies: vec![policy; program.blocks()], ..Step::default() };

    let meta = Meta::new();
    let counted = Params::load(&program, |_, info| Ok::<_, ()>(meta.tensor(info.shape, info.dtype))).expect("sizes");
    program.step(&meta, &counted, &batch, &step, &mut Grads::new(&program)).expect("a plan");

    let before = resident("VmRSS");
    for number in 0..steps {
        torch.meter().reset_peak();
        let mut grads = Grads::new(&program);
        let start = Instant::now();
        let loss = program.step(&torch, &params, &batch, &step, &mut grads).expect("a step");
        let seconds = start.elapsed().as_secs_f64();
        println!("step {number}: loss {loss:.5}, {seconds:.3} s, {:.0} tok/s", seq as f64 / seconds);
        assert_eq!(torch.meter().peak(), meta.meter().peak(), "what was counted beforehand");
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "tensors {:.1} MiB at most, with workspace {:.1} MiB; resident: {:.1} MiB before, {:.1} MiB at most",
        mib(torch.meter().peak()),
        mib(torch.pool_peak_bytes()),
        mib(before),
        mib(resident("VmHWM"))
    );
}

/// A line of what the system says of this process, in bytes.
fn resident(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kib = found.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.expect("a number of kB") * 1024
}
