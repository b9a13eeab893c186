//! `nc`, of busybox and of OpenBSD.

use std::time::Duration;

use tokio::time::timeout;

use super::Process;
use super::dial::{self, Unreachable};

/// Whose `nc` it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ends its direction at the end of stdin.
    Busybox,
    /// Does that only when `-N` says so, and is silent about failures without `-v`.
    OpenBsd,
}

pub(super) async fn run(process: &Process, args: &[String], kind: Kind) -> u8 {
    if args.first().is_some_and(|arg| arg == "-h") {
        return process.complain(&help(kind, "h")).await;
    }
    let (mut wait, mut after_end, mut half_close, mut verbose) = (None, None, kind == Kind::Busybox, false);
    let mut words = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let seconds = |text: Option<&String>| text.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        match arg.as_str() {
            "-w" => wait = seconds(args.next()),
            "-q" => after_end = seconds(args.next()),
            "-N" if kind == Kind::Busybox => return process.complain(&help(kind, "N")).await,
            "-N" => half_close = true,
            "-v" => verbose = true,
            option if option.starts_with('-') => {}
            word => words.push(word),
        }
    }
    let [host, port] = words[..] else {
        return process.complain("usage: nc [OPTIONS] HOST PORT\n").await;
    };
    let Ok(port) = port.parse() else {
        return process.complain(&format!("nc: bad port '{port}'\n")).await;
    };
    let socket = match dial::connect(process, host, port, wait).await {
        Ok(socket) => socket,
        Err(why) => {
            let text = refusal(why, kind, host, port, wait.is_some());
            return if kind == Kind::Busybox || verbose || why == Unreachable::Unknown {
                process.complain(&text).await
            } else {
                1
            };
        }
    };
    if verbose && kind == Kind::OpenBsd {
        process.complain(&format!("Connection to {host} {port} port [tcp/*] succeeded!\n")).await;
    }
    let up = async {
        dial::up(process, &socket).await?;
        if half_close {
            dial::half_close(&socket);
        }
        Ok::<(), std::io::Error>(())
    };
    tokio::pin!(up);
    let down = tokio::select! {
        up = &mut up => match (up, after_end) {
            (Ok(()), Some(limit)) => timeout(limit, dial::down(process, &socket, None)).await.unwrap_or(Ok(())),
            (Ok(()), None) => dial::down(process, &socket, None).await,
            (Err(error), _) => Err(error),
        },
        down = dial::down(process, &socket, None) => {
            if kind == Kind::OpenBsd {
                // It goes on for as long as stdin does, and stdout stays open.
                let _ = up.await;
            }
            down
        }
    };
    u8::from(down.is_err())
}

/// What it prints for an option it does not know, or for a cry for help; both begin a failure.
fn help(kind: Kind, option: &str) -> String {
    match kind {
        Kind::Busybox => format!(
            "nc: invalid option -- '{option}'\nBusyBox v1.36.1 multi-call binary.\n\n\
             Usage: nc [-iN] [-wN] [-l] [-p PORT] [-f FILE|IPADDR PORT] [-e PROG]\n"
        ),
        Kind::OpenBsd => {
            "OpenBSD netcat (Debian patchlevel 1.219-1)\nusage: nc [-46CDdFhklNnrStUuvZz]\n\tCommand Summary:\n\
             \t\t-N\t\tShutdown the network socket after EOF on stdin\n"
                .to_owned()
        }
    }
}

fn refusal(why: Unreachable, kind: Kind, host: &str, port: u16, limited: bool) -> String {
    match (why.reason(), kind) {
        (Some(_), Kind::Busybox) if limited && matches!(why, Unreachable::TimedOut(_)) => "nc: timed out\n".to_owned(),
        (Some((ip, words)), Kind::Busybox) => format!("nc: can't connect to remote host ({ip}): {words}\n"),
        (None, Kind::Busybox) => format!("nc: bad address '{host}'\n"),
        (Some((_, words)), Kind::OpenBsd) => {
            format!("nc: connect to {host} port {port} (tcp) failed: {words}\n")
        }
        (None, Kind::OpenBsd) => {
            format!("nc: getaddrinfo for host \"{host}\" port {port}: Name or service not known\n")
        }
    }
}
