//! A program whose exit code decides. It reaches the target by a port on loopback that is open while it runs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use adit_core::config::forwards::ExecProbe;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::wire::shown;
use super::{Asking, ProbeError};
use crate::ssh::ask::withhold_secrets;

/// Connections of the program at once; more wait.
const CONNECTIONS_MAX: usize = 16;
/// Of its output this much is read for a last word; the rest is thrown away.
const OUTPUT_MAX: u64 = 64 * 1024;

pub(super) async fn run(asking: &Asking<'_>, probe: &ExecProbe) -> Result<String, ProbeError> {
    let setup = |what: &str, error: &io::Error| ProbeError::Setup { reason: format!("{what}: {error}") };
    let Some((program, arguments)) = probe.command.split_first() else {
        return Err(ProbeError::Setup { reason: "it has no command".to_owned() });
    };
    let named = probe.shown.first().map_or("its command", String::as_str);
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
    let listener = listener.map_err(|error| setup("no port for it", &error))?;
    let address = listener.local_addr().map_err(|error| setup("no port for it", &error))?;
    asking.doing.begin("its command runs");
    let mut command = Command::new(program);
    withhold_secrets(&mut command);
    let child = command
        .args(arguments)
        .env("ADIT_PROBE_ADDRESS", address.to_string())
        .env("ADIT_PROBE_HOST", address.ip().to_string())
        .env("ADIT_PROBE_PORT", address.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let child = child.map_err(|error| setup(&format!("`{named}` could not be run"), &error))?;
    let mut group = Group::of(child);
    let (out, err) = (group.child.stdout.take(), group.child.stderr.take());
    let trouble = Mutex::new(None);
    let words = async { tokio::join!(last_word(out), last_word(err)) };
    let carried = carry(&listener, asking, &trouble);
    tokio::pin!(words, carried);
    let mut said = None;
    let status = loop {
        tokio::select! {
            biased;
            // 1. Its end, and with it that of whatever it started.
            status = group.ended() => break status.map_err(|error| setup("it cannot be waited for", &error))?,
            // 2. What it says.
            (out, err) = &mut words, if said.is_none() => said = Some(err.or(out)),
            // 3. Its connections.
            never = &mut carried => match never {},
        }
    };
    // A grandchild may hold the pipes open: what has arrived is enough.
    if said.is_none() {
        said = tokio::time::timeout(LAST_WORDS, words).await.ok().map(|(out, err)| err.or(out));
    }
    let said = said.flatten();
    if status.success() {
        return Ok(said.unwrap_or_else(|| format!("`{named}` is content")));
    }
    let trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
    let more = [said, trouble].into_iter().flatten().map(|text| format!(": {text}")).collect::<String>();
    Err(ProbeError::Command { message: format!("`{named}` {}{more}", ended(status)) })
}

/// After its end, output that is still in the pipes gets this long to arrive.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(200);

/// The program with whatever it started: all of it ends with the probe.
struct Group {
    child: Child,
    pid: Option<Pid>,
}

impl Group {
    fn of(child: Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { child, pid }
    }

    /// Waits for the program's end and ends whatever it started. The program is reaped last: until then its id is the
    /// group's and nobody else's.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        if let Some(pid) = self.pid {
            let mut children = signal(SignalKind::child())?;
            while waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG)?
                .is_none()
            {
                children.recv().await;
            }
        }
        self.kill();
        self.child.wait().await
    }

    fn kill(&mut self) {
        if let Some(pid) = self.pid.take() {
            // Nobody else is in it, most of the time.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Carries the program's connections to the target, until it is dropped.
async fn carry(
    listener: &TcpListener,
    asking: &Asking<'_>,
    trouble: &Mutex<Option<String>>,
) -> std::convert::Infallible {
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = running.next(), if !running.is_empty() => {}
            accepted = listener.accept(), if running.len() < CONNECTIONS_MAX => match accepted {
                Ok((client, _)) => running.push(splice(client, asking, trouble)),
                // Out of files: the program's own time is limited, so there is no hurry.
                Err(_) => tokio::time::sleep(LAST_WORDS).await,
            },
        }
    }
}

async fn splice(client: TcpStream, asking: &Asking<'_>, trouble: &Mutex<Option<String>>) {
    match asking.connect.connect().await {
        Ok(io) => drop(runtime::splice::splice(client, io).await),
        Err(error) => {
            runtime::splice::refuse(&client);
            *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(crate::error::chain(&error));
        }
    }
}

/// The last line that is not empty.
async fn last_word(pipe: Option<impl AsyncRead + Unpin>) -> Option<String> {
    let mut limited = BufReader::new(pipe?.take(OUTPUT_MAX));
    let mut last = None;
    let mut line = Vec::new();
    while limited.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        let text = shown(&line, &[]);
        if !text.is_empty() {
            last = Some(text);
        }
        line.clear();
    }
    let _ = tokio::io::copy(&mut limited.into_inner().into_inner(), &mut tokio::io::sink()).await;
    last
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
