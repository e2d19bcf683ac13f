//! Which task is collected, and with whose secrets: from our own files, or from what others hand out.

use std::path::{Path, PathBuf};

use super::super::{
    Failure,
    args::{QueryKind, VdafArgs, precision},
    credential::Credential,
    pasted,
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

/// Where the task comes from.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "source", skip)]
pub struct SourceArgs {
    /// The task's collector.toml; with --credential any file of the task, such as client.toml.
    #[arg(long, value_name = "FILE", required_unless_present = "credential")]
    task: Option<PathBuf>,
    /// A collector's credential file of Divvi Up's tool: token and key are taken from there.
    #[arg(long, value_name = "FILE")]
    credential: Option<PathBuf>,
    #[command(flatten)]
    stated: StatedArgs,
}

/// What is to be known of a task of which there is no file. Such a task is one of DAP-09.
#[derive(Clone, Debug, clap::Args)]
struct StatedArgs {
    /// The leader's DAP URL, as it is.
    #[arg(long, value_name = "URL", help_heading = HEADING, conflicts_with = "task", requires = "credential")]
    leader: Option<BaseUrl>,
    /// The task's id.
    #[arg(long, value_name = "ID", help_heading = HEADING, conflicts_with = "task", requires = "credential",
        allow_hyphen_values = true, value_parser = pasted::task_id)]
    task_id: Option<TaskId>,
    /// Times are multiples of this.
    #[arg(long, value_name = "DURATION", help_heading = HEADING, conflicts_with = "task", requires = "credential",
        value_parser = precision)]
    time_precision: Option<Duration>,
    /// Who decides what a batch is; time-interval by default.
    #[arg(long, value_enum, value_name = "KIND", help_heading = HEADING, conflicts_with = "task",
        requires = "credential")]
    query: Option<QueryKind>,
    /// The epsilon of the noise that the aggregators add, if they do, such as 0.5.
    #[arg(long, value_name = "NUMBER", help_heading = HEADING, conflicts_with = "task", requires = "credential")]
    epsilon: Option<Epsilon>,
    #[command(flatten)]
    vdaf: VdafArgs,
}

/// Makes the name of a record of the name of the file that it is beside.
const JOBS_EXTENSION: &str = "jobs.json";

const HEADING: &str = "A task without a file, with --credential";

/// A task, with the key that opens its aggregates.
pub struct Source {
    /// The task.
    pub task: CollectorTask,
    /// The key.
    keypair: Keypair,
    /// What the task was configured with, if it is one that is set up in-band.
    configuration: Option<Configuration>,
    /// Where a collection begins that does not say otherwise, if that is known.
    pub began: Option<Time>,
    /// Where collections are recorded: beside the file with the key.
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
            let (credential, beside) = credential.ok_or_else(|| Failure::usage("give --task, or --credential"))?;
            let public = self.stated.parameters()?;
            return Ok(Source::with(credential, public, &beside));
        };
        if self.stated.vdaf.is_given() {
            return Err(Failure::usage("what is measured stands in the file of --task"));
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
        // A credential is good for many tasks, and each has its own record.
        let jobs_file = beside.with_extension(format!("{}.{JOBS_EXTENSION}", public.id));
        let task = CollectorTask { public, token, previous_token: None };
        Self { task, keypair, configuration: None, began: None, jobs_file }
    }

    /// The collector of the task.
    pub fn collector(self, peer: Peer) -> Result<Collector, CollectError> {
        let collector = Collector::new(self.task, self.keypair, peer, RetryPolicy::default())?;
        Ok(match &self.configuration {
            Some(Configuration(bytes)) => collector.with_advertisement(bytes),
            None => collector,
        })
    }
}

impl StatedArgs {
    /// What is known of the task. Of the rest a collector needs nothing.
    fn parameters(self) -> Result<TaskParameters, Failure> {
        if self.vdaf.vdaf.is_none() {
            return Err(Failure::usage("say what is measured: --vdaf, with its parameters"));
        }
        let missing = |what: &str| Failure::usage(format!("without --task, {what} must be given"));
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

/// Where what the aggregators keep begins at the latest, and still does when they are asked.
fn kept_since(task: &Parameters) -> Time {
    let unit = Duration(task.time_precision.as_secs());
    let kept = |age: Seconds| clock::now().saturating_sub(Duration(age.as_secs())).truncate(unit).saturating_add(unit);
    task.report_expiry_age.map_or(Time(0), kept)
}
