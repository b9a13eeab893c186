//! Control messages of a session: Register, Unregister, AuthRefresh, TunnelState.

use std::sync::Arc;
use std::time::SystemTime;

use adit_core::name::{Hostname, TunnelName};
use mux::frame::{FrameType, flags};
use mux::message::{
    self, AuthRefresh, Fault, RefreshResponse, Register, Registered, TunnelKind, TunnelResult, TunnelSpec,
    TunnelStates, Unregister,
};

use super::account::{Quota, Use};
use super::auth::Authenticate as _;
use super::registry::{Claim, ClaimError, RouteKey};
use super::reservations::Before;
use super::session::{Published, Session, read_control};
use super::state::{State, fault};
use crate::lane::LaneShared;

/// Tunnels in one Register at the most.
const TUNNELS_A_MESSAGE: usize = 256;
/// Letters and digits of a name the server chooses.
const CHOSEN_NAME_LEN: usize = 10;

impl State {
    /// Answers what a session's lanes brought, one after another in the order it came.
    pub(super) async fn answer_control(self: &Arc<Self>, session: &Arc<Session>) {
        while let Some((lane, kind, payload)) = session.next_control() {
            self.control(session, &lane, kind, &payload).await;
        }
    }

    /// Answers one control message.
    async fn control(
        self: &Arc<Self>,
        session: &Arc<Session>,
        lane: &Arc<LaneShared>,
        kind: FrameType,
        payload: &[u8],
    ) {
        match kind {
            FrameType::Register => {
                let Some(register) = read_control::<Register>(lane, payload) else { return };
                let mut results = Vec::new();
                for spec in register.tunnels.into_iter().take(TUNNELS_A_MESSAGE) {
                    results.push(self.register(session, spec).await);
                }
                lane.send_control(kind, flags::ACK, &message::encode(&Registered { tunnels: results }));
                if let Some(previous) = session.take_previous() {
                    self.retire(previous, session);
                }
            }
            FrameType::Unregister => {
                let Some(unregister) = read_control::<Unregister>(lane, payload) else { return };
                for id in unregister.ids.into_iter().take(TUNNELS_A_MESSAGE) {
                    let _turn = self.turn().await;
                    self.unregister(session, id).await;
                }
                lane.send_control(kind, flags::ACK, b"{}");
            }
            FrameType::AuthRefresh => {
                let Some(refresh) = read_control::<AuthRefresh>(lane, payload) else { return };
                let answer = self.refresh(session, &refresh);
                lane.send_control(kind, flags::ACK, &message::encode(&answer));
            }
            FrameType::TunnelState => self.tunnel_states(session, payload),
            _ => {}
        }
    }

    /// Notes what an agent says of its local services.
    fn tunnel_states(&self, session: &Arc<Session>, payload: &[u8]) {
        let Ok(states) = message::decode::<TunnelStates>(payload) else { return };
        session.with_tunnels(|tunnels| {
            for state in states.tunnels {
                if let Some(tunnel) = tunnels.get_mut(&state.id) {
                    tunnel.healthy = state.healthy;
                    tunnel.reason = state.reason.chars().filter(|c| !c.is_control()).take(200).collect();
                }
            }
        });
    }

    /// Publishes one tunnel. What is authorised is the route that results, not a field of the message (S16).
    async fn register(self: &Arc<Self>, session: &Arc<Session>, spec: TunnelSpec) -> TunnelResult {
        let id = spec.id;
        match self.try_register(session, spec).await {
            Ok((url, epoch)) => TunnelResult { id, error: None, url, epoch },
            Err(error) => {
                self.metrics.error("register", "agent");
                self.audit.refused(session, id, &error);
                TunnelResult { id, error: Some(error), ..TunnelResult::default() }
            }
        }
    }

    async fn try_register(self: &Arc<Self>, session: &Arc<Session>, spec: TunnelSpec) -> Result<(String, u64), Fault> {
        let _turn = self.turn().await;
        // A session that was replaced, or that drains, must not take a name from its successor.
        if !session.is_open() {
            return Err(session_over());
        }
        let published = self.publish(session, &spec).await;
        let answer = match &published {
            Ok(published) => Ok((published.url.clone(), published.epoch)),
            Err(error) => Err(error.clone()),
        };
        // The same tunnel again: only now does the older claim give way, so that a port keeps its listener.
        let older = session.with_tunnels(|tunnels| match published {
            Ok(published) => tunnels.insert(spec.id, published),
            Err(_) => tunnels.remove(&spec.id),
        });
        if let Some(older) = older {
            self.release(&older.key, &session.id, older.epoch).await;
        }
        let (url, epoch) = answer?;
        if session.is_over() {
            // It ended while it registered: nobody else would take the claim back.
            self.unregister(session, spec.id).await;
            return Err(session_over());
        }
        self.metrics.registry_size.set(i64::try_from(self.registry.size()).unwrap_or(i64::MAX));
        self.audit.registered(session, &url, epoch);
        tracing::info!(agent = %session.agent_id, account = session.account.name(), %url, "tunnel published");
        Ok((url, epoch))
    }

    /// Checks, reserves, listens and claims; what fails leaves nothing behind. The caller has the turn.
    async fn publish(self: &Arc<Self>, session: &Arc<Session>, spec: &TunnelSpec) -> Result<Published, Fault> {
        let grant = session.grant();
        if grant.expired(SystemTime::now()) {
            return Err(fault("token_expired", "the token has expired", "get a new token"));
        }
        let (others, older) = session.with_tunnels(|tunnels| {
            let older = tunnels.get(&spec.id).map(|older| older.key.clone());
            (tunnels.len() - usize::from(older.is_some()), older)
        });
        if grant.max_tunnels.is_some_and(|max| others >= max as usize) {
            return Err(fault("quota_exceeded", "this token may publish no more tunnels", "unpublish one"));
        }
        let tunnel_use = self.tunnel_use(session, older.is_some())?;
        let (key, url) = match spec.kind {
            TunnelKind::Http => self.http_route(session, spec)?,
            TunnelKind::Tcp => self.tcp_route(session, spec, older.as_ref())?,
        };
        let epoch = self.claim(session, spec.id, &key).await?;
        Ok(Published { key, epoch, healthy: spec.healthy, reason: String::new(), url, _use: tunnel_use })
    }

    /// Counts a tunnel against the account; one that takes an older one's place counts once.
    fn tunnel_use(&self, session: &Session, replaces: bool) -> Result<Use, Fault> {
        if replaces {
            return Ok(session.account.take_beyond(Quota::Tunnels));
        }
        // The predecessor goes as soon as this session has registered: what it gives back may be taken before.
        session.account.take_besides(Quota::Tunnels, session.tunnels_of_previous()).map_err(|exceeded| {
            self.metrics.quota(exceeded.quota);
            self.audit.quota(session.account.name(), &exceeded);
            let message = format!("the account may publish {} tunnels at once", exceeded.limit);
            fault("quota_exceeded", message, "unpublish one, or ask for a larger quota")
        })
    }

    /// Reserves a route, listens and claims it: all three or none.
    async fn claim(self: &Arc<Self>, session: &Session, tunnel: u32, key: &RouteKey) -> Result<u64, Fault> {
        let before = self.reserve(session, key)?;
        if let RouteKey::Port(port) = key
            && let Err(error) = self.ports.open(self, *port)
        {
            self.reservations.undo(&key.to_string(), before);
            return Err(fault("port_unavailable", error, "ask for another port, or 0 for any"));
        }
        let claim = Claim {
            key: key.clone(),
            account: session.account.name().to_owned(),
            agent: session.agent_id.clone(),
            session: session.id.clone(),
            session_epoch: session.epoch,
            tunnel,
        };
        let error = match self.registry.claim(claim).await {
            Ok(claimed) => return Ok(claimed.epoch),
            Err(error) => error,
        };
        self.reservations.undo(&key.to_string(), before);
        if let RouteKey::Port(port) = key
            && self.registry.lookup(key).is_none()
        {
            self.ports.close(*port).await;
        }
        Err(match error {
            ClaimError::Taken => name_taken(key),
            ClaimError::Superseded => session_over(),
            ClaimError::Unavailable(why) => fault("unavailable", why, "it is tried again"),
        })
    }

    fn http_route(&self, session: &Session, spec: &TunnelSpec) -> Result<(RouteKey, String), Fault> {
        let config = self.config.load();
        let grant = session.grant();
        let host = if !spec.host.is_empty() {
            let host = Hostname::parse(&spec.host)
                .map_err(|error| fault("invalid_name", format!("`{}`: {error}", printable(&spec.host)), ""))?;
            if host.under(&config.public.base_domain).is_some() || host == config.public.base_domain {
                return Err(fault(
                    "invalid_name",
                    format!("`{}` lies under the server's own domain", host.as_str()),
                    "ask for it as a name, not as a custom host",
                ));
            }
            let allowed = grant.may_take_host(&host) || config.hosts_of(session.account.name()).contains(&host);
            if !allowed {
                return Err(not_allowed(host.as_str(), "ask for a token with --host"));
            }
            host
        } else {
            let name = if spec.name.is_empty() {
                self.chosen_name(session)?
            } else {
                TunnelName::parse(&spec.name)
                    .map_err(|error| fault("invalid_name", format!("`{}`: {error}", printable(&spec.name)), ""))?
            };
            if config.is_reserved(name.as_str()) {
                return Err(fault("name_reserved", format!("`{}` is a name nobody gets", name.as_str()), ANOTHER_NAME));
            }
            if !grant.may_take_name(&name) {
                return Err(not_allowed(name.as_str(), "ask for a token with --allow"));
            }
            name.host(&config.public.base_domain)
                .map_err(|error| fault("invalid_name", format!("`{}`: {error}", name.as_str()), ""))?
        };
        let key = RouteKey::Host(host.as_str().to_owned());
        Ok((key, config.public_url(&host, self.public_port)))
    }

    /// A random name the token allows: its first pattern that ends in `*`, filled up.
    fn chosen_name(&self, session: &Session) -> Result<TunnelName, Fault> {
        let grant = session.grant();
        let stem = grant.allow.iter().find_map(|pattern| pattern.as_str().strip_suffix('*')).ok_or_else(|| {
            fault("name_needed", "this token allows only names of its own", "say which one: --as NAME")
        })?;
        let letters = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut name = stem.to_owned();
        for _ in 0..CHOSEN_NAME_LEN {
            name.push(char::from(letters[rand::random_range(0..letters.len())]));
        }
        TunnelName::parse(&name).map_err(|error| fault("invalid_name", error.to_string(), "say which one: --as NAME"))
    }

    /// `older` is what the same tunnel has so far; who asks for any port keeps it.
    fn tcp_route(
        self: &Arc<Self>,
        session: &Session,
        spec: &TunnelSpec,
        older: Option<&RouteKey>,
    ) -> Result<(RouteKey, String), Fault> {
        let config = self.config.load();
        let grant = session.grant();
        let Some(range) = config.public.tcp_ports else {
            return Err(fault(
                "tcp_not_offered",
                "this server publishes no TCP ports",
                "set public.tcp_ports on the server",
            ));
        };
        let account_range = config.accounts.get(session.account.name()).and_then(|account| account.ports);
        let allowed = |port: u16| {
            range.contains(port)
                && (grant.may_take_port(port) || account_range.is_some_and(|range| range.contains(port)))
        };
        let port = if spec.port == 0 {
            let had = match older {
                Some(RouteKey::Port(port)) if allowed(*port) => Some(*port),
                _ => None,
            };
            had.or_else(|| range.iter().find(|port| allowed(*port) && self.is_free(session, *port)))
                .ok_or_else(|| fault("no_free_port", "no TCP port is free for this token", "unpublish one"))?
        } else {
            if !range.contains(spec.port) {
                return Err(fault(
                    "not_allowed",
                    format!(
                        "port {} is not one of this server's: it offers {}-{}",
                        spec.port,
                        range.first(),
                        range.last()
                    ),
                    "choose one of these, or ask the operator to widen public.tcp_ports".to_owned(),
                ));
            }
            if !allowed(spec.port) {
                return Err(fault(
                    "not_allowed",
                    format!("this token may not take port {}", spec.port),
                    "use a port the token allows, or ask for a token with --ports".to_owned(),
                ));
            }
            spec.port
        };
        let key = RouteKey::Port(port);
        Ok((key, format!("tcp://{}:{port}", config.public.base_domain.as_str())))
    }

    /// Whether a port can be had: bound first, as a port that another program has must not be reserved.
    fn is_free(self: &Arc<Self>, session: &Session, port: u16) -> bool {
        let key = RouteKey::Port(port);
        if self.registry.lookup(&key).is_some() {
            return false;
        }
        let Ok(before) = self.reserve(session, &key) else { return false };
        self.reservations.undo(&key.to_string(), before);
        // It stays open for the claim that follows in the same turn.
        self.ports.open_new(self, port)
    }

    fn reserve(&self, session: &Session, key: &RouteKey) -> Result<Before, Fault> {
        let cooldown = self.config.load().names.cooldown;
        self.reservations
            .take(&key.to_string(), session.account.name(), SystemTime::now(), cooldown)
            .map_err(|_| name_taken(key))
    }

    /// Takes a tunnel's claim back. The caller has the turn.
    async fn unregister(&self, session: &Arc<Session>, id: u32) {
        if let Some(old) = session.with_tunnels(|tunnels| tunnels.remove(&id)) {
            self.release(&old.key, &session.id, old.epoch).await;
        }
    }

    fn refresh(&self, session: &Arc<Session>, refresh: &AuthRefresh) -> RefreshResponse {
        let result = self.credentials.authenticate(refresh.token.expose(), SystemTime::now());
        match result {
            Ok(grant) if grant.account == session.account.name() => {
                let expires = grant.expires.map(adit_core::timestamp::unix);
                self.audit.refreshed(session, &grant.token_id);
                session.set_grant(grant);
                self.check_credential(session);
                RefreshResponse { error: None, expires }
            }
            Ok(_) => RefreshResponse {
                error: Some(fault("invalid_token", "the token is of another account", "")),
                expires: None,
            },
            Err(error) => RefreshResponse { error: Some(fault(error.code(), error.to_string(), "")), expires: None },
        }
    }
}

/// The session takes no more registrations; an agent that goes on makes another session.
fn session_over() -> Fault {
    Fault { retry_after_ms: 1000, ..fault("unavailable", "the session ends or was replaced", "it is tried again") }
}

/// What to do about a name that cannot be had.
const ANOTHER_NAME: &str = "ask for another name (--as NAME, or publish.tunnels.NAME.as in adit.yaml)";

fn name_taken(key: &RouteKey) -> Fault {
    let (place, grant) = match key {
        RouteKey::Host(_) => (ANOTHER_NAME, "--allow NAME"),
        RouteKey::Port(_) => {
            ("ask for another port (--port PORT, or publish.tunnels.NAME.port in adit.yaml)", "--ports PORT-PORT")
        }
    };
    let hint = format!(
        "{place}, or use a token of that account, which whoever runs the server makes: adit server token create \
         --account ACCOUNT {grant}; it is given back when its agent has been away for names.cooldown of server.yaml"
    );
    fault("name_taken", format!("{key} belongs to another account"), hint)
}

fn not_allowed(name: &str, otherwise: &str) -> Fault {
    fault(
        "not_allowed",
        format!("this token may not take `{}`", printable(name)),
        format!("use a name the token allows, or {otherwise}"),
    )
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
