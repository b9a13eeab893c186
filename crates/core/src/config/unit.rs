//! Durations (`300ms`, `30s`, `5m`, `1h`), sizes (`64KiB`, `10MB`) and rates (`10MB/s`).

use std::time::Duration;

use crate::diagnose::{Diagnose, Fault};

/// The longest duration a file may state: ten years. Beyond it, deadlines would overflow.
const DURATION_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A text that is no quantity of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}")]
pub struct UnitError {
    /// What stands there.
    pub text: String,
    /// What was asked for.
    pub kind: &'static str,
    /// How to write it.
    pub hint: &'static str,
}

impl Diagnose for UnitError {
    fn fault(&self) -> Fault {
        Fault::Usage
    }

    fn hint(&self) -> Option<String> {
        Some(self.hint.to_owned())
    }
}

/// Reads a duration; `0` needs no unit.
///
/// # Errors
/// When there is no number, no unit or another one, or it is above ten years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let fault = || UnitError { text: text.to_owned(), kind: "duration", hint: "write it as 300ms, 30s, 5m, 1h or 1d" };
    let (whole, nanos, unit) = split(text).ok_or_else(fault)?;
    let unit: u128 = match unit {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        "" if whole == 0 && nanos == 0 => 1,
        _ => return Err(fault()),
    };
    let nanos = scale(whole, nanos, unit);
    let duration = u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| fault())?;
    if duration > DURATION_MAX {
        return Err(fault());
    }
    Ok(duration)
}

/// Reads a size in bytes: a number with `B`, `KB`, `MB`, `GB` (thousands) or `KiB`, `MiB`, `GiB` (1024), or without a unit.
///
/// # Errors
/// When there is no number, or another unit, or it does not fit 63 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let fault = || UnitError { text: text.to_owned(), kind: "size", hint: "write it as 64KiB, 10MB or 1GiB" };
    let (whole, nanos, unit) = split(text).ok_or_else(fault)?;
    let unit: u128 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        "t" | "tb" => 1_000_000_000_000,
        "tib" => 1 << 40,
        _ => return Err(fault()),
    };
    let bytes = scale(whole, nanos, unit);
    i64::try_from(bytes).ok().and_then(|bytes| u64::try_from(bytes).ok()).ok_or_else(fault)
}

/// Reads bytes per second: a size with `/s`.
///
/// # Errors
/// When it is no size, or not per second.
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let fault = || UnitError { text: text.to_owned(), kind: "rate", hint: "write it as 10MB/s or 512KiB/s" };
    let size = text.trim().strip_suffix("/s").ok_or_else(fault)?;
    parse_size(size).map_err(|_| fault())
}

/// The shortest exact text of a duration.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let found = units.iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit));
    match found {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

/// Whole part, billionths and unit of `1.5MB`.
fn split(text: &str) -> Option<(u64, u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || number.ends_with('.') || fraction.contains('.') {
        return None;
    }
    let billionths = format!("{fraction:0<9}");
    Some((whole.parse().ok()?, billionths.parse().ok()?, unit.trim_start()))
}

fn scale(whole: u64, billionths: u64, unit: u128) -> u128 {
    u128::from(whole) * unit + u128::from(billionths) * unit / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, ms) in [
            ("300ms", 300),
            ("30s", 30_000),
            ("1.5s", 1500),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("0", 0),
            (" 2 s ", 2000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "30", "s", "-1s", "1w", "1.s", ".5s", "1..2s", "1S", "9999999d", "99999999999999999999s"] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.kind, "duration", "{text}");
        }
    }

    #[test]
    fn sizes_know_thousands_and_1024() {
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("10MB", 10_000_000),
            ("1GiB", 1 << 30),
            ("1.5kb", 1500),
            ("512", 512),
            ("512B", 512),
            ("0.5MiB", 1 << 19),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "10XB", "-1", "99999999999TB", "KB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_sizes_per_second() {
        assert_eq!(parse_rate("10MB/s"), Ok(10_000_000));
        assert_eq!(parse_rate("0/s"), Ok(0));
        for text in ["10MB", "10MB/m", "/s", ""] {
            assert_eq!(parse_rate(text).unwrap_err().kind, "rate", "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_read_back_from_its_text(ms in 0u64..1_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>()) {
            let _ = (parse_duration(&text), parse_size(&text), parse_rate(&text));
        }

        #[test]
        fn nor_does_anything_that_looks_like_a_quantity(text in "[0-9.]{0,25}[a-zA-Z/]{0,4}") {
            let _ = (parse_duration(&text), parse_size(&text), parse_rate(&text));
        }
    }

    #[test]
    fn durations_are_shown_as_they_would_be_written() {
        for text in ["0ms", "300ms", "1500ms", "2s", "5m", "1h", "1d", "25h"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn each_wrong_quantity_says_how_to_write_it() {
        let error = parse_duration("soon").unwrap_err();
        assert_eq!(error.to_string(), "`soon` is not a duration");
        assert!(error.hint().unwrap().contains("30s"));
        assert_eq!(parse_size("x").unwrap_err().fault(), Fault::Usage);
        assert!(parse_rate("x").unwrap_err().hint().unwrap().contains("/s"));
    }

    proptest! {
        #[test]
        fn a_size_is_its_number_times_its_unit(number in 0u64..1_000_000, unit in 0usize..5) {
            let (name, factor) = [("", 1), ("kB", 1000), ("KiB", 1024), ("MB", 1_000_000), ("GiB", 1 << 30)][unit];
            prop_assert_eq!(parse_size(&format!("{number}{name}")), Ok(number * factor));
            prop_assert_eq!(parse_rate(&format!("{number} {name}/s")), Ok(number * factor));
        }
    }
}
