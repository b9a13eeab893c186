//! The fake cluster's API on the wire: lists, watches, changes, refusals and faults.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::time::Duration;

use serde_json::{Value, json};
use testkit::cert::trust_anything;
use testkit::cluster::{AuthMode, Cluster, ClusterOptions, PodSpec, PodStart, ServerVersion, ServicePort};
use testkit::raw::{self, Client, Response};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A cluster that asks for no credentials and speaks without TLS, so that tests see plain bytes.
async fn plain() -> Cluster {
    let options = ClusterOptions { tls: false, auth: AuthMode::None, ..ClusterOptions::default() };
    Cluster::start(options).await
}

async fn ask(cluster: &Cluster, method: &str, target: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = raw::request(cluster.address(), method, "fake", target, &[], body.as_bytes()).await.unwrap();
    (answer.status, document(&answer))
}

async fn get(cluster: &Cluster, target: &str) -> (u16, Value) {
    ask(cluster, "GET", target, &Value::Null).await
}

fn document(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!(answer.text()))
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn version(list: &Value) -> String {
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// A watch that is read event by event.
struct Watch {
    client: Client,
    text: Vec<u8>,
}

impl Watch {
    async fn start(cluster: &Cluster, target: &str) -> Self {
        let mut client = Client::connect(cluster.address()).await.unwrap();
        client.send(&raw::head("GET", "fake", target, &[], None)).await.unwrap();
        assert_eq!(client.response_head(false).await.unwrap().status, 200);
        Self { client, text: Vec::new() }
    }

    /// The next event; `None` at the end.
    async fn event(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            self.text.extend_from_slice(&self.client.piece().await.unwrap()?);
        }
    }

    /// The next event as `TYPE name`.
    async fn next(&mut self) -> String {
        let event = self.event().await.expect("another event");
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

#[tokio::test]
async fn a_list_is_filtered_and_names_its_version() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a").label("app", "web"));
    cluster.add_pod(PodSpec::new("default", "b").label("app", "api"));
    cluster.add_pod(PodSpec::new("other", "c").label("app", "web"));
    let (status, list) = get(&cluster, PODS).await;
    assert_eq!((status, names(&list)), (200, vec!["a", "b"]));
    assert_eq!(list["kind"], "PodList");
    let (_, list) = get(&cluster, "/api/v1/pods?labelSelector=app%3Dweb").await;
    assert_eq!(names(&list), ["a", "c"]);
    let (_, list) = get(&cluster, "/api/v1/pods?fieldSelector=metadata.name%3Dc,status.phase%21%3DPending").await;
    assert_eq!(names(&list), ["c"]);
    let (status, refusal) = get(&cluster, "/api/v1/pods?labelSelector=a%20b").await;
    assert_eq!((status, &refusal["reason"]), (400, &json!("BadRequest")));
}

#[tokio::test]
async fn a_list_comes_in_pages_and_a_page_asked_for_too_late_is_refused() {
    let cluster = plain().await;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.add_pod(PodSpec::new("default", name));
    }
    let (_, first) = get(&cluster, &format!("{PODS}?limit=2")).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    let more = first["metadata"]["continue"].as_str().unwrap();
    let next = format!("{PODS}?limit=4&continue={more}");
    let (_, second) = get(&cluster, &next).await;
    assert_eq!((names(&second), &second["metadata"]["continue"]), (vec!["c", "d", "e"], &Value::Null));
    assert_eq!(version(&second), version(&first));
    cluster.faults().watch_gone();
    let (status, refusal) = get(&cluster, &next).await;
    assert_eq!((status, &refusal["reason"]), (410, &json!("Expired")));
}

#[tokio::test]
async fn a_watch_from_a_version_sees_every_change_after_it() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a"));
    let (_, list) = get(&cluster, PODS).await;
    cluster.add_pod(PodSpec::new("default", "b"));
    let mut watch = Watch::start(&cluster, &format!("{PODS}?watch=true&resourceVersion={}", version(&list))).await;
    assert_eq!(watch.next().await, "ADDED b");
    cluster.set_ready("default", "a", false);
    assert_eq!(watch.next().await, "MODIFIED a");
    cluster.add_pod(PodSpec::new("other", "c"));
    cluster.delete("Pod", "default", "b");
    let gone = watch.event().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("b")));
    assert_eq!((&gone["object"]["kind"], &gone["object"]["apiVersion"]), (&json!("Pod"), &json!("v1")));
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a"));
    let mut watch = Watch::start(&cluster, &format!("{PODS}?watch=1")).await;
    assert_eq!(watch.next().await, "ADDED a");
    cluster.add_pod(PodSpec::new("default", "b"));
    assert_eq!(watch.next().await, "ADDED b");
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_bookmark_that_says_so() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a"));
    let target =
        format!("{PODS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan");
    let mut watch = Watch::start(&cluster, &target).await;
    assert_eq!(watch.next().await, "ADDED a");
    let bookmark = watch.event().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_watch_that_allows_them_gets_bookmarks() {
    let bookmarks = Duration::from_millis(20);
    let options = ClusterOptions { tls: false, auth: AuthMode::None, bookmarks, ..ClusterOptions::default() };
    let cluster = Cluster::start(options).await;
    let (_, list) = get(&cluster, PODS).await;
    let target = format!("{PODS}?watch=true&allowWatchBookmarks=true&resourceVersion={}", version(&list));
    let mut watch = Watch::start(&cluster, &target).await;
    let bookmark = watch.event().await.unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Pod")));
}

#[tokio::test]
async fn an_object_that_enters_or_leaves_the_selector_is_added_or_deleted() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a").label("app", "web"));
    let mut watch = Watch::start(&cluster, &format!("{PODS}?watch=true&labelSelector=app%3Dweb")).await;
    assert_eq!(watch.next().await, "ADDED a");
    cluster.patch("Pod", "default", "a", json!({ "metadata": { "labels": { "app": "other" } } }));
    assert_eq!(watch.next().await, "DELETED a");
    cluster.patch("Pod", "default", "a", json!({ "metadata": { "labels": { "app": "web" } } }));
    assert_eq!(watch.next().await, "ADDED a");
}

#[tokio::test]
async fn a_watch_ends_after_its_time() {
    let cluster = plain().await;
    let mut watch = Watch::start(&cluster, "/api/v1/secrets?watch=true&timeoutSeconds=1").await;
    assert_eq!(watch.event().await, None);
}

#[tokio::test]
async fn a_compaction_ends_watches_with_410_and_makes_old_versions_useless() {
    let cluster = plain().await;
    let (_, list) = get(&cluster, PODS).await;
    let old = format!("{PODS}?watch=true&resourceVersion={}", version(&list));
    let mut watch = Watch::start(&cluster, &old).await;
    cluster.faults().watch_gone();
    let mut late = Watch::start(&cluster, &old).await;
    for watch in [&mut watch, &mut late] {
        let event = watch.event().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
        assert_eq!(event["object"]["reason"], "Expired");
        assert_eq!(watch.event().await, None);
    }
    let (_, list) = get(&cluster, PODS).await;
    let mut new = Watch::start(&cluster, &format!("{PODS}?watch=true&resourceVersion={}", version(&list))).await;
    cluster.add_pod(PodSpec::new("default", "a"));
    assert_eq!(new.next().await, "ADDED a");
}

#[tokio::test]
async fn dropped_watches_end_without_a_word() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a"));
    let mut watch = Watch::start(&cluster, &format!("{PODS}?watch=true")).await;
    assert_eq!(watch.next().await, "ADDED a");
    cluster.faults().drop_watches();
    assert_eq!(watch.event().await, None);
}

#[tokio::test]
async fn a_created_pod_is_set_on_its_way() {
    let cluster = plain().await;
    let pod = json!({ "metadata": { "generateName": "jump-" }, "spec": { "containers": [{ "name": "main", "image": "x" }] } });
    let (status, created) = ask(&cluster, "POST", PODS, &pod).await;
    assert_eq!((status, &created["status"]["phase"]), (201, &json!("Pending")));
    let name = created["metadata"]["name"].as_str().unwrap();
    let mut watch = Watch::start(&cluster, &format!("{PODS}?watch=true&fieldSelector=status.phase%3DRunning")).await;
    assert_eq!(watch.next().await, format!("ADDED {name}"));
    let running = cluster.get("Pod", "default", name).unwrap();
    assert_eq!(running["spec"]["nodeName"], "node-1");
    assert_eq!(running["status"]["containerStatuses"][0]["ready"], true);
    let (status, refusal) =
        ask(&cluster, "POST", PODS, &json!({ "metadata": { "name": name }, "spec": pod["spec"] })).await;
    assert_eq!((status, &refusal["message"]), (409, &json!(format!("pods \"{name}\" already exists"))));
}

#[tokio::test]
async fn a_created_pod_can_be_made_to_fail_in_every_way() {
    let cluster = plain().await;
    let create = async |name: &str| {
        let pod = json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "main", "image": "x" }] } });
        ask(&cluster, "POST", PODS, &pod).await
    };
    let reason = "ImagePullBackOff".to_owned();
    cluster.on_create(PodStart::Waiting { reason, message: "not found".to_owned() });
    create("a").await;
    let pod = cluster.get("Pod", "default", "a").unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "ImagePullBackOff");
    cluster.on_create(PodStart::Unschedulable { message: "0/1 nodes are available".to_owned() });
    create("b").await;
    let pod = cluster.get("Pod", "default", "b").unwrap();
    assert_eq!(pod["status"]["conditions"][0]["reason"], "Unschedulable");
    cluster.on_create(PodStart::Refused { message: "exceeded quota".to_owned() });
    let (status, refusal) = create("c").await;
    assert_eq!((status, &refusal["message"]), (403, &json!("pods \"c\" is forbidden: exceeded quota")));
}

#[tokio::test]
async fn a_deleted_pod_terminates_and_then_goes() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a"));
    let mut watch = Watch::start(&cluster, &format!("{PODS}?watch=true")).await;
    assert_eq!(watch.next().await, "ADDED a");
    let (status, pod) = ask(&cluster, "DELETE", &format!("{PODS}/a"), &Value::Null).await;
    assert_eq!((status, &pod["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(watch.next().await, "MODIFIED a");
    assert_eq!(watch.next().await, "DELETED a");
    cluster.add_pod(PodSpec::new("default", "b"));
    let (status, removed) = ask(&cluster, "DELETE", &format!("{PODS}/b"), &json!({ "gracePeriodSeconds": 0 })).await;
    assert_eq!((status, &removed["status"]), (200, &json!("Success")));
    assert!(cluster.get("Pod", "default", "b").is_none());
}

#[tokio::test]
async fn an_object_is_patched_and_replaced_with_a_check_of_its_version() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a"));
    let target = format!("{PODS}/a");
    let stale = cluster.get("Pod", "default", "a").unwrap();
    let patch = json!({ "metadata": { "labels": { "x": "y" } } });
    let (status, patched) = ask(&cluster, "PATCH", &target, &patch).await;
    assert_eq!((status, &patched["metadata"]["labels"]["x"]), (200, &json!("y")));
    let (status, refusal) = ask(&cluster, "PUT", &target, &stale).await;
    assert_eq!((status, &refusal["reason"]), (409, &json!("Conflict")));
    let (status, _) = ask(&cluster, "PUT", &target, &patched).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn logs_are_given_and_refused_as_they_are() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a"));
    cluster.set_log("default", "a", "main", "one\ntwo\n");
    let log = async |query: &str| get(&cluster, &format!("{PODS}/a/log{query}")).await;
    assert_eq!(log("?tailLines=1").await, (200, json!("two\n")));
    assert_eq!(log("?container=x").await.1["message"], "container x is not valid for pod a");
    let (status, refusal) = log("?previous=true").await;
    let message = "previous terminated container \"main\" in pod \"a\" not found";
    assert_eq!((status, &refusal["message"]), (400, &json!(message)));
    cluster.set_previous_log("default", "a", "main", "panic\n");
    assert_eq!(log("?previous=true&tailLines=1").await, (200, json!("panic\n")));
    cluster.add_pod(PodSpec::new("default", "b"));
    cluster.set_waiting("default", "b", "ImagePullBackOff", "");
    let (_, refusal) = get(&cluster, &format!("{PODS}/b/log")).await;
    let message = "container \"main\" in pod \"b\" is waiting to start: ImagePullBackOff";
    assert_eq!(refusal["message"], message);
}

#[tokio::test]
async fn streams_of_pods_that_cannot_have_any_are_refused_before_the_upgrade() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "pending"));
    cluster.set_unschedulable("default", "pending", "no room");
    cluster.add_pod(PodSpec::new("default", "done"));
    cluster.set_phase("default", "done", "Succeeded", "", "");
    cluster.add_service("default", "web", &[("app", "web")], &[ServicePort::new(80)]);
    let forward = async |name: &str| ask(&cluster, "POST", &format!("{PODS}/{name}/portforward"), &Value::Null).await;
    assert_eq!(forward("nosuch").await.1["message"], "pods \"nosuch\" not found");
    let (status, refusal) = forward("pending").await;
    assert_eq!((status, &refusal["message"]), (400, &json!("pod pending does not have a host assigned")));
    assert_eq!(forward("done").await, (500, json!("pod not found (\"done_default\")\n")));
    let (status, refusal) = get(&cluster, "/api/v1/namespaces/default/services/web/portforward").await;
    let message = "the server could not find the requested resource";
    assert_eq!((status, &refusal["message"]), (404, &json!(message)));
}

#[tokio::test]
async fn rights_are_denied_in_the_words_of_rbac() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a"));
    cluster.faults().deny("list", "pods");
    cluster.faults().deny("create", "pods/portforward");
    let (status, refusal) = get(&cluster, PODS).await;
    let message =
        "pods is forbidden: User \"fake\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert_eq!((status, &refusal["message"]), (403, &json!(message)));
    let (_, refusal) = get(&cluster, "/api/v1/pods").await;
    assert!(refusal["message"].as_str().unwrap().ends_with("at the cluster scope"));
    let (_, refusal) = get(&cluster, &format!("{PODS}/a/portforward")).await;
    let message = "pods \"a\" is forbidden: User \"fake\" cannot create resource \"pods/portforward\" in API group \"\" \
                   in the namespace \"default\"";
    assert_eq!(refusal["message"], message);
    assert_eq!(get(&cluster, &format!("{PODS}/a")).await.0, 200);
    cluster.faults().allow_all();
    assert_eq!(get(&cluster, PODS).await.0, 200);
}

#[tokio::test]
async fn credentials_are_asked_for_and_can_expire() {
    let cluster = Cluster::start(ClusterOptions { tls: false, ..ClusterOptions::default() }).await;
    let ask = async |token: &str| {
        let field = format!("Bearer {token}");
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("Authorization", &field)] };
        let answer = raw::request(cluster.address(), "GET", "fake", PODS, headers, b"").await.unwrap();
        (answer.status, document(&answer)["message"].as_str().unwrap_or("").to_owned())
    };
    let config = cluster.kubeconfig();
    let token = config.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap();
    assert_eq!(ask(token).await.0, 200);
    assert_eq!(ask("wrong").await, (401, "Unauthorized".to_owned()));
    assert!(ask("").await.1.contains("User \"system:anonymous\" cannot list"));
    cluster.faults().token_expired(true);
    assert_eq!(ask(token).await.0, 401);
    cluster.faults().token_expired(false);
    let new = cluster.rotate_token();
    assert_eq!((ask(token).await.0, ask(&new).await.0), (401, 200));
}

#[tokio::test]
async fn the_path_prefix_is_before_everything() {
    let path_prefix = Some("/k8s/clusters/c-x".to_owned());
    let options = ClusterOptions { tls: false, auth: AuthMode::None, path_prefix, ..ClusterOptions::default() };
    let cluster = Cluster::start(options).await;
    assert!(cluster.url().ends_with("/k8s/clusters/c-x"));
    assert_eq!(get(&cluster, &format!("/k8s/clusters/c-x{PODS}")).await.0, 200);
    assert_eq!(get(&cluster, PODS).await.0, 404);
    assert_eq!(cluster.requests(), [format!("GET {PODS}")]);
    assert_eq!(cluster.count_requests("GET /api/v1/"), 1);
}

#[tokio::test]
async fn scripted_answers_go_to_the_paths_they_are_for() {
    let cluster = plain().await;
    cluster.faults().api_status_for("/api/v1/namespaces/default/pods", Some((503, "")));
    let (status, refusal) = get(&cluster, PODS).await;
    assert_eq!((status, &refusal["reason"]), (503, &json!("ServiceUnavailable")));
    assert_eq!(get(&cluster, "/api/v1/services").await.0, 200);
    cluster.faults().api_status(Some((502, "<html>bad gateway</html>")));
    assert_eq!(get(&cluster, "/version").await, (502, json!("<html>bad gateway</html>")));
    cluster.faults().clear();
    assert_eq!(get(&cluster, PODS).await.0, 200);
}

#[tokio::test]
async fn a_stopped_server_refuses_and_comes_back_on_its_port() {
    let cluster = plain().await;
    let mut watch = Watch::start(&cluster, &format!("{PODS}?watch=true&resourceVersion=999999")).await;
    cluster.faults().stop().await;
    assert!(watch.client.piece().await.is_err(), "the connection gets a reset");
    assert!(tokio::net::TcpStream::connect(cluster.address()).await.is_err());
    cluster.faults().restart();
    assert_eq!(get(&cluster, PODS).await.0, 200);
}

#[tokio::test]
async fn a_silent_connection_stays_open_and_says_nothing_until_it_is_resumed() {
    let cluster = plain().await;
    cluster.add_pod(PodSpec::new("default", "a"));
    let mut watch = Watch::start(&cluster, &format!("{PODS}?watch=true")).await;
    assert_eq!(watch.next().await, "ADDED a");
    cluster.faults().silent_connections();
    cluster.add_pod(PodSpec::new("default", "b"));
    let heard = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    assert_eq!(get(&cluster, PODS).await.0, 200);
    cluster.faults().resume_connections();
    assert_eq!(watch.next().await, "ADDED b");
}

#[tokio::test]
async fn both_http_versions_are_offered_and_the_version_is_told() {
    let options = ClusterOptions { version: ServerVersion::V1_28, ..ClusterOptions::default() };
    let cluster = Cluster::start(options).await;
    for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = raw::tls(cluster.address(), "127.0.0.1", trust_anything(offered)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
    }
    let tls = trust_anything(&["http/1.1"]);
    let mut client = Client::connect_tls(cluster.address(), "127.0.0.1", tls).await.unwrap();
    let version = document(&client.get("fake", "/version").await.unwrap());
    assert_eq!((&version["minor"], &version["gitVersion"]), (&json!("28"), &json!("v1.28.15")));
}

#[tokio::test]
async fn a_dropped_cluster_leaves_nothing_behind() {
    let cluster = plain().await;
    let address = cluster.address();
    let mut watch = Watch::start(&cluster, &format!("{PODS}?watch=true")).await;
    cluster.shutdown().await;
    assert!(watch.client.piece().await.is_err() || watch.event().await.is_none());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
