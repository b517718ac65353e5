//! Files of text as one stream of tokens, document by document, from any position.

use std::sync::Arc;

use crate::{
    error::{Error, Place},
    files::{self, DataFile, Format},
    options::{Split, TextOptions, setting},
    record,
    seams::{Limits, SeamTokens, TextPosition},
    shuffle,
    source::{self, BYTE_ORDER_MARK, RawRow, ReadRows, RowMark},
    text::{FileText, MemoryText, cut_after},
    tokenizer::{Token, Tokenizer},
};

/// Read position in a set of files. Opaque; save it and pass it to `seek`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Number of the file in the epoch's order.
    pub(crate) file: u64,
    /// Where the row begins that is being read or comes next: bytes before it and the number of its line; rows in Parquet.
    pub(crate) offset: u64,
    pub(crate) line: u64,
    /// Where in the document; `None` where the next one is yet to be opened.
    pub(crate) inside: Option<DocumentPosition>,
}

impl Cursor {
    pub(crate) fn mark(&self) -> RowMark {
        RowMark { offset: self.offset, lines: self.line.saturating_sub(1) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentPosition {
    /// Special tokens already emitted before the text.
    before: u64,
    text: TextPosition,
    /// Special tokens already emitted after the text.
    after: u64,
}

/// A token of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct StreamToken {
    pub id: u32,
    pub starts_document: bool,
}

/// What is read, and how; shared by every reader of it.
#[derive(Clone)]
pub(crate) struct Corpus {
    pub files: Vec<DataFile>,
    pub tokenizer: Arc<Tokenizer>,
    field: String,
    pub split: Split,
    shuffle_seed: Option<u64>,
    before: Vec<u32>,
    after: Vec<u32>,
    limits: Limits,
    /// Leaves out rows with a fault, and what of a file lies behind a fault that is not a row's.
    passes_over_faults: bool,
}

impl Corpus {
    pub fn open(
        patterns: &[String],
        tokenizer: Arc<Tokenizer>,
        options: &TextOptions,
        limits: Limits,
    ) -> Result<Self, Error> {
        let files = files::resolve(patterns)?;
        let (before, after) = surroundings(&tokenizer, options.append_eos)?;
        let (field, split, shuffle_seed) = (options.field.clone(), options.split, options.shuffle_seed);
        Ok(Corpus { files, tokenizer, field, split, shuffle_seed, before, after, limits, passes_over_faults: false })
    }

    pub fn passing_over_faults(self) -> Corpus {
        Corpus { passes_over_faults: true, ..self }
    }

    /// The same files, in both parts of the split.
    pub fn whole(&self) -> Corpus {
        Corpus { split: Split::All, ..self.clone() }
    }

    /// Rows that hold text, in both parts of the split, as far as they can be read. A text file has none.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn rows_with_text(&self) -> Result<u64, Error> {
        let mut count = 0;
        for file in self.files.iter().filter(|file| file.format != Format::Text) {
            let mut rows = source::open(file, RowMark::default(), Some(std::slice::from_ref(&self.field)))?;
            while let Ok(Some(row)) = rows.next() {
                count += u64::from(row_text(row, &self.field).is_ok_and(|(text, _)| !text.is_empty()));
            }
        }
        Ok(count)
    }

    /// The bytes of a text file that are in this part.
    fn range(&self, file: &FileText) -> Result<(u64, u64), Error> {
        let bytes = file.end;
        let cut = |fraction: f64| {
            let tail = (bytes as f64 * fraction) as u64;
            cut_after(&file.file, &file.path, bytes - tail.min(bytes), bytes)
        };
        let mut head = [0; BYTE_ORDER_MARK.len()];
        let read =
            files::read_up_to(&file.file, &mut head, 0).map_err(|error| Error::io(&file.path, "read it", error))?;
        let first = if head[..read] == *BYTE_ORDER_MARK { read as u64 } else { 0 };
        Ok(match self.split {
            Split::All => (first, bytes),
            Split::Train { validation_fraction, .. } => (first, cut(validation_fraction)?.max(first)),
            Split::Validation { validation_fraction, .. } => (cut(validation_fraction)?, bytes),
        })
    }
}

/// The tokens that stand before and after each text.
///
/// # Errors
/// The end of a text is asked for, and the tokenizer has none.
pub(crate) fn surroundings(tokenizer: &Tokenizer, append_eos: bool) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let (before, after) = tokenizer.prefix_and_suffix();
    let (before, mut after) = (before.to_vec(), after.to_vec());
    if append_eos {
        let eos = tokenizer.eos_id().ok_or_else(|| {
            setting(
                "append_eos",
                "false, or an eos_token in tokenizer_config.json",
                "true, and the tokenizer has no eos_token",
            )
        })?;
        if after.last() != Some(&eos) {
            after.push(eos);
        }
    }
    Ok((before, after))
}

enum Body {
    File(SeamTokens<FileText>),
    Memory(SeamTokens<MemoryText>),
}

impl Body {
    fn next(&mut self, tokenizer: &Tokenizer) -> Result<Option<Token>, Error> {
        match self {
            Body::File(tokens) => tokens.next(tokenizer),
            Body::Memory(tokens) => tokens.next(tokenizer),
        }
    }

    fn position(&self) -> TextPosition {
        match self {
            Body::File(tokens) => tokens.position(),
            Body::Memory(tokens) => tokens.position(),
        }
    }

    fn forced_seams(&self) -> u64 {
        match self {
            Body::File(tokens) => tokens.forced_seams(),
            Body::Memory(tokens) => tokens.forced_seams(),
        }
    }
}

struct Document {
    body: Body,
    before: usize,
    after: usize,
    /// The document ends where it was cut for the split: nothing is put behind it.
    is_cut: bool,
}

/// The stream of one epoch.
pub(crate) struct CorpusTokens {
    corpus: Arc<Corpus>,
    order: Vec<usize>,
    file: usize,
    mark: RowMark,
    rows: Option<Box<dyn ReadRows>>,
    document: Option<Document>,
    forced_seams: u64,
}

impl CorpusTokens {
    pub fn new(corpus: Arc<Corpus>, epoch: u64) -> Self {
        let order = file_order(corpus.files.len(), corpus.shuffle_seed, epoch);
        CorpusTokens { corpus, order, file: 0, mark: RowMark::default(), rows: None, document: None, forced_seams: 0 }
    }

    pub fn corpus(&self) -> &Arc<Corpus> {
        &self.corpus
    }

    /// Number of window boundaries at which tokens may differ from tokenizing the full text.
    pub fn forced_seams(&self) -> u64 {
        self.forced_seams + self.document.as_ref().map_or(0, |document| document.body.forced_seams())
    }

    pub fn cursor(&self) -> Cursor {
        let inside = self.document.as_ref().map(|document| DocumentPosition {
            before: document.before as u64,
            text: document.body.position(),
            after: document.after as u64,
        });
        Cursor { file: self.file as u64, offset: self.mark.offset, line: self.mark.lines + 1, inside }
    }

    /// Goes to where [`CorpusTokens::cursor`] was taken, in the same epoch.
    pub fn seek(&mut self, cursor: &Cursor) -> Result<(), Error> {
        let file = usize::try_from(cursor.file).ok().filter(|file| *file <= self.order.len());
        self.file = file.ok_or_else(|| Error::Position {
            why: format!("file index {} of {} files", cursor.file, self.order.len()),
        })?;
        self.mark = cursor.mark();
        (self.rows, self.document) = (None, None);
        if let Some(inside) = cursor.inside {
            if !self.open_document(inside.text)? {
                return Err(Error::Position { why: "its document no longer exists".to_owned() });
            }
            let (before, after) = (self.corpus.before.len() as u64, self.corpus.after.len() as u64);
            let document = self.document.as_mut().expect("it was opened");
            // At most the few tokens of the list, so the casts lose nothing.
            document.before = inside.before.min(before) as usize;
            document.after = inside.after.min(after) as usize;
        }
        Ok(())
    }

    /// The next token; `None` at the end of the epoch.
    pub fn next(&mut self) -> Result<Option<StreamToken>, Error> {
        let corpus = self.corpus.clone();
        loop {
            let Some(document) = &mut self.document else {
                if !self.open_document(TextPosition::default())? {
                    return Ok(None);
                }
                continue;
            };
            let is_first =
                document.before == 0 && document.after == 0 && document.body.position() == TextPosition::default();
            let token = |id| Some(StreamToken { id, starts_document: is_first });
            if let Some(&id) = corpus.before.get(document.before) {
                document.before += 1;
                return Ok(token(id));
            }
            if document.after == 0
                && let Some(text) = document.body.next(&corpus.tokenizer)?
            {
                return Ok(token(text.id));
            }
            if let Some(&id) = corpus.after.get(document.after).filter(|_| !document.is_cut) {
                document.after += 1;
                return Ok(token(id));
            }
            self.close_document();
        }
    }

    fn close_document(&mut self) {
        self.forced_seams = self.forced_seams();
        self.document = None;
        match &self.rows {
            Some(rows) => self.mark = rows.mark(),
            None => self.next_file(),
        }
    }

    fn next_file(&mut self) {
        self.file += 1;
        (self.mark, self.rows) = (RowMark::default(), None);
    }

    /// Opens the next document that is in this part and not empty; false at the end of the epoch.
    fn open_document(&mut self, position: TextPosition) -> Result<bool, Error> {
        let corpus = self.corpus.clone();
        while let Some(&index) = self.order.get(self.file) {
            let file = &corpus.files[index];
            if file.format == Format::Text {
                let whole =
                    FileText { file: Arc::new(file.open()?), path: file.path.clone(), start: 0, end: file.bytes };
                let (start, end) = corpus.range(&whole)?;
                if start == end {
                    self.next_file();
                    continue;
                }
                let is_cut = end < file.bytes;
                let source = FileText { start, end, ..whole };
                let tokens = SeamTokens::new(source, &corpus.tokenizer, corpus.limits, position)?;
                self.document = Some(Document { body: Body::File(tokens), before: 0, after: 0, is_cut });
                return Ok(true);
            }
            let rows = match &mut self.rows {
                Some(rows) => rows,
                closed => closed.insert(source::open(file, self.mark, Some(std::slice::from_ref(&corpus.field)))?),
            };
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Err(error) if !corpus.passes_over_faults || error.place().is_none() => return Err(error),
                Ok(None) | Err(_) => {
                    self.next_file();
                    continue;
                }
            };
            let mark = row.mark;
            let (text, place) = match row_text(row, &corpus.field) {
                Err(_) if corpus.passes_over_faults => continue,
                read => read?,
            };
            if text.is_empty() || !corpus.split.takes(&text) {
                continue;
            }
            self.mark = mark;
            let source = MemoryText { text: text.into(), place };
            let tokens = SeamTokens::new(source, &corpus.tokenizer, corpus.limits, position)?;
            self.document = Some(Document { body: Body::Memory(tokens), before: 0, after: 0, is_cut: false });
            return Ok(true);
        }
        Ok(false)
    }
}

/// The text of a row, and where it stands.
///
/// # Errors
/// The row has a fault, or no text in this field.
pub(crate) fn row_text(row: RawRow, field: &str) -> Result<(String, Place), Error> {
    let text = row.text.and_then(|row| record::text(&record::parse(&row)?, field, "the row's text"));
    match text {
        Ok(text) => Ok((text, row.place)),
        Err(fault) => Err(Error::Row { place: row.place, fault }),
    }
}

/// The order in which an epoch reads its files.
pub(crate) fn file_order(count: usize, shuffle_seed: Option<u64>, epoch: u64) -> Vec<usize> {
    match shuffle_seed {
        Some(seed) => shuffle::order("files", seed, epoch, 0, count),
        None => (0..count).collect(),
    }
}
