//! The programs of a pod: played in this process, with the words and exit codes of the real ones.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::StreamTarget;
use super::exec::Console;
use super::inbox::Inbox;
use crate::cluster::Shared;

mod dial;
mod nc;
mod socat;

/// A process nobody talks to any more ends after this at the latest.
const LIFE: Duration = Duration::from_secs(3600);

/// A process in a pod.
pub(super) struct Process {
    shared: Arc<Shared>,
    target: Arc<StreamTarget>,
    args: Vec<String>,
    stdin: Arc<Inbox>,
    console: Console,
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this code.
    Code(u8),
    /// There is no such program.
    NotStarted(String),
}

impl Process {
    pub(super) fn new(shared: &Arc<Shared>, target: &Arc<StreamTarget>, stdin: Arc<Inbox>, console: Console) -> Self {
        let args = target.query.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.clone()).collect();
        Self { shared: Arc::clone(shared), target: Arc::clone(target), args, stdin, console }
    }

    pub(super) fn args(&self) -> &[String] {
        &self.args
    }

    /// Runs it to its end.
    pub(super) async fn run(&self) -> Exit {
        match timeout(LIFE, self.program(&self.args)).await {
            Ok(exit) => exit,
            Err(_) => Exit::Code(137),
        }
    }

    async fn program(&self, args: &[String]) -> Exit {
        let name = args.first().map(String::as_str).unwrap_or_default();
        let inside = self.shared.faults.streams.inside();
        let container = self.target.container.as_deref().unwrap_or_default();
        let Some(tool) = inside.tool(&self.target.namespace, &self.target.pod, container, name) else {
            return Exit::NotStarted(name.to_owned());
        };
        let rest = args.get(1..).unwrap_or_default();
        Exit::Code(match tool.as_str() {
            "sh" => return Box::pin(self.shell(rest)).await,
            "socat" => socat::run(self, rest).await,
            "nc" => nc::run(self, rest, nc::Kind::Busybox).await,
            "nc-openbsd" => nc::run(self, rest, nc::Kind::OpenBsd).await,
            "echo" => self.say(&format!("{}\n", rest.join(" "))).await,
            "cat" => self.cat().await,
            "sleep" => {
                let seconds = rest.first().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
                sleep(Duration::try_from_secs_f64(seconds).unwrap_or(LIFE)).await;
                0
            }
            "true" => 0,
            "exit" => rest.first().and_then(|code| code.parse().ok()).unwrap_or(0),
            "source" => self.source(rest).await,
            _ => 1,
        })
    }

    /// `sh -c 'words; words'`, without quoting; `exec` in front of words is ignored, `>&2` behind them is obeyed.
    async fn shell(&self, args: &[String]) -> Exit {
        let [dash, script, ..] = args else { return Exit::Code(2) };
        if dash != "-c" {
            return Exit::Code(2);
        }
        let mut last = 0;
        for statement in script.split(';') {
            let mut words: Vec<String> = statement.split_whitespace().map(str::to_owned).collect();
            words.retain(|word| word != "exec");
            let to_stderr = words.pop_if(|word| word == ">&2").is_some();
            last = match words.first().map(String::as_str) {
                None => continue,
                Some("echo") if to_stderr => self.complain(&format!("{}\n", words[1..].join(" "))).await,
                Some("exit") => {
                    let code = words.get(1).and_then(|code| code.parse().ok());
                    return Exit::Code(code.unwrap_or(last));
                }
                Some(_) => match self.program(&words).await {
                    Exit::Code(code) => code,
                    Exit::NotStarted(program) => {
                        self.complain(&format!("sh: {program}: not found\n")).await;
                        127
                    }
                },
            };
        }
        Exit::Code(last)
    }

    async fn cat(&self) -> u8 {
        while let Some(bytes) = self.stdin.next().await {
            if self.console.stdout(&bytes).await.is_err() {
                return 1;
            }
        }
        0
    }

    /// `source BYTES`: that many bytes of output.
    async fn source(&self, args: &[String]) -> u8 {
        let mut left = args.first().and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        let block = Bytes::from(vec![b'x'; 64 << 10]);
        while left > 0 {
            let piece = &block[..left.min(block.len())];
            if self.console.stdout(piece).await.is_err() {
                return 1;
            }
            left -= piece.len();
        }
        0
    }

    async fn say(&self, text: &str) -> u8 {
        u8::from(self.console.stdout(text.as_bytes()).await.is_err())
    }

    /// Writes to stderr; the code of a failure.
    async fn complain(&self, text: &str) -> u8 {
        // A client that is gone does not read it.
        let _ = self.console.stderr(text.as_bytes()).await;
        1
    }
}
