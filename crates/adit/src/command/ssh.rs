//! `adit ssh`: whether an SSH server can be used, step by step, and which of its keys is believed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use ::forward::{SshAsk, SshServers};
use adit_core::config::AgentFile;
use adit_core::config::unit::parse_duration;
use adit_core::diagnose::Fault;
use adit_core::secret::Secret;
use adit_core::target::{SshBackend, SshOptions, SshServer, SshTarget, Target};
use clap::{Args, Subcommand};
use runtime::Scope;
use serde_json::json;

use super::{Global, on_runtime};
use crate::report::{Failure, Output, failure};
use crate::terminal;

/// Look at SSH servers.
#[derive(Debug, Subcommand)]
pub(crate) enum SshCommand {
    /// Log in to an SSH server and say each step
    ///
    /// Nothing is run there. With ssh://HOST/DESTHOST:DESTPORT a stream to that destination is opened as well.
    Test {
        /// `[USER@]HOST[:PORT]`, a Host of ~/.ssh/config, ssh://HOST/DESTHOST:DESTPORT, or a forward of adit.yaml
        target: String,
        #[command(flatten)]
        how: SshArguments,
    },
    /// Accept the host key that an SSH server shows now
    ///
    /// It is written into the file of known hosts that ssh uses too. Compare the fingerprint with the one that the
    /// server's owner names.
    Trust {
        /// `[USER@]HOST[:PORT]`, a Host of ~/.ssh/config, or a forward of adit.yaml
        host: String,
        /// Accept it only if this is its fingerprint, and do not ask
        #[arg(long, value_name = "SHA256:…")]
        fingerprint: Option<String>,
        /// Accept it without asking
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        how: SshArguments,
    },
}

/// How a server is logged in to, beyond what ~/.ssh/config says.
#[derive(Debug, Default, Args)]
pub(crate) struct SshArguments {
    /// The private key to log in with
    #[arg(short = 'i', long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The file that is read instead of ~/.ssh/config
    #[arg(short = 'F', long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
    /// The file with the host keys
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
    /// Servers on the way, with commas between them
    #[arg(short = 'J', long, value_name = "HOSTS")]
    jump: Option<String>,
    /// How long connecting and logging in may take, such as 5s
    #[arg(long, value_name = "TIME")]
    connect_timeout: Option<String>,
    /// Have a child process `ssh` speak instead of adit
    #[arg(long)]
    openssh: bool,
}

impl SshArguments {
    fn options(&self) -> Result<SshOptions, Failure> {
        let timeout = self.connect_timeout.as_deref().map(parse_duration).transpose();
        let connect_timeout = timeout
            .map_err(|error| Failure::new(Fault::Usage, format!("--connect-timeout: {error}"), "write it as 5s"))?;
        Ok(SshOptions {
            key: self.key.as_deref().map(of_home),
            config: self.ssh_config.as_deref().map(of_home),
            known_hosts: self.known_hosts.as_deref().map(of_home),
            jump: self.jump.clone(),
            connect_timeout,
            backend: if self.openssh { SshBackend::OpenSsh } else { SshBackend::Auto },
            ..SshOptions::default()
        })
    }
}

/// A file below the home directory: of `--key=~/.ssh/id` shells leave the `~` as it is.
fn of_home(path: &Path) -> PathBuf {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.to_owned(),
    }
}

pub(crate) fn run(global: &Global, command: &SshCommand) -> Result<ExitCode, Failure> {
    global.start_logs(Some("warn"), false)?;
    match command {
        SshCommand::Test { target, how } => {
            let (server, destination) = meant(global, target, how)?;
            on_runtime(Some(1), test(global, &server, destination))?
        }
        SshCommand::Trust { host, fingerprint, yes, how } => {
            let (server, _) = meant(global, host, how)?;
            on_runtime(Some(1), trust(global, &server, fingerprint.as_deref(), *yes))?
        }
    }
}

/// A server and a destination there.
type Meant = (SshServer, Option<(String, u16)>);

/// What is to be looked at: a forward of the file that leads through a server, or what was written.
fn meant(global: &Global, text: &str, how: &SshArguments) -> Result<Meant, Failure> {
    let options = how.options()?;
    match of_forward(global, text)? {
        Some(target) => {
            terminal::say(&format!("the forward {text} leads to {target}"));
            let known = (*target.server.options).clone();
            let destination = (target.host.bare(), target.port.get());
            Ok((target.server.with(over(known, options)), Some(destination)))
        }
        None => parse(text).map(|(server, destination)| (server.with(options), destination)),
    }
}

/// Where a forward of this name leads, if that is through an SSH server. A file that cannot be read has none: what was
/// written is a host then.
///
/// # Errors
/// When the file has mistakes and speaks of the name: a host of that name may be anybody's.
fn of_forward(global: &Global, name: &str) -> Result<Option<SshTarget>, Failure> {
    let Some((path, text)) =
        super::up::path(global).and_then(|path| super::files::read(&path).ok().map(|text| (path, text)))
    else {
        return Ok(None);
    };
    // What other forwards need may be set elsewhere.
    let variable = |name: &str| super::files::environment(name).or_else(|| Some(String::new()));
    let file = match AgentFile::parse(&path.display().to_string(), &text, &variable) {
        Ok(file) => file,
        Err(problems) if has_key(&text, name) => {
            return Err(Failure::from(problems).within(&format!(
                "the file speaks of {name} and cannot be used before it is mended (a host of that name: USER@{name})"
            )));
        }
        Err(_) => return Ok(None),
    };
    Ok(file.forward(name).and_then(|forward| match &forward.to {
        Target::Ssh(target) => Some(target.clone()),
        _ => None,
    }))
}

/// Whether a text of YAML, whatever is wrong with it, may have a key of that name.
fn has_key(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let after = after.trim_start_matches(['"', '\'']).trim_start_matches(' ').strip_prefix(':');
        before.chars().next_back().is_none_or(|c| c.is_whitespace() || "{,\"'".contains(c))
            && after.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    })
}

/// What the file says of a login, with what the command line says over it.
fn over(file: SshOptions, line: SshOptions) -> SshOptions {
    SshOptions {
        key: line.key.or(file.key),
        config: line.config.or(file.config),
        known_hosts: line.known_hosts.or(file.known_hosts),
        jump: line.jump.or(file.jump),
        connect_timeout: line.connect_timeout.or(file.connect_timeout),
        backend: if line.backend == SshBackend::Auto { file.backend } else { line.backend },
        ..file
    }
}

/// Asks on the terminal, when there is one.
pub(crate) fn ask() -> Option<SshAsk> {
    terminal::can_ask().then(|| {
        let ask: SshAsk = Arc::new(|question: &str, visible: bool| {
            let answer = if visible { terminal::ask(question) } else { terminal::ask_secret(question) };
            answer.map(Secret::new)
        });
        ask
    })
}

fn parse(text: &str) -> Result<Meant, Failure> {
    let rest = text.strip_prefix("ssh://").unwrap_or(text);
    if rest.contains('/') {
        let target = SshTarget::parse(&format!("ssh://{rest}")).map_err(|error| failure(&error))?;
        let destination = (target.host.bare(), target.port.get());
        return Ok((target.server, Some(destination)));
    }
    SshServer::parse(rest).map(|server| (server, None)).map_err(|error| failure(&error))
}

async fn test(global: &Global, server: &SshServer, destination: Option<(String, u16)>) -> Result<ExitCode, Failure> {
    let scope = Scope::root();
    let steps: Mutex<Vec<String>> = Mutex::default();
    let is_text = global.output == Output::Text;
    let note = |step: String| {
        if is_text {
            terminal::data(&format!("ok  {step}\n"));
        }
        steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    };
    let destination = destination.as_ref().map(|(host, port)| (host.as_str(), *port));
    let tested = SshServers::new(ask()).test(&scope, server, destination, &note).await;
    scope.abort();
    tested.map_err(|error| tested_already(failure(&error)))?.map_err(|error| failure(&error))?;
    if !is_text {
        let steps = steps.into_inner().unwrap_or_else(PoisonError::into_inner);
        terminal::data(&format!("{}\n", json!({ "server": server.to_string(), "steps": steps })));
    }
    Ok(ExitCode::SUCCESS)
}

/// Nobody is sent to the command that has just failed.
fn tested_already(failure: Failure) -> Failure {
    match failure.hint().is_some_and(|hint| hint.contains("adit ssh test")) {
        true => {
            Failure::new(failure.kind(), failure.message(), "see what ssh itself says, if it is installed: ssh -v HOST")
        }
        false => failure,
    }
}

async fn trust(global: &Global, server: &SshServer, wanted: Option<&str>, yes: bool) -> Result<ExitCode, Failure> {
    let scope = Scope::root();
    let servers = SshServers::new(ask());
    let shown = servers.shown_key(&scope, server).await.map_err(|error| failure(&error))?;
    let what = format!("{} {}", shown.kind, shown.fingerprint);
    let refusal = match &shown.refused {
        None => {
            report(global, server, &shown.fingerprint, "known", format!("the host key of {server} is known: {what}"));
            return Ok(ExitCode::SUCCESS);
        }
        Some(error @ ::forward::SshError::UnknownKey { .. }) => error,
        // What has changed is deleted by hand: nobody is to do that in passing.
        Some(error) => return Err(failure(error)),
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != shown.fingerprint) {
        let message = format!("{server} shows {what}, not {wanted}");
        return Err(Failure::new(Fault::Auth, message, "ask the server's owner: somebody may be listening in between"));
    }
    if wanted.is_none() && !yes {
        if !terminal::can_ask() {
            return Err(Failure::new(
                Fault::NotPermitted,
                refusal.to_string(),
                format!("compare it, then: adit ssh trust --fingerprint {} {server}", shown.fingerprint),
            ));
        }
        let answer = terminal::ask(&format!("{server} shows {what}\nis that its key? [y/N] "));
        if !answer.is_some_and(|answer| matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes")) {
            return Err(Failure::new(Fault::NotPermitted, "the key was not accepted", ""));
        }
    }
    let file = servers.trust(&scope, server, &shown).await.map_err(|error| failure(&error))?;
    report(
        global,
        server,
        &shown.fingerprint,
        "added",
        format!("{what} is the key of {server} from now on, in {file}"),
    );
    scope.abort();
    Ok(ExitCode::SUCCESS)
}

fn report(global: &Global, server: &SshServer, fingerprint: &str, state: &str, text: String) {
    match global.output {
        Output::Text => terminal::data(&(text + "\n")),
        Output::Json => {
            let line = json!({ "server": server.to_string(), "fingerprint": fingerprint, "state": state });
            terminal::data(&format!("{line}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_mistaken_file_is_found_and_what_only_has_its_letters_is_not() {
        for text in
            ["forwards:\n  db: { to: 1 }", "forwards: {db: 1}", "a:\n  \"db\": { to: 1 }", "db:", "{ a: 1, 'db' : 2 }"]
        {
            assert!(has_key(text, "db"), "{text}");
        }
        for text in ["mydb: 1", "to: tcp://db:5432", "host: db", "dbx: 1", "", "# on db:5432"] {
            assert!(!has_key(text, "db"), "{text}");
        }
    }

    #[test]
    fn a_target_may_be_a_server_alone() {
        for (text, server, destination) in [
            ("bastion", "bastion", None),
            ("me@bastion:2222", "me@bastion:2222", None),
            ("ssh://me@bastion", "me@bastion", None),
            ("ssh://bastion/db:5432", "bastion", Some(("db".to_owned(), 5432))),
            ("bastion/db:5432", "bastion", Some(("db".to_owned(), 5432))),
        ] {
            let (found, to) = parse(text).unwrap_or_else(|failure| panic!("{text}: {}", failure.message()));
            assert_eq!((found.to_string().as_str(), to), (server, destination));
        }
        assert!(parse("-oProxyCommand=x").is_err());
    }

    #[test]
    fn what_the_command_line_says_goes_over_what_the_file_says() {
        let file = SshOptions {
            key: Some("/file".into()),
            jump: Some("hop".to_owned()),
            backend: SshBackend::OpenSsh,
            ..SshOptions::default()
        };
        let line = SshOptions { key: Some("/line".into()), ..SshOptions::default() };
        let both = over(file.clone(), line);
        assert_eq!((both.key, both.jump), (Some("/line".into()), Some("hop".to_owned())));
        assert_eq!(both.backend, SshBackend::OpenSsh);
        assert_eq!(over(file.clone(), SshOptions::default()), file);
    }
}
