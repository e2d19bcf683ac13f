//! How nouns are put into words and numbers into text, wherever people read them: the command line, the status page.

use super::{BatchMode, Max, VdafConfig};

/// A number with separators: `20,190`.
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

/// A count with its noun: `1 report`, `2 reports`.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = match noun {
        "batch" => "batches".to_owned(),
        noun => format!("{noun}s"),
    };
    format!("{} {}", count(number), if number == 1 { noun } else { &plural })
}

/// What is measured, in words.
pub fn vdaf(vdaf: &VdafConfig) -> String {
    match vdaf {
        VdafConfig::Prio3Count => "count".to_owned(),
        VdafConfig::Prio3Sum { max } => format!("sum of {}", numbers(*max)),
        VdafConfig::Prio3SumVec { max, length, .. } => format!("sum of vectors of {length} {}", numbers(*max)),
        VdafConfig::Prio3Histogram { length, .. } => format!("histogram of {length} bins"),
        VdafConfig::Prio3MultihotCountVec { length, max_weight, .. } => {
            format!("count of each of {length} flags, at most {max_weight} set")
        }
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, proofs, .. } => {
            format!("sum of vectors of {length} {bits}-bit numbers, {proofs} proofs")
        }
    }
}

fn numbers(max: Max) -> String {
    match max.bits() {
        Some(bits) => format!("{bits}-bit numbers"),
        None => format!("numbers up to {}", max.0),
    }
}

/// How reports are put into batches, in words.
pub fn batches(mode: BatchMode, min: u64) -> String {
    let least = counted(min, "report");
    match mode {
        BatchMode::TimeInterval => format!("by time interval, at least {least}"),
        BatchMode::FixedSize { max_batch_size: None } => format!("of fixed size, at least {least}"),
        BatchMode::FixedSize { max_batch_size: Some(max) } if max == min => format!("of exactly {least}"),
        BatchMode::FixedSize { max_batch_size: Some(max) } => {
            format!("of fixed size, {} to {}", count(min), counted(max, "report"))
        }
    }
}
