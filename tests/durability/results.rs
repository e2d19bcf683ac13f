//! A collector that is killed while it collects, and one that is restored from a backup.

use std::time::Duration as Span;

use dapbox::{
    config::{Config, OptionalAddress, Seconds},
    model::{BatchMode, Duration, MaxMeasurement, Revision, VdafConfig},
    store::{self, CollectorContents},
    support::clock,
    vdaf::{AggregateResult, Measurement},
    views::results::{WindowPage, WindowStatus},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::common::{
    Node, Pair, TEST_TIMEOUT,
    chaos::variable,
    collecting::every,
    process::{self, Process},
    restore::{back_up, restore_from},
};

const HOUR: u64 = 3600;
/// Number of windows with a report, the oldest first. The report of window n is the number n + 1.
const WINDOWS: u64 = 60;
/// Number of kills.
const KILLS: usize = 12;

/// The control socket of a collector process.
struct Control(reqwest::Client);

impl Control {
    fn of(process: &Process) -> Self {
        Self(reqwest::Client::builder().unix_socket(process.data_dir.join("control.sock")).build().unwrap())
    }

    async fn windows(&self, task: &dapbox::model::TaskId) -> Vec<WindowStatus> {
        let url = format!("http://control/results/tasks/{task}/windows");
        let page: WindowPage = self.0.get(url).send().await.unwrap().json().await.unwrap();
        page.windows
    }

    async fn values(&self, task: &dapbox::model::TaskId) -> Vec<u64> {
        let url = format!("http://control/results/tasks/{task}.ndjson");
        let text = self.0.get(url).send().await.unwrap().text().await.unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["state"] == "collected").map(|line| line["result"].as_u64().unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_collector_collects_each_window_once() {
    let seed = variable("DAPBOX_SEED", rand::random());
    println!("killing a collector {KILLS} times, DAPBOX_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for revision in Revision::ALL {
        let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
        let quick = |config: &mut dapbox::config::Config| config.leader.min_job_size = 1;
        let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, quick, |_| {}).await;
        let id = pair.parties.id();
        let start = clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(WINDOWS * HOUR));
        for window in 0..WINDOWS {
            let time = start.saturating_add(Duration(window * HOUR));
            pair.parties.client().upload(Measurement::Number(u128::from(window) + 1), Some(time)).await.unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let mut collector = Process::new("collector", process::dapbox, dir.path(), dir.path().join("data"));
        collector.spawn();
        collector.ready().await.unwrap();
        let record = pair.parties.collector_record(every(HOUR, start));
        let added = Control::of(&collector).0.post("http://control/results/tasks").json(&record).send().await.unwrap();
        assert_eq!(added.status(), 201);
        for _ in 0..KILLS {
            tokio::time::sleep(Span::from_millis(rng.random_range(0..60))).await;
            collector.kill().unwrap();
            collector.spawn();
            collector.ready().await.unwrap();
        }
        let (control, deadline) = (Control::of(&collector), std::time::Instant::now() + TEST_TIMEOUT);
        loop {
            let windows = control.windows(&id).await;
            let done = windows.iter().filter(|window| window.state == "collected").count() as u64;
            let lost: Vec<_> = windows.iter().filter(|window| window.state == "lost").collect();
            assert!(lost.is_empty(), "{lost:#?}");
            if done == WINDOWS {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{windows:#?}");
            tokio::time::sleep(Span::from_millis(20)).await;
        }
        assert_eq!(control.values(&id).await, (1..=WINDOWS).collect::<Vec<_>>());
        let mut end = start;
        for window in control.windows(&id).await {
            let interval = window.interval.unwrap();
            assert_eq!(interval.start(), end, "no gap and no overlap");
            end = interval.end();
        }
        assert_eq!(pair.leader.status(&id).await.batches_collected, WINDOWS);
        assert_eq!(collector.errors(), Vec::<String>::new());
        collector.kill().unwrap();
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_collector_keeps_results_and_continues() {
    for revision in Revision::ALL {
        let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
        let quick = |config: &mut Config| config.leader.min_job_size = 1;
        let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, quick, |_| {}).await;
        let mut node = Node::start_with(|config| {
            config.results.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
            config.results.retry_max = Seconds::millis(200);
        })
        .await;
        let (parties, id) = (&pair.parties, pair.parties.id());
        let start = clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(3 * HOUR));
        let upload = async |window: u64, number: u128| {
            let time = start.saturating_add(Duration(window * HOUR));
            parties.client().upload(Measurement::Number(number), Some(time)).await.unwrap();
        };
        let state_of = |window: usize, state: &'static str| {
            move |windows: &[WindowStatus]| windows.get(window).is_some_and(|window| window.state == state)
        };
        upload(0, 10).await;
        node.collect(&parties.collector_record(every(HOUR, start))).await;
        node.until_windows(&id, |windows| state_of(0, "collected")(windows) && state_of(2, "pending")(windows)).await;
        let link = node.link(id, None).await;
        let backup = back_up(&node).await;
        let contents = store::verify(&backup[..], |_| ()).unwrap();
        let expected = CollectorContents { id, windows: contents.collector_tasks[0].windows, results: 1 };
        assert_eq!(contents.collector_tasks, [expected]);
        assert!(contents.collector_tasks[0].windows >= 3, "{contents:?}");

        // The backup has the requests of the second and the third window. They are repeated, and the leader has their results.
        upload(1, 20).await;
        node.until_windows(&id, state_of(1, "collected")).await;
        restore_from(&mut node, &backup).await;
        upload(2, 30).await;
        node.until_windows(&id, |windows| (0..3).all(|window| state_of(window, "collected")(windows))).await;
        let number = |sum: u128| (1, AggregateResult::Number(sum));
        assert_eq!(node.results(&id).await, [(0, number(10)), (1, number(20)), (2, number(30))].into());
        let (status, page) = node.results_page(&link.path).await;
        assert_eq!(status, 200, "{page}");
        assert_eq!(pair.leader.status(&id).await.batches_collected, 3);
        node.stop().await;
        pair.stop().await;
    }
}
