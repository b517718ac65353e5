//! Opening checkpoints in every layout, and refusing what is not one.

#[path = "common/safetensors_bytes.rs"]
mod safetensors_bytes;
#[path = "common/watch.rs"]
mod watch;

use std::{
    fs,
    ops::ControlFlow,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use safetensors_bytes::{entry, file, write_folder, write_model, write_sharded_folder};
use tempfile::TempDir;
use unswag_abi::doc::Dtype;
use unswag_checkpoint::{Checkpoint, Error, Foreign, IndexFault, SkipReason, silent};
use watch::Watched;

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

/// The error of a path that must not open. Its text must hold each of `says`.
#[track_caller]
fn refused(path: &Path, says: &[&str]) -> Error {
    let error = Checkpoint::open(path).expect_err("it should be refused");
    let text = error.to_string();
    for part in says {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
    assert!(!text.chars().any(char::is_control), "{text:?}");
    error
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
}

#[test]
fn a_folder_gives_tensors_config_and_side_files_and_is_not_changed() {
    let scratch = scratch();
    let folder = scratch.path().join("model");
    write_folder(&folder);
    let watched = Watched::new(&folder);

    let checkpoint = Checkpoint::open(&folder).expect("it opens");
    assert_eq!(checkpoint.files().len(), 1);
    assert_eq!(checkpoint.files()[0].name, "model.safetensors");
    assert_eq!(checkpoint.metadata().get("format").map(String::as_str), Some("pt"));
    assert_eq!(checkpoint.config().expect("a config")["hidden_size"], 3);
    assert_eq!(checkpoint.config_path(), Some(checkpoint.root().join("config.json").as_path()));
    let side_files: Vec<&str> = checkpoint.side_files().iter().map(|side_file| side_file.name.as_str()).collect();
    assert_eq!(side_files, ["README.md", "generation_config.json", "tokenizer.json"]);

    let info = checkpoint.tensor("model.norm.weight").expect("the tensor");
    assert_eq!((info.dtype, info.shape, info.bytes(), info.elements()), (Dtype::F32, &[3u64][..], 12, 3));
    assert_eq!(floats(&checkpoint.data("model.norm.weight").expect("data")), [1000.0, 1001.0, 1002.0]);
    let mut buffer = vec![1; 100];
    checkpoint.read("model.norm.weight", &mut buffer).expect("data");
    assert_eq!(buffer, checkpoint.data("model.norm.weight").expect("data"));
    let (path, range) = checkpoint.locate("model.norm.weight").expect("where it is");
    assert_eq!(buffer, fs::read(path).expect("the file")[range.start as usize..range.end as usize]);
    assert_eq!(checkpoint.data("scale").expect("a scalar").len(), 4);
    watched.assert_unchanged();
}

#[test]
fn tensors_come_in_file_order() {
    let scratch = scratch();
    let path = scratch.path().join("m.safetensors");
    let header = format!("{{{},{},{}}}", entry("z", &[1], 8, 12), entry("a", &[1], 4, 8), entry("m", &[1], 0, 4));
    fs::write(&path, file(&header, &[0; 12])).expect("written");
    let checkpoint = Checkpoint::open(&path).expect("it opens");
    assert_eq!(checkpoint.tensors().map(|info| info.name).collect::<Vec<_>>(), ["m", "a", "z"]);
}

#[test]
fn a_single_file_finds_the_config_and_tokenizer_beside_it_and_nothing_else() {
    let scratch = scratch();
    write_folder(scratch.path());
    fs::write(scratch.path().join("holiday.jpg"), "not a model's").expect("written");
    fs::write(scratch.path().join("other.safetensors"), "not this model's").expect("written");
    let checkpoint = Checkpoint::open(scratch.path().join("model.safetensors")).expect("it opens");
    assert!(checkpoint.config().is_some());
    let side_files: Vec<&str> = checkpoint.side_files().iter().map(|side_file| side_file.name.as_str()).collect();
    assert_eq!(side_files, ["README.md", "generation_config.json", "tokenizer.json"]);
    assert!(checkpoint.skipped().is_empty());
}

#[test]
fn a_file_without_config_opens_and_takes_one_from_elsewhere() {
    let scratch = scratch();
    let path = scratch.path().join("m.safetensors");
    write_model(&path, &[("w", &[2])]);
    let checkpoint = Checkpoint::open(&path).expect("it opens");
    assert!(checkpoint.config().is_none() && checkpoint.config_path().is_none());
    let config = scratch.path().join("elsewhere.json");
    fs::write(&config, r#"{"model_type": "gpt2"}"#).expect("written");
    let checkpoint = checkpoint.with_config(&config).expect("the config is read");
    assert_eq!(checkpoint.config().expect("a config")["model_type"], "gpt2");
}

#[test]
fn shards_open_by_folder_and_by_index() {
    let scratch = scratch();
    write_sharded_folder(scratch.path());
    for path in [scratch.path().to_owned(), scratch.path().join("model.safetensors.index.json")] {
        let checkpoint = Checkpoint::open(&path).expect("it opens");
        assert_eq!(checkpoint.files().len(), 2);
        assert!(checkpoint.index_path().is_some());
        let found: Vec<(&str, usize)> = checkpoint.tensors().map(|info| (info.name, info.file)).collect();
        assert_eq!(found, [("a", 0), ("c", 0), ("b", 1)]);
        assert_eq!(floats(&checkpoint.data("b").expect("data")), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert!(checkpoint.side_files().is_empty(), "{:?}", checkpoint.side_files());
    }
}

/// `models--org--name` as `huggingface_hub` lays it out; returns the snapshot.
fn write_cache(root: &Path) -> PathBuf {
    let (blobs, snapshot) = (root.join("blobs"), root.join("snapshots/0123abcd"));
    fs::create_dir_all(&blobs).expect("made");
    fs::create_dir_all(&snapshot).expect("made");
    write_model(&blobs.join("aaaa"), &[("w", &[3])]);
    for (blob, text, name) in [("bbbb", r#"{"model_type": "opt"}"#, "config.json"), ("cccc", "{}", "tokenizer.json")] {
        fs::write(blobs.join(blob), text).expect("written");
        symlink(format!("../../blobs/{blob}"), snapshot.join(name)).expect("linked");
    }
    symlink("../../blobs/aaaa", snapshot.join("model.safetensors")).expect("linked");
    snapshot
}

#[test]
fn a_cache_snapshot_opens_through_its_links_into_blobs() {
    let scratch = scratch();
    let repository = scratch.path().join("hub/models--org--name");
    let snapshot = write_cache(&repository);
    for path in [snapshot.clone(), snapshot.join("model.safetensors")] {
        let checkpoint = Checkpoint::open(&path).expect("it opens");
        assert!(checkpoint.files()[0].path.ends_with("blobs/aaaa"));
        assert_eq!(checkpoint.files()[0].name, "model.safetensors");
        assert_eq!(checkpoint.config().expect("a config")["model_type"], "opt");
        assert_eq!(checkpoint.side_files()[0].name, "tokenizer.json");
        assert!(checkpoint.side_files()[0].path.ends_with("blobs/cccc"));
    }
    refused(&repository, &["Hugging Face cache", "snapshots/0123abcd"]);
}

#[test]
fn a_link_out_of_the_folder_is_refused_as_weights_and_skipped_as_side_file() {
    let scratch = scratch();
    let secret = scratch.path().join("secret");
    fs::write(&secret, "private").expect("written");
    write_model(&scratch.path().join("elsewhere.safetensors"), &[("w", &[3])]);

    let folder = scratch.path().join("model");
    write_folder(&folder);
    symlink(&secret, folder.join("special_tokens_map.json")).expect("linked");
    let checkpoint = Checkpoint::open(&folder).expect("it opens");
    assert!(checkpoint.side_files().iter().all(|side_file| side_file.name != "special_tokens_map.json"));
    assert!(checkpoint.skipped().iter().any(|skipped| skipped.reason == SkipReason::StrayLink));

    fs::remove_file(folder.join("model.safetensors")).expect("removed");
    symlink("../elsewhere.safetensors", folder.join("model.safetensors")).expect("linked");
    refused(&folder, &["\"model.safetensors\" leads out of the model's folder"]);
    // Named by the user, a link may lead anywhere.
    assert!(Checkpoint::open(folder.join("model.safetensors")).is_ok());
}

#[test]
fn what_a_copy_leaves_out_is_listed_with_the_reason() {
    let scratch = scratch();
    write_folder(scratch.path());
    for name in
        ["pytorch_model.bin", "pytorch_model.bin.index.json", "q.gguf", "optimizer.pt", ".gitattributes", "unswag.yaml"]
    {
        fs::write(scratch.path().join(name), "x").expect("written");
    }
    fs::create_dir(scratch.path().join("checkpoint-500")).expect("made");
    let checkpoint = Checkpoint::open(scratch.path()).expect("it opens");
    let skipped: Vec<(&str, SkipReason)> =
        checkpoint.skipped().iter().map(|skipped| (skipped.name.as_str(), skipped.reason)).collect();
    assert_eq!(
        skipped,
        [
            (".gitattributes", SkipReason::Hidden),
            ("checkpoint-500", SkipReason::Folder),
            ("optimizer.pt", SkipReason::OtherWeights),
            ("pytorch_model.bin", SkipReason::OtherWeights),
            ("pytorch_model.bin.index.json", SkipReason::OtherWeights),
            ("q.gguf", SkipReason::OtherWeights),
            ("unswag.yaml", SkipReason::Record),
        ]
    );
    assert_eq!(checkpoint.side_files().len(), 3);
}

#[test]
fn other_kinds_of_files_are_named_with_the_way_on() {
    let scratch = scratch();
    let path = scratch.path().join("model.safetensors");
    for (start, foreign, says) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"[..],
            Foreign::GitLfsPointer,
            "git lfs pull",
        ),
        (b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0", Foreign::Gguf, "unswag import"),
        (b"PK\x03\x04\0\0\x08\x08\0\0\0\0", Foreign::Zip, "save_pretrained"),
        (b"\x80\x02}q\0.\0\0\0\0\0\0", Foreign::Pickle, "save_pretrained"),
        (b"<!doctype html><title>404</title>", Foreign::Html, "download the file again"),
        (b"Dear reader, this is not a model.", Foreign::Text, "check the path"),
        (b"", Foreign::Empty, "download the file again"),
    ] {
        fs::write(&path, start).expect("written");
        let error = refused(&path, &["model.safetensors", says]);
        assert!(matches!(error, Error::Foreign { foreign: found, .. } if found == foreign), "{error:?}");
    }
}

#[test]
fn paths_that_hold_no_model_say_what_they_hold() {
    let scratch = scratch();
    let folder = scratch.path().join("empty");
    refused(&folder, &["no such file or folder"]);
    fs::create_dir(&folder).expect("made");
    refused(&folder, &["no model in this folder", "model.safetensors.index.json"]);
    fs::write(folder.join("pytorch_model.bin"), "x").expect("written");
    refused(&folder, &["pytorch_model.bin", "save_pretrained"]);
    fs::write(folder.join("m.gguf"), "x").expect("written");
    refused(&folder, &["m.gguf", "unswag import"]);
    write_model(&folder.join("one.safetensors"), &[("w", &[1])]);
    assert!(Checkpoint::open(&folder).is_ok(), "the only safetensors file is meant");
    write_model(&folder.join("two.safetensors"), &[("w", &[1])]);
    refused(&folder, &["\"one.safetensors\", \"two.safetensors\"", "give the path of one file"]);
}

#[test]
fn a_named_pipe_is_refused_and_not_waited_for() {
    let scratch = scratch();
    let path = scratch.path().join("model.safetensors");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("made");
    refused(&path, &["named pipe"]);
    refused(Path::new("/dev/zero"), &["device"]);
}

#[test]
fn a_file_without_tensors_is_refused() {
    let scratch = scratch();
    let path = scratch.path().join("model.safetensors");
    fs::write(&path, file("{}", b"")).expect("written");
    assert!(matches!(refused(&path, &["no tensors"]), Error::NoTensors { .. }));
}

/// A sharded folder whose index is replaced by `index`.
#[track_caller]
fn index_refused(index: &str, says: &[&str]) -> Error {
    let scratch = scratch();
    let folder = scratch.path().join("model");
    write_sharded_folder(&folder);
    write_model(&scratch.path().join("outside.safetensors"), &[("a", &[4]), ("b", &[5]), ("c", &[2, 2])]);
    fs::write(folder.join("model.safetensors.index.json"), index).expect("written");
    refused(&folder, says)
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

#[test]
fn an_index_that_points_out_of_its_folder_is_refused() {
    for file in
        ["../outside.safetensors", "/etc/passwd", "..", ".", "", "a/b.safetensors", "x\\\\y.safetensors", "config.json"]
    {
        let error = index_refused(&format!(r#"{{"weight_map": {{"a": "{file}"}}}}"#), &["weight_map names the file"]);
        assert!(matches!(error, Error::Index { fault: IndexFault::BadFile { .. }, .. }), "{file}: {error:?}");
    }
}

#[test]
fn a_shard_that_is_a_link_out_of_the_folder_is_refused() {
    let scratch = scratch();
    let folder = scratch.path().join("model");
    write_sharded_folder(&folder);
    fs::rename(folder.join(TWO), scratch.path().join("moved.safetensors")).expect("moved");
    symlink("../moved.safetensors", folder.join(TWO)).expect("linked");
    assert!(matches!(refused(&folder, &[TWO, "leads out"]), Error::Escapes { .. }));
}

#[test]
fn index_and_shards_must_list_the_same_tensors() {
    let map = |entries: &str| format!(r#"{{"weight_map": {{{entries}}}}}"#);
    let good = format!(r#""a": "{ONE}", "b": "{TWO}", "c": "{ONE}""#);
    let fault = |entries: &str, says: &[&str]| match index_refused(&map(entries), says) {
        Error::Index { fault, .. } => fault,
        other => panic!("expected a fault of the index, got {other}"),
    };
    let found = fault(&format!(r#"{good}, "d": "{ONE}""#), &["\"d\"", "no shard has it"]);
    assert!(matches!(found, IndexFault::Misplaced { .. }));
    let found = fault(&format!(r#""a": "{ONE}", "b": "{TWO}""#), &["\"c\"", ONE, "not in weight_map"]);
    assert!(matches!(found, IndexFault::Unlisted { .. }));
    let found = fault(&format!(r#""a": "{TWO}", "b": "{TWO}", "c": "{ONE}""#), &["\"a\"", "it is in"]);
    assert!(matches!(found, IndexFault::Misplaced { .. }));
    let found = fault(&format!(r#"{good}, "a": "{ONE}""#), &["\"a\" twice"]);
    assert!(matches!(found, IndexFault::Twice { .. }));
    let found = fault(&format!(r#"{good}, "d": "model-00003-of-00003.safetensors""#), &["00003", "not in the folder"]);
    assert!(matches!(found, IndexFault::MissingShard { .. }));
}

#[test]
fn an_index_that_is_no_index_is_refused() {
    index_refused("", &["byte 0"]);
    index_refused("[]", &["weight_map"]);
    index_refused("{}", &["\"weight_map\" is missing"]);
    index_refused(r#"{"weight_map": {}}"#, &["missing or empty"]);
    index_refused(r#"{"weight_map": {"a": 1}}"#, &["byte"]);
    index_refused(r#"{"weight_map": ["a"]}"#, &["from tensor to file name"]);
    index_refused(&format!(r#"{{"weight_map": {{"a": "{ONE}"}}, "x": {}"#, "[".repeat(100_000)), &["byte"]);
    let many: Vec<String> = (0..5000).map(|number| format!(r#""t{number}": "{number}.safetensors""#)).collect();
    index_refused(&format!(r#"{{"weight_map": {{{}}}}}"#, many.join(",")), &["more than 4096 files"]);
}

#[test]
fn a_tensor_in_two_shards_is_refused_with_both_named() {
    let scratch = scratch();
    write_sharded_folder(scratch.path());
    write_model(&scratch.path().join(TWO), &[("b", &[5]), ("a", &[4])]);
    refused(scratch.path(), &["\"a\"", ONE, TWO]);
}

#[test]
fn configs_that_are_none_are_refused() {
    let scratch = scratch();
    write_folder(scratch.path());
    let config = scratch.path().join("config.json");
    let empty_objects = format!("[{}0]", "{},".repeat(60_000));
    for (text, says) in [
        ("", "not valid JSON"),
        ("[1, 2]", "not an object"),
        ("null", "not an object"),
        ("{\"a\": 1", "not valid JSON"),
        ("{\"a\": 1} x", "not valid JSON"),
        (&format!("{{\"a\": {}", "[".repeat(1000)), "not valid JSON"),
        (&format!("{{\"a\": {}", "[".repeat(1_000_000)), "more than 50000 objects"),
        (&format!("{{\"a\": {empty_objects}}}"), "more than 50000 objects"),
    ] {
        fs::write(&config, text).expect("written");
        refused(scratch.path(), &["config.json", says, "expected a JSON object"]);
    }
    // A sparse file of 1 GB: refused by its size, unread.
    fs::File::create(&config).and_then(|file| file.set_len(1 << 30)).expect("made");
    refused(scratch.path(), &["config.json", "1073741824 bytes"]);
}

#[test]
fn a_wrong_name_is_answered_with_a_near_one() {
    let scratch = scratch();
    write_folder(scratch.path());
    let checkpoint = Checkpoint::open(scratch.path()).expect("it opens");
    let error = checkpoint.data("norm.weight").expect_err("no such tensor").to_string();
    assert!(error.contains("did you mean \"model.norm.weight\""), "{error}");
    assert!(checkpoint.data("").is_err());
}

#[test]
fn a_file_changed_after_opening_is_an_error_and_no_signal() {
    let scratch = scratch();
    let path = scratch.path().join("m.safetensors");
    write_model(&path, &[("w", &[100_000])]);
    let checkpoint = Checkpoint::open(&path).expect("it opens");
    let length = fs::metadata(&path).expect("it is there").len();
    fs::File::options().write(true).open(&path).and_then(|file| file.set_len(length / 2)).expect("cut");
    assert!(matches!(checkpoint.data("w"), Err(Error::Changed { .. })));
    assert!(matches!(checkpoint.same_data("w", &checkpoint, "w", &silent), Err(Error::Changed { .. })));
    let mut buffer = Vec::new();
    assert!(matches!(checkpoint.read("w", &mut buffer), Err(Error::Changed { .. })));
    // Another file under the same name is another checkpoint, even where it has the same length. The first one is kept,
    // so that its inode cannot be used again.
    fs::rename(&path, scratch.path().join("first")).expect("renamed");
    write_model(&path, &[("w", &[100_000])]);
    assert_eq!(fs::metadata(&path).expect("it is there").len(), length);
    assert!(matches!(checkpoint.data("w"), Err(Error::Changed { .. })));
    assert!(matches!(checkpoint.read("w", &mut buffer), Err(Error::Changed { .. })));
}

#[test]
fn a_file_cut_while_two_are_compared_is_an_error_and_no_signal() {
    let scratch = scratch();
    let paths = ["a.safetensors", "b.safetensors"].map(|name| scratch.path().join(name));
    // Three chunks and a rest.
    for path in &paths {
        write_model(path, &[("w", &[3_500_000]), ("other", &[2])]);
    }
    let open = || paths.each_ref().map(|path| Checkpoint::open(path).expect("it opens"));
    let [a, b] = open();
    let heard = AtomicU64::new(0);
    let hear = |bytes: u64| {
        heard.fetch_add(bytes, Relaxed);
        ControlFlow::Continue(())
    };
    assert!(a.same_data("w", &b, "w", &hear).expect("equal files"));
    assert_eq!(heard.into_inner(), 14_000_000);
    assert!(!a.same_data("w", &b, "other", &silent).expect("another length is another tensor"));

    // One byte of the last chunk differs.
    let mut bytes = fs::read(&paths[1]).expect("read");
    let (_, range) = b.locate("w").expect("it is there");
    bytes[range.end as usize - 1] ^= 1;
    fs::write(&paths[1], bytes).expect("written");
    let [a, b] = open();
    assert!(!a.same_data("w", &b, "w", &silent).expect("sound files"));

    for at_chunk in [1, 2, 3] {
        write_model(&paths[1], &[("w", &[3_500_000]), ("other", &[2])]);
        let [a, b] = open();
        let chunks = AtomicU64::new(0);
        let cut = |_: u64| {
            if chunks.fetch_add(1, Relaxed) + 1 == at_chunk {
                fs::File::options().write(true).open(&paths[1]).and_then(|file| file.set_len(1 << 20)).expect("cut");
            }
            ControlFlow::Continue(())
        };
        let error = a.same_data("w", &b, "w", &cut).expect_err("cut");
        assert!(matches!(error, Error::Changed { now_bytes: 1_048_576, .. }), "chunk {at_chunk}: {error}");
    }
    write_model(&paths[1], &[("w", &[3_500_000]), ("other", &[2])]);
    let [a, _] = open();
    let stop = |_: u64| ControlFlow::Break(());
    assert!(matches!(a.same_data("w", &a, "w", &stop), Err(Error::Cancelled)));
}
