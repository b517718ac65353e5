//! Prompts and completions as training reads them: one text a row, with the loss on the completion and the end of text.
//!
//! A prompt and its completion are encoded together, as one text, so that the tokens are those of the text that a user would
//! see. A token that holds a part of both belongs to the completion.

use std::sync::Arc;

use crate::{
    batch::{IGNORED, Row},
    chat::Overlong,
    columns::Columns,
    corpus::surroundings,
    data_set::DataSet,
    error::{Error, Place, RowFault},
    loader::{EpochSize, Mark, Plan, Rows, Windowed, delegate_loader, fingerprint, nothing},
    options::{Split, check_block_size, check_window},
    source::RowFiles,
    tokenizer::Tokenizer,
};

/// Faults that a report lists.
const LISTED_FAULTS: usize = 20;

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
    /// Rows whose end was cut off.
    pub truncated_rows: u64,
    /// Rows without a completion, of which the end of text alone is learned.
    pub empty_completions: u64,
    /// The first faults, by line; `fault_count` counts all.
    pub faults: Vec<Error>,
    pub fault_count: u64,
}

/// Prompts with their completions, one a row or packed, with labels on the completions alone.
pub struct CompletionDataLoader(Windowed<Completions>);

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
        Ok(loader)
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
        let mut source = loader.0.source().at_epoch(0);
        let mut rows = Vec::new();
        while rows.len() < count
            && let Some((place, taken)) = source.next_taken()?
        {
            if let Ok(Taken::Row(built)) = taken {
                rows.push((place, built.row));
            }
        }
        Ok(rows)
    }

    fn unchecked(patterns: &[String], tokenizer: Arc<Tokenizer>, options: &CompletionOptions) -> Result<Self, Error> {
        check_block_size(options.block_size)?;
        check_window(options.shuffle_window)?;
        options.split.check()?;
        let data = DataSet::open(patterns, &options.columns, false)?;
        let (before, after) = surroundings(&tokenizer, true)?;
        let named = ("completion", options, data.shapes());
        let digests = data.files.iter().map(|file| &file.digest);
        let plan = Plan {
            window_rows: if options.packing || options.shuffle_seed.is_some() { options.shuffle_window } else { 1 },
            pack_tokens: options.packing.then_some(options.block_size),
            shuffle_seed: options.shuffle_seed,
            pad_id: tokenizer.pad_id(),
            fingerprint: fingerprint(digests, tokenizer.digest(), &named),
        };
        let encoder = Arc::new(Encoder { data, tokenizer, before, after, options: options.clone() });
        Ok(CompletionDataLoader(Windowed::new(Completions::new(encoder, 0), plan)))
    }

    fn inspect(&self, stop_at_fault: bool) -> Result<CompletionReport, Error> {
        let mut report = CompletionReport::default();
        let mut source = self.0.source().at_epoch(0);
        loop {
            let (place, taken) = match source.next_taken() {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(report),
                // After such a fault, the boundaries of rows are unknown.
                Err(error) if error.place().is_some() => {
                    report.fault_count += 1;
                    report.faults.push(error);
                    return Ok(report);
                }
                Err(error) => return Err(error),
            };
            match taken {
                Ok(Taken::Row(built)) => report.add(&built),
                Ok(Taken::Skipped) => report.skipped_rows += 1,
                Err(fault) => {
                    report.fault_count += 1;
                    if report.faults.len() < LISTED_FAULTS {
                        report.faults.push(Error::Row { place, fault });
                    }
                    if stop_at_fault {
                        return Ok(report);
                    }
                }
            }
        }
    }

    fn check_not_empty(&self, report: &CompletionReport) -> Result<(), Error> {
        if report.size.rows > 0 {
            return Ok(());
        }
        let why = match report.skipped_rows {
            0 => "no row in it, or none in this part of the split",
            _ => "every row is longer than a block",
        };
        Err(nothing(&self.0.source().encoder.data.files, why))
    }
}

impl CompletionReport {
    fn add(&mut self, built: &Built) {
        let size = &mut self.size;
        size.rows += 1;
        size.tokens += built.row.len() as u64;
        size.supervised_tokens += built.row.supervised_tokens() as u64;
        size.longest_row_tokens = size.longest_row_tokens.max(built.row.len() as u64);
        self.truncated_rows += u64::from(built.is_truncated);
        self.empty_completions += u64::from(built.is_empty);
    }
}

/// An encoded example.
struct Built {
    row: Row,
    is_truncated: bool,
    is_empty: bool,
}

enum Taken {
    Row(Built),
    Skipped,
}

/// What is read, and how; shared by every reader of it.
struct Encoder {
    data: DataSet,
    tokenizer: Arc<Tokenizer>,
    before: Vec<u32>,
    after: Vec<u32>,
    options: CompletionOptions,
}

impl Encoder {
    /// An example; `None` where it is of the other part of the split.
    fn encode(&self, file: usize, place: &Place, row: &str) -> Result<Result<Option<Taken>, RowFault>, Error> {
        let pair = match self.data.shape(file)?.pair(row) {
            Ok(pair) => pair,
            Err(fault) => return Ok(Err(fault)),
        };
        let prompt_bytes = pair.prompt.len() as u64;
        let text = pair.prompt + &pair.completion;
        if !self.options.split.takes(&text) {
            return Ok(Ok(None));
        }
        let tokens = self.tokenizer.encode_with_bytes(&text).map_err(|error| match error {
            Error::Encode { message, .. } => Error::Encode { place: place.clone(), message },
            error => error,
        })?;
        let (mut ids, mut labels) = (self.before.clone(), vec![IGNORED; self.before.len()]);
        for token in &tokens {
            ids.push(token.id);
            labels.push(if token.end > prompt_bytes { token.id.into() } else { IGNORED });
        }
        ids.extend(&self.after);
        labels.extend(self.after.iter().map(|id| i64::from(*id)));
        let limit = self.options.block_size;
        let is_truncated = ids.len() > limit;
        match self.options.overlong {
            Overlong::Refuse if is_truncated => return Ok(Err(RowFault::TooLong { tokens: ids.len(), limit })),
            Overlong::Skip if is_truncated => return Ok(Ok(Some(Taken::Skipped))),
            _ => {}
        }
        ids.truncate(limit);
        labels.truncate(limit);
        let row = Row::document(ids, labels);
        if row.supervised_tokens() == 0 {
            let why = match is_truncated {
                true => format!("the prompt alone takes the {limit} tokens of a block; raise the block size"),
                false => "the prompt and the completion are empty; remove the row".to_owned(),
            };
            return Ok(Err(RowFault::NoSupervised { why }));
        }
        Ok(Ok(Some(Taken::Row(Built { row, is_truncated, is_empty: pair.completion.is_empty() }))))
    }
}

struct Completions {
    encoder: Arc<Encoder>,
    files: RowFiles,
}

/// A row's line, and what it became.
type NextTaken = (Place, Result<Taken, RowFault>);

impl Completions {
    fn new(encoder: Arc<Encoder>, epoch: u64) -> Self {
        let files = RowFiles::new(encoder.data.files.clone(), encoder.options.shuffle_seed, epoch);
        Completions { encoder, files }
    }

    /// The next row of this part, sound or not.
    fn next_taken(&mut self) -> Result<Option<NextTaken>, Error> {
        let encoder = self.encoder.clone();
        while let Some((file, row)) = self.files.next(|file| encoder.data.needed(file))? {
            let taken = match row.text {
                Ok(text) => encoder.encode(file, &row.place, &text)?,
                Err(fault) => Err(fault),
            };
            match taken {
                Ok(Some(taken)) => return Ok(Some((row.place, Ok(taken)))),
                Ok(None) => {}
                Err(fault) => return Ok(Some((row.place, Err(fault)))),
            }
        }
        Ok(None)
    }
}

impl Rows for Completions {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            match self.next_taken()? {
                Some((_, Ok(Taken::Row(built)))) => return Ok(Some(built.row)),
                Some((_, Ok(Taken::Skipped))) => {}
                Some((place, Err(fault))) => return Err(Error::Row { place, fault }),
                None => return Ok(None),
            }
        }
    }

    fn mark(&self) -> Mark {
        Mark { cursor: self.files.cursor(), carry: Vec::new() }
    }

    fn seek(&mut self, mark: &Mark) -> Result<(), Error> {
        self.files.seek(&mark.cursor)
    }

    fn at_epoch(&self, epoch: u64) -> Self {
        Completions::new(self.encoder.clone(), epoch)
    }
}
