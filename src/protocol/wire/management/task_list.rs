//! YAML task lists, the provisioning format of Janus's command line. Extends the forms of the management API.
//!
//! Unknown fields are errors.

use serde::{Deserialize, Serialize};

use super::{AEADS, AggregatorRole, KDFS, KEMS, QueryType, Vdaf, base_url, name, number, token};
use crate::{
    model::{Duration, HpkeConfig, Party, Revision, Role, Secret, Task, TaskId, TaskParameters, Time, TokenHash},
    wire::parse_bytes,
};

/// Maximum number of tasks in a list.
pub const MAX_TASKS: usize = 1000;
/// Valid lengths of verification keys in bytes; the VDAF determines which one applies.
const VERIFY_KEYS: [usize; 2] = [16, 32];
/// Valid lengths of HPKE public keys in bytes, for the algorithms that have a name here.
const HPKE_KEYS: [usize; 2] = [32, 65];
const PRIVATE_KEYS: [usize; 1] = [32];
const HASHES: [usize; 1] = [32];

/// Task parameters that a list does not contain.
#[derive(Clone, Copy, Debug)]
pub struct TaskListOverrides<'a> {
    /// The protocol revision of the tasks.
    pub revision: Revision,
    /// Base URL of the aggregator that the list is for.
    pub url: &'a str,
}

/// A task of a list, with the data that dapbox stores elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTask {
    /// The task.
    pub task: Task,
    /// Tolerated clock skew of report times.
    pub skew: Duration,
    /// Ids of the aggregator's HPKE keys listed with the task.
    pub keys: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    task_id: Option<String>,
    peer_aggregator_endpoint: String,
    query_type: QueryType,
    vdaf: Vdaf,
    role: AggregatorRole,
    vdaf_verify_key: Option<String>,
    max_batch_query_count: u64,
    task_expiration: Option<Time>,
    report_expiry_age: Option<Duration>,
    min_batch_size: u64,
    time_precision: Duration,
    tolerable_clock_skew: Duration,
    collector_hpke_config: Key,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregator_auth_token: Option<Token>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregator_auth_token_hash: Option<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collector_auth_token_hash: Option<Hash>,
    hpke_keys: Vec<Keypair>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    id: u8,
    kem_id: String,
    kdf_id: String,
    aead_id: String,
    public_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keypair {
    config: Key,
    private_key: String,
}

/// The header that presents a token.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Header {
    Bearer,
    DapAuth,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    r#type: Header,
    token: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hash {
    r#type: Header,
    hash: String,
}

/// Parses a list. Errors name the task.
pub fn read(text: &str, overrides: TaskListOverrides<'_>) -> Result<Vec<ListedTask>, String> {
    let (yaml, mut unknown) = (yaml_serde::Deserializer::from_str(text), None);
    let entries: Vec<Entry> =
        serde_ignored::deserialize(yaml, |path| unknown = unknown.take().or(Some(path.to_string())))
            .map_err(|error| format!("is not a task list: {error}"))?;
    if let Some(path) = unknown {
        return Err(format!("is not a task list: unknown field {path}"));
    }
    if entries.is_empty() {
        return Err("has no tasks".to_owned());
    }
    if entries.len() > MAX_TASKS {
        return Err(format!("has {} tasks, more than {MAX_TASKS}", entries.len()));
    }
    let read = |(index, entry): (usize, Entry)| {
        let label = entry.task_id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
        entry.read(overrides).map_err(|why| format!("task {}{label}: {why}", index + 1))
    };
    entries.into_iter().enumerate().map(read).collect()
}

/// Writes a list of the tasks of an aggregator with this tolerated clock skew. Omits the aggregator's keys. Fails if
/// the format cannot express a task; the error names it.
pub fn write(tasks: &[Task], skew: Duration) -> Result<String, String> {
    let entry = |task| Entry::of(task, skew).map_err(|why| format!("task {}: {why}", task.public.id));
    let entries = tasks.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    yaml_serde::to_string(&entries).map_err(|error| error.to_string())
}

impl Entry {
    fn of(task: &Task, skew: Duration) -> Result<Self, String> {
        let TaskParameters { min_batch_size, time_precision, task_expiration, .. } = task.public;
        let (role, peer) = match task.role() {
            Role::Leader => (AggregatorRole::Leader, &task.public.helper_url),
            _ => (AggregatorRole::Helper, &task.public.leader_url),
        };
        let mut entry = Self {
            task_id: Some(task.public.id.to_string()),
            peer_aggregator_endpoint: peer.clone(),
            query_type: QueryType::of(task.public.batch_mode),
            vdaf: Vdaf::of(&task.public.vdaf, task.public.noise)
                .ok_or("Janus does not support the VDAF or its parameters")?,
            role,
            vdaf_verify_key: Some(encode(task.verify_key.expose())),
            max_batch_query_count: task.max_batch_query_count,
            task_expiration,
            report_expiry_age: task.report_expiry_age,
            min_batch_size,
            time_precision,
            tolerable_clock_skew: skew,
            collector_hpke_config: Key::of(&task.collector_hpke_config)
                .ok_or("Janus does not support the algorithms of the collector's key")?,
            aggregator_auth_token: None,
            aggregator_auth_token_hash: None,
            collector_auth_token_hash: None,
            hpke_keys: Vec::new(),
        };
        let hash = |hash: &TokenHash| Some(Hash { r#type: Header::Bearer, hash: hash.to_string() });
        match &task.party {
            Party::Leader { helper_token, collector_token } => {
                let token = helper_token.expose_text().ok_or("the token is not text")?.to_owned();
                entry.aggregator_auth_token = Some(Token { r#type: Header::Bearer, token });
                entry.collector_auth_token_hash = hash(collector_token);
            }
            Party::Helper { leader_token } => entry.aggregator_auth_token_hash = hash(leader_token),
        }
        Ok(entry)
    }

    fn read(mut self, overrides: TaskListOverrides<'_>) -> Result<ListedTask, String> {
        let party = self.party()?;
        let peer = base_url("peer_aggregator_endpoint", &self.peer_aggregator_endpoint)?;
        let own_url = overrides.url.to_owned();
        let (leader_url, helper_url) = match self.role {
            AggregatorRole::Leader => (own_url, peer),
            AggregatorRole::Helper => (peer, own_url),
        };
        let id = decode("task_id", &required("task_id", self.task_id)?, &HASHES)?;
        let verify_key = decode("vdaf_verify_key", &required("vdaf_verify_key", self.vdaf_verify_key)?, &VERIFY_KEYS)?;
        let (vdaf, noise) = self.vdaf.config()?;
        let public = TaskParameters {
            id: TaskId::try_from(id.as_slice()).map_err(|error| error.to_string())?,
            revision: overrides.revision,
            info: String::new(),
            leader_url,
            helper_url,
            batch_mode: self.query_type.mode(),
            vdaf,
            min_batch_size: self.min_batch_size,
            time_precision: self.time_precision,
            task_expiration: self.task_expiration,
            task_interval: None,
            noise,
        };
        let task = Task {
            public,
            verify_key: Secret::new(verify_key),
            verify_key_id: 0,
            max_batch_query_count: self.max_batch_query_count,
            report_expiry_age: self.report_expiry_age,
            collector_hpke_config: self.collector_hpke_config.config("collector_hpke_config")?,
            party,
        };
        let keys = self.hpke_keys.iter().map(Keypair::id).collect::<Result<_, _>>()?;
        Ok(ListedTask { task, skew: self.tolerable_clock_skew, keys })
    }

    /// The role of the aggregator with its tokens.
    fn party(&mut self) -> Result<Party, String> {
        let aggregator = self.aggregator_auth_token.take();
        let hash = |name: &str, hash: Option<Hash>| hash.map(|hash| hash.read(name)).transpose();
        let aggregator_hash = hash("aggregator_auth_token_hash", self.aggregator_auth_token_hash.take())?;
        let collector = hash("collector_auth_token_hash", self.collector_auth_token_hash.take())?;
        let header = aggregator.as_ref().map(|token| token.r#type);
        let given = aggregator.map(|given| token(given.token)).transpose()?;
        let of_given = given.as_ref().map(|given| TokenHash::of(given.expose()));
        if aggregator_hash.is_some() && of_given.is_some() && aggregator_hash != of_given {
            return Err("aggregator_auth_token_hash is not the hash of aggregator_auth_token".to_owned());
        }
        match self.role {
            AggregatorRole::Leader if header == Some(Header::DapAuth) => Err(
                "aggregator_auth_token: type DapAuth is not supported: dapbox presents tokens as Bearer only, and Janus \
                 does not accept a DapAuth token in that header"
                    .to_owned(),
            ),
            AggregatorRole::Leader => Ok(Party::Leader {
                helper_token: required("aggregator_auth_token", given)?,
                collector_token: required("collector_auth_token_hash", collector)?,
            }),
            AggregatorRole::Helper if collector.is_some() => {
                Err("collector_auth_token_hash: not allowed for a helper, which has no collector token".to_owned())
            }
            AggregatorRole::Helper => {
                Ok(Party::Helper { leader_token: required("aggregator_auth_token_hash", aggregator_hash.or(of_given))? })
            }
        }
    }
}

impl Key {
    /// Returns `None` if the format has no name for an algorithm.
    fn of(config: &HpkeConfig) -> Option<Self> {
        Some(Self {
            id: config.id,
            kem_id: name(&KEMS, config.kem_id)?,
            kdf_id: name(&KDFS, config.kdf_id)?,
            aead_id: name(&AEADS, config.aead_id)?,
            public_key: encode(&config.public_key),
        })
    }

    fn config(&self, field: &str) -> Result<HpkeConfig, String> {
        let number = |known, name: &str| number(known, name).map_err(|why| format!("{field}: {why}"));
        Ok(HpkeConfig {
            id: self.id,
            kem_id: number(&KEMS, &self.kem_id)?,
            kdf_id: number(&KDFS, &self.kdf_id)?,
            aead_id: number(&AEADS, &self.aead_id)?,
            public_key: decode(&format!("{field}: public_key"), &self.public_key, &HPKE_KEYS)?,
        })
    }
}

impl Keypair {
    /// The key id, if the key pair is well-formed.
    fn id(&self) -> Result<u8, String> {
        decode("hpke_keys: private_key", &self.private_key, &PRIVATE_KEYS)?;
        self.config.config("hpke_keys").map(|config| config.id)
    }
}

impl Hash {
    /// Accepts tokens of both headers, because the aggregator checks both.
    fn read(&self, field: &str) -> Result<TokenHash, String> {
        let bytes = decode(field, &self.hash, &HASHES)?;
        TokenHash::try_from(bytes.as_slice()).map_err(|error| format!("{field}: {error}"))
    }
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("{field} is missing"))
}

fn decode(field: &str, text: &str, lengths: &[usize]) -> Result<Vec<u8>, String> {
    parse_bytes::parse(text, lengths).map_err(|why| format!("{field}: {why}"))
}

fn encode(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests;
