//! Which session serves a route: the registry, and its in-memory form.
//!
//! Reads are local and immediate; writes are conditional on an epoch, so that the late end of an old
//! session never evicts its successor. Other backends come behind the same trait.

use std::collections::HashMap;
use std::sync::RwLock;

use runtime::connect::BoxFuture;

/// What visitors are routed by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteKey {
    /// A lower-case host name.
    Host(String),
    /// A public TCP port.
    Port(u16),
}

impl std::fmt::Display for RouteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

/// One session's claim on a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The session's name.
    pub session: String,
    /// The agent's number for the tunnel.
    pub tunnel: u32,
    /// Rises with every claim; releases name it.
    pub epoch: u64,
    /// The agent, whose newer session replaces its older one's claim.
    pub agent: String,
    /// The session's epoch: an older session of the agent never replaces a newer one.
    pub session_epoch: u64,
}

/// Who serves a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The account that owns it.
    pub account: String,
    /// At least one.
    pub members: Vec<Member>,
}

/// A claim to be made.
#[derive(Debug, Clone)]
pub struct Claim {
    /// What visitors are routed by.
    pub key: RouteKey,
    /// The account that wants it.
    pub account: String,
    /// The agent that serves it.
    pub agent: String,
    /// Its session.
    pub session: String,
    /// The session's epoch.
    pub session_epoch: u64,
    /// The agent's number for the tunnel.
    pub tunnel: u32,
}

/// Why a route cannot be claimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another account serves it now.
    #[error("it belongs to another account")]
    Taken,
    /// A newer session of the same agent serves it.
    #[error("a newer session of this agent serves it")]
    Superseded,
    /// The backend could not be reached; only for backends elsewhere.
    #[error("the registry cannot be written now: {0}")]
    Unavailable(String),
}

/// What a successful claim did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The claim's epoch.
    pub epoch: u64,
    /// The session whose claim it replaced, if the agent had one.
    pub replaced: Option<String>,
}

/// Who serves which route. Object-safe, so that the backend is chosen at run time.
pub trait Registry: Send + Sync + 'static {
    /// Looks a route up in the local copy. Never waits.
    fn lookup(&self, key: &RouteKey) -> Option<Route>;

    /// Claims a route for a session.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, ClaimError>>;

    /// Takes a claim back, if `epoch` is still its epoch. Returns whether anything changed.
    fn release<'a>(&'a self, key: &'a RouteKey, session: &'a str, epoch: u64) -> BoxFuture<'a, bool>;

    /// How many routes are served.
    fn size(&self) -> usize;

    /// All routes, for the admin pages.
    fn routes(&self) -> Vec<(RouteKey, Route)>;
}

/// The registry of a server that stands alone.
#[derive(Debug, Default)]
pub struct MemoryRegistry {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    routes: HashMap<RouteKey, Route>,
    epoch: u64,
}

impl MemoryRegistry {
    fn claim_now(&self, claim: Claim) -> Result<Claimed, ClaimError> {
        let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.epoch += 1;
        let epoch = state.epoch;
        let route = state
            .routes
            .entry(claim.key)
            .or_insert_with(|| Route { account: claim.account.clone(), members: Vec::new() });
        if route.account != claim.account {
            return Err(ClaimError::Taken);
        }
        let member = Member {
            session: claim.session,
            tunnel: claim.tunnel,
            epoch,
            agent: claim.agent,
            session_epoch: claim.session_epoch,
        };
        let replaced = match route.members.iter_mut().find(|m| m.agent == member.agent) {
            Some(newer) if newer.session_epoch > member.session_epoch => return Err(ClaimError::Superseded),
            Some(old) if old.session == member.session => {
                *old = member;
                None
            }
            Some(old) => Some(std::mem::replace(old, member).session),
            None => {
                route.members.push(member);
                None
            }
        };
        Ok(Claimed { epoch, replaced })
    }

    fn release_now(&self, key: &RouteKey, session: &str, epoch: u64) -> bool {
        let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(route) = state.routes.get_mut(key) else { return false };
        let before = route.members.len();
        route.members.retain(|m| !(m.session == session && m.epoch == epoch));
        let changed = route.members.len() != before;
        if route.members.is_empty() {
            state.routes.remove(key);
        }
        changed
    }
}

impl Registry for MemoryRegistry {
    fn lookup(&self, key: &RouteKey) -> Option<Route> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner).routes.get(key).cloned()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, ClaimError>> {
        Box::pin(std::future::ready(self.claim_now(claim)))
    }

    fn release<'a>(&'a self, key: &'a RouteKey, session: &'a str, epoch: u64) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(self.release_now(key, session, epoch)))
    }

    fn size(&self) -> usize {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner).routes.len()
    }

    fn routes(&self) -> Vec<(RouteKey, Route)> {
        let state = self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.routes.iter().map(|(key, route)| (key.clone(), route.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(account: &str, agent: &str, session: &str) -> Claim {
        Claim {
            key: RouteKey::Host("app.example.com".into()),
            account: account.into(),
            agent: agent.into(),
            session: session.into(),
            session_epoch: session.trim_start_matches('s').parse().unwrap_or(0),
            tunnel: 1,
        }
    }

    #[tokio::test]
    async fn a_newer_session_of_the_same_agent_replaces_the_older_and_its_late_end_changes_nothing() {
        let registry = MemoryRegistry::default();
        let key = RouteKey::Host("app.example.com".into());
        let old = registry.claim(claim("a", "x", "s1")).await.unwrap();
        let new = registry.claim(claim("a", "x", "s2")).await.unwrap();
        assert_eq!(new.replaced.as_deref(), Some("s1"));
        assert!(!registry.release(&key, "s1", old.epoch).await);
        assert_eq!(registry.lookup(&key).unwrap().members[0].session, "s2");
        assert!(registry.release(&key, "s2", new.epoch).await);
        assert!(registry.lookup(&key).is_none());
        assert_eq!(registry.size(), 0);
    }

    #[tokio::test]
    async fn an_older_session_of_an_agent_never_replaces_its_newer_one() {
        let registry = MemoryRegistry::default();
        registry.claim(claim("a", "x", "s2")).await.unwrap();
        assert_eq!(registry.claim(claim("a", "x", "s1")).await.unwrap_err(), ClaimError::Superseded);
        let key = claim("a", "x", "s").key;
        assert_eq!(registry.lookup(&key).unwrap().members[0].session, "s2");
        assert_eq!(registry.claim(claim("a", "y", "s1")).await.unwrap().replaced, None, "another agent may");
    }

    #[tokio::test]
    async fn another_account_cannot_take_a_served_route_and_another_agent_joins_it() {
        let registry = MemoryRegistry::default();
        registry.claim(claim("a", "x", "s1")).await.unwrap();
        assert_eq!(registry.claim(claim("b", "y", "s2")).await.unwrap_err(), ClaimError::Taken);
        assert_eq!(registry.claim(claim("a", "y", "s3")).await.unwrap().replaced, None);
        assert_eq!(registry.lookup(&claim("a", "x", "s").key).unwrap().members.len(), 2);
    }

    #[tokio::test]
    async fn claiming_again_in_the_same_session_replaces_nobody() {
        let registry = MemoryRegistry::default();
        registry.claim(claim("a", "x", "s1")).await.unwrap();
        assert_eq!(registry.claim(claim("a", "x", "s1")).await.unwrap().replaced, None);
    }
}
