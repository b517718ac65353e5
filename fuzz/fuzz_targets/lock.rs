//! Fuzzes the parser of `unswag.lock`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::lock(data));
