//! What is inside the pods: the tools exec finds, and the hosts they can reach.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::locked;

/// The programs of a pod nobody said anything about.
const TOOLS: [&str; 8] = ["socat", "nc", "echo", "cat", "sleep", "true", "false", "exit"];

/// A pod's namespace and name.
type Pod = (String, String);

/// Tools and hosts by pod.
#[derive(Debug, Default)]
pub struct Inside {
    tools: Mutex<HashMap<Pod, Vec<String>>>,
    hosts: Mutex<HashMap<Pod, HashMap<String, Host>>>,
    answers: Mutex<HashMap<Pod, HashMap<u16, Bytes>>>,
    connect_timeout: Mutex<Option<Duration>>,
}

/// What a pod finds at `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// A service.
    At(SocketAddr),
    /// Nothing listens there.
    Refused,
    /// Nothing answers.
    TimesOut,
    /// No such name.
    Unknown,
}

impl Inside {
    /// The programs a pod (or, as `pod/container`, one container of it) has, and no others; `nc-openbsd` is an `nc` of that kind, `sh` runs plain words.
    pub fn set_tools(&self, ns: &str, pod: &str, tools: &[&str]) {
        let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
        locked(&self.tools).insert(key(ns, pod), tools);
    }

    /// What a pod finds at `host:port` (`[v6]:port`).
    pub fn set_host(&self, ns: &str, pod: &str, host: &str, answer: Host) {
        locked(&self.hosts).entry(key(ns, pod)).or_default().insert(host.to_ascii_lowercase(), answer);
    }

    /// A service in the pod itself: each HTTP request head that a port-forward over SPDY brings is answered with these
    /// bytes, without a socket of this machine in between. For load that is to measure the client, not the service.
    pub fn set_answer(&self, ns: &str, pod: &str, port: u16, answer: &'static [u8]) {
        locked(&self.answers).entry(key(ns, pod)).or_default().insert(port, Bytes::from_static(answer));
    }

    pub(super) fn answer(&self, ns: &str, pod: &str, port: u16) -> Option<Bytes> {
        locked(&self.answers).get(&key(ns, pod))?.get(&port).cloned()
    }

    /// How long a tool in a pod waits for a host that does not answer; 2 s by default.
    pub fn set_connect_timeout(&self, timeout: Duration) {
        *locked(&self.connect_timeout) = Some(timeout);
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        locked(&self.connect_timeout).unwrap_or(Duration::from_secs(2))
    }

    /// The kind of tool that a container of a pod has under this name.
    pub(super) fn tool(&self, ns: &str, pod: &str, container: &str, name: &str) -> Option<String> {
        let name = name.rsplit('/').next().unwrap_or(name);
        let is = |tool: &str| tool == name || tool.strip_prefix(name).is_some_and(|kind| kind.starts_with('-'));
        let tools = locked(&self.tools);
        let own = tools.get(&key(ns, &format!("{pod}/{container}")));
        match own.or_else(|| tools.get(&key(ns, pod))) {
            Some(tools) => tools.iter().find(|tool| is(tool)).cloned(),
            None => TOOLS.iter().find(|tool| is(tool)).map(|tool| (*tool).to_owned()),
        }
    }

    pub(super) fn host(&self, ns: &str, pod: &str, host: &str) -> Option<Host> {
        locked(&self.hosts).get(&key(ns, pod))?.get(&host.to_ascii_lowercase()).copied()
    }
}

fn key(ns: &str, pod: &str) -> Pod {
    (ns.to_owned(), pod.to_owned())
}
