//! What the suite found: named checks, each passed, failed or skipped, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{error::Error, guard};

/// What the suite found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The plugin library's own name and version; empty where its manifest could not be read.
    pub plugin: String,
    pub version: String,
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What it was made of: a protocol with its options, an op.
    pub subject: String,
    /// What was claimed.
    pub claim: String,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum Outcome {
    /// With what was measured, where something was.
    Passed(Option<String>),
    Failed(String),
    Skipped(String),
}

impl Report {
    pub fn passed(&self) -> bool {
        self.failures().next().is_none() && !self.checks.is_empty()
    }

    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| matches!(check.outcome, Outcome::Failed(_)))
    }

    /// Passed, failed, skipped.
    pub fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for check in &self.checks {
            counts[match check.outcome {
                Outcome::Passed(_) => 0,
                Outcome::Failed(_) => 1,
                Outcome::Skipped(_) => 2,
            }] += 1;
        }
        counts
    }

    /// For tests.
    ///
    /// # Panics
    /// A check failed: prints every failure.
    pub fn assert_passed(&self) {
        assert!(self.passed(), "{self}");
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, detail) = match &self.outcome {
            Outcome::Passed(detail) => ("ok  ", detail.as_deref()),
            Outcome::Failed(detail) => ("FAIL", Some(detail.as_str())),
            Outcome::Skipped(detail) => ("skip", Some(detail.as_str())),
        };
        write!(f, "{word} {}: {}", self.subject, self.claim)?;
        match detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(f, "{check}")?;
        }
        let [passed, failed, skipped] = self.counts();
        write!(f, "{} {}: {passed} passed, {failed} failed, {skipped} skipped", self.plugin, self.version)
    }
}

/// What a check found that did not fail.
pub(super) enum Verdict {
    Pass,
    Measured(String),
    Skip(String),
}

/// Is given subject and claim of a check before it runs.
pub type Begins<'a> = dyn Fn(&str, &str) + 'a;

/// Collects checks as they are made.
pub(super) struct Checks<'a> {
    list: Vec<Check>,
    begins: Option<&'a Begins<'a>>,
    watch: Option<&'a dyn Fn(&Check)>,
}

impl<'a> Checks<'a> {
    pub fn new(begins: Option<&'a Begins<'a>>, watch: Option<&'a dyn Fn(&Check)>) -> Self {
        Self { list: Vec::new(), begins, watch }
    }

    /// Makes one check. A panic in the suite itself counts as a failure of the check, with its place.
    pub fn run(&mut self, subject: &str, claim: &str, check: impl FnOnce() -> Result<Verdict, Error>) {
        if let Some(begins) = self.begins {
            begins(subject, claim);
        }
        let outcome = match guard::contain(check) {
            Ok(Verdict::Pass) => Outcome::Passed(None),
            Ok(Verdict::Measured(what)) => Outcome::Passed(Some(what)),
            Ok(Verdict::Skip(why)) => Outcome::Skipped(why),
            Err(error) => Outcome::Failed(error.into_message()),
        };
        let check = Check { subject: subject.to_owned(), claim: claim.to_owned(), outcome };
        if let Some(watch) = self.watch {
            watch(&check);
        }
        self.list.push(check);
    }

    /// Makes one check that others need the result of.
    pub fn value<T>(&mut self, subject: &str, claim: &str, make: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        let mut made = None;
        self.run(subject, claim, || {
            made = Some(make()?);
            Ok(Verdict::Pass)
        });
        made
    }

    pub fn report(self, plugin: &str, version: &str) -> Report {
        Report { plugin: plugin.to_owned(), version: version.to_owned(), checks: self.list }
    }
}
