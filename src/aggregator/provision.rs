//! Tasks that a control plane sets up through the management API.
//!
//! A control plane makes the verification key, whose hash is the task's id, and asks the helper first. It gives the token
//! that it is told by the helper to the leader. It repeats what was not answered, so a repeat must be answered the same: the
//! token is not drawn but derived from a secret of ours and the task's id.
//!
//! A control plane sees and changes what was set up in this way, and no other task.

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

/// How many bytes the secret has that tokens are derived from.
const SEED_BYTES: usize = 32;
/// Keeps what is derived here apart from what may be derived elsewhere or otherwise from the same secret.
const DOMAIN: &[u8] = b"dapbox management 1: leader's token of task ";

/// What is ours to say about a task that a control plane asks for.
pub struct ServerTerms<'a> {
    /// The protocol that it will speak.
    pub revision: Revision,
    /// Our base URL.
    pub url: &'a str,
    /// The smallest minimum batch size that is not refused.
    pub min_batch_size: u64,
    /// How long its reports are kept.
    pub report_expiry_age: Option<Duration>,
    /// What tokens are derived from.
    pub seed: &'a Secret,
}

/// Why a task is not set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// The order makes no sense.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// It would give out aggregates of too few reports.
    #[error(
        "min_batch_size: {asked} is less than this aggregator's operator allows, which is {floor} (the option \
         provisioning.min_batch_size)"
    )]
    MinBatchSize {
        /// What was asked for.
        asked: u64,
        /// What is allowed.
        floor: u64,
    },
    /// A parameter is out of range, or the id is taken.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The task's token is another one by now.
    #[error(
        "the task is set up, and its operator has replaced the leader's token since: the first one is not good any more"
    )]
    TokenReplaced,
}

/// A new secret to derive tokens from.
pub fn new_seed() -> Secret {
    Secret::random(SEED_BYTES)
}

/// Keeps a new secret to derive tokens from, unless there is one: the one that counts.
pub fn init_seed(tx: &mut Tx<'_>, fresh: Secret) -> Result<Secret, Fault> {
    if let Some(seed) = tx.token_seed() {
        return Ok(seed.clone());
    }
    tx.put_token_seed(fresh.clone())?;
    Ok(fresh)
}

/// The token that the leader presents to us as its helper: HKDF with SHA-256 (RFC 5869) of our secret and the task's id.
///
/// # Panics
///
/// Never: HKDF can give 32 bytes.
pub fn leader_token(seed: &Secret, task: &TaskId) -> Secret {
    let (hkdf, mut bytes) = (Hkdf::<Sha256>::new(None, seed.expose()), [0; 32]);
    hkdf.expand(&[DOMAIN, task.as_bytes()].concat(), &mut bytes).expect("a token is short");
    Secret::new(URL_SAFE_NO_PAD.encode(bytes).into_bytes())
}

/// The task that is asked for, checked; and the leader's token, if we are its helper.
pub fn task(order: NewTask, ours: &ServerTerms<'_>) -> Result<(Task, Option<Secret>), ProvisionError> {
    check_min_batch_size(order.min_batch_size, ours.min_batch_size)?;
    let id = TaskId::new(Sha256::digest(order.verify_key.expose()).into());
    let refuse = |why| Err(ProvisionError::InvalidRequest(why));
    let (party, token) = match (order.role, order.helper_token, order.collector_token) {
        (Role::Leader, Some(helper_token), Some(collector_token)) => {
            (Party::Leader { helper_token, collector_token }, None)
        }
        (Role::Leader, None, _) => return refuse("a leader needs aggregator_auth_token, which its helper gave out"),
        (Role::Leader, _, None) => return refuse("a leader needs collector_auth_token_hash"),
        (_, None, None) => {
            let token = leader_token(ours.seed, &id);
            (Party::Helper { leader_token: TokenHash::of(token.expose()) }, Some(token))
        }
        (_, Some(_), _) => return refuse("a helper makes aggregator_auth_token itself, and must not be given one"),
        (_, None, Some(_)) => {
            return refuse("a helper has nothing to do with the collector: no collector_auth_token_hash");
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

/// Refuses a minimum batch size below the operator's floor.
pub fn check_min_batch_size(asked: u64, floor: u64) -> Result<(), ProvisionError> {
    if asked < floor { Err(ProvisionError::MinBatchSize { asked, floor }) } else { Ok(()) }
}

/// Sets a checked task up. The same again is fine. Says what is there now: the task, and the end in force.
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

/// Whether the same was asked for. What only we decide may have changed since.
fn is_same(there: &Task, asked: &Task) -> bool {
    let mut asked = asked.clone();
    asked.report_expiry_age = there.report_expiry_age;
    match there.role() {
        Role::Leader => asked.public.leader_url.clone_from(&there.public.leader_url),
        _ => asked.public.helper_url.clone_from(&there.public.helper_url),
    }
    *there == asked
}

/// Changes the end of a task that a control plane has set up. False if there is no such task.
///
/// In DAP-09 no report, request or share is bound to it. While the two aggregators have different ends, the later end
/// counts for nothing: what one of them refuses, both drop.
pub fn set_end(tx: &mut Tx<'_>, id: &TaskId, end: Option<Time>) -> Result<bool, Fault> {
    let Some(provision) = tx.task(id).and_then(|state| state.provision.clone()) else { return Ok(false) };
    if provision.end != end {
        tx.put_provision(id, Provision { end, ..provision })?;
    }
    Ok(true)
}

/// How many reports met which end at upload, by the names of the API.
pub fn upload_metrics(counters: &BTreeMap<String, u64>) -> BTreeMap<&'static str, u64> {
    named(counters, &UPLOADS)
}

/// How many reports met which end in aggregation, by the names of the API.
pub fn aggregation_metrics(counters: &BTreeMap<String, u64>) -> BTreeMap<&'static str, u64> {
    named(counters, &AGGREGATIONS)
}

fn named(counters: &BTreeMap<String, u64>, names: &[(&'static str, &str)]) -> BTreeMap<&'static str, u64> {
    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
    names.iter().map(|(theirs, ours)| (*theirs, count(ours))).collect()
}

/// What the API counts of uploads, and our counter; none where it cannot happen here. A leader opens nothing at upload:
/// what cannot be opened counts in aggregation.
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

/// The same of aggregation. An extension that is there twice makes a message invalid here.
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

    /// What Python's `hmac` makes of RFC 5869.
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
