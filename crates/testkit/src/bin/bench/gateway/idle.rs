//! What connections cost that do nothing.

use std::time::Duration;

use bytes::Bytes;
use testkit::load::Idle;
use testkit::process;

use super::Figure;
use super::stand::{Entrance, Peer, Stand};
use crate::asked::Options;
use crate::peers::proxies::HAPROXY_STREAMS;
use crate::runtimes;

/// Connections that have each asked once, where the machine allows them.
const HTTP: usize = 10_000;
/// Descriptors that adit keeps beside two for each client.
const RESERVE: usize = 4_300;
/// TLS connections that have each echoed a byte; each takes two descriptors of the peer's.
const TLS: usize = 5_000;
/// Time after which memory is looked at.
const SETTLED: Duration = Duration::from_secs(1);
/// Enough of an answer to know that it is one; the rest stays unread.
const ANSWER: usize = "HTTP/1.1 200".len();

/// What is measured.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("HTTP: resident, kB each", 1).values(25.0, 10.0),
    Figure::lower("HTTP: private, kB each", 1),
    Figure::lower("TLS: resident, kB each", 1).values(25.0, 10.0),
    Figure::lower("HTTP: opened", 0),
    Figure::lower("TLS: opened", 0),
    Figure::lower("before, resident MB", 1),
];

/// One round.
pub(super) fn measure(stand: &Stand, peer: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let http = stand.http(peer)?;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n\r\n", http.host);
    let limit = process::raise_descriptor_limit().map_err(|error| format!("the limit of descriptors: {error}"))?;
    let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(RESERVE) / 2;
    let count = if peer == Peer::Haproxy { HAPROXY_STREAMS } else { HTTP.min(room) };
    let first = opened(&http, options.count(count), request.into(), ANSWER)?;
    drop(http);
    let second = if stand.has_tls(peer) {
        let tls = stand.tls(peer)?;
        let count = if peer == Peer::Haproxy { HAPROXY_STREAMS / 2 } else { TLS };
        opened(&tls, options.count(count), stand.greeting(b"ex").into(), 1)?
    } else {
        Held { resident: f64::NAN, private: f64::NAN, count: f64::NAN, before: f64::NAN }
    };
    Ok(vec![first.resident, first.private, second.resident, first.count, second.count, first.before])
}

struct Held {
    resident: f64,
    private: f64,
    count: f64,
    before: f64,
}

fn opened(entrance: &Entrance, count: usize, greeting: Bytes, answer: usize) -> Result<Held, String> {
    runtimes::pass(SETTLED / 2)?;
    let before = entrance.usage();
    let runtime = runtimes::apart(1)?;
    let idle = runtime.block_on(Idle::open_with(entrance.addr, count, greeting, answer));
    if idle.errors > 0 {
        let first = idle.first_error.unwrap_or_default();
        return Err(entrance.failed(&format!("{} of {count} connections did not open ({first})", idle.errors)));
    }
    runtimes::pass(SETTLED)?;
    let after = entrance.usage();
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / 1e3 / count as f64;
    Ok(Held {
        resident: each(before.resident, after.resident),
        private: each(before.private, after.private),
        count: idle.opened() as f64,
        before: before.resident as f64 / 1e6,
    })
}
