//! What runs inside an upgraded connection: `portforward` and `exec`, over every transport a real server accepts.
//!
//! Written from the wire and from what was measured on a real cluster, without our own protocol crate: a mistake on
//! one side is not hidden by the same mistake on the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::gate::Gated;
use super::reply::Body;
use super::{Cluster, Shared};

mod base64;
mod channels;
mod exec;
mod fate;
mod faults;
mod handshake;
mod inbox;
mod inside;
mod intake;
mod link;
mod port_forward;
mod process;
mod spdy;
mod websocket;

#[cfg(test)]
mod tests;

pub use faults::{StreamFaults, Transport};
pub use inside::{Host, Inside};

use faults::What;
use handshake::Accepted;
use intake::{Frames, Messages, Wire};
use link::{Framing, Link};

/// How long a client that does not read may hold up the end of its connection.
const LINGER: Duration = Duration::from_secs(5);

/// Which pod an upgrade is for, and what it asks.
#[derive(Debug)]
pub(super) struct StreamTarget {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: Option<String>,
    pub(super) kind: Kind,
    pub(super) query: Vec<(String, String)>,
}

/// The two subresources that carry streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PortForward,
    Exec,
}

impl Cluster {
    /// Leads `host:port`, as a process in the pod sees it, to an address of this machine.
    pub fn set_host(&self, ns: &str, pod: &str, host: &str, addr: SocketAddr) {
        self.faults().streams().inside().set_host(ns, pod, host, Host::At(addr));
    }

    /// The programs exec finds in a pod, and no others.
    pub fn set_tools(&self, ns: &str, pod: &str, tools: &[&str]) {
        self.faults().streams().inside().set_tools(ns, pod, tools);
    }
}

/// Answers the upgrade and serves what comes after it.
pub(super) async fn serve(
    shared: Arc<Shared>,
    target: StreamTarget,
    mut request: http::Request<Incoming>,
) -> Response<Body> {
    let faults = &shared.faults.streams;
    let delay = faults.delay_of_upgrade();
    if !delay.is_zero() {
        sleep(delay).await;
    }
    let (method, headers) = (request.method(), request.headers());
    let accepted = match handshake::decide(shared.options.version, faults, &target, method, headers) {
        Ok(accepted) => accepted,
        Err(refusal) => return *refusal,
    };
    let response = accepted.response(headers);
    let upgrade = hyper::upgrade::on(&mut request);
    shared.hold(upgraded(Arc::clone(&shared), target, accepted, upgrade));
    response
}

/// Whether the query switches this on.
fn flag(target: &StreamTarget, name: &str) -> bool {
    let value = target.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    matches!(value, Some("true" | "1" | ""))
}

async fn upgraded(shared: Arc<Shared>, target: StreamTarget, accepted: Accepted, upgrade: OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    // The bare connection, where it is one of ours: hyper's wrapping costs a call through a table for each read.
    match upgraded.downcast::<TokioIo<TlsStream<Gated>>>() {
        Ok(Parts { io, read_buf, .. }) => {
            let io = io.into_inner();
            let cut = io.get_ref().0.cutter();
            run(&shared, target, &accepted, io, read_buf, cut).await;
        }
        Err(other) => match other.downcast::<TokioIo<Gated>>() {
            Ok(Parts { io, read_buf, .. }) => {
                let io = io.into_inner();
                let cut = io.cutter();
                run(&shared, target, &accepted, io, read_buf, cut).await;
            }
            Err(other) => run(&shared, target, &accepted, TokioIo::new(other), Bytes::new(), || {}).await,
        },
    }
}

/// Serves a connection to its end; `cut` makes that a reset.
async fn run(
    shared: &Arc<Shared>,
    target: StreamTarget,
    accepted: &Accepted,
    io: impl AsyncRead + AsyncWrite + Unpin + Send,
    early: Bytes,
    cut: impl Fn() + Send,
) {
    let faults = &shared.faults.streams;
    let framing = match accepted.transport {
        Transport::Tunnel => Framing::Tunnel,
        Transport::Spdy => Framing::Raw,
        Transport::Channels => Framing::Channels { base64: accepted.base64() },
    };
    let link = Link::new(framing, faults);
    let _open = faults.counts.open(What::Connection);
    let (io, mut out) = tokio::io::split(io);
    let target = Arc::new(target);
    let reading = async {
        // How it ended is the client's business.
        let _ = read(Wire { io, early }, shared, &target, accepted, &link).await;
        link.finish();
        sleep(LINGER).await;
    };
    let broken = tokio::select! {
        () = link.broken() => true,
        () = reading => false,
        written = link.write(&mut out, faults) => written.is_err(),
    };
    link.close();
    if broken {
        cut();
        // It fails, and sees to the reset.
        let _ = out.flush().await;
    }
}

async fn read(
    wire: Wire<impl AsyncRead + Unpin>,
    shared: &Arc<Shared>,
    target: &Arc<StreamTarget>,
    accepted: &Accepted,
    link: &Arc<Link>,
) -> std::io::Result<()> {
    match (accepted.transport, target.kind) {
        (Transport::Channels, Kind::PortForward) => {
            let ports = handshake::ports(target).unwrap_or_default();
            let messages = Messages::new(wire, shared, link, accepted.base64());
            channels::serve(messages, shared, target, link, &ports).await
        }
        (Transport::Channels, Kind::Exec) => {
            let messages = Messages::new(wire, shared, link, accepted.base64());
            exec::serve_channels(messages, shared, target, link, accepted).await
        }
        (transport, kind) => {
            let frames = Frames::new(wire, shared, link, transport == Transport::Tunnel);
            match kind {
                Kind::PortForward => port_forward::serve(frames, shared, target, link).await,
                Kind::Exec => exec::serve_spdy(frames, shared, target, link, accepted).await,
            }
        }
    }
}
