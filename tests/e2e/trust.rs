//! What a plugin says and does is not believed: ends of the program, crashes, claims; and what is not ours is not deleted.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use serde_json::Value;
use unswag_tests::{Base, Family, Outcome, plugin, unswag_torch};

use crate::house::{House, assert_same_files, mischievous, names};

fn house() -> House {
    let house = House::new();
    house.tiny(Family::Llama, "base");
    house
}

fn operate(house: &House, mischief: &str, out: &str) -> Outcome {
    house.run(&["surgery", "--plugin", &format!("hostile:mischief=\"{mischief}\""), "base", "-o", out])
}

fn record(house: &House, out: &str) -> String {
    fs::read_to_string(house.path(out).join("unswag.yaml")).unwrap()
}

// Ends of the program.

#[test]
fn a_plugin_that_ends_the_program_is_not_taken_for_success() {
    let house = house();
    let base = Base::guard(house.path("base"));
    let before = house.names();
    for place in ["open", "rewrite", "plan"] {
        for how in ["exit", "_exit", "quick_exit", "exit1"] {
            let outcome = operate(&house, &format!("{place}:{how}"), "out");
            assert!(outcome.code(2).contains("a plugin ended the program"), "{place} {how}: {}", outcome.stderr);
            assert_eq!(house.names(), before, "{place} {how}");
        }
    }
    // Its kernels run in a child process, whose end is reported as what it was.
    for (how, said) in [("exit", "exit(0)"), ("_exit", "exit(0)"), ("abort", "SIGABRT"), ("segv", "SIGSEGV")] {
        let outcome = operate(&house, &format!("forward:{how}"), "out");
        assert!(outcome.code(2).contains(said), "{how}: {}", outcome.stderr);
        assert_eq!(house.names(), before, "{how}");
    }
    drop(base);
}

#[test]
fn a_handler_of_a_plugin_that_runs_at_exit_does_not_change_the_status() {
    let house = house();
    house.run(&["surgery", "-p", "delhi", "base", "-o", "out"]).ok();
    for (out, expected) in [("out", 2), ("new", 0)] {
        operate(&house, "rewrite:atexit", out).code(expected);
    }
    assert!(house.path("new/unswag.yaml").exists());
}

#[test]
fn a_kernel_that_ends_the_program_in_training_leaves_status_2_and_no_adapter() {
    unswag_torch();
    let house = house();
    house.text();
    operate(&house, "backward:_exit", "out").ok();
    let data = ["--data", "text.txt", "--block-size", "48", "--max-steps", "1", "-q"];
    let trained = house.run(&[&["train", "out", "-o", "run"], &data[..]].concat());
    assert!(trained.code(2).contains("a plugin ended the program"), "{}", trained.stderr);
    assert!(!house.path("run/adapter").exists());
}

#[test]
fn a_check_that_does_not_come_back_has_a_verdict_and_status_2() {
    let house = House::without_plugins();
    for (mischief, said) in [("forward:exit", "exit(0)"), ("backward:segv", "SIGSEGV"), ("rewrite:_exit", "exit(0)")] {
        let checked = house.run(&["plugin", "check", &mischievous(&house, mischief), "--json"]);
        checked.code(2);
        let report: Value = serde_json::from_str(&checked.stdout).expect("a report");
        let checks = report["checks"].as_array().unwrap();
        let failed: Vec<&Value> = checks.iter().filter(|check| check["outcome"] == "failed").collect();
        assert!(checks.len() > 3, "{mischief}: the checks before it are reported");
        assert!(failed.iter().any(|check| check["detail"].as_str().unwrap().contains(said)), "{mischief}: {failed:?}");
        assert!(failed.iter().all(|check| check["subject"] != ""), "the check that it ended in is named");
    }
    assert!(!house.path("home/unswag.lock").exists(), "checking asked for consent");
}

// Claims.

#[test]
fn a_forward_that_is_not_what_it_stands_for_is_refused_by_surgery() {
    let house = house();
    let base = Base::guard(house.path("base"));
    let before = house.names();
    for how in ["scaled", "nan", "zero"] {
        let outcome = operate(&house, &format!("forward:{how}"), "out");
        let said = outcome.code(2);
        for part in ["model.layers.0.mlp", "hostile.swiglu", "stands for swiglu", "element", "expected"] {
            assert!(said.contains(part), "{how}: no {part:?} in {said}");
        }
        assert_eq!(house.names(), before, "{how}");
    }
    drop(base);
}

#[test]
fn a_verified_claim_is_printed_and_recorded_as_what_it_was_found_to_be() {
    let house = house();
    // Delhi computes with the very functions of the reference; the test plugin in f64.
    for (spec, verified, printed) in
        [("delhi", "bit_for_bit", "bit for bit"), ("hostile", "up_to_rounding", "up to rounding")]
    {
        let outcome = house.run(&["surgery", "--plugin", spec, "base", "-o", spec]);
        assert!(outcome.ok().contains(&format!("equals swiglu {printed}")), "{}", outcome.stdout);
        let record = record(&house, spec);
        for line in ["stands_for: swiglu", &format!("verified: {verified}"), "keeps_forward: true"] {
            assert!(record.contains(line), "{spec}: no {line:?} in\n{record}");
        }
        house.run(&["verify", spec]).ok();
    }
    // The second step's claims are those of its record after the first was taken back.
    house.run(&["surgery", "--plugin", "hostile", "base", "-o", "both"]).ok();
    house.run(&["undo", "both", "-o", "plain"]).ok();
    assert_same_files(&house.path("plain"), &house.path("base"));
}

#[test]
fn a_record_from_before_claims_counts_as_unverified() {
    let house = house();
    let surgery = |layer: u32, from: &str, out: &str| {
        let spec = format!("hostile:at=model.layers.{layer}");
        house.run(&["surgery", "-p", &spec, from, "-o", out]).ok();
    };
    surgery(0, "base", "old");
    let text = record(&house, "old");
    let (before, after) = text.split_once("claims:\n").expect("claims");
    let (_, rest) = after.split_once("  keeps_forward:").expect("the key after it");
    fs::write(house.path("old/unswag.yaml"), format!("{before}keeps_forward:{rest}")).unwrap();
    let model_type = |out: &str| {
        let config: Value = serde_json::from_slice(&fs::read(house.path(out).join("config.json")).unwrap()).unwrap();
        config["model_type"].as_str().unwrap().to_owned()
    };
    // Nothing that the new step does is wrong, and nothing is known of the old one.
    surgery(1, "old", "both");
    assert_eq!((model_type("old"), model_type("both")), ("llama".to_owned(), "unswag_llama".to_owned()));
    house.run(&["undo", "both"]).ok();
    assert_eq!(model_type("both"), "unswag_llama");
    house.run(&["undo", "both"]).ok();
    assert_eq!(model_type("both"), "llama");
}

// What is not ours.

#[test]
fn a_users_edits_of_files_that_surgery_wrote_are_not_replaced_without_force() {
    let house = house();
    fs::write(house.path("base/README.md"), "the base's").unwrap();
    for (spec, edited) in [("delhi", "README.md"), ("composite", "config.json")] {
        let surgery = |extra: &[&str]| house.run(&[&["surgery", "-p", spec, "base", "-o", spec], extra].concat());
        surgery(&[]).ok();
        surgery(&[]).ok();
        // Of the same size: the content is compared.
        let file = house.path(spec).join(edited);
        let mut mine = fs::read(&file).unwrap();
        mine.rotate_left(1);
        fs::write(&file, &mine).unwrap();
        let said = surgery(&[]).code(2).to_owned();
        assert!(
            said.contains(&format!("changed since it was written: {edited}")) && said.contains("--force"),
            "{said}"
        );
        assert!(fs::read(&file).unwrap() == mine);
        if spec == "composite" {
            // Its weights come from the base, and so would every other file.
            house.run(&["undo", spec]).code(2);
            assert!(fs::read(&file).unwrap() == mine);
        }
        surgery(&["--force"]).ok();
        assert!(fs::read(&file).unwrap() != mine, "{spec}: --force replaces");
    }
    // A file that is gone is nothing to lose.
    fs::remove_file(house.path("delhi/README.md")).unwrap();
    house.run(&["surgery", "-p", "delhi", "base", "-o", "delhi"]).ok();
    // Undoing would take the record away that says what changed; by force it keeps the edits, where no file comes from the base.
    fs::write(house.path("delhi/README.md"), "mine").unwrap();
    let config = fs::read_to_string(house.path("delhi/config.json")).unwrap();
    fs::write(house.path("delhi/config.json"), format!("{config} ")).unwrap();
    for undo in [&["undo", "delhi"][..], &["undo", "delhi", "-o", "plain"]] {
        let said = house.run(undo).code(2).to_owned();
        assert!(said.contains("README.md") && said.contains("config.json") && said.contains("--force"), "{said}");
    }
    assert!(house.path("delhi/unswag.yaml").exists() && !house.path("plain").exists());
    house.run(&["undo", "delhi", "--force"]).ok();
    assert_eq!(fs::read_to_string(house.path("delhi/README.md")).unwrap(), "mine");
    assert!(!house.path("delhi/unswag.yaml").exists());
}

#[test]
fn nothing_is_written_into_the_recorded_base_or_into_a_result() {
    let house = house();
    house.run(&["surgery", "-p", "composite", "base", "-o", "one"]).ok();
    let [first, second] = ["hostile:at=model.layers.0", "hostile:at=model.layers.1"];
    house.run(&["surgery", "-p", first, "base", "-o", "same"]).ok();
    house.run(&["surgery", "-p", second, "same", "-o", "both"]).ok();
    house.run(&["surgery", "-p", "transform", "one", "-o", "two"]).ok();
    fs::create_dir(house.path("moved")).unwrap();
    for file in names(&house.path("base")) {
        fs::copy(house.path("base").join(&file), house.path("moved").join(&file)).unwrap();
    }
    let guards = ["base", "one", "two", "both", "same"].map(|name| Base::guard(house.path(name)));
    for args in [
        &["undo", "both", "-o", "both/sub"][..],
        &["undo", "two", "-o", "two/sub"],
        &["undo", "two", "-o", "base/sub"],
        &["undo", "one", "--base", "moved", "-o", "base/sub"],
        &["undo", "one", "--base", "moved", "-o", "moved/sub"],
        &["surgery", "-p", second, "same", "-o", "base/sub"],
        &["merge", "same", "no-adapter-is-read", "-o", "base/sub"],
    ] {
        let outcome = house.run(args);
        assert!(outcome.code(2).contains("inside the base checkpoint"), "{args:?}: {}", outcome.stderr);
    }
    assert!(!house.path("moved/sub").exists());
    drop(guards);
}

#[test]
fn a_users_own_files_in_an_output_are_never_deleted() {
    let house = house();
    let surgery = |extra: &[&str]| house.run(&[&["surgery", "-p", "delhi", "base", "-o", "out"], extra].concat());
    surgery(&[]).ok();
    fs::write(house.path("out/notes.txt"), "mine").unwrap();
    fs::create_dir(house.path("out/run")).unwrap();
    let guard = Base::guard(house.path("out"));
    let changed = ["surgery", "-p", "delhi:mode=4bit", "base", "-o", "out", "--force"];
    for refused in [surgery(&[]), surgery(&["--force"]), house.run(&changed), house.run(&["undo", "out"])] {
        assert!(refused.code(2).contains("notes.txt, run"), "{}", refused.stderr);
    }
    drop(guard);
    // Out of the way, both do their work.
    fs::remove_file(house.path("out/notes.txt")).unwrap();
    fs::remove_dir(house.path("out/run")).unwrap();
    house.run(&changed).ok();
    house.run(&["undo", "out"]).ok();
    assert_same_files(&house.path("out"), &house.path("base"));
}

#[test]
fn undoing_into_the_base_or_into_the_result_itself_is_refused_and_touches_neither() {
    let house = house();
    for (spec, out) in [("delhi", "same-weights"), ("composite", "other-weights")] {
        house.run(&["surgery", "-p", spec, "base", "-o", out]).ok();
        let guards = [Base::guard(house.path("base")), Base::guard(house.path(out))];
        let times = || [&house.path("base"), &house.path(out)].map(|path: &std::path::PathBuf| mtime(path));
        let before = times();
        for to in ["base/sub", "base", &format!("{out}/sub")] {
            house.run(&["undo", out, "-o", to]).code(2);
        }
        assert_eq!(times(), before, "{spec}");
        assert!(!names(guards[0].path()).contains(&"sub".to_owned()));
    }
}

fn mtime(path: &Path) -> (i64, i64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.mtime(), metadata.mtime_nsec())
}

// Consent.

#[test]
fn a_rebuilt_plugin_is_listed_as_changed_until_it_is_added_anew() {
    let house = House::without_plugins();
    let mine = house.path("libmine.so");
    fs::copy(plugin("delhi"), &mine).unwrap();
    let add = || house.run(&["plugin", "add", mine.to_str().unwrap(), "-q"]).ok().to_owned();
    let states = || {
        let list = house.json(&["plugin", "list"]);
        let of = |plugin: &Value| plugin["state"].as_str().unwrap().to_owned();
        let user = list.as_array().unwrap().iter().find(|plugin| plugin["origin"] == "user").map(of);
        (user.unwrap(), house.json(&["plugin", "info", "delhi"])["state"].as_str().unwrap().to_owned())
    };
    add();
    assert_eq!(states(), ("locked".into(), "locked".into()));
    let mut bytes = fs::read(&mine).unwrap();
    bytes.push(0);
    fs::write(&mine, bytes).unwrap();
    assert_eq!(states(), ("changed".into(), "changed".into()));
    assert!(house.run(&["plugin", "list"]).ok().contains("changed"));
    assert!(house.run(&["plugin", "info", "delhi"]).ok().contains("unswag plugin add"));
    add();
    assert_eq!(states(), ("locked".into(), "locked".into()));
}
