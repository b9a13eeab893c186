//! The admin server: metrics and health, on a thread and a runtime of its own, so that it answers
//! when everything else is busy. For this machine only (S13).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::listener::{BindError, BoundListener};
use crate::places::{Place, Places};
use crate::scope::Scope;
use crate::socket;
use crate::unread::Unread;

/// Open connections of a port at most; more than one scraper and a few people need. For a further one the one ends that asks
/// nothing for longest.
const CONNECTIONS_MAX: usize = 512;
/// And at least, however few descriptors there are.
const CONNECTIONS_LEAST: usize = 4;
/// A port beside what the process is for gets such a part of the descriptors for clients.
const BESIDE: usize = 8;
/// How long a client may take for a request head, and may stay silent between two.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may leave an answer unread.
const UNREAD: Duration = Duration::from_secs(30);
/// Enough for any head a scraper or browser sends to this machine.
const HEAD_MAX: usize = 16 * 1024;

/// Answers a path (without the query); called on the admin thread.
pub type Routes = Arc<dyn Fn(&str) -> AdminAnswer + Send + Sync>;

/// How many connections each of so many ports may have open, where they are all that the process has descriptors for. Until
/// those that give way are gone there are up to twice as many, which is what [`socket::places_for_clients`] counts for a client.
#[must_use]
pub fn connections_of_each(ports: usize) -> usize {
    share(socket::places_for_clients(ports), ports)
}

fn share(places: usize, parts: usize) -> usize {
    (places / parts.max(1)).clamp(CONNECTIONS_LEAST, CONNECTIONS_MAX)
}

/// A running admin server; it ends when this is dropped.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    scope: Scope,
    thread: Option<JoinHandle<()>>,
    /// Resolves when all is served.
    ended: oneshot::Receiver<Infallible>,
}

impl AdminServer {
    /// Binds `address` and starts to serve.
    ///
    /// # Errors
    /// [`BindError`]; [`BindError::NotLoopback`] for an address that other machines could reach.
    pub fn start(address: SocketAddr, routes: Routes) -> Result<Self, BindError> {
        let listener = BoundListener::bind_loopback(address)?;
        Self::start_with(listener, share(socket::places_for_clients(1), BESIDE), routes, HEADER_TIMEOUT, false)
    }

    /// The same on a socket that was bound before, for so many `connections` at a time, where other machines may read because
    /// somebody asked for such an address: nothing that is told there may be a secret. Only on loopback is it asked whether
    /// a request names this machine.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn start_open(listener: BoundListener, connections: usize, routes: Routes) -> Result<Self, BindError> {
        let is_open = !listener.local_addr().ip().to_canonical().is_loopback();
        Self::start_with(listener, connections, routes, HEADER_TIMEOUT, is_open)
    }

    fn start_with(
        listener: BoundListener,
        connections: usize,
        routes: Routes,
        header_timeout: Duration,
        is_open: bool,
    ) -> Result<Self, BindError> {
        let address = listener.local_addr();
        let system = |source: io::Error| BindError::System { address, source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
        let scope = Scope::root();
        let service = Service { routes, bound: address.ip(), header_timeout, is_open };
        let serving = scope.clone();
        let (ends, ended) = oneshot::channel::<Infallible>();
        let thread = std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                runtime.block_on(serve(listener, Places::new(connections), serving, service));
                drop(ends);
            })
            .map_err(system)?;
        Ok(Self { address, scope, thread: Some(thread), ended })
    }

    /// The address with the actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes nobody new, answers those who have begun to ask, and ends: after `limit` at the latest, or when the future is
    /// dropped.
    pub async fn drain(mut self, limit: Duration) {
        self.scope.drain();
        // What is left then is told nothing. Its end is told by dropping the other half.
        let _ = tokio::time::timeout(limit, &mut self.ended).await;
        self.stop();
    }

    /// Ends it and waits for its thread, at most for the answer that is being made.
    pub fn stop(mut self) {
        self.scope.abort();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.scope.abort();
    }
}

/// What the admin server says to one request.
#[derive(Clone, Debug)]
pub struct AdminAnswer {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
}

impl AdminAnswer {
    /// Text in the given format.
    #[must_use]
    pub fn new(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, body: body.into() }
    }

    /// Plain text.
    #[must_use]
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::new("text/plain; charset=utf-8", body)
    }

    /// JSON.
    #[must_use]
    pub fn json(value: &Value) -> Self {
        Self::new("application/json", format!("{value:#}\n"))
    }

    /// Nothing is there.
    #[must_use]
    pub fn not_found() -> Self {
        Self::text("not found\n").with_status(StatusCode::NOT_FOUND)
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

#[derive(Clone)]
struct Service {
    routes: Routes,
    bound: IpAddr,
    header_timeout: Duration,
    /// Whether other machines may ask.
    is_open: bool,
}

impl Service {
    fn answer(&self, request: &Request<Incoming>) -> AdminAnswer {
        if !self.is_open && !is_for_this_machine(request, self.bound) {
            let text = "this address answers to this machine's own names only, such as localhost\n";
            return AdminAnswer::text(text).with_status(StatusCode::FORBIDDEN);
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return AdminAnswer::text("only GET and HEAD\n").with_status(StatusCode::METHOD_NOT_ALLOWED);
        }
        let path = request.uri().path();
        catch_unwind(AssertUnwindSafe(|| (self.routes)(path))).unwrap_or_else(|_| {
            tracing::error!(path, "an admin page panicked");
            AdminAnswer::text("failed\n").with_status(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }
}

/// Whether a request names this machine as its host, and nothing else: against DNS rebinding, where a web page elsewhere
/// points its own name at 127.0.0.1, and the browser then sends that name. `bound` is the address that listens.
#[must_use]
pub fn is_for_this_machine<B>(request: &Request<B>, bound: IpAddr) -> bool {
    let is_our_name = |authority: &str| {
        let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        socket::is_loopback_host(host) || bare.parse::<IpAddr>().is_ok_and(|ip| ip == bound)
    };
    let mut hosts = request.headers().get_all(HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_our_name),
        (None, None) => request.version() == Version::HTTP_10,
        (_, Some(_)) => false,
    };
    named && request.uri().host().is_none_or(is_our_name)
}

async fn serve(listener: BoundListener, places: Places, scope: Scope, service: Service) {
    let tasks = scope.clone();
    let accepting = listener.accept_loop(scope.clone(), move |stream, _| {
        let Some(place) = places.take().map(Arc::new) else { return };
        let (service, scope) = (service.clone(), tasks.clone());
        tasks.spawn("admin connection", async move {
            tokio::select! {
                biased;
                () = serve_connection(stream, service, &place, scope.drained()) => {}
                () = place.given_away() => {}
            }
        });
    });
    if let Err(error) = accepting.await {
        tracing::error!(%error, "the admin server cannot accept");
    }
    scope.idle().await;
}

async fn serve_connection<S>(stream: S, service: Service, place: &Arc<Place>, drained: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = Unread::new(stream, UNREAD).at(place);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(service.header_timeout).max_buf_size(HEAD_MAX);
    let answering = service_fn(|request: Request<Incoming>| {
        let _answering = place.keep_for_now();
        let answer = service.answer(&request);
        async move { Ok::<_, Infallible>(answer.into_response()) }
    });
    let serving = builder.serve_connection(TokioIo::new(stream), answering);
    tokio::pin!(serving, drained);
    let served = tokio::select! {
        // What was asked already is read first.
        biased;
        served = &mut serving => served,
        () = drained => {
            // One that asks for nothing ends, and one that has begun to ask has its answer.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);
    /// More than the systems of both ends keep for a connection.
    const LARGE: usize = 64 * 1024 * 1024;

    fn bound(address: &str) -> BoundListener {
        BoundListener::bind(address.parse().unwrap()).unwrap()
    }

    fn start() -> AdminServer {
        start_with(Duration::from_millis(200))
    }

    fn start_with(header_timeout: Duration) -> AdminServer {
        let routes: Routes = Arc::new(|path| match path {
            "/metrics" => AdminAnswer::text("up 1\n"),
            "/large" => AdminAnswer::text(vec![b'x'; LARGE]),
            "/panic" => panic!("on purpose"),
            _ => AdminAnswer::not_found(),
        });
        let listener = BoundListener::bind_loopback("127.0.0.1:0".parse().unwrap()).unwrap();
        AdminServer::start_with(listener, CONNECTIONS_MAX, routes, header_timeout, false).unwrap()
    }

    fn exchange(server: &AdminServer, request: &str) -> String {
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(server: &AdminServer, path: &str, host: &str) -> String {
        exchange(server, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    }

    #[test]
    fn ports_share_the_descriptors_there_are_and_each_has_some() {
        assert_eq!(
            [(78, 2), (369, 2), (5, 2), (4_000, 2), (0, 0)].map(|(all, parts)| share(all, parts)),
            [39, 184, CONNECTIONS_LEAST, CONNECTIONS_MAX, CONNECTIONS_LEAST]
        );
    }

    #[test]
    fn a_known_path_is_answered_and_an_unknown_one_is_not_found() {
        let server = start();
        let answer = get(&server, "/metrics?x=1", "127.0.0.1");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nup 1\n"), "{answer}");
        assert!(answer.contains("cache-control: no-store"), "{answer}");
        assert!(get(&server, "/other", "localhost").starts_with("HTTP/1.1 404 "));
        server.stop();
    }

    #[test]
    fn head_has_the_length_and_no_body() {
        let server = start();
        let answer = exchange(&server, "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(answer.contains("content-length: 5\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn s13_only_reading_is_possible() {
        let server = start();
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let head = format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let answer = exchange(&server, &head);
            assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD"), "{answer}");
        }
    }

    #[test]
    fn s13_a_foreign_host_name_is_refused() {
        let server = start();
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "", "localhost@evil", "127.0.0.1.nip.io"] {
            assert!(get(&server, "/metrics", host).starts_with("HTTP/1.1 403 "), "{host}");
        }
        for host in ["localhost", "LOCALHOST:9090", "127.0.0.1:1", "[::1]:9090"] {
            assert!(get(&server, "/metrics", host).starts_with("HTTP/1.1 200 "), "{host}");
        }
        let two = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
        assert!(exchange(&server, two).starts_with("HTTP/1.1 403 "));
        let none = "GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n";
        assert!(exchange(&server, none).starts_with("HTTP/1.1 403 "));
        let absolute = "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert!(exchange(&server, absolute).starts_with("HTTP/1.1 403 "));
    }

    #[test]
    fn s13_a_public_address_is_refused() {
        let routes: Routes = Arc::new(|_| AdminAnswer::not_found());
        let error = AdminServer::start("0.0.0.0:0".parse().unwrap(), routes).unwrap_err();
        assert!(matches!(error, BindError::NotLoopback { .. }), "{error:?}");
    }

    #[test]
    fn where_others_may_read_any_host_name_is_good_and_on_loopback_it_is_not() {
        let routes: Routes = Arc::new(|_| AdminAnswer::text("up 1\n"));
        let server = AdminServer::start_open(bound("0.0.0.0:0"), 4, Arc::clone(&routes)).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], server.local_addr().port()));
        let ask = |address: SocketAddr| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node-7:9090\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        assert!(ask(address).starts_with("HTTP/1.1 200 "));
        let server = AdminServer::start_open(bound("127.0.0.1:0"), 4, routes).unwrap();
        assert!(ask(server.local_addr()).starts_with("HTTP/1.1 403 "));
    }

    #[test]
    fn a_page_that_panics_is_an_error_and_the_next_request_works() {
        let server = start();
        assert!(get(&server, "/panic", "localhost").starts_with("HTTP/1.1 500 "));
        assert!(get(&server, "/metrics", "localhost").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn s11_silent_and_slow_clients_are_let_go_and_others_are_served_meanwhile() {
        let server = start();
        let mut silent: Vec<_> = (0..200).map(|_| TcpStream::connect(server.local_addr()).unwrap()).collect();
        let mut slow = TcpStream::connect(server.local_addr()).unwrap();
        slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc").unwrap();
        assert!(get(&server, "/metrics", "localhost").starts_with("HTTP/1.1 200 "));
        for stream in silent.iter_mut().chain([&mut slow]) {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
        }
    }

    #[test]
    fn who_asks_has_an_answer_however_many_have_come_before_and_say_nothing() {
        // None of them goes by itself while this runs.
        let server = start_with(DEADLINE * 10);
        let mut first = TcpStream::connect(server.local_addr()).unwrap();
        first.set_read_timeout(Some(DEADLINE)).unwrap();
        let silent: Vec<_> = (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(server.local_addr()).unwrap()).collect();
        // The listener takes one after the other: all of those are in when this one is answered.
        assert!(get(&server, "/metrics", "localhost").starts_with("HTTP/1.1 200 "));
        let end = first.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "the first has given way: {end:?}");
        drop(silent);
    }

    #[test]
    fn who_reads_a_long_answer_slowly_keeps_its_place_however_many_come_meanwhile_and_say_nothing() {
        let server = start_with(DEADLINE * 10);
        let mut slow = TcpStream::connect(server.local_addr()).unwrap();
        slow.set_read_timeout(Some(DEADLINE)).unwrap();
        slow.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut part = vec![0; LARGE * 3 / 4];
        slow.read_exact(&mut part[..1]).unwrap();
        let come = |count| (0..count).map(|_| TcpStream::connect(server.local_addr()).unwrap()).collect::<Vec<_>>();
        let silent = come(CONNECTIONS_MAX - 2);
        // With this one all places are taken, and nobody gives way.
        assert!(get(&server, "/metrics", "localhost").starts_with("HTTP/1.1 200 "));
        // So much was on its way at most: the server has sent more since.
        slow.read_exact(&mut part).unwrap();
        let more = come(100);
        assert!(get(&server, "/metrics", "localhost").starts_with("HTTP/1.1 200 "));
        let rest = slow.read_to_end(&mut Vec::new()).unwrap();
        assert!(rest > LARGE / 4, "{rest}");
        drop((silent, more));
    }

    /// How long a client is put up with that takes something of a long answer each time after such a pause; and how much
    /// it has had.
    async fn put_up_with(pause: Duration) -> (Duration, usize) {
        const BODY: usize = 4_096;
        let (mut client, server) = tokio::io::duplex(256);
        let routes: Routes = Arc::new(|_| AdminAnswer::text(vec![b'x'; BODY]));
        let bound = IpAddr::from([127, 0, 0, 1]);
        let service = Service { routes, bound, header_timeout: HEADER_TIMEOUT, is_open: false };
        let place = Arc::new(Places::new(1).take().unwrap());
        let begun = tokio::time::Instant::now();
        client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let serving = async {
            serve_connection(server, service, &place, std::future::pending()).await;
            begun.elapsed()
        };
        let reading = async {
            let (mut had, mut part) = (0, [0; 256]);
            loop {
                tokio::time::sleep(pause).await;
                match client.read(&mut part).await.unwrap() {
                    0 => break had,
                    more => had += more,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(3_600), async { tokio::join!(serving, reading) }).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_an_answer_unread_is_given_up_and_one_that_is_slow_has_all_of_it() {
        let (span, had) = put_up_with(UNREAD * 4).await;
        assert!(span == UNREAD && had == 256, "{span:?} {had}");
        let (span, had) = put_up_with(UNREAD * 2 / 3).await;
        assert!(span > UNREAD * 10 && had > 4_096, "{span:?} {had}");
    }

    #[tokio::test]
    async fn it_answers_while_the_main_runtime_is_blocked() {
        let server = start();
        // This test's runtime has one thread, which is busy here: nothing else of it can run.
        assert!(get(&server, "/metrics", "localhost").starts_with("HTTP/1.1 200 "));
        server.stop();
    }

    #[tokio::test]
    async fn who_has_begun_to_ask_has_an_answer_while_it_drains_and_nobody_else_holds_it_up() {
        let server = start_with(DEADLINE);
        let address = server.local_addr();
        let [_silent, mut asks] = [(), ()].map(|()| TcpStream::connect(address).unwrap());
        asks.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc").unwrap();
        // It is read by then: what is asked next is answered after it.
        get(&server, "/metrics", "localhost");
        let begin = std::time::Instant::now();
        let asking = std::thread::spawn(move || {
            // Until the drain has begun, which ends by itself; not so fast that others take the place.
            while TcpStream::connect(address).is_ok() {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            asks.write_all(b"alhost\r\n\r\n").unwrap();
            let mut answer = String::new();
            asks.read_to_string(&mut answer).unwrap();
            answer
        });
        server.drain(DEADLINE).await;
        assert!(begin.elapsed() < DEADLINE / 2, "{:?}", begin.elapsed());
        assert!(asking.join().unwrap().starts_with("HTTP/1.1 200 "));
        TcpStream::connect(address).unwrap_err();
    }

    #[tokio::test]
    async fn who_never_finds_an_end_holds_up_a_drain_no_longer_than_it_may_take() {
        let server = start_with(DEADLINE * 2);
        let mut asks = TcpStream::connect(server.local_addr()).unwrap();
        asks.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc").unwrap();
        get(&server, "/metrics", "localhost");
        let begin = std::time::Instant::now();
        server.drain(Duration::from_millis(200)).await;
        assert!(begin.elapsed() < DEADLINE, "{:?}", begin.elapsed());
        assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    }

    #[test]
    fn after_stop_the_port_is_free_again() {
        let server = start();
        let address = server.local_addr();
        let idle = TcpStream::connect(address).unwrap();
        server.stop();
        drop(idle);
        BoundListener::bind(address).unwrap();
    }
}
