//! The task and secrets of a collection: from task files, or from a credential of Divvi Up.

use std::path::{Path, PathBuf};

use super::super::{
    Failure,
    args::{QueryKind, VdafArgs, parse_precision},
    credential::Credential,
    input,
    taskfile::{Configuration, Parameters, TaskFile},
};
use crate::{
    collector::{CollectError, Collector, CollectorTask},
    config::Seconds,
    hpke::Keypair,
    model::{BaseUrl, BatchMode, Duration, Epsilon, Revision, TaskId, TaskParameters, Time},
    peer::{Peer, RetryPolicy},
    support::clock,
};

/// Selects the task.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "source", skip)]
pub struct SourceArgs {
    /// The task's collector.toml; with --credential, any file of the task, such as client.toml.
    #[arg(long, value_name = "FILE", required_unless_present = "credential")]
    task: Option<PathBuf>,
    /// Collector credential file of Divvi Up, with token and private key.
    #[arg(long, value_name = "FILE")]
    credential: Option<PathBuf>,
    #[command(flatten)]
    stated: TaskParameterArgs,
}

/// The parameters of a DAP-09 task without a file.
#[derive(Clone, Debug, clap::Args)]
struct TaskParameterArgs {
    /// Leader's DAP URL, including the path.
    #[arg(long, value_name = "URL", help_heading = HEADING, conflicts_with = "task", requires = "credential")]
    leader: Option<BaseUrl>,
    /// Task id.
    #[arg(long, value_name = "ID", help_heading = HEADING, conflicts_with = "task", requires = "credential",
        allow_hyphen_values = true, value_parser = input::parse_task_id)]
    task_id: Option<TaskId>,
    /// Time precision of the task, such as 1h.
    #[arg(long, value_name = "DURATION", help_heading = HEADING, conflicts_with = "task", requires = "credential",
        value_parser = parse_precision)]
    time_precision: Option<Duration>,
    /// Batch mode. Default: time-interval.
    #[arg(long, value_enum, value_name = "KIND", help_heading = HEADING, conflicts_with = "task",
        requires = "credential")]
    query: Option<QueryKind>,
    /// Epsilon of the noise that the aggregators add, such as 0.5. Default: no noise.
    #[arg(long, value_name = "NUMBER", help_heading = HEADING, conflicts_with = "task", requires = "credential")]
    epsilon: Option<Epsilon>,
    #[command(flatten)]
    vdaf: VdafArgs,
}

/// The extension of the journal's file name.
const JOBS_EXTENSION: &str = "jobs.json";

const HEADING: &str = "A task without a file, with --credential";

/// A task with the key that decrypts its aggregates.
pub struct Source {
    /// The task.
    pub task: CollectorTask,
    /// The key.
    keypair: Keypair,
    /// The encoded configuration of an in-band task.
    configuration: Option<Configuration>,
    /// Default start of the first collection, if known.
    pub began: Option<Time>,
    /// File of the journal, beside the file with the key.
    pub jobs_file: PathBuf,
}

impl SourceArgs {
    /// Reads the files.
    pub fn read(self) -> Result<Source, Failure> {
        let credential = match self.credential {
            Some(path) => Some((Credential::read(&path)?, path)),
            None => None,
        };
        let Some(path) = self.task else {
            let (credential, beside) =
                credential.ok_or_else(|| Failure::usage("--task or --credential is required"))?;
            let public = self.stated.parameters()?;
            return Ok(Source::with(credential, public, &beside));
        };
        if self.stated.vdaf.is_given() {
            return Err(Failure::usage(
                "the file of --task already contains the VDAF (hint: omit --vdaf and its parameters)",
            ));
        }
        let file = TaskFile::read(&path)?;
        let began = file.collector.as_ref().and_then(|collector| collector.since);
        let began = began.map(|since| since.max(kept_since(&file.task)));
        let source = match credential {
            Some((credential, beside)) => Source::with(credential, file.parameters(), &beside),
            None => {
                let (task, keypair) = file.collector_task().map_err(|e| e.context(path.display()))?;
                let jobs_file = path.with_extension(JOBS_EXTENSION);
                Source { task, keypair, configuration: None, began: None, jobs_file }
            }
        };
        Ok(Source { configuration: file.task.configuration, began, ..source })
    }
}

impl Source {
    fn with(Credential { token, keypair }: Credential, public: TaskParameters, beside: &Path) -> Self {
        // A credential may be used for many tasks: each has its own journal.
        let jobs_file = beside.with_extension(format!("{}.{JOBS_EXTENSION}", public.id));
        let task = CollectorTask { public, token, previous_token: None };
        Self { task, keypair, configuration: None, began: None, jobs_file }
    }

    /// Creates the collector of the task.
    pub fn collector(self, peer: Peer) -> Result<Collector, CollectError> {
        let collector = Collector::new(self.task, self.keypair, peer, RetryPolicy::default())?;
        Ok(match &self.configuration {
            Some(Configuration(bytes)) => collector.with_advertisement(bytes),
            None => collector,
        })
    }
}

impl TaskParameterArgs {
    /// Returns the parameters that a collector needs; the others are placeholders.
    fn parameters(self) -> Result<TaskParameters, Failure> {
        if self.vdaf.vdaf.is_none() {
            return Err(Failure::usage("--vdaf with its parameters is required without --task"));
        }
        let missing = |what: &str| Failure::usage(format!("{what} is required without --task"));
        let batch_mode = match self.query {
            Some(QueryKind::FixedSize) => BatchMode::fixed_size(None),
            Some(QueryKind::TimeInterval) | None => BatchMode::TimeInterval,
        };
        Ok(TaskParameters {
            id: self.task_id.ok_or_else(|| missing("--task-id"))?,
            revision: Revision::Dap09,
            info: String::new(),
            leader_url: self.leader.ok_or_else(|| missing("--leader"))?.into_string(),
            helper_url: String::new(),
            batch_mode,
            vdaf: self.vdaf.configure()?,
            min_batch_size: 1,
            time_precision: self.time_precision.ok_or_else(|| missing("--time-precision"))?,
            task_expiration: None,
            task_interval: None,
            noise: self.epsilon,
        })
    }
}

/// The start of the first time unit that the aggregators certainly still keep.
fn kept_since(task: &Parameters) -> Time {
    let unit = Duration(task.time_precision.as_secs());
    let kept = |age: Seconds| clock::now().saturating_sub(Duration(age.as_secs())).truncate(unit).saturating_add(unit);
    task.report_expiry_age.map_or(Time(0), kept)
}
