#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| httpproxy::fuzzing::quic_initial(bytes));
