//! Peers whose tasks are set up in-band, each in its own file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, Seconds, commented::commented};
use dapbox_protocol::{
    hpke,
    model::{
        BaseUrl, Duration, HpkeConfig, Role, Secret, TokenHash, base_url,
        secret::token,
        taskprov::{PeerAggregator, PeerCredentials, PeerName, VERIFY_KEY_INIT_BYTES},
    },
};
use dapbox_support::files;

/// In-band provisioning of tasks (draft-wang-ppm-dap-taskprov). Disabled without peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Taskprov {
    /// The files of the peers.
    pub peers: Vec<PathBuf>,
    /// The most tasks of one peer; default 1000. At a leader, any client can set up a task with a report. New tasks
    /// replace tasks that were never used.
    pub max_tasks: u64,
}

impl Default for Taskprov {
    fn default() -> Self {
        Self { peers: Vec::new(), max_tasks: 1000 }
    }
}

/// Requires `public_url` with peers: it tells our tasks from those of other servers.
pub(super) fn check_options(config: &Config) -> Result<(), String> {
    if !config.taskprov.peers.is_empty() && config.public_url.is_empty() {
        return Err("taskprov.peers needs public_url, which identifies the tasks of this server: set it".to_owned());
    }
    Ok(())
}

/// The file of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerFile {
    /// The role of the peer.
    pub role: PeerRole,
    /// Its base URL, as in task configurations.
    #[serde(deserialize_with = "base_url::deserialize")]
    pub endpoint: String,
    /// The secret that verification keys of tasks are derived from.
    pub verify_key_init: Secret,
    /// For a leader: the hashes of the tokens that it may present to us.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leader_token_hashes: Vec<TokenHash>,
    /// For a helper: the tokens that we present to it, in order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helper_tokens: Vec<PresentedToken>,
    /// For a helper: the hashes of the tokens that the collector may present to us.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collector_token_hashes: Vec<TokenHash>,
    /// How long reports are kept, instead of `provisioning.report_expiry_age`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_expiry_age: Option<Seconds>,
    /// A minimum batch size above `provisioning.min_batch_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_batch_size: Option<u64>,
    /// The HPKE key that aggregate shares are sealed to.
    pub collector_key: HpkeConfig,
}

/// A token in plain text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresentedToken(#[serde(with = "token")] pub Secret);

/// The role of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerRole {
    /// The peer leads, and this server helps.
    Leader,
    /// The peer helps, and this server leads.
    Helper,
}

/// Reads the files of all peers.
pub fn read_peers(paths: &[PathBuf]) -> Result<Vec<PeerAggregator>, String> {
    let mut peers: Vec<PeerAggregator> = Vec::new();
    for path in paths {
        let peer = read_peer(path)?;
        if peers.iter().any(|known| peer.name().matches(known)) {
            let PeerName { endpoint, role } = peer.name();
            return Err(format!("{}: another file already describes the {role} {endpoint}", path.display()));
        }
        peers.push(peer);
    }
    Ok(peers)
}

/// Reads the file of a peer.
pub fn read_peer(path: &Path) -> Result<PeerAggregator, String> {
    let of_file = |why: String| format!("{}: {why}", path.display());
    let text = files::read_text(path).map_err(|error| of_file(error.to_string()))?;
    let file: PeerFile = toml::from_str(&text).map_err(|error| of_file(describe(&error, &text)))?;
    file.peer().map_err(of_file)
}

/// Describes an error without the line of text, which may hold a secret.
fn describe(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| 1 + before.matches('\n').count());
    line.map_or_else(|| error.message().to_owned(), |line| format!("line {line}: {}", error.message()))
}

impl PeerFile {
    /// Converts the file into a peer and validates it.
    pub fn peer(self) -> Result<PeerAggregator, String> {
        let (of_leader, of_helper) = (
            !self.leader_token_hashes.is_empty(),
            [!self.helper_tokens.is_empty(), !self.collector_token_hashes.is_empty()],
        );
        let side = match self.role {
            PeerRole::Leader if of_leader && of_helper == [false; 2] => {
                PeerCredentials::Leader { tokens: self.leader_token_hashes }
            }
            PeerRole::Leader => {
                return Err("the file of a leader must have leader_token_hashes and no other tokens".to_owned());
            }
            PeerRole::Helper if !of_leader && of_helper == [true; 2] => PeerCredentials::Helper {
                tokens: self.helper_tokens.into_iter().map(|PresentedToken(token)| token).collect(),
                collector_tokens: self.collector_token_hashes,
            },
            PeerRole::Helper => {
                return Err("the file of a helper must have helper_tokens and collector_token_hashes and no other \
                            tokens"
                    .to_owned());
            }
        };
        let peer = PeerAggregator {
            endpoint: self.endpoint,
            verify_key_init: self.verify_key_init,
            collector_hpke_config: self.collector_key,
            report_expiry_age: self.report_expiry_age.map(|age| Duration(age.as_secs())),
            min_batch_size: self.min_batch_size,
            side,
        };
        check(&peer)?;
        Ok(peer)
    }

    /// Formats the file with comments.
    pub fn to_text(&self) -> Result<String, String> {
        let toml = toml::to_string(self).map_err(|error| error.to_string())?;
        Ok(commented(&toml, heading(self.role), &COMMENTS))
    }
}

/// Validates a peer of any origin.
pub fn check(peer: &PeerAggregator) -> Result<(), String> {
    match peer.endpoint.parse::<BaseUrl>() {
        Ok(url) if url.as_str() == peer.endpoint => {}
        Ok(_) => return Err(format!("the endpoint {:?} must not have surrounding blanks", peer.endpoint)),
        Err(why) => return Err(format!("the endpoint: {why}")),
    }
    if peer.verify_key_init.expose().len() != VERIFY_KEY_INIT_BYTES {
        return Err(format!("verify_key_init must be {VERIFY_KEY_INIT_BYTES} bytes as unpadded base64url"));
    }
    if !hpke::is_supported(&peer.collector_hpke_config) {
        return Err("the collector's key is invalid or has an unsupported algorithm".to_owned());
    }
    Ok(())
}

fn heading(role: PeerRole) -> &'static [&'static str] {
    match role {
        PeerRole::Leader => &[
            "A leader whose tasks are set up in-band, for its helper's operator. SECRET.",
            "Name this file in the helper's appliance.toml: [taskprov] peers",
        ],
        PeerRole::Helper => &[
            "A helper of tasks that are set up in-band, for its leader's operator. SECRET.",
            "Name this file in the leader's appliance.toml: [taskprov] peers",
        ],
    }
}

const COMMENTS: [(&str, &str); 8] = [
    ("endpoint", "The base URL of the peer, as in task configurations."),
    ("verify_key_init", "SECRET. The secret that verification keys are derived from: the same in both files."),
    ("leader_token_hashes", "SHA-256 of the tokens that the leader presents to the helper."),
    ("helper_tokens", "SECRET. The tokens that the leader presents to the helper, in order of preference."),
    ("collector_token_hashes", "SHA-256 of the tokens that the collector presents to the leader."),
    ("report_expiry_age", "Reports older than this are rejected and deleted."),
    ("min_batch_size", "Tasks with a smaller minimum batch size are rejected."),
    ("[collector_key]", "The public key that aggregates are sealed to (numbers as in RFC 9180)."),
];

/// For messages.
impl From<PeerRole> for Role {
    fn from(role: PeerRole) -> Self {
        match role {
            PeerRole::Leader => Self::Leader,
            PeerRole::Helper => Self::Helper,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::hpke::{Keypair, Suite};

    fn helper() -> PeerFile {
        PeerFile {
            role: PeerRole::Helper,
            endpoint: "https://b.example/dap-09/".to_owned(),
            verify_key_init: Secret::random(VERIFY_KEY_INIT_BYTES),
            leader_token_hashes: Vec::new(),
            helper_tokens: ["new", "old"].map(|token| PresentedToken(Secret::token(token).unwrap())).to_vec(),
            collector_token_hashes: vec![TokenHash::of(b"collector")],
            report_expiry_age: Some(Seconds::new(86_400)),
            min_batch_size: Some(500),
            collector_key: Keypair::generate(3, Suite::DEFAULT).unwrap().config().clone(),
        }
    }

    #[test]
    fn peer_file_round_trips() {
        let file = helper();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer.toml");
        std::fs::write(&path, file.to_text().unwrap()).unwrap();
        assert_eq!(read_peer(&path), file.peer());
        assert!(read_peers(&[path.clone(), path]).unwrap_err().contains("already"));
    }

    #[test]
    fn rejects_invalid_peer_file_without_showing_secrets() {
        type Spoil = fn(&mut PeerFile);
        let cases: [(&str, Spoil); 5] = [
            ("helper_tokens", |file| file.helper_tokens.clear()),
            ("leader_token_hashes", |file| file.role = PeerRole::Leader),
            ("verify_key_init", |file| file.verify_key_init = Secret::random(16)),
            ("endpoint", |file| file.endpoint = "b.example".to_owned()),
            ("collector's key", |file| file.collector_key.public_key = vec![0; 32]),
        ];
        for (what, spoil) in cases {
            let mut file = helper();
            spoil(&mut file);
            assert!(file.peer().unwrap_err().contains(what), "{what}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer.toml");
        std::fs::write(&path, "role = \"leader\"\nverify_key_init = \"secret\" oops").unwrap();
        let error = read_peer(&path).unwrap_err();
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        for token in ["", "not one"] {
            std::fs::write(&path, helper().to_text().unwrap().replace("\"old\"", &format!("{token:?}"))).unwrap();
            let error = read_peer(&path).unwrap_err();
            assert!(error.contains("invalid token") && !error.contains("not one"), "{error}");
        }
    }
}
