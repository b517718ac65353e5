//! Low-rank: every MLP's down projection becomes the product of two thinner matrices, cut from its singular value
//! decomposition. Fewer parameters to train and to keep; the model computes something else, and says so.

use unswag_sdk::{
    AttrsExt, Error, Expr, Graph, GraphExt, Host, Info, Node, Patch, PatchBuilder, Protocol, SubgraphBuilder, SvdPart,
    bail, opt, serde::Deserialize,
};

#[derive(Deserialize)]
#[serde(crate = "unswag_sdk::serde")]
struct Options {
    rank: u64,
}

struct LowRank {
    rank: u64,
}

unswag_sdk::export_plugin!(LowRank);

impl Protocol for LowRank {
    type Options = Options;

    fn info() -> Info {
        Info::new("low-rank", env!("CARGO_PKG_VERSION"), "Cuts every MLP's down projection to a low rank.")
            .claims(["linear"])
            .requires(["expr/1", "expr.svd/1"])
            .option(
                "rank",
                opt::integer("Rank to cut to; less than either side of the matrix.").default(16).range(1.0, 65536.0),
            )
    }

    fn open(options: Options, _: Host) -> Result<Self, Error> {
        Ok(Self { rank: options.rank })
    }

    fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> {
        let mut patch = PatchBuilder::new();
        for node in graph.of_kind("linear").filter(|node| node.path.ends_with(".mlp.down_proj")) {
            self.cut(graph, node, &mut patch)?;
        }
        if patch.is_empty() {
            return Err(graph.nothing_to_do("gated MLP", &["linear"]));
        }
        patch.requires("expr/1").requires("expr.svd/1");
        patch.lossy(format!("every down projection is cut to rank {}: the model computes something else", self.rank));
        Ok(patch.finish())
    }
}

impl LowRank {
    /// W [out, in] ~ U sqrt(S) [out, rank] times sqrt(S) Vh [rank, in].
    fn cut(&self, graph: &Graph, node: &Node, patch: &mut PatchBuilder) -> Result<(), Error> {
        let (weight, param) = graph.param_of(node, "weight")?;
        let [outputs, inputs] = param.shape[..] else {
            bail!("{}: expected a matrix, got shape {:?}", node.path, param.shape);
        };
        if node.attrs.read("transposed")? == Some(true) || graph.param_is_shared(weight, &node.path) {
            return Ok(());
        }
        let rank = self.rank;
        if rank >= outputs.min(inputs) {
            bail!(
                "{}: rank {rank} is not less than the sides of {outputs} x {inputs}; choose a smaller one",
                node.path
            );
        }
        let part = |part| Box::new(Expr::Svd { of: Box::new(Expr::Tensor(weight.to_owned())), rank, part });
        let root = || Box::new(Expr::Sqrt(part(SvdPart::S)));
        let column = Box::new(Expr::Reshape { of: root(), shape: vec![rank, 1] });
        let (thin, wide) = (format!("{}.thin.weight", node.path), format!("{}.wide.weight", node.path));
        patch.param_expr(&thin, param.dtype, &[rank, inputs], Expr::Mul(column, part(SvdPart::Vh)));
        patch.param_expr(&wide, param.dtype, &[outputs, rank], Expr::Mul(part(SvdPart::U), root()));

        let mut sub = SubgraphBuilder::new(["h"]);
        sub.node("thin", "linear").inputs(["h"]).outputs(["latent"]).param("weight", &thin);
        let last = sub.node("wide", "linear").inputs(["latent"]).outputs(["y"]).param("weight", &wide);
        if let Some(bias) = node.params.get("bias") {
            last.param("bias", bias);
        }
        patch.replace(&node.path, sub.finish(["y"]));
        patch.drop_param(weight);
        Ok(())
    }
}
