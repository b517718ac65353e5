//! An open protocol: every call of the frame, with typed documents and host-owned buffers on this side of it.
//!
//! Input: what the plugin answers, which is parsed, bounded and checked before anyone believes it. A call cannot be cut
//! short: a plugin runs on this process's threads, so one that never returns is only reported ([`Protocol::rewrite`]).

use std::{
    collections::HashMap,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use unswag_abi::{
    abi_stable::std_types::{ROption, RResult, RString},
    doc::{Attrs, Graph, OpCall, OpPlan, Patch, ProtocolInfo, Target, TransformJob},
    frame::{Extension, Module, OpBox, ProtocolBox},
};
use unswag_engine::{Buffer, BufferMut};

use crate::{
    buffers::ViewList,
    kernel::Kernel,
    plain,
    plugin::{Log, LogLevel, Plugin},
};

/// The largest document that a plugin may answer, in bytes. A patch of every node of a 1,200-node graph has under one million.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// After this long in one call the user is told who is at work.
pub const SLOW_CALL: Duration = Duration::from_secs(10);

/// What went wrong between host and plugin. Each names the protocol and the call.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The plugin's own sentence.
    #[error("plugin {protocol}: {call}: {message}")]
    Refused { protocol: String, call: String, message: String },

    #[error(
        "plugin {protocol}: {call}: its answer is not a {document}: line {line}, column {column}: {problem}; report this to the plugin's author"
    )]
    Document { protocol: String, call: String, document: &'static str, line: usize, column: usize, problem: String },

    #[error("plugin {protocol}: {call}: its answer has {bytes} bytes; at most {MAX_DOCUMENT_BYTES} are read")]
    TooLarge { protocol: String, call: String, bytes: usize },

    #[error("plugin {protocol}: {call}: its plan cannot be: {problem}; report this to the plugin's author")]
    Plan { protocol: String, call: String, problem: String },

    #[error("plugin {protocol}: {call}: {problem}")]
    Buffers { protocol: String, call: String, problem: String },

    #[error("plugin {protocol} has no op `{kind}`; its manifest lists: {known}")]
    NoOp { protocol: String, kind: String, known: String },

    #[error("plugin {protocol}: {call}: the request cannot be written down: {error}")]
    Encode { protocol: String, call: String, error: String },
}

impl PluginError {
    pub(crate) fn refused(protocol: &str, call: &str, message: &RString) -> Self {
        Self::Refused { protocol: protocol.to_owned(), call: call.to_owned(), message: plain::one_line(message, 4000) }
    }
}

/// One protocol, opened with its options. May be used from several threads.
pub struct Protocol {
    plugin: Plugin,
    info: ProtocolInfo,
    options: Attrs,
    log: Log,
    raw: ProtocolBox,
    slow_call: Duration,
}

/// What an op gives for a device.
pub struct Built {
    /// Device code for the host to compile or inline; none for a CPU.
    pub modules: Vec<Module>,
    /// `None` where the host inlines the modules itself.
    pub kernel: Option<Kernel>,
}

impl Protocol {
    pub(crate) fn new(plugin: Plugin, info: ProtocolInfo, options: Attrs, log: Log, raw: ProtocolBox) -> Self {
        Self { plugin, info, options, log, raw, slow_call: SLOW_CALL }
    }

    /// Says that a call is slow after `after` instead of [`SLOW_CALL`].
    #[must_use]
    pub fn with_slow_call(mut self, after: Duration) -> Self {
        self.slow_call = after;
        self
    }

    pub fn id(&self) -> &str {
        &self.info.id
    }

    pub fn info(&self) -> &ProtocolInfo {
        &self.info
    }

    /// With the defaults filled in.
    pub fn options(&self) -> &Attrs {
        &self.options
    }

    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// The frame itself, for the conformance suite.
    pub fn raw(&self) -> &ProtocolBox {
        &self.raw
    }

    /// Asks for the patch that this protocol makes of `graph`. The patch is parsed and no more: whether it fits the graph is
    /// for the graph crate to say.
    ///
    /// While the call takes long, the log hears so; it cannot be stopped but by ending the process, which is safe: a patch
    /// is data, and nothing is written before it is here.
    ///
    /// # Errors
    /// The plugin refuses, or what it answers is no patch.
    pub fn rewrite(&self, graph: &Graph) -> Result<Patch, PluginError> {
        let call = "rewrite";
        let document = self.encode(call, graph)?;
        let answer = self.watched(call, || self.raw.rewrite(document.as_str().into()));
        self.decode(call, "patch", answer)
    }

    /// Runs one transform job: `outputs` are filled from `inputs`. Both are as the job's own lists say.
    ///
    /// # Errors
    /// A buffer does not have the size of its type, or the plugin refuses.
    pub fn transform(
        &self,
        job: &TransformJob,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), PluginError> {
        let call = format!("transform {}", plain::one_line(&job.job, 80));
        for (what, listed, given) in
            [("inputs", job.inputs.len(), inputs.len()), ("outputs", job.outputs.len(), outputs.len())]
        {
            if listed != given {
                return Err(self.buffers(&call, format!("the job lists {listed} {what}, {given} buffers are given")));
            }
        }
        let inputs: Vec<_> = job.inputs.iter().zip(inputs).map(|(meta, bytes)| Buffer { meta, bytes }).collect();
        let mut outputs: Vec<_> =
            job.outputs.iter().zip(outputs).map(|(meta, bytes)| BufferMut { meta, bytes: Some(bytes) }).collect();
        let input_views = ViewList::read("inputs", &inputs).map_err(|problem| self.buffers(&call, problem))?;
        let output_views = ViewList::write("outputs", &mut outputs).map_err(|problem| self.buffers(&call, problem))?;
        let document = self.encode(&call, job)?;
        let answer = self.watched(&call, || {
            self.raw.transform(document.as_str().into(), input_views.as_views(), output_views.as_views())
        });
        answer.into_result().map_err(|message| PluginError::refused(self.id(), &call, &message))?;
        output_views.finish(&mut outputs);
        Ok(())
    }

    /// What a use of one of this protocol's ops makes and keeps.
    ///
    /// # Errors
    /// There is no such op, the plugin refuses the call, or its plan contradicts itself.
    pub fn plan(&self, op_call: &OpCall) -> Result<OpPlan, PluginError> {
        let call = format!("plan of {}", plain::one_line(&op_call.kind, 80));
        let op = self.op(&op_call.kind)?;
        let document = self.encode(&call, op_call)?;
        let plan: OpPlan = self.decode(&call, "plan", op.plan(document.as_str().into()))?;
        check_plan(op_call, &plan).map_err(|problem| PluginError::Plan {
            protocol: self.id().to_owned(),
            call,
            problem,
        })?;
        Ok(plan)
    }

    /// Builds an op for a device.
    ///
    /// # Errors
    /// There is no such op, or the plugin has no kernel for the target and says why.
    pub fn build(&self, op_call: &OpCall, target: &Target) -> Result<Built, PluginError> {
        let call = format!("build of {}", plain::one_line(&op_call.kind, 80));
        let op = self.op(&op_call.kind)?;
        let document = self.encode(&call, op_call)?;
        let target = self.encode(&call, target)?;
        let code = op
            .build(document.as_str().into(), target.as_str().into())
            .into_result()
            .map_err(|message| PluginError::refused(self.id(), &call, &message))?;
        Ok(Built {
            modules: code.modules.into_vec(),
            kernel: code.kernel.into_option().map(|raw| Kernel::new(self.id(), &op_call.kind, raw)),
        })
    }

    /// A later interface by name, if the protocol has it.
    pub fn extension(&self, id: &str) -> Option<Extension> {
        self.raw.extension(id.into()).into_option()
    }

    fn op(&self, kind: &str) -> Result<OpBox, PluginError> {
        // What the manifest does not list is not asked for: two plugins could answer to it.
        let listed = self.info.ops.iter().any(|op| op == kind);
        match listed.then(|| self.raw.op(kind.into())) {
            Some(ROption::RSome(op)) => Ok(op),
            _ => Err(PluginError::NoOp {
                protocol: self.id().to_owned(),
                kind: plain::one_line(kind, 80),
                known: match self.info.ops.is_empty() {
                    true => "none".to_owned(),
                    false => self.info.ops.join(", "),
                },
            }),
        }
    }

    fn encode(&self, call: &str, document: &impl Serialize) -> Result<String, PluginError> {
        serde_json::to_string(document).map_err(|error| PluginError::Encode {
            protocol: self.id().to_owned(),
            call: call.to_owned(),
            error: error.to_string(),
        })
    }

    fn decode<T: DeserializeOwned>(
        &self,
        call: &str,
        document: &'static str,
        answer: RResult<RString, RString>,
    ) -> Result<T, PluginError> {
        let text = answer.into_result().map_err(|message| PluginError::refused(self.id(), call, &message))?;
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(PluginError::TooLarge {
                protocol: self.id().to_owned(),
                call: call.to_owned(),
                bytes: text.len(),
            });
        }
        serde_json::from_str(&text).map_err(|error| PluginError::Document {
            protocol: self.id().to_owned(),
            call: call.to_owned(),
            document,
            line: error.line(),
            column: error.column(),
            problem: document_problem(&error),
        })
    }

    fn buffers(&self, call: &str, problem: String) -> PluginError {
        PluginError::Buffers { protocol: self.id().to_owned(), call: call.to_owned(), problem }
    }

    /// Runs a call, with a second thread that speaks up while it takes long.
    fn watched<T>(&self, call: &str, run: impl FnOnce() -> T) -> T {
        let (done, wait) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let log = &self.log;
            let id = self.id();
            let period = self.slow_call;
            let watch = move || {
                let mut seconds = 0.0;
                while wait.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                    seconds += period.as_secs_f64();
                    let line =
                        format!("{id} has been at `{call}` for {seconds:.0} s; nothing is written before it is done");
                    log(LogLevel::Warning, &line);
                }
            };
            // Where no thread can be had, the call goes unwatched.
            let _ = std::thread::Builder::new().name("unswag-watch".to_owned()).spawn_scoped(scope, watch);
            let result = run();
            drop(done);
            result
        })
    }
}

impl std::fmt::Debug for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protocol").field("id", &self.info.id).field("options", &self.options).finish_non_exhaustive()
    }
}

/// serde_json's message, without the position that is told apart.
fn document_problem(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    plain::one_line(&message[..end], 300)
}

/// A plan must be possible before anyone allocates by it: indices point at something, sizes can be counted.
fn check_plan(call: &OpCall, plan: &OpPlan) -> Result<(), String> {
    let outputs = plan.outputs.len();
    for (name, indices, count, of) in [
        ("saves_inputs", &plan.saves_inputs, call.inputs.len(), "inputs"),
        ("saves_outputs", &plan.saves_outputs, outputs, "outputs"),
        ("rematerializes", &plan.rematerializes, outputs, "outputs"),
    ] {
        for (at, &index) in indices.iter().enumerate() {
            if index >= count {
                return Err(format!("{name} says {index}, there are {count} {of}"));
            }
            if indices[..at].contains(&index) {
                return Err(format!("{name} says {index} twice"));
            }
        }
    }
    let mut total = plan.scratch_bytes;
    for (name, metas) in [("outputs", &plan.outputs), ("saved", &plan.saved)] {
        for (index, meta) in metas.iter().enumerate() {
            total = meta
                .bytes()
                .and_then(|bytes| total.checked_add(bytes))
                .ok_or_else(|| format!("{name}[{index}]: {} {:?} is beyond 2^64 bytes", meta.dtype, meta.shape))?;
        }
    }
    Ok(())
}

/// The ops of several open protocols, as a model's nodes ask for them.
#[derive(Debug, Default)]
pub struct OpenProtocols {
    open: Vec<Protocol>,
    /// Who brought in the node at a path, by its place in `open`.
    makers: HashMap<String, usize>,
}

impl OpenProtocols {
    pub fn new(open: Vec<Protocol>) -> Self {
        OpenProtocols { open, makers: HashMap::new() }
    }

    /// Says that the nodes at these paths are those of one protocol with these options, which `open` opens where it is not open yet.
    /// What was said of a path before no longer holds.
    ///
    /// # Errors
    /// What `open` says.
    pub fn made<E>(
        &mut self,
        paths: impl IntoIterator<Item = String>,
        (id, options): (&str, &Attrs),
        open: impl FnOnce() -> Result<Protocol, E>,
    ) -> Result<(), E> {
        let is_same = |protocol: &Protocol| protocol.id() == id && protocol.options() == options;
        let maker = match self.open.iter().position(is_same) {
            Some(maker) => maker,
            None => {
                self.open.push(open()?);
                self.open.len() - 1
            }
        };
        self.makers.extend(paths.into_iter().map(|path| (path, maker)));
        Ok(())
    }

    /// The protocol that has the op of the node at `path`: the one that brought it in, else the first that lists the op.
    ///
    /// # Errors
    /// None does, in a sentence for the user.
    pub fn owner(&self, path: &str, kind: &str) -> Result<&Protocol, String> {
        let lists = |protocol: &&Protocol| protocol.info.ops.iter().any(|op| op == kind);
        let maker = self.makers.get(path).map(|&maker| &self.open[maker]).filter(lists);
        maker.or_else(|| self.open.iter().find(lists)).ok_or_else(|| {
            let open: Vec<_> = self.open.iter().map(Protocol::id).collect();
            let open = match open.is_empty() {
                true => "none".to_owned(),
                false => open.join(", "),
            };
            format!("no open plugin has the op {}; open: {open}", plain::one_line(kind, 80))
        })
    }
}
