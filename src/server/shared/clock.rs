//! The clock of a server, passed in at [`Server::start_in`](crate::Server::start_in).
//!
//! Drivers, handlers and decisions take every time, interval and delay from a [`Clock`], so that a whole aggregator can
//! run on a virtual one. Only `transport`, which handles real connections, uses the timers of tokio directly.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use dapbox_protocol::model::Time;
use dapbox_support::clock;

/// A source of time.
pub trait Clock: Send + Sync {
    /// The current time of day. Operators may set it forward and back.
    fn now(&self) -> Time;

    /// A monotonic instant, to measure intervals.
    fn instant(&self) -> Instant;

    /// Resolves after `delay`.
    fn sleep(&self, delay: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The clock of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        clock::now()
    }

    fn instant(&self) -> Instant {
        // Follows the paused clock of a tokio test.
        tokio::time::Instant::now().into_std()
    }

    fn sleep(&self, delay: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(delay))
    }
}
