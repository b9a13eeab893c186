//! The audit log: JSON lines of who authenticated, registered, took over, ran into a quota, was expelled.

use std::net::SocketAddr;
use std::time::SystemTime;

use adit_core::config::server::LogTarget;
use adit_core::timestamp;
use mux::message::Fault;
use runtime::lines::{LineSink, LineSinkError};
use serde_json::{Map, Value, json};

use super::access::line_target;
use super::account::Exceeded;
use super::session::Session;
use crate::lane::LaneEnd;

/// Where audit lines go.
#[derive(Clone)]
pub(crate) struct Audit {
    sink: LineSink,
}

impl Audit {
    pub(crate) fn open(target: &LogTarget) -> Result<Self, LineSinkError> {
        Ok(Self { sink: LineSink::open(&line_target(target))? })
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

    pub(crate) fn quota(&self, account: &str, exceeded: &Exceeded) {
        self.write(
            "quota_exceeded",
            json!({ "account": account, "quota": exceeded.quota.name(), "limit": exceeded.limit }),
        );
    }

    /// Something the operator did: reload, drain.
    pub(crate) fn admin(&self, action: &str, detail: &str) {
        self.write("admin", json!({ "action": action, "detail": detail }));
    }
}
