//! The DAP client: shards a measurement, seals each share to its aggregator, and uploads the report (DAP-09 section
//! 4.4, DAP-18 section 4.4).

mod bulk;
mod error;
mod journal;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration as Span, Instant},
};

use bytes::Bytes;

use crate::peer::{Peer, RequestError, RetryPolicy, retry};
use dapbox_protocol::{
    hpke::{self, Suite},
    model::{
        Extension, HpkeCiphertext, HpkeConfig, PlaintextInputShare, Report, ReportError, ReportId, ReportMetadata,
        Role, TaskParameters, Time,
    },
    vdaf::{self, Measurement, Preparer},
    wire::{self, Malformed, taskprov},
};
use dapbox_support::Fault;

pub use bulk::{UploadSummary, rejects_report};
pub use error::ClientError;
pub use journal::{InFlight, Journal};

/// Cache lifetime of an aggregator's keys if the response does not state one; also the maximum.
const DEFAULT_MAX_AGE: Span = Span::from_secs(86_400);

/// The keys that reports are sealed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatorKeys {
    /// The leader's key.
    pub leader: HpkeConfig,
    /// The helper's key.
    pub helper: HpkeConfig,
}

/// Uploads measurements for one task.
pub struct Client {
    task: TaskParameters,
    preparer: Arc<dyn Preparer>,
    peer: Peer,
    retries: RetryPolicy,
    in_band: Option<InBandConfig>,
    keys: Mutex<Option<CachedKeys>>,
}

/// What a client of an in-band task adds to its requests and reports.
#[derive(Clone, Debug)]
struct InBandConfig {
    advertisement: String,
    extensions: Vec<Extension>,
}

struct CachedKeys {
    keys: AggregatorKeys,
    until: Instant,
}

impl Client {
    /// Creates a client for a task. Fails if the task's parameters are invalid.
    pub fn new(task: TaskParameters, peer: Peer, retries: RetryPolicy) -> Result<Self, ClientError> {
        let preparer = vdaf::preparer(task.revision, &task.vdaf)?;
        Ok(Self { task, preparer, peer, retries, in_band: None, keys: Mutex::new(None) })
    }

    /// Advertises the configuration of an in-band task with every upload (draft-wang-ppm-dap-taskprov-06 section 4).
    pub fn with_advertisement(self, configuration: &[u8]) -> Self {
        let in_band = taskprov::for_revision(self.task.revision).map(|taskprov| {
            let extension = taskprov.report_extension().map(|kind| Extension { kind, data: Bytes::new() });
            InBandConfig {
                advertisement: taskprov.encode_header(configuration),
                extensions: extension.into_iter().collect(),
            }
        });
        Self { in_band, ..self }
    }

    /// The extensions of each input share.
    fn extensions(&self) -> Vec<Extension> {
        self.in_band.as_ref().map(|in_band| in_band.extensions.clone()).unwrap_or_default()
    }

    /// The task.
    pub fn task(&self) -> &TaskParameters {
        &self.task
    }

    /// Uploads one measurement made at `time`, or now. Retries transient failures: with a new report if the leader's
    /// key is outdated, with the same report if the response is lost.
    pub async fn upload(&self, measurement: Measurement, time: Option<Time>) -> Result<ReportId, ClientError> {
        let results = self.upload_together(Arc::from([measurement]), time).await;
        let missing = || Fault::while_doing("uploading a report", "no outcome");
        results.into_iter().next().unwrap_or_else(|| Err(missing().into()))
    }

    /// Creates a report without sending it, on a blocking thread.
    pub async fn prepare(&self, measurement: Measurement, time: Time) -> Result<Report, ClientError> {
        let keys = self.keys().await?;
        let (task, preparer, extensions) = (self.task.clone(), Arc::clone(&self.preparer), self.extensions());
        let make = move || make_report_with(&task, &*preparer, &keys, &extensions, &measurement, time);
        tokio::task::spawn_blocking(make).await.map_err(|e| Fault::while_doing("creating a report", e))?
    }

    /// Uploads reports in one request (DAP-09 section 4.4.2, DAP-18 section 4.4.2) and returns the rejected ones in
    /// order.
    ///
    /// Accepts at most [`reports_per_upload`](wire::Wire::reports_per_upload) reports. Retries transient failures with
    /// the same reports, which the leader deduplicates.
    pub async fn send(&self, reports: &[Report]) -> Result<Vec<(ReportId, ReportError)>, ClientError> {
        let wire = wire::for_revision(self.task.revision);
        let body = Bytes::from(wire.encode_upload(&self.task, reports));
        let advertisement = self.in_band.as_ref().map(|in_band| in_band.advertisement.clone());
        let spec = wire.upload_request(&self.task.id).with_advertisement(advertisement);
        let is_lost = AtomicBool::new(false);
        let upload = async || {
            let answer =
                self.peer.send(&self.task.leader_url, &spec, None, body.clone()).await.map_err(RequestError::from);
            let answer = answer.and_then(|answer| answer.expect(None)).inspect_err(|error| {
                is_lost.fetch_or(may_have_been_accepted(error), Ordering::Relaxed);
            })?;
            let answer = if answer.body.is_empty() { answer } else { answer.expect(spec.accept)? };
            let refused = wire.decode_upload_answer(&answer.body);
            refused.map_err(|malformed| RequestError::Unexpected(malformed.to_string()))
        };
        let mut refused = retry(self.retries, upload).await.map_err(ClientError::Upload)?;
        if let Some((id, _)) = refused.iter().find(|(id, _)| reports.iter().all(|report| report.metadata.id != *id)) {
            return Err(ClientError::Upload(RequestError::Unexpected(format!("unknown report {id}"))));
        }
        if is_lost.into_inner() {
            // An earlier attempt whose response was lost has uploaded these reports.
            refused.retain(|(_, error)| *error != ReportError::ReportReplayed);
        }
        Ok(refused)
    }

    /// The keys of both aggregators, from the cache or fetched.
    pub async fn keys(&self) -> Result<AggregatorKeys, ClientError> {
        if let Some(cached) = &*self.keys.lock().unwrap_or_else(PoisonError::into_inner)
            && Instant::now() < cached.until
        {
            return Ok(cached.keys.clone());
        }
        let (leader, leader_age) = self.fetch(Role::Leader).await?;
        let (helper, helper_age) = self.fetch(Role::Helper).await?;
        let keys = AggregatorKeys { leader, helper };
        let until = Instant::now() + leader_age.min(helper_age).min(DEFAULT_MAX_AGE);
        let cached = CachedKeys { keys: keys.clone(), until };
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(cached);
        Ok(keys)
    }

    /// Removes outdated keys from the cache, unless they were already replaced.
    fn invalidate_keys(&self, outdated: &AggregatorKeys) {
        let mut cached = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.as_ref().is_some_and(|cached| cached.keys == *outdated) {
            *cached = None;
        }
    }

    /// Fetches the key of one aggregator.
    pub async fn key(&self, role: Role) -> Result<HpkeConfig, ClientError> {
        self.fetch(role).await.map(|(key, _)| key)
    }

    /// Fetches the key of one aggregator with its cache lifetime (DAP-09 section 4.4.1, DAP-18 section 4.4.1).
    async fn fetch(&self, role: Role) -> Result<(HpkeConfig, Span), ClientError> {
        let url = if role == Role::Leader { &self.task.leader_url } else { &self.task.helper_url };
        let wire = wire::for_revision(self.task.revision);
        // The aggregator may not know an in-band task yet.
        let spec = wire.hpke_config_request(Some(&self.task.id).filter(|_| self.in_band.is_none()));
        let answer = retry(self.retries, || self.peer.call(url, &spec, None, Bytes::new()))
            .await
            .map_err(|cause| ClientError::Keys { role, url: url.to_owned(), cause })?;
        let key =
            select_key(wire.decode_hpke_configs(&answer.body)).map_err(|why| ClientError::NoUsableKey { role, why })?;
        Ok((key, answer.max_age.unwrap_or(DEFAULT_MAX_AGE)))
    }
}

/// Selects the first supported key of an aggregator's list, preferring post-quantum keys.
///
/// The list is in the aggregator's order of preference. Post-quantum keys may be last in it, because some clients fail
/// on a first key that they do not support. Each aggregator's key is selected independently: one post-quantum key
/// suffices against an attacker who records both shares and later has a quantum computer, because one share reveals
/// nothing.
fn select_key(configs: Result<Vec<HpkeConfig>, Malformed>) -> Result<HpkeConfig, String> {
    let configs = configs.map_err(|e| e.to_string())?;
    let count = configs.len();
    let (strong, others): (Vec<_>, Vec<_>) =
        configs.into_iter().partition(|config| Suite::of(config).is_post_quantum());
    strong.into_iter().chain(others).find(hpke::is_supported).ok_or_else(|| match count {
        0 => "the list is empty".to_owned(),
        _ => format!("none of its {count} keys is supported"),
    })
}

/// Whether the leader may have accepted the reports of a failed request.
fn may_have_been_accepted(error: &RequestError) -> bool {
    match error {
        RequestError::NoAnswer(error) => !error.never_sent(),
        // The leader keeps the reports that it stored before its disk was full.
        RequestError::Refused(problem) => matches!(problem.status, 500 | 502 | 504 | 507),
        RequestError::Unexpected(_) => true,
    }
}

/// Creates a report: shards the measurement, rounds the time down to the task's precision, and seals the shares (DAP-09
/// section 4.4.2, DAP-18 section 4.4.2).
pub fn make_report(
    task: &TaskParameters,
    preparer: &dyn Preparer,
    keys: &AggregatorKeys,
    measurement: &Measurement,
    time: Time,
) -> Result<Report, ClientError> {
    make_report_with(task, preparer, keys, &[], measurement, time)
}

/// Creates a report with extensions in both input shares.
fn make_report_with(
    task: &TaskParameters,
    preparer: &dyn Preparer,
    keys: &AggregatorKeys,
    extensions: &[Extension],
    measurement: &Measurement,
    time: Time,
) -> Result<Report, ClientError> {
    let wire = wire::for_revision(task.revision);
    let metadata = ReportMetadata { id: ReportId::random(), time: time.truncate(task.time_precision) };
    let shares = preparer.shard(&wire.vdaf_context(&task.id), measurement, &metadata.id)?;
    let aad = wire.input_share_aad(task, &metadata, &[], &shares.public_share);
    let seal = |role, key: &HpkeConfig, share: Vec<u8>| -> Result<HpkeCiphertext, ClientError> {
        let share = PlaintextInputShare { extensions: extensions.to_vec(), payload: Bytes::from(share) };
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
