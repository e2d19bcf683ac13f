//! `dapbox results list`: the tasks that this server collects.

use std::fmt::Write;

use crate::{
    cli::{
        Outcome,
        args::{ConfigArgs, OutputArgs},
        control::Control,
        show,
        style::{self, Style},
        table::{Cell, Table},
        timestamp,
    },
    model::Time,
    support::{clock, duration},
    views::results::CollectorTaskStatus,
};

/// Arguments of `dapbox results list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Works with or without a running server.\n\n\
    Examples:\n  \
    dapbox results list\n  \
    dapbox results list -o json")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox results list`.
pub async fn run(args: Args) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let found = super::statuses(&control).await;
    let tasks = super::closing(control, found).await?;
    args.output.print(&tasks, || match tasks.is_empty() {
        true => format!("{}.", super::NO_TASKS),
        false => table(&tasks, Style::stdout()),
    })
}

/// A table of tasks.
pub fn table(tasks: &[CollectorTaskStatus], style: Style) -> String {
    let now = clock::now();
    let header = ["id", "title", "collected", "open", "lost", "last result", "next window"];
    let mut table = Table::new(style, header).right(2..5);
    for task in tasks {
        let count = |states: &[&str]| states.iter().filter_map(|state| task.windows.get(*state)).sum::<u64>();
        let lost = count(&["lost", "refused"]);
        let brief = |time: Option<Time>| time.map_or_else(|| "-".to_owned(), |time| timestamp::brief(time, now));
        table.row([
            task.id.into(),
            Cell::bold(&task.title),
            style::count(count(&["collected"])).into(),
            style::count(count(&["due", "requested", "pending", "too_few_reports"])).into(),
            if lost > 0 { Cell::bad(style::count(lost)) } else { style::count(lost).into() },
            brief(task.last_collected).into(),
            Cell::dim(brief(task.next_due)),
        ]);
    }
    table.to_string()
}

/// A table of tasks below a title.
pub fn titled_table(tasks: &[CollectorTaskStatus], style: Style) -> String {
    format!("{}\n{}", style.bold("Collected by this server"), table(tasks, style))
}

/// A task's schedule and progress.
pub fn describe(task: &CollectorTaskStatus, style: Style) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}{value}", style.dim(&format!("{name:<18}")));
    };
    let parameters = &task.parameters;
    line("task", show::task_label(task.name.as_ref(), &task.id));
    line("title", task.title.clone());
    line("role", "collector".to_owned());
    line("protocol", show::revision(parameters.revision));
    line("computes", show::vdaf(&parameters.vdaf));
    line("batches", show::batches(parameters.batch_mode, parameters.min_batch_size));
    line("leader", parameters.leader_url.clone());
    line("windows from", timestamp::show(task.start));
    line("every", format!("{} ({})", String::from(task.schedule.every), task.schedule.time_zone));
    line("grace", duration::show(*task.schedule.grace));
    let counts = task.windows.iter().map(|(state, count)| format!("{count} {}", state.replace('_', " ")));
    line("windows", counts.collect::<Vec<_>>().join(", "));
    let mut time = |name: &str, time: Option<Time>| {
        if let Some(time) = time {
            line(name, timestamp::show(time));
        }
    };
    time("last result", task.last_collected);
    time("next window", task.next_due);
    time("next deadline", task.next_deadline);
    if let Some(page) = &task.page {
        line("page", page.clone());
    }
    if let Some(error) = &task.last_error {
        line("last error", style.bad(error));
    }
    text.trim_end().to_owned()
}
