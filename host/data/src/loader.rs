//! Rows in the order of training: windows of a stream, shuffled and perhaps packed, with a position that is saved and
//! resumed.
//!
//! A loader holds one window of rows. The position is where that window starts and how many of its rows were taken:
//! from that the window is read again and the rest of it is the same, row for row.

use std::{path::Path, sync::Arc};

use crate::{
    batch::{Batch, Row},
    corpus::Cursor,
    corpus::StreamToken,
    error::Error,
    held::Held,
    pack::pack,
    shuffle,
};

/// Where a loader stands. Saved with a checkpoint as JSON; it resumes the same files, tokenizer and options only.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// BLAKE3 over the files' sizes and ends, the tokenizer and the options.
    pub fingerprint: String,
    pub epoch: u64,
    /// The window that is being given out.
    window: u64,
    start: Mark,
    /// Rows of the window that were given out.
    taken: u64,
    /// The date that the chat template was given, where it asks for one: give it to the template to resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_date: Option<String>,
}

/// Where a source of rows stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub(crate) cursor: Cursor,
    /// Tokens that were read and belong to the next row.
    pub(crate) carry: Vec<StreamToken>,
}

/// How much an epoch holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct EpochSize {
    pub rows: u64,
    pub tokens: u64,
    /// Those that a loss is taken on.
    pub supervised_tokens: u64,
    pub longest_row_tokens: u64,
}

/// What the rows of a loader have that is no fault, and that training on them may not be meant to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RowRemarks {
    /// Rows of an epoch, before packing.
    pub rows: u64,
    /// Those with a completion, or an assistant's turn, that says nothing: its end alone is learned.
    pub empty_completions: u64,
    /// Those with a token that holds a part of the prompt and a part of the completion.
    pub shared_tokens: u64,
}

impl std::ops::Add for RowRemarks {
    type Output = RowRemarks;

    fn add(self, other: RowRemarks) -> RowRemarks {
        RowRemarks {
            rows: self.rows + other.rows,
            empty_completions: self.empty_completions + other.empty_completions,
            shared_tokens: self.shared_tokens + other.shared_tokens,
        }
    }
}

/// What a trainer needs of its data, whatever it is read from.
pub trait DataLoader {
    /// The next batch of at most `rows` rows; fewer at the end of an epoch, `None` behind it.
    ///
    /// # Errors
    /// The data cannot be read or has a fault; the loader stays where it was.
    fn next_batch(&mut self, rows: usize) -> Result<Option<Batch>, Error>;

    /// The next row alone.
    ///
    /// # Errors
    /// As [`DataLoader::next_batch`].
    fn next_row(&mut self) -> Result<Option<Row>, Error>;

    /// Goes to the start of an epoch, counted from 0.
    fn start_epoch(&mut self, epoch: u64);

    /// The running epoch.
    fn epoch(&self) -> u64;

    /// Where the loader stands: [`DataLoader::seek`] gives what would have come next, token for token.
    fn position(&self) -> Position;

    /// Goes to a saved position.
    ///
    /// # Errors
    /// It was saved with other data, another tokenizer or other options.
    fn seek(&mut self, position: &Position) -> Result<(), Error>;

    /// Reads one epoch through and counts it, without moving the loader. For a shuffled packed loader, the running
    /// epoch: another may need a row more or less.
    ///
    /// # Errors
    /// As [`DataLoader::next_batch`].
    fn epoch_size(&self) -> Result<EpochSize, Error>;

    /// What was seen when the rows were read through. Of text, which has no completions, nothing.
    fn remarks(&self) -> RowRemarks {
        RowRemarks::default()
    }
}

/// A source of rows in their own order.
pub(crate) trait Rows: Sized {
    fn next(&mut self) -> Result<Option<Row>, Error>;
    fn mark(&self) -> Mark;
    fn seek(&mut self, mark: &Mark) -> Result<(), Error>;
    /// The same source at the start of an epoch.
    fn at_epoch(&self, epoch: u64) -> Self;
}

/// How rows of the source become rows of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Rows of the source that are held at a time.
    pub window_rows: usize,
    /// Packs them into rows of this many tokens.
    pub pack_tokens: Option<usize>,
    pub shuffle_seed: Option<u64>,
    pub pad_id: u32,
    pub fingerprint: String,
}

/// A loader over a source of rows.
pub(crate) struct Windowed<R> {
    source: R,
    plan: Arc<Plan>,
    epoch: u64,
    window: u64,
    start: Mark,
    rows: Vec<Held>,
    taken: usize,
    template_date: Option<String>,
    remarks: RowRemarks,
}

impl<R: Rows> Windowed<R> {
    pub fn new(source: R, plan: Plan) -> Self {
        let start = source.mark();
        let plan = Arc::new(plan);
        Windowed {
            source,
            plan,
            epoch: 0,
            window: 0,
            start,
            rows: Vec::new(),
            taken: 0,
            template_date: None,
            remarks: RowRemarks::default(),
        }
    }

    /// Saves the date of the chat template with each position.
    pub fn with_template_date(mut self, date: Option<String>) -> Self {
        self.template_date = date;
        self
    }

    pub fn with_remarks(mut self, remarks: RowRemarks) -> Self {
        self.remarks = remarks;
        self
    }

    pub fn source(&self) -> &R {
        &self.source
    }

    /// Reads the window that starts where the source stands; false where nothing is left. A fault leaves the source
    /// where it was.
    fn read_window(&mut self) -> Result<bool, Error> {
        let start = self.source.mark();
        let mut rows = Vec::new();
        while rows.len() < self.plan.window_rows {
            match self.source.next() {
                Ok(Some(row)) => rows.push(Held::of(row)),
                Ok(None) => break,
                Err(error) => {
                    self.source.seek(&start)?;
                    return Err(error);
                }
            }
        }
        if rows.is_empty() {
            return Ok(false);
        }
        if let Some(capacity) = self.plan.pack_tokens {
            rows = packed(rows, capacity);
        }
        if let Some(seed) = self.plan.shuffle_seed {
            let order = shuffle::order("rows", seed, self.epoch, self.window, rows.len());
            rows = order.into_iter().map(|index| std::mem::take(&mut rows[index])).collect();
        }
        (self.start, self.rows, self.taken) = (start, rows, 0);
        Ok(true)
    }

    fn restart(&self, epoch: u64) -> Self {
        let source = self.source.at_epoch(epoch);
        let start = source.mark();
        let (plan, template_date, remarks) = (self.plan.clone(), self.template_date.clone(), self.remarks);
        Windowed { source, plan, epoch, window: 0, start, rows: Vec::new(), taken: 0, template_date, remarks }
    }
}

/// Puts documents together into rows of at most `capacity` tokens.
fn packed(documents: Vec<Held>, capacity: usize) -> Vec<Held> {
    let lengths: Vec<usize> = documents.iter().map(Held::len).collect();
    let plan = pack(&lengths, capacity).expect("the source gives no document longer than a row");
    let mut documents: Vec<Option<Held>> = documents.into_iter().map(Some).collect();
    let mut rows = Vec::with_capacity(plan.len());
    for indices in plan {
        let mut row = Held::default();
        for index in indices {
            row.append(documents[index].take().expect("packing puts a document into one row"));
        }
        rows.push(row);
    }
    rows
}

impl<R: Rows> DataLoader for Windowed<R> {
    fn next_batch(&mut self, rows: usize) -> Result<Option<Batch>, Error> {
        let mut taken = Vec::new();
        while taken.len() < rows {
            // A fault behind the first row is given by the next call, after the rows before it.
            match self.next_row() {
                Ok(Some(row)) => taken.push(row),
                Ok(None) => break,
                Err(error) if taken.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok((!taken.is_empty()).then(|| Batch::new(&taken, self.plan.pad_id)))
    }

    fn next_row(&mut self) -> Result<Option<Row>, Error> {
        if self.taken == self.rows.len() {
            let window = self.window;
            // The first window has number 0.
            self.window = if self.rows.is_empty() { window } else { window.wrapping_add(1) };
            let read = self.read_window();
            if !matches!(read, Ok(true)) {
                self.window = window;
                return read.map(|_| None);
            }
        }
        self.taken += 1;
        Ok(Some(std::mem::take(&mut self.rows[self.taken - 1]).into_row()))
    }

    fn start_epoch(&mut self, epoch: u64) {
        *self = self.restart(epoch);
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn position(&self) -> Position {
        Position {
            fingerprint: self.plan.fingerprint.clone(),
            epoch: self.epoch,
            window: self.window,
            start: self.start.clone(),
            taken: self.taken as u64,
            template_date: self.template_date.clone(),
        }
    }

    fn seek(&mut self, position: &Position) -> Result<(), Error> {
        if position.fingerprint != self.plan.fingerprint {
            return Err(Error::Position {
                why: "it belongs to other data, another tokenizer or other options".to_owned(),
            });
        }
        let mut fresh = self.restart(position.epoch);
        fresh.source.seek(&position.start)?;
        (fresh.window, fresh.start) = (position.window, position.start.clone());
        if position.taken > 0 {
            fresh.read_window()?;
            let taken = usize::try_from(position.taken).ok().filter(|taken| *taken <= fresh.rows.len());
            fresh.taken = taken.ok_or_else(|| Error::Position {
                why: format!("it is after row {} of a window of {}", position.taken, fresh.rows.len()),
            })?;
        }
        *self = fresh;
        Ok(())
    }

    fn epoch_size(&self) -> Result<EpochSize, Error> {
        let mut reader = self.restart(self.epoch);
        let mut size = EpochSize::default();
        while let Some(row) = reader.next_row()? {
            size.rows += 1;
            size.tokens += row.len() as u64;
            size.supervised_tokens += row.supervised_tokens() as u64;
            size.longest_row_tokens = size.longest_row_tokens.max(row.len() as u64);
        }
        Ok(size)
    }

    fn remarks(&self) -> RowRemarks {
        self.remarks
    }
}

/// Gives a loader made of a [`Windowed`] field `0` the whole trait.
macro_rules! delegate_loader {
    ($loader:ty) => {
        impl crate::loader::DataLoader for $loader {
            fn next_batch(&mut self, rows: usize) -> Result<Option<crate::batch::Batch>, crate::error::Error> {
                self.0.next_batch(rows)
            }
            fn next_row(&mut self) -> Result<Option<crate::batch::Row>, crate::error::Error> {
                self.0.next_row()
            }
            fn start_epoch(&mut self, epoch: u64) {
                self.0.start_epoch(epoch);
            }
            fn epoch(&self) -> u64 {
                self.0.epoch()
            }
            fn position(&self) -> crate::loader::Position {
                self.0.position()
            }
            fn seek(&mut self, position: &crate::loader::Position) -> Result<(), crate::error::Error> {
                self.0.seek(position)
            }
            fn epoch_size(&self) -> Result<crate::loader::EpochSize, crate::error::Error> {
                self.0.epoch_size()
            }
            fn remarks(&self) -> crate::loader::RowRemarks {
                self.0.remarks()
            }
        }
    };
}
pub(crate) use delegate_loader;

/// Names the data, the tokenizer and the options of a loader, wherever the files lie.
pub(crate) fn fingerprint<'a>(
    digests: impl Iterator<Item = &'a [u8; 32]>,
    tokenizer: [u8; 32],
    options: &impl serde::Serialize,
) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"unswag-data 1").update(&tokenizer);
    for digest in digests {
        hasher.update(digest);
    }
    hasher.update(&serde_json::to_vec(options).expect("options are plain data"));
    hasher.finalize().to_hex().to_string()
}

/// What an empty loader is told.
pub(crate) fn nothing(files: &[crate::files::DataFile], why: &str) -> Error {
    let first = files.first().map(|file| file.path.as_path()).unwrap_or(Path::new(""));
    let more = if files.len() > 1 { format!(" and {} more", files.len() - 1) } else { String::new() };
    Error::Empty { what: format!("{}{more}", first.display()), why: why.to_owned() }
}
