//! Checks one node as it will stand: a primitive against its kind, a plugin's op against its plan at two sizes.

use unswag_abi::doc::{Meta, Node, OpCall, OpPlan, Param, Saves, Value};

use super::{PatchFault, work::Work};
use crate::{
    kinds::{self, show_shape},
    ops::Ops,
    sizes::Sizes,
    validate::{check_sizes, check_stands_for, check_types},
};

/// What a plugin's op saves, or `None` for a primitive. The node's inputs, outputs and parameters must be in `work`.
pub(super) fn node(work: &Work<'_>, node: &Node, ops: &dyn Ops) -> Result<Option<Saves>, PatchFault> {
    let fault = |fault| PatchFault::Node { path: node.path.clone(), fault: Box::new(fault) };
    let types = |names: &[String]| -> Vec<Value> {
        let known = |name: &String| work.value(name).expect("a node's values were looked up before").clone();
        names.iter().map(known).collect()
    };
    let (inputs, outputs) = (types(&node.inputs), types(&node.outputs));
    let params: Vec<(&str, &Param)> = node
        .params
        .iter()
        .map(|(role, name)| (role.as_str(), work.param(name).expect("a node's parameters were looked up before")))
        .collect();
    let (input_refs, stated): (Vec<&Value>, Vec<&Value>) = (inputs.iter().collect(), outputs.iter().collect());
    check_types(&node.kind, &input_refs, &params, &node.attrs, &stated).map_err(fault)?;
    check_stands_for(node.stands_for.as_deref(), &node.kind, &input_refs, &params, &node.attrs, &stated)
        .map_err(fault)?;
    if !kinds::is_plugin_op(&node.kind) {
        return Ok(None);
    }
    let reference = plan(node, &inputs, &outputs, &params, ops, Sizes::REFERENCE)?;
    let odd = plan(node, &inputs, &outputs, &params, ops, Sizes::ODD)?;
    if lists(&reference) != lists(&odd) {
        return Err(PatchFault::PlanDiffers {
            path: node.path.clone(),
            kind: node.kind.clone(),
            what: "saves_inputs, saves_outputs, rematerializes".to_owned(),
            expected: format!("the same as for other sizes, {:?}", lists(&reference)),
            got: format!("{:?}", lists(&odd)),
        });
    }
    let own_bytes: f64 = reference.saved.iter().filter_map(Meta::bytes).map(|bytes| bytes as f64).sum();
    Ok(Some(Saves {
        own_bytes_per_token: own_bytes / Sizes::REFERENCE.tokens() as f64,
        inputs: reference.saves_inputs,
        outputs: reference.saves_outputs,
        rematerializes: reference.rematerializes,
        rematerializes_exactly: reference.rematerializes_exactly,
    }))
}

fn lists(plan: &OpPlan) -> (&[usize], &[usize], &[usize], bool) {
    (&plan.saves_inputs, &plan.saves_outputs, &plan.rematerializes, plan.rematerializes_exactly)
}

/// Asks for the plan of one call and holds it against what the document states.
fn plan(
    node: &Node,
    inputs: &[Value],
    outputs: &[Value],
    params: &[(&str, &Param)],
    ops: &dyn Ops,
    sizes: Sizes,
) -> Result<OpPlan, PatchFault> {
    let weights = params.iter().map(|(_, param)| Meta { dtype: param.dtype, shape: param.shape.clone() });
    let call = OpCall {
        kind: node.kind.clone(),
        inputs: inputs.iter().map(|value| sizes.meta(value)).chain(weights).collect(),
        attrs: node.attrs.clone(),
    };
    let plan = ops.plan(&call).map_err(|reason| PatchFault::Plan {
        path: node.path.clone(),
        kind: node.kind.clone(),
        reason: crate::names::sentence(&reason),
    })?;
    let differs = |what: &str, expected: String, got: String| PatchFault::PlanDiffers {
        path: node.path.clone(),
        kind: node.kind.clone(),
        what: format!("{what} for batch {}, seq {}", sizes.batch, sizes.seq),
        expected,
        got,
    };
    let show = |metas: &[Meta]| {
        let shown: Vec<String> =
            metas.iter().take(9).map(|meta| format!("{} {}", meta.dtype, show_shape(&meta.shape))).collect();
        format!("{} tensors: {}", metas.len(), shown.join(", "))
    };
    let expected: Vec<Meta> = outputs.iter().map(|value| sizes.meta(value)).collect();
    if plan.outputs != expected {
        return Err(differs("outputs", format!("{}, as the patch states", show(&expected)), show(&plan.outputs)));
    }
    for meta in &plan.saved {
        check_sizes(meta.dtype, &meta.shape).map_err(|why| differs("saved", "sizes that fit".to_owned(), why))?;
    }
    let counts = [
        ("saves_inputs", &plan.saves_inputs, call.inputs.len()),
        ("saves_outputs", &plan.saves_outputs, outputs.len()),
        ("rematerializes", &plan.rematerializes, outputs.len()),
    ];
    for (what, list, count) in counts {
        if let Some(index) = list.iter().find(|&&index| index >= count) {
            return Err(differs(what, format!("numbers below {count}"), index.to_string()));
        }
    }
    if let Some(name) = plan.scalars.iter().find(|name| !node.attrs.contains_key(name.as_str())) {
        return Err(differs("scalars", "names of the node's attributes".to_owned(), crate::names::quoted(name)));
    }
    Ok(plan)
}
