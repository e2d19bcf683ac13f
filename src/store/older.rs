//! Rows as earlier releases have written them, made into rows of today.

use ciborium::Value;

/// What of a task all parties know: in version 1 it stood beside what only one aggregator knows.
const PUBLIC: [&str; 9] = [
    "id",
    "revision",
    "leader_url",
    "helper_url",
    "batch_mode",
    "vdaf",
    "min_batch_size",
    "time_precision",
    "task_expiration",
];

/// A task of version 1.
pub(super) fn task(version: u8, row: Value) -> Option<Value> {
    let (1, Value::Map(fields)) = (version, row) else { return None };
    let is_public = |(name, _): &(Value, Value)| name.as_text().is_some_and(|name| PUBLIC.contains(&name));
    let (public, mut own): (Vec<_>, Vec<_>) = fields.into_iter().partition(is_public);
    own.push(("public".into(), Value::Map(public)));
    own.push(("verify_key_id".into(), 0.into()));
    Some(Value::Map(own))
}
