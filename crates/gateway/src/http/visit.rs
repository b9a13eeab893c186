//! One request: checked, looked up, carried to its upstream, answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use adit_core::authority::{HostFault, HostPort, request_host};
use adit_core::head::{HeadFault, upgrade_protocol};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, UPGRADE};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::{AnswerBody, By, Source};
use super::exchange::{self, Flight, Patience};
use super::forwarding;
use super::guesses::Verdict;
use super::interim;
use super::lookup::{Found, Listing, ServiceListing};
use super::request::{self, Carriage};
use super::switch::switch;
use super::{Arrival, Connection, Problem, Scheme};
use crate::pages::{self, Around, Beside};
use crate::upstream::{Upstream, UpstreamScheme};

/// Answers one request; never fails. `number` is the request's among those the guard counts.
pub(crate) async fn visit(
    connection: &Arc<Connection>,
    request: Box<Request<Incoming>>,
    number: Option<u64>,
) -> Response<AnswerBody> {
    connection.site.counters.requests.fetch_add(1, Ordering::Relaxed);
    let fault = || number.and_then(|number| connection.findings.fault_of(number));
    let asked = Asked::of(&request);
    let outcome = match fault() {
        Some(fault) => Err(fault.into()),
        None => carry(connection, request, &asked).await,
    };
    match outcome {
        Ok(response) => response,
        Err(problem) => refuse(connection, &asked, fault().map_or(problem, Problem::from)),
    }
}

/// Whether a request brings the user and password that its route wants, if it wants any.
fn authorise(connection: &Connection, upstream: &Upstream, headers: &HeaderMap) -> Result<(), Problem> {
    if upstream.is_open() {
        return Ok(());
    }
    let wrong = || Problem::Unauthorized { realm: upstream.name().to_owned() };
    // Bringing none is how browsers ask for the question: no guess.
    let brought = headers.get(AUTHORIZATION).ok_or_else(wrong)?;
    let client = forwarding::client(connection, headers);
    match connection.site.guesses.check(client, Instant::now(), || upstream.admits(brought)) {
        Verdict::Right => Ok(()),
        Verdict::Wrong => Err(wrong()),
        Verdict::Later(wait) => Err(Problem::TooManyGuesses { wait }),
    }
}

/// What proxies add.
const PROXIES: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"];

/// What is needed of a request to answer it ourselves.
struct Asked {
    accept: Option<HeaderValue>,
    host: Option<HeaderValue>,
    authority: Option<Authority>,
    head: bool,
    upgrade: bool,
    h2: bool,
    /// A proxy has passed it on, and says so.
    proxied: bool,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Self {
        Self {
            accept: request.headers().get(ACCEPT).cloned(),
            host: request.headers().get(HOST).cloned(),
            authority: request.uri().authority().cloned(),
            head: request.method() == Method::HEAD,
            h2: request.version() == Version::HTTP_2,
            proxied: PROXIES.iter().any(|name| request.headers().contains_key(*name)),
            upgrade: request.version() == Version::HTTP_11 && upgrade_protocol(request.headers()).is_some(),
        }
    }

    /// What the client wrote, checked or not.
    fn host(&self) -> Option<&str> {
        match &self.host {
            Some(host) => host.to_str().ok(),
            None => self.authority.as_ref().map(Authority::as_str),
        }
    }

    fn around(&self, connection: &Connection) -> Around {
        let mut headers = HeaderMap::new();
        headers.extend(self.accept.clone().map(|accept| (ACCEPT, accept)));
        let Arrival { scheme, local, peer, .. } = &connection.arrival;
        let written = self.host().map(without_port).unwrap_or_default();
        // A name of this machine, asked for from it without a port: the header was written by hand.
        let by_hand = peer.ip().to_canonical().is_loopback()
            && !self.proxied
            && (is_local_name(&written.to_ascii_lowercase()) || is_loopback(written));
        let host = self.host().filter(|host| !by_hand || written_port(host).is_some());
        let port = port_of_links(host, *scheme, local.port());
        let https = connection.arrival.scheme == Scheme::Https;
        Around { form: runtime::page::Form::preferred(&headers), port, https }
    }

    /// Whether the index may be shown below an error: to a page whose name no stranger can make point here (S14).
    fn may_see(&self, connection: &Connection) -> bool {
        let Some(host) = self.host() else { return false };
        let host = without_port(host).to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        is_loopback(host) || is_local_name(host) || connection.site.lookup.is_ours(host)
    }
}

async fn carry(
    connection: &Arc<Connection>,
    mut request: Box<Request<Incoming>>,
    asked: &Asked,
) -> Result<Response<AnswerBody>, Problem> {
    if request.headers().len() > connection.site.limits.headers {
        // HTTP/2 heads do not come through the guard.
        return Err(HeadFault::TooManyHeaders.into());
    }
    if request.method() == Method::CONNECT {
        return Err(HeadFault::Connect.into());
    }
    let (host, upstream) = match find(connection, &request)? {
        Destination::Upstream(host, upstream) => (host, upstream),
        Destination::Index => return index(connection, &request, asked).await,
    };
    authorise(connection, &upstream, request.headers())?;
    if upstream.own_pages_only && request::is_foreign(&request) {
        return Err(Problem::Refused {
            reason: "a page of another site asked for this dynamic host".into(),
            hint: Some("open it yourself, or add a route for it to gateway.routes, which any page may use".into()),
        });
    }
    if connection.scope.is_cancelled() {
        return Err(Problem::Draining);
    }
    let body = !request.body().is_end_stream();
    if asked.upgrade && body {
        return Err(Problem::bad("an upgrade cannot have a body"));
    }
    let flight = Flight::new(&upstream, connection);
    let written = host.to_string();
    let outcome = if asked.upgrade {
        let on_upgrade = hyper::upgrade::on(&mut *request);
        // A statement of its own: what is moved into the box would else stay part of this future.
        let carrying = Box::pin(carry_upgrade(connection, &upstream, request, &written, on_upgrade, flight));
        carrying.await
    } else {
        // Two boxes of up to a KiB cost less than one of two: the allocator keeps a list for each such size.
        let carrying = Box::pin(carry_plain(connection, &upstream, request, &written, body, flight));
        carrying.await
    };
    if outcome.is_ok() {
        upstream.counters().failures().worked();
    }
    outcome.map_err(|problem| {
        if problem.status().is_server_error() {
            upstream.note_error(problem.message());
        }
        let port = || asked.around(connection).port;
        let problem = problem.with_hint(|| upstream.instead.as_ref().map(|instead| instead.hint(port())));
        match problem {
            // Nobody has written this host down: where it leads nowhere there is no such host.
            Problem::Missing { reason, hint, part, near } if upstream.own_pages_only => {
                let host = host.host.as_str().to_owned();
                let near = connection.site.lookup.near(&host, part, &near);
                Problem::UnknownHost { host, near, reason: Some(reason), hint }
            }
            problem => problem,
        }
    })
}

async fn carry_plain(
    connection: &Arc<Connection>,
    upstream: &Arc<Upstream>,
    request: Box<Request<Incoming>>,
    host: &str,
    body: bool,
    flight: Flight,
) -> Result<Response<AnswerBody>, Problem> {
    let (head, incoming) = request.into_parts();
    let mut head = Box::new(head);
    let speaks_interim = head.version == Version::HTTP_11;
    let talks = request::has_grpc_type(&head.headers);
    let patience = Patience::of(upstream);
    let h2 = match upstream.scheme {
        UpstreamScheme::H2c => true,
        UpstreamScheme::Http | UpstreamScheme::Https => {
            request::is_grpc(&head) && {
                let asking = Box::pin(patience.reach(upstream, upstream.h2.is_spoken(&**upstream)));
                asking.await?
            }
        }
    };
    request::rewrite(connection, upstream, &mut head, host, Carriage { h2, body, upgrade: false })?;
    flight.asked(&head);
    if speaks_interim && !h2 {
        head.extensions = interim::forwarding(upstream, connection);
    }
    let source = body.then(|| Source::new(incoming, talks, Arc::clone(upstream), Arc::clone(connection)));
    let (response, by) = if h2 {
        let carrying = Box::pin(exchange::over_h2(upstream, head, source.as_ref(), patience));
        carrying.await?
    } else {
        exchange::over_h1(upstream, head, source.as_ref(), patience).await?
    };
    let (mut head, body) = response.into_parts();
    if head.status.is_informational() {
        return Err(Problem::BadAnswer { target: upstream.target() });
    }
    flight.answered(&head);
    request::check_answer(upstream, &mut head.headers, head.status)?;
    let mut response = Response::new(AnswerBody::upstream(body, by, flight));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

async fn carry_upgrade(
    connection: &Arc<Connection>,
    upstream: &Arc<Upstream>,
    request: Box<Request<Incoming>>,
    host: &str,
    on_upgrade: hyper::upgrade::OnUpgrade,
    flight: Flight,
) -> Result<Response<AnswerBody>, Problem> {
    let (head, _) = request.into_parts();
    let mut head = Box::new(head);
    request::rewrite(connection, upstream, &mut head, host, Carriage { h2: false, body: false, upgrade: true })?;
    flight.asked(&head);
    let (response, upstream_connection) = exchange::upgrade(upstream, head).await?;
    let (mut head, body) = response.into_parts();
    flight.answered(&head);
    request::check_answer(upstream, &mut head.headers, head.status)?;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        if !head.headers.contains_key(UPGRADE) {
            return Err(Problem::BadAnswer { target: upstream.target() });
        }
        return switch(connection, upstream_connection, head.headers, on_upgrade, flight).await;
    }
    // The guard checks nothing behind an upgrade, so nothing but its answer may follow on the connection.
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut response = Response::new(AnswerBody::upstream(body, By::Own(upstream_connection), flight));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

enum Destination {
    Upstream(HostPort, Arc<Upstream>),
    Index,
}

/// Where a request goes (S8).
fn find(connection: &Connection, request: &Request<Incoming>) -> Result<Destination, Problem> {
    let host = match host_of(request) {
        Ok(host) => host,
        Err(HostFault::Address) if is_at_loopback_address(request) => return Ok(Destination::Index),
        Err(HostFault::Name) => return Err(mistyped(connection, request)),
        Err(fault) => return Err(Problem::bad(&fault.to_string())),
    };
    let name = host.host.as_str();
    if let Some(sni) = connection.arrival.sni.as_deref().filter(|sni| !sni.eq_ignore_ascii_case(name)) {
        return Err(Problem::Misdirected { sni: sni.to_owned(), host: name.to_owned() });
    }
    match connection.site.lookup.find(name, request.uri().path()) {
        Found::Upstream(upstream) => Ok(Destination::Upstream(host, upstream)),
        Found::Index => Ok(Destination::Index),
        Found::Nameless if name == "localhost" => Ok(Destination::Index),
        Found::Nameless => {
            Err(Problem::bad("the tls connection names no host (SNI), so it cannot be known where it should go"))
        }
        Found::Unknown { .. } if name == "localhost" => Ok(Destination::Index),
        Found::Unknown { near, reason, hint } => {
            Err(Problem::UnknownHost { host: name.to_owned(), near, reason, hint })
        }
        Found::Refused { reason, hint } => Err(Problem::Refused { reason, hint }),
        Found::Failed { reason, hint } => Err(Problem::Failed { reason, hint }),
    }
}

/// A host that is no legal name: a person has mistyped one of ours, or a program is wrong. It may be a stranger's all the
/// same, as `a_b.example.com` can be looked up.
fn mistyped(connection: &Connection, request: &Request<Incoming>) -> Problem {
    let mut all = request.headers().get_all(HOST).iter().filter_map(|host| host.to_str().ok());
    let host = all.next().or_else(|| request.uri().authority().map(Authority::as_str)).unwrap_or_default();
    let host = without_port(host).to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    match connection.site.lookup.mistyped(host) {
        Some(Found::Unknown { near, reason, hint }) => {
            Problem::UnknownHost { host: host.to_owned(), near, reason, hint }
        }
        _ => Problem::bad(&HostFault::Name.to_string()),
    }
}

/// The one host a request is for.
fn host_of(request: &Request<Incoming>) -> Result<HostPort, HostFault> {
    let mut all = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes);
    let (first, second) = (all.next(), all.next());
    let authority = request.uri().authority().map(Authority::as_str);
    let h2 = request.version() == Version::HTTP_2;
    match (first, second) {
        (Some(first), Some(second)) => request_host(&[first, second], authority, h2),
        (Some(first), None) => request_host(&[first], authority, h2),
        (None, _) => request_host(&[], authority, h2),
    }
}

/// Whether a request names a loopback address as its host, and nothing else.
fn is_at_loopback_address(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes);
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let named = match (hosts.next(), hosts.next(), authority) {
        (Some(host), None, None) => host,
        (Some(host), None, Some(authority)) if host == authority => host,
        (None, None, Some(authority)) => authority,
        _ => return false,
    };
    std::str::from_utf8(named).is_ok_and(|named| is_loopback(without_port(named)))
}

async fn index(
    connection: &Connection,
    request: &Request<Incoming>,
    asked: &Asked,
) -> Result<Response<AnswerBody>, Problem> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::NotSupported { status: 405, what: "the gateway's own pages can be read only".into() });
    }
    let mut around = asked.around(connection);
    let path = request.uri().path();
    let context = pages::context_in_path(path);
    match path {
        "/" => {}
        "/.json" | "/index.json" => around.form = runtime::page::Form::Json,
        _ if context.is_some() => {}
        path => return Err(Problem::NotFound { path: path.to_owned() }),
    }
    match request.uri().query() {
        Some("format=json") => around.form = runtime::page::Form::Json,
        Some("format=text") => around.form = runtime::page::Form::Text,
        Some("format=html") => around.form = runtime::page::Form::Html,
        Some(_) | None => {}
    }
    if let Some(context) = context {
        let listing = services(connection, request, &context).await?;
        return Ok(own(pages::services(&listing, around), asked));
    }
    Ok(own(pages::index(&connection.site.lookup.listing(), &connection.site.counters, around), asked))
}

/// The services of a context. Asking for them is work for the cluster, and may run a program for credentials.
async fn services(
    connection: &Connection,
    request: &Request<Incoming>,
    context: &str,
) -> Result<ServiceListing, Problem> {
    if !request::is_of_own_page(request) {
        return Err(Problem::ForeignList { context: context.to_owned() });
    }
    let nothing = || Problem::NotFound { path: request.uri().path().to_owned() };
    let asked = connection.site.lookup.services(context).ok_or_else(nothing)?;
    asked.await.map_err(|found| match found {
        Found::Refused { reason, hint } => Problem::Refused { reason, hint },
        Found::Failed { reason, hint } => Problem::Failed { reason, hint },
        Found::Unknown { near, .. } => Problem::NoContext { context: context.to_owned(), near },
        _ => nothing(),
    })
}

fn refuse(connection: &Connection, asked: &Asked, problem: Problem) -> Response<AnswerBody> {
    connection.site.counters.error(problem.word());
    let visible = asked.may_see(connection);
    // What is near says what there is.
    let problem = match problem {
        Problem::UnknownHost { host, reason, hint, .. } if !visible => {
            Problem::UnknownHost { host, near: Vec::new(), reason, hint }
        }
        Problem::NoContext { context, .. } if !visible => Problem::NoContext { context, near: Vec::new() },
        problem => problem,
    };
    let listing = match problem {
        Problem::UnknownHost { ref host, .. } if visible && connection.site.lookup.is_served(host) => None,
        Problem::UnknownHost { .. } | Problem::NotFound { .. } | Problem::NoContext { .. } if visible => {
            Some(connection.site.lookup.listing())
        }
        _ => None::<Listing>,
    };
    let context = match &problem {
        // For its user to follow: from this page the link is no stranger's.
        Problem::ForeignList { context } => Some(context.clone()),
        Problem::Failed { .. }
        | Problem::Unreachable { .. }
        | Problem::Missing { .. }
        | Problem::UnknownHost { .. }
            if visible =>
        {
            asked.host().and_then(|host| {
                let host = without_port(host).to_ascii_lowercase();
                connection.site.lookup.context_of(host.strip_suffix('.').unwrap_or(&host))
            })
        }
        _ => None,
    };
    let is_of_target = problem.status().is_server_error() || matches!(problem, Problem::UnknownHost { .. });
    let beside = Beside { listing: listing.as_ref(), context: context.as_deref(), index: visible && is_of_target };
    let page = pages::error(&problem, beside, asked.around(connection));
    let mut response = own(page, asked);
    // Behind a request that is none nobody knows where the next one begins, or whose it is.
    let over = match problem {
        Problem::SlowBody | Problem::BadRequest { .. } | Problem::HeadTooLarge { .. } => true,
        Problem::NotSupported { status, .. } => status != 405,
        _ => false,
    };
    if over && !asked.h2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn own(response: Response<Bytes>, asked: &Asked) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if asked.upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Response::from_parts(head, AnswerBody::own(if asked.head { Bytes::new() } else { body }))
}

/// The port that leads here as the client sees it, which may be behind a proxy of its own: a host without a port came by
/// the usual one. Whoever names no host is told the port that was listened at.
fn port_of_links(host: Option<&str>, scheme: Scheme, local: u16) -> u16 {
    let usual = match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let host = host.map(str::trim).filter(|host| !without_port(host).is_empty());
    host.map_or(local, |host| written_port(host).unwrap_or(usual))
}

fn written_port(host: &str) -> Option<u16> {
    host.get(without_port(host).len()..)?.strip_prefix(':')?.parse().ok()
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        // A colon in brackets is an address's.
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether a name is this machine's own wherever it is looked up (RFC 6761 section 6.3).
pub(crate) fn is_local_name(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_an_address() {
        assert_eq!((without_port("a:80"), written_port("a:80")), ("a", Some(80)));
        assert_eq!((without_port("[::1]:80"), written_port("[::1]:80")), ("[::1]", Some(80)));
        assert_eq!((without_port("[::1]"), written_port("[::1]")), ("[::1]", None));
        assert_eq!((without_port("a"), written_port("a")), ("a", None));
    }

    #[test]
    fn links_lead_to_the_port_the_client_used_or_without_a_host_to_the_one_that_listens() {
        for (host, scheme, port) in [
            (Some("localhost:8080"), Scheme::Http, 8080),
            (Some("localhost"), Scheme::Http, 80),
            (Some("localhost"), Scheme::Https, 443),
            (Some("[::1]"), Scheme::Http, 80),
            (Some(""), Scheme::Http, 8989),
            (Some(":"), Scheme::Http, 8989),
            (None, Scheme::Http, 8989),
            (None, Scheme::Https, 8989),
        ] {
            assert_eq!(port_of_links(host, scheme, 8989), port, "{host:?}");
        }
    }

    #[test]
    fn loopback_is_told_from_other_addresses_and_from_names() {
        assert!(is_loopback("127.0.0.1") && is_loopback("[::1]") && is_loopback("127.9.9.9"));
        assert!(!is_loopback("10.0.0.1") && !is_loopback("127.0.0.1.example.com") && !is_loopback("localhost"));
        assert!(is_local_name("a.localhost") && !is_local_name("alocalhost") && !is_local_name("localhost.evil.com"));
    }
}
