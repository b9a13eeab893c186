//! Answers: JSON, text, and the Status objects of a real server.

use std::io;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::kinds::{KINDS, Kind};

/// The body of every answer.
pub(super) type Body = BoxBody<Bytes, io::Error>;

/// A refusal as a real server words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Group, kind (the plural, as real servers do) and name of what it is about.
    pub(super) details: Option<(&'static str, &'static str, String)>,
}

impl Refusal {
    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message: format!("{} \"{name}\" not found", kind.qualified()),
            details: Some((kind.group, kind.plural, name.to_owned())),
        }
    }

    pub(super) fn already_exists(kind: &Kind, name: &str) -> Self {
        Self {
            code: 409,
            reason: "AlreadyExists",
            message: format!("{} \"{name}\" already exists", kind.qualified()),
            details: Some((kind.group, kind.plural, name.to_owned())),
        }
    }

    pub(super) fn no_resource() -> Self {
        Self::plain(404, "NotFound", "the server could not find the requested resource")
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    pub(super) fn no_method() -> Self {
        Self::plain(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    pub(super) fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    /// The Status object.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some((group, kind, name)) = &self.details {
            let mut details = json!({ "name": name, "kind": kind });
            if !group.is_empty() {
                details["group"] = json!(group);
            }
            if name.is_empty() {
                details.as_object_mut().map(|details| details.remove("name"));
            }
            status["details"] = details;
        }
        status
    }

    /// The whole answer.
    pub(super) fn response(&self) -> Response<Body> {
        json(StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &self.status())
    }
}

/// An answer of one JSON document.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    bytes(status, "application/json", value.to_string().into())
}

/// An answer of plain text.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    bytes(status, "text/plain; charset=utf-8", text.into().into())
}

/// An answer of these bytes.
pub(super) fn bytes(status: StatusCode, media: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(whole(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A body that is all there.
pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// The Status of a removal.
pub(super) fn removed(kind: usize, name: &str, uid: &Value) -> Value {
    let kind = &KINDS[kind];
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": { "name": name, "group": kind.group, "kind": kind.plural, "uid": uid },
    })
}
