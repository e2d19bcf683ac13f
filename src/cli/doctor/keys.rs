//! The HPKE keys.

use super::context::DoctorContext;
use crate::{
    cli::{
        findings::{CheckResult, failed, passed, warning},
        style::counted,
    },
    model::{KeyState, Time},
    support::{clock, timestamp},
    views::overview::{FutureTimestamp, KeyStatus},
};

/// Maximum delay of a key change, in seconds.
const GRACE: u64 = 3_600;

/// Checks that a key is active and that no key change is overdue.
pub fn check_keys(context: &DoctorContext) -> Option<CheckResult> {
    (!context.keys.is_empty()).then(|| evaluate(&context.keys, context.is_running(), clock::now()))
}

/// Checks for stored times ahead of the clock: the clock is wrong now, or was wrong then.
pub fn check_stored_times(context: &DoctorContext) -> Option<CheckResult> {
    let first = context.future_timestamps.first()?;
    let (times, now) = (counted(context.future_timestamps.len() as u64, "stored time"), timestamp::show(clock::now()));
    let detail = format!(
        "the clock shows {now}, and {times} ahead of it, such as {} ({})",
        timestamp::show(first.time),
        first.record
    );
    let remedy = "Set the clock if it is wrong. If it was wrong before, the server rotates the keys of that time.";
    Some(match context.future_timestamps.iter().find(|time| time.is_permanent) {
        Some(FutureTimestamp { record, time, .. }) => failed(
            format!("{detail}; reports before {} are rejected ({record})", timestamp::show(*time)),
            "Set the clock if it is wrong. If it was wrong before, create a new task: closed periods stay closed.",
        ),
        None => warning(detail, remedy),
    })
}

fn evaluate(keys: &[KeyStatus], is_running: bool, now: Time) -> CheckResult {
    let of = |state| keys.iter().filter(move |key| key.state == state);
    let Some(newest) = of(KeyState::Active).max_by_key(|key| key.created) else {
        return failed("no HPKE key is active: clients cannot upload", "Run: dapbox keys rotate");
    };
    let is_late = |key: &&KeyStatus| key.until.is_some_and(|until| until.0.saturating_add(GRACE) < now.0);
    if let Some(late) = keys.iter().find(is_late).filter(|_| is_running) {
        let due = late.until.map(timestamp::show).unwrap_or_default();
        return warning(
            format!("the change of HPKE key {} is overdue since {due}", late.id),
            "Check the server's log, or rotate now: dapbox keys rotate",
        );
    }
    let age = match now.0.saturating_sub(newest.created.0) / 86_400 {
        0 => "less than a day".to_owned(),
        days => counted(days, "day"),
    };
    let mut detail = format!("HPKE key {} ({}) is {age} old", newest.id, newest.suite);
    for (state, name) in [(KeyState::Pending, "pending"), (KeyState::Expired, "expired, kept for late reports")] {
        match of(state).count() {
            0 => {}
            count => detail.push_str(&format!("; {count} {name}")),
        }
    }
    passed(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::findings::Severity;

    #[test]
    fn warns_of_overdue_key_change() {
        let key = |id, state, until| KeyStatus {
            id,
            suite: "X25519".to_owned(),
            state,
            created: Time(1_000_000),
            until: Some(Time(until)),
        };
        let now = Time(1_000_000 + 3 * 86_400);
        let keys = [key(1, KeyState::Expired, now.0 + 5), key(2, KeyState::Active, now.0 + 5)];
        let text = evaluate(&keys, true, now).unwrap();
        assert_eq!(text, "HPKE key 2 (X25519) is 3 days old; 1 expired, kept for late reports");
        let late = [key(2, KeyState::Active, now.0 - 2 * GRACE)];
        assert_eq!(evaluate(&late, true, now).unwrap_err().severity, Severity::Warning);
        assert!(evaluate(&late, false, now).is_ok(), "without a server no key changes");
        assert_eq!(evaluate(&keys[..1], true, now).unwrap_err().severity, Severity::Failed);
    }
}
