//! Tasks that others set up here.

use serde::{Deserialize, Serialize};

use super::{Config, Seconds};

/// What holds for tasks that others set up here, and not the operator: control planes through the management API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provisioning {
    /// The smallest minimum batch size that such a task may have: a task that gives out less is refused.
    pub min_batch_size: u64,
    /// How long reports of such tasks are kept: those who set them up do not say. `0s` for ever.
    pub report_expiry_age: Seconds,
    /// After how long such a task is removed, for ever, if no request has ever named it; `0s` for never. The server also has
    /// to have run for that long, or for a day if that is less, so that nobody who comes back after an outage is forestalled.
    pub never_contacted_age: Seconds,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self { min_batch_size: 100, report_expiry_age: Seconds::new(30 * 86_400), never_contacted_age: Seconds::new(0) }
    }
}

/// What makes no sense, if anything.
pub(super) fn check(config: &Config) -> Result<(), String> {
    if config.provisioning.min_batch_size == 0 {
        return Err("provisioning.min_batch_size must be at least 1".to_owned());
    }
    if config.provisioning.report_expiry_age.subsec_nanos() > 0 {
        return Err("provisioning.report_expiry_age must be whole seconds".to_owned());
    }
    Ok(())
}
