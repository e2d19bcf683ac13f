//! A journal of the collections of one task, in a file: outstanding jobs and collected intervals.
//!
//! A job is stored before the request is sent, and removed once its result was delivered and the leader has released
//! it. A killed collector therefore resumes its jobs. Results are stored sealed, as received.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{
    CollectionJobId, Duration, Interval, Query, Revision, TaskId, Time,
    secret::{base64url, optional_base64url},
};

/// Version of the file format.
const VERSION: u32 = 1;
/// Maximum length of the file in bytes. A result has at most 128 MiB before encoding.
const MAX_FILE: u64 = 512 << 20;

/// The collections of one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionRecord {
    version: u32,
    /// The task.
    pub task: TaskId,
    /// The revision of the task.
    pub revision: Revision,
    /// Outstanding jobs, the oldest first.
    pub jobs: Vec<CollectionJob>,
    /// Collected intervals, sorted and disjoint.
    pub collected: Vec<Interval>,
}

/// An outstanding collection job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionJob {
    /// Id of the job; also its id at the leader if the revision lets the collector choose it.
    pub id: CollectionJobId,
    /// The query of the job.
    pub query: Query,
    /// Body of the request, which the shares of the result are bound to.
    #[serde(with = "base64url")]
    pub request: Vec<u8>,
    /// Time at which the collection began.
    pub begun: Time,
    /// Path of the job at the leader, once accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "place")]
    pub location: Option<String>,
    /// Body of the sealed result, once received.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_base64url")]
    pub result: Option<Vec<u8>>,
    /// Whether the result was delivered, so that only its release at the leader is left.
    #[serde(default)]
    pub is_delivered: bool,
}

/// An error of the journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectionJournalError {
    /// Another process has locked the file.
    #[error("{0} is locked by another collector (hint: wait or stop it)")]
    InUse(String),
    /// The file belongs to another task.
    #[error("{path} belongs to task {found} (hint: move it away or use another file)")]
    OtherTask {
        /// The file.
        path: String,
        /// The task in the file.
        found: TaskId,
    },
    /// The file is not a journal of collections.
    #[error("{path} is not a collection journal: {why}")]
    Malformed {
        /// The file.
        path: String,
        /// The problem.
        why: String,
    },
    /// A file operation failed.
    #[error("cannot access the collection journal {path}: {why}")]
    Io {
        /// The file.
        path: String,
        /// The problem.
        why: String,
    },
}

impl CollectionRecord {
    fn new(task: TaskId, revision: Revision) -> Self {
        Self { version: VERSION, task, revision, jobs: Vec::new(), collected: Vec::new() }
    }

    /// Reads a task's record without locking it. Returns an empty record if there is no file.
    pub fn read(path: &Path, task: TaskId, revision: Revision) -> Result<Self, CollectionJournalError> {
        let shown = || path.display().to_string();
        let malformed = |why: String| CollectionJournalError::Malformed { path: shown(), why };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::new(task, revision)),
            Ok(metadata) if metadata.len() > MAX_FILE => return Err(malformed("the file is too long".to_owned())),
            _ => {}
        }
        let bytes = fs::read(path).map_err(|error| failed(path, &error))?;
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if record.version != VERSION {
            return Err(malformed(format!("version {} is not supported, expected {VERSION}", record.version)));
        }
        if (record.task, record.revision) != (task, revision) {
            return Err(CollectionJournalError::OtherTask { path: shown(), found: record.task });
        }
        Ok(record)
    }

    /// End of the latest collected interval.
    pub fn collected_until(&self) -> Option<Time> {
        self.collected.last().map(Interval::end)
    }

    /// The parts of an interval that were not collected.
    pub fn uncollected_within(&self, interval: &Interval) -> Vec<Interval> {
        let mut free = Vec::new();
        let mut start = interval.start();
        let mut add = |from: Time, until: Time| {
            let length = until.0.checked_sub(from.0).filter(|length| *length > 0);
            free.extend(length.and_then(|length| Interval::new(from, Duration(length))));
        };
        for collected in self.collected.iter().filter(|collected| collected.overlaps(interval)) {
            add(start, collected.start());
            start = start.max(collected.end());
        }
        add(start, interval.end());
        free
    }

    fn job_mut(&mut self, id: &CollectionJobId) -> Option<&mut CollectionJob> {
        self.jobs.iter_mut().find(|job| job.id == *id)
    }

    /// Adds a collected interval. Adjacent intervals are merged.
    fn add_collected(&mut self, interval: Interval) {
        self.collected.push(interval);
        self.collected.sort();
        let mut merged: Vec<Interval> = Vec::with_capacity(self.collected.len());
        for next in self.collected.drain(..) {
            match merged.last_mut() {
                Some(last) if next.start() <= last.end() => {
                    let length = last.end().max(next.end()).0 - last.start().0;
                    *last = Interval::new(last.start(), Duration(length)).unwrap_or(*last);
                }
                _ => merged.push(next),
            }
        }
        self.collected = merged;
    }
}

/// A task's record, locked by this process. Every change is durable when its method returns.
#[derive(Debug)]
pub struct CollectionJournal {
    path: PathBuf,
    record: CollectionRecord,
    /// Jobs that this process has stored but not sent, so that the leader does not know them.
    unsent: Vec<CollectionJobId>,
    _lock: Lock,
}

impl CollectionJournal {
    /// Locks and reads a task's record, which is empty if there is no file.
    pub fn open(path: &Path, task: TaskId, revision: Revision) -> Result<Self, CollectionJournalError> {
        let lock = Lock::take(path)?;
        let record = CollectionRecord::read(path, task, revision)?;
        Ok(Self { path: path.to_owned(), record, unsent: Vec::new(), _lock: lock })
    }

    /// The record.
    pub fn record(&self) -> &CollectionRecord {
        &self.record
    }

    /// Finds an outstanding job.
    pub fn job(&self, id: &CollectionJobId) -> Option<&CollectionJob> {
        self.record.jobs.iter().find(|job| job.id == *id)
    }

    /// Stores a new job before it is sent.
    pub fn begin(
        &mut self,
        query: Query,
        request: &[u8],
        now: Time,
    ) -> Result<CollectionJobId, CollectionJournalError> {
        let id = CollectionJobId::random();
        let job = CollectionJob {
            id,
            query,
            request: request.to_vec(),
            begun: now,
            location: None,
            result: None,
            is_delivered: false,
        };
        self.change(|record| record.jobs.push(job))?;
        self.unsent.push(id);
        Ok(id)
    }

    /// Whether the job was never sent. Marks it as sent.
    pub(super) fn take_unsent(&mut self, id: &CollectionJobId) -> bool {
        let before = self.unsent.len();
        self.unsent.retain(|unsent| unsent != id);
        self.unsent.len() < before
    }

    /// Stores that the leader accepted a job, and its location.
    pub fn set_location(&mut self, id: &CollectionJobId, location: Option<&str>) -> Result<(), CollectionJournalError> {
        if self.job(id).is_none_or(|job| job.location.as_deref() == location) {
            return Ok(());
        }
        self.change_job(id, |job| job.location = location.map(str::to_owned))
    }

    /// Stores the result of a job.
    pub fn set_result(&mut self, id: &CollectionJobId, body: &[u8]) -> Result<(), CollectionJournalError> {
        self.change_job(id, |job| job.result = Some(body.to_vec()))
    }

    /// Stores that a result was delivered; only its release at the leader is left.
    pub fn set_delivered(&mut self, id: &CollectionJobId) -> Result<(), CollectionJournalError> {
        self.change_job(id, |job| (job.is_delivered, job.result) = (true, None))
    }

    /// Removes a delivered job. Its interval now counts as collected.
    pub fn finish(&mut self, id: &CollectionJobId) -> Result<(), CollectionJournalError> {
        let Some(job) = self.job(id) else { return Ok(()) };
        let query = job.query;
        self.change(|record| {
            record.jobs.retain(|job| job.id != *id);
            if let Query::TimeInterval(interval) = query {
                record.add_collected(interval);
            }
        })
    }

    /// Removes a job without a result.
    pub fn forget(&mut self, id: &CollectionJobId) -> Result<(), CollectionJournalError> {
        self.change(|record| record.jobs.retain(|job| job.id != *id))
    }

    fn change_job(
        &mut self,
        id: &CollectionJobId,
        change: impl FnOnce(&mut CollectionJob),
    ) -> Result<(), CollectionJournalError> {
        self.change(|record| {
            if let Some(job) = record.job_mut(id) {
                change(job);
            }
        })
    }

    fn change(&mut self, change: impl FnOnce(&mut CollectionRecord)) -> Result<(), CollectionJournalError> {
        let mut record = self.record.clone();
        change(&mut record);
        write(&self.path, &record).map_err(|error| failed(&self.path, &error))?;
        self.record = record;
        Ok(())
    }
}

/// Replaces the file atomically and durably.
fn write(path: &Path, record: &CollectionRecord) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    let bytes = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(path: &Path, error: &io::Error) -> CollectionJournalError {
    CollectionJournalError::Io { path: path.display().to_string(), why: error.to_string() }
}

/// An exclusive lock on a record. The lock file is removed on drop; one that a killed process left behind is not
/// locked.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    /// Holds the lock while it is open.
    _file: File,
}

impl Lock {
    fn take(record: &Path) -> Result<Self, CollectionJournalError> {
        let path = with_suffix(record, ".lock");
        loop {
            let open = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = open().map_err(|error| failed(record, &error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(CollectionJournalError::InUse(record.display().to_string()));
                }
                Err(TryLockError::Error(error)) => return Err(failed(record, &error)),
            }
            // The previous holder may have removed the file between opening and locking it.
            if is_current(&file, &path).map_err(|error| failed(record, &error))? {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

/// Whether an open file is still the one at the path.
fn is_current(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A leftover lock file is not locked and causes no harm.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::model::FixedSizeQuery;

    const TASK: TaskId = TaskId::new([7; 32]);

    fn interval(start: u64, end: u64) -> Interval {
        Interval::new(Time(start), Duration(end - start)).unwrap()
    }

    fn open(path: &Path) -> Result<CollectionJournal, CollectionJournalError> {
        CollectionJournal::open(path, TASK, Revision::Dap18)
    }

    #[test]
    fn changes_are_durable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("collector.jobs.json");
        let query = Query::TimeInterval(interval(0, 60));
        let on_disk = || CollectionRecord::read(&path, TASK, Revision::Dap18).unwrap();
        let mut journal = open(&path).unwrap();
        assert!(!path.exists(), "nothing is written before there is something to store");
        let id = journal.begin(query, b"request", Time(5)).unwrap();
        assert_eq!((on_disk().jobs[0].query, on_disk().jobs[0].request.as_slice()), (query, &b"request"[..]));
        journal.set_location(&id, Some("tasks/x/collection_jobs/1")).unwrap();
        assert_eq!(on_disk().jobs[0].location.as_deref(), Some("tasks/x/collection_jobs/1"));
        journal.set_result(&id, b"result").unwrap();
        assert_eq!(on_disk().jobs[0].result.as_deref(), Some(&b"result"[..]));
        journal.set_delivered(&id).unwrap();
        assert!(on_disk().jobs[0].is_delivered && on_disk().jobs[0].result.is_none());
        journal.finish(&id).unwrap();
        assert_eq!((on_disk().jobs.len(), on_disk().collected), (0, vec![interval(0, 60)]));
        let id = journal.begin(Query::FixedSize(FixedSizeQuery::CurrentBatch), b"request", Time(5)).unwrap();
        journal.forget(&id).unwrap();
        assert_eq!((on_disk().jobs.len(), on_disk().collected.len()), (0, 1));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn locks_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("collector.jobs.json");
        let first = open(&path).unwrap();
        assert_eq!(open(&path).unwrap_err(), CollectionJournalError::InUse(path.display().to_string()));
        drop(first);
        // A killed process leaves its lock file behind.
        fs::write(with_suffix(&path, ".lock"), "").unwrap();
        drop(open(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn rejects_file_of_another_task_or_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("collector.jobs.json");
        open(&path).unwrap().begin(Query::TimeInterval(interval(0, 60)), b"", Time(1)).unwrap();
        let other = CollectionJournal::open(&path, TaskId::new([8; 32]), Revision::Dap18).unwrap_err();
        assert!(matches!(other, CollectionJournalError::OtherTask { found: TASK, .. }), "{other}");
        for text in ["", "[]", r#"{"version": 2}"#] {
            fs::write(&path, text).unwrap();
            assert!(matches!(open(&path).unwrap_err(), CollectionJournalError::Malformed { .. }), "{text}");
        }
    }

    #[test]
    fn finds_uncollected_intervals() {
        let mut record = CollectionRecord::new(TASK, Revision::Dap09);
        assert_eq!(record.uncollected_within(&interval(0, 100)), [interval(0, 100)]);
        for (start, end) in [(20, 30), (60, 70), (30, 40)] {
            record.add_collected(interval(start, end));
        }
        assert_eq!(record.collected, [interval(20, 40), interval(60, 70)]);
        assert_eq!(record.collected_until(), Some(Time(70)));
        assert_eq!(
            record.uncollected_within(&interval(0, 100)),
            [interval(0, 20), interval(40, 60), interval(70, 100)]
        );
        assert_eq!(record.uncollected_within(&interval(25, 65)), [interval(40, 60)]);
        assert_eq!(record.uncollected_within(&interval(20, 40)), []);
    }
}
