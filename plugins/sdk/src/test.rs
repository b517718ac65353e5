//! Runs a plugin without the host, through the very objects that the host would get: what an author's tests use.
//!
//! Every call goes through the frozen frame, so documents, checks and the panic guard are exercised. Every tensor that a
//! kernel writes lies between guard bands, and the bands are checked after the call.
//!
//! ```
//! # use unswag_sdk::{test::PluginTest, *};
//! # struct Nothing;
//! # impl Protocol for Nothing {
//! #     type Options = NoOptions;
//! #     fn info() -> Info { Info::new("nothing", "0.1.0", "Finds nothing to do.") }
//! #     fn open(_: NoOptions, _: Host) -> Result<Self, Error> { Ok(Self) }
//! #     fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> { Err(graph.nothing_to_do("ReLU", &["relu"])) }
//! # }
//! # export_plugin!(Nothing);
//! # fn main() {
//! let plugin = PluginTest::new(unswag_plugin());
//! let protocol = plugin.open("nothing", serde_json::json!({})).unwrap();
//! let error = protocol.rewrite(&test::sample("llama")).unwrap_err();
//! assert!(error.message().ends_with("nodes of kind swiglu; try delhi"), "{error}");
//! # }
//! ```

mod apply;
mod kernel;
mod samples;

use std::sync::{Arc, Mutex};

use unswag_abi::{
    abi_stable::{
        erased_types::TD_Opaque,
        std_types::{RErr, RNone, ROk, ROption, RSome, RStr},
    },
    doc::{Graph, Manifest, OpCall, OpPlan, Patch, Target, TransformJob},
    frame::{self, Extension, Host_TO, OpBox, PluginRef, ProtocolBox, Ret, Views},
};

pub use apply::apply_structurally;
pub use kernel::{Backward, Forward, KernelTest, Settings, cpu_target};
pub use samples::{FAMILIES, sample};

use crate::{
    conformance::{Report, Suite},
    error::Error,
    tensor::TensorBuf,
};

/// A plugin under test.
pub struct PluginTest {
    plugin: PluginRef,
    log: Log,
}

/// What the plugin told the user: level and text of each line.
type Log = Arc<Mutex<Vec<(u8, String)>>>;

struct TestHost(Log);

impl frame::Host for TestHost {
    fn log(&self, level: u8, text: RStr<'_>) {
        if let Ok(mut lines) = self.0.lock() {
            lines.push((level, text.as_str().to_owned()));
        }
    }

    fn extension(&self, _id: RStr<'_>) -> ROption<Extension> {
        RNone
    }
}

impl PluginTest {
    /// `plugin` is what [`export_plugin!`](crate::export_plugin) made: `my_plugin::unswag_plugin()`.
    pub fn new(plugin: PluginRef) -> Self {
        Self { plugin, log: Log::default() }
    }

    /// # Errors
    /// It is not the JSON of a manifest.
    pub fn manifest(&self) -> Result<Manifest, Error> {
        let text = self.manifest_text();
        serde_json::from_str(&text).map_err(|error| crate::error!("manifest: {error} in {text:?}"))
    }

    pub(crate) fn manifest_text(&self) -> String {
        (self.plugin.manifest())().into()
    }

    /// Opens a protocol with options as the user would give them, a JSON object.
    ///
    /// # Errors
    /// The plugin's own.
    pub fn open(&self, id: &str, options: serde_json::Value) -> Result<ProtocolTest, Error> {
        self.open_text(id, &options.to_string())
    }

    pub(crate) fn open_text(&self, id: &str, options: &str) -> Result<ProtocolTest, Error> {
        let host = Host_TO::from_value(TestHost(self.log.clone()), TD_Opaque);
        let raw = result((self.plugin.open())(host, RStr::from_str(id), RStr::from_str(options)))?;
        Ok(ProtocolTest { raw })
    }

    /// What was logged so far: level (1 error to 4 debugging) and text.
    pub fn logged(&self) -> Vec<(u8, String)> {
        self.log.lock().map(|lines| lines.clone()).unwrap_or_default()
    }

    /// Runs the conformance suite: what `unswag plugin check` runs, with a structural check of patches in place of the
    /// host's validation.
    pub fn check(&self) -> Report {
        Suite::new(self.plugin).run()
    }
}

fn result<T>(returned: Ret<T>) -> Result<T, Error> {
    match returned {
        ROk(value) => Ok(value),
        RErr(message) => Err(Error::new(message)),
    }
}

fn document<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| crate::error!("{what}: {error} in {text:?}"))
}

/// An opened protocol under test.
pub struct ProtocolTest {
    raw: ProtocolBox,
}

impl ProtocolTest {
    /// # Errors
    /// The plugin's own.
    pub fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> {
        document("patch", &self.rewrite_text(&serde_json::to_string(graph)?)?)
    }

    /// [`Self::rewrite`] on the document's text, well formed or not.
    ///
    /// # Errors
    /// The plugin's own.
    pub fn rewrite_text(&self, graph: &str) -> Result<String, Error> {
        result(self.raw.rewrite(RStr::from_str(graph))).map(String::from)
    }

    /// Runs a transform job; gives its outputs.
    ///
    /// # Errors
    /// The plugin's own, or it wrote outside an output.
    pub fn transform(&self, job: &TransformJob, inputs: &[TensorBuf]) -> Result<Vec<TensorBuf>, Error> {
        let text = serde_json::to_string(job)?;
        let mut outputs = Vec::with_capacity(job.outputs.len());
        for meta in &job.outputs {
            outputs.push(TensorBuf::guarded(meta, kernel::FILL)?);
        }
        let inputs = Vec::from_iter(inputs.iter().map(TensorBuf::view));
        let views = Vec::from_iter(outputs.iter_mut().map(TensorBuf::view_mut));
        result(self.raw.transform(RStr::from_str(&text), Views::from_slice(&inputs), Views::from_slice(&views)))?;
        drop(views);
        for (index, output) in outputs.iter().enumerate() {
            output.check_bands().map_err(|error| error.at(format!("transform: outputs[{index}]")))?;
        }
        Ok(outputs)
    }

    /// The op of a kind.
    ///
    /// # Errors
    /// There is none.
    pub fn op(&self, kind: &str) -> Result<OpTest, Error> {
        match self.raw.op(RStr::from_str(kind)) {
            RSome(raw) => Ok(OpTest { raw }),
            RNone => Err(crate::error!("the protocol has no op {kind:?}")),
        }
    }

    /// Whether it offers this extension.
    pub fn has_extension(&self, id: &str) -> bool {
        matches!(self.raw.extension(RStr::from_str(id)), RSome(_))
    }
}

/// An op under test.
pub struct OpTest {
    raw: OpBox,
}

impl OpTest {
    /// # Errors
    /// The plugin's own.
    pub fn plan(&self, call: &OpCall) -> Result<OpPlan, Error> {
        document("plan", &self.plan_text(&serde_json::to_string(call)?)?)
    }

    /// [`Self::plan`] on the document's text, well formed or not.
    ///
    /// # Errors
    /// The plugin's own.
    pub fn plan_text(&self, call: &str) -> Result<String, Error> {
        result(self.raw.plan(RStr::from_str(call))).map(String::from)
    }

    /// Plans and builds a call for this machine's CPU.
    ///
    /// # Errors
    /// The plugin's own, or it gave no kernel.
    pub fn cpu(&self, call: &OpCall) -> Result<KernelTest, Error> {
        self.build(call, &cpu_target())
    }

    /// Plans and builds a call.
    ///
    /// # Errors
    /// The plugin's own, or it gave no kernel.
    pub fn build(&self, call: &OpCall, target: &Target) -> Result<KernelTest, Error> {
        let plan = self.plan(call)?;
        let code = self.code(call, target)?;
        match code.kernel {
            RSome(raw) => Ok(KernelTest::new(raw, call.clone(), plan)),
            RNone => Err(crate::error!("{}: build gave no kernel for {:?}", call.kind, target.device)),
        }
    }

    pub(crate) fn code(&self, call: &OpCall, target: &Target) -> Result<frame::Code, Error> {
        let (call, target) = (serde_json::to_string(call)?, serde_json::to_string(target)?);
        result(self.raw.build(RStr::from_str(&call), RStr::from_str(&target)))
    }
}
