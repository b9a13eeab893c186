//! What costs when nothing happens: streams, agents, a whole server.

use std::time::Duration;

use testkit::load::Idle;
use testkit::process::Usage;

use crate::agents::Agents;
use crate::options::Options;
use crate::peers::proxies::HAPROXY_STREAMS;
use crate::peers::{Missing, Peer};
use crate::product::Product;
use crate::runtimes;
use crate::service::Origin;
use crate::table::{Cell, Lines, note};

/// Columns of the row of streams.
pub(super) const STREAM_COLUMNS: &[&str] = &[
    "opened",
    "of",
    "opened/s",
    "RSS before MB",
    "KB/stream",
    "CPU cores idle",
    "dead of",
    "checked",
    "RSS after close MB",
];
/// Columns of the row of agents.
pub(super) const AGENT_COLUMNS: &[&str] =
    &["opened", "of", "opened/s", "RSS before MB", "KB/agent", "CPU cores idle", "lanes lost", "CPU ms/agent to open"];
/// Columns of the row of a server.
pub(super) const SERVER_COLUMNS: &[&str] = &["RSS MB", "private MB", "threads", "start to ready ms", "CPU cores idle"];

/// How many streams are tried again after the rest.
const CHECKED: usize = 200;
/// Time for closes to pass through both ends.
const CLOSING: Duration = Duration::from_secs(2);
/// Starts of the server, of which the quickest counts.
const STARTS: usize = 5;

/// Opens the streams, lets them rest, tries some, closes all.
pub(super) fn streams(peer: &Peer, options: &Options) -> Result<Vec<Cell>, String> {
    let addr = peer.raw.ok_or_else(|| format!("{} carries no streams", peer.name))?;
    let runtime = runtimes::single()?;
    let most = if peer.name.starts_with("haproxy") { HAPROXY_STREAMS } else { usize::MAX };
    let wanted = options.streams.min(most);
    let before = peer.usage();
    let mut idle = runtime.block_on(Idle::open(addr, wanted));
    if let Some(error) = &idle.first_error {
        note(&format!("  {}: {} streams failed, the first with: {error}", peer.name, idle.errors));
    }
    runtimes::pass(Duration::from_secs(1))?;
    let open = peer.usage();
    let mark = peer.mark();
    runtimes::pass(options.duration())?;
    let spent = peer.since(mark);
    let (checked, dead) = runtime.block_on(idle.check(CHECKED));
    let (opened, elapsed) = (idle.opened(), idle.elapsed);
    drop(idle);
    runtimes::pass(CLOSING)?;
    Ok(vec![
        Cell::count(opened as u64),
        Cell::count(wanted as u64),
        Cell::Number(opened as f64 / elapsed.as_secs_f64(), 0),
        Cell::Number(before.resident as f64 / 1e6, 0),
        each(&before, &open, opened),
        Cell::Number(spent.cpu.as_secs_f64() / spent.elapsed.as_secs_f64(), 3),
        Cell::count(dead as u64),
        Cell::count(checked as u64),
        Cell::Number(peer.usage().resident as f64 / 1e6, 0),
    ])
}

/// Connects agents that this process plays, and looks at the server.
pub(super) fn agents(_: &Origin, options: &Options) -> Result<Lines, Missing> {
    let product = Product::server()?;
    let token = product.token()?;
    // A thread of its own, so that heartbeats are answered while this one waits.
    let runtime = runtimes::apart(1).map_err(Missing::Failed)?;
    let before = product.server.usage();
    let mut agents = runtime.block_on(Agents::open(product.agents, &token, options.agents));
    if let Some(error) = &agents.first_error {
        note(&format!("  {} agents failed, the first with: {error}", agents.errors));
    }
    runtimes::pass(Duration::from_secs(1)).map_err(Missing::Failed)?;
    let open = product.server.usage();
    // Longer than a heartbeat interval, so that heartbeats are part of the figure.
    let rest = options.duration().max(Duration::from_secs(10));
    runtimes::pass(rest).map_err(Missing::Failed)?;
    let idle = product.server.usage().cpu.saturating_sub(open.cpu);
    let opened = agents.opened;
    let lost = agents.lost();
    let cells = vec![
        Cell::count(opened as u64),
        Cell::count(options.agents as u64),
        Cell::Number(opened as f64 / agents.elapsed.as_secs_f64(), 0),
        Cell::Number(before.resident as f64 / 1e6, 0),
        each(&before, &open, opened),
        Cell::Number(idle.as_secs_f64() / rest.as_secs_f64(), 3),
        Cell::count(lost as u64),
        Cell::Number((open.cpu - before.cpu).as_secs_f64() * 1e3 / opened.max(1) as f64, 2),
    ];
    // Its tasks must end on the runtime they run on.
    runtime.block_on(async { drop(agents) });
    Ok(vec![("adit server".to_owned(), cells)])
}

/// Starts a server several times, then an agent beside the last one.
pub(super) fn server(origin: &Origin, options: &Options) -> Result<Lines, Missing> {
    let mut quickest = Duration::MAX;
    for _ in 1..STARTS {
        quickest = quickest.min(Product::server()?.ready_in);
    }
    let mut product = Product::server()?;
    quickest = quickest.min(product.ready_in);
    let line = |process: &testkit::process::Process, ready: Cell| {
        let before = process.usage();
        runtimes::pass(options.duration()).map_err(Missing::Failed)?;
        let usage = process.usage();
        let idle = (usage.cpu - before.cpu).as_secs_f64() / options.duration().as_secs_f64();
        Ok::<_, Missing>(vec![
            Cell::Number(usage.resident as f64 / 1e6, 1),
            Cell::Number(usage.private as f64 / 1e6, 1),
            Cell::count(usage.threads),
            ready,
            Cell::Number(idle, 3),
        ])
    };
    let mut lines =
        vec![("adit server".to_owned(), line(&product.server, Cell::Number(quickest.as_secs_f64() * 1e3, 1))?)];
    product.expose(origin, None)?;
    if let Some(agent) = &product.agent {
        lines.push(("adit expose".to_owned(), line(agent, Cell::Empty)?));
    }
    Ok(lines)
}

fn each(before: &Usage, after: &Usage, count: usize) -> Cell {
    let grown = after.resident as f64 - before.resident as f64;
    Cell::Number(grown / 1000.0 / count.max(1) as f64, 2)
}
