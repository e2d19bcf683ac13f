//! Timestamps as text: RFC 3339 in UTC, a date, or seconds since 1970.

use crate::clock;
use dapbox_protocol::model::Time;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

const DAY: u64 = 86_400;

/// Formats a timestamp as RFC 3339 in UTC, or as seconds if it is after the year 9999.
pub fn show(time: Time) -> String {
    let timestamp = i64::try_from(time.0).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(|| time.0.to_string(), |timestamp| timestamp.to_string())
}

/// Formats a timestamp briefly in UTC: the time of day, with the date unless it is the same day as `now`. Omits zero
/// seconds.
pub fn brief(time: Time, now: Time) -> String {
    let text = show(time).replace('T', " ");
    let first = if time.0 / DAY == now.0 / DAY { 11 } else { 0 };
    let last = if time.0.is_multiple_of(60) { 16 } else { 19 };
    text.get(first..last).map_or(text.clone(), str::to_owned)
}

/// Parses `2026-11-22T10:30:00Z`, `2026-11-22T10:30`, `2026-11-22`, seconds since 1970, or `now`; in UTC unless the text
/// has an offset.
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
    // Without an offset the time is UTC. A time zone in brackets would be ignored.
    let civil = || TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok().filter(|_| !text.contains('['))?).ok();
    let timestamp = text.parse::<Timestamp>().ok().or_else(civil)?;
    u64::try_from(timestamp.as_second()).ok()
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
        assert_eq!(parse("2026-11-22T11:30:00+01:00"), Ok(Time(1_795_343_400)));
        assert_eq!(parse("2026-11-22"), Ok(Time(1_795_305_600)));
        assert_eq!(parse("1795305600"), Ok(Time(1_795_305_600)));
        assert_eq!(show(Time(u64::MAX)), u64::MAX.to_string());
    }

    #[test]
    fn rejects_invalid_times() {
        for text in
            ["", "x", "2026-02-30", "2026-13-01", "2026-1-1T25:00", "1969-12-31", "2026-11-22T10:30[Europe/Berlin]"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
