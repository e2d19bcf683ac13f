//! The options that a running server can change, and those that need a restart.

use std::collections::BTreeMap;

use super::{Config, ConfigError, is_secret};
use crate::config::changes::OptionChange;

/// The reloadable options, in the order of the file. An option is reloadable if it is read at each use. Threads,
/// listeners, memory pools and the database are created at start.
const RELOADABLE: &[&str] = &[
    "public_url",
    "tls.check_interval",
    "tls.handshake_timeout",
    "proxy.trusted",
    "peer.ca_file",
    "provisioning.min_batch_size",
    "provisioning.report_expiry_age",
    "provisioning.never_contacted_age",
    "taskprov.peers",
    "taskprov.max_tasks",
    "limits.max_report_bytes",
    "limits.max_upload_bytes",
    "limits.max_job_bytes",
    "limits.max_job_reports",
    "limits.max_message_bytes",
    "limits.max_answer_bytes",
    "limits.max_body_silence",
    "limits.head_timeout",
    "limits.request_timeout",
    "limits.clock_skew",
    "limits.max_open_buckets",
    "limits.max_waiting_reports",
    "limits.max_backup_tracking_bytes",
    "limits.stop_timeout",
    "disk.reserve_bytes",
    "disk.check_interval",
    "disk.retry_after",
    "leader.max_job_size",
    "leader.min_job_size",
    "leader.max_job_delay",
    "leader.jobs_in_flight",
    "leader.peer_timeout",
    "leader.retry_initial",
    "leader.retry_max",
    "leader.upload_sample_ratio",
    "leader.max_interval_units",
    "leader.collection_retry_after",
    "leader.max_collections",
    "leader.next_batch_after",
    "helper.synchronous_reports",
    "helper.retry_after",
    "helper.max_deferred_jobs",
    "results.max_requests",
    "results.max_task_requests",
    "results.leader_timeout",
    "results.retry_max",
    "results.webhook_timeout",
    "results.webhook_retry_age",
    "results.max_webhook_queue",
    "retention.sweep_interval",
    "retention.answer_age",
    "hpke.kem",
    "hpke.kdf",
    "hpke.aead",
    "hpke.post_quantum",
    "hpke.cache_max_age",
    "hpke.rotate_every",
    "hpke.pending_time",
    "log.level",
];

/// The options that `dapbox reload` or SIGHUP changes in a running server. All others need a restart.
pub fn reloadable() -> &'static [&'static str] {
    RELOADABLE
}

/// Options by dotted path.
type Options = BTreeMap<String, toml::Value>;

impl Config {
    /// The options that differ in `new`.
    pub fn changes(&self, new: &Self) -> Result<Vec<OptionChange>, ConfigError> {
        let (old, new) = (options(self)?, options(new)?);
        let differing = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
        let change = |(key, value): (&String, &toml::Value)| OptionChange {
            key: key.clone(),
            from: shown(key, old.get(key)),
            to: shown(key, Some(value)),
        };
        Ok(differing.map(change).collect())
    }

    /// Returns this configuration with the reloadable options of `new`. Fails if they are invalid together with options
    /// that need a restart.
    pub fn with_reloadable(&self, new: &Self) -> Result<Self, ConfigError> {
        let (mut mixed, new) = (options(self)?, options(new)?);
        for key in RELOADABLE {
            mixed.extend(new.get(*key).map(|value| ((*key).to_owned(), value.clone())));
        }
        let mut table = toml::Table::new();
        for (key, value) in mixed {
            match key.split_once('.') {
                None => drop(table.insert(key, value)),
                Some((outer, inner)) => {
                    let inside = table.entry(outer).or_insert_with(|| toml::Table::new().into());
                    inside.as_table_mut().and_then(|table| table.insert(inner.to_owned(), value));
                }
            }
        }
        let mixed: Self = table.try_into().map_err(|error| ConfigError::Invalid(format!("cannot reload: {error}")))?;
        mixed.check().map_err(|error| {
            let text = format!("{error}; some of these options need a restart: restart the server");
            ConfigError::Invalid(text)
        })?;
        Ok(mixed)
    }
}

fn options(config: &Config) -> Result<Options, ConfigError> {
    Ok(config.flat()?.into_iter().collect())
}

fn shown(key: &str, value: Option<&toml::Value>) -> String {
    match value {
        Some(_) if is_secret(key) => "(not shown)".to_owned(),
        Some(toml::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Seconds;
    use dapbox_protocol::model::Secret;

    #[test]
    fn reloadable_options_exist() {
        let options = options(&Config::default()).unwrap();
        for key in reloadable() {
            assert!(options.contains_key(*key), "{key} is no option");
        }
    }

    #[test]
    fn reload_changes_reloadable_options_only() {
        let old = Config::default();
        let mut new = old.clone();
        new.limits.max_report_bytes = 5;
        new.limits.workers = 7;
        new.leader.max_job_delay = Seconds::millis(20);
        new.secrets.key = Secret::new(b"0123456789abcdef0123456789abcdef".to_vec());
        new.listen = "127.0.0.1:1".parse().unwrap();

        let changes = old.changes(&new).unwrap();
        let keys: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(
            keys,
            ["leader.max_job_delay", "limits.max_report_bytes", "limits.workers", "listen", "secrets.key"]
        );
        assert_eq!((changes[0].from.as_str(), changes[0].to.as_str()), ("5s", "20ms"));
        assert_eq!(changes[4].to, "(not shown)");

        let mixed = old.with_reloadable(&new).unwrap();
        assert_eq!((mixed.limits.max_report_bytes, mixed.leader.max_job_delay), (5, Seconds::millis(20)));
        assert_eq!((mixed.limits.workers, mixed.listen, &mixed.secrets), (0, old.listen, &old.secrets));
        assert_eq!(mixed.changes(&new).unwrap().len(), 3);
    }

    #[test]
    fn rejects_values_that_need_a_restart() {
        let old = Config::default();
        let mut new = old.clone();
        new.limits.max_job_bytes = 2 * old.limits.request_memory_bytes;
        new.limits.request_memory_bytes = new.limits.max_job_bytes;
        let error = old.with_reloadable(&new).unwrap_err().to_string();
        assert!(error.contains("limits.request_memory_bytes") && error.contains("restart"), "{error}");
    }
}
