//! localport's file, `localport.yaml`, version 1.0: every key of its pages and of its code.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::comments::Comments;
use super::{Imported, Names, assemble};
use crate::config::document::Written;
use crate::config::reader::{Complaint, Reader, Section, number};
use crate::config::tree::{Entry, Node, Value};
use crate::config::{Problems, tree};
use given::{Given, given, required};

mod connection;
mod given;
mod health;

/// The only version there is.
const VERSION: &str = "1.0";

/// The longest wait between two restarts, when the file says nothing.
const MAX_DELAY: Duration = Duration::from_secs(300);

/// What a forward's name may have at the most.
const NAME_MAX: usize = 50;

/// The file while it is turned: comments are taken and notes written by all its parts.
struct Work {
    comments: Comments,
    notes: Vec<String>,
    names: Names,
    /// Local ports with the services that take them.
    ports: HashMap<u16, String>,
    /// Variables that must be set.
    needed: BTreeSet<String>,
    /// Keys that nobody knows, with their lines.
    unknown: Vec<(String, u32)>,
}

impl Work {
    fn note_once(&mut self, note: &str) {
        if !self.notes.iter().any(|known| known == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// localport passes over keys that it does not know.
    fn unknown(&mut self, section: &Section<'_>) {
        self.unknown.extend(section.unasked().into_iter().map(|(path, place)| (path, place.line)));
    }

    /// What belongs to a check that is not known.
    fn left_out(&mut self, section: &Section<'_>, key: &str) {
        self.notes.push(format!("{}.{key} is left out with the check it is for", section.whereabouts()));
    }

    /// The comments of a key and of all that is below it.
    fn comments_below(&mut self, entry: &Entry) -> Vec<String> {
        let mut lines = BTreeSet::from([entry.place.line]);
        lines_of(&entry.node, &mut lines);
        lines.into_iter().flat_map(|line| self.comments.take(line)).collect()
    }
}

pub(super) fn import(text: &str, file: &str) -> Result<Imported, Problems> {
    let (mut node, problems) = tree::read(file, text).map_err(Problems::one)?;
    let mut work = Work {
        comments: Comments::read(text),
        notes: Vec::new(),
        names: Names::default(),
        ports: HashMap::new(),
        needed: BTreeSet::new(),
        unknown: Vec::new(),
    };
    prepare(&mut node, false, &mut work.needed);
    // Nothing is put in: the new file has the same variables.
    let nothing = |_: &str| None;
    let reader = Reader::new(file, &nothing, problems);
    let yaml = whole(&reader.root(&node), &mut work);
    work.last_notes();
    reader.finish(Imported { yaml, notes: work.notes })
}

impl Work {
    fn last_notes(&mut self) {
        if !self.needed.is_empty() {
            let names: Vec<&str> = self.needed.iter().map(String::as_str).collect();
            self.notes.push(format!(
                "a variable that is not set is a problem here, not a text of its own: {}; give a default as ${{NAME:-…}} where there may be none",
                names.join(", ")
            ));
        }
        for (path, line) in &self.unknown {
            self.notes.push(format!("{path} (line {line}) is no key of localport, and is left out"));
        }
        let left = self.comments.left();
        if !left.is_empty() {
            let lines: Vec<String> = left.iter().map(u32::to_string).collect();
            self.notes.push(format!(
                "comments that belong to no key of the new file are left out: line {}",
                lines.join(", ")
            ));
        }
    }
}

/// Variables are escaped, so that they come out as they are; `localPort` is `local_port`.
fn prepare(node: &mut Node, free_keys: bool, needed: &mut BTreeSet<String>) {
    match &mut node.value {
        Value::Null => {}
        Value::Text(text) => {
            needed.extend(given::needed(text).into_iter().map(str::to_owned));
            *text = text.replace("${", "$${");
        }
        Value::List(items) => items.iter_mut().for_each(|item| prepare(item, false, needed)),
        Value::Map(entries) => {
            for entry in entries {
                if !free_keys {
                    entry.key = snake(&entry.key);
                }
                let names_below = matches!(entry.key.as_str(), "headers" | "cluster_contexts");
                prepare(&mut entry.node, names_below, needed);
            }
        }
    }
}

fn snake(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut before = ' ';
    for character in key.chars() {
        if character.is_ascii_uppercase() && before.is_ascii_lowercase() {
            out.push('_');
        }
        out.push(if character == '-' { '_' } else { character.to_ascii_lowercase() });
        before = character;
    }
    out
}

fn lines_of(node: &Node, lines: &mut BTreeSet<u32>) {
    lines.insert(node.place.line);
    match &node.value {
        Value::Null | Value::Text(_) => {}
        Value::List(items) => items.iter().for_each(|item| lines_of(item, lines)),
        Value::Map(entries) => {
            for entry in entries {
                lines.insert(entry.place.line);
                lines_of(&entry.node, lines);
            }
        }
    }
}

fn whole(root: &Section<'_>, work: &mut Work) -> String {
    let mut header = vec!["Made from a file of localport by `adit config import localport`.".to_owned()];
    let first = root.entries().first().map_or(1, |entry| entry.place.line);
    header.extend(work.comments.take_header(first));
    root.get("version", |text| match text {
        VERSION | "1" => Ok(()),
        _ => Err(Complaint::new(format!("version `{text}` is not known"), format!("write \"{VERSION}\""))),
    });
    if !root.has("services") {
        root.missing("services", "write the list of services");
    }
    let defaults = root.section("defaults");
    let (keepalive, keepalive_comments) = cluster_health(&defaults, work);
    contexts(&root.section("cluster_contexts"), work);
    let policy = defaults.optional_section("restart_policy").map(|section| restart(&section, None, work));
    let health = defaults.optional_section("health_check").map(|section| health::read(&section, None, work));
    work.unknown(&defaults);
    let mut comments = [Vec::new(), Vec::new(), Vec::new()];
    for entry in root.entries() {
        let place = match entry.key.as_str() {
            "defaults" => 1,
            "services" => 2,
            _ => 0,
        };
        // Those of single services stay with them.
        let found = if place == 2 { work.comments.take(entry.place.line) } else { work.comments_below(entry) };
        comments[place].extend(found);
    }
    let [of_version, of_defaults, of_services] = comments;
    header.extend(of_version);
    let forwards = services(root, policy.as_ref(), work);
    work.unknown(root);
    let kubernetes = Written::map().with_some_comments("keepalive", keepalive, keepalive_comments);
    let defaults = Written::map()
        .with_some("health", health.filter(|health| !health.is_empty()))
        .with_some("restart", policy.map(|policy| policy.written).filter(|restart| !restart.is_empty()));
    assemble(
        header,
        vec![
            ("kubernetes", Vec::new(), kubernetes),
            ("defaults", of_defaults, defaults),
            ("forwards", of_services, forwards),
        ],
    )
}

/// One light call to each cluster in use is what is left of the monitor; it keeps connections open all the same.
fn cluster_health(defaults: &Section<'_>, work: &mut Work) -> (Option<Written>, Vec<String>) {
    let entry = defaults.entries().iter().find(|entry| entry.key == "cluster_health");
    let comments = entry.map(|entry| work.comments_below(entry)).unwrap_or_default();
    let section = defaults.section("cluster_health");
    let enabled = section.boolean("enabled").unwrap_or(true);
    let interval = given(&section, "interval", |text| seconds(text, 60.0, 3600.0));
    let without: Vec<&str> = ["timeout", "retry_attempts", "failure_threshold", "commands"]
        .into_iter()
        .filter(|key| section.has(key))
        .collect();
    if !without.is_empty() {
        work.notes.push(format!(
            "no equivalent for {} of cluster_health: a cluster is lost when its connection is, and looked for until it is back",
            without.join(", ")
        ));
    }
    work.unknown(&section);
    let keepalive = if enabled { interval.map(|wait| wait.time()) } else { Some(Written::text("off")) };
    (keepalive, comments)
}

fn contexts(section: &Section<'_>, work: &mut Work) {
    let names = section.names();
    if !names.is_empty() {
        work.notes.push(format!(
            "cluster_contexts ({}) has no equivalent: kubernetes.keepalive holds for every cluster",
            names.join(", ")
        ));
    }
}

/// What `restart_policy` becomes, and what it comes to.
struct Restart {
    written: Written,
    initial: Option<Given<Duration>>,
    max: Option<Given<Duration>>,
}

fn restart(section: &Section<'_>, base: Option<&Restart>, work: &mut Work) -> Restart {
    let enabled = section.boolean("enabled").unwrap_or(true);
    let attempts = given(section, "max_attempts", |text| number(text, &(1u32..=100)));
    let multiplier = given(section, "backoff_multiplier", |text| number(text, &(1.0f64..=10.0)));
    let initial = given(section, "initial_delay", |text| seconds(text, 0.001, 3600.0));
    let stated_max = given(section, "max_delay", |text| seconds(text, 1.0, 86_400.0));
    work.unknown(section);
    let attempts = if enabled {
        attempts.map(|attempts| attempts.written(Written::bare))
    } else {
        let stated = if attempts.is_some() { ", instead of the one that is written" } else { "" };
        work.notes.push(format!(
            "{}.enabled: false has no equivalent: max_attempts: 1 comes nearest{stated}",
            section.whereabouts()
        ));
        Some(Written::bare(&1))
    };
    let base_max = base.and_then(|base| base.max.clone());
    let whole_initial = initial.clone().or_else(|| base.and_then(|base| base.initial.clone()));
    // Ours is shorter when nothing is said, and might be shorter than the first wait.
    let assumed = initial.is_some() && stated_max.is_none() && base_max.is_none();
    let mut max = stated_max.or(assumed.then_some(Given::Value(MAX_DELAY)));
    let whole_max = max.clone().or(base_max);
    if let (Some(Given::Value(initial)), Some(Given::Value(longest))) = (&whole_initial, &whole_max)
        && longest < initial
    {
        work.notes.push(format!("{}: max_delay is made as long as initial_delay", section.whereabouts()));
        max = Some(Given::Value(*initial));
    }
    let written = Written::map()
        .with_some("max_attempts", attempts)
        .with_some("initial_delay", initial.as_ref().map(Given::time))
        .with_some("multiplier", multiplier.map(|by| by.written(Written::bare)))
        .with_some("max_delay", max.as_ref().map(Given::time));
    Restart { written, initial: whole_initial, max: max.or(whole_max) }
}

fn services(root: &Section<'_>, policy: Option<&Restart>, work: &mut Work) -> Written {
    let mut names = BTreeSet::new();
    let mut forwards = Written::map();
    for section in root.listed_sections("services") {
        let lines: Vec<String> = section.entries().iter().flat_map(|entry| work.comments_below(entry)).collect();
        let Some((name, forward)) = service(&section, policy, &mut names, work) else { continue };
        forwards = forwards.with_comments(name, forward, lines);
    }
    forwards
}

/// How localport reaches a service.
enum Technology {
    Kubectl,
    Ssh,
    Other(String),
}

fn service(
    section: &Section<'_>,
    policy: Option<&Restart>,
    names: &mut BTreeSet<String>,
    work: &mut Work,
) -> Option<(String, Written)> {
    let wanted = section.require("name", "give the service a name", connection::filled);
    if let Some(wanted) = &wanted
        && !names.insert(wanted.clone())
    {
        section.complain("name", Complaint::new(format!("`{wanted}` is there twice"), "give one of them another name"));
    }
    let technology = section.require("technology", "write kubectl or ssh", |text| match text {
        "kubectl" | "kubernetes" => Ok::<_, Complaint>(Technology::Kubectl),
        "ssh" => Ok(Technology::Ssh),
        other => Ok(Technology::Other(other.to_owned())),
    });
    // The other services are of use without it.
    if let Some(Technology::Other(text)) = &technology {
        let whose = wanted.as_deref().unwrap_or("a service");
        let place = section.whereabouts();
        work.notes.push(format!("{place}: {whose} is left out: its technology `{text}` has no equivalent"));
        return None;
    }
    let local = required(section, "local_port", "write a number from 1 to 65535", port);
    let remote = required(section, "remote_port", "write a number from 1 to 65535", port);
    let known_local = local.as_ref().and_then(Given::value).copied();
    if let (Some(port), Some(wanted)) = (known_local, &wanted)
        && let Some(other) = work.ports.insert(port, wanted.clone())
    {
        let message = format!("local port {port} is used by `{other}` as well");
        section.complain("local_port", Complaint::new(message, "give one of them another port"));
    }
    if !section.has("connection") {
        section.missing("connection", "say where it is: connection: { resource_name: NAME }");
    }
    let connection = section.section("connection");
    let to = match technology {
        Some(Technology::Ssh) => connection::ssh(&connection, remote.as_ref(), work),
        Some(Technology::Kubectl) => connection::kubectl(&connection, remote.as_ref(), work),
        Some(Technology::Other(_)) | None => None,
    };
    let enabled = given(section, "enabled", |text| match text {
        "true" | "yes" | "on" | "True" => Ok(true),
        "false" | "no" | "off" | "False" => Ok(false),
        _ => Err(Complaint::new(format!("`{text}` is neither true nor false"), "write true or false")),
    });
    let description = given(section, "description", connection::filled);
    let tags = tags(section);
    let health = section.optional_section("health_check").map(|check| health::read(&check, known_local, work));
    let restart = section.optional_section("restart_policy").map(|policies| restart(&policies, policy, work).written);
    work.unknown(section);
    let (wanted, to, local) = (wanted?, to?, local?);
    let name = work.names.choose(&name(&wanted), known_local.unwrap_or(0));
    if name != wanted {
        work.notes
            .push(format!("`{wanted}` is called {name}: names have letters, digits, hyphens, underscores and dots"));
    }
    let forward = Written::map()
        .with_some("enabled", enabled.filter(|on| on.value() != Some(&true)).map(|on| on.written(Written::bare)))
        .with_some("description", description.map(|text| text.written(Written::text)))
        .with("to", to)
        .with("listen", local.written(Written::bare))
        // localport starts what is enabled, not what is used.
        .with("start", Written::text("always"))
        .with_some("tags", tags.filter(|tags| !tags.is_empty()))
        .with_some("restart", restart.filter(|restart| !restart.is_empty()))
        .with_some("health", health.filter(|health| !health.is_empty()));
    Some((name, forward))
}

/// One word each.
fn tags(section: &Section<'_>) -> Option<Written> {
    let tags = section.list("tags", connection::filled)?;
    let word = |tag: &String| {
        let word: String = tag.chars().map(|c| if c.is_whitespace() || c == ',' { '-' } else { c }).collect();
        given::template(&word).map_or_else(|| Written::text(&word), Written::Template)
    };
    Some(Written::List(tags.iter().map(word).collect()))
}

/// What a forward may be called.
fn name(wanted: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = wanted.chars().map(legal).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    // As it is, when it is short enough; else with room for a port behind it.
    let longest = if name.len() <= 63 && name == wanted { 63 } else { NAME_MAX };
    let name: String = name.chars().take(longest).collect();
    if name.is_empty() { "forward".to_owned() } else { name }
}

fn port(text: &str) -> Result<u16, Complaint> {
    number(text, &(1..=u16::MAX))
}

/// Seconds, with a fraction or without.
fn seconds(text: &str, least: f64, most: f64) -> Result<Duration, Complaint> {
    let seconds: f64 = number(text, &(least..=most))?;
    let fault = |_| Complaint::new(format!("`{text}` is no time"), "write it in seconds, such as 30 or 0.5");
    let wait = Duration::try_from_secs_f64(seconds).map_err(fault)?;
    // Ours are whole milliseconds.
    let millis = wait.as_millis() + u128::from(wait.subsec_nanos() % 1_000_000 >= 500_000);
    Ok(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
