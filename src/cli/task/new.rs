//! `dapbox task new`: makes a task and writes one file for each party.

use std::{collections::BTreeMap, convert::Infallible, path::PathBuf};

use serde::{
    Deserialize, Serialize,
    de::{self, IntoDeserializer},
};

use super::super::{
    Failure, Outcome,
    args::{BatchArgs, Dap, Format, VdafArgs, duration},
    place::Place,
    style::{Style, say, warn},
    taskfile::{Parameters, TaskFiles, VerifyKey},
    timestamp,
};
use crate::{
    config::Seconds,
    model::{BaseUrl, Duration, Epsilon, Revision, Secret, TaskId, Time, VdafConfig},
    store::name::TaskName,
    support::clock,
    wire,
};

/// How many characters of its id tell a task from others.
const INFO_LENGTH: usize = 8;

/// Arguments of `dapbox task new`.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("vdaf", |vdaf| vdaf.required(true)),
    after_help = "Writes leader.toml, helper.toml, client.toml and collector.toml. Each holds the secrets of its \
    party and of no other, so that two organisations can set up a task by exchanging files: keep yours, send the other \
    aggregator's over a channel that you trust, and give client.toml to anyone.\n\n\
    Choose --dap 09, the default, if any party runs other software than dapbox: it is what deployed clients, leaders and \
    helpers speak. Choose --dap 18, the newest draft, if all of them are dapbox or speak it: every report is bound to \
    all of the task's parameters, one upload carries several reports, sums may have any largest number, and the task \
    may have a start. A task keeps its revision for ever.\n\n\
    Examples:\n  \
    dapbox task new --leader https://a.example --helper https://b.example \\\n      --vdaf count\n  \
    dapbox task new --leader https://a.example --helper https://b.example \\\n      --vdaf histogram --length 10 --epsilon 0.5\n  \
    dapbox task new --leader https://a.example --helper https://b.example \\\n      --vdaf sumvec --bits 8 --length 6 --query fixed-size \\\n      --min-batch-size 500 --max-batch-size 1000 --out my-task\n  \
    dapbox task new --leader https://a.example --helper https://b.example \\\n      --dap 18 --vdaf sum --max-measurement 100 --info commute-2027 \\\n      --starts 2027-01-01 --expires 2027-04-01\n\n\
    The commands that use the files:\n  \
    dapbox task add my-task/leader.toml   (at the helper: helper.toml)\n  \
    dapbox upload --task my-task/client.toml 3\n  \
    dapbox collect --task my-task/collector.toml"
)]
pub struct Args {
    #[command(flatten)]
    urls: UrlArgs,
    /// The protocol revision of the task.
    #[arg(long, value_enum, value_name = "REVISION", default_value_t = Dap::default())]
    dap: Dap,
    /// Tells the task from others with the same parameters (only with --dap 18). The beginning of the task's id is
    /// taken if this is left out.
    #[arg(long, value_name = "TEXT")]
    info: Option<String>,
    /// What to call the task, in all files but the clients': letters, digits, blanks and any of -._:/+()#,& with at most
    /// 64 characters. Local: nothing of the protocol depends on it, and 'dapbox task rename' changes it.
    #[arg(long)]
    name: Option<TaskName>,
    #[command(flatten)]
    vdaf: VdafArgs,
    #[command(flatten)]
    batch: BatchArgs,
    /// Differential privacy: each aggregator adds noise to every number of an aggregate, so much that no report changes
    /// how probable any outcome is by more than a factor of e^E. E is a decimal such as 0.5 or a fraction such as 2/3; the
    /// smaller, the more noise. Only for histogram, sumvec and sumvec-hmac; no noise without it.
    #[arg(long, value_name = "E", help_heading = "Noise")]
    epsilon: Option<Epsilon>,
    /// Reports before this are refused (only with --dap 18, and with --expires): a date, or a length of time from now.
    #[arg(long, value_name = "TIME", value_parser = instant, requires = "expires", help_heading = "Batches")]
    starts: Option<Time>,
    /// Reports after this are refused: a date, or a length of time from now such as 90d. With --starts, both are
    /// rounded outward to the time precision.
    #[arg(long, value_name = "TIME", value_parser = instant, help_heading = "Batches")]
    expires: Option<Time>,
    /// Reports older than this are refused and all that is known of them is forgotten, so that what the aggregators hold
    /// is bounded: also sums that were not collected by then. Collect well before. 'never' keeps everything until the
    /// task is removed.
    #[arg(long, value_name = "DURATION", value_parser = expiry, default_value = "30d", help_heading = "Batches")]
    report_expiry_age: Expiry,
    /// Derive the verification key from this secret, which leader and helper have agreed on, and the task's id:
    /// at least 16 bytes in base64url. Random without it.
    #[arg(long, value_name = "BASE64URL", env = "DAPBOX_VERIFY_KEY_SEED", hide_env_values = true,
        value_parser = unread, help_heading = "Verification key")]
    verify_key_seed: Option<Secret>,
    /// What leader and helper call the key, from 0 to 255 (sent with --dap 18).
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Verification key")]
    verify_key_id: u8,
    /// Where to write the files; the directory is made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What was made, for machines.
#[derive(Serialize)]
struct Made {
    /// The new task.
    task: TaskId,
    /// The file of each party.
    files: BTreeMap<&'static str, PathBuf>,
}

/// Runs `dapbox task new`.
pub fn run(args: Args) -> Outcome {
    let revision = args.dap.revision();
    let urls = args.urls.of(revision)?;
    let mut task = parameters(revision, urls, args.vdaf.configure()?, &args.batch)?;
    if let Some(info) = args.info {
        task.info = info;
    }
    (task.starts, task.expires) = match args.starts {
        Some(starts) => outward(starts, args.expires, args.batch.time_precision()),
        None => (None, args.expires),
    };
    task.noise = args.epsilon;
    task.report_expiry_age = args.report_expiry_age.0.map(Seconds);
    let seed = args.verify_key_seed.as_ref().map(seed).transpose().map_err(Failure::usage)?;
    let id = task.id;
    scrutinize(&task)?;
    let files = TaskFiles::generate(task, &VerifyKey { seed, id: args.verify_key_id })?.called(args.name.as_ref());
    files.write(&args.out)?;
    Ok(match args.output {
        Format::Json => {
            let files = files.named().map(|(name, _)| (name.trim_end_matches(".toml"), args.out.join(name)));
            say(serde_json::to_string_pretty(&Made { task: id, files: files.into() })?)
        }
        Format::Text => print_next_steps(&args.out.display().to_string(), id),
    }?)
}

/// Refuses a task that cannot work, and warns of what is rarely meant.
pub fn scrutinize(task: &Parameters) -> Outcome {
    check_end(task.expires, clock::now())?;
    doubts(task).into_iter().for_each(warn);
    Ok(())
}

/// Refuses a task that is over before it begins.
fn check_end(expires: Option<Time>, now: Time) -> Outcome {
    match expires.filter(|end| *end <= now) {
        Some(end) => Err(Failure::usage(format!(
            "--expires {} is in the past: every report would be refused",
            timestamp::show(end)
        ))),
        None => Ok(()),
    }
}

/// What is allowed and rarely meant.
fn doubts(task: &Parameters) -> Vec<String> {
    let mut doubts = Vec::new();
    for (role, url) in [("leader", &task.leader_url), ("helper", &task.helper_url)] {
        if Place::of(url).is_some_and(|place| !place.is_secure && !place.is_loopback()) {
            doubts.push(format!(
                "the {role}'s URL {url} is plain HTTP: tokens and reports can be read and changed on the way. Use https"
            ));
        }
    }
    if task.min_batch_size == 1 {
        doubts.push(
            "a minimum batch size of 1 gives no privacy: an aggregate may hold a single report. Use a larger --min-batch-size"
                .to_owned(),
        );
    }
    doubts
}

/// The smallest interval with bounds at multiples of the time precision that holds the one that is asked for.
fn outward(starts: Time, expires: Option<Time>, precision: Duration) -> (Option<Time>, Option<Time>) {
    let up = |time: Time| Time(time.0.div_ceil(precision.0).saturating_mul(precision.0));
    (Some(starts.truncate(precision)), expires.map(up))
}

/// How long reports are kept; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expiry(Option<std::time::Duration>);

/// For clap: how long reports are kept.
fn expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "never" => Ok(Expiry(None)),
        _ => match duration(text) {
            Ok(age) if age.as_secs() > 0 => Ok(Expiry(Some(age))),
            Ok(_) => Err("must be a second at least, or 'never'".to_owned()),
            Err(why) => Err(format!("{why}, or 'never'")),
        },
    }
}

/// For clap: a secret as it is given. What is wrong with it is said later, and without repeating it.
fn unread(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text.as_bytes().to_vec()))
}

/// The bytes of a seed for verification keys.
fn seed(text: &Secret) -> Result<Secret, &'static str> {
    let wrong = "--verify-key-seed must be at least 16 bytes in base64url, without padding";
    let text = text.expose_text().ok_or(wrong)?;
    let seed = Secret::deserialize(IntoDeserializer::<de::value::Error>::into_deserializer(text));
    seed.ok().filter(|seed| seed.expose().len() >= 16).ok_or(wrong)
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
    revision: Revision,
    [leader_url, helper_url]: [String; 2],
    vdaf: VdafConfig,
    batch: &BatchArgs,
) -> Result<Parameters, Failure> {
    let id = fresh_id();
    Ok(Parameters {
        id,
        revision,
        info: default_info(revision, &id),
        leader_url,
        helper_url,
        min_batch_size: batch.min_batch_size(),
        time_precision: Seconds::new(batch.time_precision().0),
        starts: None,
        expires: None,
        report_expiry_age: None,
        noise: None,
        configuration: None,
        batch: batch.mode()?,
        vdaf,
    })
}

/// What tells a task from others, where the protocol has a place for it: the beginning of its id.
pub fn default_info(revision: Revision, id: &TaskId) -> String {
    let length = if wire::for_revision(revision).has_task_info() { INFO_LENGTH } else { 0 };
    id.to_string().chars().take(length).collect()
}

/// Where the aggregators of a task are.
#[derive(Debug, clap::Args)]
pub struct UrlArgs {
    /// The leader's URL. dapbox's path for the protocol revision is added if it is missing.
    #[arg(long, value_name = "URL")]
    leader: BaseUrl,
    /// The helper's URL.
    #[arg(long, value_name = "URL")]
    helper: BaseUrl,
    /// Take both URLs as they are: other software may serve DAP at another path.
    #[arg(long)]
    as_is: bool,
}

impl UrlArgs {
    /// Where leader and helper speak this revision. They must be two servers.
    pub fn of(&self, revision: Revision) -> Result<[String; 2], Failure> {
        if self.leader.is_equivalent_to(&self.helper) {
            let url = self.leader.as_str();
            return Err(Failure::usage(format!("--leader and --helper are both {url}; they must be two servers")));
        }
        Ok([&self.leader, &self.helper].map(|given| match self.as_is {
            true => given.as_str().to_owned(),
            false => base_url(revision, given.as_str()),
        }))
    }
}

/// The base URL of a dapbox: with the protocol revision's path and a slash at its end.
fn base_url(revision: Revision, text: &str) -> String {
    let base = text.strip_suffix('/').unwrap_or(text);
    let prefix = format!("/{}", wire::for_revision(revision).path_prefix());
    if base.ends_with(&prefix) { format!("{base}/") } else { format!("{base}{prefix}/") }
}

/// For clap: an instant, or a length of time from now.
pub fn instant(text: &str) -> Result<Time, String> {
    match duration(text) {
        Ok(span) if !text.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(clock::now().saturating_add(Duration(span.as_secs())))
        }
        _ => timestamp::parse(text),
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
            assert_eq!(base_url(Revision::Dap09, text), "https://a.example/dap-09/");
        }
        assert_eq!(base_url(Revision::Dap09, "http://A.example:80/x"), "http://A.example:80/x/dap-09/");
        assert_eq!(base_url(Revision::Dap18, "https://a.example/dap-18"), "https://a.example/dap-18/");
        assert_eq!(base_url(Revision::Dap18, "https://a.example/"), "https://a.example/dap-18/");
    }

    #[test]
    fn an_end_is_a_date_or_a_length_of_time() {
        assert_eq!(instant("2030-01-01").unwrap(), Time(1_893_456_000));
        assert_eq!(instant("1893456000").unwrap(), Time(1_893_456_000));
        let week = instant("1w").unwrap().0 - clock::now().0;
        assert!((604_799..=604_800).contains(&week));
        assert!(instant("never").is_err());
    }

    #[test]
    fn refuses_an_end_in_the_past_and_warns_of_what_protects_nobody() {
        let now = Time(1_893_456_000);
        assert!(check_end(Some(now), now).unwrap_err().message().contains("2030-01-01T00:00:00Z is in the past"));
        assert!(check_end(Some(Time(now.0 + 1)), now).is_ok() && check_end(None, now).is_ok());
        let batch = |min| BatchArgs { min_batch_size: Some(min), ..BatchArgs::default() };
        let doubts_of = |urls: [&str; 2], min| {
            let urls = urls.map(str::to_owned);
            doubts(&parameters(Revision::Dap09, urls, VdafConfig::Prio3Count, &batch(min)).unwrap()).join("; ")
        };
        assert_eq!(doubts_of(["https://a.example/", "http://127.0.0.1:8080/"], 2), "");
        let text = doubts_of(["http://a.example/", "http://[::1]/"], 1);
        assert!(text.contains("leader's URL http://a.example/") && text.contains("minimum batch size of 1"), "{text}");
        assert!(!text.contains("helper"), "{text}");
    }

    #[test]
    fn reports_are_kept_for_a_time_or_for_ever() {
        assert_eq!(expiry("never"), Ok(Expiry(None)));
        assert_eq!(expiry("30d"), Ok(Expiry(Some(std::time::Duration::from_secs(30 * 86_400)))));
        assert!(expiry("0s").unwrap_err().contains("never") && expiry("soon").unwrap_err().contains("never"));
    }

    #[test]
    fn a_start_and_an_end_are_rounded_outward() {
        let hour = Duration(3600);
        assert_eq!(outward(Time(3601), Some(Time(7201)), hour), (Some(Time(3600)), Some(Time(10_800))));
        assert_eq!(outward(Time(3600), Some(Time(7200)), hour), (Some(Time(3600)), Some(Time(7200))));
    }

    #[test]
    fn a_seed_is_long_enough_and_is_not_repeated() {
        let read = |text: &str| seed(&unread(text).unwrap());
        assert_eq!(read("AAAAAAAAAAAAAAAAAAAAAA"), Ok(Secret::new(vec![0; 16])));
        for text in ["", "AAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAA==", "not base64url at all!!"] {
            assert!(read(text).is_err_and(|why| text.is_empty() || !why.contains(text)), "{text}");
        }
    }

    #[test]
    fn only_a_protocol_that_needs_a_text_gets_one_by_default() {
        let batch = BatchArgs::default();
        let urls = || ["https://a.example/", "https://b.example/"].map(str::to_owned);
        let task = |revision| parameters(revision, urls(), VdafConfig::Prio3Count, &batch).unwrap();
        assert_eq!(task(Revision::Dap09).info, "");
        let later = task(Revision::Dap18);
        assert_eq!(later.info.len(), INFO_LENGTH);
        assert!(later.id.to_string().starts_with(&later.info));
    }
}
