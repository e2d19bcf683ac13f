//! `dapbox task new`: makes a task and writes one file for each party.

use std::path::PathBuf;

use url::Url;

use super::super::{
    Failure, Outcome,
    args::{BatchArgs, VdafArgs, duration},
    calendar,
    style::{Style, say},
    taskfile::{Parameters, TaskFiles},
};
use crate::{
    config::Seconds,
    model::{Revision, TaskId, Time, VdafConfig},
    wire,
};

/// Arguments of `dapbox task new`.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("vdaf", |vdaf| vdaf.required(true)),
    after_help = "Writes leader.toml, helper.toml, client.toml and collector.toml. Each holds the secrets of its \
    party and of no other, so that two organisations can set up a task by exchanging files: keep yours, send the other \
    aggregator's over a channel that you trust, and give client.toml to anyone.\n\n\
    Examples:\n  \
    dapbox task new --leader https://a.example --helper https://b.example \\\n      --vdaf count\n  \
    dapbox task new --leader https://a.example --helper https://b.example \\\n      --vdaf histogram --length 10\n  \
    dapbox task new --leader https://a.example --helper https://b.example \\\n      --vdaf sumvec --bits 8 --length 6 --query fixed-size \\\n      --min-batch-size 500 --max-batch-size 1000 --out my-task\n\n\
    The commands that use the files:\n  \
    dapbox task add my-task/leader.toml   (at the helper: helper.toml)\n  \
    dapbox upload --task my-task/client.toml 3\n  \
    dapbox collect --task my-task/collector.toml"
)]
pub struct Args {
    /// The leader's URL. dapbox's path for the protocol revision is added if it is missing.
    #[arg(long, value_name = "URL", value_parser = plain_url)]
    leader: String,
    /// The helper's URL.
    #[arg(long, value_name = "URL", value_parser = plain_url)]
    helper: String,
    /// Take both URLs as they are: other software may serve DAP at another path.
    #[arg(long)]
    as_is: bool,
    #[command(flatten)]
    vdaf: VdafArgs,
    #[command(flatten)]
    batch: BatchArgs,
    /// Reports after this are refused: a date, or a length of time from now such as 90d.
    #[arg(long, value_name = "TIME", value_parser = expiry, help_heading = "Batches")]
    expires: Option<Time>,
    /// Reports older than this are refused, and what is known of them may be forgotten.
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Batches")]
    report_expiry_age: Option<std::time::Duration>,
    /// Where to write the files; the directory is made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

/// Runs `dapbox task new`.
pub fn run(args: Args) -> Outcome {
    let url = |given: String| if args.as_is { given } else { base_url(&given) };
    let mut task = parameters(url(args.leader), url(args.helper), args.vdaf.configure()?, &args.batch)?;
    task.expires = args.expires;
    task.report_expiry_age = args.report_expiry_age.map(Seconds);
    let id = task.id;
    TaskFiles::generate(task)?.write(&args.out)?;
    Ok(print_next_steps(&args.out.display().to_string(), id)?)
}

/// An id that no command line takes for an option.
fn fresh_id() -> TaskId {
    loop {
        let id = TaskId::random();
        if !id.to_string().starts_with('-') {
            return id;
        }
    }
}

/// The parameters of a new task with a fresh id.
pub fn parameters(
    leader_url: String,
    helper_url: String,
    vdaf: VdafConfig,
    batch: &BatchArgs,
) -> Result<Parameters, Failure> {
    Ok(Parameters {
        id: fresh_id(),
        revision: Revision::Dap09,
        leader_url,
        helper_url,
        min_batch_size: batch.min_batch_size(),
        time_precision: Seconds::new(batch.time_precision().0),
        expires: None,
        report_expiry_age: None,
        batch: batch.mode()?,
        vdaf,
    })
}

/// For clap: the URL of an aggregator.
fn plain_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|e| format!("{e}; write it like https://leader.example"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must begin with https:// (or http://) and a host".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("must have neither query, fragment nor user".to_owned());
    }
    Ok(text.to_owned())
}

/// The base URL of a dapbox: with the protocol revision's path and a slash at its end.
fn base_url(text: &str) -> String {
    let base = text.strip_suffix('/').unwrap_or(text);
    let prefix = format!("/{}", wire::of(Revision::Dap09).prefix());
    if base.ends_with(&prefix) { format!("{base}/") } else { format!("{base}{prefix}/") }
}

/// For clap: an instant, or a length of time from now.
fn expiry(text: &str) -> Result<Time, String> {
    match duration(text) {
        Ok(span) if !text.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(Time::now().saturating_add(crate::model::Duration(span.as_secs())))
        }
        _ => calendar::parse(text),
    }
}

fn print_next_steps(dir: &str, id: TaskId) -> std::io::Result<()> {
    let style = Style::stdout();
    let at = |name: &str| if dir == "." { name.to_owned() } else { format!("{}/{name}", dir.trim_end_matches('/')) };
    say(format!("Task {id}"))?;
    say("")?;
    let files = [
        ("leader.toml", "secret", "for the operator of the leader"),
        ("helper.toml", "secret", "for the operator of the helper"),
        ("client.toml", "public", "for whoever measures"),
        ("collector.toml", "secret", "for whoever reads the aggregates; keep a copy"),
    ];
    for (name, kind, whose) in files {
        say(format!("  {:<28} {}  {whose}", at(name), style.dim(kind)))?;
    }
    say("\nNext:")?;
    let steps = [
        ("at the leader", format!("dapbox task add {}", at("leader.toml"))),
        ("at the helper", format!("dapbox task add {}", at("helper.toml"))),
        ("upload", format!("dapbox upload --task {} MEASUREMENT", at("client.toml"))),
        ("collect", format!("dapbox collect --task {}", at("collector.toml"))),
    ];
    for (number, (what, command)) in (1..).zip(steps) {
        say(format!("  {number}. {what:<15} {}", style.accent(&command)))?;
    }
    say("\nSend a secret file over a channel that you trust, and only to the party that it\nis for.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_get_the_revision_and_one_slash_and_are_otherwise_kept() {
        for text in ["https://a.example", "https://a.example/", "https://a.example/dap-09", "https://a.example/dap-09/"]
        {
            assert_eq!(base_url(text), "https://a.example/dap-09/");
        }
        assert_eq!(base_url("http://A.example:80/x"), "http://A.example:80/x/dap-09/");
        for text in ["a.example", "ftp://a.example", "https://a.example/?x", "https://u@a.example", "https:///"] {
            assert!(plain_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_end_is_a_date_or_a_length_of_time() {
        assert_eq!(expiry("2030-01-01").unwrap(), Time(1_893_456_000));
        assert_eq!(expiry("1893456000").unwrap(), Time(1_893_456_000));
        let week = expiry("1w").unwrap().0 - Time::now().0;
        assert!((604_799..=604_800).contains(&week));
        assert!(expiry("never").is_err());
    }
}
