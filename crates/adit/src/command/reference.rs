//! Manual page, and the reference pages that are made from the program itself.

mod api;

use std::process::ExitCode;

use adit_core::diagnose::Fault;
use clap::CommandFactory as _;

use super::Arguments;
use crate::report::Failure;
use crate::terminal;

/// A generated reference page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Page {
    /// Every metric.
    Metrics,
    /// Every command and option.
    Cli,
    /// Every request of the daemon's API.
    Api,
}

/// Prints the manual page.
pub(crate) fn man() -> Result<ExitCode, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command())
        .render(&mut page)
        .map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    terminal::data(&with_real_references(&String::from_utf8_lossy(&page)));
    Ok(ExitCode::SUCCESS)
}

/// There is one page: what would refer to a page for each command says how to see its help.
fn with_real_references(page: &str) -> String {
    let page = page.lines().map(|line| match line.strip_prefix("adit\\-").and_then(|rest| rest.strip_suffix("(1)")) {
        Some(command) => format!("adit {command} \\-\\-help\n"),
        None => format!("{line}\n"),
    });
    page.collect()
}

/// Prints a reference page as Markdown.
pub(crate) fn print(page: Page) -> Result<ExitCode, Failure> {
    terminal::data(&match page {
        Page::Metrics => metrics(),
        Page::Cli => cli(),
        Page::Api => api::page(super::up::daemon::OPENAPI),
    });
    Ok(ExitCode::SUCCESS)
}

fn metrics() -> String {
    let mut text = String::from(
        "# Metrics\n\nMade by `./dev docs` from the program; do not edit.\n\nOpenMetrics text at `/metrics` of the admin address, and for \
         the daemon at `daemon.metrics`, at its API and by `adit status --metrics`; `adit monitor` has the older text format. Counters end in `_total` there, and \
         infos in `_info`.\n",
    );
    let daemon = tunnel::described(&super::up::daemon::metrics::names());
    let monitor = tunnel::described(&::monitor::metrics::names());
    let all = [
        ("Server", tunnel::server::metric_names()),
        ("Agent", tunnel::agent::metric_names()),
        ("Daemon", daemon),
        ("Monitor", monitor),
    ];
    for (title, list) in all {
        text.push_str(&format!("\n## {title}\n\n| name | type | meaning |\n|---|---|---|\n"));
        for (name, kind, help) in list {
            text.push_str(&format!("| `{name}` | {kind} | {help} |\n"));
        }
    }
    text
}

fn cli() -> String {
    let mut text = String::from("# Commands\n\nMade by `./dev docs` from the program; do not edit.\n");
    let mut command = Arguments::command();
    command.build();
    describe(&mut command, "", &mut text);
    text
}

fn describe(command: &mut clap::Command, parents: &str, text: &mut String) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = format!("{parents}{}", command.get_name());
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
    let parents = format!("{name} ");
    for sub in command.get_subcommands_mut() {
        describe(sub, &parents, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_refers_to_no_page_that_does_not_exist() {
        let mut page = Vec::new();
        clap_mangen::Man::new(Arguments::command()).render(&mut page).unwrap();
        let page = with_real_references(&String::from_utf8_lossy(&page));
        assert!(!page.contains("\\-doctor(1)") && page.contains("adit doctor \\-\\-help"), "{page}");
    }
}
