//! Options of tasks that others set up.

use serde::{Deserialize, Serialize};

use super::{Config, Seconds};

/// Rules for tasks that control planes set up through the management API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provisioning {
    /// The smallest minimum batch size of such a task; default 100. Tasks with a smaller one are rejected.
    pub min_batch_size: u64,
    /// How long reports of such tasks are kept; default 30 days; `0s` for no limit.
    pub report_expiry_age: Seconds,
    /// The age at which such a task is removed permanently if no request ever named it; default `0s` for never. The
    /// server must also have run for this long, or for a day if that is less, so that a peer can return after an
    /// outage.
    pub never_contacted_age: Seconds,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self { min_batch_size: 100, report_expiry_age: Seconds::new(30 * 86_400), never_contacted_age: Seconds::new(0) }
    }
}

/// Validates the options.
pub(super) fn check(config: &Config) -> Result<(), String> {
    if config.provisioning.min_batch_size == 0 {
        return Err("provisioning.min_batch_size must be at least 1".to_owned());
    }
    if config.provisioning.report_expiry_age.subsec_nanos() > 0 {
        return Err("provisioning.report_expiry_age must be whole seconds".to_owned());
    }
    Ok(())
}
