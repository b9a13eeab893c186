//! The reference page of the daemon's API, made from the description that the daemon serves.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Where the examples ask.
const CURL: &str = "curl --unix-socket $XDG_RUNTIME_DIR/adit/control.sock";
/// What any request may be answered with, whatever it asks for.
const ALWAYS: &str = "Any request may also be answered with one of these:\n\n| status | when |\n|---|---|\n\
    | 401 | at `daemon.listen` only: the token is missing or wrong |\n\
    | 403 | at `daemon.listen` only: a web page asks, or for another host name |\n\
    | 404 | there is nothing at this path |\n\
    | 405 | neither GET, HEAD nor POST |\n\
    | 408, 413 | the body does not come within 10 s, or is longer than 256 KiB |\n\
    | 421 | another process takes over, or has just done so: ask again, and that one answers |\n\
    | 500 | a defect of adit |\n";

/// The whole page.
pub(super) fn page(description: &str) -> String {
    let described: Value = serde_json::from_str(description).unwrap_or_default();
    let schemas = &described["components"]["schemas"];
    let mut text = format!(
        "# The daemon's API\n\nMade by `./dev docs` from what `/v1/openapi.json` answers; do not edit.\n\n{}\n\n\
         What goes wrong is answered with a status of 400 or more and a [Problem](#problem). {ALWAYS}",
        word(&described["info"]["description"])
    );
    for (path, verb, operation) in operations(&described) {
        operation_of(path, verb, operation, &mut text);
    }
    text.push_str("\n## Bodies\n\nA type with `?` may also be null.\n");
    for (name, schema) in entries(schemas) {
        let _ = write!(text, "\n### {name}\n\n| key | type | meaning |\n|---|---|---|\n");
        keys(schema, "", &mut text);
    }
    text
}

/// Every request that is described, with its method.
fn operations(described: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = entries(&described["paths"]);
    paths.flat_map(|(path, verbs)| entries(verbs).map(move |(verb, operation)| (path, verb, operation)))
}

fn operation_of(path: &str, verb: &str, operation: &Value, text: &mut String) {
    let _ = write!(text, "\n## {} {path}\n\n{}.", verb.to_uppercase(), word(&operation["summary"]));
    if let Some(more) = operation["description"].as_str() {
        let _ = write!(text, " {more}");
    }
    text.push_str("\n\n```console\n$ ");
    text.push_str(&example(path, verb, operation));
    text.push_str("\n```\n\n");
    let parameters = list(&operation["parameters"]);
    if !parameters.is_empty() {
        text.push_str("| parameter | in | type | meaning |\n|---|---|---|---|\n");
        for one in parameters {
            let meaning = with_bounds(word(&one["description"]), &one["schema"]);
            let (name, place) = (word(&one["name"]), word(&one["in"]));
            let _ = writeln!(text, "| `{name}` | {place} | {} | {meaning} |", kind(&one["schema"]));
        }
        text.push('\n');
    }
    if let Some((form, body)) = content(&operation["requestBody"]) {
        let _ = write!(text, "Body, `{form}`: {}\n\n", kind(&body["schema"]));
    }
    text.push_str("| status | answer | body |\n|---|---|---|\n");
    for (status, response) in entries(&operation["responses"]).filter(|(status, _)| *status != "default") {
        let body = match (response["$ref"].as_str(), content(response)) {
            (Some(target), _) => link(target),
            (None, Some((form, body))) => format!("{}, as `{form}`", kind(&body["schema"])),
            (None, None) => String::new(),
        };
        let _ = writeln!(text, "| {status} | {} | {body} |", word(&response["description"]));
    }
    for (_, response) in entries(&operation["responses"]) {
        let Some((_, body)) = content(response) else { continue };
        if body["schema"]["properties"].is_object() {
            text.push_str("\n| key | type | meaning |\n|---|---|---|\n");
            keys(&body["schema"], "", text);
        }
    }
}

/// A request that can be pasted into a terminal.
fn example(path: &str, verb: &str, operation: &Value) -> String {
    let (mut path, mut query) = (path.to_owned(), String::new());
    for one in list(&operation["parameters"]) {
        let (Some(name), example) = (one["name"].as_str(), plain(&one["example"])) else { continue };
        match (one["in"] == "path", one["example"].is_null()) {
            (true, _) => path = path.replace(&format!("{{{name}}}"), &example),
            (false, true) => {}
            (false, false) => {
                let _ = write!(query, "{}{name}={example}", if query.is_empty() { '?' } else { '&' });
            }
        }
    }
    let body = content(&operation["requestBody"]).map(|(_, body)| &body["example"]);
    let data = body.map(|body| format!(" -d '{body}'")).unwrap_or_default();
    let method = if verb == "post" && data.is_empty() { " -X POST" } else { "" };
    // Lines that come one by one are shown as they come.
    let flow = content(&operation["responses"]["200"]).is_some_and(|(form, _)| form == "application/x-ndjson");
    let flow = if flow { " -N" } else { "" };
    let url = format!("http://adit{path}{query}");
    let url = if query.is_empty() { url } else { format!("'{url}'") };
    format!("{CURL}{flow}{method}{data} {url}")
}

/// The keys of a body, those of maps within it behind a dot.
fn keys(schema: &Value, within: &str, text: &mut String) {
    for (name, one) in entries(&schema["properties"]) {
        let name = format!("{within}{name}");
        let meaning = with_bounds(word(&one["description"]), one);
        let _ = writeln!(text, "| `{name}` | {} | {meaning} |", kind(one));
        if one["properties"].is_object() {
            keys(one, &format!("{name}."), text);
        }
        if one["items"]["properties"].is_object() {
            keys(&one["items"], &format!("{name}[]."), text);
        }
    }
}

/// The type in a word or two, with a link to what is described elsewhere.
fn kind(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        return link(target);
    }
    let named = match &schema["type"] {
        Value::Array(all) => {
            let word = all.iter().filter_map(Value::as_str).find(|word| *word != "null").unwrap_or("null");
            return format!("{}?", one_kind(word, schema));
        }
        named => named.as_str().unwrap_or("string"),
    };
    one_kind(named, schema)
}

fn one_kind(named: &str, schema: &Value) -> String {
    match (named, &schema["items"]) {
        ("array", Value::Object(_)) => format!("list of {}", kind(&schema["items"])),
        ("array", _) => "list".to_owned(),
        ("object", _) => "map".to_owned(),
        (other, _) => other.to_owned(),
    }
}

/// What it means, with the words or the range that it can have.
fn with_bounds(meaning: &str, schema: &Value) -> String {
    let words: Vec<String> =
        list(&schema["enum"]).iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
    let mut parts = if meaning.is_empty() { Vec::new() } else { vec![meaning.replace('|', "\\|")] };
    if !words.is_empty() {
        parts.push(words.join(", "));
    }
    if schema["maximum"].is_number() {
        parts.push(format!("{} to {}", schema["minimum"], schema["maximum"]));
    }
    if !schema["default"].is_null() {
        parts.push(format!("{} without it", plain(&schema["default"])));
    }
    parts.join("; ")
}

fn link(target: &str) -> String {
    let name = target.rsplit('/').next().unwrap_or(target);
    format!("[{name}](#{})", name.to_lowercase())
}

fn content(of: &Value) -> Option<(&str, &Value)> {
    entries(&of["content"]).next()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::up::daemon::OPENAPI;

    #[test]
    fn every_request_has_a_heading_an_example_and_answers() {
        let page = page(OPENAPI);
        let described: Value = serde_json::from_str(OPENAPI).unwrap();
        assert!(operations(&described).count() >= 16);
        for (path, verb, operation) in operations(&described) {
            let heading = format!("\n## {} {path}\n", verb.to_uppercase());
            assert!(page.contains(&heading), "{heading}");
            let example = example(path, verb, operation);
            assert!(page.contains(&example) && !example.contains(['{', '}']) || example.contains(" -d "), "{example}");
            for one in list(&operation["parameters"]) {
                assert!(page.contains(&format!("| `{}` | {} |", word(&one["name"]), word(&one["in"]))));
            }
        }
    }

    #[test]
    fn every_link_of_the_page_leads_to_a_heading_of_it() {
        let page = page(OPENAPI);
        let headings: Vec<String> =
            page.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_lowercase).collect();
        let links: Vec<&str> = page.split("](#").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        assert!(links.len() > 20);
        assert!(links.iter().all(|link| headings.iter().any(|heading| heading == link)), "{links:?}");
    }

    #[test]
    fn types_are_told_in_words() {
        let of = |schema: &str| kind(&serde_json::from_str(schema).unwrap());
        assert_eq!(of(r#"{"type": ["integer", "null"]}"#), "integer?");
        assert_eq!(of(r#"{"type": "array", "items": {"type": "string"}}"#), "list of string");
        assert_eq!(of(r##"{"$ref": "#/components/schemas/Forward"}"##), "[Forward](#forward)");
        let bounds = serde_json::from_str(r#"{"minimum": 0, "maximum": 9, "default": 5}"#).unwrap();
        assert_eq!(with_bounds("lines", &bounds), "lines; 0 to 9; 5 without it");
    }
}
