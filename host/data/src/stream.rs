//! Text as training reads it: blocks of one long stream with an exact overlap, or whole documents packed.

use std::sync::Arc;

use crate::{
    batch::{IGNORED, Row},
    corpus::{Corpus, CorpusTokens, StreamToken},
    error::Error,
    loader::{Mark, Plan, Rows, Windowed, delegate_loader, fingerprint, nothing},
    options::{TextOptions, counted_rows},
    seams::Limits,
    tokenizer::Tokenizer,
};

/// Blocks of `block_size` tokens of one stream, each of which begins with the last `overlap` tokens of the one before.
///
/// The stream is every document's tokens, one document after the other, each ended by the end-of-text token. A document
/// is a text file or the text field of a JSON line. Only the last block of an epoch may be shorter. Memory is bounded
/// by the shuffle window and by one line of JSON, not by the files.
pub struct StreamingContextDataLoader(Windowed<ContextBlocks>);

delegate_loader!(StreamingContextDataLoader);

impl StreamingContextDataLoader {
    /// Opens files, given as paths or glob patterns.
    ///
    /// # Errors
    /// An option that cannot be, a file that cannot be read, data without a token.
    pub fn open(patterns: &[String], tokenizer: Arc<Tokenizer>, options: &TextOptions) -> Result<Self, Error> {
        Self::with_limits(patterns, tokenizer, options, Limits::default())
    }

    pub(crate) fn with_limits(
        patterns: &[String],
        tokenizer: Arc<Tokenizer>,
        options: &TextOptions,
        limits: Limits,
    ) -> Result<Self, Error> {
        options.check()?;
        Self::of(Corpus::open(patterns, tokenizer, options, limits)?, options)
    }

    /// Blocks of a corpus that was opened with these options.
    pub(crate) fn of(corpus: Corpus, options: &TextOptions) -> Result<Self, Error> {
        options.check()?;
        let (corpus, mut plan) = corpus_and_plan(corpus, options, "context")?;
        // Without a shuffle there is nothing to hold.
        plan.window_rows = if options.shuffle_seed.is_some() { options.shuffle_window } else { 1 };
        let tokens = CorpusTokens::new(corpus, 0);
        Ok(StreamingContextDataLoader(Windowed::new(
            ContextBlocks { tokens, carry: Vec::new(), options: options.clone() },
            plan,
        )))
    }

    /// Places where a text had to be cut though that may have changed a token: none, but for runs of megabytes without
    /// a word boundary.
    pub fn forced_seams(&self) -> u64 {
        self.0.source().tokens.forced_seams()
    }
}

/// Whole documents, cut only where one is longer than a row, packed into rows of `block_size` tokens; each is attended
/// to on its own, and its positions begin at 0.
pub struct PackedDataLoader(Windowed<Documents>);

delegate_loader!(PackedDataLoader);

impl PackedDataLoader {
    /// Opens files, given as paths or glob patterns.
    ///
    /// # Errors
    /// An option that cannot be, a file that cannot be read, data without a token.
    pub fn open(patterns: &[String], tokenizer: Arc<Tokenizer>, options: &TextOptions) -> Result<Self, Error> {
        options.check()?;
        Self::of(Corpus::open(patterns, tokenizer, options, Limits::default())?, options)
    }

    /// Documents of a corpus that was opened with these options.
    pub(crate) fn of(corpus: Corpus, options: &TextOptions) -> Result<Self, Error> {
        options.check()?;
        if options.overlap > 0 {
            return Err(crate::options::setting("--overlap", "0 for packed documents", options.overlap));
        }
        let (corpus, plan) = corpus_and_plan(corpus, options, "packed")?;
        let plan = Plan { pack_tokens: Some(options.block_size), window_rows: options.shuffle_window, ..plan };
        let tokens = CorpusTokens::new(corpus, 0);
        Ok(PackedDataLoader(Windowed::new(Documents { tokens, carry: None, block_size: options.block_size }, plan)))
    }
}

fn corpus_and_plan(corpus: Corpus, options: &TextOptions, kind: &str) -> Result<(Arc<Corpus>, Plan), Error> {
    let corpus = Arc::new(corpus);
    let tokenizer = &corpus.tokenizer;
    // An epoch without a token would go on for ever.
    if CorpusTokens::new(corpus.clone(), 0).next()?.is_none() {
        return Err(nothing(&corpus.files, &why_empty(&corpus)?));
    }
    let plan = Plan {
        window_rows: 1,
        pack_tokens: None,
        shuffle_seed: options.shuffle_seed,
        pad_id: tokenizer.pad_id(),
        fingerprint: fingerprint(corpus.files.iter().map(|file| &file.digest), tokenizer.digest(), &(kind, options)),
    };
    Ok((corpus, plan))
}

/// Why there is no token in a corpus: there is no text, or none in its part of the split.
fn why_empty(corpus: &Arc<Corpus>) -> Result<String, Error> {
    let no_text = "there is no text in it".to_owned();
    let Some(why) = corpus.split.why_empty("the text") else { return Ok(no_text) };
    let rows = corpus.rows_with_text()?;
    if CorpusTokens::new(Arc::new(corpus.whole()), 0).next()?.is_none() {
        return Ok(no_text);
    }
    Ok(corpus.split.why_empty(&counted_rows(rows)).filter(|_| rows > 0).unwrap_or(why))
}

struct ContextBlocks {
    tokens: CorpusTokens,
    /// The last `overlap` tokens of the block before.
    carry: Vec<StreamToken>,
    options: TextOptions,
}

impl Rows for ContextBlocks {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        let carried = self.carry.len();
        let mut block = self.carry.clone();
        while block.len() < self.options.block_size {
            match self.tokens.next()? {
                Some(token) => block.push(token),
                None => break,
            }
        }
        let is_short = block.len() < self.options.block_size;
        if block.len() == carried || (is_short && self.options.drop_last) {
            return Ok(None);
        }
        self.carry = block[block.len().saturating_sub(self.options.overlap)..].to_vec();
        Ok(Some(self.row(&block, carried)))
    }

    fn mark(&self) -> Mark {
        Mark { cursor: self.tokens.cursor(), carry: self.carry.clone() }
    }

    fn seek(&mut self, mark: &Mark) -> Result<(), Error> {
        if mark.carry.len() > self.options.overlap {
            return Err(Error::Position { why: "it holds more tokens than the overlap".to_owned() });
        }
        self.tokens.seek(&mark.cursor)?;
        self.carry = mark.carry.clone();
        Ok(())
    }

    fn at_epoch(&self, epoch: u64) -> Self {
        let tokens = CorpusTokens::new(self.tokens.corpus().clone(), epoch);
        ContextBlocks { tokens, carry: Vec::new(), options: self.options.clone() }
    }
}

impl ContextBlocks {
    fn row(&self, block: &[StreamToken], carried: usize) -> Row {
        let mut row = Row::default();
        let (mut document, mut position) = (0, 0);
        for (at, token) in block.iter().enumerate() {
            let is_new = self.options.isolate_documents && token.starts_document && at > 0;
            if is_new {
                (document, position) = (document + 1, 0);
            }
            let is_masked = is_new || (self.options.mask_overlap && at < carried);
            row.ids.push(token.id);
            row.labels.push(if is_masked { IGNORED } else { i64::from(token.id) });
            row.positions.push(position);
            row.documents.push(document);
            position += 1;
        }
        row
    }
}

/// Documents, those longer than a row in pieces.
struct Documents {
    tokens: CorpusTokens,
    /// The first token of the next document or piece: that it is one is known only when it was read.
    carry: Option<StreamToken>,
    block_size: usize,
}

impl Rows for Documents {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        let mut ids = Vec::new();
        loop {
            let token = match self.carry.take() {
                Some(token) => token,
                None => match self.tokens.next()? {
                    Some(token) => token,
                    None => break,
                },
            };
            if !ids.is_empty() && (token.starts_document || ids.len() == self.block_size) {
                self.carry = Some(token);
                break;
            }
            ids.push(token.id);
        }
        if ids.is_empty() {
            return Ok(None);
        }
        let labels = ids.iter().map(|id| i64::from(*id)).collect();
        Ok(Some(Row::document(ids, labels)))
    }

    fn mark(&self) -> Mark {
        Mark { cursor: self.tokens.cursor(), carry: self.carry.into_iter().collect() }
    }

    fn seek(&mut self, mark: &Mark) -> Result<(), Error> {
        self.tokens.seek(&mark.cursor)?;
        self.carry = mark.carry.first().copied();
        Ok(())
    }

    fn at_epoch(&self, epoch: u64) -> Self {
        let tokens = CorpusTokens::new(self.tokens.corpus().clone(), epoch);
        Documents { tokens, carry: None, block_size: self.block_size }
    }
}
