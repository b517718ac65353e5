//! A plugin's op on the tape: the plain SwiGLU, given as a plugin would give it, must not be told from the engine's own.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::{cell::Cell, rc::Rc};

use common::{Model, lora};
use unswag_abi::doc::{Device, Graph, OpCall, OpPlan, Saves};
use unswag_engine::{
    Batch, Buffer, BufferMut, Grads, Meta, Params, PluginKernel, PluginLaunch, PluginOps, Policy, Program, Step,
    Trainable,
};
use unswag_kernels::{Exec, delhi::swiglu};
use unswag_torch::Torch;

/// h = silu(g) u, saving g and u, making h again.
struct Swiglu {
    rematerialized: Rc<Cell<u32>>,
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four"))).collect()
}

fn fill(to: &mut BufferMut<'_>, values: &[f32]) {
    if let Some(bytes) = &mut to.bytes {
        assert_eq!(bytes.len(), 4 * values.len(), "the buffer has the bytes of its type");
        bytes.iter_mut().zip(values.iter().flat_map(|value| value.to_le_bytes())).for_each(|(to, byte)| *to = byte);
    }
}

impl unswag_graph::Ops for Swiglu {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        let outputs = vec![call.inputs[0].clone()];
        Ok(OpPlan {
            outputs,
            saves_inputs: vec![0, 1],
            rematerializes: vec![0],
            scratch_bytes: 24,
            ..OpPlan::default()
        })
    }
}

impl PluginOps for Swiglu {
    fn kernel(&self, _: &OpCall, _: Device) -> Result<Rc<dyn PluginKernel>, String> {
        Ok(Rc::new(Swiglu { rematerialized: self.rematerialized.clone() }))
    }
}

impl PluginKernel for Swiglu {
    fn forward(
        &self,
        launch: PluginLaunch<'_>,
        inputs: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
        _: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        assert_eq!(launch.scratch.len(), 24, "what the plan asks for");
        let (g, u) = (f32s(inputs[0].bytes), f32s(inputs[1].bytes));
        let mut h = vec![0.0; g.len()];
        swiglu::plain(Exec::new(launch.threads), &g, &u, &mut h).map_err(|error| error.to_string())?;
        fill(&mut outputs[0], &h);
        Ok(())
    }

    fn backward(
        &self,
        launch: PluginLaunch<'_>,
        doutputs: &[Buffer<'_>],
        saved: &[Buffer<'_>],
        dinputs: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        let (dh, g, u) = (f32s(doutputs[0].bytes), f32s(saved[0].bytes), f32s(saved[1].bytes));
        let (mut dg, mut du) = (vec![0.0; g.len()], vec![0.0; g.len()]);
        let exec = Exec::new(launch.threads);
        swiglu::exact_backward(exec, &dh, &g, &u, &mut dg, &mut du).map_err(|error| error.to_string())?;
        fill(&mut dinputs[0], &dg);
        fill(&mut dinputs[1], &du);
        Ok(())
    }

    fn rematerialize(
        &self,
        launch: PluginLaunch<'_>,
        saved: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        self.rematerialized.set(self.rematerialized.get() + 1);
        self.forward(launch, saved, outputs, &mut [])
    }
}

/// Every swiglu is the plugin's.
fn rewritten(graph: &Graph) -> (Graph, u32) {
    let mut graph = graph.clone();
    let mut count = 0;
    for node in graph.nodes.iter_mut().filter(|node| node.kind == "swiglu") {
        node.kind = "test.swiglu".into();
        node.saves = Some(Saves { inputs: vec![0, 1], rematerializes: vec![0], ..Saves::default() });
        count += 1;
    }
    (graph, count)
}

fn model() -> Model {
    tch::set_num_threads(1);
    let folder = common::made_once("engine.py", &["families.py"]);
    Model::open(&folder.join("llama"))
}

fn batch() -> Batch {
    Batch::causal(2, 5, (0..10).map(|id| id * 3 + 1).collect())
}

#[test]
fn a_plugins_op_gives_the_bits_of_the_op_that_it_stands_for_and_saves_what_its_consumer_would() {
    let (model, batch) = (model(), batch());
    let (graph, count) = rewritten(&model.graph);
    assert!(count > 1, "blocks with a swiglu");
    for policy in [Policy::Keep, Policy::Recompute] {
        let rematerialized = Rc::new(Cell::new(0));
        let ops = Rc::new(Swiglu { rematerialized: rematerialized.clone() });
        let plain = Program::new(&model.graph, Trainable::Nothing).expect("a model that the engine runs");
        let patched = Program::with_plugins(&graph, Trainable::Nothing, ops).expect("the same, with a plugin's op");
        let mut found = Vec::new();
        for mut program in [plain, patched] {
            program.add_lora(&lora(2)).expect("linear layers");
            let step = Step { policies: vec![policy; program.blocks()], ..Step::default() };
            let torch = Torch::cpu();
            let params = model.params(&torch, &program);
            let mut grads = Grads::new(&program);
            torch.meter().reset_peak();
            let loss = program.step(&torch, &params, &batch, &step, &mut grads).expect("a step");
            let gradients: Vec<_> = (0..program.params().len())
                .filter_map(|index| grads.get(index).map(|grad| grad.to_f32().expect("readable")))
                .collect();
            let meta = Meta::new();
            let counted = Params::load(&program, |_, info| Ok::<_, ()>(meta.tensor(info.shape, info.dtype)));
            let counted = counted.expect("sizes");
            program.step(&meta, &counted, &batch, &step, &mut Grads::new(&program)).expect("a plan");
            assert_eq!(meta.meter().peak(), torch.meter().peak(), "{policy:?}: what was counted beforehand");
            found.push((loss, gradients, torch.meter().peak()));
        }
        let [(loss, gradients, kept), (again, remade, saved)] = found.try_into().expect("two");
        assert_eq!(loss.to_bits(), again.to_bits(), "{policy:?}: the loss");
        assert_eq!(gradients, remade, "{policy:?}: the gradients");
        assert_eq!(rematerialized.get(), count, "{policy:?}: each product was made again once, for the layer after it");
        if policy == Policy::Keep {
            assert!(saved < kept, "{saved} bytes with the plugin's op, {kept} without");
        }
    }
}

#[test]
fn an_op_without_its_plugin_is_told_by_name() {
    let (graph, _) = rewritten(&model().graph);
    let error = Program::new(&graph, Trainable::Nothing).expect_err("nobody has the op").to_string();
    assert!(error.contains("test.swiglu") && error.contains("model.layers.0.mlp"), "{error}");
}
