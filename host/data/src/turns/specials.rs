//! Special tokens in a piece of text.

use std::ops::Range;

use crate::{error::Error, tokenizer::Tokenizer};

/// A special token and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Special {
    pub id: u32,
    pub range: Range<usize>,
}

/// Finds tokens that stand for structure: those that a turn may end with.
pub(crate) trait Specials {
    /// Special tokens and end-of-text tokens of a text, in order.
    ///
    /// # Errors
    /// The text cannot be encoded.
    fn find(&self, text: &str) -> Result<Vec<Special>, Error>;
}

impl Specials for Tokenizer {
    fn find(&self, text: &str) -> Result<Vec<Special>, Error> {
        let special = |token: &crate::Token| self.is_special(token.id) || self.eos_ids().contains(&token.id);
        let tokens = self.encode_with_bytes(text)?;
        let specials = tokens.into_iter().filter(special);
        Ok(specials.map(|token| Special { id: token.id, range: token.start as usize..token.end as usize }).collect())
    }
}
