//! Fuzzes the parser of `unswag.yaml`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::record(data));
