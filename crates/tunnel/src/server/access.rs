//! The access log: one line for each request or connection, with the visitor's real address.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use adit_core::config::server::{LogFormat, LogTarget};
use adit_core::timestamp;
use runtime::lines::{LineSink, LineSinkError, LineTarget};
use serde_json::json;

/// What is logged of one request or connection.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) request_id: String,
    pub(crate) visitor: IpAddr,
    pub(crate) account: String,
    pub(crate) host: String,
    pub(crate) method: String,
    /// Path without its query, which may hold secrets.
    pub(crate) path: String,
    pub(crate) protocol: &'static str,
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    /// Why it failed, or how it ended; empty when all is well.
    pub(crate) note: String,
}

/// Where access lines go.
#[derive(Clone)]
pub(crate) struct AccessLog {
    sink: Option<LineSink>,
    format: LogFormat,
}

/// The sink's target for a configured one.
pub(crate) fn line_target(target: &LogTarget) -> LineTarget {
    match target {
        LogTarget::Off => LineTarget::Off,
        LogTarget::Stdout => LineTarget::Stdout,
        LogTarget::Stderr => LineTarget::Stderr,
        LogTarget::File(path) => LineTarget::File(path.clone()),
    }
}

impl AccessLog {
    pub(crate) fn open(target: &LogTarget, format: LogFormat) -> Result<Self, LineSinkError> {
        let sink = match target {
            LogTarget::Off => None,
            target => Some(LineSink::open(&line_target(target))?),
        };
        Ok(Self { sink, format })
    }

    /// Whether lines go anywhere; callers need not build an entry otherwise.
    pub(crate) fn is_on(&self) -> bool {
        self.sink.is_some()
    }

    pub(crate) fn write(&self, entry: &Entry) {
        if let Some(sink) = &self.sink {
            sink.write(&render(entry, self.format, SystemTime::now()));
        }
    }

    pub(crate) fn reopen(&self) {
        self.sink.iter().for_each(LineSink::reopen);
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.sink.as_ref().map_or(0, LineSink::dropped)
    }
}

fn render(entry: &Entry, format: LogFormat, now: SystemTime) -> String {
    let micros = entry.duration.as_micros();
    match format {
        LogFormat::Json => json!({
            "time": timestamp::format(now),
            "request_id": entry.request_id,
            "visitor": entry.visitor,
            "account": entry.account,
            "host": entry.host,
            "method": entry.method,
            "path": entry.path,
            "protocol": entry.protocol,
            "status": entry.status,
            "bytes_in": entry.bytes_in,
            "bytes_out": entry.bytes_out,
            "duration_us": u64::try_from(micros).unwrap_or(u64::MAX),
            "note": entry.note,
        })
        .to_string(),
        LogFormat::Text => {
            let mut line = String::with_capacity(192);
            let _ = write!(
                line,
                "{} {} {} \"{} {}{} {}\" {} in={} out={} {}.{:03}ms id={}",
                timestamp::format(now),
                entry.visitor,
                if entry.account.is_empty() { "-" } else { &entry.account },
                entry.method,
                entry.host,
                entry.path,
                entry.protocol,
                entry.status,
                entry.bytes_in,
                entry.bytes_out,
                micros / 1000,
                micros % 1000,
                entry.request_id,
            );
            if !entry.note.is_empty() {
                let _ = write!(line, " note=\"{}\"", entry.note);
            }
            line
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            request_id: "0011".into(),
            visitor: "192.0.2.7".parse().unwrap(),
            account: "acme".into(),
            host: "app.example.com".into(),
            method: "GET".into(),
            path: "/a".into(),
            protocol: "HTTP/1.1",
            status: 200,
            bytes_in: 1,
            bytes_out: 2,
            duration: Duration::from_micros(1500),
            note: String::new(),
        }
    }

    #[test]
    fn a_line_has_the_visitor_the_status_and_the_time_taken() {
        let line = render(&entry(), LogFormat::Text, timestamp::from_unix(0));
        assert!(
            line.contains("192.0.2.7 acme \"GET app.example.com/a HTTP/1.1\" 200 in=1 out=2 1.500ms id=0011"),
            "{line}"
        );
    }

    #[test]
    fn a_json_line_is_json() {
        let line = render(&entry(), LogFormat::Json, timestamp::from_unix(0));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["status"], 200);
        assert_eq!(value["duration_us"], 1500);
    }
}
