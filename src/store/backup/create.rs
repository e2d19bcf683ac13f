//! Creates a backup of a store in use.
//!
//! Rows are copied in the order of their keys, in portions, each under a lock that commits wait for. Keys of copied
//! rows that are committed again are tracked, and their rows are written again. Once no key is tracked, under the same
//! lock, the backup equals the database. No lock is held while bytes are written, so the output may be slow, as long as
//! the tracked keys fit into memory.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    sync::PoisonError,
};

use super::{
    BackupError,
    changes::TrackingGuard,
    format::{Header, Record, Writer},
};
use crate::{
    Store,
    engine::{Engine, Row},
    open,
    writer::Core,
};
use dapbox_protocol::model::{Secret, Time};
use dapbox_support::{Fault, clock};

/// The bytes read per lock.
const BYTES_AT_ONCE: usize = 1 << 20;
/// The most rows read per lock.
const ROWS_AT_ONCE: usize = 1000;
/// How many times the copied bytes may be written again because rows changed.
const AGAIN: usize = 4;

/// Options of a backup.
#[derive(Debug, Default)]
pub struct BackupOptions {
    /// The encryption key to include, so that the reader of the backup can decrypt its secrets.
    pub key: Option<Secret>,
    /// Memory to track changed rows, in bytes.
    pub tracking_bytes: usize,
}

/// The result of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// The moment of the snapshot.
    pub moment: Time,
    /// The number of records.
    pub records: u64,
    /// The length, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Writes a backup: a snapshot at some moment before this returns. Writes continue, and all writes answered before
    /// the call are included. Blocks as long as the output does.
    ///
    /// # Errors
    ///
    /// Fails if another backup is running, if the output fails, if too many rows change, or if the store has stopped.
    /// The partial output is useless; readers detect its missing end.
    pub fn backup(&self, out: impl Write, options: BackupOptions) -> Result<BackupSummary, BackupError> {
        let core = &*self.inner.core;
        let tracking = core.changes.begin(options.tracking_bytes).ok_or(BackupError::Busy)?;
        let header = Header {
            begun: clock::now(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            layout: open::LAYOUT,
            key: options.key,
        };
        let mut writer = Writer::new(out, &header)?;
        let (mut after, mut copied, mut again) = (None, 0, 0);
        loop {
            let rows = copy(core, &tracking, after.as_deref())?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            copied += rows.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            rows.into_iter().try_for_each(|(key, value)| writer.record(&Record::Row(key, value)))?;
            while tracking.is_half_full()? {
                catch_up(core, &tracking)?.0.iter().try_for_each(|record| writer.record(record))?;
            }
        }
        let moment = loop {
            let (records, moment) = catch_up(core, &tracking)?;
            records.iter().try_for_each(|record| writer.record(record))?;
            if let Some(moment) = moment {
                break moment;
            }
            // A few rows may change faster than they are written.
            again += records.iter().map(Record::len).sum::<usize>();
            if again > AGAIN * copied.max(BYTES_AT_ONCE) {
                return Err(BackupError::TooManyChanges);
            }
        };
        drop(tracking);
        let (records, bytes) = writer.finish(moment)?;
        Ok(BackupSummary { moment, records, bytes })
    }
}

/// Reads the next rows. After the last row, all changes are tracked.
fn copy(core: &Core, tracking: &TrackingGuard<'_>, after: Option<&[u8]>) -> Result<Vec<Row>, BackupError> {
    locked(core, |engine| {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        engine.scan_after(after, |key, value| {
            bytes += key.len() + value.len();
            rows.push((key.to_vec(), value));
            let is_enough = bytes >= BYTES_AT_ONCE || rows.len() >= ROWS_AT_ONCE;
            Ok::<_, Fault>(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        match rows.last() {
            Some((key, _)) => tracking.copied(key),
            // No key is greater.
            None => tracking.copied(&[u8::MAX]),
        }
        Ok(rows)
    })
}

/// Reads some of the tracked rows. Also returns the moment if no more are tracked.
fn catch_up(core: &Core, tracking: &TrackingGuard<'_>) -> Result<(Vec<Record>, Option<Time>), BackupError> {
    locked(core, |engine| {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while bytes < BYTES_AT_ONCE && records.len() < ROWS_AT_ONCE {
            let Some(key) = tracking.take()? else { return Ok((records, Some(clock::now()))) };
            records.push(match engine.get(&key).map_err(Fault::from)? {
                Some(value) => {
                    bytes += value.len();
                    Record::Changed(key, value)
                }
                None => Record::Gone(key),
            });
        }
        Ok((records, None))
    })
}

/// Runs a function between two commits.
fn locked<T>(core: &Core, f: impl FnOnce(&Engine) -> Result<T, BackupError>) -> Result<T, BackupError> {
    let disk = core.disk.read().unwrap_or_else(PoisonError::into_inner);
    core.check()?;
    f(&disk.as_ref().ok_or_else(crate::closed)?.engine)
}

impl From<super::changes::TooManyChanges> for BackupError {
    fn from(_: super::changes::TooManyChanges) -> Self {
        Self::TooManyChanges
    }
}

impl From<io::Error> for BackupError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}
