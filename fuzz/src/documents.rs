//! Text and small files that come with a model, its data or a plugin: whatever is in them, reading them ends in a value or an
//! error.

use std::{path::Path, sync::OnceLock};

use unswag_abi::doc::Graph;
use unswag_adapter::check_adapter_bytes;
use unswag_console::recipe::Recipe;
use unswag_data::{ProbeFormat, Tokenizer, probe_conversation, read_rows, render_untrusted};
use unswag_graph::builders;
use unswag_loader::LockFile;
use unswag_surgery::record::Record;

/// A row of data is at most this long here; commands allow more.
const ROW_LIMIT_BYTES: usize = 1 << 20;
/// Letters, digits, emoji, a control character, what looks like special tokens, and no break for a long while.
const TEXT: &str = "Hello, world! 2+2=4 \u{1f600} na\u{ef}ve\u{301}\t\n <s></s> <|im_end|> \u{0} aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A `chat_template.jinja`, rendered with a small conversation.
pub fn chat_template(data: &[u8]) {
    let _ = render_untrusted(data);
}

/// A `tokenizer.json`; what it encodes, it decodes.
pub fn tokenizer(data: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_bytes(data, None) else { return };
    if let Ok(encoding) = tokenizer.encode(TEXT, true) {
        let _ = tokenizer.decode(&encoding, true);
    }
}

/// An adapter: the length of `adapter_config.json` in four bytes, that file, and `adapter_model.safetensors`.
pub fn adapter(data: &[u8]) {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    let graph = GRAPH.get_or_init(|| builders::sample_graph("llama").expect("there is a sample of llama"));
    let Some((length, rest)) = data.split_first_chunk::<4>() else { return };
    let (config, weights) = rest.split_at(rest.len().min(u32::from_le_bytes(*length) as usize));
    let _ = check_adapter_bytes(config, weights, graph);
}

/// An `unswag.yaml`.
pub fn record(data: &[u8]) {
    let _ = Record::from_bytes(data);
}

/// An `unswag.lock`.
pub fn lock(data: &[u8]) {
    let _ = LockFile::parse(data);
}

/// A recipe, to the command lines of training and planning that it stands for.
pub fn recipe(data: &[u8]) {
    let Ok(recipe) = Recipe::parse(Path::new("recipe.yaml"), data.to_vec()) else { return };
    let _ = recipe.train(false);
    let _ = recipe.plan_args(None);
}

/// A file of rows: the first byte chooses the format, and whether it is gzip.
pub fn rows(data: &[u8]) {
    let Some((choice, file)) = data.split_first() else { return };
    let format = ProbeFormat::ALL[usize::from(*choice) % ProbeFormat::ALL.len()];
    let is_gzip = usize::from(*choice) / ProbeFormat::ALL.len() % 2 == 1;
    let _ = read_rows(file, format, is_gzip, ROW_LIMIT_BYTES, |row| drop(row));
}

/// A row with a conversation. Its turns lie in its text, in order.
pub fn conversation(data: &[u8]) {
    let Ok((text, turns)) = probe_conversation(data) else { return };
    let mut end = 0;
    for turn in turns {
        assert!(end <= turn.start && text.get(turn.clone()).is_some(), "{turn:?} of {} bytes, after {end}", text.len());
        end = turn.end;
    }
}
