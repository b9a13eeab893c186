//! What has happened to a connection, as programs read it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use ::monitor::agent::now;
use ::monitor::decode::{ConnectionId, Record, Step};
use serde_json::{Value, json};

/// One step of a connection. `docs/reference/top.md` has every field.
pub(super) fn value(record: &Record, place: Option<&str>, forward: Option<&str>) -> Value {
    let mut value = connection(record, place, forward);
    value["event"] = record.step.as_str().into();
    value["time"] = unix(record).into();
    // How long it lived is known at its end, and only of one whose beginning was seen.
    value["duration_us"] = None::<u64>.into();
    if let Some((_, end)) = record.ended {
        value["end"] = end.as_str().into();
        value["error"] = end.error().into();
        if !record.seen_late {
            value["duration_us"] = micros(record.duration(now())).into();
        }
    }
    value
}

/// A connection as it is.
pub(super) fn connection(record: &Record, place: Option<&str>, forward: Option<&str>) -> Value {
    let owner = record.owner;
    json!({
        "id": id(record.id),
        "pid": owner.map(|owner| owner.process.pid),
        "command": owner.map(|owner| owner.command.text()),
        "user": owner.and_then(|owner| owner.user),
        "place": place,
        "netns": Some(record.netns).filter(|netns| *netns != 0),
        "direction": direction(record.incoming),
        // The port is chosen while it connects.
        "local": Some(record.local).filter(|local| local.port() != 0).map(|local| local.to_string()),
        "remote": record.remote.to_string(),
        "state": record.state.as_str(),
        "sent": record.sent,
        "received": record.received,
        "retransmits": record.retransmits,
        "rtt_us": record.rtt.map(micros),
        "min_rtt_us": record.min_rtt.map(micros),
        "handshake_us": record.handshake().map(micros),
        "seen_late": record.seen_late,
        "forward": forward,
    })
}

/// A word that all steps of a connection have, and no other connection. What the system knows it by is an address of
/// the kernel, which is nobody's business: so it is mixed with what only this process knows.
fn id(connection: ConnectionId) -> String {
    static MIX: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    format!("{:016x}", MIX.hash_one(connection))
}

/// What a filter looks at: whose a connection is, where it goes and what became of it. Figures are left out, and so is
/// `id`: the digits of a port are among those of a time, of bytes, or of a number that means nothing.
const SEARCHED: [&str; 11] =
    ["pid", "command", "place", "direction", "local", "remote", "state", "forward", "event", "end", "error"];

/// Whether a step has the text, in lower case, in what a filter looks at.
pub(super) fn has(step: &Value, text: &str) -> bool {
    let found = |value: &Value| match value {
        Value::String(own) => own.to_lowercase().contains(text),
        Value::Number(own) => own.to_string().contains(text),
        _ => false,
    };
    text.is_empty() || SEARCHED.iter().any(|field| found(&step[*field]))
}

/// One word.
pub(super) const fn direction(incoming: bool) -> &'static str {
    if incoming { "incoming" } else { "outgoing" }
}

/// A time as a number.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// When the step was; where that is not known, now.
pub(super) fn when(record: &Record) -> SystemTime {
    let at = match record.step {
        Step::Opened => Some(record.opened()),
        Step::Established => record.established,
        Step::Ended => record.ended.map(|(at, _)| at),
        Step::Claimed | Step::Live => None,
    };
    let ago = at.map(|at| now().saturating_sub(at)).unwrap_or_default();
    SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The same in seconds since 1970, with microseconds.
fn unix(record: &Record) -> f64 {
    let time = when(record).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (time.as_secs_f64() * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use ::monitor::decode::{End, State};

    use super::*;

    fn step(step: Step, socket: u64) -> Record {
        let opened = now().saturating_sub(Duration::from_secs(5));
        let at = |after| opened + Duration::from_millis(after);
        Record {
            id: ConnectionId::new(socket, u64::try_from(opened.as_nanos()).unwrap()),
            step,
            local: ([127, 0, 0, 1], if step == Step::Opened { 0 } else { 40_000 }).into(),
            remote: ([127, 0, 0, 1], 80).into(),
            incoming: false,
            seen_late: false,
            gone: false,
            owner: None,
            netns: 0,
            state: State::Established,
            established: (step != Step::Opened).then(|| at(20)),
            ended: (step == Step::Ended).then(|| (at(1_500), End::Closed)),
            sent: 0,
            received: 0,
            rtt: None,
            min_rtt: None,
            retransmits: 0,
        }
    }

    #[test]
    fn the_steps_of_a_connection_have_an_id_and_times_of_their_own_and_say_only_what_is_known_at_the_step() {
        let told = [Step::Opened, Step::Established, Step::Ended].map(|kind| {
            // As if they had the very same beginning.
            let record = Record { id: ConnectionId::new(1, 7), ..step(kind, 1) };
            value(&record, None, None)
        });
        let [opened, established, _] = &told;
        assert!(told.iter().all(|one| one["id"] == opened["id"] && one["netns"].is_null()), "{told:#?}");
        assert_ne!(value(&step(Step::Opened, 2), None, None)["id"], opened["id"]);
        assert!(opened["local"].is_null() && established["local"] == "127.0.0.1:40000");
        assert!(opened["duration_us"].is_null() && established["duration_us"].is_null(), "it lives");
        let told = [Step::Opened, Step::Established, Step::Ended].map(|kind| value(&step(kind, 1), None, None));
        let times = told.each_ref().map(|one| one["time"].as_f64().unwrap());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(times[0] < now - 4.9 && times.is_sorted() && times[2] - times[0] > 1.4, "{times:?} of {now}");
        let lived = told[2]["duration_us"].as_u64().unwrap();
        assert!((1_499_000..=1_501_000).contains(&lived), "{lived}");
        let old = value(&Record { seen_late: true, ..step(Step::Ended, 1) }, None, None);
        assert!(old["duration_us"].is_null(), "nobody saw its beginning");
    }

    #[test]
    fn a_filter_looks_at_who_and_where_and_not_at_figures_or_the_names_of_fields() {
        let mut step = value(&step(Step::Ended, 1), Some("pod/17/web"), Some("Database"));
        for (field, is) in [("sent", 17_001), ("received", 17_001), ("duration_us", 17_001), ("rtt_us", 17_001)] {
            step[field] = is.into();
        }
        (step["time"], step["id"]) = (1_717_001.5.into(), "a17001b".into());
        for text in ["17001", "duration_us", "seen_late", "false", "null"] {
            assert!(!has(&step, text), "{text}: {step}");
        }
        (step["command"], step["pid"], step["error"]) = ("Curl".into(), 4711.into(), "ETIMEDOUT".into());
        for text in
            ["curl", "471", "127.0.0.1:80", ":40000", "pod/17", "database", "outgoing", "etimedout", "ended", ""]
        {
            assert!(has(&step, text), "{text}: {step}");
        }
    }
}
