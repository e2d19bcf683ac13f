//! Tasks that are set up in-band, by the requests that are about them (the taskprov extension): what such a request
//! says of its task, and which other aggregators are followed in it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{Duration, HpkeConfig, Role, Secret, TaskParameters, Time, TokenHash, Tokens};

/// How many bytes the secret has that verification keys are derived from.
pub const VERIFY_KEY_INIT_BYTES: usize = 32;

/// What a task's configuration says, as it travels with requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskConfiguration {
    /// The task. Its id is the hash of the configuration's bytes.
    pub public: TaskParameters,
    /// Tells the task from others that are configured alike.
    pub info: Bytes,
    /// How many aggregation parameters a batch may be queried with.
    pub max_batch_query_count: u64,
}

/// A task's configuration as it travels with requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The bytes of the configuration.
    pub bytes: Bytes,
    /// What they say.
    pub configuration: TaskConfiguration,
}

/// What stands beside a task that was set up in-band.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InBandOrigin {
    /// When it was.
    pub at: Time,
    /// The bytes of its configuration.
    pub bytes: Bytes,
    /// The other aggregator's base URL, as its configuration has it.
    pub peer: String,
}

/// Another aggregator, whose tasks are taken when a request sets them up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAggregator {
    /// Its base URL, as it stands in the configurations of tasks.
    pub endpoint: String,
    /// What the verification keys of tasks are derived from.
    pub verify_key_init: Secret,
    /// The key that aggregate shares are sealed to.
    pub collector_hpke_config: HpkeConfig,
    /// How long reports are kept; the configuration decides if this says nothing.
    pub report_expiry_age: Option<Duration>,
    /// No task with a smaller minimum is taken; the configuration has a floor of its own.
    pub min_batch_size: Option<u64>,
    /// Which aggregator it is, and who shows what to whom.
    pub side: PeerCredentials,
}

/// Which aggregator a peer is, with the tokens that go with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerCredentials {
    /// It leads, and we help.
    Leader {
        /// What it presents to us.
        tokens: Vec<TokenHash>,
    },
    /// It helps, and we lead.
    Helper {
        /// What we present to it, in the order in which to try.
        tokens: Vec<Secret>,
        /// What the collector presents to us.
        collector_tokens: Vec<TokenHash>,
    },
}

impl PeerAggregator {
    /// What it is known by.
    pub fn name(&self) -> PeerName {
        PeerName { endpoint: self.endpoint.clone(), role: self.role() }
    }

    /// Its role.
    pub fn role(&self) -> Role {
        match self.side {
            PeerCredentials::Leader { .. } => Role::Leader,
            PeerCredentials::Helper { .. } => Role::Helper,
        }
    }

    /// The tokens that are in force for its tasks.
    pub fn tokens(&self) -> Tokens {
        match &self.side {
            PeerCredentials::Leader { tokens } => Tokens::permanent(tokens, &[]),
            PeerCredentials::Helper { tokens, collector_tokens } => Tokens::permanent(collector_tokens, tokens),
        }
    }
}

/// What a peer is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    /// Its base URL.
    pub endpoint: String,
    /// Which aggregator it is.
    pub role: Role,
}

/// Whether two base URLs are the same but for a slash at the end. Aggregators write it or not.
pub fn is_same_endpoint(one: &str, other: &str) -> bool {
    fn bare(url: &str) -> &str {
        url.strip_suffix('/').unwrap_or(url)
    }
    bare(one) == bare(other)
}

impl PeerName {
    /// Whether it is this peer's.
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
