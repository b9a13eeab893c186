//! RFC 3339 in UTC, from and to [`SystemTime`], without a clock and without a calendar library.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds of 9999-12-31T23:59:59Z, the last time that RFC 3339 can write.
const LAST: u64 = 253_402_300_799;

const DAY: u64 = 86_400;

/// Seconds since 1970, none before it.
#[must_use]
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time of so many seconds since 1970; later than the year 9999 counts as its end.
#[must_use]
pub fn from_unix(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(LAST))
}

/// `2026-11-21T04:05:06.789Z`, with milliseconds: for logs.
#[must_use]
pub fn format(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(LAST);
    let (year, month, day) = date_of(seconds / DAY);
    let (hour, minute, second) = clock_of(seconds % DAY);
    let mut text = String::with_capacity(24);
    let written =
        write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis());
    debug_assert!(written.is_ok(), "a string takes all text");
    text
}

/// Reads RFC 3339 with `Z` or an offset; fractions of a second are dropped.
#[must_use]
pub fn parse(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() {
        return None;
    }
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| bytes[*at] != *byte) {
        return None;
    }
    if !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (number(&bytes[..4])?, number(&bytes[5..7])?, number(&bytes[8..10])?);
    let (hour, minute) = (number(&bytes[11..13])?, number(&bytes[14..16])?);
    let second = number(&bytes[17..19])?.min(59);
    if !(1970..=9999).contains(&year) || day == 0 || day > days_in(year, month)? {
        return None;
    }
    if hour > 23 || minute > 59 || number(&bytes[17..19])? > 60 {
        return None;
    }
    let offset = offset_of(without_fraction(&bytes[19..])?)?;
    let local = days_before(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    let seconds = i64::try_from(local).ok()?.checked_sub(offset)?;
    u64::try_from(seconds).ok().map(from_unix)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum: u64, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

fn without_fraction(rest: &[u8]) -> Option<&[u8]> {
    let Some(fraction) = rest.strip_prefix(b".") else {
        return Some(rest);
    };
    let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
    (digits > 0).then(|| &fraction[digits..])
}

/// Seconds that local time is ahead of UTC.
fn offset_of(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::try_from(hours * 3600 + minutes * 60).ok()?;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_in(year: u64, month: u64) -> Option<u64> {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 => Some(if is_leap(year) { 29 } else { 28 }),
        _ => None,
    }
}

/// Days from 1970-01-01, counted from March so that the leap day comes last.
const fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

const fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

const fn clock_of(seconds: u64) -> (u64, u64, u64) {
    (seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Option<u64> {
        parse(text).map(unix)
    }

    #[test]
    fn known_moments_are_written_as_such() {
        assert_eq!(format(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        let time = UNIX_EPOCH + Duration::from_millis(1_795_233_906_789);
        assert_eq!(format(time), "2026-11-21T04:05:06.789Z");
        assert_eq!(format(from_unix(951_782_400)), "2000-02-29T00:00:00.000Z");
        assert_eq!(format(from_unix(u64::MAX)), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn times_with_fractions_and_offsets_are_read() {
        assert_eq!(seconds("2026-11-21T04:05:06Z"), Some(1_795_233_906));
        assert_eq!(seconds("2026-11-21 04:05:06.123456z"), Some(1_795_233_906));
        assert_eq!(seconds("2026-11-21T06:05:06+02:00"), Some(1_795_233_906));
        assert_eq!(seconds("2026-11-20T23:35:06-04:30"), Some(1_795_233_906));
        assert_eq!(seconds("2016-12-31T23:59:60Z"), Some(1_483_228_799));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026-11-21",
            "2026-11-21T04:05:06",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T00:60:00Z",
            "2026-11-21T00:00:61Z",
            "2026-11-21T00:00:00.Z",
            "2026-11-21T00:00:00+2:00",
            "2026-11-21T00:00:00+24:00",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "２０26-11-21T00:00:00Z",
            "2026-11-21T00:00:00ZZ",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_time_is_read_back_from_its_text(seconds in 0u64..=LAST) {
            let time = from_unix(seconds);
            prop_assert_eq!(parse(&format(time)), Some(time));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn nor_does_anything_that_looks_like_a_time(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.Z+-]{0,16}") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn every_day_for_four_centuries_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..146_097 {
            assert_eq!(date_of(days), (year, month, day));
            assert_eq!(days_before(year, month, day), days);
            day += 1;
            if day > days_in(year, month).unwrap() {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }

    #[test]
    fn times_before_1970_count_as_1970() {
        let before = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(unix(before), 0);
        assert_eq!(format(before), "1970-01-01T00:00:00.000Z");
    }
}
