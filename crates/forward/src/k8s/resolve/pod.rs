//! Whether a pod can serve, and if not, why: in the words that its user needs.

use std::fmt;

use super::PodState;
use crate::k8s::objects::{Container, ContainerStatus, Pod, Terminated, Waiting};

/// The longest text of a cluster that is repeated.
const LONGEST: usize = 300;

/// What is to be said about a pod that cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodTrouble {
    /// The pod's name.
    pub(crate) pod: String,
    /// The pod's identity.
    pub(crate) uid: String,
    /// Its phase: Pending, Running, Succeeded, Failed.
    pub(crate) phase: String,
    /// Why it cannot serve.
    pub(crate) why: PodWhy,
}

/// Why a pod cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodWhy {
    /// No node takes it; the scheduler says why.
    Unschedulable { message: String },
    /// It was just made.
    Starting { reason: String },
    /// An image cannot be had.
    Image { image: String, reason: String, message: String },
    /// A container cannot be made or started as it is configured.
    Container { container: String, reason: String, message: String },
    /// A container ended, and will be or was started again.
    Crash(Crash),
    /// An init container has not finished yet.
    Init { container: String },
    /// It runs, but its readiness probe has not passed.
    Unready { container: String },
    /// It runs, but something outside (a readiness gate, its node) says no.
    Withheld { reason: String, message: String },
    /// It was evicted from its node.
    Evicted { message: String },
    /// It ended well.
    Completed,
    /// It ended badly.
    Failed { reason: String, message: String },
    /// It is being deleted.
    Terminating,
}

/// The end of a container that is started again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crash {
    pub(crate) container: String,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) restarts: u32,
    /// What the container wrote as its last will.
    pub(crate) message: String,
    /// The last line of its log, once it is known.
    pub(crate) log: Option<String>,
}

impl PodTrouble {
    /// What is to be said about `pod`.
    pub(crate) fn of(pod: &Pod) -> Self {
        Self {
            pod: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            phase: if pod.status.phase.is_empty() { "Unknown".to_owned() } else { plain(&pod.status.phase) },
            why: why(pod),
        }
    }
}

impl PodWhy {
    /// Whether this pod will never serve again, whatever happens.
    pub(crate) const fn is_final(&self) -> bool {
        matches!(self, Self::Evicted { .. } | Self::Completed | Self::Failed { .. })
    }
}

impl fmt::Display for PodTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pod, self.why)
    }
}

impl fmt::Display for PodWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable { message } => write!(f, "not scheduled{}", colon(message)),
            Self::Starting { reason } => write!(f, "starting{}", brackets(reason, "")),
            Self::Image { image, reason, message } => write!(f, "pulling image {image}{}", brackets(reason, message)),
            Self::Container { container, reason, message } => {
                write!(f, "container {container} cannot start{}", brackets(reason, message))
            }
            Self::Crash(crash) => crash.fmt(f),
            Self::Init { container } => write!(f, "waiting for its init container {container}"),
            Self::Unready { container } => {
                write!(f, "container {container} runs, but its readiness probe has not passed")
            }
            Self::Withheld { reason, message } => write!(f, "not ready{}", brackets(reason, message)),
            Self::Evicted { message } => write!(f, "evicted{}", colon(message)),
            Self::Completed => f.write_str("completed"),
            Self::Failed { reason, message } => write!(f, "failed{}", brackets(reason, message)),
            Self::Terminating => f.write_str("terminating"),
        }
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { container, exit_code, reason, restarts, message, log } = self;
        write!(f, "container {container} ended with exit code {exit_code}{}", brackets(reason, ""))?;
        if *restarts > 0 {
            write!(f, ", restarted {restarts} {}", if *restarts == 1 { "time" } else { "times" })?;
        }
        let last = log.as_deref().filter(|_| message.is_empty()).unwrap_or(message);
        f.write_str(&colon(last))
    }
}

/// Whether a pod of a service or workload can serve: its readiness decides.
pub(crate) fn state(pod: &Pod) -> PodState {
    match (pod.is_ready() && !is_over(pod), pod.is_terminating()) {
        (false, _) => PodState::NotReady,
        (true, true) => PodState::Serving,
        (true, false) => PodState::Ready,
    }
}

/// Whether a pod that was asked for by its own name can serve: it is enough that it runs, as with kubectl, because its
/// readiness may be the very thing that is being looked into.
pub(crate) fn state_by_name(pod: &Pod) -> PodState {
    let statuses = &pod.status.container_statuses;
    let runs =
        pod.is_ready() || statuses.is_empty() || statuses.iter().any(|status| status.ready || is_running(status));
    match (pod.status.phase == "Running" && runs, pod.is_terminating()) {
        (false, _) => PodState::NotReady,
        (true, true) => PodState::Serving,
        (true, false) => PodState::Ready,
    }
}

/// A text of the cluster, fit to be shown: one line, no control characters, not too long.
pub(crate) fn plain(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let words: String = shown.filter(|c| !is_invisible(*c)).collect();
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Marks that change the direction of writing or take no room: a log could hide what it says.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_str(), "Succeeded" | "Failed")
}

const fn is_running(status: &ContainerStatus) -> bool {
    // Before the first report of a state there is nothing that speaks against it.
    status.state.running.is_some() || (status.state.waiting.is_none() && status.state.terminated.is_none())
}

fn why(pod: &Pod) -> PodWhy {
    let text = |text: &Option<String>| plain(text.as_deref().unwrap_or_default());
    match pod.status.phase.as_str() {
        "Succeeded" => return PodWhy::Completed,
        "Failed" if pod.status.reason.as_deref() == Some("Evicted") => {
            return PodWhy::Evicted { message: text(&pod.status.message) };
        }
        "Failed" => return failed(pod),
        _ if pod.is_terminating() => return PodWhy::Terminating,
        _ => {}
    }
    if let Some(condition) = pod.condition("PodScheduled")
        && condition.status == "False"
    {
        return PodWhy::Unschedulable { message: text(&condition.message) };
    }
    let init = pod.status.init_container_statuses.iter().find_map(|status| init_trouble(pod, status));
    let found = init.or_else(|| pod.status.container_statuses.iter().find_map(|status| trouble(pod, status)));
    found.unwrap_or_else(|| unready(pod))
}

/// No container stands out: what the pod's own conditions say.
fn unready(pod: &Pod) -> PodWhy {
    let statuses = pod.status.container_statuses.iter();
    if let Some(starting) = statuses.clone().find_map(|status| status.state.waiting.as_ref()) {
        return PodWhy::Starting { reason: plain(&starting.reason) };
    }
    if let Some(status) = statuses.clone().find(|status| !status.ready) {
        return PodWhy::Unready { container: plain(&status.name) };
    }
    let condition = pod.condition("Ready").filter(|condition| condition.reason.is_some());
    match condition {
        Some(condition) if pod.status.phase != "Pending" => PodWhy::Withheld {
            reason: plain(condition.reason.as_deref().unwrap_or_default()),
            message: plain(condition.message.as_deref().unwrap_or_default()),
        },
        _ => PodWhy::Starting { reason: plain(&pod.status.phase) },
    }
}

fn failed(pod: &Pod) -> PodWhy {
    let mut ended = pod.status.container_statuses.iter().filter_map(|status| {
        let terminated = status.state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        Some(crash(status, terminated))
    });
    match (&pod.status.reason, ended.next_back()) {
        (None, Some(crash)) => PodWhy::Crash(crash),
        (reason, _) => PodWhy::Failed {
            reason: plain(reason.as_deref().unwrap_or_default()),
            message: plain(pod.status.message.as_deref().unwrap_or_default()),
        },
    }
}

fn init_trouble(pod: &Pod, status: &ContainerStatus) -> Option<PodWhy> {
    let spec = pod.spec.init_containers.iter().find(|container| container.name == status.name);
    if spec.is_some_and(Container::is_sidecar) {
        return trouble(pod, status);
    }
    let done = status.state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0);
    if done || status.ready {
        return None;
    }
    let running = status.state.running.is_some();
    trouble(pod, status).or_else(|| running.then(|| PodWhy::Init { container: plain(&status.name) }))
}

/// What keeps a container from running, if it is more than that it was just made.
fn trouble(pod: &Pod, status: &ContainerStatus) -> Option<PodWhy> {
    if status.ready {
        return None;
    }
    if let Some(waiting) = &status.state.waiting {
        return waiting_trouble(pod, status, waiting);
    }
    status.state.terminated.as_ref().map(|terminated| PodWhy::Crash(crash(status, terminated)))
}

fn waiting_trouble(pod: &Pod, status: &ContainerStatus, waiting: &Waiting) -> Option<PodWhy> {
    let reason = plain(&waiting.reason);
    let message = plain(waiting.message.as_deref().unwrap_or_default());
    match reason.as_str() {
        "" | "ContainerCreating" | "PodInitializing" => None,
        "CrashLoopBackOff" => {
            let terminated = status.last_state.terminated.clone().unwrap_or_default();
            let crash = crash(status, &terminated);
            Some(PodWhy::Crash(Crash { reason, ..crash }))
        }
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => Some(PodWhy::Image { image: image(pod, status), reason, message }),
        _ => Some(PodWhy::Container { container: plain(&status.name), reason, message }),
    }
}

fn crash(status: &ContainerStatus, terminated: &Terminated) -> Crash {
    Crash {
        container: plain(&status.name),
        exit_code: terminated.exit_code,
        reason: plain(terminated.reason.as_deref().filter(|reason| *reason != "Error").unwrap_or_default()),
        restarts: status.restart_count,
        message: plain(terminated.message.as_deref().unwrap_or_default()),
        log: None,
    }
}

/// The image as it was asked for: the status may have another spelling, or none yet.
fn image(pod: &Pod, status: &ContainerStatus) -> String {
    let mut containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let spec = containers.find(|container| container.name == status.name);
    plain(spec.map_or(&status.image, |container| &container.image))
}

fn colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn brackets(reason: &str, message: &str) -> String {
    match (reason, message) {
        ("", "") => String::new(),
        ("", text) | (text, "") => format!(" ({text})"),
        (reason, message) => format!(" ({reason}: {message})"),
    }
}

#[cfg(test)]
mod tests;
