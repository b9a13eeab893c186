//! Connections to an API server: TCP (through a proxy where one is set), TLS as the kubeconfig wants it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kube::client::ConfigExt as _;
use kube::config::Config;
use runtime::connect::{ConnectError, Io, TcpConnect};
use runtime::pipe::{Pipe, PipeFault};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::proxy;

/// TCP, proxy and TLS together. kubectl waits 30 s for TCP alone; a server that far away is of no use.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);

/// A server that says nothing for so long is dialled once more while the first attempt goes on: what was sent while it
/// was gone is lost, and TCP sends it again ever more seldom.
const DIAL_AGAIN: Duration = Duration::from_secs(2);
/// Attempts at once.
const DIALS: usize = 4;

/// Opens connections to one API server.
#[derive(Clone)]
pub(crate) struct Dialer {
    host: String,
    port: u16,
    proxy: Option<http::Uri>,
    tls: Option<Tls>,
}

#[derive(Clone)]
struct Tls {
    name: ServerName<'static>,
    /// For upgrades: a server that is offered HTTP/2 takes it, and HTTP/2 has no Upgrade.
    http1: Arc<ClientConfig>,
    /// For list and watch: all of them on one connection.
    either: Arc<ClientConfig>,
}

impl Dialer {
    /// Reads certificates and keys of the configuration.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let secure = config.cluster_url.scheme_str() != Some("http");
        let port = config.cluster_url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure { Some(Tls::new(config, &host)?) } else { None };
        Ok(Self { host, port, proxy: config.proxy_url.clone(), tls })
    }

    /// Where connections go, for messages.
    pub(crate) fn describe(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let via =
            self.proxy.as_ref().map(proxy::address).map(|(host, port)| format!(" through the proxy {host}:{port}"));
        format!("the API server {host}:{}{}", self.port, via.unwrap_or_default())
    }

    /// What the server is called in HTTP requests.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// A connection for an upgrade.
    pub(crate) async fn pipe(&self) -> Result<Pipe, ConnectError> {
        self.within(|| async {
            let tcp = self.tcp().await?;
            match &self.tls {
                None => Ok(Pipe::plain(tcp)),
                Some(tls) => Pipe::connect(tcp, Arc::clone(&tls.http1), tls.name.clone())
                    .await
                    .map_err(|fault| self.tls_failed(fault_as_io(fault))),
            }
        })
        .await
    }

    /// A connection for ordinary requests.
    pub(crate) async fn io(&self) -> Result<Io, ConnectError> {
        self.within(|| async {
            let tcp = self.tcp().await?;
            let Some(tls) = &self.tls else { return Ok(Io::Tcp(tcp)) };
            let connector = TlsConnector::from(Arc::clone(&tls.either));
            let stream =
                connector.connect(tls.name.clone(), Io::Tcp(tcp)).await.map_err(|error| self.tls_failed(error))?;
            Ok(Io::Tls(Box::new(stream)))
        })
        .await
    }

    async fn within<T, F>(&self, dial: impl Fn() -> F) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, ConnectError>>,
    {
        match tokio::time::timeout(DIAL_TIMEOUT, hedged(DIAL_AGAIN, DIALS, is_answer, dial)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { target: self.describe(), after: DIAL_TIMEOUT }),
        }
    }

    async fn tcp(&self) -> Result<TcpStream, ConnectError> {
        let (host, port) = match &self.proxy {
            Some(proxy) => proxy::address(proxy),
            None => (self.host.clone(), self.port),
        };
        let opened = TcpConnect::new(&host, port, DIAL_TIMEOUT).open().await;
        let mut tcp = opened.map_err(|error| error.towards(self.describe()))?;
        if let Some(proxy) = &self.proxy {
            let asked = proxy::ask(&mut tcp, proxy, &self.host, self.port).await;
            asked.map_err(|source| ConnectError::Unreachable { target: self.describe(), source })?;
        }
        Ok(tcp)
    }

    fn tls_failed(&self, source: io::Error) -> ConnectError {
        ConnectError::tls(self.describe(), source)
    }
}

impl Tls {
    fn new(config: &Config, host: &str) -> Result<Self, String> {
        let name = config.tls_server_name.as_deref().unwrap_or(host).to_owned();
        let name =
            ServerName::try_from(name.clone()).map_err(|_| format!("`{name}` is not a name a certificate can have"))?;
        let base = config.rustls_client_config().map_err(|error| error.to_string())?;
        let mut http1 = base.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut either = base;
        either.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { name, http1: Arc::new(http1), either: Arc::new(either) })
    }
}

/// Whether every other attempt would end like this.
fn is_answer(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Certificate { .. })
}

/// The first success of up to `most` attempts at once, each of which begins when the others have been silent for
/// `after`. A failure counts when no other attempt is under way, when it is the answer that all would get, or when the
/// others stay silent for `after` beside it: they were begun before the server went away.
pub(super) async fn hedged<T, E, F: Future<Output = Result<T, E>>>(
    after: Duration,
    most: usize,
    is_answer: impl Fn(&E) -> bool,
    attempt: impl Fn() -> F,
) -> Result<T, E> {
    let mut attempts = FuturesUnordered::new();
    attempts.push(attempt());
    let mut failed = None;
    loop {
        tokio::select! {
            biased;
            Some(result) = attempts.next() => match result {
                Err(error) if !attempts.is_empty() && !is_answer(&error) => failed = Some(error),
                result => return result,
            },
            () = tokio::time::sleep(after), if failed.is_some() || attempts.len() < most => match failed.take() {
                Some(error) => return Err(error),
                None => attempts.push(attempt()),
            },
        }
    }
}

/// A pipe's failure in the form tokio-rustls gives.
pub(crate) fn fault_as_io(fault: PipeFault) -> io::Error {
    match fault {
        PipeFault::Io(error) => error,
        PipeFault::Tls(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        PipeFault::Closed => io::ErrorKind::UnexpectedEof.into(),
        PipeFault::Buffer(text) => io::Error::other(text),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_gets_another_one_beside_it_and_the_first_result_counts() {
        let begin = tokio::time::Instant::now();
        let count = Cell::new(0);
        let attempt = || {
            count.set(count.get() + 1);
            let number = count.get();
            async move {
                match number {
                    3 => tokio::time::sleep(Duration::from_secs(1)).await,
                    _ => std::future::pending().await,
                }
                Ok::<_, ()>(number)
            }
        };
        assert_eq!(hedged(Duration::from_secs(2), 4, |()| false, attempt).await, Ok(3));
        assert_eq!((begin.elapsed().as_secs(), count.get()), (5, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_fails_does_not_fail_the_one_that_goes_on_unless_it_is_the_answer() {
        let count = Cell::new(0);
        let attempt = || {
            count.set(count.get() + 1);
            let number = count.get();
            async move {
                match number {
                    1 => tokio::time::sleep(Duration::from_secs(3)).await,
                    _ => return Err("refused"),
                }
                Ok(number)
            }
        };
        assert_eq!(hedged(Duration::from_secs(2), 4, |_| false, attempt).await, Ok(1));
        count.set(0);
        assert_eq!(hedged(Duration::from_secs(2), 4, |_| true, attempt).await, Err("refused"));
        count.set(1);
        assert_eq!(hedged(Duration::from_secs(2), 4, |_| false, attempt).await, Err("refused"), "none goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_is_not_waited_for_when_the_next_one_fails() {
        let begin = tokio::time::Instant::now();
        let count = Cell::new(0);
        let attempt = || {
            count.set(count.get() + 1);
            let number = count.get();
            async move {
                if number == 1 {
                    std::future::pending::<()>().await;
                }
                Err::<(), _>("refused")
            }
        };
        assert_eq!(hedged(Duration::from_secs(2), 4, |_| false, attempt).await, Err("refused"));
        assert_eq!((begin.elapsed().as_secs(), count.get()), (4, 2));
    }
}
