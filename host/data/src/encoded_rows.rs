//! Rows of files that are encoded one by one, each to a row of tokens, a fault, or nothing: conversations, and prompts with
//! their completions. Here is the walk over them; a [`RowEncoder`] says what becomes of one.
//!
//! No row is left out in silence: one that is not given is counted as skipped, reported as a fault, or of the other part of
//! the split. Order and cursor depend on the files and the epoch alone, so that a checkpoint resumes at the same row.

use std::sync::Arc;

use crate::{
    batch::Row,
    data_set::DataSet,
    error::{Error, Place, RowFault},
    files::DataFile,
    loader::{Mark, Plan, Rows, nothing},
    options::{Overlong, Split, counted_rows},
    source::RowFiles,
    tokenizer::{Token, Tokenizer},
};

/// Faults that a report lists.
const LISTED_FAULTS: usize = 20;

/// What a row became.
pub(crate) enum Taken<Built> {
    Row(Built),
    Bad(RowFault),
    /// Left out for its length.
    Skipped,
    /// Of the other part of the split.
    OtherPart,
}

/// Encodes rows; shared by every reader of them.
pub(crate) trait RowEncoder {
    /// An encoded row, and what a report counts of it.
    type Built;

    fn data(&self) -> &DataSet;

    /// Shuffles the files.
    fn shuffle_seed(&self) -> Option<u64>;

    /// Encodes a row of the file with this index.
    ///
    /// # Errors
    /// What is no fault of this row alone.
    fn encode(&self, file: usize, place: &Place, row: &str) -> Result<Taken<Self::Built>, Error>;

    fn into_row(built: Self::Built) -> Row;
}

/// The rows of an epoch in the files' order.
pub(crate) struct EncodedRows<E> {
    pub encoder: Arc<E>,
    files: RowFiles,
    /// Rows passed over because they are of the other part of the split.
    other_rows: u64,
}

/// A row's line, and the row; no row where it is left out for its length.
type NextBuilt<Built> = (Place, Result<Option<Built>, RowFault>);

/// What is wrong with rows, or leaves them out.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    pub skipped_rows: u64,
    /// Rows of the other part of the split.
    pub other_rows: u64,
    /// The first faults, by line; `fault_count` counts all.
    pub faults: Vec<Error>,
    pub fault_count: u64,
    /// Where the reading of a file stopped: the rows behind are not counted.
    pub stops: Vec<Place>,
}

impl Inspection {
    pub fn add_fault(&mut self, fault: Error) {
        self.fault_count += 1;
        if self.faults.len() < LISTED_FAULTS {
            self.faults.push(fault);
        }
    }

    /// A fault behind which nothing of its file can be read.
    ///
    /// # Errors
    /// The fault, where it is not one of the data.
    pub fn add_stop(&mut self, fault: Error) -> Result<(), Error> {
        let Some(place) = fault.place() else { return Err(fault) };
        self.stops.push(place.clone());
        self.add_fault(fault);
        Ok(())
    }
}

impl<E: RowEncoder> EncodedRows<E> {
    pub fn new(encoder: Arc<E>, epoch: u64) -> Self {
        let files = RowFiles::new(encoder.data().files.clone(), encoder.shuffle_seed(), epoch);
        EncodedRows { encoder, files, other_rows: 0 }
    }

    /// The next row of this part, sound or not.
    fn next_built(&mut self) -> Result<Option<NextBuilt<E::Built>>, Error> {
        let encoder = self.encoder.clone();
        while let Some((file, row)) = self.files.next(|file| encoder.data().needed(file))? {
            let taken = match row.text {
                Ok(text) => encoder.encode(file, &row.place, &text)?,
                Err(fault) => Taken::Bad(fault),
            };
            return Ok(Some(match taken {
                Taken::Row(built) => (row.place, Ok(Some(built))),
                Taken::Bad(fault) => (row.place, Err(fault)),
                Taken::Skipped => (row.place, Ok(None)),
                Taken::OtherPart => {
                    self.other_rows += 1;
                    continue;
                }
            }));
        }
        Ok(None)
    }

    /// The first `count` sound rows, each with its line.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn first_rows(mut self, count: usize) -> Result<Vec<(Place, Row)>, Error> {
        let mut rows = Vec::new();
        while rows.len() < count {
            match self.next_built() {
                Ok(Some((place, Ok(Some(built))))) => rows.push((place, E::into_row(built))),
                Ok(Some(_)) | Err(Error::Encode { .. }) => {}
                Ok(None) => break,
                Err(error) if error.place().is_some() => self.files.skip_file(),
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
    }

    /// Reads the rows through, or up to the first fault, and adds each sound one to a report.
    ///
    /// # Errors
    /// A file cannot be read; a fault that has a line is reported instead.
    pub fn inspect(mut self, stop_at_fault: bool, mut add: impl FnMut(&Place, &E::Built)) -> Result<Inspection, Error> {
        let mut found = Inspection::default();
        loop {
            let (place, built) = match self.next_built() {
                Ok(Some(next)) => next,
                Ok(None) => {
                    found.other_rows = self.other_rows;
                    return Ok(found);
                }
                // The row was read, and could not be encoded.
                Err(error @ Error::Encode { .. }) => {
                    found.add_fault(error);
                    if stop_at_fault {
                        return Ok(found);
                    }
                    continue;
                }
                Err(error) => {
                    found.add_stop(error)?;
                    if stop_at_fault {
                        return Ok(found);
                    }
                    self.files.skip_file();
                    continue;
                }
            };
            match built {
                Ok(Some(built)) => add(&place, &built),
                Ok(None) => found.skipped_rows += 1,
                Err(fault) => {
                    found.add_fault(Error::Row { place, fault });
                    if stop_at_fault {
                        return Ok(found);
                    }
                }
            }
        }
    }
}

impl<E: RowEncoder> Rows for EncodedRows<E> {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            match self.next_built()? {
                Some((_, Ok(Some(built)))) => return Ok(Some(E::into_row(built))),
                Some((_, Ok(None))) => {}
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
        EncodedRows::new(self.encoder.clone(), epoch)
    }
}

/// How a row's text is encoded: an error names the row.
///
/// # Errors
/// As [`Tokenizer::encode_with_bytes`].
pub(crate) fn encode_at(tokenizer: &Tokenizer, place: &Place, text: &str) -> Result<Vec<Token>, Error> {
    tokenizer.encode_with_bytes(text).map_err(|error| match error {
        Error::Encode { message, .. } => Error::Encode { place: place.clone(), message },
        error => error,
    })
}

/// What becomes of a row that has more than `limit` tokens; `None` for one that is taken, whole or cut off.
pub(crate) fn too_long<Built>(overlong: Overlong, tokens: usize, limit: usize) -> Option<Taken<Built>> {
    match overlong {
        Overlong::Refuse if tokens > limit => Some(Taken::Bad(RowFault::TooLong { tokens, limit })),
        Overlong::Skip if tokens > limit => Some(Taken::Skipped),
        _ => None,
    }
}

/// The error of data without a sound row in a part of the split.
pub(crate) fn no_row(files: &[DataFile], split: &Split, skipped_rows: u64, other_rows: u64) -> Error {
    if skipped_rows > 0 {
        return nothing(files, "every row is longer than a block; raise --block-size, or give --overlong truncate");
    }
    let why = split.why_empty(&counted_rows(other_rows)).filter(|_| other_rows > 0);
    nothing(files, why.as_deref().unwrap_or("there is no row in it"))
}

/// Rows of at most `block_size` tokens, packed or not, in windows where they are packed or shuffled.
pub(crate) fn plan(
    (block_size, packing): (usize, bool),
    (shuffle_seed, shuffle_window): (Option<u64>, usize),
    pad_id: u32,
    fingerprint: String,
) -> Plan {
    let window_rows = if packing || shuffle_seed.is_some() { shuffle_window } else { 1 };
    Plan { window_rows, pack_tokens: packing.then_some(block_size), shuffle_seed, pad_id, fingerprint }
}
