//! The life of in-band tasks.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use dapbox::{
    client::Client,
    config::{Config, taskprov::PresentedToken},
    model::{
        BatchMode, FixedSizeQuery, MaxMeasurement, PartialBatchSelector, PrepareOutcome, Query, ReportError, Revision,
        Secret, TokenHash, VdafConfig,
    },
    peer::RetryPolicy,
    vdaf::{AggregateResult, Measurement},
    wire::ProblemType,
};
use rstest::rstest;
use tempfile::TempDir;

use super::pair::{TaskprovPair, aggregated, assert_rejected, draft, has, header, near_future};
use crate::common::{
    Node,
    calls::expected_kind,
    peer,
    restore::{back_up, restore_from},
};

/// Runs the program.
pub fn dapbox(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    let output = command.args(arguments).env_remove("DAPBOX_CONFIG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[rstest]
#[case(BatchMode::TimeInterval, VdafConfig::Prio3Histogram { length: 3, chunk_length: 2 })]
#[case(BatchMode::fixed_size(Some(10)), VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(4) })]
#[tokio::test(flavor = "multi_thread")]
async fn provisions_task_with_first_report(
    #[case] mode: BatchMode,
    #[case] vdaf: VdafConfig,
    #[values(Revision::Dap09, Revision::Dap19)] revision: Revision,
) {
    let is_first = revision == Revision::Dap09;
    let mode = match mode {
        BatchMode::FixedSize { .. } if !is_first => BatchMode::fixed_size(None),
        mode => mode,
    };
    let mut pair = TaskprovPair::start_with(revision, |_| {}).await;
    let task = pair.task(|task| {
        (task.batch_mode, task.vdaf, task.min_batch_size) = (mode, vdaf.clone(), 3);
    });
    let parties = pair.parties(&task);
    assert!(!has(&pair.leader, &parties).await && !has(&pair.helper, &parties).await);

    let client = pair.client(&task);
    client.upload(Measurement::Number(2), None).await.unwrap();
    aggregated(&pair.helper, &parties, 1).await;
    for (node, file) in [(&pair.leader, &pair.files[0]), (&pair.helper, &pair.files[1])] {
        let status = node.status(&parties.id()).await;
        assert_eq!(status.in_band.unwrap().peer, file.endpoint);
        assert_eq!(status.provisioned, None);
    }
    tokio::join!(pair.leader.restart(), pair.helper.restart());
    // The task is known now, so the header is optional. In DAP-09, a report without the extension is rejected.
    let plain = Client::new(task.configuration.public.clone(), peer(), RetryPolicy::default()).unwrap();
    let counts_plain = !is_first && mode == BatchMode::TimeInterval;
    if is_first || counts_plain {
        plain.upload(Measurement::Number(1), None).await.unwrap();
    }
    if is_first {
        pair.leader.until(&parties.id(), |status| status.counters.get("invalid_message") == Some(&1)).await;
    }
    for _ in 0..2 {
        client.upload(Measurement::Number(2), None).await.unwrap();
    }
    let plain = u64::from(counts_plain);
    aggregated(&pair.helper, &parties, 3 + plain).await;
    let query = match mode {
        BatchMode::TimeInterval => parties.query_now(),
        BatchMode::FixedSize { .. } => Query::FixedSize(FixedSizeQuery::CurrentBatch),
    };
    let collected = pair.collector(&task).collect(query, None, |_| {}).await.unwrap();
    assert_eq!(collected.report_count, 3 + plain);
    let expected = match vdaf {
        VdafConfig::Prio3Sum { .. } => AggregateResult::Number(6 + u128::from(plain)),
        _ => AggregateResult::Vector(vec![0, plain.into(), 3]),
    };
    assert_eq!(collected.result, expected);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn uses_current_tokens_of_peer_files(#[values(Revision::Dap09, Revision::Dap19)] revision: Revision) {
    let mut pair = TaskprovPair::start_with(revision, |_| {}).await;
    let task = pair.task(|_| {});
    let parties = pair.parties(&task);
    pair.client(&task).upload(Measurement::Number(1), None).await.unwrap();
    aggregated(&pair.helper, &parties, 1).await;

    // The helper accepts another token from here on; the leader gets it later.
    let new = Secret::random_token();
    pair.files[1].leader_token_hashes = vec![TokenHash::of(new.expose())];
    pair.write(1);
    let reloaded = pair.helper.server().reload(pair.helper.config.clone()).await.unwrap();
    assert!(reloaded.errors.is_empty(), "{reloaded:?}");
    pair.client(&task).upload(Measurement::Number(1), None).await.unwrap();
    let stuck = pair.leader.until(&parties.id(), |status| status.last_error.is_some()).await;
    assert!(stuck.last_error.unwrap().contains("token"));
    pair.files[0].helper_tokens.insert(0, PresentedToken(new.clone()));
    pair.write(0);
    pair.leader.server().reload(pair.leader.config.clone()).await.unwrap();
    aggregated(&pair.helper, &parties, 2).await;

    // While the leader has no file of the helper, its jobs wait.
    let without = Config { taskprov: Default::default(), ..pair.leader.config.clone() };
    pair.leader.server().reload(without).await.unwrap();
    pair.client(&task).upload(Measurement::Number(1), None).await.unwrap();
    let stuck = pair.leader.until(&parties.id(), |status| status.last_error.is_some()).await;
    assert!(stuck.last_error.unwrap().contains("removed from taskprov.peers"));
    pair.leader.server().reload(pair.leader.config.clone()).await.unwrap();
    aggregated(&pair.helper, &parties, 3).await;

    // A broken file changes nothing.
    fs::write(pair.path(1), "role = \"leader\"\n").unwrap();
    let reloaded = pair.helper.server().reload(pair.helper.config.clone()).await.unwrap();
    assert!(reloaded.errors.iter().any(|trouble| trouble.contains("peer-1.toml")), "{reloaded:?}");
    pair.client(&task).upload(Measurement::Number(1), None).await.unwrap();
    aggregated(&pair.helper, &parties, 4).await;

    // The task has no tokens of its own to rotate; its status shows the current ones.
    let (id, data_dir) = (parties.id().to_string(), pair.helper.data_dir().to_str().unwrap());
    let hash = format!("--hash={}", TokenHash::of(b"x"));
    let refused = dapbox(&["task", "token", "accept", &id, &hash, "--data-dir", data_dir]).unwrap_err();
    assert!(refused.contains("in-band"), "{refused}");
    let listed = dapbox(&["task", "token", "list", &id, "--data-dir", data_dir]).unwrap();
    assert!(listed.contains(&TokenHash::of(new.expose()).to_string()), "{listed}");
    let shown = dapbox(&["task", "show", &id, "--data-dir", data_dir]).unwrap();
    assert!(shown.contains("in-band") && shown.contains(&pair.files[1].endpoint), "{shown}");

    // No token is valid for a removed peer. Its tasks stay.
    let config = Config { taskprov: Default::default(), ..pair.helper.config.clone() };
    pair.helper.server().reload(config).await.unwrap();
    let answer = pair.send_job(&parties, header(&task), Some(&new), Vec::new()).await;
    assert_rejected(&answer, expected_kind(revision, ProblemType::UnauthorizedRequest), "");
}

/// A restored helper has lost the task and the record of its aggregated reports.
#[tokio::test(flavor = "multi_thread")]
async fn does_not_aggregate_again_after_restore() {
    let mut pair = TaskprovPair::start(|_| {}).await;
    let task = pair.task(|_| {});
    let parties = pair.parties(&task);
    let backup = back_up(&pair.helper).await;
    let builder = pair.builder(&parties).await;
    let job = builder.job(PartialBatchSelector::TimeInterval, &[draft(&builder)]);
    let body = parties.wire().encode_job_init(parties.task(), &job);
    // The same report in a different job each time.
    let outcome = async |pair: &TaskprovPair| {
        let answer = pair.send_job(&parties, header(&task), Some(&pair.helper_token), body.clone()).await;
        parties.wire().decode_job_resp(&answer.body, 1).unwrap().remove(0).outcome
    };
    assert!(matches!(outcome(&pair).await, PrepareOutcome::Continue(_)));
    assert_eq!(outcome(&pair).await, PrepareOutcome::Reject(ReportError::ReportReplayed));
    restore_from(&mut pair.helper, &backup).await;
    assert!(!has(&pair.helper, &parties).await);
    assert_eq!(outcome(&pair).await, PrepareOutcome::Reject(ReportError::ReportDropped));
    assert!(has(&pair.helper, &parties).await);
    pair.helper.restart().await;
    assert_eq!(outcome(&pair).await, PrepareOutcome::Reject(ReportError::ReportDropped));
}

/// The commands of operators and collectors, from setup to result.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn works_from_command_line(#[values("09", "19")] revision: &str) {
    let (mut leader, mut helper) = (Node::start_with(near_future).await, Node::start_with(near_future).await);
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let origin = |node: &Node| format!("http://{}", node.config.listen);
    let (leader_url, helper_url) = (origin(&leader), origin(&helper));
    let new =
        ["taskprov", "new", "--dap", revision, "--leader", &leader_url, "--helper", &helper_url, "--out", &at("")];
    dapbox(&new).unwrap();
    assert!(dapbox(&new).unwrap_err().contains("already exists"));
    for (node, name) in [(&mut leader, "for-leader.toml"), (&mut helper, "for-helper.toml")] {
        let mode = fs::metadata(at(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        node.config.public_url = origin(node);
        node.config.taskprov.peers = vec![at(name).into()];
        node.restart().await;
    }
    let with_peers = |public_url: &str, name: &str| {
        let text = format!("public_url = {public_url:?}\n[taskprov]\npeers = [{:?}]\n", at(name));
        fs::write(at("appliance.toml"), text).unwrap();
    };
    with_peers("", "for-helper.toml");
    assert!(dapbox(&["task", "list", "--config", &at("appliance.toml")]).unwrap_err().contains("public_url"));
    with_peers(&helper_url, "for-helper.toml");
    let checked = dapbox(&["check", "--config", &at("appliance.toml")]).unwrap();
    assert!(checked.contains(&format!("{leader_url}/dap-{revision}/")), "{checked}");
    with_peers(&helper_url, "for-collector.toml");
    assert!(dapbox(&["check", "--config", &at("appliance.toml")]).is_err());

    let base = ["taskprov", "task", "--collector", &at("for-collector.toml"), "--vdaf", "sum", "--bits", "4"];
    let rest = ["--expires", "30d", "--min-batch-size", "2", "--out", &at("task"), "-o", "json"];
    let made = dapbox(&[&base[..], &rest].concat()).unwrap();
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let (client, collector) = (at("task/client.toml"), at("task/collector.toml"));
    assert_eq!(
        (&made["files"]["client"], &made["files"]["collector"]),
        (&client.clone().into(), &collector.clone().into())
    );
    let public = fs::read_to_string(&client).unwrap();
    assert!(!public.contains("token") && !public.contains("private"), "{public}");
    for number in ["3", "4"] {
        dapbox(&["upload", "--task", &client, number]).unwrap();
    }
    let collected = dapbox(&["collect", "--task", &collector, "--include-current", "--yes", "-o", "json"]).unwrap();
    let collected: serde_json::Value = serde_json::from_str(&collected).unwrap();
    assert_eq!((&collected["result"], &collected["report_count"]), (&7.into(), &2.into()));

    // A file that contradicts the advertisement is rejected.
    fs::write(&client, public.replace("min_batch_size = 2", "min_batch_size = 1")).unwrap();
    assert!(dapbox(&["upload", "--task", &client, "3"]).unwrap_err().contains("encoded configuration"));
    if revision != "09" {
        return;
    }
    let multihot =
        ["--vdaf", "multihot", "--length", "3", "--max-weight", "1", "--expires", "30d", "--out", &at("other")];
    assert!(dapbox(&[&base[..4], &multihot].concat()).unwrap_err().contains("not supported in in-band tasks"));
    let bounded =
        ["--vdaf", "l1-bound-sum", "--length", "3", "--max-value", "5", "--expires", "30d", "--out", &at("other")];
    assert!(dapbox(&[&base[..4], &bounded].concat()).unwrap_err().contains("not supported in in-band tasks"));
}
