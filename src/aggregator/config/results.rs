//! Options of the collector: its requests to leaders, webhooks, and the pages of results.

use serde::{Deserialize, Serialize};

use super::{Config, OptionalAddress, Seconds, TlsMode};

/// The collector of tasks, and the pages of its results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Results {
    /// The address of the pages of all results, plain HTTP without authentication, such as `127.0.0.1:9465`; empty
    /// (default) for none.
    pub listen: OptionalAddress,
    /// Whether holders of a link reach the results of its task below `/results/` of the public address; default false.
    /// It needs HTTPS: `tls.mode` or `proxy.trusted`.
    pub public: bool,
    /// Concurrent requests to leaders; default 16.
    pub max_requests: usize,
    /// Concurrent requests to the leader of one task; default 4.
    pub max_task_requests: usize,
    /// How long a leader may take to answer a request; default 60 s.
    pub leader_timeout: Seconds,
    /// The longest delay between two requests for the same window; default 15 min. The first delays are shorter.
    pub retry_max: Seconds,
    /// How long a webhook may take to answer; default 10 s.
    pub webhook_timeout: Seconds,
    /// How long a notification is repeated until its webhook accepts it; default 3 days.
    pub webhook_retry_age: Seconds,
    /// Notifications of one task that wait for their webhooks; default 1000. Further ones replace the oldest.
    pub max_webhook_queue: usize,
}

impl Default for Results {
    fn default() -> Self {
        Self {
            listen: OptionalAddress(None),
            public: false,
            max_requests: 16,
            max_task_requests: 4,
            leader_timeout: Seconds::new(60),
            retry_max: Seconds::new(900),
            webhook_timeout: Seconds::new(10),
            webhook_retry_age: Seconds::new(3 * 86_400),
            max_webhook_queue: 1000,
        }
    }
}

/// Validates the options.
pub(super) fn check(config: &Config) -> Result<(), String> {
    let has_https = config.tls.mode != TlsMode::Off || !config.proxy.trusted.is_empty();
    if config.results.public && !has_https {
        let why = "results.public needs HTTPS, because links are secret";
        return Err(format!("{why}: set tls.mode, or proxy.trusted to the proxy in front that adds HTTPS"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_results_need_https() {
        let mut config = Config::default();
        assert_eq!(check(&config), Ok(()));
        config.results.public = true;
        assert!(check(&config).unwrap_err().contains("tls.mode"));
        config.proxy.trusted = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(check(&config), Ok(()));
        config.proxy.trusted.clear();
        config.tls.mode = TlsMode::Acme;
        assert_eq!(check(&config), Ok(()));
    }
}
