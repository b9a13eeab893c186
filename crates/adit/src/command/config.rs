//! `adit config`: first files, checks, what holds, and other tools' files.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_core::config::{AgentFile, DEFAULT_FILE, SCHEMA, export, import};
use adit_core::diagnose::Fault;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{Global, files};
use crate::report::{Failure, Output, failure};
use crate::terminal;

pub(super) mod check;

/// Write, check and show configuration files.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Write a first adit.yaml with comments
    Init {
        /// The file to write; one that is there is left alone
        #[arg(default_value = "adit.yaml")]
        file: PathBuf,
    },
    /// Check a server.yaml or adit.yaml and report everything that is wrong with it
    ///
    /// What the file names is looked at too: contexts of the kubeconfig, certificates, files with tokens and passwords.
    Check {
        /// The file; without it server.yaml and adit.yaml in the usual places
        file: Option<PathBuf>,
    },
    /// Show what holds: adit.yaml with every default, without secrets
    Show {
        /// The file; without it adit.yaml in the usual places
        file: Option<PathBuf>,
    },
    /// Print forwards of adit.yaml as a file of their own, to be passed on
    ///
    /// With everything that holds for them, what they lead to, and without secrets: where one was, `[redacted]` stands. A
    /// reference such as `${PASSWORD}` and a path such as `~/.ssh/id` stay as they are written.
    Export(ExportArguments),
    /// Print a JSON Schema of adit.yaml, for editors
    Schema,
    /// Turn another tool's file into an adit.yaml
    ///
    /// The new file goes to standard output or to TO, notes on what has no equivalent to standard error.
    Import(ImportArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Forwards by name; without a name or a tag every one
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Forwards with one of these tags
    #[arg(short, long, value_name = "TAG")]
    tag: Vec<String>,
    /// Leave out what would hold anyway
    #[arg(long)]
    no_defaults: bool,
    /// Write what would hold anyway, too: so it is without --no-defaults
    #[arg(long, overrides_with = "no_defaults")]
    include_defaults: bool,
    /// Forwards that are switched off, too; one that is named is there anyway
    #[arg(long)]
    include_disabled: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Whose file it is
    tool: Tool,
    /// The file, such as ~/.autotunnel.yaml
    file: PathBuf,
    /// The file to write, only when all went well; one that is there is left alone
    #[arg(value_name = "TO")]
    to: Option<PathBuf>,
}

/// Tools whose files can be read.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tool {
    /// The on-demand gateway, ~/.autotunnel.yaml
    Autotunnel,
    /// The supervising daemon, localport.yaml
    Localport,
}

pub(crate) fn run(global: &Global, command: &ConfigCommand) -> Result<ExitCode, Failure> {
    match command {
        ConfigCommand::Init { file } => init(global, file)?,
        ConfigCommand::Check { file } => check::run(global, file.as_deref())?,
        ConfigCommand::Show { file } => show(global, file.as_deref())?,
        ConfigCommand::Export(arguments) => export(global, arguments)?,
        ConfigCommand::Schema => terminal::data(SCHEMA),
        ConfigCommand::Import(arguments) => import(global, arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn init(global: &Global, path: &Path) -> Result<(), Failure> {
    write_new(path, DEFAULT_FILE, "name another file: adit config init FILE")?;
    match global.output {
        Output::Text => terminal::say(&format!(
            "wrote {}: fill in your own services, then try: adit config check {0}",
            path.display()
        )),
        Output::Json => terminal::data(&format!("{}\n", json!({ "file": path, "written": true }))),
    }
    Ok(())
}

/// Makes a file; one that is there stays as it is.
fn write_new(path: &Path, text: &str, when_there: &str) -> Result<(), Failure> {
    let fault = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(Fault::Usage, format!("{} is there already", path.display()), when_there)
        }
        _ => Failure::new(Fault::Usage, format!("{}: {error}", path.display()), "name a file in a directory of yours"),
    };
    // Made only when it is not there, whoever else may be making it at this moment.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(fault)?;
    file.write_all(text.as_bytes()).map_err(fault)
}

/// The agent's file that is meant: given, or in the usual places.
fn agents_file(global: &Global, file: Option<&Path>, verb: &str) -> Result<AgentFile, Failure> {
    Ok(agents_text(global, file, verb)?.0)
}

/// The file as it is understood and as it is written.
fn agents_text(global: &Global, file: Option<&Path>, verb: &str) -> Result<(AgentFile, String), Failure> {
    let given = file.or(global.config.as_deref()).map(Path::to_owned);
    let path = given
        .or_else(|| std::env::var_os("ADIT_CONFIG").map(PathBuf::from))
        .or_else(|| files::find("adit.yaml"))
        .ok_or_else(|| {
            let hint = format!("make one: adit config init, or name it: adit config {verb} FILE");
            Failure::new(Fault::Config, "there is no adit.yaml here", hint)
        })?;
    let text = files::read_once(&path)?;
    if !check::is_agents(&path, &text) {
        return Err(Failure::new(
            Fault::Usage,
            format!("{} is a server's file", path.display()),
            "name an adit.yaml; a server.yaml can be checked: adit config check FILE",
        ));
    }
    let file = AgentFile::parse(&path.display().to_string(), &text, &files::environment)?;
    Ok((file, text))
}

fn show(global: &Global, file: Option<&Path>) -> Result<(), Failure> {
    let config = agents_file(global, file, "show")?;
    match global.output {
        Output::Text => terminal::data(&config.effective_yaml()),
        Output::Json => terminal::data(&format!("{:#}\n", config.effective_json())),
    }
    Ok(())
}

fn export(global: &Global, arguments: &ExportArguments) -> Result<(), Failure> {
    let (config, text) = agents_text(global, None, "export -f")?;
    let selection = export::Selection {
        names: arguments.names.clone(),
        tags: arguments.tag.clone(),
        defaults: !arguments.no_defaults,
        disabled: arguments.include_disabled,
    };
    let exported = config.export(&selection).map_err(|error| failure(&error))?.with_references(&text);
    match global.output {
        Output::Text => terminal::data(&exported.yaml()),
        Output::Json => terminal::data(&format!("{:#}\n", exported.json())),
    }
    if exported.forwards == 0 {
        terminal::say("note: there is no forward of that kind");
    }
    if exported.secrets > 0 {
        let noun = if exported.secrets == 1 { "secret is" } else { "secrets are" };
        terminal::say(&format!("note: {} {noun} left out: fill in what says [redacted]", exported.secrets));
    }
    Ok(())
}

fn import(global: &Global, arguments: &ImportArguments) -> Result<(), Failure> {
    let text = files::read_once(&arguments.file)?;
    let name = arguments.file.display().to_string();
    let imported = match arguments.tool {
        Tool::Autotunnel => import::autotunnel(&text, &name)?,
        Tool::Localport => import::localport(&text, &name)?,
    };
    if let Some(to) = &arguments.to {
        write_new(to, &imported.yaml, "name another file, or remove that one")?;
    }
    match (global.output, &arguments.to) {
        (Output::Text, to) => {
            match to {
                Some(to) => terminal::say(&format!("wrote {0}: adit config check {0}", to.display())),
                None => terminal::data(&imported.yaml),
            }
            imported.notes.iter().for_each(|note| terminal::say(&format!("note: {note}")));
        }
        (Output::Json, to) => {
            let said = json!({ "yaml": imported.yaml, "notes": imported.notes, "file": to });
            terminal::data(&format!("{said}\n"));
        }
    }
    Ok(())
}
