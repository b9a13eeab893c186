//! Measures adit, the floor (bare loopback, proxies without a tunnel) and other tunnels in the same run.
//!
//! `bench [ROW…]` prints one table a row; `bench origin` is the child process with the services behind it all.
//! Rates and latencies on a shared machine are only good for ratios within one run; CPU seconds per unit are steady.

use std::process::ExitCode;

mod agents;
mod options;
mod peers;
mod product;
mod rows;
mod runtimes;
mod service;
mod table;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|word| word == "--help" || word == "-h") {
        table::print(&options::help());
        return ExitCode::SUCCESS;
    }
    let done = if arguments.first().is_some_and(|word| word == "origin") {
        service::run()
    } else {
        options::Options::parse(&arguments).and_then(|options| rows::run(&options))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            table::note(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
