//! `dapbox results`: the results of the tasks that this server collects.

mod client;
mod export;
mod link;
mod list;
mod retry;
mod show;
mod test_webhook;
mod windows;

use super::{Failure, Outcome, control::Control};
use crate::{config::Config, views::results::CollectorTaskStatus};

pub use client::{add, add_to_server, remove, statuses, tasks};
pub use list::{describe as describe_task, titled_table as titled_task_table};

/// The subcommands of `dapbox results`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the tasks that this server collects.
    List(list::Args),
    /// Show the latest result of a task, or the sum of a range.
    Show(show::Args),
    /// List the windows of a task: what is collected, what is due, and what is lost.
    Windows(windows::Args),
    /// Write results as CSV, NDJSON or JSON.
    Export(export::Args),
    /// Create, list and revoke links to the page of a task.
    #[command(subcommand)]
    Link(link::Command),
    /// Request a window again that was lost, refused or given up.
    Retry(retry::Args),
    /// Send a test notification to the webhooks of a task.
    TestWebhook(test_webhook::Args),
}

/// Runs `dapbox results`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => list::run(args).await,
        Command::Show(args) => show::run(args).await,
        Command::Windows(args) => windows::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Link(command) => link::run(command).await,
        Command::Retry(args) => retry::run(args).await,
        Command::TestWebhook(args) => test_webhook::run(args).await,
    }
}

/// The control socket of the running server, which collects.
async fn server(config: &Config) -> Result<super::control::Socket, Failure> {
    let socket = super::control::Socket::new(config.control_socket())?;
    match socket.is_alive().await? {
        true => Ok(socket),
        false => Err(Failure::new(format!(
            "no server is running on {} (hint: start it with 'dapbox serve'; it collects while it runs)",
            config.data_dir.display()
        ))),
    }
}

/// Finds a task by name or id prefix; the only one, if none is named.
async fn find(socket: &super::control::Socket, wanted: Option<&str>) -> Result<CollectorTaskStatus, Failure> {
    let tasks = client::tasks(socket).await?;
    let Some(wanted) = wanted else {
        return match <[CollectorTaskStatus; 1]>::try_from(tasks) {
            Ok([task]) => Ok(task),
            Err(tasks) if tasks.is_empty() => Err(Failure::new(NO_TASKS)),
            Err(tasks) => Err(Failure::usage(format!(
                "this server collects {} tasks (hint: name one; 'dapbox results list' shows them)",
                tasks.len()
            ))),
        };
    };
    let is_called = |task: &CollectorTaskStatus| task.name.as_ref().is_some_and(|name| name.as_str() == wanted);
    let by_name = tasks.iter().find(|task| is_called(task)).cloned();
    let mut by_id = tasks.into_iter().filter(|task| task.id.to_string().starts_with(wanted));
    match (by_name, by_id.next(), by_id.next()) {
        (Some(task), ..) | (None, Some(task), None) => Ok(task),
        (None, Some(_), Some(_)) => {
            Err(Failure::usage(format!("{wanted} matches several tasks (hint: use more characters of the id)")))
        }
        (None, None, _) => Err(Failure::new(format!(
            "this server does not collect a task {wanted} (hint: 'dapbox results list' shows all)"
        ))),
    }
}

/// What to say if the server collects nothing.
const NO_TASKS: &str = "this server collects no tasks (hint: add one with 'dapbox task add collector.toml')";

/// Closes the data directory after an operation.
async fn closing<T>(control: Control, outcome: Result<T, Failure>) -> Result<T, Failure> {
    control.close().await;
    outcome
}
