//! Starts a daemon in the background and waits until it is ready.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use adit_core::diagnose::Fault;

use super::handover::program;
use super::state::internal;
use crate::report::Failure;

/// What a daemon in the background writes to its standard output when all its sockets are open.
pub(super) const READY: &str = "ready";
/// How long a start may take. Sockets are bound by then; targets are not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a start looks whether it is given up.
const LOOK: Duration = Duration::from_millis(20);

/// How a start ended.
pub(super) enum Ready {
    Yes,
    /// Why not.
    No(String),
}

/// Starts `adit daemon run` in the background; returns its process id.
pub(super) fn start(config: Option<&Path>) -> Result<u32, Failure> {
    let mut command = Command::new(program()?);
    if let Some(config) = config {
        let config = std::path::absolute(config).map_err(|error| internal(&error))?;
        command.arg("--config").arg(config);
    }
    command.args(["daemon", "run", "--background"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| internal(&error))?;
    match wait_for(&mut child, PATIENCE, || false) {
        Ok(Ready::Yes) => Ok(child.id()),
        Ok(Ready::No(text)) => Err(refused(&text)),
        Err(failure) => {
            // Ours: it is a child that was not waited for.
            let _ = child.kill();
            let _ = child.wait();
            Err(failure)
        }
    }
}

/// Waits for the line of a child that says how its start went, as long as it is not given up.
pub(super) fn wait_for(
    child: &mut Child,
    patience: Duration,
    is_given_up: impl Fn() -> bool,
) -> Result<Ready, Failure> {
    let Some(output) = child.stdout.take() else {
        return Err(Failure::new(Fault::Internal, "the daemon cannot be listened to", ""));
    };
    let (told, lines) = mpsc::sync_channel(1);
    // A read of a pipe cannot be timed out; the thread ends with the child.
    let reading = std::thread::Builder::new().name("daemon start".into()).spawn(move || {
        let mut text = String::new();
        let mut reader = BufReader::new(output);
        while reader.read_line(&mut text).is_ok_and(|read| read > 0) {
            if text.trim_end() == READY {
                break;
            }
        }
        let _ = told.send(text);
    });
    reading.map_err(|error| internal(&error))?;
    let begun = Instant::now();
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(text) if text.trim_end() == READY => return Ok(Ready::Yes),
            Ok(text) => {
                // It said why and ends.
                let _ = child.wait();
                return Ok(Ready::No(text.trim().to_owned()));
            }
            Err(_) if is_given_up() => return Err(given_up()),
            Err(RecvTimeoutError::Timeout) if begun.elapsed() < patience => {}
            Err(_) => {
                let text = format!("the daemon was not ready within {} s", patience.as_secs());
                return Err(Failure::new(Fault::Internal, text, "see `adit logs`"));
            }
        }
    }
}

/// The daemon that was to start another one ends.
pub(super) fn given_up() -> Failure {
    Failure::new(Fault::Usage, "the daemon was told to end meanwhile", "")
}

/// What the child wrote is a failure as JSON; anything else is told as it is.
pub(super) fn refused(text: &str) -> Failure {
    Failure::from_json(text).unwrap_or_else(|| {
        let text = if text.is_empty() { "the daemon ended before it was ready" } else { text };
        Failure::new(Fault::Internal, text, "try `adit daemon start --foreground`")
    })
}
