//! Who may depend on whom, read from the manifests. `host/ARCHITECTURE.md` says why.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use toml::{Table, Value};
use unswag_tests::workspace_root;

/// Every package of the workspace and the project's own packages that it may depend on. A new package is added here.
const ALLOWED: &[(&str, &[&str])] = &[
    ("unswag-abi", &[]),
    ("unswag-sdk", &["unswag-abi"]),
    ("unswag-kernel-plan", &[]),
    ("unswag-kernels", &["unswag-kernel-plan"]),
    ("unswag-delhi", &["unswag-sdk", "unswag-kernels"]),
    // A plugin that makes every kind of edit, for tests.
    ("unswag-every-edit", &["unswag-sdk"]),
    ("unswag-graph", &["unswag-abi"]),
    ("unswag-checkpoint", &["unswag-graph", "unswag-abi"]),
    ("unswag-engine", &["unswag-graph", "unswag-kernel-plan", "unswag-abi"]),
    ("unswag-pager", &[]),
    ("unswag-torch", &["unswag-engine", "unswag-kernels", "unswag-pager", "unswag-abi"]),
    ("unswag-loader", &["unswag-engine", "unswag-graph", "unswag-abi"]),
    ("unswag-surgery", &["unswag-abi", "unswag-checkpoint", "unswag-graph", "unswag-loader", "unswag-reference"]),
    // Plain loops over the kernels' scalar functions: what plugins' ops are compared with.
    ("unswag-reference", &["unswag-abi", "unswag-engine", "unswag-graph", "unswag-kernels"]),
    ("unswag-scaffold", &[]),
    ("unswag-data", &[]),
    (
        "unswag-train",
        &[
            "unswag-abi",
            "unswag-adapter",
            "unswag-checkpoint",
            "unswag-data",
            "unswag-engine",
            "unswag-kernels",
            "unswag-loader",
            "unswag-pager",
            "unswag-surgery",
            "unswag-torch",
        ],
    ),
    ("unswag-adapter", &["unswag-abi", "unswag-checkpoint"]),
    ("unswag-console", &["unswag-data", "unswag-loader"]),
    (
        "unswag-torch-cli",
        &["unswag-abi", "unswag-console", "unswag-data", "unswag-loader", "unswag-surgery", "unswag-train"],
    ),
    (
        "unswag",
        &[
            "unswag-abi",
            "unswag-adapter",
            "unswag-checkpoint",
            "unswag-console",
            "unswag-data",
            "unswag-engine",
            "unswag-graph",
            "unswag-loader",
            "unswag-reference",
            "unswag-scaffold",
            "unswag-sdk",
            "unswag-surgery",
        ],
    ),
    // A plugin on the bare frame, for the loader's tests.
    ("unswag-raw-plugin", &["unswag-abi"]),
    // The end-to-end tests run the program; their mutation driver also calls what reads untrusted bytes.
    (
        "unswag-tests",
        &[
            "unswag-abi",
            "unswag-adapter",
            "unswag-checkpoint",
            "unswag-console",
            "unswag-data",
            "unswag-graph",
            "unswag-kernels",
            "unswag-loader",
            "unswag-surgery",
        ],
    ),
];

/// Arrows that only tests of a package may use.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    ("unswag-loader", &["unswag-raw-plugin"]),
    // The engine is held against transformers on checkpoints.
    // What is said of each kind's arithmetic is what it computes.
    ("unswag-torch", &["unswag-checkpoint", "unswag-graph", "unswag-reference", "unswag-tests"]),
    // Its bench steps an optimizer whose state it holds.
    ("unswag-pager", &["unswag-kernels"]),
    // What was fetched for tests is found in one place, and tiny checkpoints are made in one.
    ("unswag-adapter", &["unswag-tests"]),
    ("unswag-checkpoint", &["unswag-tests"]),
    ("unswag-data", &["unswag-tests"]),
    ("unswag-train", &["unswag-tests"]),
    // Its patches are held against the host's own rules.
    ("unswag-every-edit", &["unswag-graph", "unswag-surgery"]),
];

struct Manifest {
    path: String,
    name: String,
    dependencies: BTreeSet<String>,
    dev_dependencies: BTreeSet<String>,
}

impl Manifest {
    fn read(folder: &Path) -> Self {
        let path = folder.join("Cargo.toml");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Manifest::parse(&path.display().to_string(), &text)
    }

    fn parse(path: &str, text: &str) -> Self {
        let table: Table = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let name = table["package"]["name"].as_str().unwrap_or_else(|| panic!("{path}: a package has a name"));
        let mut manifest = Manifest {
            path: path.to_owned(),
            name: name.to_owned(),
            dependencies: BTreeSet::new(),
            dev_dependencies: BTreeSet::new(),
        };
        manifest.collect(&table);
        // [target.'cfg(…)'.dependencies]
        for target in table.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values) {
            manifest.collect(target.as_table().unwrap_or_else(|| panic!("{path}: [target.…] is a table")));
        }
        manifest
    }

    fn collect(&mut self, table: &Table) {
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let Some(entries) = table.get(section).and_then(Value::as_table) else { continue };
            // `sdk = { package = "unswag-sdk" }` depends on unswag-sdk.
            let renamed = |value: &Value| value.get("package").and_then(Value::as_str).map(str::to_owned);
            let names = entries.iter().map(|(key, value)| renamed(value).unwrap_or_else(|| key.clone()));
            match section {
                "dev-dependencies" => self.dev_dependencies.extend(names),
                _ => self.dependencies.extend(names),
            }
        }
    }

    /// What this manifest does that it may not, one line each.
    fn faults(&self, is_ours: impl Fn(&str) -> bool) -> Vec<String> {
        let lookup = |list: &[(&str, &'static [&'static str])]| {
            list.iter().find(|(name, _)| *name == self.name).map(|(_, allowed)| *allowed)
        };
        let Some(allowed) = lookup(ALLOWED) else {
            return vec![format!(
                "{}: package {} is not in the layering test's table; add it there",
                self.path, self.name
            )];
        };
        let allowed_in_tests = lookup(ALLOWED_IN_TESTS).unwrap_or(&[]);
        let mut faults = Vec::new();
        for (section, dependencies, extra) in [
            ("dependencies", &self.dependencies, &[][..]),
            ("dev-dependencies", &self.dev_dependencies, allowed_in_tests),
        ] {
            for name in dependencies {
                let is_allowed = allowed.contains(&name.as_str()) || extra.contains(&name.as_str());
                if is_ours(name) && !is_allowed && *name != self.name {
                    faults.push(format!("{}: [{section}]: {} may not depend on {name}", self.path, self.name));
                }
                if name.starts_with("abi_stable") && self.name != "unswag-abi" {
                    faults.push(format!("{}: [{section}]: only unswag-abi may depend on {name}", self.path));
                }
            }
        }
        faults
    }
}

fn workspace_manifests() -> Vec<Manifest> {
    let root = workspace_root();
    let text = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace has a manifest");
    let table: Table = text.parse().expect("the workspace's manifest is TOML");
    let members = table["workspace"]["members"].as_array().expect("the workspace lists its members");
    members.iter().map(|member| Manifest::read(&root.join(member.as_str().expect("a member is a path")))).collect()
}

#[test]
fn no_package_depends_on_one_it_may_not() {
    let manifests = workspace_manifests();
    assert!(manifests.len() >= 10, "only {} packages found", manifests.len());
    let ours: BTreeSet<&str> = manifests.iter().map(|manifest| manifest.name.as_str()).collect();
    let faults: Vec<String> =
        manifests.iter().flat_map(|manifest| manifest.faults(|name| ours.contains(name))).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_folder_with_a_manifest_is_a_member_or_excluded() {
    let root = workspace_root();
    let members: BTreeSet<String> = workspace_manifests().into_iter().map(|manifest| manifest.path).collect();
    for parent in ["host", "plugins"] {
        for entry in fs::read_dir(root.join(parent)).expect("the folder is there") {
            let manifest = entry.expect("the folder can be listed").path().join("Cargo.toml");
            let is_template = manifest.starts_with(root.join("plugins/template"));
            let is_member = members.contains(&manifest.display().to_string());
            assert!(!manifest.exists() || is_template || is_member, "{} is no member", manifest.display());
        }
    }
}

#[test]
fn forbidden_arrows_are_found_wherever_a_manifest_can_hide_them() {
    let arrows = [
        "[dependencies]\nunswag-surgery.workspace = true",
        "[dev-dependencies]\nunswag-surgery = { path = '../x' }",
        "[build-dependencies]\nunswag-surgery = '1'",
        "[target.'cfg(unix)'.dependencies]\nunswag-surgery = '1'",
        "[dependencies]\nother = { package = 'unswag-surgery', version = '1' }",
        "[dependencies]\nabi_stable = '0.11'",
    ];
    for text in arrows {
        let manifest = Manifest::parse("test", &format!("[package]\nname = 'unswag-graph'\n{text}"));
        assert_eq!(manifest.faults(|name| name.starts_with("unswag")).len(), 1, "{text}");
    }
}
