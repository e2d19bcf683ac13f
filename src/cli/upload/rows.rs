//! Uploads the rows of a CSV file: validates all of them, uploads them, and records the settled ones.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    time::Instant,
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::{Args, UploadReport, csv_file::CsvFile, rejected::Rejected, report};
use crate::{
    cli::{
        Failure, Outcome,
        signals::StopSignals,
        style::{self, counted},
        timestamp,
    },
    client::{Client, ClientError, Journal, UploadSummary, rejects_report},
    model::{ReportError, ReportId, TaskId, VdafConfig},
    vdaf::Measurement,
};

/// Maximum number of invalid rows listed in an error.
const MAX_LISTED: usize = 10;
/// Number of characters of the task id in the name of a journal.
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
    // The interrupted upload has already written the invalid rows.
    let mut discarded = Rejected::open(None, false)?;
    let sink = if resumed.is_some() { &mut discarded } else { &mut rejected };
    let validation =
        Validation::read(&csv, &task.vdaf, limit, sink).map_err(|e| Failure::new(e).context(path.display()))?;
    rejected.flush()?;
    validation.refuse(path, args.csv.skip_invalid)?;
    let journal = match resumed {
        Some(journal) => Some(journal),
        None => begin_journal(args, &csv, &journal_dir)?,
    };
    let upload =
        Upload { args, client, journal: journal.as_ref(), rejected: RefCell::new(rejected), io_error: Cell::new(None) };
    let start = Instant::now();
    let mut outcome = upload.run(&csv, limit, &validation).await?;
    outcome.took = start.elapsed();
    let printed = report(&outcome, args.output.format);
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
        "{}\n{} accepted (hint: the same command with --resume continues)",
        failure.message(),
        counted(summary.accepted, "row"),
    ))
}

/// The result of the validation.
#[derive(Default)]
struct Validation {
    valid: u64,
    invalid: u64,
    /// The first invalid rows.
    listed: Vec<String>,
}

impl Validation {
    fn read(csv: &CsvFile, vdaf: &VdafConfig, limit: usize, rejected: &mut Rejected) -> io::Result<Self> {
        let mut validation = Self::default();
        for row in csv.rows(vdaf)?.take(limit) {
            let row = row?;
            match row.measurement {
                Ok(_) => validation.valid += 1,
                Err(why) => {
                    validation.invalid += 1;
                    rejected.add(row.line, &why)?;
                    if validation.listed.len() < MAX_LISTED {
                        validation.listed.push(format!("\n  line {}: {why}", row.line));
                    }
                }
            }
        }
        Ok(validation)
    }

    /// Fails if a row is invalid, unless invalid rows are skipped.
    fn refuse(&self, path: &Path, skip_invalid: bool) -> Outcome {
        if self.invalid > 0 && !skip_invalid {
            let more = self.invalid - self.listed.len() as u64;
            let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
            return Err(Failure::new(format!(
                "{}: {} of {} invalid, nothing was sent:{}{more}\n\
                 (hint: --skip-invalid skips them, --rejected FILE lists all)",
                path.display(),
                style::count(self.invalid),
                counted(self.invalid + self.valid, "row"),
                self.listed.concat(),
            )));
        }
        if self.valid == 0 {
            return Err(Failure::new(format!("{}: no valid rows to upload", path.display())));
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
    /// An error of the CSV file, the journal or the file of rejected rows.
    io_error: Cell<Option<io::Error>>,
}

impl Upload<'_> {
    async fn run(&self, csv: &CsvFile, limit: usize, validation: &Validation) -> Result<UploadReport, Failure> {
        let mut signals = StopSignals::new()?;
        let (before, refused_before) = self.journal.map_or((0, 0), Journal::settled);
        let mut outcome = UploadReport {
            total: validation.valid + validation.invalid,
            invalid: validation.invalid,
            settled: before + refused_before,
            ..UploadReport::default()
        };
        let resent = tokio::select! {
            resent = self.resend() => resent?,
            _ = signals.next() => return Err(Failure::new("interrupted: nothing new was uploaded")),
        };
        let settled_now: Vec<u64> = resent.iter().map(|(row, _)| *row).collect();
        let vdaf = &self.client.task().vdaf;
        let is_settled = |line: u64| {
            settled_now.binary_search(&line).is_ok() || self.journal.is_some_and(|journal| journal.is_settled(line))
        };
        let left = validation.valid.saturating_sub(outcome.settled + settled_now.len() as u64);
        let rows = csv.rows(vdaf)?.take(limit).map_while(|row| row.map_err(|e| self.io_error.set(Some(e))).ok());
        let rows = rows.filter(|row| !is_settled(row.line));
        let rows = rows.filter_map(|row| Some((row.line, row.measurement.ok()?)));
        let rows = SizedRows { rows, left: usize::try_from(left).unwrap_or(usize::MAX) };
        let latest = RefCell::new(UploadSummary::default());
        let bar = style::progress(left, "uploading");
        let observe = |summary: &UploadSummary, group: &[RowOutcome]| {
            bar.set_position(summary.accepted + summary.rejected_total());
            if let Err(error) = self.record(group, group.len() == 1) {
                self.io_error.set(Some(error));
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
            Err(_) => return Err(self.interrupted(&latest.into_inner(), &resent, left)),
        };
        if let Some(error) = self.io_error.take() {
            return Err(with_hint(Failure::new(error), &outcome.summary));
        }
        for (_, is_accepted) in resent {
            match is_accepted {
                true => outcome.summary.accepted += 1,
                false => *outcome.summary.rejected.entry("unknownOutcome".to_owned()).or_default() += 1,
            }
        }
        Ok(outcome)
    }

    fn interrupted(&self, summary: &UploadSummary, resent: &[(u64, bool)], left: u64) -> Failure {
        let accepted = summary.accepted + resent.iter().filter(|(_, is_accepted)| *is_accepted).count() as u64;
        let left = left.saturating_sub(summary.accepted + summary.rejected_total());
        let hint = match self.journal {
            Some(_) => "hint: the same command with --resume continues",
            None => "some of the remaining rows may have been accepted",
        };
        let (accepted, left) = (counted(accepted, "row"), style::count(left));
        Failure::new(format!("interrupted: {accepted} accepted, {left} remaining ({hint})"))
    }

    /// Resends the reports that were in flight at the interruption. Returns the rows that are settled now, in order, and
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
                    // Another report of the same row is in flight, or will be created.
                    Err(error) if error.is_outdated() => {}
                    Err(error) => {
                        let is_replay = matches!(error, ClientError::Refused(ReportError::ReportReplayed));
                        if !is_replay {
                            let why = format!("outcome before the interruption unknown; rejected now: {error}");
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
                // The outcome is unknown.
                Err(_) => {}
            }
        }
        match self.journal {
            Some(journal) => journal.settle(&settled),
            None => Ok(()),
        }
    }
}

/// An iterator of rows with a size hint.
struct SizedRows<I> {
    rows: I,
    left: usize,
}

impl<I: Iterator<Item = (u64, Measurement)>> Iterator for SizedRows<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.left = self.left.saturating_sub(1);
        self.rows.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, None)
    }
}

/// The directory of the journal of an upload.
fn journal_dir(path: &Path, task: &TaskId) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    let id = task.to_string();
    name.push(format!(".{}.upload", id.get(..ID_LENGTH).unwrap_or(&id)));
    name.into()
}

/// Opens the journal of the upload to resume; `None` for a new upload.
fn resumed(args: &Args, csv: &CsvFile, path: &Path, dir: &Path, client: &Client) -> Result<Option<Journal>, Failure> {
    let (wants, is_there) = (args.csv.resume, dir.exists());
    match (csv.file(), wants, is_there) {
        (None, true, _) => Err(Failure::usage(format!("cannot resume: {} is a stream", path.display()))),
        (Some(file), true, true) => {
            let journal = Journal::resume(dir, &identity(args, file)?);
            journal.map(Some).map_err(|e| Failure::new(e).context(dir.display()))
        }
        (_, true, false) => Err(Failure::new(format!(
            "no interrupted upload of {} to task {} (hint: omit --resume)",
            path.display(),
            client.task().id
        ))),
        (_, false, true) => Err(Failure::new(format!(
            "an upload of this file was interrupted (hint: --resume continues it; to upload all rows again and count some \
             twice, delete {})",
            dir.display()
        ))),
        (_, false, false) => Ok(None),
    }
}

/// Creates the journal of a new upload. If that fails, the upload runs without one and cannot be resumed.
fn begin_journal(args: &Args, csv: &CsvFile, dir: &Path) -> Result<Option<Journal>, Failure> {
    let Some(file) = csv.file() else { return Ok(None) };
    match Journal::create(dir, &identity(args, file)?) {
        Ok(journal) => Ok(Some(journal)),
        Err(error) => {
            style::warn(format!("the upload cannot be resumed after an interruption: {}: {error}", dir.display()));
            Ok(None)
        }
    }
}

/// Identifies an upload by the contents of the file, the report time and the columns.
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
    let hash = HEXLOWER.encode(&hash.finalize());
    let time = args.time.map_or_else(|| "now".to_owned(), timestamp::show);
    Ok(format!("{hash} {time} {:?}", args.csv.column))
}
