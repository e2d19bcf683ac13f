//! A backup of a store in use.
//!
//! Rows are copied in the order of their keys, a few at a time, each time under a lock that commits wait for. The keys
//! of rows that were copied and are committed again are noted meanwhile, and the rows written once more as they are
//! then. At the moment when nothing is noted any more, under the same lock, the backup shows exactly what the
//! database holds. No lock is held while bytes are written, so whoever takes them may be as slow as they like, as long
//! as what is noted meanwhile does not get too much.

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

/// How much is read under the lock at once.
const BYTES_AT_ONCE: usize = 1 << 20;
/// And that many rows, at most.
const ROWS_AT_ONCE: usize = 1000;
/// How many times what was copied may be written again, because it changes meanwhile.
const AGAIN: usize = 4;

/// What a backup is made with.
#[derive(Debug, Default)]
pub struct BackupOptions {
    /// Put in so that whoever has the backup can read the secrets in it.
    pub key: Option<Secret>,
    /// How much memory it may take to note what is written meanwhile, in bytes.
    pub tracking_bytes: usize,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// The moment that the backup shows.
    pub moment: Time,
    /// How many records it has.
    pub records: u64,
    /// How long it is.
    pub bytes: u64,
}

impl Store {
    /// Writes a backup of what the store holds at some moment before this returns. Writes go on meanwhile; all that
    /// were answered before this was called are in it. Blocks for as long as whoever takes the bytes does.
    ///
    /// # Errors
    ///
    /// If another backup is being made, if the bytes are not taken, if more is written meanwhile than can be noted, or
    /// if the store has stopped. What was written is of no use then, and its reader knows that by its missing end.
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
            // The same few rows may change faster than they are written out.
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

/// Reads the rows that follow. When there are no more, everything from here on is noted.
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

/// Reads some of the rows that were noted. With them comes the moment, if nothing is noted any more.
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

/// Does something between two commits.
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
