//! Why the gateway answers itself.

use std::time::Duration;

use adit_core::diagnose::{Diagnose as _, chain};
use adit_core::head::HeadFault;
use http::StatusCode;
use runtime::ConnectError;
use runtime::connect::MissingPart;
use runtime::tls::Untrusted;

/// One list for the words and their texts, so that none is left out.
macro_rules! words {
    ($($word:ident = $text:literal,)+) => {
        /// What went wrong, as a stable word: what is answered, and what it is too late to answer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each says what its text says")]
        pub enum Word {
            $($word,)+
        }

        impl Word {
            /// All of them, in their order.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$word),+];

            /// The word as programs, logs and pages read it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)+
                }
            }
        }
    };
}

words! {
    BadRequest = "bad_request",
    Unauthorized = "unauthorized",
    TooManyGuesses = "too_many_guesses",
    NotAllowed = "not_allowed",
    UnknownHost = "unknown_host",
    NotFound = "not_found",
    Misdirected = "misdirected_request",
    HeadTooLarge = "head_too_large",
    NotSupported = "not_supported",
    Unreachable = "unreachable",
    StartFailed = "start_failed",
    BadAnswer = "bad_answer",
    NoAnswer = "no_answer",
    Timeout = "timeout",
    AtItsLimit = "at_its_limit",
    Draining = "draining",
    Truncated = "truncated",
    ResetFlood = "reset_flood",
    BodyTooSlow = "body_too_slow",
}

/// Why the gateway answers itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request is malformed: what is wrong with it.
    BadRequest { what: String },
    /// The route wants a user and a password.
    Unauthorized { realm: String },
    /// The client gave wrong passwords, and has to wait for so long.
    TooManyGuesses { wait: Duration },
    /// A page of another site asked for the services of this context.
    ForeignList { context: String },
    /// The host is understood and not allowed.
    Refused { reason: String, hint: Option<String> },
    /// No route has this host; which could be meant, and what is wrong with it as a dynamic one.
    UnknownHost { host: String, near: Vec<String>, reason: Option<String>, hint: Option<String> },
    /// The index is at `/` alone.
    NotFound { path: String },
    /// The connection's TLS name is another than the request's host.
    Misdirected { sni: String, host: String },
    /// A larger head than anybody needs, or more headers.
    HeadTooLarge { what: String },
    /// Something HTTP has and we have not.
    NotSupported { status: u16, what: String },
    /// The target cannot be reached: why, and what to do.
    Unreachable { reason: String, hint: Option<String> },
    /// The target carries as much as it may.
    Full { reason: String, hint: Option<String> },
    /// The target is not there: what of it, and what could be meant.
    Missing { reason: String, hint: Option<String>, part: MissingPart, near: Vec<String> },
    /// The kubeconfig has no such context; which could be meant.
    NoContext { context: String, near: Vec<String> },
    /// The target did not come up in time.
    StartTimeout { reason: String, hint: Option<String> },
    /// The route cannot be used now.
    Failed { reason: String, hint: Option<String> },
    /// The target's answer was not HTTP.
    BadAnswer { target: String },
    /// The target closed the connection instead of answering.
    NoAnswer { target: String },
    /// One of the two before, with what to do about it.
    NotHttp { problem: Box<Self>, hint: String },
    /// No connection in the time the route allows.
    Unreached { target: String, after: Duration },
    /// No answer in the time the route allows.
    Timeout { target: String, after: Duration },
    /// The client sends its body too slowly.
    SlowBody,
    /// The gateway is shutting down.
    Draining,
}

impl Problem {
    pub(crate) fn bad(what: &str) -> Self {
        Self::BadRequest { what: what.to_owned() }
    }

    /// Why there is no connection for an upstream; `terminates` as in its options.
    pub(crate) fn of_connect(error: &ConnectError, terminates: bool) -> Self {
        let hint = match error {
            ConnectError::Certificate { why, .. } => Some(of_certificate(why, terminates)),
            error => error.hint(),
        };
        let reason = chain(error);
        if let ConnectError::Missing { part, near, .. } = error {
            return Self::Missing { reason, hint, part: *part, near: near.clone() };
        }
        if let ConnectError::Full { .. } = error {
            return Self::Full { reason, hint };
        }
        if error.is_timeout() { Self::StartTimeout { reason, hint } } else { Self::Unreachable { reason, hint } }
    }

    /// With what the upstream says to do about an answer that is none.
    pub(crate) fn with_hint(self, hint: impl FnOnce() -> Option<String>) -> Self {
        match self {
            Self::BadAnswer { .. } | Self::NoAnswer { .. } => match hint() {
                Some(hint) => Self::NotHttp { problem: Box::new(self), hint },
                None => self,
            },
            problem => problem,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotHttp { problem, .. } => problem.status(),
            Self::BadRequest { .. } => StatusCode::BAD_REQUEST,
            Self::NotSupported { status, .. } => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::TooManyGuesses { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused { .. } | Self::ForeignList { .. } => StatusCode::FORBIDDEN,
            Self::UnknownHost { .. } | Self::NotFound { .. } | Self::NoContext { .. } => StatusCode::NOT_FOUND,
            Self::Misdirected { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Unreachable { .. }
            | Self::Missing { .. }
            | Self::Failed { .. }
            | Self::BadAnswer { .. }
            | Self::NoAnswer { .. } => StatusCode::BAD_GATEWAY,
            Self::StartTimeout { .. } | Self::Unreached { .. } | Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Full { .. } | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The stable word for programs, logs and counters.
    pub(crate) fn word(&self) -> Word {
        match self {
            Self::NotHttp { problem, .. } => problem.word(),
            Self::BadRequest { .. } => Word::BadRequest,
            Self::Unauthorized { .. } => Word::Unauthorized,
            Self::TooManyGuesses { .. } => Word::TooManyGuesses,
            Self::Refused { .. } | Self::ForeignList { .. } => Word::NotAllowed,
            Self::UnknownHost { .. } => Word::UnknownHost,
            Self::NotFound { .. } | Self::NoContext { .. } => Word::NotFound,
            Self::Misdirected { .. } => Word::Misdirected,
            Self::HeadTooLarge { .. } => Word::HeadTooLarge,
            Self::NotSupported { .. } => Word::NotSupported,
            Self::Unreachable { .. } | Self::Missing { .. } => Word::Unreachable,
            Self::Failed { .. } => Word::StartFailed,
            Self::BadAnswer { .. } => Word::BadAnswer,
            Self::NoAnswer { .. } => Word::NoAnswer,
            Self::StartTimeout { .. } | Self::Unreached { .. } | Self::Timeout { .. } => Word::Timeout,
            Self::SlowBody => Word::BodyTooSlow,
            Self::Full { .. } => Word::AtItsLimit,
            Self::Draining => Word::Draining,
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::NotHttp { problem, .. } => problem.message(),
            Self::BadRequest { what, .. } | Self::HeadTooLarge { what } | Self::NotSupported { what, .. } => {
                format!("The request was refused: {what}.")
            }
            Self::Unauthorized { .. } => "This route needs a user and a password.".into(),
            Self::TooManyGuesses { .. } => "Too many wrong passwords came from your address.".into(),
            Self::ForeignList { .. } => "A page of another site asked for this list.".into(),
            Self::Refused { reason, .. }
            | Self::Unreachable { reason, .. }
            | Self::Full { reason, .. }
            | Self::Missing { reason, .. }
            | Self::StartTimeout { reason, .. }
            | Self::Failed { reason, .. } => sentence(reason),
            Self::UnknownHost { host, reason: None, .. } => format!("No route has the host {host}."),
            Self::UnknownHost { host, reason: Some(reason), .. } => {
                format!("The host {host} leads nowhere: {reason}.")
            }
            Self::NoContext { context, .. } => format!("The context `{context}` is not in the kubeconfig."),
            Self::NotFound { path } => format!("There is nothing at {path} here; this is the gateway itself."),
            Self::Misdirected { sni, host } => {
                format!("This connection was made for {sni}, and the request is for {host}.")
            }
            Self::BadAnswer { target } => format!("The answer of {target} was not valid HTTP."),
            Self::NoAnswer { target } => format!("{target} closed the connection before it answered."),
            Self::Unreached { target, after } => format!("{target} could not be reached within {after:?}."),
            Self::Timeout { target, after } => format!("{target} did not answer within {after:?}."),
            Self::SlowBody => "The request's body came too slowly.".into(),
            Self::Draining => "The gateway is shutting down.".into(),
        }
    }

    pub(crate) fn hint(&self) -> String {
        match self {
            Self::BadRequest { .. } | Self::HeadTooLarge { .. } => "Check the client that sent it.".into(),
            Self::Unauthorized { .. } => "They are in the route's basic_auth.".into(),
            Self::TooManyGuesses { wait } => format!("Try again in {} s.", seconds(*wait)),
            Self::ForeignList { .. } => "Open it yourself, by the link on this page.".into(),
            Self::Refused { hint, .. }
            | Self::Unreachable { hint, .. }
            | Self::Full { hint, .. }
            | Self::Missing { hint, .. }
            | Self::StartTimeout { hint, .. }
            | Self::Failed { hint, .. } => hint.as_deref().map(sentence).unwrap_or_default(),
            Self::UnknownHost { hint: Some(hint), .. } | Self::NotHttp { hint, .. } => sentence(hint),
            Self::UnknownHost { near, .. } => match near.iter().find(|near| !is_pattern(near)).or(near.first()) {
                // It cannot be opened as it is written.
                Some(pattern) if is_pattern(pattern) => {
                    format!("The route {pattern} is for hosts with a name in place of the asterisk.")
                }
                Some(near) => format!("Did you mean {near}?"),
                None => "Check the address, or add a route for it to gateway.routes.".into(),
            },
            Self::NoContext { near, .. } => match near.first() {
                Some(near) => format!("Did you mean {near}?"),
                None => "The index at / lists the contexts there are.".into(),
            },
            Self::NotFound { .. } => "The index is at /.".into(),
            Self::Misdirected { .. } => "Open a new connection for this host.".into(),
            Self::NotSupported { status: 405, .. } => "Open it by GET.".into(),
            Self::NotSupported { .. } => "Send it to the service itself, past the gateway.".into(),
            Self::BadAnswer { .. } => {
                "Check that the port speaks HTTP. If it wants TLS, write `scheme: https` into its route, or `.https` behind \
                 the port of a dynamic host."
                    .into()
            }
            Self::NoAnswer { .. } => "Check the service's own log; it may have crashed.".into(),
            Self::Unreached { .. } => "Try again, or raise the route's timeout: starting and connecting count.".into(),
            Self::Timeout { .. } => "Check what keeps the service busy, or raise the route's timeout.".into(),
            Self::SlowBody => "Check the connection and try again.".into(),
            Self::Draining => "Try again in a moment.".into(),
        }
    }
}

impl From<HeadFault> for Problem {
    fn from(fault: HeadFault) -> Self {
        let (status, what) = (fault.status(), fault.to_string());
        match status {
            431 => Self::HeadTooLarge { what },
            501 | 505 => Self::NotSupported { status, what },
            _ => Self::BadRequest { what },
        }
    }
}

/// Whether a route's host stands for many.
fn is_pattern(host: &str) -> bool {
    host.contains('*')
}

/// What to write into a route whose service shows a certificate that is not trusted.
fn of_certificate(why: &rustls::Error, terminates: bool) -> String {
    // Another map in place of the word would end what the word says.
    let mode = if terminates { "mode: terminate, " } else { "" };
    let first = match Untrusted::of(why) {
        Untrusted::Issuer | Untrusted::Other => format!("name its authority in the route, tls: {{ {mode}ca: FILE }}"),
        Untrusted::Name => format!("name the host it is for in the route, tls: {{ {mode}server_name: HOST }}"),
        Untrusted::Time => "renew it, or check the clocks".to_owned(),
        Untrusted::Authority => format!(
            "give the service a certificate that the authority has signed, and name the authority in the route, \
             tls: {{ {mode}ca: FILE }}"
        ),
    };
    let any = format!("{first}; or trust any certificate there: tls: {{ {mode}verify: false }}");
    if terminates { any } else { format!("{any}; or open it by https, which goes through to the service") }
}

/// Whole seconds, at least one, after which a wait is over.
pub(crate) fn seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// A reason in lower case as a sentence.
fn sentence(reason: &str) -> String {
    let mut chars = reason.chars();
    let mut text: String = chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect();
    // A target stays as it is written.
    if reason.split([' ', ',']).next().is_some_and(|word| word.contains([':', '/', '.'])) {
        text = reason.to_owned();
    }
    if !text.ends_with(['.', '!', '?']) {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_becomes_a_sentence_and_a_target_stays_as_it_is() {
        assert_eq!(sentence("no pod is ready"), "No pod is ready.");
        assert_eq!(sentence("k8s://dev/web refused"), "k8s://dev/web refused.");
    }

    #[test]
    fn where_tls_ends_here_the_hint_keeps_that_and_sends_nobody_to_https() {
        let why = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let told = of_certificate(&why, true);
        assert!(told.contains("tls: { mode: terminate, verify: false }"), "{told}");
        assert!(told.contains("tls: { mode: terminate, ca: FILE }") && !told.contains("https"), "{told}");
        let told = of_certificate(&why, false);
        assert!(told.contains("tls: { verify: false }; or open it by https"), "{told}");
    }

    #[test]
    fn a_pattern_is_no_host_that_could_be_meant() {
        let hint = |near: &[&str]| {
            let near = near.iter().map(|near| (*near).to_owned()).collect();
            Problem::UnknownHost { host: "apps.localhost".into(), near, reason: None, hint: None }.hint()
        };
        assert_eq!(hint(&["*.apps.localhost", "app.localhost"]), "Did you mean app.localhost?");
        let told = hint(&["*.apps.localhost"]);
        assert!(told.contains("*.apps.localhost") && !told.contains("Did you mean"), "{told}");
    }

    #[test]
    fn a_hint_for_tls_says_what_to_write_in_a_route_and_in_a_dynamic_host() {
        let hint = Problem::BadAnswer { target: "k8s://c/n/service/w:1".into() }.hint();
        assert!(hint.contains("`scheme: https`") && hint.contains("`.https`"), "{hint}");
    }

    #[test]
    fn every_word_has_its_place_among_all() {
        for (place, word) in Word::ALL.into_iter().enumerate() {
            assert_eq!(word as usize, place, "{}", word.as_str());
        }
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds() {
        let told = [0, 1, 1000, 1001, 4000].map(|millis| seconds(Duration::from_millis(millis)));
        assert_eq!(told, [1, 1, 1, 2, 4]);
    }
}
