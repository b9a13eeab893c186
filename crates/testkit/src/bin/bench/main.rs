//! Measures adit, the floor (bare loopback, proxies without a tunnel) and other tunnels in the same run.
//!
//! `bench [ROW…]` prints one table a row; `bench k8s [ROW…]` compares `adit forward` with kubectl,
//! `bench gateway [ROW…]` compares `adit up` with nginx and HAProxy, `bench daemon [ROW…]` the daemon and its SSH with
//! `ssh -L`, `bench monitor [ROW…]` measures what the monitor costs. `bench origin`, `bench hello`, `bench
//! cluster` and `bench closer` are the child processes with the services behind it all.
//! Rates and latencies on a shared machine are only good for ratios within one run; CPU seconds per unit are steady.

use std::process::ExitCode;

mod agents;
mod asked;
mod daemon;
mod figures;
mod gateway;
mod k8s;
mod monitor;
mod options;
mod peers;
mod product;
mod rows;
mod runtimes;
mod service;
mod table;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((word, _)) if word == "origin" => service::run(),
        Some((word, rest)) if word == "cluster" => k8s::home::run(rest),
        Some((word, _)) if word == "hello" => gateway::service::run(),
        Some((word, rest)) if word == "daemon" => daemon::run(rest),
        Some((word, rest)) if word == "gateway" => gateway::run(rest),
        Some((word, rest)) if word == "k8s" => k8s::run(rest),
        Some((word, rest)) if word == monitor::between::WORD => monitor::between::run(rest),
        Some((word, rest)) if word == "monitor" => monitor::run(rest),
        _ if arguments.iter().any(|word| word == "--help" || word == "-h") => {
            table::print(&options::help());
            Ok(())
        }
        _ => options::Options::parse(&arguments).and_then(|options| rows::run(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            table::note(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
