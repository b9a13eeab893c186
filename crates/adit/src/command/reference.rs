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

/// Prints the manual page of adit, or of one of its commands.
pub(crate) fn man(words: &[String]) -> Result<ExitCode, Failure> {
    terminal::data(&manual(words)?);
    Ok(ExitCode::SUCCESS)
}

fn manual(words: &[String]) -> Result<String, Failure> {
    let mut all = Arguments::command();
    all.build();
    let mut command = &mut all;
    for word in words {
        let name = command.get_bin_name().unwrap_or("adit").to_owned();
        command = command.find_subcommand_mut(word).ok_or_else(|| {
            let message = format!("there is no manual page for {word}, as {name} has no such command");
            Failure::new(Fault::Usage, message, format!("{name} --help names all of them"))
        })?;
    }
    let usage = command.render_usage().to_string();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    Ok(with_usage(&with_real_references(&String::from_utf8_lossy(&page)), &usage))
}

/// Nobody installs a page for each command: what would refer to one says how to see it.
fn with_real_references(page: &str) -> String {
    let page = page.lines().map(|line| match line.strip_prefix("adit\\-").and_then(|rest| rest.strip_suffix("(1)")) {
        Some(command) => format!("adit man {}\n", command.replace("\\-", " ")),
        None => format!("{line}\n"),
    });
    page.collect()
}

/// The page with the usage as `--help` has it: the list that would be made for the manual leaves out what options take.
fn with_usage(page: &str, usage: &str) -> String {
    const HEAD: &str = "\n.SH SYNOPSIS\n";
    let Some((before, rest)) = page.split_once(HEAD) else { return page.to_owned() };
    let after = rest.find("\n.SH ").map_or("", |at| &rest[at..]);
    let lines: Vec<&str> = usage.trim_start_matches("Usage:").lines().map(str::trim).collect();
    format!("{before}{HEAD}{}{after}", lines.join("\n.br\n").replace('-', "\\-"))
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
        let page = manual(&[]).unwrap();
        assert!(!page.contains("\\-doctor(1)") && page.contains("\nadit man doctor\n"), "{page}");
    }

    #[test]
    fn each_command_has_a_manual_page_with_its_options_and_the_usage_of_its_help() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (command, usage, option) in [
            ("monitor", "adit monitor [OPTIONS]", "\\-\\-metrics"),
            ("daemon stop", "adit daemon stop [OPTIONS]", "\\-\\-config"),
        ] {
            let page = manual(&words(command)).unwrap();
            assert!(page.contains(&format!("\n.SH SYNOPSIS\n{usage}")), "{page}");
            assert!(page.contains(option) && page.contains("\n.SH DESCRIPTION\n"), "{page}");
        }
        let said = manual(&words("daemon nonsense")).unwrap_err();
        assert!(
            said.message().contains("nonsense") && said.hint().is_some_and(|hint| hint.contains("adit daemon --help"))
        );
    }
}
