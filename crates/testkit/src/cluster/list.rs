//! Lists: filtered, in pages, as objects or as a Table.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Shared;
use super::api::Asked;
use super::reply::{self, Body, Refusal};
use super::selector::Filter;
use super::{query, table};

/// What a real server says when a page is asked for too late.
const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
                       a new list without the continue parameter.";

/// Where a list goes on: the version of its first page and the last object shown.
struct Place {
    version: u64,
    namespace: String,
    name: String,
}

/// One page.
struct Page {
    version: u64,
    objects: Vec<Arc<Value>>,
    rest: Option<(Place, usize)>,
}

pub(super) fn answer(shared: &Shared, asked: &Asked) -> Result<Response<Body>, Refusal> {
    let page = page(shared, asked)?;
    let mut metadata = json!({ "resourceVersion": page.version.to_string() });
    if let Some((place, remaining)) = &page.rest {
        metadata["continue"] = json!(place.token());
        metadata["remainingItemCount"] = json!(remaining);
    }
    if asked.table {
        let include = query::value(&asked.query, "includeObject");
        let mut table = table::render(asked.target.kind, &page.objects, "", include, true);
        table["metadata"] = metadata;
        return Ok(reply::json(StatusCode::OK, &table));
    }
    let kind = asked.target.kind();
    let head = json!({ "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata });
    Ok(reply::bytes(StatusCode::OK, "application/json", document(&head, &page.objects).into()))
}

/// The filter of a list or watch.
pub(super) fn filter(asked: &Asked) -> Result<Filter, Refusal> {
    let labels = query::value(&asked.query, "labelSelector");
    let fields = query::value(&asked.query, "fieldSelector");
    Filter::parse(asked.target.namespace.as_deref(), labels, fields).map_err(Refusal::bad_request)
}

/// The version that a list or watch asks for; 0 means any.
pub(super) fn version(asked: &Asked) -> Result<Option<u64>, Refusal> {
    match query::value(&asked.query, "resourceVersion") {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            Refusal::plain(400, "BadRequest", format!("invalid resource version \"{text}\": not a number"))
        }),
    }
}

fn page(shared: &Shared, asked: &Asked) -> Result<Page, Refusal> {
    let filter = filter(asked)?;
    let from = match query::value(&asked.query, "continue") {
        None | Some("") => None,
        Some(token) => Some(Place::parse(token).ok_or_else(|| Refusal::bad_request("continue key is not valid"))?),
    };
    let (now, mut objects) = shared.store.list(asked.target.kind, asked.target.namespace.as_deref());
    if let Some(wanted) = version(asked)? {
        let exact = query::value(&asked.query, "resourceVersionMatch") == Some("Exact");
        if wanted > now {
            let message = format!("Too large resource version: {wanted}, current: {now}");
            return Err(Refusal::plain(504, "Timeout", message));
        }
        if exact && wanted < shared.store.oldest() {
            return Err(Refusal::expired("The resourceVersion for the provided list is too old."));
        }
    }
    if from.as_ref().is_some_and(|place| place.version < shared.store.oldest()) {
        return Err(Refusal::expired(TOO_OLD));
    }
    objects.retain(|object| filter.matches(object) && from.as_ref().is_none_or(|place| place.before(object)));
    let version = from.map_or(now, |place| place.version);
    let limit = query::value(&asked.query, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(0);
    let remaining = if limit == 0 { 0 } else { objects.len().saturating_sub(limit) };
    let rest = (remaining > 0).then(|| {
        objects.truncate(limit);
        (Place::after(version, objects.last()), remaining)
    });
    Ok(Page { version, objects, rest })
}

impl Place {
    fn after(version: u64, last: Option<&Arc<Value>>) -> Self {
        let text = |field: &str| last.map_or("", |last| last["metadata"][field].as_str().unwrap_or("")).to_owned();
        Self { version, namespace: text("namespace"), name: text("name") }
    }

    /// Whether an object comes behind this place.
    fn before(&self, object: &Value) -> bool {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or("");
        (text("namespace"), text("name")) > (self.namespace.as_str(), self.name.as_str())
    }

    fn token(&self) -> String {
        let plain = format!("{}/{}/{}", self.version, self.namespace, self.name);
        plain.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    fn parse(token: &str) -> Option<Self> {
        let bytes: Option<Vec<u8>> = (0..token.len())
            .step_by(2)
            .map(|at| token.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect();
        let plain = String::from_utf8(bytes?).ok()?;
        let mut parts = plain.splitn(3, '/');
        let version = parts.next()?.parse().ok()?;
        Some(Self { version, namespace: parts.next()?.to_owned(), name: parts.next()?.to_owned() })
    }
}

/// The list as JSON. The objects in it do not name their kind, as a real server has it.
fn document(head: &Value, objects: &[Arc<Value>]) -> Vec<u8> {
    let mut out = head.to_string().into_bytes();
    out.pop();
    out.extend_from_slice(b",\"items\":[");
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        item(&mut out, object);
    }
    out.extend_from_slice(b"]}\n");
    out
}

fn item(out: &mut Vec<u8>, object: &Value) {
    out.push(b'{');
    let fields = object.as_object().into_iter().flatten();
    for (index, (name, value)) in fields.filter(|(name, _)| *name != "kind" && *name != "apiVersion").enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
        out.push(b':');
        // Writing into memory does not fail.
        let _ = serde_json::to_writer(&mut *out, value);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::{Place, document};

    #[test]
    fn a_continue_token_comes_back_as_it_was() {
        let place = Place { version: 7, namespace: "x".into(), name: "a/b".into() };
        let back = Place::parse(&place.token()).unwrap();
        assert_eq!((back.version, back.namespace.as_str(), back.name.as_str()), (7, "x", "a/b"));
        for wrong in ["zz", "3", "\u{e4}\u{e4}", "376161"] {
            assert!(Place::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn items_do_not_name_their_kind() {
        let object = Arc::new(json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "a" }, "spec": {} }));
        let text = document(&json!({ "kind": "PodList" }), &[Arc::clone(&object), object]);
        let list: Value = serde_json::from_slice(&text).unwrap();
        let item = json!({ "metadata": { "name": "a" }, "spec": {} });
        assert_eq!(list, json!({ "kind": "PodList", "items": [item, item] }));
    }
}
