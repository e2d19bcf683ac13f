//! Detection of silent loss in the database.
//!
//! # Decision: the database has a ledger
//!
//! sled treats the end of what it can read as the end of what was written, and skips the rest of a segment with an
//! unreadable part. A damaged file may therefore open as an older or mixed state. Lost ids of aggregated reports would
//! be accepted again. Two records prevent that:
//!
//! - Each commit writes a row with the number of commits and a sum over all other rows. Opening reads every row and
//!   compares. This detects rows missing in the middle.
//! - A file beside the database holds the number of a durable commit. This detects commits missing at the end. It is
//!   written and synced after that commit, so a kill or power failure never makes it too high. It is at most a second
//!   behind.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The file beside the database. It belongs to these database files and must be copied with them.
const NAME: &str = "acknowledged";
/// The maximum delay between a commit and its record.
const DELAY: Duration = Duration::from_secs(1);
/// The length of a record: database id, commit number and checksum.
const RECORD_BYTES: usize = 20;
/// The offsets of the two records, which are written alternately so that one is always complete.
const RECORD_OFFSETS: [u64; 2] = [0, 4096];

/// The row that each commit writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// A random id of the database.
    pub(super) id: u64,
    /// The number of commits.
    pub(super) commits: u64,
    /// The sum of [`row_hash`] over all other rows.
    pub(super) sum: u64,
}

impl Ledger {
    /// Creates the ledger of a new database.
    pub(super) fn new() -> Self {
        Self { id: rand::random(), commits: 0, sum: 0 }
    }

    /// Encodes the row.
    pub(super) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.id, self.commits, self.sum]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// Decodes the row.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let [id, commits, sum] = <[[u8; 8]; 3]>::try_from(numbers).ok()?.map(u64::from_be_bytes);
        Some(Self { id, commits, sum })
    }

    /// Updates the sum for a changed row.
    pub(super) fn replace(&mut self, key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>) {
        let weight = |value: Option<&[u8]>| value.map_or(0, |value| row_hash(key, value));
        self.sum = self.sum.wrapping_sub(weight(before)).wrapping_add(weight(after));
    }
}

/// Hashes a row, so that sums over different rows differ. It protects against accidents only, not against an attacker
/// with write access.
pub(super) fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    let both = (u64::from(crc32fast::hash(key)) << 32) | u64::from(crc32fast::hash(value));
    // The finalizer of splitmix64, which mixes all bits.
    let both = (both ^ (both >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let both = (both ^ (both >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    both ^ (both >> 31)
}

/// Reads the database id and the commit number from the file; `None` if there is no file.
pub(super) fn read(dir: &Path) -> io::Result<Option<(u64, u64)>> {
    let bytes = match fs::read(dir.join(NAME)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let records = RECORD_OFFSETS.iter().filter_map(|place| decode(bytes.get(*place as usize..)?.get(..RECORD_BYTES)?));
    let unreadable = || {
        let text = format!("{NAME} is damaged; delete it if you are certain that nothing else is");
        io::Error::new(ErrorKind::InvalidData, text)
    };
    records.max_by_key(|(_, commits)| *commits).ok_or_else(unreadable).map(Some)
}

/// Deletes the file.
pub(super) fn delete_file(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(NAME)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn encode(id: u64, commits: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&id.to_be_bytes());
    record[8..16].copy_from_slice(&commits.to_be_bytes());
    let checksum = crc32fast::hash(&record[..16]);
    record[16..].copy_from_slice(&checksum.to_be_bytes());
    record
}

fn decode(record: &[u8]) -> Option<(u64, u64)> {
    let (id, rest) = record.split_first_chunk()?;
    let (commits, checksum) = rest.split_first_chunk()?;
    let is_whole = crc32fast::hash(&record[..16]).to_be_bytes() == checksum;
    is_whole.then(|| (u64::from_be_bytes(*id), u64::from_be_bytes(*commits)))
}

/// Updates the file of an open database in the background.
pub(super) struct AcknowledgedFile {
    commits: Arc<AtomicU64>,
    /// Dropped first, which ends the thread.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AcknowledgedFile {
    /// Creates the file for a database that just opened.
    pub(super) fn start(dir: &Path, ledger: Ledger) -> io::Result<Self> {
        let (path, draft) = (dir.join(NAME), dir.join(format!("{NAME}.new")));
        let mut file = File::create(&draft)?;
        file.write_all(&encode(ledger.id, ledger.commits))?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(dir)?.sync_all()?;
        let file = OpenOptions::new().write(true).open(path)?;
        let commits = Arc::new(AtomicU64::new(ledger.commits));
        let (wake, woken) = sync_channel(1);
        let shared = commits.clone();
        let run = move || watch(&file, ledger, &shared, &woken);
        let thread = thread::Builder::new().name("acknowledged".into()).spawn(run)?;
        Ok(Self { commits, wake: Some(wake), thread: Some(thread) })
    }

    /// Records that this many commits are durable. Fails if the thread has panicked.
    pub(super) fn record(&self, commits: u64) -> io::Result<()> {
        self.commits.store(commits, Ordering::Release);
        match self.wake.as_ref().map(|wake| wake.try_send(())) {
            Some(Err(TrySendError::Disconnected(()))) => Err(io::Error::other("commit recorder panicked")),
            // A full channel means that the thread is about to read the number.
            _ => Ok(()),
        }
    }
}

impl Drop for AcknowledgedFile {
    /// Writes the last number.
    fn drop(&mut self) {
        drop(self.wake.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("commit recorder panicked");
        }
    }
}

fn watch(file: &File, ledger: Ledger, commits: &AtomicU64, woken: &Receiver<()>) {
    let (mut written, mut turn) = (ledger.commits, 1);
    loop {
        let mut is_over = woken.recv().is_err();
        let due = Instant::now() + DELAY;
        while !is_over {
            match woken.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => is_over = true,
            }
        }
        let latest = commits.load(Ordering::Acquire);
        if latest != written {
            let record = encode(ledger.id, latest);
            match file.write_all_at(&record, RECORD_OFFSETS[turn % 2]).and_then(|()| file.sync_data()) {
                Ok(()) => (written, turn) = (latest, turn + 1),
                // The number is then too low, which is harmless while the disk works.
                Err(error) => tracing::error!(%error, "cannot record durable commits"),
            }
        }
        if is_over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_detects_missing_rows() {
        let mut ledger = Ledger { id: 7, commits: 8, sum: 0 };
        ledger.replace(b"a", None, Some(b"1"));
        ledger.replace(b"b", None, Some(b"2"));
        assert_eq!(Ledger::from_bytes(&ledger.to_bytes()), Some(ledger));
        assert_eq!(Ledger::from_bytes(&ledger.to_bytes()[1..]), None);
        let full = ledger.sum;
        ledger.replace(b"a", Some(b"1"), Some(b"2"));
        assert_ne!(ledger.sum, full);
        ledger.replace(b"a", Some(b"2"), None);
        assert_eq!(ledger.sum, row_hash(b"b", b"2"));
        // Exchanged values do not cancel out.
        assert_ne!(
            row_hash(b"a", b"1").wrapping_add(row_hash(b"b", b"2")),
            row_hash(b"a", b"2").wrapping_add(row_hash(b"b", b"1"))
        );
    }

    #[test]
    fn reports_panicked_thread() {
        let (wake, woken) = sync_channel(1);
        drop(woken);
        let acknowledged = AcknowledgedFile { commits: Arc::default(), wake: Some(wake), thread: None };
        assert!(acknowledged.record(1).is_err());
    }

    #[test]
    fn file_survives_one_damaged_record() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let ledger = Ledger { id: 5, commits: 10, sum: 0 };
        let acknowledged = AcknowledgedFile::start(dir.path(), ledger).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some((5, 10)));
        acknowledged.record(11).unwrap();
        acknowledged.record(12).unwrap();
        drop(acknowledged);
        assert_eq!(read(dir.path()).unwrap(), Some((5, 12)));
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        for place in RECORD_OFFSETS {
            let mut torn = whole.clone();
            torn[place as usize + 3] ^= 1;
            fs::write(&path, &torn).unwrap();
            assert!(matches!(read(dir.path()), Ok(Some((5, 10 | 12)))));
        }
        for nothing in [&[][..], &[0; 5000]] {
            fs::write(&path, nothing).unwrap();
            assert_eq!(read(dir.path()).unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }
}
