//! Readers without files: the first bytes of a file before its format is known, and any bytes in any format for a fuzzer.

use std::{path::Path, sync::Arc};

use super::{Bytes, RowMark, find_delimiter, input::Input, reader};
use crate::{error::Error, files::Format};

/// The start of a file's text, decompressed where it is gzip; at most what one buffer holds.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub(crate) fn first_bytes(bytes: Bytes, path: &Path, is_gzip: bool) -> Result<Vec<u8>, Error> {
    Ok(Input::open(bytes, path, is_gzip, RowMark::default())?.peek()?.to_vec())
}

/// A format that [`read_rows`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeFormat {
    JsonLines,
    JsonList,
    Csv,
    Parquet,
}

impl ProbeFormat {
    pub const ALL: [ProbeFormat; 4] =
        [ProbeFormat::JsonLines, ProbeFormat::JsonList, ProbeFormat::Csv, ProbeFormat::Parquet];
}

/// Reads every row of a file that is in memory, and calls `row` with each row's JSON text or with what is wrong with it, in
/// words. A row is at most `limit_bytes` long, and that at least 4096. Meant for fuzzing: it returns, whatever the bytes.
///
/// # Errors
/// The bytes cannot be read to their end.
pub fn read_rows(
    bytes: &[u8],
    format: ProbeFormat,
    is_gzip: bool,
    limit_bytes: usize,
    mut row: impl FnMut(Result<&str, String>),
) -> Result<(), Error> {
    let path = Path::new("rows");
    let bytes = Bytes::Memory(Arc::from(bytes));
    let format = match format {
        ProbeFormat::JsonLines => Format::JsonLines,
        ProbeFormat::JsonList => Format::JsonList,
        ProbeFormat::Csv => Format::Delimited(find_delimiter(&first_bytes(bytes.clone(), path, is_gzip)?, b',')),
        ProbeFormat::Parquet => Format::Parquet,
    };
    let mut reader = reader(bytes, path, (format, is_gzip), RowMark::default(), None, limit_bytes)?;
    while let Some(next) = reader.next()? {
        match &next.text {
            Ok(text) => row(Ok(text)),
            Err(fault) => row(Err(fault.to_string())),
        }
    }
    Ok(())
}
