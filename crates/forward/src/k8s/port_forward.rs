//! The port-forward subresource: which transport a server takes, and a connection over it.
//!
//! Tried in this order: SPDY inside a WebSocket (Kubernetes 1.31 and later; passes proxies that know no SPDY), SPDY
//! by `Upgrade: SPDY/3.1` (every kubelet), `v4.channel.k8s.io` (one port and one connection each, no half-close).
//! The tunnel is offered alone: offered beside v4, an old server silently takes v4.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::api::{Api, ApiError};
use super::channels::Channels;
use super::connection::{Connection, ConnectionTask, Machine};
use super::dial::hedged;
use super::resolve::PodRef;
use super::upgrade::{Upgrade, UpgradeError, Upgraded, upgrade};
use super::watch::encoded;

/// An upgrade that is not answered for so long is asked for once more, over another connection: the first one may be
/// dead, or the server was silent when it was asked.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// How a port-forward connection is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// SPDY/3.1 inside WebSocket messages.
    Tunnel,
    /// SPDY/3.1 by HTTP upgrade.
    Spdy,
    /// Channels over WebSocket: a connection for each stream.
    Channels,
}

impl Transport {
    const ORDER: [Self; 3] = [Self::Tunnel, Self::Spdy, Self::Channels];

    /// What a cluster took last, to begin with.
    pub(crate) fn remembered(api: &Api) -> Self {
        match api.remembered_transport() {
            2 => Self::Spdy,
            3 => Self::Channels,
            _ => Self::Tunnel,
        }
    }

    fn remember(self, api: &Api) {
        api.remember_transport(match self {
            Self::Tunnel => 1,
            Self::Spdy => 2,
            Self::Channels => 3,
        });
    }

    /// The word for logs, status and events; programs read it, so it stays.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Spdy => "spdy",
            Self::Channels => "websocket",
        }
    }
}

/// An open connection, whose task is still to be spawned.
pub(crate) struct Opened {
    pub(crate) connection: Arc<Connection>,
    pub(crate) task: ConnectionTask,
    pub(crate) transport: Transport,
}

/// Opens a connection to a pod. `port` is what a [`Transport::Channels`] connection is for.
///
/// # Errors
/// The most telling of the transports' refusals.
pub(crate) async fn open(api: &Api, pod: &PodRef, port: u16, number: u64) -> Result<Opened, ApiError> {
    let first = Transport::remembered(api);
    let mut worst: Option<ApiError> = None;
    let mut verdicts = true;
    // All are tried whatever is remembered: a server may be another one after an upgrade.
    let order = std::iter::once(first).chain(Transport::ORDER.into_iter().filter(|transport| *transport != first));
    for transport in order {
        let asked = hedged(ASK_AGAIN, 2, UpgradeError::is_answer, || attempt(api, pod, port, transport)).await;
        match asked {
            Ok(upgraded) => {
                // After a hiccup the next one may do as well; that is no reason to stay with it.
                if verdicts && (transport != first || api.remembered_transport() == 0) {
                    tracing::debug!(context = api.context(), transport = transport.name(), "transport agreed on");
                    transport.remember(api);
                }
                return Ok(ready(upgraded, transport, number, &api.describe()));
            }
            Err(error) if is_final(&error) => return Err(error.into()),
            Err(error) => {
                verdicts &= error.is_verdict();
                let error = ApiError::from(error);
                tracing::debug!(context = api.context(), transport = transport.name(), %error, "transport refused");
                worst = Some(more_telling(worst, error));
            }
        }
    }
    Err(worst.unwrap_or_else(|| ApiError::Decode { what: "no transport".into(), reason: "none was tried".into() }))
}

async fn attempt(api: &Api, pod: &PodRef, port: u16, transport: Transport) -> Result<Upgraded, UpgradeError> {
    let path = format!("/api/v1/namespaces/{}/pods/{}/portforward", encoded(&pod.namespace), encoded(&pod.name));
    let upgraded = match transport {
        Transport::Tunnel => websocket(api, &path, "SPDY/3.1+portforward.k8s.io").await?,
        Transport::Spdy => spdy(api, &path, "portforward.k8s.io").await?,
        Transport::Channels => websocket(api, &format!("{path}?ports={port}"), "v4.channel.k8s.io").await?,
    };
    Ok(upgraded)
}

/// A WebSocket upgrade that is to end in `protocol` and no other.
pub(crate) async fn websocket(api: &Api, path: &str, protocol: &str) -> Result<Upgraded, UpgradeError> {
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    let headers =
        [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key.as_str()), ("Sec-WebSocket-Protocol", protocol)];
    let wanted =
        Upgrade { method: "GET", path, to: "websocket", headers: &headers, protocol_header: "sec-websocket-protocol" };
    expect(upgrade(api, &wanted).await?, protocol)
}

/// A SPDY upgrade that is to end in `protocol` and no other.
pub(crate) async fn spdy(api: &Api, path: &str, protocol: &str) -> Result<Upgraded, UpgradeError> {
    let headers = [("X-Stream-Protocol-Version", protocol)];
    let wanted = Upgrade {
        method: "POST",
        path,
        to: "SPDY/3.1",
        headers: &headers,
        protocol_header: "x-stream-protocol-version",
    };
    expect(upgrade(api, &wanted).await?, protocol)
}

fn expect(upgraded: Upgraded, protocol: &str) -> Result<Upgraded, UpgradeError> {
    match upgraded.protocol.as_deref() {
        Some(chosen) if chosen.eq_ignore_ascii_case(protocol) => Ok(upgraded),
        chosen => Err(UpgradeError::Refused {
            code: 101,
            reason: String::new(),
            message: format!("it chose the protocol `{}`, not `{protocol}`", chosen.unwrap_or("none")),
        }),
    }
}

fn ready(upgraded: Upgraded, transport: Transport, number: u64, server: &str) -> Opened {
    let now = Instant::now();
    let machine = match transport {
        Transport::Tunnel => Machine::spdy(true, now),
        Transport::Spdy => Machine::spdy(false, now),
        Transport::Channels => Machine::channels(Channels::new(false, true), now),
    };
    let connection = Connection::new(machine, number, server);
    let task = ConnectionTask::new(upgraded.pipe, upgraded.early, Arc::clone(&connection));
    Opened { connection, task, transport }
}

/// Whether another transport would fare no better: the pod is the reason, or the server is not there.
fn is_final(error: &UpgradeError) -> bool {
    match error {
        UpgradeError::Dropped(_) => false,
        UpgradeError::Failed(_) => true,
        UpgradeError::Refused { code, reason, message } => match code {
            401 => true,
            404 => reason == "NotFound" || message.contains("not found"),
            400 => message.contains("does not have a host assigned"),
            500 => message.contains("pod not found"),
            429 | 503 => true,
            _ => false,
        },
    }
}

/// "You may not" says more than "not this transport".
pub(crate) fn more_telling(known: Option<ApiError>, new: ApiError) -> ApiError {
    let rank = |error: &ApiError| match error {
        ApiError::Forbidden { message } if message.contains("forbidden") => 3,
        ApiError::Unreachable { .. } => 2,
        ApiError::Status { .. } => 1,
        _ => 0,
    };
    match known {
        Some(known) if rank(&known) >= rank(&new) => known,
        _ => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, reason: &str, message: &str) -> UpgradeError {
        UpgradeError::Refused { code, reason: reason.into(), message: message.into() }
    }

    #[test]
    fn a_pods_own_trouble_is_not_the_transports() {
        assert!(is_final(&refused(404, "NotFound", "pods \"x\" not found")));
        assert!(is_final(&refused(400, "BadRequest", "pod x does not have a host assigned")));
        assert!(is_final(&refused(500, "", "pod not found (\"x_ns\")")));
        for (code, message) in
            [(400, "query parameter \"port\" is required"), (403, ""), (405, ""), (502, "bad gateway")]
        {
            assert!(!is_final(&refused(code, "", message)), "{code}");
        }
    }

    #[test]
    fn a_missing_right_is_what_the_user_hears_of() {
        let rbac = ApiError::Forbidden { message: "pods \"x\" is forbidden: User \"me\" cannot create".into() };
        let other = ApiError::Status { code: 400, message: "no".into() };
        assert!(matches!(more_telling(Some(rbac.clone()), other.clone()), ApiError::Forbidden { .. }));
        assert!(matches!(more_telling(Some(other), rbac), ApiError::Forbidden { .. }));
    }
}
