//! Fuzzes the kernels of `delhi.silu` at 1 to 4 bits.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::delhi_codes(data));
