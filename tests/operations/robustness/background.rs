//! Background parts that panic. Drivers are restarted, jobs are retried, listeners and the store stop the server.
//! Status and readiness show it meanwhile.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use dapbox::{
    config::{Config, OptionalAddress, TlsMode},
    model::{BatchMode, Revision, VdafConfig},
    support::{Act, Failpoints, Part, Phase, Point},
    vdaf::{AggregateResult, Measurement},
};
use rstest::rstest;
use serde_json::Value;

use crate::common::{self, Node, Pair, TEST_TIMEOUT, tls::Authority};

/// The parts that currently panic.
#[derive(Clone, Default)]
struct Panicking(Arc<Mutex<BTreeSet<Part>>>);

impl Panicking {
    fn these(parts: &[Part]) -> Self {
        Self(Arc::new(Mutex::new(parts.iter().copied().collect())))
    }

    fn failpoints(&self) -> Failpoints {
        let parts = self.0.clone();
        Failpoints::default().with_panics(move |part| parts.lock().unwrap().contains(&part))
    }

    fn stop(&self) {
        self.0.lock().unwrap().clear();
    }
}

fn watched(config: &mut Config) {
    config.monitor.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
    config.leader.min_job_size = 1;
    // The helper defers every job where the protocol permits it.
    config.helper.synchronous_reports = 0;
}

async fn get(node: &Node, path: &str) -> (u16, String) {
    let answer = common::get(node.monitor() + path).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Waits until the readiness of a node satisfies a condition.
async fn until_ready(node: &Node, is_right: impl Fn(u16, &str) -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let (status, reasons) = get(node, "readyz").await;
        if is_right(status, &reasons) {
            return;
        }
        assert!(Instant::now() < deadline, "still {status}: {reasons}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Waits until all of these parts are reported as failed together.
async fn until_broken(node: &Node, parts: &[Part]) {
    let is_named = |reasons: &str, part: &Part| reasons.contains(&format!("background component {part} failed"));
    until_ready(node, |status, reasons| status == 503 && parts.iter().all(|part| is_named(reasons, part))).await;
}

/// The failure counter of a part.
async fn failures(node: &Node, part: Part) -> u64 {
    let (name, metrics) =
        (format!("dapbox_background_failures_total{{part=\"{part}\"}} "), get(node, "metrics").await.1);
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// The doctor's finding about the server.
async fn diagnosis(node: &Node) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(["doctor", "--offline", "-o", "json", "--data-dir"]).arg(node.data_dir()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    findings.as_array().unwrap().iter().find(|finding| finding["name"] == "server").unwrap().clone()
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn restarts_panicked_driver(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    const DRIVERS: [Part; 7] = [
        Part::AggregationJobs,
        Part::CollectionJobs,
        Part::DeferredJobs,
        Part::Sweep,
        Part::HpkeKeys,
        Part::Disk,
        Part::History,
    ];
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let mut pair = Pair::start_with(revision, vdaf, mode, watched, |_| {}).await;
    let panicking = Panicking::these(&DRIVERS);
    pair.leader.restart_with(panicking.failpoints()).await;
    pair.helper.restart_with(panicking.failpoints()).await;
    // Requests that need no driver succeed.
    pair.parties.client().upload(Measurement::Flag(true), None).await.unwrap();
    for node in [&pair.leader, &pair.helper] {
        until_broken(node, &DRIVERS).await;
        assert_eq!(get(node, "healthz").await.0, 200, "a restart of the server would be of no use");
        for part in DRIVERS {
            assert!(failures(node, part).await > 0, "{part}");
        }
    }
    let finding = diagnosis(&pair.leader).await;
    assert_eq!(finding["outcome"], "failed", "{finding}");
    assert!(finding["detail"].as_str().unwrap().contains("injected panic in"), "{finding}");
    panicking.stop();
    for node in [&pair.leader, &pair.helper] {
        until_ready(node, |status, _| status == 200).await;
    }
    let query = pair.parties.query_now();
    let collected = pair.parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (1, AggregateResult::Number(1)));
    assert_eq!(diagnosis(&pair.leader).await["outcome"], "ok");
    pair.stop().await;
}

#[rstest]
#[case(TlsMode::Files, Part::CertificateFiles)]
#[case(TlsMode::Acme, Part::Acme)]
#[tokio::test(flavor = "multi_thread")]
async fn restarts_panicked_certificate_task(#[case] mode: TlsMode, #[case] part: Part) {
    let authority = Authority::new();
    let mut node = Node::start_with(|config| {
        watched(config);
        authority.equip(config);
        config.tls.mode = mode;
        config.acme.domains = vec!["helper.example".to_owned()];
        // The authority does not exist.
        config.acme.directory = "https://127.0.0.1:1/directory".to_owned();
    })
    .await;
    let panicking = Panicking::these(&[part]);
    node.restart_with(panicking.failpoints()).await;
    until_broken(&node, &[part]).await;
    panicking.stop();
    until_ready(&node, |_, reasons| !reasons.contains("background component")).await;
    node.stop().await;
}

/// The job of one task is retried; other work continues.
#[rstest]
#[case(Revision::Dap09, Part::AggregationJob)]
#[case(Revision::Dap18, Part::AggregationJob)]
#[case(Revision::Dap09, Part::CollectionJob)]
#[case(Revision::Dap18, Part::CollectionJob)]
#[case(Revision::Dap18, Part::DeferredJob)]
#[tokio::test(flavor = "multi_thread")]
async fn retries_panicked_job(#[case] revision: Revision, #[case] part: Part) {
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let mut pair = Pair::start_with(revision, vdaf, mode, watched, |_| {}).await;
    let panicking = Panicking::these(&[part]);
    pair.leader.restart_with(panicking.failpoints()).await;
    pair.helper.restart_with(panicking.failpoints()).await;
    let parties = pair.parties.clone();
    parties.client().upload(Measurement::Flag(true), None).await.unwrap();
    let query = parties.query_now();
    let collector = parties.clone();
    let collection =
        tokio::spawn(async move { collector.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap() });
    let node = if part == Part::DeferredJob { &pair.helper } else { &pair.leader };
    let says_why = |trouble: &String| trouble.contains(&format!("{part} failed")) && trouble.contains("injected panic");
    node.until(&parties.id(), |status| status.last_error.as_ref().is_some_and(says_why)).await;
    assert_eq!(get(node, "readyz").await, (200, "ready\n".to_owned()));
    assert!(failures(node, part).await > 0);
    panicking.stop();
    let collected = collection.await.unwrap();
    assert_eq!((collected.report_count, collected.result), (1, AggregateResult::Number(1)));
    node.until(&parties.id(), |status| status.last_error.is_none()).await;
    pair.stop().await;
}

/// A leader that panics after the helper has acted repeats the same request, and nothing counts twice.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn counts_once_after_panic_past_helper_answer(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(Point::SendJob, Point::SendShare)] point: Point,
) {
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let eager = |config: &mut Config| config.leader.min_job_size = 1;
    let mut pair = Pair::start_with(revision, vdaf, mode, eager, |_| {}).await;
    let has_panicked = Arc::new(AtomicBool::new(false));
    let shared = has_panicked.clone();
    let once = move |at, phase| match (at, phase) == (point, Phase::After) && !shared.swap(true, Ordering::SeqCst) {
        true => Act::Panic,
        false => Act::Go,
    };
    pair.leader.restart_with(Failpoints::new(once)).await;
    let parties = &pair.parties;
    parties.client().upload(Measurement::Flag(true), None).await.unwrap();
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (1, AggregateResult::Number(1)));
    assert!(has_panicked.load(Ordering::SeqCst));
    for node in [&pair.leader, &pair.helper] {
        assert_eq!(node.counter(&parties.id(), "aggregate_success").await, 1);
    }
    pair.stop().await;
}

#[rstest]
#[case(Part::PublicListener)]
#[case(Part::ManagementListener)]
#[case(Part::ControlSocket)]
#[case(Part::MonitorListener)]
#[tokio::test(flavor = "multi_thread")]
async fn panicked_listener_stops_server(#[case] part: Part) {
    let mut node = Node::start_with(|config| {
        watched(config);
        config.public_url = "https://dap.example".to_owned();
        config.management.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
    })
    .await;
    node.restart_with(Panicking::these(&[part]).failpoints()).await;
    let fault = tokio::time::timeout(TEST_TIMEOUT, node.server().failed()).await.unwrap().to_string();
    assert!(fault.contains(&format!("background component {part} failed: panicked: injected panic")), "{fault}");
    if part != Part::MonitorListener {
        for path in ["healthz", "readyz"] {
            let (status, text) = get(&node, path).await;
            assert!(status == 503 && text.contains(&fault), "{path}: {status} {text}");
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn panicked_store_stops_server() {
    let mut node = Node::start_with(watched).await;
    let panics = |at, phase| if (at, phase) == (Point::TaskAdd, Phase::Before) { Act::Panic } else { Act::Go };
    node.restart_with(Failpoints::new(panics)).await;
    let [leader, helper] = ["http://127.0.0.1:1/dap-18/", "http://127.0.0.1:2/dap-18/"].map(str::to_owned);
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let parties = common::Parties::new(Revision::Dap18, vdaf, mode, leader, helper);
    assert_eq!(node.try_add(&parties.leader).await, 500);
    let fault = tokio::time::timeout(TEST_TIMEOUT, node.server().failed()).await.unwrap().to_string();
    assert!(fault.contains("a write panicked: injected panic at TaskAdd"), "{fault}");
    assert_eq!(get(&node, "healthz").await.0, 503);
    node.stop().await;
}
