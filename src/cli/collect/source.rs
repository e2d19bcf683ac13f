//! The task and secrets of a collection: from task files, or from a credential of Divvi Up.

use std::path::{Path, PathBuf};

use super::super::{
    Failure,
    credential::{Credential, CredentialArgs},
    taskfile::{Configuration, Parameters, TaskFile},
};
use crate::{
    collector::{CollectError, Collector, CollectorTask},
    config::Seconds,
    hpke::Keypair,
    model::{Duration, TaskParameters, Time},
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
    #[command(flatten)]
    credential: CredentialArgs,
}

/// The extension of the journal's file name.
const JOBS_EXTENSION: &str = "jobs.json";

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
        let credential = self.credential.read()?;
        let Some(path) = self.task else {
            let (credential, beside) =
                credential.ok_or_else(|| Failure::usage("--task or --credential is required"))?;
            let public = self.credential.stated.parameters()?;
            return Ok(Source::with(credential, public, &beside));
        };
        if self.credential.stated.vdaf.is_given() {
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

/// The start of the first time unit that the aggregators certainly still keep.
fn kept_since(task: &Parameters) -> Time {
    let unit = Duration(task.time_precision.as_secs());
    let kept = |age: Seconds| clock::now().saturating_sub(Duration(age.as_secs())).truncate(unit).saturating_add(unit);
    task.report_expiry_age.map_or(Time(0), kept)
}
