//! What to do about a published target whose certificate is not trusted. For a tunnel's target there is neither an
//! authority's file nor a fingerprint to write, which is what is said of servers.

use runtime::connect::ConnectError;

use crate::report::{Failure, failure};

const HINT: &str = "install its authority on this machine, or write `verify: false` into the tunnel, which is for services of \
                    this machine and of a cluster";

/// Why a tunnel's target cannot be reached.
pub(super) fn of_target(error: &ConnectError) -> Failure {
    let failure = failure(error);
    match error {
        ConnectError::Certificate { .. } => Failure::new(failure.kind(), failure.message(), HINT),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_for_an_untrusted_target_names_what_a_tunnel_can_have() {
        let why = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let failure = of_target(&ConnectError::Certificate { target: "127.0.0.1:8443".into(), why });
        assert!(failure.hint().is_some_and(|hint| hint.contains("`verify: false`") && !hint.contains("pin")));
        let late = of_target(&ConnectError::Timeout { target: "127.0.0.1:1".into(), after: std::time::Duration::ZERO });
        assert!(late.hint().is_some_and(|hint| !hint.contains("verify")));
    }
}
