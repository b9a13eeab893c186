//! The `adit` binary: command line, wiring, reports. The only crate that prints, reads arguments or exits.

mod command;
mod demo;
mod report;
mod terminal;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _};

fn main() -> ExitCode {
    let parsed = command::Arguments::command().try_get_matches().and_then(|matches| {
        // It is another word for text, so that only what was written tells them apart.
        let written = matches.get_raw("output").and_then(Iterator::last).map(std::ffi::OsStr::to_owned);
        Ok((command::Arguments::from_arg_matches(&matches)?, written.is_some_and(|form| form == "yaml")))
    });
    let (arguments, wants_yaml) = match parsed {
        Ok(parsed) => parsed,
        Err(mut error) => {
            point_to_nested(&mut error);
            // clap prints help and version to stdout, mistakes to stderr; both are its own texts.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    command::run(arguments, wants_yaml)
}

/// A command that there is one level deeper, such as `reload` of `daemon`, is told where.
fn point_to_nested(error: &mut clap::Error) {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) else { return };
    if error.kind() != ErrorKind::InvalidSubcommand || error.get(ContextKind::SuggestedSubcommand).is_some() {
        return;
    }
    let all = command::Arguments::command();
    let has_it = all.get_subcommands().filter(|group| group.find_subcommand(name).is_some());
    let paths: Vec<_> = has_it.map(|group| format!("{} {name}", group.get_name())).collect();
    if !paths.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(paths));
    }
}
