//! A plugin's op on the tape: the plain SwiGLU, given as a plugin would give it, must not be told from the engine's own.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use common::{Model, lora};
use unswag_abi::doc::{Device, Dtype, Graph, Meta as MetaDoc, OpCall, OpPlan, Saves};
use unswag_engine::{
    Batch, Buffer, BufferMut, Grads, LoraSpec, Meta, Params, PluginKernel, PluginLaunch, PluginOps, Policy, Program,
    Step, Trainable,
};
use unswag_kernels::{Exec, delhi::swiglu};
use unswag_torch::{Torch, TorchTensor};

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

impl PluginOps for Swiglu {
    fn plan(&self, _: &str, call: &OpCall) -> Result<OpPlan, String> {
        let outputs = vec![call.inputs[0].clone()];
        Ok(OpPlan {
            outputs,
            saves_inputs: vec![0, 1],
            rematerializes: vec![0],
            scratch_bytes: 24,
            ..OpPlan::default()
        })
    }

    fn kernel(&self, _: &str, _: &OpCall, _: Device) -> Result<Rc<dyn PluginKernel>, String> {
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
    let folder = common::families();
    Model::open(&folder.join("llama"))
}

fn gradients(program: &Program, grads: &Grads<TorchTensor>) -> Vec<Vec<f32>> {
    let found = (0..program.params().len()).filter_map(|index| grads.get(index));
    found.map(|grad| grad.to_f32().expect("readable")).collect()
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
            let gradients = gradients(&program, &grads);
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

/// What reads a product that nobody made a gradient for keeps it itself: its maker saved nothing to make it from.
#[test]
fn adapters_behind_a_plugins_op_alone_are_trained_from_the_first_block_on() {
    let (model, batch) = (model(), batch());
    let (graph, _) = rewritten(&model.graph);
    let mut found = Vec::new();
    for graph in [&model.graph, &graph] {
        let ops = Rc::new(Swiglu { rematerialized: Rc::default() });
        let mut program = Program::with_plugins(graph, Trainable::Nothing, ops).expect("a model that the engine runs");
        let down = LoraSpec { targets: vec!["down_proj".into()], ..lora(2) };
        program.add_lora(&down).expect("the layers behind the products");
        let torch = Torch::cpu();
        let params = model.params(&torch, &program);
        let mut grads = Grads::new(&program);
        let loss = program.step(&torch, &params, &batch, &Step::default(), &mut grads).expect("a step");
        found.push((loss.to_bits(), gradients(&program, &grads)));
    }
    assert_eq!(found[0], found[1]);
}

/// y = x / rms(x) weight, with all that an op can have: a parameter, bytes of its own, a seed, a scalar.
#[derive(Clone, Default)]
struct RmsNorm {
    seen: Rc<RefCell<Seen>>,
}

/// What kernels were told.
#[derive(Default)]
struct Seen {
    plans: usize,
    forwards: Vec<(u64, bool)>,
    recomputes: Vec<(u64, bool)>,
    backwards: Vec<u64>,
}

impl PluginOps for RmsNorm {
    fn plan(&self, _: &str, call: &OpCall) -> Result<OpPlan, String> {
        self.seen.borrow_mut().plans += 1;
        let [x, _] = &call.inputs[..] else { return Err("expected x and a weight".into()) };
        let rows = x.shape[..x.shape.len() - 1].to_vec();
        Ok(OpPlan {
            outputs: vec![x.clone()],
            saved: vec![MetaDoc { dtype: Dtype::F32, shape: rows }],
            saves_inputs: vec![0, 1],
            scalars: vec!["eps".into()],
            ..OpPlan::default()
        })
    }

    fn kernel(&self, _: &str, _: &OpCall, _: Device) -> Result<Rc<dyn PluginKernel>, String> {
        Ok(Rc::new(self.clone()))
    }
}

impl PluginKernel for RmsNorm {
    fn forward(
        &self,
        launch: PluginLaunch<'_>,
        inputs: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
        saved: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        let mut seen = self.seen.borrow_mut();
        let told = (launch.seed, launch.training);
        if launch.recomputes { &mut seen.recomputes } else { &mut seen.forwards }.push(told);
        let (x, weight) = (f32s(inputs[0].bytes), f32s(inputs[1].bytes));
        let width = weight.len();
        let squares = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>() / width as f32;
        let rstd: Vec<f32> =
            x.chunks(width).map(|row| (squares(row) + launch.scalars[0] as f32).sqrt().recip()).collect();
        let y: Vec<f32> = (0..x.len()).map(|at| x[at] * rstd[at / width] * weight[at % width]).collect();
        fill(&mut outputs[0], &y);
        assert_eq!(saved.len(), usize::from(launch.training), "room for what a backward needs, where one comes");
        saved.iter_mut().for_each(|saved| fill(saved, &rstd));
        Ok(())
    }

    fn backward(
        &self,
        launch: PluginLaunch<'_>,
        doutputs: &[Buffer<'_>],
        saved: &[Buffer<'_>],
        dinputs: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        self.seen.borrow_mut().backwards.push(launch.seed);
        let [rstd, x, weight] = [0, 1, 2].map(|index| f32s(saved[index].bytes));
        let (dy, width) = (f32s(doutputs[0].bytes), weight.len());
        let mut dweight = vec![0.0; width];
        let mut dx = Vec::new();
        for (row, &rstd) in rstd.iter().enumerate() {
            let at = row * width;
            let normal: Vec<f32> = x[at..at + width].iter().map(|x| x * rstd).collect();
            let dnormal: Vec<f32> = (0..width).map(|column| dy[at + column] * weight[column]).collect();
            let mean = normal.iter().zip(&dnormal).map(|(a, b)| a * b).sum::<f32>() / width as f32;
            dx.extend(normal.iter().zip(&dnormal).map(|(normal, dnormal)| rstd * (dnormal - normal * mean)));
            (0..width).for_each(|column| dweight[column] += dy[at + column] * normal[column]);
        }
        fill(&mut dinputs[0], &dx);
        fill(&mut dinputs[1], &dweight);
        Ok(())
    }

    fn rematerialize(&self, _: PluginLaunch<'_>, _: &[Buffer<'_>], _: &mut [BufferMut<'_>]) -> Result<(), String> {
        Err("its plan makes nothing again".into())
    }
}

/// Every norm is the plugin's.
fn normed(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for node in graph.nodes.iter_mut().filter(|node| node.kind == "rms_norm") {
        node.kind = "test.rms_norm".into();
        node.saves = Some(Saves { inputs: vec![0], ..Saves::default() });
    }
    graph
}

#[test]
fn an_op_with_a_weight_and_bytes_of_its_own_learns_and_is_told_when_it_runs_again() {
    let (model, batch) = (model(), batch());
    let other = Batch::causal(1, 7, (0..7).map(|id| id * 5 + 2).collect());
    for policy in [Policy::Keep, Policy::Recompute] {
        let ops = RmsNorm::default();
        let plain = Program::new(&model.graph, Trainable::Everything).expect("a model that the engine runs");
        let patched = normed(&model.graph);
        let patched = Program::with_plugins(&patched, Trainable::Everything, Rc::new(ops.clone()));
        let patched = patched.expect("the same, with a plugin's op");
        let mut found = Vec::new();
        for program in [plain, patched] {
            let step = Step { policies: vec![policy; program.blocks()], ..Step::default() };
            let torch = Torch::cpu();
            let params = model.params(&torch, &program);
            let mut grads = Grads::new(&program);
            let mut loss = 0.0;
            // Lengths that take turns, as they do in a validation between steps.
            for batch in [&batch, &other, &batch, &other] {
                loss += program.step(&torch, &params, batch, &step, &mut grads).expect("a step");
            }
            let meta = Meta::new();
            let counted = Params::load(&program, |_, info| Ok::<_, ()>(meta.tensor(info.shape, info.dtype)));
            let counted = counted.expect("sizes");
            let mut counted_grads = Grads::new(&program);
            for batch in [&batch, &other, &batch, &other] {
                program.step(&meta, &counted, batch, &step, &mut counted_grads).expect("a plan");
            }
            assert_eq!(meta.meter().peak(), torch.meter().peak(), "{policy:?}: what was counted beforehand");
            found.push((loss as f32, gradients(&program, &grads)));
        }
        let [(loss, wanted), (again, gradients)] = found.try_into().expect("two");
        common::assert_close("loss", &[again], &[loss], 1e-5, 0.0);
        for (gradients, wanted) in gradients.iter().zip(&wanted) {
            common::assert_close("gradients", gradients, wanted, 1e-4, 1e-3);
        }

        let seen = ops.seen.borrow();
        let norms = model.graph.nodes.iter().filter(|node| node.kind == "rms_norm").count();
        assert_eq!(seen.plans, 2 * norms, "{policy:?}: planned once for each length");
        let first: Vec<u64> = seen.forwards[..norms].iter().map(|(seed, _)| *seed).collect();
        assert!((1..norms).all(|at| !first[..at].contains(&first[at])), "no two nodes share a seed");
        let mut back = seen.backwards[..norms].to_vec();
        back.reverse();
        assert_eq!(back, first, "{policy:?}: a backward has its forward's seed");
        let again: Vec<u64> = seen.recomputes.iter().map(|(seed, _)| *seed).collect();
        match policy {
            Policy::Keep => assert!(again.is_empty() && seen.forwards.iter().all(|(_, training)| *training)),
            // The norm before the head is in no block.
            _ => assert!(!again.is_empty() && again.iter().all(|seed| first.contains(seed)), "{again:?}"),
        }
        assert!(seen.recomputes.iter().all(|(_, training)| *training), "{policy:?}: made again for a backward");
    }
}

#[test]
fn an_op_without_its_plugin_is_told_by_name() {
    let (graph, _) = rewritten(&model().graph);
    let error = Program::new(&graph, Trainable::Nothing).expect_err("nobody has the op").to_string();
    assert!(error.contains("test.swiglu") && error.contains("model.layers.0.mlp"), "{error}");
}
