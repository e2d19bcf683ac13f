//! A clock whose time of day can be set, and whose time runs faster than real time.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration as Span, Instant},
};

use dapbox::{model::Time, server::Clock};

/// How many seconds pass in a real second.
const SPEED: u32 = 600;
/// The longest real sleep. A time that is set is noticed in this time.
const TICK: Span = Span::from_millis(5);

/// A clock that starts at a given time of day.
pub struct FastClock {
    start: Instant,
    /// The time of day at the start. It changes when the clock is set.
    origin: AtomicI64,
}

impl FastClock {
    pub fn starting_at(now: Time) -> Self {
        Self { start: Instant::now(), origin: AtomicI64::new(i64::try_from(now.0).unwrap()) }
    }

    /// Sets the time of day forward, or back with a negative number of seconds. Intervals stay the same.
    pub fn set_by(&self, seconds: i64) {
        self.origin.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Sets the time of day.
    pub fn set(&self, now: Time) {
        self.set_by(i64::try_from(now.0).unwrap() - i64::try_from(self.now().0).unwrap());
    }

    /// The seconds that have passed since the start, whatever the time of day.
    pub fn elapsed(&self) -> Span {
        self.start.elapsed() * SPEED
    }
}

impl Clock for FastClock {
    fn now(&self) -> Time {
        let passed = i64::try_from(self.elapsed().as_secs()).unwrap();
        Time(u64::try_from(self.origin.load(Ordering::Relaxed) + passed).unwrap())
    }

    fn instant(&self) -> Instant {
        self.start + self.elapsed()
    }

    fn sleep(&self, delay: Span) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let end = self.start.elapsed() + delay / SPEED;
        let start = self.start;
        Box::pin(async move {
            while let Some(rest) = end.checked_sub(start.elapsed()).filter(|rest| !rest.is_zero()) {
                tokio::time::sleep(rest.min(TICK)).await;
            }
        })
    }
}
