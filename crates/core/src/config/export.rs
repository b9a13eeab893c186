//! Some forwards of an `adit.yaml` as a file of their own, to be passed on.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::{Written, WrittenEntry};
use super::show::{self, REDACTED};
use super::tree::{self, Node};
use super::{AgentFile, CONFIG_VERSION, ForwardConfig};
use crate::diagnose::{Diagnose, Fault};
use crate::near;
use crate::target::Target;

/// Keys of a forward whose values are paths.
const PATHS: [&str; 6] = ["key", "passphrase_file", "password_file", "config", "known_hosts", "ca"];
/// What stands before a secret in a header `Authorization`.
const SCHEMES: [&str; 3] = ["Bearer ", "Basic ", "Token "];

/// Which forwards are exported, and how much is said of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// By name.
    pub names: Vec<String>,
    /// By tag. With neither a name nor a tag every forward is meant.
    pub tags: Vec<String>,
    /// Whether what would hold anyway is written, too.
    pub defaults: bool,
    /// Whether forwards take part that are switched off. One that is named always does.
    pub disabled: bool,
}

/// Forwards as a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    document: Written,
    /// How many forwards there are.
    pub forwards: usize,
    /// How many secrets were left out: each says `[redacted]`.
    pub secrets: usize,
}

impl Exported {
    /// As an `adit.yaml`.
    #[must_use]
    pub fn yaml(&self) -> String {
        self.document.yaml()
    }

    /// The same as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        self.document.json()
    }

    /// The same with references such as `${PASSWORD}` in the place of secrets, where the file `text` has one: it is none
    /// itself. What names a secret in part, or gives a default for it, stays left out. Paths are as they are written there:
    /// `~/` means the home directory of whoever reads the file.
    #[must_use]
    pub fn with_references(mut self, text: &str) -> Self {
        if let Ok((node, _)) = tree::read("", text) {
            restore(&mut self.document, Some(&node), below(&node, &["defaults", "health"]));
            self.secrets = redacted(&self.document);
        }
        self
    }
}

/// What was asked for is not in the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// No forward is called so.
    #[error("there is no forward `{name}`")]
    Name {
        /// What was asked for.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// All there are.
        known: Vec<String>,
    },
    /// No forward has the tag.
    #[error("no forward has the tag `{tag}`")]
    Tag {
        /// What was asked for.
        tag: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// All there are.
        known: Vec<String>,
    },
}

impl Diagnose for ExportError {
    fn fault(&self) -> Fault {
        match self {
            Self::Name { .. } | Self::Tag { .. } => Fault::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        let (Self::Name { nearest, known, .. } | Self::Tag { nearest, known, .. }) = self;
        match (nearest, known.is_empty()) {
            (Some(nearest), _) => Some(format!("did you mean `{nearest}`?")),
            (None, false) => Some(format!("there are: {}", known.join(", "))),
            (None, true) => None,
        }
    }
}

impl AgentFile {
    /// The forwards that are meant, and those they lead to, with all that holds for them and without secrets.
    ///
    /// # Errors
    /// When a name or a tag is not in the file.
    pub fn export(&self, selection: &Selection) -> Result<Exported, ExportError> {
        let wanted = self.wanted(selection)?;
        let chosen = self.forwards.iter().filter(|one| wanted.contains(one.name.as_str()));
        let chosen: Vec<&ForwardConfig> = chosen.collect();
        let forwards = chosen.iter().fold(Written::map(), |map, one| {
            let written = show::forward(one);
            map.with(&one.name, if selection.defaults { written } else { without_defaults(written, one) })
        });
        let secrets = redacted(&forwards);
        let document = Written::map().with("version", Written::bare(&CONFIG_VERSION)).with("forwards", forwards);
        Ok(Exported { document, forwards: chosen.len(), secrets })
    }

    fn wanted(&self, selection: &Selection) -> Result<BTreeSet<&str>, ExportError> {
        for name in &selection.names {
            if !self.forwards.iter().any(|one| one.name == *name) {
                let known: Vec<String> = self.forwards.iter().map(|one| one.name.clone()).collect();
                return Err(ExportError::Name { name: name.clone(), nearest: near_to(name, &known), known });
            }
        }
        for tag in &selection.tags {
            if !self.forwards.iter().any(|one| one.tags.contains(tag)) {
                let known: BTreeSet<String> = self.forwards.iter().flat_map(|one| one.tags.clone()).collect();
                let known: Vec<String> = known.into_iter().collect();
                return Err(ExportError::Tag { tag: tag.clone(), nearest: near_to(tag, &known), known });
            }
        }
        let all = selection.names.is_empty() && selection.tags.is_empty();
        let is_meant = |one: &&ForwardConfig| {
            let named = selection.names.contains(&one.name);
            let tagged = one.tags.iter().any(|tag| selection.tags.contains(tag));
            named || (all || tagged) && (one.enabled || selection.disabled)
        };
        let mut wanted = BTreeSet::new();
        for one in self.forwards.iter().filter(is_meant) {
            // A file without what a forward leads to would have a problem. Cycles are none of a good file's.
            let mut next = Some(one);
            while let Some(one) = next.filter(|one| wanted.insert(one.name.as_str())) {
                next = match &one.to {
                    Target::Forward(to) => self.forwards.iter().find(|other| other.name == *to),
                    _ => None,
                };
            }
        }
        Ok(wanted)
    }
}

fn near_to(word: &str, known: &[String]) -> Option<String> {
    near::nearest(word, known.iter().map(String::as_str)).map(str::to_owned)
}

/// What differs from a forward of which nothing but its target is said.
fn without_defaults(written: Written, forward: &ForwardConfig) -> Written {
    let bare = show::forward(&ForwardConfig::new(forward.name.clone(), forward.to.clone()));
    match (written, bare) {
        (Written::Map(entries), Written::Map(bare)) => {
            let differs = |entry: &WrittenEntry| entry.key == "to" || !bare.contains(entry);
            Written::Map(entries.into_iter().filter(differs).collect())
        }
        (written, _) => written,
    }
}

/// Puts references where secrets were left out. `inherited` is what a forward's health check has from the defaults.
fn restore(written: &mut Written, node: Option<&Node>, inherited: Option<&Node>) {
    match written {
        Written::Text(text) if text == REDACTED => {
            if let Some(reference) = text_of(node).filter(|text| is_reference(text)) {
                *written = Written::Template(reference.to_owned());
            }
        }
        Written::Map(entries) => {
            for entry in entries {
                let own = node.and_then(|node| below(node, &[&entry.key]));
                let default = inherited.and_then(|node| below(node, &[&entry.key]));
                match entry.key.as_str() {
                    key if PATHS.contains(&key) && matches!(entry.value, Written::Text(_)) => {
                        if let Some(path) = text_of(own.or(default)) {
                            entry.value = as_it_stands(path);
                        }
                    }
                    "health" => restore(&mut entry.value, own.or(inherited), inherited),
                    _ if matches!(entry.value, Written::Map(_)) => {
                        restore(&mut entry.value, own, default.or(inherited));
                    }
                    _ => restore(&mut entry.value, own.or(default), None),
                }
            }
        }
        Written::Text(_) | Written::Bare(_) | Written::Template(_) | Written::List(_) => {}
    }
}

fn below<'a>(node: &'a Node, path: &[&str]) -> Option<&'a Node> {
    path.iter().try_fold(node, |node, key| match &node.value {
        tree::Value::Map(entries) => entries.iter().find(|entry| entry.key == **key).map(|entry| &entry.node),
        tree::Value::Null | tree::Value::Text(_) | tree::Value::List(_) => None,
    })
}

fn text_of(node: Option<&Node>) -> Option<&str> {
    match node {
        Some(Node { value: tree::Value::Text(text), .. }) => Some(text),
        _ => None,
    }
}

/// What stands in a file, with its variables.
fn as_it_stands(text: &str) -> Written {
    if text.contains("${") { Written::Template(text.to_owned()) } else { Written::text(text) }
}

/// `${NAME}` and nothing else; with nothing as its default, or behind the word that says how it lets in.
fn is_reference(text: &str) -> bool {
    let text = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let name = name.map(|name| name.strip_suffix(":-").or_else(|| name.strip_suffix(':')).unwrap_or(name));
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

fn redacted(value: &Written) -> usize {
    match value {
        Written::Text(text) => usize::from(text.contains(REDACTED)),
        Written::Bare(_) | Written::Template(_) => 0,
        Written::List(items) => items.iter().map(redacted).sum(),
        Written::Map(entries) => entries.iter().map(|entry| redacted(&entry.value)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diff::tests::files;
    use proptest::prelude::*;

    const FILE: &str = "defaults: { idle_timeout: 5m }
forwards:
  db: { to: 'k8s://c/n/service/db:5432', listen: 5432, tags: [data, all], health: { type: postgres, user: a, password: hunter2 } }
  web: { to: 'forward:inner', tags: [all] }
  inner: { to: 'tcp://h:1', idle_timeout: 1h }
  old: { to: 'tcp://h:2', tags: [data], enabled: false }
";

    fn file(text: &str) -> AgentFile {
        AgentFile::parse("adit.yaml", text, &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn names(selection: &Selection) -> Vec<String> {
        let yaml = file(FILE).export(selection).unwrap().yaml();
        file(&yaml).forwards.into_iter().map(|one| one.name).collect()
    }

    fn tagged(tag: &str, disabled: bool) -> Selection {
        Selection { tags: vec![tag.to_owned()], disabled, ..Selection::default() }
    }

    #[test]
    fn forwards_are_chosen_by_name_and_tag_and_bring_what_they_lead_to() {
        assert_eq!(names(&Selection::default()), ["db", "web", "inner"]);
        assert_eq!(names(&tagged("data", false)), ["db"]);
        assert_eq!(names(&tagged("data", true)), ["db", "old"]);
        let named = |name: &str| Selection { names: vec![name.to_owned()], ..Selection::default() };
        assert_eq!(names(&named("web")), ["web", "inner"]);
        assert_eq!(names(&named("old")), ["old"], "as it was asked for");
    }

    #[test]
    fn a_reference_to_a_secret_stays_as_it_is_written() {
        let health = |password: &str| {
            format!(
                "forwards:\n  db: {{ to: 'tcp://h:1', health: {{ type: postgres, user: a, password: \"{password}\" }} }}\n"
            )
        };
        let exported = |text: &str| {
            let file = AgentFile::parse("adit.yaml", text, &|_| Some("hunter2".into())).unwrap();
            file.export(&Selection::default()).unwrap().with_references(text)
        };
        let whole = exported(&health("${PG_PASSWORD}"));
        assert!(whole.secrets == 0 && whole.yaml().contains("password: \"${PG_PASSWORD}\""), "{}", whole.yaml());
        for reference in ["${PG_PASSWORD:-}", "Bearer ${PG_PASSWORD}"] {
            let kept = exported(&health(reference));
            assert!(kept.secrets == 0 && kept.yaml().contains(reference), "{reference}: {}", kept.yaml());
        }
        for secret in ["hunter2", "x${PG_PASSWORD}", "${PG_PASSWORD:-hunter2}", "Bearer hunter2"] {
            let left_out = exported(&health(secret));
            assert!(left_out.secrets == 1 && left_out.yaml().contains(REDACTED), "{secret}: {}", left_out.yaml());
        }
        let inherited =
            "defaults: { health: { type: redis, password: \"${PW}\" } }\nforwards:\n  a: { to: 'tcp://h:1' }\n";
        let inherited = exported(inherited);
        assert!(inherited.secrets == 0 && !inherited.yaml().contains("hunter2"), "{}", inherited.yaml());
    }

    #[test]
    fn a_path_stays_as_it_is_written() {
        let text = "forwards:\n  \
                    db: { to: { ssh: { server: b, host: db, port: 5432, key: ~/.ssh/work, known_hosts: '${KNOWN}/hosts' } }, \
                    health: { type: postgres, user: a, password_file: ./pw } }\n";
        let env = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "KNOWN" => Some("/etc/known".to_owned()),
            _ => None,
        };
        let file = AgentFile::parse("/x/adit.yaml", text, &env).unwrap_or_else(|problems| panic!("{problems}"));
        let yaml = file.export(&Selection::default()).unwrap().with_references(text).yaml();
        for path in ["key: ~/.ssh/work", "known_hosts: \"${KNOWN}/hosts\"", "password_file: ./pw"] {
            assert!(yaml.contains(path), "{path}: {yaml}");
        }
        assert!(!yaml.contains("/home/me") && !yaml.contains("/etc/known"), "{yaml}");
    }

    #[test]
    fn s6_no_secret_leaves_the_file() {
        let exported = file(FILE).export(&Selection::default()).unwrap();
        assert_eq!((exported.secrets, exported.forwards), (1, 3));
        assert!(!exported.yaml().contains("hunter2") && !exported.json().to_string().contains("hunter2"));
    }

    #[test]
    fn without_defaults_only_what_is_said_is_there() {
        let inner = Selection { names: vec!["inner".to_owned()], ..Selection::default() };
        let yaml = file(FILE).export(&inner).unwrap().yaml();
        assert_eq!(yaml, "version: 1\n\nforwards:\n  inner: { to: tcp://h:1 }\n");
        let web = Selection { names: vec!["web".to_owned()], ..Selection::default() };
        let yaml = file(FILE).export(&web).unwrap().yaml();
        assert!(yaml.contains("web: { to: forward:inner, idle_timeout: 5m, tags: [all] }"), "{yaml}");
        let all = file(FILE).export(&Selection { defaults: true, ..inner }).unwrap().yaml();
        assert!(all.contains("restart: {") && all.contains("health: \"off\""), "{all}");
    }

    #[test]
    fn what_is_not_there_is_said_with_the_nearest() {
        let name = Selection { names: vec!["wbe".to_owned()], ..Selection::default() };
        let error = file(FILE).export(&name).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("did you mean `web`?"));
        let error = file(FILE).export(&tagged("zebra", false)).unwrap_err();
        assert_eq!(error.to_string(), "no forward has the tag `zebra`");
        assert_eq!(error.hint().as_deref(), Some("there are: all, data"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_exported_is_the_same_with_and_without_defaults(before in files()) {
            let all = Selection { disabled: true, ..Selection::default() };
            let short = file(&before.export(&all).unwrap().yaml());
            prop_assert_eq!(&short.forwards, &before.forwards);
            let long = before.export(&Selection { defaults: true, ..all }).unwrap();
            prop_assert_eq!(&file(&long.yaml()).forwards, &before.forwards);
        }
    }
}
