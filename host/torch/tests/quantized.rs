//! Weights in NF4: a step on them against the same step on their dequantised elements, and what of a model is quantised.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use common::Model;
use unswag_abi::doc::Dtype;
use unswag_engine::{Backend, Batch, Grads, LoraSpec, Meta, Nf4, Params, Policy, Program, Step, Storage, Trainable};
use unswag_torch::{Torch, TorchTensor};

const BOTH: [Nf4; 2] = [Nf4 { double_quant: false }, Nf4 { double_quant: true }];

fn cases() -> Vec<(String, Model)> {
    common::cases().into_iter().map(|(case, path)| (case, Model::open(&path))).collect()
}

fn program(model: &Model, dtype: Dtype, nf4: Option<Nf4>, dora: bool) -> Program {
    let mut program = Program::new(&model.graph, Trainable::Nothing).expect("the engine runs it");
    program.set_dtype(dtype);
    if let Some(nf4) = nf4 {
        program.quantize_linears(nf4).expect("there are linear layers");
    }
    program.add_lora(&LoraSpec { dora, ..common::lora(3) }).expect("there are linear layers");
    program
}

fn run<B: Backend>(
    backend: &B,
    program: &Program,
    params: &Params<B::Tensor>,
    policy: Policy,
) -> (f64, Grads<B::Tensor>) {
    let batch = Batch::causal(2, 7, (1..15).collect());
    let step = Step { policies: vec![policy; program.blocks()], loss_rows: 3, tile_rows: 4, ..Step::default() };
    let mut grads = Grads::new(program);
    let loss = program.step(backend, params, &batch, &step, &mut grads).expect("a step");
    (loss, grads)
}

/// The most bytes that are alive in a step, counted on sizes.
fn planned_bytes(program: &Program, policy: Policy) -> u64 {
    let meta = Meta::new();
    let params = Params::load(program, |_, info| Ok::<_, ()>(meta.param(info))).expect("sizes");
    run(&meta, program, &params, policy);
    meta.meter().peak()
}

/// The bits of the loss and of every gradient.
fn step(torch: &Torch, program: &Program, params: &Params<TorchTensor>, policy: Policy) -> (u64, Vec<Vec<u32>>) {
    torch.meter().reset_peak();
    let (loss, grads) = run(torch, program, params, policy);
    let bits = |grad: &TorchTensor| grad.to_f32().expect("readable").into_iter().map(f32::to_bits).collect();
    (loss.to_bits(), (0..program.params().len()).filter_map(|index| grads.get(index)).map(bits).collect())
}

#[test]
fn a_step_on_quantised_weights_has_the_bits_of_one_on_their_dequantised_elements() {
    for (index, (case, model)) in cases().iter().enumerate() {
        let (nf4, policy) = (BOTH[index % 2], [Policy::Keep, Policy::Recompute, Policy::Tile][index % 3]);
        for (dtype, torch) in
            [(Dtype::F32, Torch::cpu()), (Dtype::F32, Torch::plain_cpu()), (Dtype::Bf16, Torch::cpu())]
        {
            // DoRA asks for the weight's elements twice: for the product, and for their length.
            let dora = index % 4 >= 2;
            let (quantised, plain) = (program(model, dtype, Some(nf4), dora), program(model, dtype, None, dora));
            let params = model.params(&torch, &quantised);
            let found = step(&torch, &quantised, &params, policy);
            assert_eq!(torch.meter().peak(), planned_bytes(&quantised, policy), "{case}, {dtype}, {nf4:?}, {policy:?}");
            let dense = Params::load(&plain, |index, _| torch.dequantize(&params.tensors()[index])).expect("elements");
            assert!(found == step(&torch, &plain, &dense, policy), "{case}, {dtype}, {nf4:?}, {policy:?}");
            assert!(found.1.iter().flatten().any(|bits| *bits << 1 != 0), "{case}: no gradient");
            // What the checkpoint holds is something else.
            let exact = step(&torch, &plain, &model.params(&torch, &plain), policy);
            assert_ne!(found.0, exact.0, "{case}: the loss of the weights before they were quantised");
        }
    }
}

#[test]
fn kernels_and_libtorchs_own_operations_dequantise_to_the_same_bits() {
    let (fast, plain) = (Torch::cpu(), Torch::plain_cpu());
    for shape in [[1, 1], [3, 5], [42, 123], [64, 64], [257, 65], [0, 8]] {
        let count = shape[0] * shape[1];
        let values =
            || (0..count).map(|i| ((i as f32 * 0.7).sin() * 3.0) * if i % 9 == 0 { 1e-3 } else { 1.0 }).collect();
        let x = fast.tensor_from_f32(shape, Dtype::F32, &values).expect("a tensor");
        for (nf4, dtype) in BOTH.iter().flat_map(|nf4| [Dtype::F32, Dtype::Bf16, Dtype::F16].map(|dtype| (*nf4, dtype)))
        {
            let quantised = fast.quantize(&x, dtype, nf4).expect("finite");
            assert_eq!((fast.shape(&quantised), fast.dtype(&quantised)), (shape, dtype));
            let before = fast.meter().live();
            let elements = [&fast, &plain].map(|torch| torch.dequantize(&quantised).expect("elements"));
            assert_eq!(fast.meter().live() - before, count * dtype.bytes(), "{shape:?}");
            let bits = elements.map(|x| x.to_f32().expect("plain").into_iter().map(f32::to_bits).collect::<Vec<_>>());
            assert_eq!(bits[0], bits[1], "{shape:?} {dtype} {nf4:?}");
            assert!(quantised.to_f32().is_err(), "bytes are no elements");
            drop(quantised);
            assert_eq!(before - fast.meter().live(), nf4.bytes(count), "{shape:?} {nf4:?}");
        }
    }
}

#[test]
fn a_weight_that_is_not_finite_is_refused_by_its_place() {
    let torch = Torch::cpu();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let values = || (0..210).map(|i| if i == 200 { bad } else { i as f32 }).collect();
        let x = torch.tensor_from_f32([10, 21], Dtype::F32, &values).expect("a tensor");
        let error = torch.quantize(&x, Dtype::F32, BOTH[1]).expect_err("not finite").to_string();
        assert!(error.contains("among elements 192 to 209"), "{error}");
    }
}

#[test]
fn embeddings_heads_norms_and_biases_stay_plain() {
    for (case, model) in cases() {
        let program = program(&model, Dtype::F32, Some(BOTH[0]), false);
        let is_linear = |name: &str| {
            let node =
                model.graph.nodes.iter().find(|node| node.params.get("weight").is_some_and(|weight| weight == name));
            node.is_some_and(|node| node.kind == "linear")
        };
        let (mut quantised, mut plain) = (0, Vec::new());
        for info in program.params() {
            let stays = ["embed", "lm_head", "wte", "wpe", "norm", "ln_", "bias", "lora_", "sinks"];
            match info.storage {
                Storage::Nf4(_) => {
                    assert!(
                        is_linear(&info.name) && !stays.iter().any(|part| info.name.contains(part)),
                        "{case}: {}",
                        info.name
                    );
                    quantised += info.elements();
                }
                Storage::Plain => plain.push(info.name.clone()),
            }
        }
        for name in plain {
            let stays = ["embed", "lm_head", "wte", "wpe", "norm", "ln_", "bias", "lora_", "sinks", "score"];
            assert!(stays.iter().any(|part| name.contains(part)), "{case}: {name} is plain");
        }
        assert!(quantised > 0, "{case}");
    }
}

#[test]
fn what_is_trained_is_not_quantised() {
    let (case, model) = &cases()[0];
    let mut program = Program::new(&model.graph, Trainable::Everything).expect("the engine runs it");
    let error = program.quantize_linears(BOTH[0]).expect_err(case).to_string();
    assert!(error.contains("has no gradient; train adapters on it"), "{error}");
}
