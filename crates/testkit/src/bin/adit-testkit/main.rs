//! Peers to try adit against by hand. `adit-testkit cluster` is a Kubernetes cluster without Kubernetes.

use std::io::Write;
use std::process::ExitCode;

mod cluster;
mod commands;
mod options;
mod sample;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() || arguments.iter().any(|word| word == "--help" || word == "-h") {
        say(&options::help());
        return ExitCode::SUCCESS;
    }
    let done = options::Options::parse(&arguments).and_then(|options| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        runtime.block_on(Box::pin(cluster::run(&options)))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a text and its line end.
fn say(text: &str) {
    // A reader that has gone needs no more of it.
    let _ = writeln!(std::io::stdout(), "{text}");
    let _ = std::io::stdout().flush();
}
