//! {{name}}: a protocol plugin for unswag.
//!
//! As written by `unswag plugin new` it rewrites ReLU: plain training keeps the output for the backward (2 bytes per
//! element in bf16), this keeps a mask (1 byte). Forward and gradients are bit for bit what they were. Make it yours: this
//! file says *where* the graph changes, `relu.rs` what runs there.

mod relu;

use unswag_sdk::{
    Device, Error, Graph, GraphExt, Host, Info, Op, Patch, PatchBuilder, Protocol, opt,
    serde::Deserialize,
};

/// What the user types after `--plugin`.
const ID: &str = "{{name}}";

/// What the user may set: `--plugin {{name}}:under=model.decoder.layers.0`.
#[derive(Deserialize)]
#[serde(crate = "unswag_sdk::serde")]
pub struct Options {
    /// Only nodes whose path starts with this.
    under: String,
}

pub struct ReluMask {
    options: Options,
}

impl Protocol for ReluMask {
    type Options = Options;

    fn info() -> Info {
        Info::new(
            ID,
            env!("CARGO_PKG_VERSION"),
            "Keeps a byte mask instead of ReLU's output for the backward.",
        )
        .claims(["relu"])
        .ops([relu::KIND])
        .devices([Device::Cpu])
        .option(
            "under",
            opt::string("Only nodes whose path starts with this.").default(""),
        )
    }

    fn open(options: Options, _host: Host) -> Result<Self, Error> {
        Ok(Self { options })
    }

    fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> {
        let mut patch = PatchBuilder::new();
        for node in graph
            .of_kind("relu")
            .filter(|node| node.path.starts_with(&self.options.under))
        {
            patch.swap(graph, node, relu::KIND)?.stands_for("relu");
        }
        if patch.is_empty() {
            return Err(graph.nothing_to_do("ReLU", &["relu"]));
        }
        Ok(patch.finish())
    }

    fn op(&self, kind: &str) -> Option<Box<dyn Op>> {
        (kind == relu::KIND).then(|| Box::new(relu::Relu) as Box<dyn Op>)
    }
}

unswag_sdk::export_plugin!(ReluMask);
