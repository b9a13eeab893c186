//! The first request to a route whose target nobody has asked for yet, beside what `adit forward` takes to start.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::process::Process;

use super::Figure;
use super::stand::{Peer, Stand, ask, last_words, millis};
use crate::asked::Options;
use crate::k8s::client::listening;
use crate::k8s::figures::median;
use crate::k8s::home::Home;
use crate::k8s::load;
use crate::peers::free_addr;

/// Starts in a round.
const STARTS: usize = 8;
/// How long a start may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// A host of the gateway.
const HOST: &str = "cold.localhost";

/// What is measured. The connector's start is `adit forward`'s until it forwards, without the process's own.
pub(super) const FIGURES: &[Figure] = &[
    Figure::lower("beyond the target's own ÷ the connector's start", 2).values(1.3, 1.3),
    Figure::lower("the same minus the connector's start, ms", 1).values(f64::INFINITY, 5.0),
    Figure::lower("cold route: first byte, ms", 1),
    Figure::lower("the target's own, ms", 2),
    Figure::lower("adit forward: ready line, ms", 1),
    Figure::lower("adit --version, ms", 1),
    Figure::lower("beyond the target's own ÷ adit forward's ready line", 2),
    Figure::lower("warm route, new connection: first byte, ms", 2),
];

/// One round.
pub(super) fn measure(stand: &Stand, _: Peer, options: &Options) -> Result<Vec<f64>, String> {
    let home = Home::start(&stand.origin, 2)?;
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..options.count(STARTS) {
        let (cold, warm) = route(stand, &home)?;
        let own = load::request(stand.origin.http, DEADLINE).map_err(told)?;
        let each = [cold, own, forward(stand, &home)?, version(stand)?, warm];
        for (all, time) in times.iter_mut().zip(each) {
            all.push(millis(time));
        }
    }
    let [cold, own, forward, version, warm] = times.map(|all| median(all).unwrap_or(f64::NAN));
    let (beyond, start) = (cold - own, forward - version);
    Ok(vec![beyond / start, beyond - start, cold, own, forward, version, beyond / forward, warm])
}

/// A new `adit up` is asked for the route twice.
fn route(stand: &Stand, home: &Home) -> Result<(Duration, Duration), String> {
    let addr = free_addr().map_err(told)?;
    let file = home.home().join("adit.yaml");
    fs::write(&file, yaml(addr)).map_err(told)?;
    let mut command = stand.adit(&["up", "-o", "json", "--config"]);
    command.arg(&file).env("KUBECONFIG", home.kubeconfig()).env("HOME", home.home());
    let process = Process::start(&mut command).map_err(told)?;
    process.wait_line(DEADLINE, |line| line.contains("\"started\"")).map_err(|error| error.to_string())?;
    let asked = || ask(addr, HOST).map_err(|error| format!("{error}; its output:\n{}", last_words(&process)));
    Ok((asked()?, asked()?))
}

fn yaml(addr: SocketAddr) -> String {
    format!(
        "version: 1\ngateway:\n  listen: \"{addr}\"\n  routes:\n    {HOST}: {{ to: \"k8s:///default/service/web:80\" }}\n"
    )
}

/// From the start of `adit forward` until it forwards.
fn forward(stand: &Stand, home: &Home) -> Result<Duration, String> {
    let mut command = stand.adit(&["forward", "svc/web", ":80", "--address", "127.0.0.1"]);
    command.env("KUBECONFIG", home.kubeconfig()).env("HOME", home.home());
    let start = Instant::now();
    let process = Process::start(&mut command).map_err(told)?;
    listening(&process, None)?;
    Ok(start.elapsed())
}

/// What any start of the program takes.
fn version(stand: &Stand) -> Result<Duration, String> {
    let start = Instant::now();
    let process = Process::start(&mut stand.adit(&["--version"])).map_err(told)?;
    process.wait_line(DEADLINE, |_| true).map_err(|error| error.to_string())?;
    Ok(start.elapsed())
}

/// What to say of an error of the system's.
#[expect(clippy::needless_pass_by_value, reason = "it is for map_err")]
fn told(error: io::Error) -> String {
    error.to_string()
}
