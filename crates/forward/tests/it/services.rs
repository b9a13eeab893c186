//! Services, workloads and their ports, as they are and as they should not be.

use std::time::Duration;

use adit_core::diagnose::Fault;
use forward::WantedServices;
use serde_json::json;
use testkit::cluster::{PodSpec, ServicePort};
use testkit::origin::TcpOrigin;

use crate::support::{Bed, call, moved, patience, ready, refusal, waiting};

#[tokio::test]
async fn a_service_without_endpoints_waits_and_says_for_what() {
    let bed = Bed::new().await;
    bed.service();
    let forward = bed.forward("service/web:80");
    waiting(&forward, "no pod belongs to service web").await;
    bed.pod("web-1");
    ready(&forward).await;
    call(&forward).await;
    let none = bed.forward_with("service/web:80", patience(Duration::from_millis(300)));
    ready(&none).await;
}

#[tokio::test]
async fn waiting_in_vain_ends_with_what_was_waited_for() {
    let bed = Bed::new().await;
    bed.service();
    let forward = bed.forward_with("service/web:80", patience(Duration::from_millis(300)));
    refusal(&forward)
        .await
        .has(&["not ready within 300ms", "no pod belongs to service web"], &["--pod-running-timeout"]);
}

#[tokio::test]
async fn objects_that_do_not_exist_are_named_at_once() {
    let bed = Bed::web().await;
    for (target, resource) in [
        ("service/wep:80", "services \"wep\" not found"),
        ("pod/wep:80", "pods \"wep\" not found"),
        ("deployment/wep:80", "deployments.apps \"wep\" not found"),
        ("statefulset/wep:80", "statefulsets.apps \"wep\" not found"),
        ("replicaset/wep:80", "replicasets.apps \"wep\" not found"),
        ("job/wep:80", "jobs.batch \"wep\" not found"),
    ] {
        refusal(&bed.forward(target)).await.has(&[resource], &["kubectl get"]);
    }
}

#[tokio::test]
async fn a_port_that_the_service_does_not_have_is_told_with_those_it_has() {
    let bed = Bed::web().await;
    let said = refusal(&bed.forward("service/web:81")).await;
    said.has(&["Service web does not have a service port 81"], &["http", "80"]);
    assert_eq!(said.fault, Fault::Usage);
    refusal(&bed.forward("service/web:nosuch")).await.has(&["does not have a named port 'nosuch'"], &["http"]);
    let udp = [ServicePort::new(53).named("dns").udp()];
    bed.cluster.add_service("default", "dns", &[("app", "web")], &udp);
    refusal(&bed.forward("service/dns:53")).await.has(&["UDP protocol is not supported for 53"], &["TCP"]);
}

#[tokio::test]
async fn a_named_port_that_the_pod_does_not_have_is_told_with_those_it_has() {
    let bed = Bed::web().await;
    refusal(&bed.forward("pod/web-1:nosuch")).await.has(&["'web-1'", "named port 'nosuch'"], &["http (8080)"]);
    let port = ServicePort::new(80).to_named("nosuch");
    bed.cluster.add_service("default", "odd", &[("app", "web")], &[port]);
    let odd = bed.forward_with("service/odd:80", patience(Duration::from_secs(2)));
    refusal(&odd).await.has(&["nosuch"], &[]);
}

#[tokio::test]
async fn a_service_that_is_mended_while_it_is_waited_for_is_found() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    bed.cluster.patch("Service", "default", "web", json!({ "spec": { "selector": { "app": "other" } } }));
    waiting(&forward, "no pod").await;
    bed.cluster.add_pod(
        PodSpec::new("default", "other-1").label("app", "other").port("http", 8080).backend(8080, bed.origin.addr()),
    );
    moved(&forward, "other-1").await;
    call(&forward).await;
}

#[tokio::test]
async fn ports_are_translated_by_number_by_name_and_in_each_pod_anew() {
    let bed = Bed::new().await;
    let other = TcpOrigin::start().await.unwrap();
    let spec = |name: &str, port: u16| {
        PodSpec::new("default", name).label("app", "web").port("http", port).port("admin", 9000)
    };
    bed.cluster.add_pod(spec("web-1", 8080).backend(8080, bed.origin.addr()).backend(9000, other.addr()));
    let ports = [
        ServicePort::new(80).named("http").to_named("http"),
        ServicePort::new(90).named("admin").to(9000),
        ServicePort::new(8080).named("same"),
    ];
    bed.cluster.add_service("default", "web", &[("app", "web")], &ports);
    for (target, port) in [
        ("service/web:80", 8080),
        ("service/web:http", 8080),
        ("service/web:90", 9000),
        ("service/web:admin", 9000),
        ("service/web:8080", 8080),
        ("pod/web-1:http", 8080),
        ("pod/web-1:9000", 9000),
    ] {
        let forward = bed.forward(target);
        assert_eq!(ready(&forward).await.remote_port, Some(port), "{target}");
        call(&forward).await;
    }
    assert_eq!(other.connections(), 3);
    // The next pod numbers its port otherwise.
    let forward = bed.ready().await;
    bed.cluster.add_pod(spec("web-2", 8081).backend(8081, bed.origin.addr()));
    bed.cluster.terminate("default", "web-1");
    moved(&forward, "web-2").await;
    call(&forward).await;
    assert_eq!(forward.report().remote_port, Some(8081));
}

#[tokio::test]
async fn a_headless_service_is_a_service_whose_ports_are_translated_too() {
    let bed = Bed::new().await;
    bed.pod("web-1");
    bed.cluster.add_headless("default", "web", &[("app", "web")], &[ServicePort::new(80).to_named("http")]);
    call(&bed.ready().await).await;
}

#[tokio::test]
async fn a_service_without_a_selector_leads_to_the_pods_of_its_endpoints() {
    let bed = Bed::new().await;
    bed.pod("web-1");
    bed.cluster.add_selectorless("default", "web", &[ServicePort::new(80).named("http")]);
    bed.cluster.add_endpoints("default", "web", ("http", 8080), &[("10.0.0.9", None), ("10.0.0.8", Some("web-1"))]);
    call(&bed.ready().await).await;
}

#[tokio::test]
async fn endpoints_without_a_pod_are_told_with_the_jump_that_reaches_them() {
    let bed = Bed::new().await;
    bed.cluster.add_selectorless("default", "web", &[ServicePort::new(80).named("http")]);
    bed.cluster.add_endpoints("default", "web", ("http", 5432), &[("10.0.0.9", None)]);
    let said = refusal(&bed.forward("service/web:80")).await;
    said.has(&["without a selector"], &["10.0.0.9", "jump://", "default"]);
}

#[tokio::test]
async fn another_name_of_a_host_is_refused_with_the_jump_form() {
    let bed = Bed::new().await;
    bed.cluster.add_external_name("default", "db", "db.example.com");
    let said = refusal(&bed.forward("service/db:5432")).await;
    said.has(&["ExternalName", "db.example.com"], &["jump://", "db.example.com:5432"]);
    assert_eq!(said.fault, Fault::Usage);
}

#[tokio::test]
async fn workloads_and_selectors_lead_to_their_pods() {
    let bed = Bed::new().await;
    bed.pod("web-1");
    let labels = [("app", "web")];
    bed.cluster.add_deployment("default", "web", &labels);
    bed.cluster.add_statefulset("default", "web", &labels);
    bed.cluster.add_replicaset("default", "web", &labels);
    bed.cluster.add_job("default", "web", &labels);
    for target in
        ["deployment/web:8080", "statefulset/web:http", "replicaset/web:8080", "job/web:8080", "selector/app=web:8080"]
    {
        let forward = bed.forward(target);
        assert_eq!(ready(&forward).await.pod.as_deref(), Some("web-1"), "{target}");
        call(&forward).await;
    }
}

#[tokio::test]
async fn a_workload_that_is_scaled_to_nothing_says_how_to_start_it() {
    let bed = Bed::new().await;
    bed.cluster.add_deployment("default", "web", &[("app", "web")]);
    bed.cluster.patch("Deployment", "default", "web", json!({ "spec": { "replicas": 0 } }));
    let forward = bed.forward("deployment/web:8080");
    waiting(&forward, "scaled to zero").await;
    bed.cluster.patch("Deployment", "default", "web", json!({ "spec": { "replicas": 1 } }));
    bed.pod("web-1");
    ready(&forward).await;
    call(&forward).await;
}

#[tokio::test]
async fn a_deployment_that_is_deleted_and_made_again_is_found_again() {
    let bed = Bed::new().await;
    let labels = [("app", "web")];
    bed.pod("web-1");
    bed.cluster.add_deployment("default", "web", &labels);
    let forward = bed.forward("deployment/web:8080");
    ready(&forward).await;
    bed.cluster.delete("Deployment", "default", "web");
    bed.cluster.delete("Pod", "default", "web-1");
    waiting(&forward, "not found").await;
    bed.cluster.add_deployment("default", "web", &labels);
    bed.pod("web-2");
    moved(&forward, "web-2").await;
    call(&forward).await;
}

#[tokio::test]
async fn objects_with_missing_or_absurd_parts_do_not_end_a_forward() {
    let bed = Bed::web().await;
    let forward = bed.ready().await;
    let slice = |name: &str, endpoints: serde_json::Value, ports: serde_json::Value| {
        json!({
            "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
            "endpoints": endpoints, "ports": ports,
        })
    };
    bed.cluster.apply(slice("web-null", json!(null), json!(null)));
    bed.cluster.apply(slice("web-empty", json!([{}]), json!([{}])));
    let nowhere = json!([{ "addresses": [], "targetRef": { "kind": "Pod", "name": "" } }, { "targetRef": { "kind": "Node", "name": "n" } }]);
    bed.cluster.apply(slice("web-odd", nowhere, json!([{ "name": "http", "port": 8080 }])));
    bed.pod("web-2");
    bed.cluster.delete("Pod", "default", "web-1");
    moved(&forward, "web-2").await;
    for _ in 0..4 {
        call(&forward).await;
    }
}

#[tokio::test]
async fn a_name_that_is_nearly_right_is_proposed() {
    let bed = Bed::web().await;
    refusal(&bed.forward("service/wbe:80")).await.has(&["services \"wbe\" not found"], &["did you mean `web`?"]);
    refusal(&bed.forward("pod/web-9:80")).await.has(&["pods \"web-9\" not found"], &["did you mean `web-1`?"]);
    let none = refusal(&bed.forward("service/postgres:80")).await;
    assert!(!none.hint.contains("did you mean"), "{:?}", none.hint);
}

#[tokio::test]
async fn where_names_may_not_be_listed_the_error_is_the_plain_one() {
    let bed = Bed::web().await;
    bed.cluster.faults().deny("list", "services");
    bed.cluster.faults().deny("watch", "services");
    let said = refusal(&bed.forward("service/wbe:80")).await;
    said.has(&["services \"wbe\" not found"], &["kubectl get services -n default"]);
    assert!(!said.hint.contains("did you mean"), "{:?}", said.hint);
}

#[tokio::test]
async fn labels_that_no_pod_has_are_compared_with_those_there_are() {
    let bed = Bed::web().await;
    let forward = bed.forward("selector/app=wbe:80");
    waiting(&forward, "no pod belongs to selector app=wbe; did you mean `app=web`?").await;
    waiting(&bed.forward("selector/colour=blue:80"), "no pod belongs to selector colour=blue; is it mistyped?").await;
}

#[tokio::test]
async fn labels_that_led_to_a_pod_once_are_not_doubted_any_more() {
    let bed = Bed::web().await;
    let forward = bed.forward("selector/app=web:8080");
    ready(&forward).await;
    bed.cluster.delete("Pod", "default", "web-1");
    waiting(&forward, "no pod belongs to selector app=web").await;
    let said = forward.report().waiting_for.unwrap_or_default();
    assert!(!said.contains("mistyped"), "{said}");
}

#[tokio::test]
async fn a_port_that_no_container_declares_is_ready_with_those_that_are() {
    let bed = Bed::web().await;
    for (target, declared) in
        [("pod/web-1:80", &["8080 (http)"][..]), ("selector/app=web:80", &["8080 (http)"]), ("pod/web-1:8080", &[])]
    {
        assert_eq!(ready(&bed.forward(target)).await.declared, declared, "{target}");
    }
}

/// The list, however slow this machine is: who asks waits for five seconds only.
async fn listed(bed: &Bed, wanted: WantedServices<'_>) -> forward::ServiceList {
    for _ in 0..5 {
        match bed.clusters.services("fake", wanted).await {
            Ok(list) => return list,
            Err(error) => assert!(adit_core::diagnose::chain(&error).contains("within"), "{error}"),
        }
    }
    panic!("five times too slow");
}

#[tokio::test]
async fn a_list_of_services_is_filtered_before_it_is_cut() {
    let bed = Bed::new().await;
    // More than are told at once, and no more than that: a busy machine has to read them all in time.
    for number in 0..510 {
        bed.cluster.add_service("crowd", &format!("s{number}"), &[], &[ServicePort::new(80)]);
    }
    bed.cluster.add_service("team-z", "web", &[], &[ServicePort::new(80)]);
    let wants = |namespace: &str| namespace.starts_with("team-");
    let wanted = WantedServices { named: &[], named_only: false, wants: &wants };
    let found = listed(&bed, wanted).await;
    assert_eq!((found.services.len(), &*found.services[0].namespace, found.more), (1, "team-z", false));
    let all = listed(&bed, WantedServices::ALL).await;
    assert_eq!((all.services.len(), all.more), (500, true));
    // A name alone is asked for alone.
    let before = bed.cluster.requests().len();
    let only = |namespace: &str| namespace == "team-z";
    let wanted = WantedServices { named: &["team-z"], named_only: true, wants: &only };
    let found = bed.clusters.services("fake", wanted).await.unwrap();
    assert_eq!((found.services.len(), found.only), (1, None));
    assert_eq!(bed.cluster.requests().len(), before + 1);
}
