//! Checkpoints opened for the engine, and scripts of the Python peers.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use unswag_checkpoint::Checkpoint;
use unswag_engine::{Backend, LoraSpec, Params, Program, Storage};
use unswag_graph::builders::{self, TensorInfo};
use unswag_tests::{cached, workspace_root};
use unswag_torch::{Torch, TorchTensor};

pub struct Model {
    pub graph: unswag_abi::doc::Graph,
    checkpoint: Checkpoint,
}

impl Model {
    #[track_caller]
    pub fn open(path: &Path) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"));
        let config = checkpoint.config().expect("a config beside the weights").clone();
        let tensors = checkpoint.tensors();
        let tensors = tensors.map(|tensor| TensorInfo { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape });
        let graph = builders::build(&config, tensors).unwrap_or_else(|error| panic!("{error}")).graph;
        Model { graph, checkpoint }
    }

    /// The checkpoint's weights; adapters with A and magnitudes ones and B zeros.
    pub fn params(&self, torch: &Torch, program: &Program) -> Params<TorchTensor> {
        let load = |_, info: &unswag_engine::ParamInfo| {
            if info.name.ends_with("lora_A.weight") || info.name.ends_with("lora_magnitude_vector") {
                return torch
                    .tensor_from_f32(info.shape, info.dtype, &|| vec![1.0; (info.shape[0] * info.shape[1]) as usize]);
            }
            if info.name.ends_with("lora_B.weight") {
                return torch.zeros(info.shape, info.dtype);
            }
            let bytes = self.checkpoint.data(&info.name).unwrap_or_else(|error| panic!("{error}"));
            let stored = self.graph.params[&info.name].dtype;
            let tensor = torch.tensor_from_bytes(info.shape, stored, &bytes)?;
            match info.storage {
                Storage::Nf4(nf4) => torch.quantize(&tensor, info.dtype, nf4),
                Storage::Plain if stored == info.dtype => Ok(tensor),
                Storage::Plain => torch.cast(&tensor, info.dtype),
            }
        };
        Params::load(program, load).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// On every linear layer but the head.
pub fn lora(r: u64) -> LoraSpec {
    LoraSpec {
        r,
        alpha: 2.0 * r as f64,
        rank_stabilized: false,
        dropout: 0.0,
        dora: false,
        targets: vec!["all-linear".into()],
    }
}

/// Within `tolerance` of the largest expected value, or of `floor` where that is more, element by element.
#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32, floor: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: elements");
    let scale = expected.iter().fold(floor, |most, x| most.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= tolerance * scale, "{what}[{index}]: expected {expected}, got {found} (largest {scale})");
    }
}

fn peers() -> PathBuf {
    workspace_root().join("tests/peers")
}

/// The folder that a script of tests/peers fills, filled again only where the script or what it imports has changed.
#[track_caller]
fn made_once(script: &str, imports: &[&str]) -> PathBuf {
    let sources = imports.iter().chain([&script]);
    let text: String =
        sources.map(|name| std::fs::read_to_string(peers().join(name)).expect("a script of ours")).collect();
    let stem = Path::new(env!("CARGO_TARGET_TMPDIR")).join(script);
    let lock = File::create(stem.with_extension("lock")).expect("a lock");
    lock.lock().expect("the only one who fills it");
    let (folder, stamp) = (stem.with_extension("made"), stem.with_extension("stamp"));
    if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&text) {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        peer(script, &[folder.to_str().expect("UTF-8")]);
        std::fs::write(stamp, text).expect("a stamp");
    }
    folder
}

/// What transformers said of every family: for each case a model's folder, and a .safetensors file beside it.
pub fn families() -> PathBuf {
    made_once("engine.py", &["families.py"])
}

/// The cases' names and models' folders.
pub fn cases() -> Vec<(String, PathBuf)> {
    // Small products gain nothing from threads, and threads that wait for each other lose much on a busy machine.
    tch::set_num_threads(1);
    let mut cases: Vec<_> = std::fs::read_dir(families())
        .expect("made")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path))
        .collect();
    cases.sort();
    assert!(cases.len() >= 35, "only {} cases", cases.len());
    cases
}

/// Runs a script of tests/peers; a failure shows all it said.
#[track_caller]
pub fn peer(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(cached("venv", "venv/bin/python"));
    command.arg(peers().join(script)).args(arguments);
    // Python loads the libtorch that it came with.
    command.env_remove("LD_LIBRARY_PATH").env("HF_HUB_OFFLINE", "1").env("TQDM_DISABLE", "1");
    let output = command.output().expect("the environment's Python starts");
    let said = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).join("\n");
    assert!(output.status.success(), "{script} {arguments:?}:\n{said}");
    said
}
