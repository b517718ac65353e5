//! What the probe's child writes to its parent: lines of text, each written at once.
//!
//! ```text
//! P {"landlock":7,"seccomp":true,…}   protections, before any of the plugin's code runs
//! S constructors                      the stage that begins
//! R 57                                a refused system call, by number
//! E "…"                               why the plugin does not open
//! M "…"                               a part of the manifest
//! D                                   the manifest is complete
//! ```
//!
//! The plugin can write to the same pipe. So the first `P` counts, nothing here is trusted beyond its size, and a line that
//! is none of these is told to the user.

use std::io::{self, Write};

use super::sandbox::{Sandbox, system_call_name};
use crate::plain;

/// A pipe takes up to `PIPE_BUF` (4,096) bytes in one piece; JSON makes up to six bytes of one.
const CHUNK_BYTES: usize = 512;

/// Whose code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The probe's own.
    Setup,
    /// dlopen: ld.so, and the library's constructors.
    Constructors,
    /// The function that makes the root module.
    RootModule,
    /// The root module's `manifest`.
    Manifest,
}

const STAGES: [(Stage, &str); 4] = [
    (Stage::Setup, "setup"),
    (Stage::Constructors, "constructors"),
    (Stage::RootModule, "root_module"),
    (Stage::Manifest, "manifest"),
];

/// The child's side.
pub(super) struct Writer<W>(pub W);

impl<W: Write> Writer<W> {
    pub fn protections(&mut self, sandbox: &Sandbox) -> io::Result<()> {
        self.line('P', &serde_json::to_string(sandbox)?)
    }

    pub fn stage(&mut self, stage: Stage) -> io::Result<()> {
        let name = STAGES.iter().find(|(other, _)| *other == stage).map_or("", |(_, name)| name);
        self.line('S', name)
    }

    pub fn error(&mut self, problem: &str) -> io::Result<()> {
        self.line('E', &serde_json::to_string(&plain::one_line(problem, 400))?)
    }

    pub fn manifest(&mut self, text: &str) -> io::Result<()> {
        let mut rest = text;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(rest.floor_char_boundary(CHUNK_BYTES));
            self.line('M', &serde_json::to_string(chunk)?)?;
            rest = after;
        }
        self.line('D', "")
    }

    fn line(&mut self, tag: char, content: &str) -> io::Result<()> {
        self.0.write_all(format!("{tag} {content}\n").as_bytes())
    }
}

/// The parent's side.
#[derive(Debug)]
pub(super) struct Report {
    pub sandbox: Option<Sandbox>,
    pub stage: Stage,
    /// Names of refused system calls, each once, and the stage of the first.
    pub refused: Vec<String>,
    pub refused_in: Stage,
    pub error: Option<String>,
    /// `None` unless it is complete.
    pub manifest: Option<String>,
    pub garbled: bool,
}

impl Report {
    pub fn parse(bytes: &[u8]) -> Self {
        let mut report = Report {
            sandbox: None,
            stage: Stage::Setup,
            refused: Vec::new(),
            refused_in: Stage::Setup,
            error: None,
            manifest: None,
            garbled: false,
        };
        let mut manifest = String::new();
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split('\n');
        // What stands after the last line end is a line that was not finished: nothing, or a kill in the middle of one.
        lines.next_back();
        for line in lines {
            if report.read_line(line, &mut manifest).is_none() {
                report.garbled = true;
            }
        }
        report
    }

    /// Takes one line in; `None` if it is no line of a report.
    fn read_line(&mut self, line: &str, manifest: &mut String) -> Option<()> {
        let (tag, content) = line.split_once(' ')?;
        match tag {
            "P" => {
                let sandbox = serde_json::from_str(content).ok()?;
                self.sandbox.get_or_insert(sandbox);
            }
            "S" => self.stage = STAGES.iter().find(|(_, name)| *name == content)?.0,
            "R" => {
                let name = system_call_name(content.parse().ok()?);
                if self.refused.is_empty() {
                    self.refused_in = self.stage;
                }
                if !self.refused.contains(&name) {
                    self.refused.push(name);
                }
            }
            "E" => {
                let problem: String = serde_json::from_str(content).ok()?;
                self.error = Some(plain::one_line(&problem, 500));
            }
            "M" => manifest.push_str(&serde_json::from_str::<String>(content).ok()?),
            "D" => self.manifest = Some(std::mem::take(manifest)),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let sandbox = Sandbox { landlock: Some(7), seccomp: true, limits: true };
        let text = "{\"abi\": 1,\n \"name\": \"\u{1F980}\"}".repeat(300);
        let mut bytes = Vec::new();
        let mut writer = Writer(&mut bytes);
        writer.protections(&sandbox).unwrap();
        writer.stage(Stage::Manifest).unwrap();
        writer.manifest(&text).unwrap();
        let report = Report::parse(&bytes);
        assert_eq!(report.manifest.as_deref(), Some(text.as_str()));
        assert_eq!((report.sandbox, report.stage, report.garbled), (Some(sandbox), Stage::Manifest, false));
        assert!(bytes.split(|&byte| byte == b'\n').all(|line| line.len() < 4096));
    }

    #[test]
    fn the_first_word_about_protections_counts() {
        let lie = r#"{"landlock":null,"seccomp":false,"limits":false}"#;
        let report = Report::parse(format!("P {}\nP {lie}\n", lie.replace("null", "7")).as_bytes());
        assert_eq!(report.sandbox.unwrap().landlock, Some(7));
    }

    #[test]
    fn an_unfinished_manifest_is_none() {
        let report = Report::parse(b"S manifest\nM \"{\"\nM \"half");
        assert_eq!((report.manifest, report.garbled), (None, false));
    }

    #[test]
    fn garbage_is_noticed() {
        for garbage in [&b"hello\n"[..], b"M {}\n", b"S nowhere\n", b"R -\n", b"\xff\xfe\n", b"\n"] {
            assert!(Report::parse(garbage).garbled, "{garbage:?}");
        }
    }
}
