//! `dapbox status`: shows the running server, once or repeatedly.

mod view;

use std::{io::IsTerminal, time::Duration as Span};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format, OutputArgs, parse_duration},
    control::Socket,
    screen::{Screen, ScreenEvent},
    signals::StopSignals,
    style::{Style, print, try_print},
};
use crate::{
    config::Config,
    views::overview::{Overview, TaskView},
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
        return Ok(print(args.print(&source.overview().await?, true)?)?);
    }
    match args.output.format {
        Format::Text if std::io::stdout().is_terminal() => redraw_screen(&args, &source).await,
        _ => print_repeatedly(&args, &source).await,
    }
}

impl Args {
    fn print(&self, overview: &Overview, pretty: bool) -> Result<String, Failure> {
        Ok(match self.output.format {
            Format::Text => view::overview(overview, self.task.is_some(), Style::stdout()),
            Format::Json if pretty => serde_json::to_string_pretty(overview)?,
            Format::Json => serde_json::to_string(overview)?,
        })
    }
}

/// The source of the overview.
struct Source {
    socket: Socket,
    config: Config,
    task: Option<String>,
}

impl Source {
    async fn overview(&self) -> Result<Overview, Failure> {
        if !self.socket.is_alive().await? {
            return Err(Failure::new(format!(
                "no server is running on {} (hint: start it with 'dapbox serve', or set --config or --data-dir; 'dapbox \
                 task list' works without a server)",
                self.config.data_dir.display()
            )));
        }
        let mut overview = self.socket.overview().await?;
        if let Some(task) = &self.task {
            let is_called = |view: &TaskView| view.status.name.as_ref().is_some_and(|name| name.as_str() == task);
            let has_name = overview.tasks.iter().any(is_called);
            overview.tasks.retain(|view| match has_name {
                true => is_called(view),
                false => view.status.id.to_string().starts_with(task),
            });
            if overview.tasks.is_empty() {
                return Err(Failure::new(format!("unknown task {task} (hint: 'dapbox task list' shows all)")));
            }
        }
        Ok(overview)
    }
}

async fn print_repeatedly(args: &Args, source: &Source) -> Outcome {
    let mut signals = StopSignals::new()?;
    loop {
        let text = tokio::select! {
            overview = source.overview() => args.print(&overview?, false)?,
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
    let mut text = args.print(&source.overview().await?, false)?;
    let mut signals = StopSignals::new()?;
    let below = Style::stdout().dim("q: quit");
    let mut screen = Screen::open(Style::stdout().ellipsis())?;
    loop {
        screen.draw(&text, &below)?;
        let next = async {
            tokio::time::sleep(args.every).await;
            source.overview().await.and_then(|overview| args.print(&overview, false))
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
