//! What the gateway says itself: the index of what there is, and errors; to people, programs and terminals.

use std::fmt::Write as _;

use bytes::Bytes;
use http::Response;
use http::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use runtime::page::{self, Explanation, Form, escape};
use serde_json::{Map, Value, json};

use crate::http::{DynamicForm, ForwardEntry, Listing, Problem, RouteEntry, State};

/// What a page depends on beside what it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// How it is to be told.
    pub(crate) form: Form,
    /// The port that links lead to.
    pub(crate) port: u16,
}

/// The index.
pub(crate) fn index(listing: &Listing, around: Around) -> Response<Bytes> {
    match around.form {
        Form::Html => {
            let body = format!("<h1>adit gateway</h1>{}<footer>adit</footer>", listing_html(listing, around.port));
            page::html(&page::document("adit gateway", &body))
        }
        Form::Json => page::json(&listing_json(listing, around.port)),
        Form::Text => page::text(listing_text(listing, around.port)),
    }
}

/// An error; what there is below, if it may be seen.
pub(crate) fn error(problem: &Problem, listing: Option<&Listing>, around: Around) -> Response<Bytes> {
    let (message, hint) = (problem.message(), problem.hint());
    let mut members = Map::new();
    let mut below = String::new();
    let mut lines = String::new();
    if let Problem::UnknownHost { near, .. } = problem
        && !near.is_empty()
    {
        members.insert("near".into(), json!(near));
        below.push_str("<p>Near matches:</p><ul>");
        for host in near {
            let _ = write!(below, "<li>{}</li>", link(host, None, false, around.port));
            let _ = writeln!(lines, "near: {host}");
        }
        below.push_str("</ul>");
    }
    if let Some(listing) = listing {
        match around.form {
            Form::Html => below.push_str(&listing_html(listing, around.port)),
            Form::Json => {
                members.insert("known".into(), listing_json(listing, around.port));
            }
            Form::Text => {
                lines.push('\n');
                lines.push_str(&listing_text(listing, around.port));
            }
        }
    }
    let explanation = Explanation {
        status: problem.status(),
        word: problem.word(),
        message: &message,
        hint: &hint,
        members,
        lines: &lines,
        below: &below,
        footer: "adit gateway",
    };
    let mut response = explanation.render(around.form);
    match problem {
        Problem::Unauthorized { realm } => {
            let realm: String = realm.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
            let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
            if let Ok(value) = HeaderValue::try_from(challenge) {
                response.headers_mut().insert(WWW_AUTHENTICATE, value);
            }
        }
        Problem::BadRequest { status: 405, .. } => {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        Problem::Draining => {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(1));
        }
        _ => {}
    }
    response
}

fn listing_html(listing: &Listing, port: u16) -> String {
    let mut html = String::new();
    html.push_str("<h2>Routes</h2>");
    if listing.routes.is_empty() {
        html.push_str("<p class=\"note\">None yet: they are in gateway.routes.</p>");
    } else {
        html.push_str("<div class=\"wide\"><table><tr><th>Host</th><th>Target</th><th>State</th></tr>");
        listing.routes.iter().for_each(|route| route_row(&mut html, route, port));
        html.push_str("</table></div>");
    }
    if !listing.forwards.is_empty() {
        html.push_str("<h2>Forwards</h2><div class=\"wide\"><table>");
        html.push_str("<tr><th>Name</th><th>Target</th><th>Listens on</th><th>State</th></tr>");
        listing.forwards.iter().for_each(|forward| forward_row(&mut html, forward));
        html.push_str("</table></div>");
    }
    if let Some(dynamic) = &listing.dynamic {
        dynamic_html(&mut html, dynamic, port);
    }
    html
}

fn route_row(html: &mut String, route: &RouteEntry, port: u16) {
    let _ = write!(
        html,
        "<tr><td>{}</td><td><code>{}</code></td>{}</tr>",
        link(&route.host, route.path.as_deref(), route.tls, port),
        escape(&route.target),
        state_cell(route.state, route.detail.as_deref()),
    );
}

fn forward_row(html: &mut String, forward: &ForwardEntry) {
    let listen: Vec<String> = forward.listen.iter().map(ToString::to_string).collect();
    let _ = write!(
        html,
        "<tr><td>{}</td><td><code>{}</code></td><td><code>{}</code></td>{}</tr>",
        escape(&forward.name),
        escape(&forward.target),
        escape(&listen.join(" ")),
        state_cell(forward.state, forward.detail.as_deref()),
    );
}

fn dynamic_html(html: &mut String, dynamic: &DynamicForm, port: u16) {
    html.push_str("<h2>Without a route</h2><p>Any service and any pod has a host of its own:</p>");
    for form in &dynamic.forms {
        let _ = write!(html, "<p><code>http://{}{}</code></p>", escape(form), escape(&port_suffix(port, false)));
    }
    if let Some(example) = &dynamic.example {
        let _ = write!(html, "<p>For example {}</p>", link(example, None, false, port));
    }
}

fn state_cell(state: State, detail: Option<&str>) -> String {
    let class = match state {
        State::Idle => "idle",
        State::Starting => "busy",
        State::Ready => "ready",
        State::Failed => "failed",
    };
    let detail = detail.map(|detail| format!("<div class=\"note\">{}</div>", escape(detail))).unwrap_or_default();
    format!("<td class=\"state\"><span class=\"{class}\">{}</span>{detail}</td>", state.as_str())
}

/// A host to click; a pattern cannot be clicked.
fn link(host: &str, path: Option<&str>, tls: bool, port: u16) -> String {
    let shown = escape(&format!("{host}{}", path.unwrap_or_default()));
    match address(host, path, tls, port) {
        Some(address) => format!("<a href=\"{}\">{shown}</a>", escape(&address)),
        None => format!("<code>{shown}</code>"),
    }
}

fn address(host: &str, path: Option<&str>, tls: bool, port: u16) -> Option<String> {
    if host.contains('*') {
        return None;
    }
    let scheme = if tls { "https" } else { "http" };
    Some(format!("{scheme}://{host}{}{}", port_suffix(port, tls), path.unwrap_or("/")))
}

fn port_suffix(port: u16, tls: bool) -> String {
    match (port, tls) {
        (80, false) | (443, true) => String::new(),
        (port, _) => format!(":{port}"),
    }
}

fn listing_json(listing: &Listing, port: u16) -> Value {
    let routes: Vec<Value> = listing
        .routes
        .iter()
        .map(|route| {
            json!({
                "host": route.host, "path": route.path, "target": route.target, "state": route.state.as_str(),
                "detail": route.detail, "url": address(&route.host, route.path.as_deref(), route.tls, port),
            })
        })
        .collect();
    let forwards: Vec<Value> = listing
        .forwards
        .iter()
        .map(|forward| {
            json!({
                "name": forward.name, "target": forward.target, "state": forward.state.as_str(),
                "detail": forward.detail, "listen": forward.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        })
        .collect();
    let dynamic = listing.dynamic.as_ref().map(|dynamic| json!({ "forms": dynamic.forms, "example": dynamic.example }));
    json!({ "routes": routes, "forwards": forwards, "dynamic": dynamic })
}

fn listing_text(listing: &Listing, port: u16) -> String {
    let mut text = String::from("routes:\n");
    for route in &listing.routes {
        let path = route.path.as_deref();
        let shown = address(&route.host, path, route.tls, port)
            .unwrap_or_else(|| format!("{}{}", route.host, path.unwrap_or_default()));
        let _ = writeln!(text, "  {shown}  ->  {}  ({})", route.target, route.state.as_str());
    }
    if !listing.forwards.is_empty() {
        text.push_str("forwards:\n");
    }
    for forward in &listing.forwards {
        let listen: Vec<String> = forward.listen.iter().map(ToString::to_string).collect();
        let state = forward.state.as_str();
        let _ = writeln!(text, "  {}  {}  ->  {}  ({state})", forward.name, listen.join(" "), forward.target);
    }
    for form in listing.dynamic.iter().flat_map(|dynamic| &dynamic.forms) {
        let _ = writeln!(text, "without a route: http://{form}{}", port_suffix(port, false));
    }
    text
}
