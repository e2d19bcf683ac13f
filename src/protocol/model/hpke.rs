//! What the parties say to each other about HPKE keys.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A public key and the algorithms to use it with (DAP-09 section 4.4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HpkeConfig {
    /// The key's number within its owner's list.
    pub id: u8,
    /// Key encapsulation mechanism, by its number in RFC 9180.
    pub kem_id: u16,
    /// Key derivation function, by its number in RFC 9180.
    pub kdf_id: u16,
    /// Authenticated encryption, by its number in RFC 9180.
    pub aead_id: u16,
    /// The public key as the KEM serialises it.
    #[serde(with = "crate::model::secret::base64url")]
    pub public_key: Vec<u8>,
}

/// A message sealed to an [`HpkeConfig`] (DAP-09 section 4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HpkeCiphertext {
    /// The recipient's configuration id.
    pub config_id: u8,
    /// The encapsulated key.
    pub enc: Bytes,
    /// The ciphertext.
    pub payload: Bytes,
}

/// What an HPKE key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Stored, and not handed out yet.
    Pending,
    /// Handed out to clients.
    Active,
    /// Not handed out any more; reports that are sealed to it are still opened.
    Expired,
}

impl KeyState {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Expired => "expired",
        }
    }

    /// What happens when it ends: `replaced`.
    pub fn end_label(self) -> &'static str {
        match self {
            Self::Pending => "active",
            Self::Active => "replaced",
            Self::Expired => "deleted",
        }
    }
}
