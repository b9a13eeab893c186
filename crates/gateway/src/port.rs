//! TCP ports of this machine, each of which leads to one target.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_core::diagnose::chain;
use runtime::connect::Connect;
use runtime::listener::{ConnectionLimit, ConnectionPermit};
use runtime::splice::{Cut, Unanswered, splice_noting};
use tokio::net::TcpStream;

use crate::traffic::Traffic;

/// A port that leads to a target.
pub struct TcpPort {
    /// Its name, for messages.
    pub name: String,
    /// Opens streams to the target.
    pub connect: Arc<dyn Connect>,
    /// What it carries.
    pub traffic: Arc<Traffic>,
    /// Connections at the same time.
    pub connections: ConnectionLimit,
}

impl TcpPort {
    /// A place for one more connection, if there is one.
    pub(crate) fn admit(&self, peer: SocketAddr) -> Option<ConnectionPermit> {
        let permit = self.connections.try_acquire();
        if permit.is_none() {
            tracing::warn!(port = %self.name, %peer, max = self.connections.max(), "too many connections");
        }
        permit
    }

    /// Carries one client's connection. The target is connected to at once, as many protocols have the server speak
    /// first.
    pub(crate) async fn carry(&self, client: TcpStream, peer: SocketAddr) {
        let _live = self.traffic.begin();
        let _ = client.set_nodelay(true);
        let client = Unanswered::new(client);
        let target = match self.connect.connect().await {
            Ok(target) => target,
            Err(error) => return self.failed(peer, chain(&error)),
        };
        // A stream may live for days: its first answer says that the target works.
        let answered = || self.traffic.worked();
        match splice_noting(client.into_inner(), target, Arc::clone(self.traffic.meter()), answered).await.cut {
            Some(Cut::Target(error)) => self.failed(peer, lost(&error)),
            Some(Cut::Client(error)) => tracing::debug!(port = %self.name, %peer, %error, "the client left"),
            None => self.traffic.worked(),
        }
    }

    fn failed(&self, peer: SocketAddr, text: String) {
        tracing::info!(port = %self.name, %peer, error = %text, "a connection failed");
        self.traffic.fail(text);
    }
}

impl std::fmt::Debug for TcpPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TcpPort({} → {})", self.name, self.connect.describe())
    }
}

/// What the target's end of a stream said when it failed.
pub(crate) fn lost(error: &io::Error) -> String {
    format!("the stream to the target was lost: {error}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runtime::TcpConnect;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_fails_no_more_once_a_stream_is_answered_though_that_has_no_end_yet() {
        let service = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let entrance = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let to = service.local_addr().unwrap();
        let port = TcpPort {
            name: "db".into(),
            connect: Arc::new(TcpConnect::new("127.0.0.1", to.port(), Duration::from_secs(5))),
            traffic: Arc::default(),
            connections: ConnectionLimit::new(1),
        };
        port.traffic.fail("nobody answers".into());
        let mut client = TcpStream::connect(entrance.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = entrance.accept().await.unwrap();
        let talking = async {
            let (mut target, _) = service.accept().await.unwrap();
            assert!(port.traffic.last_error().unwrap().since.is_some(), "nothing has worked yet");
            target.write_all(b"hello").await.unwrap();
            client.read_exact(&mut [0; 5]).await.unwrap();
            target
        };
        tokio::select! {
            biased;
            () = port.carry(accepted, peer) => panic!("it has no end yet"),
            _target = talking => {}
        }
        assert_eq!(port.traffic.last_error().unwrap().since, None);
    }
}
