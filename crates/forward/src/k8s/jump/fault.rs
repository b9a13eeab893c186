//! Why a jump failed, from what the tool in the pod said.

use std::io;
use std::sync::Arc;

use adit_core::diagnose::{Diagnose, Fault};

use super::super::exec::ExecEnd;
use super::super::resolve::plain;

/// Where a stream goes and through what, for messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Host and port.
    pub(crate) host: String,
    pub(crate) pod: String,
    pub(crate) tool: &'static str,
}

/// Why there is no connection, or none any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JumpFault {
    #[error("{} refused the connection from pod {}", .0.host, .0.pod)]
    Refused(Arc<Way>),
    #[error("{} did not answer pod {} in time", .0.host, .0.pod)]
    TimedOut(Arc<Way>),
    #[error("pod {} cannot resolve the name of {}", .0.pod, .0.host)]
    UnknownHost(Arc<Way>),
    #[error("pod {} has no route to {}", .0.pod, .0.host)]
    NoRoute(Arc<Way>),
    #[error("{} reset the connection from pod {}", .0.host, .0.pod)]
    Reset(Arc<Way>),
    #[error("{} in pod {} failed on the way to {}: {text}", way.tool, way.pod, way.host)]
    Tool { way: Arc<Way>, text: String },
    #[error("{} could not be started in pod {}: {text}", way.tool, way.pod)]
    NotStarted { way: Arc<Way>, text: String },
    #[error("the connection through pod {} to {} was cut: {text}", way.pod, way.host)]
    Cut { way: Arc<Way>, text: String },
}

impl JumpFault {
    /// What is wrong with a command that ended so, having said this; `None` if nothing is.
    pub(crate) fn of(way: &Arc<Way>, end: &ExecEnd, stderr: &[u8]) -> Option<Self> {
        let said = String::from_utf8_lossy(stderr);
        let way = Arc::clone(way);
        match end {
            // It may have tried several addresses before one took it: their refusals are no failure.
            ExecEnd::Exit(0) => Self::said(&way, stderr),
            ExecEnd::Exit(code @ (126 | 127)) => {
                let text = complaint(&said).unwrap_or_else(|| format!("exit code {code}"));
                Some(Self::NotStarted { way, text })
            }
            ExecEnd::Exit(code) => Some(sorted(&way, &said).unwrap_or_else(|| {
                let text =
                    complaint(&said).unwrap_or_else(|| format!("it ended with exit code {code} and said nothing"));
                Self::Tool { way, text }
            })),
            ExecEnd::NotStarted(text) => Some(Self::NotStarted { way, text: plain(text) }),
            ExecEnd::NoStatus(text) => Some(Self::Cut { way, text: text.clone() }),
        }
    }

    /// What is wrong with a command that has not failed, or not yet: only a reset, for it cuts what came before.
    pub(crate) fn said(way: &Arc<Way>, stderr: &[u8]) -> Option<Self> {
        sorted(way, &String::from_utf8_lossy(stderr)).filter(|fault| matches!(fault, Self::Reset(_)))
    }

    /// As an I/O error, with itself inside.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Refused(_) => io::ErrorKind::ConnectionRefused,
            Self::TimedOut(_) => io::ErrorKind::TimedOut,
            Self::UnknownHost(_) | Self::NotStarted { .. } => io::ErrorKind::NotFound,
            Self::NoRoute(_) => io::ErrorKind::HostUnreachable,
            Self::Reset(_) | Self::Tool { .. } => io::ErrorKind::ConnectionReset,
            Self::Cut { .. } => io::ErrorKind::ConnectionAborted,
        };
        io::Error::new(kind, self)
    }
}

impl Diagnose for JumpFault {
    fn fault(&self) -> Fault {
        Fault::Upstream
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(way) => Some(format!("check that something listens on {}, as seen from the pod", way.host)),
            Self::TimedOut(way) | Self::NoRoute(way) => Some(format!(
                "a network policy or a firewall may keep pod {} from {}: jump through another pod",
                way.pod, way.host
            )),
            Self::UnknownHost(way) => Some(format!(
                "the name is resolved in pod {}: write it as it is known in the cluster, or an address",
                way.pod
            )),
            Self::NotStarted { .. } => Some(super::tool::MISSING_HINT.to_owned()),
            Self::Reset(_) | Self::Tool { .. } | Self::Cut { .. } => None,
        }
    }
}

/// The reason in the words of socat, of the several nc, and of their C libraries.
fn sorted(way: &Arc<Way>, said: &str) -> Option<JumpFault> {
    const UNKNOWN: &[&str] = &[
        "name or service not known",
        "name does not resolve",
        "bad address",
        "temporary failure in name resolution",
        "no address associated",
        "could not resolve",
        "host lookup failed",
        "unknown host",
    ];
    let said = complaints(said).collect::<Vec<_>>().join("\n").to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|words| said.contains(words));
    let way = Arc::clone(way);
    Some(if has(&["connection refused"]) {
        JumpFault::Refused(way)
    } else if has(&["timed out"]) {
        JumpFault::TimedOut(way)
    } else if has(UNKNOWN) {
        JumpFault::UnknownHost(way)
    } else if has(&["no route to host", "network is unreachable", "host is unreachable", "network unreachable"]) {
        JumpFault::NoRoute(way)
    } else if has(&["connection reset"]) {
        JumpFault::Reset(way)
    } else {
        return None;
    })
}

/// The last complaint, without the stamp that socat puts in front.
fn complaint(said: &str) -> Option<String> {
    complaints(said).last().map(plain).filter(|text| !text.is_empty())
}

/// The lines that complain: socat marks others as notices, and nc with `-v` tells of its success.
fn complaints(said: &str) -> impl Iterator<Item = &str> {
    said.lines().filter_map(|line| {
        let line = line.trim();
        if line.is_empty() || line.ends_with("succeeded!") || line.contains(" open") && line.contains("[") {
            return None;
        }
        let Some(rest) = line.split_once(" socat[").and_then(|(_, rest)| rest.split_once("] ")) else {
            return Some(line);
        };
        match rest.1.split_once(' ') {
            Some(("E" | "W" | "F", text)) => Some(text),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Arc<Way> {
        Arc::new(Way { host: "db:5432".into(), pod: "web-1".into(), tool: "socat" })
    }

    fn of(code: i32, said: &str) -> Option<JumpFault> {
        JumpFault::of(&way(), &ExecEnd::Exit(code), said.as_bytes())
    }

    #[test]
    fn the_words_of_the_tools_are_sorted() {
        let refused = JumpFault::Refused(way());
        for said in [
            "2026/11/26 23:14:45 socat[173] E connect(5, AF=2 127.0.0.1:1, 16): Connection refused\n",
            "nc: connect to 127.0.0.1 port 1 (tcp) failed: Connection refused\n",
            "nc: can't connect to remote host (127.0.0.1): Connection refused\n",
            "(UNKNOWN) [127.0.0.1] 1 (?) : Connection refused\n",
            "Ncat: Connection refused.\n",
        ] {
            assert_eq!(of(1, said), Some(refused.clone()), "{said}");
        }
        for said in [
            "2026/11/26 23:14:57 socat[17] E getaddrinfo(\"nosuch\", \"NULL\", {1,0,1,6}, {}): Name or service not known\n",
            "nc: bad address 'nosuch'\n",
            "socat[7] E getaddrinfo(\"x\"): Temporary failure in name resolution",
            "nc: getaddrinfo: Name does not resolve",
        ] {
            assert_eq!(of(1, said), Some(JumpFault::UnknownHost(way())), "{said}");
        }
        assert_eq!(of(1, "nc: timed out"), Some(JumpFault::TimedOut(way())));
        assert_eq!(of(1, "x: No route to host"), Some(JumpFault::NoRoute(way())));
    }

    #[test]
    fn success_is_silent_but_for_a_reset() {
        assert_eq!(of(0, "Connection to 127.0.0.1 80 port [tcp/*] succeeded!\n"), None);
        assert_eq!(of(0, "2026/11/26 23:14:41 socat[1] N opening connection to AF=2 1.2.3.4:80\n"), None);
        let reset = "2026/11/26 23:14:41 socat[17104] W read(5, 0x7fd27b8ce000, 65536): Connection reset by peer\n";
        assert_eq!(of(0, reset), Some(JumpFault::Reset(way())));
        let retried =
            "nc: connect to db (::1) port 80 (tcp) failed: Connection refused\nConnection to db 80 port succeeded!\n";
        assert_eq!(of(0, retried), None);
    }

    #[test]
    fn what_cannot_be_sorted_is_told_as_it_was_said() {
        let fault = of(1, "2026/11/26 23:14:41 socat[1] E exactly 2 addresses required\n").unwrap();
        assert_eq!(fault.to_string(), "socat in pod web-1 failed on the way to db:5432: exactly 2 addresses required");
        assert!(of(137, "").unwrap().to_string().ends_with("exit code 137 and said nothing"));
        let cut = JumpFault::of(&way(), &ExecEnd::NoStatus("gone".into()), b"").unwrap();
        assert_eq!(cut.to_string(), "the connection through pod web-1 to db:5432 was cut: gone");
        assert_eq!(cut.into_io().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[test]
    fn control_characters_of_a_pod_do_not_reach_the_terminal() {
        let text = of(1, "\u{1b}[2Jevil\u{7}\n").unwrap().to_string();
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}
