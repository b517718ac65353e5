//! The gradient of every op, as a family's model has it, against differences of the loss in f64; and adapters of every kind.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use common::{Model, lora};
use unswag_abi::doc::{Dtype, Graph};
use unswag_engine::{Backend, Batch, Grads, LoraSpec, Meta, Params, Policy, Program, Step, Trainable, dora_norms};
use unswag_torch::{Torch, TorchTensor};

/// Small against the curvature, and large against the last bits of a loss of about 4.
const H: f64 = 1e-5;

struct Random(u64);

impl Random {
    /// SplitMix64, in (-1, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

fn tensor(torch: &Torch, shape: [u64; 2], values: &[f64]) -> TorchTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    torch.tensor_from_bytes(shape, Dtype::F64, &bytes).expect("as many as the shape says")
}

/// Random weights of the program's shapes, in f64, and the values they have.
fn weights(torch: &Torch, program: &Program) -> (Params<TorchTensor>, Vec<Vec<f64>>) {
    let mut random = Random(7);
    let mut all = Vec::new();
    let params = Params::load(program, |_, info| {
        let elements = info.shape[0] * info.shape[1];
        // Vectors are norms' factors and biases: about 1, so that nothing vanishes.
        let middle = if info.shape[0] == 1 { 1.0 } else { 0.0 };
        let values: Vec<f64> = (0..elements).map(|_| middle + 0.3 * random.next()).collect();
        let tensor = tensor(torch, info.shape, &values);
        all.push(values);
        Ok::<_, ()>(tensor)
    });
    (params.expect("made"), all)
}

/// Holds the gradient of each trained parameter against the loss's slope along a random direction.
fn check(what: &str, program: &Program, batch: &Batch, skip: &[usize]) {
    let torch = Torch::cpu();
    let (mut params, values) = weights(&torch, program);
    let step = Step { dropout: false, loss_rows: 3, tile_rows: 4, ..Step::default() };
    let mut grads = Grads::new(program);
    let at = program.step(&torch, &params, batch, &step, &mut grads).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(at.is_finite(), "{what}: the loss is {at}");
    let mut random = Random(11);
    let (mut compared, mut largest) = (0, 0f64);
    for (index, info) in program.params().iter().enumerate() {
        if !program.is_trainable(index) || skip.contains(&index) {
            continue;
        }
        let grad = grads.get(index).unwrap_or_else(|| panic!("{what}: {} has no gradient", info.name));
        let grad = grad.to_f32().expect("readable");
        let along: Vec<f64> = values[index].iter().map(|_| random.next()).collect();
        let loss_at = |params: &mut Params<TorchTensor>, by: f64| {
            let moved: Vec<f64> = values[index].iter().zip(&along).map(|(value, along)| value + by * along).collect();
            params.tensors_mut()[index] = tensor(&torch, info.shape, &moved);
            program.loss(&torch, params, batch, &step).expect("it ran before")
        };
        let slope = (loss_at(&mut params, H) - loss_at(&mut params, -H)) / (2.0 * H);
        params.tensors_mut()[index] = tensor(&torch, info.shape, &values[index]);
        let expected: f64 = grad.iter().zip(&along).map(|(grad, along)| f64::from(*grad) * along).sum();
        // Gradients are summed in f32. Where they cancel along the direction, their size is the scale.
        let size = grad.iter().map(|grad| f64::from(*grad).powi(2)).sum::<f64>().sqrt();
        let off = (slope - expected).abs();
        let floor = 1e-8;
        assert!(off <= 2e-6 * size + floor, "{what}: {}: slope {slope}, gradient {expected} (size {size})", info.name);
        (compared, largest) = (compared + 1, largest.max(size));
    }
    // A loss that nothing moves has the right gradients too.
    assert!(largest > 1e-2, "{what}: the largest gradient is {largest}");
    assert!(compared > 5, "{what}: only {compared} gradients");
}

fn batch() -> Batch {
    let mut batch = Batch::causal(2, 5, (0..10).map(|id| id * 3 + 1).collect());
    batch.targets[4] = unswag_engine::IGNORED;
    batch
}

fn cases() -> impl Iterator<Item = (String, Graph)> {
    common::cases().into_iter().map(|(case, path)| (case, Model::open(&path).graph))
}

fn in_f64(graph: &Graph) -> Program {
    let mut program = Program::new(graph, Trainable::Everything).expect("a model that the engine runs");
    program.set_dtype(Dtype::F64);
    program
}

#[test]
fn every_gradient_of_every_family_is_the_slope_of_the_loss() {
    for (case, graph) in cases() {
        check(&case, &in_f64(&graph), &batch(), &[]);
    }
}

#[test]
fn so_is_the_gradient_of_packed_documents_and_of_sinks() {
    for (case, graph) in cases().filter(|(case, _)| ["llama", "mistral", "gemma2"].contains(&case.as_str())) {
        let mut packed = batch();
        packed.document_ids = vec![0, 0, 1, 1, 1, 0, 0, 0, 0, 1];
        packed.position_ids = vec![0, 1, 0, 1, 2, 0, 1, 2, 3, 0];
        check(&format!("{case}, packed"), &in_f64(&graph), &packed, &[]);

        let mut graph = graph;
        let mut sinks = Vec::new();
        for node in graph.nodes.iter_mut().filter(|node| node.kind == "attention") {
            let name = format!("{}.sinks", node.path);
            node.params.insert("sinks".into(), name.clone());
            sinks.push((name, node.attrs["num_heads"].as_u64().expect("a whole number")));
        }
        for (name, heads) in sinks {
            let param = unswag_abi::doc::Param { dtype: Dtype::F32, shape: vec![heads] };
            graph.params.insert(name, param);
        }
        check(&format!("{case}, with sinks"), &in_f64(&graph), &batch(), &[]);
    }
}

fn llama() -> Graph {
    let found = cases().find(|(case, _)| case == "llama_biases");
    found.expect("a model with biases").1
}

fn spec(dropout: f64, dora: bool) -> LoraSpec {
    LoraSpec { dropout, dora, ..lora(3) }
}

/// DoRA's norm is a constant to its gradient, as in PEFT: A and B are held against PEFT's instead, in train's tests.
#[test]
fn the_gradients_of_adapters_are_the_slopes_of_the_loss() {
    for dora in [false, true] {
        let mut program = in_f64(&llama());
        let adapters = program.add_lora(&spec(0.0, dora)).expect("linear layers");
        let skip: Vec<usize> = match dora {
            true => adapters.iter().flat_map(|adapter| [adapter.a, adapter.b]).collect(),
            false => Vec::new(),
        };
        // Magnitudes are f32 in whatever model; here all is f64.
        program.set_dtype(Dtype::F64);
        check(if dora { "DoRA" } else { "LoRA" }, &program, &batch(), &skip);
    }
}

/// A head runs on chunks of rows, and a tied one shares its matrix with the embedding, which an adapter leaves alone.
#[test]
fn the_gradients_of_an_adapter_on_the_head_are_the_slopes_of_the_loss_whatever_the_chunks() {
    let tied = cases().find(|(case, _)| case == "llama_tied").expect("a tied model").1;
    for (what, graph, targets) in
        [("all and the head", llama(), ["all-linear", "lm_head"]), ("a tied head", tied, ["down_proj", "lm_head"])]
    {
        let targets: Vec<String> = targets.map(str::to_owned).into();
        let mut program = in_f64(&graph);
        let adapters = program.add_lora(&LoraSpec { targets: targets.clone(), ..lora(3) }).expect("linear layers");
        assert_eq!(adapters.last().expect("some").module, "lm_head");
        check(what, &program, &batch(), &[]);

        let mut program = Program::new(&graph, Trainable::Nothing).expect("a model that the engine runs");
        let dropped = LoraSpec { targets, dropout: 0.3, ..lora(3) };
        let adapters = program.add_lora(&dropped).expect("linear layers");
        let torch = Torch::cpu();
        let params = params(&torch, &program, &adapters);
        let rows = Batch::causal(2, 6, (0..12).map(|id| id * 3 + 1).collect());
        let head = adapters.last().expect("the head");
        let run = |loss_rows| {
            let mut grads = Grads::new(&program);
            let step = Step { loss_rows, seed: 9, ..Step::default() };
            let loss = program.step(&torch, &params, &rows, &step, &mut grads).expect("a step");
            let of = |param| grads.get(param).expect("a gradient").to_f32().expect("readable");
            (loss, [of(head.a), of(head.b)].concat())
        };
        let ((loss, whole), (chunked_loss, chunked)) = (run(256), run(5));
        assert!((loss - chunked_loss).abs() < 1e-6 * loss, "{what}: {loss}, {chunked_loss} by chunks");
        common::assert_close(what, &chunked, &whole, 1e-5, 0.0);
    }
}

fn params(torch: &Torch, program: &Program, adapters: &[unswag_engine::Adapter]) -> Params<TorchTensor> {
    let mut random = Random(3);
    let load = |_, info: &unswag_engine::ParamInfo| {
        let elements = info.shape[0] * info.shape[1];
        let values: Vec<f32> = (0..elements).map(|_| 0.3 * random.next() as f32).collect();
        torch.tensor_from_f32(info.shape, info.dtype, &|| values.clone())
    };
    let mut params = Params::load(program, load).expect("made");
    for adapter in adapters {
        let Some(magnitude) = adapter.magnitude else { continue };
        let [weight, a, b] = [adapter.weight, adapter.a, adapter.b].map(|param| params.tensors()[param].clone());
        let norms = dora_norms(torch, (&weight, adapter.weight_view), 2.0, [&a, &b]).expect("norms");
        params.tensors_mut()[magnitude] = norms;
    }
    params
}

#[test]
fn however_a_block_keeps_what_it_needs_adapters_with_dropout_learn_the_same() {
    let batch = Batch::causal(2, 6, (0..12).map(|id| id * 3 + 1).collect());
    for (dtype, dropout, dora) in
        [(Dtype::F32, 0.3, false), (Dtype::F32, 0.0, true), (Dtype::F32, 0.3, true), (Dtype::Bf16, 0.3, true)]
    {
        let what = format!("{dtype}, dropout {dropout}, DoRA {dora}");
        let torch = Torch::cpu();
        let mut program = Program::new(&llama(), Trainable::Nothing).expect("a model that the engine runs");
        program.set_dtype(dtype);
        let adapters = program.add_lora(&spec(dropout, dora)).expect("linear layers");
        let params = params(&torch, &program, &adapters);
        let mut found: Vec<(Policy, f64, Vec<f32>)> = Vec::new();
        for policy in Policy::IN_MEMORY {
            let policies = vec![policy; program.blocks()];
            let step = Step { policies, tile_rows: 5, seed: 9, ..Step::default() };
            let mut grads = Grads::new(&program);
            torch.meter().reset_peak();
            let before = torch.meter().live();
            let loss = program.step(&torch, &params, &batch, &step, &mut grads).expect("a step");
            let took = torch.meter().peak() - before;
            let all = (0..program.params().len()).filter_map(|index| grads.get(index));
            let all = all.flat_map(|grad| grad.to_f32().expect("readable")).collect();
            found.push((policy, loss, all));

            let meta = Meta::new();
            let counted = Params::load(&program, |_, info| Ok::<_, ()>(meta.tensor(info.shape, info.dtype)));
            let (counted, before) = (counted.expect("sizes"), meta.meter().live());
            program.step(&meta, &counted, &batch, &step, &mut Grads::new(&program)).expect("a plan");
            assert_eq!(meta.meter().peak() - before, took, "{what}, {policy:?}: what was counted beforehand");
        }
        let (_, kept_loss, kept) = found[0].clone();
        assert!(kept.iter().any(|gradient| gradient.abs() > 1e-3), "{what}: nothing is learned");
        for (policy, loss, gradients) in &found[1..] {
            if *policy == Policy::Recompute {
                assert_eq!((loss.to_bits(), gradients), (kept_loss.to_bits(), &kept), "{what}, {policy:?}");
            }
            // Tiles sum a weight's gradient in another order, and round each sum to the element type.
            let tolerance = if dtype == Dtype::F32 { 1e-4 } else { 3e-2 };
            common::assert_close(&format!("{what}, {policy:?}"), gradients, &kept, tolerance, 0.0);
        }
        // What is dropped is another part with another seed, and nothing where nothing is to be dropped.
        let loss =
            |step: Step| program.step(&torch, &params, &batch, &step, &mut Grads::new(&program)).expect("a step");
        let other = loss(Step { seed: 10, ..Step::default() });
        let none = loss(Step { dropout: false, ..Step::default() });
        assert_eq!(other == loss(Step { seed: 9, ..Step::default() }), dropout == 0.0, "{what}: seeds");
        let value = program.loss(&torch, &params, &batch, &Step { dropout: false, ..Step::default() }).expect("a loss");
        assert!((none - value).abs() <= 1e-6 * value, "{what}: {none} with gradients, {value} without");
        // The first magnitudes are the norms: the model is what it was.
        if dora && dtype == Dtype::F32 {
            let mut plain = Program::new(&llama(), Trainable::Nothing).expect("a model that the engine runs");
            plain.set_dtype(dtype);
            plain.add_lora(&spec(0.0, false)).expect("linear layers");
            let kept: Vec<_> = program.params().iter().zip(params.tensors()).collect();
            let same = Params::load(&plain, |_, info| {
                let found = kept.iter().find(|(other, _)| other.name == info.name);
                found.map(|(_, tensor)| (*tensor).clone()).ok_or(())
            });
            let same = same.expect("its weights are among them");
            let without =
                plain.loss(&torch, &same, &batch, &Step { dropout: false, ..Step::default() }).expect("a loss");
            assert!((without - value).abs() <= 1e-6 * value, "{without} with LoRA, {value} with DoRA");
        }
    }
}
