//! The arguments of a task that is known by a credential of Divvi Up.

use std::path::PathBuf;

use super::Credential;
use crate::{
    cli::{
        Failure,
        args::{QueryKind, VdafArgs, parse_precision},
        input,
    },
    model::{BaseUrl, BatchMode, Duration, Epsilon, Revision, TaskId, TaskParameters},
};

/// A credential, and the parameters of its task, unless the argument `task` names a file with them.
#[derive(Clone, Debug, clap::Args)]
pub struct CredentialArgs {
    /// Collector credential file of Divvi Up, with token and private key.
    #[arg(long, value_name = "FILE")]
    credential: Option<PathBuf>,
    #[command(flatten)]
    pub stated: TaskParameterArgs,
}

/// The parameters of a DAP-09 task without a file.
#[derive(Clone, Debug, clap::Args)]
pub struct TaskParameterArgs {
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
    pub vdaf: VdafArgs,
}

const HEADING: &str = "A task without a file, with --credential";

impl CredentialArgs {
    /// Reads the credential, if there is one. Returns it with its path.
    pub fn read(&self) -> Result<Option<(Credential, PathBuf)>, Failure> {
        self.credential.as_ref().map(|path| Ok((Credential::read(path)?, path.clone()))).transpose()
    }
}

impl TaskParameterArgs {
    /// Returns the parameters that a collector needs; the others are placeholders.
    pub fn parameters(self) -> Result<TaskParameters, Failure> {
        if self.vdaf.vdaf.is_none() {
            return Err(Failure::usage("--vdaf with its parameters is required without a task file"));
        }
        let missing = |what: &str| Failure::usage(format!("{what} is required without a task file"));
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
