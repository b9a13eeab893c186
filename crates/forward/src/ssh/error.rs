//! Why an SSH server cannot be used, for people.

use std::time::Duration;

use adit_core::diagnose::{Diagnose, Fault};
use adit_core::target::SshServer;

/// Why an SSH server cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SshError {
    /// Its settings cannot be read.
    #[error("the ssh settings of {server} cannot be used: {reason}")]
    Settings {
        /// The server as it was written.
        server: String,
        /// Why.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// There is no way to it.
    #[error("no connection to ssh server {server}: {reason}")]
    Unreachable {
        /// The server as it was written.
        server: String,
        /// Why.
        reason: String,
        /// What to do, when that is known.
        hint: Option<String>,
    },
    /// It was too slow.
    #[error("ssh server {server} did not answer within {after:?}: {step}")]
    Timeout {
        /// The server as it was written.
        server: String,
        /// The deadline.
        after: Duration,
        /// What was waited for.
        step: &'static str,
    },
    /// Nothing is known of its key.
    #[error("the host key of {server} is not known: {kind} {fingerprint}")]
    UnknownKey {
        /// The server as it was written.
        server: String,
        /// The type of the key.
        kind: String,
        /// `SHA256:…`.
        fingerprint: String,
        /// The command that accepts it.
        accept: String,
    },
    /// It has another key than the one that is known.
    #[error(
        "THE HOST KEY OF {server} HAS CHANGED: it shows {kind} {fingerprint}, and {place} says another; somebody may be \
         listening in between"
    )]
    ChangedKey {
        /// The server as it was written.
        server: String,
        /// The type of the key.
        kind: String,
        /// `SHA256:…`.
        fingerprint: String,
        /// File and line of the key that is known.
        place: String,
        /// The command that accepts another one.
        accept: String,
    },
    /// Its key or certificate must not be used.
    #[error("the host key of {server} must not be used: {reason}")]
    BadKey {
        /// The server as it was written.
        server: String,
        /// Why.
        reason: String,
    },
    /// The program `ssh` does not accept its key.
    #[error("the program ssh does not accept the host key of {server}: {reason}")]
    Unaccepted {
        /// The server as it was written.
        server: String,
        /// Why.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// It does not let us in.
    #[error("ssh server {server} refused the login of {user}: tried {tried}; it takes {allowed}")]
    Refused {
        /// The server as it was written.
        server: String,
        /// Who logged in.
        user: String,
        /// What was tried, and why some was not.
        tried: String,
        /// What the server would take.
        allowed: String,
        /// What to do.
        hint: String,
    },
    /// What was said is not SSH as we know it.
    #[error("ssh with {server} failed: {reason}")]
    Protocol {
        /// The server as it was written.
        server: String,
        /// Why.
        reason: String,
        /// Whether trying again may help.
        transient: bool,
    },
    /// The program `ssh` or a proxy command does not do what it should.
    #[error("`{command}` for {server} failed: {reason}")]
    Command {
        /// The server as it was written.
        server: String,
        /// The program.
        command: String,
        /// Why.
        reason: String,
        /// The server had let us in before.
        logged_in: bool,
    },
}

impl SshError {
    /// For settings that `ssh` itself can show.
    pub(crate) fn settings(server: &str, reason: String) -> Self {
        let hint = format!("see what applies with `ssh -G {server}`");
        Self::Settings { server: server.to_owned(), reason, hint }
    }

    /// For whoever waits for a login when the program ends.
    pub(crate) fn ending(server: &str) -> Self {
        Self::Protocol { server: server.to_owned(), reason: "adit ends".to_owned(), transient: false }
    }

    /// As whoever is behind a server is told that this one on the way refused the login: what a forward names is for its last server.
    pub(crate) fn of_hop(mut self, hop: &SshServer) -> Self {
        if let Self::Refused { server, hint, .. } = &mut self
            && *server == hop.to_string()
        {
            *hint = format!(
                "{hint}; {server} is a jump here: key, password_file … of a forward are for its last server alone, and the jump's are \
                 those of its Host in the settings of ssh (IdentityFile)"
            );
        }
        self
    }

    /// Whether waiting may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Command { .. } => true,
            Self::Protocol { transient, .. } => *transient,
            Self::Settings { .. }
            | Self::UnknownKey { .. }
            | Self::ChangedKey { .. }
            | Self::BadKey { .. }
            | Self::Unaccepted { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// Whether it is the server's key, which does not change by itself.
    pub(crate) fn is_host_key(&self) -> bool {
        matches!(
            self,
            Self::UnknownKey { .. } | Self::ChangedKey { .. } | Self::BadKey { .. } | Self::Unaccepted { .. }
        )
    }

    /// Whether somebody has to see to it: then it is not tried again for long, and nobody is made to wait.
    pub(crate) fn is_for_a_person(&self) -> bool {
        self.is_host_key() || self.is_login()
    }

    /// Whether there is no way to it now: nothing was said yet that it could hold against us.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether it was a login that the server may count against us, or one that was good for nothing, as the next ones will be.
    pub(crate) fn is_login(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Command { logged_in: true, .. })
    }
}

impl Diagnose for SshError {
    fn fault(&self) -> Fault {
        match self {
            Self::Settings { .. } => Fault::Config,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Protocol { .. } | Self::Command { .. } => {
                Fault::Upstream
            }
            Self::UnknownKey { .. }
            | Self::ChangedKey { .. }
            | Self::BadKey { .. }
            | Self::Unaccepted { .. }
            | Self::Refused { .. } => Fault::Auth,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Settings { hint, .. } => hint.clone(),
            Self::Unreachable { hint: Some(hint), .. } => hint.clone(),
            Self::Unreachable { server, .. } | Self::Timeout { server, .. } | Self::Protocol { server, .. } => {
                format!("see each step with `adit ssh test {server}`")
            }
            Self::UnknownKey { accept, .. } => {
                format!("compare the fingerprint with the one that the server's owner names, then accept it: {accept}")
            }
            Self::ChangedKey { place, accept, .. } => {
                format!("ask the server's owner; if the key was changed on purpose, delete {place}, then: {accept}")
            }
            Self::BadKey { .. } => {
                "ask the server's owner for its key, or for a certificate that is in force".to_owned()
            }
            Self::Refused { hint, .. } | Self::Unaccepted { hint, .. } => hint.clone(),
            Self::Command { server, .. } => format!("see whether `ssh {server}` works"),
        })
    }
}
