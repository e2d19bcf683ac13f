//! Tasks that are set up in-band: their validation and their verification keys.
//!
//! A client needs only a known peer to set up a task at its leader, without a token. So the task is validated like any
//! other, its minimum batch size must reach the operator's, and the number of tasks per peer is limited.
//!
//! # Decision: in-band tasks use the tokens of their peer
//!
//! An in-band task has no tokens of its own; the current tokens of its peer are valid. They are rotated in one place
//! for all tasks, and a deleted peer is valid for none. Everything else of the task is fixed when it is first seen.
//! Both aggregators check the extension of its reports when they open the shares.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use super::{
    idle,
    provision::{ProvisionError, check_min_batch_size},
    tasks::{self, TaskError},
};
use dapbox_protocol::{
    model::{
        BaseUrl, Duration, Party, Role, Secret, Task, TaskId, Time, TokenHash,
        taskprov::{InBandOrigin, PeerAggregator, PeerCredentials, PeerName, TaskConfiguration, is_same_endpoint},
    },
    vdaf,
};
use dapbox_store::{TaskState, Tx, WriteError};
use dapbox_support::Fault;

/// The input of the hash that gives the salt (draft-wang-ppm-dap-taskprov-06 section 3.2).
const SALT: &[u8] = b"dap-taskprov";

/// The operator's terms for in-band tasks.
#[derive(Clone, Copy, Debug)]
pub struct InBandTerms {
    /// The smallest accepted minimum batch size; the peer's own may be larger.
    pub min_batch_size: u64,
    /// How long reports are kept, unless the peer specifies it.
    pub report_expiry_age: Option<Duration>,
    /// The most tasks of one peer.
    pub max_tasks: u64,
}

/// Why a task is rejected (draft-wang-ppm-dap-taskprov-06 section 3.3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptOut {
    /// The other aggregator is not a known peer.
    #[error("the task's {0} is not a configured peer")]
    UnknownPeer(Role),
    /// The minimum batch size is too small.
    #[error(transparent)]
    MinBatchSize(ProvisionError),
    /// A parameter is out of range, or the id was used before.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The task has ended.
    #[error("the task has expired")]
    Expired,
    /// The task belongs to another server.
    #[error("the task's {role} URL {url} is not that of this server (option public_url)")]
    WrongUrl {
        /// Our role in the task.
        role: Role,
        /// The URL of the task for this role.
        url: String,
    },
    /// Its peer has too many tasks.
    #[error("the peer already has {0} tasks, which is the maximum (option taskprov.max_tasks)")]
    TooMany(u64),
}

/// Derives the verification key of a task from the secret shared by leader and helper and from the task id: HKDF with
/// SHA-256 (draft-wang-ppm-dap-taskprov-06 section 3.2, unchanged in later drafts).
///
/// # Panics
///
/// If `length` exceeds 8,160 bytes. VDAFs need 16 or 32.
pub fn verify_key(init: &Secret, task: &TaskId, length: usize) -> Secret {
    let (hkdf, mut key) = (Hkdf::<Sha256>::new(Some(&Sha256::digest(SALT)), init.expose()), vec![0; length]);
    hkdf.expand(task.as_bytes(), &mut key).expect("the verification key of a VDAF is short");
    Secret::new(key)
}

/// The name of the other aggregator of a task in which we have this role.
pub fn peer_of(configuration: &TaskConfiguration, ours: Role) -> PeerName {
    let (endpoint, role) = match ours {
        Role::Leader => (&configuration.public.helper_url, Role::Helper),
        _ => (&configuration.public.leader_url, Role::Leader),
    };
    PeerName { endpoint: endpoint.clone(), role }
}

/// Builds and validates the task of a configuration. The peer is the one that [`peer_of`] names.
pub fn task(
    configuration: &TaskConfiguration,
    peer: &PeerAggregator,
    terms: &InBandTerms,
    now: Time,
) -> Result<Task, OptOut> {
    let public = configuration.public.clone();
    let floor = terms.min_batch_size.max(peer.min_batch_size.unwrap_or(0));
    check_min_batch_size(public.min_batch_size, floor).map_err(OptOut::MinBatchSize)?;
    let end = public.task_interval.map(|interval| interval.end()).or(public.task_expiration);
    if end.is_some_and(|end| end <= now) {
        return Err(OptOut::Expired);
    }
    let refuse = |why: String| OptOut::Task(TaskError::Parameter(why));
    let preparer = vdaf::preparer_for_task(&public).map_err(|why| refuse(format!("VDAF: {why}")))?;
    let task = Task {
        verify_key: verify_key(&peer.verify_key_init, &public.id, preparer.verify_key_length()),
        public,
        verify_key_id: 0,
        max_batch_query_count: configuration.max_batch_query_count,
        report_expiry_age: peer.report_expiry_age.or(terms.report_expiry_age),
        collector_hpke_config: peer.collector_hpke_config.clone(),
        party: party(peer),
    };
    tasks::check(&task)?;
    Ok(task)
}

/// Our part of a task. Its tokens are placeholders: the current tokens of the peer are valid instead.
fn party(peer: &PeerAggregator) -> Party {
    let unknown = || TokenHash::of(Secret::random(32).expose());
    match peer.side {
        PeerCredentials::Leader { .. } => Party::Helper { leader_token: unknown() },
        PeerCredentials::Helper { .. } => {
            Party::Leader { helper_token: Secret::random_token(), collector_token: unknown() }
        }
    }
}

/// Rejects a task whose URL for our role is not `own_url`.
pub fn check_own_url(configuration: &TaskConfiguration, ours: Role, own_url: &str) -> Result<(), OptOut> {
    let url = if ours == Role::Leader { &configuration.public.leader_url } else { &configuration.public.helper_url };
    match (url.parse::<BaseUrl>(), own_url.parse::<BaseUrl>()) {
        (Ok(found), Ok(own)) if found.is_equivalent_to(&own) => Ok(()),
        _ => Err(OptOut::WrongUrl { role: ours, url: url.clone() }),
    }
}

/// Adds a validated in-band task. An existing task is kept. Returns the unused tasks that it replaced.
pub fn add(
    tx: &mut Tx<'_>,
    task: Task,
    in_band: InBandOrigin,
    max_tasks: u64,
) -> Result<Vec<TaskId>, WriteError<OptOut>> {
    let (id, now) = (task.public.id, in_band.at);
    if tx.is_removed(&id) {
        return Err(WriteError::Refused(TaskError::Removed.into()));
    }
    if tx.task(&id).is_some() {
        return Ok(Vec::new());
    }
    let is_of_peer = |state: &TaskState| {
        let known = state.in_band.as_ref().is_some_and(|known| is_same_endpoint(&known.peer, &in_band.peer));
        known && state.task.role() == task.role()
    };
    let of_peer: Vec<TaskId> = tx.tasks().filter(|(_, state)| is_of_peer(state)).map(|(id, _)| *id).collect();
    let needed = (of_peer.len() as u64).saturating_add(1).saturating_sub(max_tasks);
    let replaced = match usize::try_from(needed) {
        Ok(0) => Vec::new(),
        Ok(needed) => match idle::replaceable(tx, &of_peer, needed, now) {
            Some(replaced) => replaced,
            None => return Err(WriteError::Refused(OptOut::TooMany(max_tasks))),
        },
        Err(_) => return Err(WriteError::Refused(OptOut::TooMany(max_tasks))),
    };
    for old in &replaced {
        idle::remove(tx, old, now)?;
    }
    tx.add_task(task)?;
    tx.put_in_band(&id, in_band)?;
    Ok(replaced)
}

/// Registers a peer. Returns false if another peer with the same name exists.
pub fn add_peer(tx: &mut Tx<'_>, peer: PeerAggregator) -> Result<bool, Fault> {
    let name = peer.name();
    match tx.peers().values().find(|known| name.matches(known)) {
        Some(known) => Ok(*known == peer),
        None => tx.add_peer(peer).map(|()| true),
    }
}

/// Deletes a registered peer. Its tasks stay, but no token is valid for them.
pub fn remove_peer(tx: &mut Tx<'_>, name: &PeerName) {
    let found = tx.peers().iter().find(|(_, peer)| name.matches(peer)).map(|(number, _)| *number);
    found.into_iter().for_each(|number| tx.remove_peer(number));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use dapbox_protocol::{
        hpke::{Keypair, Suite},
        model::{BatchMode, Revision, TaskParameters, VdafConfig},
        wire,
    };

    const TERMS: InBandTerms = InBandTerms { min_batch_size: 100, report_expiry_age: Some(Duration(30)), max_tasks: 1 };

    /// Builds the task of a leader's request with this minimum batch size.
    fn set_up(min_batch_size: u64, peer: &PeerAggregator) -> Result<Task, OptOut> {
        set_up_at("https://b.example", min_batch_size, peer)
    }

    /// Builds it with the helper at this URL.
    fn set_up_at(helper_url: &str, min_batch_size: u64, peer: &PeerAggregator) -> Result<Task, OptOut> {
        let public = TaskParameters {
            id: TaskId::new([0; 32]),
            revision: Revision::Dap09,
            info: String::new(),
            leader_url: peer.endpoint.clone(),
            helper_url: helper_url.to_owned(),
            batch_mode: BatchMode::TimeInterval,
            vdaf: VdafConfig::Prio3Count,
            min_batch_size,
            time_precision: Duration(60),
            task_expiration: Some(Time(1000)),
            task_interval: None,
            noise: None,
        };
        let configuration = wire::taskprov::advertise(public, Bytes::from_static(b"x"), 1).unwrap().configuration;
        task(&configuration, peer, &TERMS, Time(999))
    }

    fn leader(min_batch_size: Option<u64>, report_expiry_age: Option<Duration>) -> PeerAggregator {
        PeerAggregator {
            endpoint: "https://a.example".to_owned(),
            verify_key_init: Secret::random(32),
            collector_hpke_config: Keypair::generate(1, Suite::DEFAULT).unwrap().config().clone(),
            report_expiry_age,
            min_batch_size,
            side: PeerCredentials::Leader { tokens: Vec::new() },
        }
    }

    #[test]
    fn enforces_the_higher_of_two_minimum_batch_sizes() {
        for (of_peer, floor) in [(None, 100), (Some(50), 100), (Some(200), 200)] {
            let peer = leader(of_peer, None);
            let refused = set_up(floor - 1, &peer).unwrap_err();
            assert_eq!(refused, OptOut::MinBatchSize(ProvisionError::MinBatchSize { asked: floor - 1, floor }));
            assert!(set_up(floor, &peer).is_ok());
        }
    }

    #[test]
    fn rejects_invalid_urls_in_band() {
        let peer = leader(None, None);
        for url in ["https://b.example/?x", "https://u@b.example", "https:b.example", "https://a.example:443/"] {
            let refused = set_up_at(url, 100, &peer).unwrap_err();
            assert!(matches!(refused, OptOut::Task(TaskError::Parameter(_))), "{url}: {refused}");
        }
    }

    #[test]
    fn derives_task_from_its_peer() {
        let peer = leader(None, Some(Duration(7)));
        let task = set_up(100, &peer).unwrap();
        assert_eq!((task.role(), task.report_expiry_age), (Role::Helper, Some(Duration(7))));
        assert_eq!(task.collector_hpke_config, peer.collector_hpke_config);
        assert_eq!(task.verify_key, verify_key(&peer.verify_key_init, &task.public.id, 16));
        assert_eq!(set_up(100, &leader(None, None)).unwrap().report_expiry_age, Some(Duration(30)));
    }

    #[test]
    fn verify_key_matches_another_implementation() {
        // Computed with Python's `hmac` according to RFC 5869.
        let expected = "e91d4af26ffd2071f4f5d4166f6667b4756190c5928370e9b915553f65eaf689";
        let (init, task) = (Secret::new((0..32).collect()), TaskId::new([7; 32]));
        let hex = |length| -> String {
            verify_key(&init, &task, length).expose().iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_eq!((hex(32).as_str(), hex(16).as_str()), (expected, &expected[..32]));
        assert_ne!(verify_key(&init, &TaskId::new([8; 32]), 32), verify_key(&init, &task, 32));
    }
}
