//! `dapbox keys`: manages the server's HPKE keys.

use reqwest::{Method, StatusCode};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, DestructiveArgs, OutputArgs},
    control::{Control, refusal},
    style::{Style, print},
    table::{Cell, Table},
    task::confirm,
    timestamp,
};
use crate::{
    aggregator::keys::{Policy, Request},
    model::{Duration, KeyState},
    support::clock,
    views::keys::{KeyChange, ListedKey, RotateRequest},
};

/// The subcommands of `dapbox keys`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the HPKE keys, their states and their next transitions.
    List(ListArgs),
    /// Create a new key that replaces the active one.
    Rotate(RotateArgs),
    /// Stop advertising a key; it still decrypts.
    Disable(DisableArgs),
    /// Delete a key; reports encrypted to it are refused.
    Delete(DeleteArgs),
}

/// Arguments of `dapbox keys list`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A key is pending before it is advertised, so that backups contain it; active while clients receive it; \
    and expired after another key replaced it. An expired key still decrypts reports. It is deleted after twice \
    hpke.cache_max_age plus the longest report expiry age of all tasks. A task without report expiry keeps it as long \
    as the task exists.\n\n\
    Examples:\n  \
    dapbox keys list\n  \
    dapbox keys list -o json --data-dir /var/lib/dapbox"
)]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox keys rotate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A running server rotates its keys automatically, every hpke.rotate_every. Reports encrypted to the old \
    key are still accepted.\n\n\
    Examples:\n  \
    dapbox keys rotate\n  \
    dapbox keys rotate --now"
)]
pub struct RotateArgs {
    /// Activate the new key immediately instead of after hpke.pending_time. Back up afterwards: older backups lack the key.
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox keys disable`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For a key that should no longer be used but is not compromised: reports encrypted to it are still \
    accepted. If it is the only active key, another one is activated immediately.\n\n\
    Example:\n  \
    dapbox keys disable 17"
)]
pub struct DisableArgs {
    /// Key id.
    id: u8,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox keys delete`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For a compromised key. Reports encrypted to it are refused, and clients fetch the new key. Waiting \
    reports are lost, except those already sent to the helper. Backups still contain the key: delete it again after a \
    restore.\n\n\
    Example:\n  \
    dapbox keys delete 17 --yes"
)]
pub struct DeleteArgs {
    /// Key id.
    id: u8,
    #[command(flatten)]
    shared: DestructiveArgs,
}

/// Runs `dapbox keys`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => list(args).await,
        Command::Rotate(args) => rotate(args).await,
        Command::Disable(args) => disable(args).await,
        Command::Delete(args) => delete(args).await,
    }
}

impl Control {
    /// Lists the HPKE keys.
    async fn keys(&self, policy: &Policy) -> Result<Vec<ListedKey>, Failure> {
        match self {
            Self::Server(socket) => match socket.request(Method::GET, "/keys", None).await? {
                (StatusCode::OK, body) => Ok(serde_json::from_slice(&body)?),
                (status, body) => Err(refusal(status, &body)),
            },
            Self::Offline(data) => Ok(data.keys(clock::now(), policy)?),
        }
    }

    /// Changes HPKE keys and returns the changes.
    async fn change_keys(&self, policy: Policy, request: Request) -> Result<Vec<KeyChange>, Failure> {
        let socket = match self {
            Self::Server(socket) => socket,
            Self::Offline(data) => return Ok(data.change_keys(policy, request).await?),
        };
        let (method, path, body) = match request {
            Request::Rotate { now } => (Method::POST, "/keys/rotate".to_owned(), Some(RotateRequest { now })),
            Request::Disable(id) => (Method::POST, format!("/keys/{id}/disable"), None),
            Request::Delete(id) => (Method::DELETE, format!("/keys/{id}"), None),
            Request::Activate(id) => (Method::POST, format!("/keys/{id}/activate"), None),
            Request::Advance { .. } => return Err(Failure::new("the server rotates its keys automatically")),
        };
        let body = body.map(|body| serde_json::to_vec(&body)).transpose()?;
        match socket.request(method, &path, body).await? {
            (StatusCode::OK, body) => Ok(serde_json::from_slice(&body)?),
            (status, body) => Err(refusal(status, &body)),
        }
    }
}

async fn list(args: ListArgs) -> Outcome {
    let config = args.config.load(None)?;
    let control = Control::open(&config).await?;
    let keys = control.keys(&Policy::of(&config)).await;
    control.close().await;
    let keys = keys?;
    args.output.print(&keys, || match keys.is_empty() {
        true => "No keys yet. The server creates the first one when it starts.".to_owned(),
        false => table(&keys),
    })
}

fn table(keys: &[ListedKey]) -> String {
    let mut table = Table::new(Style::stdout(), ["id", "state", "suite", "age", "next"]).right([0, 3]);
    for ListedKey { status, age, kept_by } in keys {
        let next = match (status.state, status.until, kept_by) {
            (KeyState::Pending, Some(until), _) => format!("active from {}", timestamp::show(until)),
            (KeyState::Active, Some(until), _) => format!("rotated {}", timestamp::show(until)),
            (KeyState::Active, None, _) => "not rotated automatically".to_owned(),
            (KeyState::Expired, Some(until), _) => format!("deleted {}", timestamp::show(until)),
            (KeyState::Expired, None, Some(task)) => format!("kept for task {task}, which has no report expiry"),
            (KeyState::Pending | KeyState::Expired, None, _) => String::new(),
        };
        let state = if status.state == KeyState::Active { Cell::good } else { Cell::new };
        let (age, suite) = (elapsed(*age), status.suite.as_str());
        table.row([status.id.into(), state(status.state.name()), suite.into(), age.into(), Cell::dim(next)]);
    }
    table.to_string()
}

/// Formats an age in its largest unit.
fn elapsed(age: Duration) -> String {
    match age.0 {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3600 => format!("{} min", seconds / 60),
        seconds @ ..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

async fn rotate(args: RotateArgs) -> Outcome {
    let changes = change(&args.config, Request::Rotate { now: args.now }).await?;
    let is_handed_out = changes.iter().any(|change| change.after == Some(KeyState::Active));
    let none =
        "A new key is already pending (hint: 'dapbox keys list' shows when it becomes active; --now activates it).";
    let advice = is_handed_out.then_some("Back up now: older backups may lack the new key.");
    print_changes(&changes, args.output, none, advice)
}

async fn disable(args: DisableArgs) -> Outcome {
    let changes = change(&args.config, Request::Disable(args.id)).await?;
    print_changes(&changes, args.output, &format!("Key {} is already disabled.", args.id), None)
}

async fn delete(args: DeleteArgs) -> Outcome {
    if !args.shared.yes {
        print(format!("Reports encrypted to key {} will be refused, and waiting ones will be lost.", args.id))?;
        if !confirm("delete it")? {
            return Err(Failure::new("cancelled: nothing was deleted"));
        }
    }
    let changes = change(&args.shared.config, Request::Delete(args.id)).await?;
    print_changes(
        &changes,
        args.shared.output,
        "No change.",
        Some("Backups still contain it: delete it again after a restore."),
    )
}

async fn change(config: &ConfigArgs, request: Request) -> Result<Vec<KeyChange>, Failure> {
    let config = config.load(None)?;
    let control = Control::open(&config).await?;
    let changes = control.change_keys(Policy::of(&config), request).await;
    control.close().await;
    changes
}

fn print_changes(changes: &[KeyChange], output: OutputArgs, none: &str, advice: Option<&str>) -> Outcome {
    output.print(&changes, || match changes.is_empty() {
        true => none.to_owned(),
        false => changes.iter().map(sentence).chain(advice.map(str::to_owned)).collect::<Vec<_>>().join("\n"),
    })
}

fn sentence(change: &KeyChange) -> String {
    let KeyChange { id, suite, before, after, until } = change;
    let what = match (before, after) {
        (_, Some(KeyState::Pending)) => {
            let from = until.map(timestamp::show).unwrap_or_default();
            format!("created, active from {from}. Back up before then")
        }
        (None, Some(_)) => "created and activated".to_owned(),
        (_, Some(KeyState::Active)) => "activated".to_owned(),
        (_, Some(KeyState::Expired)) => {
            "is no longer advertised. Reports encrypted to it are still accepted".to_owned()
        }
        (_, None) => "deleted. Reports encrypted to it are refused".to_owned(),
    };
    format!("Key {id} ({suite}) {what}.")
}
