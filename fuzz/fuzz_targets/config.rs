//! Fuzzes the reader of `config.json`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::config(data));
