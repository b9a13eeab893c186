#![expect(clippy::needless_pass_by_value, reason = "`json!` builds each value for one call")]

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn pod(spec: Value, status: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web-1", "uid": "u"}, "spec": spec, "status": status})).unwrap()
}

fn says(spec: Value, status: Value) -> String {
    PodTrouble::of(&pod(spec, status)).to_string()
}

fn one_container(state: Value) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{"name": "web", "image": "docker.io/nginx:9", "restartCount": 0, "state": state}]})
}

fn spec() -> Value {
    json!({"containers": [{"name": "web", "image": "nginx:9"}]})
}

#[test]
fn a_pod_without_a_node_repeats_the_schedulers_reason() {
    let status = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    ]});
    assert_eq!(says(spec(), status), "web-1: not scheduled: 0/1 nodes are available: 1 Insufficient cpu.");
}

#[test]
fn an_image_that_cannot_be_had_is_named_as_it_was_asked_for() {
    let status = one_container(json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}));
    assert_eq!(says(spec(), status), "web-1: pulling image nginx:9 (ImagePullBackOff: Back-off pulling image)");
    let status = one_container(json!({"waiting": {"reason": "ErrImagePull"}}));
    assert_eq!(says(json!({}), status), "web-1: pulling image docker.io/nginx:9 (ErrImagePull)");
}

#[test]
fn a_crash_loop_tells_exit_code_restarts_and_the_last_words() {
    let mut status = json!({"phase": "Running", "containerStatuses": [{
        "name": "web", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no config\n"}}
    }]});
    assert_eq!(
        says(spec(), status.clone()),
        "web-1: container web ended with exit code 1 (CrashLoopBackOff), restarted 3 times: no config"
    );
    status["containerStatuses"][0]["lastState"]["terminated"]["message"] = Value::Null;
    let mut trouble = PodTrouble::of(&pod(spec(), status));
    let PodWhy::Crash(crash) = &mut trouble.why else { panic!("{trouble}") };
    crash.log = Some("panic: no database".into());
    assert!(trouble.to_string().ends_with("restarted 3 times: panic: no database"), "{trouble}");
}

#[test]
fn between_two_starts_the_end_itself_is_the_reason() {
    let status = one_container(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
    assert_eq!(says(spec(), status), "web-1: container web ended with exit code 137 (OOMKilled)");
}

#[test]
fn other_states_have_their_words() {
    let gates = json!({"phase": "Running", "containerStatuses": [{"name": "web", "ready": true, "state": {"running": {}}}],
        "conditions": [{"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady", "message": "gate x"}]});
    let init = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "first", "state": {"terminated": {"exitCode": 0}}}, {"name": "migrate", "state": {"running": {}}}
    ], "containerStatuses": [{"name": "web", "state": {"waiting": {"reason": "PodInitializing"}}}]});
    let init_crash = json!({"phase": "Pending", "initContainerStatuses": [{"name": "migrate", "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 4}}}]});
    let table = [
        (json!({"phase": "Pending"}), "starting (Pending)"),
        (one_container(json!({"waiting": {"reason": "ContainerCreating"}})), "starting (ContainerCreating)"),
        (
            one_container(
                json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"x\" not found"}}),
            ),
            "container web cannot start (CreateContainerConfigError: secret \"x\" not found)",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "web", "state": {"running": {}}}]}),
            "container web runs, but its readiness probe has not passed",
        ),
        (gates, "not ready (ReadinessGatesNotReady: gate x)"),
        (init, "waiting for its init container migrate"),
        (init_crash, "container migrate ended with exit code 4 (CrashLoopBackOff), restarted 2 times"),
        (
            json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
            "evicted: The node was low on resource: memory.",
        ),
        (json!({"phase": "Succeeded"}), "completed"),
        (json!({"phase": "Failed", "reason": "NodeLost"}), "failed (NodeLost)"),
        (
            json!({"phase": "Failed", "containerStatuses": [{"name": "web", "state": {"terminated": {"exitCode": 2}}}]}),
            "container web ended with exit code 2",
        ),
    ];
    for (status, words) in table {
        assert_eq!(says(spec(), status), format!("web-1: {words}"));
    }
}

#[test]
fn a_sidecar_is_judged_like_a_container() {
    let spec = json!({"initContainers": [{"name": "mesh", "restartPolicy": "Always"}]});
    let status = json!({"phase": "Running", "initContainerStatuses": [{"name": "mesh", "ready": false, "state": {"running": {}}}],
        "containerStatuses": [{"name": "web", "ready": false, "state": {"running": {}}}]});
    assert_eq!(says(spec, status), "web-1: container web runs, but its readiness probe has not passed");
}

#[test]
fn a_terminating_pod_serves_as_long_as_it_is_ready() {
    let mut pod = pod(spec(), json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
    assert_eq!((state(&pod), state_by_name(&pod)), (PodState::Ready, PodState::Ready));
    pod.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
    assert_eq!((state(&pod), state_by_name(&pod)), (PodState::Serving, PodState::Serving));
    assert_eq!(PodTrouble::of(&pod).to_string(), "web-1: terminating");
    pod.status.conditions.clear();
    assert_eq!(state(&pod), PodState::NotReady);
}

#[test]
fn a_pod_asked_for_by_name_need_not_be_ready_but_must_run() {
    let running = json!({"phase": "Running", "containerStatuses": [{"name": "web", "state": {"running": {}}}]});
    assert_eq!(state(&pod(spec(), running.clone())), PodState::NotReady);
    assert_eq!(state_by_name(&pod(spec(), running)), PodState::Ready);
    let crashed = json!({"phase": "Running", "containerStatuses": [{"name": "web", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    assert_eq!(state_by_name(&pod(spec(), crashed)), PodState::NotReady);
    assert_eq!(state_by_name(&pod(spec(), json!({"phase": "Pending"}))), PodState::NotReady);
}

#[test]
fn texts_of_the_cluster_cannot_write_on_the_terminal() {
    assert_eq!(plain("a\u{1b}[31mred\r\nb\u{202e}\tc "), "a [31mred b c");
    assert_eq!(plain(&"x".repeat(1000)).chars().count(), LONGEST + 1);
}

proptest! {
    #[test]
    fn plain_text_is_one_short_line(text in any::<String>()) {
        let line = plain(&text);
        prop_assert!(line.chars().count() <= LONGEST + 1);
        prop_assert!(!line.chars().any(char::is_control));
        prop_assert_eq!(plain(&line).len(), line.len());
    }
}
