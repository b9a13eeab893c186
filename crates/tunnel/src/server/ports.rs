//! Public TCP ports: a listener for each port that is served.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mux::{ErrorCode, Open};
use runtime::listener::{BoundListener, ConnectionLimit, ConnectionPermit};
use runtime::peer::PeerWatch;
use runtime::scope::Scope;
use tokio::net::TcpStream;

use super::access::Entry;
use super::account::Quota;
use super::registry::RouteKey;
use super::state::{Choice, State};
use crate::pump::{Cut, Meter, Pump, PumpEnd};

/// How long the end of an accept loop is waited for; it takes microseconds.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The listeners of public TCP ports.
pub(super) struct Ports {
    address: IpAddr,
    open: Mutex<HashMap<u16, Scope>>,
    limit: ConnectionLimit,
}

impl Ports {
    /// Listeners will bind `address`; `limit` is shared with the HTTP entrance.
    pub(super) fn new(address: IpAddr, limit: ConnectionLimit) -> Self {
        Self { address, open: Mutex::default(), limit }
    }

    /// Starts listening on a port, unless that is so already.
    pub(super) fn open(&self, state: &Arc<State>, port: u16) -> Result<(), String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(&port) {
            return Ok(());
        }
        let listener = BoundListener::bind(SocketAddr::new(self.address, port)).map_err(|error| error.to_string())?;
        let scope = state.scope.child();
        let limit = self.limit.clone();
        let weak = Arc::downgrade(state);
        scope.spawn("tcp-accept", {
            let scope = scope.clone();
            async move {
                let accepted = listener.accept_loop(scope, move |tcp, visitor| {
                    let Some(state) = weak.upgrade() else { return };
                    match limit.try_acquire() {
                        Some(permit) => state.visit_port(port, tcp, visitor, permit),
                        None => state.metrics.error("connections_limit", "public"),
                    }
                });
                if let Err(error) = accepted.await {
                    tracing::error!(port, %error, "public port cannot be listened on");
                }
            }
        });
        open.insert(port, scope);
        Ok(())
    }

    /// Starts listening on a port nobody serves; false when somebody does, here or in another program.
    pub(super) fn open_new(&self, state: &Arc<State>, port: u16) -> bool {
        !self.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&port) && self.open(state, port).is_ok()
    }

    /// Stops listening; connections that run are left alone. Returns when the port can be bound again.
    pub(super) async fn close(&self, port: u16) {
        let listening = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
        if let Some(scope) = listening {
            scope.drain();
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, scope.idle()).await;
        }
    }
}

impl State {
    /// Carries one visitor's TCP connection.
    fn visit_port(self: &Arc<Self>, port: u16, tcp: TcpStream, visitor: SocketAddr, permit: ConnectionPermit) {
        let entrance = tcp.local_addr().ok();
        let state = Arc::clone(self);
        let choice = self.registry.lookup(&RouteKey::Port(port)).map(|route| self.choose(&route));
        let Some(Choice::Open(members)) = choice else {
            self.metrics.error("no_agent", "public");
            return;
        };
        let Some((session, _)) = members.first() else { return };
        let account = Arc::clone(&session.account);
        let taken = account.take_request(Instant::now()).and_then(|()| account.take(Quota::Streams));
        let stream_use = match taken {
            Ok(stream_use) => stream_use,
            Err(exceeded) => {
                self.metrics.quota(exceeded.quota);
                self.audit.quota(account.name(), &exceeded);
                return;
            }
        };
        let opened = members
            .iter()
            .find_map(|(session, tunnel)| session.open(&Open::tcp(*tunnel, Some(visitor), entrance), false).ok());
        let Some((stream, in_flight)) = opened else {
            self.metrics.error("agent_lost", "public");
            return;
        };
        let meter = Meter { inward: Some(Arc::clone(&account.upload)), outward: Some(Arc::clone(&account.download)) };
        let watch = PeerWatch::of(&tcp);
        // A reset travels on as a reset: the visitor must not take a cut answer for a whole one.
        let reset = |tcp: &TcpStream| drop(tcp.set_zero_linger());
        let pump = Pump::new(tcp, stream, meter).watching(watch).resetting(reset);
        self.scope.spawn("tcp-visit", async move {
            let started = Instant::now();
            state.metrics.streams.inc();
            state.metrics.streams_active.inc();
            let (tcp, end) = pump.run().await;
            drop((tcp, permit, stream_use, in_flight));
            state.metrics.streams_active.dec();
            state.metrics.stream_seconds.observe(started.elapsed().as_secs_f64());
            state.log_port(port, visitor, account.name(), &end, started);
        });
    }

    fn log_port(&self, port: u16, visitor: SocketAddr, account: &str, end: &PumpEnd, started: Instant) {
        if !self.access.is_on() {
            return;
        }
        let note = match &end.cut {
            None => String::new(),
            Some(Cut::Socket(error)) => format!("visitor: {error}"),
            Some(Cut::Stream(ErrorCode::Connect)) => "what is published here cannot be reached".into(),
            Some(Cut::Stream(code)) => format!("agent: {code}"),
        };
        self.access.write(&Entry {
            request_id: "-".into(),
            visitor: visitor.ip().to_canonical(),
            account: account.to_owned(),
            host: format!(":{port}"),
            method: "TCP".into(),
            path: String::new(),
            protocol: "tcp",
            status: if end.cut.is_none() { 200 } else { 502 },
            bytes_in: end.inward,
            bytes_out: end.outward,
            duration: started.elapsed(),
            note,
        });
    }
}
