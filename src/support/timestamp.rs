//! Timestamps as text: RFC 3339 in UTC, a date, or seconds since 1970.

use crate::clock;
use dapbox_protocol::model::Time;

const DAY: u64 = 86_400;

/// Formats a timestamp as RFC 3339 in UTC, or as seconds if it is after the year 9999.
pub fn show(time: Time) -> String {
    let (days, rest) = (time.0 / DAY, time.0 % DAY);
    let (year, month, day) = civil(days);
    if year > 9999 {
        return time.0.to_string();
    }
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Formats a timestamp briefly in UTC: the time of day, with the date unless it is the same day as `now`. Omits zero
/// seconds.
pub fn brief(time: Time, now: Time) -> String {
    let text = show(time).replace('T', " ");
    let first = if time.0 / DAY == now.0 / DAY { 11 } else { 0 };
    let last = if time.0.is_multiple_of(60) { 16 } else { 19 };
    text.get(first..last).map_or(text.clone(), str::to_owned)
}

/// Parses `2026-11-22T10:30:00Z`, `2026-11-22T10:30`, `2026-11-22`, seconds since 1970, or `now`; all in UTC.
pub fn parse(text: &str) -> Result<Time, String> {
    if text == "now" {
        return Ok(clock::now());
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(Time).map_err(|_| wrong(text));
    }
    read(text).map(Time).ok_or_else(|| wrong(text))
}

fn wrong(text: &str) -> String {
    format!("invalid time '{text}' (examples: 2026-11-22T10:30:00Z or 2026-11-22 in UTC, or seconds since 1970)")
}

fn read(text: &str) -> Option<u64> {
    let (date, clock) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let clock = clock.strip_suffix('Z').unwrap_or(clock);
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let (hour, minute, second) = match numbers(clock, ':')?[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    if !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days(year, month, day);
    // A date that does not exist, such as 31 February, converts back to another one.
    (civil(days) == (year, month, day)).then_some(days * DAY + hour * 3600 + minute * 60 + second)
}

fn numbers(text: &str, separator: char) -> Option<Vec<u64>> {
    text.split(separator)
        .map(|part| {
            let digits = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        })
        .collect()
}

/// Number of days from March 1 of the year 0 to March 1 of `year`. Years that start in March end with their leap day.
fn days_before(year: u64) -> u64 {
    year * 365 + year / 4 - year / 100 + year / 400
}

/// Number of days from March 1 of the year 0 to January 1, 1970.
const EPOCH: u64 = 719_468;

/// Number of days since 1970 of a date.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    (days_before(year) + (153 * month + 2) / 5 + day).saturating_sub(1 + EPOCH)
}

/// Year, month and day of a number of days since 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH;
    // An estimate that is at most one year late.
    let mut year = days / 365;
    while days_before(year) > days {
        year -= days_before(year).abs_diff(days).div_ceil(366).max(1);
    }
    while days_before(year + 1) <= days {
        year += 1;
    }
    let rest = days - days_before(year);
    let month = (5 * rest + 2) / 153;
    let day = rest - (153 * month + 2) / 5 + 1;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_every_day_in_order() {
        let mut previous = String::new();
        for day in 0..200_000 {
            let text = show(Time(day * DAY));
            assert_eq!(parse(&text), Ok(Time(day * DAY)));
            assert!(text > previous, "{previous} {text}");
            previous = text;
        }
    }

    #[test]
    fn formats_and_parses_known_instants() {
        assert_eq!(show(Time(0)), "1970-01-01T00:00:00Z");
        assert_eq!(show(Time(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(show(Time(1_709_251_199)), "2024-02-29T23:59:59Z");
        assert_eq!(parse("2026-11-22T10:30"), Ok(Time(1_795_343_400)));
        assert_eq!(parse("2026-11-22"), Ok(Time(1_795_305_600)));
        assert_eq!(parse("1795305600"), Ok(Time(1_795_305_600)));
        assert_eq!(show(Time(u64::MAX)), u64::MAX.to_string());
    }

    #[test]
    fn rejects_invalid_times() {
        for text in ["", "x", "2026-02-30", "2026-13-01", "2026-1-1T25:00", "1969-12-31", "2026-11-22T10:30:00+01:00"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
