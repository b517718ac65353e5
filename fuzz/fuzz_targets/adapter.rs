//! Fuzzes the reader of PEFT adapters: `adapter_config.json` and `adapter_model.safetensors`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unswag_fuzz::adapter(data));
