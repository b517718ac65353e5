//! Fuzzes the readers of data rows, in every format.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::rows(data));
