//! The five promises of the README, each kept or broken in public.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use unswag_tests::{Base, Family, Run, plugin, unswag};

use crate::house::{House, assert_same_files, names};

/// Peak resident memory that a refusal may take.
const MAX_REFUSAL_BYTES: u64 = 256 << 20;

fn header(json: &str, data_bytes: usize) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data_bytes]].concat()
}

// (1) A malformed model file gives an error, never a crash.

#[test]
fn a_malformed_model_file_is_an_error_that_names_it() {
    let house = House::new();
    house.tiny(Family::Llama, "sound");
    let sound = fs::read(house.path("sound/model.safetensors")).unwrap();
    let one = |dtype: &str, shape: &str, offsets: &str| {
        header(&format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#), 8)
    };
    let mut gguf_lies = b"GGUF\x03\0\0\0".to_vec();
    gguf_lies.extend([0xff; 16]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("a text file", b"once upon a midnight dreary".to_vec()),
        ("cut in the length", sound[..5].to_vec()),
        ("cut in the header", sound[..200].to_vec()),
        ("cut in the data", sound[..sound.len() - 1].to_vec()),
        ("a byte too many", [&sound[..], b"x"].concat()),
        ("a header beyond the file", [&1_000_000u64.to_le_bytes()[..], b"{}"].concat()),
        ("a header beyond all bounds", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("a nested bomb", header(&"[".repeat(100_000), 0)),
        ("numbers without end", header(&format!(r#"{{"a":{}}}"#, "9".repeat(100_000)), 0)),
        (
            "an overlap",
            header(
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
                6,
            ),
        ),
        (
            "a gap",
            header(
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
                8,
            ),
        ),
        (
            "a name twice",
            header(
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
                8,
            ),
        ),
        ("reversed offsets", one("F32", "[2]", "[8,0]")),
        ("offsets out of range", one("F32", "[2]", "[8,16]")),
        ("a size that overflows", one("F32", "[18446744073709551615,4]", "[0,8]")),
        ("a negative size", one("F32", "[-2]", "[0,8]")),
        ("an absurd rank", one("F32", &format!("[{}2]", "1,".repeat(1000)), "[0,8]")),
        ("an unknown dtype", one("F33", "[2]", "[0,8]")),
        ("an empty name", header(r#"{"":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8)),
        ("a NUL in a name", header(r#"{"a\u0000b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8)),
        ("a path for a name", header(r#"{"../../etc/x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8)),
        ("a pointer for large files", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".to_vec()),
        ("a pickle", b"PK\x03\x04archive/data.pkl".to_vec()),
        ("a GGUF that lies", gguf_lies),
    ];
    for (what, bytes) in cases {
        let name = what.replace(' ', "-");
        let folder = house.path(&name);
        fs::create_dir(&folder).unwrap();
        fs::copy(house.path("sound/config.json"), folder.join("config.json")).unwrap();
        fs::write(folder.join("model.safetensors"), bytes).unwrap();
        let base = Base::guard(&folder);
        let before = house.names();
        for args in [&["inspect", &name][..], &["surgery", "-p", "delhi", &name, "-o", "out"]] {
            let outcome = house.run(args);
            let said = outcome.code(2);
            assert!(said.contains("model.safetensors"), "{what}: the file is not named: {said}");
            assert!(!said.contains("panicked"), "{what}: {said}");
            assert!(outcome.peak_rss_bytes < MAX_REFUSAL_BYTES, "{what}: {} bytes", outcome.peak_rss_bytes);
            assert_eq!(house.names(), before, "{what}: something was written");
        }
        drop(base);
    }
}

#[test]
fn a_folder_or_config_that_cannot_be_is_an_error_that_names_it() {
    let house = House::new();
    house.tiny(Family::Llama, "sound");
    let config = fs::read_to_string(house.path("sound/config.json")).unwrap();
    let with = |name: &str, config: &str| {
        let folder = house.path(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(house.path("sound/model.safetensors"), folder.join("model.safetensors")).unwrap();
        fs::write(folder.join("config.json"), config).unwrap();
    };
    let changed = |from: &str, to: &str| {
        assert!(config.contains(from), "the tiny config has no {from}");
        config.replace(from, to)
    };
    with("a-list", "[1]");
    with("a-bomb", &"[".repeat(100_000));
    with("no-heads", &changed(r#""num_attention_heads": 4"#, r#""num_attention_heads": 0"#));
    with("many-layers", &changed(r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 1000000000000"#));
    with("other-width", &changed(r#""hidden_size": 64"#, r#""hidden_size": 128"#));
    with("unknown-type", &changed(r#""model_type": "llama""#, r#""model_type": "lama""#));
    fs::create_dir(house.path("nothing")).unwrap();
    fs::create_dir(house.path("bare")).unwrap();
    fs::copy(house.path("sound/model.safetensors"), house.path("bare/model.safetensors")).unwrap();
    let sharded = |name: &str, file: &str| {
        fs::create_dir(house.path(name)).unwrap();
        fs::write(house.path(name).join("config.json"), &config).unwrap();
        let index = format!(r#"{{"metadata":{{}},"weight_map":{{"model.norm.weight":"{file}"}}}}"#);
        fs::write(house.path(name).join("model.safetensors.index.json"), index).unwrap();
    };
    sharded("outside", "../sound/model.safetensors");
    sharded("missing-shard", "model-00001-of-00001.safetensors");
    for (name, says) in [
        ("a-list", "config.json"),
        ("a-bomb", "config.json"),
        ("no-heads", "num_attention_heads"),
        ("many-layers", "num_hidden_layers"),
        ("other-width", "128"),
        ("unknown-type", "llama"),
        ("nothing", "expected model.safetensors"),
        ("bare", "--config"),
        ("outside", "model.safetensors.index.json"),
        ("missing-shard", "download the missing shard"),
        ("not-there", "no such file"),
    ] {
        let outcome = house.run(&["inspect", name]);
        let said = outcome.code(2);
        assert!(said.contains(says) && said.contains(name), "{name}: {said}");
        assert!(!said.contains("panicked") && outcome.peak_rss_bytes < MAX_REFUSAL_BYTES, "{name}: {said}");
    }
    let config = house.path("sound/config.json");
    house.run(&["inspect", "bare", "--config", config.to_str().unwrap()]).ok();
}

// (2) The base is never changed. (Every test guards it; these try to make it change.)

#[test]
fn an_output_that_is_or_touches_the_base_is_refused() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    symlink("base", house.path("link")).unwrap();
    fs::create_dir(house.path("twin")).unwrap();
    fs::hard_link(base.path().join("model.safetensors"), house.path("twin/model.safetensors")).unwrap();
    for out in ["base", "link", "base/out", ".", "twin"] {
        for extra in [&[][..], &["--force"]] {
            let refused = house.run(&[&["surgery", "-p", "delhi", "base", "-o", out], extra].concat());
            refused.code(2);
        }
    }
    let file = house.run(&["surgery", "-p", "delhi", "base", "-o", "base/model.safetensors"]);
    file.code(2);
    assert_eq!(names(&house.path("twin")), ["model.safetensors"]);
}

#[test]
fn linked_weights_are_recorded_and_the_base_keeps_its_mode() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let page = house.json(&["surgery", "-p", "delhi", "base", "-o", "out", "--link"]);
    let files = page["output"]["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file["name"] == "model.safetensors" && file["how"] == "linked"), "{files:?}");
    let mode = fs::metadata(house.path("out")).unwrap().permissions().mode();
    assert_eq!(mode & 0o222, 0, "the folder of a linked file is read-only");
    house.run(&["verify", "out"]).ok();
    house.run(&["undo", "out"]).ok();
    assert_same_files(&house.path("out"), base.path());
}

// (3) A kill or a full disk leaves the old result or the new one.

#[test]
fn a_kill_at_any_moment_leaves_the_old_state_or_the_new_one() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let args = ["surgery", "-p", "composite", "base", "-o", "out"];
    house.run(&args).ok();
    let whole = house.path("whole");
    fs::rename(house.path("out"), &whole).unwrap();
    let mut killed = 0;
    for step in 0..60u64 {
        let mut child = house.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_micros(step * 1500));
        let _ = child.kill();
        killed += u32::from(!child.wait().unwrap().success());
        if house.path("out").exists() {
            house.run(&["verify", "out"]).ok();
            assert_same_files(&house.path("out"), &whole);
            fs::remove_dir_all(house.path("out")).unwrap();
        }
    }
    assert!(killed > 5, "only {killed} runs were caught before their end");
    // Running it again works, and clears what the dead left.
    house.run(&args).ok();
    assert_same_files(&house.path("out"), &whole);
    let litter: Vec<String> = house.names().into_iter().filter(|name| name.contains(".tmp-")).collect();
    assert_eq!(litter, Vec::<String>::new());
    drop(base);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    // A file system of its own with room for less than the output needs, seen by this one process only.
    let script = r#"mount -t tmpfs -o size=$1 tmpfs full && shift && cd full && "$@"; code=$?; ls -A; exit $code"#;
    fs::create_dir(house.path("full")).unwrap();
    let weights = fs::metadata(base.path().join("model.safetensors")).unwrap().len();
    for bytes in [4096, weights / 2, weights] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "bash", "-c", script, "bash", &bytes.to_string()]).arg(unswag());
        command.args(["surgery", "-p", "delhi", "../base", "-o", "out"]).current_dir(house.path(""));
        let outcome = command.env("UNSWAG_HOME", house.path("home")).outcome();
        let said = outcome.code(2);
        assert!(said.contains("free some space"), "{said}");
        let left: Vec<&str> = outcome.stdout.lines().filter(|name| !name.ends_with(".lock")).collect();
        assert_eq!(left, Vec::<&str>::new());
    }
}

#[test]
fn two_writers_of_one_output_never_mix() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let start = |mode: &str| {
        let plugin = format!("delhi:mode={mode}");
        let args = ["surgery", "-p", &plugin, "base", "-o", "out"];
        house.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    for _ in 0..8 {
        let mut runs = [start("4bit"), start("8bit")];
        let done = runs.iter_mut().map(|run| run.wait().unwrap().success()).filter(|&done| done).count();
        assert_eq!(done, 1, "one of two different results is refused");
        house.run(&["verify", "out"]).ok();
        fs::remove_dir_all(house.path("out")).unwrap();
    }
    drop(base);
}

#[test]
fn an_interrupt_ends_cleanly() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    for step in 0..12u64 {
        let mut child = house
            .command(&["surgery", "-p", "composite", "base", "-o", "out"])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(step * 6));
        Command::new("kill").args(["-INT", &child.id().to_string()]).outcome();
        let status = child.wait().unwrap();
        if status.success() {
            house.run(&["verify", "out"]).ok();
            fs::remove_dir_all(house.path("out")).unwrap();
        } else {
            assert!(!house.path("out").exists(), "{status}");
        }
    }
    drop(base);
}

// (4) No plugin code runs before consent to its exact hash; its first load is a sandboxed probe.

/// A library whose constructor leaves a mark where it can.
fn marking_plugin(house: &House) -> std::path::PathBuf {
    let source = house.path("mark.c");
    let mark = house.path("mark");
    fs::write(
        &source,
        format!(
            "#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ FILE *f = fopen(\"{}\", \"w\"); if (f) fclose(f); }}\n\
             char _1as_0lib_1header_0root_bmodule_bloader[4096] = \"not a header\";\n",
            mark.display()
        ),
    )
    .unwrap();
    let library = house.path("libmark.so");
    Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).outcome().ok();
    library
}

#[test]
fn no_code_of_a_plugin_runs_before_consent() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let library = marking_plugin(&house);
    let library = library.to_str().unwrap();
    let refused = house.run(&["surgery", "-p", library, "base", "-o", "out"]);
    assert!(refused.code(2).contains("unswag plugin add"), "{}", refused.stderr);
    assert!(!house.path("mark").exists(), "its constructor ran without consent");
    house.run(&["plugin", "add", library]).code(2);
    assert!(!house.path("mark").exists(), "its constructor wrote a file from inside the sandbox");
    house.run(&["plugin", "check", library]).code(2);
    assert!(!house.path("mark").exists(), "checking it ran it outside the sandbox");
    // The mark would be seen: loaded outside the sandbox, the plugin writes it.
    Command::new("true").env("LD_PRELOAD", library).outcome().ok();
    assert!(house.path("mark").exists(), "this test could not have failed");
    drop(base);
}

#[test]
fn a_plugin_that_was_swapped_after_consent_is_not_run() {
    let house = House::without_plugins();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let mine = house.path("libmine.so");
    fs::copy(plugin("delhi"), &mine).unwrap();
    house.run(&["plugin", "add", mine.to_str().unwrap()]).ok();
    let mark = marking_plugin(&house);
    fs::rename(&mark, &mine).unwrap();
    let refused = house.run(&["surgery", "-p", "delhi", "base", "-o", "out"]);
    assert!(refused.code(2).contains("SHA-256"), "{}", refused.stderr);
    assert!(!house.path("mark").exists());
    drop(base);
}

#[test]
fn what_a_plugin_does_wrong_is_told_and_nothing_is_written() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let before = house.names();
    let info = house.json(&["plugin", "info", "hostile"]);
    let hostile = info["manifest"]["protocols"].as_array().unwrap().iter().find(|p| p["id"] == "hostile").unwrap();
    let choices = |option: &str| -> Vec<String> {
        let list = hostile["options"][option]["enum"].as_array().unwrap();
        list.iter().map(|choice| choice.as_str().unwrap().to_owned()).filter(|choice| choice != "none").collect()
    };
    let wrong = choices("bad");
    assert!(wrong.len() > 15, "{wrong:?}");
    for bad in wrong {
        let outcome = house.run(&["surgery", "-p", &format!("hostile:bad={bad}"), "base", "-o", "out"]);
        let said = outcome.code(2);
        assert!(said.contains("plugin hostile") && !said.contains("panicked at"), "{bad}: {said}");
        assert_eq!(house.names(), before, "{bad}");
    }
    for place in ["rewrite", "plan"] {
        let outcome = house.run(&["surgery", "-p", &format!("hostile:panic={place}"), "base", "-o", "out"]);
        assert!(outcome.code(2).contains("panic"), "{place}: {}", outcome.stderr);
        assert_eq!(house.names(), before, "{place}");
    }
    drop(base);
}

// What a shell sees.

#[test]
fn a_closed_pipe_ends_quietly_and_colour_is_for_terminals() {
    let house = House::new();
    house.tiny(Family::Llama, "base");
    let unswag = unswag().display().to_string();
    let piped = Command::new("bash")
        .args(["-c", &format!("set -o pipefail; {unswag} inspect base --graph | head -c 10")])
        .current_dir(house.path(""))
        .env("UNSWAG_HOME", house.path("home"))
        .outcome();
    assert_eq!(piped.ok().len(), 10);
    assert_eq!(piped.stderr, "");
    assert!(!house.run(&["inspect", "base"]).ok().contains('\x1b'));
    assert!(house.run(&["inspect", "base", "--color", "always"]).ok().contains('\x1b'));
    let plain = house.run(&["inspect", "base"]).stdout;
    for locale in ["C", "tr_TR.UTF-8", "ja_JP.UTF-8"] {
        assert_eq!(house.command(&["inspect", "base"]).env("LC_ALL", locale).outcome().ok(), plain, "{locale}");
    }
}

#[test]
fn wrong_options_name_the_nearest_right_one() {
    let house = House::new();
    house.tiny(Family::Llama, "base");
    for (spec, says) in [
        ("dehli", "delhi"),
        ("delhi:mood=2bit", "mode"),
        ("delhi:mode=5bit", "2bit"),
        ("delhi:group=7", "64"),
        ("delhi:layers=x", "0-9,20"),
        ("delhi:", "column"),
    ] {
        let outcome = house.run(&["surgery", "-p", spec, "base", "-o", "out"]);
        assert!(outcome.code(2).contains(says), "{spec}: {}", outcome.stderr);
    }
    assert!(!Path::new(&house.path("out")).exists());
}

#[test]
fn automatic_selection_explains_itself() {
    let house = House::without_plugins();
    house.run(&["plugin", "add", plugin("delhi").to_str().unwrap()]).ok();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let done = house.run(&["surgery", "--auto", "base", "-o", "out"]);
    done.ok();
    assert!(done.stderr.contains("delhi: claims 2 swiglu"), "{}", done.stderr);
    house.tiny(Family::Opt, "opt");
    let none = house.run(&["surgery", "--auto", "opt", "-o", "none"]);
    assert!(none.code(2).contains("no locked plugin suits"), "{}", none.stderr);
    drop(base);
}
