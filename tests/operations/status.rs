//! The private listener, the metrics and `dapbox status` show what a server has done.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;

use dapbox::{
    config::{Config, OptionalAddress, TlsMode},
    model::{
        BatchMode, Duration, FixedSizeQuery, Interval, KeyState, PrepareOutcome, Query, Revision, Role, Task, Time,
        VdafConfig,
    },
    server::{METRICS, MetricKind, Server, store_options},
    store,
    support::{Act, Failpoints, Phase, Point, clock, timestamp},
    vdaf::{AggregateResult, Measurement},
    views::{
        overview::{BatchState, Overview, TaskView},
        status::ResultState,
    },
    wire::{self, ResourceKind},
};
use rstest::rstest;

use crate::common::{
    self, Node, Pair, Parties, TEST_TIMEOUT,
    child::{Running, Signal},
    raw::{begin_request, send_raw},
    relay::{MEASUREMENTS, RelayAction, RelayedAnswer, pair_through_relay, upload_all},
    report_builder::{ReportBuilder, flipped, other_config_id},
    skip::has_programs,
};

const HOUR: u64 = 3600;

fn watched(config: &mut Config) {
    config.monitor.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
    config.leader.min_job_size = 1;
}

async fn get(node: &Node, path: &str) -> (u16, String) {
    let answer = common::get(node.monitor() + path).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn overview(node: &Node) -> Overview {
    serde_json::from_str(&get(node, "status.json").await.1).unwrap()
}

/// Waits until the only task of a node satisfies a condition.
async fn until(node: &Node, is_right: impl Fn(&TaskView) -> bool) -> TaskView {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let view = overview(node).await.tasks.remove(0);
        if is_right(&view) {
            return view;
        }
        assert!(Instant::now() < deadline, "still not so: {view:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Parses the text format of Prometheus into values by name and sorted labels. Asserts that each sample belongs to a
/// declared metric, that none is repeated, and that histograms add up.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut kinds, mut helps, mut values) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(helps.insert(help.split_once(' ').unwrap().0.to_owned()), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none() && helps.contains(name), "{line}");
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = key.strip_suffix('}').map_or((key, ""), |key| key.split_once('{').unwrap());
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let is_part = base.is_some_and(|base| kinds.get(base).is_some_and(|kind| kind == "histogram"));
            assert!(is_part || kinds.get(name).is_some_and(|kind| kind != "histogram"), "not declared: {line}");
            let mut labels: Vec<_> = labels.split("\",").map(|label| label.trim_end_matches('"')).collect();
            labels.sort_unstable();
            let key = format!("{name}{{{}}}", labels.join(",").replace('"', ""));
            assert!(values.insert(key, value.parse::<f64>().unwrap()).is_none(), "twice: {line}");
        }
    }
    for (key, count) in values.iter().filter(|(key, _)| key.contains("_bucket{") && key.contains("le=+Inf")) {
        let whole = key.replace("_bucket{", "_count{").replace("le=+Inf,", "").replace("le=+Inf", "");
        assert_eq!(values.get(&whole), Some(count), "{key}");
    }
    values
}

async fn metrics(node: &Node) -> BTreeMap<String, f64> {
    parse(&get(node, "metrics").await.1)
}

fn dapbox(arguments: &[&str], node: &Node) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).args(["--data-dir", node.data_dir().to_str().unwrap()]);
    command.env_remove("DAPBOX_CONFIG").env_remove("NO_COLOR").env("TERM", "xterm").env("RUST_BACKTRACE", "0");
    command
}

/// Runs a command without blocking the servers of the test.
async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn stdout(arguments: &[&str], node: &Node) -> String {
    let output = run(dapbox(arguments, node)).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The middle of the hour this many hours ago.
fn hours_ago(hours: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(hours * HOUR - HOUR / 2))
}

fn hour_of(time: Time) -> Interval {
    Interval::new(time.truncate(Duration(HOUR)), Duration(HOUR)).unwrap()
}

/// Three reports pending for a batch of three with an unreachable helper, and rejected ones.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn shows_completed_work(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let three = |task: &mut Task| task.public.min_batch_size = 3;
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let mut pair = Pair::start_with(revision, vdaf, mode, watched, three).await;
    let (parties, (time, earlier)) = (pair.parties.clone(), (hours_ago(5), hours_ago(9)));
    let (builder, yes) = (ReportBuilder::new(&parties).await, Measurement::Flag(true));
    let new = overview(&pair.leader).await;
    assert_eq!((new.not_ready, new.keys.len(), new.tasks.len()), (vec![], 1, 1));
    assert_eq!((new.keys[0].state, &*new.keys[0].suite), (KeyState::Active, "x25519-sha256-aes128gcm"));
    let view = &new.tasks[0];
    assert_eq!((view.status.id, view.status.role, view.counts.batches()), (parties.id(), Role::Leader, 0));
    assert_eq!((view.peer.as_ref().unwrap().last_success, view.oldest_waiting), (None, None));

    pair.helper.stop().await;
    let reports: Vec<_> = (0..3).map(|_| builder.report(&yes, time)).collect();
    parties.upload(&builder.report(&yes, earlier)).await;
    for report in &reports[..2] {
        parties.upload(report).await;
    }
    let batches = |view: &TaskView| {
        let batches = view.batches.iter().map(|b| (b.interval.unwrap(), b.aggregated, b.waiting, b.state));
        batches.collect::<Vec<_>>()
    };
    let view = until(&pair.leader, |view| view.status.last_error.is_some()).await;
    let lonely = (hour_of(earlier), 0, 1, BatchState::TooFew);
    assert_eq!(batches(&view), [(hour_of(time), 0, 2, BatchState::TooFew), lonely]);
    // The upload time, not the time of the report.
    assert!((Some(new.started)..=Some(clock::now())).contains(&view.oldest_waiting), "{:?}", view.oldest_waiting);
    let peer = view.peer.unwrap();
    assert!(peer.last_failure.is_some() && peer.last_success.is_none(), "{peer:?}");
    parties.upload(&reports[2]).await;
    let view = overview(&pair.leader).await.tasks.remove(0);
    assert_eq!(batches(&view), [(hour_of(time), 0, 3, BatchState::NotAggregatedYet), lonely]);
    assert_eq!(
        get(&pair.leader, "readyz").await,
        (200, "ready\n".to_owned()),
        "a helper that is away is not our fault"
    );
    let shown = stdout(&["status"], &pair.leader).await;
    assert!(shown.contains("1 not aggregated yet, 1 with too few reports"), "{shown}");
    assert!(shown.contains("failing: no response since the start"), "{shown}");
    assert_eq!(metrics(&pair.leader).await[&format!("dapbox_helper_stuck{{task={}}}", parties.id())], 1.0);

    let too_early = builder.report(&yes, clock::now().saturating_add(Duration(24 * HOUR)));
    parties.upload(&too_early).await;
    parties.upload(&reports[0]).await;
    parties.upload_bytes(vec![1, 2, 3]).await;

    pair.helper.resume().await;
    let view = until(&pair.leader, |view| view.status.counters.get("aggregate_success") == Some(&4)).await;
    let view_again = until(&pair.leader, |view| view.status.last_error.is_none()).await;
    assert!(view_again.peer.unwrap().last_success.is_some());
    let lonely = (hour_of(earlier), 1, 0, BatchState::TooFew);
    assert_eq!(batches(&view), [(hour_of(time), 3, 0, BatchState::Ready), lonely]);
    check_numbers(&pair, &parties).await;

    let collected = parties.collector().collect(Query::TimeInterval(hour_of(time)), Some(TEST_TIMEOUT), |_| {}).await;
    assert_eq!(collected.unwrap().result, AggregateResult::Number(3));
    let view = overview(&pair.leader).await.tasks.remove(0);
    assert_eq!((batches(&view), view.status.batches_collected), (vec![lonely], 1));
    for node in [&pair.leader, &pair.helper] {
        let seen = metrics(node).await;
        assert_eq!(seen[&format!("dapbox_batches_collected_total{{task={}}}", parties.id())], 1.0);
    }
    // The counters of a task continue after a restart.
    pair.leader.restart().await;
    let seen = metrics(&pair.leader).await;
    assert_eq!(seen[&format!("dapbox_uploads_total{{task={}}}", parties.id())], 4.0);
    assert_eq!(overview(&pair.leader).await.tasks[0].history.iter().map(|sample| sample.uploaded).sum::<u64>(), 0);
    pair.leader.remove(&parties.id()).await;
    assert_eq!(overview(&pair.leader).await.tasks, []);
    pair.stop().await;
}

/// After four accepted uploads, a repeated one and two rejected ones: all views have these numbers.
async fn check_numbers(pair: &Pair, parties: &Parties) {
    let (id, dap09) = (parties.id().to_string(), parties.revision() == Revision::Dap09);
    let seen = metrics(&pair.leader).await;
    let value = |key: &str| *seen.get(&key.replace("TASK", &id)).unwrap_or_else(|| panic!("{key} is not in {seen:#?}"));
    for (key, expected) in [
        ("dapbox_ready{}", 1.0),
        ("dapbox_uploads_total{task=TASK}", 4.0),
        ("dapbox_uploads_repeated_total{task=TASK}", 1.0),
        ("dapbox_reports_aggregated_total{task=TASK}", 4.0),
        ("dapbox_reports_refused_total{reason=upload_too_early,task=TASK}", 1.0),
        ("dapbox_reports_refused_total{reason=report_decode_failure,task=TASK}", 1.0),
        ("dapbox_reports_waiting{task=TASK}", 0.0),
        ("dapbox_batches{state=ready,task=TASK}", 1.0),
        ("dapbox_batches{state=too_few,task=TASK}", 1.0),
        ("dapbox_aggregation_jobs{state=sent,task=TASK}", 0.0),
        ("dapbox_helper_stuck{task=TASK}", 0.0),
        // If a single report is rejected, the upload as a whole is not.
        ("dapbox_request_duration_seconds_count{route=reports,status=2xx}", if dap09 { 5.0 } else { 6.0 }),
        ("dapbox_request_duration_seconds_count{route=reports,status=4xx}", if dap09 { 2.0 } else { 1.0 }),
    ] {
        assert_eq!(value(key), expected, "{key}");
    }
    assert_eq!(value("dapbox_store_commit_duration_seconds_count{}"), value("dapbox_store_commits_total{}"));
    assert!(value("dapbox_helper_request_duration_seconds_count{outcome=failed,request=aggregation_job}") > 0.0);
    assert!(value("dapbox_helper_last_success_timestamp_seconds{task=TASK}") > 0.0);
    assert!(value("process_open_fds{}") > 0.0 && value("process_resident_memory_bytes{}") > 0.0);
    let helpers = metrics(&pair.helper).await;
    assert_eq!(helpers[&format!("dapbox_reports_aggregated_total{{task={id}}}")], 4.0);
    assert!(!helpers.contains_key(&format!("dapbox_uploads_total{{task={id}}}")), "a helper has no uploads");

    let view = overview(&pair.leader).await.tasks.remove(0);
    let refused = [("report_decode_failure".to_owned(), 1), ("upload_too_early".to_owned(), 1)];
    assert_eq!(view.refused, refused.into());
    let sums = view.history.iter().fold([0; 3], |[uploaded, aggregated, refused], sample| {
        [uploaded + sample.uploaded, aggregated + sample.aggregated, refused + sample.refused]
    });
    assert_eq!(sums, [4, 4, 2]);
    assert!(view.upload_rate > 0.0 && view.aggregation_rate > 0.0);

    let json = stdout(&["status", "-o", "json", &id[..8]], &pair.leader).await;
    let by_command: Overview = serde_json::from_str(&json).unwrap();
    assert_eq!((&by_command.tasks[0].batches, &by_command.tasks[0].refused), (&view.batches, &view.refused));
    let shown = stdout(&["status"], &pair.leader).await;
    let parts =
        ["ready, up", ", 4 total", "1 ready to collect, 1 with too few reports", "1  with a time too far ahead"];
    for part in parts {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 80) && !shown.contains('\x1b'), "{shown}");
    assert!(stdout(&["status"], &pair.helper).await.contains("helper        dap-"));
    let missing = run(dapbox(&["status", "nosuchtask"], &pair.leader)).await;
    assert!(
        missing.status.code() == Some(1)
            && String::from_utf8_lossy(&missing.stderr).contains("unknown task nosuchtask")
    );
}

/// Leader-selected batches: reports fill one after the other.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn shows_filling_of_fixed_size_batches(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let two = |task: &mut Task| task.public.min_batch_size = 2;
    let mode = common::batches_of(revision, 3);
    let mut pair = Pair::start_with(revision, VdafConfig::Prio3Count, mode, watched, two).await;
    let client = pair.parties.client();
    let upload = async || client.upload(Measurement::Flag(true), None).await.unwrap();
    // Keys are fetched while both servers run.
    upload().await;
    let batches = |view: &TaskView| {
        let mut all: Vec<_> = view.batches.iter().map(|b| (b.state, b.aggregated, b.waiting)).collect();
        all.sort_by_key(|(_, aggregated, waiting)| std::cmp::Reverse(aggregated + waiting));
        all
    };
    until(&pair.leader, |view| batches(view) == [(BatchState::TooFew, 1, 0)]).await;
    pair.helper.stop().await;
    upload().await;
    until(&pair.leader, |view| batches(view) == [(BatchState::NotAggregatedYet, 1, 1)]).await;
    upload().await;
    let expected = [(BatchState::NotAggregatedYet, 1, 1), (BatchState::TooFew, 0, 1)];
    until(&pair.leader, |view| batches(view) == expected).await;
    pair.helper.resume().await;
    let view = until(&pair.leader, |view| view.status.counters.get("aggregate_success") == Some(&3)).await;
    assert_eq!(batches(&view), [(BatchState::Ready, 2, 0), (BatchState::TooFew, 1, 0)]);
    assert!(view.batches.iter().all(|batch| batch.id.is_some() && batch.interval.is_some()), "{:?}", view.batches);
    let query = Query::FixedSize(FixedSizeQuery::CurrentBatch);
    pair.parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    let view = overview(&pair.leader).await.tasks.remove(0);
    assert_eq!(batches(&view), [(BatchState::TooFew, 1, 0)]);
    pair.stop().await;
}

/// Each listed metric is exposed, and no other, in both formats.
#[tokio::test(flavor = "multi_thread")]
async fn exposes_listed_metrics_only() {
    let mut node = Node::start_with(watched).await;
    let (_, plain) = get(&node, "metrics").await;
    let told: Vec<(&str, &str)> =
        plain.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let kind = |kind| match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    };
    let listed: Vec<_> = METRICS.iter().map(|metric| (metric.name, kind(metric.kind))).collect();
    assert_eq!(told, listed);
    let url = node.monitor() + "metrics";
    let said = send_raw("GET", &url, &[("accept", "application/openmetrics-text;version=1.0.0")], Vec::new()).await;
    assert_eq!(said.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(said.body.ends_with(b"# EOF\n"));
    node.stop().await;
}

/// Prometheus's own tool parses the metrics.
#[tokio::test(flavor = "multi_thread")]
async fn passes_promtool() {
    if !has_programs(&["promtool"]) {
        return;
    }
    let mut node = Node::start_with(watched).await;
    let (_, plain) = get(&node, "metrics").await;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(plain.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    node.stop().await;
}

/// The private listener is read-only, and no web site can read it through a browser.
#[tokio::test(flavor = "multi_thread")]
async fn refuses_foreign_hosts_on_private_listener() {
    let mut node = Node::start_with(watched).await;
    let url = node.monitor() + "status.json";
    for host in ["evil.example", "localhost.evil.example:9464"] {
        let refused = send_raw("GET", &url, &[("host", host)], Vec::new()).await;
        assert_eq!(refused.status, 421);
        assert!(!String::from_utf8_lossy(&refused.body).contains("not_ready"));
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = send_raw(method, &url, &[], Vec::new()).await;
        assert_eq!((refused.status, refused.header("allow")), (405, "GET, HEAD"), "{method}");
    }
    let said = send_raw("GET", &url, &[("origin", "https://evil.example"), ("host", "localhost")], Vec::new()).await;
    assert_eq!((said.status, said.header("content-type")), (200, "application/json"));
    assert_eq!(said.header("access-control-allow-origin"), "");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(said.header(name), value);
    }
    let head = send_raw("HEAD", &url, &[], Vec::new()).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(get(&node, "nothing").await.0, 404);
    assert_eq!(get(&node, "tasks").await.0, 404, "this is not the control socket");
    node.stop().await;

    let mut node = Node::start().await;
    assert_eq!(node.config.monitor.listen, OptionalAddress(None));
    node.stop().await;
}

/// The error names the listener that cannot bind, with a hint.
#[tokio::test(flavor = "multi_thread")]
async fn refuses_taken_address_with_hint() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.monitor.listen = OptionalAddress(Some(taken.local_addr().unwrap()));
    let error = Server::start(config).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("set monitor.listen to a free address, or to \"\" for none"), "{error}");
}

/// Readiness and health: a full disk, a shutdown, and a stopped store.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_reasons() {
    let mut short = Node::start_with(|config| {
        watched(config);
        config.disk.reserve_bytes = 1 << 60;
    })
    .await;
    let (status, why) = get(&short, "readyz").await;
    assert!(status == 503 && why.starts_with("low on disk space: "), "{why}");
    assert_eq!(get(&short, "healthz").await, (200, "ok\n".to_owned()));
    let seen = metrics(&short).await;
    assert_eq!((seen["dapbox_ready{}"], seen["dapbox_disk_short{}"]), (0.0, 1.0));
    assert!(stdout(&["status"], &short).await.contains("not ready, up"));
    short.stop().await;

    // A request without its body delays the shutdown, and thereby the end of the private listener.
    let pair =
        Pair::start_with(Revision::Dap09, VdafConfig::Prio3Count, BatchMode::TimeInterval, watched, |_| {}).await;
    let (parties, mut leader, mut helper) = (pair.parties, pair.leader, pair.helper);
    let call = parties.wire().upload_request(&parties.id());
    let (monitor, url) = (leader.monitor(), parties.at_leader(&call.path));
    let headers = [("content-type", call.content_type.unwrap()), ("content-length", "100")];
    let open = begin_request(call.method, &url, &headers).await;
    while metrics(&leader).await["dapbox_request_bodies_pending{}"] == 0.0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let stopping = tokio::spawn(async move { leader.stop().await });
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let answer = common::get(format!("{monitor}readyz")).await.unwrap();
        if answer.status() == 503 {
            assert_eq!(answer.text().await.unwrap(), "the server is stopping\n");
            break;
        }
        assert!(Instant::now() < deadline, "it never says that it stops");
    }
    drop(open);
    stopping.await.unwrap();
    assert!(common::get(format!("{monitor}readyz")).await.is_err());
    helper.stop().await;
}

/// Without a first certificate no client can connect, and every view says why there is none.
#[tokio::test(flavor = "multi_thread")]
async fn shows_acme_failure() {
    let mut node = Node::start_with(|config| {
        watched(config);
        config.tls.mode = TlsMode::Acme;
        config.acme.domains = vec!["dap.example.test".to_owned()];
        // A reserved port on which no server listens.
        config.acme.directory = "https://127.0.0.1:1/directory".to_owned();
    })
    .await;
    let deadline = Instant::now() + TEST_TIMEOUT;
    let trouble = loop {
        let tls = overview(&node).await.tls.unwrap();
        assert_eq!(tls.certificate, None);
        if let Some(trouble) = tls.last_error {
            break trouble;
        }
        assert!(Instant::now() < deadline, "it never says why");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert!(trouble.contains("cannot connect to the CA"), "{trouble}");
    assert_eq!(get(&node, "readyz").await, (503, format!("no TLS certificate yet: {trouble}\n")));
    assert_eq!(metrics(&node).await["dapbox_certificate_error{}"], 1.0);
    let shown = stdout(&["status"], &node).await;
    assert!(shown.contains("certificate   none yet") && shown.contains("cannot connect to the CA"), "{shown}");
    let page = get(&node, "").await.1;
    assert!(page.contains("none yet") && page.contains("cannot connect to the CA"), "{page}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn is_unhealthy_after_store_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.disk.reserve_bytes, config.disk.ballast_bytes) = (0, 0);
    watched(&mut config);
    let fails = |point, phase| if (point, phase) == (Point::TaskAdd, Phase::Before) { Act::Fail } else { Act::Go };
    let options = store::Options { failpoints: Failpoints::new(fails), ..store_options(&config) };
    let socket = config.control_socket();
    let server = Server::start_with(config, options).await.unwrap();
    let monitor = format!("http://{}/", server.monitor_address().unwrap());
    let get = async |path: &str| {
        let answer = common::get(format!("{monitor}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("healthz").await.0, 200);
    let [leader, helper] = ["leader", "helper"].map(|name| format!("http://{name}.example/"));
    let task = Parties::new(Revision::Dap09, VdafConfig::Prio3Count, BatchMode::TimeInterval, leader, helper).leader;
    let control = reqwest::Client::builder().unix_socket(socket).build().unwrap();
    assert_eq!(control.post("http://control/tasks").json(&task).send().await.unwrap().status(), 500);
    for path in ["healthz", "readyz"] {
        let (status, why) = get(path).await;
        assert!(status == 503 && why.contains("injected failure at TaskAdd"), "{path}: {why}");
    }
    let seen: Overview = serde_json::from_str(&get("status.json").await.1).unwrap();
    assert!(seen.not_ready[0].contains("the store has stopped"), "{seen:?}");
    assert_eq!(parse(&get("metrics").await.1)["dapbox_ready{}"], 0.0);
    server.stop().await.unwrap();
}

/// Repeated output, as JSON.
#[tokio::test(flavor = "multi_thread")]
async fn watches_until_interrupted() {
    let mut node = Node::start_with(watched).await;
    let mut command = dapbox(&["status", "--watch", "-o", "json", "--every", "50ms"], &node);
    let mut child = Running::spawn(command.stdout(Stdio::piped()));
    let seen = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let read = |line: Option<std::io::Result<String>>| serde_json::from_str::<Overview>(&line.unwrap().unwrap());
        let seen = [read(lines.next()).unwrap(), read(lines.next()).unwrap()];
        child.signal(Signal::INT);
        assert!(child.wait().unwrap().success());
        seen
    });
    let [first, second] = seen.await.unwrap();
    assert_eq!((first.started, first.version), (second.started, second.version));
    node.stop().await;
    let output = run(dapbox(&["status", "--watch"], &node)).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("start it with 'dapbox serve'"), "{said}");
}

/// The terminal is drawn in place, and restored when q is pressed.
#[tokio::test(flavor = "multi_thread")]
async fn restores_terminal_after_watching() {
    // From Debian's bsdutils: it provides a terminal.
    if !has_programs(&["script", "stty"]) {
        return;
    }
    let mut node = Node::start_with(watched).await;
    let status = dapbox(&["status", "--watch", "--every", "50ms"], &node);
    let words = status.get_args().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    // It prints the terminal's state before and after.
    let line = format!("stty -g; {} {words}; echo code $?; stty -g", status.get_program().to_str().unwrap());
    let mut script = Command::new("script");
    script.args(["-q", "-c", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    let mut script = Running::spawn(script.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let shown = tokio::task::spawn_blocking(move || read_terminal(&mut script)).await.unwrap();
    let (before, rest) = shown.split_once("\x1b[?1049h").unwrap();
    let (drawn, after) = rest.rsplit_once("\x1b[?1049l").unwrap();
    assert!(drawn.contains("No tasks") && drawn.contains("q: quit"), "{drawn:?}");
    let after: Vec<_> = after.split_whitespace().collect();
    assert_eq!(after, ["code", "0", before.trim()]);
    node.stop().await;
}

/// Presses another key and then q after the third drawing; returns all output.
fn read_terminal(script: &mut Running) -> String {
    let (mut out, mut keys) = (script.stdout.take().unwrap(), script.stdin.take().unwrap());
    let (mut shown, mut part, mut is_pressed) = (Vec::new(), [0; 4096], false);
    while let Ok(length @ 1..) = out.read(&mut part) {
        shown.extend_from_slice(&part[..length]);
        if !is_pressed && String::from_utf8_lossy(&shown).matches("\x1b[1;1H").count() >= 3 {
            keys.write_all(b"xq").unwrap();
            is_pressed = true;
        }
    }
    drop(keys);
    assert!(script.wait().unwrap().success());
    String::from_utf8(shown).unwrap()
}

/// `task show`, the status page and the metrics say why reports of a task were rejected, at upload and in jobs.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn shows_why_reports_were_rejected(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let sampled = |config: &mut Config| {
        watched(config);
        // The first upload is opened, and it is the first of two that exceed the bucket limit.
        (config.leader.upload_sample_ratio, config.limits.max_open_buckets) = (u32::MAX, 1);
    };
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let pair = Pair::start_with(revision, vdaf, mode, sampled, |_| {}).await;
    let (parties, id) = (&pair.parties, pair.parties.id().to_string());
    let (builder, yes) = (ReportBuilder::new(parties).await, Measurement::Flag(true));
    let mut unopenable = builder.report(&yes, hours_ago(2));
    unopenable.leader_share.payload = flipped(&unopenable.leader_share.payload);
    let mut not_for_the_helper = builder.report(&yes, hours_ago(2));
    not_for_the_helper.helper_share.payload = flipped(&not_for_the_helper.helper_share.payload);
    for report in
        [unopenable, builder.report(&yes, hours_ago(2)), not_for_the_helper, builder.report(&yes, hours_ago(5))]
    {
        parties.upload(&report).await;
    }
    let helper_error = "helper_hpke_decrypt_error";
    let view = until(&pair.leader, |view| view.refused.contains_key(helper_error)).await;
    let reasons = [
        ("hpke_decrypt_error", "refused: not decryptable"),
        (helper_error, "refused: by the helper: not decryptable"),
        ("upload_bucket_limit", "refused: beyond the limit of open batch buckets"),
    ];
    assert_eq!(view.refused, reasons.iter().map(|(name, _)| ((*name).to_owned(), 1)).collect());
    let (shown, seen) = (stdout(&["task", "show", &id], &pair.leader).await, metrics(&pair.leader).await);
    let page = get(&pair.leader, "").await.1;
    for (name, reason) in reasons {
        let line = shown.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap_or_default();
        assert!(line.ends_with(&format!("  1  {reason}")), "{name}: {shown}");
        assert_eq!(seen[&format!("dapbox_reports_refused_total{{reason={name},task={id}}}")], 1.0);
        assert!(page.contains(name), "{name} is not on the page");
    }
    pair.stop().await;
}

/// The error log of all servers of this program.
static ERRORS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct ErrorLog;

impl Write for ErrorLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ERRORS.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A report that the leader rejects after the helper has accepted it has its own counter, is logged, and is shown
/// everywhere.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn shows_report_rejected_after_helper_accepted_it(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    let logs = tracing_subscriber::fmt().json().with_max_level(tracing::Level::ERROR).with_writer(|| ErrorLog);
    // A test of this program may already have installed it.
    let _ = logs.try_init();
    let (pair, relay) = pair_through_relay(revision, BatchMode::TimeInterval, watched).await;
    let (leader, id) = (&pair.leader, pair.parties.id());
    let is_done = AtomicBool::new(false);
    relay.plan(move |asked, _| {
        if !asked.creates(ResourceKind::AggregationJob) || is_done.swap(true, Ordering::SeqCst) {
            return RelayAction::Pass;
        }
        RelayAction::Edit(Box::new(move |told| {
            let wire = wire::for_revision(revision);
            let mut resps = wire.decode_job_resp(&Bytes::from(told.body.clone()), 100).unwrap();
            // A valid ping-pong message with an invalid content.
            resps[0].outcome = PrepareOutcome::Continue(Bytes::from_static(&[2, 0, 0, 0, 1, 9]));
            RelayedAnswer { body: wire.encode_job_resp(&resps), ..told }
        }))
    });
    upload_all(&pair.parties.client(), None).await;
    let count = MEASUREMENTS.len() as u64;
    let counted =
        |status: &dapbox::views::status::TaskStatus, name: &str| status.counters.get(name).copied().unwrap_or(0);
    let status = leader.until(&id, |status| counted(status, "aggregate_success") == count - 1).await;
    assert_eq!((counted(&status, "rejected_after_continue"), counted(&status, "invalid_message")), (1, 0));

    let said = "1 report rejected after the helper had accepted it";
    assert!(get(leader, "").await.1.contains(said));
    for arguments in [&["task", "show", &id.to_string()][..], &["status"]] {
        let shown = stdout(arguments, leader).await.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.contains(said), "{arguments:?}: {shown}");
    }
    let metrics = metrics(leader).await;
    assert_eq!(metrics[&format!("dapbox_reports_rejected_after_continue_total{{task={id}}}")], 1.0);
    assert_eq!(metrics[&format!("dapbox_reports_refused_total{{reason=rejected_after_continue,task={id}}}")], 1.0);
    let log = String::from_utf8(ERRORS.lock().unwrap().clone()).unwrap();
    let mut lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let line = lines.find(|line| line["fields"]["task_id"] == id.to_string()).unwrap_or_else(|| panic!("{log}"));
    assert_eq!(line["fields"]["message"], "report rejected after helper accepted it");
    assert_eq!(line["fields"]["report_count"], 1);
    pair.stop().await;
}

/// The helper's operator sees the reports that it rejects, with its own reasons, which differ from those on the wire.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn shows_reports_rejected_by_helper(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let pair = Pair::start_with(revision, vdaf, mode, watched, |_| {}).await;
    let (helper, id, builder) = (&pair.helper, pair.parties.id(), ReportBuilder::new(&pair.parties).await);
    let mut report = builder.report(&Measurement::Flag(true), clock::now());
    report.helper_share.config_id = other_config_id(&builder.keys.helper);
    let undecryptable = dapbox::model::Report {
        helper_share: builder.report(&Measurement::Flag(true), clock::now()).helper_share,
        ..builder.report(&Measurement::Flag(true), clock::now())
    };
    pair.parties.upload_all([&report, &undecryptable]).await;
    let both = ["hpke_unknown_config_id", "hpke_decrypt_error"];
    helper.until(&id, |status| both.iter().all(|name| status.counters.get(*name) == Some(&1))).await;
    let (page, metrics) = (get(helper, "").await.1, metrics(helper).await);
    let (shown, status) = (stdout(&["task", "show", &id.to_string()], helper).await, stdout(&["status"], helper).await);
    for (name, reason) in both.iter().zip(["sealed to an unknown key", "not decryptable"]) {
        assert!(shown.contains(name) && status.contains(reason), "{shown}\n{status}");
        assert!(page.contains(name) && page.contains(reason), "{page}");
        assert_eq!(metrics[&format!("dapbox_reports_refused_total{{reason={name},task={id}}}")], 1.0);
    }
    pair.stop().await;
}

/// `task show`, `status`, the page and `status.json` list every collected batch with the state of its result.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn shows_collected_batches_and_whether_they_were_fetched(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(true, false)] is_by_time: bool,
) {
    let mode = if is_by_time { BatchMode::TimeInterval } else { common::batches_of(revision, 2) };
    let pair = Pair::start_with(revision, VdafConfig::Prio3Count, mode, watched, |_| {}).await;
    let (parties, id) = (&pair.parties, pair.parties.id().to_string());
    let hour = hour_of(hours_ago(3));
    let query = if is_by_time { Query::TimeInterval(hour) } else { Query::FixedSize(FixedSizeQuery::CurrentBatch) };
    // Requested before its report, so that the answer is not the result.
    let job = parties.start_collection(query).await;
    let report = ReportBuilder::new(parties).await.report(&Measurement::Flag(true), hours_ago(3));
    parties.upload_all([&report]).await;
    let is_known = |result| move |view: &TaskView| view.status.collected.iter().any(|batch| batch.result == result);
    for (result, words) in [(ResultState::NotFetched, "not fetched"), (ResultState::Fetched, "fetched 20")] {
        let view = until(&pair.leader, is_known(result)).await;
        let batch = &view.status.collected[0];
        let name = match batch.id {
            Some(id) => id.to_string(),
            None => format!("{} to {}", timestamp::show(hour.start()), timestamp::show(hour.end())),
        };
        assert_eq!((batch.id.is_none(), batch.interval), (is_by_time, Some(hour)));
        let shown = stdout(&["task", "show", &id], &pair.leader).await;
        assert!(shown.contains(&format!("    {name}  1 report  {words}")), "{shown}");
        let status = stdout(&["status"], &pair.leader).await;
        assert_eq!(status.contains(&name), result == ResultState::NotFetched, "{status}");
        let page = get(&pair.leader, "").await.1;
        assert!(page.contains(result.name()) && batch.id.is_none_or(|_| page.contains(&name)));
        assert!(parties.outcome(&job).await.is_success());
    }
    pair.stop().await;
}
