//! What we say to people and programs over HTTP ourselves: one explanation as a page, as JSON or as text, whichever the
//! visitor prefers. A page is self-contained, and its policy forbids everything but its own style.

use std::fmt::Write as _;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The style of every page; the policy names its hash.
const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8883;--soft:#8881;--accent:#2563eb}\
@media(prefers-color-scheme:dark){:root{--accent:#60a5fa}}\
*{box-sizing:border-box}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:8vh auto 4rem;padding:0 1.5rem}\
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.1rem;margin:2.2rem 0 .5rem}p{margin:.6rem 0}\
a{color:var(--accent)}code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}\
.hint{padding:.8rem 1rem;border-left:3px solid var(--accent);background:var(--soft)}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}\
th,td{text-align:left;vertical-align:top;padding:.4rem .8rem .4rem 0;border-bottom:1px solid var(--line)}\
th{font-weight:600;opacity:.7}td a,td code{overflow-wrap:break-word}td.host,td.target{min-width:11rem}\
td.state{width:40%;min-width:14rem;overflow-wrap:break-word}td.state span{white-space:nowrap}.note{opacity:.7}\
@media(max-width:44rem){table,tbody,tr,td{display:block}th{display:none}tr{padding:.5rem 0;border-bottom:1px solid var(--line)}\
td,td.host,td.target,td.state{width:auto;min-width:0;padding:.1rem 0;border:0}}\
.ready::before,.idle::before,.failed::before,.busy::before{content:\"\";display:inline-block;width:.55em;height:.55em;\
border-radius:50%;margin-right:.45em;background:#9ca3af}\
.ready::before{background:#16a34a}.busy::before{background:#d97706}.failed::before{background:#dc2626}\
footer{margin-top:2.5rem;font-size:.8rem;opacity:.65}";

/// How a visitor wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A page.
    Html,
    /// An object.
    Json,
    /// Lines.
    Text,
}

impl Form {
    /// The form a visitor prefers (RFC 9110 section 12.5.1): of those of ours that it names the one with the greatest
    /// weight, the first of several; or else text.
    #[must_use]
    pub fn preferred(headers: &HeaderMap) -> Self {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut best = (0.0, Self::Text);
        for part in accept.split(',') {
            let mut pieces = part.split(';').map(str::trim);
            let form = match pieces.next().unwrap_or_default() {
                "text/html" | "application/xhtml+xml" => Self::Html,
                "application/json" | "application/problem+json" => Self::Json,
                "text/plain" => Self::Text,
                _ => continue,
            };
            let weight = pieces.find_map(weight).unwrap_or(1.0);
            if weight > best.0 {
                best = (weight, form);
            }
        }
        best.1
    }
}

/// The value of `q=0.5`; what is no number weighs nothing.
fn weight(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().unwrap_or(0.0))
}

/// What went wrong and what to do about it.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// The status.
    pub status: StatusCode,
    /// The stable word for programs, logs and metrics.
    pub word: &'static str,
    /// What is wrong, as a sentence.
    pub message: &'a str,
    /// What to do about it, as a sentence; empty for nothing.
    pub hint: &'a str,
    /// Further members of the JSON form's `error`.
    pub members: Map<String, Value>,
    /// Further lines of the text form, each with its end.
    pub lines: &'a str,
    /// What a page shows below, as HTML.
    pub below: &'a str,
    /// The page's last line, as HTML.
    pub footer: &'a str,
}

impl Explanation<'_> {
    /// Renders it.
    #[must_use]
    pub fn render(self, form: Form) -> Response<Bytes> {
        let word = self.word;
        let status = self.status;
        let mut response = match form {
            Form::Html => html(&self.page()),
            Form::Json => json(&self.object()),
            Form::Text => text(self.text()),
        };
        *response.status_mut() = status;
        response.headers_mut().insert("x-adit-error", HeaderValue::from_static(word));
        response
    }

    fn page(&self) -> String {
        let title = format!("{} {}", self.status.as_u16(), self.status.canonical_reason().unwrap_or_default());
        let mut body = format!("<h1>{title}</h1><p>{}</p>", prose(self.message));
        if !self.hint.is_empty() {
            let _ = write!(body, "<p class=\"hint\">{}</p>", linked(self.hint));
        }
        let _ = write!(body, "{}<footer>{}</footer>", self.below, self.footer);
        document(&title, &body)
    }

    fn object(self) -> Value {
        let mut error = Map::new();
        error.insert("status".into(), self.status.as_u16().into());
        error.insert("code".into(), self.word.into());
        error.insert("message".into(), self.message.into());
        error.insert("hint".into(), self.hint.into());
        error.extend(self.members);
        json!({ "error": error })
    }

    fn text(&self) -> String {
        let mut text = format!("{} {}\n", self.status.as_u16(), self.message);
        if !self.hint.is_empty() {
            let _ = writeln!(text, "hint: {}", self.hint);
        }
        text.push_str(self.lines);
        text
    }
}

/// A whole page around `body`, which is HTML already. `title` is not.
#[must_use]
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><link rel=\"icon\" href=\"data:,\">\
         <title>{}</title><style>{STYLE}</style></head><body>{body}</body></html>\n",
        escape(title)
    )
}

/// An answer with a page.
#[must_use]
pub fn html(page: &str) -> Response<Bytes> {
    let mut response = own("text/html; charset=utf-8", page.to_owned());
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy());
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// An answer with JSON.
#[must_use]
pub fn json(value: &Value) -> Response<Bytes> {
    own("application/json", format!("{value}\n"))
}

/// An answer with text.
#[must_use]
pub fn text(text: String) -> Response<Bytes> {
    own("text/plain; charset=utf-8", text)
}

/// Text as it may stand in HTML, in an attribute too.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// [`escape`], and what stands between two backticks as code.
#[must_use]
pub fn prose(text: &str) -> String {
    let mut html = String::new();
    let mut rest = text;
    while let Some((before, (code, after))) =
        rest.split_once('`').and_then(|(before, behind)| Some((before, behind.split_once('`')?)))
    {
        let _ = write!(html, "{}<code>{}</code>", escape(before), escape(code));
        rest = after;
    }
    html.push_str(&escape(rest));
    html
}

/// [`prose`], with its URLs to click: what to do is often to open something.
fn linked(text: &str) -> String {
    let mut html = String::new();
    // Nothing within backticks is prose.
    for (at, part) in text.split('`').enumerate() {
        if at % 2 == 1 {
            let _ = write!(html, "<code>{}</code>", escape(part));
            continue;
        }
        let mut rest = part;
        while let Some(start) = ["http://", "https://"].into_iter().filter_map(|scheme| rest.find(scheme)).min() {
            let (before, url) = rest.split_at(start);
            let end = url.find(|c: char| c.is_whitespace() || ",;()\"".contains(c)).unwrap_or(url.len());
            let (url, after) = url.split_at(url[..end].trim_end_matches(['.', '?', '!']).len());
            let _ = write!(html, "{}<a href=\"{}\">{}</a>", escape(before), escape(url), escape(url));
            rest = after;
        }
        html.push_str(&escape(rest));
    }
    html
}

fn own(content_type: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Nothing is loaded, sent, framed or run; one style is applied.
fn policy() -> HeaderValue {
    static POLICY: OnceLock<HeaderValue> = OnceLock::new();
    let make = || {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        );
        HeaderValue::try_from(policy).expect("base64 and the rest are ASCII")
    };
    POLICY.get_or_init(make).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))])
    }

    #[test]
    fn browsers_get_a_page_programs_json_and_curl_text() {
        let browser = headers("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
        assert_eq!(Form::preferred(&browser), Form::Html);
        assert_eq!(Form::preferred(&headers("application/json")), Form::Json);
        assert_eq!(Form::preferred(&headers("*/*")), Form::Text);
        assert_eq!(Form::preferred(&HeaderMap::new()), Form::Text);
    }

    #[test]
    fn the_greatest_weight_wins_and_none_is_a_refusal() {
        assert_eq!(Form::preferred(&headers("application/json;q=0.5, text/html")), Form::Html);
        assert_eq!(Form::preferred(&headers("text/html; q=0.1, application/json; q=0.9")), Form::Json);
        assert_eq!(Form::preferred(&headers("text/html;q=0, */*")), Form::Text);
        assert_eq!(Form::preferred(&headers("text/html;q=x, application/json;q=NaN")), Form::Text);
    }

    #[test]
    fn what_stands_in_backticks_is_code_and_a_single_one_is_itself() {
        assert_eq!(prose("did you mean `a<b`? `c"), "did you mean <code>a&lt;b</code>? `c");
        assert_eq!(prose("plain"), "plain");
    }

    #[test]
    fn urls_in_a_hint_are_links() {
        assert_eq!(
            linked("Open http://a.localhost:8989 instead, or `http://b` <x>, or see https://c/d?e=1."),
            "Open <a href=\"http://a.localhost:8989\">http://a.localhost:8989</a> instead, or <code>http://b</code> \
             &lt;x&gt;, or see <a href=\"https://c/d?e=1\">https://c/d?e=1</a>."
        );
        assert_eq!(linked("plain"), "plain");
    }

    #[test]
    fn what_a_visitor_sent_is_shown_and_never_run() {
        let told = Explanation {
            status: StatusCode::NOT_FOUND,
            word: "unknown_host",
            message: "no <script>alert('1')</script>",
            hint: "a \"hint\"",
            members: Map::new(),
            lines: "",
            below: "",
            footer: "adit",
        };
        let response = told.render(Form::Html);
        let page = std::str::from_utf8(response.body()).unwrap();
        assert!(
            page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;") && page.contains("a &quot;hint&quot;")
        );
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    }
}
