//! Patches that are wrong, each in one way. They are made for graphs with SwiGLU whose embedding is `model.embed_tokens`
//! (llama and its kin); on others they are errors of another kind, which serves as well.

use unswag_sdk::{
    Attrs, CacheSlot, Dim, Dtype, Error, Expr, Graph, GraphExt, Init, Node, Patch, PatchBuilder, SubNode, Subgraph,
    SvdPart, Value, error,
};

use super::{json, op};

/// One way to be wrong.
pub struct BadPatch {
    /// What the option `bad` takes.
    pub name: &'static str,
    /// Some of what the host's error must say, in lower case.
    pub said: &'static str,
    make: fn(&Ground<'_>, &mut PatchBuilder),
}

/// What the patches are made from.
pub struct Ground<'g> {
    graph: &'g Graph,
    swiglu: &'g Node,
    /// `model.layers.0.mlp`.
    mlp: &'g str,
    /// A matrix of the checkpoint: `model.layers.0.mlp.up_proj.weight`.
    matrix: &'g str,
    rows: u64,
    columns: u64,
}

const fn bad(name: &'static str, said: &'static str, make: fn(&Ground<'_>, &mut PatchBuilder)) -> BadPatch {
    BadPatch { name, said, make }
}

/// Every way, by name.
pub static BAD_PATCHES: &[BadPatch] = &[
    bad("unknown_requires", "requires", |_, patch| {
        patch.requires("telepathy/1").attr("model.norm", "eps", 1e-6);
    }),
    bad("replaces_what_is_not_there", "no node", |ground, patch| {
        patch.replace("model.layers.999.mlp", ground.subgraph(|_| ()));
    }),
    bad("sets_attr_of_what_is_not_there", "no node", |_, patch| {
        patch.attr("model.layers.999.norm", "eps", 1e-6);
    }),
    bad("sets_attr_of_wrong_type", "eps", |_, patch| {
        patch.attr("model.norm", "eps", "small");
    }),
    bad("sets_unknown_attr", "attribute", |_, patch| {
        patch.attr("model.norm", "colour", "red");
    }),
    bad("too_few_inputs", "inputs", |ground, patch| {
        ground.replace(patch, |sub| sub.inputs.truncate(1));
    }),
    bad("too_many_outputs", "outputs", |ground, patch| {
        ground.replace(patch, |sub| sub.outputs.push("gate".to_owned()));
    }),
    bad("dangling_input", "nowhere", |ground, patch| {
        ground.replace(patch, |sub| sub.nodes[0].inputs[0] = "nowhere".to_owned());
    }),
    bad("dangling_output", "nowhere", |ground, patch| {
        ground.replace(patch, |sub| sub.outputs[0] = "nowhere".to_owned());
    }),
    bad("dangling_param", "nowhere", |ground, patch| {
        ground.replace(patch, |sub| {
            sub.nodes[0].kind = "linear".to_owned();
            sub.nodes[0].inputs.truncate(1);
            sub.nodes[0].params.insert("weight".to_owned(), "nowhere".to_owned());
        });
    }),
    bad("cyclic", "order", |ground, patch| {
        ground.replace(patch, |sub| {
            let mut second = sub.nodes[0].clone();
            second.name = "second".to_owned();
            second.outputs = vec!["later".to_owned()];
            sub.nodes[0].name = "first".to_owned();
            sub.nodes[0].inputs[0] = "later".to_owned();
            second.inputs[0] = sub.nodes[0].outputs[0].clone();
            sub.nodes.push(second);
        });
    }),
    bad("unknown_kind", "frobnicate", |ground, patch| {
        ground.replace(patch, |sub| sub.nodes[0].kind = "frobnicate".to_owned());
    }),
    bad("unknown_op", "no_such_op", |ground, patch| {
        ground.replace(patch, |sub| ground.op(sub, "hostile.no_such_op"));
    }),
    bad("untyped_op", "values", |ground, patch| {
        ground.replace(patch, |sub| {
            ground.op(sub, op::KIND);
            sub.nodes[0].values.clear();
        });
    }),
    bad("wrong_shape", "expected", |ground, patch| {
        ground.replace(patch, |sub| {
            ground.op(sub, op::KIND);
            sub.nodes[0].values[0].shape = vec![Dim::Fixed(7)];
        });
    }),
    bad("output_of_another_shape", "expected", |ground, patch| {
        ground.replace(patch, |sub| {
            sub.nodes[0].kind = "mean".to_owned();
            sub.nodes[0].inputs.truncate(1);
        });
    }),
    bad("unknown_symbol", "tokens_per_dream", |ground, patch| {
        ground.replace(patch, |sub| {
            ground.op(sub, op::KIND);
            sub.nodes[0].values[0].shape[0] = Dim::symbol("tokens_per_dream");
        });
    }),
    bad("node_path_twice", "twice", |ground, patch| {
        ground.replace(patch, |sub| {
            let mut twin = sub.nodes[0].clone();
            twin.outputs = vec!["twin".to_owned()];
            sub.nodes.push(twin);
        });
    }),
    bad("hostile_path", "node", |ground, patch| {
        ground.replace(patch, |sub| sub.nodes[0].name = "../../etc/\u{0}".to_owned());
    }),
    bad("stands_for_nonsense", "frobnicate", |ground, patch| {
        ground.replace(patch, |sub| {
            ground.op(sub, op::KIND);
            sub.nodes[0].stands_for = Some("frobnicate".to_owned());
        });
    }),
    bad("stands_for_another_arity", "silu", |ground, patch| {
        ground.replace(patch, |sub| {
            ground.op(sub, op::KIND);
            sub.nodes[0].stands_for = Some("silu".to_owned());
        });
    }),
    bad("plan_of_another_shape", "plan", lying),
    bad("plan_of_another_dtype", "plan", lying),
    bad("plan_without_outputs", "plan", lying),
    bad("plan_beyond_64_bits", "plan", lying),
    bad("plan_saves_what_is_not_there", "plan", lying),
    bad("plan_remakes_what_is_not_there", "plan", lying),
    bad("plan_schedules_what_is_not_there", "plan", lying),
    bad("drops_what_is_used", "up_proj", |ground, patch| {
        patch.drop_param(ground.matrix);
    }),
    bad("drops_what_is_not_there", "nowhere", |_, patch| {
        patch.drop_param("nowhere.weight");
    }),
    bad("adds_what_nobody_uses", "spare", |ground, patch| {
        patch.param_expr("model.spare", Dtype::Bf16, &[ground.rows, ground.columns], ground.tensor());
    }),
    bad("param_of_another_shape", "shape", |ground, patch| {
        patch.param_expr(ground.matrix, Dtype::Bf16, &[ground.rows, ground.columns + 1], ground.tensor());
    }),
    bad("param_beyond_64_bits", "model.spare", |_, patch| {
        let shape = [u64::MAX, u64::MAX];
        patch.param_expr("model.spare", Dtype::F32, &shape, Expr::Full { shape: shape.to_vec(), value: 0.0 });
    }),
    bad("param_of_no_elements", "element", |_, patch| {
        patch.param_expr("model.spare", Dtype::F32, &[0], Expr::Full { shape: vec![0], value: 0.0 });
    }),
    bad("param_name_hostile", "parameter", |ground, patch| {
        patch.param_expr("../outside", Dtype::Bf16, &[ground.rows, ground.columns], ground.tensor());
    }),
    bad("param_twice", "twice", |ground, patch| {
        for _ in 0..2 {
            patch.param_expr(ground.matrix, Dtype::Bf16, &[ground.rows, ground.columns], ground.tensor());
        }
    }),
    bad("expr_of_no_tensor", "nowhere", |ground, patch| {
        let expr = Expr::Tensor("nowhere.weight".to_owned());
        patch.param_expr(ground.matrix, Dtype::Bf16, &[ground.rows, ground.columns], expr);
    }),
    bad("expr_of_shapes_that_do_not_fit", "matrices", |ground, patch| {
        let expr = Expr::Matmul(Box::new(ground.tensor()), Box::new(ground.tensor()));
        patch.param_expr(ground.matrix, Dtype::Bf16, &[ground.rows, ground.columns], expr);
    }),
    bad("expr_too_deep", "recursion", |ground, patch| {
        let deep = (0..200).fold(ground.tensor(), |expr, _| Expr::Sqrt(Box::new(expr)));
        patch.param_expr(ground.matrix, Dtype::Bf16, &[ground.rows, ground.columns], deep);
    }),
    bad("svd_rank_too_high", "rank", |ground, patch| {
        let rank = ground.rows + ground.columns;
        let expr = Expr::Svd { of: Box::new(ground.tensor()), rank, part: SvdPart::Vh };
        patch.param_expr(ground.matrix, Dtype::Bf16, &[rank, ground.columns], expr);
    }),
    bad("transform_of_no_tensor", "nowhere", |ground, patch| {
        patch.param(ground.matrix, Dtype::Bf16, &[ground.rows, ground.columns], ground.job(&["nowhere.weight"], 0));
    }),
    bad("transform_with_a_gap", "output", |ground, patch| {
        patch.param(ground.matrix, Dtype::Bf16, &[ground.rows, ground.columns], ground.job(&[ground.matrix], 3));
    }),
    bad("loss_of_no_value", "nowhere", |_, patch| {
        patch.loss("penalty", "nowhere", 0.1);
    }),
    bad("loss_that_is_no_scalar", "loss", |_, patch| {
        patch.loss("penalty", "model.norm", 0.1);
    }),
    // JSON has no NaN: what arrives is null, which is no weight.
    bad("loss_weight_nan", "null", |_, patch| {
        patch.loss("penalty", "model.norm", f64::NAN);
    }),
    bad("cache_of_what_is_not_there", "no node", |ground, patch| {
        patch.cache("model.layers.999", vec![ground.slot("model.layers.999")]);
    }),
    bad("cache_outside_its_block", "cache", |ground, patch| {
        patch.cache(ground.mlp, vec![ground.slot("model.norm")]);
    }),
    bad("cache_slot_twice", "twice", |ground, patch| {
        patch.cache(ground.mlp, vec![ground.slot(ground.mlp), ground.slot(ground.mlp)]);
    }),
    bad("another_version", "version", |_, patch| {
        patch.attr("model.norm", "eps", 1e-6);
    }),
];

/// A sound patch, whose op lies in its plan; see [`op`].
fn lying(ground: &Ground<'_>, patch: &mut PatchBuilder) {
    ground.replace(patch, |sub| ground.op(sub, op::KIND));
}

pub(super) fn make(bad: &BadPatch, graph: &Graph) -> Result<Patch, Error> {
    let ground = Ground::of(graph)?;
    let mut patch = PatchBuilder::new();
    (bad.make)(&ground, &mut patch);
    let mut patch = patch.finish();
    if bad.name == "another_version" {
        patch.version = 999;
    }
    Ok(patch)
}

/// A job that copies a weight.
pub(super) fn add_transform(graph: &Graph, patch: &mut PatchBuilder) -> Result<(), Error> {
    let ground = Ground::of(graph)?;
    let dtype = graph.params[ground.matrix].dtype;
    patch.param(ground.matrix, dtype, &[ground.rows, ground.columns], ground.job(&[ground.matrix], 0));
    Ok(())
}

impl<'g> Ground<'g> {
    fn of(graph: &'g Graph) -> Result<Self, Error> {
        let swiglu = graph.of_kind("swiglu").next();
        let swiglu = swiglu.ok_or_else(|| graph.nothing_to_do("SwiGLU", &["swiglu"]))?;
        let mlp = swiglu.path.strip_suffix(".act_fn").ok_or_else(|| error!("{}: expected …mlp.act_fn", swiglu.path))?;
        let (matrix, param) = graph.param_of(graph.node_at(&format!("{mlp}.up_proj"))?, "weight")?;
        let &[rows, columns] = param.shape.as_slice() else {
            return Err(error!("{matrix}: expected a matrix, got {:?}", param.shape));
        };
        Ok(Self { graph, swiglu, mlp, matrix, rows, columns })
    }

    /// SwiGLU in the place of itself, changed.
    fn subgraph(&self, change: impl FnOnce(&mut Subgraph)) -> Subgraph {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let node = SubNode {
            kind: "swiglu".to_owned(),
            inputs: names(&["gate", "up"]),
            outputs: names(&["y"]),
            ..SubNode::default()
        };
        let mut sub = Subgraph { inputs: names(&["gate", "up"]), outputs: names(&["y"]), nodes: vec![node] };
        change(&mut sub);
        sub
    }

    fn replace(&self, patch: &mut PatchBuilder, change: impl FnOnce(&mut Subgraph)) {
        patch.replace(&self.swiglu.path, self.subgraph(change));
    }

    /// Makes the subgraph's node a plugin's op.
    fn op(&self, sub: &mut Subgraph, kind: &str) {
        sub.nodes[0].kind = kind.to_owned();
        sub.nodes[0].attrs = Attrs::from([("mode".to_owned(), json("plain"))]);
        sub.nodes[0].values = self.values();
    }

    fn values(&self) -> Vec<Value> {
        self.swiglu.outputs.iter().filter_map(|name| self.graph.values.get(name)).cloned().collect()
    }

    fn tensor(&self) -> Expr {
        Expr::Tensor(self.matrix.to_owned())
    }

    fn job(&self, inputs: &[&str], output: usize) -> Init {
        Init::Transform {
            job: "copy".to_owned(),
            inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output,
            attrs: Attrs::new(),
        }
    }

    fn slot(&self, at: &str) -> CacheSlot {
        CacheSlot { at: at.to_owned(), name: "slot".to_owned(), dtype: Dtype::Bf16, shape: vec![Dim::symbol("seq")] }
    }
}
