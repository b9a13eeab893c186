//! The only place in the crate that spawns tasks; every task ends with the handle that owns it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How long an accept loop rests when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A task that is aborted when this is dropped.
#[derive(Debug)]
pub(crate) struct Task<T = ()>(JoinHandle<T>);

impl<T> Task<T> {
    /// Ends it and waits until it is gone with all it held.
    pub(crate) async fn end(mut self) {
        self.0.abort();
        // Its result does not matter any more, nor that it was cancelled.
        let _ = (&mut self.0).await;
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `future` until it ends or its handle is dropped.
pub(crate) fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    Task(tokio::spawn(future))
}

/// Tasks that run side by side and are aborted when this is dropped.
#[derive(Debug)]
pub(crate) struct Group<T = ()>(JoinSet<T>);

impl<T: Send + 'static> Group<T> {
    pub(crate) fn new() -> Self {
        Self(JoinSet::new())
    }

    pub(crate) fn spawn(&mut self, future: impl Future<Output = T> + Send + 'static) {
        self.0.spawn(future);
    }

    /// The result of the next task to end; `None` when there is none left. A task that panicked is an error.
    pub(crate) async fn next(&mut self) -> Option<io::Result<T>> {
        self.0.join_next().await.map(|joined| joined.map_err(io::Error::other))
    }

    /// Waits for all of them, whatever comes of each.
    pub(crate) async fn finish(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Forgets those that have ended.
    pub(crate) fn reap(&mut self) {
        while self.0.try_join_next().is_some() {}
    }

    /// Aborts all of them and waits until they are gone.
    pub(crate) async fn end(&mut self) {
        self.0.shutdown().await;
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A listener on a free port of 127.0.0.1 with a backlog that takes a flood.
pub(crate) fn listen() -> io::Result<(TcpListener, SocketAddr)> {
    listen_on(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// A listener on `addr`.
pub(crate) fn listen_on(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if addr.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    let listener = socket.listen(4096)?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

/// Accepts for ever; each connection is served by its own task, and all of them end with this future.
pub(crate) async fn serve<F, Served>(listener: TcpListener, serve: F)
where
    F: Fn(TcpStream, SocketAddr) -> Served + Send,
    Served: Future<Output = ()> + Send + 'static,
{
    let mut connections = Group::new();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    // Best effort: a socket that is already dead refuses the option.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(stream, from));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.next(), if !connections.is_empty() => {}
        }
    }
}

/// Makes the coming close of `stream` a reset instead of an orderly end.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    // Best effort: the peer may have reset it already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
