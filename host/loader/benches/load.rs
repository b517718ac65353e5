//! What a plugin costs: to load, to probe, to ask for a plan, and to call.
//!
//! `cargo bench -p unswag-loader`. The library is the one on the bare frame, so what is measured is the loader's; another may
//! be named in UNSWAG_BENCH_PLUGIN. Each load
//! is of other bytes (one is appended; ELF ignores it), since the same bytes are loaded once. Prints median and range.

use std::{
    fs,
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use unswag_abi::{
    abi_stable::std_types::RSlice,
    doc::{Attrs, Device, Dtype, Meta, OpCall, Target},
    frame::{DlDevice, Launch, TensorView},
};
use unswag_loader::{Buffer, BufferMut, Consent, LaunchOptions, Plugin, PluginFile, ProbeOptions, load, probe_with};

/// Each plugin stays mapped for good, so there are not many.
const LOADS: usize = 40;
const CALLS: u32 = 200_000;

fn main() {
    // Another library, for its size alone: UNSWAG_BENCH_PLUGIN=target/release/libunswag_delhi.so.
    let other = std::env::var_os("UNSWAG_BENCH_PLUGIN").map(std::path::PathBuf::from);
    let beside =
        || std::env::current_exe().expect("a bench has an executable").with_file_name("libunswag_raw_plugin.so");
    let library = other.clone().unwrap_or_else(beside);
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let bytes = fs::read(&library).expect("cargo builds the raw plugin beside its benches");
    println!("library: {} bytes", bytes.len());

    let files: Vec<_> = (0..LOADS).map(|number| variant(&bytes, number, folder.path())).collect();
    let mut plugins = Vec::new();
    report("read, check and hash", files.iter().map(|path| timed(|| PluginFile::read(path)).0));
    report(
        "load: seal, dlopen, layout, manifest",
        files.iter().map(|path| {
            let file = PluginFile::read(path).expect("a plugin");
            let (time, plugin) = timed(|| load(&file, Consent::Unlocked).expect("it loads"));
            plugins.push(plugin);
            time
        }),
    );
    let options = ProbeOptions { program: env!("CARGO_BIN_EXE_unswag-probe-child").into(), ..ProbeOptions::default() };
    report(
        "probe in the sandboxed child",
        files.iter().map(|path| {
            let file = PluginFile::read(path).expect("a plugin");
            timed(|| probe_with(&file, &options).expect("it passes")).0
        }),
    );
    if other.is_none() {
        calls(&plugins[0]);
    }
}

fn calls(plugin: &Plugin) {
    let protocol = plugin
        .open("raw", &Attrs::from([("group".to_owned(), json!(64))]), std::sync::Arc::new(|_, _| {}))
        .expect("it opens");
    let meta = Meta { dtype: Dtype::F32, shape: vec![8] };
    let call = OpCall { kind: "raw.double".to_owned(), inputs: vec![meta.clone()], attrs: Attrs::new() };
    let target = Target { device: Device::Cpu, features: Vec::new() };
    let kernel = protocol.build(&call, &target).expect("it builds").kernel.expect("a CPU kernel");
    let x: Vec<u8> = (0..8).flat_map(|i| (i as f32).to_ne_bytes()).collect();
    let mut y = vec![0; 32];

    let (time, ()) = timed(|| {
        for _ in 0..CALLS / 100 {
            black_box(protocol.plan(black_box(&call)).expect("it plans"));
        }
    });
    println!("{:40} {:8.0} ns", "plan (JSON both ways)", per_call(time, CALLS / 100));

    let (time, ()) = timed(|| {
        for _ in 0..CALLS {
            let mut launch = LaunchOptions { seed: 0, offset: 0, scratch: &mut [], scalars: &[], threads: 1, flags: 0 };
            let input = [Buffer { meta: &meta, bytes: black_box(&x) }];
            let mut output = [BufferMut { meta: &meta, bytes: Some(&mut y) }];
            kernel.forward(&mut launch, &input, &mut output, &mut []).expect("it runs");
        }
    });
    assert_eq!(f32::from_ne_bytes([y[4], y[5], y[6], y[7]]), 2.0, "2 * 1");
    println!("{:40} {:8.0} ns", "forward of 8 elements, checked buffers", per_call(time, CALLS));

    let shape = [8i64];
    let view = |data: *mut u8| TensorView {
        data: data.cast(),
        device: DlDevice { kind: 1, index: 0 },
        ndim: 1,
        dtype: Dtype::F32.into(),
        shape: shape.as_ptr(),
        strides: std::ptr::null(),
        byte_offset: 0,
        life: std::marker::PhantomData,
    };
    let launch = Launch {
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
    let (inputs, outputs) = ([view(x.as_ptr().cast_mut())], [view(y.as_mut_ptr())]);
    let (time, ()) = timed(|| {
        for _ in 0..CALLS {
            let answer = kernel.raw().forward(
                black_box(&launch),
                RSlice::from_slice(&inputs),
                RSlice::from_slice(&outputs),
                RSlice::from_slice(&[]),
            );
            assert!(answer.is_ok());
        }
    });
    println!("{:40} {:8.0} ns", "forward of 8 elements, the frame itself", per_call(time, CALLS));
}

fn variant(bytes: &[u8], number: usize, folder: &Path) -> std::path::PathBuf {
    let path = folder.join(format!("lib{number}.so"));
    let mut bytes = bytes.to_vec();
    bytes.extend(number.to_le_bytes());
    fs::write(&path, bytes).expect("a file can be written");
    path
}

fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = run();
    (start.elapsed(), result)
}

fn per_call(time: Duration, calls: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(calls)
}

fn report(what: &str, times: impl Iterator<Item = Duration>) {
    let mut times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{what:40} {:8.2} ms ({:.2} to {:.2}, n = {})",
        times[times.len() / 2],
        times[0],
        times[times.len() - 1],
        times.len()
    );
}
