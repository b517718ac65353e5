//! Promise 1 in depth: whatever a model file holds, every command that reads it answers with an error that names it, in
//! four seconds of processor time in an unoptimised build and 256 MiB, and leaves no files.
//!
//! The files are the corpora of the checkpoint crate, cuts through sound files, headers of just under the largest size
//! allowed, folders whose parts contradict each other, and names that are no files.

use std::{
    fs,
    io::{BufWriter, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use unswag_tests::{Base, Family, Outcome, Run, Tiny, smollm2_gguf, workspace_root};

use crate::house::House;

#[path = "../../host/checkpoint/tests/common/gguf_bytes.rs"]
mod gguf_bytes;

/// What a refusal may cost.
const MAX_CPU: Duration = Duration::from_secs(4);
const MAX_BYTES: u64 = 256 << 20;

/// Requires a refusal that names `named`, is cheap, and changes nothing in the house.
#[track_caller]
fn refuses(house: &House, args: &[&str], named: &str) -> Outcome {
    let before = house.names();
    let outcome = house.run(args);
    let said = outcome.code(2);
    assert!(said.starts_with("error: "), "{args:?}: {said}");
    assert!(said.contains(named), "{args:?}: {named} is not named: {said}");
    assert!(!said.contains("panicked"), "{args:?}: {said}");
    assert!(said.len() < 4096, "{args:?}: an error of {} bytes", said.len());
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{args:?}: control characters of a file: {said:?}");
    assert_eq!(outcome.stdout, "", "{args:?}");
    assert!(outcome.cpu < MAX_CPU, "{args:?}: {:?} of processor time", outcome.cpu);
    assert!(outcome.peak_rss_bytes < MAX_BYTES, "{args:?}: {} bytes resident", outcome.peak_rss_bytes);
    assert_eq!(house.names(), before, "{args:?}: something was written");
    outcome
}

/// Both commands that read a model, and the one that writes.
#[track_caller]
fn refused_by_all(house: &House, model: &str, named: &str) {
    let base = house.path(model);
    let guard = base.is_dir().then(|| Base::guard(&base));
    refuses(house, &["inspect", model], named);
    refuses(house, &["surgery", "-p", "delhi", model, "-o", "out"], named);
    drop(guard);
}

/// A folder with a sound config and these bytes as its weights.
fn weights(house: &House, name: &str, bytes: &[u8]) -> PathBuf {
    let folder = house.path(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), config_of(Family::Llama)).unwrap();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
    folder
}

fn config_of(family: Family) -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    Tiny::new(family).write(temp.path());
    fs::read(temp.path().join("config.json")).unwrap()
}

#[test]
fn every_damaged_safetensors_file_of_the_corpus_is_refused() {
    let house = House::new();
    let corpus = workspace_root().join("host/checkpoint/tests/corpus/safetensors");
    let mut seen = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("bad_") {
            let folder = weights(&house, &name, &fs::read(&path).unwrap());
            refused_by_all(&house, &name, &format!("{name}/model.safetensors"));
            fs::remove_dir_all(folder).unwrap();
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} files");
}

#[test]
fn a_checkpoint_cut_at_any_place_is_refused() {
    let house = House::new();
    house.tiny(Family::Llama, "sound");
    let sound = fs::read(house.path("sound/model.safetensors")).unwrap();
    let header_end = 8 + u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
    let spread = (0..12).map(|step| sound.len() * step / 12);
    let near = [0, 1, 7, 8, 9, 10, header_end - 1, header_end, header_end + 1, sound.len() - 2, sound.len() - 1];
    for end in spread.chain(near) {
        let folder = weights(&house, "cut", &sound[..end]);
        refused_by_all(&house, "cut", "cut/model.safetensors");
        fs::remove_dir_all(folder).unwrap();
    }
}

/// A header of this many bytes that `fill` writes, and `data` bytes after it.
fn large_header(path: &Path, bytes: u64, data: u64, fill: impl FnOnce(&mut dyn Write)) {
    let mut file = BufWriter::new(fs::File::create(path).unwrap());
    file.write_all(&bytes.to_le_bytes()).unwrap();
    fill(&mut file);
    let file = file.into_inner().unwrap();
    assert!(file.metadata().unwrap().len() <= 8 + bytes, "the header is longer than it says");
    // Holes read as zeros, which end no JSON document.
    file.set_len(8 + bytes + data).unwrap();
}

#[test]
fn a_header_bomb_costs_no_more_than_the_bounds() {
    const LARGEST: u64 = 100_000_000;
    let repeated = |out: &mut dyn Write, start: &str, part: &str, end: &str| {
        out.write_all(start.as_bytes()).unwrap();
        let chunk = part.repeat(1000);
        let count = (LARGEST as usize - start.len() - end.len()) / chunk.len();
        for _ in 0..count {
            out.write_all(chunk.as_bytes()).unwrap();
        }
        out.write_all(end.as_bytes()).unwrap();
    };
    let entry = r#"{"dtype":"F32","data_offsets":[0,8],"shape":["#;
    let cases: [(&str, &str, &str, &str); 8] = [
        ("spaces", "{", " ", ""),
        ("nested-lists", r#"{"a":"#, "[", ""),
        ("nested-objects", "", r#"{"a":"#, ""),
        ("one-name", "{\"", "a", ""),
        ("a-shape", &format!("{{\"a\":{entry}"), "1,", "2]}}"),
        ("a-number", &format!("{{\"a\":{entry}"), "9", "]}}"),
        ("metadata", r#"{"__metadata__":{"#, r#""a":"b","#, r#""c":"d"}}"#),
        ("escapes", "{\"", "\\u0041", "\":1}"),
    ];
    let house = House::new();
    for (name, start, part, end) in cases {
        let folder = weights(&house, name, b"");
        large_header(&folder.join("model.safetensors"), LARGEST, 8, |out| repeated(out, start, part, end));
        // Not guarded: hashing these files would take longer than all else here.
        let named = format!("{name}/model.safetensors");
        refuses(&house, &["inspect", name], &named);
        refuses(&house, &["surgery", "-p", "delhi", name, "-o", "out"], &named);
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn three_hundred_thousand_tensors_with_one_name_twice_are_refused_in_time() {
    let house = House::new();
    let folder = weights(&house, "many", b"");
    let mut text = String::from("{");
    for index in 0..300_000 {
        text.push_str(&format!(r#""t{index}":{{"dtype":"U8","shape":[1],"data_offsets":[{index},{}]}},"#, index + 1));
    }
    text.push_str(r#""t0":{"dtype":"U8","shape":[1],"data_offsets":[300000,300001]}}"#);
    large_header(&folder.join("model.safetensors"), text.len() as u64, 300_001, |out| {
        out.write_all(text.as_bytes()).unwrap();
    });
    refused_by_all(&house, "many", "many/model.safetensors");
}

#[test]
fn a_sound_file_without_a_config_says_what_could_be_inferred() {
    let house = House::new();
    house.tiny(Family::Llama, "bare");
    fs::remove_file(house.path("bare/config.json")).unwrap();
    let said = refuses(&house, &["inspect", "bare"], "bare").stderr;
    for known in ["llama", "2", "64", "256", "--config"] {
        assert!(said.contains(known), "{known}: {said}");
    }
}

#[test]
fn a_gguf_that_lies_is_refused_by_inspect_and_import() {
    use gguf_bytes::{ARRAY, Builder, STRING};
    let sound = || Builder::new().text("general.architecture", "llama").f32_tensor("w", &[8], &[0.5; 8]);
    let sound_bytes = sound().build();
    let with = |change: fn(&mut Builder)| {
        let mut file = sound();
        change(&mut file);
        file.build()
    };
    let huge = 1u64 << 63;
    let array = |element: u32, count: u64| [&element.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let nested: Vec<u8> = (0..100_000).flat_map(|_| array(ARRAY, 1)).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("magic-only", b"GGUF".to_vec()),
        ("cut-in-the-counts", sound_bytes[..14].to_vec()),
        ("cut-in-a-key", sound_bytes[..40].to_vec()),
        ("cut-in-the-data", sound_bytes[..sound_bytes.len() - 1].to_vec()),
        ("version-0", with(|file| file.version = 0)),
        ("version-99", with(|file| file.version = 99)),
        ("keys-without-end", with(|file| file.key_count = Some(1 << 63))),
        ("tensors-without-end", with(|file| file.tensor_count = Some(1 << 63))),
        ("more-tensors-than-told", with(|file| file.tensor_count = Some(1 << 20))),
        ("a-string-without-end", sound().raw_key(b"k", STRING, &huge.to_le_bytes()).build()),
        ("an-array-without-end", sound().raw_key(b"k", ARRAY, &array(0, huge)).build()),
        ("strings-without-end", sound().raw_key(b"k", ARRAY, &array(STRING, 1 << 40)).build()),
        ("nested-arrays", sound().raw_key(b"k", ARRAY, &nested).build()),
        ("a-type-nobody-knows", sound().raw_key(b"k", 99, &[0; 64]).build()),
        ("a-key-twice", sound().u32("k", 1).u32("k", 2).build()),
        ("a-name-not-utf-8", sound().raw_key(b"\xff\xfe", 4, &[0; 4]).build()),
        ("a-tensor-twice", sound().f32_tensor("w", &[8], &[0.5; 8]).build()),
        ("a-hostile-name", sound().raw_tensor(b"../w", &[8], 0, 32).data(64).build()),
        ("an-empty-name", sound().raw_tensor(b"", &[8], 0, 32).data(64).build()),
        ("an-absurd-rank", sound().raw_tensor(b"v", &[1; 1000], 0, 32).data(64).build()),
        ("a-shape-that-overflows", sound().raw_tensor(b"v", &[huge, 2], 0, 32).data(64).build()),
        ("an-element-type-nobody-knows", sound().raw_tensor(b"v", &[8], 999, 32).data(64).build()),
        ("half-a-block", sound().raw_tensor(b"v", &[33], 2, 32).data(64).build()),
        ("an-offset-out-of-range", sound().raw_tensor(b"v", &[8], 0, huge).data(64).build()),
        ("an-offset-not-aligned", sound().raw_tensor(b"v", &[8], 0, 33).data(64).build()),
        ("an-overlap", sound().raw_tensor(b"v", &[8], 0, 0).data(64).build()),
        ("alignment-0", sound().u32("general.alignment", 0).build()),
        ("alignment-3", sound().u32("general.alignment", 3).build()),
        ("alignment-2-31", sound().u32("general.alignment", 1 << 31).build()),
    ];
    let house = House::without_plugins();
    for (name, bytes) in cases {
        let file = format!("{name}.gguf");
        fs::write(house.path(&file), bytes).unwrap();
        let guard = Base::guard(house.path(&file));
        refuses(&house, &["inspect", &file], &file);
        refuses(&house, &["import", &file, "-o", "out"], &file);
        drop(guard);
    }
    // Sound, but nothing that could become a model.
    fs::write(house.path("poor.gguf"), sound().build()).unwrap();
    refuses(&house, &["import", "poor.gguf", "-o", "out"], "poor.gguf");
    refuses(&house, &["import", "absent.gguf", "-o", "out"], "absent.gguf");
}

#[test]
fn a_gguf_of_three_hundred_thousand_tensors_that_is_no_model_is_refused_in_time() {
    let house = House::without_plugins();
    let mut file = gguf_bytes::Builder::new().text("general.architecture", "llama");
    for index in 0..300_000u64 {
        file = file.raw_tensor(format!("t{index}").as_bytes(), &[1], 24, index * 32);
    }
    fs::write(house.path("many.gguf"), file.data(300_000 * 32).build()).unwrap();
    refuses(&house, &["import", "many.gguf", "-o", "out"], "many.gguf");
}

#[test]
fn a_real_gguf_cut_in_its_data_is_refused_before_anything_is_written() {
    let house = House::without_plugins();
    fs::copy(smollm2_gguf(), house.path("cut.gguf")).unwrap();
    let file = fs::File::options().write(true).open(house.path("cut.gguf")).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    refuses(&house, &["inspect", "cut.gguf"], "cut.gguf");
    refuses(&house, &["import", "cut.gguf", "-o", "out"], "cut.gguf");
}

#[test]
fn an_index_that_disagrees_with_its_shards_or_leaves_the_folder_is_refused() {
    let house = House::new();
    let make = |name: &str| {
        let folder = house.path(name);
        Tiny { shards: 2, tokenizer: false, ..Tiny::new(Family::Llama) }.write(&folder);
        folder
    };
    let sound: Value = serde_json::from_slice(&fs::read(make("sound").join(INDEX)).unwrap()).unwrap();
    house.run(&["inspect", "sound"]).ok();
    const INDEX: &str = "model.safetensors.index.json";
    let norm = "model.norm.weight";
    let other_shard = match sound["weight_map"][norm].as_str().unwrap() {
        "model-00001-of-00002.safetensors" => "model-00002-of-00002.safetensors",
        _ => "model-00001-of-00002.safetensors",
    };
    let with = |change: &dyn Fn(&mut Value)| {
        let mut index = sound.clone();
        change(&mut index);
        index.to_string()
    };
    let points_to = |file: Value| with(&|index| index["weight_map"][norm] = file.clone());
    let twice =
        sound.to_string().replacen(&format!("\"{norm}\":"), &format!("\"{norm}\":\"{other_shard}\",\"{norm}\":"), 1);
    let cases: Vec<(&str, String)> = vec![
        ("empty", String::new()),
        ("text", "once upon a time".into()),
        ("a-list", "[]".into()),
        ("no-map", json!({"metadata": {}}).to_string()),
        ("an-empty-map", json!({"weight_map": {}}).to_string()),
        ("a-map-that-is-a-list", json!({"weight_map": [norm]}).to_string()),
        ("a-number-for-a-file", points_to(json!(7))),
        ("no-file-name", points_to(json!(""))),
        ("the-folder-itself", points_to(json!("."))),
        ("outside", points_to(json!("../sound/model-00001-of-00002.safetensors"))),
        ("outside-by-the-root", points_to(json!("/etc/passwd"))),
        ("a-nul-in-the-name", points_to(json!("a\u{0}b"))),
        ("a-missing-shard", points_to(json!("model-00003-of-00002.safetensors"))),
        ("the-other-shard", points_to(json!(other_shard))),
        ("the-config-for-a-shard", points_to(json!("config.json"))),
        ("a-tensor-that-is-nowhere", with(&|index| index["weight_map"]["nowhere"] = json!(other_shard))),
        ("a-tensor-left-out", with(&|index| drop(index["weight_map"].as_object_mut().unwrap().remove(norm)))),
        ("a-tensor-twice", twice),
        ("a-bomb", "[".repeat(1 << 20)),
    ];
    for (name, index) in cases {
        fs::write(make(name).join(INDEX), index).unwrap();
        refused_by_all(&house, name, &format!("{name}/"));
    }
    let folder = make("a-shard-that-is-a-link-out");
    let shard = folder.join("model-00001-of-00002.safetensors");
    fs::remove_file(&shard).unwrap();
    symlink("../sound/model-00001-of-00002.safetensors", &shard).unwrap();
    refused_by_all(&house, "a-shard-that-is-a-link-out", "a-shard-that-is-a-link-out");
    let folder = make("shards-without-index");
    fs::remove_file(folder.join(INDEX)).unwrap();
    refused_by_all(&house, "shards-without-index", "shards-without-index");
}

#[test]
fn a_config_that_is_absurd_or_disagrees_with_the_tensors_is_refused() {
    let house = House::new();
    house.tiny(Family::Llama, "model");
    let path = house.path("model/config.json");
    let sound: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut cases: Vec<(String, String)> = Vec::new();
    let sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"];
    for field in sizes {
        for value in
            [json!(0), json!(-1), json!(1.5), json!("64"), json!(null), json!([64]), json!(u64::MAX), json!(1e308)]
        {
            let mut config = sound.clone();
            config[field] = value.clone();
            cases.push((format!("{field} = {value}"), config.to_string()));
        }
    }
    for (field, value) in [
        ("hidden_size", json!(65)),
        ("intermediate_size", json!(169)),
        ("num_hidden_layers", json!(3)),
        ("num_hidden_layers", json!(1_000_000_000_000u64)),
        ("num_attention_heads", json!(3)),
        ("num_attention_heads", json!(1u64 << 62)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("vocab_size", json!(257)),
        ("head_dim", json!(0)),
        ("head_dim", json!(17)),
        ("head_dim", json!(u64::MAX)),
        ("hidden_act", json!("frobnicate")),
        ("model_type", json!(7)),
        ("model_type", json!("lama")),
        ("model_type", json!("../../llama")),
    ] {
        let mut config = sound.clone();
        config[field] = value.clone();
        cases.push((format!("{field} = {value}"), config.to_string()));
    }
    for text in ["", "null", "7", "[]", "{}", "{", "\u{feff}{}", "\0", "not json"] {
        cases.push((format!("{text:?}"), text.to_owned()));
    }
    cases.push(("a bomb".into(), "[".repeat(1 << 20)));
    cases.push(("an endless number".into(), format!(r#"{{"hidden_size":{}}}"#, "9".repeat(1 << 20))));
    for (what, config) in cases {
        println!("{what}");
        fs::write(&path, config).unwrap();
        refused_by_all(&house, "model", "model");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused_by_all(&house, "model", "config.json");
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let house = House::new();
    let fifo = |path: &Path| Command::new("mkfifo").arg(path).outcome().ok().to_owned();
    let folder = |name: &str| {
        house.tiny(Family::Llama, name);
        fs::remove_file(house.path(name).join("model.safetensors")).unwrap();
        house.path(name).join("model.safetensors")
    };
    fifo(&folder("a-pipe"));
    fs::create_dir(folder("a-folder")).unwrap();
    symlink("model.safetensors", folder("a-loop")).unwrap();
    symlink("nowhere", folder("a-dangling-link")).unwrap();
    symlink("/dev/zero", folder("a-device")).unwrap();
    house.tiny(Family::Llama, "a-config-pipe");
    fs::remove_file(house.path("a-config-pipe/config.json")).unwrap();
    fifo(&house.path("a-config-pipe/config.json"));
    // Base guards read files, and these would not end.
    for name in ["a-pipe", "a-folder", "a-loop", "a-dangling-link", "a-device", "a-config-pipe"] {
        refuses(&house, &["inspect", name], name);
        refuses(&house, &["surgery", "-p", "delhi", name, "-o", "out"], name);
    }
    fifo(&house.path("alone.safetensors"));
    for name in ["alone.safetensors", "/dev/zero", "/dev/null", "absent", "absent/model.safetensors"] {
        refuses(&house, &["inspect", name], name);
    }
    refuses(&house, &["inspect", ""], "");
}

#[test]
fn a_damaged_record_is_refused_by_every_command_that_reads_it() {
    let house = House::new();
    house.tiny(Family::Llama, "base");
    house.run(&["surgery", "-p", "composite", "base", "-o", "out"]).ok();
    let path = house.path("out/unswag.yaml");
    let sound = fs::read_to_string(&path).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(sound.contains(from), "the record has no {from}:\n{}", &sound[..2000]);
        sound.replacen(from, to, 1)
    };
    // Nine aliases of nine aliases of nine: a billion laughs, without the words.
    let laughs: String = (1..12)
        .map(|level| format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(",")))
        .collect();
    let cases = [
        ("empty", String::new()),
        ("text", "once upon a midnight dreary".into()),
        ("a list", "- 1\n- 2\n".into()),
        ("laughter", format!("unswag: 1\na0: &a0 [lol]\n{laughs}")),
        ("nesting", format!("unswag: {}", "[".repeat(100_000))),
        ("another version", changed("unswag: 1", "unswag: 2")),
        ("no version", changed("unswag: 1", "version: 1")),
        ("a field nobody knows", format!("{sound}colour: red\n")),
        ("a file outside", changed("name: model.safetensors", "name: ../base/model.safetensors")),
        ("a file by the root", changed("name: model.safetensors", "name: /etc/passwd")),
        ("another patch version", changed("version: 1\n", "version: 999\n")),
        ("bytes that are none", changed("bytes: ", "bytes: -")),
        ("cut", sound[..sound.len() / 2].to_owned()),
    ];
    for (what, record) in cases {
        println!("{what}");
        fs::write(&path, record).unwrap();
        let guard = Base::guard(house.path("out"));
        refuses(&house, &["inspect", "out"], "unswag.yaml");
        if what != "another patch version" {
            // That one can be taken back without being understood.
            refuses(&house, &["undo", "out"], "out");
        }
        refuses(&house, &["surgery", "-p", "delhi", "out", "-o", "more"], "unswag.yaml");
        let verified = house.run(&["verify", "out"]);
        assert!(matches!(verified.status.code(), Some(1 | 2)), "{what}: {}", verified.stdout);
        assert!(!verified.stderr.contains("panicked") && verified.cpu < MAX_CPU, "{what}: {verified:?}");
        drop(guard);
    }
    // Beyond what a record may take, and never read.
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    refuses(&house, &["inspect", "out"], "unswag.yaml");
    fs::remove_file(&path).unwrap();
    Command::new("mkfifo").arg(&path).outcome().ok();
    refuses(&house, &["inspect", "out"], "unswag.yaml");
}
