//! `dapbox results windows`: the windows of a task.

use super::{client, find, server};
use crate::{
    cli::{
        Outcome,
        args::{ConfigArgs, OutputArgs},
        style::{self, Style},
        table::{Cell, Table},
        timestamp,
    },
    views::results::WindowStatus,
};

/// Arguments of `dapbox results windows`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Every window has one state:\n  \
    upcoming          it, or the grace period after it, has not ended\n  \
    due               it is requested next\n  \
    requested         the request was sent; it is repeated until answered\n  \
    pending           the leader has no result yet\n  \
    collected         the result is stored\n  \
    too few reports   the leader has fewer reports than the minimum batch size\n  \
    refused           the leader refuses this collector, for example its token\n  \
    lost              there is no result; 'dapbox results retry' may help\n\n\
    Examples:\n  \
    dapbox results windows\n  \
    dapbox results windows steps --state lost --state refused\n  \
    dapbox results windows 9GgQ -o json")]
pub struct Args {
    /// Task id, its first characters, or the task's name. Default: the only task.
    #[arg(allow_hyphen_values = true)]
    task: Option<String>,
    /// Only windows in this state; may be repeated.
    #[arg(long, value_name = "STATE", value_parser = parse_state)]
    state: Vec<String>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox results windows`.
pub async fn run(args: Args) -> Outcome {
    let socket = server(&args.config.load(None)?).await?;
    let task = find(&socket, args.task.as_deref()).await?;
    let mut windows = client::windows(&socket, &task.id).await?;
    windows.retain(|window| args.state.is_empty() || args.state.contains(&window.state));
    args.output.print(&windows, || match windows.is_empty() {
        true => "No windows.".to_owned(),
        false => table(&windows, Style::stdout()),
    })
}

fn parse_state(text: &str) -> Result<String, String> {
    let name = text.replace([' ', '-'], "_");
    match crate::results::WindowState::NAMES.contains(&name.as_str()) {
        true => Ok(name),
        false => Err(format!("unknown state (known: {})", crate::results::WindowState::NAMES.join(", "))),
    }
}

fn table(windows: &[WindowStatus], style: Style) -> String {
    let mut table = Table::new(style, ["window", "from", "to", "state", "reports", "note"]).right([0, 4]);
    for window in windows {
        let (from, to) = window
            .interval
            .map(|interval| (timestamp::show(interval.start()), timestamp::show(interval.end())))
            .unwrap_or_default();
        let state = window.state.replace('_', " ");
        let state = match window.state.as_str() {
            "collected" => Cell::good(state),
            "lost" | "refused" => Cell::bad(state),
            "upcoming" => Cell::dim(state),
            _ => Cell::new(state),
        };
        let count = window.report_count.map(style::count).unwrap_or_default();
        let detail = window.detail.clone().unwrap_or_default();
        table.row([window.number.into(), from.into(), to.into(), state, count.into(), Cell::dim(detail)]);
    }
    table.to_string()
}
