//! What the gateway says itself: the index of what there is, and errors; to people, programs and terminals.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use adit_core::timestamp;
use bytes::Bytes;
use http::Response;
use http::header::{ALLOW, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use runtime::page::{self, Explanation, Form, escape};
use serde_json::{Map, Value, json};

mod services;

use services::context_link;
pub(crate) use services::{context_in_path, services};

use crate::failures::LastError;
use crate::http::{DynamicForm, ForwardEntry, Listing, Problem, RouteEntry, SiteCounters, State, seconds};

/// A host that is longer may have to break.
const LONG: usize = 32;

const REFUSED: &str = "A later version of the configuration is not in force";

/// Of more routes and forwards an error names the index alone.
const BELOW_AN_ERROR: usize = 50;

/// What a page depends on beside what it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// How it is to be told.
    pub(crate) form: Form,
    /// The port that links lead to.
    pub(crate) port: u16,
    /// The request came by TLS: links lead there, too, where that goes.
    pub(crate) https: bool,
}

impl Around {
    /// For a link to a route.
    fn to(self, route: &RouteEntry) -> Self {
        self.for_https(route.https)
    }

    /// For links to hosts that are for `https`, if they are.
    fn for_https(self, https: bool) -> Self {
        Self { https: self.https || https, ..self }
    }
}

/// The index.
pub(crate) fn index(listing: &Listing, counters: &SiteCounters, around: Around) -> Response<Bytes> {
    match around.form {
        Form::Html => {
            let body = format!("<h1>adit gateway</h1>{}<footer>adit</footer>", listing_html(listing, around));
            page::html(&page::document("adit gateway", &body))
        }
        Form::Json => {
            let mut all = listing_json(listing, around);
            all["counters"] = counters_json(counters);
            page::json(&all)
        }
        Form::Text => page::text(listing_text(listing, around)),
    }
}

/// What a page may say beside an error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside<'a> {
    /// What there is.
    pub(crate) listing: Option<&'a Listing>,
    /// The context whose services may help.
    pub(crate) context: Option<&'a str>,
    /// Where the index is.
    pub(crate) index: bool,
}

/// An error, and what may be seen beside it.
pub(crate) fn error(problem: &Problem, beside: Beside<'_>, around: Around) -> Response<Bytes> {
    let Beside { listing, context, index } = beside;
    let (message, hint) = (problem.message(), problem.hint());
    let Extras { mut members, mut below, mut lines } = Extras::near(problem, around);
    if let Some(context) = context {
        let url = context_link(context, around);
        let _ = write!(below, "<p><a href=\"{}\">The services of {}</a></p>", escape(&url), escape(context));
        let _ = writeln!(lines, "services of {context}: {url}");
        members.insert("services".into(), json!(url));
    }
    let index = (index || listing.is_some()).then(|| format!("{}/", origin("localhost", true, around)));
    if let Some(index) = index.as_ref().filter(|_| listing.is_none()) {
        let _ = write!(below, "<p><a href=\"{}\">Index</a></p>", escape(index));
    }
    if let (Some(listing), Some(index)) = (listing, &index) {
        let is_short = listing.routes.len() + listing.forwards.len() <= BELOW_AN_ERROR;
        match around.form {
            Form::Html if is_short => below.push_str(&listing_html(listing, around)),
            Form::Html => {
                let _ = write!(below, "<p><a href=\"{}\">Index</a></p>", escape(index));
            }
            Form::Json if is_short => {
                members.insert("known".into(), listing_json(listing, around));
            }
            Form::Json => {}
            // Who reads a terminal has asked for one thing.
            Form::Text => {
                if let (Some(dynamic), true) = (&listing.dynamic, lines.is_empty()) {
                    lines.push_str(&forms_text(dynamic, around));
                }
                let _ = writeln!(lines, "all there is: {index}");
            }
        }
    }
    if let Some(index) = index {
        members.insert("index".into(), json!(index));
    }
    let explanation = Explanation {
        status: problem.status(),
        word: problem.word().as_str(),
        message: &message,
        hint: &hint,
        members,
        lines: &lines,
        below: &below,
        footer: "adit gateway",
    };
    let mut response = explanation.render(around.form);
    add_headers(response.headers_mut(), problem);
    response
}

/// What a page says beside the problem, in its three forms.
#[derive(Default)]
struct Extras {
    members: Map<String, Value>,
    below: String,
    lines: String,
}

impl Extras {
    /// What could be meant.
    fn near(problem: &Problem, around: Around) -> Self {
        let mut extras = Self::default();
        let (near, of_contexts) = match problem {
            Problem::UnknownHost { near, .. } => (near, false),
            Problem::NoContext { near, .. } => (near, true),
            _ => return extras,
        };
        if near.is_empty() {
            return extras;
        }
        extras.members.insert("near".into(), json!(near));
        extras.below.push_str("<p>Near matches:</p><ul>");
        for name in near {
            if of_contexts {
                let (url, name) = (context_link(name, around), escape(name));
                let _ = write!(extras.below, "<li><a href=\"{}\">The services of {name}</a></li>", escape(&url));
                let _ = writeln!(extras.lines, "near: {url}");
            } else {
                let _ = write!(extras.below, "<li>{}</li>", link(name, None, false, around));
                let _ = writeln!(extras.lines, "near: {name}");
            }
        }
        extras.below.push_str("</ul>");
        extras
    }
}

/// Headers that belong to a problem.
fn add_headers(headers: &mut HeaderMap, problem: &Problem) {
    match problem {
        Problem::Unauthorized { realm } => {
            let realm: String = realm.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
            let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
            if let Ok(value) = HeaderValue::try_from(challenge) {
                headers.insert(WWW_AUTHENTICATE, value);
            }
        }
        Problem::NotSupported { status: 405, .. } => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        Problem::TooManyGuesses { wait } => {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds(*wait)));
        }
        Problem::Full { .. } | Problem::Draining => {
            headers.insert(RETRY_AFTER, HeaderValue::from(1));
        }
        _ => {}
    }
}

fn listing_html(listing: &Listing, around: Around) -> String {
    let mut html = String::new();
    if let Some(refused) = &listing.refused {
        let lines = escape(refused).replace('\n', "<br>");
        let _ = write!(html, "<div class=\"hint\">{REFUSED}:<br>{lines}</div>");
    }
    html.push_str("<h2>Routes</h2>");
    if listing.routes.is_empty() {
        html.push_str("<p class=\"note\">None yet: they are in gateway.routes.</p>");
    } else {
        html.push_str("<div class=\"wide\"><table><tr><th>Host</th><th>Target</th><th>State</th></tr>");
        listing.routes.iter().for_each(|route| route_row(&mut html, route, around));
        html.push_str("</table></div>");
    }
    if !listing.forwards.is_empty() {
        html.push_str("<h2>Forwards</h2><div class=\"wide\"><table>");
        html.push_str("<tr><th>Name</th><th>Target</th><th>Listens on</th><th>State</th></tr>");
        listing.forwards.iter().for_each(|forward| forward_row(&mut html, forward));
        html.push_str("</table></div>");
    }
    if let Some(dynamic) = &listing.dynamic {
        dynamic_html(&mut html, dynamic, around);
    }
    html
}

fn route_row(html: &mut String, route: &RouteEntry, around: Around) {
    let _ = write!(
        html,
        "<tr><td class=\"host\">{}</td><td class=\"target\">{}</td>{}</tr>",
        link(&route.host, route.path.as_deref(), route.tls, around.to(route)),
        target(&route.target),
        state_cell(route.state, route.detail.as_deref(), route.last_error.as_ref()),
    );
}

fn forward_row(html: &mut String, forward: &ForwardEntry) {
    let listen: Vec<String> = forward.listen.iter().map(ToString::to_string).collect();
    let _ = write!(
        html,
        "<tr><td>{}</td><td class=\"target\">{}</td><td class=\"host\"><code>{}</code></td>{}</tr>",
        escape(&forward.name),
        target(&forward.target),
        escape(&listen.join(" ")),
        state_cell(forward.state, forward.detail.as_deref(), forward.last_error.as_ref()),
    );
}

fn dynamic_html(html: &mut String, dynamic: &DynamicForm, around: Around) {
    html.push_str("<h2>Without a route</h2><p>Any service and any pod has a host of its own:</p>");
    let there = around.for_https(dynamic.tls);
    for form in &dynamic.forms {
        let _ = write!(html, "<p><code>{}</code></p>", escape(&origin(form, dynamic.tls, there)));
    }
    if let Some(missing) = &dynamic.missing {
        let _ = write!(html, "<p class=\"hint\">None can be reached: {}.</p>", escape(missing));
    }
    if let Some(example) = &dynamic.example {
        let _ = write!(html, "<p>For example {}</p>", link(example, None, dynamic.tls, there));
    }
    if !dynamic.contexts.is_empty() {
        html.push_str("<h2>Contexts</h2><p>Each leads to the list of its services:</p><ul>");
        for context in &dynamic.contexts {
            let url = escape(&context_link(context, around));
            let _ = write!(html, "<li><a href=\"{url}\">services of {}</a></li>", escape(context));
        }
        html.push_str("</ul>");
    }
}

fn state_cell(state: State, detail: Option<&str>, last: Option<&LastError>) -> String {
    let class = match state {
        State::Idle | State::Unchecked => "idle",
        State::Starting => "busy",
        State::Ready => "ready",
        State::Failing | State::Failed => "failed",
    };
    let detail = detail.filter(|detail| !says(last, detail));
    let detail = detail.map(|detail| format!("<div class=\"note\">{}</div>", escape(detail))).unwrap_or_default();
    let last = last.map(|last| format!("<div class=\"note\">{}</div>", escape(&last_text(last)))).unwrap_or_default();
    format!("<td class=\"state\"><span class=\"{class}\">{}</span>{detail}{last}</td>", state.as_str())
}

/// Whether the last error says this, too.
fn says(last: Option<&LastError>, detail: &str) -> bool {
    let detail = detail.trim_end_matches('.').to_lowercase();
    last.is_some_and(|last| last.text.to_lowercase().contains(&detail))
}

/// A target as code; where there is no room for it, it breaks behind a slash, and in no number.
fn target(target: &str) -> String {
    format!("<code>{}</code>", escape(target).replace('/', "/<wbr>").replace("/<wbr>/<wbr>", "//<wbr>"))
}

/// A time as people read it, in whole seconds.
fn moment(time: SystemTime) -> String {
    let text = timestamp::format(time);
    text.split_once('.').map_or_else(|| text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

/// The last error, when it was, and since when nothing has worked.
fn last_text(last: &LastError) -> String {
    match last.since {
        Some(since) if since != last.at => {
            format!("since {}, last at {}: {}", moment(since), moment(last.at), last.text)
        }
        Some(since) => format!("since {}: {}", moment(since), last.text),
        None => format!("last error at {}: {}", moment(last.at), last.text),
    }
}

fn last_json(last: Option<&LastError>) -> Value {
    let last = last.map(|last| {
        json!({ "at": timestamp::format(last.at), "since": last.since.map(timestamp::format), "text": last.text })
    });
    last.into()
}

/// A host to click; a pattern cannot be clicked.
fn link(host: &str, path: Option<&str>, tls: bool, around: Around) -> String {
    let mut shown = escape(&format!("{host}{}", path.unwrap_or_default()));
    if shown.len() > LONG {
        // Where there is no room for it, it breaks between labels.
        shown = shown.replace('.', ".<wbr>");
    }
    match address(host, path, tls, around) {
        Some(address) => format!("<a href=\"{}\">{shown}</a>", escape(&address)),
        None => format!("<code>{shown}</code>"),
    }
}

fn address(host: &str, path: Option<&str>, tls: bool, around: Around) -> Option<String> {
    if host.contains('*') {
        return None;
    }
    Some(format!("{}{}", origin(host, tls, around), path.unwrap_or("/")))
}

/// Scheme, host and port: of TLS if that is how the index came, and the host takes it.
fn origin(host: &str, tls: bool, around: Around) -> String {
    let tls = tls && around.https;
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{host}{}", port_suffix(around.port, tls))
}

fn port_suffix(port: u16, tls: bool) -> String {
    match (port, tls) {
        (80, false) | (443, true) => String::new(),
        (port, _) => format!(":{port}"),
    }
}

/// What has passed; of errors those that happened.
fn counters_json(counters: &SiteCounters) -> Value {
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let errors = counters.errors().filter(|(_, times)| *times > 0);
    let errors: Map<String, Value> = errors.map(|(word, times)| (word.as_str().to_owned(), json!(times))).collect();
    json!({
        "requests": count(&counters.requests), "received": count(&counters.received), "sent": count(&counters.sent),
        "errors": errors,
    })
}

fn listing_json(listing: &Listing, around: Around) -> Value {
    let routes: Vec<Value> = listing
        .routes
        .iter()
        .map(|route| {
            json!({
                "host": route.host, "path": route.path, "target": route.target, "state": route.state.as_str(),
                "detail": route.detail, "last_error": last_json(route.last_error.as_ref()), "url": address(&route.host, route.path.as_deref(), route.tls, around.to(route)),
            })
        })
        .collect();
    let forwards: Vec<Value> = listing
        .forwards
        .iter()
        .map(|forward| {
            json!({
                "name": forward.name, "target": forward.target, "state": forward.state.as_str(),
                "detail": forward.detail, "last_error": last_json(forward.last_error.as_ref()), "listen": forward.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        })
        .collect();
    let dynamic = listing.dynamic.as_ref().map(|dynamic| {
        let link = |context: &String| json!({ "name": context, "services": context_link(context, around) });
        let contexts: Vec<Value> = dynamic.contexts.iter().map(link).collect();
        json!({ "forms": dynamic.forms, "example": dynamic.example, "contexts": contexts, "missing": dynamic.missing })
    });
    json!({ "routes": routes, "forwards": forwards, "dynamic": dynamic, "refused": listing.refused })
}

fn listing_text(listing: &Listing, around: Around) -> String {
    let refused = |lines: &String| format!("{REFUSED}:\n{lines}\n");
    let mut text = listing.refused.as_ref().map(refused).unwrap_or_default();
    text.push_str("routes:\n");
    for route in &listing.routes {
        let path = route.path.as_deref();
        let shown = address(&route.host, path, route.tls, around.to(route))
            .unwrap_or_else(|| format!("{}{}", route.host, path.unwrap_or_default()));
        let state = told(route.state, route.detail.as_deref(), route.last_error.as_ref());
        let _ = writeln!(text, "  {shown}  ->  {}  ({state})", route.target);
    }
    if !listing.forwards.is_empty() {
        text.push_str("forwards:\n");
    }
    for forward in &listing.forwards {
        let listen: Vec<String> = forward.listen.iter().map(ToString::to_string).collect();
        let state = told(forward.state, forward.detail.as_deref(), forward.last_error.as_ref());
        let _ = writeln!(text, "  {}  {}  ->  {}  ({state})", forward.name, listen.join(" "), forward.target);
    }
    let Some(dynamic) = &listing.dynamic else { return text };
    text.push_str(&forms_text(dynamic, around));
    for context in &dynamic.contexts {
        let _ = writeln!(text, "services of {context}: {}", context_link(context, around));
    }
    text
}

/// How hosts are written that need no route.
fn forms_text(dynamic: &DynamicForm, around: Around) -> String {
    let around = around.for_https(dynamic.tls);
    let line = |form: &String| format!("without a route: {}\n", origin(form, dynamic.tls, around));
    let mut text: String = dynamic.forms.iter().map(line).collect();
    if let Some(missing) = &dynamic.missing {
        let _ = writeln!(text, "none of these can be reached: {missing}");
    }
    text
}

/// A state, why it is so when it is no good one, and what went wrong last.
fn told(state: State, detail: Option<&str>, last: Option<&LastError>) -> String {
    let state = match detail.filter(|detail| !says(last, detail)) {
        Some(detail) if state != State::Ready => format!("{}: {detail}", state.as_str()),
        _ => state.as_str().to_owned(),
    };
    last.map_or_else(|| state.clone(), |last| format!("{state}; {}", last_text(last)))
}
