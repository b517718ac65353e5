//! Fuzzes the parser of patch documents, and their application to a sample graph.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::patch(data));
