//! The job of running a plugin's forward on given inputs: the child computes, the parent compares.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use unswag_abi::{
    doc::{Attrs, Device, Dtype, Meta, OpCall, Target},
    frame::Launch,
};
use unswag_engine::{Buffer, BufferMut};

use super::{Ending, Library, TrialError, TrialJob, TrialOptions, Voice, trial};
use crate::{LaunchOptions, device::cpu_features, plugin::Plugin};

/// The name of the job that [`serve_kernels`] does.
pub const KERNELS_JOB: &str = "kernels";

/// One forward to run.
#[derive(Clone, Debug)]
pub struct KernelRun<'a> {
    pub call: OpCall,
    /// One for each input of the call, in its element type.
    pub inputs: Vec<&'a [u8]>,
    /// Threads that the kernel may use.
    pub threads: u32,
    /// Whether a backward would follow.
    pub is_training: bool,
}

/// Why a run has no outputs.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RunError {
    /// The plugin's own words: it does not take this call, or its forward failed.
    #[error("{0}")]
    Refused(String),
    /// It takes the call, and has no kernel of it for the CPU.
    #[error("it has no kernel for the CPU")]
    NoKernel,
    /// It ended the process, crashed, or did not return.
    #[error("{0}")]
    Ended(Ending),
    /// The run was not come to, because an earlier one ended the process.
    #[error("not run: an earlier run ended the trial")]
    NotRun,
}

/// What became of the runs.
#[derive(Clone, Debug)]
pub struct KernelAnswers {
    /// The outputs' bytes, one list for each run.
    pub outputs: Vec<Result<Vec<Vec<u8>>, RunError>>,
    /// Names of the system calls that the sandbox refused, each once.
    pub refused: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Job {
    protocol: String,
    options: Attrs,
    features: Vec<String>,
    runs: Vec<Run>,
}

#[derive(Serialize, Deserialize)]
struct Run {
    call: OpCall,
    is_training: bool,
    threads: u32,
    /// Of each input.
    bytes: Vec<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// Each output in hexadecimal digits.
    Outputs(Vec<String>),
    Refused(String),
    NoKernel,
}

/// Runs the forwards of one protocol's ops in a trial.
///
/// # Errors
/// The child process could not be started.
pub fn run_kernels(
    plugin: &Plugin,
    protocol: &str,
    options: &Attrs,
    runs: &[KernelRun<'_>],
    trial_options: &TrialOptions,
) -> Result<KernelAnswers, TrialError> {
    let job = Job {
        protocol: protocol.to_owned(),
        options: options.clone(),
        features: cpu_features(),
        runs: runs
            .iter()
            .map(|run| Run {
                call: run.call.clone(),
                is_training: run.is_training,
                threads: run.threads,
                bytes: run.inputs.iter().map(|bytes| bytes.len()).collect(),
            })
            .collect(),
    };
    let mut head = serde_json::to_vec(&job).map_err(std::io::Error::other)?;
    head.push(b'\n');
    let input: Vec<&[u8]> =
        [head.as_slice()].into_iter().chain(runs.iter().flat_map(|run| run.inputs.clone())).collect();
    let mut answers: Vec<Result<Vec<Vec<u8>>, RunError>> = Vec::with_capacity(runs.len());
    let mut heard = |message: &str| {
        // The child sends one for each run: whatever sends more is the plugin.
        if answers.len() == runs.len() {
            return ControlFlow::Break(());
        }
        answers.push(match serde_json::from_str(message) {
            Ok(Answer::Outputs(outputs)) => match outputs.iter().map(|hex| from_hex(hex)).collect() {
                Some(outputs) => Ok(outputs),
                None => Err(RunError::Ended(Ending::Garbage)),
            },
            Ok(Answer::Refused(why)) => Err(RunError::Refused(crate::plain::one_line(&why, 1000))),
            Ok(Answer::NoKernel) => Err(RunError::NoKernel),
            Err(_) => Err(RunError::Ended(Ending::Garbage)),
        });
        ControlFlow::Continue(())
    };
    let tried = trial(Library::Loaded(plugin), KERNELS_JOB, &input, trial_options, &mut heard)?;
    if answers.len() < runs.len() {
        let ending = match tried.ending {
            // It says that it is done and was not: it writes what the child should.
            Ending::Finished => Ending::Garbage,
            other => other,
        };
        answers.push(Err(RunError::Ended(ending)));
        answers.resize_with(runs.len(), || Err(RunError::NotRun));
    } else if tried.ending == Ending::Garbage
        && let Some(last) = answers.last_mut()
    {
        // One message too many: some answer is not the child's.
        *last = Err(RunError::Ended(Ending::Garbage));
    }
    Ok(KernelAnswers { outputs: answers, refused: tried.refused })
}

/// Does the job in the child.
///
/// # Errors
/// A job that cannot be read, a protocol that does not open, or the parent is gone.
pub fn serve_kernels(job: TrialJob, voice: &mut Voice) -> Result<(), String> {
    let end = job.input.iter().position(|&byte| byte == b'\n').ok_or("a job without a first line")?;
    let (head, mut data) = (&job.input[..end], &job.input[end + 1..]);
    let what: Job = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    let log = std::sync::Arc::new(|_: crate::LogLevel, _: &str| ());
    let protocol = job.plugin.open(&what.protocol, &what.options, log).map_err(|error| error.to_string())?;
    let target = Target { device: Device::Cpu, features: what.features };
    for run in &what.runs {
        let mut inputs = Vec::with_capacity(run.bytes.len());
        for &bytes in &run.bytes {
            let (input, rest) = data.split_at_checked(bytes).ok_or("a job shorter than it says")?;
            inputs.push(input);
            data = rest;
        }
        let answer = match forward(&protocol, run, &inputs, &target) {
            Ok(Some(outputs)) => Answer::Outputs(outputs.iter().map(|bytes| to_hex(bytes)).collect()),
            Ok(None) => Answer::NoKernel,
            Err(why) => Answer::Refused(why),
        };
        let message = serde_json::to_string(&answer).map_err(|error| error.to_string())?;
        voice.say(&message).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The outputs of one run; `None` where there is no kernel for the CPU.
fn forward(
    protocol: &crate::Protocol,
    run: &Run,
    inputs: &[&[u8]],
    target: &Target,
) -> Result<Option<Vec<Vec<u8>>>, String> {
    let failed = |error: crate::PluginError| error.to_string();
    let plan = protocol.plan(&run.call).map_err(failed)?;
    let kernel = protocol.build(&run.call, target).map_err(failed)?.kernel;
    let Some(kernel) = kernel else { return Ok(None) };
    let banded = |metas: &[Meta]| -> Result<Vec<Banded>, String> {
        let size = |meta: &Meta| {
            let bytes = meta.bytes().filter(|&bytes| bytes <= super::ADDRESS_SPACE_BYTES / 4);
            bytes.map(|bytes| bytes as usize).ok_or_else(|| format!("its plan has {} {:?}", meta.dtype, meta.shape))
        };
        metas.iter().map(|meta| size(meta).map(Banded::new)).collect()
    };
    let (mut outputs, mut saved) = (banded(&plan.outputs)?, banded(&plan.saved)?);
    let scratch = Meta { dtype: Dtype::U8, shape: vec![plan.scratch_bytes] };
    let mut scratch = banded(&[scratch])?.swap_remove(0);
    let number = |name: &String| run.call.attrs.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    let scalars: Vec<f64> = plan.scalars.iter().map(number).collect();
    let flags = Launch::DETERMINISTIC | if run.is_training { Launch::TRAINING } else { 0 };
    let mut launch = LaunchOptions {
        seed: 42,
        offset: 0,
        scratch: scratch.bytes_mut(),
        scalars: &scalars,
        threads: run.threads,
        flags,
    };
    // In memory of their own, aligned as the engine's tensors are.
    let own: Vec<Banded> = inputs.iter().map(|bytes| Banded::holding(bytes)).collect();
    let views: Vec<Buffer<'_>> =
        run.call.inputs.iter().zip(&own).map(|(meta, memory)| Buffer { meta, bytes: memory.bytes() }).collect();
    let mut output_buffers: Vec<BufferMut<'_>> = buffers(&plan.outputs, &mut outputs);
    let mut saved_buffers: Vec<BufferMut<'_>> = match run.is_training {
        true => buffers(&plan.saved, &mut saved),
        false => Vec::new(),
    };
    kernel.forward(&mut launch, &views, &mut output_buffers, &mut saved_buffers).map_err(failed)?;
    drop((output_buffers, saved_buffers));
    if outputs.iter().chain(&saved).chain([&scratch]).any(|memory| !memory.is_intact()) {
        return Err("its forward wrote outside of the tensors that it was given".to_owned());
    }
    if own.iter().zip(inputs).any(|(memory, given)| !memory.is_intact() || memory.bytes() != *given) {
        return Err("its forward wrote to an input".to_owned());
    }
    Ok(Some(outputs.iter().map(|output| output.bytes().to_vec()).collect()))
}

fn buffers<'a>(metas: &'a [Meta], memory: &'a mut [Banded]) -> Vec<BufferMut<'a>> {
    metas.iter().zip(memory).map(|(meta, memory)| BufferMut { meta, bytes: Some(memory.bytes_mut()) }).collect()
}

/// Memory between two guard bands. Its content is not zero: what a kernel leaves unwritten should not look like an
/// answer.
struct Banded {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Banded {
    const FILL: u8 = 0x90;
    const BAND_BYTES: usize = 4096;
    /// Of a cache line, which is more than any element type asks for.
    const ALIGN: usize = 64;

    fn new(len: usize) -> Self {
        let memory = vec![Self::FILL; len + 2 * Self::BAND_BYTES + Self::ALIGN];
        let address = memory.as_ptr() as usize + Self::BAND_BYTES;
        let start = Self::BAND_BYTES + address.next_multiple_of(Self::ALIGN) - address;
        Self { memory, start, len }
    }

    fn holding(bytes: &[u8]) -> Self {
        let mut memory = Self::new(bytes.len());
        memory.bytes_mut().copy_from_slice(bytes);
        memory
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    fn is_intact(&self) -> bool {
        let (before, after) = (&self.memory[..self.start], &self.memory[self.start + self.len..]);
        before.iter().chain(after).all(|&byte| byte == Self::FILL)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    rest.is_empty().then_some(bytes).flatten()
}
