//! What has happened to a connection, as programs read it.

use std::time::{Duration, SystemTime};

use ::monitor::decode::Record;
use serde_json::{Value, json};

/// One step of a connection.
pub(super) fn value(record: &Record, place: Option<&str>, forward: Option<&str>) -> Value {
    let mut value = connection(record, place, forward);
    value["event"] = record.step.as_str().into();
    value["time"] = unix_now().into();
    if let Some((_, end)) = record.ended {
        value["end"] = end.as_str().into();
        value["error"] = end.error().into();
    }
    value
}

/// A connection as it is.
pub(super) fn connection(record: &Record, place: Option<&str>, forward: Option<&str>) -> Value {
    let owner = record.owner;
    json!({
        "pid": owner.map(|owner| owner.process.pid),
        "command": owner.map(|owner| owner.command.text()),
        "user": owner.and_then(|owner| owner.user),
        "place": place,
        "netns": record.netns,
        "direction": direction(record.incoming),
        "local": record.local.to_string(),
        "remote": record.remote.to_string(),
        "state": record.state.as_str(),
        "sent": record.sent,
        "received": record.received,
        "retransmits": record.retransmits,
        "rtt_us": record.rtt.map(micros),
        "min_rtt_us": record.min_rtt.map(micros),
        "handshake_us": record.handshake().map(micros),
        "duration_us": micros(record.duration(::monitor::agent::now())),
        "seen_late": record.seen_late,
        "forward": forward,
    })
}

/// Whether a value has the text, in lower case: what it says, not what its fields are called.
pub(super) fn has(value: &Value, text: &str) -> bool {
    match value {
        Value::Object(fields) => fields.values().any(|value| has(value, text)),
        Value::Array(items) => items.iter().any(|value| has(value, text)),
        Value::String(own) => own.to_lowercase().contains(text),
        Value::Number(own) => own.to_string().contains(text),
        Value::Null | Value::Bool(_) => text.is_empty(),
    }
}

/// One word.
pub(super) const fn direction(incoming: bool) -> &'static str {
    if incoming { "incoming" } else { "outgoing" }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Seconds since 1970 with milliseconds.
fn unix_now() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (now.as_secs_f64() * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_looks_at_what_is_told_and_not_at_the_names_of_fields() {
        let value = json!({ "command": "Curl", "pid": 4711, "list": [{ "forward": null }], "seen_late": false });
        for text in ["curl", "471", ""] {
            assert!(has(&value, text), "{text}");
        }
        for text in ["command", "seen_late", "false", "null", "forward"] {
            assert!(!has(&value, text), "{text}");
        }
    }
}
