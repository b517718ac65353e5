//! Fuzzes the parser of recipes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::recipe(data));
