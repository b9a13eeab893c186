//! Label and field selectors.

use std::collections::BTreeMap;

use serde_json::Value;

/// Which objects a list or a watch is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) namespace: Option<String>,
    pub(super) labels: Vec<Requirement>,
    pub(super) fields: Vec<(String, bool, String)>,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Filter {
    pub(super) fn parse(namespace: Option<&str>, labels: Option<&str>, fields: Option<&str>) -> Result<Self, String> {
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            labels: parse_labels(labels.unwrap_or(""))?,
            fields: parse_fields(fields.unwrap_or(""))?,
        })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.namespace.as_deref().is_none_or(|namespace| metadata["namespace"].as_str() == Some(namespace))
            && self.labels.iter().all(|requirement| requirement.matches(&metadata["labels"]))
            && self.fields.iter().all(|(path, equal, wanted)| (field(object, path) == *wanted) == *equal)
    }
}

impl Requirement {
    fn matches(&self, labels: &Value) -> bool {
        let label = |key: &String| labels.get(key).and_then(Value::as_str);
        match self {
            Self::In(key, values) => label(key).is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(key, values) => label(key).is_none_or(|value| values.iter().all(|one| one != value)),
            Self::Exists(key) => label(key).is_some(),
            Self::Absent(key) => label(key).is_none(),
        }
    }
}

/// Whether all pairs of a service's selector are among the labels.
pub(super) fn covers(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    })
}

/// Whether an apps/v1 selector (`matchLabels`, `matchExpressions`) takes these labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let pairs = selector["matchLabels"].as_object();
    let expressions = selector["matchExpressions"].as_array();
    if pairs.is_none_or(|pairs| pairs.is_empty()) && expressions.is_none_or(Vec::is_empty) {
        return false;
    }
    let expressions = expressions.into_iter().flatten().filter_map(expression);
    pairs.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|requirement| requirement.matches(labels))
}

fn expression(expression: &Value) -> Option<Requirement> {
    let key = expression["key"].as_str()?.to_owned();
    let values = expression["values"].as_array().into_iter().flatten();
    let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
    Some(match expression["operator"].as_str()? {
        "In" => Requirement::In(key, values),
        "NotIn" => Requirement::NotIn(key, values),
        "Exists" => Requirement::Exists(key),
        _ => Requirement::Absent(key),
    })
}

/// Text of a map as a selector: `a=b,c=d`.
pub(super) fn text(map: &Value) -> String {
    let pairs: BTreeMap<&str, &str> = map
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect();
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

fn field(object: &Value, path: &str) -> String {
    let found = path.split('.').try_fold(object, |value, key| value.get(key));
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn parse_fields(text: &str) -> Result<Vec<(String, bool, String)>, String> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (path, equal, value) = part
                .split_once("!=")
                .map(|(path, value)| (path, false, value))
                .or_else(|| part.split_once("==").map(|(path, value)| (path, true, value)))
                .or_else(|| part.split_once('=').map(|(path, value)| (path, true, value)))
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            Ok((path.trim().to_owned(), equal, value.trim().to_owned()))
        })
        .collect()
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    split_outside(text)
        .into_iter()
        .filter(|part| !part.trim().is_empty())
        .map(|part| requirement(part.trim()))
        .collect()
}

/// Splits at the commas that are not inside parentheses.
fn split_outside(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return true,
            _ => {}
        }
        false
    })
    .collect()
}

fn requirement(part: &str) -> Result<Requirement, String> {
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement::Absent(key.trim().to_owned()));
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if let Some(list) = part.strip_suffix(')') {
        let (head, list) = list.split_once('(').ok_or_else(|| unparsable(part))?;
        let values = list.split(',').map(|value| value.trim().to_owned()).collect();
        let words: Vec<&str> = head.split_whitespace().collect();
        return match words.as_slice() {
            [key, "in"] => Ok(Requirement::In((*key).to_owned(), values)),
            [key, "notin"] => Ok(Requirement::NotIn((*key).to_owned(), values)),
            _ => Err(unparsable(part)),
        };
    }
    if part.contains(char::is_whitespace) {
        return Err(unparsable(part));
    }
    Ok(Requirement::Exists(part.to_owned()))
}

fn unparsable(part: &str) -> String {
    format!("unable to parse requirement: found '{part}', expected: a key, an operator and values")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Filter, covers, selects, text};

    fn takes(labels: &str) -> bool {
        let object = json!({ "metadata": { "labels": { "app": "web", "tier": "front" } } });
        Filter::parse(None, Some(labels), None).unwrap().matches(&object)
    }

    #[test]
    fn every_label_operator_is_understood() {
        for good in ["", "app=web", "app==web", "app!=api", "app in (api, web)", "tier notin (back)", "app", "!gone"] {
            assert!(takes(good), "{good}");
        }
        for bad in ["app=api", "app!=web", "app in (api)", "app notin (web,api),tier", "gone", "!app", "app=web,x"] {
            assert!(!takes(bad), "{bad}");
        }
        for wrong in ["app within (a)", "a b", "in)"] {
            assert!(Filter::parse(None, Some(wrong), None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn fields_and_the_namespace_narrow_a_filter() {
        let pod = json!({
            "metadata": { "name": "a", "namespace": "x" }, "spec": { "nodeName": "n" }, "status": { "phase": "Running" },
        });
        let matches = |ns: Option<&str>, fields: &str| Filter::parse(ns, None, Some(fields)).unwrap().matches(&pod);
        assert!(matches(Some("x"), "metadata.name=a,status.phase!=Failed,spec.nodeName==n"));
        assert!(!matches(Some("y"), ""));
        assert!(!matches(None, "metadata.name=b"));
        assert!(matches(None, "spec.unset="));
        assert!(Filter::parse(None, None, Some("nonsense")).is_err());
    }

    #[test]
    fn selectors_of_services_and_workloads_take_labels() {
        let labels = json!({ "app": "web", "tier": "front" });
        assert!(covers(&json!({ "app": "web" }), &labels));
        assert!(!covers(&json!({}), &labels) && !covers(&json!(null), &labels));
        let expression = json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": ["web"] }] });
        assert!(selects(&expression, &labels));
        assert!(!selects(&json!({ "matchLabels": { "app": "api" } }), &labels));
        assert!(!selects(&json!({}), &labels));
        assert_eq!(text(&labels), "app=web,tier=front");
    }
}
