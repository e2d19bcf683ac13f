//! Pages, files, links and webhooks of a server that collects.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use aws_lc_rs::hmac;
use dapbox::{
    config::{Config, OptionalAddress, Seconds},
    model::{BatchMode, Duration, Revision, Time, VdafConfig},
    results::{Presentation, Webhook},
    support::clock,
    vdaf::Measurement,
};
use serde_json::Value;
use warp::Filter;

use crate::common::{
    self, Node, Pair, TEST_TIMEOUT,
    collecting::{every, webhook_secret},
    skip,
};

pub const HOUR: u64 = 3600;
const BINS: usize = 3;

pub fn quick(config: &mut Config) {
    config.leader.min_job_size = 1;
    config.leader.collection_retry_after = Seconds::millis(20);
}

pub async fn collecting_node() -> Node {
    Node::start_with(|config| {
        config.results.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
        config.results.retry_max = Seconds::millis(200);
    })
    .await
}

pub fn hours_ago(hours: u64) -> Time {
    clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(hours * HOUR))
}

/// A leader, a helper and a collector of a histogram, with the uploads of three hours and their plain sums.
async fn collected(webhooks: Vec<Webhook>) -> (Pair, Node, [u128; BINS]) {
    let vdaf = VdafConfig::Prio3Histogram { length: BINS, chunk_length: 2 };
    let pair = Pair::start_with(Revision::Dap09, vdaf, BatchMode::TimeInterval, quick, |_| {}).await;
    let node = collecting_node().await;
    let mut sums = [0; BINS];
    for hours in 1..4 {
        for (bin, sum) in sums.iter_mut().enumerate().take(hours as usize % BINS + 1) {
            pair.parties.client().upload(Measurement::Number(bin as u128), Some(hours_ago(hours))).await.unwrap();
            *sum += 1;
        }
    }
    let mut settings = every(HOUR, hours_ago(3));
    let labels = ["<b>few</b>", "some, \"more\"", "many"].map(str::to_owned).to_vec();
    settings.presentation = Presentation { title: Some("Visits & more".to_owned()), labels, ..Presentation::default() };
    settings.webhooks = webhooks;
    node.collect(&pair.parties.collector_record(settings)).await;
    let is_done = |windows: &[dapbox::views::results::WindowStatus]| {
        windows.iter().filter(|window| window.state == "collected").count() == 3
    };
    node.until_windows(&pair.parties.id(), is_done).await;
    (pair, node, sums)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_equal_plain_sums_of_uploads() {
    let (pair, mut node, sums) = collected(Vec::new()).await;
    let page = format!("/tasks/{}", pair.parties.id());
    let (status, csv) = node.results_page(&format!("{page}.csv")).await;
    assert_eq!(status, 200, "{csv}");
    let mut found: BTreeMap<usize, u128> = BTreeMap::new();
    for row in csv::Reader::from_reader(csv.as_bytes()).records() {
        let row = row.unwrap();
        *found.entry(row[4].parse().unwrap()).or_default() += row[6].parse::<u128>().unwrap();
    }
    assert_eq!(found.into_values().collect::<Vec<_>>(), sums);
    let (_, summed) = node.results_page(&format!("{page}.csv?sum=1")).await;
    let numbers: Vec<u128> =
        csv::Reader::from_reader(summed.as_bytes()).records().map(|row| row.unwrap()[6].parse().unwrap()).collect();
    assert_eq!(numbers, sums);
    let (_, lines) = node.results_page(&format!("{page}.ndjson")).await;
    let states: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<&str> = states.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["collected", "collected", "collected", "upcoming"]);
    let (status, text) = node.results_page(&format!("{page}.csv?from=yesterday")).await;
    assert!(status == 400 && text.contains("from"), "{text}");

    let (status, html) = node.results_page(&page).await;
    assert!(status == 200 && html.contains("Visits &amp; more") && !html.contains("<b>few"), "{html}");
    let (_, overview) = node.results_page("/").await;
    assert!(overview.contains("Visits &amp; more") && overview.contains(&page), "{overview}");
    node.stop().await;
    pair.stop().await;
}

/// A Python that has pandas: Debian's, or one in `PATH`.
fn python_with_pandas() -> Option<PathBuf> {
    let found = [skip::find_program("python3"), Some(PathBuf::from("/usr/bin/python3"))];
    let has_pandas = |python: &PathBuf| {
        Command::new(python).args(["-c", "import pandas"]).output().is_ok_and(|output| output.status.success())
    };
    found.into_iter().flatten().find(has_pandas)
}

#[tokio::test(flavor = "multi_thread")]
async fn pandas_reads_the_csv_address() {
    let python = python_with_pandas();
    if !skip::has_all(if python.is_some() { "" } else { "pandas" }) {
        return;
    }
    let python = python.unwrap();
    let (pair, mut node, sums) = collected(Vec::new()).await;
    let address = node.server().results_address().unwrap();
    let url = format!("http://{address}/tasks/{}.csv", pair.parties.id());
    // The one line of docs/results.md, and what follows.
    let script = "import sys, pandas as pd\n\
        frame = pd.read_csv(sys.argv[1], parse_dates=['start', 'end'])\n\
        assert str(frame.start.dtype).startswith('datetime64'), frame.dtypes\n\
        print(frame.groupby('position').value.sum().tolist())";
    let run = move || Command::new(python).env("no_proxy", "*").args(["-c", script, &url]).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let found: Vec<u128> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found, sums);
    node.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_describes_the_listener() {
    let (pair, mut node, _) = collected(Vec::new()).await;
    let id = pair.parties.id();
    let token = node.link(id, None).await.path.trim_start_matches("/results/").to_owned();
    let (_, text) = node.results_page("/openapi.json").await;
    let description: Value = serde_json::from_str(&text).unwrap();
    let paths = description["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 10);
    for (path, operations) in paths {
        let path = path.replace("{task}", &id.to_string()).replace("{token}", &token);
        let address = node.server().results_address().unwrap();
        let answer = common::get(format!("http://{address}{path}")).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let media_type = answer.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let content = &operations["get"]["responses"]["200"]["content"];
        assert!(content.get(&media_type).is_some(), "{path}: {media_type} is not in {content}");
        let schema = &content[&media_type]["schema"]["$ref"];
        let Some(name) = schema.as_str().and_then(|schema| schema.rsplit('/').next()) else { continue };
        let known = description["components"]["schemas"][name]["properties"].as_object().unwrap();
        for line in answer.text().await.unwrap().lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            let unknown: Vec<_> = value.as_object().unwrap().keys().filter(|key| !known.contains_key(*key)).collect();
            assert!(unknown.is_empty(), "{path}: {unknown:?} are not described");
        }
    }
    node.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn link_opens_its_task_and_nothing_else() {
    let (pair, mut node, _) = collected(Vec::new()).await;
    let id = pair.parties.id();
    let link = node.link(id, None).await;
    let expired = node.link(id, Some(Duration(0))).await;
    let path = link.path.as_str();
    assert!(path.len() >= "/results/".len() + 22, "{path} is guessable");
    assert_eq!(node.results_page(path).await.0, 200);
    let (_, html) = node.results_page(path).await;
    assert!(!html.contains("href=\"/\""), "a link to the overview");
    for wrong in [
        "/results/".to_owned(),
        path[..path.len() - 1].to_owned(),
        format!("{path}x"),
        format!("{path}/"),
        format!("{path}/../"),
        format!("{path}/windows"),
        format!("{path}.xml"),
        path.to_uppercase(),
        expired.path.clone(),
        format!("/results/{}", link.link.id),
        format!("/results/{id}"),
    ] {
        assert_eq!(node.results_page(&wrong).await.0, 404, "{wrong}");
    }
    let answer = common::get(format!("{}{path}", node.url(Revision::Dap09).replace("/dap-09/", ""))).await.unwrap();
    assert_eq!(answer.status(), 404, "the public address does not serve links");
    // A restart keeps the link.
    node.restart().await;
    assert_eq!(node.results_page(path).await.0, 200);
    node.stop().await;
    pair.stop().await;
}

/// The signature and the body of a notification.
type Notification = (String, Vec<u8>);

/// A receiver of notifications that refuses the first of them.
struct Receiver {
    url: String,
    received: Arc<Mutex<Vec<Notification>>>,
    /// The body of the refused one.
    refused: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Receiver {
    async fn start() -> Self {
        let received: Arc<Mutex<Vec<Notification>>> = Arc::default();
        let refused: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
        let (shared, first) = (received.clone(), refused.clone());
        let hook = warp::post().and(warp::path("hook")).and(warp::header("dapbox-signature")).and(warp::body::bytes());
        let hook = hook.map(move |signature: String, body: bytes::Bytes| {
            let mut first = first.lock().unwrap();
            let is_first = first.is_none();
            match is_first {
                true => *first = Some(body.to_vec()),
                false => shared.lock().unwrap().push((signature, body.to_vec())),
            }
            let status = if is_first { 500 } else { 204 };
            warp::reply::with_status("", warp::http::StatusCode::from_u16(status).unwrap())
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(warp::serve(hook).incoming(listener).run());
        Self { url, received, refused }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_receives_signed_notifications() {
    let receiver = Receiver::start().await;
    let webhook = Webhook { url: receiver.url.clone(), secret: webhook_secret() };
    let (pair, mut node, _) = collected(vec![webhook]).await;
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while receiver.received.lock().unwrap().len() < 3 {
        assert!(std::time::Instant::now() < deadline, "{:?}", receiver.received.lock().unwrap());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let received = receiver.received.lock().unwrap().clone();
    let key = hmac::Key::new(hmac::HMAC_SHA256, webhook_secret().expose());
    let mut ids = BTreeSet::new();
    for (header, body) in &received {
        let (time, signature) = header.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let signed = [time.as_bytes(), b".", body].concat();
        let signature = data_encoding::HEXLOWER.decode(signature.as_bytes()).unwrap();
        hmac::verify(&key, &signed, &signature).unwrap();
        let body: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(body["type"], "result.collected");
        assert_eq!(body["task"]["id"], pair.parties.id().to_string());
        assert!(ids.insert(body["id"].as_str().unwrap().to_owned()), "each notification has its own id");
    }
    let refused = receiver.refused.lock().unwrap().clone().unwrap();
    let refused: Value = serde_json::from_slice(&refused).unwrap();
    assert!(ids.contains(refused["id"].as_str().unwrap()), "a repetition has the id of the first attempt");
    let outcomes = node.test_webhooks(pair.parties.id()).await;
    assert!(outcomes.len() == 1 && outcomes[0].status == Some(204), "{outcomes:?}");
    node.stop().await;
    pair.stop().await;
}
