//! TCP tunnels: a byte pipe from a stream to the local service.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mux::{ErrorCode, Open};
use runtime::Io;
use tokio::io::AsyncWriteExt as _;

use super::local::{Local, Served, connect_code};
use super::proxy_protocol;
use crate::Stream;
use crate::pump::{Cut, Meter, Pump};

/// Serves one TCP connection of a visitor.
pub(super) async fn serve(local: Arc<Local>, stream: Stream, open: Open, started: Instant) {
    local.metrics.local_requests.inc();
    let connected = tokio::select! {
        biased;
        _ = stream.reset_by_peer() => Err((ErrorCode::Cancel, "visitor_left")),
        result = connect(&local, &open) => result,
    };
    // Idle connections are many: nothing that is not needed any more is kept.
    let visitor = open.visitor;
    drop(open);
    let (received, sent, error) = match connected {
        Ok(io) => pump(io, Bytes::new(), stream).await,
        Err((code, error)) => {
            stream.reset(code);
            (0, 0, Some(error))
        }
    };
    let visitor = visitor.map(|visitor| visitor.to_string()).unwrap_or_default();
    local.served(&Served {
        method: b"TCP",
        path: visitor.as_bytes(),
        status: 0,
        error,
        took: started.elapsed(),
        received,
        sent,
    });
}

async fn connect(local: &Local, open: &Open) -> Result<Io, (ErrorCode, &'static str)> {
    let mut io = local.connect(&*local.tunnel.connect).await.map_err(|error| (connect_code(&error), "connect"))?;
    if local.tunnel.proxy_protocol {
        let header = proxy_protocol::header(open.visitor, open.entrance);
        io.write_all(&header).await.map_err(|_| (ErrorCode::Connect, "connect"))?;
    }
    Ok(io)
}

/// Both directions until each has ended, or something cuts them short.
///
/// `first` was read from `io` already. Says how many bytes were received from and sent to the visitor.
pub(super) async fn pump(io: Io, first: Bytes, stream: Stream) -> (u64, u64, Option<&'static str>) {
    let ahead = first.len() as u64;
    if ahead > 0 && stream.send(first).await.is_err() {
        return (0, 0, None);
    }
    // The visitor's connection was reset, or we end: the service is to see a reset, not an orderly end.
    let reset = |io: &Io| drop(io.tcp().map(tokio::net::TcpStream::set_zero_linger));
    let (_, end) = Pump::new(io, stream, Meter::default()).resetting(reset).run().await;
    let error = match end.cut {
        None | Some(Cut::Stream(ErrorCode::Cancel | ErrorCode::NoError)) => None,
        Some(Cut::Stream(_)) => Some("stream_reset"),
        Some(Cut::Socket(_)) => Some("local_reset"),
    };
    (end.outward, end.inward + ahead, error)
}
