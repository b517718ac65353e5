//! Every family's logits, loss and gradients against transformers and PyTorch's autograd, in f32; and what `Meta` counts
//! of the same steps against what the tensors took.

mod common;

use std::path::Path;

use common::{Model, assert_close};
use safetensors::SafeTensors;
use unswag_engine::{
    Backend, Batch, Grads, Meta, MetaStore, Nf4, Params, Policy, Program, Step, Storage, Store, Trainable,
};
use unswag_torch::{FileStore, Torch};

/// What transformers said of one case.
struct Expected(Vec<u8>);

impl Expected {
    fn read(path: &Path) -> Self {
        Expected(std::fs::read(path).expect("made by the script"))
    }

    fn f32(&self, name: &str) -> Option<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.0).expect("safetensors");
        let data = file.tensor(name).ok()?.data().to_vec();
        Some(data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four"))).collect())
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).expect("safetensors");
        let data = file.tensor(name).expect("recorded").data();
        let id = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("eight")) as u32;
        data.chunks_exact(8).map(id).collect()
    }

    fn batch(&self) -> Batch {
        let file = SafeTensors::deserialize(&self.0).expect("safetensors");
        let [batch, seq] = file.tensor("input_ids").expect("recorded").shape().try_into().expect("two dimensions");
        let causal = Batch::causal(batch as u64, seq as u64, self.ids("input_ids"));
        Batch { position_ids: self.ids("position_ids"), ..causal }
    }
}

const STEP: Step = Step { policies: Vec::new(), loss_rows: 3, tile_rows: 4, seed: 1, dropout: false, loss_count: None };

#[test]
fn logits_loss_and_gradients_of_every_family_are_those_of_transformers() {
    compare_with_transformers(Torch::cpu);
}

/// What a device runs that there are no kernels for.
#[test]
fn libtorchs_own_operations_alone_give_them_too() {
    compare_with_transformers(Torch::plain_cpu);
}

/// Where there is no GPU, or libtorch has no CUDA, there is nothing to compare.
#[test]
fn a_gpu_gives_them_too() {
    if Torch::on(unswag_abi::doc::Device::Cuda).is_ok() {
        compare_with_transformers(|| Torch::on(unswag_abi::doc::Device::Cuda).expect("it was there a moment ago"));
    }
}

fn compare_with_transformers(torch: fn() -> Torch) {
    let (folder, cases) = (common::families(), common::cases());
    for (case, path) in &cases {
        let expected = Expected::read(&folder.join(format!("{case}.safetensors")));
        let (model, torch, batch) = (Model::open(path), torch(), expected.batch());
        let program =
            Program::new(&model.graph, Trainable::Everything).unwrap_or_else(|error| panic!("{case}: {error}"));
        let params = model.params(&torch, &program);

        let logits = program.forward(&torch, &params, &batch).unwrap_or_else(|error| panic!("{case}: {error}"));
        let wanted = expected.f32("logits").expect("recorded");
        assert_close(&format!("{case}: logits"), &logits.to_f32().expect("readable"), &wanted, 1e-4, 0.0);

        let mut grads = Grads::new(&program);
        let loss =
            program.step(&torch, &params, &batch, &STEP, &mut grads).unwrap_or_else(|error| panic!("{case}: {error}"));
        let wanted = expected.f32("loss").expect("recorded");
        assert_close(&format!("{case}: loss"), &[loss as f32], &wanted, 1e-5, 0.0);
        let again = program.loss(&torch, &params, &batch, &STEP).expect("it ran before");
        assert!((again - loss).abs() <= 1e-6 * loss, "{case}: {again} without gradients, {loss} with");

        let names = program.params().iter().map(|info| format!("grad.{}", info.name));
        let all = names.filter_map(|name| expected.f32(&name)).flatten();
        // A key's bias moves all scores of a query alike: its gradient is 0 but for rounding, which is no scale.
        let floor = all.fold(0f32, |most, x| most.max(x.abs())) * 1e-3;
        let mut compared = 0;
        for (index, info) in program.params().iter().enumerate() {
            let Some(wanted) = expected.f32(&format!("grad.{}", info.name)) else { continue };
            let found = grads.get(index).unwrap_or_else(|| panic!("{case}: {} has no gradient", info.name));
            assert_close(
                &format!("{case}: gradient of {}", info.name),
                &found.to_f32().expect("readable"),
                &wanted,
                2e-4,
                floor,
            );
            compared += 1;
        }
        assert_eq!(compared, program.params().len(), "{case}: gradients compared");
    }
}

/// A store in a file of this test's own.
fn file_store(torch: &Torch) -> FileStore {
    FileStore::new(torch, Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("the target folder is on a disk")
}

/// Live and peak bytes of a step, counted from before the parameters.
fn counts<B: Backend>(
    backend: &B,
    meter: &unswag_engine::Meter,
    store: &mut dyn Store<B::Tensor>,
    program: &Program,
    params: &Params<B::Tensor>,
    batch: &Batch,
    step: &Step,
) -> (u64, u64) {
    let mut grads = Grads::new(program);
    meter.reset_peak();
    program.step_with_store(backend, params, batch, step, &mut grads, store).expect("a step");
    (meter.live(), meter.peak())
}

#[test]
fn meta_counts_the_bytes_that_a_step_takes() {
    let (folder, cases) = (common::families(), common::cases());
    for (case, path) in &cases {
        let batch = Expected::read(&folder.join(format!("{case}.safetensors"))).batch();
        let model = Model::open(path);
        for (trainable, nf4) in [
            (Trainable::Everything, None),
            (Trainable::Nothing, None),
            (Trainable::Nothing, Some(Nf4 { double_quant: false })),
            (Trainable::Nothing, Some(Nf4 { double_quant: true })),
        ] {
            let mut program = Program::new(&model.graph, trainable).expect("it ran before");
            if let Some(nf4) = nf4 {
                program.quantize_linears(nf4).expect("there are linear layers");
            }
            if trainable == Trainable::Nothing {
                program.add_lora(&common::lora(4)).expect("there are linear layers");
            }
            for policy in Policy::ALL {
                let step = Step { policies: vec![policy; program.blocks()], dropout: true, ..STEP };
                for torch in [Torch::cpu(), Torch::plain_cpu()] {
                    let meta = Meta::new();
                    let (mut file, mut counted) = (file_store(&torch), MetaStore::new(&meta));
                    let params = model.params(&torch, &program);
                    let real = counts(&torch, torch.meter(), &mut file, &program, &params, &batch, &step);
                    let quantized = program.params().iter().filter(|info| info.storage != Storage::Plain).count();
                    assert_eq!(quantized > 0, nf4.is_some(), "{case}");
                    drop(params);
                    let params = Params::load(&program, |_, info| Ok::<_, ()>(meta.param(info)));
                    let params = params.expect("sizes");
                    let planned = counts(&meta, meta.meter(), &mut counted, &program, &params, &batch, &step);
                    assert_eq!(planned, real, "{case}, {trainable:?}, {nf4:?}, {policy:?}: live and peak bytes");
                    assert!(real.1 > real.0, "{case}: nothing was made");
                    let stored = [file.meter(), counted.meter()].map(|meter| (meter.live(), meter.peak()));
                    assert_eq!(stored[0], stored[1], "{case}, {trainable:?}, {policy:?}: offloaded bytes");
                    assert_eq!(stored[0].1 > 0, policy.offloads(), "{case}, {trainable:?}, {policy:?}");
                }
            }
        }
    }
}

/// A GELU on the gated product: the down projection's input is made from what is itself made again.
#[test]
fn what_is_made_again_may_be_made_from_what_is_made_again() {
    let model = Model::open(&common::families().join("llama"));
    let mut graph = model.graph.clone();
    let mut changed = 0;
    for index in (0..graph.nodes.len()).rev().filter(|&index| model.graph.nodes[index].kind == "swiglu") {
        let product = model.graph.nodes[index].outputs[0].clone();
        let again = format!("{product}.gelu");
        graph.values.insert(again.clone(), graph.values[&product].clone());
        for input in graph.nodes.iter_mut().flat_map(|node| &mut node.inputs).filter(|input| **input == product) {
            input.clone_from(&again);
        }
        let mut gelu = graph.nodes[index].clone();
        (gelu.path, gelu.kind) = (format!("{}.gelu", gelu.path), "gelu".into());
        (gelu.inputs, gelu.outputs) = (vec![product], vec![again]);
        graph.nodes.insert(index + 1, gelu);
        changed += 1;
    }
    assert!(changed > 1, "every block has one");
    let program = Program::new(&graph, Trainable::Everything).expect("a model that the engine runs");
    let torch = Torch::cpu();
    let params = model.params(&torch, &program);
    // Long enough for the blocks to take the most.
    let batch = Batch::causal(4, 24, (0..96).map(|id| id % 31 + 1).collect());
    let run = |policy| {
        let step = Step { policies: vec![policy; program.blocks()], ..STEP };
        let mut grads = Grads::new(&program);
        torch.meter().reset_peak();
        let loss = program.step(&torch, &params, &batch, &step, &mut grads).expect("a step");
        let grad = |index: usize| grads.get(index).expect("every parameter is trained").to_f32().expect("readable");
        (torch.meter().peak(), (loss.to_bits(), (0..program.params().len()).map(grad).collect::<Vec<_>>()))
    };
    let ((keeps, kept), (takes, made)) = (run(Policy::Keep), run(Policy::Selective));
    assert!(kept == made, "the bits of what was kept");
    assert!(takes < keeps, "{takes} bytes instead of {keeps}");
}

#[test]
fn what_is_made_again_has_the_bits_of_what_was_kept_and_tiles_give_the_same_sums_in_another_order() {
    let (folder, cases) = (common::families(), common::cases());
    let mut dropping = 0;
    for (case, path) in &cases {
        let batch = Expected::read(&folder.join(format!("{case}.safetensors"))).batch();
        let (model, torch) = (Model::open(path), Torch::cpu());
        let program = Program::new(&model.graph, Trainable::Everything).expect("it ran before");
        let params = model.params(&torch, &program);
        let run = |policy, dropout| {
            let step = Step { policies: vec![policy; program.blocks()], dropout, ..STEP };
            let mut grads = Grads::new(&program);
            let mut store = file_store(&torch);
            let loss = program.step_with_store(&torch, &params, &batch, &step, &mut grads, &mut store).expect("a step");
            let grad = |index: usize| grads.get(index).expect("every parameter is trained").to_f32().expect("readable");
            (loss.to_bits(), (0..program.params().len()).map(grad).collect::<Vec<_>>())
        };
        let kept = run(Policy::Keep, true);
        assert!(kept == run(Policy::Selective, true), "{case}: selective");
        assert!(kept == run(Policy::Recompute, true), "{case}");
        assert!(kept == run(Policy::Offload, true), "{case}: offloaded");
        // A product of fewer rows may be summed in another order, and a weight's gradient is the sum of the stretches'.
        let (loss, grads) = run(Policy::Tile, true);
        let (loss, kept_loss) = (f64::from_bits(loss), f64::from_bits(kept.0));
        assert!((loss - kept_loss).abs() <= 1e-6 * kept_loss, "{case}: {loss} tiled, {kept_loss} whole");
        let floor = kept.1.iter().flatten().fold(0f32, |most, x| most.max(x.abs())) * 1e-3;
        for ((found, kept), info) in grads.iter().zip(&kept.1).zip(program.params()) {
            assert_close(&format!("{case}: gradient of {}, tiled", info.name), found, kept, 1e-4, floor);
        }
        let tiled = (loss.to_bits(), grads);
        assert!(tiled == run(Policy::RecomputeTile, true), "{case}: tiled and recomputed");
        assert!(tiled == run(Policy::OffloadTile, true), "{case}: tiled and offloaded");
        // Where the family drops, it dropped: the masks came again.
        let drops = model.graph.nodes.iter().any(|node| node.attrs.get("p").is_some_and(|p| p.as_f64() > Some(0.0)));
        assert_eq!(kept.0 != run(Policy::Keep, false).0, drops, "{case}");
        dropping += usize::from(drops);
    }
    assert!(dropping > 0, "no case drops anything");
}

#[test]
fn lora_with_zero_b_equals_base() {
    let (folder, cases) = (common::families(), common::cases());
    for (case, path) in &cases {
        let batch = Expected::read(&folder.join(format!("{case}.safetensors"))).batch();
        let (model, torch) = (Model::open(path), Torch::cpu());
        let base = Program::new(&model.graph, Trainable::Nothing).expect("it ran before");
        let mut adapted = Program::new(&model.graph, Trainable::Nothing).expect("it ran before");
        let adapters = adapted.add_lora(&common::lora(4)).expect("there are linear layers");
        let logits = |program: &Program| {
            let params = model.params(&torch, program);
            program.forward(&torch, &params, &batch).expect("logits").to_f32().expect("readable")
        };
        assert!(logits(&base) == logits(&adapted), "{case}");
        // A moves nothing while B is zero, B moves at once.
        let params = model.params(&torch, &adapted);
        let mut grads = Grads::new(&adapted);
        adapted.step(&torch, &params, &batch, &STEP, &mut grads).expect("a step");
        for adapter in adapters {
            let of = |index: usize| grads.get(index).expect("trained").to_f32().expect("readable");
            assert!(of(adapter.a).iter().all(|x| *x == 0.0), "{case}: {}", adapter.module);
            assert!(of(adapter.b).iter().any(|x| *x != 0.0), "{case}: {}", adapter.module);
        }
        let frozen = (0..base.params().len()).filter(|&index| grads.get(index).is_some()).count();
        assert_eq!(frozen, 0, "{case}: frozen parameters with a gradient");
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn in_bf16_every_family_stays_close_to_transformers_in_f32() {
    let (folder, cases) = (common::families(), common::cases());
    for (case, path) in &cases {
        let expected = Expected::read(&folder.join(format!("{case}.safetensors")));
        let (model, torch, batch) = (Model::open(path), Torch::cpu(), expected.batch());
        let mut program = Program::new(&model.graph, Trainable::Everything).expect("it ran in f32");
        program.set_dtype(unswag_abi::doc::Dtype::Bf16);
        let params = model.params(&torch, &program);
        let mut grads = Grads::new(&program);
        let loss =
            program.step(&torch, &params, &batch, &STEP, &mut grads).unwrap_or_else(|error| panic!("{case}: {error}"));
        let wanted = f64::from(expected.f32("loss").expect("recorded")[0]);
        // bf16 has eight bits: a logit is off by a few 2^-9, and the mean of ten losses by less than one of them.
        assert!((loss - wanted).abs() <= 0.01 * wanted, "{case}: loss {loss}, in f32 {wanted}");
        let mut all = [Vec::new(), Vec::new()];
        for (index, info) in program.params().iter().enumerate() {
            let Some(wanted) = expected.f32(&format!("grad.{}", info.name)) else { continue };
            let found = grads.get(index).map_or_else(|| vec![0.0; wanted.len()], |g| g.to_f32().expect("readable"));
            all[0].extend(found);
            all[1].extend(wanted);
        }
        let alike = cosine(&all[0], &all[1]);
        // The least, 0.99, is of an attention whose scores are not scaled: its scores are large, and their last bits with them.
        assert!(alike > 0.98, "{case}: the cosine between the gradients is {alike}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (folder, cases) = (common::families(), common::cases());
    let (case, path) = &cases[0];
    let batch = Expected::read(&folder.join(format!("{case}.safetensors"))).batch();
    let (model, torch) = (Model::open(path), Torch::cpu());
    let program = Program::new(&model.graph, Trainable::Everything).expect("it ran before");
    let params = model.params(&torch, &program);
    let refused = |change: &dyn Fn(&mut Batch), said: &str| {
        let mut batch = batch.clone();
        change(&mut batch);
        let mut grads = Grads::new(&program);
        let error = program.step(&torch, &params, &batch, &STEP, &mut grads).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    };
    refused(&|batch| batch.targets[1] = -5, "targets: expected a token, or -100");
    refused(&|batch| batch.targets[1] = 1 << 40, "`targets` must be from 0 to");
    refused(&|batch| batch.input_ids[0] = u32::MAX, "libtorch: ");
    refused(&|batch| batch.input_ids.truncate(9), "input_ids: expected 10");
    refused(&|batch| batch.targets.truncate(9), "targets: expected 10");
    refused(&|batch| batch.seq = u64::MAX, "input_ids: expected");
    let short = torch.tensor_from_bytes([2, 3], unswag_abi::doc::Dtype::F32, &[0; 23]).expect_err("23 bytes for 24");
    assert!(short.to_string().contains("23 bytes"), "{short}");
    let mut graph = model.graph.clone();
    graph.nodes.last_mut().expect("a head").inputs.clear();
    let error = Program::new(&graph, Trainable::Nothing).expect_err("a head without input").to_string();
    assert!(error.contains("takes 1"), "{error}");
}
