//! `dapbox status`: how the running server is, once or again and again.

mod view;

use std::{io::IsTerminal, time::Duration as Span};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format, duration},
    control::Socket,
    screen::Screen,
    signals::Signals,
    style::{Style, say, try_say},
};
use crate::{
    config::Config,
    views::overview::{Overview, TaskView},
};

/// Arguments of `dapbox status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A batch is 'ready' when it can be collected. It is 'not aggregated yet' if there will be enough \
    reports once those that wait are aggregated, and otherwise has 'too few'. The helper does not know what waits at \
    the leader. Rates are those of the last minute.\n\n\
    Exit code 1 if no server runs.\n\n\
    Examples:\n  \
    dapbox status\n  \
    dapbox status --watch\n  \
    dapbox status 9GgQd3 --config /etc/dapbox/appliance.toml\n  \
    dapbox status --watch -o json --every 10s"
)]
pub struct Args {
    /// Only tasks that have this name or whose id begins like this, with all of their batches.
    #[arg(allow_hyphen_values = true)]
    task: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Again and again, until Ctrl-C or q: in place on a terminal, one after the other elsewhere.
    #[arg(short, long)]
    watch: bool,
    /// How often, with --watch.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s", requires = "watch")]
    every: Span,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs `dapbox status`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(None)?;
    let source = Source { socket: Socket::new(config.control_socket())?, config, task: args.task.clone() };
    if !args.watch {
        return Ok(say(args.print(&source.overview().await?, true)?)?);
    }
    match args.output {
        Format::Text if std::io::stdout().is_terminal() => in_place(&args, &source).await,
        _ => one_after_the_other(&args, &source).await,
    }
}

impl Args {
    fn print(&self, overview: &Overview, pretty: bool) -> Result<String, Failure> {
        Ok(match self.output {
            Format::Text => view::overview(overview, self.task.is_some(), Style::stdout()),
            Format::Json if pretty => serde_json::to_string_pretty(overview)?,
            Format::Json => serde_json::to_string(overview)?,
        })
    }
}

/// Where the overview comes from.
struct Source {
    socket: Socket,
    config: Config,
    task: Option<String>,
}

impl Source {
    async fn overview(&self) -> Result<Overview, Failure> {
        if !self.socket.is_alive().await? {
            return Err(Failure::new(format!(
                "no server is running on {}; start one with 'dapbox serve', or name its configuration with --config or \
                 --data-dir. 'dapbox task list' works without one",
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
                return Err(Failure::new(format!("there is no task {task}; 'dapbox task list' shows all")));
            }
        }
        Ok(overview)
    }
}

async fn one_after_the_other(args: &Args, source: &Source) -> Outcome {
    let mut signals = Signals::new()?;
    loop {
        let text = tokio::select! {
            overview = source.overview() => args.print(&overview?, false)?,
            _ = signals.next() => return Ok(()),
        };
        let between = if args.output == Format::Text { "\n" } else { "" };
        if !try_say(text)? || !between.is_empty() && !try_say("")? {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(args.every) => {}
            _ = signals.next() => return Ok(()),
        }
    }
}

async fn in_place(args: &Args, source: &Source) -> Outcome {
    // Whoever asks for what is not there is told so on the usual screen.
    let mut text = args.print(&source.overview().await?, false)?;
    let (mut signals, mut resized) = (Signals::new()?, signal(SignalKind::window_change())?);
    let below = Style::stdout().dim("q ends");
    let mut screen = Screen::open(Style::stdout().ellipsis())?;
    loop {
        screen.draw(&text, &below)?;
        let next = async {
            tokio::time::sleep(args.every).await;
            source.overview().await.and_then(|overview| args.print(&overview, false))
        };
        tokio::select! {
            // A server that is started again comes back here.
            shown = next => text = shown.unwrap_or_else(|failure| Style::stdout().bad(failure.message())),
            _ = resized.recv() => {}
            () = screen.quit() => return Ok(()),
            _ = signals.next() => return Ok(()),
        }
    }
}
