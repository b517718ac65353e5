//! Fuzzes the kernels of `delhi.swiglu` at 8, 4 and 2 bits.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::delhi_groups(data));
