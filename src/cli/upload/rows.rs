//! Uploads the rows of a CSV file: checks all of them, uploads, and records what is settled.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    time::Instant,
};

use sha2::{Digest, Sha256};

use super::{Args, Report, csv_file::CsvFile, rejected::Rejected, report};
use crate::{
    cli::{
        Failure, Outcome,
        signals::Signals,
        style::{self, counted},
        timestamp,
    },
    client::{Client, ClientError, Journal, UploadSummary, rejects_report},
    model::{ReportError, ReportId, TaskId, VdafConfig},
    vdaf::Measurement,
};

/// The most bad rows that an error names.
const NAMED: usize = 10;
/// How many characters of a task's id are in the name of a record.
const ID_LENGTH: usize = 8;

/// The outcome of a row.
type RowOutcome = (u64, Result<ReportId, ClientError>);

/// Uploads a file.
pub async fn upload(args: &Args, path: &Path, client: &Client) -> Outcome {
    let task = client.task();
    let csv = CsvFile::open(path, &args.csv.column, args.csv.delimiter).map_err(|e| e.context(path.display()))?;
    let journal_dir = journal_dir(path, &task.id);
    let resumed = resumed(args, &csv, path, &journal_dir, client)?;
    let mut rejected = Rejected::open(args.csv.rejected.as_deref(), resumed.is_some())?;
    let limit = args.csv.rows.unwrap_or(usize::MAX);
    // What is bad was written by the upload that is resumed.
    let mut unseen = Rejected::open(None, false)?;
    let sink = if resumed.is_some() { &mut unseen } else { &mut rejected };
    let checked = Checked::read(&csv, &task.vdaf, limit, sink).map_err(|e| Failure::new(e).context(path.display()))?;
    rejected.flush()?;
    checked.refuse(path, args.csv.skip_invalid)?;
    let journal = match resumed {
        Some(journal) => Some(journal),
        None => begin_journal(args, &csv, &journal_dir)?,
    };
    let upload =
        Upload { args, client, journal: journal.as_ref(), rejected: RefCell::new(rejected), broken: Cell::new(None) };
    let start = Instant::now();
    let mut outcome = upload.run(&csv, limit, &checked).await?;
    outcome.took = start.elapsed();
    let printed = report(&outcome, args.output);
    match (outcome.summary.failure.is_some(), journal) {
        (false, Some(journal)) => {
            journal.remove().map_err(|e| Failure::new(e).context(journal_dir.display()))?;
            printed
        }
        (true, Some(_)) => printed.map_err(|failure| with_hint(failure, &outcome.summary)),
        (_, None) => printed,
    }
}

fn with_hint(failure: Failure, summary: &UploadSummary) -> Failure {
    Failure::new(format!(
        "{}\n{} accepted; the same command with --resume continues with the others.",
        failure.message(),
        counted(summary.accepted, "row"),
    ))
}

/// What the first reading has found.
#[derive(Default)]
struct Checked {
    valid: u64,
    invalid: u64,
    /// The first bad rows.
    named: Vec<String>,
}

impl Checked {
    fn read(csv: &CsvFile, vdaf: &VdafConfig, limit: usize, rejected: &mut Rejected) -> io::Result<Self> {
        let mut checked = Self::default();
        for row in csv.rows(vdaf)?.take(limit) {
            let row = row?;
            match row.measurement {
                Ok(_) => checked.valid += 1,
                Err(why) => {
                    checked.invalid += 1;
                    rejected.add(row.line, &why)?;
                    if checked.named.len() < NAMED {
                        checked.named.push(format!("\n  line {}: {why}", row.line));
                    }
                }
            }
        }
        Ok(checked)
    }

    /// Nothing is sent if a row is bad, unless those are to be left out.
    fn refuse(&self, path: &Path, skip_invalid: bool) -> Outcome {
        if self.invalid > 0 && !skip_invalid {
            let more = self.invalid - self.named.len() as u64;
            let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
            return Err(Failure::new(format!(
                "{}: {} of {} cannot be uploaded, and nothing was sent:{}{more}\n\
                 Correct them, or leave them out with --skip-invalid. --rejected FILE lists all.",
                path.display(),
                style::count(self.invalid),
                counted(self.invalid + self.valid, "row"),
                self.named.concat(),
            )));
        }
        if self.valid == 0 {
            return Err(Failure::new(format!("{}: there is nothing to upload", path.display())));
        }
        Ok(())
    }
}

/// One upload of a file.
struct Upload<'a> {
    args: &'a Args,
    client: &'a Client,
    journal: Option<&'a Journal>,
    rejected: RefCell<Rejected>,
    /// What went wrong with a file.
    broken: Cell<Option<io::Error>>,
}

impl Upload<'_> {
    async fn run(&self, csv: &CsvFile, limit: usize, checked: &Checked) -> Result<Report, Failure> {
        let mut signals = Signals::new()?;
        let (before, refused_before) = self.journal.map_or((0, 0), Journal::settled);
        let mut outcome = Report {
            total: checked.valid + checked.invalid,
            invalid: checked.invalid,
            settled: before + refused_before,
            ..Report::default()
        };
        let again = tokio::select! {
            again = self.resend() => again?,
            _ = signals.next() => return Err(Failure::new("interrupted: nothing new was uploaded")),
        };
        let settled_now: Vec<u64> = again.iter().map(|(row, _)| *row).collect();
        let vdaf = &self.client.task().vdaf;
        let is_settled = |line: u64| {
            settled_now.binary_search(&line).is_ok() || self.journal.is_some_and(|journal| journal.is_settled(line))
        };
        let left = checked.valid.saturating_sub(outcome.settled + settled_now.len() as u64);
        let rows = csv.rows(vdaf)?.take(limit).map_while(|row| row.map_err(|e| self.broken.set(Some(e))).ok());
        let rows = rows.filter(|row| !is_settled(row.line));
        let rows = rows.filter_map(|row| Some((row.line, row.measurement.ok()?)));
        let rows = Counted { rows, left: usize::try_from(left).unwrap_or(usize::MAX) };
        let latest = RefCell::new(UploadSummary::default());
        let bar = style::progress(left, "uploading");
        let observe = |summary: &UploadSummary, group: &[RowOutcome]| {
            bar.set_position(summary.accepted + summary.rejected_total());
            if let Err(error) = self.record(group, group.len() == 1) {
                self.broken.set(Some(error));
            }
            latest.replace(summary.clone());
        };
        let (time, concurrency) = (self.args.time, self.args.concurrency);
        let uploaded = tokio::select! {
            summary = self.client.upload_rows(rows, time, concurrency, self.journal, observe) => Ok(summary),
            signal = signals.next() => Err(signal),
        };
        bar.finish_and_clear();
        self.rejected.borrow_mut().flush()?;
        outcome.summary = match uploaded {
            Ok(summary) => summary,
            Err(_) => return Err(self.interrupted(&latest.into_inner(), &again, left)),
        };
        if let Some(error) = self.broken.take() {
            return Err(with_hint(Failure::new(error), &outcome.summary));
        }
        for (_, is_accepted) in again {
            match is_accepted {
                true => outcome.summary.accepted += 1,
                false => *outcome.summary.rejected.entry("unknownOutcome".to_owned()).or_default() += 1,
            }
        }
        Ok(outcome)
    }

    fn interrupted(&self, summary: &UploadSummary, again: &[(u64, bool)], left: u64) -> Failure {
        let accepted = summary.accepted + again.iter().filter(|(_, is_accepted)| *is_accepted).count() as u64;
        let left = left.saturating_sub(summary.accepted + summary.rejected_total());
        let hint = match self.journal {
            Some(_) => "the same command with --resume continues",
            None => "some of those that are left may have been accepted, too",
        };
        Failure::new(format!("interrupted: {} accepted, {} left; {hint}", counted(accepted, "row"), style::count(left)))
    }

    /// Sends again what was in flight when the upload was interrupted: the rows whose outcome is known now, in order, and
    /// whether they were accepted.
    async fn resend(&self) -> Result<Vec<(u64, bool)>, Failure> {
        let Some(journal) = self.journal else { return Ok(Vec::new()) };
        let mut known = Vec::new();
        for sent in journal.in_flight()? {
            let results = self.client.resend(&sent).await?;
            let mut settled = Vec::new();
            for (row, result) in sent.rows.iter().zip(results).filter(|(row, _)| !journal.is_settled(**row)) {
                match result {
                    Ok(_) => settled.push((*row, true)),
                    // Another report of the same row is in flight, or will be made.
                    Err(error) if error.is_outdated() => {}
                    Err(error) => {
                        let is_replay = matches!(error, ClientError::Refused(ReportError::ReportReplayed));
                        if !is_replay {
                            let why = format!("sent before the interruption, perhaps accepted; refused now: {error}");
                            self.rejected.borrow_mut().add(*row, &why)?;
                        }
                        settled.push((*row, is_replay));
                    }
                }
            }
            journal.settle(&settled)?;
            journal.forget(sent.number)?;
            known.extend(settled);
        }
        known.sort_unstable();
        known.dedup_by_key(|(row, _)| *row);
        Ok(known)
    }

    /// Records the outcome of rows that were sent together.
    fn record(&self, group: &[RowOutcome], is_alone: bool) -> io::Result<()> {
        let mut settled = Vec::new();
        for (row, result) in group {
            match result {
                Ok(_) => settled.push((*row, true)),
                Err(error) if rejects_report(error, is_alone) => {
                    self.rejected.borrow_mut().add(*row, &error.to_string())?;
                    settled.push((*row, false));
                }
                // Nothing is known of it.
                Err(_) => {}
            }
        }
        match self.journal {
            Some(journal) => journal.settle(&settled),
            None => Ok(()),
        }
    }
}

/// Rows that know how many they are.
struct Counted<I> {
    rows: I,
    left: usize,
}

impl<I: Iterator<Item = (u64, Measurement)>> Iterator for Counted<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.left = self.left.saturating_sub(1);
        self.rows.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, None)
    }
}

/// Where an upload of a file is recorded.
fn journal_dir(path: &Path, task: &TaskId) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    let id = task.to_string();
    name.push(format!(".{}.upload", id.get(..ID_LENGTH).unwrap_or(&id)));
    name.into()
}

/// The record of the upload that is to be resumed; none if this one begins.
fn resumed(args: &Args, csv: &CsvFile, path: &Path, dir: &Path, client: &Client) -> Result<Option<Journal>, Failure> {
    let (wants, is_there) = (args.csv.resume, dir.exists());
    match (csv.file(), wants, is_there) {
        (None, true, _) => Err(Failure::usage(format!("{} is a stream and cannot be resumed", path.display()))),
        (Some(file), true, true) => {
            let journal = Journal::resume(dir, &identity(args, file)?);
            journal.map(Some).map_err(|e| Failure::new(e).context(dir.display()))
        }
        (_, true, false) => Err(Failure::new(format!(
            "no upload of {} to task {} was interrupted: leave --resume out",
            path.display(),
            client.task().id
        ))),
        (_, false, true) => Err(Failure::new(format!(
            "an upload of this file was interrupted: --resume continues it. To upload all rows again, which counts \
             some of them twice, delete {}",
            dir.display()
        ))),
        (_, false, false) => Ok(None),
    }
}

/// Begins the record of an upload. Without one an upload cannot be resumed, and is made all the same.
fn begin_journal(args: &Args, csv: &CsvFile, dir: &Path) -> Result<Option<Journal>, Failure> {
    let Some(file) = csv.file() else { return Ok(None) };
    match Journal::create(dir, &identity(args, file)?) {
        Ok(journal) => Ok(Some(journal)),
        Err(error) => {
            style::warn(format!("the upload cannot be resumed if it is interrupted: {}: {error}", dir.display()));
            Ok(None)
        }
    }
}

/// What tells an upload of a file from others: what is in the file, and what is made of it.
fn identity(args: &Args, mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let time = args.time.map_or_else(|| "now".to_owned(), timestamp::show);
    Ok(format!("{hash} {time} {:?}", args.csv.column))
}
