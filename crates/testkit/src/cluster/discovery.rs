//! What a client asks first: the version, the health, and which resources there are.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Shared;
use super::kinds::{KINDS, Kind};
use super::reply::{self, Body};

/// What may be done with any resource.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The groups beside the core one, in the order discovery gives them.
const GROUPS: [&str; 3] = ["apps", "batch", "discovery.k8s.io"];

/// The answer, when the path is one of discovery.
pub(super) fn answer(shared: &Shared, words: &[&str], accept: &str) -> Option<Response<Body>> {
    let aggregated = shared.options.aggregated_discovery.then(|| wanted(accept)).flatten();
    let document = match (words, aggregated) {
        (["version"], _) => version(shared),
        (["healthz" | "livez" | "readyz", ..], _) => return Some(reply::text(StatusCode::OK, "ok")),
        (["api"], Some(form)) => return Some(whole(&[""], form)),
        (["apis"], Some(form)) => return Some(whole(&GROUPS, form)),
        (["api"], None) => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": shared.listener.address().to_string() }],
        }),
        (["apis"], None) => json!({
            "kind": "APIGroupList", "apiVersion": "v1", "groups": GROUPS.map(group),
        }),
        (["apis", name], _) if GROUPS.contains(name) => group(name),
        (["api", "v1"], _) => resources(""),
        (["apis", name, "v1"], _) if GROUPS.contains(name) => resources(name),
        ([], _) => json!({ "paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/readyz", "/version"] }),
        _ => return None,
    };
    Some(reply::json(StatusCode::OK, &document))
}

fn version(shared: &Shared) -> Value {
    let version = shared.options.version;
    json!({
        "major": "1", "minor": version.minor().to_string(), "gitVersion": version.git_version(),
        "gitCommit": "0000000000000000000000000000000000000000", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.25", "compiler": "gc", "platform": "linux/amd64",
    })
}

fn group(name: &str) -> Value {
    let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version,
    })
}

fn resources(group: &str) -> Value {
    let mut resources = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.group == group) {
        let mut resource = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": VERBS, "shortNames": kind.short,
        });
        if kind.in_all {
            resource["categories"] = json!(["all"]);
        }
        resources.push(resource);
        for (sub, of, verbs) in kind.subresources {
            resources.push(json!({
                "name": format!("{}/{sub}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": of, "verbs": verbs,
            }));
        }
    }
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources })
}

/// The version of the aggregated form that a client asks for.
fn wanted(accept: &str) -> Option<&'static str> {
    let media = accept.split(',').find(|media| media.contains("as=APIGroupDiscoveryList"))?;
    Some(if media.contains("v=v2beta1") { "v2beta1" } else { "v2" })
}

/// The aggregated form: all groups and their resources in one document.
fn whole(groups: &[&str], form: &'static str) -> Response<Body> {
    let item = |group: &&str| {
        let resources: Vec<Value> = KINDS.iter().filter(|kind| kind.group == *group).map(aggregated).collect();
        json!({
            "metadata": { "name": group, "creationTimestamp": null },
            "versions": [{ "version": "v1", "resources": resources, "freshness": "Current" }],
        })
    };
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{form}"), "metadata": {},
        "items": groups.iter().map(item).collect::<Vec<_>>(),
    });
    let media = match form {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    reply::bytes(StatusCode::OK, media, document.to_string().into())
}

fn aggregated(kind: &Kind) -> Value {
    let response = |name: &str| json!({ "group": kind.group, "version": kind.version, "kind": name });
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|(name, of, verbs)| json!({ "subresource": name, "responseKind": response(of), "verbs": verbs }))
        .collect();
    let mut resource = json!({
        "resource": kind.plural, "responseKind": response(kind.kind), "singularResource": kind.singular,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "verbs": VERBS, "shortNames": kind.short, "subresources": subresources,
    });
    if kind.in_all {
        resource["categories"] = json!(["all"]);
    }
    resource
}
