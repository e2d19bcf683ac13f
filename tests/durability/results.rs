//! A collector that is killed while it collects.

use std::time::Duration as Span;

use dapbox::{
    model::{BatchMode, Duration, MaxMeasurement, Revision, VdafConfig},
    support::clock,
    vdaf::Measurement,
    views::results::{WindowPage, WindowStatus},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::common::{
    Pair, TEST_TIMEOUT,
    chaos::variable,
    collecting::every,
    process::{self, Process},
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
