//! Walks a tree with getters that record a problem and go on.

use std::cell::RefCell;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::problem::{Problem, Problems};
use super::show::REDACTED;
use super::substitute::{SubstituteError, substitute, without_values};
use super::tree::{Entry, Node, Place, Value};
use super::unit::parse_duration;
use super::{CONFIG_VERSION, Environment};
use crate::diagnose::Diagnose;
use crate::near;

/// What is wrong with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Complaint {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }

    /// As a problem whose place the caller knows.
    pub(crate) fn without_place(self) -> Problem {
        Problem { file: String::new(), line: 0, column: 0, key: String::new(), message: self.message, hint: self.hint }
    }
}

impl<E: Diagnose> From<E> for Complaint {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), hint: error.hint() }
    }
}

/// What all sections of a file share.
pub(crate) struct Reader<'a> {
    file: &'a str,
    env: Environment<'a>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a str, env: Environment<'a>, problems: Vec<Problem>) -> Self {
        Self { file, env, problems: RefCell::new(problems) }
    }

    /// The file as a whole; nothing at all is an empty map.
    pub(crate) fn root(&'a self, node: &'a Node) -> Section<'a> {
        self.section(String::new(), node)
    }

    /// The value, when there was no problem.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, Problems> {
        let problems = self.problems.into_inner();
        if problems.is_empty() {
            return Ok(value);
        }
        Err(Problems::in_order(problems))
    }

    fn complain(&self, place: Place, key: &str, complaint: Complaint) {
        self.problems.borrow_mut().push(Problem {
            file: self.file.to_owned(),
            line: place.line,
            column: place.column,
            key: key.to_owned(),
            message: complaint.message,
            hint: complaint.hint,
        });
    }

    /// The same of a value, which is not told as far as it comes from variables.
    fn complain_of(&self, node: &Node, path: &str, mut complaint: Complaint) {
        if let Value::Text(written) = &node.value {
            let shown = |said: &str| without_values(said, written, self.env);
            complaint.message = shown(&complaint.message);
            complaint.hint = complaint.hint.map(|hint| shown(&hint));
        }
        self.complain(node.place, path, complaint);
    }

    fn section(&'a self, path: String, node: &'a Node) -> Section<'a> {
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            other => {
                let message = format!("must be a map of keys, not {}", other.kind());
                self.complain(node.place, &path, Complaint { message, hint: None });
                &[]
            }
        };
        Section { reader: self, path, place: node.place, entries, known: RefCell::new(Vec::new()) }
    }

    /// The text of a scalar with its variables put in.
    fn text(&self, path: &str, node: &Node) -> Option<String> {
        let Value::Text(text) = &node.value else {
            let message = format!("must be a single value, not {}", node.value.kind());
            self.complain(node.place, path, Complaint { message, hint: None });
            return None;
        };
        match substitute(text, self.env) {
            Ok(text) => Some(text),
            Err(error) => {
                self.complain(node.place, path, substitute_complaint(&error));
                None
            }
        }
    }
}

/// One map of the file. Asking for a key makes it known; [`Section::finish`] reports the others.
pub(crate) struct Section<'a> {
    reader: &'a Reader<'a>,
    path: String,
    place: Place,
    entries: &'a [Entry],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// A value by its parser; `None` when it is absent or wrong.
    pub(crate) fn get<T, E: Into<Complaint>>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let node = self.node(key)?;
        let path = self.path_of(key);
        let text = self.reader.text(&path, node)?;
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.reader.complain_of(node, &path, error.into());
                None
            }
        }
    }

    /// A value that must be there.
    pub(crate) fn require<T, E: Into<Complaint>>(
        &self,
        key: &'static str,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if self.node(key).is_none() {
            self.missing(key, hint);
            return None;
        }
        self.get(key, parse)
    }

    /// A list; one value alone is a list of one. `None` when it is absent or one of its items is wrong.
    pub(crate) fn list<T, E: Into<Complaint>>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let node = self.node(key)?;
        let path = self.path_of(key);
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Null | Value::Text(_) | Value::Map(_) => std::slice::from_ref(node),
        };
        let mut found = Vec::with_capacity(items.len());
        let mut wrong = false;
        for (index, item) in items.iter().enumerate() {
            let path = if items.len() > 1 { format!("{path}[{index}]") } else { path.clone() };
            let Some(text) = self.reader.text(&path, item) else {
                wrong = true;
                continue;
            };
            match parse(text.trim()) {
                Ok(value) => found.push(value),
                Err(error) => {
                    wrong = true;
                    self.reader.complain_of(item, &path, error.into());
                }
            }
        }
        (!wrong).then_some(found)
    }

    /// The texts of a key for everybody to read: what variables hold is hidden. Empty when the key is absent or wrong.
    pub(crate) fn shown(&self, key: &str) -> Vec<String> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let items = match &entry.node.value {
            Value::List(items) => items.as_slice(),
            Value::Null | Value::Text(_) | Value::Map(_) => std::slice::from_ref(&entry.node),
        };
        let texts = items.iter().filter_map(|item| match &item.value {
            Value::Text(text) => substitute(text, &|_| Some(REDACTED.to_owned())).ok(),
            _ => None,
        });
        texts.map(|text| text.trim().to_owned()).collect()
    }

    /// A number within bounds.
    pub(crate) fn number<T>(&self, key: &'static str, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        self.get(key, |text| number(text, &bounds))
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        self.get(key, |text| match text {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(Complaint::new(format!("`{text}` is neither true nor false"), "write true or false")),
        })
    }

    /// Text that must not be empty.
    pub(crate) fn text(&self, key: &'static str) -> Option<String> {
        self.get(key, |text| {
            if text.is_empty() {
                return Err(Complaint::new("must not be empty", "give it a value or leave the key out"));
            }
            Ok(text.to_owned())
        })
    }

    /// A path: `~/` is the home directory, a relative one starts at the directory of the file.
    pub(crate) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.get(key, |text| resolve_path(text, self.reader.file, self.reader.env))
    }

    /// A list of paths, each of which may itself be a list with `:` between, as in `PATH`.
    pub(crate) fn paths(&self, key: &'static str) -> Option<Vec<PathBuf>> {
        let several = |text: &str| -> Result<Vec<PathBuf>, Complaint> {
            let parts = text.split(':').filter(|part| !part.is_empty());
            parts.map(|part| resolve_path(part, self.reader.file, self.reader.env)).collect()
        };
        Some(self.list(key, several)?.into_iter().flatten().collect())
    }

    /// One of several words.
    pub(crate) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.get(key, |text| {
            let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            found.map(|(_, value)| *value).ok_or_else(|| {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Complaint::new(format!("`{text}` is not known here"), suggestion(text, &known))
            })
        })
    }

    /// A map below; an empty one when it is absent.
    pub(crate) fn section(&self, key: &'static str) -> Section<'a> {
        self.optional_section(key).unwrap_or_else(|| Section {
            reader: self.reader,
            path: self.path_of(key),
            place: self.place,
            entries: &[],
            known: RefCell::new(Vec::new()),
        })
    }

    /// A map below, when it is there.
    pub(crate) fn optional_section(&self, key: &'static str) -> Option<Section<'a>> {
        let node = self.node(key)?;
        Some(self.reader.section(self.path_of(key), node))
    }

    /// All keys with their maps, for maps whose keys the user chooses.
    pub(crate) fn named_sections(&self) -> Vec<(&'a str, Section<'a>)> {
        let section = |entry: &'a Entry| self.reader.section(self.path_of(&entry.key), &entry.node);
        self.entries.iter().map(|entry| (entry.key.as_str(), section(entry))).collect()
    }

    /// The maps of a list below; none when it is absent.
    pub(crate) fn listed_sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let path = self.path_of(key);
        let Value::List(items) = &node.value else {
            let message = format!("must be a list, not {}", node.value.kind());
            self.reader.complain(node.place, &path, Complaint { message, hint: None });
            return Vec::new();
        };
        let section = |(index, item)| self.reader.section(format!("{path}[{index}]"), item);
        items.iter().enumerate().map(section).collect()
    }

    /// All keys with their texts, for maps whose keys the user chooses.
    pub(crate) fn named_texts(&self) -> Vec<(&'a str, String)> {
        let text = |entry: &'a Entry| self.reader.text(&self.path_of(&entry.key), &entry.node);
        self.entries.iter().filter_map(|entry| Some((entry.key.as_str(), text(entry)?))).collect()
    }

    /// Checks the file's version; a file without one is of this version.
    pub(crate) fn version(&self) {
        self.get("version", |text| match text.parse() {
            Ok(CONFIG_VERSION) => Ok(()),
            Ok(_) | Err(_) => Err(Complaint::new(
                format!("version `{text}` is not known"),
                format!("this adit reads version {CONFIG_VERSION}"),
            )),
        });
    }

    /// Whether a key is there with a value, right or wrong.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.node(key).is_some()
    }

    /// The same for a key that was asked for already.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|entry| entry.node.value != Value::Null)
    }

    /// Whether a key holds a map, for keys that may be written either way.
    pub(crate) fn is_map(&self, key: &'static str) -> bool {
        self.node(key).is_some_and(|node| matches!(node.value, Value::Map(_)))
    }

    /// The keys of the map, for maps whose keys the user chooses.
    pub(crate) fn names(&self) -> Vec<&'a str> {
        self.entries.iter().map(|entry| entry.key.as_str()).collect()
    }

    /// Records a problem of a key further down, at its value or at the nearest that is there.
    pub(crate) fn complain_at(&self, keys: &[&str], complaint: impl Into<Complaint>) {
        let path = keys.iter().fold(self.path.clone(), |path, key| match path.is_empty() {
            true => (*key).to_owned(),
            false => format!("{path}.{key}"),
        });
        let place = place_of(self.entries, keys).unwrap_or(self.place);
        self.reader.complain(place, &path, complaint.into());
    }

    /// Records that a key is missing, at the place of the map it belongs to.
    pub(crate) fn missing(&self, key: &str, hint: &str) {
        let complaint = Complaint::new("is missing", hint);
        self.reader.complain(self.place, &self.path_of(key), complaint);
    }

    /// Records a problem of a key, at its value when it is there.
    pub(crate) fn complain(&self, key: &str, complaint: impl Into<Complaint>) {
        let place = self.entry(key).map_or(self.place, |entry| entry.node.place);
        self.reader.complain(place, &self.path_of(key), complaint.into());
    }

    /// Records a problem of the map itself.
    pub(crate) fn complain_here(&self, complaint: impl Into<Complaint>) {
        self.reader.complain(self.place, &self.path, complaint.into());
    }

    /// Its keys with their places and values.
    pub(crate) const fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    /// The keys that nobody asked for, with their paths.
    pub(crate) fn unasked(&self) -> Vec<(String, Place)> {
        let known = self.known.borrow();
        let left = self.entries.iter().filter(|entry| !known.contains(&entry.key.as_str()));
        left.map(|entry| (self.path_of(&entry.key), entry.place)).collect()
    }

    /// Where it is.
    pub(crate) fn whereabouts(&self) -> &str {
        &self.path
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self) {
        self.finish_ref();
    }

    /// The same for a section that is looked at again.
    pub(crate) fn finish_ref(&self) {
        let known = self.known.borrow();
        for entry in self.entries {
            if known.contains(&entry.key.as_str()) {
                continue;
            }
            let complaint = Complaint::new("there is no such key", suggestion(&entry.key, &known));
            self.reader.complain(entry.place, &self.path_of(&entry.key), complaint);
        }
    }

    fn node(&self, key: &'static str) -> Option<&'a Node> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        let node = &self.entry(key)?.node;
        (node.value != Value::Null).then_some(node)
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            return key.to_owned();
        }
        format!("{}.{key}", self.path)
    }
}

/// The place of the value that the keys lead to, or of the last one on the way that is there.
pub(crate) fn place_of(entries: &[Entry], keys: &[&str]) -> Option<Place> {
    let (first, rest) = keys.split_first()?;
    let node = &entries.iter().find(|entry| entry.key == *first)?.node;
    let below = match &node.value {
        Value::Map(entries) => place_of(entries, rest),
        Value::Null | Value::Text(_) | Value::List(_) => None,
    };
    below.or(Some(node.place))
}

/// Reads a number within bounds.
pub(crate) fn number<T>(text: &str, bounds: &RangeInclusive<T>) -> Result<T, Complaint>
where
    T: FromStr + PartialOrd + Display,
{
    let range = || format!("write a number from {} to {}", bounds.start(), bounds.end());
    let value: T = text
        .replace('_', "")
        .parse()
        .map_err(|_| Complaint::new(format!("`{text}` is not a number that fits here"), range()))?;
    if !bounds.contains(&value) {
        return Err(Complaint::new(format!("{text} is out of range"), range()));
    }
    Ok(value)
}

/// Reads an address to listen on: `IP:PORT`, `:PORT`, `PORT` or `localhost:PORT`.
pub(crate) fn listen_address(text: &str, default: IpAddr) -> Result<SocketAddr, Complaint> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (host, port_text) = text.rsplit_once(':').unwrap_or(("", text));
    let ip = match host {
        "" => Some(default),
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        "*" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        _ => host.parse().ok().map(IpAddr::V4),
    };
    let port = is_number(port_text).then(|| port_text.parse().ok()).flatten();
    match (ip, port) {
        (Some(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
        (Some(_), None) if is_number(port_text) => {
            Err(Complaint::new(format!("{port_text} is no port"), "write a port from 1 to 65535; 0 is any free one"))
        }
        _ => Err(Complaint::new(
            format!("`{text}` is not an address to listen on"),
            "write a port, such as 8080, or IP:PORT: 127.0.0.1:9090, 0.0.0.0:8080 or [::]:8080",
        )),
    }
}

/// Rule S13: what has no credentials and no TLS stays on loopback.
pub(crate) fn loopback_address(text: &str) -> Result<SocketAddr, Complaint> {
    let address = listen_address(text, IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    if address.ip().to_canonical().is_loopback() {
        return Ok(address);
    }
    Err(Complaint::new(
        format!("{address} can be reached from other machines"),
        format!("use 127.0.0.1:{}; it has neither credentials nor TLS", address.port()),
    ))
}

/// Reads a duration that is not zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, Complaint> {
    let duration = parse_duration(text)?;
    if duration.is_zero() {
        return Err(Complaint::new("must be longer than nothing", "write it as 300ms, 30s or 5m"));
    }
    Ok(duration)
}

/// A path as the user means it.
pub(crate) fn resolve_path(text: &str, file: &str, env: Environment<'_>) -> Result<PathBuf, Complaint> {
    if text.is_empty() {
        return Err(Complaint::new("must not be empty", "write the path of a file"));
    }
    if let Some(rest) = text.strip_prefix("~/") {
        let home = env("HOME")
            .filter(|home| !home.is_empty())
            .ok_or_else(|| Complaint::new("`~` is not known, because HOME is not set", "write the whole path"))?;
        return Ok(Path::new(&home).join(rest));
    }
    let base = Path::new(file).parent().unwrap_or_else(|| Path::new(""));
    Ok(base.join(text))
}

/// What the user probably meant, or all there is.
fn suggestion(text: &str, known: &[&str]) -> String {
    if let Some(word) = near::nearest(text, known.iter().copied()) {
        return format!("did you mean `{word}`?");
    }
    let mut all: Vec<&str> = known.to_vec();
    all.sort_unstable();
    format!("known here: {}", all.join(", "))
}

fn substitute_complaint(error: &SubstituteError) -> Complaint {
    match error {
        SubstituteError::Unset(name) => Complaint::new(
            format!("the variable {name} is not set"),
            format!("set it, or give a default: ${{{name}:-…}}"),
        ),
        SubstituteError::Open => Complaint::new("`${` has no `}`", "write ${NAME}; $${ stands for ${ itself"),
        SubstituteError::Name(name) => Complaint::new(
            format!("`{name}` cannot be the name of a variable"),
            "write ${NAME}; $${ stands for ${ itself",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/me".to_owned()),
            "PORT" => Some("8080".to_owned()),
            _ => None,
        }
    }

    fn with<T>(text: &str, read: impl FnOnce(&Section<'_>) -> T) -> (T, Vec<String>) {
        let (node, problems) = tree::read("dir/f.yaml", text).unwrap();
        let reader = Reader::new("dir/f.yaml", &env, problems);
        let section = reader.root(&node);
        let value = read(&section);
        section.finish();
        let problems = reader.finish(()).err().unwrap_or_default();
        (value, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn values_are_read_by_their_parsers() {
        let ((port, wait, flag, text), problems) = with("port: ${PORT}\nwait: 5s\nflag: yes\ntext: x\n", |s| {
            (s.number("port", 1u16..=u16::MAX), s.get("wait", parse_duration), s.boolean("flag"), s.text("text"))
        });
        assert_eq!(problems, [""; 0]);
        assert_eq!(port, Some(8080));
        assert_eq!(wait, Some(Duration::from_secs(5)));
        assert_eq!((flag, text.as_deref()), (Some(true), Some("x")));
    }

    #[test]
    fn each_wrong_value_is_a_problem_with_place_key_and_hint() {
        let (_, problems) = with("port: 70000\nwait: soon\nflag: maybe\nlist: {a: 1}\n", |s| {
            s.number("port", 1u16..=u16::MAX);
            s.get("wait", parse_duration);
            s.boolean("flag");
            s.list("list", |text| number(text, &(0..=1)));
        });
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert_eq!(
            problems[0],
            "dir/f.yaml:1:7: port: `70000` is not a number that fits here\nhint: write a number from 1 to 65535"
        );
        assert!(problems[1].starts_with("dir/f.yaml:2:7: wait: `soon` is not a duration\nhint:"));
        assert!(problems[3].starts_with("dir/f.yaml:4:7: list: must be a single value, not a map"));
    }

    #[test]
    fn an_unknown_key_is_reported_with_the_nearest_known_one() {
        let (_, problems) = with("listne: 1\nzzz: 2\nbase-domain: x\n", |s| {
            s.text("listen");
            s.text("base_domain");
        });
        assert!(problems[0].ends_with("hint: did you mean `listen`?"), "{}", problems[0]);
        assert!(problems[1].ends_with("hint: known here: base_domain, listen"), "{}", problems[1]);
        assert!(problems[2].ends_with("hint: did you mean `base_domain`?"), "{}", problems[2]);
    }

    #[test]
    fn an_unset_variable_is_reported_with_key_and_line() {
        let (_, problems) = with("a: x\nb: ${NOPE}\n", |s| (s.text("a"), s.text("b")));
        assert_eq!(
            problems,
            ["dir/f.yaml:2:4: b: the variable NOPE is not set\nhint: set it, or give a default: ${NOPE:-…}"]
        );
    }

    #[test]
    fn a_list_may_be_written_as_one_value_and_its_items_have_places() {
        let read = |text: &str| with(text, |s| s.list("l", |t| number(t, &(0u8..=9))));
        assert_eq!(read("l: 5\n").0, Some(vec![5]));
        assert_eq!(read("l: [1, 2]\n").0, Some(vec![1, 2]));
        assert_eq!(read("l: []\n").0, Some(vec![]));
        let (found, problems) = read("l: [1, x, 3]\n");
        assert_eq!(found, None);
        assert!(problems[0].starts_with("dir/f.yaml:1:8: l[1]: "), "{}", problems[0]);
    }

    #[test]
    fn paths_start_at_the_file_or_at_home() {
        let (found, problems) =
            with("a: x.pem\nb: ~/t\nc: /abs\nd: ''\n", |s| (s.path("a"), s.path("b"), s.path("c"), s.path("d")));
        assert_eq!(found.0.unwrap(), Path::new("dir/x.pem"));
        assert_eq!(found.1.unwrap(), Path::new("/home/me/t"));
        assert_eq!(found.2.unwrap(), Path::new("/abs"));
        assert_eq!(found.3, None);
        assert_eq!(problems.len(), 1);
        assert!(resolve_path("~/x", "f", &|_| None).is_err());
    }

    #[test]
    fn addresses_to_listen_on_have_short_forms() {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let read = |text: &str| listen_address(text, any).map(|a| a.to_string());
        assert_eq!(read("127.0.0.1:80").unwrap(), "127.0.0.1:80");
        assert_eq!(read(":8080").unwrap(), "0.0.0.0:8080");
        assert_eq!(read("8080").unwrap(), "0.0.0.0:8080");
        assert_eq!(read("localhost:0").unwrap(), "127.0.0.1:0");
        assert_eq!(read("*:1").unwrap(), "0.0.0.0:1");
        assert_eq!(read("[::]:1").unwrap(), "[::]:1");
        for text in ["", "host:80", "1.2.3.4", ":x", ":70000", ":+1", "::1:"] {
            assert!(read(text).is_err(), "{text}");
        }
        let hint = listen_address("80x", any).unwrap_err().hint.unwrap();
        assert!(hint.contains("write a port, such as 8080"), "{hint}");
    }

    #[test]
    fn missing_keys_are_reported() {
        let (_, problems) = with("", |s| {
            s.require("server", "write host:port", |text| Ok::<_, Complaint>(text.to_owned()));
            s.version();
        });
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("server: is missing\nhint: write host:port"), "{}", problems[0]);
    }

    #[test]
    fn another_version_is_refused() {
        assert_eq!(with("version: 1\n", |s| s.version()).1, [""; 0]);
        let problems = with("version: 2\n", |s| s.version()).1;
        assert!(problems[0].contains("version `2` is not known"), "{}", problems[0]);
    }

    #[test]
    fn a_section_that_is_no_map_is_one_problem() {
        let (_, problems) = with("a: 5\nb:\n", |s| {
            s.section("a").finish();
            s.section("b").finish();
            s.section("c").finish();
        });
        assert_eq!(problems, ["dir/f.yaml:1:4: a: must be a map of keys, not a single value"]);
    }

    #[test]
    fn words_are_matched_without_case() {
        let words = [("text", 1), ("json", 2)];
        assert_eq!(with("a: JSON\n", |s| s.word("a", &words)).0, Some(2));
        let problems = with("a: jsno\n", |s| s.word("a", &words)).1;
        assert!(problems[0].contains("`jsno` is not known here\nhint: "), "{}", problems[0]);
    }

    proptest! {}

    #[test]
    fn maps_with_keys_of_the_users_choice_are_read_whole() {
        let (found, problems) = with("m: { B: '1', a: \"${PORT}\", c: [x] }\n", |s| {
            let section = s.section("m");
            let texts = section.named_texts();
            texts.into_iter().map(|(key, text)| format!("{key}={text}")).collect::<Vec<_>>()
        });
        assert_eq!(found, ["B=1", "a=8080"]);
        assert_eq!(problems, ["dir/f.yaml:1:31: m.c: must be a single value, not a list"]);
        let (found, problems) = with("m: { a: {}, b: 5 }\n", |s| {
            let names = s.section("m").named_sections();
            names.into_iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>()
        });
        assert_eq!(found, ["a", "b"]);
        assert_eq!(problems, ["dir/f.yaml:1:16: m.b: must be a map of keys, not a single value"]);
    }

    #[test]
    fn numbers_may_have_underscores_and_no_other_signs() {
        let read = |text: &str| number(text, &(0u32..=100_000));
        assert_eq!(read("10_000"), Ok(10_000));
        for text in ["", "_", "1e3", "0x10", "1.0", "1,000", "-1", "100001", "99999999999"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_has_no_credentials_listens_on_loopback_only() {
        for text in ["9090", ":9090", "localhost:1", "127.5.5.5:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(loopback_address(text).is_ok(), "{text}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "*:1"] {
            let complaint = loopback_address(text).unwrap_err();
            assert!(complaint.hint.unwrap().contains("127.0.0.1:1"), "{text}");
        }
    }

    #[test]
    fn a_key_that_looks_like_nothing_known_gets_the_list() {
        assert_eq!(suggestion("zebra", &["b", "a"]), "known here: a, b");
        assert_eq!(suggestion("", &[]), "known here: ");
        assert_eq!(suggestion(&"x".repeat(100), &["a"]), "known here: a");
        assert_eq!(suggestion("Base-Domain", &["base_domain"]), "did you mean `base_domain`?");
    }
}
