//! A file to be written: values in order, with comments, as YAML or as JSON.

use serde_json::{Map, Value};

/// A line is no longer than this when a map is written in `{ }`.
const LINE_MAX: usize = 110;

/// Maps from this depth on are written in `{ }` when they are short.
const FLOW_DEPTH: usize = 2;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Written {
    /// A number or a boolean.
    Bare(String),
    /// Any text.
    Text(String),
    /// Text in which `${NAME}` stands for a variable.
    Template(String),
    /// A list.
    List(Vec<Self>),
    /// A map.
    Map(Vec<WrittenEntry>),
}

/// A key with its value and the comments before it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WrittenEntry {
    pub(crate) comments: Vec<String>,
    pub(crate) key: String,
    pub(crate) value: Written,
}

impl Written {
    /// An empty map.
    pub(crate) const fn map() -> Self {
        Self::Map(Vec::new())
    }

    pub(crate) fn text(text: &(impl ToString + ?Sized)) -> Self {
        Self::Text(text.to_string())
    }

    pub(crate) fn bare(value: &(impl ToString + ?Sized)) -> Self {
        Self::Bare(value.to_string())
    }

    pub(crate) fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(|item| Self::text(&item)).collect())
    }

    /// Adds a key to a map.
    #[must_use]
    pub(crate) fn with(self, key: impl Into<String>, value: Self) -> Self {
        self.with_comments(key, value, Vec::new())
    }

    /// Adds a key to a map when there is a value for it.
    #[must_use]
    pub(crate) fn with_some(self, key: &str, value: Option<Self>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The same with comments before it.
    #[must_use]
    pub(crate) fn with_some_comments(self, key: &str, value: Option<Self>, comments: Vec<String>) -> Self {
        match value {
            Some(value) => self.with_comments(key, value, comments),
            None => self,
        }
    }

    /// Adds a key to a map, with comments before it.
    #[must_use]
    pub(crate) fn with_comments(mut self, key: impl Into<String>, value: Self, comments: Vec<String>) -> Self {
        if let Self::Map(entries) = &mut self {
            entries.push(WrittenEntry { comments, key: key.into(), value });
        }
        self
    }

    /// Whether it is a map or a list without anything in it.
    pub(crate) const fn is_empty(&self) -> bool {
        match self {
            Self::Map(entries) => entries.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Bare(_) | Self::Text(_) | Self::Template(_) => false,
        }
    }

    /// As a YAML file.
    pub(crate) fn yaml(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Map(entries) => block(entries, 0, &mut out),
            other => {
                out.push_str(&other.flow());
                out.push('\n');
            }
        }
        out
    }

    /// As JSON, without the comments.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Bare(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())),
            Self::Text(text) | Self::Template(text) => Value::String(text.clone()),
            Self::List(items) => Value::Array(items.iter().map(Self::json).collect()),
            Self::Map(entries) => {
                let pairs = entries.iter().map(|entry| (entry.key.clone(), entry.value.json()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }

    /// On one line.
    fn flow(&self) -> String {
        match self {
            Self::Bare(text) => text.clone(),
            Self::Text(text) => scalar(text),
            Self::Template(text) => quoted(text),
            Self::List(items) => format!("[{}]", items.iter().map(Self::flow).collect::<Vec<_>>().join(", ")),
            Self::Map(entries) if entries.is_empty() => "{}".to_owned(),
            Self::Map(entries) => {
                let pair = |entry: &WrittenEntry| format!("{}: {}", key(&entry.key), entry.value.flow());
                format!("{{ {} }}", entries.iter().map(pair).collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn has_comments(&self) -> bool {
        match self {
            Self::Bare(_) | Self::Text(_) | Self::Template(_) => false,
            Self::List(items) => items.iter().any(Self::has_comments),
            Self::Map(entries) => entries.iter().any(|entry| !entry.comments.is_empty() || entry.value.has_comments()),
        }
    }
}

fn block(entries: &[WrittenEntry], depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    for (index, entry) in entries.iter().enumerate() {
        // Sections stand apart.
        if depth == 0 && index > 0 {
            out.push('\n');
        }
        for comment in &entry.comments {
            let line = format!("{indent}# {comment}");
            out.push_str(line.trim_end());
            out.push('\n');
        }
        let start = format!("{indent}{}:", key(&entry.key));
        let flow = entry.value.flow();
        match &entry.value {
            Written::Map(below)
                if !below.is_empty()
                    && (depth + 1 < FLOW_DEPTH
                        || start.len() + flow.len() > LINE_MAX
                        || entry.value.has_comments()) =>
            {
                out.push_str(&start);
                out.push('\n');
                block(below, depth + 1, out);
            }
            _ => {
                out.push_str(&start);
                out.push(' ');
                out.push_str(&flow);
                out.push('\n');
            }
        }
    }
}

fn key(text: &str) -> String {
    // A number as a key is read as its text.
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) { text.to_owned() } else { quoted(text) }
}

/// A value: what would be taken for a variable is escaped.
fn scalar(text: &str) -> String {
    quoted(&text.replace("${", "$${"))
}

/// Without quotes where no YAML reader can misread it.
fn quoted(text: &str) -> String {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-./~@%+=:".contains(&b);
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_' || c == '.')
        || text.starts_with("~/");
    if starts_well && text.bytes().all(legal) && !text.ends_with(':') && !means_something_else(text) {
        return text.to_owned();
    }
    // Every JSON string is a YAML string.
    Value::String(text.to_owned()).to_string()
}

/// Words and numbers, also those of old YAML.
fn means_something_else(text: &str) -> bool {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "~"];
    let number = text.parse::<f64>().is_ok() || text.bytes().all(|b| b.is_ascii_digit() || b"_:.".contains(&b));
    let based =
        text.starts_with("0x") || text.starts_with("0o") || text.starts_with(".inf") || text.starts_with(".nan");
    let address = text.contains('.') && text.contains(':');
    WORDS.iter().any(|word| word.eq_ignore_ascii_case(text)) || based || number && !address && !is_ip(text)
}

fn is_ip(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree;
    use proptest::prelude::*;

    #[test]
    fn short_maps_are_written_on_one_line_and_sections_stand_apart() {
        let route = Written::map().with("to", Written::text("forward:x")).with("scheme", Written::text("https"));
        let document = Written::map().with("version", Written::bare(&1)).with(
            "gateway",
            Written::map().with_comments("routes", Written::map().with("*.a.localhost", route), vec!["why".into()]),
        );
        let expected =
            "version: 1\n\ngateway:\n  # why\n  routes: { \"*.a.localhost\": { to: forward:x, scheme: https } }\n";
        assert_eq!(document.yaml(), expected);
        assert_eq!(document.json()["version"], 1);
    }

    #[test]
    fn what_could_be_misread_has_quotes() {
        for text in ["yes", "~", "null", "1.5", "0x1f", "12:30", "", "a: b", "[x]", "a#b", "::1", "*", "é", "-", "1e3"]
        {
            assert!(quoted(text).starts_with('"'), "{text}");
        }
        for text in ["a", "127.0.0.1:80", "k8s://prod/a/pod/b:1", "60m", "~/x", "10.0.0.1", "/etc/x", "pg_1"] {
            assert_eq!(quoted(text), text);
        }
    }

    fn plain(node: &tree::Node) -> Written {
        match &node.value {
            tree::Value::Null => Written::text("nothing"),
            tree::Value::Text(text) => Written::Text(text.replace("$${", "${")),
            tree::Value::List(items) => Written::List(items.iter().map(plain).collect()),
            tree::Value::Map(entries) => {
                entries.iter().fold(Written::map(), |map, entry| map.with(entry.key.clone(), plain(&entry.node)))
            }
        }
    }

    fn documents() -> impl Strategy<Value = Written> {
        let text = prop_oneof!["[a-z0-9 :#\"'\\\\é*&!{}-]{0,8}", "true|null|0x1F|1\\.50|~|-|on|12:30"];
        let map = |inner| {
            proptest::collection::btree_map("[a-z*. 0-9]{1,5}", inner, 1..4)
                .prop_map(|all| all.into_iter().fold(Written::map(), |map, (key, value)| map.with(key, value)))
        };
        let value = text.prop_map(Written::Text).prop_recursive(4, 30, 4, move |inner| {
            prop_oneof![proptest::collection::vec(inner.clone(), 0..4).prop_map(Written::List), map(inner)]
        });
        map(value.boxed())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(document in documents()) {
            let yaml = document.yaml();
            let (node, problems) = tree::read("f.yaml", &yaml).map_err(|p| TestCaseError::fail(format!("{p}\n{yaml}")))?;
            prop_assert_eq!(problems, []);
            prop_assert_eq!(plain(&node), document, "{}", yaml);
        }
    }
}
