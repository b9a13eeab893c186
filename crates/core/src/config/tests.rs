//! The reference page of both files against the parsers: every key, no other, right defaults, examples that work.

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde_json::Value;

use super::{AgentFile, DEFAULT_FILE, GatewayConfig, Problems, SCHEMA, ServerConfig};

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

fn agent(text: &str) -> Result<AgentFile, Problems> {
    AgentFile::parse("adit.yaml", text, &env)
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
        path if path.starts_with("publish.") && path.ends_with(".verify") => &["to: https://localhost:8443"],
        path if path.contains(".to.jump.via.create.") => &["image: alpine/socat"],
        path if path.contains(".to.ssh.") => &["server: h", "host: h", "port: 1"],
        path if path.contains(".tls.") => &[],
        path if path.contains(".health.") && path.starts_with("forwards.") => match path.rsplit('.').next() {
            Some("path" | "method" | "status" | "content" | "verify") => &["type: https"],
            Some("tls") => &["type: redis"],
            Some("sslmode") => &["type: postgres"],
            Some("mechanism") => &["type: kafka"],
            _ => &[],
        },
        path if path.split('.').count() == 4 && path.starts_with("publish.tunnels.") => &["to: 3000"],
        path if path.split('.').count() == 3 && path.starts_with("forwards.") => &["to: 3000"],
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
        let parents = if path.starts_with("forwards.") { 2 } else { 3 };
        let deep = path.contains("claims") || path.matches('.').count() > parents;
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
    let text = text.replace("  jwt:\n", "  jwt:\n    algorithms: [RS256]\n    key_file: key.pem\n");
    let text = text.replace("          create:\n", "          pod: x\n          create:\n");
    let text = text.replace("      jump:\n", "      jump:\n        host: h\n        port: 1\n");
    if text.contains("    to:\n") {
        return text;
    }
    let to = if text.contains("      tls:\n") { "https://h" } else { "3000" };
    text.replace("\n    name:\n", &format!("\n    name:\n      to: {to}\n"))
        .replace("\n  name:\n", "\n  name:\n    to: 3000\n")
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
    let known = all_keys(&agent);
    assert!(known.len() > 150, "{known:#?}");
    // A key that may hold a value or a map has a row of its own, too.
    let is_section = |key: &String| known.iter().any(|other| other.starts_with(&format!("{key}.")));
    let found: BTreeSet<String> = documented(parts()[2], &known).into_iter().filter(|key| !is_section(key)).collect();
    assert_eq!(found, known);
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
    assert!(check_defaults(parts()[2], &agent) > 30);
}

#[test]
fn the_examples_on_the_page_are_whole_files_without_a_problem() {
    let [both, of_server, of_agent] = parts().map(examples);
    assert_eq!((both.len(), of_server.len(), of_agent.len()), (1, 1, 1));
    for text in both.iter().chain(&of_server) {
        server(text).unwrap_or_else(|problems| panic!("{problems}"));
    }
    agent(of_agent[0]).unwrap_or_else(|problems| panic!("{problems}"));
}

/// The keys of the schema in the notation of the parsers'.
fn schema_keys(root: &Value, node: &Value, path: &str, found: &mut BTreeSet<String>) {
    let alternatives: Vec<&Value> = node["anyOf"].as_array().map_or_else(|| vec![node], |all| all.iter().collect());
    let mut sections = 0;
    for alternative in alternatives {
        let resolved = match alternative["$ref"].as_str() {
            Some(name) => &root["$defs"][name.rsplit('/').next().unwrap()],
            None => alternative,
        };
        if resolved["anyOf"].is_array() && !resolved["anyOf"].as_array().unwrap().is_empty() {
            let mut below = BTreeSet::new();
            schema_keys(root, resolved, path, &mut below);
            sections += usize::from(!below.contains(path));
            below.remove(path);
            found.extend(below);
        } else if let Some(properties) = resolved["properties"].as_object() {
            assert_eq!(resolved["additionalProperties"], false, "{path} permits any key");
            sections += 1;
            properties.iter().for_each(|(key, node)| schema_keys(root, node, &join(path, key), found));
        } else if resolved["additionalProperties"].is_object()
            && resolved["additionalProperties"]["$ref"] != "#/$defs/text"
        {
            sections += 1;
            schema_keys(root, &resolved["additionalProperties"], &join(path, ANY), found);
        }
    }
    if sections == 0 {
        found.insert(path.to_owned());
    }
}

#[test]
fn the_schema_has_the_keys_of_the_parsers_and_no_other() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let mut found = BTreeSet::new();
    schema_keys(&schema, &schema, "", &mut found);
    assert_eq!(found, all_keys(&agent));
}

#[test]
fn every_reference_in_the_schema_leads_somewhere() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    for name in SCHEMA.split("\"#/$defs/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(schema["$defs"][name].is_object(), "{name}");
    }
}

#[test]
fn the_first_file_says_what_holds_without_it() {
    let file = agent(DEFAULT_FILE).unwrap_or_else(|problems| panic!("{problems}"));
    let gateway = GatewayConfig { listen: file.gateway.as_ref().unwrap().listen.clone(), ..GatewayConfig::default() };
    assert_eq!(file, AgentFile { gateway: Some(gateway), ..AgentFile::default() });
}

#[test]
fn the_examples_in_the_first_file_can_be_taken_in() {
    let text: String = DEFAULT_FILE.lines().map(uncommented).collect();
    let file = agent(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert_eq!((file.forwards.len(), file.gateway.unwrap().routes.len()), (4, 2));
    assert_eq!(file.publish.unwrap().tunnels.len(), 1);
}

/// Takes the `# ` from a line that is YAML behind it, as a user would.
fn uncommented(line: &str) -> String {
    let body = line.trim_start();
    let indent = &line[..line.len() - body.len()];
    let rest = body.strip_prefix("# ").unwrap_or(body);
    let is_yaml = rest.trim_start().split_once(':').is_some_and(|(key, value)| {
        !key.contains(' ') && (value.is_empty() || value.starts_with(' ')) && key != "adit.yaml"
    });
    match body.starts_with('#') {
        true if is_yaml => format!("{indent}{rest}\n"),
        true => String::new(),
        false => format!("{line}\n"),
    }
}

/// Whether a value is one that the schema permits, for the words the schema uses; patterns are not looked at.
fn permits(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        return permits(root, &root["$defs"][name.rsplit('/').next().unwrap()], value);
    }
    if let Some(all) = schema["anyOf"].as_array() {
        let tried: Vec<_> = all.iter().map(|one| permits(root, one, value)).collect();
        return match tried.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(format!("{value} fits none of {} forms: {tried:?}", tried.len())),
        };
    }
    if schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
        return Err(format!("{value} is none of {}", schema["enum"]));
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let fits = |kind: &&str| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{other}"),
    };
    if !kinds.iter().any(fits) {
        return Err(format!("{value} is no {kinds:?}"));
    }
    for item in value.as_array().into_iter().flatten() {
        permits(root, &schema["items"], item)?;
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        let of_key = schema["properties"].get(key).unwrap_or(&schema["additionalProperties"]);
        if *of_key == Value::Bool(false) {
            return Err(format!("{key} is no key"));
        }
        permits(root, of_key, value).map_err(|error| format!("{key}: {error}"))?;
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    required.filter(|key| value.get(key).is_none()).try_for_each(|key| Err(format!("{key} is missing")))
}

#[test]
fn the_schema_permits_the_example_on_the_page_and_refuses_a_wrong_key() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let file = agent(examples(parts()[2])[0]).unwrap_or_else(|problems| panic!("{problems}"));
    let mut json = file.effective_json();
    assert_eq!(permits(&schema, &schema, &json), Ok(()));
    json["gateway"]["routs"] = Value::Null;
    assert_eq!(permits(&schema, &schema, &json), Err("gateway: routs is no key".to_owned()));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn the_schema_permits_what_the_parsers_take(file in super::diff::tests::files()) {
        let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
        proptest::prop_assert_eq!(permits(&schema, &schema, &file.effective_json()), Ok(()));
    }
}
