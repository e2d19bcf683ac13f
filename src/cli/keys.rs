//! `dapbox keys`: the keys that reports are sealed to.

use reqwest::{Method, StatusCode};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, DestructiveArgs, Format},
    control::{Control, refused},
    style::{Style, say},
    task::confirmed,
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
    /// List the keys, what they are used for, and what becomes of them.
    List(ListArgs),
    /// Make a new key, which takes the place of the one that there is.
    Rotate(RotateArgs),
    /// Do not hand a key out any more.
    Disable(DisableArgs),
    /// Let a key open nothing any more.
    Delete(DeleteArgs),
}

/// Arguments of `dapbox keys list`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A key is pending before it is handed out, so that a backup has it; active while clients are told \
    of it; and expired when another has taken its place. It then still opens what was sealed to it. It is deleted when no \
    such report can come or wait any more: after twice hpke.cache_max_age, and as long as the task keeps reports that \
    keeps them longest. With a task that keeps them for ever (without --report-expiry-age), that is as long as the task \
    is there.\n\n\
    Examples:\n  \
    dapbox keys list\n  \
    dapbox keys list -o json --data-dir /var/lib/dapbox"
)]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox keys rotate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A running server does this by itself, every hpke.rotate_every. Nothing is lost by it: reports that \
    were sealed to the old key are taken and aggregated as before.\n\n\
    Examples:\n  \
    dapbox keys rotate\n  \
    dapbox keys rotate --now"
)]
pub struct RotateArgs {
    /// Hand it out at once, and not only after hpke.pending_time. Make a backup then: those that there are do not have it.
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox keys disable`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For a key that should not be used, and that need not be feared: what is sealed to it is still \
    opened. Another is handed out at once in its place, so that there is always one.\n\n\
    Example:\n  \
    dapbox keys disable 17"
)]
pub struct DisableArgs {
    /// The key's id.
    id: u8,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox keys delete`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For a key that somebody else has. Reports that are sealed to it are refused from now on, and clients \
    told to fetch the new key; those that wait are lost. Only what the helper was sent already is finished. Backups still \
    have the key: delete it again after restoring one.\n\n\
    Example:\n  \
    dapbox keys delete 17 --yes"
)]
pub struct DeleteArgs {
    /// The key's id.
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
    /// All HPKE keys that were not deleted.
    async fn keys(&self, policy: &Policy) -> Result<Vec<ListedKey>, Failure> {
        match self {
            Self::Server(socket) => match socket.ask(Method::GET, "/keys", None).await? {
                (StatusCode::OK, body) => Ok(serde_json::from_slice(&body)?),
                (status, body) => Err(refused(status, &body)),
            },
            Self::Offline(data) => Ok(data.keys(clock::now(), policy)?),
        }
    }

    /// Does with HPKE keys what is wanted, and says what changed.
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
            Request::Advance { .. } => return Err(Failure::new("the server does that by itself")),
        };
        let body = body.map(|body| serde_json::to_vec(&body)).transpose()?;
        match socket.ask(method, &path, body).await? {
            (StatusCode::OK, body) => Ok(serde_json::from_slice(&body)?),
            (status, body) => Err(refused(status, &body)),
        }
    }
}

async fn list(args: ListArgs) -> Outcome {
    let config = args.config.load(None)?;
    let control = Control::open(&config).await?;
    let keys = control.keys(&Policy::of(&config)).await;
    control.close().await;
    let keys = keys?;
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&keys)?,
        Format::Text if keys.is_empty() => "There is no key yet. The first is made when a server starts.".to_owned(),
        Format::Text => {
            let width = keys.iter().map(|key| key.status.suite.len()).max().unwrap_or_default();
            keys.iter().map(|key| line(key, width, Style::stdout())).collect::<Vec<_>>().join("\n")
        }
    };
    Ok(say(text)?)
}

/// A key in a line.
fn line(key: &ListedKey, width: usize, style: Style) -> String {
    let ListedKey { status, age, kept_by } = key;
    let state = format!("{:<7}", status.state.name());
    let state = if status.state == KeyState::Active { style.good(&state) } else { state };
    let next = match (status.state, status.until, kept_by) {
        (KeyState::Pending, Some(until), _) => format!("handed out from {}", timestamp::show(until)),
        (KeyState::Active, Some(until), _) => format!("replaced {}", timestamp::show(until)),
        (KeyState::Active, None, _) => "not replaced by itself".to_owned(),
        (KeyState::Expired, Some(until), _) => format!("kept until {}", timestamp::show(until)),
        (KeyState::Expired, None, Some(task)) => format!("kept for task {task}, which keeps reports for ever"),
        (KeyState::Pending | KeyState::Expired, None, _) => String::new(),
    };
    format!("{:>3}  {state}  {:<width$}  {:>6} old  {}", status.id, status.suite, elapsed(*age), style.dim(&next))
}

/// An age in its largest unit.
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
    let none = "A new key is pending already. 'dapbox keys list' says from when on it is handed out; with --now it is at once.";
    let advice = is_handed_out.then_some("Make a backup: one of before may not have the new key.");
    tell(&changes, args.output, none, advice)
}

async fn disable(args: DisableArgs) -> Outcome {
    let changes = change(&args.config, Request::Disable(args.id)).await?;
    tell(&changes, args.output, &format!("Key {} is not handed out any more already.", args.id), None)
}

async fn delete(args: DeleteArgs) -> Outcome {
    if !args.shared.yes {
        say(format!(
            "Reports that are sealed to key {} are refused from then on, and those that wait are lost.",
            args.id
        ))?;
        if !confirmed("delete it")? {
            return Err(Failure::new("nothing was deleted"));
        }
    }
    let changes = change(&args.shared.config, Request::Delete(args.id)).await?;
    tell(
        &changes,
        args.shared.output,
        "Nothing changed.",
        Some("Backups still have it: delete it again after restoring one."),
    )
}

async fn change(config: &ConfigArgs, request: Request) -> Result<Vec<KeyChange>, Failure> {
    let config = config.load(None)?;
    let control = Control::open(&config).await?;
    let changes = control.change_keys(Policy::of(&config), request).await;
    control.close().await;
    changes
}

fn tell(changes: &[KeyChange], output: Format, none: &str, advice: Option<&str>) -> Outcome {
    let text = match output {
        Format::Json => serde_json::to_string_pretty(changes)?,
        Format::Text if changes.is_empty() => none.to_owned(),
        Format::Text => {
            let lines = changes.iter().map(sentence).chain(advice.map(str::to_owned));
            lines.collect::<Vec<_>>().join("\n")
        }
    };
    Ok(say(text)?)
}

fn sentence(change: &KeyChange) -> String {
    let KeyChange { id, suite, before, after, until } = change;
    let what = match (before, after) {
        (_, Some(KeyState::Pending)) => {
            let from = until.map(timestamp::show).unwrap_or_default();
            format!("is made, and handed out from {from}. Let a backup have it until then")
        }
        (None, Some(_)) => "is made, and handed out from now on".to_owned(),
        (_, Some(KeyState::Active)) => "is handed out from now on".to_owned(),
        (_, Some(KeyState::Expired)) => {
            "is not handed out any more. Reports that were sealed to it are still taken".to_owned()
        }
        (_, None) => "is deleted. Reports that were sealed to it are refused".to_owned(),
    };
    format!("Key {id} ({suite}) {what}.")
}
