//! `dapbox task token`: rotates the bearer tokens of a task without interruption.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, Format, OutputArgs, parse_duration},
        control::Control,
        style::{Style, print},
        table::Table,
        taskfile::TaskFile,
        timestamp,
    },
    ShowArgs, find,
};
use crate::{
    model::{
        Duration, Secret, TaskId, Time, TokenHash,
        tokens::{NewToken, TokenChange, TokenDirection, TokenStatus},
    },
    support::{duration, files},
};

/// The subcommands of `dapbox task token`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Present a new token: as the leader to the helper, or as the collector to the leader.
    Rotate(RotateArgs),
    /// Accept a new token: as the helper from the leader, or as the leader from the collector.
    Accept(AcceptArgs),
    /// List the valid tokens by their hashes.
    #[command(after_help = "The time of last use shows whether a peer presents the new token.\n\n\
        Example:\n  \
        dapbox task token list 9GgQ")]
    List(ShowArgs),
}

/// Arguments of `dapbox task token rotate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Either side may change first: the presenting side tries the new token and falls back to the old one; \
    the accepting side accepts both for --keep-old. Prints the command for the other side, which contains no secret.\n\n\
    Examples:\n  \
    dapbox task token rotate 9GgQ\n  \
    dapbox task token rotate --collector collector.toml\n  \
    dapbox task token rotate 9GgQ --token-file new-token --keep-old 2d"
)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["id", "collector"])))]
pub struct RotateArgs {
    /// Task id, its first characters, or the task's name, at its leader.
    #[arg(allow_hyphen_values = true)]
    id: Option<String>,
    /// Collector's file to update.
    #[arg(long, value_name = "FILE")]
    collector: Option<PathBuf>,
    /// File with the new token. Default: a random token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How long a leader falls back to the old token.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "7d")]
    keep_old: std::time::Duration,
    /// Print the new token (SECRET), for a peer that does not run dapbox.
    #[arg(long)]
    show_token: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The JSON output: what the other side has to accept.
#[derive(Serialize)]
struct Rotated<'a> {
    task: TaskId,
    /// Hash of the new token.
    hash: TokenHash,
    /// The new token, with `--show-token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

/// Arguments of `dapbox task token accept`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "If the old token is compromised, use --keep-old 0s: it is refused immediately, so the other side must \
    present the new one first.\n\n\
    Examples:\n  \
    dapbox task token accept 9GgQ \\\n      --hash 47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\n  \
    dapbox task token accept 9GgQ --token-file new-token --keep-old 0s"
)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["hash", "token_file"])))]
pub struct AcceptArgs {
    /// Task id, its first characters, or the task's name.
    #[arg(allow_hyphen_values = true)]
    id: String,
    /// SHA-256 hash of the new token (unpadded base64url), as printed by 'rotate' on the other side.
    #[arg(long, allow_hyphen_values = true)]
    hash: Option<TokenHash>,
    /// File with the new token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How long the old token is still accepted.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "7d")]
    keep_old: std::time::Duration,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox task token`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::Rotate(args) => rotate(args).await,
        Command::Accept(args) => accept(args).await,
        Command::List(args) => list(args).await,
    }
}

async fn rotate(args: RotateArgs) -> Outcome {
    let new = match &args.token_file {
        Some(file) => read_token(file)?,
        None => Secret::random_token(),
    };
    let (task, sentence, whose) = match (&args.id, &args.collector) {
        (_, Some(file)) => {
            let task = rotate_collector(file, &new)?;
            let shown = file.display();
            (task, format!("{shown} has a new token, with the old one as a fallback."), "leader")
        }
        (Some(id), None) => {
            let keep_old = Duration(args.keep_old.as_secs());
            let change = |task| TokenChange { task, new: NewToken::Presented(new.clone()), keep_old };
            let (task, _) = apply(&args.config, id, change).await?;
            let span = duration::show(args.keep_old);
            let sentence = format!("new token presented to the helper, with a fallback to the old one for {span}.");
            (task, sentence, "helper")
        }
        (None, None) => return Err(Failure::usage("a task id or --collector is required")),
    };
    let hash = TokenHash::of(new.expose());
    let token = new.expose_text().filter(|_| args.show_token);
    if args.output.format == Format::Json {
        return Ok(print(serde_json::to_string(&Rotated { task, hash, token })?)?);
    }
    let accept = format!("dapbox task token accept {task} --hash={hash}");
    print(format!("Task {task}: {sentence}\n\nSend this to the {whose}'s operator (not secret):\n\n  {accept}"))?;
    Ok(token.map_or(Ok(()), |token| print(format!("\nToken (SECRET): {token}")))?)
}

/// Adds a new token to the collector's file and keeps the old one as a fallback.
fn rotate_collector(path: &Path, new: &Secret) -> Result<TaskId, Failure> {
    let mut file = TaskFile::read(path)?;
    let (id, shown) = (file.task.id, path.display());
    let Some(part) = &mut file.collector else {
        return Err(Failure::usage(format!("{shown} is not a collector's file (hint: use collector.toml)")));
    };
    if part.token == *new {
        return Ok(id);
    }
    // The leader may accept only that token: a second rotation would lose it and make collection impossible.
    if part.previous_token.is_some() {
        return Err(Failure::new(format!(
            "{shown} still has a previous_token (hint: after 'dapbox task token accept' at the leader, delete \
             previous_token from the file and rotate again)"
        )));
    }
    part.previous_token = Some(std::mem::replace(&mut part.token, new.clone()));
    file.overwrite(path)?;
    Ok(id)
}

async fn accept(args: AcceptArgs) -> Outcome {
    let hash = match (args.hash, &args.token_file) {
        (Some(hash), _) => hash,
        (None, Some(file)) => TokenHash::of(read_token(file)?.expose()),
        (None, None) => return Err(Failure::usage("--hash or --token-file is required")),
    };
    let keep_old = Duration(args.keep_old.as_secs());
    let change = |task| TokenChange { task, new: NewToken::Accepted(hash), keep_old };
    let (task, tokens) = apply(&args.config, &args.id, change).await?;
    if args.output.format == Format::Text {
        print(format!("Task {task}: new token accepted."))?;
    }
    show(&tokens, args.output)
}

/// Changes a token of the task with this name or id prefix.
async fn apply(
    config: &ConfigArgs,
    id: &str,
    change: impl FnOnce(TaskId) -> TokenChange,
) -> Result<(TaskId, Vec<TokenStatus>), Failure> {
    let control = Control::open(&config.load(None)?).await?;
    let changed = async {
        let task = find(&control.tasks().await?, id)?.id;
        Ok((task, control.change_token(change(task)).await?))
    };
    let changed = changed.await;
    control.close().await;
    changed
}

async fn list(args: ShowArgs) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let found = async {
        let task = find(&control.tasks().await?, &args.id)?.id;
        control.tokens(task).await?.ok_or_else(|| Failure::new(format!("unknown task {task}")))
    };
    let found = found.await;
    control.close().await;
    show(&found?, args.output)
}

fn show(tokens: &[TokenStatus], output: OutputArgs) -> Outcome {
    output.print(&tokens, || {
        let mut table = Table::new(Style::stdout(), ["direction", "hash", "valid until", "last used"]);
        for token in tokens {
            let direction = match token.direction {
                TokenDirection::Accepted => "accepted",
                TokenDirection::Presented => "presented",
            };
            let time = |time: Option<Time>, none: &str| time.map_or_else(|| none.to_owned(), timestamp::show);
            let (until, used) = (time(token.until, "replaced"), time(token.last_presented, "never"));
            table.row([direction.into(), token.hash.into(), until.into(), used.into()]);
        }
        table.to_string()
    })
}

fn read_token(path: &Path) -> Result<Secret, Failure> {
    let text = files::read_text(path).map_err(|e| Failure::new(e).context(path.display()))?;
    Secret::token(text.trim()).map_err(|why| Failure::new(why).context(path.display()))
}
