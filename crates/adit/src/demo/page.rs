//! The sample service's page and what belongs to it, embedded in the binary: it works offline.

use std::fmt::Write as _;

use http::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY};
use http::{Response, StatusCode};

use super::answer::{self, Body};
use super::facts::Facts;

const TEMPLATE: &str = include_str!("../../assets/demo/index.html");
const STYLE: &str = include_str!("../../assets/demo/style.css");
const SCRIPT: &str = include_str!("../../assets/demo/app.js");
const ICON: &str = include_str!("../../assets/demo/icon.svg");

/// Nothing but what this service serves itself, and no code or style inside the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Headers that the tunnel sets, by their beginnings.
const SET_BY_ADIT: [&str; 4] = ["x-forwarded-", "forwarded", "x-real-ip", "x-request-id"];

/// The page, which shows the request that asked for it.
pub(super) fn index(facts: &Facts) -> Response<Body> {
    let mut answer = answer::text(StatusCode::OK, "text/html; charset=utf-8", html(facts));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    answer
}

/// A file that the page needs.
pub(super) fn asset(path: &str) -> Option<Response<Body>> {
    let (kind, content) = match path {
        "/assets/style.css" => ("text/css; charset=utf-8", STYLE),
        "/assets/app.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "/assets/icon.svg" | "/favicon.ico" => ("image/svg+xml", ICON),
        _ => return None,
    };
    Some(answer::text(StatusCode::OK, kind, content))
}

/// The page's HTML for one request.
pub(super) fn html(facts: &Facts) -> String {
    let host = facts.host();
    let url = format!("{}://{host}", facts.scheme());
    let unknown = format!("{}://{}", facts.scheme(), unknown_host(host));
    let visitor = facts.visitor.as_deref().unwrap_or("unknown");
    let line = format!("{} {} {}", facts.method, facts.path, facts.http_version);
    let rows = header_rows(&facts.headers);
    fill(TEMPLATE, |name| match name {
        "header_rows" => Some(rows.clone()),
        "request_line" => Some(escape(&line)),
        "request_id" => Some(escape(&facts.request_id)),
        "visitor" => Some(escape(visitor)),
        "peer" => Some(escape(&facts.peer)),
        "host" => Some(escape(host)),
        "url" => Some(escape(&url)),
        "url_unknown" => Some(escape(&unknown)),
        "body" => Some(body_text(facts.body_bytes)),
        _ => None,
    })
}

/// The same host under another name, which nobody serves.
fn unknown_host(host: &str) -> String {
    match host.split_once('.') {
        Some((_, rest)) if rest.contains("localhost") => format!("nobody.{rest}"),
        _ => "nobody.localhost".to_owned(),
    }
}

fn body_text(bytes: u64) -> String {
    match bytes {
        0 => "none".to_owned(),
        bytes => format!("{bytes} bytes"),
    }
}

fn header_rows(headers: &[(String, String)]) -> String {
    let is_ours = |name: &str| SET_BY_ADIT.iter().any(|start| name.starts_with(start));
    let (ours, others): (Vec<_>, Vec<_>) = headers.iter().partition(|(name, _)| is_ours(name));
    let mut rows = String::new();
    for (name, value) in ours.into_iter().chain(others) {
        let class = if is_ours(name) { " class=\"set-by-adit\"" } else { "" };
        let _ = write!(rows, "<tr{class}><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    rows
}

/// Puts values in place of `{{name}}`. What is put in is not looked at again.
fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let Some((name, after)) = after.split_once("}}") else {
            filled.push_str("{{");
            rest = after;
            continue;
        };
        filled.push_str(&value(name).unwrap_or_default());
        rest = after;
    }
    filled.push_str(rest);
    filled
}

/// Makes any text harmless in HTML, inside attributes too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::facts;
    use super::*;

    #[test]
    fn the_page_shows_the_request_that_asked_for_it() {
        let page = html(&facts("/a/path?x=1", &[("host", "hello.localhost:8080"), ("x-own", "value-7")]));
        assert!(page.contains("GET /a/path?x=1 HTTP/1.1"));
        assert!(page.contains("<th scope=\"row\">x-own</th><td>value-7</td>"));
        assert!(page.contains("curl -N http://hello.localhost:8080/api/events"));
        assert!(page.contains("http://nobody.localhost:8080/"));
    }

    #[test]
    fn nothing_a_visitor_sends_becomes_markup() {
        let bad = "\"><script>alert(1)</script>{{header_rows}}";
        let page =
            html(&facts("/%3Cb%3E", &[("host", bad), ("x-bad", bad), ("x-forwarded-for", bad), ("x-request-id", bad)]));
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(!page.contains("\"><script"), "{page}");
        assert!(page.contains("{{header_rows}}"), "a value must not be filled in again");
    }

    #[test]
    fn every_place_of_the_template_is_filled() {
        let page = html(&facts("/", &[("host", "h")]));
        assert!(!page.contains("{{"), "{page}");
    }

    #[test]
    fn headers_set_by_adit_are_marked() {
        let page = html(&facts("/", &[("forwarded", "for=1"), ("x-forwardedness", "no")]));
        assert!(page.contains("<tr class=\"set-by-adit\"><th scope=\"row\">forwarded</th>"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_holds_no_code() {
        let page = html(&facts("/", &[("host", "h")]));
        assert!(!page.split(['"', '\'']).any(|part| part.starts_with("//")));
        assert!(!page.contains("src=\"http") && !page.contains("<style"));
        assert!(!page.contains(" style=") && !page.contains(" onclick="));
        assert_eq!(page.matches("<script").count(), page.matches("<script src=\"/assets/").count());
    }

    #[test]
    fn every_file_the_page_names_is_there() {
        let page = html(&facts("/", &[("host", "h")]));
        let named: Vec<&str> = page.split('"').filter(|part| part.starts_with("/assets/")).collect();
        assert!(named.len() >= 3, "{named:?}");
        for path in named {
            assert!(asset(path).is_some(), "{path}");
        }
        assert!(asset("/assets/other").is_none());
    }

    #[test]
    fn every_element_the_script_asks_for_is_on_the_page() {
        let page = html(&facts("/", &[("host", "h")]));
        for part in SCRIPT.split("$(\"").skip(1) {
            let id = part.split('"').next().unwrap_or_default();
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
    }
}
