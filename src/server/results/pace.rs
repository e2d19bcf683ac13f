//! Delays between the requests for a window.

use std::{collections::HashMap, hash::Hash, time::Duration, time::Instant};

use dapbox_client::peer::Backoff;

/// Maximum of the first delay: a batch may be ready soon.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The delays of each window, in memory. After a restart, they begin again.
pub struct Pace<K>(HashMap<K, Entry>);

struct Entry {
    backoff: Backoff,
    next: Instant,
}

impl<K> Default for Pace<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Pace<K> {
    /// When the next attempt may start; `None` for immediately.
    pub fn next(&self, key: &K) -> Option<Instant> {
        self.0.get(key).map(|entry| entry.next)
    }

    /// Delays the next attempt with backoff, up to `max`. `at_least` is the delay that the peer requests. Returns the
    /// delay.
    pub fn delay(&mut self, key: K, now: Instant, at_least: Option<Duration>, max: Duration) -> Duration {
        let entry = self.0.entry(key).or_insert_with(|| Entry { backoff: Backoff::new(FIRST_DELAY, max), next: now });
        let delay = entry.backoff.next_delay(at_least);
        entry.next = now + delay;
        delay
    }

    /// Delays the next attempt by exactly this much. The backoff stays as it is.
    pub fn postpone(&mut self, key: K, now: Instant, delay: Duration) {
        let backoff = self.0.remove(&key).map(|entry| entry.backoff);
        let backoff = backoff.unwrap_or_else(|| Backoff::new(FIRST_DELAY, delay));
        self.0.insert(key, Entry { backoff, next: now + delay });
    }

    /// Starts again without a delay: there was progress.
    pub fn reset(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Forgets the delays of the keys that do not match.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_until_there_is_progress() {
        let (mut pace, start, max) = (Pace::default(), Instant::now(), Duration::from_secs(900));
        assert_eq!(pace.next(&1), None);
        let mut ceiling = FIRST_DELAY;
        for _ in 0..20 {
            assert!(pace.delay(1, start, None, max) <= ceiling);
            ceiling = (ceiling * 2).min(max);
        }
        assert!(pace.delay(1, start, Some(max), max) == max, "the peer's request is a minimum");
        assert_eq!(pace.next(&1), Some(start + max));
        assert_eq!(pace.next(&2), None, "windows do not delay each other");
        pace.reset(&1);
        assert_eq!(pace.next(&1), None);
        pace.postpone(1, start, max);
        assert_eq!(pace.next(&1), Some(start + max));
        pace.retain(|_| false);
        assert_eq!(pace.next(&1), None);
    }
}
