//! What a new version of the file changes, key by key, without secrets.

use adit_core::config::AgentFile;
use serde_json::{Value, json};

/// Changes in one entry at most; a file that is wholly different is told by its first ones.
const CHANGES_MAX: usize = 1000;

/// The keys whose values differ, with both values; `None` when nothing differs. A secret that has changed differs from
/// nothing here: both are shown as hidden.
pub(super) fn diff(old: &AgentFile, new: &AgentFile) -> Option<Value> {
    let mut changes = Vec::new();
    compare("", &old.effective_json(), &new.effective_json(), &mut changes);
    if changes.is_empty() && old != new {
        changes.push(json!({ "key": "", "note": "a value that is not shown has changed" }));
    }
    changes.truncate(CHANGES_MAX);
    (!changes.is_empty()).then_some(Value::Array(changes))
}

fn compare(path: &str, old: &Value, new: &Value, changes: &mut Vec<Value>) {
    let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                compare(&at(key), value, after.get(key).unwrap_or(&Value::Null), changes);
            }
            for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                compare(&at(key), &Value::Null, value, changes);
            }
        }
        _ if old == new => {}
        _ => changes.push(json!({ "key": path, "old": old, "new": new })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> AgentFile {
        AgentFile::parse("adit.yaml", text, &|_| None).unwrap()
    }

    #[test]
    fn changes_are_told_by_key_with_both_values() {
        let old = file("version: 1\nforwards: { a: { to: 1 }, b: { to: 2 } }\n");
        let new = file("version: 1\nforwards: { a: { to: 9 }, c: { to: 3 } }\n");
        let changes = diff(&old, &new).unwrap().to_string();
        assert!(changes.contains("forwards.a.to") && changes.contains("forwards.b") && changes.contains("forwards.c"));
        assert_eq!(diff(&old, &old), None);
    }
}
