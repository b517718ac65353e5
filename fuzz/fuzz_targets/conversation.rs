//! Fuzzes the reader of conversations in data rows.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::conversation(data));
