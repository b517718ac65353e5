//! Which modules a setting names, matched as PEFT matches them.
//!
//! `target_modules`, `exclude_modules`: a list of paths or of their last parts, or one regular expression for full paths.
//! `rank_pattern`, `alpha_pattern`: regular expressions for the end of a path, each with a value; the first that matches counts.

use fancy_regex::{Regex, RegexBuilder};

/// Longest expression that is read, and steps back that matching one path may take: an adapter is somebody else's file.
const MOST_PATTERN_BYTES: usize = 1 << 16;
const MOST_BACKTRACKS: usize = 50_000;
/// Entries of a list or a pattern map.
pub(crate) const MOST_NAMES: usize = 1 << 14;

/// PEFT's word for every linear layer but the head.
pub const ALL_LINEAR: &str = "all-linear";

/// What stands in `target_modules` or `exclude_modules`.
#[derive(Clone, Debug)]
pub(crate) enum ModuleNames {
    AllLinear,
    /// Whole paths, or the parts after a dot.
    List(Vec<String>),
    /// The full path matches.
    Pattern(PathPattern),
}

impl ModuleNames {
    /// # Errors
    /// Matching takes too many steps.
    pub fn contains(&self, path: &str, is_head: bool) -> Result<bool, String> {
        match self {
            ModuleNames::AllLinear => Ok(!is_head),
            ModuleNames::List(names) => Ok(names.iter().any(|name| ends_with_name(path, name))),
            ModuleNames::Pattern(pattern) => pattern.is_match(path),
        }
    }
}

/// Whether a path is this name, or ends with it after a dot.
pub(crate) fn ends_with_name(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A compiled expression, or a plain name that needs none.
#[derive(Clone, Debug)]
pub(crate) enum PathPattern {
    Name(String),
    Regex(Box<Regex>),
}

impl PathPattern {
    /// Matches a full path, as Python's `re.fullmatch`.
    ///
    /// # Errors
    /// It is no regular expression, or too long.
    pub fn whole(text: &str) -> Result<Self, String> {
        Ok(PathPattern::Regex(Box::new(compile(text, &format!("^(?:{text})$"))?)))
    }

    /// Matches a path, or its end after a dot.
    ///
    /// # Errors
    /// As [`PathPattern::whole`].
    pub fn end(text: &str) -> Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Ok(PathPattern::Name(text.to_owned()));
        }
        Ok(PathPattern::Regex(Box::new(compile(text, &format!("^(?:.*\\.)?(?:{text})$"))?)))
    }

    pub fn is_match(&self, path: &str) -> Result<bool, String> {
        match self {
            PathPattern::Name(name) => Ok(ends_with_name(path, name)),
            PathPattern::Regex(regex) => regex.is_match(path).map_err(|error| error.to_string()),
        }
    }
}

fn compile(text: &str, anchored: &str) -> Result<Regex, String> {
    if text.len() > MOST_PATTERN_BYTES {
        return Err(format!("an expression of {} bytes", text.len()));
    }
    let mut builder = RegexBuilder::new(anchored);
    builder.backtrack_limit(MOST_BACKTRACKS).delegate_size_limit(1 << 20).delegate_dfa_size_limit(1 << 20);
    builder.build().map_err(|error| error.to_string())
}

/// Values by the ends of paths.
#[derive(Clone, Debug, Default)]
pub(crate) struct PatternMap<T>(pub Vec<(PathPattern, T)>);

impl<T: Copy> PatternMap<T> {
    /// The value of the first pattern that matches.
    ///
    /// # Errors
    /// Matching takes too many steps.
    pub fn get(&self, path: &str) -> Result<Option<T>, String> {
        for (pattern, value) in &self.0 {
            if pattern.is_match(path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}
