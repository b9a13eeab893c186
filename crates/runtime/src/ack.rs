//! A TCP connection whose received bytes are acknowledged as soon as there is nothing else to do.
//!
//! A peer that collects small writes (Nagle) sends the next one only when the last one is acknowledged, and the kernel waits
//! up to 40 ms for an answer of ours to carry the acknowledgement. `sshd` is such a peer: a message that we do not answer,
//! such as the end of a stream, held up the next one for that long. When a worker has nothing left to run, nobody has
//! an answer, and waiting gains nothing.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::sync::atomic::{AtomicBool, Ordering};

    use socket2::SockRef;
    use tokio::net::TcpStream;

    /// What is owed to the peer. It has a descriptor of its own, since whoever pays may not be whoever reads.
    pub(super) struct Debt {
        socket: OwnedFd,
        owed: AtomicBool,
        /// A thread has it on its list.
        listed: AtomicBool,
    }

    impl Debt {
        pub(super) fn of(stream: &TcpStream) -> io::Result<Self> {
            let socket = stream.as_fd().try_clone_to_owned()?;
            Ok(Self { socket, owed: AtomicBool::new(false), listed: AtomicBool::new(false) })
        }

        /// Whether it is to be put on a list.
        pub(super) fn begin(&self) -> bool {
            self.owed.store(true, Ordering::Relaxed);
            !self.listed.swap(true, Ordering::Relaxed)
        }

        /// What was written carries it.
        pub(super) fn written(&self) {
            self.owed.store(false, Ordering::Relaxed);
        }

        pub(super) fn pay(&self) {
            self.listed.store(false, Ordering::Relaxed);
            if self.owed.swap(false, Ordering::Relaxed) {
                // Without it the kernel acknowledges later.
                let _ = SockRef::from(&self.socket).set_tcp_quickack(true);
            }
        }
    }
}

/// Other systems have no such call.
#[cfg(not(target_os = "linux"))]
mod kernel {
    /// There is none.
    pub(super) struct Debt;

    impl Debt {
        pub(super) fn of(_: &tokio::net::TcpStream) -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(super) const fn begin(&self) -> bool {
            false
        }

        pub(super) const fn written(&self) {}

        pub(super) const fn pay(&self) {}
    }
}

use kernel::Debt;

/// A list so long is looked through for connections that are gone: a runtime that does not call [`acknowledge`] takes
/// nothing from it.
const LONG: usize = 64;

thread_local! {
    /// Connections that were read from since this thread last had nothing to do. They are closed whenever their owner
    /// drops them.
    static READ: RefCell<Vec<Weak<Debt>>> = const { RefCell::new(Vec::new()) };
}

/// Acknowledges what arrived and was not answered. For the runtime's `on_thread_park`; without it the kernel does it in its
/// own time.
pub fn acknowledge() {
    // Not there any more while the thread ends.
    let _ = READ.try_with(|read| {
        if let Ok(mut read) = read.try_borrow_mut() {
            read.drain(..).filter_map(|debt| debt.upgrade()).for_each(|debt| debt.pay());
        }
    });
}

/// A TCP connection whose bytes are acknowledged without waiting, see [`acknowledge`].
pub struct AckedTcp {
    stream: TcpStream,
    /// `None`: there was no descriptor for it.
    debt: Option<Arc<Debt>>,
}

impl AckedTcp {
    /// The same connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        let debt = Debt::of(&stream).ok().map(Arc::new);
        Self { stream, debt }
    }

    fn has_read(&self) {
        if let Some(debt) = self.debt.as_ref().filter(|debt| debt.begin()) {
            let _ = READ.try_with(|read| {
                let mut read = read.borrow_mut();
                if read.len() >= LONG {
                    read.retain(|debt| debt.strong_count() > 0);
                }
                read.push(Arc::downgrade(debt));
            });
        }
    }
}

impl AsyncRead for AckedTcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.has_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AckedTcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        if let Some(debt) = &self.debt {
            debt.written();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// How long a peer that collects small writes takes for so many pairs of them, each pair answered by one byte.
    async fn pairs(count: usize) -> Duration {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.set_nodelay(false).unwrap();
        let mut client = AckedTcp::new(client);
        let start = Instant::now();
        for _ in 0..count {
            for letter in [b'a', b'b'] {
                peer.write_all(&[letter]).await.unwrap();
                assert_eq!(client.read_u8().await.unwrap(), letter);
            }
            client.write_all(b"c").await.unwrap();
            peer.read_u8().await.unwrap();
        }
        start.elapsed()
    }

    #[tokio::test]
    async fn a_connection_is_closed_when_it_is_dropped_though_nobody_acknowledges() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        for _ in 0..3 * LONG {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut client = AckedTcp::new(client);
            let (mut peer, _) = listener.accept().await.unwrap();
            for _ in 0..3 {
                peer.write_all(b"a").await.unwrap();
                client.read_u8().await.unwrap();
                client.write_all(b"b").await.unwrap();
                peer.read_u8().await.unwrap();
            }
            drop(client);
            assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
        }
        assert!(READ.with_borrow(Vec::len) <= LONG);
    }

    #[test]
    fn the_second_of_two_small_writes_does_not_wait_for_an_answer_to_the_first() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(acknowledge).build().unwrap();
        let took = runtime.block_on(pairs(50));
        assert!(took < Duration::from_secs(1), "{took:?}; without the acknowledgements it is two seconds");
    }
}
