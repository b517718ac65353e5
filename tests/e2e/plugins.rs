//! Plugins from outside: the crate that `unswag plugin new` writes, the example, and what the commands about plugins say.

use std::{path::Path, process::Command};

use unswag_tests::{Base, Family, Run, plugin, workspace_root};

use crate::house::{House, assert_same_files, mischievous};

/// Cargo, in the workspace's own target folder for such crates, so that a second run builds little.
fn cargo(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let target = workspace_root().join("target").join("outside");
    command.args(args).current_dir(folder).env("CARGO_TARGET_DIR", target).env_remove("CARGO_MANIFEST_DIR");
    command
}

fn library(name: &str) -> String {
    let file = format!("lib{}.so", name.replace('-', "_"));
    workspace_root().join("target/outside/debug").join(file).display().to_string()
}

#[test]
fn a_new_plugin_builds_passes_its_tests_and_conforms_with_no_edit() {
    let house = House::without_plugins();
    house.run(&["plugin", "new", "my-first-2"]).ok();
    let folder = house.path("my-first-2");
    cargo(&folder, &["test", "--quiet"]).outcome().ok();
    cargo(&folder, &["build", "--quiet"]).outcome().ok();
    let checked = house.run(&["plugin", "check", &library("my-first-2")]);
    assert!(checked.ok().contains("conforms"), "{}", checked.stdout);
    assert!(!checked.stdout.contains("FAIL"));
    let again = house.run(&["plugin", "new", "my-first-2"]);
    assert!(again.code(2).contains("my-first-2"), "{}", again.stderr);
    house.run(&["plugin", "new", "Not A Name"]).code(2);
    // Every run has another temporary folder, hence other artefacts of these; they would pile up.
    let own = ["clean", "--package", "my-first-2", "--package", "unswag-sdk", "--package", "unswag-abi"];
    cargo(&folder, &own).outcome().ok();
}

#[test]
fn plugins_are_added_listed_shown_and_removed() {
    let house = House::without_plugins();
    assert!(house.run(&["plugin", "info", "dehli"]).code(2).contains("locked"));
    let delhi = plugin("delhi");
    let added = house.json(&["plugin", "add", delhi.to_str().unwrap()]);
    assert!(added["sandbox"].as_str().unwrap().contains("seccomp"), "{added}");
    let list = house.json(&["plugin", "list"]);
    assert!(list.as_array().unwrap().iter().any(|plugin| plugin["origin"] == "user"));
    let info = house.json(&["plugin", "info", "delhi"]);
    assert_eq!(info["manifest"]["protocols"][0]["options"]["mode"]["default"], "exact");
    house.run(&["plugin", "remove", "delhi"]).ok();
    let gone = house.run(&["plugin", "remove", "delhi"]);
    gone.code(2);
}

#[test]
fn a_plugin_that_lies_does_not_conform() {
    let house = House::without_plugins();
    let checked = house.run(&["plugin", "check", &mischievous(&house, "forward:scaled"), "--json"]);
    let report: serde_json::Value = serde_json::from_str(&checked.stdout).expect("a report");
    let failed = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().any(|check| check["outcome"] == "failed" && check["subject"].as_str().unwrap().starts_with(name))
    };
    checked.code(1);
    let is_found = |check: &serde_json::Value| check["claim"] == "equals swiglu" && check["outcome"] == "failed";
    assert!(report["checks"].as_array().unwrap().iter().any(is_found), "its wrong forward was not found");
    assert!(failed("hostile"), "the test plugin's mischief was not found");
    assert!(!failed("composite") && !failed("transform"), "its honest protocols were blamed: {}", checked.stdout);
}

#[test]
fn help_completions_and_manual_pages_are_there() {
    let house = House::without_plugins();
    for shell in ["bash", "zsh", "fish"] {
        assert!(house.run(&["completions", shell]).ok().contains("surgery"), "{shell}");
    }
    let script = house.path("completions.bash");
    std::fs::write(&script, house.run(&["completions", "bash"]).ok()).unwrap();
    Command::new("bash").arg("-n").arg(&script).outcome().ok();
    house.run(&["man", "--dir", "man"]).ok();
    let pages = crate::house::names(&house.path("man"));
    for page in ["unswag.1", "unswag-surgery.1", "unswag-plugin-new.1"] {
        assert!(pages.iter().any(|name| name == page), "{pages:?}");
    }
    assert!(!pages.iter().any(|name| name.contains("-help")), "{pages:?}");
    for command in ["surgery", "inspect", "diff", "verify", "undo", "import"] {
        assert!(house.run(&[command, "--help"]).ok().contains("Example"), "{command}");
    }
    assert!(house.run(&["doctor"]).ok().contains("CPU"));
    assert!(house.json(&["doctor"])["machine"].is_object());
}

#[test]
fn the_example_plugin_is_built_tested_and_operates() {
    let house = House::without_plugins();
    let folder = workspace_root().join("examples/01-low-rank");
    cargo(&folder, &["test", "--quiet", "--locked"]).outcome().ok();
    cargo(&folder, &["build", "--quiet", "--locked"]).outcome().ok();
    let library = library("unswag-low-rank");
    house.run(&["plugin", "check", &library]).ok();
    house.run(&["plugin", "add", &library]).ok();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    house.run(&["surgery", "-p", "low-rank:rank=8", "base", "-o", "out"]).ok();
    house.run(&["plugin", "remove", "low-rank"]).ok();
    house.run(&["verify", "out"]).ok();
    house.run(&["undo", "out"]).ok();
    assert_same_files(&house.path("out"), base.path());
}
