//! `dapbox results show`: a result in the terminal.

use serde::Deserialize;

use super::{client, export::SelectionArgs, find, server};
use crate::{
    cli::{
        Failure, Outcome,
        args::{ConfigArgs, Format, OutputArgs},
        show,
        style::{Style, print},
    },
    collector::CollectedAggregate,
    model::{Duration, Interval, Time},
    support::{format, timestamp},
    vdaf::AggregateResult,
};

/// Arguments of `dapbox results show`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a range, shows the latest collected window; with one, the sum of its windows. Dates are in the \
    time zone of the task's schedule.\n\n\
    Examples:\n  \
    dapbox results show\n  \
    dapbox results show steps --from 2026-11-01 --to 2026-12-01\n  \
    dapbox results show steps -o json"
)]
pub struct Args {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A line of the NDJSON file.
#[derive(Deserialize)]
struct Line {
    start: Option<String>,
    end: Option<String>,
    report_count: Option<u64>,
    windows: Option<u64>,
    result: Option<AggregateResult>,
}

/// Runs `dapbox results show`.
pub async fn run(args: Args) -> Outcome {
    let socket = server(&args.config.load(None)?).await?;
    let task = find(&socket, args.selection.task.as_deref()).await?;
    let mut query = args.selection.query(&task, true)?;
    if !args.selection.has_range() {
        let windows = client::windows(&socket, &task.id).await?;
        let latest = windows.iter().rev().find(|window| window.report_count.is_some());
        let hint = "no window is collected yet (hint: 'dapbox results windows' shows what is due)";
        query = format!("window={}", latest.ok_or_else(|| Failure::new(hint))?.number);
    }
    let body = client::file(&socket, &task.id, "ndjson", &query).await?;
    let text = std::str::from_utf8(&body).unwrap_or_default().trim();
    if args.output.format == Format::Json {
        return Ok(print(text)?);
    }
    let none = || Failure::new("no window of the range is collected (hint: 'dapbox results windows' shows all)");
    let line: Line = serde_json::from_str(text.lines().next().ok_or_else(none)?)?;
    let (Some(report_count), Some(result)) = (line.report_count, line.result) else { return Err(none()) };
    let time = |text: &Option<String>| text.as_ref().and_then(|text| timestamp::parse(text).ok()).unwrap_or(Time(0));
    let (start, end) = (time(&line.start), time(&line.end));
    let interval = Interval::new(start, Duration(end.0.saturating_sub(start.0)));
    let interval = interval.ok_or_else(|| Failure::new("the server sent an invalid interval"))?;
    let shown = CollectedAggregate { report_count, interval, batch_id: None, location: None, result };
    let (vdaf, style) = (&task.parameters.vdaf, Style::stdout());
    print(style.bold(&task.title))?;
    print(show::collected(&shown, vdaf, style))?;
    match (task.parameters.noise, line.windows) {
        (Some(epsilon), Some(1)) => Ok(print(style.dim(&format!("Noise: {}", format::noise(vdaf, epsilon))))?),
        (Some(epsilon), Some(windows)) => {
            let noise = format::noise(vdaf, epsilon);
            Ok(print(style.dim(&format!("Noise of each of the {windows} windows: {noise}")))?)
        }
        _ => Ok(()),
    }
}
