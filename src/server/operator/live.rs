//! The configuration of a running server, which can change while everybody reads it.

use std::{ops::Deref, sync::OnceLock};

use dapbox_aggregator::config::Config;

/// The configuration as it is now: whoever looks at it sees the last one.
///
/// Those before it are kept, so that a request that has begun goes on with what it began with, and nobody needs a lock or
/// a count. One takes about a kilobyte, and only a reload that changes something makes another.
pub struct Live {
    first: Version,
}

struct Version {
    config: Config,
    next: OnceLock<Box<Version>>,
}

impl Live {
    /// The configuration that the server starts with.
    pub fn new(config: Config) -> Self {
        Self { first: Version { config, next: OnceLock::new() } }
    }

    /// Another one from now on.
    pub fn replace(&self, config: Config) {
        let mut new = Box::new(Version { config, next: OnceLock::new() });
        // Whoever was faster comes before us.
        while let Err(back) = self.last().next.set(new) {
            new = back;
        }
    }

    fn last(&self) -> &Version {
        let mut last = &self.first;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }
}

impl Deref for Live {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.last().config
    }
}

impl Drop for Version {
    /// One after the other: one within the other would need a stack as deep as there were reloads.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut version) = next {
            next = version.next.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_counts_and_earlier_ones_stay_readable() {
        let live = Live::new(Config::default());
        let before = &live.limits;
        for workers in 1..=100_000 {
            if workers > 3 && workers < 100_000 {
                continue;
            }
            let mut config = live.clone();
            config.limits.workers = workers;
            live.replace(config);
        }
        assert_eq!((before.workers, live.limits.workers), (0, 100_000));
    }
}
