//! Fuzzes the reader of `tokenizer.json`, encoding and decoding.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::tokenizer(data));
