#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| centrifugo_api_fuzz::run("proxy_calls", data));
