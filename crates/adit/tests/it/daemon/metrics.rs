//! What monitoring reads of a daemon.

use std::collections::BTreeMap;

use super::support::{Place, get};
use crate::support::{DEADLINE, eventually};

/// Every sample by its name and labels, read strictly: what a scraper would refuse is a failure.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let (mut family, mut kind) = (String::new(), String::new());
    let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {text}"));
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty() && name != family, "{line}");
            name.clone_into(&mut family);
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').expect("a type");
            assert_eq!(name, family, "{line}");
            of.clone_into(&mut kind);
            continue;
        }
        if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect("a unit");
            assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let name = series.split('{').next().expect("a name");
        let suffix = match kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            "gauge" => "",
            other => panic!("{other}"),
        };
        assert_eq!(name, format!("{family}{suffix}"), "{line}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let labels = labels.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("labels");
            assert!(labels.split("\",").all(|pair| pair.contains("=\"")), "{line}");
        }
        assert!(found.insert(series.to_owned(), value.parse().expect("a number")).is_none(), "twice: {line}");
    }
    found
}

fn read(place: &Place) -> BTreeMap<String, f64> {
    samples(&place.ok(&["status", "--metrics"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_count_what_happens_to_forwards_and_to_the_file() {
    let place = Place::new().await;
    let web = place.forward("web", 0, ", health: { type: tcp, interval: 1s }");
    let off = place.forward("off", 0, ", enabled: no");
    place.write(&format!("forwards:\n{web}{off}"));
    place.start();
    let before = read(&place);
    assert_eq!(before["adit_forward_up{forward=\"web\"}"], 1.0, "it waits for its first connection");
    assert_eq!(before["adit_forward_state{forward=\"web\",state=\"idle\"}"], 1.0);
    assert_eq!(before["adit_forward_state{forward=\"off\",state=\"stopped\"}"], 1.0);
    assert_eq!(before["adit_forward_up{forward=\"off\"}"], 0.0);
    assert_eq!(before["adit_daemon_reloads_total{result=\"ok\"}"], 0.0);
    assert!(before.keys().any(|key| key.starts_with("adit_build_info{version=\"")));
    assert!(before["adit_daemon_start_time_seconds"] > 1.7e9);
    assert_eq!(get(place.entrance("web")).await, Some(200));
    let probed = || async { read(&place).get("adit_forward_probe_up{forward=\"web\"}").copied() };
    assert!((eventually(DEADLINE, "a probe", probed).await - 1.0).abs() < f64::EPSILON);
    place.write("forwards: { broken\n");
    place.fails(&["daemon", "reload"]);
    let now = read(&place);
    assert_eq!(now["adit_daemon_config_in_force"], 0.0);
    assert!(now["adit_daemon_reloads_total{result=\"refused\"}"] >= 1.0);
    place.write(&format!("forwards:\n{web}{off}"));
    place.ok(&["daemon", "reload"]);
    let now = read(&place);
    assert_eq!(now["adit_daemon_config_in_force"], 1.0);
    assert!(now["adit_daemon_reloads_total{result=\"ok\"}"] >= 1.0);
    assert_eq!(now["adit_forward_state{forward=\"web\",state=\"ready\"}"], 1.0);
    assert_eq!(now["adit_forward_connections_total{forward=\"web\"}"], 1.0);
    assert!(now["adit_forward_bytes_total{forward=\"web\",direction=\"in\"}"] > 10.0, "{now:?}");
    assert!(now["adit_forward_bytes_total{forward=\"web\",direction=\"out\"}"] > 10.0);
    assert!(now["adit_forward_probe_duration_seconds{forward=\"web\"}"] < 5.0);
    assert!(now["adit_forward_probe_time_seconds{forward=\"web\"}"] > 1.7e9);
    assert_eq!(now["adit_forward_outages_total{forward=\"web\"}"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_counted_with_its_restarts() {
    let (place, sshd) = (Place::new().await, testkit::sshd::Sshd::start(&[]).await);
    place.write(&format!("forwards:\n{}", place.ssh_forward("db", &sshd, ", start: always")));
    place.start();
    let at_least = |key: &'static str, least: f64| {
        let place = &place;
        move || async move { read(place).get(key).is_some_and(|value| *value >= least).then_some(()) }
    };
    let (up, outages) = ("adit_forward_up{forward=\"db\"}", "adit_forward_outages_total{forward=\"db\"}");
    eventually(DEADLINE, "it is up", at_least(up, 1.0)).await;
    assert_eq!(read(&place)[outages], 0.0);
    sshd.drop_connections();
    eventually(DEADLINE, "its outage", at_least(outages, 1.0)).await;
    eventually(DEADLINE, "its return", at_least(up, 1.0)).await;
    assert!(read(&place)["adit_forward_restarts_total{forward=\"db\"}"] >= 1.0);
    assert_eq!(get(place.entrance("db")).await, Some(200));
}
