//! The collector's file of a task that was created with Divvi Up.

use std::path::PathBuf;

use crate::{
    cli::{
        Failure,
        credential::{Credential, CredentialArgs},
        taskfile::{CollectorPart, Parameters, TaskFile},
    },
    model::BaseUrl,
};

/// Arguments of a task that was created with Divvi Up.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    credential: CredentialArgs,
    /// Helper's DAP URL, including the path.
    #[arg(long, value_name = "URL", help_heading = HEADING, conflicts_with = "task", requires = "credential")]
    helper: Option<BaseUrl>,
    /// Minimum number of reports of an aggregate.
    #[arg(long, value_name = "N", help_heading = HEADING, conflicts_with = "task", requires = "credential",
        value_parser = clap::value_parser!(u64).range(1..))]
    min_batch_size: Option<u64>,
    /// Also write the collector's file, in which schedule and presentation can be changed.
    #[arg(long, value_name = "FILE", requires = "credential")]
    write: Option<PathBuf>,
}

const HEADING: &str = "A task without a file, with --credential";

impl Args {
    /// Makes the collector's file if there is a credential, from the task's file or the stated parameters. Returns it with
    /// the path of the credential.
    pub fn collector_file(&self, file: Option<&TaskFile>) -> Result<Option<(TaskFile, PathBuf)>, Failure> {
        let Some((Credential { token, keypair }, path)) = self.credential.read()? else { return Ok(None) };
        let mut made = match file {
            Some(file) => TaskFile { leader: None, helper: None, ..file.clone() },
            None => TaskFile::public(self.parameters()?),
        };
        let (private_key, key) = (keypair.private_key().clone(), keypair.config().clone());
        made.collector = Some(CollectorPart { since: None, token, previous_token: None, private_key, key });
        made.schedule.get_or_insert_with(|| made.task.default_schedule());
        made.check().map_err(|why| Failure::new(why).context(path.display()))?;
        if let Some(written) = &self.write {
            made.write(written)?;
        }
        Ok(Some((made, path)))
    }

    fn parameters(&self) -> Result<Parameters, Failure> {
        let missing = |what: &str| Failure::usage(format!("{what} is required without a task file"));
        let mut public = self.credential.stated.clone().parameters()?;
        public.helper_url = self.helper.clone().ok_or_else(|| missing("--helper"))?.into_string();
        public.min_batch_size = self.min_batch_size.ok_or_else(|| missing("--min-batch-size"))?;
        Ok(Parameters::of(public))
    }
}
