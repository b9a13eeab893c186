//! Replays the fuzz corpora on stable, so that what fuzzing found stays found.

use std::path::Path;

#[path = "support/fuzz_entries.rs"]
mod fuzz_entries;

#[expect(clippy::disallowed_methods, reason = "the ban on files is for the library; this test replays files")]
fn replay(target: &str, entry: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&dir).expect("the corpus is part of the repository") {
        let path = file.expect("a readable directory").path();
        entry(&std::fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count > 0, "no corpus in {}", dir.display());
}

#[test]
fn the_corpus_of_client_hellos_replays() {
    replay("client_hello", fuzz_entries::client_hello);
}
