//! The query of a collection: a time interval, or a batch.

use std::time::Duration as Span;

use crate::{
    cli::{args::parse_duration, timestamp},
    model::{BatchId, BatchMode, Duration, FixedSizeQuery, Interval, Query, Time},
    support::duration,
};

/// Selects the reports to collect.
#[derive(Debug, clap::Args)]
pub struct QueryArgs {
    /// Time interval, as its start and duration.
    #[arg(long, num_args = 2, value_names = ["START", "DURATION"], conflicts_with_all = ["since", "until"])]
    interval: Option<Vec<String>>,
    /// Start of the interval. Default: the end of the last collection, or the start of the task.
    #[arg(long, value_name = "TIME", value_parser = timestamp::parse)]
    since: Option<Time>,
    /// End of the interval. Default: the end of the last complete time unit.
    #[arg(long, value_name = "TIME", value_parser = timestamp::parse)]
    until: Option<Time>,
    /// Collect what is complete and not yet collected (the default, for explicit scripts).
    #[arg(long, conflicts_with_all = ["interval", "since", "until"])]
    next: bool,
    /// Include the current time unit, after confirmation: the leader refuses further reports of it.
    #[arg(long, conflicts_with_all = ["interval", "until", "batch_id", "current_batch"])]
    include_current: bool,
    /// Collect a known batch of a fixed-size task again (DAP-09 only).
    #[arg(long, value_name = "ID", allow_hyphen_values = true,
        conflicts_with_all = ["interval", "since", "until", "next", "current_batch"])]
    batch_id: Option<BatchId>,
    /// Collect any ready batch of a fixed-size task that is not yet collected.
    #[arg(long, conflicts_with_all = ["interval", "since", "until"])]
    current_batch: bool,
}

/// The times of a task that determine the default interval.
#[derive(Clone, Copy, Debug)]
pub struct TaskTimes {
    /// Batch mode.
    pub mode: BatchMode,
    /// Time precision.
    pub precision: Duration,
    /// Start of the first collection, if known.
    pub began: Option<Time>,
    /// End of the last collection.
    pub collected_until: Option<Time>,
    /// End of the last time unit that has reports, if the task ends.
    pub ends: Option<Time>,
    /// Current time.
    pub now: Time,
}

/// A query, or the reason why there is none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryChoice {
    /// A query.
    For {
        /// The query.
        query: Query,
        /// Whether the interval is the default.
        is_default: bool,
    },
    /// No time unit is complete since `start`.
    NothingFinished {
        /// Start of the collection.
        start: Time,
        /// When the next time unit is complete; `None` if the task has ended.
        end: Option<Time>,
    },
}

impl QueryArgs {
    /// Returns whether the current time unit is included.
    pub fn includes_current(&self) -> bool {
        self.include_current
    }

    /// Returns the query of the arguments.
    pub fn query(&self, times: &TaskTimes) -> Result<QueryChoice, String> {
        let by_time = self.interval.is_some() || self.since.is_some() || self.until.is_some() || self.include_current;
        match times.mode {
            BatchMode::FixedSize { .. } if by_time => {
                Err("this is a fixed-size task (hint: use --current-batch or --batch-id)".to_owned())
            }
            BatchMode::FixedSize { .. } => {
                let query = self.batch_id.map_or(FixedSizeQuery::CurrentBatch, FixedSizeQuery::ByBatchId);
                Ok(QueryChoice::For { query: Query::FixedSize(query), is_default: false })
            }
            BatchMode::TimeInterval if self.batch_id.is_some() || self.current_batch => {
                Err("this is a time-interval task (hint: use --interval, or --since and --until)".to_owned())
            }
            BatchMode::TimeInterval => self.interval(times),
        }
    }

    fn interval(&self, times: &TaskTimes) -> Result<QueryChoice, String> {
        let current = times.now.truncate(times.precision);
        let is_default = self.interval.is_none() && self.since.is_none() && self.until.is_none();
        let (start, end) = match self.interval.as_deref() {
            Some([start, length]) => {
                let start = timestamp::parse(start)?;
                (start, start.saturating_add(Duration(parse_duration(length)?.as_secs())))
            }
            _ => {
                let finished = if self.include_current { current.saturating_add(times.precision) } else { current };
                let finished = times.ends.map_or(finished, |ends| finished.min(ends));
                // Not from 1970 on: other aggregators create an entry per time unit of a query.
                let start = self.since.or(times.collected_until.max(times.began));
                let start = start.ok_or("the start of the task is unknown (hint: use --since)")?;
                (start, self.until.unwrap_or(finished))
            }
        };
        if self.interval.is_none() && self.until.is_none() && end <= start {
            let end = start.max(current).saturating_add(times.precision).truncate(times.precision);
            let end = Some(end).filter(|end| times.ends.is_none_or(|ends| *end <= ends));
            return Ok(QueryChoice::NothingFinished { start, end });
        }
        let interval = end.0.checked_sub(start.0).and_then(|length| Interval::new(start, Duration(length)));
        let interval = interval.ok_or("the interval ends before it starts")?;
        check_aligned(&interval, times.precision)?;
        Ok(QueryChoice::For { query: Query::TimeInterval(interval), is_default })
    }
}

fn check_aligned(interval: &Interval, precision: Duration) -> Result<(), String> {
    if interval.is_aligned(precision) {
        return Ok(());
    }
    let unit = duration::show(Span::from_secs(precision.0));
    let (first, end) = (interval.start().truncate(precision), interval.end());
    let last = end.0.div_ceil(precision.0).saturating_mul(precision.0);
    Err(format!(
        "start and end must be multiples of the task's time precision, {unit} (hint: use --since {} --until {})",
        timestamp::show(first),
        timestamp::show(Time(last.max(first.0 + precision.0)))
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: QueryArgs,
    }

    const HOUR: Duration = Duration(3600);
    const TIMES: TaskTimes = TaskTimes {
        mode: BatchMode::TimeInterval,
        precision: HOUR,
        began: Some(Time(3600)),
        collected_until: None,
        ends: None,
        now: Time(7200 + 10),
    };

    fn ask(arguments: &[&str], times: TaskTimes) -> Result<QueryChoice, String> {
        let arguments = ["collect"].iter().chain(arguments);
        Command::try_parse_from(arguments).map_err(|e| e.to_string())?.args.query(&times)
    }

    fn by_time(start: u64, duration: u64, is_default: bool) -> Result<QueryChoice, String> {
        let query = Query::TimeInterval(Interval::new(Time(start), Duration(duration)).unwrap());
        Ok(QueryChoice::For { query, is_default })
    }

    #[test]
    fn parses_intervals() {
        let ask = |arguments: &[&str]| ask(arguments, TIMES);
        assert_eq!(ask(&["--since", "0"]), by_time(0, 7200, false));
        assert_eq!(ask(&["--since", "0", "--include-current"]), by_time(0, 10_800, false));
        assert_eq!(ask(&["--since", "3600", "--until", "10800"]), by_time(3600, 7200, false));
        assert_eq!(ask(&["--interval", "1970-01-01T01:00", "1h"]), by_time(3600, 3600, false));
        assert!(ask(&["--since", "7200", "--until", "3600"]).unwrap_err().contains("before"));
        let error = ask(&["--since", "3601", "--until", "7100"]).unwrap_err();
        assert!(error.contains("--since 1970-01-01T01:00:00Z --until 1970-01-01T02:00:00Z"), "{error}");
        assert!(ask(&["--current-batch"]).is_err());
        assert!(ask(&["--interval", "0", "1h", "--since", "0"]).is_err());
    }

    #[test]
    fn chooses_finished_uncollected_interval_by_default() {
        for arguments in [&[][..], &["--next"]] {
            assert_eq!(ask(arguments, TIMES), by_time(3600, 3600, true));
            let later = TaskTimes { collected_until: Some(Time(7200)), now: Time(14_400), ..TIMES };
            assert_eq!(ask(arguments, later), by_time(7200, 7200, true));
            let nothing = QueryChoice::NothingFinished { start: Time(7200), end: Some(Time(10_800)) };
            assert_eq!(ask(arguments, TaskTimes { collected_until: Some(Time(7200)), ..TIMES }), Ok(nothing));
        }
        assert_eq!(ask(&["--include-current"], TIMES), by_time(3600, 7200, true));
        // The current unit is collected: the next one ends one unit later.
        let ahead = TaskTimes { collected_until: Some(Time(10_800)), ..TIMES };
        let nothing = QueryChoice::NothingFinished { start: Time(10_800), end: Some(Time(14_400)) };
        assert_eq!(ask(&[], ahead), Ok(nothing));
        // A task that has ended receives no more reports.
        let ended = TaskTimes { ends: Some(Time(10_800)), now: Time(36_000), ..TIMES };
        assert_eq!(ask(&[], ended), by_time(3600, 7200, true));
        let nothing = QueryChoice::NothingFinished { start: Time(10_800), end: None };
        assert_eq!(ask(&[], TaskTimes { collected_until: Some(Time(10_800)), ..ended }), Ok(nothing));
        assert!(ask(&[], TaskTimes { began: None, ..TIMES }).unwrap_err().contains("--since"));
    }

    #[test]
    fn queries_batches_of_fixed_size_tasks() {
        let times = TaskTimes { mode: BatchMode::fixed_size(None), ..TIMES };
        let batch = |query| Ok(QueryChoice::For { query: Query::FixedSize(query), is_default: false });
        let id = BatchId::new([1; 32]);
        assert_eq!(ask(&[], times), batch(FixedSizeQuery::CurrentBatch));
        assert_eq!(ask(&["--next"], times), batch(FixedSizeQuery::CurrentBatch));
        assert_eq!(ask(&["--batch-id", &id.to_string()], times), batch(FixedSizeQuery::ByBatchId(id)));
        assert!(ask(&["--since", "3600"], times).is_err());
        assert!(ask(&["--include-current"], times).is_err());
    }
}
