//! The files of a new task, with fresh keys and tokens.

use std::path::Path;

use super::{CollectorPart, HelperPart, LeaderPart, Parameters, TaskFile};
use crate::{
    cli::failure::Failure,
    hpke::{Keypair, Suite},
    model::{BatchMode, Duration, Secret, TokenHash},
    results::Schedule,
    store::name::TaskName,
    support::clock,
    vdaf,
};

/// The source and id of the verification key of a new task.
#[derive(Clone, Debug, Default)]
pub struct VerifyKey {
    /// Secret from which, with the task id, the key is derived. Without it, the key is random.
    pub seed: Option<Secret>,
    /// Key id.
    pub id: u8,
}

/// The four files of a task.
#[derive(Clone, Debug)]
pub struct TaskFiles {
    /// For the leader's operator.
    pub leader: TaskFile,
    /// For the helper's operator.
    pub helper: TaskFile,
    /// For the clients.
    pub client: TaskFile,
    /// For the collector.
    pub collector: TaskFile,
}

impl TaskFiles {
    /// Generates the keys and tokens of a new task. Fails if the revision does not support its parameters.
    pub fn generate(task: Parameters, verify_key: &VerifyKey) -> Result<Self, Failure> {
        task.check().map_err(Failure::usage)?;
        let length = vdaf::preparer_for_task(&task.parameters()).map_err(Failure::usage)?.verify_key_length();
        let verify_key_id = verify_key.id;
        let verify_key = match &verify_key.seed {
            Some(seed) => vdaf::derive_verify_key(seed, &task.id, length),
            None => Secret::random(length),
        };
        let (helper_token, token) = (Secret::random_token(), Secret::random_token());
        let keypair = Keypair::generate(1, Suite::DEFAULT)?;
        let key = keypair.config().clone();
        let client = TaskFile::public(task.clone());
        let leader = LeaderPart {
            verify_key: verify_key.clone(),
            verify_key_id,
            helper_token: helper_token.clone(),
            collector_token_hash: TokenHash::of(token.expose()),
            collector_key: key.clone(),
        };
        let helper = HelperPart {
            verify_key,
            verify_key_id,
            leader_token_hash: TokenHash::of(helper_token.expose()),
            collector_key: key.clone(),
        };
        let since = Some(task.first_collection_start(clock::now()));
        let collector =
            CollectorPart { since, token, previous_token: None, private_key: keypair.private_key().clone(), key };
        Ok(Self {
            leader: TaskFile { leader: Some(leader), ..client.clone() },
            helper: TaskFile { helper: Some(helper), ..client.clone() },
            collector: TaskFile {
                collector: Some(collector),
                schedule: (task.batch == BatchMode::TimeInterval).then(|| new_schedule(&task)),
                ..client.clone()
            },
            client,
        })
    }

    /// Sets the name of the task in all files but the clients', which is public.
    pub fn with_name(mut self, name: Option<&TaskName>) -> Self {
        for file in [&mut self.leader, &mut self.helper, &mut self.collector] {
            file.name = name.cloned();
        }
        self
    }

    /// Returns the files with their names.
    pub fn by_file_name(&self) -> [(&'static str, &TaskFile); 4] {
        [
            ("leader.toml", &self.leader),
            ("helper.toml", &self.helper),
            ("client.toml", &self.client),
            ("collector.toml", &self.collector),
        ]
    }

    /// Writes the files to a directory, which is created if missing. Does not overwrite files.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(dir).map_err(|e| Failure::new(e).context(dir.display()))?;
        if let Some((name, _)) = self.by_file_name().iter().find(|(name, _)| dir.join(name).exists()) {
            let file = dir.join(name);
            return Err(Failure::new(format!("{} already exists (hint: choose another directory)", file.display())));
        }
        self.by_file_name().iter().try_for_each(|(name, file)| file.write(&dir.join(name)))
    }
}

/// The schedule of a new time-interval task, from now on. Other batches need none: each is collected when it is ready.
fn new_schedule(task: &Parameters) -> Schedule {
    let precision = Duration(task.time_precision.as_secs());
    let start = task.starts.unwrap_or_else(|| clock::now().truncate(precision));
    Schedule { start: Some(start), ..task.default_schedule() }
}
