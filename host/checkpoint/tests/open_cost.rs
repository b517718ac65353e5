//! What opening costs: nothing for data, little for a sound header, and a bounded amount for a hostile one. Memory is the
//! peak of a process of its own (`VmHWM`).

#[path = "common/safetensors_bytes.rs"]
mod safetensors_bytes;

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
};

use safetensors_bytes::{entry, file, write_folder};
use tempfile::TempDir;
use unswag_checkpoint::Checkpoint;

const OPEN: &str = "UNSWAG_TEST_OPEN";

/// Not a test of its own: what [`opened_by_another_process`] runs.
#[test]
fn opens_what_the_parent_names() {
    let Some(path) = env::var_os(OPEN) else { return };
    match Checkpoint::open(path) {
        Ok(checkpoint) => println!("RESULT {}", checkpoint.tensors().len()),
        Err(error) => println!("RESULT {error}"),
    }
    let status = fs::read_to_string("/proc/self/status").expect("the process's own status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    println!("PEAK {}", peak.trim().trim_end_matches(" kB"));
}

/// The number of tensors or the error, and the peak of resident memory in bytes.
fn opened_by_another_process(path: &Path) -> (String, u64) {
    let output = Command::new(env::current_exe().expect("this test's own program"))
        .args(["--exact", "opens_what_the_parent_names", "--nocapture"])
        .env(OPEN, path)
        .output()
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let line = |start: &str| {
        text.lines()
            .find_map(|line| line.split_once(start))
            .unwrap_or_else(|| panic!("no {start} in {text}"))
            .1
            .to_owned()
    };
    let peak_kib: u64 = line("PEAK ").parse().expect("a number");
    (line("RESULT "), peak_kib << 10)
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

const MIB: u64 = 1 << 20;
/// The whole process may take this much on hostile input.
const HOSTILE_LIMIT: u64 = 256 * MIB;

/// `count` empty tensors and then `tail`, all in one header.
fn many(count: usize, tail: &str) -> String {
    let mut header = String::from("{");
    for number in 0..count {
        write!(header, r#""layers.{number}.w":{{"dtype":"F32","shape":[0,64],"data_offsets":[0,0]}},"#)
            .expect("memory");
    }
    header.push_str(tail);
    header
}

#[test]
fn a_sparse_file_of_100_gb_opens_by_its_header_alone() {
    let scratch = scratch();
    let path = scratch.path().join("model.safetensors");
    let bytes = 100_000_000_000u64;
    let header = format!("{{{}}}", entry("w", &[bytes / 4], 0, bytes));
    fs::write(&path, file(&header, b"")).expect("written");
    let start = fs::metadata(&path).expect("it is there").len();
    let sparse = File::options().write(true).open(&path).expect("it opens");
    sparse.set_len(start + bytes).expect("a sparse file");
    sparse.write_all_at(&1.5f32.to_le_bytes(), start + bytes - 4).expect("the last element is written");

    let (result, peak) = opened_by_another_process(&path);
    assert_eq!(result, "1");
    assert!(peak < 32 * MIB, "{peak} bytes");
    // A part is read without what stands before it: the last element is there at once.
    let checkpoint = Checkpoint::open(&path).expect("it opens");
    let mut last = [0; 4];
    checkpoint.read_range(0, start + bytes - 4, &mut last).expect("data");
    assert_eq!(last, 1.5f32.to_le_bytes());
}

#[test]
fn a_million_tensors_open_in_memory_proportionate_to_their_header() {
    let scratch = scratch();
    let path = scratch.path().join("model.safetensors");
    let header = many(1_000_000, &format!("{}}}", entry("last", &[2], 0, 8)));
    fs::write(&path, file(&header, &[0; 8])).expect("written");
    let (result, peak) = opened_by_another_process(&path);
    assert_eq!(result, "1000001");
    assert!(peak < 3 * header.len() as u64 && peak < HOSTILE_LIMIT, "{peak} bytes for a header of {}", header.len());

    let checkpoint = Checkpoint::open(&path).expect("it opens");
    let info = checkpoint.tensor("layers.765432.w").expect("it is found by name");
    assert_eq!((info.shape, info.bytes()), (&[0u64, 64][..], 0));
    assert_eq!(checkpoint.tensors().last().map(|info| info.name), Some("last"));
}

#[test]
fn hostile_headers_of_100_mb_are_refused_in_bounded_memory() {
    let scratch = scratch();
    let path = scratch.path().join("model.safetensors");
    let full = |mut header: String, filler: &str| {
        header.push_str(&filler.repeat((99_000_000 - header.len()) / filler.len()));
        header
    };
    let ones = ["1"; 60].join(",");
    let mut shapes = String::from("{");
    for number in 0..600_000 {
        write!(shapes, r#""{number}":{{"dtype":"U8","shape":[{ones}],"data_offsets":[0,1]}},"#).expect("memory");
    }
    let mut names = String::from("{");
    for number in 0..1_040_000 {
        write!(names, r#""{number:038}":{{"dtype":"U8","shape":[],"data_offsets":[0,1]}},"#).expect("memory");
    }
    names.push_str("\"x\":0}");
    for (what, header, says) in [
        ("too many tensors", many(1_200_000, "\"x\":0}"), "more than 1048576 tensors"),
        ("a fault at the very end", names, "byte"),
        ("nested lists", full(String::from("{\"a\":"), "["), "byte 1"),
        ("one long shape", full(String::from("{\"a\":{\"shape\":["), "1,"), "more than 64 dimensions"),
        ("metadata without end", full(String::from("{\"__metadata__\":{\"a\":\""), "m"), "byte"),
        ("sizes without end", shapes[..99_000_000.min(shapes.len())].to_owned(), "sizes of shapes"),
        ("escapes without end", full(String::from("{\""), "\\u0041"), "byte"),
        ("nothing but zeros", "\0".repeat(99_000_000), "starts with"),
    ] {
        fs::write(&path, file(&header, &[0])).expect("written");
        let (result, peak) = opened_by_another_process(&path);
        assert!(result.contains(says), "{what}: expected {says:?} in: {result}");
        assert!(result.len() < 1000, "{what}: {} bytes of message", result.len());
        assert!(peak < HOSTILE_LIMIT, "{what}: {peak} bytes of memory");
    }
}

#[test]
fn hostile_indices_and_configs_are_refused_in_bounded_memory() {
    let scratch = scratch();
    write_folder(scratch.path());
    let config = scratch.path().join("config.json");
    for text in [
        format!("{{\"a\": [{}0]}}", "0,".repeat(4 << 20)),
        format!("{{\"a\": [{}0]}}", "0,".repeat(2_000_000)),
        format!("{{\"a\": [{}0]}}", "{\"\":0},".repeat(49_000)),
    ] {
        fs::write(&config, text).expect("written");
        let (_, peak) = opened_by_another_process(scratch.path());
        assert!(peak < HOSTILE_LIMIT, "{peak} bytes of memory");
    }

    fs::remove_file(scratch.path().join("model.safetensors")).expect("removed");
    let index = scratch.path().join("model.safetensors.index.json");
    let mut entries = String::from("{\"weight_map\":{");
    while entries.len() < 99_000_000 {
        write!(entries, r#""t{}":"model.safetensors","#, entries.len()).expect("memory");
    }
    for (text, says) in [
        (entries, "byte"),
        (format!("{{\"x\":{}", "[".repeat(90_000_000)), "byte"),
        (" ".repeat(101_000_000), "at most"),
    ] {
        fs::write(&index, text).expect("written");
        let (result, peak) = opened_by_another_process(scratch.path());
        assert!(result.contains(says), "expected {says:?} in: {result}");
        assert!(peak < HOSTILE_LIMIT, "{peak} bytes of memory");
    }
}
