//! What the monitor takes while many connections are open.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::stand::{DEADLINE, Stand};
use super::{Figure, told};
use crate::asked::Options;
use crate::runtimes;

/// Open connections, with both their ends here: the monitor sees two of each.
const PAIRS: usize = 5_000;
/// Milliseconds that it is watched.
const WINDOW: u64 = 4_000;

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::higher("connections that it shows", 0),
    Figure::lower("resident MB", 1).values(40.0, 15.0),
    Figure::lower("private MB", 1),
    Figure::lower("largest resident MB", 1),
    Figure::lower("CPU with a survey each second, % of a core", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, options: &Options) -> Result<Vec<f64>, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(told)?;
    let address = listener.local_addr().map_err(told)?;
    let monitor = stand.monitor()?;
    let mut all = Vec::new();
    for _ in 0..options.count(PAIRS) {
        let client = TcpStream::connect(address).map_err(told)?;
        all.push((client, listener.accept().map_err(told)?));
    }
    let start = Instant::now();
    let mut shown = 0.0;
    while shown < 2.0 * all.len() as f64 {
        if start.elapsed() > DEADLINE {
            return Err(format!("it shows {shown} connections of {}", 2 * all.len()));
        }
        runtimes::pass(Duration::from_millis(100))?;
        shown = stand.metric(&monitor, "adit_tcp_connections_open", &[])?;
    }
    let (window, before) = (options.window(WINDOW), monitor.process.usage().cpu);
    runtimes::pass(window)?;
    let usage = monitor.process.usage();
    monitor.end()?;
    let part = (usage.cpu - before).as_secs_f64() / window.as_secs_f64() * 100.0;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    Ok(vec![shown, megabytes(usage.resident), megabytes(usage.private), megabytes(usage.peak), part])
}
