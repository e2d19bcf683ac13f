//! Secret bytes that must not be logged, and hashes of tokens.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{RngCore, TryRngCore, rand_core::OsRng};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Secret bytes: a key or a token. `Debug` shows nothing, comparison takes constant time, and memory is wiped on drop.
///
/// In text formats such as task files, the bytes are unpadded base64url.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps secret bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Generates `len` random bytes with the operating system's generator.
    pub fn random(len: usize) -> Self {
        let mut bytes = vec![0; len];
        OsRng.unwrap_err().fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// Generates a bearer token: 128 random bits as base64url text.
    pub fn random_token() -> Self {
        Self(URL_SAFE_NO_PAD.encode(Self::random(16).expose()).into_bytes())
    }

    /// Parses a token of another party. Accepts the characters that RFC 6750 section 2.1 allows in an Authorization
    /// header.
    pub fn token(text: &str) -> Result<Self, InvalidToken> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
        if text.is_empty() || !text.bytes().all(fits) {
            return Err(InvalidToken);
        }
        Ok(Self(text.as_bytes().to_vec()))
    }

    /// The secret bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text; `None` if they are not UTF-8. Tokens always are.
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// The text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid token: only letters, digits and -._~+/= are allowed")]
pub struct InvalidToken;

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64url::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        base64url::deserialize(deserializer).map(Self)
    }
}

/// The SHA-256 hash of a token that a peer presents to this aggregator, which stores nothing else of it. Shown as
/// unpadded base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// The text is not the hash of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a hash of 32 bytes as unpadded base64url")]
pub struct InvalidTokenHash;

impl FromStr for TokenHash {
    type Err = InvalidTokenHash;

    fn from_str(text: &str) -> Result<Self, InvalidTokenHash> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidTokenHash)?;
        bytes.try_into().map(Self).map_err(|_| InvalidTokenHash)
    }
}

impl TryFrom<&[u8]> for TokenHash {
    type Error = InvalidTokenHash;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidTokenHash> {
        bytes.try_into().map(Self).map_err(|_| InvalidTokenHash)
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        base64url::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = base64url::deserialize(deserializer)?;
        bytes.try_into().map(Self).map_err(|_| D::Error::custom("expected a hash of 32 bytes"))
    }
}

impl TokenHash {
    /// The hash's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hashes a token.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether `token` has this hash, in constant time.
    pub fn matches(&self, token: &[u8]) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

/// Serialises a token as plain text.
pub mod token {
    use serde::ser;

    use super::*;

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(token: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(token.expose_text().ok_or_else(|| ser::Error::custom("a token must be text"))?)
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        Secret::token(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Serialises bytes as unpadded base64url in text formats and as bytes in binary formats.
pub mod base64url {
    use super::*;

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
        } else {
            serializer.serialize_bytes(bytes)
        }
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| D::Error::custom("expected unpadded base64url"))
        } else {
            Ok(serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec())
        }
    }
}

/// Serialises optional bytes as unpadded base64url in text formats.
pub mod optional_base64url {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Bytes(#[serde(with = "base64url")] Vec<u8>);

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => base64url::serialize(bytes, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Bytes>::deserialize(deserializer)?.map(|bytes| bytes.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_secret() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn token_matches_only_its_hash() {
        let token = Secret::random_token();
        let hash = TokenHash::of(token.expose());
        assert!(hash.matches(token.expose()));
        assert!(!hash.matches(b"another"));
    }
}
