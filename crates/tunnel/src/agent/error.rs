//! Why an agent ends.

use adit_core::diagnose::{Diagnose, Fault};
use mux::message;
use runtime::ConnectError;
use runtime::tls::TlsError;

use super::token::TokenError;

/// Why an agent ended, or one attempt to connect failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The server's address is none.
    #[error("`{text}` is not the address of a server")]
    Address {
        /// What was given.
        text: String,
    },
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The way the server is to be verified cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No connection to the server.
    #[error("the server cannot be reached")]
    Unreachable {
        /// What happened.
        #[source]
        source: ConnectError,
    },
    /// The server's certificate is not acceptable.
    #[error("the certificate of {server} is not trusted: {reason}")]
    Untrusted {
        /// `host:port`.
        server: String,
        /// What the verifier said.
        reason: String,
    },
    /// The connection failed after it was made, or the other end is no tunnel server.
    #[error("the conversation with {server} failed: {reason}")]
    Conversation {
        /// `host:port`.
        server: String,
        /// What happened.
        reason: String,
    },
    /// The server refused the agent.
    #[error("the server refused this agent: {} ({})", fault.message, fault.code)]
    Refused {
        /// What the server said.
        fault: message::Fault,
    },
    /// The server ended the session for good.
    #[error("the server dismissed this agent: {reason}")]
    Dismissed {
        /// What the server said.
        reason: String,
    },
    /// The server refused every tunnel, and there is no use in asking again.
    #[error("the server published none of the tunnels: {}", list(faults))]
    NothingPublished {
        /// The tunnels' labels and what the server said of each.
        faults: Vec<(String, message::Fault)>,
    },
}

impl AgentError {
    /// Whether an agent that has never been connected should give up.
    pub(super) fn is_final_at_start(&self, wait_for_server: bool) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Conversation { .. } => !wait_for_server,
            Self::Refused { fault } => fault.retry_after_ms == 0,
            Self::Address { .. }
            | Self::Token(_)
            | Self::Tls(_)
            | Self::Untrusted { .. }
            | Self::Dismissed { .. }
            | Self::NothingPublished { .. } => true,
        }
    }

    /// Whether an agent that was connected before should give up.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Refused { fault } => matches!(fault.code.as_str(), "token_revoked" | "replaced"),
            Self::Address { .. } | Self::Dismissed { .. } => true,
            Self::Token(_)
            | Self::Tls(_)
            | Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::Conversation { .. }
            | Self::NothingPublished { .. } => false,
        }
    }

    /// Whether somebody has to change something, here or at the server, before an attempt can succeed.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { fault } => fault.retry_after_ms == 0,
            Self::Token(_)
            | Self::Tls(_)
            | Self::Untrusted { .. }
            | Self::Dismissed { .. }
            | Self::NothingPublished { .. } => true,
            Self::Address { .. } | Self::Unreachable { .. } | Self::Conversation { .. } => false,
        }
    }

    /// Whether a patient agent asks again after this. One whose place another has taken would take it back.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Refused { fault } => fault.code != "replaced",
            Self::Dismissed { reason } => reason.starts_with("token_"),
            _ => self.is_refusal(),
        }
    }

    /// The word for metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Address { .. } => "address",
            Self::Token(_) => "token",
            Self::Tls(_) | Self::Untrusted { .. } => "tls",
            Self::Unreachable { .. } => "connect",
            Self::Conversation { .. } => "connection",
            Self::Refused { .. } | Self::Dismissed { .. } => "auth",
            Self::NothingPublished { .. } => "register",
        }
    }
}

impl Diagnose for AgentError {
    fn fault(&self) -> Fault {
        match self {
            Self::Address { .. } => Fault::Usage,
            Self::Token(error) => error.fault(),
            Self::Tls(error) => error.fault(),
            Self::Unreachable { source } => source.fault(),
            Self::Untrusted { .. } | Self::Conversation { .. } => Fault::Upstream,
            Self::Refused { fault } => fault_of(fault),
            Self::Dismissed { .. } => Fault::Auth,
            Self::NothingPublished { faults } => faults.first().map_or(Fault::Internal, |(_, fault)| fault_of(fault)),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Address { .. } => Some("write it as host:port, such as tunnel.example.com:8443".into()),
            Self::Token(error) => error.hint(),
            Self::Tls(error) => error.hint(),
            Self::Unreachable { source } => source.hint(),
            Self::Untrusted { .. } => Some(
                "compare it with the `fingerprint` line the server printed at its start and pin that (--fingerprint, or \
                 publish.fingerprint in adit.yaml), or name its authority (--ca-file, or publish.ca_file)"
                    .into(),
            ),
            Self::Conversation { .. } => {
                Some("check that this is the server's port for agents (8443 as a rule)".into())
            }
            Self::Refused { fault } => hint_of(fault),
            Self::Dismissed { .. } => {
                Some("another agent with the same id may have taken over, or the token was revoked".into())
            }
            Self::NothingPublished { faults } => faults.first().and_then(|(_, fault)| hint_of(fault)),
        }
    }
}

/// Who has to act on something the server refused.
fn fault_of(fault: &message::Fault) -> Fault {
    let code = fault.code.as_str();
    if code.contains("quota") || code.starts_with("too_many") || code.contains("limit") {
        Fault::Quota
    } else if matches!(code, "draining" | "busy" | "unavailable" | "internal" | "timeout") {
        Fault::Upstream
    } else if matches!(code, "bad_request" | "bad_name" | "bad_host" | "invalid_name" | "unsupported") {
        Fault::Config
    } else {
        Fault::Auth
    }
}

fn hint_of(fault: &message::Fault) -> Option<String> {
    (!fault.hint.is_empty()).then(|| fault.hint.clone())
}

fn list(faults: &[(String, message::Fault)]) -> String {
    let each: Vec<_> = faults.iter().map(|(name, fault)| format!("{name}: {}", fault.message)).collect();
    each.join("; ")
}

#[cfg(test)]
mod tests {
    use adit_core::diagnose::exit_code;

    use super::*;

    fn refused(code: &str, retry_after_ms: u32) -> AgentError {
        AgentError::Refused { fault: message::Fault { code: code.into(), retry_after_ms, ..Default::default() } }
    }

    #[test]
    fn a_refused_token_ends_the_agent_at_the_start_with_exit_code_3() {
        let error = refused("invalid_token", 0);
        assert!(error.is_final_at_start(true));
        assert!(!error.is_final(), "later it goes on trying: the token may come back");
        assert_eq!(exit_code(error.fault()), 3);
    }

    #[test]
    fn a_patient_agent_asks_again_whatever_can_be_mended_and_takes_nothing_back_from_a_successor() {
        let dismissed = |reason: &str| AgentError::Dismissed { reason: reason.into() };
        assert!(refused("invalid_token", 0).may_pass() && dismissed("token_revoked").may_pass());
        assert!(AgentError::NothingPublished { faults: Vec::new() }.may_pass());
        assert!(!refused("replaced", 0).may_pass());
        assert!(!dismissed("another agent with this agent id connected").may_pass());
        assert!(!refused("too_many_agents", 1000).is_refusal(), "that passes by itself");
    }

    #[test]
    fn a_server_that_asks_for_patience_gets_it() {
        assert!(!refused("too_many_agents", 1000).is_final_at_start(true));
        assert_eq!(refused("too_many_agents", 0).fault(), Fault::Quota);
    }

    #[test]
    fn a_revoked_token_and_a_successor_end_it_at_any_time() {
        assert!(refused("token_revoked", 0).is_final());
        assert!(refused("replaced", 0).is_final());
    }

    #[test]
    fn an_unreachable_server_is_waited_for_if_wished() {
        let error = || AgentError::Conversation { server: "h:1".into(), reason: "x".into() };
        assert!(!error().is_final_at_start(true));
        assert!(error().is_final_at_start(false));
        assert_eq!(exit_code(error().fault()), 4);
    }
}
