//! `dapbox collect`: an aggregate, as the collector gets it.

mod source;

use std::time::Duration as Span;

use clap::ValueEnum;
use serde_json::json;

use super::{
    Failure, Outcome,
    args::{PeerArgs, duration},
    calendar, show,
    style::{self, Style},
};
use crate::{
    collector::{CollectError, Collected, Progress},
    config::span,
    model::{BatchId, BatchMode, Duration, FixedSizeQuery, Interval, Query, TaskParameters, Time},
    vdaf::{
        AggregateResult,
        noise::{self, Noise},
    },
    wire::ProblemType,
};

use source::SourceArgs;

/// Arguments of `dapbox collect`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A batch is given out once. Without options, all that has no end is collected: everything up to \
    now, or the current batch of a fixed-size task. A DAP-18 leader gives out the same batch again until it is told that \
    the result has arrived, which this command does once the result is written out. Times are UTC and multiples of the task's time precision.\n\n\
    Examples:\n  \
    dapbox collect --task collector.toml\n  \
    dapbox collect --task collector.toml --interval 2026-11-22T10:00 1h\n  \
    dapbox collect --task collector.toml --since 2026-11-01 --until 2026-11-08\n  \
    dapbox collect --task collector.toml --current-batch -o json\n  \
    dapbox collect --task collector.toml --ca-file our-ca.pem\n  \
    dapbox collect --task collector.toml -o csv \\\n      --batch-id jX0WsbqRp6dOnwQ0bHvTRfMyJIXbpUNnJvBN4ZNVn5g\n\n\
    A task that was made with Divvi Up has no collector.toml. Its credential file is read as it is; the rest is what Divvi \
    Up shows of the task:\n  \
    dapbox collect --credential collector-credential.json \\\n      \
    --leader https://leader.example/dap-09/ \\\n      \
    --task-id 9GgQd3pEE6DiJtYTFyOYGDjRQzdrRaUrVL0Yn-3uAF4 \\\n      \
    --vdaf histogram --length 10 --time-precision 1h --since 2026-11-01"
)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    asked: AskedArgs,
    /// Give up when it takes longer.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    timeout: Span,
    #[command(flatten)]
    peer: PeerArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What of the task is asked for.
#[derive(Debug, clap::Args)]
struct AskedArgs {
    /// An interval by its start and length.
    #[arg(long, num_args = 2, value_names = ["START", "DURATION"], conflicts_with_all = ["since", "until"])]
    interval: Option<Vec<String>>,
    /// From this time on; from the beginning of the task if this is left out.
    #[arg(long, value_name = "TIME", value_parser = calendar::parse)]
    since: Option<Time>,
    /// Up to this time; up to now if this is left out.
    #[arg(long, value_name = "TIME", value_parser = calendar::parse)]
    until: Option<Time>,
    /// A batch of a fixed-size task that was collected before (not of a DAP-18 task, where batches have no names).
    #[arg(long, value_name = "ID", allow_hyphen_values = true,
        conflicts_with_all = ["interval", "since", "until", "current_batch"])]
    batch_id: Option<BatchId>,
    /// Any batch of a fixed-size task that is ready and was not collected before.
    #[arg(long, conflicts_with_all = ["interval", "since", "until"])]
    current_batch: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people; histograms and vectors are drawn.
    Text,
    /// One JSON object.
    Json,
    /// A header and one row for each number.
    Csv,
}

/// Runs `dapbox collect`.
pub async fn run(args: Args) -> Outcome {
    let source = args.source.read()?;
    let public = source.task.public.clone();
    let query = query(&args.asked, public.batch_mode, public.time_precision, source.began, Time::now())
        .map_err(Failure::usage)?;
    let collector = source.collector(args.peer.peer()?)?;
    let spinner = style::spinner("asking the leader");
    let progress = |progress| match progress {
        Progress::Accepted => spinner.set_message("collecting"),
        Progress::Waiting(_) => spinner.set_message("waiting for the leader"),
    };
    let result = collector.collect(query, Some(args.timeout), progress).await;
    spinner.finish_and_clear();
    let collected = result.map_err(|error| explain(&error, &query))?;
    let is_read = style::try_say(render(&collected, &query, &public, args.output)?)?;
    if is_read && is_given_out_until_released(&query, &collected) {
        // Not before the result is written: after this nobody can ask for it again.
        if let Err(error) = collector.release(&collected).await {
            style::warn(format!("the next collection will get the same batch again, as it was not released: {error}"));
        }
    }
    Ok(())
}

/// Whether the leader gives out this batch again and again until it hears that the collector has it. Where it says which
/// batch it is, it gives out another one the next time, and this one by its id.
fn is_given_out_until_released(query: &Query, collected: &Collected) -> bool {
    *query == Query::FixedSize(FixedSizeQuery::CurrentBatch) && collected.batch_id.is_none()
}

/// What the arguments ask for, in a task of the given mode that began at the given time.
fn query(
    args: &AskedArgs,
    mode: BatchMode,
    precision: Duration,
    began: Option<Time>,
    now: Time,
) -> Result<Query, String> {
    let by_time = args.interval.is_some() || args.since.is_some() || args.until.is_some();
    match mode {
        BatchMode::FixedSize { .. } if by_time => {
            Err("the leader makes the batches of this task: use --current-batch or --batch-id".to_owned())
        }
        BatchMode::FixedSize { .. } => {
            Ok(Query::FixedSize(args.batch_id.map_or(FixedSizeQuery::CurrentBatch, FixedSizeQuery::ByBatchId)))
        }
        BatchMode::TimeInterval if args.batch_id.is_some() || args.current_batch => {
            Err("this task is collected by time: use --interval, or --since and --until".to_owned())
        }
        BatchMode::TimeInterval => Ok(Query::TimeInterval(interval(args, precision, began, now)?)),
    }
}

fn interval(args: &AskedArgs, precision: Duration, began: Option<Time>, now: Time) -> Result<Interval, String> {
    let (start, end) = match args.interval.as_deref() {
        Some([start, length]) => {
            let start = calendar::parse(start)?;
            (start, start.saturating_add(Duration(duration(length)?.as_secs())))
        }
        _ => {
            // The unit of time that is running now counts as "up to now".
            let end = args.until.unwrap_or_else(|| now.truncate(precision).saturating_add(precision));
            // Not from the epoch: other aggregators make an entry for each unit of time that they are asked about.
            let start = args.since.or(began).ok_or("say --since: it is not known when the task began")?;
            (start, end)
        }
    };
    let interval = end.0.checked_sub(start.0).and_then(|length| Interval::new(start, Duration(length)));
    let interval = interval.ok_or("the interval ends before it starts")?;
    if !interval.is_aligned(precision) {
        let unit = span::show(Span::from_secs(precision.0));
        let (first, last) = (start.truncate(precision), end.0.div_ceil(precision.0).saturating_mul(precision.0));
        return Err(format!(
            "start and end must be multiples of the task's time precision, {unit}: try --since {} --until {}",
            calendar::show(first),
            calendar::show(Time(last.max(first.0 + precision.0)))
        ));
    }
    Ok(interval)
}

/// What the operator can do about it.
fn explain(error: &CollectError, query: &Query) -> Failure {
    if let CollectError::Impossible(_) = error {
        return Failure::usage(error);
    }
    let CollectError::Call(call) = error else {
        let hint = match error {
            CollectError::Deadline(_) => {
                "\nReports may still be on their way through the aggregators, or be too few: ask \
                the leader's\noperator for 'dapbox task show'. A longer --timeout waits longer."
            }
            _ => "",
        };
        return Failure::new(format!("{error}{hint}"));
    };
    let hint = match (call.problem().map(|problem| problem.kind), query) {
        (Some(ProblemType::InvalidBatchSize), Query::FixedSize(_)) => {
            "\nThe batch has too few reports, or is not one that was collected before."
        }
        (Some(ProblemType::InvalidBatchSize), Query::TimeInterval(_)) => {
            "\nThere are not enough reports: the task's minimum batch size protects the single client. Collect a longer\n\
             interval, or wait for more reports."
        }
        (Some(ProblemType::BatchOverlap), Query::TimeInterval(_)) => {
            "\nA part of the interval was collected before, and a report is counted once only. Use --since with the\n\
             time that the last collection said to go on from."
        }
        (Some(ProblemType::BatchInvalid), Query::TimeInterval(_)) => {
            "\nIf a part of the interval is given up already, use a later --since."
        }
        (Some(ProblemType::BatchInvalid), Query::FixedSize(FixedSizeQuery::CurrentBatch)) => {
            "\nNo batch is ready yet: wait for more reports."
        }
        (Some(ProblemType::UnauthorizedRequest), _) => "\nThe token in the file is not the one that the leader knows.",
        (Some(ProblemType::UnrecognizedTask), _) => {
            "\nHas the leader's operator added leader.toml? Or is it another leader, or another id?"
        }
        _ => "",
    };
    Failure::new(format!("{error}{hint}"))
}

fn render(collected: &Collected, query: &Query, task: &TaskParameters, output: Output) -> Result<String, Failure> {
    // The result's interval ends with the last report. What was asked for may end later, and all of it is closed now.
    let asked = match query {
        Query::TimeInterval(interval) => Some(interval),
        Query::FixedSize(_) => None,
    };
    match output {
        Output::Text => {
            let style = Style::stdout();
            let next = asked
                .map(|asked| format!("\nThe next collection goes on with --since {}", calendar::show(asked.end())));
            let next = next.map(|next| style.dim(&next)).unwrap_or_default();
            let noise = task.noise.map(|epsilon| format!("\nNoise: {}\n", noise::words(&task.vdaf, epsilon)));
            let noise = noise.map(|noise| style.dim(&noise)).unwrap_or_default();
            Ok(format!("{}{noise}{next}", show::collected(collected, &task.vdaf, style)))
        }
        Output::Json => {
            let value = json!({
                "report_count": collected.report_count,
                "interval": {
                    "start": collected.interval.start().0,
                    "duration": collected.interval.duration().0,
                },
                "asked": asked.map(|asked| json!({ "start": asked.start().0, "duration": asked.duration().0 })),
                "batch_id": collected.batch_id,
                "result": collected.result,
                "noise": noise_facts(task)?,
            });
            Ok(format!("{value}\n"))
        }
        Output::Csv => {
            let values: Vec<String> = match &collected.result {
                AggregateResult::Number(number) => vec![number.to_string()],
                AggregateResult::Vector(values) => values.iter().map(u128::to_string).collect(),
                AggregateResult::Noisy(values) => values.iter().map(i128::to_string).collect(),
            };
            let rows = values.iter().enumerate().map(|(index, value)| format!("{index},{value}\n"));
            Ok(std::iter::once("index,value\n".to_owned()).chain(rows).collect())
        }
    }
}

/// What the task's noise means, for machines; null without noise.
fn noise_facts(task: &TaskParameters) -> Result<serde_json::Value, Failure> {
    let Some(epsilon) = task.noise else { return Ok(serde_json::Value::Null) };
    let noise = Noise::new(&task.vdaf, epsilon)?;
    Ok(json!({
        "epsilon": epsilon,
        "standard_deviation": noise.standard_deviation(),
        "bound_95_percent": noise.bound(),
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::{Revision, TaskId, VdafConfig};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: AskedArgs,
    }

    const HOUR: Duration = Duration(3600);
    const NOW: Time = Time(7200 + 10);

    fn ask(arguments: &[&str], mode: BatchMode) -> Result<Query, String> {
        let arguments = ["collect"].iter().chain(arguments);
        query(&Command::try_parse_from(arguments).map_err(|e| e.to_string())?.args, mode, HOUR, Some(Time(3600)), NOW)
    }

    fn by_time(start: u64, duration: u64) -> Result<Query, String> {
        Ok(Query::TimeInterval(Interval::new(Time(start), Duration(duration)).unwrap()))
    }

    #[test]
    fn intervals_are_read_in_all_their_forms() {
        let ask = |arguments: &[&str]| ask(arguments, BatchMode::TimeInterval);
        assert_eq!(ask(&[]), by_time(3600, 7200));
        assert_eq!(ask(&["--since", "0"]), by_time(0, 10_800));
        assert_eq!(ask(&["--since", "3600"]), by_time(3600, 7200));
        assert_eq!(ask(&["--since", "3600", "--until", "7200"]), by_time(3600, 3600));
        assert_eq!(ask(&["--interval", "1970-01-01T01:00", "1h"]), by_time(3600, 3600));
        assert!(ask(&["--since", "7200", "--until", "3600"]).unwrap_err().contains("before"));
        let error = ask(&["--since", "3601", "--until", "7100"]).unwrap_err();
        assert!(error.contains("--since 1970-01-01T01:00:00Z --until 1970-01-01T02:00:00Z"), "{error}");
        assert!(ask(&["--current-batch"]).is_err());
        assert!(ask(&["--interval", "0", "1h", "--since", "0"]).is_err());
    }

    #[test]
    fn fixed_size_tasks_are_asked_for_batches() {
        let mode = BatchMode::fixed_size(None);
        let id = BatchId::new([1; 32]);
        assert_eq!(ask(&[], mode), Ok(Query::FixedSize(FixedSizeQuery::CurrentBatch)));
        assert_eq!(ask(&["--batch-id", &id.to_string()], mode), Ok(Query::FixedSize(FixedSizeQuery::ByBatchId(id))));
        assert!(ask(&["--since", "3600"], mode).is_err());
    }

    #[test]
    fn a_batch_is_released_only_where_nothing_else_leads_to_the_next_one() {
        let collected = |batch_id| Collected {
            report_count: 3,
            interval: Interval::new(Time(3600), HOUR).unwrap(),
            batch_id,
            place: Some("tasks/x/collection_jobs/1".to_owned()),
            result: AggregateResult::Number(1),
        };
        let current = Query::FixedSize(FixedSizeQuery::CurrentBatch);
        assert!(is_given_out_until_released(&current, &collected(None)));
        assert!(!is_given_out_until_released(&current, &collected(Some(BatchId::new([1; 32])))));
        assert!(!is_given_out_until_released(&by_time(0, 3600).unwrap(), &collected(None)));
    }

    fn task(noise: Option<&str>) -> TaskParameters {
        TaskParameters {
            id: TaskId::new([1; 32]),
            revision: Revision::Dap09,
            info: String::new(),
            leader_url: "https://a.example/".to_owned(),
            helper_url: "https://b.example/".to_owned(),
            batch_mode: BatchMode::TimeInterval,
            vdaf: VdafConfig::Prio3Histogram { length: 2, chunk_length: 1 },
            min_batch_size: 1,
            time_precision: HOUR,
            task_expiration: None,
            task_interval: None,
            noise: noise.map(|epsilon| epsilon.parse().unwrap()),
        }
    }

    #[test]
    fn noise_is_said_with_what_it_means() {
        let collected = Collected {
            report_count: 3,
            interval: Interval::new(Time(3600), HOUR).unwrap(),
            batch_id: None,
            place: None,
            result: AggregateResult::Noisy(vec![-1, 2]),
        };
        let (query, task) = (by_time(0, 10_800).unwrap(), task(Some("2/4")));
        let render = |output| render(&collected, &query, &task, output).unwrap();
        assert_eq!(render(Output::Csv), "index,value\n0,-1\n1,2\n");
        let value: serde_json::Value = serde_json::from_str(&render(Output::Json)).unwrap();
        assert_eq!((&value["result"], &value["noise"]["epsilon"]), (&json!([-1, 2]), &json!("0.5")));
        // The scale is 2 / 0.5, and so the standard deviation about 8.
        assert!((value["noise"]["standard_deviation"].as_f64().unwrap() - 8.0).abs() < 0.1, "{value}");
        let bound = value["noise"]["bound_95_percent"].as_f64().unwrap();
        let text = render(Output::Text);
        assert!(text.contains("epsilon 0.5 ") && text.contains(&format!("within {bound} of")), "{text}");
    }

    #[test]
    fn machines_get_numbers() {
        let collected = Collected {
            report_count: 3,
            interval: Interval::new(Time(3600), HOUR).unwrap(),
            batch_id: None,
            place: None,
            result: AggregateResult::Vector(vec![1, 2]),
        };
        let task = task(None);
        let query = by_time(0, 10_800).unwrap();
        let render = |output| render(&collected, &query, &task, output).unwrap();
        assert_eq!(render(Output::Csv), "index,value\n0,1\n1,2\n");
        let value: serde_json::Value = serde_json::from_str(&render(Output::Json)).unwrap();
        assert_eq!(value["result"], json!([1, 2]));
        assert!(value["noise"].is_null());
        assert_eq!(value["interval"]["start"], 3600);
        assert_eq!(value["asked"]["duration"], 10_800);
        assert!(render(Output::Text).ends_with("--since 1970-01-01T03:00:00Z"));
    }
}
