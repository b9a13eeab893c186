//! Bytes as operations on two lanes, honest and hostile. The entry is replayed on stable by the mux crate's test `corpus`.
#![no_main]

// Each target runs one entry of the file that all of them share.
#[expect(dead_code, reason = "the other targets run the other entries")]
#[path = "../../crates/mux/tests/support/fuzz_entries.rs"]
mod fuzz_entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::session_ops(data));
