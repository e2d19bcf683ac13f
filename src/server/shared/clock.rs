//! The clock of a server, passed in at [`Server::start_in`](crate::Server::start_in).
//!
//! Drivers and decisions take every time, interval and delay from a [`Clock`], so that they can run on a virtual one. Timeouts
//! of real connections and of the upload sample (`transport`, `dap/upload_stream.rs`, `dap/upload_sample.rs`), failpoints, and
//! the chunk times of `pool.rs` use real timers.

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
