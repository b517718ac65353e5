//! An open protocol, driven through the library on the bare frame: what it answers well arrives, what it answers badly is told.

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use support::raw_plugin;
use unswag_abi::{
    abi_stable::std_types::RSlice,
    doc::{Attrs, Device, Dtype, Graph, Meta, OpCall, Target, TransformJob},
    frame::Launch,
};
use unswag_engine::PluginOps;
use unswag_loader::{
    Buffer, BufferMut, Consent, Kernel, LaunchOptions, Log, LogLevel, OpenProtocols, Plugin, PluginError, PluginFile,
    Protocol, load,
};

fn plugin() -> Plugin {
    load(&PluginFile::read(raw_plugin()).unwrap(), Consent::Unlocked).unwrap()
}

/// What the plugin logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(LogLevel, String)>>>);

impl Lines {
    fn log(&self) -> Log {
        let lines = self.0.clone();
        Arc::new(move |level, line| lines.lock().unwrap().push((level, line.to_owned())))
    }

    fn taken(&self) -> Vec<(LogLevel, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn open_with(behave: &str, lines: &Lines) -> Protocol {
    let options = Attrs::from([("behave".to_owned(), json!(behave))]);
    plugin().open("raw", &options, lines.log()).unwrap()
}

fn open(behave: &str) -> Protocol {
    open_with(behave, &Lines::default())
}

fn meta(shape: &[u64]) -> Meta {
    Meta { dtype: Dtype::F32, shape: shape.to_vec() }
}

fn call(attrs: &[(&str, &str)]) -> OpCall {
    OpCall {
        kind: "raw.double".to_owned(),
        inputs: vec![meta(&[2, 3])],
        attrs: attrs.iter().map(|&(key, value)| (key.to_owned(), json!(value))).collect(),
    }
}

#[test]
fn plugins_protocols_and_kernels_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Plugin>();
    crosses::<Protocol>();
    crosses::<Kernel>();
}

#[test]
fn a_patch_arrives_as_it_was_written() {
    let patch = open("well").rewrite(&Graph::default()).unwrap();
    assert_eq!((patch.version, patch.edits.len()), (1, 1));
}

#[test]
fn a_refusal_is_the_plugins_own_sentence() {
    let error = open("fail").rewrite(&Graph::default()).unwrap_err();
    assert_eq!(error.to_string(), "plugin raw: rewrite: no relu here: 1 node of kind silu; try delhi");
}

#[test]
fn a_refusal_cannot_drive_the_terminal() {
    let message = open("escape").rewrite(&Graph::default()).unwrap_err().to_string();
    assert!(!message.contains(['\u{1b}', '\n']) && message.contains("cleared your screen"), "{message:?}");
}

#[test]
fn an_answer_that_is_no_document_is_told_by_place() {
    for (behave, line, column) in [("garbage", 2, 11), ("truncated", 1, 72)] {
        let error = open(behave).rewrite(&Graph::default()).unwrap_err();
        println!("{error}");
        let message = error.to_string();
        assert!(message.contains(&format!("its answer is not a patch: line {line}, column {column}: ")), "{message}");
        assert_eq!(message.matches("line").count(), 1, "{message}");
    }
}

#[test]
fn an_answer_without_end_is_not_read() {
    let error = open("huge").rewrite(&Graph::default()).unwrap_err();
    assert!(matches!(error, PluginError::TooLarge { bytes, .. } if bytes == (64 << 20) + 1), "{error}");
}

#[test]
fn a_plugins_lines_reach_the_log() {
    let lines = Lines::default();
    open_with("log", &lines).rewrite(&Graph::default()).unwrap();
    let taken = lines.taken();
    assert_eq!((taken.len(), taken[0].0), (1, LogLevel::Info));
    // The plugin saw every option, defaults included.
    for option in [r#""group":64"#, r#""scale":1.0"#, r#""exact":false"#, r#""table":"""#] {
        assert!(taken[0].1.contains(option), "{}", taken[0].1);
    }
}

#[test]
fn a_log_that_panics_does_not_take_the_plugin_along() {
    let options = Attrs::from([("behave".to_owned(), json!("log"))]);
    let log: Log = Arc::new(|_, _| panic!("this log always panics"));
    let protocol = plugin().open("raw", &options, log).unwrap();
    protocol.rewrite(&Graph::default()).unwrap();
}

#[test]
fn a_slow_call_is_told_while_it_lasts() {
    let lines = Lines::default();
    let protocol = open_with("slow", &lines).with_slow_call(Duration::from_millis(50));
    protocol.rewrite(&Graph::default()).unwrap();
    let taken = lines.taken();
    assert!(!taken.is_empty());
    assert!(taken[0].1.contains("raw has been at `rewrite`"), "{}", taken[0].1);
    // And a quick one is not.
    open_with("well", &lines).rewrite(&Graph::default()).unwrap();
    assert!(lines.taken().is_empty());
}

#[test]
fn an_unknown_protocol_or_option_never_reaches_the_plugin() {
    let error = plugin().open("rawr", &Attrs::new(), Lines::default().log()).unwrap_err();
    assert!(error.to_string().contains("no protocol `rawr` (did you mean `raw`?); it has: raw, needy"), "{error}");
    let options = Attrs::from([("group".to_owned(), json!(0))]);
    let error = plugin().open("raw", &options, Lines::default().log()).unwrap_err();
    assert!(error.to_string().contains("expected an integer from 1 to 4096"), "{error}");
}

#[test]
fn a_plan_is_checked_before_anyone_allocates_by_it() {
    let protocol = open("well");
    assert_eq!(protocol.plan(&call(&[])).unwrap().saves_inputs, [0]);
    for (lie, said) in [
        ("index", "saves_inputs says 7, there are 1 inputs"),
        ("overflow", "is beyond 2^64 bytes"),
        ("fail", "inputs[0]: expected f32"),
    ] {
        let error = protocol.plan(&call(&[("lie", lie)])).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.to_string().contains("plugin raw: plan of raw.double"), "{error}");
    }
}

#[test]
fn an_op_belongs_to_the_protocol_that_lists_it() {
    let ops = OpenProtocols::new(vec![open("well")]);
    assert_eq!(ops.plan("x", &call(&[])).unwrap().outputs, [meta(&[2, 3])]);
    let other = OpCall { kind: "other.op".to_owned(), ..call(&[]) };
    assert_eq!(ops.plan("x", &other).unwrap_err(), "no open plugin has the op other.op; open: raw");
    let error = ops.owner("x", "raw.double").unwrap().plan(&other).unwrap_err();
    assert!(error.to_string().contains("has no op `other.op`; its manifest lists: raw.double"), "{error}");
}

fn kernel() -> Kernel {
    let target = Target { device: Device::Cpu, features: Vec::new() };
    let built = open("well").build(&call(&[]), &target).unwrap();
    assert!(built.modules.is_empty());
    built.kernel.unwrap()
}

fn launch(scratch: &mut [u8]) -> LaunchOptions<'_> {
    LaunchOptions { seed: 0, offset: 0, scratch, scalars: &[], threads: 1, flags: 0 }
}

const X: [f32; 6] = [1.0, -0.0, f32::INFINITY, 1e-45, -2.5, 0.1];

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

#[test]
fn a_kernel_runs_on_the_hosts_memory() {
    let kernel = kernel();
    let (x, mut y, meta) = (bytes(&X), vec![0; 24], meta(&[2, 3]));
    let input = [Buffer { meta: &meta, bytes: &x }];
    let mut output = [BufferMut { meta: &meta, bytes: Some(&mut y) }];
    kernel.forward(&mut launch(&mut []), &input, &mut output, &mut []).unwrap();
    assert_eq!(y, bytes(&X.map(|x| 2.0 * x)));
    let error = kernel.rematerialize(&mut launch(&mut []), &[], &mut []).unwrap_err();
    assert_eq!(error.to_string(), "plugin raw: rematerialize of raw.double: raw.double makes nothing again");
}

/// A tensor in a checkpoint starts wherever the header ends.
#[test]
fn memory_of_any_alignment_will_do() {
    let kernel = kernel();
    let meta = meta(&[2, 3]);
    for shift in 0..8 {
        let mut x = vec![0xff; shift];
        x.extend(bytes(&X));
        let mut y = vec![0xaa; shift + 24 + 8];
        let input = [Buffer { meta: &meta, bytes: &x[shift..] }];
        let mut output = [BufferMut { meta: &meta, bytes: Some(&mut y[shift..shift + 24]) }];
        kernel.forward(&mut launch(&mut []), &input, &mut output, &mut []).unwrap();
        assert_eq!(&y[shift..shift + 24], bytes(&X.map(|x| 2.0 * x)), "shift {shift}");
        assert!(y[..shift].iter().chain(&y[shift + 24..]).all(|&byte| byte == 0xaa), "shift {shift}");
    }
}

#[test]
fn a_buffer_of_another_size_never_reaches_the_plugin() {
    let kernel = kernel();
    let (meta, huge) = (meta(&[2, 3]), meta(&[1 << 40, 1 << 40]));
    let (x, mut y) = (bytes(&X), vec![0; 20]);
    let mut output = [BufferMut { meta: &meta, bytes: Some(&mut y) }];
    let input = [Buffer { meta: &meta, bytes: &x }];
    let error = kernel.forward(&mut launch(&mut []), &input, &mut output, &mut []).unwrap_err();
    assert!(error.to_string().contains("outputs[0]: F32 [2, 3] has 24 bytes, the buffer has 20"), "{error}");
    let input = [Buffer { meta: &huge, bytes: &x }];
    let error = kernel.forward(&mut launch(&mut []), &input, &mut [], &mut []).unwrap_err();
    assert!(error.to_string().contains("inputs[0]: "), "{error}");
}

#[test]
fn a_transform_fills_what_the_host_gave() {
    let protocol = open("well");
    let job = TransformJob {
        job: "double".to_owned(),
        inputs: vec![meta(&[6])],
        outputs: vec![meta(&[6])],
        attrs: Attrs::new(),
    };
    let (x, mut y) = (bytes(&X), vec![0; 24]);
    protocol.transform(&job, &[&x], &mut [&mut y]).unwrap();
    assert_eq!(y, bytes(&X.map(|x| 2.0 * x)));

    let error = protocol.transform(&job, &[&x, &x], &mut [&mut y]).unwrap_err();
    assert!(error.to_string().contains("the job lists 1 inputs, 2 buffers are given"), "{error}");
    let error = protocol.transform(&job, &[&x[..23]], &mut [&mut y]).unwrap_err();
    assert!(error.to_string().contains("inputs[0]: F32 [6] has 24 bytes, the buffer has 23"), "{error}");
    let unknown = TransformJob { job: "halve".to_owned(), ..job };
    let error = protocol.transform(&unknown, &[&x], &mut [&mut y]).unwrap_err();
    assert!(error.to_string().contains("plugin raw: transform halve: no such job"), "{error}");
}

#[test]
fn a_target_without_kernel_is_the_plugins_refusal() {
    let target = Target { device: Device::Tpu, features: Vec::new() };
    let error = open("well").build(&call(&[]), &target).err().unwrap();
    assert!(error.to_string().contains("no kernel but for the CPU"), "{error}");
}

/// The conformance suite and the engine call the frame itself.
#[test]
fn the_frame_is_within_reach() {
    let kernel = kernel();
    let empty = Launch {
        stream: std::ptr::null_mut(),
        seed: 0,
        offset: 0,
        scratch: std::ptr::null_mut(),
        scratch_bytes: 0,
        scalars: RSlice::from_slice(&[]),
        threads: 1,
        flags: 0,
        gpu: None,
        host: std::ptr::null(),
        reserved: [0; 4],
    };
    let none = RSlice::from_slice(&[]);
    assert!(kernel.raw().forward(&empty, none, none, none).is_err());
}
