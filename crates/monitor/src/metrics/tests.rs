use std::time::Duration;

use super::*;
use crate::decode::End;
use crate::table::tests::{ended, live};

fn filled() -> Snapshot {
    let mut table = Table::default();
    table.handle_record(Duration::ZERO, &live(1, 7), None);
    table.handle_record(Duration::ZERO, &ended(live(2, 7), End::Failed(111)), Some(&"host".into()));
    table.handle_record(Duration::ZERO, &ended(live(3, 8), End::Closed), None);
    Snapshot::of(&table, Some(5))
}

/// Programs in the kernel that see all changes of state.
fn programs() -> Way {
    let part = crate::source::Part { purpose: "state", way: "a hook", refused: None };
    Way { source: "ebpf", parts: vec![part], ..Way::default() }
}

#[test]
fn what_a_way_does_not_see_has_no_series() {
    let polls = Way { source: "sock_diag", ..Way::default() };
    let told = |way: &Way| {
        let text = text(&filled(), &Counts { closed: 4, ..Counts::default() }, way);
        let is_there = |what: &&str| text.contains(&format!("adit_tcp_connections_total{{what=\"{what}\"}}"));
        let of_all = ["opened", "incoming", "established", "failed", "closed"].iter().filter(|what| is_there(what));
        let by = |what: &&str| text.contains(&format!("{{command=\"p7\",what=\"{what}\"}}"));
        let of_one = ["opened", "incoming", "failed", "closed", "reset", "aborted"].iter().filter(|what| by(what));
        [of_all.copied().collect::<Vec<_>>().join(" "), of_one.copied().collect::<Vec<_>>().join(" ")]
    };
    let all = ["opened incoming established failed closed", "opened incoming failed closed reset aborted"];
    assert_eq!(told(&programs()), all);
    assert_eq!(told(&polls), ["opened incoming closed", "opened incoming closed"]);
    let part = crate::source::Part { way: crate::source::CONNECTS, ..programs().parts[0].clone() };
    assert_eq!(told(&Way { parts: vec![part], ..programs() }), ["opened", "opened"]);
}

#[test]
fn where_no_end_and_no_handshake_is_seen_as_it_happens_there_are_no_series_of_them() {
    let nothing = Snapshot::of(&Table::default(), None);
    let part = crate::source::Part { way: crate::source::CONNECTS, ..programs().parts[0].clone() };
    for way in [Way { source: "sock_diag", ..Way::default() }, Way { parts: vec![part], ..programs() }] {
        let text = text(&nothing, &Counts::default(), &way);
        assert!(text.contains("adit_tcp_ends_total{end=\"unseen\",error=\"\"} 0\n"), "{text}");
        assert!(!text.contains("end=\"closed\"") && !text.contains("adit_tcp_handshake_seconds"), "{text}");
    }
    let text = text(&nothing, &Counts::default(), &programs());
    assert!(text.contains("adit_tcp_ends_total{end=\"closed\",error=\"\"} 0\n"), "{text}");
    assert!(text.contains("adit_tcp_handshake_seconds_count 0\n"), "{text}");
}

#[test]
fn the_gauge_by_process_is_as_it_was() {
    let text = text(&filled(), &Counts::default(), &programs());
    assert!(text.contains("# TYPE tcp_connects_by_pid gauge\n"), "{text}");
    assert!(text.contains("tcp_connects_by_pid{pid=\"7\",comm=\"p7\"} 2\n"), "{text}");
    assert!(text.contains("tcp_connects_by_pid{pid=\"8\",comm=\"p8\"} 1\n"), "{text}");
}

#[test]
fn errors_times_and_losses_are_told() {
    let counts = Counts { map_full: 3, opened: 9, ..Counts::default() };
    let text = text(&filled(), &counts, &programs());
    for line in [
        "adit_tcp_ends_total{end=\"failed\",error=\"ECONNREFUSED\"} 1",
        "adit_tcp_connections_total{what=\"opened\"} 9",
        "adit_tcp_connections_open{direction=\"outgoing\"} 1",
        "adit_monitor_lost_total{what=\"connection_no_room\"} 3",
        "adit_monitor_entries{table=\"kernel\"} 5",
        "adit_monitor_entries{table=\"connections\"} 1",
        "adit_tcp_command_connections_total{command=\"p7\",what=\"opened\"} 2",
        "adit_tcp_place_connections_total{place=\"host\",what=\"failed\"} 1",
        "adit_tcp_handshake_seconds_bucket{le=\"+Inf\"} 3",
        "adit_tcp_handshake_seconds_count 3",
        "adit_tcp_service_connections_total{service=\"https\",what=\"opened\"} 3",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
}

#[test]
fn a_poll_has_no_map_and_so_no_capacity() {
    let told = |capacity| text(&filled(), &Counts::default(), &Way { capacity, ..programs() });
    assert!(told(64).contains("\nadit_monitor_capacity 64\n"));
    assert!(!told(0).contains("adit_monitor_capacity"), "0 would be a map that is always full");
}

#[test]
fn the_text_is_what_promtool_reads() {
    let text = text(&filled(), &Counts::default(), &programs());
    judged_by_promtool(&text);
    assert!(text.contains("# TYPE adit_tcp_connections_total counter\n"), "{text}");
    assert!(text.contains("# TYPE adit_monitor_info gauge\nadit_monitor_info{"), "{text}");
    assert!(!text.contains("# UNIT") && !text.contains("# EOF") && !text.contains(" info\n"), "{text}");
    let typed =
        |line: &str| line.strip_prefix("# TYPE ").map(|rest| rest.split(' ').next().unwrap_or_default().to_owned());
    let names: Vec<String> = text.lines().filter_map(typed).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(names.iter().any(|name| line.starts_with(name.as_str())), "{line} is described");
    }
}

#[test]
fn series_are_in_the_order_of_their_labels_and_buckets_in_their_own() {
    let mut table = Table::default();
    for number in (1..40).rev() {
        let place = format!("unit-{number}.service");
        table.handle_record(Duration::ZERO, &ended(live(number, 7), End::Closed), Some(&place.as_str().into()));
    }
    let texts = [0; 2].map(|_| text(&Snapshot::of(&table, None), &Counts::default(), &programs()));
    assert_eq!(texts[0], texts[1]);
    let of = |name: &str| texts[0].lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>();
    let places = of("adit_tcp_place_connections_total{");
    assert!(places.len() >= 39 * 6 && places.is_sorted(), "{places:#?}");
    let buckets = of("adit_tcp_duration_seconds_bucket{");
    assert!(buckets.len() > 5 && buckets.last().is_some_and(|last| last.contains("+Inf")), "{buckets:#?}");
}

#[test]
fn every_metric_is_described_once() {
    let text = names();
    let mut names: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), text.lines().filter(|line| line.starts_with("# HELP ")).count()), (all, all), "{text}");
    assert!(all > 20 && names.contains(&"adit_monitor_entries"), "{text}");
    assert!(names.iter().all(|name| name.starts_with("adit_") || *name == "tcp_connects_by_pid"), "{text}");
}

#[test]
fn a_name_with_quotes_and_line_ends_does_no_harm() {
    let mut table = Table::default();
    let mut record = live(1, 7);
    record.owner.as_mut().unwrap().command = Command::new("a\"b\\c\nd");
    table.handle_record(Duration::ZERO, &record, None);
    let text = text(&Snapshot::of(&table, None), &Counts::default(), &programs());
    assert!(text.contains(r#"comm="a\"b\\c"#) && !text.contains("\nd\""), "{text}");
}

/// What Prometheus' own tool says, where it is installed (`./dev setup` does so where the distribution has it).
fn judged_by_promtool(text: &str) {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut command = Command::new("promtool");
    let command =
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else {
        eprintln!("SKIPPED: there is no promtool here");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}
