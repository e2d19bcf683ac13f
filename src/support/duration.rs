//! Durations as text: `500ms`, `60s`, `5m`, `1h`, `1d`, or a number of seconds.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration in a configuration option, with millisecond precision. Derefs to [`std::time::Duration`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

impl Seconds {
    /// Creates a duration from milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Creates a duration from seconds.
    pub const fn new(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl std::ops::Deref for Seconds {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

/// Units with their length in milliseconds, the longest first.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses a duration such as `1h`, `1h30m`, `1.5h`, `300s`, `500ms` or `300` (seconds). Days have 24 hours.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("invalid duration '{text}' (examples: 300s, 5m, 1h, 1d)");
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1000).map(Duration::from_millis).ok_or_else(wrong);
    }
    let span: Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_| wrong())?;
    if duration.subsec_nanos().is_multiple_of(1_000_000) { Ok(duration) } else { Err(wrong()) }
}

/// Formats a duration in the largest unit that divides it.
pub fn show(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (name, unit) = UNITS.iter().find(|(_, unit)| millis.is_multiple_of(*unit)).unwrap_or(&UNITS[5]);
    format!("{}{name}", millis / unit)
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&show(self.0))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Seconds;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a duration such as \"60s\", \"500ms\" or \"1h\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Seconds, E> {
                parse(text).map(Seconds).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Seconds, E> {
                Ok(Seconds::new(seconds))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Seconds, E> {
                let seconds = u64::try_from(seconds).map_err(|_| E::custom("a duration cannot be negative"))?;
                Ok(Seconds::new(seconds))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_durations() {
        for (text, millis) in [
            ("300", 300_000),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
            ("1.5h", 5_400_000),
            ("1 h", 3_600_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "h", "1x", "-1s", "1us", "1mo", "99999999999999999999s", "18446744073709551615w"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn round_trips_durations() {
        for millis in [0, 1, 500, 1_000, 90_000, 3_600_000, 86_400_000, 604_800_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(&show(duration)), Ok(duration));
        }
        assert_eq!(show(Duration::from_secs(300)), "5m");
    }
}
