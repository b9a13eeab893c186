//! That there is no way to the API server, for whoever waits for a pod: it is not the pod's fault, and is told sooner.

use std::time::Duration;

use adit_core::diagnose::Diagnose as _;
use runtime::connect::ConnectError;

use super::api::{Api, ApiError};

/// Why there is no way to the API server, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreached {
    reason: String,
    hint: String,
    /// It says nothing, as opposed to a refusal.
    is_silent: bool,
}

impl Unreached {
    /// `None` for what the API server has said itself.
    pub(crate) fn of(api: &Api, error: &ApiError) -> Option<Self> {
        let context = api.context();
        let (reason, is_silent) = match error {
            ApiError::Unreachable { server, reason, .. } => {
                (format!("{server} (context `{context}`) cannot be reached: {reason}"), error.is_silence())
            }
            ApiError::Timeout { server, after } => {
                (format!("{server} (context `{context}`) did not answer within {after:?}"), true)
            }
            _ => return None,
        };
        let hint = error.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
        let hint = format!("{hint}`kubectl{} cluster-info` tells more", api.kubectl_flags());
        Some(Self { reason, hint, is_silent })
    }

    /// What to do.
    pub(super) fn hint(&self) -> &str {
        &self.hint
    }

    /// As the error of a connection to `target` that has waited so long.
    pub(crate) fn into_connect(self, target: String, after: Duration) -> ConnectError {
        let hint = Some(self.hint);
        match self.is_silent {
            true => ConnectError::NotReady { target, after, reason: self.reason, hint },
            false => ConnectError::Unavailable { target, reason: self.reason, hint },
        }
    }
}
