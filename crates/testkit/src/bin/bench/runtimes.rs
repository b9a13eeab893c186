//! Runtimes of the load, apart from those of whatever is measured.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// One thread: least cost for requests and pings.
pub(crate) fn single() -> Result<Runtime, String> {
    Builder::new_current_thread().enable_all().build().map_err(|error| format!("no runtime: {error}"))
}

/// Threads of its own, which run while the caller does something else.
pub(crate) fn apart(threads: usize) -> Result<Runtime, String> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))
}

/// Lets time pass while a measurement runs elsewhere.
pub(crate) fn pass(time: Duration) -> Result<(), String> {
    single()?.block_on(async {
        tokio::time::sleep(time).await;
        Ok(())
    })
}
