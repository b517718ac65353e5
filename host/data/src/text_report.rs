//! What rows of text are like, and the faults of all of them: what `unswag preprocess` says of text.
//!
//! Training stops at the first fault. Here the sound rows are counted, and those with a fault are listed by line.

use std::sync::Arc;

use crate::{
    corpus::{Corpus, row_text},
    encoded_rows::Inspection,
    error::{Error, Place},
    files::{self, Format},
    loader::{DataLoader, EpochSize},
    options::TextOptions,
    preview::{PreviewRow, preview},
    seams::Limits,
    source::RowFiles,
    stream::{PackedDataLoader, StreamingContextDataLoader},
    tokenizer::Tokenizer,
};

/// What the rows of text are like.
#[derive(Debug, Default)]
pub struct TextReport {
    /// Of the sound rows.
    pub size: EpochSize,
    /// The first faults, by line; `fault_count` counts all.
    pub faults: Vec<Error>,
    pub fault_count: u64,
    /// Where the reading of a file stopped, for it cannot be read further: the rows behind are not counted.
    pub stops: Vec<Place>,
    /// The first blocks.
    pub shown: Vec<PreviewRow>,
}

/// Reads text through, in blocks or packed, and shows the first `rows`.
///
/// # Errors
/// As [`StreamingContextDataLoader::open`], but for faults of rows.
pub fn report_text(
    patterns: &[String],
    tokenizer: &Arc<Tokenizer>,
    options: &TextOptions,
    packing: bool,
    rows: usize,
) -> Result<TextReport, Error> {
    let found = faults(patterns, &options.field)?;
    let Inspection { faults, fault_count, stops, .. } = found;
    let corpus = Corpus::open(patterns, tokenizer.clone(), options, Limits::default())?.passing_over_faults();
    let opened: Result<Box<dyn DataLoader>, Error> = match packing {
        true => PackedDataLoader::of(corpus, options).map(|loader| Box::new(loader) as _),
        false => StreamingContextDataLoader::of(corpus, options).map(|loader| Box::new(loader) as _),
    };
    let mut loader = match opened {
        // The faults say why there is nothing.
        Err(Error::Empty { .. }) if fault_count > 0 => {
            return Ok(TextReport { faults, fault_count, stops, ..TextReport::default() });
        }
        opened => opened?,
    };
    let shown = preview(loader.as_mut(), tokenizer, rows)?;
    Ok(TextReport { size: loader.epoch_size()?, faults, fault_count, stops, shown })
}

/// What is wrong with the rows of files; a text file has no rows.
fn faults(patterns: &[String], field: &String) -> Result<Inspection, Error> {
    let mut found = Inspection::default();
    let files = files::resolve(patterns)?.into_iter().filter(|file| file.format != Format::Text).collect();
    let mut rows = RowFiles::new(Arc::new(files), None, 0);
    loop {
        match rows.next(|_| Some(std::slice::from_ref(field))) {
            Ok(Some((_, row))) => drop(row_text(row, field).map_err(|fault| found.add_fault(fault))),
            Ok(None) => return Ok(found),
            Err(error) => {
                found.add_stop(error)?;
                rows.skip_file();
            }
        }
    }
}
