//! From arguments to the loader that they describe.

use std::{path::Path, sync::Arc};

use unswag_data::{
    ChatDataLoader, ChatOptions, ChatTemplate, Columns, CompletionDataLoader, CompletionOptions, DataDescription,
    DataKind, DataLoader, DataSet, Error, ModelLimits, Overlong, PackedDataLoader, RowFormat, RowRemarks, Split,
    StreamingContextDataLoader, TextOptions, Tokenizer, UnreadColumn,
};

use crate::{
    args::{Data, DataFormat, TooLong},
    term,
};

/// In which order rows come, and which part of the data they are of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    pub shuffle_seed: Option<u64>,
    pub shuffle_window: Option<usize>,
    pub split: Split,
    /// Takes no loss on what a row shares with the row before it: each token counts once, with the most context that it
    /// has. What measures a model sets it.
    pub mask_overlap: bool,
}

impl Order {
    /// The first kept from training, the other to train on: `share` of the data and the rest.
    pub fn split(self, share: f64, seed: u64) -> [Order; 2] {
        let validation = Split::Validation { validation_fraction: share, seed };
        let train = Split::Train { validation_fraction: share, seed };
        [Order { shuffle_seed: None, split: validation, mask_overlap: true, ..self }, Order { split: train, ..self }]
    }
}

/// The loader of these arguments, with the tokenizer and the chat template that lie beside a model.
///
/// # Errors
/// A setting that cannot be, no sound tokenizer or template, ids or rows that the model's tables have no row for, or data
/// with a fault.
pub fn open(data: &Data, model: &Path, limits: ModelLimits, order: Order) -> Result<Box<dyn DataLoader>, Error> {
    open_at(data, model, limits, order, None)
}

/// The same, on the date that a chat template may ask for: that of the run that is resumed. Without one, it is now.
///
/// # Errors
/// As [`open`].
pub fn open_at(
    data: &Data,
    model: &Path,
    limits: ModelLimits,
    order: Order,
    date: Option<&str>,
) -> Result<Box<dyn DataLoader>, Error> {
    check_rows(data, limits)?;
    let data = &fitted(data, limits);
    let tokenizer = Arc::new(Tokenizer::load(model)?);
    limits.check_ids(&tokenizer)?;
    if data.chat {
        let template = Arc::new(ChatTemplate::load(model, &tokenizer, date)?);
        return Ok(Box::new(ChatDataLoader::open(&data.data, tokenizer, template, &chat_options(data, order))?));
    }
    let kind = look(data)?.kind()?;
    if kind == DataKind::Completions {
        let options = completion_options(data, order)?;
        return Ok(Box::new(CompletionDataLoader::open(&data.data, tokenizer, &options)?));
    }
    let options = text_options(data, kind, order)?;
    if data.packing {
        return Ok(Box::new(PackedDataLoader::open(&data.data, tokenizer, &options)?));
    }
    Ok(Box::new(StreamingContextDataLoader::open(&data.data, tokenizer, &options)?))
}

/// Compares the length of rows with the model's position embedding.
///
/// # Errors
/// The embedding has fewer rows.
pub fn check_rows(data: &Data, limits: ModelLimits) -> Result<(), Error> {
    let next = |rows| format!("give --block-size {rows}");
    limits.check_positions(row_tokens(data, limits), "rows of --block-size", next)
}

/// Tokens of a row where --block-size is not given, of a model that takes as many.
pub const DEFAULT_BLOCK_SIZE: u64 = 1024;

/// Tokens of a row: --block-size, or what the model takes of the default.
pub fn row_tokens(data: &Data, limits: ModelLimits) -> u64 {
    data.given_row_tokens().unwrap_or_else(|| limits.fitting(DEFAULT_BLOCK_SIZE))
}

/// The same arguments with the length of rows said, which a default leaves to the model.
pub fn fitted(data: &Data, limits: ModelLimits) -> Data {
    Data { block_size: Some(row_tokens(data, limits) as usize), ..data.clone() }
}

/// A note on the length of rows: that the default was shortened, or that the model was not trained for it.
pub fn length_note(given: Option<u64>, limits: ModelLimits) -> Option<String> {
    let tokens = given.unwrap_or_else(|| limits.fitting(DEFAULT_BLOCK_SIZE));
    if given.is_none() && tokens < DEFAULT_BLOCK_SIZE {
        return Some(format!("rows have {tokens} tokens, the size of the model's position embedding"));
    }
    limits.note(tokens)
}

/// What the files of these arguments are, by their names, their headers and their first rows.
///
/// # Errors
/// A file that cannot be read, or whose columns are ambiguous.
pub fn look(data: &Data) -> Result<DataSet, Error> {
    DataSet::open(&data.data, &columns(data), data.chat)
}

/// A file of data in a line, as training and preprocessing say it.
pub fn describe(file: &DataDescription, is_chat: bool) -> String {
    let path = file.path.display();
    let format = file.format.replace('_', " ");
    let Some(rows_are) = &file.rows_are else { return format!("{path}: {format}") };
    let loss = match (is_chat, rows_are.as_str()) {
        (true, _) => "; the loss is taken on the assistant's turns",
        (false, "text") => "",
        (false, _) => "; the loss is taken on the completion",
    };
    let others = match file.other_columns.as_slice() {
        [] => String::new(),
        others => format!("; not used: {}", others.join(", ")),
    };
    format!("{path}: {format}, {rows_are} in {}{loss}{others}", file.columns.join(", "))
}

/// What a user is warned of, of columns that are not read and may hold content: a line each.
pub fn column_warnings(file: &DataDescription) -> Vec<String> {
    let path = file.path.display();
    let warn = |unread: &UnreadColumn| format!("{path}: the column {:?} is not read; {}", unread.column, unread.next);
    file.unread_columns.iter().map(warn).collect()
}

/// What a user is warned of, of rows that are no fault and may not be meant: a line each.
pub fn row_warnings(remarks: RowRemarks) -> Vec<String> {
    let of = |count: u64| format!("{} of {}", term::thousands(count), term::counted(remarks.rows, "row"));
    let mut warnings = Vec::new();
    if remarks.empty_completions > 0 {
        let rows = of(remarks.empty_completions);
        warnings.push(format!(
            "{rows} with an empty answer, of which little more than its end is learned; remove them, or fill the answers in"
        ));
    }
    if remarks.shared_tokens > 0 {
        let rows = of(remarks.shared_tokens);
        warnings.push(format!(
            "{rows} where prompt and completion share a token, which generation from the prompt cannot start with; begin \
             the completion with a space or a newline, and end the prompt without a space"
        ));
    }
    warnings
}

fn columns(data: &Data) -> Columns {
    let names = data.columns.clone();
    Columns {
        format: match names.data_format {
            DataFormat::Auto => RowFormat::Auto,
            DataFormat::Text => RowFormat::Text,
            DataFormat::Completion => RowFormat::Completion,
            DataFormat::Alpaca => RowFormat::Alpaca,
            DataFormat::Sharegpt => RowFormat::Sharegpt,
            DataFormat::Chat => RowFormat::Chat,
        },
        text: names.text_column,
        prompt: names.prompt_column,
        input: names.input_column,
        completion: names.completion_column,
        system: names.system_column,
        history: names.history_column,
        messages: names.messages_column,
    }
}

/// # Errors
/// An option that means nothing for text.
pub fn text_options(data: &Data, kind: DataKind, order: Order) -> Result<TextOptions, Error> {
    if let Some(overlong) = data.overlong {
        let expected =
            "none for text, which is split into blocks (it applies to conversations and completions)".to_owned();
        return Err(Error::Setting { name: "--overlong", expected, got: format!("{overlong:?}").to_lowercase() });
    }
    let plain = TextOptions::default();
    let column = match kind {
        DataKind::Text { column } => column,
        DataKind::Completions | DataKind::Conversations => None,
    };
    Ok(TextOptions {
        block_size: block_size(data),
        overlap: data.overlap.unwrap_or(0),
        mask_overlap: order.mask_overlap,
        field: column.unwrap_or(plain.field),
        split: order.split,
        shuffle_seed: order.shuffle_seed,
        shuffle_window: order.shuffle_window.unwrap_or(plain.shuffle_window),
        ..plain
    })
}

/// # Errors
/// An option that means nothing for prompts and completions.
pub fn completion_options(data: &Data, order: Order) -> Result<CompletionOptions, Error> {
    if let Some(overlap) = data.overlap {
        let expected = "none for prompts and completions (it applies to text only)".to_owned();
        return Err(Error::Setting { name: "--overlap", expected, got: overlap.to_string() });
    }
    let plain = CompletionOptions::default();
    Ok(CompletionOptions {
        block_size: block_size(data),
        packing: data.packing,
        overlong: overlong(data),
        columns: columns(data),
        split: order.split,
        shuffle_seed: order.shuffle_seed,
        shuffle_window: order.shuffle_window.unwrap_or(plain.shuffle_window),
    })
}

fn block_size(data: &Data) -> usize {
    data.block_size.unwrap_or(DEFAULT_BLOCK_SIZE as usize)
}

fn overlong(data: &Data) -> Overlong {
    match data.overlong {
        None | Some(TooLong::Refuse) => Overlong::Refuse,
        Some(TooLong::Truncate) => Overlong::Truncate,
        Some(TooLong::Skip) => Overlong::Skip,
    }
}

pub fn chat_options(data: &Data, order: Order) -> ChatOptions {
    let plain = ChatOptions::default();
    ChatOptions {
        block_size: block_size(data),
        packing: data.packing,
        overlong: overlong(data),
        columns: columns(data),
        split: order.split,
        shuffle_seed: order.shuffle_seed,
        shuffle_window: order.shuffle_window.unwrap_or(plain.shuffle_window),
        ignore_unwritten_tools: data.ignore_unwritten_tools,
        ..plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_may_not_be_meant_are_counted_in_a_line_for_each_kind() {
        let remarks = RowRemarks { rows: 1200, empty_completions: 2, shared_tokens: 1200 };
        let [empty, shared] = &row_warnings(remarks)[..] else { panic!("two lines") };
        assert!(empty.starts_with("2 of 1,200 rows with an empty answer"), "{empty}");
        assert!(shared.starts_with("1,200 of 1,200 rows where prompt and completion share a token"), "{shared}");
        assert!(row_warnings(RowRemarks { rows: 3, ..RowRemarks::default() }).is_empty());
    }
}
