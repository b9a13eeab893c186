//! The audit log: JSON lines of who authenticated, registered, took over, ran into a quota, was expelled.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use adit_core::config::server::LogTarget;
use adit_core::timestamp;
use mux::message::Fault;
use runtime::lines::{LineSink, LineSinkError};
use serde_json::{Map, Value, json};

use super::access::line_target;
use super::account::{Exceeded, Quota};
use super::session::Session;
use crate::lane::LaneEnd;

/// A quota that is exceeded again and again makes one line in this time: visitors must not be able to flood the log.
const QUOTA_EVERY: Duration = Duration::from_secs(1);

/// Where audit lines go.
pub(crate) struct Audit {
    sink: LineSink,
    quotas: Mutex<Refusals>,
}

/// Refusals by quota that have no line yet.
#[derive(Default)]
struct Refusals(HashMap<(String, Quota), Refused>);

struct Refused {
    /// When the last line was written.
    told: Instant,
    /// Refusals since.
    count: u64,
    limit: u64,
}

impl Refusals {
    /// Counts a refusal; says how many a line is to tell of, if it is time for one.
    fn count(&mut self, account: &str, exceeded: &Exceeded, now: Instant) -> Option<u64> {
        let key = (account.to_owned(), exceeded.quota);
        let Some(refused) = self.0.get_mut(&key) else {
            self.0.insert(key, Refused { told: now, count: 0, limit: exceeded.limit });
            return Some(1);
        };
        refused.count += 1;
        refused.limit = exceeded.limit;
        if now.duration_since(refused.told) < QUOTA_EVERY {
            return None;
        }
        refused.told = now;
        Some(std::mem::take(&mut refused.count))
    }

    /// What is left to be told of once nothing more comes: account, quota, limit and count. Forgets who was quiet.
    fn settle(&mut self, now: Instant) -> Vec<(String, Quota, u64, u64)> {
        let mut due = Vec::new();
        self.0.retain(|(account, quota), refused| {
            if now.duration_since(refused.told) < QUOTA_EVERY {
                return true;
            }
            if refused.count == 0 {
                return false;
            }
            due.push((account.clone(), *quota, refused.limit, std::mem::take(&mut refused.count)));
            refused.told = now;
            true
        });
        due
    }
}

impl Audit {
    pub(crate) fn open(target: &LogTarget) -> Result<Self, LineSinkError> {
        Ok(Self { sink: LineSink::open(&line_target(target))?, quotas: Mutex::default() })
    }

    pub(crate) fn reopen(&self) {
        self.sink.reopen();
    }

    fn write(&self, event: &str, fields: Value) {
        let mut line = Map::new();
        line.insert("time".into(), timestamp::format(SystemTime::now()).into());
        line.insert("event".into(), event.into());
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }
        // The callers hold no lock a writer could wait for, but must not wait either: a line that finds the
        // buffer full is said in the program's own log instead, so that it is never lost without a word.
        let line = Value::Object(line).to_string();
        if !self.sink.write(&line) {
            tracing::warn!(%line, "audit log is full");
        }
    }

    fn about(&self, event: &str, session: &Session, fields: Value) {
        let mut all = json!({
            "account": session.account.name(),
            "agent": session.agent_id,
            "session": session.id,
            "peer": session.remote.to_string(),
        });
        if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
            all.extend(fields);
        }
        self.write(event, all);
    }

    pub(crate) fn authenticated(&self, session: &Session) {
        self.about("authenticated", session, json!({ "token": session.grant().token_id }));
    }

    pub(crate) fn auth_failed(&self, peer: SocketAddr, agent: &str, reason: &str) {
        let agent: String = agent.chars().filter(|c| !c.is_control()).take(128).collect();
        self.write("authentication_failed", json!({ "peer": peer.to_string(), "agent": agent, "reason": reason }));
    }

    pub(crate) fn refreshed(&self, session: &Session, token: &str) {
        self.about("token_refreshed", session, json!({ "token": token }));
    }

    pub(crate) fn registered(&self, session: &Session, url: &str, epoch: u64) {
        self.about("registered", session, json!({ "url": url, "epoch": epoch }));
    }

    pub(crate) fn refused(&self, session: &Session, tunnel: u32, fault: &Fault) {
        self.about(
            "registration_refused",
            session,
            json!({ "tunnel": tunnel, "reason": fault.code, "message": fault.message }),
        );
    }

    pub(crate) fn takeover(&self, old: &Session, by: &Session) {
        self.about("takeover", by, json!({ "replaced": old.id, "replaced_peer": old.remote.to_string() }));
    }

    pub(crate) fn expelled(&self, session: &Session, reason: &str) {
        self.about("expelled", session, json!({ "reason": reason }));
    }

    pub(crate) fn session_ended(&self, session: &Session, end: &LaneEnd) {
        self.about("session_ended", session, json!({ "reason": end.to_string() }));
    }

    pub(crate) fn protocol_violation(&self, session: &Session, end: &LaneEnd) {
        self.about("protocol_violation", session, json!({ "reason": end.to_string() }));
    }

    /// A quota was exceeded: the first time is written at once, what follows within a second is counted.
    pub(crate) fn quota(&self, account: &str, exceeded: &Exceeded) {
        let due = self.refusals().count(account, exceeded, Instant::now());
        if let Some(count) = due {
            self.quota_line(account, exceeded.quota, exceeded.limit, count);
        }
    }

    /// Writes of the refusals that were only counted; called about once a second.
    pub(crate) fn settle(&self) {
        let due = self.refusals().settle(Instant::now());
        for (account, quota, limit, count) in due {
            self.quota_line(&account, quota, limit, count);
        }
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quota_line(&self, account: &str, quota: Quota, limit: u64, count: u64) {
        let fields = json!({ "account": account, "quota": quota.name(), "limit": limit, "count": count });
        self.write("quota_exceeded", fields);
    }

    /// Something the operator did: reload, drain.
    pub(crate) fn admin(&self, action: &str, detail: &str) {
        self.write("admin", json!({ "action": action, "detail": detail }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_exceeded_again_and_again_makes_a_line_a_second_with_the_count() {
        let mut refusals = Refusals::default();
        let exceeded = |quota| Exceeded { quota, limit: 5, retry_after: Duration::ZERO };
        let now = Instant::now();
        assert_eq!(refusals.count("a", &exceeded(Quota::Requests), now), Some(1), "the first at once");
        for _ in 0..1000 {
            assert_eq!(refusals.count("a", &exceeded(Quota::Requests), now), None);
        }
        assert_eq!(refusals.count("a", &exceeded(Quota::Streams), now), Some(1), "another quota");
        assert_eq!(refusals.count("b", &exceeded(Quota::Requests), now), Some(1), "another account");
        assert_eq!(refusals.count("a", &exceeded(Quota::Requests), now + QUOTA_EVERY), Some(1001));
        assert_eq!(refusals.count("a", &exceeded(Quota::Requests), now + QUOTA_EVERY), None);
        assert!(refusals.settle(now).is_empty());
        let rest = refusals.settle(now + 2 * QUOTA_EVERY);
        assert_eq!(rest, vec![("a".to_owned(), Quota::Requests, 5, 1)], "none is lost");
        assert!(refusals.settle(now + 3 * QUOTA_EVERY).is_empty() && refusals.0.is_empty(), "and none is kept");
    }
}
