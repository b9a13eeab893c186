//! TLS connections that are handed on as they are, by the server name of their ClientHello.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use runtime::connect::Io;
use runtime::splice::{Cut, Unanswered, splice_noting};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::port::lost;
use crate::traffic::Traffic;
use crate::upstream::Upstream;

/// A target that takes not even the hello in this time takes nothing.
const HELLO: Duration = Duration::from_secs(10);

/// Carries a TLS connection to its target: first what was read of it already, then all else, until both sides have
/// ended. A target that answers is well, whatever became of requests to it by HTTP.
pub(crate) async fn pass(client: TcpStream, hello: Vec<u8>, mut target: Io, traffic: &Traffic, upstream: &Upstream) {
    let client = Unanswered::new(client);
    let said = match tokio::time::timeout(HELLO, target.write_all(&hello)).await {
        Ok(said) => said,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    if let Err(error) = said {
        return traffic.fail(lost(&error));
    }
    traffic.meter().add(hello.len() as u64, 0);
    // The connection may live for days.
    drop(hello);
    let worked = || {
        traffic.worked();
        upstream.counters().failures().worked();
    };
    match splice_noting(client.into_inner(), target, Arc::clone(traffic.meter()), worked).await.cut {
        Some(Cut::Target(error)) => traffic.fail(lost(&error)),
        Some(Cut::Client(_)) => {}
        None => worked(),
    }
}
