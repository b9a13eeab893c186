//! What is not used any more is given back to the system.

/// Has the allocator give the system what is free (glibc's `malloc_trim(3)`); elsewhere nothing. It keeps what it was given back; what many
/// have used together is worth asking it for. Takes milliseconds for 100 MB, in which other threads cannot allocate.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu", feature = "ebpf"))]
    {
        #[expect(unsafe_code, reason = "no library has this call")]
        // SAFETY: it has no argument that could be wrong, and any thread may call it at any time.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}
