//! Upgrades rows of earlier releases.

use ciborium::Value;

/// The public parameters of a task, which version 1 stored beside those of one aggregator.
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

/// Upgrades a task of version 1.
pub(super) fn task(version: u8, row: Value) -> Option<Value> {
    let (1, Value::Map(fields)) = (version, row) else { return None };
    let is_public = |(name, _): &(Value, Value)| name.as_text().is_some_and(|name| PUBLIC.contains(&name));
    let (public, mut own): (Vec<_>, Vec<_>) = fields.into_iter().partition(is_public);
    own.push(("public".into(), Value::Map(public)));
    own.push(("verify_key_id".into(), 0.into()));
    Some(Value::Map(own))
}

/// Upgrades an HPKE key of version 1, which had no stages: the only key was always active.
pub(super) fn key(version: u8, row: Value) -> Option<Value> {
    let (1, Value::Map(mut fields)) = (version, row) else { return None };
    let (_, created) = fields.iter().find(|(name, _)| name.as_text() == Some("created"))?;
    let since = Value::Map(vec![("since".into(), created.clone())]);
    fields.push(("stage".into(), Value::Map(vec![("Active".into(), since)])));
    Some(Value::Map(fields))
}

/// Upgrades a helper's job of version 1, which contained its answer; an empty one meant that there was none.
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

/// Upgrades a collection job of version 1 or 2. Version 1 has no end time, version 2 no assigned batch.
pub(super) fn collection(version: u8, row: Value) -> Option<Value> {
    (version == 1 || version == 2).then_some(row)
}

/// Upgrades an abandoned batch of version 1, which had no time. Null reads as no time.
pub(super) fn abandoned(version: u8, row: Value) -> Option<Value> {
    (version == 1).then_some(row)
}

/// Upgrades a generation of version 1, which was a number.
pub(super) fn generation(version: u8, row: Value) -> Option<Value> {
    (version == 1).then(|| Value::Map(vec![("count".into(), row), ("since".into(), Value::Null)]))
}
