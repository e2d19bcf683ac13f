//! `dapbox task new`: creates a task and writes one file for each party.

use std::{collections::BTreeMap, convert::Infallible, path::PathBuf};

use serde::{
    Deserialize, Serialize,
    de::{self, IntoDeserializer},
};

use super::super::{
    Failure, Outcome,
    args::{BatchArgs, Format, OutputArgs, RevisionArg, VdafArgs, parse_duration},
    endpoint::Endpoint,
    style::{Style, print, warn},
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

/// Length of the default task info: the first characters of the id.
const INFO_LENGTH: usize = 8;

/// Arguments of `dapbox task new`.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("vdaf", |vdaf| vdaf.required(true)),
    after_help = "Writes leader.toml, helper.toml, client.toml and collector.toml. Each contains the secrets of its \
    party only, so that two organisations set up a task by exchanging files: keep yours, send the other aggregator's \
    over a trusted channel; client.toml is public.\n\n\
    Use --dap 09, the default, if any party runs software other than dapbox: deployed clients, leaders and helpers speak \
    it. Use --dap 18 or --dap 19, the newest draft, if all parties support it: reports are bound to all task parameters, one \
    upload carries several reports, sums may have any maximum, and tasks may have a start. The revision of a task cannot be \
    changed.\n\n\
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
    /// Protocol revision of the task.
    #[arg(long, value_enum, value_name = "REVISION", default_value_t = RevisionArg::default())]
    dap: RevisionArg,
    /// Text that distinguishes tasks with the same parameters (DAP-18 and later). Default: the first characters of the id.
    #[arg(long, value_name = "TEXT")]
    info: Option<String>,
    /// Local name of the task, in all files but the clients': up to 64 letters, digits, blanks or any of -._:/+()#,&
    /// 'dapbox task rename' changes it.
    #[arg(long)]
    name: Option<TaskName>,
    #[command(flatten)]
    vdaf: VdafArgs,
    #[command(flatten)]
    batch: BatchArgs,
    /// Differential privacy: each aggregator adds noise to every number of an aggregate, so that no report changes the
    /// probability of any outcome by more than a factor of e^E. A decimal such as 0.5 or a fraction such as 2/3; smaller
    /// means more noise. Default: no noise.
    #[arg(long, value_name = "E", help_heading = "Noise")]
    epsilon: Option<Epsilon>,
    /// Start of the task, before which reports are refused (DAP-18 and later, with --expires): a date, or a duration from now.
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "expires", help_heading = "Batches")]
    starts: Option<Time>,
    /// End of the task, after which reports are refused: a date, or a duration from now such as 90d. With --starts, both
    /// are rounded outward to the time precision.
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Batches")]
    expires: Option<Time>,
    /// Age after which reports are refused and their data, including uncollected sums, is deleted. 'never' keeps data
    /// until the task is removed.
    #[arg(long, value_name = "DURATION", value_parser = parse_expiry, default_value = "30d", help_heading = "Batches")]
    report_expiry_age: Expiry,
    /// Secret shared by leader and helper from which, with the task id, the verification key is derived: at least 16 bytes
    /// as base64url. Default: a random key.
    #[arg(long, value_name = "BASE64URL", env = "DAPBOX_VERIFY_KEY_SEED", hide_env_values = true,
        value_parser = parse_secret, help_heading = "Verification key")]
    verify_key_seed: Option<Secret>,
    /// Id of the verification key, 0 to 255 (sent in DAP-18 and later).
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Verification key")]
    verify_key_id: u8,
    /// Directory for the files; created if missing.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// The JSON output.
#[derive(Serialize)]
struct Created {
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
        Some(starts) => round_outward(starts, args.expires, args.batch.time_precision()),
        None => (None, args.expires),
    };
    task.noise = args.epsilon;
    task.report_expiry_age = args.report_expiry_age.0.map(Seconds);
    let seed = args.verify_key_seed.as_ref().map(decode_seed).transpose().map_err(Failure::usage)?;
    let id = task.id;
    validate(&task)?;
    let files = TaskFiles::generate(task, &VerifyKey { seed, id: args.verify_key_id })?.with_name(args.name.as_ref());
    files.write(&args.out)?;
    Ok(match args.output.format {
        Format::Json => {
            let files = files.by_file_name().map(|(name, _)| (name.trim_end_matches(".toml"), args.out.join(name)));
            print(serde_json::to_string_pretty(&Created { task: id, files: files.into() })?)
        }
        Format::Text => print_next_steps(&args.out.display().to_string(), id),
    }?)
}

/// Refuses a task that cannot work, and prints warnings.
pub fn validate(task: &Parameters) -> Outcome {
    check_end(task.expires, clock::now())?;
    warnings(task).into_iter().for_each(warn);
    Ok(())
}

/// Refuses an end in the past.
fn check_end(expires: Option<Time>, now: Time) -> Outcome {
    match expires.filter(|end| *end <= now) {
        Some(end) => Err(Failure::usage(format!(
            "--expires {} is in the past: every report would be refused",
            timestamp::show(end)
        ))),
        None => Ok(()),
    }
}

/// Warnings about parameters that are valid but rarely intended.
fn warnings(task: &Parameters) -> Vec<String> {
    let mut warnings = Vec::new();
    for (role, url) in [("leader", &task.leader_url), ("helper", &task.helper_url)] {
        if Endpoint::of(url).is_some_and(|endpoint| !endpoint.is_secure && !endpoint.is_loopback()) {
            warnings.push(format!(
                "the {role}'s URL {url} is plain HTTP: the network can read and change tokens and reports (hint: use https)"
            ));
        }
    }
    if task.min_batch_size == 1 {
        warnings.push(
            "a minimum batch size of 1 gives no privacy: an aggregate may contain a single report (hint: use a larger \
             --min-batch-size)"
                .to_owned(),
        );
    }
    warnings
}

/// Rounds an interval outward to multiples of the time precision.
fn round_outward(starts: Time, expires: Option<Time>, precision: Duration) -> (Option<Time>, Option<Time>) {
    let up = |time: Time| Time(time.0.div_ceil(precision.0).saturating_mul(precision.0));
    (Some(starts.truncate(precision)), expires.map(up))
}

/// The report expiry age; `None` keeps reports forever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expiry(Option<std::time::Duration>);

/// Parses a report expiry age for clap.
fn parse_expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "never" => Ok(Expiry(None)),
        _ => match parse_duration(text) {
            Ok(age) if age.as_secs() > 0 => Ok(Expiry(Some(age))),
            Ok(_) => Err("must be at least 1s, or 'never'".to_owned()),
            Err(why) => Err(format!("{why}, or 'never'")),
        },
    }
}

/// Parses a secret for clap. It is validated later, with an error that does not show it.
fn parse_secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text.as_bytes().to_vec()))
}

/// Decodes a seed for verification keys.
fn decode_seed(text: &Secret) -> Result<Secret, &'static str> {
    let wrong = "--verify-key-seed must be at least 16 bytes in base64url, without padding";
    let text = text.expose_text().ok_or(wrong)?;
    let seed = Secret::deserialize(IntoDeserializer::<de::value::Error>::into_deserializer(text));
    seed.ok().filter(|seed| seed.expose().len() >= 16).ok_or(wrong)
}

/// Generates an id that cannot be mistaken for an option.
fn generate_id() -> TaskId {
    loop {
        let id = TaskId::random();
        if !id.to_string().starts_with('-') {
            return id;
        }
    }
}

/// Creates the parameters of a new task with a random id.
pub fn parameters(
    revision: Revision,
    [leader_url, helper_url]: [String; 2],
    vdaf: VdafConfig,
    batch: &BatchArgs,
) -> Result<Parameters, Failure> {
    let id = generate_id();
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

/// Returns the default task info: the first characters of the id, or nothing if the revision has no task info.
pub fn default_info(revision: Revision, id: &TaskId) -> String {
    let length = if wire::for_revision(revision).has_task_info() { INFO_LENGTH } else { 0 };
    id.to_string().chars().take(length).collect()
}

/// The URLs of the aggregators of a task.
#[derive(Debug, clap::Args)]
pub struct UrlArgs {
    /// Leader's URL; the path of the protocol revision (/dap-09/) is appended if missing.
    #[arg(long, value_name = "URL")]
    leader: BaseUrl,
    /// Helper's URL; completed like the leader's.
    #[arg(long, value_name = "URL")]
    helper: BaseUrl,
    /// Do not append a path to the URLs, for software that serves DAP at another path.
    #[arg(long)]
    as_is: bool,
}

impl UrlArgs {
    /// Returns the DAP URLs of leader and helper, which must be two servers.
    pub fn of(&self, revision: Revision) -> Result<[String; 2], Failure> {
        if self.leader.is_equivalent_to(&self.helper) {
            let url = self.leader.as_str();
            return Err(Failure::usage(format!("--leader and --helper are both {url} (hint: use two servers)")));
        }
        Ok([&self.leader, &self.helper].map(|given| match self.as_is {
            true => given.as_str().to_owned(),
            false => base_url(revision, given.as_str()),
        }))
    }
}

/// Completes the base URL of a dapbox server with the path of the revision and a trailing slash.
fn base_url(revision: Revision, text: &str) -> String {
    let base = text.strip_suffix('/').unwrap_or(text);
    let prefix = format!("/{}", wire::for_revision(revision).path_prefix());
    if base.ends_with(&prefix) { format!("{base}/") } else { format!("{base}{prefix}/") }
}

/// Parses a time, or a duration from now, for clap.
pub fn parse_time(text: &str) -> Result<Time, String> {
    match parse_duration(text) {
        Ok(span) if !text.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(clock::now().saturating_add(Duration(span.as_secs())))
        }
        _ => timestamp::parse(text),
    }
}

fn print_next_steps(dir: &str, id: TaskId) -> std::io::Result<()> {
    let style = Style::stdout();
    let at = |name: &str| if dir == "." { name.to_owned() } else { format!("{}/{name}", dir.trim_end_matches('/')) };
    print(format!("Task {id}"))?;
    print("")?;
    let files = [
        ("leader.toml", "secret", "for the operator of the leader"),
        ("helper.toml", "secret", "for the operator of the helper"),
        ("client.toml", "public", "for the clients"),
        ("collector.toml", "secret", "for the collector; keep a copy"),
    ];
    for (name, kind, whose) in files {
        print(format!("  {:<28} {}  {whose}", at(name), style.dim(kind)))?;
    }
    print("\nNext:")?;
    let steps = [
        ("at the leader", format!("dapbox task add {}", at("leader.toml"))),
        ("at the helper", format!("dapbox task add {}", at("helper.toml"))),
        ("upload", format!("dapbox upload --task {} MEASUREMENT", at("client.toml"))),
        ("collect", format!("dapbox collect --task {}", at("collector.toml"))),
    ];
    for (number, (what, command)) in (1..).zip(steps) {
        print(format!("  {number}. {what:<15} {}", style.accent(&command)))?;
    }
    print("\nSend secret files only to their party, over a trusted channel.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_revision_path_to_url() {
        for text in ["https://a.example", "https://a.example/", "https://a.example/dap-09", "https://a.example/dap-09/"]
        {
            assert_eq!(base_url(Revision::Dap09, text), "https://a.example/dap-09/");
        }
        assert_eq!(base_url(Revision::Dap09, "http://A.example:80/x"), "http://A.example:80/x/dap-09/");
        assert_eq!(base_url(Revision::Dap18, "https://a.example/dap-18"), "https://a.example/dap-18/");
        assert_eq!(base_url(Revision::Dap18, "https://a.example/"), "https://a.example/dap-18/");
    }

    #[test]
    fn parses_date_or_duration_as_end() {
        assert_eq!(parse_time("2030-01-01").unwrap(), Time(1_893_456_000));
        assert_eq!(parse_time("1893456000").unwrap(), Time(1_893_456_000));
        let week = parse_time("1w").unwrap().0 - clock::now().0;
        assert!((604_799..=604_800).contains(&week));
        assert!(parse_time("never").is_err());
    }

    #[test]
    fn rejects_past_end_and_warns_of_weak_privacy() {
        let now = Time(1_893_456_000);
        assert!(check_end(Some(now), now).unwrap_err().message().contains("2030-01-01T00:00:00Z is in the past"));
        assert!(check_end(Some(Time(now.0 + 1)), now).is_ok() && check_end(None, now).is_ok());
        let batch = |min| BatchArgs { min_batch_size: Some(min), ..BatchArgs::default() };
        let warnings_of = |urls: [&str; 2], min| {
            let urls = urls.map(str::to_owned);
            warnings(&parameters(Revision::Dap09, urls, VdafConfig::Prio3Count, &batch(min)).unwrap()).join("; ")
        };
        assert_eq!(warnings_of(["https://a.example/", "http://127.0.0.1:8080/"], 2), "");
        let text = warnings_of(["http://a.example/", "http://[::1]/"], 1);
        assert!(text.contains("leader's URL http://a.example/") && text.contains("minimum batch size of 1"), "{text}");
        assert!(!text.contains("helper"), "{text}");
    }

    #[test]
    fn parses_report_expiry_age() {
        assert_eq!(parse_expiry("never"), Ok(Expiry(None)));
        assert_eq!(parse_expiry("30d"), Ok(Expiry(Some(std::time::Duration::from_secs(30 * 86_400)))));
        assert!(
            parse_expiry("0s").unwrap_err().contains("never") && parse_expiry("soon").unwrap_err().contains("never")
        );
    }

    #[test]
    fn rounds_task_interval_outward() {
        let hour = Duration(3600);
        assert_eq!(round_outward(Time(3601), Some(Time(7201)), hour), (Some(Time(3600)), Some(Time(10_800))));
        assert_eq!(round_outward(Time(3600), Some(Time(7200)), hour), (Some(Time(3600)), Some(Time(7200))));
    }

    #[test]
    fn rejects_short_seed_without_showing_it() {
        let read = |text: &str| decode_seed(&parse_secret(text).unwrap());
        assert_eq!(read("AAAAAAAAAAAAAAAAAAAAAA"), Ok(Secret::new(vec![0; 16])));
        for text in ["", "AAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAA==", "not base64url at all!!"] {
            assert!(read(text).is_err_and(|why| text.is_empty() || !why.contains(text)), "{text}");
        }
    }

    #[test]
    fn sets_default_info_for_dap18_only() {
        let batch = BatchArgs::default();
        let urls = || ["https://a.example/", "https://b.example/"].map(str::to_owned);
        let task = |revision| parameters(revision, urls(), VdafConfig::Prio3Count, &batch).unwrap();
        assert_eq!(task(Revision::Dap09).info, "");
        let later = task(Revision::Dap18);
        assert_eq!(later.info.len(), INFO_LENGTH);
        assert!(later.id.to_string().starts_with(&later.info));
    }
}
