//! Large transfers, one and eight at a time, each way.

use std::time::{Duration, Instant};

use bytes::Bytes;
use testkit::load::{Bulk, BulkDirection};
use tokio::runtime::Runtime;

use crate::options::Options;
use crate::peers::Peer;
use crate::runtimes;
use crate::table::Cell;

/// Columns of the row.
pub(super) const COLUMNS: &[&str] =
    &["down 1", "CPU/GB", "down 8", "CPU/GB", "up 1", "CPU/GB", "up 8", "CPU/GB", "peak RSS MB"];

/// Time for windows to open.
const WARM_UP: Duration = Duration::from_millis(700);
/// How long the transfers may take to begin.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Length of the HTTP bodies: for ever.
const ENDLESS: u64 = 1 << 50;

/// Both directions, one and eight streams.
pub(super) fn all(peer: &Peer, options: &Options) -> Result<Vec<Cell>, String> {
    let mut cells = Vec::new();
    for direction in [BulkDirection::Down, BulkDirection::Up] {
        for streams in [1, 8] {
            let transfers = Transfers::start(peer, direction, streams)?;
            runtimes::pass(WARM_UP)?;
            let (mark, bytes) = (peer.mark(), transfers.bulk.bytes());
            runtimes::pass(options.duration())?;
            let (spent, moved) = (peer.since(mark), transfers.bulk.bytes() - bytes);
            if transfers.bulk.failed() > 0 {
                return Err(format!("{} transfers ended early", transfers.bulk.failed()));
            }
            cells.push(Cell::Number(moved as f64 / 1e6 / spent.elapsed.as_secs_f64(), 0));
            cells.push(Cell::Number(spent.cpu.as_secs_f64() / (moved as f64 / 1e9), 2));
        }
    }
    cells.push(Cell::Number(peer.usage().peak as f64 / 1e6, 0));
    Ok(cells)
}

/// Transfers that run on threads of their own.
pub(super) struct Transfers {
    /// The transfers.
    pub(super) bulk: Bulk,
    _runtime: Runtime,
}

impl Transfers {
    /// Starts them over the TCP tunnel, or as HTTP bodies where there is none.
    pub(super) fn start(peer: &Peer, direction: BulkDirection, streams: usize) -> Result<Self, String> {
        let runtime = runtimes::apart(2)?;
        let bulk = match peer.raw {
            Some(addr) => runtime.block_on(Bulk::start(addr, direction, streams, DEADLINE)),
            None => {
                let head = Bytes::from(http_head(&peer.host, direction));
                runtime.block_on(Bulk::start_with(peer.web, direction, streams, head, DEADLINE))
            }
        };
        bulk.map(|bulk| Self { bulk, _runtime: runtime }).map_err(|error| error.to_string())
    }

    /// Bytes a second over `time`.
    pub(super) fn rate(&self, time: Duration) -> Result<f64, String> {
        let (start, bytes) = (Instant::now(), self.bulk.bytes());
        runtimes::pass(time)?;
        Ok((self.bulk.bytes() - bytes) as f64 / start.elapsed().as_secs_f64())
    }
}

fn http_head(host: &str, direction: BulkDirection) -> String {
    match direction {
        BulkDirection::Down => format!("GET /bytes/{ENDLESS} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        BulkDirection::Up => {
            format!("POST /sink HTTP/1.1\r\nHost: {host}\r\nContent-Length: {ENDLESS}\r\n\r\n")
        }
    }
}
