//! What the trainer reads: text, documents and conversations, as blocks of tokens.
//!
//! * [`Tokenizer`] is the tokenizer of a Hugging Face folder.
//! * [`StreamingContextDataLoader`] gives blocks of one long stream with an exact overlap; [`PackedDataLoader`] gives
//!   whole documents, packed. Both are a [`DataLoader`]: batches, epochs, and a [`Position`] that resumes token for
//!   token.
//! * [`CompletionDataLoader`] gives prompts and completions, with the loss on the completion.
//! * [`ChatTemplate`] renders conversations; [`ChatDataLoader`] reads them, with the loss on the assistant's turns.
//! * [`DataSet`] says what files are, and [`Columns`] what their columns mean.
//! * [`preview`] and [`preview_chat`] show the first rows token by token.
//! * [`pack`] is the packing alone.
//!
//! Rows come as JSON lines, a JSON list, CSV or TSV, each also as gzip; [`read_rows`] reads any of them from memory.
//!
//! Files are only read, a bounded piece at a time. Nothing here knows what a model does with a token.

mod batch;
mod chat;
mod columns;
mod completion;
mod conversation;
mod corpus;
mod data_set;
mod doc;
mod encoded_rows;
mod error;
mod example;
mod files;
mod held;
mod jinja;
mod limits;
mod loader;
mod message;
mod newlines;
mod options;
mod pack;
mod preview;
mod probe;
mod record;
mod roles;
mod seams;
mod shuffle;
mod source;
mod stream;
mod template;
mod text;
mod text_report;
mod tokenizer;
mod turns;
mod unwritten;

pub use batch::{Batch, IGNORED, Row};
pub use chat::{ChatDataLoader, ChatOptions, ChatReport};
pub use columns::{Columns, RowFormat, UnreadColumn};
pub use completion::{CompletionDataLoader, CompletionOptions, CompletionReport};
pub use corpus::Cursor;
pub use data_set::{DataDescription, DataKind, DataSet};
pub use error::{Error, Place, RowFault};
pub use limits::ModelLimits;
pub use loader::{DataLoader, EpochSize, Mark, Position, RowRemarks};
pub use options::{Overlong, Split, TextOptions};
pub use pack::pack;
pub use preview::{PreviewRow, PreviewToken, preview, preview_chat, preview_completions};
pub use probe::probe_conversation;
pub use seams::TextPosition;
pub use source::{ProbeFormat, read_rows};
pub use stream::{PackedDataLoader, StreamingContextDataLoader};
pub use template::{ChatTemplate, Message, local_time, render_untrusted};
pub use text_report::{TextReport, report_text};
pub use tokenizer::{TextStream, Token, Tokenizer};
