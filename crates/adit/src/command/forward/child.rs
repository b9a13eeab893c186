//! `-- CMD`: a command that runs while the ports are open. adit ends with it.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use adit_core::diagnose::Fault;
use runtime::Scope;
use runtime::signals::{Hangups, StopSignal, StopSignals};
use rustix::process::{Pid, Signal};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::show::ReadyPort;
use crate::report::Failure;

/// Signals on their way to the shutdown; more of them while it does not look mean no more than these.
const SIGNALS: usize = 4;

/// The running command's process id, while there is one.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<Option<Pid>>>);

impl Running {
    /// Runs the command to its end.
    pub(super) async fn run(&self, command: &[OsString], ports: &[ReadyPort]) -> Result<u8, Failure> {
        let Some((program, arguments)) = command.split_first() else { return Ok(0) };
        let failed = |error: std::io::Error| {
            let message = format!("cannot run {}: {error}", program.to_string_lossy());
            Failure::new(Fault::Usage, message, "check the command behind `--`")
        };
        let mut child = {
            // Under the lock: a signal that comes as soon as the command runs is the command's.
            let mut pid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let child = Command::new(program).args(arguments).envs(environment(ports)).spawn().map_err(failed)?;
            *pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            child
        };
        let status = child.wait().await;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        status.map(exit_code).map_err(failed)
    }

    /// Signals that go to the command while it runs, and to adit otherwise.
    pub(super) fn signals(&self, scope: &Scope, mut signals: StopSignals) -> StopSignals {
        let (to_us, ours) = mpsc::channel(SIGNALS);
        let (running, until) = (self.clone(), scope.clone());
        scope.spawn("signals", async move {
            loop {
                tokio::select! {
                    biased;
                    () = until.cancelled() => return,
                    signal = signals.next() => {
                        if !running.pass_on(signal) {
                            // Full: there are enough on their way.
                            let _ = to_us.try_send(signal);
                        }
                    }
                }
            }
        });
        StopSignals::scripted(ours)
    }

    /// Hang-ups go to the command; without one they end adit as ever.
    pub(super) fn hangups(&self, scope: &Scope) {
        let running = self.clone();
        match Hangups::install() {
            Ok(hangups) => hangups.each(scope, move || {
                running.send(Signal::HUP);
            }),
            Err(error) => tracing::debug!(%error, "hang-ups are not passed on"),
        }
    }

    fn pass_on(&self, signal: StopSignal) -> bool {
        match signal {
            StopSignal::Terminate => self.send(Signal::TERM),
            // Ctrl-C on a terminal reaches the command by itself: once is what was meant.
            StopSignal::Interrupt if std::io::stdin().is_terminal() => self.is_running(),
            StopSignal::Interrupt => self.send(Signal::INT),
        }
    }

    fn send(&self, signal: Signal) -> bool {
        let pid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pid) = *pid else { return false };
        if let Err(error) = rustix::process::kill_process(pid, signal) {
            tracing::debug!(%error, "the command has ended");
        }
        true
    }

    fn is_running(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// `ADIT_PORT` and `ADIT_ADDRESS` of the first port, `ADIT_PORT_…` of each by what is at its other end.
fn environment(ports: &[ReadyPort]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for port in ports {
        let Some(address) = port.addresses.first() else { continue };
        if pairs.is_empty() {
            pairs.push(("ADIT_PORT".to_owned(), address.port().to_string()));
            pairs.push(("ADIT_ADDRESS".to_owned(), address.to_string()));
        }
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = port.remote.chars().map(letter).collect();
        pairs.push((format!("ADIT_PORT_{name}"), address.port().to_string()));
    }
    pairs
}

/// As a shell has it: 128 and the signal's number for a command that a signal ended.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(local: u16, remote: &str) -> ReadyPort {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], local));
        ReadyPort {
            label: "svc/web".into(),
            addresses: vec![address],
            to: "x".into(),
            remote: remote.into(),
            balanced: false,
        }
    }

    #[test]
    fn the_command_is_told_its_ports() {
        let pairs = environment(&[port(8080, "80"), port(9000, "grpc-web")]);
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            pairs,
            ["ADIT_PORT=8080", "ADIT_ADDRESS=127.0.0.1:8080", "ADIT_PORT_80=8080", "ADIT_PORT_GRPC_WEB=9000"]
        );
    }

    #[tokio::test]
    async fn its_exit_code_is_ours() {
        let run = |script: &'static str| async move {
            let command = ["sh", "-c", script].map(OsString::from);
            Running::default().run(&command, &[port(8080, "80")]).await
        };
        assert_eq!(run("exit 7").await.unwrap(), 7);
        assert_eq!(run("test \"$ADIT_PORT\" = 8080").await.unwrap(), 0);
        assert_eq!(run("kill -TERM $$").await.unwrap(), 143);
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_a_mistake() {
        let failure = Running::default().run(&["/nowhere/x".into()], &[]).await.unwrap_err();
        assert!(format!("{failure:?}").contains("cannot run /nowhere/x"));
    }
}
