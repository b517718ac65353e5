//! SIGKILL at random moments: nothing that was there is lost, what is published is complete, and the next run leaves no litter.
//!
//! Each test measures one uninterrupted run, then kills further ones at moments drawn evenly from its duration, until it has
//! caught [`moments`] of them alive. `UNSWAG_KILLS=200 cargo test -p unswag-tests --test e2e -- --nocapture kills::` kills each command
//! 200 times and prints the counts; without the variable, a few times.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use unswag_tests::{Base, Family, plugin, smollm2_gguf, unswag_torch};

use crate::house::{House, assert_same_files, names};

/// Kills of each command: `few` where `UNSWAG_KILLS` does not say.
fn moments(few: u32) -> u32 {
    std::env::var("UNSWAG_KILLS").map_or(few, |text| text.parse().expect("UNSWAG_KILLS is a number"))
}

/// Kills `command` at [`moments`] moments; `check` sees the state after each kill, and is given its number.
fn kill(what: &str, wanted: u32, mut command: impl FnMut() -> Command, mut check: impl FnMut(u32)) {
    let start = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    };
    // The shorter of two where many moments depend on it: on a machine that is busy at first, most would come after the end.
    let mut whole = Duration::MAX;
    for _ in 0..if wanted > 10 { 2 } else { 1 } {
        let begun = Instant::now();
        let status = start(command()).wait().expect("a child can be waited for");
        whole = whole.min(begun.elapsed());
        assert!(status.success(), "{what}: {status} when left alone");
        check(0);
    }
    let (mut killed, mut finished) = (0, 0);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    while killed < wanted {
        // An xorshift generator (Marsaglia 2003): the same shares in every run.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        let begun = Instant::now();
        let mut child = start(command());
        let exited = loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break Some(status);
            }
            if begun.elapsed() >= whole.mul_f64(share) {
                break None;
            }
            thread::sleep(Duration::from_micros(200));
        };
        let status = exited.unwrap_or_else(|| {
            child.kill().expect("a child that is not reaped can be killed");
            child.wait().expect("a child can be waited for")
        });
        if status.code().is_none() {
            killed += 1;
        } else {
            assert!(status.success(), "{what}: {status} after {killed} kills");
            finished += 1;
            assert!(finished < 20 * (wanted + 1), "{what}: every run ended before it was killed");
        }
        check(killed);
    }
    println!("{what}: {killed} killed of {} started; a run takes {} ms", killed + finished, whole.as_millis());
}

/// What a folder holds beside what it should.
fn litter(folder: &Path, expected: &[&str]) -> Vec<String> {
    names(folder).into_iter().filter(|name| !expected.contains(&name.as_str())).collect()
}

#[track_caller]
fn assert_no_litter(house: &House, expected: &[&str]) {
    assert_eq!(litter(&house.path(""), expected), Vec::<String>::new());
    // The lock file itself, and the file that its writers lock.
    let home = litter(&house.path("home"), &["unswag.lock", ".unswag.lock.lock", "unswag.lock.lock"]);
    assert_eq!(home, Vec::<String>::new());
}

/// Kills a command that writes the folder `out`: it is there with every byte that it should have, or it is not there.
fn kill_what_writes_out(house: &House, args: &[&str], few: u32) {
    house.run(args).ok();
    fs::rename(house.path("out"), house.path("whole")).unwrap();
    let out = house.path("out");
    kill(
        args[0],
        moments(few),
        || house.command(args),
        |_| {
            if out.exists() {
                assert_same_files(&out, &house.path("whole"));
                fs::remove_dir_all(&out).unwrap();
            }
        },
    );
    house.run(args).ok();
}

#[test]
fn surgery_writes_a_complete_folder_or_none() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    kill_what_writes_out(&house, &["surgery", "-p", "composite", "base", "-o", "out"], 6);
    house.run(&["verify", "out"]).ok();
    assert_no_litter(&house, &["base", "home", "out", "whole"]);
    drop(base);
}

#[test]
fn surgery_with_force_leaves_the_old_folder_or_the_new_one() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let args = |mode: &str| -> Vec<String> {
        ["surgery", "-p", &format!("delhi:mode={mode}"), "base", "-o", "out", "--force"].map(str::to_owned).to_vec()
    };
    let command = |mode: &str| {
        let args = args(mode);
        house.command(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for mode in ["4bit", "8bit"] {
        assert!(command(mode).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
        fs::rename(house.path("out"), house.path(mode)).unwrap();
    }
    let (out, mut next) = (house.path("out"), 0);
    assert!(command("4bit").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    kill(
        "surgery --force",
        moments(6),
        || {
            next += 1;
            command(["4bit", "8bit"][next % 2])
        },
        |_| {
            let record = fs::read(out.join("unswag.yaml")).expect("one of the two is there");
            let is_old = record == fs::read(house.path("4bit/unswag.yaml")).unwrap();
            assert_same_files(&out, &house.path(if is_old { "4bit" } else { "8bit" }));
        },
    );
    assert!(command("4bit").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    assert_no_litter(&house, &["4bit", "8bit", "base", "home", "out"]);
    drop(base);
}

#[test]
fn import_writes_a_complete_folder_or_none() {
    let house = House::without_plugins();
    let gguf = smollm2_gguf();
    // It writes 270 MB.
    kill_what_writes_out(&house, &["import", gguf.to_str().unwrap(), "-o", "out"], 2);
    assert_no_litter(&house, &["home", "out", "whole"]);
}

/// A tiny model, and a run that trained adapters on it.
fn trained() -> House {
    unswag_torch();
    let house = House::without_plugins();
    house.tiny(Family::Llama, "model");
    house.text();
    house
}

const TRAIN: &[&str] = &[
    "train",
    "model",
    "--data",
    "text.txt",
    "--block-size",
    "48",
    "--learning-rate",
    "1e-2",
    "--lora-r",
    "4",
    "--max-steps",
    "12",
    "--save-steps",
    "2",
    "--save-total-limit",
    "2",
    "--resume-from-checkpoint",
    "auto",
    "-o",
];

#[test]
fn merge_writes_a_complete_model_or_none() {
    let house = trained();
    house.run(&[TRAIN, &["run"]].concat()).ok();
    let base = Base::guard(house.path("model"));
    let adapter = Base::guard(house.path("run"));
    kill_what_writes_out(&house, &["merge", "model", "run/adapter", "-o", "out"], 6);
    assert_no_litter(&house, &["home", "model", "out", "run", "text.txt", "whole"]);
    drop((base, adapter));
}

/// A checkpoint that has its public name has every file; and a killed run that is started over and over ends with the bits of one that
/// was never killed.
#[test]
fn training_keeps_complete_checkpoints_and_ends_with_the_same_bits() {
    let house = trained();
    let base = Base::guard(house.path("model"));
    house.run(&[TRAIN, &["whole"]].concat()).ok();
    let (run, whole) = (house.path("run"), house.path("whole"));
    let files = names(&whole.join("checkpoint-12"));
    let adapter = |run: &Path| fs::read(run.join("adapter/adapter_model.safetensors"));
    let mut completed = 0;
    kill(
        "train",
        moments(6),
        || house.command(&[TRAIN, &["run"]].concat()),
        |_| {
            let Ok(entries) = fs::read_dir(&run) else { return };
            for name in entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
                if name.starts_with("checkpoint-") {
                    assert_eq!(names(&run.join(&name)), files, "{name}");
                }
            }
            if let Ok(bytes) = adapter(&run) {
                assert!(bytes == adapter(&whole).unwrap(), "the adapters differ");
                // The next run over this one removes what dead ones left.
                house.run(&[TRAIN, &["run"]].concat()).ok();
                assert_eq!(names(&run), names(&whole));
                fs::remove_dir_all(&run).unwrap();
                completed += 1;
            }
        },
    );
    assert!(completed > 0);
    house.run(&[TRAIN, &["run"]].concat()).ok();
    assert_eq!(names(&run), names(&whole));
    assert!(adapter(&run).unwrap() == adapter(&whole).unwrap(), "the adapters differ");
    assert_no_litter(&house, &["home", "model", "run", "text.txt", "whole"]);
    drop(base);
}

/// Another plugin's entry, and the plugin's own files, are there whenever the process is killed.
#[test]
fn adding_and_removing_a_plugin_loses_no_other_entry() {
    let house = House::without_plugins();
    let (delhi, other) = (plugin("delhi"), plugin("every-edit"));
    house.run(&["plugin", "add", other.to_str().unwrap()]).ok();
    let lock = house.path("home/unswag.lock");
    let without = fs::read(&lock).unwrap();
    house.run(&["plugin", "add", delhi.to_str().unwrap()]).ok();
    let with = fs::read(&lock).unwrap();
    // Times of adding may differ; the entries may not.
    let entries = || house.json(&["plugin", "list"]).as_array().unwrap().len();
    let both = entries();
    let is_complete = || {
        let now = fs::read(&lock).unwrap();
        now == with || now == without || entries() == both
    };
    kill(
        "plugin add",
        moments(6),
        || house.command(&["plugin", "add", delhi.to_str().unwrap()]),
        |_| {
            assert!(is_complete(), "{}", fs::read_to_string(&lock).unwrap());
            fs::write(&lock, &without).unwrap();
        },
    );
    fs::write(&lock, &with).unwrap();
    kill(
        "plugin remove",
        moments(6),
        || house.command(&["plugin", "remove", "delhi"]),
        |_| {
            assert!(is_complete(), "{}", fs::read_to_string(&lock).unwrap());
            fs::write(&lock, &with).unwrap();
        },
    );
    house.run(&["plugin", "remove", "delhi"]).ok();
    house.run(&["plugin", "add", delhi.to_str().unwrap()]).ok();
    assert_eq!(entries(), both);
    assert_no_litter(&house, &["home"]);
}
