//! What an error means for its reader: the kind of fault, the exit code, the HTTP status, and what to do.

/// The kind of a fault, by who has to act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The command line is wrong.
    Usage,
    /// A file or a setting is wrong.
    Config,
    /// A credential was missing, wrong, expired or revoked.
    Auth,
    /// A limit of the account or of the server was reached.
    Quota,
    /// The side towards the service did not answer: the local service, the agent or the server.
    Upstream,
    /// The side towards the client went away or broke the rules.
    Downstream,
    /// The system or the policy here does not permit it.
    NotPermitted,
    /// A defect of adit itself.
    Internal,
}

impl Fault {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 8] = [
        Self::Usage,
        Self::Config,
        Self::Auth,
        Self::Quota,
        Self::Upstream,
        Self::Downstream,
        Self::NotPermitted,
        Self::Internal,
    ];

    /// The kind as one lower-case word, for logs, JSON and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Config => "config",
            Self::Auth => "auth",
            Self::Quota => "quota",
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
            Self::NotPermitted => "not_permitted",
            Self::Internal => "internal",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Implemented by every public error: one report layer renders it for a terminal, JSON or an HTTP page.
pub trait Diagnose: std::error::Error {
    /// The kind of fault.
    fn fault(&self) -> Fault;

    /// What to do about it: the key, the command, a free port nearby.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// The exit code of a program that ends with this fault.
#[must_use]
pub const fn exit_code(fault: Fault) -> u8 {
    match fault {
        Fault::Quota | Fault::Downstream | Fault::Internal => 1,
        Fault::Usage | Fault::Config => 2,
        Fault::Auth => 3,
        Fault::Upstream => 4,
        Fault::NotPermitted => 5,
    }
}

/// The HTTP status of an answer about this fault.
#[must_use]
pub const fn http_status(fault: Fault) -> u16 {
    match fault {
        Fault::Usage | Fault::Downstream => 400,
        Fault::Auth => 401,
        Fault::NotPermitted => 403,
        Fault::Quota => 429,
        Fault::Config | Fault::Internal => 500,
        Fault::Upstream => 502,
    }
}

/// An error's text and those of its causes, each once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // What the system calls a refusal is no news behind our own word for it.
        let again = text.ends_with("refused the connection") && more.starts_with("Connection refused");
        if !text.ends_with(&more) && !again {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_exit_code() {
        let table = [
            (Fault::Usage, 2),
            (Fault::Config, 2),
            (Fault::Auth, 3),
            (Fault::Quota, 1),
            (Fault::Upstream, 4),
            (Fault::Downstream, 1),
            (Fault::NotPermitted, 5),
            (Fault::Internal, 1),
        ];
        assert_eq!(table.map(|(fault, _)| fault), Fault::ALL);
        for (fault, code) in table {
            assert_eq!(exit_code(fault), code, "{fault}");
        }
    }

    #[test]
    fn every_fault_has_its_http_status() {
        let table = [
            (Fault::Usage, 400),
            (Fault::Config, 500),
            (Fault::Auth, 401),
            (Fault::Quota, 429),
            (Fault::Upstream, 502),
            (Fault::Downstream, 400),
            (Fault::NotPermitted, 403),
            (Fault::Internal, 500),
        ];
        assert_eq!(table.map(|(fault, _)| fault), Fault::ALL);
        for (fault, status) in table {
            assert_eq!(http_status(fault), status, "{fault}");
        }
    }
}
