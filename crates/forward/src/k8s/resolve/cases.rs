//! What is resolved from what was seen, case by case.

#![expect(clippy::needless_pass_by_value, reason = "`json!` builds each value for one call")]

use super::*;
use crate::k8s::objects::Object;
use adit_core::diagnose::{Diagnose as _, Fault};
use serde_json::{Value, json};

/// A cluster's objects, as the API server would tell them.
struct World {
    service: Option<Service>,
    slices: Vec<EndpointSlice>,
    workload: Option<Workload>,
    pods: Vec<Pod>,
}

impl World {
    fn new(objects: Value) -> Self {
        let mut world = Self { service: None, slices: Vec::new(), workload: None, pods: Vec::new() };
        for object in objects.as_array().unwrap() {
            match object["kind"].as_str().unwrap() {
                "Service" => world.service = Some(read(object)),
                "EndpointSlice" => world.slices.push(read(object)),
                "Pod" => world.pods.push(read(object)),
                _ => world.workload = Some(read(object)),
            }
        }
        world
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            service: Look::Seen(self.service.as_ref()),
            slices: Look::Seen(self.slices.iter().collect()),
            workload: Look::Seen(self.workload.as_ref()),
            pods: Look::Seen(self.pods.iter().collect()),
            pods_current: true,
        }
    }

    fn resolve(&self, of: Of, port: impl Into<Port>) -> Resolution {
        resolve(&wanted(of, port.into()), &self.seen())
    }

    fn service(&self, port: impl Into<Port>) -> Resolution {
        self.resolve(Of::Service("web".into()), port)
    }
}

impl Seen<'_> {
    /// Nothing was told yet.
    const NOTHING: Self = Self {
        service: Look::Pending(None),
        slices: Look::Pending(None),
        workload: Look::Pending(None),
        pods: Look::Pending(None),
        pods_current: false,
    };
}

impl From<u16> for Port {
    fn from(number: u16) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Port {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

fn read<T: Object>(object: &Value) -> T {
    serde_json::from_value(object.clone()).unwrap()
}

fn wanted(of: Of, port: Port) -> Wanted {
    Wanted { context: Some("a/b".into()), flags: String::new(), namespace: "ns".into(), of, port }
}

fn forbidden() -> ApiError {
    ApiError::Forbidden { message: "endpointslices is forbidden".into() }
}

fn service(ports: Value) -> Value {
    json!({"kind": "Service", "metadata": {"name": "web"}, "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.9",
        "selector": {"app": "web"}, "ports": ports}})
}

fn http() -> Value {
    json!([{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}])
}

fn endpoint(pod: &str, ready: bool) -> Value {
    json!({"addresses": ["10.1.0.1"], "conditions": {"ready": ready, "serving": ready, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": "ns", "name": pod, "uid": format!("u-{pod}")}})
}

fn slice(port: u16, endpoints: Value) -> Value {
    json!({"kind": "EndpointSlice", "metadata": {"name": "web-x"}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}], "endpoints": endpoints})
}

fn pod(name: &str, ready: bool) -> Value {
    json!({"kind": "Pod", "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}")},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            "containerStatuses": [{"name": "c", "ready": ready, "state": {"running": {}}}]}})
}

fn shown(resolution: &Resolution) -> Vec<String> {
    let show = |c: &Candidate| format!("{}:{} {:?}", c.pod.name, c.port, c.state);
    resolution.candidates.iter().map(show).collect()
}

fn none(resolution: &Resolution) -> String {
    assert!(resolution.candidates.iter().all(|candidate| candidate.state == PodState::NotReady), "{resolution:?}");
    resolution.none.as_ref().unwrap().to_string()
}

fn hint(resolution: &Resolution) -> String {
    resolution.none.as_ref().and_then(|none| none.hint()).unwrap_or_default()
}

fn permanent(resolution: &Resolution) -> bool {
    resolution.none.as_ref().unwrap().is_permanent()
}

#[test]
fn a_service_leads_to_its_ready_pods_and_their_own_port() {
    let slices = slice(8080, json!([endpoint("b", true), endpoint("a", true), endpoint("c", false)]));
    let world = World::new(json!([service(http()), slices]));
    let mut seen = world.seen();
    seen.pods = Look::Pending(None);
    for port in [Port::Number(80), Port::Name("http".into())] {
        let resolution = resolve(&wanted(Of::Service("web".into()), port), &seen);
        assert_eq!(shown(&resolution), ["a:8080 Ready", "b:8080 Ready", "c:8080 NotReady"]);
        assert!(resolution.none.is_none() && resolution.is_usable());
    }
}

#[test]
fn pods_of_one_service_may_give_a_named_port_different_numbers() {
    let (old, new) = (slice(8080, json!([endpoint("a", true)])), slice(9090, json!([endpoint("b", true)])));
    let world = World::new(json!([service(http()), old, new, pod("a", true), pod("b", true)]));
    assert_eq!(shown(&world.service(80)), ["a:8080 Ready", "b:9090 Ready"]);
}

#[test]
fn each_port_of_a_service_leads_its_own_way() {
    let ports =
        json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "metrics", "port": 81, "targetPort": 9000}]);
    let mut both = slice(8080, json!([endpoint("a", true)]));
    both["ports"].as_array_mut().unwrap().push(json!({"name": "metrics", "port": 9000}));
    let world = World::new(json!([service(ports), both, pod("a", true)]));
    assert_eq!(shown(&world.service(80)), ["a:8080 Ready"]);
    assert_eq!(shown(&world.service(81)), ["a:9000 Ready"]);
    assert_eq!(shown(&world.service("metrics")), ["a:9000 Ready"]);
}

#[test]
fn a_port_without_a_name_is_found_as_well() {
    let mut unnamed = slice(8080, json!([endpoint("a", true)]));
    unnamed["ports"] = json!([{"name": "", "port": 8080}]);
    let world = World::new(json!([service(json!([{"port": 80}])), unnamed, pod("a", true)]));
    assert_eq!(shown(&world.service(80)), ["a:8080 Ready"]);
    let mut every = slice(8080, json!([endpoint("a", true)]));
    every["ports"] = json!([{"port": null}]);
    let world = World::new(json!([service(json!([{"port": 80, "targetPort": 7}])), every, pod("a", true)]));
    assert_eq!(shown(&world.service(80)), ["a:7 Ready"]);
}

#[test]
fn a_pod_in_two_slices_is_one_candidate() {
    let world = World::new(json!([
        service(http()),
        slice(8080, json!([endpoint("a", false)])),
        slice(8080, json!([endpoint("a", true)])),
        pod("a", true)
    ]));
    assert_eq!(shown(&world.service(80)), ["a:8080 Ready"]);
}

#[test]
fn a_terminating_endpoint_that_serves_comes_last() {
    let mut old = endpoint("a", false);
    old["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
    let world = World::new(json!([service(http()), slice(8080, json!([old, endpoint("b", true)]))]));
    let mut seen = world.seen();
    seen.pods = Look::Withheld(forbidden());
    let resolution = resolve(&wanted(Of::Service("web".into()), 80.into()), &seen);
    assert_eq!(shown(&resolution), ["b:8080 Ready", "a:8080 Serving"]);
}

#[test]
fn what_a_pod_says_of_itself_is_newer_than_its_slice() {
    let slices =
        slice(8080, json!([endpoint("a", true), endpoint("b", true), endpoint("c", true), endpoint("d", true)]));
    let mut going = pod("b", true);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut successor = pod("d", true);
    successor["metadata"]["uid"] = json!("another");
    let world = World::new(json!([service(http()), slices, pod("a", false), going, successor]));
    // `c` is gone, `d` was replaced by another pod of its name.
    assert_eq!(shown(&world.service(80)), ["b:8080 Serving", "a:8080 NotReady"]);
    let mut seen = world.seen();
    seen.pods_current = false;
    let resolution = resolve(&wanted(Of::Service("web".into()), 80.into()), &seen);
    assert_eq!(shown(&resolution), ["a:8080 Ready", "c:8080 Ready", "d:8080 Ready", "b:8080 Serving"], "old news");
}

#[test]
fn a_service_that_publishes_unready_pods_leads_to_them() {
    let mut service = service(http());
    service["spec"]["publishNotReadyAddresses"] = json!(true);
    let world = World::new(json!([service, slice(8080, json!([endpoint("a", true)])), pod("a", false)]));
    assert_eq!(shown(&world.service(80)), ["a:8080 Ready"]);
}

#[test]
fn a_headless_service_translates_its_ports_and_passes_others_on() {
    let mut service = service(http());
    service["spec"]["clusterIP"] = json!("None");
    let world = World::new(json!([service, slice(8080, json!([endpoint("a", true)])), pod("a", true)]));
    assert_eq!(shown(&world.service(80)), ["a:8080 Ready"]);
    assert_eq!(shown(&world.service(8080)), ["a:8080 Ready"]);
    assert_eq!(none(&world.service("https")), "Service 'web' does not have a named port 'https'");
}

#[test]
fn slices_that_may_not_be_read_are_replaced_by_the_services_selector() {
    let world = World::new(json!([service(http()), pod("a", true), pod("b", false)]));
    let mut seen = world.seen();
    seen.slices = Look::Withheld(forbidden());
    let target = wanted(Of::Service("web".into()), 80.into());
    assert_eq!(shown(&resolve(&target, &seen)), ["a:8080 Ready", "b:8080 NotReady"]);
    seen.pods = Look::Withheld(ApiError::Forbidden { message: "pods is forbidden".into() });
    let resolution = resolve(&target, &seen);
    assert_eq!(none(&resolution), "pods of service web could not be looked up");
    assert!(permanent(&resolution));
    assert_eq!(resolution.none.as_ref().unwrap().fault(), Fault::Auth);
    assert!(resolution.detail().unwrap().ends_with("pods is forbidden"), "{resolution:?}");
}

#[test]
fn wrong_ports_are_told_with_kubectls_words_and_the_right_ones() {
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "both-udp", "port": 54, "protocol": "UDP"}, {"name": "both", "port": 54, "protocol": "TCP"}
    ]);
    let mut slices = slice(8080, json!([endpoint("a", true)]));
    slices["ports"].as_array_mut().unwrap().push(json!({"name": "both", "port": 54}));
    let world = World::new(json!([service(ports), slices, pod("a", true)]));
    let resolution = world.service(81);
    assert_eq!(none(&resolution), "Service web does not have a service port 81");
    assert_eq!(hint(&resolution), "it has 80 (http), 53/UDP (dns), 54/UDP (both-udp), 54 (both)");
    assert_eq!(resolution.none.as_ref().unwrap().fault(), Fault::Usage);
    assert_eq!(none(&world.service("web")), "Service 'web' does not have a named port 'web'");
    assert_eq!(none(&world.service(53)), "UDP protocol is not supported for 53");
    assert_eq!(shown(&world.service(54)), ["a:54 Ready"], "the TCP port of that number is meant");
    assert!([world.service(81), world.service(53), world.service("web")].iter().all(permanent));
}

#[test]
fn a_named_port_that_the_pods_do_not_have_is_told_with_those_they_have() {
    let mut empty = slice(8080, json!([endpoint("m-b", true)]));
    empty["ports"] = json!([]);
    let ports = json!([{"name": "http", "port": 80, "targetPort": "nosuchname"}]);
    let world = World::new(json!([service(ports), empty, pod("m-b", true)]));
    let resolution = world.service(80);
    assert_eq!(none(&resolution), "Pod 'm-b' does not have a named port 'nosuchname'");
    assert_eq!(hint(&resolution), "it has web (8080); or give a number");
    assert!(permanent(&resolution));
    let mut seen = world.seen();
    seen.slices = Look::Withheld(forbidden());
    let resolution = resolve(&wanted(Of::Service("web".into()), 80.into()), &seen);
    assert_eq!(none(&resolution), "Pod 'm-b' does not have a named port 'nosuchname'");
}

#[test]
fn an_external_name_is_refused_with_the_jump_that_reaches_it() {
    let world = World::new(json!([{"kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "ExternalName", "externalName": "db.example.com"}}]));
    let resolution = world.service(5432);
    assert!(none(&resolution).contains("ExternalName"), "{resolution:?}");
    assert_eq!(hint(&resolution), "reach it from within a pod: jump://a%2Fb/ns/pod/POD/db.example.com:5432");
    assert!(permanent(&resolution));
}

#[test]
fn a_service_without_selector_leads_to_the_pods_its_slices_name() {
    let mut bare = service(http());
    bare["spec"]["selector"] = Value::Null;
    let world = World::new(json!([bare, slice(8080, json!([endpoint("a", true)]))]));
    assert_eq!(shown(&world.service(80)), ["a:8080 Ready"], "pods are not looked up without a selector");

    let mut address = endpoint("a", true);
    address["targetRef"] = Value::Null;
    address["addresses"] = json!(["fd00::5"]);
    let mut ports = http();
    ports[0]["targetPort"] = json!(5432);
    let mut bare = service(ports);
    bare["spec"]["selector"] = Value::Null;
    let world = World::new(json!([bare, slice(8080, json!([address]))]));
    let resolution = world.service(80);
    assert_eq!(none(&resolution), "invalid service 'web': Service is defined without a selector");
    assert_eq!(
        hint(&resolution),
        "it leads to fd00::5; reach that from within a pod: jump://a%2Fb/ns/pod/POD/[fd00::5]:5432"
    );
}

#[test]
fn a_pod_of_another_namespace_is_not_followed() {
    let mut foreign = endpoint("a", true);
    foreign["targetRef"]["namespace"] = json!("kube-system");
    let world = World::new(json!([service(http()), slice(8080, json!([foreign]))]));
    assert_eq!(none(&world.service(80)), "no pod belongs to service web");
}

#[test]
fn a_service_without_pods_or_without_ready_ones_says_so() {
    let world = World::new(json!([service(http())]));
    let resolution = world.service(80);
    assert_eq!(none(&resolution), "no pod belongs to service web");
    assert_eq!(hint(&resolution), "`kubectl get pods -n ns -l 'app=web'` shows when there is one");
    assert!(!permanent(&resolution));

    let slices = slice(8080, json!([endpoint("a", false), endpoint("b", false)]));
    let mut pulling = pod("a", false);
    pulling["status"]["containerStatuses"] =
        json!([{"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "x"}}}]);
    let mut evicted = pod("old", false);
    evicted["status"] = json!({"phase": "Failed", "reason": "Evicted"});
    let world = World::new(json!([service(http()), slices, pulling, pod("b", false), evicted]));
    let resolution = world.service(80);
    assert_eq!(
        none(&resolution),
        "no pod of service web is ready: a: pulling image i (ImagePullBackOff: x); \
         b: container c runs, but its readiness probe has not passed"
    );
    assert_eq!(resolution.detail().unwrap(), "waiting for pod a: pulling image i (ImagePullBackOff: x) (and 1 more)");
    assert!(!permanent(&resolution));
    assert_eq!(resolution.none.as_ref().unwrap().fault(), Fault::Upstream);
}

#[test]
fn what_does_not_exist_is_told_as_the_api_server_tells_it() {
    let world = World::new(json!([]));
    let workload = |kind| Of::Workload(kind, "x".into());
    let table = [
        (Of::Service("x".into()), "services \"x\" not found"),
        (Of::Pod("x".into()), "pods \"x\" not found"),
        (workload(WorkloadKind::Deployment), "deployments.apps \"x\" not found"),
        (workload(WorkloadKind::StatefulSet), "statefulsets.apps \"x\" not found"),
        (workload(WorkloadKind::ReplicaSet), "replicasets.apps \"x\" not found"),
        (workload(WorkloadKind::Job), "jobs.batch \"x\" not found"),
    ];
    for (of, text) in table {
        let resolution = world.resolve(of, 80);
        assert_eq!(none(&resolution), text);
        assert!(permanent(&resolution) && hint(&resolution).contains("kubectl get"));
    }
    assert_eq!(
        none(&world.resolve(Of::Labels("app=x".into()), 80)),
        "no pod belongs to selector app=x; is it mistyped?"
    );
}

#[test]
fn commands_in_hints_lead_kubectl_to_the_same_cluster() {
    let flags = " --context prod --kubeconfig /k".to_owned();
    let wanted = Wanted { flags, ..wanted(Of::Service("x".into()), Port::Number(80)) };
    let hint = wanted.not_found("services", "x").hint().unwrap();
    assert_eq!(hint, "`kubectl get services -n ns --context prod --kubeconfig /k` lists what there is");
}

#[test]
fn a_high_port_that_a_service_does_not_have_may_be_meant_to_be_the_local_one() {
    let world = World::new(json!([service(http())]));
    let hint = |port: u16| hint(&world.resolve(Of::Service("web".into()), port));
    assert_eq!(hint(81), "it has 80 (http)");
    // It holds in adit.yaml and in a host's name, too.
    let elsewhere = "name the service's port, not one of this machine (adit forward takes both: 18086:80)";
    assert_eq!(hint(18086), format!("it has 80 (http); {elsewhere}"));
}

#[test]
fn a_workload_leads_to_its_ready_pods() {
    let deployment = json!({"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}}});
    let world = World::new(json!([deployment, pod("a", false), pod("b", true)]));
    let of = || Of::Workload(WorkloadKind::Deployment, "web".into());
    assert_eq!(shown(&world.resolve(of(), "web")), ["b:8080 Ready", "a:8080 NotReady"]);
    assert_eq!(shown(&world.resolve(of(), 9999)), ["b:9999 Ready", "a:9999 NotReady"]);
    let resolution = world.resolve(of(), "nosuchname");
    assert_eq!(none(&resolution), "Pod 'a' does not have a named port 'nosuchname'");
}

#[test]
fn a_workload_that_starts_no_pods_says_how_to_start_it() {
    let deployment = json!({"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}}});
    let world = World::new(json!([deployment]));
    let resolution = world.resolve(Of::Workload(WorkloadKind::Deployment, "web".into()), 80);
    assert_eq!(none(&resolution), "deployment web runs no pods: it is scaled to zero");
    assert_eq!(hint(&resolution), "start it: `kubectl scale deployment web -n ns --replicas=1`");
    assert!(!permanent(&resolution));
    let job = json!({"kind": "Job", "metadata": {"name": "web"}, "spec": {"suspend": true, "selector": {"matchLabels": {"job-name": "web"}}}});
    let resolution = World::new(json!([job])).resolve(Of::Workload(WorkloadKind::Job, "web".into()), 80);
    assert_eq!(none(&resolution), "job web runs no pods: it is suspended");
}

#[test]
fn a_job_whose_pods_have_completed_says_so() {
    let job =
        json!({"kind": "Job", "metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"job-name": "web"}}}});
    let mut done = pod("web-1", false);
    done["status"] = json!({"phase": "Succeeded"});
    let resolution = World::new(json!([job, done])).resolve(Of::Workload(WorkloadKind::Job, "web".into()), 80);
    assert_eq!(none(&resolution), "no pod of job web is ready: web-1: completed");
}

#[test]
fn a_pod_asked_for_by_name_must_run() {
    let of = || Of::Pod("a".into());
    assert_eq!(shown(&World::new(json!([pod("a", false)])).resolve(of(), "web")), ["a:8080 Ready"]);
    let mut pending = pod("a", false);
    pending["status"] =
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}]});
    let resolution = World::new(json!([pending])).resolve(of(), 80);
    assert_eq!(none(&resolution), "unable to forward port because pod is not running. Current status=Pending");
    assert_eq!(resolution.detail().unwrap(), "waiting for pod a: not scheduled: no node");
    assert!(!permanent(&resolution) && hint(&resolution).starts_with("a: not scheduled: no node"));
    let mut evicted = pod("a", false);
    evicted["status"] = json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"});
    assert!(permanent(&World::new(json!([evicted])).resolve(of(), 80)));
}

#[test]
fn a_udp_port_of_a_pod_is_refused_unless_tcp_has_the_same_number() {
    let mut dns = pod("a", true);
    dns["spec"]["containers"][0]["ports"] =
        json!([{"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}]);
    let world = World::new(json!([dns.clone()]));
    assert_eq!(none(&world.resolve(Of::Pod("a".into()), 53)), "UDP protocol is not supported for 53");
    assert_eq!(none(&world.resolve(Of::Pod("a".into()), "dns")), "UDP protocol is not supported for dns");
    assert_eq!(shown(&world.resolve(Of::Pod("a".into()), 80)), ["a:80 Ready"]);
    dns["spec"]["containers"][0]["ports"].as_array_mut().unwrap().push(json!({"containerPort": 53, "protocol": "TCP"}));
    assert_eq!(shown(&World::new(json!([dns])).resolve(Of::Pod("a".into()), 53)), ["a:53 Ready"]);
}

#[test]
fn before_the_first_answer_nothing_is_said_to_be_wrong() {
    let target = wanted(Of::Service("web".into()), 80.into());
    let resolution = resolve(&target, &Seen::NOTHING);
    assert_eq!(none(&resolution), "service web has not been looked up yet");
    assert!(!permanent(&resolution) && resolution.none.as_ref().unwrap().hint().is_none());
    let error = ApiError::Timeout { server: "s".into(), after: std::time::Duration::from_secs(1) };
    let seen = Seen { service: Look::Pending(Some(error)), ..Seen::NOTHING };
    let resolution = resolve(&target, &seen);
    assert_eq!(none(&resolution), "service web could not be looked up");
    assert!(!permanent(&resolution), "the API server may come back");
}

#[test]
fn resolutions_are_the_same_when_nothing_that_matters_differs() {
    let of = |pods: Value| World::new(pods).resolve(Of::Labels("a=b".into()), 80);
    assert!(of(json!([pod("a", true)])).is_same(&of(json!([pod("a", true)]))));
    assert!(!of(json!([pod("a", true)])).is_same(&of(json!([pod("a", false)]))));
    assert!(!of(json!([])).is_same(&of(json!([pod("a", false)]))));
}
