//! A tokenizer of 256 tokens, one per byte, in the `tokenizers` library's JSON.

use serde_json::{Map, Value, json};

/// Byte-level BPE without a merge. Token 0 is byte 0.
pub fn byte_level() -> Value {
    let vocab: Map<String, Value> = (0u8..=255).map(|byte| (byte_char(byte).to_string(), json!(byte))).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [],
        },
    })
}

/// GPT-2's table: a byte that prints stands for itself, the others for the characters from U+0100 on, in order.
fn byte_char(byte: u8) -> char {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if prints(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&other| !prints(other)).count();
    char::from_u32(0x100 + u32::try_from(rank).expect("fewer than 256")).expect("U+0100 to U+0143 are characters")
}
