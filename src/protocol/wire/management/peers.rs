//! JSON bodies of in-band (taskprov) peers.

use serde::{Deserialize, Serialize};

use super::{AggregatorRole, HpkeConfigJson, OnUnknownMember, TokenJson, base_url, read, token};
use crate::model::{
    Duration, Role, Secret, TokenHash,
    taskprov::{PeerAggregator, PeerCredentials, PeerName},
};

/// A request to add a peer. Its clock skew is ignored: the aggregator's aggregator setting applies to all tasks.
#[derive(Deserialize)]
struct PeerRequest {
    endpoint: String,
    role: AggregatorRole,
    collector_hpke_config: HpkeConfigJson,
    verify_key_init: Secret,
    #[serde(default)]
    report_expiry_age: Option<Duration>,
    #[serde(default, rename = "tolerable_clock_skew")]
    _tolerable_clock_skew: Option<Duration>,
    aggregator_auth_tokens: Vec<TokenJson>,
    #[serde(default)]
    collector_auth_tokens: Vec<TokenJson>,
}

/// A peer in a response, without its secrets.
#[derive(Serialize)]
pub struct PeerResponse<'a> {
    endpoint: &'a str,
    role: AggregatorRole,
    collector_hpke_config: HpkeConfigJson,
    report_expiry_age: Option<Duration>,
    tolerable_clock_skew: Duration,
}

/// Parses a request to add a peer.
pub fn read_peer(body: &[u8], on_unknown: &mut OnUnknownMember<'_>) -> Result<PeerAggregator, String> {
    let request: PeerRequest = read(body, on_unknown)?;
    let tokens = |texts: Vec<TokenJson>| -> Result<Vec<Secret>, String> {
        texts.into_iter().map(|given| token(given.token)).collect()
    };
    let hashes = |tokens: &[Secret]| tokens.iter().map(|token| TokenHash::of(token.expose())).collect();
    let aggregator = tokens(request.aggregator_auth_tokens)?;
    let collector = tokens(request.collector_auth_tokens)?;
    if aggregator.is_empty() {
        return Err("aggregator_auth_tokens: at least one token is required".to_owned());
    }
    let side = match (Role::from(request.role), collector.is_empty()) {
        (Role::Leader, true) => PeerCredentials::Leader { tokens: hashes(&aggregator) },
        (Role::Leader, false) => {
            return Err("collector_auth_tokens: not allowed if this aggregator is the helper".to_owned());
        }
        (_, true) => {
            return Err(
                "collector_auth_tokens: at least one token is required if this aggregator is the leader".to_owned()
            );
        }
        (_, false) => PeerCredentials::Helper { tokens: aggregator, collector_tokens: hashes(&collector) },
    };
    Ok(PeerAggregator {
        endpoint: base_url("endpoint", &request.endpoint)?,
        verify_key_init: request.verify_key_init,
        collector_hpke_config: request.collector_hpke_config.config()?,
        report_expiry_age: request.report_expiry_age,
        min_batch_size: None,
        side,
    })
}

/// Parses the identification of a peer.
pub fn read_peer_name(body: &[u8], on_unknown: &mut OnUnknownMember<'_>) -> Result<PeerName, String> {
    #[derive(Deserialize)]
    struct Name {
        endpoint: String,
        role: AggregatorRole,
    }
    let Name { endpoint, role } = read(body, on_unknown)?;
    Ok(PeerName { endpoint: endpoint.trim().to_owned(), role: role.into() })
}

impl<'a> PeerResponse<'a> {
    /// Returns `None` if the API has no name for the collector's key.
    pub fn of(peer: &'a PeerAggregator, tolerable_clock_skew: Duration) -> Option<Self> {
        Some(Self {
            endpoint: &peer.endpoint,
            role: match peer.side {
                PeerCredentials::Leader { .. } => AggregatorRole::Leader,
                PeerCredentials::Helper { .. } => AggregatorRole::Helper,
            },
            collector_hpke_config: HpkeConfigJson::of(&peer.collector_hpke_config)?,
            report_expiry_age: peer.report_expiry_age,
            tolerable_clock_skew,
        })
    }
}
