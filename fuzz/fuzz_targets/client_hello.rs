//! A client's first bytes in any chunking. The entry is replayed on stable by the core crate's test `corpus`.
#![no_main]

#[path = "../../crates/core/tests/support/fuzz_entries.rs"]
mod fuzz_entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::client_hello(data));
