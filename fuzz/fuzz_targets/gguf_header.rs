//! Fuzzes the parser of GGUF files.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::gguf_header(data));
