//! Which trouble is that of a whole cluster: it is told once, however many forwards lead there.

use std::sync::Arc;

use adit_core::diagnose::chain;
use adit_core::forward::Reason;

use super::api::ApiError;

impl ApiError {
    /// As the reason of a forward, in these words.
    pub(crate) fn reason(&self, text: impl Into<Arc<str>>) -> Reason {
        Reason { text: text.into(), shared: self.is_of_cluster().then(|| chain(self).into()) }
    }

    /// Whether it is about the cluster, or who we are there: all that leads there has the same trouble. Other answers are
    /// about the one thing that was asked for, but for too many requests, and the three of a proxy that finds no server.
    fn is_of_cluster(&self) -> bool {
        match self {
            Self::Plugin { .. }
            | Self::Credentials { .. }
            | Self::Unauthorized { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. } => true,
            Self::Status { code, .. } => matches!(code, 429 | 502..=504),
            Self::Config(_)
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Gone { .. }
            | Self::Decode { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_about_one_object_is_no_trouble_of_the_cluster() {
        let shared = |code| {
            let error = ApiError::of_status(code, "", "away");
            let reason = error.reason(format!("no connection to pod web-1: {error}"));
            assert!(reason.text.starts_with("no connection to pod web-1: "));
            (reason.shared.as_deref().map(str::to_owned), error.to_string())
        };
        for code in [400, 403, 404, 410, 500] {
            assert_eq!(shared(code).0, None, "{code}");
        }
        for code in [401, 429, 502, 503, 504] {
            let (part, whole) = shared(code);
            assert_eq!(part, Some(whole), "{code}: what is about the pod is no part of it");
        }
        let silent = ApiError::Timeout { server: "the API server h:1".into(), after: Duration::from_secs(5) };
        assert_eq!(silent.reason("x").shared.as_deref(), Some(silent.to_string().as_str()));
    }
}
