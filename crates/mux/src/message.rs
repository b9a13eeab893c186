//! Control messages: JSON objects, unknown fields ignored, missing ones defaulted.

use serde::{Deserialize, Serialize};

/// Text that must not appear in logs; `Debug` shows nothing of it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Opaque(String);

impl Opaque {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Opaque {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// AuthRequest: the first frame of a session.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthRequest {
    /// Token or JWT.
    pub token: Opaque,
    /// Names the agent across restarts; a newer session with the same one takes over.
    pub agent_id: String,
    /// Random, new each time the agent program starts.
    pub instance: String,
    /// Program and version, for logs.
    pub software: String,
    /// Names of optional features; unknown ones are ignored.
    pub capabilities: Vec<String>,
    /// Longest Data payload this side takes, in bytes.
    pub data_cap: u32,
    /// Initial credit of streams opened towards this side, in bytes.
    pub window: u32,
    /// Lanes wanted.
    pub lanes: u8,
}

/// AuthResponse.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthResponse {
    /// Why not; absent when the agent is welcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// Names the session.
    pub session: String,
    /// Key for Join proofs, 64 hex digits.
    pub resume_secret: Opaque,
    /// Rises with each session of the same agent; older ones are fenced.
    pub epoch: u64,
    /// Account the credential belongs to.
    pub account: String,
    /// Longest Data payload this side takes, in bytes.
    pub data_cap: u32,
    /// Initial credit of streams opened towards this side, in bytes.
    pub window: u32,
    /// Heartbeat interval when idle, in milliseconds.
    pub heartbeat_ms: u32,
    /// Lanes granted.
    pub lanes: u8,
    /// When the credential ends, in seconds since 1970; the session ends then unless refreshed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Program and version, for logs.
    pub software: String,
    /// Other servers an agent may use, `host:port`.
    pub servers: Vec<String>,
}

/// AuthRefresh; its ACK is a [`RefreshResponse`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthRefresh {
    /// The new credential.
    pub token: Opaque,
}

/// Answer to AuthRefresh.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RefreshResponse {
    /// Why not; the old credential stays in force until its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// When the new credential ends, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// Join: another lane of a session. Its ACK is a [`JoinResponse`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Join {
    /// The session to join.
    pub session: String,
    /// HMAC-SHA256 by the resume secret, 64 hex digits.
    pub proof: Opaque,
    /// Random, 32 hex digits; never used twice in a session.
    pub nonce: String,
}

/// Answer to Join.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JoinResponse {
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

/// Register: tunnels to publish. Its ACK is a [`Registered`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Register {
    /// The tunnels.
    pub tunnels: Vec<TunnelSpec>,
}

/// One tunnel an agent wants to publish.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelSpec {
    /// The agent's number for it, used in Open.
    pub id: u32,
    /// What it carries.
    pub kind: TunnelKind,
    /// Subdomain wanted; empty lets the server choose one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Custom host wanted instead of a subdomain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// TCP port wanted; 0 lets the server choose one.
    pub port: u16,
    /// Whether the local health check passes.
    #[serde(default = "yes")]
    pub healthy: bool,
}

fn yes() -> bool {
    true
}

/// What a tunnel carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// HTTP requests, routed by host.
    #[default]
    Http,
    /// TCP connections, routed by port.
    Tcp,
}

/// Answer to Register.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Registered {
    /// One result for each tunnel asked for.
    pub tunnels: Vec<TunnelResult>,
}

/// What became of one tunnel.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelResult {
    /// The agent's number for it.
    pub id: u32,
    /// Why not; absent when it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// What visitors open, e.g. `https://app1.example.com` or `tcp://example.com:15432`.
    pub url: String,
    /// The registration's epoch.
    pub epoch: u64,
}

/// Unregister: tunnels to take back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unregister {
    /// The agent's numbers for them.
    pub ids: Vec<u32>,
}

/// TunnelState: what the server should know of tunnels' local side.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelStates {
    /// The tunnels that changed.
    pub tunnels: Vec<TunnelState>,
}

/// The state of one tunnel.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelState {
    /// The agent's number for it.
    pub id: u32,
    /// Whether its local health check passes.
    pub healthy: bool,
    /// What the health check saw, for the page visitors get meanwhile.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// GoAway: the sender takes no new streams.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GoAway {
    /// The last stream accepted; later ones were not processed.
    pub last_stream: u32,
    /// Why, for people.
    pub reason: String,
    /// When to come back, in milliseconds; 0 is at once.
    pub retry_after_ms: u32,
    /// Do not come back at all: the credential was revoked, or a newer session took over.
    pub permanent: bool,
    /// Other servers, `host:port`.
    pub servers: Vec<String>,
}

/// Why something was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// Stable word for programs, e.g. `invalid_token`, `name_taken`, `quota_exceeded`.
    pub code: String,
    /// What happened, for people.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// When trying again makes sense, in milliseconds; 0 when it does not.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_ms: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Encodes a message. Ours always can be.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages hold only strings, numbers and lists")
}

/// Decodes a message.
///
/// # Errors
/// What JSON is at fault, without its content, which may be secret.
pub fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, MessageError> {
    serde_json::from_slice(payload).map_err(|error| MessageError { line: error.line(), column: error.column() })
}

/// A control message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control message cannot be read at {line}:{column}")]
pub struct MessageError {
    line: usize,
    column: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_ignored_and_missing_ones_defaulted() {
        let got: TunnelSpec = decode(br#"{"id":3,"later":{"a":1}}"#).unwrap();
        assert_eq!(got, TunnelSpec { id: 3, healthy: true, ..TunnelSpec::default() });
    }

    #[test]
    fn a_token_never_shows_in_debug_output() {
        let request = AuthRequest { token: Opaque::new("adit_secret"), ..AuthRequest::default() };
        assert!(!format!("{request:?}").contains("adit_secret"));
        assert!(String::from_utf8(encode(&request)).unwrap().contains("adit_secret"));
    }

    #[test]
    fn an_unreadable_message_is_described_without_its_content() {
        let error = decode::<AuthRequest>(br#"{"token": adit_secret}"#).unwrap_err();
        assert!(!error.to_string().contains("adit_secret"));
    }
}
