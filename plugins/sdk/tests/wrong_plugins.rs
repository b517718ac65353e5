//! The conformance suite must be able to fail: a plugin that is right passes it, and the same plugin with one thing wrong
//! fails the check that is there for it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use unswag_sdk::{
    Attrs, Built, Device, Dtype, Error, Float, Graph, GraphExt, Host, Info, Inputs, Kernel, Launch, Op, OpCall, OpPlan,
    Outputs, Patch, PatchBuilder, Protocol, Target, bail,
    conformance::{Report, Suite},
    half, opt,
    serde_json::json,
};

/// What is wrong, and words of the check that finds it.
const FAULTS: &[(&str, &str)] = &[
    ("patch_differs_each_time", "gives the same patch each time"),
    ("patch_is_empty", "changes only what it claims"),
    ("patch_outside_claims", "changes only what it claims"),
    ("patch_that_does_not_fit", "gives a patch that the host takes"),
    ("refuses_without_a_reason", "says why it does nothing"),
    ("panics_on_damaged_graphs", "answers damaged graphs"),
    ("unlisted_op", "no others"),
    ("plan_differs_each_time", "plans the same each time"),
    ("plan_states_another_shape", "plans what its patch states"),
    ("plan_panics_on_nonsense", "plans no nonsense"),
    ("builds_for_any_device", "builds for the devices"),
    ("forward_off_by_little", "equals relu"),
    ("forward_hides_nan", "keeps NaN"),
    ("forward_writes_past_the_end", "gives the same bits in training"),
    ("forward_writes_its_input", "gives the same bits in training"),
    ("forward_leaves_the_last", "gives the same bits in training"),
    ("forward_differs_in_inference", "gives the same bits in training"),
    ("forward_differs_in_recompute", "gives the same bits in training"),
    ("forward_differs_with_threads", "for any number of threads"),
    ("forward_has_state", "gives the same bits"),
    ("forward_differs_by_features", "without vector units"),
    ("forward_panics_when_empty", "gives the same bits in training"),
    ("backward_gives_zeros", "has the gradients of finite differences"),
    ("backward_off_by_a_percent", "has the gradients of finite differences"),
    ("backward_has_the_wrong_sign", "has the gradients of finite differences"),
    ("backward_ignores_what_is_wanted", "skips those not wanted"),
    ("backward_leaves_the_last", "gives the same gradients"),
    ("lossy_beyond_use", "along finite differences (lossy)"),
    ("remakes_nothing", "makes again what it says it can"),
    ("rows_mix", "keeps NaN"),
];

#[derive(Deserialize)]
struct Options {
    fault: String,
}

struct Wrong(&'static str);

impl Protocol for Wrong {
    type Options = Options;

    fn info() -> Info {
        Info::new("wrong", "0.1.0", "ReLU with one thing wrong.")
            .claims(["relu"])
            .ops(["wrong.relu"])
            .devices([Device::Cpu])
            .option("fault", opt::string("What is wrong.").default("none"))
    }

    fn open(options: Options, _: Host) -> Result<Self, Error> {
        let known = FAULTS.iter().map(|(fault, _)| *fault).find(|fault| *fault == options.fault);
        Ok(Self(known.unwrap_or("none")))
    }

    fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> {
        let mut patch = PatchBuilder::new();
        for node in graph.of_kind("relu") {
            patch.swap(graph, node, "wrong.relu")?.stands_for("relu");
        }
        match self.0 {
            "patch_differs_each_time" if !patch.is_empty() => {
                static CALLS: AtomicU64 = AtomicU64::new(0);
                patch.attr(&graph.nodes[0].path, "call", CALLS.fetch_add(1, Ordering::Relaxed));
            }
            "patch_is_empty" => return Ok(Patch { version: Patch::VERSION, ..Patch::default() }),
            "patch_outside_claims" if !patch.is_empty() => {
                let node = graph.of_kind("add").next().ok_or_else(|| graph.nothing_to_do("add", &[]))?;
                patch.swap(graph, node, "add")?;
            }
            "patch_that_does_not_fit" if !patch.is_empty() => {
                patch.drop_param("nowhere");
            }
            "lossy_beyond_use" => {
                patch.lossy("Gradients are lost.");
            }
            "refuses_without_a_reason" if patch.is_empty() => bail!("no"),
            "panics_on_damaged_graphs" => assert!(!graph.nodes[0].outputs.is_empty()),
            _ => {}
        }
        if patch.is_empty() {
            return Err(graph.nothing_to_do("ReLU", &["relu"]));
        }
        Ok(patch.finish())
    }

    fn op(&self, kind: &str) -> Option<Box<dyn Op>> {
        (kind == "wrong.relu" || self.0 == "unlisted_op").then(|| Box::new(Relu(self.0)) as Box<dyn Op>)
    }
}

struct Relu(&'static str);

impl Op for Relu {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, Error> {
        if self.0 == "plan_panics_on_nonsense" {
            assert_eq!(call.inputs.len(), 1);
        }
        let [x] = call.inputs.as_slice() else { bail!("one input, got {}", call.inputs.len()) };
        if !matches!(x.dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16) || x.bytes().is_none_or(|bytes| bytes > 1 << 48) {
            bail!("no ReLU of {} {:?}", x.dtype, x.shape);
        }
        let mut plan = OpPlan { outputs: vec![x.clone()], saves_outputs: vec![0], ..OpPlan::default() };
        match self.0 {
            "plan_differs_each_time" => {
                static CALLS: AtomicU64 = AtomicU64::new(0);
                plan.scratch_bytes = CALLS.fetch_add(1, Ordering::Relaxed);
            }
            "remakes_nothing" => plan.rematerializes = vec![0],
            "plan_states_another_shape" => plan.outputs[0].shape.push(1),
            _ => {}
        }
        Ok(plan)
    }

    fn build(&self, call: &OpCall, target: &Target) -> Result<Built, Error> {
        if target.device != Device::Cpu && self.0 != "builds_for_any_device" {
            bail!("for the CPU only");
        }
        let dtype = call.inputs[0].dtype;
        Ok(Built::kernel(CpuRelu {
            fault: self.0,
            dtype,
            vectors: !target.features.is_empty(),
            calls: AtomicU64::new(0),
        }))
    }
}

struct CpuRelu {
    fault: &'static str,
    dtype: Dtype,
    vectors: bool,
    calls: AtomicU64,
}

impl Kernel for CpuRelu {
    fn forward(
        &self,
        launch: &mut Launch<'_>,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        _: Outputs<'_>,
    ) -> Result<(), Error> {
        let disturbed = match self.fault {
            "forward_differs_in_inference" => !launch.training(),
            "forward_differs_in_recompute" => launch.recompute(),
            "forward_differs_with_threads" => launch.threads() > 1,
            "forward_has_state" => self.calls.fetch_add(1, Ordering::Relaxed) > 0,
            "forward_differs_by_features" => self.vectors,
            _ => false,
        };
        match self.dtype {
            Dtype::Bf16 => self.compute::<half::bf16>(inputs, outputs, disturbed),
            Dtype::F16 => self.compute::<half::f16>(inputs, outputs, disturbed),
            _ => self.compute::<f32>(inputs, outputs, disturbed),
        }
    }

    fn backward(
        &self,
        _: &mut Launch<'_>,
        grad_outputs: Inputs<'_>,
        saved: Inputs<'_>,
        grad_inputs: Outputs<'_>,
    ) -> Result<(), Error> {
        match self.dtype {
            Dtype::Bf16 => self.differentiate::<half::bf16>(grad_outputs, saved, grad_inputs),
            Dtype::F16 => self.differentiate::<half::f16>(grad_outputs, saved, grad_inputs),
            _ => self.differentiate::<f32>(grad_outputs, saved, grad_inputs),
        }
    }
}

impl CpuRelu {
    fn compute<T: Float>(&self, inputs: Inputs<'_>, outputs: Outputs<'_>, disturbed: bool) -> Result<(), Error> {
        let ([x], [mut y]) = (inputs.array()?, outputs.array()?);
        if self.fault == "forward_panics_when_empty" {
            assert!(!x.is_empty());
        }
        let (x, y) = (x.as_slice::<T>()?, y.as_mut_slice::<T>()?);
        let written = y.len().saturating_sub(usize::from(self.fault == "forward_leaves_the_last"));
        for (index, (y, x)) in y[..written].iter_mut().zip(x).enumerate() {
            let value = x.to_f32();
            let hides = self.fault == "forward_hides_nan";
            *y = if value > 0.0 || (value.is_nan() && !hides) { *x } else { T::default() };
            if self.fault == "forward_off_by_little" {
                *y = T::from_f32(y.to_f32() * 1.03);
            }
            if disturbed && index == 0 {
                *y = T::from_f32(7.0);
            }
        }
        match self.fault {
            "rows_mix" if x.iter().any(|x| x.to_f32().is_nan()) => y.fill(T::from_f32(f32::NAN)),
            "forward_writes_past_the_end" => {
                // SAFETY: there is none: this is the defect. The suite's guard bands make it land in memory of the test.
                unsafe { y.as_mut_ptr().add(y.len()).write(T::default()) };
            }
            "forward_writes_its_input" => {
                // SAFETY: there is none: this is the defect. The memory is the test's own and not read meanwhile.
                unsafe { x.as_ptr().cast_mut().write(T::from_f32(9.0)) };
            }
            _ => {}
        }
        Ok(())
    }

    fn differentiate<T: Float>(&self, dy: Inputs<'_>, saved: Inputs<'_>, grads: Outputs<'_>) -> Result<(), Error> {
        let ([dy], [y], [mut dx]) = (dy.array()?, saved.array()?, grads.array()?);
        if !dx.is_wanted() && self.fault != "backward_ignores_what_is_wanted" {
            return Ok(());
        }
        let (dy, y, dx) = (dy.as_slice::<T>()?, y.as_slice::<T>()?, dx.as_mut_slice::<T>()?);
        let factor = match self.fault {
            "backward_gives_zeros" | "lossy_beyond_use" => 0.0,
            "backward_off_by_a_percent" => 1.01,
            "backward_has_the_wrong_sign" => -1.0,
            _ => 1.0,
        };
        let left = usize::from(self.fault == "backward_leaves_the_last");
        let count = dx.len().saturating_sub(left);
        for ((dx, dy), y) in dx[..count].iter_mut().zip(dy).zip(y) {
            let passes = y.to_f32() > 0.0 || y.to_f32().is_nan();
            *dx = if passes { T::from_f32(dy.to_f32() * factor) } else { T::default() };
        }
        Ok(())
    }
}

unswag_sdk::export_plugin!(Wrong);

fn check(fault: &str) -> Report {
    let options = Attrs::from([("fault".to_owned(), json!(fault))]);
    Suite::new(unswag_plugin()).options("wrong", options).run()
}

#[test]
fn a_right_plugin_passes() {
    check("none").assert_passed();
}

#[test]
fn every_fault_fails_the_check_that_is_there_for_it() {
    for (fault, claim) in FAULTS {
        let report = check(fault);
        let failed = Vec::from_iter(report.failures().map(|check| check.claim.as_str()));
        assert!(
            failed.iter().any(|failed| failed.contains(claim)),
            "{fault}: expected {claim:?} to fail, got {failed:?}"
        );
    }
}

#[test]
fn a_report_prints_and_serialises_what_failed() {
    let report = check("backward_gives_zeros");
    assert!(!report.passed());
    assert!(report.to_string().contains("FAIL wrong: wrong.relu: has the gradients of finite differences"), "{report}");
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["checks"].as_array().unwrap().iter().any(|check| check["outcome"] == "failed"));
}
