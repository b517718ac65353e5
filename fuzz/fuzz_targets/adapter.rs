#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::adapter(data));
