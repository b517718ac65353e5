//! Fuzzes the parser of safetensors headers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::safetensors_header(data));
