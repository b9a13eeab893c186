//! A service that says the same to everybody, whatever it is asked.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::task::{self, Task};

/// When it speaks, and what it does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// At once; then it reads and says nothing more.
    First,
    /// After the first bytes of its client; then it reads and says nothing more.
    Asked,
    /// After the first bytes of its client; then it closes.
    Closing,
}

/// The running service.
#[derive(Debug)]
pub struct Canned {
    addr: SocketAddr,
    connections: Arc<AtomicU64>,
    _task: Task,
}

impl Canned {
    /// Starts it on a free port.
    pub async fn start(words: impl Into<Vec<u8>>, manner: Manner) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (words, connections): (Vec<u8>, Arc<AtomicU64>) = (words.into(), Arc::default());
        let counted = Arc::clone(&connections);
        let task = task::spawn(task::serve(listener, move |mut stream, _| {
            let words = words.clone();
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                let mut buffer = [0; 4096];
                if manner != Manner::First && stream.read(&mut buffer).await.unwrap_or_default() == 0 {
                    return;
                }
                if stream.write_all(&words).await.is_err() || manner == Manner::Closing {
                    return;
                }
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            }
        }));
        Ok(Self { addr, connections, _task: task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections since the start.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}
