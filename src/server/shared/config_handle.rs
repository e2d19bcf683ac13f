//! The configuration of a running server, which a reload replaces.
//!
//! # Decision: readers keep the configuration that they began with
//!
//! A reload replaces the configuration while requests and jobs are in progress. Each of them reads the configuration
//! with [`ConfigHandle::get`] and works with that snapshot to its end. `arc-swap` makes reads wait-free; the memory of a
//! replaced configuration is freed with its last reader.

use std::sync::Arc;

use arc_swap::ArcSwap;

use dapbox_aggregator::config::Config;

/// The current configuration. Clones share it.
#[derive(Clone)]
pub struct ConfigHandle(Arc<ArcSwap<Config>>);

impl ConfigHandle {
    /// Starts with `config`.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// The current configuration.
    pub fn get(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Replaces the configuration for all later calls of [`Self::get`].
    pub fn replace(&self, config: Config) {
        self.0.store(Arc::new(config));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_latest_while_old_stays_valid() {
        let handle = ConfigHandle::new(Config::default());
        let (old, other) = (handle.get(), handle.clone());
        let mut config = Config::clone(&old);
        config.limits.workers = 7;
        handle.replace(config);
        assert_eq!((old.limits.workers, other.get().limits.workers), (0, 7));
    }
}
