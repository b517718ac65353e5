//! The first rows as the model will see them: what `unswag preprocess --debug` prints.

use std::sync::Arc;

use crate::{
    batch::{IGNORED, Row},
    chat::{ChatDataLoader, ChatOptions},
    completion::{CompletionDataLoader, CompletionOptions},
    error::{Error, Place},
    loader::DataLoader,
    template::ChatTemplate,
    tokenizer::Tokenizer,
};

/// A row, token by token.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PreviewRow {
    /// `file:line`, where a row is a line.
    pub place: Option<String>,
    /// What the row decodes to, special tokens included.
    pub text: String,
    pub tokens: Vec<PreviewToken>,
    pub supervised_tokens: usize,
    /// Whether an end-of-text or end-of-turn token is among the supervised.
    pub supervises_an_end: bool,
}

/// A token of a row.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PreviewToken {
    pub id: u32,
    /// As the vocabulary spells it.
    pub piece: String,
    /// As text; a part of a character shows as U+FFFD.
    pub text: String,
    /// Whether a loss is taken on it.
    pub is_supervised: bool,
    /// Whether generation stops at it.
    pub is_eos: bool,
    pub document: u32,
    pub position: u32,
}

impl PreviewRow {
    /// Shows a row.
    ///
    /// # Errors
    /// The tokenizer cannot decode it.
    pub fn new(row: &Row, tokenizer: &Tokenizer, place: Option<&Place>) -> Result<Self, Error> {
        let mut tokens = Vec::with_capacity(row.len());
        for (at, &id) in row.ids.iter().enumerate() {
            tokens.push(PreviewToken {
                id,
                piece: tokenizer.piece(id).unwrap_or_default(),
                text: tokenizer.decode(&[id], false)?,
                is_supervised: at > 0 && row.labels[at] != IGNORED,
                is_eos: tokenizer.eos_ids().contains(&id),
                document: row.documents[at],
                position: row.positions[at],
            });
        }
        let is_end = |token: &PreviewToken| token.is_eos || tokenizer.is_special(token.id);
        Ok(PreviewRow {
            place: place.map(Place::to_string),
            text: tokenizer.decode(&row.ids, false)?,
            supervised_tokens: row.supervised_tokens(),
            supervises_an_end: tokens.iter().any(|token| token.is_supervised && is_end(token)),
            tokens,
        })
    }
}

/// The next rows of a loader, which is put back to where it stood.
///
/// # Errors
/// The data cannot be read or has a fault.
pub fn preview(loader: &mut dyn DataLoader, tokenizer: &Tokenizer, rows: usize) -> Result<Vec<PreviewRow>, Error> {
    let position = loader.position();
    let mut shown = Vec::new();
    while shown.len() < rows {
        let Some(row) = loader.next_row()? else { break };
        shown.push(PreviewRow::new(&row, tokenizer, None)?);
    }
    loader.seek(&position)?;
    Ok(shown)
}

/// The first sound conversations of files, in the files' order, each with its line. Rows with faults are passed over:
/// [`ChatDataLoader::report`] names them.
///
/// # Errors
/// A file cannot be read, or an option cannot be.
pub fn preview_chat(
    patterns: &[String],
    tokenizer: Arc<Tokenizer>,
    template: Arc<ChatTemplate>,
    options: &ChatOptions,
    rows: usize,
) -> Result<Vec<PreviewRow>, Error> {
    let found = ChatDataLoader::first_rows(patterns, tokenizer.clone(), template, options, rows)?;
    found.iter().map(|(place, row)| PreviewRow::new(row, &tokenizer, Some(place))).collect()
}

/// The first sound prompts with their completions, in the files' order, each with its line.
///
/// # Errors
/// A file cannot be read, or an option cannot be.
pub fn preview_completions(
    patterns: &[String],
    tokenizer: Arc<Tokenizer>,
    options: &CompletionOptions,
    rows: usize,
) -> Result<Vec<PreviewRow>, Error> {
    let found = CompletionDataLoader::first_rows(patterns, tokenizer.clone(), options, rows)?;
    found.iter().map(|(place, row)| PreviewRow::new(row, &tokenizer, Some(place))).collect()
}
