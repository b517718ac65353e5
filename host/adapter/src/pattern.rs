//! The regular expressions of an adapter's settings, matched as Python matches them and within bounds.
//!
//! An adapter is downloaded, so its expressions may be made to take memory and time. All of them share one [`PatternBudget`],
//! which measures each before any is compiled, and one [`MatchClock`], which ends the matching of a model's paths against them.
//! Most settings name modules by plain paths; those are compared without a regex engine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fancy_regex::{Expr, Regex, RegexBuilder};

/// Text of all expressions that are not plain paths. A class such as `\w` counts 64 bytes, because it is a list of 770 ranges.
const MAX_TEXT_BYTES: usize = 1 << 16;
const BYTES_OF_CLASS: usize = 64;
/// Expressions that are not plain paths.
const MAX_EXPRESSIONS: usize = 256;
/// Text of one plain path.
const MAX_PATH_BYTES: usize = 1 << 12;
/// Parts of the expressions with lookaround or references that are searched for by themselves; each round of a repetition counts.
const MAX_PARTS: u64 = 1024;
/// A repetition without an upper bound counts as this many rounds. Paths are about as long.
const ROUNDS: u64 = 64;
/// Compiled sizes, shared by the programs of all expressions. Those with lookaround run their programs at every step back.
const PROGRAM_BYTES: usize = 4 << 20;
const BACKTRACKING_PROGRAM_BYTES: usize = 128 << 10;
/// Caches of the programs' automata, shared by them.
const CACHE_BYTES: usize = 16 << 20;
/// Steps back while one path is matched.
const MAX_BACKTRACKS: usize = 10_000;
/// All matching for one adapter.
const MAX_TIME: Duration = Duration::from_secs(3);

/// What was expected of an expression, and what it is.
#[derive(Debug)]
pub(crate) struct PatternError {
    pub expected: String,
    pub got: String,
}

impl PatternError {
    fn new(expected: impl Into<String>, got: impl Into<String>) -> Self {
        PatternError { expected: expected.into(), got: got.into() }
    }
}

/// How much of a path an expression has to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it, as Python's `re.fullmatch`.
    Path,
    /// All of it, or its end after a dot.
    End,
}

/// What the expressions of one adapter have in common. First each is added, then each is compiled.
#[derive(Debug, Default)]
pub(crate) struct PatternBudget {
    text_bytes: usize,
    expressions: usize,
    parts: u64,
    clock: Arc<MatchClock>,
}

impl PatternBudget {
    /// Measures an expression. It is one of at most 16,384.
    ///
    /// # Errors
    /// It is no regular expression, or too much together with those before it.
    pub fn add(&mut self, text: &str) -> Result<(), PatternError> {
        if PlainPath::parse(text).is_some() {
            return match text.len() {
                ..=MAX_PATH_BYTES => Ok(()),
                bytes => Err(PatternError::new(format!("at most {MAX_PATH_BYTES} bytes"), format!("{bytes} bytes"))),
            };
        }
        self.expressions += 1;
        if self.expressions > MAX_EXPRESSIONS {
            let expected = format!("at most {MAX_EXPRESSIONS} regular expressions in all settings");
            return Err(PatternError::new(expected, "more"));
        }
        self.text_bytes = self.text_bytes.saturating_add(text_bytes(text));
        if self.text_bytes > MAX_TEXT_BYTES {
            let expected = format!(
                "at most {MAX_TEXT_BYTES} bytes of regular expressions in all settings, a class like \\w as \
                 {BYTES_OF_CLASS} of them"
            );
            return Err(PatternError::new(expected, "more"));
        }
        let tree = Expr::parse_tree(text).map_err(not_a_pattern)?;
        if backtracks(&tree.expr) {
            self.parts = self.parts.saturating_add(parts(&tree.expr));
        }
        if self.parts > MAX_PARTS {
            let expected = format!(
                "at most {MAX_PARTS} parts to search for in the expressions with lookaround or references, each round of a \
                 repetition counted"
            );
            return Err(PatternError::new(expected, "more"));
        }
        Ok(())
    }

    /// # Errors
    /// It is no regular expression, or a larger one than its share of the budget.
    pub fn compile(&self, text: &str, extent: Extent) -> Result<PathPattern, PatternError> {
        let clock = self.clock.clone();
        if let Some(plain) = PlainPath::parse(text) {
            return Ok(PathPattern { matcher: Matcher::Plain(plain), extent, clock });
        }
        let tree = Expr::parse_tree(text).map_err(not_a_pattern)?;
        let bytes = match backtracks(&tree.expr) {
            true => BACKTRACKING_PROGRAM_BYTES / self.parts.max(1) as usize,
            false => PROGRAM_BYTES / self.expressions.max(1),
        };
        let programs = self.expressions.max(1) + self.parts as usize;
        let anchored = match extent {
            Extent::Path => format!("^(?:{text})$"),
            Extent::End => format!("^(?:.*\\.)?(?:{text})$"),
        };
        let mut builder = RegexBuilder::new(&anchored);
        builder
            .backtrack_limit(MAX_BACKTRACKS)
            .delegate_size_limit(bytes)
            .delegate_dfa_size_limit(CACHE_BYTES / programs);
        let regex = builder.build().map_err(|error| {
            let expected = format!("a regular expression that compiles to at most {bytes} bytes for each of its parts");
            PatternError::new(expected, error.to_string())
        })?;
        Ok(PathPattern { matcher: Matcher::Regex(Box::new(regex)), extent, clock })
    }
}

fn not_a_pattern(error: fancy_regex::Error) -> PatternError {
    PatternError::new("a regular expression", error.to_string())
}

fn text_bytes(text: &str) -> usize {
    let is_class = |pair: &&[u8]| pair[0] == b'\\' && pair[1].is_ascii_alphabetic();
    text.len() + BYTES_OF_CLASS * text.as_bytes().windows(2).filter(is_class).count()
}

/// Whether matching tries more than one way through: the other expressions take time in proportion to the path.
fn backtracks(expr: &Expr) -> bool {
    match expr {
        Expr::Empty | Expr::Any { .. } | Expr::Assertion(_) | Expr::Literal { .. } | Expr::Delegate { .. } => false,
        Expr::Concat(children) | Expr::Alt(children) => children.iter().any(backtracks),
        Expr::Group(child) | Expr::Repeat { child, .. } => backtracks(child),
        _ => true,
    }
}

/// How many searches one way through an expression takes at most, literal text aside.
fn parts(expr: &Expr) -> u64 {
    match expr {
        Expr::Empty | Expr::Literal { casei: false, .. } => 0,
        Expr::Concat(children) | Expr::Alt(children) => {
            children.iter().fold(0, |sum, child| sum.saturating_add(parts(child)))
        }
        Expr::Group(child) | Expr::AtomicGroup(child) => parts(child),
        Expr::LookAround(child, _) => parts(child).saturating_add(1),
        Expr::Repeat { child, hi, .. } => {
            let rounds = match *hi {
                // Every round takes a character of the path, since nothing else is in it.
                usize::MAX if !backtracks(child) => 1,
                usize::MAX => ROUNDS,
                hi => hi as u64,
            };
            parts(child).max(1).saturating_mul(rounds)
        }
        Expr::Conditional { condition, true_branch, false_branch } => {
            let children = [condition, true_branch, false_branch];
            children.into_iter().fold(1, |sum: u64, child| sum.saturating_add(parts(child)))
        }
        // Python has none.
        Expr::SubroutineCall(_) | Expr::UnresolvedNamedSubroutineCall { .. } => u64::MAX,
        _ => 1,
    }
}

/// The time that matching took so far.
#[derive(Debug, Default)]
pub(crate) struct MatchClock(AtomicU64);

impl MatchClock {
    /// # Errors
    /// The time is used up.
    pub fn measure<T>(&self, work: impl FnOnce() -> T) -> Result<T, String> {
        let start = Instant::now();
        let result = work();
        let nanos = start.elapsed().as_nanos() as u64;
        match self.0.fetch_add(nanos, Relaxed) + nanos {
            spent if u128::from(spent) <= MAX_TIME.as_nanos() => Ok(result),
            _ => Err(format!("more than {} s of matching", MAX_TIME.as_secs())),
        }
    }
}

/// An expression that is ready to be matched.
#[derive(Clone, Debug)]
pub(crate) struct PathPattern {
    matcher: Matcher,
    extent: Extent,
    clock: Arc<MatchClock>,
}

#[derive(Clone, Debug)]
enum Matcher {
    Plain(PlainPath),
    Regex(Box<Regex>),
}

impl PathPattern {
    /// # Errors
    /// Matching takes too many steps, or the adapter's time is used up.
    pub fn is_match(&self, path: &str) -> Result<bool, String> {
        self.clock.measure(|| match &self.matcher {
            Matcher::Plain(plain) => Ok(plain.is_match(path, self.extent)),
            Matcher::Regex(regex) => regex.is_match(path).map_err(|error| error.to_string()),
        })?
    }
}

/// An expression made of nothing but names and dots: `model.layers.3.self_attn.q_proj`. A bare dot is any character.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PlainPath {
    /// A `^` in front: nothing may stand before it.
    is_anchored: bool,
    /// The characters, last first; `None` for any.
    reversed: Box<[Option<char>]>,
}

impl PlainPath {
    fn parse(text: &str) -> Option<Self> {
        let (is_anchored, rest) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let rest = rest.strip_suffix('$').unwrap_or(rest);
        let mut pieces = Vec::new();
        let mut chars = rest.chars();
        while let Some(char) = chars.next() {
            pieces.push(match char {
                '.' => None,
                '\\' if chars.next() == Some('.') => Some('.'),
                char if char.is_ascii_alphanumeric() || char == '_' || char == '-' => Some(char),
                _ => return None,
            });
        }
        pieces.reverse();
        (!pieces.is_empty()).then(|| PlainPath { is_anchored, reversed: pieces.into() })
    }

    fn is_match(&self, path: &str, extent: Extent) -> bool {
        let mut chars = path.chars().rev();
        let fits = |expected: &Option<char>| {
            let found = chars.next();
            found.is_some_and(|found| found != '\n') && (expected.is_none() || found == *expected)
        };
        if !self.reversed.iter().all(fits) {
            return false;
        }
        match chars.next() {
            None => true,
            Some(before) => before == '.' && extent == Extent::End && !self.is_anchored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str, extent: Extent) -> Result<PathPattern, PatternError> {
        let mut budget = PatternBudget::default();
        budget.add(text)?;
        budget.compile(text, extent)
    }

    #[test]
    fn a_plain_path_matches_what_the_regex_engine_matches() {
        let paths = ["model.layers.1.q_proj", "layers.1.q_proj", "model.layersx1.q_proj", "xlayers.1.q_proj", "q_proj"];
        let texts = [
            "q_proj",
            "proj",
            "layers.1.q_proj",
            r"layers\.1\.q_proj",
            "^layers.1.q_proj",
            "layers.1.q_proj$",
            "^model.layers.1.q_proj$",
            ".layers.1.q_proj",
            "model.layers.1.q-proj",
            "......",
        ];
        for extent in [Extent::End, Extent::Path] {
            for text in texts {
                let plain = pattern(text, extent).expect("short");
                assert!(matches!(plain.matcher, Matcher::Plain(_)), "{text}");
                // A group makes it an expression of the engine's.
                let engine = pattern(&format!("(?:{text})"), extent).expect("short");
                assert!(matches!(engine.matcher, Matcher::Regex(_)), "{text}");
                for path in paths {
                    assert_eq!(plain.is_match(path), engine.is_match(path), "{text} {extent:?} {path}");
                }
            }
        }
    }

    #[test]
    fn expressions_that_training_tools_write_fit_into_the_budget() {
        let unsloth = concat!(
            r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|q_proj|fc1|fc2).*?)|",
            r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:k_proj|q_proj)))",
        );
        let swift = r"^(language_model|model)(?=\.).*\.(k_proj|down_proj|q_proj)$";
        let others = r"(?!.*(?:visual|vision_tower)).*layers\.\d+\.(?:self_attn|mlp)\.(?:q_proj|k_proj)(?<!x_proj)";
        for text in [unsloth, swift, others, r"\w+\.layers\.(1[0-9]|2[0-3])\..*", r"(?i)MODEL\.LAYERS\.\d+\..*_PROJ"] {
            let pattern = pattern(text, Extent::Path).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(pattern.is_match("model.layers.13.self_attn.q_proj"), Ok(true), "{text}");
            assert_eq!(pattern.is_match("visual.blocks.13.attn.qkv"), Ok(false), "{text}");
        }
        // Each layer of a large model by itself.
        let mut budget = PatternBudget::default();
        let texts: Vec<String> =
            (0..256).map(|layer| format!(r"layers\.{layer}\.(?:mlp|self_attn)\..*_proj")).collect();
        texts.iter().for_each(|text| budget.add(text).expect("small"));
        let last = budget.compile(&texts[255], Extent::End).expect("its share");
        assert_eq!(last.is_match("model.layers.255.mlp.up_proj"), Ok(true));
    }

    #[test]
    fn expressions_beyond_the_budget_are_refused_before_they_are_compiled() {
        let refused = |text: &str| pattern(text, Extent::Path).expect_err("too much");
        for (text, expected) in [
            (r"(?=\w{30})".repeat(6000), "at most 65536 bytes"),
            (r"(?=[a-z_.]{30})".repeat(4000), "at most 1024 parts"),
            (r"(?:(?:(?:(?=a)b?){1000}){1000}){1000}".to_owned(), "at most 1024 parts"),
            (r"(?:(?=(?:(?=(?:(?=.).)*).)*).)*".to_owned(), "at most 1024 parts"),
            (r"(a)\g<1>".to_owned(), "at most 1024 parts"),
            (r"\w".repeat(32_000), "at most 65536 bytes"),
            (r"\w{9999}".to_owned(), "compiles to at most 4194304 bytes"),
            (r"(?=\w{999})x".to_owned(), "compiles to at most"),
            ("(".repeat(60_000), "a regular expression"),
            ("q".repeat(5000), "at most 4096 bytes"),
        ] {
            let error = refused(&text);
            assert!(error.expected.contains(expected), "{text:.40}: {error:?}");
        }
        let mut budget = PatternBudget::default();
        let error = (0..=256).find_map(|at| budget.add(&format!("a+{at}")).err()).expect("one too many");
        assert!(error.expected.contains("at most 256 regular expressions"), "{error:?}");
    }

    #[test]
    fn an_expression_that_takes_more_steps_than_allowed_is_an_error() {
        let costly = pattern(r"(?!z).*.*.*.*.*.*.*x(?<!q)", Extent::Path).expect("small");
        let path = "model.layers.10.self_attn.q_proj.and_a_longer_path_than_most";
        let start = Instant::now();
        assert!(costly.is_match(path).is_err());
        assert!(start.elapsed() < MAX_TIME);
    }

    #[test]
    fn matching_ends_with_the_adapters_time() {
        let clock = MatchClock::default();
        assert_eq!(clock.measure(|| 1), Ok(1));
        clock.0.store(MAX_TIME.as_nanos() as u64, Relaxed);
        assert_eq!(clock.measure(|| 1), Err("more than 3 s of matching".into()));
    }
}
