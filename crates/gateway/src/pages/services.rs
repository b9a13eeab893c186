//! The page of a context: its services, each port with the host to open.

use std::fmt::Write as _;

use bytes::Bytes;
use http::Response;
use runtime::page::{self, Form, escape};
use serde_json::{Value, json};

use super::{Around, address, link, origin};
use crate::http::{PortRow, ServiceListing, ServiceRow};
use crate::speaks::unprivileged;

/// Where the page of a context is, at the gateway's own names. No service's path begins so by accident.
const PATH: &str = "/-/contexts/";

const TOO_LONG: &str = "too long for a name: set an alias in gateway.aliases";

/// The URL of a context's page.
pub(super) fn context_link(context: &str, around: Around) -> String {
    let mut url = origin("localhost", true, around);
    url.push_str(PATH);
    for byte in context.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

/// The context whose page a path is.
pub(crate) fn context_in_path(path: &str) -> Option<String> {
    let mut rest = path.strip_prefix(PATH)?.bytes();
    let mut context = Vec::new();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            context.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        context.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(context).ok().filter(|context| !context.is_empty())
}

/// The services of a context.
pub(crate) fn services(listing: &ServiceListing, around: Around) -> Response<Bytes> {
    match around.form {
        Form::Html => page::html(&html(listing, around)),
        Form::Json => page::json(&object(listing, around)),
        Form::Text => page::text(text(listing, around)),
    }
}

fn html(listing: &ServiceListing, around: Around) -> String {
    let title = format!("Services of {}", listing.context);
    let mut body = format!("<h1>{}</h1>", escape(&title));
    if listing.services.is_empty() {
        body.push_str("<p class=\"note\">There are none that may be reached.</p>");
    } else {
        body.push_str(
            "<div class=\"wide\"><table><tr><th>Namespace</th><th>Service</th><th>Port</th><th>Host</th></tr>",
        );
        for (service, port) in rows(listing) {
            let host = match (&port.host, port.speaks) {
                (_, Some(speaks)) => format!("<span class=\"note\">{}</span>", escape(&by_port(port, speaks))),
                (Some(host), None) => link(host, None, listing.tls, around.for_https(listing.tls)),
                (None, None) => format!("<span class=\"note\">{TOO_LONG}</span>"),
            };
            let _ = write!(
                body,
                "<tr><td>{}</td><td>{}</td><td><code>{}</code></td><td class=\"host\">{host}</td></tr>",
                escape(&service.namespace),
                escape(&service.name),
                escape(&port.shown()),
            );
        }
        body.push_str("</table></div>");
    }
    if let Some(note) = &listing.note {
        let _ = write!(body, "<p class=\"note\">{}</p>", escape(note));
    }
    let index = origin("localhost", true, around);
    let _ = write!(body, "<p><a href=\"{index}/\">Index</a></p><footer>adit gateway</footer>");
    page::document(&title, &body)
}

fn object(listing: &ServiceListing, around: Around) -> Value {
    let port = |port: &PortRow| {
        let host = port.host.as_ref().filter(|_| port.speaks.is_none());
        let url = host.and_then(|host| address(host, None, listing.tls, around.for_https(listing.tls)));
        let (shown, target) = (port.shown(), &port.target);
        json!({ "port": shown, "host": port.host, "url": url, "speaks": port.speaks, "target": target })
    };
    let service = |service: &ServiceRow| {
        let ports: Vec<Value> = service.ports.iter().map(port).collect();
        json!({ "namespace": service.namespace, "name": service.name, "ports": ports })
    };
    let services: Vec<Value> = listing.services.iter().map(service).collect();
    json!({ "context": listing.context, "services": services, "note": listing.note })
}

fn text(listing: &ServiceListing, around: Around) -> String {
    let mut text = format!("services of {}:\n", listing.context);
    for (service, port) in rows(listing) {
        let url = port.host.as_ref().and_then(|host| address(host, None, listing.tls, around.for_https(listing.tls)));
        let way = match (url, port.speaks) {
            (_, Some(speaks)) => format!("({})", by_port(port, speaks)),
            (Some(url), None) => url,
            (None, None) => format!("({TOO_LONG})"),
        };
        let _ = writeln!(text, "  {}/{} {}  {way}", service.namespace, service.name, port.shown());
    }
    if let Some(note) = &listing.note {
        let _ = writeln!(text, "{note}");
    }
    text
}

fn rows(listing: &ServiceListing) -> impl Iterator<Item = (&ServiceRow, &PortRow)> {
    listing.services.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port)))
}

/// How a port is reached that no browser can open.
fn by_port(port: &PortRow, speaks: &str) -> String {
    let (target, local) = (&port.target, unprivileged(port.number));
    format!(
        "{speaks}, not HTTP: a forward with {{ to: \"{target}\", listen: {local} }}, or adit forward {target} {local}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_the_system_is_not_proposed_to_listen_on() {
        let of = |number: u16| {
            let target = format!("k8s://c/n/service/x:{number}");
            by_port(&PortRow { number, name: None, host: None, speaks: Some("SSH"), target }, "SSH")
        };
        let target = "k8s://c/n/service/x:22";
        assert_eq!(
            of(22),
            format!(
                "SSH, not HTTP: a forward with {{ to: \"{target}\", listen: 10022 }}, or adit forward {target} 10022"
            )
        );
        assert!(of(5432).ends_with("k8s://c/n/service/x:5432 5432"));
    }

    #[test]
    fn any_context_has_a_page_and_its_path_names_it_again() {
        let around = Around { form: Form::Text, port: 8989, https: false };
        for context in ["prod", "arn:aws:eks:eu-1:1:cluster/x", "ü %2F", "a@b"] {
            let url = context_link(context, around);
            let path = url.strip_prefix("http://localhost:8989").expect("the gateway itself");
            assert_eq!(context_in_path(path).as_deref(), Some(context), "{url}");
        }
        for path in ["/-/contexts/", "/-/contexts/%", "/-/contexts/%ff", "/-/other/x", "/"] {
            assert_eq!(context_in_path(path), None, "{path}");
        }
    }
}
