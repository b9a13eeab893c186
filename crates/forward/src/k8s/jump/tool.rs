//! The tool that carries bytes from a container to a host: found by trying, run as an argument vector.
//!
//! How they end, and why these words: `docs/design/0006-jump-half-close.md`.

use std::time::Duration;

use adit_core::target::{JumpHost, JumpTarget};
use serde::Deserialize;

use super::super::api::{Api, ApiError};
use super::super::exec::{ExecEnd, ExecTransport, Execs};
use super::super::resolve::{PodRef, plain};
use super::super::watch::encoded;
use crate::error::ForwardError;

/// A container that has to be woken from disk may take seconds for its first program.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// After one side has ended, the other may be silent for this long. It also bounds the life of a socat whose
/// client is gone and whose host never ends.
const SILENCE: &str = "600";
/// The same where the end of the output is only seen at the end of socat.
const SILENCE_CHANNELS: &str = "10";
/// What the kernel's two minutes are cut to.
const CONNECT_TIMEOUT: u8 = 10;
/// One read of socat.
const BLOCK: &str = "65536";

pub(super) const MISSING_HINT: &str = "jump through a pod whose image has socat or nc (alpine/socat, busybox), or let one be made with `create: {image: alpine/socat}`";

/// What runs in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// Passes each end on, in both directions.
    Socat,
    /// Whether it has to be told, with `-N`, to pass the end of its input on.
    Nc { shuts: bool },
}

/// A container and its tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Equipped {
    pub(super) container: String,
    pub(super) tool: Tool,
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Socat => "socat",
            Self::Nc { .. } => "nc",
        }
    }

    /// The command: words, no shell. The host was held to what hosts are made of when its target was read.
    pub(super) fn words(self, target: &JumpTarget, transport: ExecTransport) -> Vec<String> {
        let JumpTarget { host, port, .. } = target;
        match self {
            Self::Socat => {
                let silence = match transport {
                    ExecTransport::Spdy => SILENCE,
                    ExecTransport::Channels => SILENCE_CHANNELS,
                };
                let kind = if matches!(host, JumpHost::V6(_)) { "TCP6" } else { "TCP" };
                // Displayed, IPv6 has its brackets.
                let remote = format!("{kind}:{host}:{port},connect-timeout={CONNECT_TIMEOUT}");
                // shut-close: without it the host's end is kept until the client's. -d: resets are told.
                ["socat", "-d", "-b", BLOCK, "-t", silence, "STDIO,shut-close", &remote].map(str::to_owned).to_vec()
            }
            Self::Nc { shuts } => {
                let mut words = vec!["nc".to_owned()];
                if shuts {
                    // -v: this kind says nothing of its failures otherwise.
                    words.extend(["-N".to_owned(), "-v".to_owned()]);
                }
                words.extend([host.bare(), port.to_string()]);
                words
            }
        }
    }
}

/// Finds the container and its tool.
///
/// # Errors
/// [`ForwardError::Jump`] when there is none or we may not look; [`ForwardError::Connect`] when the pod cannot be
/// asked.
pub(super) async fn find(
    api: &Api,
    execs: &Execs,
    pod: &PodRef,
    container: Option<&str>,
) -> Result<Equipped, ForwardError> {
    let (container, image) = choose_container(api, pod, container).await?;
    let run = async |words: &[&str]| {
        let output = execs.run(pod, &container, words, PROBE_TIMEOUT).await.map_err(|error| refused(pod, error))?;
        match output.end {
            ExecEnd::Exit(126 | 127) => Ok(None),
            ExecEnd::NotStarted(text) if is_missing(&text) => Ok(None),
            ExecEnd::Exit(_) => Ok(Some(output.text)),
            ExecEnd::NotStarted(text) => Err(ForwardError::Jump {
                message: format!(
                    "no command can be run in container {container} of pod {}: {}",
                    pod.name,
                    plain(&text)
                ),
                hint: None,
            }),
            ExecEnd::NoStatus(reason) => Err(refused(
                pod,
                ApiError::Unreachable {
                    server: api.describe(),
                    reason,
                    fault: adit_core::diagnose::Fault::Upstream,
                    hint: None,
                    silent: false,
                },
            )),
        }
    };
    if run(&["socat", "-V"]).await?.is_some_and(|text| text.contains("socat")) {
        return Ok(Equipped { container, tool: Tool::Socat });
    }
    match run(&["nc", "-h"]).await? {
        Some(help) => Ok(Equipped { container, tool: Tool::Nc { shuts: has_shutdown(&help) } }),
        None => Err(ForwardError::Jump {
            message: format!(
                "there is neither socat nor nc in container {container} of pod {} (image {})",
                pod.name,
                plain(&image)
            ),
            hint: Some(MISSING_HINT.to_owned()),
        }),
    }
}

/// Why a command could not be asked for.
pub(super) fn refused(pod: &PodRef, error: ApiError) -> ForwardError {
    match error {
        // The API server's own words; it answers an upgrade that it does not know with an empty 403.
        ApiError::Forbidden { message } if message.contains("forbidden") => ForwardError::Jump {
            message: format!("no command may be run in pod {}: {message}", pod.name),
            hint: Some(format!(
                "ask for the right to `create` and `get` pods/exec in the namespace {}; a jump runs socat or nc in the pod",
                pod.namespace
            )),
        },
        ApiError::Forbidden { .. } => ForwardError::Jump {
            message: format!("the way to pod {} takes neither SPDY nor v5.channel.k8s.io for exec", pod.name),
            hint: Some(
                "a proxy may be in the way: let it pass `Upgrade: SPDY/3.1`; WebSockets need Kubernetes 1.31"
                    .to_owned(),
            ),
        },
        source => ForwardError::Connect { pod: pod.name.clone(), source },
    }
}

/// Whether the text of a runtime says that there is no such program: runc, crun, CRI-O.
fn is_missing(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["executable file", "no such file or directory", "not found", "permission denied"]
        .iter()
        .any(|words| text.contains(words))
}

/// Whether a help text has the option that OpenBSD's nc needs to pass an end of input on.
fn has_shutdown(help: &str) -> bool {
    help.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("-N") && words.next().is_some_and(|word| word.eq_ignore_ascii_case("shutdown"))
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodHead {
    metadata: Head,
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Head {
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    containers: Vec<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    image: String,
}

/// The container that was asked for, or the one that the pod calls its default, or its first.
async fn choose_container(api: &Api, pod: &PodRef, wanted: Option<&str>) -> Result<(String, String), ForwardError> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", encoded(&pod.namespace), encoded(&pod.name));
    let head: PodHead = match api.get(&path).await {
        Ok(head) => head,
        // Who may exec without reading pods names the container, or has a pod with one.
        Err(ApiError::Forbidden { .. }) => return Ok((wanted.unwrap_or_default().to_owned(), "unknown".to_owned())),
        Err(error) => return Err(refused(pod, error)),
    };
    let default =
        head.metadata.annotations.as_ref().and_then(|known| known.get("kubectl.kubernetes.io/default-container"));
    let named = |name: &str| head.spec.containers.iter().find(|container| container.name == name);
    let chosen = match wanted {
        Some(wanted) => named(wanted),
        None => default.and_then(|name| named(name)).or(head.spec.containers.first()),
    };
    chosen.map(|container| (container.name.clone(), container.image.clone())).ok_or_else(|| {
        let names: Vec<_> = head.spec.containers.iter().map(|container| plain(&container.name)).collect();
        ForwardError::Jump {
            message: format!("pod {} has no container {}", pod.name, wanted.unwrap_or_default()),
            hint: Some(format!("it has {}", names.join(", "))),
        }
    })
}

#[cfg(test)]
mod tests;
