//! HPKE keys as clients, collectors and operators see them: rotated on a running server, kept for reports in transit,
//! and finally deleted.

use std::process::Command;

use dapbox::{
    client::{AggregatorKeys, make_report},
    config::{Config, Kem, Seconds},
    model::{
        BatchMode, Duration, HpkeConfig,
        KeyState::{Active, Expired, Pending},
        MaxMeasurement, Report, ReportError, Revision, Time, VdafConfig,
    },
    store::{KeyRecord, KeyStage, Options, Tx},
    support::{Point, clock},
    vdaf::{self, AggregateResult, Measurement},
    wire::{self, ResourceKind},
};
use rstest::rstest;
use serde_json::Value;

use crate::common::{
    self, Node, Pair, Parties, TEST_TIMEOUT,
    calls::{assert_accepted, assert_report_rejected},
    open_store,
    relay::{self, RelayAction, pair_through_relay},
};

/// A condition on the ids of the pending, the active and the expired keys.
type IsRight<'a> = dyn Fn(&[u8], &[u8], &[u8]) -> bool + 'a;

const SUM: VdafConfig = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };

/// A report sealed to given keys.
fn report_to(parties: &Parties, keys: &AggregatorKeys, number: u128, time: Time) -> Report {
    let task = parties.task();
    let preparer = vdaf::preparer(task.revision, &task.vdaf).unwrap();
    make_report(task, &*preparer, keys, &Measurement::Number(number), time).unwrap()
}

/// The keys of an aggregator, with the `Cache-Control` header.
async fn offered(node: &Node, revision: Revision) -> (Vec<HpkeConfig>, String) {
    let answer = common::get(format!("{}hpke_config", node.url(revision))).await.unwrap();
    let cached = answer.headers()["cache-control"].to_str().unwrap().to_owned();
    (wire::for_revision(revision).decode_hpke_configs(&answer.bytes().await.unwrap()).unwrap(), cached)
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn counts_reports_sealed_to_expired_key(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    // The first reports are pending during the rotation.
    let patient = |config: &mut Config| {
        (config.leader.min_job_size, config.leader.max_job_size) = (4, 4);
        config.leader.max_job_delay = Seconds::new(600);
    };
    let of_four = |task: &mut dapbox::model::Task| task.public.min_batch_size = 4;
    let mut pair = Pair::start_with(revision, SUM, BatchMode::TimeInterval, patient, of_four).await;
    let old = pair.parties.client().keys().await.unwrap();
    let now = clock::now();
    let reports = [1, 2].map(|number| report_to(&pair.parties, &old, number, now));
    assert_accepted(&pair.parties.upload(&reports[0]).await);
    for node in [&pair.leader, &pair.helper] {
        node.rotate_keys(true).await;
    }
    let (list, cached) = offered(&pair.leader, revision).await;
    assert_eq!((list.len(), cached.as_str()), (1, "max-age=86400"));
    assert_ne!(list[0].id, old.leader.id);
    assert_eq!(
        (pair.leader.key_ids(Active).await, pair.leader.key_ids(Expired).await),
        (vec![list[0].id], vec![old.leader.id])
    );
    assert_accepted(&pair.parties.upload(&reports[1]).await);
    // A restart changes nothing.
    pair.leader.restart().await;
    pair.helper.restart().await;
    assert_eq!(offered(&pair.leader, revision).await.0, list);
    let mixed = AggregatorKeys { leader: list[0].clone(), helper: old.helper.clone() };
    assert_accepted(&pair.parties.upload(&report_to(&pair.parties, &mixed, 4, now)).await);
    pair.parties.client().upload(Measurement::Number(8), Some(now)).await.unwrap();
    let collected =
        pair.parties.collector().collect(pair.parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (4, AggregateResult::Number(15)));
    pair.stop().await;
}

/// Automatic rotation with short configured times.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn rotates_keys_automatically(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let quick = |config: &mut Config| {
        (config.hpke.rotate_every, config.hpke.pending_time) = (Seconds::new(3), Seconds::new(1));
        (config.hpke.cache_max_age, config.limits.clock_skew) = (Seconds::new(1), Seconds::new(1));
        config.retention.sweep_interval = Seconds::millis(100);
    };
    let forgetful = |task: &mut dapbox::model::Task| {
        (task.public.time_precision, task.report_expiry_age) = (Duration(1), Some(Duration(2)));
    };
    let pair = Pair::start_with(revision, SUM, BatchMode::TimeInterval, quick, forgetful).await;
    let old = pair.parties.client().keys().await.unwrap();
    assert_eq!(offered(&pair.leader, revision).await.1, "max-age=1");
    let until = async |is_right: &IsRight<'_>| {
        let deadline = std::time::Instant::now() + TEST_TIMEOUT;
        loop {
            let [pending, active, expired] = [
                pair.leader.key_ids(Pending).await,
                pair.leader.key_ids(Active).await,
                pair.leader.key_ids(Expired).await,
            ];
            if is_right(&pending, &active, &expired) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "still {pending:?}, {active:?}, {expired:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    until(&|_, _, expired| expired.contains(&old.leader.id)).await;
    let late = report_to(&pair.parties, &old, 1, clock::now());
    assert_accepted(&pair.parties.upload(&late).await);
    until(&|_, _, expired| !expired.contains(&old.leader.id)).await;
    let too_late = report_to(&pair.parties, &old, 2, clock::now());
    let refused = pair.parties.upload(&too_late).await;
    assert_report_rejected(&refused, &pair.parties, &too_late, ReportError::OutdatedConfig);
    // A client that refreshes its keys never notices.
    pair.parties.client().upload(Measurement::Number(4), None).await.unwrap();
    pair.stop().await;
}

/// A leader must repeat a request with the same bytes once the helper may have seen it. A meanwhile deleted key still
/// does that.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn finishes_jobs_of_deleted_key(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let (mut pair, relay) = pair_through_relay(revision, BatchMode::TimeInterval, |config| {
        (config.leader.max_job_size, config.leader.min_job_size) = (5, 5);
        config.leader.max_job_delay = Seconds::new(600);
    })
    .await;
    relay.plan(
        |asked, _| {
            if asked.creates(ResourceKind::AggregationJob) { RelayAction::LoseAnswer } else { RelayAction::Pass }
        },
    );
    let old = pair.parties.client().keys().await.unwrap();
    relay::upload_all(&pair.parties.client(), None).await;
    while relay.creations(ResourceKind::AggregationJob).is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    pair.leader.delete_key(old.leader.id).await;
    let report = report_to(&pair.parties, &old, 1, clock::now());
    let refused = pair.parties.upload(&report).await;
    assert_report_rejected(&refused, &pair.parties, &report, ReportError::OutdatedConfig);
    // The leader loses its prepared state.
    pair.leader.restart().await;
    relay.plan(|_, _| RelayAction::Pass);
    let collected = pair.parties.collector().collect(relay::query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await;
    relay::assert_whole("with a deleted key", collected);
    relay.check_repeats(&pair.parties);
    pair.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn offers_post_quantum_keys_last(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let strong = |config: &mut Config| config.hpke.post_quantum = true;
    let mut pair = Pair::start_with(revision, SUM, BatchMode::TimeInterval, strong, |_| {}).await;
    let (list, _) = offered(&pair.helper, revision).await;
    assert_eq!(list.iter().map(|config| config.kem_id).collect::<Vec<_>>(), [0x20, 0x647a]);
    let keys = pair.parties.client().keys().await.unwrap();
    assert_eq!((keys.leader.kem_id, keys.helper.kem_id), (0x647a, 0x647a));
    let classical = AggregatorKeys {
        leader: offered(&pair.leader, revision).await.0[0].clone(),
        helper: offered(&pair.helper, revision).await.0[0].clone(),
    };
    for (keys, number) in [(&keys, 1), (&classical, 2)] {
        assert_accepted(&pair.parties.upload(&report_to(&pair.parties, keys, number, clock::now())).await);
    }
    // Disabled: the key still opens reports and is no longer offered. Another suite takes effect.
    pair.leader.stop().await;
    (pair.leader.config.hpke.post_quantum, pair.leader.config.hpke.kem) = (false, Kem::P256);
    pair.leader.resume().await;
    assert_eq!(offered(&pair.leader, revision).await.0, std::slice::from_ref(&classical.leader));
    assert_eq!(
        (pair.leader.key_ids(Pending).await.len(), pair.leader.key_ids(Expired).await),
        (1, vec![keys.leader.id])
    );
    assert_accepted(&pair.parties.upload(&report_to(&pair.parties, &keys, 4, clock::now())).await);
    pair.leader.rotate_keys(true).await;
    assert_eq!(offered(&pair.leader, revision).await.0[0].kem_id, 0x10);
    pair.parties.client().upload(Measurement::Number(8), None).await.unwrap();
    let collected =
        pair.parties.collector().collect(pair.parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (4, AggregateResult::Number(15)));
    pair.stop().await;
}

/// Runs `dapbox keys` on a node's data directory; returns its output and exit code.
async fn dapbox_keys(node: &Node, arguments: &[&str]) -> (String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.arg("keys").args(arguments).arg("--data-dir").arg(node.data_dir()).env_remove("DAPBOX_CONFIG");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code().unwrap())
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn lists_rotates_disables_and_deletes_keys(#[values(true, false)] is_running: bool) {
    let mut node = Node::start().await;
    let first = node.key_ids(Active).await[0];
    if !is_running {
        node.stop().await;
    }
    let list = async || {
        let (text, code) = dapbox_keys(&node, &["list", "-o", "json"]).await;
        assert_eq!(code, 0, "{text}");
        let keys: Vec<Value> = serde_json::from_str(&text).unwrap();
        let states =
            keys.iter().map(|key| (key["id"].as_u64().unwrap() as u8, key["state"].as_str().unwrap().to_owned()));
        (states.collect::<Vec<_>>(), keys)
    };
    let (states, keys) = list().await;
    assert_eq!(states, [(first, "active".to_owned())]);
    assert_eq!(keys[0]["suite"], "x25519-sha256-aes128gcm");
    let span = keys[0]["until"].as_u64().unwrap() - keys[0]["created"].as_u64().unwrap();
    assert_eq!(span, 90 * 86_400);
    assert!(keys[0]["age"].as_u64().unwrap() < 600);

    let (text, code) = dapbox_keys(&node, &["rotate"]).await;
    assert!(code == 0 && text.contains("created, active from 2"), "{text}");
    let second = list().await.0[1].0;
    let (text, _) = dapbox_keys(&node, &["list"]).await;
    assert!(text.contains("pending") && text.contains("active") && text.contains("active from"), "{text}");
    let (text, code) = dapbox_keys(&node, &["rotate"]).await;
    assert!(code == 0 && text.contains("already pending"), "{text}");
    let (text, code) = dapbox_keys(&node, &["rotate", "--now"]).await;
    assert!(code == 0 && text.contains("activated") && text.contains("Back up"), "{text}");
    assert_eq!(list().await.0, [(second, "active".to_owned()), (first, "expired".to_owned())]);

    let (text, code) = dapbox_keys(&node, &["disable", &second.to_string()]).await;
    assert!(code == 0 && text.contains("created and activated"), "{text}");
    let (states, _) = list().await;
    assert!(states.len() == 3 && states[0].1 == "active" && states[0].0 != second, "{states:?}");
    let (text, code) = dapbox_keys(&node, &["delete", &second.to_string()]).await;
    assert!(code == 2 && text.contains("--yes"), "{text}");
    let (text, code) = dapbox_keys(&node, &["delete", &second.to_string(), "--yes", "-o", "json"]).await;
    let changes: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &changes[0]["before"], &changes[0]["after"]), (0, &"expired".into(), &Value::Null));
    for arguments in [["disable", &second.to_string()], ["disable", "256"]] {
        let (text, code) = dapbox_keys(&node, &arguments).await;
        let expected = if arguments[1] == "256" { (2, "256") } else { (1, "does not exist") };
        assert!(code == expected.0 && text.contains(expected.1), "{code}: {text}");
    }
    if !is_running {
        node.resume().await;
    }
    let (offered, _) = offered(&node, Revision::Dap09).await;
    assert_eq!(offered.iter().map(|config| config.id).collect::<Vec<_>>(), [states[0].0]);
    node.stop().await;
}

/// The clock was years ahead when the server first started, and is correct now.
#[tokio::test(flavor = "multi_thread")]
async fn replaces_keys_created_in_future() {
    let quick = |config: &mut Config| {
        config.retention.sweep_interval = Seconds::millis(50);
        config.hpke.pending_time = Seconds::new(0);
    };
    let mut node = Node::start_with(quick).await;
    let data_dir = node.data_dir().to_str().unwrap().to_owned();
    let stored_times = || -> Option<Value> {
        let doctor = ["doctor", "--offline", "-o", "json", "--data-dir", &data_dir];
        let output = Command::new(env!("CARGO_BIN_EXE_dapbox")).args(doctor).env_remove("DAPBOX_CONFIG").output();
        let findings: Vec<Value> = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        findings.into_iter().find(|finding| finding["name"] == "stored times")
    };
    assert_eq!(stored_times(), None);
    let misdated = node.key_ids(Active).await;
    let ahead = Time(clock::now().0 + 10 * 365 * 86_400);
    node.stop().await;
    let store = open_store(node.data_dir(), Options::default()).await;
    let id = misdated[0];
    let misdate = move |tx: &mut Tx<'_>| {
        let key = tx.keys()[&id].clone();
        tx.put_key(KeyRecord { created: ahead, stage: KeyStage::Active { since: ahead }, ..key })
    };
    store.write(Point::Test, misdate).await.unwrap();
    store.close().await;
    let found = stored_times().unwrap();
    assert_eq!(found["outcome"], "warning");
    assert!(found["detail"].as_str().unwrap().contains(&format!("HPKE key {id}")), "{found}");

    node.resume().await;
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while node.key_ids(Active).await == misdated {
        assert!(std::time::Instant::now() < deadline, "the key is not replaced");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(node.key_ids(Expired).await, misdated, "reports that are sealed to it may still come");
    // A past that a wrong clock has closed stays closed.
    let parties = Parties::new(
        Revision::Dap09,
        SUM,
        BatchMode::TimeInterval,
        node.url(Revision::Dap09),
        "http://127.0.0.1:1/".into(),
    );
    node.add(&parties.leader).await;
    node.close_before(parties.id(), ahead).await;
    let found = stored_times().unwrap();
    assert_eq!(found["outcome"], "failed");
    assert!(found["detail"].as_str().unwrap().contains(&format!("closed past of task {}", parties.id())), "{found}");
    node.stop().await;
}
