//! The whole of the resolution against the fake cluster.

use std::time::Duration;

use super::*;
use crate::k8s::api::Api;
use crate::k8s::kubeconfig::{KubeSettings, Kubeconfigs};
use adit_core::target::KubeTarget;
use runtime::scope::Scope;
use testkit::cluster::{Cluster, ClusterOptions, PodSpec, ServicePort};

/// What every wait here is given; nothing should need a tenth of it.
const DEADLINE: Duration = Duration::from_secs(20);

const APP: &[(&str, &str)] = &[("app", "web")];

/// A cluster, and someone who resolves targets in it.
struct Bench {
    cluster: Cluster,
    api: Api,
    scope: Scope,
}

impl Bench {
    async fn start() -> Self {
        let cluster = Cluster::start(ClusterOptions::default()).await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        cluster.write_kubeconfig(&path);
        let settings = KubeSettings { kubeconfig: Some(path.to_str().unwrap().to_owned()), ..KubeSettings::default() };
        let kubeconfigs = Kubeconfigs::load(&settings).unwrap();
        let api = Api::new(&kubeconfigs, &settings, None).await.unwrap();
        Self { cluster, api, scope: Scope::root() }
    }

    /// With the service `web`: port 80 leads to the pods' port `http`, 8080.
    async fn with_service(pods: &[&str]) -> Self {
        let bench = Self::start().await;
        bench.cluster.add_service("default", "web", APP, &[ServicePort::new(80).named("www").to_named("http")]);
        for pod in pods {
            bench.cluster.add_pod(web(pod));
        }
        bench
    }

    fn resolver(&self, target: &str) -> Resolver {
        let target = KubeTarget::parse(&format!("k8s:////{target}")).unwrap();
        Resolver::start_wanted(&self.scope, self.api.clone(), Wanted::of(&target, &self.api.default_namespace()))
    }

    /// Ends everything, and shows that nothing is left.
    async fn end(self) {
        self.scope.drain();
        tokio::time::timeout(DEADLINE, self.scope.idle()).await.expect("all tasks end when the scope drains");
        assert_eq!(self.scope.panics(), 0);
        self.cluster.shutdown().await;
    }
}

fn web(name: &str) -> PodSpec {
    PodSpec::new("default", name).label("app", "web").port("http", 8080)
}

fn shown(resolution: &Resolution) -> Vec<String> {
    let show = |c: &Candidate| format!("{}:{} {:?}", c.pod.name, c.port, c.state);
    resolution.candidates.iter().map(show).collect()
}

async fn until(resolver: &Resolver, holds: impl Fn(&Resolution) -> bool) -> std::sync::Arc<Resolution> {
    let mut resolution = resolver.resolution();
    let waited = tokio::time::timeout(DEADLINE, resolution.wait_for(|resolution| holds(resolution))).await;
    let found = waited.ok().map(|found| found.expect("the resolver lives").clone());
    found.unwrap_or_else(|| panic!("not within {DEADLINE:?}; now it is {:?}", resolver.now()))
}

async fn until_shown(resolver: &Resolver, candidates: &[&str]) {
    until(resolver, |resolution| shown(resolution) == candidates).await;
}

async fn until_none(resolver: &Resolver, text: &str) -> NoTarget {
    let says = |resolution: &Resolution| resolution.none.as_ref().is_some_and(|none| none.to_string().contains(text));
    until(resolver, says).await.none.clone().unwrap()
}

async fn until_detail(resolver: &Resolver, text: &str) {
    until(resolver, |resolution| resolution.detail().is_some_and(|detail| detail.contains(text))).await;
}

#[tokio::test]
async fn a_service_leads_to_its_pods_as_they_come_and_go() {
    let bench = Bench::with_service(&["a"]).await;
    let resolver = bench.resolver("service/web:80");
    until_shown(&resolver, &["a:8080 Ready"]).await;
    bench.cluster.add_pod(web("b"));
    until_shown(&resolver, &["a:8080 Ready", "b:8080 Ready"]).await;
    bench.cluster.terminate("default", "a");
    until_shown(&resolver, &["b:8080 Ready", "a:8080 Serving"]).await;
    bench.cluster.delete("Pod", "default", "a");
    until_shown(&resolver, &["b:8080 Ready"]).await;
    bench.cluster.set_ready("default", "b", false);
    until_none(&resolver, "no pod of service web is ready: b: ").await;
    bench.cluster.set_ready("default", "b", true);
    until_shown(&resolver, &["b:8080 Ready"]).await;
    bench.end().await;
}

#[tokio::test]
async fn a_pod_that_was_replaced_under_its_name_is_another_one() {
    let bench = Bench::with_service(&["a"]).await;
    let resolver = bench.resolver("pod/a:8080");
    let first = until(&resolver, Resolution::is_usable).await.candidates[0].pod.clone();
    bench.cluster.delete("Pod", "default", "a");
    assert!(until_none(&resolver, "pods \"a\" not found").await.is_permanent());
    bench.cluster.add_pod(web("a"));
    let second = until(&resolver, Resolution::is_usable).await.candidates[0].pod.clone();
    assert_ne!(first.uid, second.uid);
    bench.end().await;
}

#[tokio::test]
async fn workloads_and_selectors_lead_to_their_pods() {
    let bench = Bench::with_service(&["a", "b"]).await;
    bench.cluster.add_deployment("default", "web", APP);
    bench.cluster.add_statefulset("default", "web", APP);
    bench.cluster.add_replicaset("default", "web", APP);
    bench.cluster.add_job("default", "web", APP);
    for target in
        ["deployment/web:http", "statefulset/web:8080", "replicaset/web:http", "job/web:http", "selector/app=web:http"]
    {
        let resolver = bench.resolver(target);
        until_shown(&resolver, &["a:8080 Ready", "b:8080 Ready"]).await;
    }
    bench.end().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told_at_once() {
    let bench = Bench::with_service(&["a"]).await;
    bench.cluster.add_external_name("default", "db", "db.example.com");
    for (target, text) in [
        ("service/nosuch:80", "services \"nosuch\" not found"),
        ("service/web:81", "Service web does not have a service port 81"),
        ("service/db:80", "ExternalName"),
        ("pod/nosuch:80", "pods \"nosuch\" not found"),
        ("pod/a:nosuchname", "Pod 'a' does not have a named port 'nosuchname'"),
        ("deployment/nosuch:80", "deployments.apps \"nosuch\" not found"),
    ] {
        let resolver = bench.resolver(target);
        assert!(until_none(&resolver, text).await.is_permanent(), "{target}");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_service_whose_selector_changes_leads_to_other_pods() {
    let bench = Bench::with_service(&["a"]).await;
    bench.cluster.add_pod(PodSpec::new("default", "green").label("app", "green").port("http", 9090));
    let resolver = bench.resolver("service/web:www");
    until_shown(&resolver, &["a:8080 Ready"]).await;
    let ports = [ServicePort::new(80).named("www").to_named("http")];
    bench.cluster.add_service("default", "web", &[("app", "green")], &ports);
    until_shown(&resolver, &["green:9090 Ready"]).await;
    bench.cluster.set_ready("default", "green", false);
    until_none(&resolver, "green").await;
    bench.end().await;
}

#[tokio::test]
async fn who_waits_reads_what_for_with_the_last_log_line_of_a_crash() {
    let bench = Bench::with_service(&["a"]).await;
    bench.cluster.set_unschedulable("default", "a", "0/1 nodes are available");
    let resolver = bench.resolver("service/web:80");
    until_detail(&resolver, "waiting for pod a: not scheduled: 0/1 nodes are available").await;
    bench.cluster.set_running("default", "a", false);
    bench.cluster.set_waiting("default", "a", "ImagePullBackOff", "Back-off pulling image");
    until_detail(&resolver, "(ImagePullBackOff: Back-off pulling image)").await;
    bench.cluster.set_previous_log("default", "a", "main", "starting\npanic: no database\n");
    bench.cluster.set_waiting("default", "a", "CrashLoopBackOff", "back-off 40s restarting");
    until_detail(&resolver, "panic: no database").await;
    bench.cluster.set_running("default", "a", true);
    until(&resolver, Resolution::is_usable).await;
    assert_eq!(resolver.detail(), None);
    bench.end().await;
}

#[tokio::test]
async fn an_api_server_that_goes_takes_nothing_down_and_is_found_again() {
    let bench = Bench::with_service(&["a"]).await;
    let resolver = bench.resolver("service/web:80");
    until_shown(&resolver, &["a:8080 Ready"]).await;
    bench.cluster.faults().stop().await;
    let troubled = until(&resolver, |resolution| resolution.trouble.is_some()).await;
    assert_eq!(shown(&troubled), ["a:8080 Ready"], "what was known stays");
    bench.cluster.faults().restart();
    bench.cluster.add_pod(web("b"));
    resolver.wake();
    until_shown(&resolver, &["a:8080 Ready", "b:8080 Ready"]).await;
    until(&resolver, |resolution| resolution.trouble.is_none()).await;
    bench.end().await;
}

#[tokio::test]
async fn watches_that_end_or_are_too_old_go_on() {
    let bench = Bench::with_service(&["a"]).await;
    let resolver = bench.resolver("service/web:80");
    until_shown(&resolver, &["a:8080 Ready"]).await;
    bench.cluster.faults().watch_gone();
    bench.cluster.add_pod(web("b"));
    until_shown(&resolver, &["a:8080 Ready", "b:8080 Ready"]).await;
    bench.cluster.faults().drop_watches();
    bench.cluster.delete("Pod", "default", "a");
    until_shown(&resolver, &["b:8080 Ready"]).await;
    bench.end().await;
}

#[tokio::test]
async fn slices_that_may_not_be_read_are_not_needed() {
    let bench = Bench::with_service(&["a"]).await;
    bench.cluster.faults().deny("*", "endpointslices");
    let resolver = bench.resolver("service/web:80");
    until_shown(&resolver, &["a:8080 Ready"]).await;
    bench.cluster.add_pod(web("b"));
    until_shown(&resolver, &["a:8080 Ready", "b:8080 Ready"]).await;
    bench.end().await;
}

#[tokio::test]
async fn pods_that_may_not_be_read_are_not_needed_where_slices_may() {
    let bench = Bench::with_service(&["a"]).await;
    bench.cluster.faults().deny("*", "pods");
    let resolver = bench.resolver("service/web:80");
    until_shown(&resolver, &["a:8080 Ready"]).await;
    bench.cluster.add_pod(web("b"));
    until_shown(&resolver, &["a:8080 Ready", "b:8080 Ready"]).await;
    bench.end().await;
}

#[tokio::test]
async fn the_right_to_get_a_pod_is_enough_to_follow_it() {
    let bench = Bench::with_service(&["a"]).await;
    bench.cluster.faults().deny("list", "pods");
    bench.cluster.faults().deny("watch", "pods");
    let resolver = bench.resolver("pod/a:8080");
    until_shown(&resolver, &["a:8080 Ready"]).await;
    bench.cluster.delete("Pod", "default", "a");
    until_none(&resolver, "pods \"a\" not found").await;
    bench.end().await;
}

#[tokio::test]
async fn without_any_right_the_api_servers_refusal_is_the_reason() {
    let bench = Bench::with_service(&["a"]).await;
    bench.cluster.faults().deny("*", "*");
    let resolver = bench.resolver("service/web:80");
    let none = until_none(&resolver, "service web could not be looked up").await;
    assert!(none.is_permanent() && none.detail().contains("forbidden"), "{}", none.detail());
    bench.end().await;
}

#[tokio::test]
async fn a_machine_that_slept_does_not_wait_for_a_dead_connection() {
    let bench = Bench::with_service(&["a"]).await;
    let resolver = bench.resolver("pod/a:8080");
    until_shown(&resolver, &["a:8080 Ready"]).await;
    bench.cluster.faults().cut_connections();
    bench.cluster.delete("Pod", "default", "a");
    resolver.wake();
    until_none(&resolver, "not found").await;
    bench.end().await;
}

#[tokio::test]
async fn a_resolver_that_nobody_holds_ends_its_tasks() {
    let bench = Bench::with_service(&["a"]).await;
    let resolver = bench.resolver("service/web:80");
    until(&resolver, Resolution::is_usable).await;
    drop(resolver);
    tokio::time::timeout(DEADLINE, bench.scope.idle()).await.expect("no task is left");
    bench.end().await;
}

#[tokio::test]
async fn only_real_changes_are_published() {
    let bench = Bench::with_service(&["a"]).await;
    let resolver = bench.resolver("pod/a:8080");
    until_shown(&resolver, &["a:8080 Ready"]).await;
    let mut resolution = resolver.resolution();
    resolution.mark_unchanged();
    bench.cluster.patch("Pod", "default", "a", serde_json::json!({"metadata": {"annotations": {"x": "y"}}}));
    bench.cluster.set_phase("default", "a", "Failed", "Evicted", "low on memory");
    tokio::time::timeout(DEADLINE, resolution.changed()).await.unwrap().unwrap();
    assert!(until_none(&resolver, "Current status=Failed").await.is_permanent());
    bench.end().await;
}
