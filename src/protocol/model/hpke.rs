//! HPKE configurations and ciphertexts of the protocol.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A public key with its algorithms (DAP-09 section 4.4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HpkeConfig {
    /// Identifies the key among those of its owner.
    pub id: u8,
    /// Key encapsulation mechanism, by its identifier in RFC 9180.
    pub kem_id: u16,
    /// Key derivation function, by its identifier in RFC 9180.
    pub kdf_id: u16,
    /// Authenticated encryption, by its identifier in RFC 9180.
    pub aead_id: u16,
    /// The public key as the KEM serialises it.
    #[serde(with = "crate::model::secret::base64url")]
    pub public_key: Vec<u8>,
}

/// A message sealed to an [`HpkeConfig`] (DAP-09 section 4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HpkeCiphertext {
    /// Configuration id of the recipient's key.
    pub config_id: u8,
    /// The encapsulated key.
    pub enc: Bytes,
    /// The ciphertext.
    pub payload: Bytes,
}

/// The life-cycle state of an HPKE key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Stored, not yet published.
    Pending,
    /// Published to clients.
    Active,
    /// No longer published. Reports that are sealed to it are still opened.
    Expired,
}

impl KeyState {
    /// The name of the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Expired => "expired",
        }
    }

    /// The event that ends the state, such as `replaced`.
    pub fn end_label(self) -> &'static str {
        match self {
            Self::Pending => "active",
            Self::Active => "replaced",
            Self::Expired => "deleted",
        }
    }
}
