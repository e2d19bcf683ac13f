//! The view of one read.

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

/// What a read sees: everything as it is between two groups of writes.
///
/// Memory runs ahead of the disk: what it shows may still be on its way there. Whoever reads a row waits until
/// what memory shows is durable, a few milliseconds at most, so rows and memory always agree. So what must not be
/// undone by a crash after it was given out is read from a row, not from memory.
pub struct View<'a> {
    pub(super) state: RwLockReadGuard<'a, State>,
    pub(super) core: &'a Core,
}

impl View<'_> {
    /// A task, or `None` if there is none with this id (any more).
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

    /// All tokens of the management API, by their hashes.
    pub fn api_tokens(&self) -> &BTreeMap<TokenHash, ApiToken> {
        &self.state.api_tokens
    }

    /// Peers that a control plane has named, by their numbers.
    pub fn peers(&self) -> &BTreeMap<u64, PeerAggregator> {
        &self.state.peers
    }

    /// What the tokens of tasks are derived from that a control plane sets up, if there is such a secret.
    pub fn token_seed(&self) -> Option<&Secret> {
        self.state.token_seed.as_ref()
    }

    /// Before which time there may have been tasks that are not known here any more, if this is a restored copy.
    pub fn history_lost_before(&self) -> Option<Time> {
        self.state.history_lost_before
    }

    /// The largest `limits.clock_skew` that a server ran with on these data; zero if none is known.
    pub fn clock_skew(&self) -> Duration {
        self.state.clock_skew
    }

    /// Whether a task with this id was removed.
    pub fn is_removed(&self, id: &TaskId) -> bool {
        self.state.removed.contains_key(id)
    }

    /// Asks the database for a row that is not there: whoever gets no answer has a database that does not answer.
    pub fn probe(&self) -> Result<(), Fault> {
        self.get(&[]).map(drop)
    }

    /// The reports at these places, in the same order. A fault if one is not there. Each pack is read once, if the
    /// places are in order.
    pub fn load_reports(&self, task: &TaskId, positions: &[ReportRef]) -> Result<Vec<Report>, Fault> {
        self.load_some_reports(task, positions, usize::MAX)
    }

    /// As [`View::load_reports`], but only the first of them, until they have about `most` bytes: one at least, if there
    /// is one.
    pub fn load_some_reports(&self, task: &TaskId, positions: &[ReportRef], most: usize) -> Result<Vec<Report>, Fault> {
        let missing = |at: &ReportRef| Fault::new(format!("report {at:?} of task {task} is not there"));
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

    /// What is kept of a collected batch.
    pub fn collected(&self, task: &TaskId, batch: &BatchSelector) -> Result<Option<CollectedBatch>, Fault> {
        rows::load_of(self, task, &table::COLLECTED, &(*task, *batch))
    }

    /// A collection job in whatever state.
    pub fn collection(&self, task: &TaskId, job: &CollectionJobId) -> Result<Option<CollectionJobRecord>, Fault> {
        rows::load_of(self, task, &table::COLLECTIONS, &(*task, *job))
    }

    /// An aggregation job of ours as the helper.
    pub fn helper_job(&self, task: &TaskId, job: &AggregationJobId) -> Result<Option<HelperJobRecord>, Fault> {
        rows::helper_job(self, task, job)
    }

    /// The body of a request that we accepted as the helper and have not answered yet.
    pub fn helper_request(&self, task: &TaskId, job: &AggregationJobId) -> Result<Option<Bytes>, Fault> {
        rows::load_of(self, task, &table::HELPER_REQUESTS, &(*task, *job))
    }

    /// The batch of an aggregate share of ours as the helper.
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
