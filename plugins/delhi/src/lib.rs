//! Delhi: activations saved in few bits for the backward.
//!
//! Gated MLPs (`swiglu`, `geglu`) save gate and up, as they are or rounded in groups, and make the value and the product
//! again; un-gated activations (`silu`, `gelu`) save a code of one to four bits of their derivative. The forward is the
//! plain op's, bit for bit. Only mode `exact` leaves the backward as it was: every other mode is an approximation, and says so.

mod activation;
mod call;
mod gated;
mod options;

use std::path::Path;

use unswag_sdk::{
    Device, Error, Graph, GraphExt, Host, Info, Node, Op, Patch, PatchBuilder, Protocol, bail, serde_json::json,
};

use options::{Calibration, Layers, Mode, NamedWeighting, Options, Rounding};

/// Kinds that it claims, with the op that takes their place.
const GATED: [(&str, &str); 2] = [("swiglu", gated::SWIGLU), ("geglu", gated::GEGLU)];
const UNGATED: [(&str, &str); 2] = [("silu", activation::SILU), ("gelu", activation::GELU)];
const KINDS: [&str; 4] = ["swiglu", "geglu", "silu", "gelu"];

struct Delhi {
    options: Options,
    layers: Layers,
    calibration: Option<Calibration>,
}

unswag_sdk::export_plugin!(Delhi);

impl Protocol for Delhi {
    type Options = Options;

    fn info() -> Info {
        let info = Info::new(
            "delhi",
            env!("CARGO_PKG_VERSION"),
            "Saves SiLU and GELU activations, gated or not, in few bits for the backward; the forward stays as it is.",
        )
        .claims(KINDS)
        .ops([gated::SWIGLU, gated::GEGLU, activation::SILU, activation::GELU])
        .devices([Device::Cpu])
        .home(Device::Cuda);
        options::declare(info)
    }

    fn open(options: Options, _: Host) -> Result<Self, Error> {
        let layers = Layers::parse(&options.layers)?;
        let calibration = match options.calibration.as_str() {
            "" => None,
            path => Some(Calibration::read(Path::new(path))?),
        };
        Ok(Self { options, layers, calibration })
    }

    fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> {
        let mut patch = PatchBuilder::new();
        let (mut gated, mut ungated) = (0, 0);
        let mode = self.options.mode;
        for node in graph.nodes.iter().filter(|node| self.layers.contain(&node.path)) {
            if let Some((_, op)) = GATED.iter().find(|(kind, _)| *kind == node.kind) {
                if mode.suits_gated() {
                    self.swap_gated(graph, node, op, &mut patch)?;
                    gated += 1;
                }
            } else if let Some((_, op)) = UNGATED.iter().find(|(kind, _)| *kind == node.kind)
                && let Some(bits) = mode.code_bits()
            {
                self.swap_ungated(graph, node, op, bits, &mut patch)?;
                ungated += 1;
            }
        }
        if patch.is_empty() {
            return Err(self.nothing(graph));
        }
        if let Some(sentence) = self.loses(gated, ungated) {
            patch.lossy(sentence);
        }
        Ok(patch.finish())
    }

    fn op(&self, kind: &str) -> Option<Box<dyn Op>> {
        match kind {
            gated::SWIGLU | gated::GEGLU => Some(Box::new(gated::Gated)),
            activation::SILU | activation::GELU => Some(Box::new(activation::Coded)),
            _ => None,
        }
    }
}

impl Delhi {
    fn swap_gated(&self, graph: &Graph, node: &Node, op: &str, patch: &mut PatchBuilder) -> Result<(), Error> {
        let mlp = node.path.rsplit_once('.').map_or(node.path.as_str(), |(parent, _)| parent);
        let [gate, up] = node.inputs.as_slice() else {
            bail!("{mlp}: plugin delhi expects a gated MLP with gate and up, got {} inputs", node.inputs.len());
        };
        let (gate, up) = (graph.value(gate)?, graph.value(up)?);
        if gate != up {
            let told = |value: &unswag_sdk::Value| {
                let sizes: Vec<String> = value.shape.iter().map(ToString::to_string).collect();
                format!("{} [{}]", value.dtype, sizes.join(", "))
            };
            bail!(
                "{mlp}: plugin delhi expects gate and up of one shape, got {} and {}; the checkpoint is damaged or not a gated MLP",
                told(gate),
                told(up)
            );
        }
        let mode = self.options.mode;
        let mut new = patch.swap(graph, node, op)?.attr("mode", mode.name());
        if mode != Mode::Exact {
            new = new.attr("group", self.options.group);
            if self.options.rounding == Rounding::Stochastic {
                new = new.attr("rounding", "stochastic");
            }
        }
        new.stands_for(&node.kind);
        Ok(())
    }

    fn swap_ungated(
        &self,
        graph: &Graph,
        node: &Node,
        op: &str,
        bits: u32,
        patch: &mut PatchBuilder,
    ) -> Result<(), Error> {
        let new = patch.swap(graph, node, op)?.attr("bits", bits);
        let new = match &self.calibration {
            // The node carries the histogram itself: training must not need the file that it came from.
            Some(calibration) => new.attr("histogram", json!(calibration.histogram(&node.path)?)),
            None => new.attr(
                "weighting",
                match self.options.weighting {
                    NamedWeighting::Uniform => "uniform",
                    NamedWeighting::Normal => "normal",
                },
            ),
        };
        new.stands_for(&node.kind);
        Ok(())
    }

    /// Why there is nothing to do: a mode that does not suit the activations here, layers that have none, or no such node.
    fn nothing(&self, graph: &Graph) -> Error {
        let count = |kinds: &[(&str, &str)]| {
            let inside = graph.nodes.iter().filter(|node| self.layers.contain(&node.path));
            inside.filter(|node| kinds.iter().any(|(kind, _)| *kind == node.kind)).count()
        };
        let (gated, ungated, mode) = (count(&GATED), count(&UNGATED), self.options.mode.name());
        if gated > 0 {
            return unswag_sdk::error!(
                "mode {mode} is for un-gated activations, and the {gated} here are gated; use mode=exact, 8bit, 4bit or 2bit"
            );
        }
        if ungated > 0 {
            return unswag_sdk::error!(
                "mode {mode} is for gated MLPs, and the {ungated} activations here are un-gated: their value is saved as it \
                 is or their derivative as a code; use mode=1bit, 2bit, 3bit or 4bit (all are approximate)"
            );
        }
        if graph.nodes.iter().any(|node| KINDS.contains(&node.kind.as_str())) {
            return unswag_sdk::error!(
                "layers={}: no SiLU or GELU in these layers; use layers=all",
                self.options.layers
            );
        }
        graph.nothing_to_do("SiLU or GELU", &KINDS)
    }

    /// What training loses, or `None` in exact mode.
    fn loses(&self, gated: usize, ungated: usize) -> Option<String> {
        let mode = self.options.mode;
        let bits = mode.name().trim_end_matches("bit");
        let mut parts = Vec::new();
        if gated > 0 && mode != Mode::Exact {
            parts.push(format!("{gated} gated MLPs see gate and up rounded to {bits} bits"));
        }
        if ungated > 0 {
            parts.push(format!("{ungated} activations see their derivative rounded to a code of {bits} bits"));
        }
        (!parts.is_empty()).then(|| format!("in the backward, {}; the forward is unchanged", parts.join(" and ")))
    }
}
