//! The agents' listener: TLS, one frame of authentication, then lanes of a session.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use adit_core::token::CREATE_EXAMPLE;
use mux::frame::{CONTROL_CAP, DATA_CAP, DATA_DEFAULT, FrameType, Limits, flags};
use mux::lane::LaneConfig;
use mux::message::{self, AuthRequest, AuthResponse, Fault, Join, JoinResponse};
use mux::{Lane, Side};
use runtime::listener::{ConnectionLimit, ConnectionPermit};
use runtime::tls::ReloadingResolver;
use rustls::ServerConfig as TlsConfig;
use tokio::net::TcpStream;

use super::account::Quota;
use super::auth::Authenticate as _;
use super::session::{Session, SessionHandler, SessionParts};
use super::state::{State, fault, shutting_down};
use crate::handshake::{self, FrameReader, hex};
use crate::lane::{LaneShared, LaneTask, TlsPipe};

/// Pause before a failed authentication is answered, so that guessing is slow (S2).
const FAILURE_PAUSE: Duration = Duration::from_millis(300);
/// Initial credit of streams the agent answers on, in bytes.
const WINDOW: u32 = mux::flow::FLOOR;
/// Name and version, as sent to the peer.
const SOFTWARE: &str = concat!("adit/", env!("CARGO_PKG_VERSION"));

/// Bounds what strangers may hold open.
pub(super) struct Doorkeeper {
    overall: ConnectionLimit,
    per_prefix_max: usize,
    per_prefix: Mutex<HashMap<Prefix, usize>>,
}

/// The network a stranger comes from: /24 or /64.
type Prefix = [u8; 8];

fn prefix(address: IpAddr) -> Prefix {
    let mut prefix = [0; 8];
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            prefix[0] = 4;
            prefix[1..4].copy_from_slice(&v4.octets()[..3]);
        }
        IpAddr::V6(v6) => prefix.copy_from_slice(&v6.octets()[..8]),
    }
    prefix
}

impl Doorkeeper {
    pub(super) fn new(overall: usize, per_prefix_max: usize) -> Self {
        Self { overall: ConnectionLimit::new(overall), per_prefix_max, per_prefix: Mutex::default() }
    }

    /// Lets a stranger in, unless too many are there already.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admission> {
        let permit = self.overall.try_acquire()?;
        // Loopback is one machine's many programs, not one stranger.
        if !address.to_canonical().is_loopback() {
            let mut counts = self.per_prefix.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(prefix(address)).or_default();
            if *count >= self.per_prefix_max {
                return None;
            }
            *count += 1;
        }
        Some(Admission { door: Arc::clone(self), address, _permit: permit })
    }
}

/// A stranger that was let in; dropping it makes room.
struct Admission {
    door: Arc<Doorkeeper>,
    address: IpAddr,
    _permit: ConnectionPermit,
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.address.to_canonical().is_loopback() {
            return;
        }
        let mut counts = self.door.per_prefix.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&prefix(self.address)) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&prefix(self.address));
            }
        }
    }
}

/// What accepting agents needs.
pub(super) struct AgentEntrance {
    pub(super) state: Arc<State>,
    pub(super) tls: Arc<TlsConfig>,
    pub(super) door: Arc<Doorkeeper>,
    /// Agents connected at once at the most.
    pub(super) agents: usize,
}

/// TLS for the agents' listener: 1.2 and up, no ALPN needed.
pub(super) fn tls_config(resolver: Arc<ReloadingResolver>) -> Result<Arc<TlsConfig>, runtime::tls::TlsError> {
    runtime::tls::server_config(resolver, &[b"adit/1"])
}

impl AgentEntrance {
    /// Takes one connection; everything that waits happens in a task of its own (S1).
    pub(super) fn accept(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr) {
        let Some(admission) = self.door.admit(peer.ip()) else {
            self.state.metrics.error("unauthenticated_limit", "agent");
            return;
        };
        let entrance = Arc::clone(self);
        self.state.scope.spawn("agent-handshake", async move {
            let config = entrance.state.config.load_full();
            let _ = runtime::socket::tune(&tcp);
            let secured = TlsPipe::accept(tcp, Arc::clone(&entrance.tls));
            let Ok(Ok(pipe)) = tokio::time::timeout(config.limits.tls_timeout, secured).await else {
                entrance.state.metrics.error("tls", "agent");
                return;
            };
            let greeting = entrance.greet(pipe, peer);
            if tokio::time::timeout(config.limits.auth_timeout + FAILURE_PAUSE, greeting).await.is_err() {
                entrance.state.metrics.error("auth_timeout", "agent");
            }
            drop(admission);
        });
    }

    /// Reads the one frame a stranger may send, and answers it.
    async fn greet(&self, mut pipe: TlsPipe, peer: SocketAddr) {
        let mut reader = FrameReader::new(Limits::Unauthenticated);
        let Ok((header, payload)) = reader.read(&mut pipe).await else {
            self.state.metrics.error("protocol", "agent");
            return;
        };
        if self.state.is_draining() {
            let error = Fault { retry_after_ms: 1000, ..fault("draining", "the server is shutting down", "") };
            let _ = match header.kind {
                FrameType::Join => self.answer_join(&mut pipe, Some(error)).await,
                _ => self.refuse(&mut pipe, error).await,
            };
            return;
        }
        match header.kind {
            FrameType::Join => self.join(pipe, reader, &payload, peer).await,
            _ => self.authenticate(pipe, reader, &payload, peer).await,
        }
    }

    async fn refuse(&self, pipe: &mut TlsPipe, error: Fault) -> Result<(), handshake::HandshakeFault> {
        let response = AuthResponse { error: Some(error), ..AuthResponse::default() };
        handshake::send(pipe, FrameType::AuthResponse, 0, &response).await
    }

    async fn answer_join(&self, pipe: &mut TlsPipe, error: Option<Fault>) -> Result<(), handshake::HandshakeFault> {
        handshake::send(pipe, FrameType::Join, flags::ACK, &JoinResponse { error }).await
    }

    async fn authenticate(&self, mut pipe: TlsPipe, reader: FrameReader, payload: &[u8], peer: SocketAddr) {
        let state = &self.state;
        let Ok(request) = message::decode::<AuthRequest>(payload) else {
            state.metrics.error("protocol", "agent");
            return;
        };
        let session = match self.new_session(&request, peer) {
            Ok(session) => session,
            Err(error) => {
                state.metrics.error("auth", "agent");
                state.audit.auth_failed(peer, &request.agent_id, &error.code);
                tracing::warn!(%peer, reason = %error.code, "agent refused");
                tokio::time::sleep(FAILURE_PAUSE).await;
                let _ = self.refuse(&mut pipe, error).await;
                return;
            }
        };
        let config = state.config.load();
        let response = AuthResponse {
            session: session.id.clone(),
            resume_secret: message::Opaque::new(session.resume_secret.clone()),
            epoch: session.epoch,
            account: session.account.name().to_owned(),
            data_cap: DATA_DEFAULT,
            window: WINDOW,
            heartbeat_ms: u32::try_from(config.tunnel.heartbeat.as_millis()).unwrap_or(5000),
            lanes: session.lanes_max,
            expires: session.grant().expires.map(adit_core::timestamp::unix),
            software: SOFTWARE.to_owned(),
            ..AuthResponse::default()
        };
        drop(config);
        if handshake::send(&mut pipe, FrameType::AuthResponse, 0, &response).await.is_err() {
            return;
        }
        state.add_session(&session);
        // The credential may have been revoked while nobody could see this session.
        state.check_credential(&session);
        state.audit.authenticated(&session);
        tracing::info!(%peer, agent = %session.agent_id, account = session.account.name(), software = %session.software, "agent connected");
        state.watch_expiry(&session);
        self.start_lane(&session, pipe, reader);
        if state.is_draining() {
            // The drain began while nobody could see this session.
            session.drain(&shutting_down());
            session.close(mux::ErrorCode::NoError, "the server is shutting down");
        }
    }

    fn new_session(&self, request: &AuthRequest, peer: SocketAddr) -> Result<Arc<Session>, Fault> {
        let state = &self.state;
        let config = state.config.load();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        if request.agent_id.is_empty() || request.agent_id.len() > 128 || !request.agent_id.chars().all(legal) {
            return Err(fault("invalid_agent_id", "the agent id must be 1 to 128 letters, digits, - _ . or @", ""));
        }
        let grant = state.credentials.authenticate(request.token.expose(), SystemTime::now()).map_err(|error| {
            let hint = format!("whoever runs the server makes one: {CREATE_EXAMPLE}");
            fault(error.code(), error.to_string(), hint)
        })?;
        let account = state.accounts.get(&grant.account, config.quotas_of(&grant.account));
        let previous = state.session_of(account.name(), &request.agent_id);
        let busy =
            |message: String| Fault { retry_after_ms: 1000, ..fault("quota_exceeded", message, "stop another agent") };
        if previous.is_none() && state.sessions().len() >= self.agents {
            return Err(busy("the server has as many agents as it takes".to_owned()));
        }
        let agent_use = match account.take(Quota::Agents) {
            Ok(taken) => taken,
            // The agent's older session, about to be replaced, must not lock it out.
            Err(_) if previous.is_some() => account.take_beyond(Quota::Agents),
            Err(exceeded) => {
                state.metrics.quota(exceeded.quota);
                state.audit.quota(account.name(), &exceeded);
                return Err(busy(format!("the account may have {} agents connected", exceeded.limit)));
            }
        };
        let lanes_wanted = request.lanes.clamp(1, 8);
        let parts = SessionParts {
            id: hex(&rand::random::<[u8; 12]>()),
            agent_id: request.agent_id.clone(),
            instance: request.instance.chars().take(64).collect(),
            software: request.software.chars().filter(|c| !c.is_control()).take(64).collect(),
            epoch: state.epochs.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1,
            remote: peer,
            resume_secret: hex(&rand::random::<[u8; 32]>()),
            lanes_max: lanes_wanted.min(u8::try_from(config.tunnel.lanes_max).unwrap_or(8)),
            data_cap: request.data_cap.clamp(DATA_DEFAULT, DATA_CAP),
            window: request.window.clamp(mux::flow::FLOOR_UNDER_PRESSURE, mux::flow::WINDOW_MAX),
            window_pool: config.limits.memory / 4,
            grant,
            state: Arc::downgrade(state),
            agent_use,
            account,
        };
        Ok(Session::new(parts))
    }

    /// Attaches another lane to a session.
    async fn join(&self, mut pipe: TlsPipe, reader: FrameReader, payload: &[u8], peer: SocketAddr) {
        let Ok(join) = message::decode::<Join>(payload) else { return };
        let session = self.state.session(&join.session).filter(|session| {
            handshake::join_proof_holds(&session.resume_secret, &session.id, &join.nonce, join.proof.expose())
                && session.use_nonce(&join.nonce)
        });
        let Some(session) = session else {
            self.state.metrics.error("join", "agent");
            self.state.audit.auth_failed(peer, &join.session, "join_refused");
            tokio::time::sleep(FAILURE_PAUSE).await;
            let _ = self.answer_join(&mut pipe, Some(fault("join_refused", "the session is not known", ""))).await;
            return;
        };
        if session.lanes().len() >= usize::from(session.lanes_max) || !session.is_open() {
            let _ =
                self.answer_join(&mut pipe, Some(fault("lanes_exceeded", "the session has all its lanes", ""))).await;
            return;
        }
        if self.answer_join(&mut pipe, None).await.is_ok() {
            self.start_lane(&session, pipe, reader);
            tracing::debug!(session = %session.id, agent = %session.agent_id, lanes = session.lanes().len(), "lane joined");
        }
    }

    fn start_lane(&self, session: &Arc<Session>, pipe: TlsPipe, reader: FrameReader) {
        let config = self.state.config.load();
        let lane_config = LaneConfig {
            peer_data_cap: session.data_cap,
            peer_window: session.window,
            window: WINDOW,
            window_max: config.tunnel.window_max,
            heartbeat: None,
            // The agent beats; it is given its interval and the time to come back.
            dead_after: config.tunnel.dead_after.max(config.tunnel.heartbeat * 2),
            ..LaneConfig::default()
        };
        let pool = Arc::clone(&session.pool);
        let lane = session
            .add_lane(|number| LaneShared::new(Lane::new(Side::Server, lane_config, pool, Instant::now()), number));
        let Some(lane) = lane else { return };
        let handler = Arc::new(SessionHandler(Arc::clone(session)));
        if session.is_closed() {
            // It was revoked or replaced before its lane was there.
            lane.close(mux::ErrorCode::Unauthorized, "the session has ended");
        }
        let task = LaneTask::new(pipe, lane, handler, reader.into_parts(), DATA_DEFAULT.min(CONTROL_CAP));
        self.state.scope.spawn("lane", task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_cannot_take_all_the_places_of_strangers() {
        let door = Arc::new(Doorkeeper::new(10, 2));
        let first = door.admit("192.0.2.1".parse().unwrap());
        let second = door.admit("192.0.2.99".parse().unwrap());
        assert!(first.is_some() && second.is_some());
        assert!(door.admit("192.0.2.5".parse().unwrap()).is_none());
        assert!(door.admit("198.51.100.1".parse().unwrap()).is_some());
        drop(first);
        assert!(door.admit("192.0.2.5".parse().unwrap()).is_some());
    }

    #[test]
    fn mapped_addresses_count_as_what_they_map() {
        assert_eq!(prefix("::ffff:192.0.2.1".parse().unwrap()), prefix("192.0.2.7".parse().unwrap()));
        assert_ne!(prefix("2001:db8::1".parse().unwrap()), prefix("2001:db8:1::1".parse().unwrap()));
    }
}
