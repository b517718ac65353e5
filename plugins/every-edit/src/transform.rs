//! Balances the up projection of gated MLPs: each row of `up_proj` is divided by the power of two next to its norm, and
//! the column of `down_proj` that it meets multiplied by it. act(gate) * up is linear in up, so what the model computes
//! stays the same, to the bit where nothing under- or overflows.
//!
//! One transform job per layer, with two inputs and two outputs, which are made anew under their own names.

use serde_json::json;
use unswag_sdk::{
    Attrs, Dtype, Error, Graph, GraphExt, Host, Info, Init, Inputs, NoOptions, Outputs, Patch, PatchBuilder, Protocol,
    Tensor, TransformJob, bail, element::Element, half,
};

pub struct Transform;

const GATED: [&str; 3] = ["swiglu", "geglu", "reglu"];
const JOB: &str = "balance";

impl Protocol for Transform {
    type Options = NoOptions;

    fn info() -> Info {
        Info::new("transform", env!("CARGO_PKG_VERSION"), "Balances up and down projections by powers of two (a test).")
            .claims(GATED)
            .requires(["transform/1"])
    }

    fn open(_: NoOptions, _: Host) -> Result<Self, Error> {
        Ok(Self)
    }

    fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> {
        let mut patch = PatchBuilder::new();
        for gated in graph.nodes.iter().filter(|node| GATED.contains(&node.kind.as_str())) {
            let Some(mlp) = gated.path.strip_suffix(".act_fn") else { continue };
            let node = |name: &str| graph.node(&format!("{mlp}.{name}")).filter(|node| node.kind == "linear");
            let (Some(up_proj), Some(down_proj)) = (node("up_proj"), node("down_proj")) else { continue };
            // A bias of up would have to be scaled too; a weight used elsewhere must stay.
            if up_proj.params.len() != 1 || gated.inputs.get(1) != up_proj.outputs.first() {
                continue;
            }
            let (up, down) = (graph.param_of(up_proj, "weight")?, graph.param_of(down_proj, "weight")?);
            if graph.param_is_shared(up.0, &up_proj.path) || graph.param_is_shared(down.0, &down_proj.path) {
                continue;
            }
            for (output, (name, param)) in [up, down].into_iter().enumerate() {
                let init = Init::Transform {
                    job: format!("{JOB}:{mlp}"),
                    inputs: vec![up.0.to_owned(), down.0.to_owned()],
                    output,
                    attrs: Attrs::from([("job".to_owned(), json!(JOB))]),
                };
                patch.param(name, param.dtype, &param.shape, init);
            }
        }
        if patch.is_empty() {
            return Err(graph.nothing_to_do("gated MLP with plain up and down projections", &GATED));
        }
        patch
            .lossy("Logits are the same; gradients of the two projections are scaled, so training takes another path.");
        Ok(patch.finish())
    }

    fn transform(&self, job: &TransformJob, inputs: Inputs<'_>, outputs: Outputs<'_>) -> Result<(), Error> {
        if job.attrs.get("job") != Some(&json!(JOB)) {
            bail!("no such job");
        }
        let [up, down] = inputs.array()?;
        let ([rows, _], [_, columns]) = (up.shape(), down.shape()) else {
            bail!("expected two matrices, got {:?} and {:?}", up.shape(), down.shape());
        };
        if rows != columns {
            bail!("expected as many rows of up_proj as columns of down_proj, got {rows} and {columns}");
        }
        match (up.dtype(), down.dtype()) {
            (Dtype::F32, Dtype::F32) => balance::<f32>(up, down, outputs),
            (Dtype::Bf16, Dtype::Bf16) => balance::<half::bf16>(up, down, outputs),
            (Dtype::F16, Dtype::F16) => balance::<half::f16>(up, down, outputs),
            (up, down) => bail!("expected both of F32, BF16 or F16, got {up} and {down}"),
        }
    }
}

/// A number that can be scaled by a power of two.
trait Scale: Element {
    fn to_f64(self) -> f64;
    fn scaled(self, by: f64) -> Self;
}

impl Scale for f32 {
    fn to_f64(self) -> f64 {
        self.into()
    }

    fn scaled(self, by: f64) -> Self {
        (f64::from(self) * by) as f32
    }
}

impl Scale for half::bf16 {
    fn to_f64(self) -> f64 {
        self.into()
    }

    fn scaled(self, by: f64) -> Self {
        Self::from_f64(f64::from(self) * by)
    }
}

impl Scale for half::f16 {
    fn to_f64(self) -> f64 {
        self.into()
    }

    fn scaled(self, by: f64) -> Self {
        Self::from_f64(f64::from(self) * by)
    }
}

fn balance<T: Scale>(up: Tensor<'_>, down: Tensor<'_>, outputs: Outputs<'_>) -> Result<(), Error> {
    let [mut new_up, mut new_down] = outputs.array()?;
    let (width, inner) = (up.row_len(), down.row_len());
    let (up, down) = (up.as_slice::<T>()?, down.as_slice::<T>()?);
    let new_up = new_up.as_mut_slice::<T>()?;
    let new_down = new_down.as_mut_slice::<T>()?;
    if (new_up.len(), new_down.len()) != (up.len(), down.len()) {
        bail!("expected outputs of the inputs' sizes, {} and {}", up.len(), down.len());
    }
    if width == 0 || inner == 0 {
        return Ok(());
    }
    let norm = |row: &[T]| row.iter().map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt();
    let scales = Vec::from_iter(up.chunks_exact(width).map(|row| match norm(row) {
        norm if norm.is_normal() => norm.log2().round().exp2(),
        _ => 1.0,
    }));
    for ((new, row), scale) in new_up.chunks_exact_mut(width).zip(up.chunks_exact(width)).zip(&scales) {
        for (new, old) in new.iter_mut().zip(row) {
            *new = old.scaled(1.0 / scale);
        }
    }
    for (new, row) in new_down.chunks_exact_mut(inner).zip(down.chunks_exact(inner)) {
        for ((new, old), scale) in new.iter_mut().zip(row).zip(&scales) {
            *new = old.scaled(*scale);
        }
    }
    Ok(())
}
