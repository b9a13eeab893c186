//! `adit server`: the tunnel server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use adit_core::config::server::{LogFormat, ServerConfig};
use adit_core::diagnose::Fault;
use adit_core::name::Hostname;
use adit_core::token::CREATE_EXAMPLE;
use clap::{Args, Subcommand};
use runtime::scope::Scope;
use runtime::signals::StopSignals;
use runtime::watch::FileWatch;
use tunnel::server::{Bound, Running, Server, ServerOptions};

use super::files::{self, ServerFiles};
use super::{Global, on_runtime, token};
use crate::report::{Failure, chain, failure};
use crate::terminal;

/// A reload that failed is tried again after this time.
const RELOAD_AGAIN: Duration = Duration::from_secs(2);

/// Run a tunnel server, or manage its tokens.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Without --config it reads server.yaml in this directory or in ~/.config/adit, if there is one; these options win over it.

Examples:
  adit server --base-domain tunnel.example.com
  adit server token create --account acme --allow 'app*'
  adit server --config /etc/adit/server.yaml")]
pub(crate) struct ServerArguments {
    #[command(flatten)]
    run: RunArguments,
    #[command(subcommand)]
    command: Option<ServerCommand>,
}

#[derive(Debug, Subcommand)]
enum ServerCommand {
    /// Create, list and revoke agents' tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
}

/// What may be said on the command line instead of in server.yaml.
#[derive(Debug, Args)]
struct RunArguments {
    /// Tunnels become subdomains of this domain [default: localhost]
    #[arg(long, value_name = "DOMAIN")]
    base_domain: Option<String>,
    /// Where visitors connect [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS")]
    public_listen: Option<SocketAddr>,
    /// Where agents connect [default: 0.0.0.0:8443]
    #[arg(long, value_name = "ADDRESS")]
    agents_listen: Option<SocketAddr>,
    /// Where metrics and health are served, for this machine only [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// Where the server keeps its certificate, tokens and names [default: ~/.local/state/adit/server]
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
}

impl RunArguments {
    fn apply(&self, files: &mut ServerFiles) -> Result<(), Failure> {
        let ServerFiles { config, data_dir, .. } = files;
        if let Some(domain) = &self.base_domain {
            config.public.base_domain = Hostname::parse(domain)
                .map_err(|error| Failure::new(Fault::Usage, format!("--base-domain {domain}: {error}"), ""))?;
        }
        if let Some(address) = self.public_listen {
            config.public.listen = vec![address];
        }
        if let Some(address) = self.agents_listen {
            config.agents.listen = vec![address];
        }
        if let Some(address) = self.admin_listen {
            config.admin.listen = address;
        }
        if let Some(directory) = &self.data_dir {
            config.data_dir = Some(directory.clone());
            data_dir.clone_from(directory);
        }
        Ok(())
    }
}

pub(crate) fn run(global: &Global, arguments: ServerArguments) -> Result<ExitCode, Failure> {
    if let Some(ServerCommand::Token(command)) = arguments.command {
        return token::run(global, command);
    }
    let mut files = files::server_config(global.config.as_deref())?;
    let create = create_command(global.config.as_deref(), arguments.run.data_dir.as_deref());
    arguments.run.apply(&mut files)?;
    let level = files.config.log.level.map(|level| level.as_str());
    global.start_logs(level, files.config.log.format == LogFormat::Json)?;
    on_runtime(files.config.workers, serve(files, arguments.run, create))?
}

async fn serve(files: ServerFiles, arguments: RunArguments, create: String) -> Result<ExitCode, Failure> {
    runtime::socket::raise_descriptor_limit();
    let mut signals = StopSignals::install().map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
    let scope = Scope::root();
    let times = files.config.shutdown;
    let ServerFiles { path, config, data_dir } = files;
    let domain = config.public.base_domain.clone();
    let server = Server::bind(config, &data_dir, &ServerOptions::default(), &scope).map_err(|error| failure(&error))?;
    let (bound, listeners) = (server.bound(), server.listeners());
    let running = Arc::new(server.start().map_err(|error| failure(&error))?);
    // First what a SIGHUP needs: whoever reads that the server is there may send one.
    let watch = watch_files(&scope, &running, path, arguments)?;
    announce(&bound, &domain, &create);
    let outcome = runtime::shutdown::run(&scope, &listeners, times, &mut signals, std::future::pending(), |phase| {
        tracing::info!(?phase, "shutdown");
        running.on_phase(phase);
    })
    .await;
    drop(watch);
    tracing::info!(clean = outcome.clean, took = ?outcome.took, "stopped");
    Ok(if outcome.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn announce(bound: &Bound, domain: &Hostname, create: &str) {
    let list = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    terminal::say(&format!("visitors     {}  →  *.{}", list(&bound.public), domain.as_str()));
    if let Some((address, ports)) = bound.tcp {
        let address = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        terminal::say(&format!("tcp ports    {address}:{ports}"));
    }
    terminal::say(&format!("agents       {} (TLS)", list(&bound.agents)));
    if bound.self_signed {
        terminal::say(&format!("fingerprint  {}", bound.fingerprint));
        terminal::say("             a certificate of its own making: agents pin it with --fingerprint");
    }
    terminal::say(&format!("metrics      http://{}/metrics", bound.admin));
    if !bound.has_tokens {
        terminal::say(&format!("no agent can connect yet: {create}"));
    }
}

/// What makes a token of this server, told the same files.
fn create_command(config: Option<&Path>, data_dir: Option<&Path>) -> String {
    let given = [("-f", config), ("--data-dir", data_dir)];
    given.into_iter().filter_map(|(option, path)| Some((option, path?))).fold(
        CREATE_EXAMPLE.to_owned(),
        |command, (option, path)| {
            let path = path.display().to_string();
            let plain = path.chars().all(|c| c.is_alphanumeric() || "/._-+@:".contains(c));
            let path = if plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) };
            format!("{command} {option} {path}")
        },
    )
}

/// Watches configuration, certificates and tokens; SIGHUP looks at once.
fn watch_files(
    scope: &Scope,
    running: &Arc<Running>,
    path: Option<PathBuf>,
    arguments: RunArguments,
) -> Result<Arc<FileWatch>, Failure> {
    let internal =
        |error: std::io::Error| Failure::new(Fault::Internal, format!("files cannot be watched: {error}"), "");
    let all = |running: &Running| running.files().into_iter().chain(path.clone()).collect::<Vec<_>>();
    let watch = Arc::new(FileWatch::start(all(running)).map_err(internal)?);
    watch.trigger_on_hangup(scope).map_err(internal)?;
    let hangups = runtime::signals::Hangups::install().map_err(internal)?;
    let task_running = Arc::clone(running);
    hangups.each(scope, move || task_running.reopen_logs());
    let (mut changes, task_scope, running) = (watch.changes(), scope.clone(), Arc::clone(running));
    let task_watch = Arc::downgrade(&watch);
    scope.spawn("reload", async move {
        let mut failed: Option<String> = None;
        loop {
            // What failed is tried again: a token revoked while files could not be read must not live on for that.
            let again = async {
                match &failed {
                    Some(_) => tokio::time::sleep(RELOAD_AGAIN).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = again => {}
                () = task_scope.drained() => return,
            }
            let known = path.clone();
            let result = task_scope.spawn_blocking("reload", {
                let running = Arc::clone(&running);
                let overrides = arguments.overrides();
                move || reload(&running, known, &overrides)
            });
            let problem = match result.await {
                Ok(Ok(())) => {
                    tracing::info!("reloaded");
                    if let Some(watch) = task_watch.upgrade() {
                        watch.set_files(running.files().into_iter().chain(path.clone()).collect());
                    }
                    failed = None;
                    continue;
                }
                Ok(Err(text)) => text,
                Err(lost) => lost.to_string(),
            };
            if failed.as_ref() != Some(&problem) {
                tracing::error!("not reloaded: {problem}");
            }
            failed = Some(problem);
        }
    });
    Ok(watch)
}

impl RunArguments {
    fn overrides(&self) -> Self {
        Self {
            base_domain: self.base_domain.clone(),
            public_listen: self.public_listen,
            agents_listen: self.agents_listen,
            admin_listen: self.admin_listen,
            data_dir: self.data_dir.clone(),
        }
    }
}

/// The configuration first, then, whatever became of it, certificates and tokens: a mistake in the one must not
/// keep a revoked token or an old certificate in force.
fn reload(running: &Running, path: Option<PathBuf>, arguments: &RunArguments) -> Result<(), String> {
    let config = path.map_or(Ok(()), |path| reload_config(running, &path, arguments));
    let config = config.map_err(|problem| format!("the old configuration stays in force: {problem}"));
    let files = running.reload_files().err().unwrap_or_default();
    let problems: Vec<_> = config.err().into_iter().chain(files.iter().map(|error| chain(error))).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

fn reload_config(running: &Running, path: &Path, arguments: &RunArguments) -> Result<(), String> {
    let text = runtime::regular_file::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let config = ServerConfig::parse(&path.display().to_string(), &text, &files::environment)
        .map_err(|problems| problems.to_string())?;
    let mut files = ServerFiles { path: None, data_dir: config.data_dir.clone().unwrap_or_default(), config };
    arguments.apply(&mut files).map_err(|_| "the command line and the configuration do not fit".to_owned())?;
    running.reload(files.config).map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_command_that_makes_a_token_can_be_typed_as_it_is_told() {
        for config in [None, Some(Path::new("srv/server.yaml"))] {
            let told = create_command(config, None).replace('\'', "");
            let parsed = crate::command::Arguments::try_parse_from(told.split(' '));
            assert!(parsed.is_ok(), "{told}: {:?}", parsed.err());
        }
    }

    #[test]
    fn the_command_that_makes_a_token_is_told_the_files_of_this_server() {
        let of = |config: Option<&str>, data: Option<&str>| create_command(config.map(Path::new), data.map(Path::new));
        assert_eq!(of(None, None), "adit server token create --account NAME --allow '*'");
        assert_eq!(
            of(Some("srv/server.yaml"), None),
            "adit server token create --account NAME --allow '*' -f srv/server.yaml"
        );
        assert_eq!(
            of(Some("my file"), Some("/it's")),
            "adit server token create --account NAME --allow '*' -f 'my file' --data-dir '/it'\\''s'"
        );
    }
}
