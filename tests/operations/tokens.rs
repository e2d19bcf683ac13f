//! Tokens are rotated on running tasks, in either order and on both sides. A revoked token is refused immediately.

use std::{process::Command, sync::Arc, time::Instant};

use dapbox::{
    config::Config,
    model::{
        BatchMode, Duration, Revision, Secret, Task, TokenHash, VdafConfig,
        tokens::{NewToken, TokenChange},
    },
    support::{Act, Failpoints, Phase, Point, clock},
    vdaf::{AggregateResult, Measurement},
    wire::ProblemType,
};
use rstest::rstest;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::UnixStream, sync::Notify};

use crate::common::{
    Node, Pair, Parties, TEST_TIMEOUT,
    calls::{assert_accepted, assert_rejected, problem},
    report_builder::ReportBuilder,
};

const COUNT: VdafConfig = VdafConfig::Prio3Count;
/// How long the write takes, during which the operator disconnects.
const HANG_UP: std::time::Duration = std::time::Duration::from_millis(500);

/// The side that rotates first.
#[derive(Clone, Copy, Debug)]
enum First {
    Leader,
    Helper,
}

/// Does not wait for more reports.
fn at_once(config: &mut Config) {
    config.leader.min_job_size = 1;
}

/// Runs `dapbox task token …` on a node's data directory.
fn token(node: &Node, arguments: &[&str]) -> Result<String, String> {
    let data_dir = ["--data-dir", node.config.data_dir.to_str().unwrap()];
    run(&[&["task", "token"], arguments, &data_dir].concat())
}

pub fn run(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    let output = command.args(arguments).env_remove("DAPBOX_CONFIG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The arguments of the command that `rotate` prints for the other side.
fn printed(output: &str) -> Vec<String> {
    let line = output.lines().find_map(|line| line.trim().strip_prefix("dapbox task token "));
    line.unwrap_or_else(|| panic!("{output}")).split(' ').map(str::to_owned).collect()
}

/// Runs that command on the other side, with a grace period for the old token.
fn accept(node: &Node, output: &str, keep_old: &str) -> String {
    let command = printed(output);
    let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--keep-old", keep_old]).collect();
    token(node, &arguments).unwrap()
}

/// Uploads some reports of one each, and waits until they are aggregated.
async fn aggregate(pair: &Pair, parties: &Parties, builder: &ReportBuilder, so_far: &mut u64) {
    for _ in 0..3 {
        assert_accepted(&parties.upload(&builder.report(&Measurement::Number(1), clock::now())).await);
    }
    *so_far += 3;
    let wanted = *so_far;
    let is_done = |status: &dapbox::views::status::TaskStatus| {
        status.counters.get("aggregate_success") == Some(&wanted) && status.jobs == 0
    };
    pair.leader.until(&parties.id(), is_done).await;
}

/// Whether the helper accepts jobs with this token.
async fn is_taken(parties: &Parties, token: &Secret) -> bool {
    let as_bearer = Parties { helper_token: token.clone(), ..parties.clone() };
    // An empty body is no job: this error means that the token was accepted.
    let answer = as_bearer.send_job_bytes(&[1; 16], Vec::new()).await.answer;
    let is_taken = problem(&answer).kind == ProblemType::InvalidMessage;
    if !is_taken {
        assert_rejected(&answer, parties, ProblemType::UnauthorizedRequest);
    }
    is_taken
}

async fn begin(revision: Revision) -> (Pair, Parties, ReportBuilder) {
    let pair = Pair::start_with(revision, COUNT, BatchMode::TimeInterval, at_once, |_| {}).await;
    let parties = pair.parties.clone();
    let builder = ReportBuilder::new(&parties).await;
    (pair, parties, builder)
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn replaces_token_in_either_order(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(First::Leader, First::Helper)] first: First,
) {
    let (mut pair, parties, builder) = begin(revision).await;
    let (id, mut done) = (parties.id().to_string(), 0);
    aggregate(&pair, &parties, &builder, &mut done).await;

    let output = match first {
        First::Leader => {
            // The helper does not know the new token yet; the old one is used.
            let output = token(&pair.leader, &["rotate", &id[..8]]).unwrap();
            aggregate(&pair, &parties, &builder, &mut done).await;
            accept(&pair.helper, &output, "1h");
            output
        }
        First::Helper => {
            let file = pair.leader.dir.path().join("token");
            std::fs::write(&file, "the-new-token\n").unwrap();
            let file = file.to_str().unwrap();
            token(&pair.helper, &["accept", &id, "--token-file", file]).unwrap();
            aggregate(&pair, &parties, &builder, &mut done).await;
            token(&pair.leader, &["rotate", &id, "--token-file", file]).unwrap()
        }
    };
    aggregate(&pair, &parties, &builder, &mut done).await;
    assert!(is_taken(&parties, &parties.helper_token).await, "the old token goes on for a while");
    let listed: Value = serde_json::from_str(&token(&pair.helper, &["list", &id, "-o", "json"]).unwrap()).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert!(listed[0]["until"].is_null() && listed[1]["until"].is_u64(), "{listed}");
    assert!(listed[0]["last_presented"].is_u64() && listed[1]["last_presented"].is_u64(), "{listed}");

    // Without the old token, after a restart, and after adding the task's file again.
    accept(&pair.helper, &output, "0s");
    for side in [&mut pair.leader, &mut pair.helper] {
        side.restart().await;
    }
    pair.helper.add(&parties.helper).await;
    pair.leader.add(&parties.leader).await;
    assert!(!is_taken(&parties, &parties.helper_token).await, "the old token is not good any more");
    aggregate(&pair, &parties, &builder, &mut done).await;
    let collected = parties.collector().collect(parties.query_now(), None, |_| {}).await.unwrap();
    assert_eq!(collected.result, AggregateResult::Number(done.into()));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn finishes_job_with_new_token(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let (pair, parties, builder) = begin(revision).await;
    let (id, new) = (parties.id().to_string(), Secret::random_token());
    let hash = serde_json::to_value(TokenHash::of(new.expose())).unwrap();
    let hash = format!("--hash={}", hash.as_str().unwrap());
    token(&pair.helper, &["accept", &id, &hash, "--keep-old", "0s"]).unwrap();
    assert_accepted(&parties.upload(&builder.report(&Measurement::Number(1), clock::now())).await);
    pair.leader.until(&parties.id(), |status| status.jobs == 1 && status.last_error.is_some()).await;

    let file = pair.leader.dir.path().join("token");
    std::fs::write(&file, new.expose()).unwrap();
    token(&pair.leader, &["rotate", &id, "--token-file", file.to_str().unwrap()]).unwrap();
    pair.leader.until(&parties.id(), |status| status.counters.get("aggregate_success") == Some(&1)).await;
    let collected = parties.collector().collect(parties.query_now(), None, |_| {}).await.unwrap();
    assert_eq!(collected.result, AggregateResult::Number(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_replaces_token_in_file() {
    let pair = Pair::start_with(Revision::Dap09, COUNT, BatchMode::TimeInterval, at_once, |_| {}).await;
    let dir = pair.leader.dir.path().join("task");
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let [leader, helper] = [&pair.leader, &pair.helper].map(|node| format!("http://{}", node.config.listen));
    let task = ["--vdaf", "count", "--min-batch-size", "1", "--out", dir.to_str().unwrap()];
    run(&[&["task", "new", "--leader", &leader, "--helper", &helper][..], &task].concat()).unwrap();
    for (node, name) in [(&pair.leader, "leader.toml"), (&pair.helper, "helper.toml")] {
        let data_dir = node.config.data_dir.to_str().unwrap();
        run(&["task", "add", &file(name), "--data-dir", data_dir]).unwrap();
    }
    let (client, collector, old) = (file("client.toml"), file("collector.toml"), file("old.toml"));
    std::fs::copy(&collector, &old).unwrap();
    // The same interval each time: the leader returns the same result.
    let (start, length) = (clock::now().truncate(Duration(3600)).saturating_sub(Duration(3600)).0.to_string(), "3h");
    let collect = |file: &str| run(&["collect", "--task", file, "--interval", &start, length, "-o", "json"]);
    let count = |output: String| serde_json::from_str::<Value>(&output).unwrap()["report_count"].clone();

    run(&["upload", "--task", &client, "true"]).unwrap();
    let output = run(&["task", "token", "rotate", "--collector", &collector]).unwrap();
    let text = std::fs::read_to_string(&collector).unwrap();
    assert!(text.contains("previous_token = "), "{text}");
    // The leader does not know it yet.
    assert_eq!(count(collect(&collector).unwrap()), 1);
    accept(&pair.leader, &output, "0s");
    assert_eq!(count(collect(&collector).unwrap()), 1);
    // A second rotation before the first is complete would lose the token that the leader knows.
    let again = run(&["task", "token", "rotate", "--collector", &collector]).unwrap_err();
    assert!(again.contains("previous_token") && std::fs::read_to_string(&collector).unwrap() == text, "{again}");
    let refused = collect(&old).unwrap_err();
    assert!(refused.contains("the token is not valid for the task"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn revokes_token_after_operator_hangs_up() {
    let (mut pair, parties, _) = begin(Revision::Dap09).await;
    let stored = Arc::new(Notify::new());
    let told = stored.clone();
    pair.helper
        .restart_with(Failpoints::new(move |point, phase| {
            if (point, phase) != (Point::TokenChange, Phase::After) {
                return Act::Go;
            }
            told.notify_one();
            Act::Wait(HANG_UP)
        }))
        .await;
    // The token is cached; the cache must be invalidated.
    assert!(is_taken(&parties, &parties.helper_token).await);
    let new = NewToken::Accepted(TokenHash::of(b"new"));
    let change = TokenChange { task: parties.id(), new, keep_old: Duration(0) };
    let body = serde_json::to_string(&change).unwrap();
    let mut operator = UnixStream::connect(pair.helper.config.control_socket()).await.unwrap();
    let head = format!("POST /tokens HTTP/1.1\r\nhost: control\r\ncontent-length: {}\r\n\r\n", body.len());
    operator.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stored.notified().await;
    drop(operator);
    let deadline = Instant::now() + TEST_TIMEOUT;
    while is_taken(&parties, &parties.helper_token).await {
        assert!(Instant::now() < deadline, "the token is still good");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_rotation_at_helper_and_of_unknown_task() {
    let (mut pair, parties, _) = begin(Revision::Dap09).await;
    let id = parties.id().to_string();
    let refused = |arguments: &[&str], node: &Node, word: &str| {
        let error = token(node, arguments).unwrap_err();
        assert!(error.contains(word), "{error}");
    };
    // With and without a running server.
    for round in 0..2 {
        refused(&["rotate", &id], &pair.helper, "presents no token");
        refused(&["rotate", "unknown"], &pair.leader, "unknown task");
        refused(&["accept", &id, "--hash", "short"], &pair.helper, "--hash");
        if round == 0 {
            pair.helper.stop().await;
            pair.leader.stop().await;
        }
    }
    let output = token(&pair.leader, &["rotate", &id]).unwrap();
    accept(&pair.helper, &output, "0s");
    pair.helper.resume().await;
    let Task { party, .. } = &parties.leader;
    assert!(!format!("{party:?} {output}").contains(parties.helper_token.expose_text().unwrap()));
    assert!(!is_taken(&parties, &parties.helper_token).await);
}
