//! Statuses as people read them.

use std::fmt::Write as _;

use adit_core::{printable, timestamp};
use serde_json::Value;

use crate::command::up::table::shorten::shortened;
use crate::command::up::table::wrapped;

/// Columns of the table, with the keys that fill them.
const COLUMNS: [&str; 8] = ["NAME", "STATUS", "LOCAL", "TARGET", "POD", "STREAMS", "HEALTH", "UP"];
/// The one that is left out when it says nothing.
const POD: usize = 4;
/// Those that give way on a narrow terminal, and what is left of each at least.
const GIVE_WAY: [(usize, usize); 4] = [(0, 8), (2, 9), (3, 12), (POD, 8)];
/// A try that comes within so many seconds is not announced.
const SOON: u64 = 3;
/// So many forwards that are not as the file says are named.
const NAMED: usize = 5;
/// What makes them so.
pub(super) const BACK: &str = "adit start --as-file NAME (or --all)";
/// What is said of a forward begins here.
const INDENT: usize = 4;

/// The table of `adit status`, for a terminal of so many columns; all of it without one.
pub(in crate::command) fn table(status: &Value, verbose: bool, columns: Option<usize>) -> String {
    let mut text = String::new();
    if let Some(daemon) = status.get("daemon") {
        let _ = writeln!(
            text,
            "daemon pid {}, up {}, {}",
            daemon["pid"],
            duration(daemon["uptime_seconds"].as_u64().unwrap_or(0)),
            file(daemon)
        );
        text.push_str(&trouble(daemon));
    }
    gateway(&mut text, &status["gateway"]);
    let services = status["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    if services.is_empty() {
        let is_published = status["published"].as_array().is_some_and(|published| !published.is_empty());
        text.push_str(if is_published { "" } else { "no forwards are configured\n" });
    } else {
        let mut lines = rows(services, columns).into_iter();
        let mut line = || lines.next().unwrap_or_default();
        let _ = writeln!(text, "{}", line());
        let mut hinted = Vec::new();
        for service in services {
            let _ = writeln!(text, "{}", line());
            details(&mut text, service, verbose, &mut hinted);
        }
    }
    published(&mut text, &status["published"]);
    text.push_str(&by_hand(services));
    if status.get("summary").is_some_and(|summary| summary["total"] != 0) {
        let _ = writeln!(text, "{}", summary(services));
    }
    // Reasons have words of servers in them.
    let text = printable::lines(&text);
    match columns {
        Some(columns) => {
            let lines = text.lines().flat_map(|line| wrapped(line, columns, INDENT));
            lines.map(|line| line + "\n").collect()
        }
        None => text,
    }
}

/// The titles and a row for each forward.
fn rows(services: &[Value], columns: Option<usize>) -> Vec<String> {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(services.iter().map(row));
    let shown: Vec<usize> =
        (0..COLUMNS.len()).filter(|at| *at != POD || rows.iter().skip(1).any(|row| row[POD] != "-")).collect();
    let wide = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let mut widths: [usize; COLUMNS.len()] = std::array::from_fn(wide);
    if let Some(columns) = columns {
        // Two blanks between them; the last column of the terminal stays free.
        let room = (columns - 1).saturating_sub(2 * (shown.len() - 1));
        while shown.iter().map(|at| widths[*at]).sum::<usize>() > room {
            let may = GIVE_WAY.iter().filter(|(at, least)| shown.contains(at) && widths[*at] > *least);
            let Some((widest, _)) = may.max_by_key(|(at, _)| widths[*at]) else { break };
            widths[*widest] -= 1;
        }
    }
    let line = |row: &[String; COLUMNS.len()]| {
        let cell = |at: &usize| {
            let others: Vec<&str> = rows.iter().skip(1).map(|other| other[*at].as_str()).collect();
            format!("{:width$}", shortened(&row[*at], widths[*at], &others), width = widths[*at])
        };
        shown.iter().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The same for a terminal that has not room for all of it: what is not well stands first, and the summary last.
pub(in crate::command) fn table_within(status: &Value, verbose: bool, columns: Option<usize>, height: usize) -> String {
    let text = table(status, verbose, columns);
    if text.lines().count() < height {
        return text;
    }
    let mut sorted = status.clone();
    if let Some(services) = sorted["services"].as_array_mut() {
        services.sort_by_key(|one| !is_troubled(one));
    }
    within(&table(&sorted, verbose, columns), height)
}

/// Whether somebody should look at it.
fn is_troubled(service: &Value) -> bool {
    let is_well = matches!(service["status"].as_str(), Some("running" | "idle" | "stopped" | "disabled"));
    !is_well || service["is_healthy"] == false
}

/// How many there are of each kind, in the words of the rows, and which are not well though they run.
fn summary(services: &[Value]) -> String {
    let words = ["running", "idle", "starting", "restarting", "stopped", "disabled", "failed"];
    let count = |word: &str| services.iter().filter(|one| one["status"] == word).count();
    let counts = words.map(|word| (count(word), word)).into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, word)| format!("{count} {word}")).collect();
    let is_bad = |one: &&Value| one["is_healthy"] == false && (one["status"] == "running" || is_doubted(one));
    let bad: Vec<&str> = services.iter().filter(is_bad).filter_map(|one| one["name"].as_str()).collect();
    let bad = if bad.is_empty() { String::new() } else { format!("; unhealthy: {}", bad.join(", ")) };
    format!("{}: {}{bad}", counted(services.len() as u64, "forward"), counts.join(", "))
}

/// The forwards that run, and that probes do not find well.
pub(super) fn unhealthy(answer: &Value) -> Option<String> {
    let services = answer["services"].as_array().into_iter().flatten();
    let bad = services.filter(|one| one["is_healthy"] == false && one["status"] == "running");
    let names: Vec<&str> = bad.filter_map(|one| one["name"].as_str()).collect();
    (!names.is_empty()).then(|| listed(&names))
}

/// Which are not as the file says, and how they come to be so again.
fn by_hand(services: &[Value]) -> String {
    let of = |wish: &str| {
        let differs = |one: &&Value| one["as_file"] == false && one["wish"] == wish;
        let names: Vec<&str> = services.iter().filter(differs).filter_map(|one| one["name"].as_str()).collect();
        (!names.is_empty()).then(|| format!("{} ({wish})", listed(&names)))
    };
    let parts: Vec<String> = ["started", "stopped"].into_iter().filter_map(of).collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("by hand, not as the file says: {}; undone by: {BACK}\n", parts.join(", ")),
    }
}

/// The first ones by name, and how many there are beside them.
pub(super) fn listed(names: &[&str]) -> String {
    let first = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// What a forward would do by the file, when it does something else.
fn by_file(service: &Value) -> Option<String> {
    if service["as_file"] != false {
        return None;
    }
    let wish = service["wish"].as_str()?;
    let start = service["start"].as_str()?;
    Some(match service["enabled"] == false {
        true => format!("{wish} by hand; the file says `enabled: false`"),
        false => format!("{wish} by hand; the file says `start: {start}`"),
    })
}

fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("{count} {noun}") } else { format!("{count} {noun}s") }
}

/// The daemon's file.
pub(in crate::command) fn file(daemon: &Value) -> String {
    let path = daemon["config"].as_str().unwrap_or_default();
    match daemon["waits_for_file"] == true {
        true => format!("{path} (not there yet; until it is, only the gateway runs)"),
        false => path.to_owned(),
    }
}

/// So much of a text as a terminal has lines for: its beginning and its last line.
fn within(text: &str, height: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // One line is the cursor's.
    let room = height.saturating_sub(1).max(3);
    let Some((last, _)) = lines.split_last().filter(|_| lines.len() > room) else { return text.to_owned() };
    let (begin, left) = (lines[..room - 2].join("\n"), lines.len() - (room - 1));
    format!("{begin}\n    and {left} lines that have no room here\n{last}\n")
}

/// What a user should know of the daemon before anything else.
pub(in crate::command) fn trouble(daemon: &Value) -> String {
    let mut text = String::new();
    match super::ending::in_words(&daemon["ending"]) {
        Some(words) => text.push_str(&words),
        None if daemon["ends"] == true => text.push_str("the daemon is ending: it takes nothing new\n"),
        None => {}
    }
    text.push_str(&super::leaving::in_words(&daemon["predecessors"]));
    for (key, name) in [("api", "daemon.listen"), ("metrics", "daemon.metrics")] {
        let port = &daemon["ports"][key];
        if let Some(error) = port["error"].as_str() {
            let _ = writeln!(text, "{name} {} is not open: {error}", port["address"].as_str().unwrap_or("?"));
        }
    }
    if let Some(lost) = daemon["lost_log_entries"].as_u64().filter(|lost| *lost > 0) {
        let _ = writeln!(
            text,
            "{lost} entries of the log were lost; is there room at {}?",
            daemon["logs"].as_str().unwrap_or("?")
        );
    }
    if let Some(mistake) = daemon["mistake"]["text"].as_str() {
        let since = daemon["mistake"]["since"].as_str().unwrap_or("?");
        let _ = writeln!(text, "the file is not in force since {since}; the version before holds:");
        mistake.lines().for_each(|line| {
            let _ = writeln!(text, "    {line}");
        });
    }
    text
}

/// The daemon's own ports that are open, each on a line of its own.
pub(in crate::command) fn ports(ports: &Value) -> String {
    let open = |key: &str| ports[key]["address"].as_str().filter(|_| ports[key]["open"] == true);
    let mut text = String::new();
    if let Some(address) = open("api") {
        let token = ports["api"]["token_file"].as_str().unwrap_or("?");
        let _ = write!(text, "\napi     http://{address}, with the token in {token}");
    }
    if let Some(address) = open("metrics") {
        let _ = write!(text, "\nmetrics http://{address}/metrics");
    }
    text
}

/// Where names of the gateway are asked for.
fn gateway(text: &mut String, gateway: &Value) {
    let list = |key: &str| gateway[key].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(address) = list("addresses").next() {
        let port = address.rsplit_once(':').map_or(address, |(_, port)| port);
        let dynamic = gateway["dynamic_host"].as_str();
        let dynamic = dynamic.map(|suffix| format!(" and *.cx.{suffix}:{port}")).unwrap_or_default();
        let _ = writeln!(text, "gateway http://localhost:{port}{dynamic}");
    }
    for reason in list("failed") {
        let _ = writeln!(text, "gateway failed: {reason}");
    }
}

/// What the world can reach, each on a line, and why it cannot below that.
fn published(text: &mut String, published: &Value) {
    for tunnel in published.as_array().into_iter().flatten() {
        let of = |key: &str| tunnel[key].as_str().unwrap_or_default();
        let url = if of("url").is_empty() { "" } else { "  " };
        let _ = writeln!(text, "published {}  {}{url}{} → {}", of("name"), of("state"), of("url"), of("target"));
        if let Some(reason) = tunnel["reason"].as_str() {
            let _ = writeln!(text, "    {reason}");
        }
    }
}

fn row(service: &Value) -> [String; 8] {
    let text = |key: &str| service[key].as_str().unwrap_or("-").to_owned();
    let health = match service["is_healthy"].as_bool() {
        Some(true) => "ok",
        Some(false) => "bad",
        None => "-",
    };
    let entrances: Vec<&str> =
        service["entrances"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let local = if entrances.is_empty() { "-".to_owned() } else { entrances.join(", ") };
    [
        text("name"),
        text("status"),
        local,
        text("target"),
        text("pod"),
        service["streams"].as_u64().unwrap_or(0).to_string(),
        health.to_owned(),
        service["uptime_seconds"].as_u64().map_or_else(|| "-".to_owned(), duration),
    ]
}

/// Whether it was started anew because its probes failed, and none has succeeded since.
fn is_doubted(service: &Value) -> bool {
    service["health"]["restarts"].as_u64().is_some_and(|restarts| restarts > 0)
}

/// Whether the line about its probes says all that its reason does.
fn is_told_by_probe(service: &Value) -> bool {
    let by_probe = service["reason"].as_str().is_some_and(|reason| reason.starts_with("its probes fail"));
    is_doubted(service) && (by_probe || service["state"] == "ready")
}

/// What fails about its probes, how often, and what was done about it.
fn probe(health: &Value) -> Option<String> {
    let error = health["error"].as_str()?;
    let kind = health["type"].as_str().unwrap_or("its");
    let missed = health["missed"].as_u64().or_else(|| health["failures"].as_u64()).unwrap_or(0);
    let times = if missed > 1 { format!(", {missed} times in a row") } else { String::new() };
    let restarts = match health["restarts"].as_u64().unwrap_or(0) {
        0 => String::new(),
        1 => "; started anew once because of it, which did not help".to_owned(),
        many => format!("; started anew {many} times because of it, which did not help"),
    };
    Some(format!("the {kind} probe fails{times}: {error}{restarts}"))
}

/// When it is tried again, if that is not at once.
fn next_try(service: &Value) -> Option<String> {
    let seconds = service["retry_in_ms"].as_u64()?.div_ceil(1000);
    if seconds < SOON {
        return None;
    }
    let (wait, name) = (duration(seconds), service["name"].as_str().unwrap_or("NAME"));
    let rests = service["start"] != "always" && service["wish"] != "started" && service["status"] == "failed";
    Some(match rests {
        true => format!("the next connection is tried in {wait} at the earliest; at once: adit restart {name}"),
        false => format!("next try in {wait}; at once: adit restart {name}"),
    })
}

/// Why something is not as it should be, below its row. What is to be done is said once: `hinted` has what was said, and of
/// which forward, as many of them lead through one SSH server or cluster.
fn details<'a>(text: &mut String, service: &'a Value, verbose: bool, hinted: &mut Vec<(&'a str, &'a str)>) {
    let streams = service["streams"].as_u64().unwrap_or(0);
    if service["status"] == "stopped" && streams > 0 {
        let (verb, they) = if streams == 1 { ("goes", "it ends") } else { ("go", "they end") };
        let open = counted(streams, "open connection");
        let _ = writeln!(text, "    {open} {verb} on until {they}; `adit status -v` says whose");
    }
    let is_well = matches!(service["status"].as_str(), Some("running" | "idle" | "stopped" | "disabled"));
    let reason = service["reason"].as_str().filter(|_| (!is_well || verbose) && !is_told_by_probe(service));
    if let Some(reason) = reason {
        let _ = writeln!(text, "    {reason}");
    }
    if let Some(next) = next_try(service).filter(|_| !is_well) {
        let _ = writeln!(text, "    {next}");
    }
    // Of one that was lost for something else it is old: nothing is probed meanwhile.
    let probe = probe(&service["health"]).filter(|_| is_well || reason.is_none());
    if let Some(probe) = &probe {
        let _ = writeln!(text, "    {probe}");
    }
    if let Some(hint) = service["hint"].as_str().filter(|_| reason.is_some() || probe.is_some()) {
        match hinted.iter().find(|(said, _)| *said == hint) {
            Some((_, name)) => _ = writeln!(text, "    hint: as for {name}"),
            None => {
                hinted.push((hint, service["name"].as_str().unwrap_or("?")));
                let _ = writeln!(text, "    hint: {hint}");
            }
        }
    }
    if !verbose {
        return;
    }
    if let Some(by_file) = by_file(service) {
        let _ = writeln!(text, "    {by_file}");
    }
    if let Some(error) = service["last_error"]["text"].as_str() {
        let at = service["last_error"]["at"].as_str().unwrap_or("?");
        let _ = writeln!(text, "    last error at {at}{}: {error}", age(service, at));
    }
    let bytes = |key: &str| service[key].as_u64().unwrap_or(0);
    let _ = writeln!(
        text,
        "    {} so far, {} in, {} out, {}",
        counted(bytes("opened"), "connection"),
        counted(bytes("bytes_in"), "byte"),
        counted(bytes("bytes_out"), "byte"),
        counted(bytes("restart_count"), "restart")
    );
    for client in service["clients"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "    {} {} (pid {})",
            client["address"].as_str().unwrap_or("?"),
            client["command"].as_str().unwrap_or("?"),
            client["pid"]
        );
    }
}

/// How long ago the last error was, and whether it was well again since.
fn age(service: &Value, at: &str) -> String {
    let Some(ago) = timestamp::parse(at).and_then(|at| at.elapsed().ok()) else { return String::new() };
    let is_new = service["uptime_seconds"].as_u64().is_some_and(|up| up < ago.as_secs());
    let is_over = service["is_healthy"] == true || service["is_healthy"].is_null() && is_new;
    format!(" ({} ago{})", duration(ago.as_secs()), if is_over { ", over" } else { "" })
}

/// What makes a terminal draw over a text: up by the rows that it took there, or all of it anew when it was too high.
pub(in crate::command) fn over(text: &str, width: usize, height: usize) -> String {
    let rows: usize = text.lines().map(|line| line.chars().count().div_ceil(width.max(1)).max(1)).sum();
    match rows {
        0 => String::new(),
        rows if rows < height => format!("\x1b[{rows}A\x1b[J"),
        _ => "\x1b[H\x1b[2J".to_owned(),
    }
}

/// `3d 4h`, `2h 5m`, `3m 20s`, `8s`.
pub(in crate::command) fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_server_said_does_not_command_the_terminal() {
        let status =
            json!({ "services": [{ "name": "db", "status": "failed", "reason": "it said \u{1b}]0;x\u{7}\u{9b}2J" }] });
        let text = table(&status, false, None);
        assert!(text.contains("it said  ]0;x  2J"), "{text}");
        assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'), "{text}");
    }

    #[test]
    fn a_forward_that_is_not_well_says_why_below_its_row() {
        let status = json!({ "summary": { "total": 1, "running": 0, "stopped": 0, "failed": 1 }, "services": [{
            "name": "db", "status": "failed", "target": "k8s:///x/pod/y:1", "entrances": ["127.0.0.1:5432"],
            "is_healthy": false, "streams": 2, "reason": "no such pod", "hint": "name another",
        }] });
        let text = table(&status, false, None);
        assert!(text.contains("db    failed  127.0.0.1:5432"), "{text}");
        assert!(
            text.contains("\n    no such pod\n    hint: name another\n") && text.contains("1 forward: 1 failed\n"),
            "{text}"
        );
    }

    #[test]
    fn what_probes_found_before_it_was_lost_is_not_told_beside_the_reason() {
        let one = |status: &str, state: &str, reason: Option<&str>, restarts: u64| {
            let health = json!({ "type": "tcp", "error": "no answer within 1s", "missed": 77, "restarts": restarts });
            let service = json!({ "name": "db", "status": status, "state": state, "reason": reason, "health": health });
            table(&status_of(&json!([service])), false, None)
        };
        let away = one("restarting", "backoff", Some("bastion is away"), 7);
        assert!(away.contains("    bastion is away\n") && !away.contains("probe"), "{away}");
        let by_probe = one("restarting", "resolving", Some("its probes fail: no answer within 1s"), 7);
        assert!(by_probe.contains("the tcp probe fails, 77 times") && !by_probe.contains("its probes"), "{by_probe}");
        let ready = one("running", "ready", None, 0);
        assert!(ready.contains("the tcp probe fails, 77 times in a row"), "{ready}");
    }

    #[test]
    fn what_is_to_be_done_for_several_is_said_once() {
        let one = |name: &str, hint: &str| json!({ "name": name, "status": "failed", "reason": "bastion is away", "hint": hint });
        let many =
            json!([one("db", "look at it"), one("web", "look at it"), one("api", "dial it"), one("mq", "look at it")]);
        let text = table(&status_of(&many), false, None);
        let count = |said: &str| text.matches(&format!("\n    {said}\n")).count();
        assert_eq!((count("hint: look at it"), count("hint: dial it"), count("hint: as for db")), (1, 1, 2), "{text}");
        assert_eq!(count("bastion is away"), 4, "{text}");
    }

    fn status_of(services: &Value) -> Value {
        json!({ "summary": { "total": 1 }, "services": services })
    }

    #[test]
    fn the_summary_has_the_words_of_the_rows_and_names_what_is_not_well() {
        let one = |name: &str, status: &str, healthy: Option<bool>| json!({ "name": name, "status": status, "is_healthy": healthy });
        let services = json!([
            one("a", "running", None),
            one("redis", "running", Some(false)),
            one("b", "restarting", Some(false)),
            one("c", "starting", None)
        ]);
        let text = table(&status_of(&services), false, None);
        assert!(text.ends_with("\n4 forwards: 2 running, 1 starting, 1 restarting; unhealthy: redis\n"), "{text}");
    }

    #[test]
    fn what_runs_though_its_probe_fails_is_named() {
        let one = |name: &str, status: &str, healthy: Option<bool>| json!({ "name": name, "status": status, "is_healthy": healthy });
        let answer = |services: Value| unhealthy(&json!({ "services": services }));
        let well = [one("a", "running", Some(true)), one("b", "running", None), one("c", "failed", Some(false))];
        assert_eq!(answer(json!(well)), None);
        assert_eq!(answer(json!([one("a", "running", Some(false))])).as_deref(), Some("a"));
    }

    #[test]
    fn what_is_not_as_the_file_says_is_named_with_the_way_back() {
        let one = |name: &str, wish: Option<&str>, as_file: bool| json!({ "name": name, "status": "running", "wish": wish, "as_file": as_file, "start": "on-demand", "enabled": true });
        let mut all: Vec<Value> = (1..8).map(|at| one(&format!("s{at}"), Some("started"), false)).collect();
        all.extend([
            one("always", Some("started"), true),
            one("off", Some("stopped"), false),
            one("plain", None, true),
        ]);
        let services = json!(all);
        let told = "by hand, not as the file says: s1, s2, s3, s4, s5 and 2 more (started), off (stopped); undone by: adit start --as-file NAME (or --all)\n";
        let text = table(&status_of(&services), false, None);
        assert!(text.contains(told) && text.ends_with("\n10 forwards: 10 running\n"), "{text}");
        let answer = table(&json!({ "services": services }), false, None);
        assert!(answer.ends_with(told), "an answer to start and stop says it, too: {answer}");
        let verbose = table(&status_of(&services), true, None);
        assert!(verbose.contains("\n    started by hand; the file says `start: on-demand`\n"), "{verbose}");
        let nothing = table(&status_of(&json!([one("plain", None, true)])), true, None);
        assert!(!nothing.contains("by hand"), "{nothing}");
    }

    #[test]
    fn what_is_not_tried_for_a_while_says_when_it_is() {
        let of = |start: &str, status: &str, retry: u64| {
            let one =
                json!({ "name": "db", "status": status, "start": start, "reason": "refused", "retry_in_ms": retry });
            table(&status_of(&json!([one])), false, None)
        };
        let text = of("always", "failed", 47_200);
        assert!(text.contains("\n    refused\n    next try in 48s; at once: adit restart db\n"), "{text}");
        let text = of("on-demand", "failed", 47_200);
        assert!(text.contains("the next connection is tried in 48s at the earliest"), "{text}");
        assert!(of("on-demand", "restarting", 5_000).contains("next try in 5s"));
        assert!(!of("always", "restarting", 400).contains("next try"), "it is over before it is read");
    }

    #[test]
    fn a_stopped_forward_says_what_goes_on() {
        let services = json!([{ "name": "web", "status": "stopped", "streams": 2, "local_port": 80 }]);
        let text = table(&status_of(&services), false, None);
        assert!(
            text.contains("\n    2 open connections go on until they end; `adit status -v` says whose\n"),
            "{text}"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let service = |number: u32| {
            json!({
                "name": format!("a-service-with-a-long-name-{number}"), "status": "restarting", "streams": 12,
                "target": format!("k8s://a-context-of-some-length/some-namespace/service/postgres-{number}:5432"),
                "pod": "postgres-7c5d8f6b9-x2x4z", "entrances": ["127.0.0.1:15432", "[::1]:15432"],
                "uptime_seconds": 7500, "reason": "no answer ".repeat(20), "hint": "look ".repeat(30),
            })
        };
        let status = status_of(&json!([service(1), service(2)]));
        for columns in [80, 100, 130, 300] {
            let text = table(&status, true, Some(columns));
            assert!(text.lines().all(|line| line.chars().count() < columns), "{columns}: {text}");
        }
        let narrow = table(&status, false, Some(80));
        assert!(narrow.contains("restarting") && narrow.contains("2h 5m"), "{narrow}");
    }

    #[test]
    fn what_has_no_room_in_the_height_is_counted_and_the_summary_stays() {
        let text: String = (1..=30).map(|number| format!("{number}\n")).collect();
        let shown = within(&text, 10);
        assert_eq!(shown.lines().count(), 9);
        assert!(
            shown.starts_with("1\n2\n") && shown.ends_with("\n    and 22 lines that have no room here\n30\n"),
            "{shown}"
        );
        assert_eq!(within("1\n2\n", 10), "1\n2\n");
    }

    #[test]
    fn what_fails_is_seen_on_a_terminal_that_is_too_low_for_all() {
        let one = |at: u32| json!({ "name": format!("s{at:02}"), "status": if at == 37 { "failed" } else { "running" }, "reason": "no such pod" });
        let status = status_of(&(0..40).map(one).collect::<Value>());
        let text = table_within(&status, false, None, 12);
        assert!(text.lines().count() < 12 && text.contains("s37   failed") && text.contains("no such pod"), "{text}");
        assert!(text.ends_with("lines that have no room here\n40 forwards: 39 running, 1 failed\n"), "{text}");
        let all = table_within(&status, false, None, 60);
        assert!(all.find("s00") < all.find("s37"), "where there is room they keep their places: {all}");
    }

    #[test]
    fn a_published_tunnel_that_is_refused_says_why() {
        let status = json!({ "published": [
            { "name": "shop", "state": "refused", "url": "", "target": "localhost:80", "reason": "the token is unknown" },
            { "name": "api", "state": "online", "url": "https://api.test", "target": "localhost:81", "reason": null },
        ] });
        let text = table(&status, false, None);
        assert!(text.contains("published shop  refused → localhost:80\n    the token is unknown\n"), "{text}");
        assert!(text.contains("published api  online  https://api.test → localhost:81\n"), "{text}");
    }

    #[test]
    fn lost_entries_of_the_log_are_told() {
        let told = |lost: u64| trouble(&json!({ "lost_log_entries": lost, "logs": "/logs" }));
        assert_eq!(
            (told(0), told(3)),
            (String::new(), "3 entries of the log were lost; is there room at /logs?\n".into())
        );
    }

    #[test]
    fn a_last_error_has_an_age_and_is_over_when_all_is_well_since() {
        let at = timestamp::format(std::time::SystemTime::now() - std::time::Duration::from_secs(7500));
        let of = |healthy: Option<bool>, up: Option<u64>| {
            let one = json!({ "name": "db", "status": "running", "is_healthy": healthy, "uptime_seconds": up,
                "last_error": { "at": at, "text": "refused" } });
            table(&status_of(&json!([one])), true, None)
        };
        for (healthy, up) in [(Some(true), Some(9000)), (None, Some(60))] {
            assert!(of(healthy, up).contains(&format!("last error at {at} (2h 5m ago, over): refused")), "{healthy:?}");
        }
        for (healthy, up) in [(Some(false), Some(60)), (None, Some(9000)), (None, None)] {
            assert!(of(healthy, up).contains(&format!("last error at {at} (2h 5m ago): refused")), "{healthy:?}");
        }
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([8, 200, 7500, 273_600].map(duration), ["8s", "3m 20s", "2h 5m", "3d 4h"]);
    }

    #[test]
    fn what_is_drawn_over_is_counted_in_rows_of_the_terminal() {
        assert_eq!(over("", 10, 24), "");
        assert_eq!(over("one\ntwo\n", 10, 24), "\x1b[2A\x1b[J");
        assert_eq!(over("0123456789\n0123456789a\n\n", 10, 24), "\x1b[4A\x1b[J", "a line that wraps takes two");
        assert_eq!(over(&"x\n".repeat(30), 10, 24), "\x1b[H\x1b[2J");
    }
}
