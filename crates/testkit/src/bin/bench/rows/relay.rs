//! One stream over a long, fat network between agent and server: does the window open in time?

use std::time::{Duration, Instant};

use testkit::load::{Bulk, BulkDirection};
use testkit::relay::{Link, Relay};

use crate::options::Options;
use crate::peers::Missing;
use crate::product::Product;
use crate::runtimes;
use crate::service::Origin;
use crate::table::{Cell, Lines, note};

use super::bulk::DEADLINE;

/// Columns of the row.
pub(super) const COLUMNS: &[&str] =
    &["first 10 round trips Mbit/s", "then Mbit/s", "% of the link", "round trips to 80 %", "RSS MB"];

/// The round trip of the relay.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Rates of the relay, in bits a second.
const RATES: [u64; 2] = [500_000_000, 1_000_000_000];
/// How long a service may take to carry its first stream.
const READY: Duration = Duration::from_secs(15);

/// Both rates, both directions; what the relay itself carries first.
pub(super) fn all(origin: &Origin, options: &Options) -> Result<Lines, Missing> {
    let mut lines = Vec::new();
    for rate in RATES {
        let link = Link::round_trip(ROUND_TRIP).with_bits_per_second(rate);
        let name = |peer: &str, way: &str| format!("{peer} {way} at {} Mbit/s", rate / 1_000_000);
        if options.wants_peer("direct") {
            let runtime = runtimes::apart(1).map_err(Missing::Failed)?;
            let relay = runtime.block_on(Relay::start(origin.tcp, link))?;
            let cells = measure(relay.addr(), BulkDirection::Down, rate, options, || 0).map_err(Missing::Failed)?;
            lines.push((name("direct", "down"), cells));
        }
        if !options.wants_peer("adit-tcp") {
            continue;
        }
        for (way, direction) in [("down", BulkDirection::Down), ("up", BulkDirection::Up)] {
            match through_product(origin, link, direction, rate, options) {
                Ok(cells) => lines.push((name("adit-tcp", way), cells)),
                Err(missing) => note(&format!("  adit-tcp: {missing}")),
            }
        }
    }
    Ok(lines)
}

fn through_product(
    origin: &Origin,
    link: Link,
    direction: BulkDirection,
    rate: u64,
    options: &Options,
) -> Result<Vec<Cell>, Missing> {
    let mut product = Product::server()?;
    product.expose(origin, Some(link))?;
    let runtime = runtimes::single().map_err(Missing::Failed)?;
    let end = Instant::now() + READY;
    let ping = || testkit::load::ping(product.raw, 1, Duration::ZERO, Duration::from_nanos(1));
    while runtime.block_on(ping()).is_err() {
        if Instant::now() > end {
            let output: String = product.processes().map(testkit::process::Process::output).collect();
            return Err(Missing::Failed(format!("not ready over the relay; its output:\n{output}")));
        }
        runtimes::pass(Duration::from_millis(20)).map_err(Missing::Failed)?;
    }
    let resident = || product.processes().map(|process| process.usage().resident).sum();
    measure(product.raw, direction, rate, options, resident).map_err(Missing::Failed)
}

/// Samples one transfer once a round trip.
fn measure(
    addr: std::net::SocketAddr,
    direction: BulkDirection,
    rate: u64,
    options: &Options,
    resident: impl Fn() -> u64,
) -> Result<Vec<Cell>, String> {
    let runtime = runtimes::apart(1)?;
    let bulk = runtime.block_on(Bulk::start(addr, direction, 1, DEADLINE)).map_err(|error| error.to_string())?;
    let start = Instant::now();
    let mut samples = vec![(Duration::ZERO, bulk.bytes())];
    while start.elapsed() < options.duration().max(ROUND_TRIP * 40) {
        runtimes::pass(ROUND_TRIP)?;
        samples.push((start.elapsed(), bulk.bytes()));
    }
    let resident = resident() as f64 / 1e6;
    let bits = |from: usize, to: usize| {
        let ((start, before), (end, after)) = (samples[from], samples[to]);
        (after - before) as f64 * 8.0 / (end - start).as_secs_f64()
    };
    // Two round trips at a time: one alone would count a burst as speed.
    let fast = (2..samples.len()).find(|at| bits(at - 2, *at) >= 0.8 * rate as f64);
    let steady = bits(10, samples.len() - 1);
    Ok(vec![
        Cell::Number(bits(0, 10) / 1e6, 0),
        Cell::Number(steady / 1e6, 0),
        Cell::Number(steady * 100.0 / rate as f64, 0),
        fast.map_or(Cell::Text("never".to_owned()), |at| Cell::count(at as u64)),
        Cell::Number(resident, 0),
    ])
}
