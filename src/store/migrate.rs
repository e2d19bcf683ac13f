//! Migrates data directories of earlier releases.
//!
//! | layout | difference |
//! |---|---|
//! | 1 | secrets are not encrypted ([`vault`](super::vault)); the ids of aggregated reports are stored whole |
//! | 2 | current |
//!
//! A migration rebuilds the database ([`rebuild`]) and keeps the old one as [`KEPT`], as a backup. An interrupted
//! migration starts again at the next opening and then finds rows of both layouts.
//!
//! To go back, move the kept database to `tables` and write `version 1` into the marker.

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use super::{
    engine::{Engine, Row},
    fingerprints::FingerprintKey,
    open_error::OpenError,
    rebuild::{ProgressFn, rebuild},
    state::State,
    swap::OldDatabase,
    table::{self, EncryptedTable, Key},
    vault::Vault,
};
use dapbox_protocol::model::ReportId;
use dapbox_support::Fault;

/// The name of the kept database of layout 1.
pub(super) const KEPT: &str = "tables.version-1";

/// Migrates a database from layout 1 to layout 2. The caller holds the lock of the directory.
pub(super) fn from_1(
    dir: &Path,
    cache_bytes: u64,
    engine: Engine,
    vault: &Vault,
    progress: ProgressFn<'_>,
) -> Result<(), OpenError> {
    let secrets = table::SECRETS.key(&table::FINGERPRINT_KEY);
    // The key exists if an earlier migration was interrupted after the rebuild.
    let mut fresh = match engine.get(&secrets)? {
        Some(_) => None,
        None => Some(State::new_fingerprint_key()),
    };
    let key = match &fresh {
        Some(key) => FingerprintKey::new(key).ok_or_else(|| damaged(Fault::new("a key has the wrong length")))?,
        None => State::load_fingerprint_key(&engine, vault)?,
    };
    let map = |row: Option<Row>, out: &mut Vec<Row>| -> Result<(), OpenError> {
        match row {
            Some(row) => out.push(convert(row, vault, &key)?),
            None => out
                .extend(fresh.take().map(|key| State::fingerprint_key_row(vault, &key)).transpose().map_err(damaged)?),
        }
        Ok(())
    };
    let old = if dir.join(KEPT).exists() { OldDatabase::Delete } else { OldDatabase::Keep(KEPT) };
    rebuild(dir, cache_bytes, engine, old, map, progress)?;
    Ok(())
}

fn convert((key, value): Row, vault: &Vault, fingerprints: &FingerprintKey) -> Result<Row, OpenError> {
    let value = match key.first() {
        Some(&prefix) if prefix == table::TASKS.0.prefix => encrypted(&table::TASKS, vault, &key, value)?,
        Some(&prefix) if prefix == table::KEYS.0.prefix => encrypted(&table::KEYS, vault, &key, value)?,
        Some(&prefix) if prefix == table::REPLAY.prefix => fingerprinted(value, fingerprints)?,
        _ => value,
    };
    Ok((key, value))
}

/// Encrypts a row, unless it is encrypted.
fn encrypted<K: Key, V: Serialize + DeserializeOwned>(
    table: &EncryptedTable<K, V>,
    vault: &Vault,
    key: &[u8],
    value: Vec<u8>,
) -> Result<Vec<u8>, OpenError> {
    if table.is_encrypted(&value) {
        return Ok(value);
    }
    let value = table.0.read(&value).map_err(OpenError::from)?;
    table.value(vault, &table.0.read_key(key).map_err(OpenError::from)?, &value).map_err(damaged)
}

/// Converts a row of ids into their fingerprints, unless it is converted.
fn fingerprinted(value: Vec<u8>, key: &FingerprintKey) -> Result<Vec<u8>, OpenError> {
    if value.first() == Some(&table::REPLAY.version) {
        return Ok(value);
    }
    let ids = table::REPLAY.read(&value).map_err(OpenError::from)?;
    let (ids, []) = ids.as_chunks() else {
        return Err(OpenError::Damaged("a row of report ids is truncated".to_owned()));
    };
    let fingerprints = ids.iter().flat_map(|id| key.fingerprint(&ReportId::new(*id)).to_be_bytes()).collect::<Vec<_>>();
    table::REPLAY.value(&ByteBuf::from(fingerprints)).map_err(damaged)
}

fn damaged(fault: Fault) -> OpenError {
    OpenError::Damaged(fault.to_string())
}
