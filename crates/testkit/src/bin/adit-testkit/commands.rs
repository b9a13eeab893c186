//! What can be typed while the cluster runs.

use std::time::Duration;

use testkit::cluster::Cluster;

use crate::sample;

/// What a typed line came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Say(String),
    Quit,
}

pub(crate) const HELP: &str = "pods                          the pods and their state
add NAME                      another pod of web
delete KIND NAME              remove an object at once (kinds: pod, svc, deploy, …)
ready NAME | unready NAME     a pod's readiness
terminate NAME                mark a pod as terminating; `delete pod` removes it
waiting NAME REASON           ImagePullBackOff, CrashLoopBackOff, …
run NAME                      make a pod run that does not
restart NAME                  restart a pod's containers: its open streams end
host NAME HOST:PORT ADDRESS   what a jump through the pod finds there
refuse NAME PORT              nothing listens on the pod's port any more
stop | vanish | start         the API server: gone with resets, gone in silence, back
cut | silence | resume        all client connections: reset, silent, as before
drop | gone                   all watches end, or end with 410
deny VERB RESOURCE | allow    403 as RBAC says it: deny create pods/portforward
expire | rotate               401 to all credentials, a new token
status CODE | delay MS        answers of all requests
clear                         take status, delay, deny and expire back
requests                      the latest requests
quit                          the end (Ctrl-C too)
A pod may be written NAMESPACE/NAME.";

/// Does what a line says.
pub(crate) async fn act(cluster: &Cluster, line: &str) -> Outcome {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words == ["quit"] || words == ["exit"] {
        return Outcome::Quit;
    }
    let text = match words.as_slice() {
        [] => String::new(),
        ["help" | "?"] => HELP.to_owned(),
        ["pods"] => pods(cluster),
        ["requests"] => latest(cluster),
        ["add", name] => said(sample::add_web(cluster, name).await.map_err(|error| error.to_string())),
        ["delete", kind, name] => {
            let (namespace, name) = place(name);
            said(cluster.delete(kind, namespace, name).then_some(()).ok_or_else(|| format!("no {kind} {name}")))
        }
        ["stop" | "vanish" | "start" | "cut" | "silence" | "resume" | "drop" | "gone", ..] => {
            server(cluster, words[0]).await;
            "done".to_owned()
        }
        [verb, name, rest @ ..] if cluster.get("Pod", place(name).0, place(name).1).is_some() => {
            said(pod(cluster, verb, place(name), rest))
        }
        ["ready" | "unready" | "terminate" | "waiting" | "run" | "restart" | "refuse" | "host", name, ..] => {
            format!("no pod {name}")
        }
        words => said(answers(cluster, words)),
    };
    Outcome::Say(text)
}

fn said(done: Result<(), String>) -> String {
    done.map_or_else(|error| format!("error: {error}"), |()| "done".to_owned())
}

fn place(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("default", name))
}

fn pod(cluster: &Cluster, verb: &str, (ns, name): (&str, &str), rest: &[&str]) -> Result<(), String> {
    match (verb, rest) {
        ("ready", []) => cluster.set_ready(ns, name, true),
        ("unready", []) => cluster.set_ready(ns, name, false),
        ("terminate", []) => cluster.terminate(ns, name),
        ("run", []) => cluster.set_running(ns, name, true),
        ("restart", []) => cluster.restart_containers(ns, name),
        ("waiting", [reason, message @ ..]) => {
            cluster.set_previous_log(ns, name, "", &format!("{name}: no database, giving up\n"));
            cluster.set_waiting(ns, name, reason, &message.join(" "));
        }
        ("host", [host, addr]) => {
            let addr = addr.parse().map_err(|_| format!("{addr} is not ADDRESS:PORT"))?;
            cluster.set_host(ns, name, host, addr);
        }
        ("refuse", [port]) => {
            let port = port.parse().map_err(|_| format!("{port} is not a port"))?;
            cluster.set_backend(ns, name, port, None);
        }
        _ => return Err("what about that pod? Type `help`".to_owned()),
    }
    Ok(())
}

async fn server(cluster: &Cluster, verb: &str) {
    let faults = cluster.faults();
    match verb {
        "stop" => faults.stop().await,
        "vanish" => faults.stop_silently().await,
        "start" => faults.restart(),
        "cut" => faults.cut_connections(),
        "silence" => faults.silent_connections(),
        "resume" => faults.resume_connections(),
        "drop" => faults.drop_watches(),
        _ => faults.watch_gone(),
    }
}

fn answers(cluster: &Cluster, words: &[&str]) -> Result<(), String> {
    let faults = cluster.faults();
    match words {
        ["deny", verb, resource] => faults.deny(verb, resource),
        ["allow"] => faults.allow_all(),
        ["expire"] => faults.token_expired(true),
        ["rotate"] => {
            cluster.rotate_token();
        }
        ["clear"] => faults.clear(),
        ["status", code] => {
            let code = code.parse().map_err(|_| format!("{code} is not a status"))?;
            faults.api_status(Some((code, "")));
        }
        ["delay", ms] => {
            let ms = ms.parse().map_err(|_| format!("{ms} is not a number of milliseconds"))?;
            faults.api_delay(Duration::from_millis(ms));
        }
        _ => return Err("unknown; type `help`".to_owned()),
    }
    Ok(())
}

fn pods(cluster: &Cluster) -> String {
    let line = |pod: &serde_json::Value| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
        let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        let ending = if pod["metadata"]["deletionTimestamp"].is_null() { "" } else { " terminating" };
        format!(
            "{}/{} {}{}{ending}",
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["name"]),
            text(&pod["status"]["phase"]),
            if ready { " ready" } else { "" },
        )
    };
    cluster.list("Pod").iter().map(line).collect::<Vec<_>>().join("\n")
}

fn latest(cluster: &Cluster) -> String {
    let requests = cluster.requests();
    requests[requests.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use testkit::cluster::{Cluster, ClusterOptions};

    use super::{Outcome, act};
    use crate::sample::Sample;

    #[tokio::test]
    async fn commands_change_the_cluster_and_mistakes_are_named() {
        let cluster = Cluster::start(ClusterOptions::default()).await;
        let _sample = Sample::add(&cluster).await.unwrap();
        let say = async |line: &str| match act(&cluster, line).await {
            Outcome::Say(text) => text,
            Outcome::Quit => "quit".to_owned(),
        };
        assert_eq!(say("terminate web-7d4b9c-2xk8p").await, "done");
        assert!(say("pods").await.contains("web-7d4b9c-2xk8p Running ready terminating"));
        assert_eq!(say("delete pod web-7d4b9c-2xk8p").await, "done");
        assert_eq!(say("add web-new").await, "done");
        assert_eq!(say("unready nobody").await, "no pod nobody");
        assert_eq!(say("delete pod nobody").await, "error: no pod nobody");
        assert_eq!(say("juggle").await, "error: unknown; type `help`");
        assert_eq!(say("quit").await, "quit");
    }
}
