//! `adit daemon`, and `adit start`, `stop`, `restart`, `status`, `logs`: what `adit up` does, in the background.

mod activation;
mod api;
mod audit;
pub(in crate::command::up) mod beside;
mod client;
mod desired;
mod desktop;
mod doors;
pub(in crate::command) mod elsewhere;
mod ending;
mod guarded;
mod handover;
mod heard;
pub(in crate::command::up) mod journal;
mod last_change;
mod launch;
mod leaving;
mod left_out;
mod logs;
pub(in crate::command) mod metrics;
mod notify;
pub(in crate::command) mod others;
mod place;
mod ports_before;
mod presence;
mod rotating;
mod serve;
mod show;
mod state;
mod status;
mod unknown;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use adit_core::diagnose::Fault;
use adit_core::printable;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::running::Change;
use super::thinned;
use crate::command::{Global, on_runtime};
use crate::report::{Failure, Output};
use crate::terminal;
pub(in crate::command) use api::OPENAPI;
use client::Client;
use logs::{Reader, Wanted};
use others::Process;
pub(in crate::command) use place::Place;
use state::{Chosen, Verb};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long the end of a daemon is waited for: its phases together, and a little.
const END: Duration = Duration::from_secs(35);
const LEEWAY: Duration = Duration::from_secs(5);

/// Run what adit.yaml says in the background.
#[derive(Debug, Subcommand)]
#[command(subcommand_required = true)]
pub(in crate::command) enum DaemonCommand {
    /// Start it; it goes on when this terminal is closed
    Start {
        /// Stay in the foreground, as a service manager wants it
        #[arg(long)]
        foreground: bool,
    },
    /// End it: nothing new is taken, what is live finishes
    Stop,
    /// Put a new process in its place, of the program that is installed now; no connection is refused in between
    ///
    /// It keeps the file and the environment of the one before. For others: `adit daemon stop`, then `adit daemon start`.
    Restart,
    /// How it is
    Status,
    /// Have it read its file again
    Reload,
    /// What `start` runs
    #[command(hide = true)]
    Run {
        #[arg(long)]
        background: bool,
        #[arg(long)]
        take_over: bool,
        /// The file that --config names need not be there yet
        #[arg(long)]
        without_file: bool,
    },
}

/// Which forwards are stopped.
#[derive(Debug, Args)]
pub(in crate::command) struct StopArguments {
    /// Forwards by name
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Forwards with one of these tags
    #[arg(short, long, value_name = "TAG")]
    tag: Vec<String>,
    /// Every forward of the file
    #[arg(short, long)]
    all: bool,
    /// A stop waits for nothing; taken for those who write it everywhere
    #[arg(long, hide = true)]
    no_wait: bool,
}

/// Which forwards are meant.
#[derive(Debug, Args)]
pub(in crate::command) struct ChosenArguments {
    /// Forwards by name
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Forwards with one of these tags
    #[arg(short, long, value_name = "TAG")]
    tag: Vec<String>,
    /// Every forward of the file
    #[arg(short, long)]
    all: bool,
    /// Do not wait until they are ready
    #[arg(long)]
    no_wait: bool,
}

/// What `adit start` starts.
#[derive(Debug, Args)]
pub(in crate::command) struct StartArguments {
    #[command(flatten)]
    chosen: ChosenArguments,
    /// Forget what was started and stopped: they are again as the file says
    #[arg(long)]
    as_file: bool,
}

/// What `adit status` shows.
#[derive(Debug, Args)]
pub(in crate::command) struct StatusArguments {
    /// These forwards only
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Forwards with one of these tags
    #[arg(short, long, value_name = "TAG")]
    tag: Vec<String>,
    /// Go on, once a second
    #[arg(short, long)]
    watch: bool,
    /// Print the metrics as monitoring reads them
    #[arg(long, conflicts_with_all = ["names", "tag", "watch"])]
    metrics: bool,
}

/// Which lines `adit logs` shows.
#[derive(Debug, Args)]
pub(in crate::command) struct LogsArguments {
    /// Of this forward; without it of everything
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Configuration file; here -f is for --follow
    // The option that every command has, without its letter.
    #[arg(long, value_name = "FILE", help_heading = "Global options")]
    config: Option<PathBuf>,
    /// The last lines
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: usize,
    /// From this time: 5m, 2h, 1d ago, 16:00, yesterday, 2026-01-31, or 2026-01-31T08:00:00Z; times are UTC, as the log's are
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time; a day alone is meant whole
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Lines with this text
    #[arg(short, long, value_name = "TEXT")]
    grep: Option<String>,
    /// What is at least of this weight
    #[arg(long, value_name = "LEVEL", value_parser = ["info", "warn"])]
    level: Option<String>,
    /// Print where the file is, and end
    #[arg(long)]
    path: bool,
    /// Print the names of all logs, and end
    #[arg(long)]
    list: bool,
}

pub(in crate::command) fn run(global: &Global, command: &DaemonCommand) -> Result<ExitCode, Failure> {
    match *command {
        DaemonCommand::Start { foreground: true } => serve::run(global, serve::Mode::default()),
        DaemonCommand::Run { background, take_over, without_file } => {
            serve::run(global, serve::Mode { background, take_over, without_file })
        }
        DaemonCommand::Start { foreground: false } => {
            global.start_logs(Some("warn"), false)?;
            start_daemon(global)
        }
        DaemonCommand::Stop => with_client(global, async |global, client| {
            has_this_file(global, client).await?;
            stop(global, client).await
        }),
        DaemonCommand::Restart => with_client(global, async |global, client| {
            keeps_its_file(global, client, "a restart keeps that file").await?;
            let answer = client.post("/v1/handover", None).await?;
            // The old process may answer once more before it takes nothing new.
            let begun = std::time::Instant::now();
            while begun.elapsed() < END {
                let now = client.get("/v1/status").await;
                if now.is_ok_and(|status| status["daemon"]["pid"] == answer["pid"]) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let text = format!(
                "another process has taken over (pid {}), with the file and the environment of the one before",
                answer["pid"]
            );
            done(global, &answer, &text);
            Ok(ExitCode::SUCCESS)
        }),
        DaemonCommand::Reload => with_client(global, async |global, client| {
            keeps_its_file(global, client, "a reload reads that file again").await?;
            let answer = client.post("/v1/reload", None).await;
            let answer = answer.map_err(|failure| failure.and("everything stays as it is"))?;
            done(global, &answer, &changes(&answer));
            let status = client.get("/v1/status").await.unwrap_or_default();
            if let Some(text) = elsewhere::told(global, &status) {
                terminal::say(&format!("note: {}", printable::lines(&text)));
            }
            Ok(ExitCode::SUCCESS)
        }),
        DaemonCommand::Status => with_client(global, async |global, client| {
            let status = client.get("/v1/status").await?;
            is_of_this_file(global, &status)?;
            let daemon = &status["daemon"];
            let text = |key: &str| daemon[key].as_str().unwrap_or_default().to_owned();
            let words = format!(
                "{}, pid {}, version {}, up {}\nconfig  {}\nsocket  {}\nlogs    {}\nreloads {}{}",
                if daemon["ends"] == true { "ending" } else { "running" },
                daemon["pid"],
                text("version"),
                show::duration(daemon["uptime_seconds"].as_u64().unwrap_or(0)),
                show::file(daemon),
                text("socket"),
                text("logs"),
                daemon["reloads"],
                show::ports(&daemon["ports"]),
            );
            let words = format!("{words}\n{}", show::trouble(daemon));
            let words = words.trim_end();
            done(global, &json!({ "daemon": daemon, "summary": status["summary"] }), words);
            Ok(ExitCode::SUCCESS)
        }),
    }
}

fn start_daemon(global: &Global) -> Result<ExitCode, Failure> {
    let path = super::path(global);
    let client = Client::new(&Place::find()?);
    let pid = launch::start(path.as_deref()).map_err(|failure| {
        // One that hangs is not waited for.
        let asked = on_runtime(Some(1), async { tokio::time::timeout(LOOK, client.get("/v1/status")).await });
        let status = asked.ok().and_then(Result::ok).and_then(Result::ok).unwrap_or_default();
        match (failure.kind(), status["daemon"]["config"].as_str()) {
            // A restart keeps the file.
            (Fault::Usage, Some(own)) if elsewhere::told(global, &status).is_some() => {
                let hint = format!("that one runs {own}; for this one: `adit daemon stop`, then this command again");
                Failure::new(failure.kind(), failure.message(), hint)
            }
            (Fault::Usage, Some(own)) => failure.and(&format!("that one runs {own}")),
            _ => failure,
        }
    })?;
    // It runs, whatever it says of itself.
    let status = on_runtime(Some(1), client.get("/v1/status")).ok().and_then(Result::ok).unwrap_or_default();
    let failed = failed_entrances(&status);
    let mut text = format!("the daemon runs (pid {pid})");
    if status["daemon"]["waits_for_file"] == true {
        let file = status["daemon"]["config"].as_str().unwrap_or_default();
        text.push_str(&format!("; there is no {file} yet: until there is, only the gateway runs"));
    }
    text.push_str(&match failed {
        0 => "; see `adit status`".to_owned(),
        failed => format!("; {failed} failed: see `adit status`"),
    });
    done(global, &json!({ "pid": pid, "failed": failed }), &text);
    Ok(ExitCode::SUCCESS)
}

/// A restart takes over listening sockets, and a reload what runs: they are no way to another file.
async fn keeps_its_file(global: &Global, client: &Client, why: &str) -> Result<(), Failure> {
    if global.config.is_none() {
        return Ok(());
    }
    let Some((asked, own)) = other_file(global, &client.get("/v1/status").await?) else { return Ok(()) };
    let text = format!("the daemon runs {}, and {why}", own.display());
    let hint = format!("for another: adit daemon stop, then adit daemon start --config {}", asked.display());
    Err(Failure::new(Fault::Usage, text, hint))
}

/// Whoever names another file than the daemon's means something that is not there.
async fn has_this_file(global: &Global, client: &Client) -> Result<(), Failure> {
    match global.config {
        Some(_) => is_of_this_file(global, &client.get("/v1/status").await?),
        None => Ok(()),
    }
}

fn is_of_this_file(global: &Global, status: &Value) -> Result<(), Failure> {
    let Some((_, own)) = other_file(global, status) else { return Ok(()) };
    let text = format!("the daemon runs {}", own.display());
    Err(Failure::new(Fault::Usage, text, "there is one daemon, with one file: leave out --config"))
}

/// Whether another file than the daemon's is named on the command line.
pub(in crate::command) fn is_of_another_file(global: &Global, status: &Value) -> bool {
    other_file(global, status).is_some()
}

/// The file that is asked for, and the one that runs, when they are two.
fn other_file(global: &Global, status: &Value) -> Option<(PathBuf, PathBuf)> {
    let asked = global.config.clone()?;
    let own = PathBuf::from(status["daemon"]["config"].as_str()?);
    (whole(&asked) != whole(&own)).then_some((asked, own))
}

/// A path by which a file is the same as itself.
fn whole(path: &std::path::Path) -> Option<PathBuf> {
    path.canonicalize().or_else(|_| std::path::absolute(path)).ok()
}

/// `adit start`, `adit stop`, `adit restart`.
pub(in crate::command) fn forwards(
    global: &Global,
    verb: Verb,
    arguments: ChosenArguments,
    forget: bool,
) -> Result<ExitCode, Failure> {
    let ChosenArguments { names, tag, all, no_wait } = arguments;
    let chosen = Chosen { names, tags: tag, all, forget, wait_ms: no_wait.then_some(0) };
    with_client(global, async move |global, client| {
        has_this_file(global, client).await?;
        let body =
            serde_json::to_value(&chosen).map_err(|error| Failure::new(Fault::Internal, error.to_string(), ""))?;
        let answer = match client.post(&format!("/v1/{}", verb.as_str()), Some(&body)).await {
            Err(failure) if failure.kind() == Fault::Usage => {
                return Err(elsewhere::explained(global, client, failure).await);
            }
            answer => answer?,
        };
        done(global, &answer, show::table(&answer, false, columns()).trim_end());
        if let Some(reason) = answer["unsaved"].as_str() {
            let reason = printable::lines(reason);
            terminal::say(&format!("warning: it is so until the daemon ends, and cannot be written down: {reason}"));
        }
        if verb != Verb::Stop
            && let Some(names) = show::unhealthy(&answer)
        {
            terminal::say(&format!("warning: it runs, but its probe fails: {}; see above", printable::lines(&names)));
        }
        let waits = verb != Verb::Stop && !chosen.forget && chosen.wait_ms != Some(0);
        Ok(if is_well(&answer, waits) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// How many entrances are not open, the gateway's included.
fn failed_entrances(status: &Value) -> u64 {
    let gateway = status["gateway"]["failed"].as_array().map_or(0, Vec::len);
    status["summary"]["failed"].as_u64().unwrap_or(0) + u64::from(gateway > 0)
}

/// Whether what was asked for is so. Whoever waited for a forward must not go on as if it were ready.
fn is_well(answer: &Value, waits: bool) -> bool {
    let mut services = answer["services"].as_array().into_iter().flatten();
    services.all(|one| match one["status"].as_str() {
        Some("failed") => false,
        Some("starting" | "restarting") => !waits,
        _ => true,
    })
}

/// `adit start`.
pub(in crate::command) fn start(global: &Global, arguments: StartArguments) -> Result<ExitCode, Failure> {
    forwards(global, Verb::Start, arguments.chosen, arguments.as_file)
}

/// `adit stop`.
pub(in crate::command) fn stop_forwards(global: &Global, arguments: StopArguments) -> Result<ExitCode, Failure> {
    let StopArguments { names, tag, all, no_wait } = arguments;
    let arguments = ChosenArguments { names, tag, all, no_wait };
    forwards(global, Verb::Stop, arguments, false)
}

/// `adit restart`.
pub(in crate::command) fn restart(global: &Global, arguments: ChosenArguments) -> Result<ExitCode, Failure> {
    forwards(global, Verb::Restart, arguments, false)
}

/// `adit status`.
pub(in crate::command) fn status(global: &Global, arguments: StatusArguments) -> Result<ExitCode, Failure> {
    with_client(global, async move |global, client| {
        if arguments.metrics {
            terminal::data(&client.text("/metrics").await?);
            return Ok(ExitCode::SUCCESS);
        }
        let path = if global.verbose > 0 { "/v1/status?clients=true" } else { "/v1/status" };
        let mut shown = Shown::default();
        let mut status = client.get(path).await?;
        is_of_this_file(global, &status)?;
        choose(&mut status, &arguments)?;
        loop {
            shown.show(global, &status, arguments.watch);
            if !arguments.watch {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(LOOK).await;
            if terminal::is_unread() {
                return Ok(ExitCode::SUCCESS);
            }
            status = match client.get(path).await {
                Ok(status) => status,
                // It may come back, as after an upgrade.
                Err(failure) if failure.kind() == Fault::Upstream => {
                    json!({ "daemon": null, "services": [], "waiting": failure.message() })
                }
                Err(failure) => return Err(failure),
            };
            if status["daemon"].is_object() {
                // What was asked for may come back with the next version of the file.
                let _ = choose(&mut status, &arguments);
            }
        }
    })
}

/// What `adit status --watch` has drawn.
#[derive(Default)]
struct Shown {
    drawn: String,
    /// That no daemon runs was told.
    waits: bool,
}

impl Shown {
    fn show(&mut self, global: &Global, status: &Value, again: bool) {
        let waits = status["waiting"].as_str();
        // Once: nothing changes until a daemon is there.
        if waits.is_some() && self.waits {
            return;
        }
        self.waits = waits.is_some();
        if global.output == Output::Json {
            return terminal::data(&format!("{status}\n"));
        }
        let verbose = global.verbose > 0;
        let text = match waits {
            Some(reason) => format!("{reason}; waiting\n"),
            // What has scrolled away cannot be drawn over.
            None if again && terminal::is_interactive() => {
                show::table_within(status, verbose, columns(), terminal::height())
            }
            None => show::table(status, verbose, columns()),
        };
        let over = match terminal::is_interactive() {
            true => show::over(&self.drawn, terminal::width(), terminal::height()),
            false => String::new(),
        };
        terminal::data(&format!("{over}{text}"));
        self.drawn = text;
    }
}

/// How wide a table may be; whoever reads it by a program has all of it.
fn columns() -> Option<usize> {
    terminal::is_interactive().then(terminal::width)
}

/// `adit logs`: from the files, so it needs no daemon.
pub(in crate::command) fn logs(global: &Global, arguments: LogsArguments) -> Result<ExitCode, Failure> {
    global.start_logs(Some("warn"), false)?;
    let place = Place::find()?;
    let files = place.logs();
    if arguments.list {
        logs::names(&files).iter().for_each(|name| terminal::data(&format!("{name}\n")));
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.path {
        terminal::data(&format!("{}\n", logs::path(&files, arguments.name.as_deref()).display()));
        return Ok(ExitCode::SUCCESS);
    }
    let usage = |text: String| Failure::new(Fault::Usage, text, "");
    let since = arguments.since.as_deref().map(logs::moment).transpose().map_err(usage)?;
    let until = arguments.until.as_deref().map(logs::end_of).transpose().map_err(usage)?;
    let wanted = Wanted {
        since,
        until,
        lines: arguments.lines,
        grep: arguments.grep,
        warnings: arguments.level.as_deref() == Some("warn"),
        follow: arguments.follow,
        name: arguments.name,
    };
    let known = logs::names(&files);
    if let Some(name) = wanted.name.as_deref().filter(|name| !logs::path(&files, Some(name)).exists()) {
        let near = adit_core::near::nearest(name, known.iter().map(String::as_str));
        let hint = near.map_or_else(
            || "see `adit logs --list`; a forward has a log when something has happened to it".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        return Err(Failure::new(Fault::Usage, format!("there is no log of `{name}`"), hint));
    }
    let mut reader = Reader::new(&files, wanted);
    on_runtime(Some(1), async {
        let mut printed = false;
        loop {
            for line in reader.next_lines() {
                printed = true;
                let text = if global.output == Output::Json { line } else { logs::for_people(&line) };
                terminal::data(&format!("{text}\n"));
            }
            if !reader.follows() {
                if !printed {
                    terminal::say("note: no entry of the log is like that");
                }
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(logs::LOOK).await;
            if terminal::is_unread() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    })?
}

/// Keeps what was asked for.
fn choose(status: &mut Value, arguments: &StatusArguments) -> Result<(), Failure> {
    if arguments.names.is_empty() && arguments.tag.is_empty() {
        return Ok(());
    }
    let (entrances, tunnels) = (status["entrances"].clone(), names_of(&status["published"]));
    let Some(services) = status["services"].as_array_mut() else { return Ok(()) };
    for name in arguments.names.iter().filter(|name| !tunnels.contains(name)) {
        if !services.iter().any(|one| one["name"] == **name) {
            if entrances.as_array().into_iter().flatten().any(|row| row["name"] == **name) {
                return Err(unknown::no_forward(name, "an entrance of the gateway", None));
            }
            let names: Vec<&str> = services.iter().filter_map(|one| one["name"].as_str()).collect();
            let near = adit_core::near::nearest(name, names.iter().copied());
            let hint = near
                .map_or_else(|| format!("there are: {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
            return Err(Failure::new(Fault::Usage, format!("there is no forward `{name}`"), hint));
        }
    }
    services.retain(|one| {
        let tagged =
            one["tags"].as_array().into_iter().flatten().any(|tag| arguments.tag.iter().any(|asked| *tag == **asked));
        tagged || arguments.names.iter().any(|name| one["name"] == **name)
    });
    let (summary, left) = (status::summary(services), std::mem::take(services));
    if let Some(published) = status["published"].as_array_mut() {
        let is_named = |tunnel: &Value| arguments.names.iter().any(|name| tunnel["name"] == **name);
        published.retain(|tunnel| is_named(tunnel) || left.iter().any(|one| one["name"] == tunnel["forward"]));
    }
    status["summary"] = summary;
    status["services"] = left.into();
    Ok(())
}

fn names_of(rows: &Value) -> Vec<String> {
    let names = rows.as_array().into_iter().flatten().filter_map(|row| row["name"].as_str());
    names.map(str::to_owned).collect()
}

/// Asks the daemon to end and waits until it has.
async fn stop(global: &Global, client: &Client) -> Result<ExitCode, Failure> {
    let begun = std::time::Instant::now();
    let answer = client.post("/v1/shutdown", None).await?;
    let patience = answer["at_most_ms"].as_u64().map_or(END, |most| Duration::from_millis(most) + LEEWAY);
    // Not the socket: it may take connections when this daemon has ended, such as one that a service manager holds.
    let pid = answer["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let process = pid.and_then(Process::of);
    while process.as_ref().is_some_and(Process::is_alive) {
        if begun.elapsed() > patience {
            return Err(Failure::new(Fault::Internal, "the daemon has not ended", "see `adit logs`"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = begun.elapsed().as_millis();
    let cut = pid.map_or_else(|| Ok(Vec::new()), |pid| Place::find().map(|place| logs::cut_off(&place.logs(), pid)))?;
    let text = match cut.as_slice() {
        [] => "the daemon has ended".to_owned(),
        cut => format!("the daemon has ended; cut off: {}", cut.join(", ")),
    };
    done(
        global,
        &json!({ "pid": answer["pid"], "took_ms": u64::try_from(took).unwrap_or(u64::MAX), "cut": cut }),
        &text,
    );
    Ok(ExitCode::SUCCESS)
}

/// What a reload has done, in words.
fn changes(answer: &Value) -> String {
    let rest = |value: &Value| value["unchanged"].as_u64().unwrap_or(0);
    let last = &answer["last"];
    let text = match (changed(answer), last["ago_ms"].as_u64()) {
        (Some(parts), _) => format!("{parts}; {} untouched", rest(answer)),
        (None, Some(ago)) => {
            let ago = ago_in_words(ago);
            match changed(last) {
                // It is read by itself when it is saved, which may have been quicker.
                Some(parts) => format!("already in force for {ago}: {parts}; {} untouched", rest(last)),
                None => {
                    format!("in force again for {ago}, as it was before the mistake in it; {} untouched", rest(answer))
                }
            }
        }
        (None, None) => format!("nothing has changed since the start; {} untouched", rest(answer)),
    };
    let text = match of_json(answer).most_gone() {
        Some(gone) => format!("{text}\nwarning: {}", thinned::in_words(gone)),
        None => text,
    };
    let by_hand: Vec<&str> = answer["by_hand"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match by_hand.as_slice() {
        [] => text,
        names => format!("{text}\nby hand, not as the file says: {}; undone by: {}", show::listed(names), show::BACK),
    }
}

fn of_json(change: &Value) -> Change {
    let list = |what: &str| {
        let names = change[what].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(str::to_owned).collect()
    };
    let unchanged = change["unchanged"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    Change { added: list("added"), changed: list("changed"), removed: list("removed"), unchanged }
}

/// What was added, changed and removed; nothing when nothing was.
fn changed(change: &Value) -> Option<String> {
    let list = |what: &str| {
        let names: Vec<&str> = change[what].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")))
    };
    let parts: Vec<String> = ["added", "changed", "removed"].into_iter().filter_map(list).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Tenths of a second matter to whoever has just saved a file.
fn ago_in_words(milliseconds: u64) -> String {
    match milliseconds {
        0..60_000 => format!("{}.{} s", milliseconds / 1000, milliseconds / 100 % 10),
        more => show::duration(more / 1000),
    }
}

fn done(global: &Global, value: &Value, text: &str) {
    match global.output {
        Output::Json => terminal::data(&format!("{value}\n")),
        Output::Text => terminal::data(&format!("{text}\n")),
    }
}

/// The logs that there are.
pub(in crate::command) fn log_names(place: &Place) -> Vec<String> {
    logs::names(&place.logs())
}

/// What the running daemon says of itself; nothing when none runs, when the socket is another user's, or when it takes
/// longer than `patience`.
pub(in crate::command) async fn told(place: &Place, patience: Duration) -> Option<Value> {
    let client = Client::new(place);
    let asking = async {
        if !place.is_own() || !client.is_there().await {
            return None;
        }
        client.get("/v1/status").await.ok()
    };
    tokio::time::timeout(patience, asking).await.ok().flatten()
}

fn with_client(
    global: &Global,
    work: impl AsyncFnOnce(&Global, &Client) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    global.start_logs(Some("warn"), false)?;
    let client = Client::new(&Place::find()?);
    on_runtime(Some(1), work(global, &client))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_published_that_of_the_chosen_forwards_is_shown() {
        let mut status = json!({
            "services": [{ "name": "web", "tags": [] }, { "name": "db", "tags": ["x"] }],
            "published": [{ "name": "shop", "forward": "web" }, { "name": "base", "forward": "db" }, { "name": "own", "forward": null }],
        });
        let of = |names: &[&str], tag: &[&str]| StatusArguments {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            tag: tag.iter().map(|tag| (*tag).to_owned()).collect(),
            watch: false,
            metrics: false,
        };
        let all = status.clone();
        choose(&mut status, &of(&[], &[])).unwrap();
        assert_eq!(status, all);
        choose(&mut status, &of(&[], &["x"])).unwrap();
        assert_eq!(status["published"], json!([{ "name": "base", "forward": "db" }]));
        assert_eq!((&status["services"][0]["name"], &status["summary"]["total"]), (&json!("db"), &json!(1)));
        assert!(choose(&mut status, &of(&["web"], &[])).is_err());
        let mut status = all;
        choose(&mut status, &of(&["own"], &[])).unwrap();
        assert_eq!((&status["published"][0]["name"], &status["services"]), (&json!("own"), &json!([])));
        assert!(!show::table(&status, false, None).contains("no forwards"), "a tunnel was asked for");
    }

    #[test]
    fn a_reload_counts_what_it_tells_of_and_says_what_is_not_as_the_file_says() {
        let last = json!({ "ago_ms": 1200, "added": ["forward db"], "changed": [], "removed": [], "unchanged": 9 });
        let answer = json!({ "added": [], "changed": [], "removed": [], "unchanged": 10, "last": last });
        assert_eq!(changes(&answer), "already in force for 1.2 s: added: forward db; 9 untouched");
        let last = json!({ "ago_ms": 300, "added": [], "changed": [], "removed": [], "unchanged": 10, "mended": true });
        let answer = json!({ "added": [], "unchanged": 10, "last": last, "by_hand": ["web", "db"] });
        assert_eq!(
            changes(&answer),
            "in force again for 0.3 s, as it was before the mistake in it; 10 untouched\n\
             by hand, not as the file says: web, db; undone by: adit start --as-file NAME (or --all)"
        );
    }

    #[test]
    fn a_start_that_was_waited_for_in_vain_is_no_success() {
        let answer = |status: &str| json!({ "services": [{ "status": "running" }, { "status": status }] });
        assert!(is_well(&answer("running"), true) && is_well(&answer("idle"), true));
        assert!(!is_well(&answer("starting"), true) && !is_well(&answer("restarting"), true));
        assert!(is_well(&answer("starting"), false) && !is_well(&answer("failed"), false));
    }
}
