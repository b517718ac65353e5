//! Misbehaves on request. `bad=NAME` answers `rewrite` with a patch that is wrong in one way; `panic=WHERE` panics there;
//! `hang=WHERE` never returns; `mischief=WHERE:HOW` ends the program there, or computes something wrong. With none of them it swaps SwiGLU for its own op, which computes the same.

mod mischief;
mod op;
mod patches;

use std::{panic::panic_any, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use unswag_sdk::{
    Device, Error, Graph, GraphExt, Host, Info, Inputs, Op, Outputs, Patch, PatchBuilder, Protocol, TransformJob, opt,
};

pub use patches::BAD_PATCHES;

/// Where `panic` and `hang` can be asked for.
pub const PANICS: &[&str] =
    &["open", "rewrite", "rewrite_payload", "transform", "op", "plan", "build", "forward", "backward", "drop"];

const NONE: &str = "none";

#[derive(Clone, Deserialize)]
pub struct Options {
    bad: String,
    panic: String,
    hang: String,
    at: String,
    say: String,
    mischief: String,
}

impl Options {
    /// Does here what was asked for here.
    fn act(&self, place: &str) {
        if let Some((_, how)) = self.mischief.split_once(':').filter(|(at, _)| *at == place) {
            mischief::end(how);
        }
        if self.panic == place {
            panic!("hostile: asked to panic in {place}");
        }
        if self.hang == place {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
    }
}

pub struct Hostile {
    options: Options,
}

/// A panic's payload that panics again when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("hostile: the payload panics too");
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        // A panic while another unwinds would abort, which no guard can help.
        if !std::thread::panicking() {
            self.options.act("drop");
        }
    }
}

impl Protocol for Hostile {
    type Options = Options;

    fn info() -> Info {
        let places = || [NONE].into_iter().chain(PANICS.iter().copied());
        let bad = [NONE].into_iter().chain(BAD_PATCHES.iter().map(|bad| bad.name));
        Info::new("hostile", env!("CARGO_PKG_VERSION"), "Misbehaves on request (a test).")
            .claims(["swiglu"])
            .ops([op::KIND])
            .devices([Device::Cpu])
            .requires(["expr/1", "expr.svd/1", "cache/1", "loss/1", "transform/1"])
            .option("bad", opt::string("Which wrong patch to answer with.").default(NONE).choices(bad))
            .option("panic", opt::string("Where to panic.").default(NONE).choices(places()))
            .option("hang", opt::string("Where to hang.").default(NONE).choices(places()))
            .option("say", opt::string("What to tell the user on opening.").default(""))
            .option(
                "mischief",
                opt::string("How to end the program, or compute something wrong, as PLACE:HOW.")
                    .default(mischief::default()),
            )
            .option("at", opt::string("How the paths of swapped nodes begin.").default(""))
    }

    fn open(options: Options, host: Host) -> Result<Self, Error> {
        options.act("open");
        if !options.say.is_empty() {
            host.info(&options.say);
            host.debug(&format!("in detail: {}", options.say));
        }
        Ok(Self { options })
    }

    fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> {
        self.options.act("rewrite");
        if self.options.panic == "rewrite_payload" {
            panic_any(Bomb);
        }
        if let Some(bad) = BAD_PATCHES.iter().find(|bad| bad.name == self.options.bad) {
            return patches::make(bad, graph);
        }
        let mut patch = PatchBuilder::new();
        for node in graph.of_kind("swiglu").filter(|node| node.path.starts_with(&self.options.at)) {
            patch.swap(graph, node, op::KIND)?.stands_for("swiglu");
        }
        if self.options.panic == "transform" || self.options.hang == "transform" {
            patches::add_transform(graph, &mut patch)?;
        }
        if patch.is_empty() {
            return Err(graph.nothing_to_do("SwiGLU", &["swiglu"]));
        }
        Ok(patch.finish())
    }

    fn transform(&self, _: &TransformJob, inputs: Inputs<'_>, outputs: Outputs<'_>) -> Result<(), Error> {
        self.options.act("transform");
        let ([from], [mut to]) = (inputs.array()?, outputs.array()?);
        to.as_bytes_mut()?.copy_from_slice(from.as_bytes()?);
        Ok(())
    }

    fn op(&self, kind: &str) -> Option<Box<dyn Op>> {
        self.options.act("op");
        (kind == op::KIND).then(|| Box::new(op::Swiglu { options: self.options.clone() }) as Box<dyn Op>)
    }
}

/// An attribute's value for a patch.
fn json(value: impl Into<Value>) -> Value {
    value.into()
}
