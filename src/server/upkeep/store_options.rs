//! Options of the store, from the configuration.

use dapbox_aggregator::config::{self, Config};
use dapbox_store::{self as store, KeySource};

/// The options of the store.
pub fn store_options(config: &Config) -> store::Options {
    let limits = &config.limits;
    store::Options {
        cache_bytes: limits.store_cache_bytes,
        sum_cache_bytes: limits.sum_cache_bytes,
        queue: limits.store_queue,
        ballast_bytes: config.disk.ballast_bytes,
        key: key_source(&config.secrets),
        ..store::Options::default()
    }
}

fn key_source(secrets: &config::Secrets) -> KeySource {
    if !secrets.key.expose().is_empty() {
        KeySource::Given(secrets.key.clone())
    } else if secrets.key_file.as_os_str().is_empty() {
        KeySource::InDirectory
    } else {
        KeySource::File(secrets.key_file.clone())
    }
}
