//! Reading YAML that somebody else may have written: `unswag.lock` here, `unswag.yaml` and recipes in crates above.

use serde::de::DeserializeOwned;

/// Deeper than any document of ours, where patches, graphs and expressions nest.
const MAX_DEPTH: usize = 128;

#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    #[error(transparent)]
    Syntax(#[from] serde_yaml::Error),
    #[error("line {line}: more than {MAX_DEPTH} brackets are open")]
    Depth { line: usize },
}

/// Reads one document.
///
/// # Errors
/// Text that is no YAML, or not the YAML of a `T`, or that opens more than 128 brackets at once. The parser looks at every open
/// bracket for each token, so that a megabyte of them would take it an hour.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    check_depth(text)?;
    Ok(serde_yaml::from_str(text)?)
}

/// Refuses text that opens more than 128 brackets at once, before a parser sees it.
///
/// # Errors
/// The line of the bracket that is one too many.
pub fn check_depth(text: &str) -> Result<(), YamlError> {
    // Brackets in quoted text count as well: text of ours closes what it opens, and the bound is far off.
    let (mut depth, mut line) = (0usize, 1);
    for byte in text.bytes() {
        match byte {
            b'\n' => line += 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > MAX_DEPTH {
            return Err(YamlError::Depth { line });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{YamlError, parse};

    #[test]
    fn what_nests_too_deep_is_refused_before_it_is_parsed() {
        let nested = |depth: usize| format!("a: 1\nb: {}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<serde_yaml::Value>(&nested(100)).is_ok());
        let error = parse::<serde_yaml::Value>(&nested(100_000)).unwrap_err();
        assert!(matches!(error, YamlError::Depth { line: 2 }), "{error}");
    }
}
