//! Tasks that a control plane provisions through the management API.
//!
//! A control plane generates the verification key, whose hash is the task id. It first asks the helper and passes the
//! token from its answer to the leader. It repeats unanswered requests. It can see and change its own tasks only.
//!
//! # Decision: a provisioned task has a mutable end and a derived token
//!
//! The end of a provisioned task is stored beside the task, like tokens, and may change: nothing in DAP-09 is bound to
//! it. The leader's token is derived from a secret of the server and the task id. A repeated request therefore gets the
//! same answer, even after a restart or a restore.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use super::tasks::{self, TaskError};
use dapbox_protocol::{
    model::{Duration, Party, Revision, Role, Secret, Task, TaskId, TaskParameters, Time, TokenHash},
    wire::management::NewTask,
};
use dapbox_store::{Tx, WriteError, api_token::Provision};
use dapbox_support::Fault;

/// The length of the seed of tokens, in bytes.
const SEED_BYTES: usize = 32;
/// Separates derived tokens from other uses of the seed.
const DOMAIN: &[u8] = b"dapbox management 1: leader's token of task ";

/// The server's terms for a provisioned task.
pub struct ServerTerms<'a> {
    /// The protocol revision of the task.
    pub revision: Revision,
    /// Our base URL.
    pub url: &'a str,
    /// The smallest accepted minimum batch size.
    pub min_batch_size: u64,
    /// How long its reports are kept.
    pub report_expiry_age: Option<Duration>,
    /// The seed of tokens.
    pub seed: &'a Secret,
}

/// Why a task is not provisioned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// The request is invalid.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// The minimum batch size is too small.
    #[error(
        "min_batch_size {asked} is below the minimum of this aggregator, {floor} (option \
         provisioning.min_batch_size)"
    )]
    MinBatchSize {
        /// The requested size.
        asked: u64,
        /// The smallest accepted size.
        floor: u64,
    },
    /// A parameter is out of range, or the id is in use.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The token of the task was replaced since.
    #[error("the task exists, but its operator has replaced the leader's token; the derived token is no longer valid")]
    TokenReplaced,
}

/// Generates a seed for tokens.
pub fn new_seed() -> Secret {
    Secret::random(SEED_BYTES)
}

/// Stores a new seed for tokens unless there is one. Returns the stored seed.
pub fn init_seed(tx: &mut Tx<'_>, fresh: Secret) -> Result<Secret, Fault> {
    if let Some(seed) = tx.token_seed() {
        return Ok(seed.clone());
    }
    tx.put_token_seed(fresh.clone())?;
    Ok(fresh)
}

/// Derives the token of the leader for its helper: HKDF with SHA-256 (RFC 5869) of the seed and the task id.
///
/// # Panics
///
/// Never: HKDF can produce 32 bytes.
pub fn leader_token(seed: &Secret, task: &TaskId) -> Secret {
    let (hkdf, mut bytes) = (Hkdf::<Sha256>::new(None, seed.expose()), [0; 32]);
    hkdf.expand(&[DOMAIN, task.as_bytes()].concat(), &mut bytes).expect("a token is short");
    Secret::new(URL_SAFE_NO_PAD.encode(bytes).into_bytes())
}

/// Builds and validates the requested task. A helper also gets the token for its leader.
pub fn task(order: NewTask, ours: &ServerTerms<'_>) -> Result<(Task, Option<Secret>), ProvisionError> {
    check_min_batch_size(order.min_batch_size, ours.min_batch_size)?;
    let id = TaskId::new(Sha256::digest(order.verify_key.expose()).into());
    let refuse = |why| Err(ProvisionError::InvalidRequest(why));
    let (party, token) = match (order.role, order.helper_token, order.collector_token) {
        (Role::Leader, Some(helper_token), Some(collector_token)) => {
            (Party::Leader { helper_token, collector_token }, None)
        }
        (Role::Leader, None, _) => return refuse("a leader needs aggregator_auth_token, which its helper returned"),
        (Role::Leader, _, None) => return refuse("a leader needs collector_auth_token_hash"),
        (_, None, None) => {
            let token = leader_token(ours.seed, &id);
            (Party::Helper { leader_token: TokenHash::of(token.expose()) }, Some(token))
        }
        (_, Some(_), _) => return refuse("a helper generates aggregator_auth_token; remove it from the request"),
        (_, None, Some(_)) => {
            return refuse("a helper does not use collector_auth_token_hash; remove it from the request");
        }
    };
    let (own, peer) = (ours.url.to_owned(), order.peer_url);
    let (leader_url, helper_url) = if order.role == Role::Leader { (own, peer) } else { (peer, own) };
    let public = TaskParameters {
        id,
        revision: ours.revision,
        info: String::new(),
        leader_url,
        helper_url,
        batch_mode: order.batch_mode,
        vdaf: order.vdaf,
        min_batch_size: order.min_batch_size,
        time_precision: order.time_precision,
        task_expiration: order.end,
        task_interval: None,
        noise: order.noise,
    };
    let task = Task {
        public,
        verify_key: order.verify_key,
        verify_key_id: 0,
        max_batch_query_count: order.max_batch_query_count,
        report_expiry_age: ours.report_expiry_age,
        collector_hpke_config: order.collector_key,
        party,
    };
    tasks::check(&task)?;
    Ok((task, token))
}

/// Rejects a minimum batch size below the operator's.
pub fn check_min_batch_size(asked: u64, floor: u64) -> Result<(), ProvisionError> {
    if asked < floor { Err(ProvisionError::MinBatchSize { asked, floor }) } else { Ok(()) }
}

/// Adds a validated task. Repeating the request succeeds. Returns the stored task and its current end.
pub fn add(
    tx: &mut Tx<'_>,
    task: Task,
    by: &str,
    now: Time,
) -> Result<(Task, Option<Time>), WriteError<ProvisionError>> {
    let id = task.public.id;
    if tx.is_removed(&id) {
        return Err(WriteError::Refused(TaskError::Removed.into()));
    }
    let Some(state) = tx.task(&id) else {
        let end = task.public.task_expiration;
        tx.add_task(task.clone())?;
        tx.put_provision(&id, Provision { at: now, by: by.to_owned(), end })?;
        return Ok((task, end));
    };
    if state.provision.is_none() || !is_same(&state.task, &task) {
        return Err(WriteError::Refused(TaskError::Differs.into()));
    }
    let is_in_force = match task.party {
        Party::Leader { .. } => true,
        Party::Helper { leader_token } => state.tokens.accepts(leader_token, now),
    };
    if !is_in_force {
        return Err(WriteError::Refused(ProvisionError::TokenReplaced));
    }
    Ok((state.task.as_ref().clone(), state.end()))
}

/// Whether the requested task equals the stored one, except for what only this server decides.
fn is_same(there: &Task, asked: &Task) -> bool {
    let mut asked = asked.clone();
    asked.report_expiry_age = there.report_expiry_age;
    match there.role() {
        Role::Leader => asked.public.leader_url.clone_from(&there.public.leader_url),
        _ => asked.public.helper_url.clone_from(&there.public.helper_url),
    }
    *there == asked
}

/// Changes the end of a provisioned task. Returns false if there is no such task.
///
/// In DAP-09 no report, request or share is bound to the end. While the ends of the two aggregators differ, the earlier
/// one counts: both drop what one of them rejects.
pub fn set_end(tx: &mut Tx<'_>, id: &TaskId, end: Option<Time>) -> Result<bool, Fault> {
    let Some(provision) = tx.task(id).and_then(|state| state.provision.clone()) else { return Ok(false) };
    if provision.end != end {
        tx.put_provision(id, Provision { end, ..provision })?;
    }
    Ok(true)
}

/// Upload counters under the names of the API.
pub fn upload_metrics(counters: &BTreeMap<String, u64>) -> BTreeMap<&'static str, u64> {
    named(counters, &UPLOADS)
}

/// Aggregation counters under the names of the API.
pub fn aggregation_metrics(counters: &BTreeMap<String, u64>) -> BTreeMap<&'static str, u64> {
    named(counters, &AGGREGATIONS)
}

fn named(counters: &BTreeMap<String, u64>, names: &[(&'static str, &str)]) -> BTreeMap<&'static str, u64> {
    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
    names.iter().map(|(theirs, ours)| (*theirs, count(ours))).collect()
}

/// Upload metrics of the API and our counters; an empty counter never occurs here. A leader opens only a sample of
/// shares at upload, and counts their failures as aggregation failures.
const UPLOADS: [(&str, &str); 8] = [
    ("interval_collected", "interval_collected"),
    ("report_decode_failure", "report_decode_failure"),
    ("report_decrypt_failure", ""),
    ("report_expired", "report_expired"),
    ("report_outdated_key", "report_outdated_key"),
    ("report_success", "report_success"),
    ("report_too_early", "upload_too_early"),
    ("task_expired", "upload_task_expired"),
];

/// Aggregation metrics of the API and our counters. A duplicate extension is an invalid message here.
const AGGREGATIONS: [(&str, &str); 21] = [
    ("success", "aggregate_success"),
    ("duplicate_extension", ""),
    ("public_share_encode_failure", ""),
    ("batch_collected", "batch_collected"),
    ("report_replayed", "report_replayed"),
    ("report_dropped", "report_dropped"),
    ("hpke_unknown_config_id", "hpke_unknown_config_id"),
    ("hpke_decrypt_failure", "hpke_decrypt_error"),
    ("vdaf_prep_error", "vdaf_prep_error"),
    ("task_expired", "task_expired"),
    ("invalid_message", "invalid_message"),
    ("report_too_early", "report_too_early"),
    ("helper_batch_collected", "helper_batch_collected"),
    ("helper_report_replayed", "helper_report_replayed"),
    ("helper_report_dropped", "helper_report_dropped"),
    ("helper_hpke_unknown_config_id", "helper_hpke_unknown_config_id"),
    ("helper_hpke_decrypt_failure", "helper_hpke_decrypt_error"),
    ("helper_vdaf_prep_error", "helper_vdaf_prep_error"),
    ("helper_task_expired", "helper_task_expired"),
    ("helper_invalid_message", "helper_invalid_message"),
    ("helper_report_too_early", "helper_report_too_early"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters;
    use dapbox_protocol::model::ReportError;

    /// Computed with Python's `hmac` according to RFC 5869.
    const EXPECTED: &str = "QgOP79aE8sKrjUCgAoayGGdLSN8d7x51iWuUzy_CJbU";

    #[test]
    fn token_matches_another_implementation() {
        let (seed, id) = (Secret::new((0..32).collect()), TaskId::new([7; 32]));
        let token = leader_token(&seed, &id);
        assert_eq!(token.expose_text(), Some(EXPECTED));
        assert_ne!(leader_token(&seed, &TaskId::new([8; 32])), token);
        assert_ne!(leader_token(&Secret::new(vec![0; 32]), &id), token);
    }

    #[test]
    fn maps_every_counter_of_the_api() {
        let errors = [
            ReportError::BatchCollected,
            ReportError::ReportReplayed,
            ReportError::ReportDropped,
            ReportError::HpkeUnknownConfigId,
            ReportError::HpkeDecryptError,
            ReportError::VdafPrepError,
            ReportError::TaskExpired,
            ReportError::InvalidMessage,
            ReportError::ReportTooEarly,
        ];
        let mut ours: Vec<_> = AGGREGATIONS.iter().map(|(_, ours)| *ours).filter(|ours| !ours.is_empty()).collect();
        let both =
            errors.iter().flat_map(|error| [counters::refused(*error).into(), counters::refused_by_helper(*error)]);
        let mut counted: Vec<_> = both.chain([counters::AGGREGATE_SUCCESS.into()]).collect();
        ours.sort_unstable();
        counted.sort_unstable();
        assert_eq!(ours, counted);

        let mut ours: Vec<_> = UPLOADS.iter().map(|(_, ours)| *ours).filter(|ours| !ours.is_empty()).collect();
        let mut counted = [
            counters::INTERVAL_COLLECTED,
            counters::REPORT_DECODE_FAILURE,
            counters::REPORT_EXPIRED,
            counters::REPORT_OUTDATED_KEY,
            counters::REPORT_SUCCESS,
            counters::REPORT_TOO_EARLY,
            counters::TASK_EXPIRED,
        ];
        ours.sort_unstable();
        counted.sort_unstable();
        assert_eq!(ours, counted);
    }
}
