use serde_json::{Value, json};

use super::*;

impl QueryObject {
    /// Converts to the form on the wire.
    pub fn new(query: Query) -> Self {
        let none = Self {
            kind: JsonNumber(TIME_INTERVAL),
            batch_interval_start: None,
            batch_interval_duration: None,
            subtype: None,
            batch_id: None,
        };
        let fixed_size = |subtype, batch_id| Self {
            kind: JsonNumber(FIXED_SIZE),
            subtype: Some(JsonNumber(subtype)),
            batch_id,
            ..none.clone()
        };
        match query {
            Query::TimeInterval(interval) => Self {
                batch_interval_start: Some(JsonNumber(interval.start().0)),
                batch_interval_duration: Some(JsonNumber(interval.duration().0)),
                ..none
            },
            Query::FixedSize(FixedSizeQuery::ByBatchId(id)) => fixed_size(0, Some(id)),
            Query::FixedSize(FixedSizeQuery::CurrentBatch) => fixed_size(1, None),
        }
    }
}

fn draft() -> Value {
    json!({
        "task_id": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "leader": "http://leader:8080/",
        "helper": "http://helper:8080/",
        "vdaf": {"type": "Prio3Count"},
        "leader_authentication_token": "between",
        "collector_authentication_token": "collecting",
        "role": "leader",
        "vdaf_verify_key": "AAAAAAAAAAAAAAAAAAAAAA",
        "max_batch_query_count": 1,
        "query_type": 2,
        "min_batch_size": 10,
        "max_batch_size": 20,
        "time_precision": 3600,
        "collector_hpke_config": "",
        "task_expiration": 2_000_000_000,
    })
}

fn changed(without: &[&str], with: Value) -> AddTask {
    let mut value = draft();
    let members = value.as_object_mut().unwrap();
    without.iter().for_each(|name| drop(members.remove(*name)));
    members.extend(with.as_object().unwrap().clone());
    serde_json::from_value(value).unwrap()
}

/// The design's form, Daphne's form with a lifetime, and Janus's form with start and end. Numbers may be text, and unknown
/// members are ignored.
#[test]
fn reads_tasks_of_all_dialects() {
    let fixed = |max_batch_size| Ok(BatchMode::fixed_size(max_batch_size));
    let mode = |task: &AddTask| task.bound.mode(task.max_batch_size);
    let of_design = changed(&[], json!({}));
    assert_eq!(
        (mode(&of_design), of_design.start(), of_design.end()),
        (fixed(Some(20)), None, Some(Time(2_000_000_000)))
    );

    let gone = ["query_type", "max_batch_size", "max_batch_query_count", "task_expiration"];
    let lifetime = json!({"Latest": {"start": 1_000, "duration": 500}});
    let of_daphne = changed(&gone, json!({"batch_mode": 2, "lifetime": lifetime, "version": "v09"}));
    assert_eq!(
        (mode(&of_daphne), of_daphne.start(), of_daphne.end()),
        (fixed(None), Some(Time(1_000)), Some(Time(1_500)))
    );
    let of_daphne = changed(&gone, json!({"batch_mode": 1, "lifetime": {"Draft09": {"expiration": 1_500}}}));
    assert_eq!((mode(&of_daphne), of_daphne.end()), (Ok(BatchMode::TimeInterval), Some(Time(1_500))));

    let of_janus =
        changed(&gone, json!({"batch_mode": "2", "task_start": "1000", "task_end": 1_500, "max_batch_size": null}));
    assert_eq!(
        (mode(&of_janus), of_janus.start(), of_janus.end()),
        (fixed(None), Some(Time(1_000)), Some(Time(1_500)))
    );
    let without_an_end = changed(&gone, json!({"batch_mode": 1, "task_start": null, "task_end": null}));
    assert_eq!((without_an_end.start(), without_an_end.end()), (None, None));
    assert!(changed(&gone, json!({"batch_mode": 3})).bound.mode(None).is_err());
}

#[test]
fn query_round_trips() {
    let interval = Interval::new(Time(3600), Duration(7200)).unwrap();
    for query in [
        Query::TimeInterval(interval),
        Query::FixedSize(FixedSizeQuery::CurrentBatch),
        Query::FixedSize(FixedSizeQuery::ByBatchId(BatchId::new([7; 32]))),
    ] {
        let text = serde_json::to_string(&QueryObject::new(query)).unwrap();
        assert_eq!(serde_json::from_str::<QueryObject>(&text).unwrap().query(), Ok(query), "{text}");
    }
    let newer: QueryObject = serde_json::from_value(json!({"type": 2})).unwrap();
    assert_eq!(newer.query(), Ok(Query::FixedSize(FixedSizeQuery::CurrentBatch)));
    for wrong in [json!({"type": 1}), json!({"type": 2, "subtype": 0}), json!({"type": 3})] {
        assert!(serde_json::from_value::<QueryObject>(wrong.clone()).unwrap().query().is_err(), "{wrong}");
    }
}

#[test]
fn encodes_one_hpke_config_without_list_length() {
    let key = HpkeConfig { id: 7, kem_id: 0x20, kdf_id: 1, aead_id: 1, public_key: vec![9; 32] };
    let blob = encode_key(Revision::Dap09, &key);
    assert_eq!(blob.0[..9], [7, 0, 0x20, 0, 1, 0, 1, 0, 32]);
    assert_eq!(decode_key(Revision::Dap09, &blob), Ok(key));
    for wrong in [vec![], blob.0[1..].to_vec(), [&blob.0[..], &blob.0].concat()] {
        assert!(decode_key(Revision::Dap09, &Base64Url(wrong)).is_err());
    }
    assert_eq!(serde_json::from_str::<Base64Url>("\"AAA=\"").unwrap(), Base64Url(vec![0, 0]));
}
