//! A journal of a bulk upload, in a directory: the settled rows and the reports in flight.
//!
//! It allows an interrupted upload to resume. Reports with an unknown outcome are sent again unchanged; the leader
//! deduplicates them by id, so no row is lost or counted twice. The journal is not synced to disk: it survives a killed
//! process, but not a power failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

/// The log file: identity of the upload and settled rows.
const LOG: &str = "log";
/// File name prefix of reports in flight.
const SENT: &str = "sent-";
/// The file with reports in flight while it is written. A killed process may leave a part of it, which was never sent.
const UNSENT: &str = "unsent";
/// Prefix of the first line of a log, before the identity of the upload.
const FORMAT: &str = "dapbox upload 1 ";

/// The journal of one upload. Locked by one process.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    /// Rows settled by earlier processes, and whether they were accepted.
    settled: BTreeMap<u64, bool>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: File,
    /// The unsettled rows of each file with reports in flight.
    sent: BTreeMap<u64, BTreeSet<u64>>,
    next: u64,
}

/// Reports with an unknown outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Number of the file.
    pub number: u64,
    /// The row of each report.
    pub rows: Vec<u64>,
    /// The upload request that contains the reports.
    pub request: Bytes,
}

impl Journal {
    /// Creates a journal. `identity` is one line that identifies the upload.
    pub fn create(dir: &Path, identity: &str) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(dir)?;
        let mut log = OpenOptions::new().append(true).create_new(true).mode(0o600).open(dir.join(LOG))?;
        lock(&log)?;
        log.write_all(format!("{FORMAT}{identity}\n").as_bytes())?;
        let state = Mutex::new(State { log, sent: BTreeMap::new(), next: 0 });
        Ok(Self { dir: dir.to_owned(), settled: BTreeMap::new(), state })
    }

    /// Opens the journal of an interrupted upload. Fails if its identity differs.
    pub fn resume(dir: &Path, identity: &str) -> io::Result<Self> {
        let mut log = OpenOptions::new().read(true).append(true).open(dir.join(LOG))?;
        lock(&log)?;
        let mut text = String::new();
        log.read_to_string(&mut text)?;
        // The process may have been killed while writing a line.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            log.set_len(whole as u64)?;
            log.seek(io::SeekFrom::End(0))?;
        }
        let mut lines = text[..whole].lines();
        if lines.next().and_then(|line| line.strip_prefix(FORMAT)) != Some(identity) {
            return Err(io::Error::other("the journal belongs to another upload, or the input file has changed"));
        }
        let mut settled = BTreeMap::new();
        for line in lines {
            let (kind, rows) = line.split_at_checked(1).unwrap_or_default();
            settled.extend(rows.split_whitespace().filter_map(|row| row.parse().ok()).map(|row| (row, kind == "a")));
        }
        let state = Mutex::new(State { log, sent: BTreeMap::new(), next: 0 });
        Ok(Self { dir: dir.to_owned(), settled, state })
    }

    /// Whether an earlier process settled the row.
    pub fn is_settled(&self, row: u64) -> bool {
        self.settled.contains_key(&row)
    }

    /// Numbers of rows that earlier processes settled as accepted and as rejected.
    pub fn settled(&self) -> (u64, u64) {
        let accepted = self.settled.values().filter(|is_accepted| **is_accepted).count();
        (accepted as u64, (self.settled.len() - accepted) as u64)
    }

    /// Stores the reports of rows before they are sent in one request.
    pub fn record_sent(&self, rows: &[u64], request: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let mut bytes = Vec::with_capacity(request.len() + 8 * rows.len() + 8);
        for number in [rows.len() as u64].iter().chain(rows) {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(request);
        let unsent = self.dir.join(UNSENT);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unsent)?;
        file.write_all(&bytes)?;
        fs::rename(&unsent, self.sent(number))?;
        state.sent.insert(number, rows.iter().copied().collect());
        Ok(())
    }

    /// Stores the outcome of rows: whether the leader accepted them.
    pub fn settle(&self, outcomes: &[(u64, bool)]) -> io::Result<()> {
        let mut state = self.state();
        let mut lines = String::new();
        for (kind, wanted) in [('a', true), ('r', false)] {
            let rows: Vec<_> =
                outcomes.iter().filter(|(_, is)| *is == wanted).map(|(row, _)| row.to_string()).collect();
            if !rows.is_empty() {
                lines.push_str(&format!("{kind} {}\n", rows.join(" ")));
            }
        }
        state.log.write_all(lines.as_bytes())?;
        let mut done = Vec::new();
        for (number, rows) in &mut state.sent {
            for (row, _) in outcomes {
                rows.remove(row);
            }
            if rows.is_empty() {
                done.push(*number);
            }
        }
        for number in done {
            state.sent.remove(&number);
            fs::remove_file(self.sent(number))?;
        }
        Ok(())
    }

    /// The reports that were in flight at the interruption, in the order of sending. Omits files whose rows are all
    /// settled.
    pub fn in_flight(&self) -> io::Result<Vec<InFlight>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_prefix(SENT)?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let mut state = self.state();
        let mut found = Vec::new();
        for number in numbers {
            state.next = state.next.max(number + 1);
            match parse(&fs::read(self.sent(number))?) {
                Some((rows, request)) if !rows.iter().all(|row| self.is_settled(*row)) => {
                    found.push(InFlight { number, rows, request });
                }
                // An earlier release wrote it in place: a truncated file was never sent.
                _ => fs::remove_file(self.sent(number))?,
            }
        }
        Ok(found)
    }

    /// Removes reports whose outcome is now known.
    pub fn forget(&self, number: u64) -> io::Result<()> {
        fs::remove_file(self.sent(number))
    }

    /// Removes the journal of a completed upload.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir)
    }

    fn sent(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{SENT}{number:020}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(log: &File) -> io::Result<()> {
    match log.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another process is uploading the same file")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Parses a file with reports in flight into rows and request.
fn parse(bytes: &[u8]) -> Option<(Vec<u64>, Bytes)> {
    let (count, rest) = bytes.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_be_bytes(*count)).ok()?.checked_mul(8)?;
    let (rows, request) = rest.split_at_checked(length)?;
    let (rows, _) = rows.as_chunks::<8>();
    Some((rows.iter().map(|row| u64::from_be_bytes(*row)).collect(), Bytes::copy_from_slice(request)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resumes_settled_rows_and_in_flight_reports() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.csv.upload");
        let journal = Journal::create(&path, "x").unwrap();
        assert!(Journal::resume(&path, "x").is_err(), "one process at a time");
        journal.record_sent(&[2, 3], b"first").unwrap();
        journal.record_sent(&[4], b"second").unwrap();
        journal.settle(&[(2, true), (3, false)]).unwrap();
        journal.record_sent(&[5], b"third").unwrap();
        drop(journal);

        // Simulate a kill while writing a line, and while writing a file, also by an earlier release.
        let mut log = OpenOptions::new().append(true).open(path.join(LOG)).unwrap();
        log.write_all(b"a 4").unwrap();
        drop(log);
        fs::write(path.join(format!("{SENT}{:020}", 9)), [0, 0, 0]).unwrap();
        let whole = fs::read(path.join(format!("{SENT}{:020}", 1))).unwrap();
        fs::write(path.join(UNSENT), &whole[..whole.len() - 1]).unwrap();
        assert!(Journal::resume(&path, "y").is_err());
        let journal = Journal::resume(&path, "x").unwrap();
        assert_eq!((journal.settled(), journal.is_settled(3), journal.is_settled(4)), ((1, 1), true, false));
        let in_flight = journal.in_flight().unwrap();
        let expected = [(vec![4], &b"second"[..]), (vec![5], b"third")];
        assert_eq!(in_flight.iter().map(|f| (f.rows.clone(), &f.request[..])).collect::<Vec<_>>(), expected);
        journal.settle(&[(4, true)]).unwrap();
        journal.forget(in_flight[0].number).unwrap();
        journal.record_sent(&[6], b"fourth").unwrap();
        drop(journal);
        let journal = Journal::resume(&path, "x").unwrap();
        assert_eq!(journal.in_flight().unwrap().iter().map(|f| f.rows[0]).collect::<Vec<_>>(), [5, 6]);
        journal.remove().unwrap();
        assert!(!path.exists());
    }
}
