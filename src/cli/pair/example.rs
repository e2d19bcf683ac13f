//! `dapbox pair --example`: half a year of results, of a study with real data.

use std::time::Duration as Span;

use serde_json::json;

use super::Args;
use crate::{
    cli::{
        Failure, Outcome,
        args::{Format, RevisionArg},
        demo::{
            Kind,
            data::{Dataset, Row},
            question::Question,
        },
        local_pair::Pair,
        style::{self, Style, print},
        task,
        taskfile::{Parameters, TaskFiles, VerifyKey},
    },
    client::Client,
    config::Seconds,
    model::{BatchMode, Epsilon, TaskId, Time},
    peer::{Peer, PeerOptions, RetryPolicy},
    results::{Presentation, Schedule, Unit, presentation::Note},
    support::clock,
};

/// Number of weeks with results.
const WEEKS: u64 = 26;
const DAY: u64 = 86_400;
const WEEK: u64 = 7 * DAY;
/// Number of concurrent uploads.
const CONCURRENCY: usize = 64;
/// Epsilon of the task with noise, per week.
const EPSILON: (u128, u128) = (1, 4);
/// How long the collector may take for a window.
const TIMEOUT: Span = Span::from_secs(60);

/// A task of the example.
struct Chapter {
    question: Question,
    noise: Option<Epsilon>,
    presentation: Presentation,
}

/// Creates the tasks, uploads the answers of the study with times in the past, and waits for the results.
pub async fn run(args: &Args, pair: &Pair) -> Outcome {
    let mut dataset = Dataset::builtin()?;
    dataset.rows.truncate(args.rows.and_then(|rows| rows.try_into().ok()).unwrap_or(usize::MAX));
    let is_text = args.output.format == Format::Text;
    if is_text {
        let style = Style::stdout();
        print(style.bold("Half a year of a health study, with a leader, a helper and a collector on this machine"))?;
        let rows = style::counted(dataset.rows.len() as u64, "answer");
        print(style.dim(&format!(
            "{rows} of the RAND Health Insurance Experiment to each of three questions, spread over time."
        )))?;
        print("")?;
    }
    // Weeks start on Monday: the epoch was a Thursday.
    let monday = |time: Time| Time((time.0 + 3 * DAY) / WEEK * WEEK - 3 * DAY);
    let end = monday(clock::now());
    let start = Time(end.0 - WEEKS * WEEK);
    let mut tasks = Vec::new();
    for chapter in chapters(&dataset, start)? {
        tasks.push(upload(args, pair, &dataset.rows, &chapter, start).await?);
    }
    wait_for_results(args, pair, tasks.len() as u64).await?;
    let collected = pair.leader.collected().await?;
    let page = collected.iter().find_map(|task| task.page.clone());
    let overview = page.as_ref().and_then(|page| page.split_once("/tasks/")).map(|(origin, _)| format!("{origin}/"));
    Ok(match args.output.format {
        Format::Json => print(json!({ "results": overview, "tasks": collected, "leader": pair.leader.data_dir })),
        Format::Text => {
            print("")?;
            print(format!("Results: {}", Style::stdout().accent(&overview.unwrap_or_default())))?;
            print(
                "\nNo party has seen an answer: neither aggregator, nor the collector, which has the sums of weeks only.",
            )?;
            print("\nCtrl-C stops them and deletes everything.")
        }
    }?)
}

fn chapters(dataset: &Dataset, start: Time) -> Result<Vec<Chapter>, Failure> {
    let text = |text: &str| Some(text.to_owned());
    let note = Note { at: Time(start.0 + 13 * WEEK), text: "Second half of the study".to_owned() };
    let visits = Question::new(Kind::Histogram, dataset)?;
    let total = Question::new(Kind::Sum, dataset)?;
    let health = Question::new(Kind::Multihot, dataset)?;
    let edges = (0..=12).map(f64::from).chain([f64::INFINITY]).collect();
    Ok(vec![
        Chapter {
            presentation: Presentation {
                title: text("Visits to a doctor, per person"),
                description: text(
                    "How often a person saw a doctor within a year, with noise for differential privacy.",
                ),
                unit: text("visits"),
                labels: visits.labels.clone(),
                edges,
                notes: vec![note.clone()],
            },
            noise: Epsilon::new(EPSILON.0, EPSILON.1),
            question: visits,
        },
        Chapter {
            presentation: Presentation {
                title: text("Visits to a doctor, in total"),
                description: text("The sum of all visits, and the mean per person."),
                unit: text("visits"),
                notes: vec![note.clone()],
                ..Presentation::default()
            },
            noise: None,
            question: total,
        },
        Chapter {
            presentation: Presentation {
                title: text("State of health"),
                description: text("How many persons have a physical limitation, or good, fair or poor health."),
                labels: health.labels.clone(),
                notes: vec![note],
                ..Presentation::default()
            },
            noise: None,
            question: health,
        },
    ])
}

/// Creates a task, uploads all answers, and makes the leader's server its collector.
async fn upload(args: &Args, pair: &Pair, rows: &[Row], chapter: &Chapter, start: Time) -> Result<TaskId, Failure> {
    let parameters = parameters(args.dap.unwrap_or_default(), pair, chapter, rows.len() as u64);
    let mut files = TaskFiles::generate(parameters, &VerifyKey::default())?;
    let grace = Seconds::new(1);
    files.collector.schedule = Some(Schedule { start: Some(start), every: Unit::Week, grace, ..Schedule::default() });
    files.collector.presentation = Some(chapter.presentation.clone());
    pair.add(&files, false).await?;
    let client = Client::new(files.client.parameters(), Peer::new(&PeerOptions::default())?, RetryPolicy::default())?;
    let title = chapter.presentation.title.clone().unwrap_or_default();
    let bar = (args.output.format == Format::Text).then(|| style::progress(rows.len() as u64, &title));
    let mut done = 0;
    for (week, answers) in (0..WEEKS).map(|week| (week, of_week(rows, week))) {
        let measurements = answers.iter().map(|row| chapter.question.measurement(row));
        let time = Time(start.0 + week * WEEK + 2 * DAY);
        let summary = client.upload_many(measurements, Some(time), CONCURRENCY, |_| {}).await;
        if let Some(error) = summary.failure {
            return Err(error.into());
        }
        done += answers.len() as u64;
        if let Some(bar) = &bar {
            bar.set_position(done);
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
    let record = files.collector.collector_record(start).ok_or_else(|| Failure::new("no collector's file"))?;
    pair.leader.collect(&record).await?;
    Ok(files.client.task.id)
}

/// The answers of a week: more in the middle of the study than at its start and end.
fn of_week(rows: &[Row], week: u64) -> &[Row] {
    let position = |week: u64| {
        let x = week as f64 / WEEKS as f64;
        // Grows slowly at both ends, and is x on average.
        let share = 0.6 * x + 0.4 * (3.0 * x * x - 2.0 * x * x * x);
        ((share * rows.len() as f64).round() as usize).min(rows.len())
    };
    &rows[position(week)..position(week + 1)]
}

fn parameters(revision: RevisionArg, pair: &Pair, chapter: &Chapter, rows: u64) -> Parameters {
    let (revision, id) = (revision.revision(), TaskId::random());
    Parameters {
        id,
        revision,
        info: task::default_info(revision, &id),
        leader_url: pair.leader.url(revision),
        helper_url: pair.helper.url(revision),
        min_batch_size: (rows / (2 * WEEKS)).clamp(1, 100),
        time_precision: Seconds::new(DAY),
        starts: None,
        expires: None,
        report_expiry_age: None,
        noise: chapter.noise,
        configuration: None,
        batch: BatchMode::TimeInterval,
        vdaf: chapter.question.vdaf.clone(),
    }
}

/// Waits until all weeks are collected.
async fn wait_for_results(args: &Args, pair: &Pair, tasks: u64) -> Outcome {
    let total = tasks * WEEKS;
    let bar = (args.output.format == Format::Text).then(|| style::progress(total, "Weeks collected"));
    let (mut last, mut since) = (0, std::time::Instant::now());
    loop {
        let collected = pair.leader.collected().await?;
        let count = collected.iter().filter_map(|task| task.windows.get("collected")).sum::<u64>();
        if let Some(bar) = &bar {
            bar.set_position(count);
        }
        if count >= total {
            break;
        }
        if count > last {
            (last, since) = (count, std::time::Instant::now());
        }
        if since.elapsed() > TIMEOUT {
            let error = collected.iter().find_map(|task| task.last_error.clone()).unwrap_or_default();
            return Err(Failure::new(format!("{count} of {total} weeks were collected in time: {error}")));
        }
        tokio::time::sleep(Span::from_millis(100)).await;
    }
    if let Some(bar) = bar {
        bar.finish();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_belongs_to_one_week() {
        for count in [WEEKS as usize, 1_000, 20_190] {
            let rows: Vec<Row> = (0..count).map(|row| [row as u64, 0, 0, 0, 0, 0]).collect();
            let all: Vec<Row> = (0..WEEKS).flat_map(|week| of_week(&rows, week).to_vec()).collect();
            assert_eq!(all, rows);
        }
    }
}
