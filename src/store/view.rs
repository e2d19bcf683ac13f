//! The interface of a read.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLockReadGuard},
};

use bytes::Bytes;

use super::{
    records::{CollectedBatch, CollectionJobRecord, HelperJobRecord, KeyRecord, PackRecord, ReportRef},
    rows::{self, Rows},
    state::{State, TaskState},
    table,
    writer::Core,
};
use crate::api_token::ApiToken;
use dapbox_protocol::model::{
    AggregateShareId, AggregationJobId, BatchSelector, CollectionJobId, Duration, Report, Secret, TaskId, Time,
    TokenHash, taskprov::PeerAggregator,
};
use dapbox_support::Fault;

/// A running read between two groups of writes.
///
/// Memory may be ahead of the disk. Reading a row waits until the state in memory is durable, a few milliseconds at
/// most, so rows and memory agree. State whose loss would matter after it was given out must be read from a row.
pub struct View<'a> {
    pub(super) state: RwLockReadGuard<'a, State>,
    pub(super) core: &'a Core,
}

impl View<'_> {
    /// Returns a task, or `None` if no task has this id.
    pub fn task(&self, id: &TaskId) -> Option<&TaskState> {
        self.state.tasks.get(id)
    }

    /// All tasks, by id.
    pub fn tasks(&self) -> impl Iterator<Item = (&TaskId, &TaskState)> {
        self.state.tasks.iter()
    }

    /// All HPKE keys, by configuration id.
    pub fn keys(&self) -> &BTreeMap<u8, KeyRecord> {
        &self.state.keys
    }

    /// All API tokens, by hash.
    pub fn api_tokens(&self) -> &BTreeMap<TokenHash, ApiToken> {
        &self.state.api_tokens
    }

    /// Registered peers, by number.
    pub fn peers(&self) -> &BTreeMap<u64, PeerAggregator> {
        &self.state.peers
    }

    /// The seed of the tokens of provisioned tasks, if there is one.
    pub fn token_seed(&self) -> Option<&Secret> {
        self.state.token_seed.as_ref()
    }

    /// In a restored copy, the time before which it may have lost tasks.
    pub fn history_lost_before(&self) -> Option<Time> {
        self.state.history_lost_before
    }

    /// The largest `limits.clock_skew` of any server on this directory; zero if unknown.
    pub fn clock_skew(&self) -> Duration {
        self.state.clock_skew
    }

    /// Whether a task with this id was removed.
    pub fn is_removed(&self, id: &TaskId) -> bool {
        self.state.removed.contains_key(id)
    }

    /// Reads a row that does not exist, to check that the database responds.
    pub fn probe(&self) -> Result<(), Fault> {
        self.get(&[]).map(drop)
    }

    /// Loads the reports at these positions, in the same order. Faults if one does not exist. Reads each pack once if
    /// the positions are sorted.
    pub fn load_reports(&self, task: &TaskId, positions: &[ReportRef]) -> Result<Vec<Report>, Fault> {
        self.load_some_reports(task, positions, usize::MAX)
    }

    /// Loads the first of these reports, up to about `most` bytes but at least one.
    pub fn load_some_reports(&self, task: &TaskId, positions: &[ReportRef], most: usize) -> Result<Vec<Report>, Fault> {
        let missing = |at: &ReportRef| Fault::new(format!("report {at:?} of task {task} does not exist"));
        let is_alive = |at| self.task(task).is_some_and(|task| task.waiting.is_alive(at));
        let mut current: Option<(u64, PackRecord)> = None;
        let mut reports = Vec::new();
        let mut bytes = 0;
        for at in positions {
            if bytes >= most {
                break;
            }
            if !is_alive(at) {
                return Err(missing(at));
            }
            let pack = match current.take() {
                Some((number, pack)) if number == at.pack => pack,
                _ => rows::load(self, &table::PACKS, &(*task, at.pack))?.ok_or_else(|| missing(at))?,
            };
            let report = pack.get(at.slot as usize).ok_or_else(|| missing(at))?;
            bytes += report.size();
            reports.push(report.clone().into());
            current = Some((at.pack, pack));
        }
        Ok(reports)
    }

    /// Loads a collected batch.
    pub fn collected(&self, task: &TaskId, batch: &BatchSelector) -> Result<Option<CollectedBatch>, Fault> {
        rows::load_of(self, task, &table::COLLECTED, &(*task, *batch))
    }

    /// Loads a collection job in any state.
    pub fn collection(&self, task: &TaskId, job: &CollectionJobId) -> Result<Option<CollectionJobRecord>, Fault> {
        rows::load_of(self, task, &table::COLLECTIONS, &(*task, *job))
    }

    /// Loads an aggregation job of the helper.
    pub fn helper_job(&self, task: &TaskId, job: &AggregationJobId) -> Result<Option<HelperJobRecord>, Fault> {
        rows::helper_job(self, task, job)
    }

    /// Loads the body of a deferred request.
    pub fn helper_request(&self, task: &TaskId, job: &AggregationJobId) -> Result<Option<Bytes>, Fault> {
        rows::load_of(self, task, &table::HELPER_REQUESTS, &(*task, *job))
    }

    /// Loads the batch of an aggregate share of the helper.
    pub fn share(&self, task: &TaskId, id: &AggregateShareId) -> Result<Option<BatchSelector>, Fault> {
        rows::load_of(self, task, &table::SHARES, &(*task, *id))
    }
}

impl Rows for View<'_> {
    fn has_task(&self, task: &TaskId) -> bool {
        self.task(task).is_some()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let disk = self.core.disk.read().unwrap_or_else(PoisonError::into_inner);
        self.core.check()?;
        let disk = disk.as_ref().ok_or_else(super::closed)?;
        disk.engine.get(key).map_err(|error| self.core.poison(error.into()))
    }
}
