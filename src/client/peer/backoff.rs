//! How long to wait before a request is repeated.

use std::time::Duration;

/// Pauses that double, each shortened at random ("full jitter"), so that those who failed together do not return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// The longest pause.
    max: Duration,
    /// The longest that the next pause may be.
    ceiling: Duration,
}

impl Backoff {
    /// The first pause is at most `initial`, none is longer than `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { max, ceiling: initial.min(max) }
    }

    /// The next pause: at least what the peer asks for with `retry_after`, within `max`.
    pub fn next_delay(&mut self, retry_after: Option<Duration>) -> Duration {
        self.step(rand::random(), retry_after)
    }

    /// `chance` is in `0.0..1.0`.
    fn step(&mut self, chance: f64, retry_after: Option<Duration>) -> Duration {
        let delay = self.ceiling.mul_f64(chance.clamp(0.0, 1.0));
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        // On top of what the peer asks for, so that those who were sent away together do not return together.
        delay.saturating_add(retry_after.unwrap_or_default()).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_limit() {
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        let delays: Vec<_> = (0..5).map(|_| backoff.step(1.0, None).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn jitter_only_shortens_delays() {
        let mut backoff = Backoff::new(4 * SECOND, 60 * SECOND);
        assert_eq!(backoff.step(0.0, None), Duration::ZERO);
        assert_eq!(backoff.step(0.5, None), 4 * SECOND);
        for _ in 0..100 {
            assert!(backoff.next_delay(None) <= 60 * SECOND);
        }
    }

    #[test]
    fn retry_after_is_a_bounded_minimum() {
        let mut backoff = Backoff::new(SECOND, 60 * SECOND);
        assert_eq!(backoff.step(0.0, Some(30 * SECOND)), 30 * SECOND);
        assert_eq!(backoff.step(0.0, Some(3600 * SECOND)), 60 * SECOND);
        let mut backoff = Backoff::new(4 * SECOND, 60 * SECOND);
        assert_eq!(backoff.step(0.5, Some(30 * SECOND)), 32 * SECOND);
    }

    #[test]
    fn maximum_below_initial_delay_holds() {
        assert_eq!(Backoff::new(5 * SECOND, SECOND).step(1.0, None), SECOND);
    }
}
