//! In-band task provisioning (the taskprov extension): task configurations in requests, and the peers whose
//! configurations are accepted.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{Duration, HpkeConfig, Role, Secret, TaskParameters, Time, TokenHash, Tokens};

/// Length of the secret that verification keys are derived from, in bytes.
pub const VERIFY_KEY_INIT_BYTES: usize = 32;

/// A decoded task configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskConfiguration {
    /// The public parameters. The task id is the hash of the encoded configuration.
    pub public: TaskParameters,
    /// Distinguishes tasks with otherwise equal parameters.
    pub info: Bytes,
    /// Maximum number of aggregation parameters per batch.
    pub max_batch_query_count: u64,
}

/// A task configuration with its encoding, as requests carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The encoded configuration.
    pub bytes: Bytes,
    /// The decoded configuration.
    pub configuration: TaskConfiguration,
}

/// How a task was provisioned in-band, stored with the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InBandOrigin {
    /// Time of provisioning.
    pub at: Time,
    /// The encoded configuration.
    pub bytes: Bytes,
    /// Base URL of the other aggregator, as in its configuration.
    pub peer: String,
}

/// A peer aggregator whose in-band tasks are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAggregator {
    /// Base URL of the peer, as in task configurations.
    pub endpoint: String,
    /// The secret that verification keys of tasks are derived from.
    pub verify_key_init: Secret,
    /// The collector's key, which aggregate shares are sealed to.
    pub collector_hpke_config: HpkeConfig,
    /// Retention period of reports; the configuration's default if `None`.
    pub report_expiry_age: Option<Duration>,
    /// Minimum batch size of accepted tasks, in addition to the configured minimum.
    pub min_batch_size: Option<u64>,
    /// The role of the peer, with the tokens of its tasks.
    pub side: PeerCredentials,
}

/// The role of a peer aggregator, with the tokens of its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerCredentials {
    /// The peer is leader; this aggregator is helper.
    Leader {
        /// Hashes of the tokens that the peer presents.
        tokens: Vec<TokenHash>,
    },
    /// The peer is helper; this aggregator is leader.
    Helper {
        /// Tokens to present to the peer, in the order of preference.
        tokens: Vec<Secret>,
        /// Hashes of the tokens that the collector presents.
        collector_tokens: Vec<TokenHash>,
    },
}

impl PeerAggregator {
    /// Identifies the peer.
    pub fn name(&self) -> PeerName {
        PeerName { endpoint: self.endpoint.clone(), role: self.role() }
    }

    /// The role of the peer.
    pub fn role(&self) -> Role {
        match self.side {
            PeerCredentials::Leader { .. } => Role::Leader,
            PeerCredentials::Helper { .. } => Role::Helper,
        }
    }

    /// The valid tokens of the peer's tasks.
    pub fn tokens(&self) -> Tokens {
        match &self.side {
            PeerCredentials::Leader { tokens } => Tokens::permanent(tokens, &[]),
            PeerCredentials::Helper { tokens, collector_tokens } => Tokens::permanent(collector_tokens, tokens),
        }
    }
}

/// Identifies a peer by its base URL and role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    /// Base URL of the peer.
    pub endpoint: String,
    /// Role of the peer.
    pub role: Role,
}

/// Whether two base URLs are equal except for one trailing slash, which aggregators may omit.
pub fn is_same_endpoint(one: &str, other: &str) -> bool {
    fn bare(url: &str) -> &str {
        url.strip_suffix('/').unwrap_or(url)
    }
    bare(one) == bare(other)
}

impl PeerName {
    /// Whether this is the name of the peer.
    pub fn matches(&self, peer: &PeerAggregator) -> bool {
        peer.role() == self.role && is_same_endpoint(&peer.endpoint, &self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_endpoint_ignores_one_trailing_slash() {
        assert!(is_same_endpoint("https://a.example/dap", "https://a.example/dap/"));
        for other in ["https://a.example/", "https://a.example/dap//", "http://a.example/dap", "https://A.example/dap"]
        {
            assert!(!is_same_endpoint("https://a.example/dap", other), "{other}");
        }
    }
}
