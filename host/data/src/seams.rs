//! Tokenises a text of any length in windows, so that the tokens are those of the whole text.
//!
//! A cut through a text changes the tokens around the cut: a word is halved, a run of spaces is split, a prefix is put
//! before what is no start. So no token near a cut is used. Windows overlap, both tokenise the overlap, and one hands
//! over to the next in the middle of the longest stretch on which the two agree, token for token and byte for byte.
//! Where the overlap has no agreeing stretch of at least [`AGREEING_BYTES`], the window is doubled and tried again.
//!
//! Limits. A tokenizer decides from a neighbourhood, and the method is exact where that neighbourhood is smaller than
//! half of the agreeing stretch. Known tokenizers decide within a word, a number or a run of spaces. A run longer than
//! a window (a megabyte of one letter) is the exception: at [`Limits::most_bytes`] the text is cut at a character and
//! [`SeamTokens::forced_seams`] counts it.

use crate::{
    error::Error,
    newlines::Newlines,
    tokenizer::{Token, Tokenizer},
};

/// Shortest stretch of agreement that a seam is put into.
const AGREEING_BYTES: u64 = 512;

/// A text that is read by position.
pub(crate) trait TextSource {
    /// Whether its line ends are read as Python reads a text file's; see [`Newlines`].
    const IS_TEXT_FILE: bool;

    fn len_bytes(&self) -> u64;

    /// The text from `start`, at most `most_bytes`, ending at a whole character.
    fn read(&self, start: u64, most_bytes: usize) -> Result<String, Error>;

    /// Puts the text's own place on an error of the tokenizer.
    fn locate(&self, start: u64, error: Error) -> Error;
}

/// How much text is tokenised at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub window_bytes: usize,
    pub overlap_bytes: usize,
    pub most_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { window_bytes: 64 << 10, overlap_bytes: 4 << 10, most_bytes: 4 << 20 }
    }
}

/// A piece of the text and its tokens; byte positions count from the start of the text.
struct Window {
    start: u64,
    tokens: Vec<Token>,
    /// Where the next window starts; `None` where this one reaches the end.
    next_start: Option<u64>,
}

/// How one window hands over to the next.
struct Seam {
    /// Tokens of this window that are used.
    from: usize,
    /// The next window, and its first token that is used.
    next: Option<(Window, usize)>,
}

/// The tokens of a text, one after the other.
pub(crate) struct SeamTokens<S> {
    source: S,
    limits: Limits,
    window: Window,
    seam: Seam,
    at: usize,
    forced_seams: u64,
}

/// Where in a text the next token stands: the start of its window, and the token's number in that window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TextPosition {
    pub window_start: u64,
    pub token: u64,
}

impl<S: TextSource> SeamTokens<S> {
    /// Starts at `position`: the start of the text by default, else one that [`SeamTokens::position`] gave.
    ///
    /// # Errors
    /// The text cannot be read or encoded, or has no such position.
    pub fn new(source: S, tokenizer: &Tokenizer, limits: Limits, position: TextPosition) -> Result<Self, Error> {
        let misplaced = || Error::Position { why: format!("the text has no token {position:?}") };
        if position.window_start > source.len_bytes() {
            return Err(misplaced());
        }
        let mut forced_seams = 0;
        let start = position.window_start;
        let window = Window::read(&source, tokenizer, start, limits.window_bytes, limits.overlap_bytes)?;
        let (window, seam) = settle(&source, tokenizer, limits, window, &mut forced_seams)?;
        let at = usize::try_from(position.token).ok().filter(|at| *at <= window.tokens.len()).ok_or_else(misplaced)?;
        Ok(SeamTokens { source, limits, window, seam, at, forced_seams })
    }

    /// The next token; `None` at the end of the text.
    ///
    /// # Errors
    /// The text cannot be read or encoded.
    pub fn next(&mut self, tokenizer: &Tokenizer) -> Result<Option<Token>, Error> {
        while self.at >= self.seam.from {
            let Some((window, first)) = self.seam.next.take() else { return Ok(None) };
            (self.window, self.seam) = settle(&self.source, tokenizer, self.limits, window, &mut self.forced_seams)?;
            self.at = first;
        }
        self.at += 1;
        Ok(Some(self.window.tokens[self.at - 1]))
    }

    pub fn position(&self) -> TextPosition {
        TextPosition { window_start: self.window.start, token: self.at as u64 }
    }

    /// Seams at which the text had to be cut though the windows did not agree.
    pub fn forced_seams(&self) -> u64 {
        self.forced_seams
    }
}

impl Window {
    fn read<S: TextSource>(
        source: &S,
        tokenizer: &Tokenizer,
        start: u64,
        window_bytes: usize,
        overlap_bytes: usize,
    ) -> Result<Self, Error> {
        let text = source.read(start, window_bytes)?;
        let encode = |text: &str| tokenizer.encode_with_bytes(text).map_err(|error| source.locate(start, error));
        let lines = (S::IS_TEXT_FILE && text.contains('\r')).then(|| Newlines::of(&text));
        let mut tokens = encode(lines.as_ref().map_or(&text, |lines| &lines.text))?;
        for token in &mut tokens {
            let original = |at| start + lines.as_ref().map_or(at, |lines| lines.original(at));
            (token.start, token.end) = (original(token.start), original(token.end));
        }
        let end = start + text.len() as u64;
        let overlap_start = text.floor_char_boundary(text.len().saturating_sub(overlap_bytes));
        // A window must move on, however short it is.
        let step = if overlap_start == 0 { text.len() } else { overlap_start };
        Ok(Window { start, tokens, next_start: (end < source.len_bytes()).then_some(start + step as u64) })
    }
}

/// Finds how a window hands over to the next, making it longer until the two agree. What comes out depends on where the
/// window starts and on nothing else, so that a position can be resumed.
fn settle<S: TextSource>(
    source: &S,
    tokenizer: &Tokenizer,
    limits: Limits,
    mut window: Window,
    forced_seams: &mut u64,
) -> Result<(Window, Seam), Error> {
    let (mut window_bytes, mut overlap_bytes) = (limits.window_bytes, limits.overlap_bytes);
    loop {
        let Some(next_start) = window.next_start else {
            let from = window.tokens.len();
            return Ok((window, Seam { from, next: None }));
        };
        let default = |start| Window::read(source, tokenizer, start, limits.window_bytes, limits.overlap_bytes);
        let next = default(next_start)?;
        if let Some((from, first)) = agreement(&window.tokens, &next.tokens, next_start) {
            return Ok((window, Seam { from, next: Some((next, first)) }));
        }
        if window_bytes >= limits.most_bytes {
            *forced_seams += 1;
            let kept = window.tokens.partition_point(|token| token.end <= next_start);
            // A token across the cut is left out here, and its bytes are encoded again by the next window.
            let cut = window.tokens.get(kept).map_or(next_start, |token| token.start.min(next_start));
            let (from, cut) = if cut > window.start { (kept, cut) } else { (window.tokens.len(), next_start) };
            return Ok((window, Seam { from, next: Some((default(cut)?, 0)) }));
        }
        window_bytes = (window_bytes * 2).min(limits.most_bytes);
        // The next window, at its default length, must still hold the whole overlap.
        overlap_bytes = (overlap_bytes * 2).min(limits.window_bytes / 2).max(limits.overlap_bytes);
        window = Window::read(source, tokenizer, window.start, window_bytes, overlap_bytes)?;
    }
}

/// The middle of the longest stretch on which both windows have the same tokens: how many tokens of the first come
/// before it, and which of the second comes after.
fn agreement(ours: &[Token], theirs: &[Token], overlap_start: u64) -> Option<(usize, usize)> {
    let (mut i, mut j) = (ours.partition_point(|token| token.start < overlap_start), 0);
    // First tokens of the running and of the best stretch, and their lengths in tokens.
    let (mut run, mut best): ((usize, usize, usize), (usize, usize, usize)) = ((i, j, 0), (i, j, 0));
    let bytes = |(i, _, count): (usize, usize, usize)| match count {
        0 => 0,
        _ => ours[i + count - 1].end.saturating_sub(ours[i].start),
    };
    while i < ours.len() && j < theirs.len() {
        if ours[i] == theirs[j] {
            run.2 += 1;
            (i, j) = (i + 1, j + 1);
            if bytes(run) > bytes(best) {
                best = run;
            }
            continue;
        }
        match ours[i].start.cmp(&theirs[j].start) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j) = (i + 1, j + 1),
        }
        run = (i, j, 0);
    }
    if bytes(best) < AGREEING_BYTES {
        return None;
    }
    let middle = ours[best.0].start + bytes(best) / 2;
    // Never between two tokens of one character.
    let stretch = &ours[best.0..best.0 + best.2];
    let after = (1..stretch.len()).find(|&k| {
        stretch[k].start >= middle && stretch[k].start >= stretch[k - 1].end && stretch[k].start > stretch[k - 1].start
    })?;
    Some((best.0 + after, best.1 + after))
}

#[cfg(test)]
mod tests;
