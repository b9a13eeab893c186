//! The reference page of both files against the parsers: every key, no other, right defaults, examples that work.

use std::collections::BTreeSet;
use std::fmt::Debug;

use super::{Problems, PublishConfig, ServerConfig};

const PAGE: &str = include_str!("../../../../docs/reference/config.md");

/// A key that no parser knows and that is near to none.
const STRANGER: &str = "zzzzzzzzzzzzzzzz";

/// What the page calls a key that the user chooses.
const ANY: &str = "NAME";

fn env(name: &str) -> Option<String> {
    (name == "HOME").then(|| "/home/me".to_owned())
}

fn server(text: &str) -> Result<ServerConfig, Problems> {
    ServerConfig::parse("server.yaml", text, &env)
}

fn publish(text: &str) -> Result<PublishConfig, Problems> {
    PublishConfig::parse("adit.yaml", text, &env)
}

/// The parts of the page: what is said of both files, of `server.yaml`, of `adit.yaml`.
fn parts() -> [&'static str; 3] {
    let (both, rest) = PAGE.split_once("\n## server.yaml").expect("a part for each file");
    let (server, agent) = rest.split_once("\n## adit.yaml").expect("a part for each file");
    [both, server, agent]
}

/// A file with one key, in block style; `beside` stands before it, at its depth.
fn file(path: &str, beside: &[&str], value: &str) -> String {
    let mut text = String::new();
    let parts: Vec<&str> = path.split('.').collect();
    for (depth, part) in parts.iter().enumerate() {
        let indent = "  ".repeat(depth);
        if depth + 1 == parts.len() {
            beside.iter().for_each(|line| text += &format!("{indent}{line}\n"));
            text += &format!("{indent}{part}: {value}\n");
        } else {
            text += &format!("{indent}{part}:\n");
        }
    }
    text
}

/// The keys below `path`, and whether the user's own names stand between. The parsers tell: a key they do not
/// know is answered with those they do.
fn keys_below(path: &str, problems: &Problems) -> Option<(bool, Vec<String>)> {
    problems.iter().find_map(|problem| {
        let known = problem.hint.as_ref()?.strip_prefix("known here: ")?;
        let named = problem.key == join(&join(path, STRANGER), STRANGER);
        (named || problem.key == join(path, STRANGER)).then(|| (named, known.split(", ").map(str::to_owned).collect()))
    })
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Every key that is no section, found by asking the parser.
fn known_keys<T>(parse: &dyn Fn(&str) -> Result<T, Problems>, path: &str, found: &mut BTreeSet<String>) {
    let text = file(&join(path, STRANGER), &[], &format!("{{ {STRANGER}: 1 }}"));
    let asked = parse(&text).err().and_then(|problems| keys_below(path, &problems));
    let Some((named, keys)) = asked else {
        found.insert(path.to_owned());
        return;
    };
    let path = if named { join(path, ANY) } else { path.to_owned() };
    for key in keys {
        known_keys(parse, &join(&path, &key), found);
    }
}

fn all_keys<T>(parse: &dyn Fn(&str) -> Result<T, Problems>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    known_keys(parse, "", &mut found);
    found
}

fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The rows of the tables of keys: the cells of each.
fn rows(part: &str) -> Vec<Vec<&str>> {
    let mut rows = Vec::new();
    let mut in_keys = false;
    for line in part.lines() {
        let Some(row) = line.strip_prefix("| ") else {
            in_keys &= line.starts_with('|');
            continue;
        };
        if in_keys {
            rows.push(row.split(" |").map(str::trim).collect());
        }
        in_keys |= row.starts_with("key |");
    }
    rows
}

/// The keys of the page, with `x.*` standing for all of `known` below `x`.
fn documented(part: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for span in rows(part).iter().flat_map(|row| code_spans(row[0])) {
        match span.strip_suffix('*') {
            Some(start) => found.extend(known.iter().filter(|key| key.starts_with(start)).cloned()),
            None => _ = found.insert(span.to_owned()),
        }
    }
    found
}

/// What has to stand beside a key so that the file is whole.
fn neighbours(path: &str) -> (String, &'static [&'static str]) {
    let path = path.replace(ANY, "name");
    let beside: &[&str] = match path.as_str() {
        path if path.starts_with("auth.jwt.") && !path.contains("claims") => {
            &["algorithms: [RS256]", "key_file: key.pem"]
        }
        path if path.ends_with(".proxy_protocol") => &["to: tcp://127.0.0.1:5432", "port: 15432"],
        path if path.ends_with(".verify") => &["to: https://localhost:8443"],
        path if path.starts_with("publish.tunnels.") && path.split('.').count() == 4 => &["to: 3000"],
        _ => &[],
    };
    (path, beside)
}

/// Writes every default of the page into a file: the result must be what it is without. Says how many there were.
fn check_defaults<T: Debug + PartialEq>(part: &str, parse: &dyn Fn(&str) -> Result<T, Problems>) -> usize {
    let mut checked = 0;
    for row in rows(part) {
        let (Some(key), Some(default)) = (whole_span(row[0].trim_end_matches([' ', '↻', '!'])), whole_span(row[2]))
        else {
            continue;
        };
        let (path, beside) = neighbours(key);
        let deep = path.contains("claims") || path.matches('.').count() > 3;
        let whole = |value: &str| {
            let text = file(&path, beside, value);
            parse(&if deep { with_parents(&text) } else { text })
        };
        let value = if default == ANY { "name" } else { default };
        let expected = whole("").unwrap_or_else(|problems| panic!("{key}: {problems}"));
        assert_eq!(whole(value).as_ref(), Ok(&expected), "the default of {key} is not {default}");
        checked += 1;
    }
    checked
}

/// What the section above a key needs to be whole.
fn with_parents(text: &str) -> String {
    text.replace("  jwt:\n", "  jwt:\n    algorithms: [RS256]\n    key_file: key.pem\n")
        .replace("    name:\n", "    name:\n      to: 3000\n")
}

fn whole_span(cell: &str) -> Option<&str> {
    let span = cell.strip_prefix('`')?.strip_suffix('`')?;
    (!span.contains('`')).then_some(span)
}

fn examples(part: &str) -> Vec<&str> {
    let blocks = part.split("```yaml\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

#[test]
fn every_key_of_server_yaml_is_on_the_page_and_no_other() {
    let known = all_keys(&server);
    assert!(known.len() > 60, "{known:#?}");
    assert_eq!(documented(parts()[1], &known), known);
}

#[test]
fn every_key_of_adit_yaml_is_on_the_page_and_no_other() {
    let known = all_keys(&publish);
    assert!(known.len() > 30, "{known:#?}");
    assert_eq!(documented(parts()[2], &known), known);
}

#[test]
fn the_quotas_of_an_account_have_the_keys_of_the_general_ones() {
    let known = all_keys(&server);
    let below = |start: &str| -> Vec<String> {
        known.iter().filter_map(|key| key.strip_prefix(start)).map(str::to_owned).collect()
    };
    assert_eq!(below("accounts.NAME.quotas."), below("quotas."));
}

#[test]
fn the_defaults_on_the_page_are_those_of_the_parsers() {
    assert!(check_defaults(parts()[1], &server) > 40);
    // An agent's file is not whole without its one section.
    let agent = |text: &str| match text.contains("publish:") {
        true => publish(text),
        false => publish(&format!("{text}publish:\n  tunnels: {{}}\n")),
    };
    assert!(check_defaults(parts()[2], &agent) > 8);
}

#[test]
fn the_examples_on_the_page_are_whole_files_without_a_problem() {
    let [both, of_server, of_agent] = parts().map(examples);
    assert_eq!((both.len(), of_server.len(), of_agent.len()), (1, 1, 1));
    for text in both.iter().chain(&of_server) {
        server(text).unwrap_or_else(|problems| panic!("{problems}"));
    }
    publish(of_agent[0]).unwrap_or_else(|problems| panic!("{problems}"));
}
