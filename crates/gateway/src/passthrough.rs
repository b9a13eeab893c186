//! TLS connections that are handed on as they are, by the server name of their ClientHello.

use std::sync::Arc;
use std::time::Duration;

use runtime::connect::Io;
use runtime::splice::{Cut, Opening, splice_after};
use tokio::net::TcpStream;

use crate::port::lost;
use crate::traffic::Traffic;
use crate::upstream::Upstream;

/// A target that takes not even the hello in this time takes nothing.
const HELLO: Duration = Duration::from_secs(10);

/// Carries a TLS connection to its target: first what was read of it already, then all else, until both sides have
/// ended. A target that answers is well, whatever became of requests to it by HTTP. The target is read meanwhile: one
/// that is a pod may have to find out that another pod is to have the hello.
pub(crate) async fn pass(client: TcpStream, hello: Vec<u8>, target: Io, traffic: &Traffic, upstream: &Upstream) {
    let hello = Opening { bytes: hello, within: HELLO };
    let worked = || {
        traffic.worked();
        upstream.counters().failures().worked();
    };
    match splice_after(client, hello, target, Arc::clone(traffic.meter()), worked).await.cut {
        Some(Cut::Target(error)) => traffic.fail(lost(&error)),
        Some(Cut::Client(_)) => {}
        None => worked(),
    }
}
