//! JSON bodies of the management API, which control planes use to provision tasks. The API supports DAP-09 only.
//!
//! Unknown members are ignored, because deployed control planes add members over time; readers report their names to
//! the caller. Missing and malformed members are errors.

mod new_task;
mod peers;
mod strategy;
pub mod task_list;

use serde::{Deserialize, Serialize};

use self::strategy::Strategy;
use crate::model::{
    BaseUrl, BatchMode, Duration, Epsilon, HpkeConfig, KeyState, MaxMeasurement, Role, Secret, Task, TaskId, Time,
    TokenHash, VdafConfig, base_url::BaseUrlError,
};

pub use new_task::NewTask;
pub use peers::{PeerResponse, read_peer, read_peer_name};

/// The media type of requests and responses, compared byte for byte.
pub const MEDIA_TYPE: &str = "application/vnd.janus.aggregator+json;version=0.1";

/// Capabilities of the aggregator.
#[derive(Debug, Serialize)]
pub struct Configuration<'a> {
    protocol: &'static str,
    dap_url: &'a str,
    role: &'static str,
    vdafs: &'static [&'static str],
    query_types: &'static [&'static str],
    features: &'static [&'static str],
    software_name: &'static str,
    software_version: &'a str,
}

impl<'a> Configuration<'a> {
    /// The capabilities of this release, with the base URL of the aggregator.
    pub fn ours(dap_url: &'a str, software_version: &'a str) -> Self {
        Self {
            protocol: "DAP-09",
            dap_url,
            role: "Either",
            vdafs: &["Prio3Count", "Prio3Sum", "Prio3Histogram", "Prio3SumVec"],
            query_types: &["TimeInterval", "FixedSize"],
            features: &[
                "TokenHash",
                "UploadMetrics",
                "TimeBucketedFixedSize",
                "PureDpDiscreteLaplace",
                "AggregationJobMetrics",
            ],
            software_name: "dapbox",
            software_version,
        }
    }
}

/// A request to create a task.
#[derive(Deserialize)]
struct TaskRequestJson {
    peer_aggregator_endpoint: String,
    query_type: QueryType,
    vdaf: Vdaf,
    role: AggregatorRole,
    vdaf_verify_key: Secret,
    max_batch_query_count: u64,
    #[serde(default)]
    task_expiration: Option<Time>,
    min_batch_size: u64,
    time_precision: Duration,
    collector_hpke_config: HpkeConfigJson,
    #[serde(default)]
    aggregator_auth_token: Option<TokenJson>,
    #[serde(default)]
    collector_auth_token_hash: Option<TokenHashJson>,
}

/// A task in a response. Omits the hash of the collector's token.
#[derive(Serialize)]
pub struct TaskResponse<'a> {
    task_id: TaskId,
    peer_aggregator_endpoint: &'a str,
    query_type: QueryType,
    vdaf: Vdaf,
    role: AggregatorRole,
    vdaf_verify_key: &'a Secret,
    max_batch_query_count: u64,
    task_expiration: Option<Time>,
    report_expiry_age: Option<Duration>,
    min_batch_size: u64,
    time_precision: Duration,
    tolerable_clock_skew: Duration,
    aggregator_auth_token: Option<TokenJson>,
    collector_hpke_config: HpkeConfigJson,
    aggregator_hpke_configs: Vec<HpkeConfigJson>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum AggregatorRole {
    Leader,
    Helper,
}

#[derive(Serialize, Deserialize)]
enum QueryType {
    TimeInterval,
    FixedSize {
        #[serde(default)]
        max_batch_size: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch_time_window_size: Option<Duration>,
    },
}

#[derive(Serialize, Deserialize)]
enum Vdaf {
    Prio3Count,
    Prio3Sum {
        bits: u32,
    },
    Prio3SumVec {
        bits: u32,
        length: usize,
        chunk_length: usize,
        #[serde(default)]
        dp_strategy: Strategy,
    },
    Prio3Histogram {
        length: usize,
        chunk_length: usize,
        #[serde(default)]
        dp_strategy: Strategy,
    },
    Prio3SumVecField64MultiproofHmacSha256Aes128 {
        proofs: u8,
        bits: usize,
        length: usize,
        chunk_length: usize,
        #[serde(default)]
        dp_strategy: Strategy,
    },
}

#[derive(Serialize, Deserialize)]
struct HpkeConfigJson {
    id: u8,
    kem_id: String,
    kdf_id: String,
    aead_id: String,
    #[serde(with = "crate::model::secret::base64url")]
    public_key: Vec<u8>,
}

/// How a token is presented.
#[derive(Serialize, Deserialize)]
enum TokenType {
    Bearer,
}

// These are not tagged enums, because serde buffers those and would not report their unknown members.

#[derive(Serialize, Deserialize)]
struct TokenJson {
    r#type: TokenType,
    token: String,
}

#[derive(Deserialize)]
struct TokenHashJson {
    #[serde(rename = "type")]
    _type: TokenType,
    hash: TokenHash,
}

/// Names of HPKE algorithms in this API, with their identifiers (RFC 9180 section 7).
const KEMS: [(&str, u16); 2] = [("X25519HkdfSha256", 0x20), ("P256HkdfSha256", 0x10)];
const KDFS: [(&str, u16); 3] = [("HkdfSha256", 1), ("HkdfSha384", 2), ("HkdfSha512", 3)];
const AEADS: [(&str, u16); 3] = [("Aes128Gcm", 1), ("Aes256Gcm", 2), ("ChaCha20Poly1305", 3)];

/// Receives the path of each unknown member of a body, such as `vdaf.dp_strategy.note`. Paths omit the names of enum
/// variants.
pub type OnUnknownMember<'a> = dyn FnMut(&str) + 'a;

/// Parses a request to create a task.
pub fn read_task(body: &[u8], on_unknown: &mut OnUnknownMember<'_>) -> Result<NewTask, String> {
    let request: TaskRequestJson = read(body, on_unknown)?;
    let (vdaf, noise) = request.vdaf.config()?;
    let helper_token = request.aggregator_auth_token.map(|given| given.token);
    Ok(NewTask {
        role: request.role.into(),
        peer_url: base_url("peer_aggregator_endpoint", &request.peer_aggregator_endpoint)?,
        batch_mode: request.query_type.mode(),
        vdaf,
        noise,
        verify_key: request.vdaf_verify_key,
        max_batch_query_count: request.max_batch_query_count,
        end: request.task_expiration,
        min_batch_size: request.min_batch_size,
        time_precision: request.time_precision,
        collector_key: request.collector_hpke_config.config()?,
        helper_token: helper_token.map(token).transpose()?,
        collector_token: request.collector_auth_token_hash.map(|given| given.hash),
    })
}

/// Parses a request to update a task: its new end, if present.
pub fn read_change(body: &[u8], on_unknown: &mut OnUnknownMember<'_>) -> Result<Option<Option<Time>>, String> {
    #[derive(Deserialize)]
    struct Change {
        #[serde(default, deserialize_with = "present")]
        task_expiration: Option<Option<Time>>,
    }
    /// Distinguishes `null` from an absent member.
    fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Time>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
    Ok(read::<Change>(body, on_unknown)?.task_expiration)
}

/// The algorithms requested for a new key; `None` where the request leaves the choice open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestedAlgorithms {
    /// Key encapsulation mechanism.
    pub kem_id: Option<u16>,
    /// Key derivation function.
    pub kdf_id: Option<u16>,
    /// Authenticated encryption.
    pub aead_id: Option<u16>,
}

/// Parses a request for a new key. An empty body requests no particular algorithms.
pub fn read_new_key(body: &[u8], on_unknown: &mut OnUnknownMember<'_>) -> Result<RequestedAlgorithms, String> {
    #[derive(Deserialize)]
    struct NewKey {
        #[serde(default)]
        kem_id: Option<String>,
        #[serde(default)]
        kdf_id: Option<String>,
        #[serde(default)]
        aead_id: Option<String>,
    }
    if body.is_empty() {
        return Ok(RequestedAlgorithms::default());
    }
    let wanted: NewKey = read(body, on_unknown)?;
    let find = |known, name: Option<String>| name.map(|name| number(known, &name)).transpose();
    Ok(RequestedAlgorithms {
        kem_id: find(&KEMS, wanted.kem_id)?,
        kdf_id: find(&KDFS, wanted.kdf_id)?,
        aead_id: find(&AEADS, wanted.aead_id)?,
    })
}

/// Parses a request to change the state of a key.
pub fn read_key_change(body: &[u8], on_unknown: &mut OnUnknownMember<'_>) -> Result<KeyState, String> {
    #[derive(Deserialize)]
    struct Change {
        state: KeyState,
    }
    Ok(read::<Change>(body, on_unknown)?.state)
}

/// An HPKE key in a response.
#[derive(Serialize)]
pub struct KeyResponse {
    config: HpkeConfigJson,
    state: KeyState,
}

impl KeyResponse {
    /// Returns `None` if the API has no name for an algorithm of the key, such as X-Wing.
    pub fn of(config: &HpkeConfig, state: KeyState) -> Option<Self> {
        Some(Self { config: HpkeConfigJson::of(config)?, state })
    }
}

/// One page of task ids. An empty page has no pagination token.
#[derive(Serialize)]
pub struct TaskIds {
    /// Ids of the tasks.
    pub task_ids: Vec<TaskId>,
    /// The last id of the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pagination_token: Option<TaskId>,
}

/// Data about a task in addition to its parameters.
pub struct TaskMetadata<'a> {
    /// The current end of the task.
    pub end: Option<Time>,
    /// Tolerated clock skew of report times.
    pub skew: Duration,
    /// HPKE configurations of the aggregator.
    pub keys: &'a [HpkeConfig],
    /// The token for the leader, right after the task was created with this aggregator as helper.
    pub token: Option<&'a Secret>,
}

impl<'a> TaskResponse<'a> {
    /// Returns `None` if the API cannot express the task.
    pub fn of(task: &'a Task, metadata: &TaskMetadata<'_>) -> Option<Self> {
        let (role, peer) = match task.role() {
            Role::Leader => (AggregatorRole::Leader, &task.public.helper_url),
            _ => (AggregatorRole::Helper, &task.public.leader_url),
        };
        let token = metadata.token.and_then(Secret::expose_text);
        Some(Self {
            task_id: task.public.id,
            peer_aggregator_endpoint: peer,
            query_type: QueryType::of(task.public.batch_mode),
            vdaf: Vdaf::of(&task.public.vdaf, task.public.noise)?,
            role,
            vdaf_verify_key: &task.verify_key,
            max_batch_query_count: task.max_batch_query_count,
            task_expiration: metadata.end,
            report_expiry_age: task.report_expiry_age,
            min_batch_size: task.public.min_batch_size,
            time_precision: task.public.time_precision,
            tolerable_clock_skew: metadata.skew,
            aggregator_auth_token: token.map(|token| TokenJson { r#type: TokenType::Bearer, token: token.to_owned() }),
            collector_hpke_config: HpkeConfigJson::of(&task.collector_hpke_config)?,
            aggregator_hpke_configs: metadata.keys.iter().filter_map(HpkeConfigJson::of).collect(),
        })
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8], on_unknown: &mut OnUnknownMember<'_>) -> Result<T, String> {
    // serde would also accept an array of members without names.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("invalid body: not a JSON object".to_owned());
    }
    let failed = |error: serde_json::Error| format!("invalid body: {error}");
    let mut json = serde_json::Deserializer::from_slice(body);
    let message = serde_ignored::deserialize(&mut json, |path| on_unknown(&path.to_string().replace(".?", "")))
        .map_err(failed)?;
    json.end().map(|()| message).map_err(failed)
}

/// Parses the base URL of an aggregator.
fn base_url(member: &str, text: &str) -> Result<String, String> {
    text.parse().map(BaseUrl::into_string).map_err(|why: BaseUrlError| format!("{member}: {why}"))
}

/// Parses a token (RFC 6750 section 2.1).
fn token(text: String) -> Result<Secret, String> {
    Secret::token(&text).map_err(|why| format!("aggregator_auth_token: {why}"))
}

impl From<AggregatorRole> for Role {
    fn from(role: AggregatorRole) -> Self {
        match role {
            AggregatorRole::Leader => Self::Leader,
            AggregatorRole::Helper => Self::Helper,
        }
    }
}

impl QueryType {
    fn of(mode: BatchMode) -> Self {
        match mode {
            BatchMode::TimeInterval => Self::TimeInterval,
            BatchMode::FixedSize { max_batch_size, batch_time_window_size } => {
                Self::FixedSize { max_batch_size, batch_time_window_size }
            }
        }
    }

    fn mode(self) -> BatchMode {
        match self {
            Self::TimeInterval => BatchMode::TimeInterval,
            Self::FixedSize { max_batch_size, batch_time_window_size } => {
                BatchMode::FixedSize { max_batch_size, batch_time_window_size }
            }
        }
    }
}

impl Vdaf {
    /// Returns `None` if the API has no name for the VDAF, or no noise for it.
    fn of(config: &VdafConfig, noise: Option<Epsilon>) -> Option<Self> {
        let dp_strategy = Strategy::of(noise);
        let bits = |max: MaxMeasurement| max.bits().and_then(|bits| u32::try_from(bits).ok());
        Some(match *config {
            VdafConfig::Prio3Count if noise.is_none() => Self::Prio3Count,
            VdafConfig::Prio3Sum { max } if noise.is_none() => Self::Prio3Sum { bits: bits(max)? },
            VdafConfig::Prio3SumVec { max, length, chunk_length } => {
                Self::Prio3SumVec { bits: bits(max)?, length, chunk_length, dp_strategy }
            }
            VdafConfig::Prio3Histogram { length, chunk_length } => {
                Self::Prio3Histogram { length, chunk_length, dp_strategy }
            }
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs } => {
                Self::Prio3SumVecField64MultiproofHmacSha256Aes128 { proofs, bits, length, chunk_length, dp_strategy }
            }
            VdafConfig::Prio3Count
            | VdafConfig::Prio3Sum { .. }
            | VdafConfig::Prio3MultihotCountVec { .. }
            | VdafConfig::Prio3L1BoundSum { .. } => return None,
        })
    }

    fn config(self) -> Result<(VdafConfig, Option<Epsilon>), String> {
        let noise = match &self {
            Self::Prio3SumVec { dp_strategy, .. }
            | Self::Prio3Histogram { dp_strategy, .. }
            | Self::Prio3SumVecField64MultiproofHmacSha256Aes128 { dp_strategy, .. } => dp_strategy.noise()?,
            Self::Prio3Count | Self::Prio3Sum { .. } => None,
        };
        let vdaf = match self {
            Self::Prio3Count => VdafConfig::Prio3Count,
            Self::Prio3Sum { bits } => VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(bits) },
            Self::Prio3SumVec { bits, length, chunk_length, .. } => {
                VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(bits), length, chunk_length }
            }
            Self::Prio3Histogram { length, chunk_length, .. } => VdafConfig::Prio3Histogram { length, chunk_length },
            Self::Prio3SumVecField64MultiproofHmacSha256Aes128 { proofs, bits, length, chunk_length, .. } => {
                VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs }
            }
        };
        Ok((vdaf, noise))
    }
}

impl HpkeConfigJson {
    /// Returns `None` if the API has no name for an algorithm.
    fn of(config: &HpkeConfig) -> Option<Self> {
        Some(Self {
            id: config.id,
            kem_id: name(&KEMS, config.kem_id)?,
            kdf_id: name(&KDFS, config.kdf_id)?,
            aead_id: name(&AEADS, config.aead_id)?,
            public_key: config.public_key.clone(),
        })
    }

    fn config(self) -> Result<HpkeConfig, String> {
        Ok(HpkeConfig {
            id: self.id,
            kem_id: number(&KEMS, &self.kem_id)?,
            kdf_id: number(&KDFS, &self.kdf_id)?,
            aead_id: number(&AEADS, &self.aead_id)?,
            public_key: self.public_key,
        })
    }
}

fn name(known: &[(&str, u16)], number: u16) -> Option<String> {
    known.iter().find(|(_, of)| *of == number).map(|(name, _)| (*name).to_owned())
}

fn number(known: &[(&str, u16)], name: &str) -> Result<u16, String> {
    let found = known.iter().find(|(of, _)| *of == name);
    found.map(|(_, number)| *number).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        format!("unsupported algorithm {name:?} (supported: {})", names.join(", "))
    })
}
