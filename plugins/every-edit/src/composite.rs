//! Shares one latent between K and V: [K; V] = U S Vh, cut to a rank. `kv_down` = sqrt(S) Vh makes the latent, `k_up` and
//! `v_up` = U sqrt(S), cut in two, make K and V of it. At full rank the products are the original weights.
//!
//! Uses every edit: a block replaced by a composite of host primitives, parameters made by expressions, others dropped, an
//! attribute, a cache slot, a loss. Needs no op of its own, so the result is rebuilt from the record without this plugin.
//! Claims blocks of plain q, k, v and o projections with rope between; leaves others (QK norm, fused projections) alone.

use serde::Deserialize;
use unswag_sdk::{
    CacheSlot, Dim, Error, Expr, Graph, GraphExt, Host, Info, Node, Patch, PatchBuilder, Protocol, SubgraphBuilder,
    SvdPart, bail, error, opt,
};

/// A window as large as no context: the attribute changes, what is computed does not.
const ENDLESS_WINDOW: u64 = 1 << 30;

#[derive(Deserialize)]
pub struct Options {
    rank: u64,
    penalty: f64,
}

pub struct Composite {
    options: Options,
}

impl Protocol for Composite {
    type Options = Options;

    fn info() -> Info {
        Info::new("composite", env!("CARGO_PKG_VERSION"), "Shares one low-rank latent between K and V (a test).")
            .claims(["attention"])
            .requires(["expr/1", "expr.svd/1", "cache/1", "loss/1"])
            .option("rank", opt::integer("Rank of the latent; 0 for full rank.").default(0).range(0.0, 1e6))
            .option("penalty", opt::number("Weight of the latent's mean square in the loss.").default(0.01))
    }

    fn open(options: Options, _: Host) -> Result<Self, Error> {
        Ok(Self { options })
    }

    fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> {
        let mut patch = PatchBuilder::new();
        for attention in graph.of_kind("attention") {
            let Some(at) = attention.path.strip_suffix(".attn") else { continue };
            if let Some(block) = Block::find(graph, at, attention)? {
                self.edit(graph, &block, &mut patch).map_err(|error| error.at(at))?;
            }
        }
        if patch.is_empty() {
            return Err(graph.nothing_to_do("attention with plain q, k, v projections and rope", &[]));
        }
        patch.lossy(match self.options.rank {
            0 => "K and V are products of two factors, equal to the original to rounding; training moves the factors."
                .to_owned(),
            rank => format!("K and V are cut to rank {rank} together; what the cut loses depends on the model."),
        });
        Ok(patch.finish())
    }
}

/// The nodes of one block.
struct Block<'g> {
    at: &'g str,
    q_proj: &'g Node,
    k_proj: &'g Node,
    v_proj: &'g Node,
    rope: &'g Node,
    attention: &'g Node,
    o_proj: &'g Node,
}

impl<'g> Block<'g> {
    /// `None` where the block has another form.
    fn find(graph: &'g Graph, at: &'g str, attention: &'g Node) -> Result<Option<Self>, Error> {
        let node = |name: &str, kind: &str| graph.node(&format!("{at}.{name}")).filter(|node| node.kind == kind);
        let (Some(q_proj), Some(k_proj), Some(v_proj), Some(rope), Some(o_proj)) = (
            node("q_proj", "linear"),
            node("k_proj", "linear"),
            node("v_proj", "linear"),
            node("rope", "rope"),
            node("o_proj", "linear"),
        ) else {
            return Ok(None);
        };
        let whole = graph.region_at(at)?.nodes.len() == 6;
        let wired = rope.inputs.len() == 4
            && rope.inputs.first() == q_proj.outputs.first()
            && rope.inputs.get(1) == k_proj.outputs.first()
            && attention.inputs.get(2) == v_proj.outputs.first()
            && o_proj.inputs == attention.outputs;
        let transposed = [k_proj, v_proj].iter().any(|node| node.attrs.contains_key("transposed"));
        Ok((whole && wired && !transposed).then_some(Self { at, q_proj, k_proj, v_proj, rope, attention, o_proj }))
    }
}

impl Composite {
    fn edit(&self, graph: &Graph, block: &Block<'_>, patch: &mut PatchBuilder) -> Result<(), Error> {
        let (k_name, k) = graph.param_of(block.k_proj, "weight")?;
        let (v_name, v) = graph.param_of(block.v_proj, "weight")?;
        let (&[rows, width], &[v_rows, v_width]) = (k.shape.as_slice(), v.shape.as_slice()) else {
            bail!("expected matrices, got k_proj {:?} and v_proj {:?}", k.shape, v.shape);
        };
        let stacked = rows.checked_add(v_rows).filter(|_| width == v_width && k.dtype == v.dtype);
        let stacked =
            stacked.ok_or_else(|| error!("k_proj {:?} and v_proj {:?} cannot be stacked", k.shape, v.shape))?;
        let most = stacked.min(width);
        let rank = if self.options.rank == 0 { most } else { self.options.rank };
        if rank > most {
            bail!("option rank: expected at most {most}, the full rank of [K; V], got {rank}");
        }

        let svd = |part| {
            let of = Expr::Cat { of: vec![Expr::Tensor(k_name.to_owned()), Expr::Tensor(v_name.to_owned())], dim: 0 };
            Box::new(Expr::Svd { of: Box::new(of), rank, part })
        };
        let root = || Box::new(Expr::Sqrt(svd(SvdPart::S)));
        let up = |start, end| Expr::Slice { of: Box::new(Expr::Mul(svd(SvdPart::U), root())), dim: 0, start, end };
        let column = Expr::Reshape { of: root(), shape: vec![rank, 1] };
        let name = |part: &str| format!("{}.{part}.weight", block.at);
        let (down_name, k_up_name, v_up_name) = (name("kv_down"), name("k_up"), name("v_up"));
        patch.param_expr(&down_name, k.dtype, &[rank, width], Expr::Mul(Box::new(column), svd(SvdPart::Vh)));
        patch.param_expr(&k_up_name, k.dtype, &[rows, rank], up(0, rows));
        patch.param_expr(&v_up_name, v.dtype, &[v_rows, rank], up(rows, stacked));

        patch.replace(block.at, self.composite(graph, block, [&down_name, &k_up_name, &v_up_name])?);
        patch.drop_param(k_name).drop_param(v_name);
        patch.attr(&format!("{}.attn", block.at), "sliding_window", ENDLESS_WINDOW);
        let x = graph.value(&block.k_proj.inputs[0])?;
        let mut shape = x.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = Dim::Fixed(rank);
        }
        let latent = CacheSlot { at: block.at.to_owned(), name: "latent".to_owned(), dtype: x.dtype, shape };
        patch.cache(block.at, vec![latent]);
        patch.loss(&format!("{}.penalty", block.at), &format!("{}.penalty", block.at), self.options.penalty);
        Ok(())
    }

    fn composite(&self, graph: &Graph, block: &Block<'_>, weights: [&str; 3]) -> Result<unswag_sdk::Subgraph, Error> {
        // The region's inputs come in order of first use; the composite names them by what they are.
        let [x, cos, sin] = [block.k_proj.inputs.first(), block.rope.inputs.get(2), block.rope.inputs.get(3)];
        let mut inputs = Vec::new();
        for input in graph.region_at(block.at)?.inputs {
            let is = |value: Option<&String>| value == Some(&input);
            inputs.push(match () {
                () if is(x) => "x",
                () if is(cos) => "cos",
                () if is(sin) => "sin",
                () => bail!("it uses {input}, which is neither the block's input nor a rotary embedding"),
            });
        }
        let [kv_down, k_up, v_up] = weights;
        let mut sub = SubgraphBuilder::new(inputs);
        sub.node("q_proj", "linear").inputs(["x"]).outputs(["q"]).like(block.q_proj);
        sub.node("kv_down", "linear").inputs(["x"]).outputs(["latent"]).param("weight", kv_down);
        sub.node("k_up", "linear").inputs(["latent"]).outputs(["k"]).like(block.k_proj).param("weight", k_up);
        sub.node("v_up", "linear").inputs(["latent"]).outputs(["v"]).like(block.v_proj).param("weight", v_up);
        sub.node("rope", "rope").inputs(["q", "k", "cos", "sin"]).outputs(["q_turned", "k_turned"]).like(block.rope);
        let turned = ["q_turned", "k_turned", "v"];
        sub.node("attn", "attention").inputs(turned).outputs(["attended"]).like(block.attention);
        sub.node("o_proj", "linear").inputs(["attended"]).outputs(["y"]).like(block.o_proj);
        sub.node("square", "mul").inputs(["latent", "latent"]).outputs(["squared"]);
        sub.node("penalty", "mean").inputs(["squared"]).outputs(["mean_square"]);
        Ok(sub.finish(["y"]))
    }
}
