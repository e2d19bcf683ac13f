//! Checks the system clock without other clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    Failure, Outcome,
    findings::{CheckResult, failed, passed, sentence},
};

const BEFORE_1970: &str = "the system clock is before 1970";
const REMEDY: &str = "set it (timedatectl set-time), and have NTP keep it";

/// Checks that the clock is usable: times are seconds since 1970, also in TLS.
pub fn examine(now: SystemTime) -> CheckResult {
    match now.duration_since(UNIX_EPOCH) {
        Ok(_) => passed("is after 1970"),
        Err(_) => failed(sentence(BEFORE_1970).trim_end_matches('.'), sentence(REMEDY)),
    }
}

/// Fails if the clock is unusable.
pub fn require_valid(now: SystemTime) -> Outcome {
    match examine(now) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new(format!("{BEFORE_1970} (hint: {REMEDY})"))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refuses_clock_before_1970() {
        assert!(examine(UNIX_EPOCH).is_ok() && require_valid(SystemTime::now()).is_ok());
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert!(examine(before).unwrap_err().remedy.contains("timedatectl"));
        assert!(require_valid(before).unwrap_err().message().contains("before 1970"));
    }
}
