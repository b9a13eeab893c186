//! Answers the server gives itself: what went wrong, and what to do, as HTML, JSON or text.

use adit_core::timestamp;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use runtime::page::{Explanation, Form, escape};
use serde_json::Map;
use std::time::{Duration, SystemTime};

use super::account::{Exceeded, Quota};

/// Why the server answers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request's head is malformed; what is wrong with it.
    BadRequest(u16, String),
    /// No tunnel has this host name.
    UnknownTunnel(String),
    /// The name is known, its agent is away.
    NoAgent(String),
    /// The connection's TLS name belongs to another tenant than the request's host.
    Misdirected,
    /// A quota is used up.
    Quota(Exceeded),
    /// The agent could not connect to the local service.
    Refused,
    /// The local service's health check fails; what it saw.
    Unhealthy(String),
    /// The local service's answer was not HTTP.
    BadAnswer,
    /// The local service closed the connection instead of answering.
    NoAnswer,
    /// The agent went away, or gave up, before an answer came.
    Lost,
    /// The agent was about to leave and did not look at the request.
    Unprocessed,
    /// The request's head does not fit a frame.
    TooLarge,
    /// The server is shutting down.
    Draining,
    /// No answer in time.
    Timeout(Option<Duration>),
    /// The request's body came too slowly.
    SlowBody,
}

impl Problem {
    /// The status code.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(status, _) => StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST),
            Self::UnknownTunnel(_) => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Quota(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NoAgent(_)
            | Self::Refused
            | Self::Unhealthy(_)
            | Self::BadAnswer
            | Self::NoAnswer
            | Self::Unprocessed
            | Self::Lost => StatusCode::BAD_GATEWAY,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The stable word for programs, logs and metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::BadRequest(..) => "bad_request",
            Self::UnknownTunnel(_) => "unknown_tunnel",
            Self::NoAgent(_) => "no_agent",
            Self::Misdirected => "misdirected_request",
            Self::Quota(_) => "quota_exceeded",
            Self::Refused => "local_refused",
            Self::Unhealthy(_) => "local_unhealthy",
            Self::BadAnswer => "bad_answer",
            Self::NoAnswer => "no_answer",
            Self::Unprocessed | Self::Lost => "agent_lost",
            Self::TooLarge => "head_too_large",
            Self::Draining => "draining",
            Self::Timeout(_) => "timeout",
            Self::SlowBody => "body_too_slow",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::BadRequest(_, what) => format!("The request was refused: {what}."),
            Self::UnknownTunnel(host) => format!("There is no tunnel for {host}."),
            Self::NoAgent(host) => format!("The tunnel {host} is known, but its agent is not connected."),
            Self::Misdirected => "This connection was made for another host.".into(),
            Self::Quota(Exceeded { quota: Quota::Requests, limit, .. }) => {
                format!("The tunnel's account may take {limit} requests a second.")
            }
            Self::Quota(Exceeded { limit, .. }) => {
                format!("The tunnel's account has all of its {limit} concurrent requests in use.")
            }
            Self::Refused => "The agent is connected, but what is published here cannot be reached.".into(),
            Self::Unhealthy(reason) if reason.is_empty() => "The local service's health check fails.".into(),
            Self::Unhealthy(reason) => format!("The local service's health check fails: {reason}."),
            Self::BadAnswer => "The local service's answer was not valid HTTP.".into(),
            Self::NoAnswer => "The local service closed the connection before it answered.".into(),
            Self::Unprocessed | Self::Lost => "The connection to the agent was lost before an answer came.".into(),
            Self::TooLarge => "The request's header fields are too large.".into(),
            Self::Draining => "The server is shutting down.".into(),
            Self::Timeout(Some(after)) => format!("The local service did not answer within {after:?}."),
            Self::Timeout(None) => "The local service did not answer within the time its agent allows.".into(),
            Self::SlowBody => "The request's body came too slowly.".into(),
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::BadRequest(..) => "Check the client that sent it.",
            Self::UnknownTunnel(_) => "Check the address, or start it: adit expose PORT --as NAME",
            Self::NoAgent(_) => "Start the agent: adit expose PORT --as NAME",
            Self::Misdirected => "Open a new connection for this host.",
            Self::Quota(_) => "Try again in a moment, or ask the operator for a larger quota.",
            Self::Refused => "Check that the service runs; where the agent runs, its log has the reason.",
            Self::Unhealthy(_) => "It is asked again every few seconds and comes back by itself.",
            Self::BadAnswer => "Check that the port speaks HTTP; for other protocols publish it as tcp://.",
            Self::NoAnswer => "Check the service's own log; it may have crashed.",
            Self::Unprocessed | Self::Lost => "The agent reconnects by itself; try again.",
            Self::TooLarge => "Send fewer or smaller cookies and header fields.",
            Self::Draining => "Try again in a moment.",
            Self::Timeout(Some(_)) => "Check what keeps the service busy, or raise limits.response_timeout.",
            Self::Timeout(None) => "Check what keeps the service busy, or raise the tunnel's request_timeout.",
            Self::SlowBody => "Check the connection and try again.",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Quota(exceeded) => Some(exceeded.retry_after),
            Self::Draining | Self::NoAgent(_) => Some(Duration::from_secs(1)),
            Self::Unhealthy(_) => Some(Duration::from_secs(5)),
            _ => None,
        }
    }

    /// Renders the answer the way the visitor asked for.
    pub(crate) fn render(&self, accept: &HeaderMap, request_id: &str) -> Response<Bytes> {
        let footer =
            format!("request id <code>{}</code> · {} · adit", escape(request_id), timestamp::format(SystemTime::now()));
        let explanation = Explanation {
            status: self.status(),
            word: self.word(),
            message: &self.message(),
            hint: self.hint(),
            members: Map::from_iter([("request_id".to_owned(), request_id.into())]),
            lines: &format!("request id: {request_id}\n"),
            below: "",
            footer: &footer,
        };
        let mut response = explanation.render(Form::preferred(accept));
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert("x-request-id", id);
        }
        if let Some(after) = self.retry_after() {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, CONTENT_TYPE};

    use super::*;

    fn render(problem: &Problem, accept: &'static str) -> (http::response::Parts, String) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let (parts, body) = problem.render(&headers, "id-1").into_parts();
        (parts, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn browsers_get_a_page_programs_json_and_curl_text() {
        let problem = Problem::UnknownTunnel("<x>.example.com".into());
        let (parts, body) = render(&problem, "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
        assert_eq!(parts.headers[CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(body.contains("&lt;x&gt;") && !body.contains("<x>"));
        let (_, body) = render(&problem, "application/json");
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["error"]["request_id"], "id-1");
        let (parts, body) = render(&problem, "*/*");
        assert!(body.starts_with("404 There is no tunnel") && body.contains("hint: ") && body.contains("id-1"));
        assert_eq!(parts.headers["x-request-id"], "id-1");
    }

    #[test]
    fn a_quota_answer_says_when_to_come_back() {
        let exceeded = Exceeded { quota: Quota::Requests, limit: 5, retry_after: Duration::from_millis(200) };
        let (parts, body) = render(&Problem::Quota(exceeded), "*/*");
        assert_eq!((parts.status.as_u16(), &parts.headers[RETRY_AFTER]), (429, &HeaderValue::from_static("1")));
        assert!(body.contains("5 requests a second"));
    }

    #[test]
    fn each_problem_has_the_status_the_interface_promises() {
        let second = Duration::from_secs(1);
        for (problem, status) in [
            (Problem::BadRequest(400, String::new()), 400),
            (Problem::UnknownTunnel(String::new()), 404),
            (Problem::Misdirected, 421),
            (Problem::NoAgent(String::new()), 502),
            (Problem::Refused, 502),
            (Problem::Unhealthy(String::new()), 502),
            (Problem::BadAnswer, 502),
            (Problem::NoAnswer, 502),
            (Problem::Lost, 502),
            (Problem::Draining, 503),
            (Problem::Timeout(Some(second)), 504),
            (Problem::TooLarge, 431),
            (Problem::SlowBody, 408),
        ] {
            assert_eq!(problem.status().as_u16(), status);
        }
    }
}
