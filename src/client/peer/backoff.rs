//! Exponential backoff for retries.

use std::time::Duration;

/// Exponential backoff with full jitter, so that clients that failed together do not retry together.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Maximum delay.
    max: Duration,
    /// Maximum of the next delay.
    ceiling: Duration,
}

impl Backoff {
    /// Creates a backoff whose first delay is at most `initial`. No delay exceeds `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { max, ceiling: initial.min(max) }
    }

    /// The next delay: at least the `retry_after` that the peer requests, at most `max`.
    pub fn next_delay(&mut self, retry_after: Option<Duration>) -> Duration {
        self.step(rand::random(), retry_after)
    }

    /// Computes the next delay from a random number in `0.0..1.0`.
    fn step(&mut self, chance: f64, retry_after: Option<Duration>) -> Duration {
        let delay = self.ceiling.mul_f64(chance.clamp(0.0, 1.0));
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        // Add jitter to the requested delay, so that clients that were rejected together do not retry together.
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
