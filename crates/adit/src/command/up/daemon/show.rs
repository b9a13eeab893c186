//! Statuses as people read them.

use std::fmt::Write as _;

use adit_core::printable;
use serde_json::Value;

/// Columns of the table, with the keys that fill them.
const COLUMNS: [&str; 8] = ["NAME", "STATUS", "LOCAL", "TARGET", "POD", "STREAMS", "HEALTH", "UP"];

/// The table of `adit status`.
pub(in crate::command) fn table(status: &Value, verbose: bool) -> String {
    let mut text = String::new();
    if let Some(daemon) = status.get("daemon") {
        let _ = writeln!(
            text,
            "daemon pid {}, up {}, {}",
            daemon["pid"],
            duration(daemon["uptime_seconds"].as_u64().unwrap_or(0)),
            daemon["config"].as_str().unwrap_or_default()
        );
        text.push_str(&trouble(daemon));
    }
    gateway(&mut text, &status["gateway"]);
    let services = status["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<[String; 8]> = services.iter().map(row).collect();
    if rows.is_empty() {
        text.push_str("no forwards are configured\n");
    } else {
        let mut widths = COLUMNS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let _ = writeln!(text, "{}", line(&COLUMNS.map(str::to_owned)));
        for (row, service) in rows.iter().zip(services) {
            let _ = writeln!(text, "{}", line(row));
            details(&mut text, service, verbose);
        }
    }
    published(&mut text, &status["published"]);
    if let Some(summary) = status.get("summary").filter(|summary| summary["total"] != 0) {
        let count = |key: &str| summary[key].as_u64().unwrap_or(0);
        let parts = ["running", "idle", "starting", "stopped", "disabled", "failed"];
        let parts = parts.map(|key| (count(key), key)).into_iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, key)| format!("{count} {key}")).collect();
        let noun = if count("total") == 1 { "forward" } else { "forwards" };
        let _ = writeln!(text, "{} {noun}: {}", count("total"), parts.join(", "));
    }
    // Reasons have words of servers in them.
    printable::lines(&text)
}

/// What a user should know of the daemon before anything else.
pub(in crate::command) fn trouble(daemon: &Value) -> String {
    let mut text = String::new();
    match super::ending::in_words(&daemon["ending"]) {
        Some(words) => text.push_str(&words),
        None if daemon["ends"] == true => text.push_str("the daemon is ending: it takes nothing new\n"),
        None => {}
    }
    for (key, name) in [("api", "daemon.listen"), ("metrics", "daemon.metrics")] {
        let port = &daemon["ports"][key];
        if let Some(error) = port["error"].as_str() {
            let _ = writeln!(text, "{name} {} is not open: {error}", port["address"].as_str().unwrap_or("?"));
        }
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

/// Why something is not as it should be, below its row.
fn details(text: &mut String, service: &Value, verbose: bool) {
    let is_well = matches!(service["status"].as_str(), Some("running" | "idle" | "stopped" | "disabled"));
    if let Some(reason) = service["reason"].as_str().filter(|_| !is_well || verbose) {
        let _ = writeln!(text, "    {reason}");
        if let Some(hint) = service["hint"].as_str() {
            let _ = writeln!(text, "    hint: {hint}");
        }
    }
    if let Some(error) = service["health"]["error"].as_str() {
        let _ = writeln!(text, "    probe: {error}");
    }
    if !verbose {
        return;
    }
    if let Some(error) = service["last_error"]["text"].as_str() {
        let _ = writeln!(text, "    last error at {}: {error}", service["last_error"]["at"].as_str().unwrap_or("?"));
    }
    let bytes = |key: &str| service[key].as_u64().unwrap_or(0);
    let _ = writeln!(
        text,
        "    {} connections so far, {} bytes in, {} bytes out, {} restarts",
        bytes("opened"),
        bytes("bytes_in"),
        bytes("bytes_out"),
        bytes("restart_count")
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
        let text = table(&status, false);
        assert!(text.contains("it said  ]0;x  2J"), "{text}");
        assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'), "{text}");
    }

    #[test]
    fn a_forward_that_is_not_well_says_why_below_its_row() {
        let status = json!({ "summary": { "total": 1, "running": 0, "stopped": 0, "failed": 1 }, "services": [{
            "name": "db", "status": "failed", "target": "k8s:///x/pod/y:1", "entrances": ["127.0.0.1:5432"],
            "is_healthy": false, "streams": 2, "reason": "no such pod", "hint": "name another",
        }] });
        let text = table(&status, false);
        assert!(text.contains("db    failed  127.0.0.1:5432"), "{text}");
        assert!(
            text.contains("\n    no such pod\n    hint: name another\n") && text.contains("1 forward: 1 failed\n"),
            "{text}"
        );
    }

    #[test]
    fn a_published_tunnel_that_is_refused_says_why() {
        let status = json!({ "published": [
            { "name": "shop", "state": "refused", "url": "", "target": "localhost:80", "reason": "the token is unknown" },
            { "name": "api", "state": "online", "url": "https://api.test", "target": "localhost:81", "reason": null },
        ] });
        let text = table(&status, false);
        assert!(text.contains("published shop  refused → localhost:80\n    the token is unknown\n"), "{text}");
        assert!(text.contains("published api  online  https://api.test → localhost:81\n"), "{text}");
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
