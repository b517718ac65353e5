//! What the trainer reads: text, documents and conversations, as blocks of tokens.
//!
//! * [`Tokenizer`] is the tokenizer of a Hugging Face folder.
//! * [`StreamingContextDataLoader`] gives blocks of one long stream with an exact overlap; [`PackedDataLoader`] gives whole documents,
//!   packed. Both are a [`DataLoader`]: batches, epochs, and a [`Position`] that resumes token for token.
//! * [`pack`] is the packing alone.
//!
//! Files are only read, a bounded piece at a time. Nothing here knows what a model does with a token.

mod batch;
mod corpus;
mod error;
mod files;
mod lines;
mod loader;
mod options;
mod pack;
mod seams;
mod shuffle;
mod stream;
mod text;
mod tokenizer;

pub use batch::{Batch, IGNORED, Row};
pub use corpus::Cursor;
pub use error::{Error, Place, RowFault};
pub use loader::{DataLoader, EpochSize, Mark, Position};
pub use options::{Split, TextOptions};
pub use pack::pack;
pub use seams::TextPosition;
pub use stream::{PackedDataLoader, StreamingContextDataLoader};
pub use tokenizer::{Token, Tokenizer};
