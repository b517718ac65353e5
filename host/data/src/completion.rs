//! Prompts and completions as training reads them: one text a row, with the loss on the completion and the end of text.
//!
//! A prompt and its completion are encoded together, as one text, so that the tokens are those of the text that a user would
//! see. A token that holds a part of both belongs to the completion.

use std::sync::Arc;

use crate::{
    batch::{IGNORED, Row},
    columns::Columns,
    corpus::surroundings,
    data_set::DataSet,
    encoded_rows::{EncodedRows, Inspection, RowEncoder, Taken, encode_at, no_row, plan, too_long},
    error::{Error, Place, RowFault},
    loader::{EpochSize, RowRemarks, Windowed, delegate_loader, fingerprint},
    options::{Overlong, Split, check_block_size, check_window},
    tokenizer::Tokenizer,
};

/// How prompts and completions become rows.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompletionOptions {
    /// Most tokens of a row.
    pub block_size: usize,
    /// Puts several examples into a row, each attended to on its own.
    pub packing: bool,
    pub overlong: Overlong,
    pub columns: Columns,
    pub split: Split,
    /// Shuffles the files, and the rows within each window of `shuffle_window` rows.
    pub shuffle_seed: Option<u64>,
    /// Rows that are held in memory to be shuffled and packed.
    pub shuffle_window: usize,
}

impl Default for CompletionOptions {
    fn default() -> Self {
        CompletionOptions {
            block_size: 1024,
            packing: false,
            overlong: Overlong::Refuse,
            columns: Columns::default(),
            split: Split::All,
            shuffle_seed: None,
            shuffle_window: 1024,
        }
    }
}

/// What the rows of a data set of completions are like.
#[derive(Debug, Default)]
pub struct CompletionReport {
    pub size: EpochSize,
    /// Rows left out because they are too long.
    pub skipped_rows: u64,
    /// Rows of the other part of the split.
    pub other_rows: u64,
    /// Rows whose end was cut off.
    pub truncated_rows: u64,
    /// Rows whose completion is empty or white space: little more than the end of the text is learned.
    pub empty_completions: u64,
    /// Rows with a token that holds a part of the prompt and a part of the completion. Generation begins after the
    /// prompt's own tokens, which training did not see there.
    pub shared_tokens: u64,
    /// The first faults, by line; `fault_count` counts all.
    pub faults: Vec<Error>,
    pub fault_count: u64,
    /// Where the reading of a file stopped, for it cannot be read further: the rows behind are not counted.
    pub stops: Vec<Place>,
}

/// Prompts with their completions, one a row or packed, with labels on the completions alone.
pub struct CompletionDataLoader(Windowed<EncodedRows<Encoder>>);

delegate_loader!(CompletionDataLoader);

impl CompletionDataLoader {
    /// Opens files, given as paths or glob patterns, and reads them through once.
    ///
    /// # Errors
    /// An option that cannot be, a file that cannot be read, the first row with a fault, data without a row.
    pub fn open(patterns: &[String], tokenizer: Arc<Tokenizer>, options: &CompletionOptions) -> Result<Self, Error> {
        let loader = Self::unchecked(patterns, tokenizer, options)?;
        let mut report = loader.inspect(true)?;
        if !report.faults.is_empty() {
            return Err(report.faults.remove(0));
        }
        loader.check_not_empty(&report)?;
        Ok(CompletionDataLoader(loader.0.with_remarks(report.remarks())))
    }

    /// Reads the rows through and says what they are like, the faults of all of them.
    ///
    /// # Errors
    /// As [`CompletionDataLoader::open`], but for faults of rows.
    pub fn report(
        patterns: &[String],
        tokenizer: Arc<Tokenizer>,
        options: &CompletionOptions,
    ) -> Result<CompletionReport, Error> {
        let loader = Self::unchecked(patterns, tokenizer, options)?;
        let report = loader.inspect(false)?;
        if report.fault_count == 0 {
            loader.check_not_empty(&report)?;
        }
        Ok(report)
    }

    /// The first sound rows in the files' own order, each with its line.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn first_rows(
        patterns: &[String],
        tokenizer: Arc<Tokenizer>,
        options: &CompletionOptions,
        count: usize,
    ) -> Result<Vec<(Place, Row)>, Error> {
        let options = CompletionOptions { shuffle_seed: None, ..options.clone() };
        let loader = Self::unchecked(patterns, tokenizer, &options)?;
        EncodedRows::new(loader.0.source().encoder.clone(), 0).first_rows(count)
    }

    fn unchecked(patterns: &[String], tokenizer: Arc<Tokenizer>, options: &CompletionOptions) -> Result<Self, Error> {
        check_block_size(options.block_size)?;
        check_window(options.shuffle_window)?;
        options.split.check()?;
        let data = DataSet::open(patterns, &options.columns, false)?;
        let (before, after) = surroundings(&tokenizer, true)?;
        let named = ("completion", options, data.shapes());
        let digests = data.files.iter().map(|file| &file.digest);
        let plan = plan(
            (options.block_size, options.packing),
            (options.shuffle_seed, options.shuffle_window),
            tokenizer.pad_id(),
            fingerprint(digests, tokenizer.digest(), &named),
        );
        let encoder = Arc::new(Encoder { data, tokenizer, before, after, options: options.clone() });
        Ok(CompletionDataLoader(Windowed::new(EncodedRows::new(encoder, 0), plan)))
    }

    fn inspect(&self, stop_at_fault: bool) -> Result<CompletionReport, Error> {
        let mut report = CompletionReport::default();
        let rows = EncodedRows::new(self.0.source().encoder.clone(), 0);
        let found = rows.inspect(stop_at_fault, |_, built| report.add(built))?;
        let Inspection { skipped_rows, other_rows, faults, fault_count, stops } = found;
        Ok(CompletionReport { skipped_rows, other_rows, faults, fault_count, stops, ..report })
    }

    fn check_not_empty(&self, report: &CompletionReport) -> Result<(), Error> {
        if report.size.rows > 0 {
            return Ok(());
        }
        let Encoder { data, options, .. } = self.0.source().encoder.as_ref();
        Err(no_row(&data.files, &options.split, report.skipped_rows, report.other_rows))
    }
}

impl CompletionReport {
    /// What is no fault, and may not be meant.
    pub fn remarks(&self) -> RowRemarks {
        RowRemarks {
            rows: self.size.rows,
            empty_completions: self.empty_completions,
            shared_tokens: self.shared_tokens,
        }
    }

    fn add(&mut self, built: &Built) {
        let size = &mut self.size;
        size.rows += 1;
        size.tokens += built.row.len() as u64;
        size.supervised_tokens += built.row.supervised_tokens() as u64;
        size.longest_row_tokens = size.longest_row_tokens.max(built.row.len() as u64);
        self.truncated_rows += u64::from(built.is_truncated);
        self.empty_completions += u64::from(built.is_empty);
        self.shared_tokens += u64::from(built.shares_token);
    }
}

/// An encoded example.
struct Built {
    row: Row,
    is_truncated: bool,
    is_empty: bool,
    shares_token: bool,
}

/// What is read, and how; shared by every reader of it.
struct Encoder {
    data: DataSet,
    tokenizer: Arc<Tokenizer>,
    before: Vec<u32>,
    after: Vec<u32>,
    options: CompletionOptions,
}

impl RowEncoder for Encoder {
    type Built = Built;

    fn data(&self) -> &DataSet {
        &self.data
    }

    fn shuffle_seed(&self) -> Option<u64> {
        self.options.shuffle_seed
    }

    fn encode(&self, file: usize, place: &Place, row: &str) -> Result<Taken<Built>, Error> {
        let pair = match self.data.shape(file)?.pair(row) {
            Ok(pair) => pair,
            Err(fault) => return Ok(Taken::Bad(fault)),
        };
        let prompt_bytes = pair.prompt.len() as u64;
        let text = pair.prompt + &pair.completion;
        if !self.options.split.takes(&text) {
            return Ok(Taken::OtherPart);
        }
        let tokens = encode_at(&self.tokenizer, place, &text)?;
        let shares_token = tokens.iter().any(|token| token.start < prompt_bytes && prompt_bytes < token.end);
        let (mut ids, mut labels) = (self.before.clone(), vec![IGNORED; self.before.len()]);
        for token in &tokens {
            ids.push(token.id);
            labels.push(if token.end > prompt_bytes { token.id.into() } else { IGNORED });
        }
        ids.extend(&self.after);
        labels.extend(self.after.iter().map(|id| i64::from(*id)));
        let limit = self.options.block_size;
        if let Some(taken) = too_long(self.options.overlong, ids.len(), limit) {
            return Ok(taken);
        }
        let is_truncated = ids.len() > limit;
        ids.truncate(limit);
        labels.truncate(limit);
        let row = Row::document(ids, labels);
        if row.supervised_tokens() == 0 {
            let why = match is_truncated {
                true => format!("the prompt alone takes the {limit} tokens of a block; raise the block size"),
                false => "the prompt and the completion are empty; remove the row".to_owned(),
            };
            return Ok(Taken::Bad(RowFault::NoSupervised { why }));
        }
        let is_empty = pair.completion.trim().is_empty();
        Ok(Taken::Row(Built { row, is_truncated, is_empty, shares_token }))
    }

    fn into_row(built: Built) -> Row {
        built.row
    }
}
