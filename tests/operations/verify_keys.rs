//! Verification keys are rotated on running aggregators. No report is lost, and none is verified with a key that is gone.

use std::path::Path;

use dapbox::{
    config::{Config, Seconds},
    model::{BatchMode, Duration, Interval, Query, Revision, Task, TaskId, VdafConfig},
    support::clock,
    vdaf::{AggregateResult, Measurement},
};
use rstest::rstest;
use serde_json::Value;

use crate::{
    common::{Node, Pair, TEST_TIMEOUT, calls::assert_accepted, report_builder::ReportBuilder},
    tokens::run,
};

fn quick(config: &mut Config) {
    config.leader.min_job_size = 1;
    config.leader.retry_initial = Seconds::millis(20);
    config.leader.retry_max = Seconds::millis(50);
}

async fn start(revision: Revision) -> (Pair, ReportBuilder) {
    let by_second = |task: &mut Task| task.public.time_precision = Duration(1);
    let vdaf = VdafConfig::Prio3Count;
    let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, quick, by_second).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    (pair, builder)
}

/// Runs `dapbox task verify-key …` on a node's data directory.
fn verify_key(node: &Node, arguments: &[&str]) -> Result<String, String> {
    let data_dir = ["--data-dir", node.config.data_dir.to_str().unwrap()];
    run(&[&["task", "verify-key"], arguments, &data_dir].concat())
}

/// The states of the keys, as the JSON output has them.
fn stages(node: &Node, id: &str) -> Vec<(u64, String, bool)> {
    let listed: Value = serde_json::from_str(&verify_key(node, &["list", id, "-o", "json"]).unwrap()).unwrap();
    let of = |key: &Value| {
        let stage = key["stage"].as_str().unwrap().to_owned();
        (key["id"].as_u64().unwrap(), stage, key["is_current"].as_bool().unwrap())
    };
    listed.as_array().unwrap().iter().map(of).collect()
}

/// Uploads a report and waits until the leader has aggregated all so far.
async fn aggregate(pair: &Pair, builder: &ReportBuilder, so_far: &mut u64) {
    *so_far += 1;
    assert_accepted(&pair.parties.upload(&builder.report(&Measurement::Flag(true), clock::now())).await);
    let is_done = |count: Option<&u64>| count == Some(so_far);
    pair.leader.until(&pair.parties.id(), |status| is_done(status.counters.get("aggregate_success"))).await;
}

fn path(node: &Node) -> std::path::PathBuf {
    node.dir.path().join("key.toml")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rotates_key_without_losing_a_report() {
    let (mut pair, builder) = start(Revision::Dap19).await;
    let (id, mut count) = (pair.parties.id().to_string(), 0);
    let stage = |id, stage: &str, is_current| (id, stage.to_owned(), is_current);
    aggregate(&pair, &builder, &mut count).await;

    let file = path(&pair.leader);
    let added = verify_key(&pair.leader, &["add", &id, "--out", text(&file)]).unwrap();
    assert!(added.contains(&format!("task verify-key add {id} --file")), "{added}");
    assert_eq!(stages(&pair.leader, &id), [stage(0, "active", true), stage(1, "active", false)]);
    // The helper does not have the new key.
    aggregate(&pair, &builder, &mut count).await;
    // Too early: the leader finds that the helper does not have it, and falls back.
    verify_key(&pair.leader, &["retire", &id, "0"]).unwrap();
    aggregate(&pair, &builder, &mut count).await;
    assert!(pair.helper.counter(&pair.parties.id(), "unknown_verification_key_id").await > 0);

    verify_key(&pair.helper, &["add", &id, "--file", text(&file)]).unwrap();
    for side in [&mut pair.leader, &mut pair.helper] {
        side.restart().await;
    }
    // Now only the new key is left.
    verify_key(&pair.helper, &["retire", &id, "0", "--now"]).unwrap();
    aggregate(&pair, &builder, &mut count).await;
    assert_eq!(stages(&pair.leader, &id), [stage(0, "retired", false), stage(1, "active", true)]);
    assert_eq!(stages(&pair.helper, &id), [stage(0, "deleted", false), stage(1, "active", true)]);

    // A report from before the new key can be verified with neither.
    let earlier = clock::now().saturating_sub(Duration(3600));
    assert_accepted(&pair.parties.upload(&builder.report(&Measurement::Flag(true), earlier)).await);
    let is_waiting = |error: Option<&String>| error.is_some_and(|error| error.contains("the verification key"));
    pair.leader.until(&pair.parties.id(), |status| is_waiting(status.last_error.as_ref())).await;
    verify_key(&pair.leader, &["retire", &id, "0", "--now"]).unwrap();
    let is_dropped = |count: Option<&u64>| count == Some(&1);
    let counter = "unknown_verification_key_id";
    pair.leader.until(&pair.parties.id(), |status| is_dropped(status.counters.get(counter))).await;

    let now = clock::now();
    let query = Query::TimeInterval(Interval::new(now.saturating_sub(Duration(600)), Duration(1200)).unwrap());
    let collected = pair.parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await;
    let collected = collected.unwrap();
    assert_eq!((collected.report_count, collected.result), (count, AggregateResult::Number(count.into())));
    pair.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn refuses_keys_that_a_task_cannot_have() {
    let (pair, _) = start(Revision::Dap19).await;
    let id = pair.parties.id().to_string();
    let file = path(&pair.leader);
    let refused = |arguments: &[&str], says: &str| {
        let error = verify_key(&pair.leader, arguments).unwrap_err();
        assert!(error.contains(says), "{arguments:?}: {error}");
    };
    refused(&["retire", &id, "0"], "no other active verification key");
    refused(&["retire", &id, "9"], "no verification key with the id 9");
    verify_key(&pair.leader, &["add", &id, "--out", text(&file)]).unwrap();
    refused(&["add", &id, "--file", text(&file)], "has or had a verification key with the id 1");
    let written = std::fs::read_to_string(&file).unwrap();
    let key = written.lines().find_map(|line| line.strip_prefix("key = \"")).unwrap().trim_end_matches('"');
    for (from, to, says) in [
        (id.as_str(), TaskId::new([9; 32]).to_string(), "a key of task"),
        (key, "c2hvcnQ".to_owned(), "has 5 bytes"),
        ("id = 1", "id = 2\nother = 1".to_owned(), "not a verification key file"),
    ] {
        std::fs::write(&file, written.replace(from, &to)).unwrap();
        refused(&["add", &id, "--file", text(&file)], says);
    }
    pair.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn earlier_revisions_keep_their_key(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let (pair, _) = start(revision).await;
    let (id, file) = (pair.parties.id().to_string(), path(&pair.leader));
    let error = verify_key(&pair.leader, &["add", &id, "--out", text(&file)]).unwrap_err();
    assert!(error.contains("keeps its verification key; create a new task"), "{error}");
    assert!(!file.exists(), "a key that was not added is not left behind");
    pair.stop().await;
}
