//! `dapbox results link`: links to the page of a task.

use super::{client, find, server};
use crate::{
    cli::{
        Outcome,
        args::{ConfigArgs, Format, OutputArgs, parse_duration},
        style::{Style, print},
        table::{Cell, Table},
        timestamp,
    },
    model::Duration,
    views::results::{LinkCreated, LinkStatus, NewLink},
};

/// The subcommands of `dapbox results link`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create a link and show it once.
    Create(CreateArgs),
    /// List the valid links; the links themselves are not stored.
    List(ListArgs),
    /// Revoke a link.
    Revoke(RevokeArgs),
}

/// Arguments of `dapbox results link create`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Holders of the link see the page of this task and its files, and nothing else. They need no account, so \
    treat the link like a password. With results.public, the link works at the public address; otherwise on this machine \
    only.\n\n\
    Examples:\n  \
    dapbox results link create steps --label quarterly-report --expires-in 30d\n  \
    dapbox results link create -o json"
)]
pub struct CreateArgs {
    /// Task id, its first characters, or the task's name. Default: the only task.
    #[arg(allow_hyphen_values = true)]
    task: Option<String>,
    /// For whom or what the link is, for the list of links.
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    /// Lifetime of the link. Default: until it is revoked.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires_in: Option<std::time::Duration>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox results link list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    dapbox results link list\n  \
    dapbox results link list steps -o json")]
pub struct ListArgs {
    /// Only links of this task: its id, the first characters of it, or its name.
    #[arg(allow_hyphen_values = true)]
    task: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox results link revoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Older backups still contain the link: revoke it again after a restore.\n\n\
    Example:\n  \
    dapbox results link revoke kq3v9wX2b0aR")]
pub struct RevokeArgs {
    /// Id of the link, from 'dapbox results link list'.
    #[arg(allow_hyphen_values = true)]
    id: String,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox results link`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::Create(args) => create(args).await,
        Command::List(args) => list(args).await,
        Command::Revoke(args) => revoke(args).await,
    }
}

async fn create(args: CreateArgs) -> Outcome {
    let socket = server(&args.config.load(None)?).await?;
    let task = find(&socket, args.task.as_deref()).await?.id;
    let valid_for = args.expires_in.map(|span| Duration(span.as_secs()));
    let created = client::create_link(&socket, &NewLink { task, label: args.label, valid_for }).await?;
    args.output.print(&created, || describe(&created))
}

fn describe(created: &LinkCreated) -> String {
    let LinkCreated { link, path, public_url, private_url } = created;
    let validity = crate::cli::token::validity(link.expires);
    let mut text =
        format!("Link {} to the results of task {}, valid {validity}. SECRET, shown only once:\n", link.id, link.task);
    for url in [public_url, private_url].into_iter().flatten() {
        text.push_str(&format!("\n  {url}"));
    }
    match (public_url, private_url) {
        (None, None) => text.push_str(&format!(
            "\n  {path}\n\nNo listener shows results (hint: set results.listen, or results.public and public_url)."
        )),
        (None, Some(_)) => {
            text.push_str("\n\nIt works on this machine only (hint: set results.public and public_url).")
        }
        (Some(_), _) => {}
    }
    text
}

async fn list(args: ListArgs) -> Outcome {
    let socket = server(&args.config.load(None)?).await?;
    let task = match args.task.as_deref() {
        Some(task) => Some(find(&socket, Some(task)).await?.id),
        None => None,
    };
    let links = client::links(&socket, task.as_ref()).await?;
    args.output.print(&links, || match links.is_empty() {
        true => "No links (hint: create one with 'dapbox results link create').".to_owned(),
        false => table(&links),
    })
}

fn table(links: &[LinkStatus]) -> String {
    let mut table = Table::new(Style::stdout(), ["id", "task", "label", "validity", "created"]);
    for link in links {
        let validity = crate::cli::token::validity(link.expires);
        let created = Cell::dim(timestamp::show(link.created));
        table.row([(&link.id).into(), link.task.into(), Cell::bold(&link.label), validity.into(), created]);
    }
    table.to_string()
}

async fn revoke(args: RevokeArgs) -> Outcome {
    let socket = server(&args.config.load(None)?).await?;
    client::revoke_link(&socket, &args.id).await?;
    Ok(print(match args.output.format {
        Format::Json => serde_json::json!({ "id": args.id, "done": "revoked" }).to_string(),
        Format::Text => format!("Link {} revoked.", args.id),
    })?)
}
