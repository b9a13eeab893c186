//! `limits`: what a forward carries at most.

use crate::config::reader::{Complaint, Section, number};
use crate::config::unit::{parse_rate, parse_size};

/// More than any machine has ports.
const CONNECTIONS_MAX: u32 = 1_000_000;

/// What a forward carries at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Streams at the same time; `None` is as many as come.
    pub connections: Option<u32>,
    /// Bytes a second in each direction, all streams together; `None` is as many as go.
    pub bytes_per_second: Option<u64>,
}

/// What is left out is as in `base`.
pub(super) fn read(section: Section<'_>, base: LimitsConfig) -> LimitsConfig {
    let found = LimitsConfig {
        connections: section.get("connections", connections).unwrap_or(base.connections),
        bytes_per_second: section.get("bytes_per_second", rate).unwrap_or(base.bytes_per_second),
    };
    section.finish();
    found
}

fn connections(text: &str) -> Result<Option<u32>, Complaint> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(None);
    }
    number(text, &(1..=CONNECTIONS_MAX)).map(Some)
}

/// `10MB` and `10MB/s` are the same here: the key says that it is by the second.
fn rate(text: &str) -> Result<Option<u64>, Complaint> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(None);
    }
    let bytes = if text.contains('/') { parse_rate(text) } else { parse_size(text) };
    let bytes = bytes.map_err(|error| Complaint::new(error.to_string(), "write it as 10MB/s or 512KiB/s"))?;
    if bytes < 1024 {
        return Err(Complaint::new("less than 1KiB a second carries nothing", "write at least 1KiB/s, or unlimited"));
    }
    Ok(Some(bytes))
}
