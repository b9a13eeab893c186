//! `adit server token`: agents' tokens.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use adit_core::accounts::{NewToken, TokenStore};
use adit_core::diagnose::Fault;
use adit_core::name::{Hostname, NamePattern, PortRange};
use adit_core::timestamp;
use adit_core::token::Token;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Global, files};
use crate::report::{Failure, Output, failure};
use crate::terminal;

/// Create, list and revoke agents' tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token; it is printed once, and only its hash is kept
    Create(CreateArguments),
    /// List tokens, without the tokens themselves
    List(PlaceArguments),
    /// Revoke a token; agents that use it are disconnected within a second
    Revoke {
        /// The token's id, as `list` shows it
        id: String,
        #[command(flatten)]
        place: PlaceArguments,
    },
}

/// Where the token file is, unless server.yaml says so.
#[derive(Debug, Args)]
pub(crate) struct PlaceArguments {
    /// Where the server keeps its data
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("grant").args(["allow", "host", "ports"]).required(true).multiple(true)))]
pub(crate) struct CreateArguments {
    /// The account the token belongs to
    #[arg(long)]
    account: String,
    /// Names it may take, e.g. 'app*'; may be given several times
    #[arg(long, value_name = "PATTERN")]
    allow: Vec<String>,
    /// Custom hosts it may take, e.g. shop.example.org
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// TCP ports it may take, e.g. 15000-15010
    #[arg(long, value_name = "RANGE")]
    ports: Option<String>,
    /// Tunnels it may publish at once
    #[arg(long, value_name = "N")]
    max_tunnels: Option<u32>,
    /// When it ends, from now: 12h, 30d
    #[arg(long, value_name = "DURATION")]
    expires: Option<String>,
    #[command(flatten)]
    place: PlaceArguments,
}

pub(crate) fn run(global: &Global, command: TokenCommand) -> Result<ExitCode, Failure> {
    match command {
        TokenCommand::Create(arguments) => create(global, arguments),
        TokenCommand::List(place) => list(global, &place),
        TokenCommand::Revoke { id, place } => revoke(global, &id, &place),
    }
}

fn path_of(global: &Global, place: &PlaceArguments) -> Result<PathBuf, Failure> {
    let files = files::server_config(global.config.as_deref())?;
    let data_dir = place.data_dir.clone().unwrap_or(files.data_dir);
    Ok(tunnel::server::tokens_path(&files.config.auth, &data_dir))
}

fn create(global: &Global, arguments: CreateArguments) -> Result<ExitCode, Failure> {
    let path = path_of(global, &arguments.place)?;
    let now = SystemTime::now();
    let new = parse(arguments, now)?;
    let token = Token::from_random(rand::random());
    let mut store = Locked::open(&path)?;
    let account = new.account.clone();
    let id = store.tokens.add(&token, new, now).map_err(|error| failure(&error))?.id.clone();
    store.save()?;
    match global.output {
        Output::Text => {
            terminal::data(&format!("{}\n", token.expose()));
            terminal::say(&format!("token {id} of account {account}, kept as a hash in {}", path.display()));
            terminal::say("this is the only time it is shown");
        }
        Output::Json => {
            terminal::data(&format!("{}\n", json!({ "id": id, "account": account, "token": token.expose() })));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(arguments: CreateArguments, now: SystemTime) -> Result<NewToken, Failure> {
    let usage = |what: &str, error: &dyn std::fmt::Display| Failure::new(Fault::Usage, format!("{what}: {error}"), "");
    let allow = arguments
        .allow
        .iter()
        .map(|pattern| NamePattern::parse(pattern).map_err(|e| usage(&format!("--allow {pattern}"), &e)))
        .collect::<Result<_, _>>()?;
    let hosts = arguments
        .host
        .iter()
        .map(|host| Hostname::parse(host).map_err(|e| usage(&format!("--host {host}"), &e)))
        .collect::<Result<_, _>>()?;
    let ports = arguments
        .ports
        .map(|range| PortRange::parse(&range).map_err(|e| usage(&format!("--ports {range}"), &e)))
        .transpose()?;
    let expires = arguments
        .expires
        .map(|text| {
            lifetime(&text)
                .map(|life| now + life)
                .ok_or_else(|| usage(&format!("--expires {text}"), &"not a duration such as 12h or 30d"))
        })
        .transpose()?;
    Ok(NewToken { account: arguments.account, allow, hosts, ports, max_tunnels: arguments.max_tunnels, expires })
}

/// A duration that may also be in days.
fn lifetime(text: &str) -> Option<Duration> {
    match text.strip_suffix('d') {
        Some(days) => days.parse::<u32>().ok().map(|days| Duration::from_secs(u64::from(days) * 86_400)),
        None => adit_core::config::unit::parse_duration(text).ok(),
    }
    .filter(|life| !life.is_zero())
}

fn list(global: &Global, place: &PlaceArguments) -> Result<ExitCode, Failure> {
    let path = path_of(global, place)?;
    let store = tunnel::server::read_tokens(&path).map_err(|error| failure(&error))?;
    let now = SystemTime::now();
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for record in store.records() {
        let state = match record.check(now) {
            Ok(()) => "valid",
            Err(_) if record.revoked.is_some() => "revoked",
            Err(_) => "expired",
        };
        let allow: Vec<&str> =
            record.allow.iter().map(NamePattern::as_str).chain(record.hosts.iter().map(Hostname::as_str)).collect();
        let ports = record.ports.map(|p| format!("{}-{}", p.first(), p.last()));
        rows.push([
            record.id.clone(),
            record.account.clone(),
            state.to_owned(),
            allow.join(","),
            ports.clone().unwrap_or_else(|| "-".into()),
            timestamp::format(record.created),
            record.expires.map_or_else(|| "never".into(), timestamp::format),
        ]);
        values.push(json!({
            "id": record.id, "account": record.account, "state": state, "allow": allow, "ports": ports,
            "created": timestamp::format(record.created), "expires": record.expires.map(timestamp::format),
        }));
    }
    match global.output {
        Output::Json => terminal::data(&format!("{}\n", json!({ "tokens": values }))),
        Output::Text => {
            terminal::data(&table(["ID", "ACCOUNT", "STATE", "ALLOW", "PORTS", "CREATED", "EXPIRES"], &rows));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let text: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", text.join("  ").trim_end())
    };
    rows.iter().fold(line(head), |text, row| text + &line(row.each_ref().map(String::as_str)))
}

fn revoke(global: &Global, id: &str, place: &PlaceArguments) -> Result<ExitCode, Failure> {
    let path = path_of(global, place)?;
    let mut store = Locked::open(&path)?;
    let account = store.tokens.revoke(id, SystemTime::now()).map_err(|error| failure(&error))?.account.clone();
    store.save()?;
    match global.output {
        Output::Text => terminal::say(&format!("token {id} of account {account} is revoked")),
        Output::Json => terminal::data(&format!("{}\n", json!({ "id": id, "account": account, "state": "revoked" }))),
    }
    Ok(ExitCode::SUCCESS)
}

/// The token file, locked against another `adit server token` until it is dropped.
struct Locked {
    path: PathBuf,
    tokens: TokenStore,
    _lock: std::fs::File,
}

impl Locked {
    fn open(path: &Path) -> Result<Self, Failure> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let fail = |error: std::io::Error| {
            Failure::new(
                Fault::Config,
                format!("{}: {error}", path.display()),
                "check data_dir, or run as the server's user",
            )
        };
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        }
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.with_extension("lock"))
            .map_err(fail)?;
        lock.lock().map_err(fail)?;
        let tokens = tunnel::server::read_tokens(path).map_err(|error| failure(&error))?;
        Ok(Self { path: path.to_owned(), tokens, _lock: lock })
    }

    /// Replaces the file as a whole, with mode 0600 from its first byte on and with its owner kept.
    fn save(&self) -> Result<(), Failure> {
        use std::io::Write as _;
        use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
        let write = || -> std::io::Result<()> {
            let beside = self.path.with_extension("new");
            let _ = std::fs::remove_file(&beside);
            let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
            file.write_all(self.tokens.to_json().as_bytes())?;
            file.sync_all()?;
            // Written by root for a server that is not: the server must still be able to read it.
            let owner = std::fs::metadata(&self.path).or_else(|_| {
                std::fs::metadata(self.path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new(".")))
            });
            if let Ok(owner) = owner {
                let _ = std::os::unix::fs::chown(&beside, Some(owner.uid()), Some(owner.gid()));
            }
            std::fs::rename(beside, &self.path)
        };
        write().map_err(|error| {
            Failure::new(
                Fault::Config,
                format!("{}: {error}", self.path.display()),
                "check data_dir, or run as the server's user",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_may_be_in_days() {
        assert_eq!(lifetime("2d"), Some(Duration::from_secs(172_800)));
        assert_eq!(lifetime("12h"), Some(Duration::from_secs(43_200)));
        assert_eq!(lifetime("0d"), None);
        assert_eq!(lifetime("soon"), None);
    }

    #[test]
    fn a_table_lines_its_columns_up() {
        let rows = [["a".to_owned(), "bb".to_owned()], ["cccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(["X", "Y"], &rows), "X     Y\na     bb\ncccc  d\n");
    }
}
