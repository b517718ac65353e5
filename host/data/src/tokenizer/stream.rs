//! Text of ids as they come, one after the other: what is printed while a model generates.
//!
//! A token may be a part of a character, and what a byte stands for may depend on the bytes after it. So text is held
//! back until no later token can change it. The pieces together are the text of all ids decoded at once, U+FFFD
//! included where bytes are no UTF-8.

use super::Tokenizer;
use crate::error::Error;

/// Ids that are decoded for each token at most before earlier ones are left out.
const MOST_IDS: usize = 64;
/// Ids that stay as context then: a decoder may treat the first token of a text unlike others.
const CONTEXT_IDS: usize = 16;

/// The text of a growing list of ids, special tokens left out. [`Tokenizer::text_stream`] begins one.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The ids that are still decoded: some context, and those whose text is not out.
    ids: Vec<u32>,
    /// Bytes of their text that are out.
    shown: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        TextStream { tokenizer, ids: Vec::new(), shown: 0 }
    }

    /// Appends an id and returns the text that is certain now: often that of the id before.
    ///
    /// # Errors
    /// The decoder refuses the ids.
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        self.ids.push(id);
        // Byte fallback decodes a run of byte tokens together, and a special token that is left out does not end it.
        if self.tokenizer.is_special(id) || self.tokenizer.piece(id).is_some_and(|piece| is_byte(&piece)) {
            return Ok(String::new());
        }
        let text = self.text()?;
        // U+FFFD at the end may be the start of a character.
        let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        let new = text.get(self.shown..certain).unwrap_or_default().to_owned();
        self.shown = self.shown.max(certain);
        if self.shown == text.len() && self.ids.len() >= MOST_IDS {
            self.forget()?;
        }
        Ok(new)
    }

    /// The rest: what was held back for tokens that did not come.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(self) -> Result<String, Error> {
        Ok(self.text()?.get(self.shown..).unwrap_or_default().to_owned())
    }

    fn text(&self) -> Result<String, Error> {
        self.tokenizer.decode(&self.ids, true)
    }

    /// Leaves out all ids but the last few, where those decode to a text that decoding can continue from.
    fn forget(&mut self) -> Result<(), Error> {
        let context = self.ids[self.ids.len() - CONTEXT_IDS..].to_vec();
        let text = self.tokenizer.decode(&context, true)?;
        if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) {
            (self.shown, self.ids) = (text.len(), context);
        }
        Ok(())
    }
}

/// `<0x0A>`, as vocabularies with byte fallback spell a byte.
fn is_byte(piece: &str) -> bool {
    let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
