//! What containers have said.

use std::collections::HashMap;
use std::sync::Mutex;

use http::{Response, StatusCode};
use serde_json::Value;

use super::api::Asked;
use super::objects;
use super::reply::{self, Body, Refusal};
use super::{Shared, locked, query};

/// Namespace, pod, container (`""`: any) and whether it is the log of the run before.
type Key = (String, String, String, bool);

/// The logs of all containers.
#[derive(Debug, Default)]
pub(super) struct Logs(Mutex<HashMap<Key, String>>);

impl Logs {
    pub(super) fn set(&self, namespace: &str, pod: &str, container: &str, previous: bool, text: &str) {
        let key = (namespace.to_owned(), pod.to_owned(), container.to_owned(), previous);
        locked(&self.0).insert(key, text.to_owned());
    }

    fn get(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Option<String> {
        let logs = locked(&self.0);
        let key = |container: &str| (namespace.to_owned(), pod.to_owned(), container.to_owned(), previous);
        logs.get(&key(container)).or_else(|| logs.get(&key(""))).cloned()
    }
}

pub(super) fn answer(shared: &Shared, asked: &Asked) -> Result<Response<Body>, Refusal> {
    let pod = asked.target.object(shared)?;
    let name = asked.target.name();
    let container = objects::container(&pod, query::value(&asked.query, "container"))
        .map_err(|message| Refusal::bad_request(message.replace("{pod}", name)))?;
    let previous = query::flag(&asked.query, "previous");
    let text = shared.logs.get(asked.target.namespace(), name, &container, previous);
    let text = match text {
        Some(text) => text,
        None if previous => {
            let message = format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
            return Err(Refusal::bad_request(message));
        }
        None => match waiting(&pod, &container) {
            Some(reason) => {
                let message = format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}");
                return Err(Refusal::bad_request(message));
            }
            None => String::new(),
        },
    };
    let lines = query::value(&asked.query, "tailLines").and_then(|lines| lines.parse().ok());
    Ok(reply::text(StatusCode::OK, tail(&text, lines)))
}

fn waiting(pod: &Value, container: &str) -> Option<String> {
    let statuses = pod["status"]["containerStatuses"].as_array()?;
    let status = statuses.iter().find(|status| status["name"] == container)?;
    status["state"]["waiting"]["reason"].as_str().map(str::to_owned)
}

fn tail(text: &str, lines: Option<usize>) -> String {
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    let skipped = lines.map_or(0, |lines| all.len().saturating_sub(lines));
    all[skipped..].concat()
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn the_tail_is_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", Some(1)), "c\n");
        assert_eq!(tail("a\nb", Some(5)), "a\nb");
        assert_eq!(tail("a\nb", None), "a\nb");
        assert_eq!(tail("", Some(1)), "");
    }
}
