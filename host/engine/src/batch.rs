//! What a step reads: tokens, their positions, and what should come after each.

use crate::{EngineError, IGNORED};

/// Sequences of one length, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub batch: u64,
    pub seq: u64,
    /// \[batch * seq\].
    pub input_ids: Vec<u32>,
    /// \[batch * seq\]; 0.. of each sequence as a rule.
    pub position_ids: Vec<u32>,
    /// \[batch * seq\], the token that should come after each, or [`IGNORED`]. Empty where only logits are wanted.
    pub targets: Vec<i64>,
    /// \[batch * seq\], which document of its sequence each token is of: numbers that never decrease along a sequence.
    /// Attention stays within one number. Empty where each sequence is one document.
    pub document_ids: Vec<u32>,
}

impl Batch {
    /// Sequences without padding, each token's target being the next one.
    pub fn causal(batch: u64, seq: u64, input_ids: Vec<u32>) -> Self {
        let positions = (0..batch).flat_map(|_| 0..seq as u32).collect();
        let targets = (0..input_ids.len())
            .map(|at| match (at as u64 + 1) % seq.max(1) {
                0 => IGNORED,
                _ => input_ids.get(at + 1).map_or(IGNORED, |&id| id.into()),
            })
            .collect();
        Batch { batch, seq, input_ids, position_ids: positions, targets, document_ids: Vec::new() }
    }

    pub fn rows(&self) -> u64 {
        self.batch * self.seq
    }

    pub(crate) fn check(&self, wants_targets: bool) -> Result<(), EngineError> {
        let rows = self.batch.saturating_mul(self.seq);
        let check = |what, found: usize| match found as u64 == rows && rows > 0 {
            true => Ok(()),
            false => Err(EngineError::Batch { what, expected: format!("{rows}, at least 1"), got: found.to_string() }),
        };
        check("input_ids", self.input_ids.len())?;
        check("position_ids", self.position_ids.len())?;
        if !self.document_ids.is_empty() {
            check("document_ids", self.document_ids.len())?;
            let mut sequences = self.document_ids.chunks(self.seq as usize);
            if let Some(pair) = sequences.find_map(|ids| ids.windows(2).find(|pair| pair[0] > pair[1])) {
                let (expected, got) = ("numbers that never decrease along a sequence".into(), format!("{pair:?}"));
                return Err(EngineError::Batch { what: "document_ids", expected, got });
            }
        }
        if !wants_targets {
            return Ok(());
        }
        check("targets", self.targets.len())?;
        match self.targets.iter().find(|&&target| target < 0 && target != IGNORED) {
            None => Ok(()),
            Some(target) => {
                let expected = format!("a token, or {IGNORED} where none counts");
                Err(EngineError::Batch { what: "targets", expected, got: target.to_string() })
            }
        }
    }
}
