//! Times as Kubernetes writes them.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time of now as RFC 3339 in UTC.
pub(super) fn timestamp() -> String {
    format(now())
}

/// RFC 3339 of these seconds since 1970.
pub(super) fn format(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / DAY);
    let rest = seconds % DAY;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Seconds since 1970 of what [`format`] wrote.
pub(super) fn parse(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let shifted = if month <= 2 { year.checked_sub(1)? } else { year };
    let era = shifted / 400;
    let of_era = shifted % 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days = (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)?;
    Some(days * DAY + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?)
}

/// How kubectl writes an age: `5s`, `3m10s`, `7m`, `4h12m`, `2d`.
pub(super) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / DAY);
    let two = |big: u64, unit: char, small: u64, part: char| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{part}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, 'd', hours % 24, 'h'),
        () => format!("{days}d"),
    }
}

/// Year, month and day of a day number, by the algorithm everybody uses.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{age, format, parse};

    #[test]
    fn a_time_is_written_and_read_back() {
        assert_eq!(format(0), "1970-01-01T00:00:00Z");
        assert_eq!(format(951_827_696), "2000-02-29T12:34:56Z");
        for seconds in (0..4_000_000_000).step_by(86_400 * 13 + 12_345) {
            assert_eq!(parse(&format(seconds)), Some(seconds));
        }
        assert_eq!(parse("yesterday"), None);
    }

    #[test]
    fn an_age_is_written_as_kubectl_does() {
        let cases = [(5, "5s"), (119, "119s"), (130, "2m10s"), (660, "11m"), (15_120, "4h12m"), (200_000, "2d7h")];
        for (seconds, text) in cases {
            assert_eq!(age(seconds), text);
        }
    }
}
