//! Where one test lives: a folder of its own, a lock file of its own, a tiny checkpoint, and the program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use unswag_tests::{Family, Outcome, Run, Tiny, plugin, unswag};

pub struct House {
    temp: tempfile::TempDir,
}

impl House {
    /// With Delhi and the test plugin locked.
    pub fn new() -> Self {
        let house = Self::without_plugins();
        for name in ["delhi", "every-edit"] {
            house.run(&["plugin", "add", plugin(name).to_str().expect("a path is text")]).ok();
        }
        house
    }

    pub fn without_plugins() -> Self {
        let temp = tempfile::tempdir().expect("a temporary folder can be made");
        fs::create_dir(temp.path().join("home")).expect("a folder can be made");
        Self { temp }
    }

    /// The folder that commands run in.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// A tiny checkpoint of this family, as folder `name`.
    pub fn tiny(&self, family: Family, name: &str) -> PathBuf {
        let path = self.path(name);
        Tiny::new(family).write(&path);
        path
    }

    /// A text of which every stretch is another, and that a model learns in a few steps; as file `text.txt`.
    pub fn text(&self) {
        let line = |line: u32| format!("{line} bottles of beer on the wall, {line} bottles of beer.\n");
        fs::write(self.path("text.txt"), (0..400).map(line).collect::<String>()).expect("a file can be written");
    }

    /// The program with its own lock file and nothing of the user's environment that could change its words.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(unswag());
        command.args(args).current_dir(self.temp.path()).env("UNSWAG_HOME", self.path("home"));
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
        command
    }

    pub fn run(&self, args: &[&str]) -> Outcome {
        self.command(args).outcome()
    }

    /// Runs with `--json` and reads the answer.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let outcome = self.run(&[args, &["--json"]].concat());
        serde_json::from_str(outcome.ok()).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", outcome.stdout))
    }

    /// Names of everything in the folder, hidden files too.
    pub fn names(&self) -> Vec<String> {
        names(self.temp.path())
    }
}

/// A copy of the test plugin whose first protocol does this without being asked: the conformance suite chooses the options.
pub fn mischievous(house: &House, mischief: &str) -> String {
    let mut bytes = fs::read(plugin("every-edit")).expect("the library can be read");
    let mark: &[u8] = b"unswag-mischief= ";
    let places: Vec<usize> = (0..bytes.len() - mark.len()).filter(|&at| bytes[at..].starts_with(mark)).collect();
    assert!(!places.is_empty(), "the library has the mark");
    for at in places {
        let value = at + mark.len() - 1;
        bytes[value..value + mischief.len()].copy_from_slice(mischief.as_bytes());
    }
    let path = house.path("libmischief.so");
    fs::write(&path, bytes).expect("a file can be written");
    path.display().to_string()
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder can be listed");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Equal in every file's name and bytes.
#[track_caller]
pub fn assert_same_files(a: &Path, b: &Path) {
    assert_eq!(names(a), names(b), "{} and {}", a.display(), b.display());
    for name in names(a) {
        assert!(fs::read(a.join(&name)).unwrap() == fs::read(b.join(&name)).unwrap(), "{name} differs");
    }
}
