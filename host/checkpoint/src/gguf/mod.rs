//! GGUF files (llama.cpp's format): a strict reader, and the import that turns one into a Hugging Face folder.
//!
//! * [`parse`] reads the header of a whole file in memory; [`GgufFile`] does so on disk, without reading the weights.
//! * [`dequantize`] turns stored blocks into f32, bit for bit what the Python package `gguf` computes.
//! * [`import`] writes `config.json`, `model.safetensors`, the tokenizer and the chat template.
//! * [`GgufInfo`] is the summary that `unswag inspect` prints.
//!
//! The bytes come from a file that anyone may have made, so nothing here may panic, overflow, allocate by a number the
//! file states, or trust an offset. The reader is our own because the errors must name byte and field and the memory must
//! stay small: candle's (0.11), the best kept one in Rust, bounds its counts, but patches bad UTF-8, lets a second key
//! replace the first, does not compare tensors with each other, keeps arrays at 32 bytes an element, and brings a tensor
//! library along. The format itself is small.
//!
//! Not here: writing GGUF; the 1-, 2- and 3-bit IQ types, ternary and MXFP4, which are refused by name.

mod arch;
mod config;
mod convert;
mod dequant;
mod error;
mod file;
mod import;
mod info;
mod metadata;
mod reader;
mod tokenizer;
mod types;
mod value;

pub use arch::SUPPORTED_ARCHITECTURES;
pub use dequant::dequantize;
pub use error::{GgufError, Problem};
pub use file::GgufFile;
pub use import::{ImportDtype, ImportError, ImportOptions, ImportReport, import, import_file};
pub use info::{GgufInfo, MetadataInfo, TypeCount};
pub use reader::{Gguf, MAX_HEADER_BYTES, MAX_KEYS, MAX_TENSORS, TensorInfo, parse};
pub use types::GgmlType;
pub use value::{Array, Value, ValueType};
