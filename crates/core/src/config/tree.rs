//! A YAML file as a tree that remembers its places.
//!
//! Scalars stay text as they were written: what a value means is decided by who asks for it, so `1.10` is no number
//! and `on` no boolean unless the key wants one.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Spanned};

use super::problem::Problem;

/// How deep a file may nest. Ours need six; more would only serve to overflow a stack.
const DEPTH_MAX: usize = 32;

/// How many nodes a file may have: far above any real one, and a bound for alias bombs.
const NODES_MAX: usize = 500_000;

/// A place in a file, both from 1; zeros when it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A value with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Any scalar, as text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the order of the file.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Value {
    /// What it is, for messages.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl Node {
    /// Each single value of the map that `keys` lead to becomes a map with it at `key`.
    pub(crate) fn spread(&mut self, keys: &[&str], key: &str) {
        let Value::Map(entries) = &mut self.value else { return };
        if let Some((first, rest)) = keys.split_first() {
            entries.iter_mut().filter(|entry| entry.key == *first).for_each(|entry| entry.node.spread(rest, key));
            return;
        }
        for entry in entries {
            if matches!(entry.node.value, Value::Text(_)) {
                let place = entry.node.place;
                let node = Self { place, value: std::mem::replace(&mut entry.node.value, Value::Null) };
                entry.node.value = Value::Map(vec![Entry { key: key.to_owned(), place, node }]);
            }
        }
    }
}

/// Reads a file. A repeated key is a problem beside the tree; anything worse leaves no tree.
pub(crate) fn read(file: &str, text: &str) -> Result<(Node, Vec<Problem>), Problem> {
    match parse(text, DuplicateKeyPolicy::Error) {
        Ok(node) => Ok((node, Vec::new())),
        Err(error) => {
            let problem = problem_of(file, text, &error);
            if !matches!(error.without_snippet(), serde_saphyr::Error::DuplicateMappingKey { .. }) {
                return Err(problem);
            }
            // The rest of the file may have problems too: they are to be shown with this one.
            match parse(text, DuplicateKeyPolicy::FirstWins) {
                Ok(node) => Ok((node, vec![problem])),
                Err(error) => Err(problem_of(file, text, &error)),
            }
        }
    }
}

fn parse(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Node, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 2,
        },
        duplicate_keys: duplicate_keys,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options)?;
    Ok(node(raw, text))
}

fn problem_of(file: &str, text: &str, error: &serde_saphyr::Error) -> Problem {
    use serde_saphyr::Error;

    let place = error.location().map(place).unwrap_or_default();
    let error = error.without_snippet();
    let message = match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{key}` is there twice")
        }
        Error::DuplicateMappingKey { key: None, .. } => "a key is there twice".to_owned(),
        Error::MultipleDocuments { .. } => "there is a second document in the file".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an anchor refers to itself".to_owned(),
        Error::Budget { .. } => "the file nests too deep or is too large".to_owned(),
        other => lower_first(without_place(&other.to_string())),
    };
    Problem {
        file: file.to_owned(),
        line: place.line,
        column: place.column,
        key: String::new(),
        message,
        hint: hint_for(text, place),
    }
}

/// Within `{ }` and `[ ]` YAML takes the braces of a variable for its own.
fn hint_for(text: &str, place: Place) -> Option<String> {
    let index = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let line = text.lines().nth(index)?;
    let bare = line.contains("${") && line.contains(['{', '[']) && !line.contains("\"${");
    bare.then(|| "within { } and [ ] put quotes around a variable: \"${NAME}\"".to_owned())
}

/// The place is shown in front of the message already.
fn without_place(text: &str) -> &str {
    let first = text.lines().next().unwrap_or(text);
    match first.find(" at line ") {
        Some(at) => &first[..at],
        None => first,
    }
}

/// As our own messages start; abbreviations stay as they are.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else {
        return String::new();
    };
    if chars.clone().next().is_some_and(char::is_uppercase) {
        return text.to_owned();
    }
    first.to_lowercase().chain(chars).collect()
}

fn place(location: Location) -> Place {
    Place {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX),
    }
}

fn node(raw: Spanned<Raw>, source: &str) -> Node {
    let defined = raw.defined;
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Text(text),
        Raw::Typed(shown) => Value::Text(written(defined, source).unwrap_or(shown)),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry { place: place(key.referenced), key: key.value, node: node(value, source) })
                .collect(),
        ),
    };
    Node { place: place(raw.referenced), value }
}

/// The text of a number or boolean as it stands in the file.
fn written(location: Location, source: &str) -> Option<String> {
    let start = usize::try_from(location.span().byte_offset()?).ok()?;
    let length = usize::try_from(location.span().byte_len()?).ok()?;
    let text = source.get(start..start.checked_add(length)?)?.trim();
    // A tag or quotes mean that the span covers more than the value.
    (!text.is_empty() && !text.starts_with(['!', '"', '\'', '|', '>', '&'])).then(|| text.to_owned())
}

/// What the parser hands over: a number or boolean has lost its text, but its place brings it back.
enum Raw {
    Null,
    Text(String),
    Typed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(text: &str) -> Node {
        let (node, problems) = read("f.yaml", text).unwrap();
        assert_eq!(problems, []);
        node
    }

    fn entries(node: &Node) -> &[Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("{}", other.kind()),
        }
    }

    fn text(node: &Node) -> &str {
        match &node.value {
            Value::Text(text) => text,
            other => panic!("{}", other.kind()),
        }
    }

    #[test]
    fn keys_and_values_know_their_places() {
        let node = tree("a: 1\nb:\n  c: [x, yy]\n");
        let top = entries(&node);
        assert_eq!(top[0].place, Place { line: 1, column: 1 });
        assert_eq!(top[0].node.place, Place { line: 1, column: 4 });
        let c = &entries(&top[1].node)[0];
        assert_eq!(c.place, Place { line: 3, column: 3 });
        let Value::List(items) = &c.node.value else { panic!() };
        assert_eq!(items[1].place, Place { line: 3, column: 10 });
    }

    #[test]
    fn scalars_stay_as_they_were_written() {
        let written = [
            ("1.10", "1.10"),
            ("0x1F", "0x1F"),
            ("on", "on"),
            ("No", "No"),
            ("007", "007"),
            ("1e3", "1e3"),
            (".inf", ".inf"),
            ("-5", "-5"),
            ("99999999999999999999999", "99999999999999999999999"),
            ("\"8080\"", "8080"),
            ("'true'", "true"),
            ("10MB/s", "10MB/s"),
            ("a:b", "a:b"),
            ("${X:-1}", "${X:-1}"),
        ];
        for (yaml, expected) in written {
            let node = tree(&format!("k: {yaml}   # é\n"));
            assert_eq!(text(&entries(&node)[0].node), expected, "{yaml}");
        }
    }

    #[test]
    fn places_in_bytes_survive_other_scripts() {
        let node = tree("ключ: \"ü\"\nk: 1.50\n");
        assert_eq!(text(&entries(&node)[1].node), "1.50");
    }

    #[test]
    fn an_empty_file_and_an_empty_value_are_nothing() {
        assert_eq!(tree("").value, Value::Null);
        assert_eq!(tree("# only a comment\n").value, Value::Null);
        let node = tree("a:\nb: ~\nc: null\nd: \"\"\n");
        let kinds: Vec<_> = entries(&node).iter().map(|e| e.node.value.kind()).collect();
        assert_eq!(kinds, ["nothing", "nothing", "nothing", "a single value"]);
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        let node = tree("a: &x {p: 1.0}\nb: *x\nc: {<<: *x, q: 2}\n");
        let top = entries(&node);
        assert_eq!(text(&entries(&top[1].node)[0].node), "1.0");
        assert_eq!(entries(&top[2].node).len(), 2);
    }

    #[test]
    fn numbers_as_keys_are_text() {
        let node = tree("443: a\ntrue: b\n");
        let keys: Vec<_> = entries(&node).iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["443", "true"]);
    }

    #[test]
    fn a_repeated_key_is_a_problem_but_leaves_the_tree() {
        let (node, problems) = read("f.yaml", "a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(entries(&node).len(), 2);
        assert_eq!(problems.len(), 1);
        assert_eq!((problems[0].line, problems[0].column), (3, 1));
        assert!(problems[0].message.contains("`a` is there twice"), "{}", problems[0]);
    }

    #[test]
    fn broken_yaml_is_one_problem_with_its_place() {
        let problem = read("f.yaml", "a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(problem.line >= 2, "{problem}");
        assert!(!problem.message.contains("at line"), "{problem}");
        assert!(!problem.message.contains('\n'), "{problem}");
    }

    #[test]
    fn a_variable_without_quotes_in_a_flow_map_gets_a_hint() {
        let problem = read("f.yaml", "a: 1\nm: { b: ${PORT}, c: 1 }\n").unwrap_err();
        assert!(problem.hint.unwrap().contains("quotes"));
        let problem = read("f.yaml", "a: [1\nb: 2\n").unwrap_err();
        assert_eq!(problem.hint, None);
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
        let deep = "[".repeat(100_000);
        assert!(read("f.yaml", &deep).is_err());
        let deep: String = (0..200).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert!(read("f.yaml", &deep).is_err());
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..10 {
            let previous = format!("*a{}", n - 1);
            let list = vec![previous; 10].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{list}]\n"));
        }
        assert!(read("f.yaml", &bomb).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = read("f.yaml", &text);
        }

        #[test]
        fn nor_does_anything_that_looks_like_yaml(text in "[a-c:\\[\\]{},&*!|>'\"#%@?~<0-9.\\n\\t -]{0,60}") {
            let _ = read("f.yaml", &text);
        }
    }

    /// A tree without places, to be written as YAML.
    fn trees() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["[a-z0-9 :#\"'\\\\é]{0,8}", "true|null|0x1F|1\\.50|~|-|on"];
        let leaf = prop_oneof![Just(Value::Null), text.prop_map(Value::Text)];
        leaf.prop_recursive(4, 30, 4, |inner| {
            let entries = proptest::collection::btree_map("[a-z]{1,4}", inner.clone(), 0..4);
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(|all| Value::List(all.into_iter().map(bare).collect())),
                entries.prop_map(|all| {
                    let entry = |(key, value)| Entry { key, place: Place::default(), node: bare(value) };
                    Value::Map(all.into_iter().map(entry).collect())
                }),
            ]
        })
    }

    fn bare(value: Value) -> Node {
        Node { place: Place::default(), value }
    }

    /// YAML in flow style, with every text in double quotes.
    fn write(value: &Value) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        match value {
            Value::Null => "~".to_owned(),
            Value::Text(text) => quoted(text),
            Value::List(items) => {
                let items: Vec<_> = items.iter().map(|item| write(&item.value)).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Map(entries) => {
                let pair = |e: &Entry| format!("{}: {}", quoted(&e.key), write(&e.node.value));
                let pairs: Vec<_> = entries.iter().map(pair).collect();
                format!("{{{}}}", pairs.join(", "))
            }
        }
    }

    fn without_places(node: Node) -> Node {
        bare(match node.value {
            Value::List(items) => Value::List(items.into_iter().map(without_places).collect()),
            Value::Map(entries) => {
                let entry = |e: Entry| Entry { place: Place::default(), node: without_places(e.node), ..e };
                Value::Map(entries.into_iter().map(entry).collect())
            }
            scalar => scalar,
        })
    }

    proptest! {
        #[test]
        fn a_tree_is_read_back_from_its_yaml(tree in trees()) {
            let (found, problems) = read("f.yaml", &write(&tree)).unwrap();
            prop_assert_eq!(problems, []);
            prop_assert_eq!(without_places(found), bare(tree));
        }

        #[test]
        fn a_plain_number_keeps_its_text(text in "-?[0-9]{1,25}(\\.[0-9]{1,5})?(e[0-9])?") {
            let node = tree(&format!("k: {text}"));
            let Value::Text(found) = &entries(&node)[0].node.value else { panic!() };
            prop_assert_eq!(found, &text);
        }
    }
}
