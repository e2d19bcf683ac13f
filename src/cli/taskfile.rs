//! Task files: one for each party of a task, with what that party needs and no other party's secrets.
//!
//! All of them have the same `[task]`, which holds nothing secret; comparing these is how two organisations make sure
//! that they mean the same task. Beside it stands one table that is named after the party (none for the clients).

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use serde::{Deserialize, Serialize};

use super::{Failure, calendar};
use crate::{
    collector::CollectorTask,
    config::Seconds,
    hpke::{Keypair, Suite},
    model::{
        BatchMode, Duration, HpkeConfig, Party, Revision, Role, Secret, Task, TaskId, TaskParameters, Time, TokenHash,
        VdafConfig,
    },
    vdaf,
};

/// How many aggregation parameters a batch may be queried with: the VDAFs that we have know only one.
const MAX_BATCH_QUERY_COUNT: u64 = 1;

/// One party's file. Which party's it is, is said by the table that is there; the clients' has only `[task]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
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
    /// Base URL of the leader.
    pub leader_url: String,
    /// Base URL of the helper.
    pub helper_url: String,
    /// No aggregate of fewer reports is given out.
    pub min_batch_size: u64,
    /// Times are rounded down to a multiple of this.
    pub time_precision: Seconds,
    /// Reports after this are refused.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant")]
    pub expires: Option<Time>,
    /// Reports older than this are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_expiry_age: Option<Seconds>,
    /// How reports are put into batches.
    pub batch: BatchMode,
    /// What is measured.
    pub vdaf: VdafConfig,
}

/// What only the leader knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaderPart {
    /// The key that leader and helper share to verify reports.
    pub verify_key: Secret,
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
    /// The hash of the token that the leader presents to the helper.
    pub leader_token_hash: TokenHash,
    /// The key that aggregate shares are sealed to.
    pub collector_key: HpkeConfig,
}

/// What only the collector knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectorPart {
    /// Before this nothing was measured: where a collection begins that does not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant")]
    pub since: Option<Time>,
    /// The token that the collector presents to the leader.
    #[serde(with = "token")]
    pub token: Secret,
    /// The key that opens aggregate shares.
    pub private_key: Secret,
    /// The key that aggregate shares are sealed to.
    pub key: HpkeConfig,
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

impl TaskFiles {
    /// Draws all keys and tokens of a new task.
    pub fn generate(task: Parameters) -> Result<Self, Failure> {
        let preparer = vdaf::preparer(task.revision, &task.vdaf).map_err(Failure::usage)?;
        let verify_key = Secret::random(preparer.verify_key_length());
        let (helper_token, token) = (Secret::random_token(), Secret::random_token());
        let keypair = Keypair::generate(1, Suite::DEFAULT)?;
        let key = keypair.config().clone();
        let client = TaskFile { task: task.clone(), leader: None, helper: None, collector: None };
        let leader = LeaderPart {
            verify_key: verify_key.clone(),
            helper_token: helper_token.clone(),
            collector_token_hash: TokenHash::of(token.expose()),
            collector_key: key.clone(),
        };
        let helper = HelperPart {
            verify_key,
            leader_token_hash: TokenHash::of(helper_token.expose()),
            collector_key: key.clone(),
        };
        // One unit of time earlier than now: the clocks of clients may be slow.
        let unit = Duration(task.time_precision.as_secs());
        let since = Some(Time::now().truncate(unit).saturating_sub(unit));
        let collector = CollectorPart { since, token, private_key: keypair.private_key().clone(), key };
        Ok(Self {
            leader: TaskFile { leader: Some(leader), ..client.clone() },
            helper: TaskFile { helper: Some(helper), ..client.clone() },
            collector: TaskFile { collector: Some(collector), ..client.clone() },
            client,
        })
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
        let text = std::fs::read_to_string(path).map_err(|e| Failure::new(e).context(path.display()))?;
        let file: Self =
            toml::from_str(&text).map_err(|e| Failure::new(e.to_string().trim_end()).context(path.display()))?;
        let parts = [file.leader.is_some(), file.helper.is_some(), file.collector.is_some()];
        if parts.into_iter().filter(|is_there| *is_there).count() > 1 {
            return Err(Failure::new(format!("{}: has the secrets of more than one party", path.display())));
        }
        Ok(file)
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
        let (verify_key, key, party) = match (&self.leader, &self.helper) {
            (Some(LeaderPart { verify_key, helper_token, collector_token_hash, collector_key }), _) => {
                let party =
                    Party::Leader { helper_token: helper_token.clone(), collector_token: *collector_token_hash };
                (verify_key, collector_key, party)
            }
            (_, Some(HelperPart { verify_key, leader_token_hash, collector_key })) => {
                (verify_key, collector_key, Party::Helper { leader_token: *leader_token_hash })
            }
            _ => return None,
        };
        Some(Task {
            public: self.parameters(),
            verify_key: verify_key.clone(),
            verify_key_id: 0,
            max_batch_query_count: MAX_BATCH_QUERY_COUNT,
            report_expiry_age: self.task.report_expiry_age.map(|age| Duration(age.as_secs())),
            collector_hpke_config: key.clone(),
            party,
        })
    }

    /// What all parties of the task know, as its clients need it. Any party's file will do.
    pub fn parameters(&self) -> TaskParameters {
        let task = self.task.clone();
        TaskParameters {
            id: task.id,
            revision: task.revision,
            info: String::new(),
            leader_url: task.leader_url,
            helper_url: task.helper_url,
            batch_mode: task.batch,
            vdaf: task.vdaf,
            min_batch_size: task.min_batch_size,
            time_precision: Duration(task.time_precision.as_secs()),
            task_expiration: task.expires,
            task_interval: None,
        }
    }

    /// The task, for its collector, with the key that opens aggregate shares; an error if the file is not for it.
    pub fn collector_task(&self) -> Result<(CollectorTask, Keypair), Failure> {
        let Some(CollectorPart { token, private_key, key, .. }) = &self.collector else {
            return Err(Failure::usage("this is not the collector's file; 'dapbox task new' calls it collector.toml"));
        };
        let keypair = Keypair::from_parts(key.clone(), private_key.clone())?;
        Ok((CollectorTask { public: self.parameters(), token: token.clone() }, keypair))
    }

    /// The file's text, with comments.
    fn to_text(&self) -> std::io::Result<String> {
        let toml = toml::to_string(self).map_err(std::io::Error::other)?;
        let mut text = String::new();
        for line in heading(self.role()) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push('\n');
        for line in toml.lines() {
            let key = line.split(" =").next().unwrap_or_default();
            if let Some((_, comment)) = COMMENTS.iter().find(|(known, _)| *known == key) {
                text.push_str(&format!("# {comment}\n"));
            }
            text.push_str(line);
            text.push('\n');
        }
        Ok(text)
    }
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
const COMMENTS: [(&str, &str); 17] = [
    ("[task]", "The same in all four files. Compare it with the other parties': a task never changes."),
    ("min_batch_size", "No aggregate of fewer reports is ever given out."),
    ("time_precision", "The times of reports are rounded down to a multiple of this."),
    ("expires", "Reports after this are refused."),
    ("report_expiry_age", "Reports older than this are refused, and what is known of them may be forgotten."),
    ("[task.batch]", "How reports are put into batches."),
    ("[task.vdaf]", "What is measured."),
    ("verify_key", "SECRET. Leader and helper have the same; nobody else may know it."),
    ("helper_token", "SECRET. What the leader presents to the helper."),
    ("collector_token_hash", "SHA-256 of what the collector presents to the leader."),
    ("leader_token_hash", "SHA-256 of what the leader presents to the helper."),
    ("since", "Nothing was measured before: where a collection begins that does not say otherwise."),
    ("token", "SECRET. What the collector presents to the leader."),
    ("private_key", "SECRET. Opens the aggregates. Without it they are lost: keep a copy."),
    ("[leader.collector_key]", "The public key that aggregates are sealed to (numbers as in RFC 9180)."),
    ("[helper.collector_key]", "The public key that aggregates are sealed to (numbers as in RFC 9180)."),
    ("[collector.key]", "The public key that aggregates are sealed to (numbers as in RFC 9180)."),
];

/// An instant as text.
mod instant {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Time, calendar};

    pub fn serialize<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.serialize_str(&calendar::show(*time)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Time>, D::Error> {
        calendar::parse(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
    }
}

/// A token as the text that is sent.
mod token {
    use serde::{Deserialize, Deserializer, Serializer, de::Error, ser};

    use super::Secret;

    pub fn serialize<S: Serializer>(token: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(token.expose_text().ok_or_else(|| ser::Error::custom("a token must be text"))?)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        let text = String::deserialize(deserializer)?;
        // What RFC 6750 section 2.1 allows in an Authorization header.
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
        if text.is_empty() || !text.bytes().all(fits) {
            return Err(D::Error::custom("a token has letters, digits and any of -._~+/= only"));
        }
        Ok(Secret::new(text.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files() -> TaskFiles {
        TaskFiles::generate(Parameters {
            id: TaskId::random(),
            revision: Revision::Dap09,
            leader_url: "https://leader.example/dap-09/".to_owned(),
            helper_url: "https://helper.example/dap-09/".to_owned(),
            min_batch_size: 100,
            time_precision: Seconds::new(3600),
            expires: Some(Time(1_900_000_000)),
            report_expiry_age: Some(Seconds::new(86_400)),
            batch: BatchMode::FixedSize { max_batch_size: Some(200) },
            vdaf: VdafConfig::Prio3Histogram { length: 10, chunk_length: 4 },
        })
        .unwrap()
    }

    #[test]
    fn files_read_back_are_private_and_are_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let files = files();
        files.write(dir.path()).unwrap();
        for (name, file) in files.named() {
            let path = dir.path().join(name);
            assert_eq!(TaskFile::read(&path).unwrap(), *file, "{name}");
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if name == "client.toml" { 0o644 } else { 0o600 }, "{name}");
        }
        assert!(files.write(dir.path()).is_err());
        assert!(files.leader.write(&dir.path().join("leader.toml")).is_err());
    }

    #[test]
    fn leader_and_helper_get_the_same_task_and_matching_tokens() {
        let files = files();
        let leader = files.leader.aggregator_task().unwrap();
        let helper = files.helper.aggregator_task().unwrap();
        assert_eq!(Task { party: helper.party.clone(), ..leader.clone() }, helper);
        let (collector, keypair) = files.collector.collector_task().unwrap();
        assert_eq!(*keypair.config(), leader.collector_hpke_config);
        let (Party::Leader { helper_token, collector_token }, Party::Helper { leader_token }) =
            (leader.party, helper.party)
        else {
            panic!("wrong parties");
        };
        assert!(leader_token.matches(helper_token.expose()));
        assert!(collector_token.matches(collector.token.expose()));
        assert_eq!(leader.public.time_precision, Duration(3600));
        assert_eq!(leader.public.task_expiration, Some(Time(1_900_000_000)));
    }

    #[test]
    fn nobody_gets_another_partys_secrets() {
        let files = files();
        let text = |file: &TaskFile| file.to_text().unwrap();
        let verify_key = toml::Value::try_from(&files.helper.helper.as_ref().unwrap().verify_key).unwrap().to_string();
        let collector = files.collector.collector.as_ref().unwrap();
        let token = collector.token.expose_text().unwrap();
        let private_key = toml::Value::try_from(&collector.private_key).unwrap().to_string();
        let helper_token = files.leader.leader.as_ref().unwrap().helper_token.expose_text().unwrap();
        let holders = |secret: &str| files.named().map(|(_, file)| text(file).contains(secret));
        assert_eq!(holders(&verify_key), [true, true, false, false]);
        assert_eq!(holders(helper_token), [true, false, false, false]);
        assert_eq!(holders(token), [false, false, false, true]);
        assert_eq!(holders(&private_key), [false, false, false, true]);
        assert!(files.client.aggregator_task().is_none() && files.collector.aggregator_task().is_none());
        assert!(files.leader.collector_task().is_err());
    }

    #[test]
    fn every_key_that_is_not_plain_is_explained() {
        for (_, file) in files().named() {
            let text = file.to_text().unwrap();
            for (_, comment) in COMMENTS {
                let mut keys = COMMENTS.iter().filter(|(_, other)| *other == comment).map(|(key, _)| *key);
                let has_key = keys.any(|key| text.lines().any(|line| line.split(" =").next() == Some(key)));
                assert_eq!(has_key, text.contains(comment), "{comment}");
            }
        }
    }

    #[test]
    fn unknown_keys_bad_values_and_mixed_files_are_refused_with_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let good = files().helper.to_text().unwrap();
        let mixed = format!(
            "{good}\n{}",
            files()
                .collector
                .to_text()
                .unwrap()
                .split("[collector]")
                .nth(1)
                .map(|t| format!("[collector]{t}"))
                .unwrap()
        );
        for (text, word) in [
            (good.replace("min_batch_size", "min_batchsize"), "min_batchsize"),
            (good.replace("2030-03-17T17:46:40Z", "soon"), "not a time"),
            (mixed, "more than one party"),
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = TaskFile::read(&path).unwrap_err();
            assert!(failure.message.contains(word) && failure.message.contains("x.toml"), "{}", failure.message);
        }
    }
}
