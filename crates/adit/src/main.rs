//! The `adit` binary: command line, wiring, reports. The only crate that prints, reads arguments or exits.

mod command;
mod demo;
mod report;
mod terminal;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = match command::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap prints help and version to stdout, mistakes to stderr; both are its own texts.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    command::run(arguments)
}
