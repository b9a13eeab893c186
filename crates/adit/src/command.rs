//! The command line.

mod agent;
mod clock;
mod complete;
mod config;
mod demo;
mod doctor;
mod expose;
mod files;
mod forward;
mod live;
mod monitor;
mod output;
mod protection;
mod reference;
mod server;
mod ssh;
mod token;
mod top;
mod trust;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adit_core::diagnose::Fault;
use clap::{Args, Parser, Subcommand};
use runtime::telemetry::{Listener, LogFormat, LogSettings};

use crate::report::{Failure, Output};
use crate::terminal;

/// Make services reachable, in both directions.
#[derive(Debug, Parser)]
#[command(name = "adit", version, about, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = "Start with `adit demo`: everything on this machine, nothing to set up.")]
#[command(after_long_help = "\
Exit codes:
  0    done
  1    failed
  2    a mistake in the arguments or the configuration
  3    credentials were refused
  4    a target or server cannot be reached
  5    not permitted on this machine
  6    a daemon in the foreground was told to end, and had to cut off something live
  130  interrupted by Ctrl-C; with a command after `--`, its own exit code

Start with `adit demo`: everything on this machine, nothing to set up.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Configuration file
    #[arg(short = 'f', long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) config: Option<PathBuf>,
    /// How results and failures are shown
    #[arg(short = 'o', long, global = true, value_enum, default_value_t, help_heading = "Global options")]
    pub(crate) output: Output,
    /// More log lines; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
    /// Only warnings and errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Form of log lines
    #[arg(long, global = true, value_enum, value_name = "FORM", help_heading = "Global options")]
    pub(crate) log_format: Option<LogForm>,
    /// No colours
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_color: bool,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogForm {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all of it on this machine in one process: sample service, server, agent, gateway
    Demo(demo::DemoArguments),
    /// Publish services of this machine, or any other target, at a tunnel server
    Expose(Box<expose::ExposeArguments>),
    /// Forward local ports to pods, services, and what can be reached from there
    Forward(Box<forward::ForwardArguments>),
    /// Run what adit.yaml says: forwards, the gateway, published tunnels
    Up(up::UpArguments),
    /// Run what adit.yaml says in the background, and see to it
    #[command(subcommand)]
    Daemon(up::daemon::DaemonCommand),
    /// Start forwards of the running daemon
    Start(up::daemon::StartArguments),
    /// Stop forwards of the running daemon; their ports are closed
    Stop(up::daemon::StopArguments),
    /// Start forwards of the running daemon anew; their ports stay open
    Restart(up::daemon::ChosenArguments),
    /// How the running daemon's forwards are
    Status(up::daemon::StatusArguments),
    /// What has happened to forwards of the daemon
    Logs(up::daemon::LogsArguments),
    /// Run a tunnel server, or manage its tokens
    Server(Box<server::ServerArguments>),
    /// Watch the TCP connections of this machine: metrics and health, as an agent
    Monitor(monitor::MonitorArguments),
    /// Show which process uses which TCP connections, live
    Top(top::TopArguments),
    /// Look at SSH servers: whether they can be used, and which of their keys is believed
    #[command(subcommand)]
    Ssh(Box<ssh::SshCommand>),
    /// Trust the local certificate authority in this machine's stores, or no more
    ///
    /// The authority makes the certificates of names that the gateway ends TLS for (`tls: local`). It is made when it
    /// is missing. Rights are asked for only where they are needed: run it as yourself, not with sudo.
    Trust(trust::TrustArguments),
    /// Say what would stop adit from working here, and what to do about it
    ///
    /// Looks at the configuration, the kubeconfig and its cluster, ports, names, certificates, SSH, the daemon and the
    /// system, and changes nothing. Exit code 1 when something is in the way.
    Doctor,
    /// Write, check and show configuration files
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print names for a completion script, a line each
    #[command(hide = true)]
    Complete {
        /// Which names
        what: complete::Names,
    },
    /// Print the manual page
    Man {
        /// Of this command, as in `adit man monitor` or `adit man daemon stop`; without it of adit
        command: Vec<String>,
    },
    /// Print a reference page
    #[command(hide = true)]
    Reference {
        /// Which one
        page: reference::Page,
    },
}

impl Command {
    /// Whether its text is YAML.
    const fn gives_yaml(&self) -> bool {
        use config::ConfigCommand::{Export, Import, Show};
        matches!(self, Self::Config(Export(_) | Import(_) | Show { .. }))
    }
}

/// Runs a command and tells how it ended.
pub(crate) fn run(arguments: Arguments, wants_yaml: bool) -> ExitCode {
    let global = arguments.global;
    let output = global.output;
    if wants_yaml && !arguments.command.gives_yaml() {
        let hint = "use -o json, or leave it out; adit config show and adit config export give YAML";
        let failure = Failure::new(Fault::Usage, "this command gives text or JSON, not YAML", hint);
        failure.print(output);
        return failure.exit();
    }
    let result = match arguments.command {
        Command::Demo(arguments) => demo::run(&global, &arguments),
        Command::Expose(arguments) => expose::run(&global, &arguments),
        Command::Forward(arguments) => forward::run(&global, *arguments),
        Command::Up(arguments) => up::run(&global, arguments),
        Command::Daemon(command) => up::daemon::run(&global, &command),
        Command::Start(arguments) => up::daemon::start(&global, arguments),
        Command::Stop(arguments) => up::daemon::stop_forwards(&global, arguments),
        Command::Restart(arguments) => up::daemon::restart(&global, arguments),
        Command::Status(arguments) => up::daemon::status(&global, arguments),
        Command::Logs(arguments) => up::daemon::logs(&global, arguments),
        Command::Server(arguments) => server::run(&global, *arguments),
        Command::Monitor(arguments) => monitor::run(&global, &arguments),
        Command::Top(arguments) => top::run(&global, &arguments),
        Command::Ssh(command) => ssh::run(&global, &command),
        Command::Trust(arguments) => trust::run(&global, &arguments),
        Command::Doctor => doctor::run(&global),
        Command::Config(command) => config::run(&global, &command),
        Command::Completions { shell } => {
            complete::script(shell);
            Ok(ExitCode::SUCCESS)
        }
        Command::Complete { what } => {
            complete::names(&global, what);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { command } => reference::man(&command),
        Command::Reference { page } => reference::print(page),
    };
    let code = written(result).unwrap_or_else(|failure| {
        failure.print(output);
        failure.exit()
    });
    let _ = terminal::said(LAST_WORDS);
    code
}

/// What a command has done is of no use when it could not be written, as to a full disk.
fn written(result: Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    match (result, terminal::unwritten()) {
        (Ok(code), Some(problem)) if code == ExitCode::SUCCESS => {
            let message = format!("standard output cannot be written to: {problem}");
            Err(Failure::new(Fault::Internal, message, "what was printed before that is not the whole"))
        }
        (result, _) => result,
    }
}

impl Global {
    /// Starts logging: `level` and `json` are what a configuration asks for, the command line wins.
    pub(crate) fn start_logs(&self, level: Option<&str>, json: bool) -> Result<(), Failure> {
        self.start_logs_heard(level, json, None)
    }

    /// The same, with somebody who hears warnings and errors.
    pub(crate) fn start_logs_heard(
        &self,
        level: Option<&str>,
        json: bool,
        listener: Option<Listener>,
    ) -> Result<(), Failure> {
        let json = self.log_format.map_or(json, |form| form == LogForm::Json);
        let verbosity = if self.quiet { -1 } else { i8::try_from(self.verbose).unwrap_or(i8::MAX) };
        let settings = LogSettings {
            format: if json { LogFormat::Json } else { LogFormat::Text },
            verbosity,
            level: level.filter(|_| verbosity == 0).map(str::to_owned),
            colour: terminal::colour(self.no_color),
        };
        runtime::telemetry::start(&settings, listener)
            .map_err(|error| Failure::new(Fault::Usage, error.to_string(), ""))
    }
}

/// How long the end waits for whoever reads standard error, where that may stand still.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Turns of tasks between two looks at the sockets.
const EVENT_INTERVAL: u32 = 7;
/// For so long the threads of a runtime may put away what they hold once its work is done.
const LEAVING: Duration = Duration::from_millis(100);

/// From now on whoever reads standard error, and stops, holds up nothing. It starts a thread, which has the rights of the
/// one that calls this.
fn say_aside() -> Result<(), Failure> {
    runtime::telemetry::write_aside().map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))
}

/// Does `work` on a runtime of its own, of `workers` threads.
///
/// When the work is done, so is the runtime: what hangs on a disk or on the answer to a name is not waited for.
pub(crate) fn on_runtime<T>(workers: Option<usize>, work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = build_runtime(workers)?;
    let done = runtime.block_on(work);
    // Dropped, it would wait for every thread. There is no end to that, nor a signal that would bring it about.
    runtime.shutdown_timeout(LEAVING);
    Ok(done)
}

/// A runtime of `workers` threads; by default half the processors, as the other half belongs to whoever we serve.
///
/// One thread does the work of a busy session without handing data between processors; more than half of them
/// only adds wake-ups (measured; see docs/design).
fn build_runtime(workers: Option<usize>) -> Result<tokio::runtime::Runtime, Failure> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.unwrap_or(processors.div_ceil(2)).max(1);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        // A busy pipe keeps the queue of tasks from ever being empty; sockets are asked all the same, so that
        // an interactive stream beside it does not wait for 61 turns, tokio's default.
        .event_interval(EVENT_INTERVAL)
        .on_thread_park(runtime::ack::acknowledge)
        .thread_name("adit-worker")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Fault::Internal, format!("no runtime: {error}"), ""))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[test]
    fn what_hangs_in_a_thread_when_the_work_is_done_is_not_waited_for() {
        let (_never, never) = mpsc::sync_channel::<()>(1);
        let scope = runtime::scope::Scope::root();
        let begun = Instant::now();
        let hangs = on_runtime(Some(1), async {
            let hangs = scope.spawn_blocking("hangs", move || never.recv_timeout(DEADLINE));
            tokio::time::timeout(Duration::from_millis(1), hangs).await.is_err()
        });
        assert!(hangs.is_ok_and(|hangs| hangs));
        assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    }
}
