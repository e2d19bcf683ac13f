//! The clocks of leaders.
//!
//! # Decision: the leader's clock decides whether a window has ended
//!
//! A report can be collected only once. If this server's clock runs ahead, it would request a window that has not ended,
//! and reports that arrive later could never be collected. A window is therefore requested only if it has also ended by
//! the leader's clock, as stated by the `Date` header of its responses.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use dapbox_protocol::model::{self, Time};

/// How long a response states the time of a leader. Clocks of servers drift by less than a second in this time.
const MAX_AGE: Duration = Duration::from_secs(600);
/// The rounding of a `Date` header.
const ROUNDING: model::Duration = model::Duration(1);

/// The last known times of leaders, by base URL.
#[derive(Default)]
pub struct LeaderClocks(Mutex<HashMap<String, (Time, Instant)>>);

impl LeaderClocks {
    /// Records the time of a response.
    pub fn record(&self, leader: &str, time: Time, received: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, at)| received.saturating_duration_since(*at) < MAX_AGE);
        known.insert(leader.to_owned(), (time, received));
    }

    /// The leader's current time, if a recent response states it.
    pub fn now(&self, leader: &str, instant: Instant) -> Option<Time> {
        let (time, received) = *self.0.lock().unwrap_or_else(PoisonError::into_inner).get(leader)?;
        let age = instant.saturating_duration_since(received);
        (age < MAX_AGE).then(|| time.saturating_add(model::Duration(age.as_secs())))
    }
}

/// Whether a window that ends at `end` has ended by the leader's clock.
pub fn has_ended(end: Time, leader_time: Time) -> bool {
    end <= leader_time.saturating_add(ROUNDING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_responses_tell_the_time() {
        let (clocks, start) = (LeaderClocks::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(clocks.now("a", start), None);
        clocks.record("a", Time(1000), start);
        assert_eq!((clocks.now("a", after(30)), clocks.now("b", after(30))), (Some(Time(1030)), None));
        assert_eq!(clocks.now("a", after(600)), None, "the response is too old");
        clocks.record("a", Time(500), after(600));
        assert_eq!(clocks.now("a", after(601)), Some(Time(501)), "the leader's clock was set back");
    }

    #[test]
    fn windows_of_the_leaders_future_have_not_ended() {
        assert!(has_ended(Time(1000), Time(1000)) && has_ended(Time(1000), Time(999)));
        assert!(!has_ended(Time(1000), Time(998)));
    }
}
