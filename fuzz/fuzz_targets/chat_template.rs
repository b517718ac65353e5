//! Fuzzes the parser and the interpreter of chat templates.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::chat_template(data));
