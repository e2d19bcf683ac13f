//! `dapbox status`: shows the running server, once or repeatedly.

mod view;

use std::{io::IsTerminal, time::Duration as Span};

use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format, OutputArgs, parse_duration},
    control::Socket,
    results,
    screen::{Screen, ScreenEvent},
    signals::StopSignals,
    style::{Style, print, try_print},
};
use crate::{
    config::Config,
    model::TaskId,
    store::name::TaskName,
    views::{
        overview::{Overview, TaskView},
        results::CollectorTaskStatus,
    },
};

/// Arguments of `dapbox status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A batch is 'ready' when it can be collected, 'not aggregated yet' if it has enough reports once the \
    waiting ones are aggregated, and 'too few' otherwise. A helper does not know the reports that wait at the leader. \
    Rates are averages over the last minute.\n\n\
    Exit code 1 if no server is running.\n\n\
    Examples:\n  \
    dapbox status\n  \
    dapbox status --watch\n  \
    dapbox status 9GgQd3 --config /etc/dapbox/appliance.toml\n  \
    dapbox status --watch -o json --every 10s"
)]
pub struct Args {
    /// Name of a task, or the first characters of its id: show only this task, with all of its batches.
    #[arg(allow_hyphen_values = true)]
    task: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Repeat until Ctrl-C or q: full-screen on a terminal, appended otherwise.
    #[arg(short, long)]
    watch: bool,
    /// Interval of --watch.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2s", requires = "watch")]
    every: Span,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox status`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(None)?;
    let source = Source { socket: Socket::new(config.control_socket())?, config, task: args.task.clone() };
    if !args.watch {
        return Ok(print(args.print(&source.snapshot().await?, true)?)?);
    }
    match args.output.format {
        Format::Text if std::io::stdout().is_terminal() => redraw_screen(&args, &source).await,
        _ => print_repeatedly(&args, &source).await,
    }
}

impl Args {
    fn print(&self, snapshot: &Snapshot, pretty: bool) -> Result<String, Failure> {
        Ok(match self.output.format {
            Format::Text => view::snapshot(snapshot, self.task.is_some(), Style::stdout()),
            Format::Json if pretty => serde_json::to_string_pretty(snapshot)?,
            Format::Json => serde_json::to_string(snapshot)?,
        })
    }
}

/// What the command shows.
#[derive(Serialize)]
struct Snapshot {
    /// The server and the tasks of the aggregator.
    #[serde(flatten)]
    overview: Overview,
    /// The tasks that the server collects.
    collected: Vec<CollectorTaskStatus>,
}

impl Snapshot {
    /// Removes all tasks but the one with this name or first characters of its id.
    fn retain(&mut self, task: &str) {
        let is_called = |name: &Option<TaskName>| name.as_ref().is_some_and(|name| name.as_str() == task);
        let is_meant = |name: &Option<TaskName>, id: &TaskId, has_name: bool| match has_name {
            true => is_called(name),
            false => id.to_string().starts_with(task),
        };
        let (tasks, collected) = (&mut self.overview.tasks, &mut self.collected);
        let has_name = tasks.iter().any(|view: &TaskView| is_called(&view.status.name))
            || collected.iter().any(|task| is_called(&task.name));
        tasks.retain(|view| is_meant(&view.status.name, &view.status.id, has_name));
        collected.retain(|task| is_meant(&task.name, &task.id, has_name));
    }
}

/// The source of snapshots.
struct Source {
    socket: Socket,
    config: Config,
    task: Option<String>,
}

impl Source {
    async fn snapshot(&self) -> Result<Snapshot, Failure> {
        if !self.socket.is_alive().await? {
            return Err(Failure::new(format!(
                "no server is running on {} (hint: start it with 'dapbox serve', or set --config or --data-dir; 'dapbox \
                 task list' works without a server)",
                self.config.data_dir.display()
            )));
        }
        let (overview, collected) = (self.socket.overview().await?, results::tasks(&self.socket).await?);
        let mut snapshot = Snapshot { overview, collected };
        if let Some(task) = &self.task {
            snapshot.retain(task);
            if snapshot.overview.tasks.is_empty() && snapshot.collected.is_empty() {
                return Err(Failure::new(format!("unknown task {task} (hint: 'dapbox task list' shows all)")));
            }
        }
        Ok(snapshot)
    }
}

async fn print_repeatedly(args: &Args, source: &Source) -> Outcome {
    let mut signals = StopSignals::new()?;
    loop {
        let text = tokio::select! {
            snapshot = source.snapshot() => args.print(&snapshot?, false)?,
            _ = signals.next() => return Ok(()),
        };
        let between = if args.output.format == Format::Text { "\n" } else { "" };
        if !try_print(text)? || !between.is_empty() && !try_print("")? {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(args.every) => {}
            _ = signals.next() => return Ok(()),
        }
    }
}

async fn redraw_screen(args: &Args, source: &Source) -> Outcome {
    // The first error is printed on the normal screen.
    let mut text = args.print(&source.snapshot().await?, false)?;
    let mut signals = StopSignals::new()?;
    let below = Style::stdout().dim("q: quit");
    let mut screen = Screen::open(Style::stdout().ellipsis())?;
    loop {
        screen.draw(&text, &below)?;
        let next = async {
            tokio::time::sleep(args.every).await;
            source.snapshot().await.and_then(|snapshot| args.print(&snapshot, false))
        };
        tokio::select! {
            // A restarted server is shown again.
            shown = next => text = shown.unwrap_or_else(|failure| Style::stdout().bad(failure.message())),
            event = screen.event() => match event {
                ScreenEvent::Quit => return Ok(()),
                ScreenEvent::Resized => {}
            },
            _ = signals.next() => return Ok(()),
        }
    }
}
