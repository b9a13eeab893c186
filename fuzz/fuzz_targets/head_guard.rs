//! A visitor's bytes through the head guard: every chunking passes on the same and finds the same fault.
#![no_main]

use adit_core::head::{HeadFault, HeadGuard, HeadLimits};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&cut, wire)) = data.split_first() else {
        return;
    };
    let (front, back) = wire.split_at(usize::from(cut).min(wire.len()));
    let whole = pass(&[wire]);
    assert_eq!(whole, pass(&[front, back]), "two chunks pass differently");
    let single: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(whole, pass(&single), "single bytes pass differently");
    assert!(wire.starts_with(&whole.0), "something else was passed on than came in");
});

/// What passes, how many heads did, and the fault that ended it.
fn pass(chunks: &[&[u8]]) -> (Vec<u8>, u64, Option<HeadFault>) {
    let mut guard = HeadGuard::new(HeadLimits::default());
    let mut out = Vec::new();
    for chunk in chunks {
        if let Err(fault) = guard.accept(chunk, &mut out) {
            return (out, guard.heads_passed(), Some(fault));
        }
    }
    (out, guard.heads_passed(), None)
}
