//! Encryption of secrets at rest.
//!
//! # Decision: rows are encrypted, not files
//!
//! Rows with keys or tokens are encrypted; reports are sealed by clients already, and sums are one aggregator's half.
//! Backups and compaction copy rows without the key. The key is in its own file, created with the directory and
//! readable by its owner only, or in the environment. A copy of the database without the key, such as a backup, reveals
//! no HPKE private key, verification key or token.
//!
//! The cipher is XChaCha20-Poly1305 with a random nonce per value. The key of the row is authenticated, so that rows
//! cannot be exchanged.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use rand::{TryRngCore, rand_core::OsRng};
use zeroize::Zeroizing;

use dapbox_protocol::model::Secret;
use dapbox_support::{Fault, files};

/// The key file in a data directory, unless the configuration names another.
pub(super) const KEY_FILE: &str = "secrets.key";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// The source of the key that encrypts secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeySource {
    /// The file `secrets.key` in the data directory, created at the first start.
    #[default]
    InDirectory,
    /// Another file, created at the first start.
    File(PathBuf),
    /// The key itself: 32 bytes.
    Given(Secret),
}

/// Why the encryption key is not available.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key file is missing and the directory is not new.
    #[error(
        "the key file {} is missing, which the secrets in the data directory are encrypted with: restore it, set its \
         path in secrets.key_file, or pass the key in DAPBOX_SECRETS__KEY",
        .0.display()
    )]
    Missing(PathBuf),
    /// The key is malformed.
    #[error("{0} is not a key: expected 32 bytes as unpadded base64url")]
    Malformed(String),
    /// The key file is readable by everyone.
    #[error("the key file {} is readable by all users: run chmod 600 on it and treat the key as compromised", .0.display())]
    Exposed(PathBuf),
    /// The key belongs to another directory.
    #[error(
        "the key is not that of this data directory: restore the right one (by default {KEY_FILE} in the \
         directory)"
    )]
    Wrong,
    /// The file system failed.
    #[error("cannot use the key file {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
}

impl KeySource {
    /// The key file of a data directory, if the key is in one.
    pub fn file(&self, dir: &Path) -> Option<PathBuf> {
        match self {
            Self::InDirectory => Some(dir.join(KEY_FILE)),
            Self::File(path) => Some(path.clone()),
            Self::Given(_) => None,
        }
    }

    /// Reads the key of a data directory.
    pub fn read(&self, dir: &Path) -> Result<Secret, KeyError> {
        match self {
            Self::InDirectory => read_key(&dir.join(KEY_FILE)),
            Self::File(path) => read_key(path),
            Self::Given(key) if key.expose().len() == KEY_BYTES => Ok(key.clone()),
            Self::Given(_) => Err(KeyError::Malformed("DAPBOX_SECRETS__KEY".to_owned())),
        }
    }

    /// Reads the key of a data directory, or creates it.
    pub(super) fn read_or_make(&self, dir: &Path) -> Result<Secret, KeyError> {
        match self.read(dir) {
            Err(KeyError::Missing(path)) => {
                let key = Secret::random(KEY_BYTES);
                write_key(&path, &key)?;
                Ok(key)
            }
            read => read,
        }
    }

    /// Stores a key for [`Self::read`]. Fails if another key exists.
    pub(super) fn install(&self, dir: &Path, key: &Secret) -> Result<(), KeyError> {
        match self.read(dir) {
            Ok(found) if found == *key => Ok(()),
            Ok(_) => Err(KeyError::Wrong),
            Err(KeyError::Missing(path)) => write_key(&path, key),
            Err(error) => Err(error),
        }
    }
}

/// Reads a key file.
fn read_key(path: &Path) -> Result<Secret, KeyError> {
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
        _ => KeyError::Io { path: path.to_owned(), error },
    };
    let mode = fs::metadata(path).map_err(io)?.permissions().mode();
    if mode & 0o004 != 0 {
        return Err(KeyError::Exposed(path.to_owned()));
    }
    let text = Zeroizing::new(files::read(path).map_err(io)?);
    let key = URL_SAFE_NO_PAD.decode(text.trim_ascii()).map(Secret::new);
    key.ok()
        .filter(|key| key.expose().len() == KEY_BYTES)
        .ok_or_else(|| KeyError::Malformed(path.display().to_string()))
}

/// Writes a key file for its owner only. The file is durable and complete when this returns.
fn write_key(path: &Path, key: &Secret) -> Result<(), KeyError> {
    let write = || {
        let begun = path.with_extension("key.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&begun)?;
        let mut text = Zeroizing::new(URL_SAFE_NO_PAD.encode(key.expose()));
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&begun, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| KeyError::Io { path: path.to_owned(), error })
}

/// Encrypts and decrypts the values of rows.
#[derive(Clone)]
pub(super) struct Vault(Arc<XChaCha20Poly1305>);

/// A value was encrypted under another key or for another row.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be decrypted")]
pub(super) struct DecryptError;

impl Vault {
    /// Creates a vault with a key of 32 bytes.
    pub(super) fn new(key: &Secret) -> Result<Self, KeyError> {
        let cipher = XChaCha20Poly1305::new_from_slice(key.expose());
        Ok(Self(Arc::new(cipher.map_err(|_| KeyError::Malformed("the given value".to_owned()))?)))
    }

    /// Encrypts the value of a row.
    pub(super) fn seal(&self, row: &[u8], value: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut nonce = [0; NONCE_BYTES];
        OsRng.try_fill_bytes(&mut nonce).map_err(|error| Fault::while_doing("generating a nonce", error))?;
        let sealed = self.0.encrypt(&nonce.into(), Payload { msg: value, aad: row });
        let sealed = sealed.map_err(|_| Fault::new("a secret is too long to be encrypted"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Whether a value is long enough to be encrypted.
    pub(super) fn has_valid_length(sealed: &[u8]) -> bool {
        sealed.len() >= NONCE_BYTES + TAG_BYTES
    }

    /// Decrypts the value of a row.
    pub(super) fn open(&self, row: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(DecryptError)?;
        let value = self.0.decrypt(nonce.into(), Payload { msg: sealed, aad: row });
        value.map(Zeroizing::new).map_err(|_| DecryptError)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decrypts_with_its_key_and_row_only() {
        let vault = Vault::new(&Secret::random(KEY_BYTES)).unwrap();
        let sealed = vault.seal(b"row", b"secret").unwrap();
        assert_eq!(vault.open(b"row", &sealed).unwrap().as_slice(), b"secret");
        assert_ne!(vault.seal(b"row", b"secret").unwrap(), sealed, "the nonce is fresh");
        assert!(vault.open(b"other row", &sealed).is_err());
        assert!(Vault::new(&Secret::random(KEY_BYTES)).unwrap().open(b"row", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut spoilt = sealed.clone();
            spoilt[at] ^= 1;
            assert!(vault.open(b"row", &spoilt).is_err());
            assert!(vault.open(b"row", &sealed[..at]).is_err());
        }
    }

    #[test]
    fn creates_key_file_once_with_mode_0600() {
        let dir = tempfile::tempdir().unwrap();
        let source = KeySource::default();
        assert!(matches!(source.read(dir.path()), Err(KeyError::Missing(_))));
        let key = source.read_or_make(dir.path()).unwrap();
        assert_eq!(source.read_or_make(dir.path()).unwrap(), key);
        assert_eq!(source.read(dir.path()).unwrap(), key);
        source.install(dir.path(), &key).unwrap();
        assert!(matches!(source.install(dir.path(), &Secret::random(KEY_BYTES)), Err(KeyError::Wrong)));
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(source.read(dir.path()), Err(KeyError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(source.read(dir.path()).is_ok());
    }

    #[test]
    fn rejects_malformed_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let source = KeySource::File(path.clone());
        for text in ["", "short", "not base64url!", &"A".repeat(44)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(source.read_or_make(dir.path()), Err(KeyError::Malformed(_))), "{text}");
        }
        let given = KeySource::Given(Secret::new(vec![0; 31]));
        assert!(matches!(given.read_or_make(dir.path()), Err(KeyError::Malformed(_))));
    }
}
