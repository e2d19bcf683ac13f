//! The client of a task: splits a measurement in two, seals each half to its aggregator, and uploads it
//! (DAP-09 section 4.4).

mod many;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration as Span, Instant},
};

use bytes::Bytes;

use crate::{
    hpke,
    model::{
        Fault, HpkeCiphertext, HpkeConfig, PlaintextInputShare, Report, ReportId, ReportMetadata, Role, TaskParameters,
        Time,
    },
    peer::{CallError, Peer, Retries, retry},
    vdaf::{self, Measurement, Preparer, VdafError},
    wire::{self, Malformed, ProblemType},
};

pub use many::Summary;

/// How long an aggregator's keys are kept when it does not say.
const DEFAULT_MAX_AGE: Span = Span::from_secs(86_400);

/// The keys that a report is sealed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatorKeys {
    /// The leader's.
    pub leader: HpkeConfig,
    /// The helper's.
    pub helper: HpkeConfig,
}

/// Why a measurement was not uploaded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The measurement does not fit the task, or the task's parameters are wrong.
    #[error(transparent)]
    Vdaf(#[from] VdafError),
    /// An aggregator's keys cannot be had.
    #[error("the {role}'s keys, at {url}: {cause}")]
    Keys {
        /// Whose keys.
        role: Role,
        /// The aggregator's base URL.
        url: String,
        /// Why not.
        cause: CallError,
    },
    /// An aggregator's keys are of no use.
    #[error("the {role}'s keys: {why}")]
    NoUsableKey {
        /// Whose keys.
        role: Role,
        /// What is wrong with them.
        why: String,
    },
    /// Sealing failed: a public key is not what its configuration says.
    #[error("sealing to the {role}: {why}")]
    Seal {
        /// Whose key.
        role: Role,
        /// What is wrong.
        why: String,
    },
    /// The leader did not take the report.
    #[error("upload: {0}")]
    Upload(CallError),
    /// Something on our side broke.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ClientError {
    /// Whether another measurement may fare better: this one was refused, not all of them.
    pub fn is_about_the_report(&self) -> bool {
        match self {
            Self::Vdaf(_) => true,
            Self::Upload(CallError::Refused(problem)) => matches!(
                problem.kind,
                ProblemType::ReportRejected | ProblemType::ReportTooEarly | ProblemType::InvalidMessage
            ),
            _ => false,
        }
    }

    /// A short name to count by: the protocol's where it has one.
    pub fn reason(&self) -> String {
        match self {
            Self::Vdaf(_) => "invalidMeasurement".to_owned(),
            Self::Upload(CallError::Refused(problem)) => problem.kind.to_string(),
            Self::Upload(_) => "noAnswer".to_owned(),
            Self::Keys { .. } | Self::NoUsableKey { .. } | Self::Seal { .. } => "noKey".to_owned(),
            Self::Fault(_) => "fault".to_owned(),
        }
    }
}

/// Uploads measurements for one task.
pub struct Client {
    task: TaskParameters,
    preparer: Arc<dyn Preparer>,
    peer: Peer,
    retries: Retries,
    keys: Mutex<Option<Cached>>,
}

struct Cached {
    keys: AggregatorKeys,
    until: Instant,
}

impl Client {
    /// A client for a task. Fails if the task's parameters are wrong.
    pub fn new(task: TaskParameters, peer: Peer, retries: Retries) -> Result<Self, ClientError> {
        let preparer = vdaf::preparer(task.revision, &task.vdaf)?;
        Ok(Self { task, preparer, peer, retries, keys: Mutex::new(None) })
    }

    /// The task.
    pub fn task(&self) -> &TaskParameters {
        &self.task
    }

    /// Uploads one measurement, made at `time` or now. Tries again while that may help: with a new report if the leader
    /// does not know the key any more, with the same one if its answer is missing.
    pub async fn upload(&self, measurement: Measurement, time: Option<Time>) -> Result<ReportId, ClientError> {
        let time = time.unwrap_or_else(Time::now);
        let report = self.prepare(measurement.clone(), time).await?;
        match self.send(&report).await {
            Err(ClientError::Upload(error)) if is_outdated(&error) => {
                self.forget_keys();
                let report = self.prepare(measurement, time).await?;
                self.send(&report).await.map(|()| report.metadata.id)
            }
            result => result.map(|()| report.metadata.id),
        }
    }

    /// Makes a report without sending it. Computes on a thread for blocking work.
    pub async fn prepare(&self, measurement: Measurement, time: Time) -> Result<Report, ClientError> {
        let keys = self.keys().await?;
        let (task, preparer) = (self.task.clone(), Arc::clone(&self.preparer));
        tokio::task::spawn_blocking(move || make_report(&task, &*preparer, &keys, &measurement, time))
            .await
            .map_err(|e| Fault::while_doing("making a report", e))?
    }

    /// Uploads a report (DAP-09 section 4.4.2). Sending the same one again is harmless, so that is tried.
    pub async fn send(&self, report: &Report) -> Result<(), ClientError> {
        let wire = wire::of(self.task.revision);
        let body = Bytes::from(wire.encode_upload(&self.task, std::slice::from_ref(report)));
        let call = wire.upload_call(&self.task.id);
        let upload = || self.peer.call(&self.task.leader_url, &call, None, body.clone());
        retry(self.retries, upload).await.map(drop).map_err(ClientError::Upload)
    }

    /// The keys of both aggregators: those that we have, or new ones when they are too old.
    pub async fn keys(&self) -> Result<AggregatorKeys, ClientError> {
        if let Some(cached) = &*self.keys.lock().unwrap_or_else(PoisonError::into_inner)
            && Instant::now() < cached.until
        {
            return Ok(cached.keys.clone());
        }
        let (leader, leader_age) = self.fetch(Role::Leader, &self.task.leader_url).await?;
        let (helper, helper_age) = self.fetch(Role::Helper, &self.task.helper_url).await?;
        let keys = AggregatorKeys { leader, helper };
        let until = Instant::now() + leader_age.min(helper_age).min(DEFAULT_MAX_AGE);
        let cached = Cached { keys: keys.clone(), until };
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(cached);
        Ok(keys)
    }

    fn forget_keys(&self) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// An aggregator's first key that we can use, and how long it may be kept (DAP-09 section 4.4.1).
    async fn fetch(&self, role: Role, url: &str) -> Result<(HpkeConfig, Span), ClientError> {
        let wire = wire::of(self.task.revision);
        let call = wire.hpke_config_call(&self.task.id);
        let answer = retry(self.retries, || self.peer.call(url, &call, None, Bytes::new()))
            .await
            .map_err(|cause| ClientError::Keys { role, url: url.to_owned(), cause })?;
        let key =
            choose(wire.decode_hpke_configs(&answer.body)).map_err(|why| ClientError::NoUsableKey { role, why })?;
        Ok((key, answer.max_age.unwrap_or(DEFAULT_MAX_AGE)))
    }
}

/// The first key that we can use: an aggregator lists them in the order that it prefers.
fn choose(configs: Result<Vec<HpkeConfig>, Malformed>) -> Result<HpkeConfig, String> {
    let configs = configs.map_err(|e| e.to_string())?;
    let count = configs.len();
    configs.into_iter().find(hpke::is_supported).ok_or_else(|| match count {
        0 => "it has none".to_owned(),
        _ => format!("none of its {count} uses algorithms that are known here"),
    })
}

fn is_outdated(error: &CallError) -> bool {
    error.problem().is_some_and(|problem| problem.kind == ProblemType::OutdatedConfig)
}

/// Makes a report of a measurement: splits it, rounds the time down to the task's precision, and seals the halves
/// (DAP-09 section 4.4.2).
pub fn make_report(
    task: &TaskParameters,
    preparer: &dyn Preparer,
    keys: &AggregatorKeys,
    measurement: &Measurement,
    time: Time,
) -> Result<Report, ClientError> {
    let wire = wire::of(task.revision);
    let metadata = ReportMetadata { id: ReportId::random(), time: time.truncate(task.time_precision) };
    let shares = preparer.shard(&wire.vdaf_context(&task.id), measurement, &metadata.id)?;
    let aad = wire.input_share_aad(task, &metadata, &[], &shares.public_share);
    let seal = |role, key: &HpkeConfig, share: Vec<u8>| -> Result<HpkeCiphertext, ClientError> {
        let share = PlaintextInputShare { extensions: Vec::new(), payload: Bytes::from(share) };
        hpke::seal(key, &wire.input_share_info(role), &aad, &wire.encode_plaintext(&share))
            .map_err(|e| ClientError::Seal { role, why: e.to_string() })
    };
    Ok(Report {
        metadata,
        extensions: Vec::new(),
        leader_share: seal(Role::Leader, &keys.leader, shares.leader_share)?,
        helper_share: seal(Role::Helper, &keys.helper, shares.helper_share)?,
        public_share: Bytes::from(shares.public_share),
    })
}

#[cfg(test)]
mod tests;
