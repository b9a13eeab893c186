//! What may have been meant when there is nothing of that name, or with those labels. The API server is asked for it
//! once, and only then; where it does not tell, nothing is said.

use std::collections::BTreeSet;
use std::time::Duration;

use adit_core::diagnose::Fault;
use adit_core::near;
use runtime::connect::MissingPart;

use super::Wanted;
use super::pod::plain;
use crate::error::{ForwardError, Missing};
use crate::k8s::api::Api;
use crate::k8s::objects::{List, ObjectMeta};
use crate::k8s::watch::encoded;

/// How long an error waits for a list that may make it a better one.
const WITHIN: Duration = Duration::from_secs(2);
/// Objects of a list that are looked at; kubectl's page.
const LOOKED_AT: usize = 500;
/// Names that are proposed.
const PROPOSED: usize = 3;

/// An object of which only name and labels matter.
#[derive(Debug, serde::Deserialize)]
struct Named {
    metadata: ObjectMeta,
}

/// The error for an object that is not there, with the name that was probably meant: its own, or its namespace's.
pub(super) async fn explain(api: &Api, wanted: &Wanted, name: &str, error: ForwardError) -> ForwardError {
    let ForwardError::NoTarget { message, fault, hint, missing, shared } = error else { return error };
    let known = list(api, &wanted.all_of_the_kind()).await.map(|list| list.items).unwrap_or_default();
    if known.is_empty() {
        let error = ForwardError::NoTarget { message, fault, hint, missing, shared };
        return namespace(api, wanted).await.unwrap_or(error);
    }
    let near = near::near_matches(name, known.iter().map(|named| named.metadata.name.as_str()), PROPOSED);
    let hint = match (proposal(&near), hint) {
        (Some(proposal), Some(hint)) => Some(format!("{proposal} {hint}")),
        (proposal, hint) => proposal.or(hint),
    };
    let near = near.into_iter().map(str::to_owned).collect();
    let missing = Some(Missing { part: MissingPart::Name, near });
    ForwardError::NoTarget { message, fault, hint, missing, shared }
}

/// Why labels may lead to no pod, as a part of a sentence.
pub(super) async fn labels(api: &Api, in_namespace: &str, selector: &str) -> Option<String> {
    let pods = list(api, &format!("/api/v1/namespaces/{}/pods", encoded(in_namespace))).await?.items;
    if pods.is_empty() {
        return Some(match missing_namespace(api, in_namespace).await? {
            Some(near) => format!("there is no namespace `{in_namespace}`: did you mean `{near}`?"),
            None => format!("there is no namespace `{in_namespace}`"),
        });
    }
    let has: BTreeSet<String> = pods
        .iter()
        .flat_map(|pod| &pod.metadata.labels)
        .map(|(key, value)| format!("{}={}", plain(key), plain(value)))
        .collect();
    let near = |term: &str| proposal(&near::near_matches(term, has.iter().map(String::as_str), PROPOSED));
    equalities(selector).find(|term| !has.contains(term)).and_then(|term| near(&term))
}

/// The error for a namespace that is not there; it looks like one without the object.
async fn namespace(api: &Api, wanted: &Wanted) -> Option<ForwardError> {
    let nearest = missing_namespace(api, &wanted.namespace).await?;
    let hint = match &nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("`kubectl get namespaces{}` lists what there is", wanted.flags),
    };
    Some(ForwardError::NoTarget {
        message: format!(
            "the namespace `{}` is not in the cluster of the context `{}`",
            wanted.namespace,
            api.context()
        ),
        fault: Fault::Usage,
        hint: Some(hint),
        missing: Some(Missing { part: MissingPart::Namespace, near: nearest.into_iter().collect() }),
        shared: None,
    })
}

/// The namespace that was probably meant, when this one is not there. `None`: it is, or nobody knows.
async fn missing_namespace(api: &Api, namespace: &str) -> Option<Option<String>> {
    let known = list(api, "/api/v1/namespaces").await?;
    let names: Vec<&str> = known.items.iter().map(|named| named.metadata.name.as_str()).collect();
    let missing = !names.contains(&namespace) && known.metadata.next.is_none();
    missing.then(|| near::nearest(namespace, names).map(plain))
}

async fn list(api: &Api, path: &str) -> Option<List<Named>> {
    let path = format!("{path}?limit={LOOKED_AT}");
    tokio::time::timeout(WITHIN, api.get::<List<Named>>(&path)).await.ok()?.ok()
}

fn proposal(near: &[&str]) -> Option<String> {
    let quoted: Vec<String> = near.iter().map(|name| format!("`{}`", plain(name))).collect();
    match quoted.as_slice() {
        [] => None,
        [one] => Some(format!("did you mean {one}?")),
        [most @ .., last] => Some(format!("did you mean {} or {last}?", most.join(", "))),
    }
}

/// The terms of a selector that ask for one value, as `key=value`.
fn equalities(selector: &str) -> impl Iterator<Item = String> {
    selector.split(',').filter_map(|term| {
        let (key, value) = term.split_once('=')?;
        let value = value.strip_prefix('=').unwrap_or(value);
        let plain = |text: &str| !text.contains(['!', '(', ')', ' ']);
        let (key, value) = (key.trim(), value.trim());
        (plain(key) && plain(value)).then(|| format!("{key}={value}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terms_that_ask_for_one_value_are_compared() {
        let terms = |selector: &str| equalities(selector).collect::<Vec<_>>();
        assert_eq!(terms("app=web,tier == db"), ["app=web", "tier=db"]);
        assert!(terms("a in (b,c),d!=e,!f,g").is_empty());
    }

    #[test]
    fn proposals_are_read_as_a_question() {
        assert_eq!(proposal(&[]), None);
        assert_eq!(proposal(&["a"]).unwrap(), "did you mean `a`?");
        assert_eq!(proposal(&["a", "b", "c"]).unwrap(), "did you mean `a`, `b` or `c`?");
    }
}
