//! Bytes as the header blocks of a SPDY connection. The entry is replayed on stable by the spdy crate's test `corpus`.
#![no_main]

// Each target runs one entry of the file that all of them share.
#[expect(dead_code, reason = "the other targets run the other entries")]
#[path = "../../crates/spdy/tests/support/fuzz_entries.rs"]
mod fuzz_entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::spdy_headers(data));
