//! Formats values for users: on the command line and on the status page.

use dapbox_protocol::{
    model::{BatchMode, Duration, Epsilon, MaxMeasurement, Time, VdafConfig},
    vdaf::noise::Noise,
};

/// A number with thousands separators: `20,190`.
pub fn count(number: impl TryInto<u128>) -> String {
    let Ok(number) = number.try_into() else { return String::new() };
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with its noun: `1 report`, `2 reports`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = match noun {
        noun if noun.ends_with("batch") => format!("{noun}es"),
        noun => format!("{noun}s"),
    };
    format!("{} {}", count(number), if number == 1 { noun } else { &plural })
}

/// A description of a VDAF.
pub fn vdaf(vdaf: &VdafConfig) -> String {
    match vdaf {
        VdafConfig::Prio3Count => "count".to_owned(),
        VdafConfig::Prio3Sum { max } => format!("sum of {}", numbers(*max)),
        VdafConfig::Prio3SumVec { max, length, .. } => format!("sum of vectors of {length} {}", numbers(*max)),
        VdafConfig::Prio3Histogram { length, .. } => format!("histogram of {length} bins"),
        VdafConfig::Prio3MultihotCountVec { length, max_weight, .. } => {
            format!("count of each of {length} flags, at most {max_weight} set")
        }
        VdafConfig::Prio3L1BoundSum { max_value, length, .. } => {
            format!("sum of vectors of {length} numbers, at most {max_value} in total")
        }
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, proofs, .. } => {
            format!("sum of vectors of {length} {bits}-bit numbers, {proofs} proofs")
        }
    }
}

fn numbers(max: MaxMeasurement) -> String {
    match max.bits() {
        Some(bits) => format!("{bits}-bit numbers"),
        None => format!("numbers up to {}", max.0),
    }
}

/// A description of a batch mode.
pub fn batches(mode: BatchMode, min: u64) -> String {
    let least = counted(min, "report");
    match mode {
        BatchMode::TimeInterval => format!("by time interval, at least {least}"),
        BatchMode::FixedSize { max_batch_size, batch_time_window_size } => {
            let size = match max_batch_size {
                None => format!("of fixed size, at least {least}"),
                Some(max) if max == min => format!("of exactly {least}"),
                Some(max) => format!("of fixed size, {} to {}", count(min), counted(max, "report")),
            };
            let windows = batch_time_window_size.map(|size| format!(", each within a time window of {}", span(size)));
            format!("{size}{}", windows.unwrap_or_default())
        }
    }
}

/// A duration in its two largest units: `3 d 4 h`, `12 min`, `45 s`.
pub fn span(length: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let at = UNITS.iter().position(|(_, unit)| length.0 >= *unit).unwrap_or(3);
    let (name, unit) = UNITS[at];
    let whole = format!("{} {name}", count(length.0 / unit));
    match UNITS.get(at + 1).map(|(name, next)| (name, length.0 % unit / next)) {
        // Minutes with seconds would change too often.
        Some((name, rest)) if rest > 0 && unit > 60 => format!("{whole} {rest} {name}"),
        _ => whole,
    }
}

/// A time relative to now: `12 min ago`, `in 3 d 4 h`.
pub fn relative(at: Time, now: Time) -> String {
    match (at.0.cmp(&now.0), at.0.abs_diff(now.0)) {
        (std::cmp::Ordering::Less, away) => format!("{} ago", span(Duration(away))),
        (std::cmp::Ordering::Equal, _) => "now".to_owned(),
        (std::cmp::Ordering::Greater, away) => format!("in {}", span(Duration(away))),
    }
}

/// A rate per second, or per minute if it is low.
pub fn rate(per_second: f64) -> String {
    let per_minute = per_second * 60.0;
    match per_second {
        s if s.is_nan() || s <= 0.0 => "none".to_owned(),
        s if s >= 10.0 => format!("{}/s", count(s.round() as u64)),
        s if s >= 1.0 => format!("{s:.1}/s"),
        _ if per_minute >= 10.0 => format!("{per_minute:.0}/min"),
        _ if per_minute >= 0.1 => format!("{per_minute:.1}/min"),
        _ => "below 0.1/min".to_owned(),
    }
}

/// A size in a suitable binary unit.
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (size as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A description of a task's noise, with the resulting error of an aggregate.
pub fn noise(vdaf: &VdafConfig, epsilon: Epsilon) -> String {
    let Ok(noise) = Noise::new(vdaf, epsilon) else { return format!("epsilon {epsilon}") };
    let deviation = match noise.standard_deviation() {
        few if few < 100.0 => format!("{few:.1}"),
        many => count(many as u128),
    };
    let bound = count(noise.confidence_bound() as u128);
    format!(
        "epsilon {epsilon} per aggregator; each number of an aggregate is within {bound} of the true value with 95 % \
         confidence (standard deviation {deviation})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_durations_rates_and_sizes() {
        let spans = [0, 45, 119, 3600, 5400, 90_061, 86_400 * 1000].map(|seconds| span(Duration(seconds)));
        assert_eq!(spans, ["0 s", "45 s", "1 min", "1 h", "1 h 30 min", "1 d 1 h", "1,000 d"]);
        let around = [40, 100, 3700].map(|at| relative(Time(at), Time(100)));
        assert_eq!(around, ["1 min ago", "now", "in 1 h"]);
        let rates = [0.0, f64::NAN, 0.0001, 0.05, 0.5, 7.42, 12_345.6].map(rate);
        assert_eq!(rates, ["none", "none", "below 0.1/min", "3.0/min", "30/min", "7.4/s", "12,346/s"]);
        let sizes = [0, 1023, 1536, 100 << 20, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "100 MiB", "16777216 TiB"]);
    }
}
