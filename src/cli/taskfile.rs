//! Task files: one for each party of a task, with the secrets of that party only.
//!
//! All files have the same `[task]` table, which contains no secrets: two organisations compare it to make sure that they
//! mean the same task. A second table is named after the party; the clients' file has none.

mod comments;
mod generate;
mod optional;

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::{
    comments::{COMMENTS, heading},
    optional::{instant, optional_token},
};
use super::Failure;
use crate::{
    aggregator::tasks::check_urls,
    client::Client,
    collector::CollectorTask,
    config::{Seconds, commented},
    hpke::Keypair,
    model::{
        BatchMode, Duration, Epsilon, HpkeConfig, Interval, Party, Revision, Role, Secret, Task, TaskId,
        TaskParameters, Time, TokenHash, VdafConfig, base_url,
        secret::{base64url, token},
    },
    peer::{Peer, RetryPolicy},
    results::{CollectorSettings, Presentation, Schedule, Unit, Webhook},
    store::{CollectorRecord, name::TaskName},
    support::files,
    wire,
};

pub use generate::{TaskFiles, VerifyKey};

/// Maximum number of time units before the creation of a task at which the first collection starts.
pub const MAX_UNITS_BEFORE: u64 = 1_000;
/// Maximum number of queries per batch: all supported VDAFs have a single aggregation parameter.
const MAX_BATCH_QUERY_COUNT: u64 = 1;

/// The file of one party. At most one of the parties' tables is present; the clients' file has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// Local name of the task, which is not sent to other parties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<TaskName>,
    /// The parameters that all parties know.
    pub task: Parameters,
    /// The leader's secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderPart>,
    /// The helper's secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<HelperPart>,
    /// The collector's secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector: Option<CollectorPart>,
    /// When a server that is the task's collector collects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// How the results are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presentation: Option<Presentation>,
    /// Who is notified of results.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webhook: Vec<Webhook>,
}

/// The parameters that all parties of a task know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Task id.
    pub id: TaskId,
    /// Protocol revision.
    pub revision: Revision,
    /// Text that distinguishes tasks with the same parameters; empty in DAP-09.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub info: String,
    /// Base URL of the leader.
    #[serde(deserialize_with = "base_url::deserialize")]
    pub leader_url: String,
    /// Base URL of the helper.
    #[serde(deserialize_with = "base_url::deserialize")]
    pub helper_url: String,
    /// Minimum number of reports of an aggregate.
    pub min_batch_size: u64,
    /// Unit to which report times are rounded down.
    pub time_precision: Seconds,
    /// Start of the task. Requires `expires`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant")]
    pub starts: Option<Time>,
    /// End of the task.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant")]
    pub expires: Option<Time>,
    /// Age after which reports are refused and deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_expiry_age: Option<Seconds>,
    /// Epsilon of the noise that each aggregator adds to its aggregate shares, as `"0.5"` or `"3/2"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Epsilon>,
    /// The encoded configuration of an in-band task, sent with every request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
    /// Batch mode.
    pub batch: BatchMode,
    /// VDAF.
    pub vdaf: VdafConfig,
}

/// The encoded configuration of an in-band task, as base64url.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration(#[serde(with = "base64url")] pub Vec<u8>);

/// The leader's secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaderPart {
    /// The VDAF verification key, shared by leader and helper.
    pub verify_key: Secret,
    /// Id of the verification key, in revisions that have one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub verify_key_id: u8,
    /// The token that the leader presents to the helper.
    #[serde(with = "token")]
    pub helper_token: Secret,
    /// The hash of the token that the collector presents to the leader.
    pub collector_token_hash: TokenHash,
    /// The HPKE key to which aggregate shares are encrypted.
    pub collector_key: HpkeConfig,
}

/// The helper's secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HelperPart {
    /// The VDAF verification key, shared by leader and helper.
    pub verify_key: Secret,
    /// Id of the verification key, in revisions that have one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub verify_key_id: u8,
    /// The hash of the token that the leader presents to the helper.
    pub leader_token_hash: TokenHash,
    /// The HPKE key to which aggregate shares are encrypted.
    pub collector_key: HpkeConfig,
}

/// The collector's secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectorPart {
    /// Default start of the first collection.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant")]
    pub since: Option<Time>,
    /// The token that the collector presents to the leader.
    #[serde(with = "token")]
    pub token: Secret,
    /// The previous token, tried if the leader refuses the new one.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_token")]
    pub previous_token: Option<Secret>,
    /// The private key that decrypts aggregate shares.
    pub private_key: Secret,
    /// The HPKE key to which aggregate shares are encrypted.
    pub key: HpkeConfig,
}

impl Parameters {
    /// The parameters of a task with an unknown expiry age that is not in-band.
    pub fn of(task: TaskParameters) -> Self {
        Self {
            id: task.id,
            revision: task.revision,
            info: task.info,
            leader_url: task.leader_url,
            helper_url: task.helper_url,
            min_batch_size: task.min_batch_size,
            time_precision: Seconds::new(task.time_precision.0),
            starts: task.task_interval.map(|interval| interval.start()),
            expires: task.task_interval.map(|interval| interval.end()).or(task.task_expiration),
            report_expiry_age: None,
            noise: task.noise,
            configuration: None,
            batch: task.batch_mode,
            vdaf: task.vdaf,
        }
    }

    /// Returns the parameters for the client, the collector and the aggregators.
    pub fn parameters(&self) -> TaskParameters {
        let task = self.clone();
        let task_interval = task.starts.and_then(|starts| {
            let length = task.expires?.0.checked_sub(starts.0)?;
            Interval::new(starts, Duration(length))
        });
        TaskParameters {
            id: task.id,
            revision: task.revision,
            info: task.info,
            leader_url: task.leader_url,
            helper_url: task.helper_url,
            batch_mode: task.batch,
            vdaf: task.vdaf,
            min_batch_size: task.min_batch_size,
            time_precision: Duration(task.time_precision.as_secs()),
            task_expiration: task.expires.filter(|_| task_interval.is_none()),
            task_interval,
            noise: task.noise,
        }
    }

    /// Returns the start of the first collection of a new task. Clients may upload earlier measurements that the aggregators
    /// accept. Limited, because other aggregators create an entry per time unit.
    pub fn first_collection_start(&self, now: Time) -> Time {
        let unit = Duration(self.time_precision.as_secs());
        let most = Duration(unit.0.saturating_mul(MAX_UNITS_BEFORE));
        let age = self.report_expiry_age.map_or(most, |age| Duration(age.as_secs().clamp(unit.0, most.0)));
        self.starts.unwrap_or_else(|| now.saturating_sub(age).truncate(unit))
    }

    /// Returns the schedule of a new task: days, or the shortest multiple of longer or odd time precisions.
    pub fn default_schedule(&self) -> Schedule {
        let (precision, day) = (self.time_precision.as_secs(), 86_400);
        let every = match day % precision.max(1) {
            0 => Unit::Day,
            _ => Unit::Span(Seconds::new(precision)),
        };
        Schedule { every, ..Schedule::default() }
    }

    /// Checks that the protocol revision supports the parameters.
    fn check(&self) -> Result<(), String> {
        match (self.starts, self.expires) {
            (Some(_), None) => return Err("the task has a start but no end (hint: set expires)".to_owned()),
            (Some(starts), Some(expires)) if expires <= starts => {
                return Err("the task expires before it starts".to_owned());
            }
            _ => {}
        }
        check_urls(&self.parameters()).map_err(|why| format!("the task's {why}"))?;
        wire::for_revision(self.revision).check_task(&self.parameters()).map_err(|why| format!("the task's {why}"))?;
        let Some(Configuration(bytes)) = &self.configuration else { return Ok(()) };
        let taskprov =
            wire::taskprov::for_revision(self.revision).ok_or("the revision does not support in-band tasks")?;
        match taskprov.decode(&Bytes::copy_from_slice(bytes)) {
            Ok(says) if says.public == self.parameters() => Ok(()),
            Ok(_) => Err("the parameters differ from the task's encoded configuration".to_owned()),
            Err(why) => Err(why.to_string()),
        }
    }
}

impl TaskFile {
    /// The file of the clients, without secrets.
    pub fn public(task: Parameters) -> Self {
        Self {
            name: None,
            task,
            leader: None,
            helper: None,
            collector: None,
            schedule: None,
            presentation: None,
            webhook: Vec::new(),
        }
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = files::read_text(path).map_err(|e| Failure::new(e).context(path.display()))?;
        let file: Self =
            toml::from_str(&text).map_err(|e| Failure::new(e.to_string().trim_end()).context(path.display()))?;
        let parts = [file.leader.is_some(), file.helper.is_some(), file.collector.is_some()];
        if parts.into_iter().filter(|is_there| *is_there).count() > 1 {
            return Err(Failure::new(format!("{}: contains the secrets of more than one party", path.display())));
        }
        file.check().map_err(|why| Failure::new(why).context(path.display()))?;
        Ok(file)
    }

    /// Checks that the protocol revision supports the parameters, and that the collector's settings fit them.
    pub fn check(&self) -> Result<(), String> {
        self.task.check()?;
        let has_settings = self.schedule.is_some() || self.presentation.is_some() || !self.webhook.is_empty();
        if has_settings && self.collector.is_none() {
            return Err("only a collector's file has the tables schedule, presentation and webhook".to_owned());
        }
        let task = self.parameters();
        self.schedule.iter().try_for_each(|schedule| schedule.check(&task))?;
        self.presentation
            .iter()
            .try_for_each(|shown| shown.check(&task.vdaf))
            .map_err(|why| format!("presentation: {why}"))
    }

    /// Creates a client of the task.
    pub fn client(&self, peer: Peer) -> Result<Client, Failure> {
        let client = Client::new(self.parameters(), peer, RetryPolicy::default())?;
        Ok(match &self.task.configuration {
            Some(Configuration(bytes)) => client.with_advertisement(bytes),
            None => client,
        })
    }

    /// Writes the file, readable by its owner only if it contains secrets. Does not overwrite a file.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let mode = if self.role() == Role::Client { 0o644 } else { 0o600 };
        let write = || {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
            file.write_all(self.to_text()?.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| Failure::new(e).context(path.display()))
    }

    /// Replaces the file atomically and durably.
    pub fn overwrite(&self, path: &Path) -> Result<(), Failure> {
        let new = path.with_extension("toml.new");
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Failure::new(e).context(new.display())),
            _ => {}
        }
        self.write(&new)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let replace = || {
            std::fs::rename(&new, path)?;
            // The leader may refuse the old token as soon as the new one is announced.
            std::fs::File::open(dir)?.sync_all()
        };
        replace().map_err(|e| Failure::new(e).context(path.display()))
    }

    /// Returns the party of the file.
    pub fn role(&self) -> Role {
        match (&self.leader, &self.helper, &self.collector) {
            (Some(_), ..) => Role::Leader,
            (_, Some(_), _) => Role::Helper,
            (.., Some(_)) => Role::Collector,
            _ => Role::Client,
        }
    }

    /// Returns the task for an aggregator; `None` if the file is not an aggregator's.
    pub fn aggregator_task(&self) -> Option<Task> {
        let (verify_key, verify_key_id, key, party) = match (&self.leader, &self.helper) {
            (Some(leader), _) => {
                let (helper_token, collector_token) = (leader.helper_token.clone(), leader.collector_token_hash);
                let party = Party::Leader { helper_token, collector_token };
                (&leader.verify_key, leader.verify_key_id, &leader.collector_key, party)
            }
            (_, Some(helper)) => {
                let party = Party::Helper { leader_token: helper.leader_token_hash };
                (&helper.verify_key, helper.verify_key_id, &helper.collector_key, party)
            }
            _ => return None,
        };
        Some(Task {
            public: self.parameters(),
            verify_key: verify_key.clone(),
            verify_key_id,
            max_batch_query_count: MAX_BATCH_QUERY_COUNT,
            report_expiry_age: self.task.report_expiry_age.map(|age| Duration(age.as_secs())),
            collector_hpke_config: key.clone(),
            party,
        })
    }

    /// Returns the parameters that all parties know.
    pub fn parameters(&self) -> TaskParameters {
        self.task.parameters()
    }

    /// Returns the task for its collector, with the key that decrypts aggregate shares.
    pub fn collector_task(&self) -> Result<(CollectorTask, Keypair), Failure> {
        let Some(CollectorPart { token, previous_token, private_key, key, .. }) = &self.collector else {
            return Err(Failure::usage("not a collector's file (hint: use collector.toml from 'dapbox task new')"));
        };
        let keypair = Keypair::from_parts(key.clone(), private_key.clone())?;
        let (token, previous_token) = (token.clone(), previous_token.clone());
        Ok((CollectorTask { public: self.parameters(), token, previous_token }, keypair))
    }

    /// Returns the task for a server that collects it; `None` if the file is not a collector's.
    ///
    /// The first window begins at the start of the file's schedule, otherwise at its `since`, otherwise at `start`.
    pub fn collector_record(&self, start: Time) -> Option<CollectorRecord> {
        let CollectorPart { since, token, previous_token, private_key, key } = self.collector.clone()?;
        let schedule = self.schedule.clone().unwrap_or_else(|| self.task.default_schedule());
        Some(CollectorRecord {
            name: self.name.clone(),
            public: self.parameters(),
            token,
            previous_token,
            key,
            private_key,
            advertisement: self.task.configuration.clone().map(|Configuration(bytes)| bytes),
            settings: CollectorSettings {
                start: schedule.start.or(since).unwrap_or(start),
                retention: self.task.report_expiry_age.map(|age| Duration(age.as_secs())),
                schedule,
                presentation: self.presentation.clone().unwrap_or_default(),
                webhooks: self.webhook.clone(),
            },
            created: start,
        })
    }

    /// Serializes the file with comments.
    fn to_text(&self) -> std::io::Result<String> {
        let toml = toml::to_string(self).map_err(std::io::Error::other)?;
        Ok(commented(&toml, heading(self.role()), &COMMENTS))
    }
}

/// Omits zero from files, for serde.
fn is_zero(number: &u8) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
