//! `adit config`: checks configuration files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_core::config::AgentFile;
use adit_core::config::server::ServerConfig;
use adit_core::diagnose::Fault;
use clap::Subcommand;
use serde_json::json;

use super::{Global, files};
use crate::report::{Failure, Output};
use crate::terminal;

/// Check configuration files.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a server.yaml or adit.yaml and report everything that is wrong with it
    Check {
        /// The file; without it server.yaml and adit.yaml in the usual places
        file: Option<PathBuf>,
    },
}

pub(crate) fn run(global: &Global, command: &ConfigCommand) -> Result<ExitCode, Failure> {
    let ConfigCommand::Check { file } = command;
    let given = file.as_ref().or(global.config.as_ref());
    let paths: Vec<PathBuf> = match given {
        Some(path) => vec![path.clone()],
        None => ["server.yaml", "adit.yaml"].into_iter().filter_map(files::find).collect(),
    };
    if paths.is_empty() {
        return Err(Failure::new(
            Fault::Config,
            "there is no server.yaml or adit.yaml here",
            "name the file: adit config check FILE",
        ));
    }
    for path in paths {
        check(&path)?;
        match global.output {
            Output::Text => terminal::say(&format!("{}: fine", path.display())),
            Output::Json => terminal::data(&format!("{}\n", json!({ "file": path, "ok": true }))),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(path: &Path) -> Result<(), Failure> {
    let text = files::read(path)?;
    let name = path.display().to_string();
    // A file with one of these sections is an agent's; anything else is held to be a server's.
    let is_agents = |line: &str| ["publish:", "kubernetes:"].iter().any(|section| line.starts_with(section));
    let is_agent = text.lines().any(is_agents) || path.file_name().is_some_and(|file| file == "adit.yaml");
    if is_agent {
        AgentFile::parse(&name, &text, &files::environment)?;
    } else {
        ServerConfig::parse(&name, &text, &files::environment)?;
    }
    Ok(())
}
