//! Starts a daemon in the background and waits until it is ready.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use adit_core::diagnose::Fault;

use super::handover::program;
use super::state::internal;
use crate::report::Failure;

/// What a daemon in the background writes to its standard output when all its sockets are open.
pub(super) const READY: &str = "ready";
/// How long a start may take. Sockets are bound by then; targets are not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

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
    match Waiting::new().wait_for(&mut child, PATIENCE) {
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

/// Waits for a child to be ready, or for somebody to give that up.
pub(super) struct Waiting {
    told: SyncSender<News>,
    news: Receiver<News>,
}

enum News {
    /// What the child has written.
    Said(String),
    GivenUp,
}

impl Waiting {
    pub(super) fn new() -> Self {
        // Each of both is told once, so that nobody waits for room.
        let (told, news) = mpsc::sync_channel(2);
        Self { told, news }
    }

    /// Gives it up, whether it has begun or not.
    pub(super) fn give_up(&self) -> impl FnOnce() + Send + 'static {
        let told = self.told.clone();
        // Whoever does not listen any more has given up.
        move || drop(told.send(News::GivenUp))
    }

    /// Waits for the line of a child that says how its start went.
    pub(super) fn wait_for(self, child: &mut Child, patience: Duration) -> Result<Ready, Failure> {
        let Some(output) = child.stdout.take() else {
            return Err(Failure::new(Fault::Internal, "the daemon cannot be listened to", ""));
        };
        let told = self.told;
        // A read of a pipe cannot be timed out; the thread ends with the child.
        let reading = std::thread::Builder::new().name("daemon start".into()).spawn(move || {
            let mut text = String::new();
            let mut reader = BufReader::new(output);
            while reader.read_line(&mut text).is_ok_and(|read| read > 0) {
                if text.trim_end() == READY {
                    break;
                }
            }
            let _ = told.send(News::Said(text));
        });
        reading.map_err(|error| internal(&error))?;
        match self.news.recv_timeout(patience) {
            Ok(News::Said(text)) if text.trim_end() == READY => Ok(Ready::Yes),
            Ok(News::Said(text)) => {
                // It said why and ends.
                let _ = child.wait();
                Ok(Ready::No(text.trim().to_owned()))
            }
            Ok(News::GivenUp) => Err(given_up()),
            Err(_) => {
                let text = format!("the daemon was not ready within {} s", patience.as_secs());
                Err(Failure::new(Fault::Internal, text, "see `adit logs`"))
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn child(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_start_that_is_given_up_is_not_waited_for() {
        let mut silent = child("read line");
        let waiting = Waiting::new();
        let give_up = waiting.give_up();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| waiting.wait_for(&mut silent, PATIENCE));
            give_up();
            let failure = ended.join().unwrap().err().unwrap();
            assert_eq!(failure.text(), given_up().text());
        });
        assert!(begun.elapsed() < PATIENCE / 2);
        // It reads the end of its input.
        drop(silent.stdin.take());
        silent.wait().unwrap();
    }

    #[test]
    fn what_a_child_says_is_heard_though_nobody_gives_it_up() {
        let mut ready = child("echo ready");
        assert!(matches!(Waiting::new().wait_for(&mut ready, PATIENCE), Ok(Ready::Yes)));
        let mut wrong = child("echo no; exit 1");
        assert!(matches!(Waiting::new().wait_for(&mut wrong, PATIENCE), Ok(Ready::No(text)) if text == "no"));
        let mut slow = child("read line");
        let patience = Duration::from_millis(20);
        let failure = Waiting::new().wait_for(&mut slow, patience).err().unwrap();
        assert!(failure.text().contains("was not ready within"), "{}", failure.text());
        drop(slow.stdin.take());
        ready.wait().unwrap();
        slow.wait().unwrap();
    }
}
