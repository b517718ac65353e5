//! What a user chooses about data.

use crate::error::Error;

/// Largest block: positions are counted in 32 bits, and no model reads more.
const MOST_BLOCK_TOKENS: usize = 1 << 26;

/// The option that splits data.
const SPLIT: &str = "--validation-split";

/// Which part of the data is read. Both parts are functions of the data and the seed, so they never overlap.
///
/// * A row of JSON lines belongs to a part by the hash of its text (of its messages, for conversations): two equal rows
///   are always in the same part.
/// * A text file is one document; the last part of its bytes, from the next end of line on, is the validation part.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Split {
    #[default]
    All,
    Train {
        validation_fraction: f64,
        seed: u64,
    },
    Validation {
        validation_fraction: f64,
        seed: u64,
    },
}

impl Split {
    /// Whether a row is in this part.
    pub(crate) fn takes(&self, text: &str) -> bool {
        match *self {
            Split::All => true,
            Split::Train { validation_fraction, seed } => !crate::shuffle::is_chosen(seed, text, validation_fraction),
            Split::Validation { validation_fraction, seed } => {
                crate::shuffle::is_chosen(seed, text, validation_fraction)
            }
        }
    }

    /// Why nothing is in this part of data that has `rows`, such as "30 rows"; `None` where all of it is read.
    pub(crate) fn why_empty(&self, rows: &str) -> Option<String> {
        match self {
            Split::All => None,
            Split::Train { validation_fraction: share, .. } => {
                let next = "nothing is left to train on; give a smaller share";
                Some(format!("{SPLIT} {share} takes all of {rows}, and {next}"))
            }
            Split::Validation { validation_fraction: share, .. } => {
                let next = "give a larger share, or files of their own with --eval-data";
                Some(format!("{SPLIT} {share} takes none of {rows}; {next}"))
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let (Split::Train { validation_fraction: fraction, .. }
        | Split::Validation { validation_fraction: fraction, .. }) = *self
        else {
            return Ok(());
        };
        if fraction > 0.0 && fraction < 1.0 {
            return Ok(());
        }
        Err(setting(SPLIT, "a share above 0 and below 1", fraction))
    }
}

/// What becomes of a row that is longer than a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// It is an error that names its line.
    #[default]
    Refuse,
    /// Its end is cut off.
    Truncate,
    /// It is left out, and counted.
    Skip,
}

/// How text is cut into rows.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextOptions {
    /// Tokens of a row.
    pub block_size: usize,
    /// Tokens that a block has in common with the one before it. Packed documents have none.
    pub overlap: usize,
    /// Takes no loss on the tokens that the block before had: then every token of the stream is learned once.
    pub mask_overlap: bool,
    /// The field of a JSON line that holds its text.
    pub field: String,
    /// Ends each document with the end-of-text token.
    pub append_eos: bool,
    /// Numbers the documents of a block and starts positions anew in each. Packed documents always do.
    pub isolate_documents: bool,
    /// Leaves out the last block of an epoch where it is short.
    pub drop_last: bool,
    pub split: Split,
    /// Shuffles the files, and the rows within each window of `shuffle_window` rows. Another order each epoch.
    pub shuffle_seed: Option<u64>,
    /// Rows (documents, when packed) that are held in memory to be shuffled and packed.
    pub shuffle_window: usize,
}

impl Default for TextOptions {
    fn default() -> Self {
        TextOptions {
            block_size: 1024,
            overlap: 0,
            mask_overlap: false,
            field: "text".to_owned(),
            append_eos: true,
            isolate_documents: false,
            drop_last: false,
            split: Split::All,
            shuffle_seed: None,
            shuffle_window: 1024,
        }
    }
}

impl TextOptions {
    /// # Errors
    /// A value that cannot be.
    pub fn check(&self) -> Result<(), Error> {
        check_block_size(self.block_size)?;
        if self.overlap >= self.block_size {
            let expected = format!("fewer than the {} tokens of a block", self.block_size);
            return Err(setting("--overlap", expected, self.overlap));
        }
        check_window(self.shuffle_window)?;
        self.split.check()
    }
}

pub(crate) fn check_block_size(block_size: usize) -> Result<(), Error> {
    if (2..=MOST_BLOCK_TOKENS).contains(&block_size) {
        return Ok(());
    }
    Err(setting("--block-size", format!("2 to {MOST_BLOCK_TOKENS} tokens"), block_size))
}

pub(crate) fn check_window(window: usize) -> Result<(), Error> {
    if (1..=1 << 20).contains(&window) {
        return Ok(());
    }
    Err(setting("--shuffle-window", "1 to 1048576 rows", window))
}

pub(crate) fn setting(name: &'static str, expected: impl Into<String>, got: impl ToString) -> Error {
    Error::Setting { name, expected: expected.into(), got: got.to_string() }
}

/// "1 row", "30 rows".
pub(crate) fn counted_rows(rows: u64) -> String {
    format!("{rows} row{}", if rows == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_part_names_the_option_and_how_many_rows_there_are() {
        let (validation_fraction, seed) = (0.01, 0);
        let said = |split: Split, rows| split.why_empty(&counted_rows(rows)).unwrap_or_default();
        let validation = said(Split::Validation { validation_fraction, seed }, 30);
        assert!(validation.starts_with("--validation-split 0.01 takes none of 30 rows; give a larger"), "{validation}");
        let train = said(Split::Train { validation_fraction: 0.99, seed }, 1);
        assert!(train.starts_with("--validation-split 0.99 takes all of 1 row, and nothing is left"), "{train}");
        assert_eq!(said(Split::All, 0), "");
        for validation_fraction in [0.0, 1.0, f64::NAN] {
            let said = Split::Train { validation_fraction, seed }.check().unwrap_err().to_string();
            assert!(said.starts_with("--validation-split: expected a share above 0 and below 1, got "), "{said}");
        }
    }
}
