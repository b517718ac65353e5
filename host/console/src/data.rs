//! From arguments to the loader that they describe.

use std::{path::Path, sync::Arc};

use unswag_data::{
    ChatDataLoader, ChatOptions, ChatTemplate, DataLoader, Error, Overlong, PackedDataLoader, Split,
    StreamingContextDataLoader, TextOptions, Tokenizer,
};

use crate::args::{Data, TooLong};

/// In which order rows come, and which part of the data they are of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    pub shuffle_seed: Option<u64>,
    pub shuffle_window: Option<usize>,
    pub split: Split,
}

impl Order {
    /// The first kept from training, the other to train on: `share` of the data and the rest.
    pub fn split(self, share: f64, seed: u64) -> [Order; 2] {
        let validation = Split::Validation { validation_fraction: share, seed };
        let train = Split::Train { validation_fraction: share, seed };
        [Order { shuffle_seed: None, split: validation, ..self }, Order { split: train, ..self }]
    }
}

/// The loader of these arguments, with the tokenizer and the chat template that lie beside a model.
///
/// # Errors
/// A setting that cannot be, no sound tokenizer or template, or data with a fault.
pub fn open(data: &Data, model: &Path, order: Order) -> Result<Box<dyn DataLoader>, Error> {
    let tokenizer = Arc::new(Tokenizer::load(model)?);
    if data.chat {
        let template = Arc::new(ChatTemplate::load(model, &tokenizer, None)?);
        return Ok(Box::new(ChatDataLoader::open(&data.data, tokenizer, template, &chat_options(data, order))?));
    }
    let options = text_options(data, order);
    if data.packing {
        return Ok(Box::new(PackedDataLoader::open(&data.data, tokenizer, &options)?));
    }
    Ok(Box::new(StreamingContextDataLoader::open(&data.data, tokenizer, &options)?))
}

pub fn text_options(data: &Data, order: Order) -> TextOptions {
    let plain = TextOptions::default();
    TextOptions {
        block_size: data.block_size,
        overlap: data.overlap.unwrap_or(0),
        field: data.text_field.clone(),
        split: order.split,
        shuffle_seed: order.shuffle_seed,
        shuffle_window: order.shuffle_window.unwrap_or(plain.shuffle_window),
        ..plain
    }
}

pub fn chat_options(data: &Data, order: Order) -> ChatOptions {
    let plain = ChatOptions::default();
    ChatOptions {
        block_size: data.block_size,
        packing: data.packing,
        overlong: match data.overlong {
            TooLong::Refuse => Overlong::Refuse,
            TooLong::Truncate => Overlong::Truncate,
            TooLong::Skip => Overlong::Skip,
        },
        split: order.split,
        shuffle_seed: order.shuffle_seed,
        shuffle_window: order.shuffle_window.unwrap_or(plain.shuffle_window),
        ..plain
    }
}
