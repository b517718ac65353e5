//! What a model's tables can look up, compared with what its data holds before the first step: otherwise the
//! arithmetic finds an index past a table, after hours, without a name.

use crate::{error::Error, tokenizer::Tokenizer};

/// Sizes of a model that ids and positions must fit; `None` where there is no such bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelLimits {
    /// Rows of the embedding of tokens.
    pub token_rows: Option<u64>,
    /// Rows of a learned position embedding.
    pub position_rows: Option<u64>,
    /// `max_position_embeddings` (or `n_positions`) of the model's configuration.
    pub stated_positions: Option<u64>,
}

impl ModelLimits {
    /// Compares the largest id that the tokenizer makes with the embedding.
    ///
    /// # Errors
    /// The embedding has no row for it.
    pub fn check_ids(&self, tokenizer: &Tokenizer) -> Result<(), Error> {
        let Some((rows, (id, token))) = self.token_rows.zip(tokenizer.largest_id()) else { return Ok(()) };
        if u64::from(id) < rows {
            return Ok(());
        }
        let token = crate::error::cut(&token);
        Err(Error::BeyondEmbedding { path: tokenizer.path().to_owned(), token, id, rows })
    }

    /// Compares a length in tokens with the position embedding. `what` names what is that long, `next` what helps.
    ///
    /// # Errors
    /// The embedding has fewer rows.
    pub fn check_positions(&self, tokens: u64, what: &str, next: impl FnOnce(u64) -> String) -> Result<(), Error> {
        match self.position_rows {
            Some(rows) if tokens > rows => {
                Err(Error::BeyondPositions { what: what.to_owned(), tokens, rows, next: next(rows) })
            }
            _ => Ok(()),
        }
    }

    /// `tokens`, or as many of them as the position embedding has rows for: for a default length.
    pub fn fitting(&self, tokens: u64) -> u64 {
        self.position_rows.map_or(tokens, |rows| rows.min(tokens))
    }

    /// A note on a length that the model computes and was not trained for: rotary positions have no last one.
    pub fn note(&self, tokens: u64) -> Option<String> {
        let stated = self.stated_positions.filter(|stated| self.position_rows.is_none() && tokens > *stated)?;
        Some(format!("{tokens} tokens exceed max_position_embeddings ({stated}); quality usually degrades beyond it"))
    }
}
