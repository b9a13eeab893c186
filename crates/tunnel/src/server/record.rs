//! What is remembered of a request until it is logged and counted, once, at its end.

use std::future::Future as _;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use adit_core::forwarded::{Claimed, visitor_address};
use http::header::HeaderMap;
use http::{Method, Request, Version};
use tokio::time::Sleep;

use super::access::Entry;
use super::answer::Problem;
use super::state::State;
use super::visit::{Flight, Visitor};
use crate::handshake::hex;
use crate::throttle::Throttle;
use crate::wire_http::BodyWatch;

/// A request from its head to its end.
pub(super) struct Record {
    inner: Option<Box<Inner>>,
    request_id: String,
    trace: [u8; 16],
    uploaded: Arc<AtomicU64>,
}

struct Inner {
    state: Arc<State>,
    started: Instant,
    visitor: IpAddr,
    method: Method,
    host: String,
    path: String,
    account: String,
    protocol: &'static str,
    status: u16,
    request_id: String,
    uploaded: Arc<AtomicU64>,
    flight: Option<Flight>,
}

impl Record {
    pub(super) fn new<B>(state: &Arc<State>, visitor: &Visitor, request: &Request<B>, trusted: bool) -> Self {
        let trace: [u8; 16] = rand::random();
        let request_id = hex(&trace[..8]);
        let uploaded = Arc::new(AtomicU64::new(0));
        let peer = visitor.peer.ip();
        let address = if trusted { address_of(state, peer, request.headers()) } else { peer };
        let inner = Inner {
            state: Arc::clone(state),
            started: Instant::now(),
            visitor: address.to_canonical(),
            method: request.method().clone(),
            host: String::new(),
            path: if state.access.is_on() { request.uri().path().to_owned() } else { String::new() },
            account: String::new(),
            protocol: match request.version() {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            status: 0,
            request_id: request_id.clone(),
            uploaded: Arc::clone(&uploaded),
            flight: None,
        };
        Self { inner: Some(Box::new(inner)), request_id, trace, uploaded }
    }

    pub(super) fn request_id(&self) -> &str {
        &self.request_id
    }

    pub(super) fn trace(&self) -> [u8; 16] {
        self.trace
    }

    /// Counts the request body's bytes.
    pub(super) fn uploaded(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.uploaded)
    }

    pub(super) fn set_host(&mut self, host: &str) {
        if let Some(inner) = &mut self.inner {
            host.clone_into(&mut inner.host);
        }
    }

    pub(super) fn set_account(&mut self, account: &str) {
        if let Some(inner) = &mut self.inner {
            account.clone_into(&mut inner.account);
        }
    }

    /// The head of the answer is there; `flight` is held until its body is over.
    pub(super) fn answered(&mut self, status: u16, flight: Flight) {
        if let Some(inner) = &mut self.inner {
            inner.status = status;
            inner.flight = Some(flight);
        }
    }

    /// Hands the rest over to the answer's body.
    pub(super) fn watch(&mut self, throttle: Arc<Throttle>) -> Watch {
        Watch { inner: self.inner.take(), bytes: 0, throttle, delay: None }
    }

    /// The server answers itself.
    pub(super) fn fail(&mut self, problem: &Problem, bytes: usize) {
        if let Some(mut inner) = self.inner.take() {
            inner.status = problem.status().as_u16();
            inner.state.metrics.error(problem.word(), "public");
            inner.end(bytes as u64, problem.word());
        }
    }
}

/// The visitor's address as trusted proxies tell it.
pub(super) fn address_of(state: &State, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let config = state.config.load();
    let claimed = Claimed::of(headers);
    visitor_address(peer, claimed.for_.as_deref(), &|ip| config.is_trusted_proxy(ip))
}

/// Status in logs and metrics of a request whose visitor left before there was an answer.
const LEFT: u16 = 499;

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(mut inner) = self.inner.take() {
            inner.status = LEFT;
            inner.end(0, "visitor left");
        }
    }
}

impl Inner {
    fn end(self: Box<Self>, bytes_out: u64, note: &str) {
        let metrics = &self.state.metrics;
        let bytes_in = self.uploaded.load(Ordering::Relaxed);
        let duration = self.started.elapsed();
        metrics.request(&self.method, self.status, &self.account);
        metrics.request_seconds.observe(duration.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a histogram's buckets are coarser than that")]
        {
            metrics.request_bytes.observe(bytes_in as f64);
            metrics.response_bytes.observe(bytes_out as f64);
        }
        if !self.state.access.is_on() {
            return;
        }
        self.state.access.write(&Entry {
            request_id: self.request_id,
            visitor: self.visitor,
            account: self.account,
            host: self.host,
            method: self.method.as_str().to_owned(),
            path: self.path,
            protocol: self.protocol,
            status: self.status,
            bytes_in,
            bytes_out,
            duration,
            note: note.to_owned(),
        });
    }
}

/// Follows an answer's body to its end.
pub(super) struct Watch {
    inner: Option<Box<Inner>>,
    bytes: u64,
    throttle: Arc<Throttle>,
    delay: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    /// The end of an upgraded connection.
    pub(super) fn finish(&mut self, inward: u64, outward: u64, clean: bool) {
        if let Some(inner) = self.inner.take() {
            inner.uploaded.fetch_add(inward, Ordering::Relaxed);
            inner.state.metrics.stream_seconds.observe(inner.started.elapsed().as_secs_f64());
            inner.end(outward, if clean { "" } else { "cut" });
        }
    }
}

impl BodyWatch for Watch {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(delay) = &mut self.delay {
            std::task::ready!(delay.as_mut().poll(cx));
            self.delay = None;
        }
        Poll::Ready(())
    }

    fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.delay = self.throttle.charge(bytes).map(|wait| Box::pin(tokio::time::sleep(wait)));
    }

    fn ended(&mut self, clean: bool) {
        if let Some(inner) = self.inner.take() {
            inner.end(self.bytes, if clean { "" } else { "cut" });
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended(false);
    }
}
