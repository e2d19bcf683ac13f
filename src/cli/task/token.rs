//! `dapbox task token`: replacing the tokens of a task while it goes on.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, Format, duration},
        control::Control,
        style::say,
        taskfile::TaskFile,
        timestamp,
    },
    ShowArgs, find,
};
use crate::{
    model::{
        Duration, Secret, TaskId, TokenHash,
        tokens::{NewToken, TokenChange, TokenDirection, TokenStatus},
    },
    support::{duration, files},
};

/// The subcommands of `dapbox task token`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Present a new token: a leader to the helper, a collector to the leader.
    Rotate(RotateArgs),
    /// Accept a new token: a helper from the leader, a leader from the collector.
    Accept(AcceptArgs),
    /// Show which tokens are in force, by their hashes.
    #[command(
        after_help = "Which of them a peer has presented, and when last, tells whether it has changed to the new \
        one.\n\n\
        Example:\n  \
        dapbox task token list 9GgQ"
    )]
    List(ShowArgs),
}

/// Arguments of `dapbox task token rotate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It does not matter which side changes first: whoever presents the token tries the new one, and the old \
    one where the new one is refused; whoever accepts it takes both for a while. What to send to the other side is \
    printed; it is no secret.\n\n\
    Examples:\n  \
    dapbox task token rotate 9GgQ\n  \
    dapbox task token rotate --collector collector.toml\n  \
    dapbox task token rotate 9GgQ --token-file new-token --keep-old 2d"
)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["id", "collector"])))]
pub struct RotateArgs {
    /// The task's id, or the beginning of it, at its leader.
    #[arg(allow_hyphen_values = true)]
    id: Option<String>,
    /// The collector's file, which is written anew.
    #[arg(long, value_name = "FILE")]
    collector: Option<PathBuf>,
    /// A file with the token that the other side wants; without this a new one is drawn.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// For how long the old token is tried where the new one is refused (leader).
    #[arg(long, value_parser = duration, value_name = "DURATION", default_value = "7d")]
    keep_old: std::time::Duration,
    /// Print the new token itself: SECRET, for another side that is not dapbox.
    #[arg(long)]
    show_token: bool,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What the other side is to accept, for machines.
#[derive(Serialize)]
struct Rotated<'a> {
    /// Which task.
    task: TaskId,
    /// The hash of the new token.
    hash: TokenHash,
    /// The new token itself, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

/// Arguments of `dapbox task token accept`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "If the old token is known to somebody who should not have it, give --keep-old 0s: it is refused \
    from now on, and the other side must present the new one first.\n\n\
    Examples:\n  \
    dapbox task token accept 9GgQ \\\n      --hash 47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\n  \
    dapbox task token accept 9GgQ --token-file new-token --keep-old 0s"
)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["hash", "token_file"])))]
pub struct AcceptArgs {
    /// The task's id, or the beginning of it.
    #[arg(allow_hyphen_values = true)]
    id: String,
    /// The SHA-256 hash of the new token, unpadded base64url, as the other side's 'rotate' prints it.
    #[arg(long, allow_hyphen_values = true)]
    hash: Option<TokenHash>,
    /// A file with the new token itself.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// For how long the old token is accepted too.
    #[arg(long, value_parser = duration, value_name = "DURATION", default_value = "7d")]
    keep_old: std::time::Duration,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
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
            (task, format!("{shown} has a new token, and the old one for as long as the leader refuses it."), "leader")
        }
        (Some(id), None) => {
            let keep_old = Duration(args.keep_old.as_secs());
            let change = |task| TokenChange { task, new: NewToken::Presented(new.clone()), keep_old };
            let (task, _) = apply(&args.config, id, change).await?;
            let span = duration::show(args.keep_old);
            let sentence = format!(
                "the helper is asked with a new token from now on, and for {span} with the old one where it refuses that."
            );
            (task, sentence, "helper")
        }
        (None, None) => return Err(Failure::usage("give a task, or the collector's file")),
    };
    let hash = TokenHash::of(new.expose());
    let token = new.expose_text().filter(|_| args.show_token);
    if args.output == Format::Json {
        return Ok(say(serde_json::to_string(&Rotated { task, hash, token })?)?);
    }
    let accept = format!("dapbox task token accept {task} --hash={hash}");
    say(format!("Task {task}: {sentence}\n\nFor the {whose}'s operator, and no secret:\n\n  {accept}"))?;
    Ok(token.map_or(Ok(()), |token| say(format!("\nSECRET, the token itself: {token}")))?)
}

/// Puts a new token into the collector's file, beside the old one.
fn rotate_collector(path: &Path, new: &Secret) -> Result<TaskId, Failure> {
    let mut file = TaskFile::read(path)?;
    let (id, shown) = (file.task.id, path.display());
    let Some(part) = &mut file.collector else {
        return Err(Failure::usage(format!("{shown} is not the collector's file, collector.toml")));
    };
    if part.token == *new {
        return Ok(id);
    }
    // The leader may know that one only: with a second new one it would be lost, and nobody could collect.
    if part.previous_token.is_some() {
        return Err(Failure::new(format!(
            "{shown} still has the token before the last change: once the leader accepts the new one ('dapbox task token \
             accept' there), delete previous_token from the file, and rotate again"
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
        (None, None) => return Err(Failure::usage("give --hash or --token-file")),
    };
    let keep_old = Duration(args.keep_old.as_secs());
    let change = |task| TokenChange { task, new: NewToken::Accepted(hash), keep_old };
    let (task, tokens) = apply(&args.config, &args.id, change).await?;
    if args.output == Format::Text {
        say(format!("Task {task}: the new token is accepted from now on."))?;
    }
    show(&tokens, args.output)
}

/// Changes a token of the task whose id begins like this.
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
        control.tokens(task).await?.ok_or_else(|| Failure::new(format!("there is no task {task}")))
    };
    let found = found.await;
    control.close().await;
    show(&found?, args.output)
}

fn show(tokens: &[TokenStatus], format: Format) -> Outcome {
    Ok(say(match format {
        Format::Json => serde_json::to_string_pretty(tokens)?,
        Format::Text => tokens.iter().map(line).collect::<Vec<_>>().join("\n"),
    })?)
}

/// One token in one line.
fn line(token: &TokenStatus) -> String {
    let direction = match token.direction {
        TokenDirection::Accepted => "accepted ",
        TokenDirection::Presented => "presented",
    };
    let hash = token.hash;
    let until = token.until.map_or_else(String::new, |until| format!(", until {}", timestamp::show(until)));
    let used = token.last_presented.map_or_else(String::new, |at| format!(", last used {}", timestamp::show(at)));
    format!("{direction}  {hash}{until}{used}")
}

fn read_token(path: &Path) -> Result<Secret, Failure> {
    let text = files::read_text(path).map_err(|e| Failure::new(e).context(path.display()))?;
    Secret::token(text.trim()).map_err(|why| Failure::new(why).context(path.display()))
}
