//! Which modules a setting names, matched as PEFT matches them.
//!
//! `target_modules`, `exclude_modules`: a list of paths or of their last parts, or one regular expression for full paths.
//! `rank_pattern`, `alpha_pattern`: regular expressions for the end of a path, each with a value; the first that matches counts.

use std::collections::HashSet;

use crate::pattern::PathPattern;

/// Entries of a list or a pattern map.
pub(crate) const MAX_NAMES: usize = 1 << 14;

/// PEFT's word for every linear layer but the head.
pub const ALL_LINEAR: &str = "all-linear";

/// What stands in `target_modules` or `exclude_modules`.
#[derive(Clone, Debug)]
pub(crate) enum ModuleNames {
    AllLinear,
    /// Full paths, or the parts after a dot.
    List(HashSet<String>),
    /// The full path matches.
    Pattern(PathPattern),
}

impl ModuleNames {
    /// # Errors
    /// Matching takes too long.
    pub fn contains(&self, path: &str, is_head: bool) -> Result<bool, String> {
        match self {
            ModuleNames::AllLinear => Ok(!is_head),
            ModuleNames::List(names) => {
                let mut ends = path.match_indices('.').map(|(dot, _)| &path[dot + 1..]);
                Ok(names.contains(path) || ends.any(|end| names.contains(end)))
            }
            ModuleNames::Pattern(pattern) => pattern.is_match(path),
        }
    }
}

/// Whether a path is this name, or ends with it after a dot.
pub(crate) fn ends_with_name(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Values by the ends of paths.
#[derive(Clone, Debug, Default)]
pub(crate) struct PatternMap<T>(pub Vec<(PathPattern, T)>);

impl<T: Copy> PatternMap<T> {
    /// The value of the first pattern that matches.
    ///
    /// # Errors
    /// Matching takes too long.
    pub fn get(&self, path: &str) -> Result<Option<T>, String> {
        for (pattern, value) in &self.0 {
            if pattern.is_match(path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}
