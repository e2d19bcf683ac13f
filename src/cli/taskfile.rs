//! Task files: one for each party of a task, with what that party needs and no other party's secrets.
//!
//! All of them have the same `[task]`, which holds nothing secret; comparing these is how two organisations make sure
//! that they mean the same task. Beside it stands one table that is named after the party (none for the clients).

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Failure, timestamp};
use crate::{
    aggregator::tasks::check_urls,
    client::Client,
    collector::CollectorTask,
    config::{Seconds, commented},
    hpke::{Keypair, Suite},
    model::{
        BatchMode, Duration, Epsilon, HpkeConfig, Interval, Party, Revision, Role, Secret, Task, TaskId,
        TaskParameters, Time, TokenHash, VdafConfig, base_url,
        secret::{base64url, token},
    },
    peer::{Peer, RetryPolicy},
    store::name::TaskName,
    support::{clock, files},
    vdaf, wire,
};

/// How many units of time before a task was made the first collection begins at most.
pub const UNITS_BEFORE: u64 = 1_000;
/// How many aggregation parameters a batch may be queried with: the VDAFs that we have know only one.
const MAX_BATCH_QUERY_COUNT: u64 = 1;

/// One party's file. Which party's it is, is said by the table that is there; the clients' has only `[task]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// What the task is called locally by those who have this file; no party tells it another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<TaskName>,
    /// What all parties know.
    pub task: Parameters,
    /// What only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderPart>,
    /// What only the helper knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<HelperPart>,
    /// What only the collector knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector: Option<CollectorPart>,
}

/// What all parties of a task know and agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The task's id.
    pub id: TaskId,
    /// The protocol that all parties of the task speak.
    pub revision: Revision,
    /// Tells the task from others that are configured alike; empty where the protocol has no such text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub info: String,
    /// Base URL of the leader.
    #[serde(deserialize_with = "base_url::deserialize")]
    pub leader_url: String,
    /// Base URL of the helper.
    #[serde(deserialize_with = "base_url::deserialize")]
    pub helper_url: String,
    /// No aggregate of fewer reports is given out.
    pub min_batch_size: u64,
    /// Times are rounded down to a multiple of this.
    pub time_precision: Seconds,
    /// Reports before this are refused. Goes with `expires`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant")]
    pub starts: Option<Time>,
    /// Reports after this are refused.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant")]
    pub expires: Option<Time>,
    /// Reports older than this are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_expiry_age: Option<Seconds>,
    /// How much noise each aggregator adds to its share of every aggregate: the epsilon of differential privacy, as
    /// `"0.5"` or `"3/2"`. None is added without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Epsilon>,
    /// If the task is set up in-band: what goes with every request, and says all of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
    /// How reports are put into batches.
    pub batch: BatchMode,
    /// What is measured.
    pub vdaf: VdafConfig,
}

/// The bytes of the configuration of a task that is set up in-band, as base64url.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration(#[serde(with = "base64url")] pub Vec<u8>);

/// What only the leader knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaderPart {
    /// The key that leader and helper share to verify reports.
    pub verify_key: Secret,
    /// What leader and helper call that key, where the protocol names it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub verify_key_id: u8,
    /// The token that the leader presents to the helper.
    #[serde(with = "token")]
    pub helper_token: Secret,
    /// The hash of the token that the collector presents to the leader.
    pub collector_token_hash: TokenHash,
    /// The key that aggregate shares are sealed to.
    pub collector_key: HpkeConfig,
}

/// What only the helper knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HelperPart {
    /// The key that leader and helper share to verify reports.
    pub verify_key: Secret,
    /// What leader and helper call that key, where the protocol names it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub verify_key_id: u8,
    /// The hash of the token that the leader presents to the helper.
    pub leader_token_hash: TokenHash,
    /// The key that aggregate shares are sealed to.
    pub collector_key: HpkeConfig,
}

/// What only the collector knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectorPart {
    /// Where the first collection begins that does not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant")]
    pub since: Option<Time>,
    /// The token that the collector presents to the leader.
    #[serde(with = "token")]
    pub token: Secret,
    /// The one before, which is tried where the leader does not know the new one yet.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "old_token")]
    pub previous_token: Option<Secret>,
    /// The key that opens aggregate shares.
    pub private_key: Secret,
    /// The key that aggregate shares are sealed to.
    pub key: HpkeConfig,
}

/// Where the key comes from that leader and helper share to verify reports, and what they call it.
#[derive(Clone, Debug, Default)]
pub struct VerifyKey {
    /// A secret that it is derived from, together with the task's id; without one it is random.
    pub seed: Option<Secret>,
    /// Its number, where the protocol names it.
    pub id: u8,
}

/// The four files of a task.
#[derive(Clone, Debug)]
pub struct TaskFiles {
    /// For the leader's operator.
    pub leader: TaskFile,
    /// For the helper's operator.
    pub helper: TaskFile,
    /// For whoever builds the clients.
    pub client: TaskFile,
    /// For whoever reads the aggregates.
    pub collector: TaskFile,
}

impl Parameters {
    /// The same for everybody who does not read files.
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

    /// Where the first collection of a task that is made now begins. Clients may upload what they measured before, as long
    /// as the aggregators take it. Other aggregators make an entry for each unit of time, so there is a limit.
    pub fn first_collected(&self, now: Time) -> Time {
        let unit = Duration(self.time_precision.as_secs());
        let most = Duration(unit.0.saturating_mul(UNITS_BEFORE));
        let age = self.report_expiry_age.map_or(most, |age| Duration(age.as_secs().clamp(unit.0, most.0)));
        self.starts.unwrap_or_else(|| now.saturating_sub(age).truncate(unit))
    }

    /// Whether the task's protocol can express all of it; if not, what to change.
    fn check(&self) -> Result<(), String> {
        match (self.starts, self.expires) {
            (Some(_), None) => return Err("the task has a start and no end: say when it expires, too".to_owned()),
            (Some(starts), Some(expires)) if expires <= starts => {
                return Err("the task expires before it starts".to_owned());
            }
            _ => {}
        }
        check_urls(&self.parameters()).map_err(|why| format!("the task's {why}"))?;
        wire::for_revision(self.revision).check_task(&self.parameters()).map_err(|why| format!("the task's {why}"))?;
        let Some(Configuration(bytes)) = &self.configuration else { return Ok(()) };
        let taskprov = wire::taskprov::for_revision(self.revision).ok_or("the task cannot be set up in-band")?;
        match taskprov.decode(&Bytes::copy_from_slice(bytes)) {
            Ok(says) if says.public == self.parameters() => Ok(()),
            Ok(_) => Err("the task's configuration, which goes with every request, says something else".to_owned()),
            Err(why) => Err(why.to_string()),
        }
    }
}

impl TaskFiles {
    /// Draws all keys and tokens of a new task. Refuses one that its protocol cannot express.
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
        let client = TaskFile { name: None, task: task.clone(), leader: None, helper: None, collector: None };
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
        let since = Some(task.first_collected(clock::now()));
        let collector =
            CollectorPart { since, token, previous_token: None, private_key: keypair.private_key().clone(), key };
        Ok(Self {
            leader: TaskFile { leader: Some(leader), ..client.clone() },
            helper: TaskFile { helper: Some(helper), ..client.clone() },
            collector: TaskFile { collector: Some(collector), ..client.clone() },
            client,
        })
    }

    /// The same with a name for the task, in all files but the clients', which anybody may see.
    pub fn called(mut self, name: Option<&TaskName>) -> Self {
        for file in [&mut self.leader, &mut self.helper, &mut self.collector] {
            file.name = name.cloned();
        }
        self
    }

    /// The files with their names.
    pub fn named(&self) -> [(&'static str, &TaskFile); 4] {
        [
            ("leader.toml", &self.leader),
            ("helper.toml", &self.helper),
            ("client.toml", &self.client),
            ("collector.toml", &self.collector),
        ]
    }

    /// Writes the files to a directory, which is made if need be. Overwrites nothing.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(dir).map_err(|e| Failure::new(e).context(dir.display()))?;
        if let Some((name, _)) = self.named().iter().find(|(name, _)| dir.join(name).exists()) {
            let file = dir.join(name);
            return Err(Failure::new(format!(
                "{} is there already and is not overwritten; choose another directory",
                file.display()
            )));
        }
        self.named().iter().try_for_each(|(name, file)| file.write(&dir.join(name)))
    }
}

impl TaskFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = files::read_text(path).map_err(|e| Failure::new(e).context(path.display()))?;
        let file: Self =
            toml::from_str(&text).map_err(|e| Failure::new(e.to_string().trim_end()).context(path.display()))?;
        let parts = [file.leader.is_some(), file.helper.is_some(), file.collector.is_some()];
        if parts.into_iter().filter(|is_there| *is_there).count() > 1 {
            return Err(Failure::new(format!("{}: has the secrets of more than one party", path.display())));
        }
        file.check().map_err(|why| Failure::new(why).context(path.display()))?;
        Ok(file)
    }

    /// Whether the task's protocol can express all of it; if not, what to change.
    pub fn check(&self) -> Result<(), String> {
        self.task.check()
    }

    /// The client of the task.
    pub fn client(&self, peer: Peer) -> Result<Client, Failure> {
        let client = Client::new(self.parameters(), peer, RetryPolicy::default())?;
        Ok(match &self.task.configuration {
            Some(Configuration(bytes)) => client.with_advertisement(bytes),
            None => client,
        })
    }

    /// Writes the file, readable for its owner only if it holds a secret. Does not overwrite.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let mode = if self.role() == Role::Client { 0o644 } else { 0o600 };
        let write = || {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
            file.write_all(self.to_text()?.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| Failure::new(e).context(path.display()))
    }

    /// Writes the file in place of the one that is there, at once: it is the old one or the new one at any moment.
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
            // The leader may give the old token up as soon as we have said that there is a new one.
            std::fs::File::open(dir)?.sync_all()
        };
        replace().map_err(|e| Failure::new(e).context(path.display()))
    }

    /// Whose file it is.
    pub fn role(&self) -> Role {
        match (&self.leader, &self.helper, &self.collector) {
            (Some(_), ..) => Role::Leader,
            (_, Some(_), _) => Role::Helper,
            (.., Some(_)) => Role::Collector,
            _ => Role::Client,
        }
    }

    /// The task, for an aggregator; `None` if the file is not for one.
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

    /// What all parties of the task know, as its clients need it. Any party's file will do.
    pub fn parameters(&self) -> TaskParameters {
        self.task.parameters()
    }

    /// The task, for its collector, with the key that opens aggregate shares; an error if the file is not for it.
    pub fn collector_task(&self) -> Result<(CollectorTask, Keypair), Failure> {
        let Some(CollectorPart { token, previous_token, private_key, key, .. }) = &self.collector else {
            return Err(Failure::usage("this is not the collector's file; 'dapbox task new' calls it collector.toml"));
        };
        let keypair = Keypair::from_parts(key.clone(), private_key.clone())?;
        let (token, previous_token) = (token.clone(), previous_token.clone());
        Ok((CollectorTask { public: self.parameters(), token, previous_token }, keypair))
    }

    /// The file's text, with comments.
    fn to_text(&self) -> std::io::Result<String> {
        let toml = toml::to_string(self).map_err(std::io::Error::other)?;
        Ok(commented(&toml, heading(self.role()), &COMMENTS))
    }
}

/// For serde: what is left out of files.
fn is_zero(number: &u8) -> bool {
    *number == 0
}

/// What each party's file begins with.
fn heading(role: Role) -> &'static [&'static str] {
    match role {
        Role::Leader => &[
            "The leader's part of a DAP task. SECRET: for the leader's operator only.",
            "Add it to the leader: dapbox task add leader.toml",
        ],
        Role::Helper => &[
            "The helper's part of a DAP task. SECRET: for the helper's operator only.",
            "Add it to the helper: dapbox task add helper.toml",
        ],
        Role::Client => &[
            "The clients' part of a DAP task. Nothing in it is secret: give it to whoever measures.",
            "Upload: dapbox upload --task client.toml MEASUREMENT",
        ],
        Role::Collector => &[
            "The collector's part of a DAP task. SECRET: whoever has it can read all aggregates.",
            "Collect: dapbox collect --task collector.toml",
        ],
    }
}

/// What is said above keys and tables.
const COMMENTS: [(&str, &str); 25] = [
    ("name", "What the task is called here. Local: change it as you like, no other party learns it."),
    ("[task]", "The same in all four files. Compare it with the other parties': a task never changes."),
    ("info", "Tells the task from others that are configured alike. Every report is bound to it."),
    ("min_batch_size", "No aggregate of fewer reports is ever given out."),
    ("time_precision", "The times of reports are rounded down to a multiple of this."),
    ("starts", "Reports before this are refused."),
    ("expires", "Reports after this are refused."),
    (
        "report_expiry_age",
        "Reports older than this are refused and forgotten, with sums that were not collected by then.",
    ),
    ("noise", "Epsilon: each aggregator adds noise to its part of every aggregate, the more the smaller this is."),
    ("configuration", "The task is set up in-band: this goes with every request, and says what stands here."),
    ("[task.batch]", "How reports are put into batches."),
    ("batch_time_window_size", "A batch has reports of one such window of time only, in seconds."),
    ("[task.vdaf]", "What is measured."),
    ("verify_key", "SECRET. Leader and helper have the same; nobody else may know it."),
    ("verify_key_id", "What leader and helper call that key: the same number in both files."),
    ("helper_token", "SECRET. What the leader presents to the helper."),
    ("collector_token_hash", "SHA-256 of what the collector presents to the leader."),
    ("leader_token_hash", "SHA-256 of what the leader presents to the helper."),
    ("since", "Where the first collection begins, unless 'dapbox collect' has --since."),
    ("token", "SECRET. What the collector presents to the leader."),
    (
        "previous_token",
        "SECRET. The one before, tried where the leader does not take the new one yet. Delete it when the leader does.",
    ),
    ("private_key", "SECRET. Opens the aggregates. Without it they are lost: keep a copy."),
    ("[leader.collector_key]", "The public key that aggregates are sealed to (numbers as in RFC 9180)."),
    ("[helper.collector_key]", "The public key that aggregates are sealed to (numbers as in RFC 9180)."),
    ("[collector.key]", "The public key that aggregates are sealed to (numbers as in RFC 9180)."),
];

/// An instant as text.
mod instant {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Time, timestamp};

    pub fn serialize<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.serialize_str(&timestamp::show(*time)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Time>, D::Error> {
        timestamp::parse(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
    }
}

/// A token that need not be there.
mod old_token {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Secret, token};

    #[derive(Deserialize)]
    struct Token(#[serde(with = "token")] Secret);

    pub fn serialize<S: Serializer>(old: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
        match old {
            Some(old) => token::serialize(old, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
        Token::deserialize(deserializer).map(|token| Some(token.0))
    }
}

#[cfg(test)]
mod tests;
