#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| stp_fuzz::run("frozen", data));
