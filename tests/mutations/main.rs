//! Fuzzing on a stable toolchain: every target of `fuzz/` is called with mutations of its seeds, the same ones in every run.
//!
//! It finds less than libFuzzer, which sees the branches that an input takes, but it runs wherever the tests run. A target
//! may not panic, and may not ask for memory out of proportion to its input, which is what a believed length looks like.
//! An input that fails is written to `fuzz/artifacts/<target>/`; move it to `fuzz/corpus/<target>/` when it is mended.
//!
//! `UNSWAG_MUTATION_SECONDS=60 cargo test -p unswag-tests --test mutations` runs each target for that long, and `UNSWAG_MUTATION_CALLS=100000`
//! that often, with other mutations every time; `UNSWAG_MUTATION_TARGETS=tokenizer,recipe` names the targets. Both print the counts.

mod memory;
mod mutate;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs};

use mutate::Mutator;
use targets::{TARGETS, Target};
use unswag_tests::workspace_root;

/// Calls per target where neither a time nor a count is given: a few seconds in an unoptimised build.
const CALLS: usize = 10_000;
/// The same for [`DOCUMENTS`], which compute with what they read.
const DOCUMENT_CALLS: usize = 300;
const DOCUMENTS: [&str; 8] =
    ["adapter", "chat_template", "conversation", "lock", "recipe", "record", "rows", "tokenizer"];
/// No input of ours is larger than 64 KiB; a parser may hold several times its input, a believed length is far beyond this.
const MOST_BYTES_AT_ONCE: usize = 64 << 20;
/// Of [`DOCUMENTS`]: beyond the input's size.
const MOST_DOCUMENT_BYTES_AT_ONCE: usize = 256 << 20;
/// Processor time of one call, which does not depend on what else the machine does.
const MOST_CPU: Duration = Duration::from_secs(10);

#[test]
fn every_target_returns_whatever_the_bytes() {
    let seconds = number("UNSWAG_MUTATION_SECONDS");
    let calls_wanted = number("UNSWAG_MUTATION_CALLS");
    let named = env::var("UNSWAG_MUTATION_TARGETS").ok();
    let is_named = |name: &str| named.as_ref().is_none_or(|named| named.split(',').any(|one| one == name));
    for &(name, target) in TARGETS.iter().filter(|(name, _)| is_named(name)) {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "fuzz/corpus/{name} holds no seed");
        for (path, seed) in &seeds {
            check(name, target, seed, &path.display().to_string());
        }
        let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, seed)| seed).collect();
        let start = Instant::now();
        let run_seed = match seconds.or(calls_wanted) {
            None => 1,
            Some(_) => {
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970").as_nanos()
                    as u64
            }
        };
        let few = if DOCUMENTS.contains(&name) { DOCUMENT_CALLS } else { CALLS };
        let mut mutator = Mutator::new(run_seed);
        let mut calls = 0;
        while match seconds {
            None => calls < calls_wanted.map_or(few, |wanted| wanted as usize),
            Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
        } {
            let input = mutator.mutate(&seeds);
            check(name, target, &input, &format!("mutation {calls} of run {run_seed}"));
            calls += 1;
        }
        println!("{name}: {} seeds, {calls} mutations in {:.1} s", seeds.len(), start.elapsed().as_secs_f64());
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// What all threads of this process used.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live local of the type that the call writes.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn check(name: &str, target: Target, input: &[u8], what: &str) {
    let allowed = match DOCUMENTS.contains(&name) {
        true => MOST_DOCUMENT_BYTES_AT_ONCE + input.len(),
        false => MOST_BYTES_AT_ONCE,
    };
    memory::start();
    let before = cpu_time();
    let panicked = catch_unwind(|| target(input)).is_err();
    let cpu = cpu_time().saturating_sub(before);
    let most = memory::most_bytes_at_once();
    if panicked || most > allowed || cpu > MOST_CPU {
        let folder = workspace_root().join("fuzz/artifacts").join(name);
        fs::create_dir_all(&folder).expect("the folder for failing inputs can be made");
        let path = folder.join(format!("crash-{}", &blake3::hash(input).to_hex()[..16]));
        fs::write(&path, input).expect("the failing input can be written");
        let fault = match panicked {
            true => "panics".to_owned(),
            false => format!("asks for {most} bytes at once, and takes {cpu:?} of processor time"),
        };
        panic!("{name} {fault} on {what}, kept as {}", path.display());
    }
}

/// Files of `fuzz/corpus/<target>`, and of the corpora that the crates' own tests keep.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let own = format!("fuzz/corpus/{target}");
    let shared = match target {
        "safetensors_header" => Some("host/checkpoint/tests/corpus/safetensors"),
        "gguf_header" => Some("host/checkpoint/tests/corpus/gguf"),
        _ => None,
    };
    let mut found = Vec::new();
    for folder in [Some(own.as_str()), shared].into_iter().flatten() {
        let Ok(entries) = fs::read_dir(workspace_root().join(folder)) else { continue };
        for entry in entries {
            let path = entry.expect("a corpus can be listed").path();
            if path.extension().is_none_or(|end| end != "py") {
                let seed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                found.push((path, seed));
            }
        }
    }
    // The order in which a folder is listed differs between machines, and the mutations depend on it.
    found.sort();
    found
}

#[test]
fn every_corpus_belongs_to_a_target_and_every_target_has_its_program() {
    let fuzz = workspace_root().join("fuzz");
    let names = |folder: &Path| -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("the folder can be listed").path())
            .map(|path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let mut targets: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    targets.sort();
    assert_eq!(names(&fuzz.join("fuzz_targets")), targets);
    for corpus in names(&fuzz.join("corpus")) {
        assert!(targets.contains(&corpus), "fuzz/corpus/{corpus}: no such target");
    }
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the fuzz package has a manifest");
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "fuzz/Cargo.toml: no program {target}");
    }
}

/// Mutations of seeds that are refused at once would reach nothing.
#[test]
fn seeds_that_are_called_sound_are_accepted() {
    for (path, seed) in seeds("patch") {
        let is_sound = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sound_"));
        match targets::apply_patch(&seed) {
            Some(Err(error)) if is_sound => panic!("{}: {error}", path.display()),
            None if is_sound => panic!("{}: is no patch document", path.display()),
            Some(Ok(_)) | Some(Err(_)) | None => {}
        }
    }
    for (path, seed) in seeds("config") {
        let config = serde_json::from_slice(&seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        unswag_graph::builders::expected(&config).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn a_target_that_believes_a_length_is_caught() {
    memory::start();
    let believed = Vec::<u8>::with_capacity(MOST_BYTES_AT_ONCE + 1);
    assert!(memory::most_bytes_at_once() > MOST_BYTES_AT_ONCE);
    drop(believed);
}
