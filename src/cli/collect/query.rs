//! What a collection asks for: an interval of time, or a batch.

use std::time::Duration as Span;

use crate::{
    cli::{args::duration, timestamp},
    model::{BatchId, BatchMode, Duration, FixedSizeQuery, Interval, Query, Time},
    support::duration,
};

/// What of the task is asked for.
#[derive(Debug, clap::Args)]
pub struct AskedArgs {
    /// An interval by its start and length.
    #[arg(long, num_args = 2, value_names = ["START", "DURATION"], conflicts_with_all = ["since", "until"])]
    interval: Option<Vec<String>>,
    /// From this time on; from the end of the last collection, or the beginning of the task, if this is left out.
    #[arg(long, value_name = "TIME", value_parser = timestamp::parse)]
    since: Option<Time>,
    /// Up to this time; up to the unit of time that is running now if this is left out.
    #[arg(long, value_name = "TIME", value_parser = timestamp::parse)]
    until: Option<Time>,
    /// What is finished and was not collected yet: the default, for scripts that say so.
    #[arg(long, conflicts_with_all = ["interval", "since", "until"])]
    next: bool,
    /// Also the unit of time that is running now. The leader refuses all further reports of it, so this asks first.
    #[arg(long, conflicts_with_all = ["interval", "until", "batch_id", "current_batch"])]
    include_current: bool,
    /// A batch of a fixed-size task that was collected before (not of a DAP-18 task, where batches have no names).
    #[arg(long, value_name = "ID", allow_hyphen_values = true,
        conflicts_with_all = ["interval", "since", "until", "next", "current_batch"])]
    batch_id: Option<BatchId>,
    /// Any batch of a fixed-size task that is ready and was not collected before.
    #[arg(long, conflicts_with_all = ["interval", "since", "until"])]
    current_batch: bool,
}

/// What is known of a task's times.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// How batches are made.
    pub mode: BatchMode,
    /// Times are multiples of this.
    pub precision: Duration,
    /// Where the first collection begins, if that is known.
    pub began: Option<Time>,
    /// The end of the last collection, if there was one.
    pub collected_until: Option<Time>,
    /// The end of the last unit of time that has reports, if the task ends.
    pub ends: Option<Time>,
    /// The time.
    pub now: Time,
}

/// A query, or why there is none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Ask for this. `is_default` if the arguments leave the interval to us.
    For {
        /// The query.
        query: Query,
        /// Whether the interval is ours to choose.
        is_default: bool,
    },
    /// No unit of time has finished since `start`. The next one does at `end`, unless the task has ended.
    NothingFinished {
        /// Where the collection would begin.
        start: Time,
        /// When there is something to collect.
        end: Option<Time>,
    },
}

impl AskedArgs {
    /// Whether the unit of time that is running is asked for.
    pub fn includes_current(&self) -> bool {
        self.include_current
    }

    /// What the arguments ask for.
    pub fn query(&self, known: &Known) -> Result<Asked, String> {
        let by_time = self.interval.is_some() || self.since.is_some() || self.until.is_some() || self.include_current;
        match known.mode {
            BatchMode::FixedSize { .. } if by_time => {
                Err("the leader makes the batches of this task: use --current-batch or --batch-id".to_owned())
            }
            BatchMode::FixedSize { .. } => {
                let query = self.batch_id.map_or(FixedSizeQuery::CurrentBatch, FixedSizeQuery::ByBatchId);
                Ok(Asked::For { query: Query::FixedSize(query), is_default: false })
            }
            BatchMode::TimeInterval if self.batch_id.is_some() || self.current_batch => {
                Err("this task is collected by time: use --interval, or --since and --until".to_owned())
            }
            BatchMode::TimeInterval => self.interval(known),
        }
    }

    fn interval(&self, known: &Known) -> Result<Asked, String> {
        let current = known.now.truncate(known.precision);
        let is_default = self.interval.is_none() && self.since.is_none() && self.until.is_none();
        let (start, end) = match self.interval.as_deref() {
            Some([start, length]) => {
                let start = timestamp::parse(start)?;
                (start, start.saturating_add(Duration(duration(length)?.as_secs())))
            }
            _ => {
                let finished = if self.include_current { current.saturating_add(known.precision) } else { current };
                let finished = known.ends.map_or(finished, |ends| finished.min(ends));
                // Not from the epoch: other aggregators make an entry for each unit of time that they are asked about.
                let start = self.since.or(known.collected_until.max(known.began));
                let start = start.ok_or("say --since: it is not known when the task began")?;
                (start, self.until.unwrap_or(finished))
            }
        };
        if self.interval.is_none() && self.until.is_none() && end <= start {
            let end = start.max(current).saturating_add(known.precision).truncate(known.precision);
            let end = Some(end).filter(|end| known.ends.is_none_or(|ends| *end <= ends));
            return Ok(Asked::NothingFinished { start, end });
        }
        let interval = end.0.checked_sub(start.0).and_then(|length| Interval::new(start, Duration(length)));
        let interval = interval.ok_or("the interval ends before it starts")?;
        check_aligned(&interval, known.precision)?;
        Ok(Asked::For { query: Query::TimeInterval(interval), is_default })
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
        "start and end must be multiples of the task's time precision, {unit}: try --since {} --until {}",
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
        args: AskedArgs,
    }

    const HOUR: Duration = Duration(3600);
    const KNOWN: Known = Known {
        mode: BatchMode::TimeInterval,
        precision: HOUR,
        began: Some(Time(3600)),
        collected_until: None,
        ends: None,
        now: Time(7200 + 10),
    };

    fn ask(arguments: &[&str], known: Known) -> Result<Asked, String> {
        let arguments = ["collect"].iter().chain(arguments);
        Command::try_parse_from(arguments).map_err(|e| e.to_string())?.args.query(&known)
    }

    fn by_time(start: u64, duration: u64, is_default: bool) -> Result<Asked, String> {
        let query = Query::TimeInterval(Interval::new(Time(start), Duration(duration)).unwrap());
        Ok(Asked::For { query, is_default })
    }

    #[test]
    fn intervals_are_read_in_all_their_forms() {
        let ask = |arguments: &[&str]| ask(arguments, KNOWN);
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
    fn the_default_ends_with_the_last_finished_unit_and_begins_where_the_last_collection_ended() {
        for arguments in [&[][..], &["--next"]] {
            assert_eq!(ask(arguments, KNOWN), by_time(3600, 3600, true));
            let later = Known { collected_until: Some(Time(7200)), now: Time(14_400), ..KNOWN };
            assert_eq!(ask(arguments, later), by_time(7200, 7200, true));
            let nothing = Asked::NothingFinished { start: Time(7200), end: Some(Time(10_800)) };
            assert_eq!(ask(arguments, Known { collected_until: Some(Time(7200)), ..KNOWN }), Ok(nothing));
        }
        assert_eq!(ask(&["--include-current"], KNOWN), by_time(3600, 7200, true));
        // The current unit was collected: the next one to wait for is the one after it.
        let ahead = Known { collected_until: Some(Time(10_800)), ..KNOWN };
        let nothing = Asked::NothingFinished { start: Time(10_800), end: Some(Time(14_400)) };
        assert_eq!(ask(&[], ahead), Ok(nothing));
        // A task that has ended has no later reports.
        let ended = Known { ends: Some(Time(10_800)), now: Time(36_000), ..KNOWN };
        assert_eq!(ask(&[], ended), by_time(3600, 7200, true));
        let nothing = Asked::NothingFinished { start: Time(10_800), end: None };
        assert_eq!(ask(&[], Known { collected_until: Some(Time(10_800)), ..ended }), Ok(nothing));
        assert!(ask(&[], Known { began: None, ..KNOWN }).unwrap_err().contains("--since"));
    }

    #[test]
    fn fixed_size_tasks_are_asked_for_batches() {
        let known = Known { mode: BatchMode::fixed_size(None), ..KNOWN };
        let batch = |query| Ok(Asked::For { query: Query::FixedSize(query), is_default: false });
        let id = BatchId::new([1; 32]);
        assert_eq!(ask(&[], known), batch(FixedSizeQuery::CurrentBatch));
        assert_eq!(ask(&["--next"], known), batch(FixedSizeQuery::CurrentBatch));
        assert_eq!(ask(&["--batch-id", &id.to_string()], known), batch(FixedSizeQuery::ByBatchId(id)));
        assert!(ask(&["--since", "3600"], known).is_err());
        assert!(ask(&["--include-current"], known).is_err());
    }
}
