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

/// An HPKE key of version 1: there was one, and it was handed out from the beginning.
pub(super) fn key(version: u8, row: Value) -> Option<Value> {
    let (1, Value::Map(mut fields)) = (version, row) else { return None };
    let (_, created) = fields.iter().find(|(name, _)| name.as_text() == Some("created"))?;
    let since = Value::Map(vec![("since".into(), created.clone())]);
    fields.push(("stage".into(), Value::Map(vec![("Active".into(), since)])));
    Some(Value::Map(fields))
}

/// A helper's job of version 1, which had its answer in it: an empty one while there was none.
pub(super) fn helper_job(version: u8, row: Value) -> Option<Value> {
    let (1, Value::Map(mut fields)) = (version, row) else { return None };
    let mut take = |name| {
        let place = fields.iter().position(|(key, _)| key.as_text() == Some(name))?;
        Some(fields.swap_remove(place).1)
    };
    let (answer, deleted) = (take("answer")?, take("deleted")?.as_bool()?);
    let state = match answer.as_bytes() {
        _ if deleted => Value::Text("Deleted".into()),
        Some(answer) if answer.is_empty() => Value::Text("Pending".into()),
        _ => Value::Map(vec![(Value::Text("AnsweredHere".into()), answer)]),
    };
    fields.push(("state".into(), state));
    Some(Value::Map(fields))
}

/// A collection job of version 1 or 2. Version 1 did not say when the job was found to have ended, version 2 not which
/// batch it was given.
pub(super) fn collection(version: u8, row: Value) -> Option<Value> {
    (version == 1 || version == 2).then_some(row)
}

/// A batch that was given up, of version 1: it did not say since when. Null reads as no time.
pub(super) fn abandoned(version: u8, row: Value) -> Option<Value> {
    (version == 1).then_some(row)
}

/// A generation of version 1, which was a number.
pub(super) fn generation(version: u8, row: Value) -> Option<Value> {
    (version == 1).then(|| Value::Map(vec![("count".into(), row), ("since".into(), Value::Null)]))
}
