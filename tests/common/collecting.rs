//! Servers that collect tasks.

use std::{collections::BTreeMap, time::Instant};

use dapbox::{
    model::{Duration, Secret, TaskId, Time},
    results::{CollectorSettings, OnTooFew, Presentation, Schedule, Unit},
    store::CollectorRecord,
    support::duration::Seconds,
    vdaf::AggregateResult,
    views::results::{
        CollectorTaskAdded, CollectorTaskStatus, LinkCreated, NewLink, RetryRequest, WebhookOutcome, WindowPage,
        WindowStatus,
    },
};

use super::{Node, Parties, TEST_TIMEOUT};

/// Settings with windows of this length in seconds, without a grace period.
pub fn every(seconds: u64, start: Time) -> CollectorSettings {
    let schedule = Schedule {
        every: Unit::Span(Seconds::new(seconds)),
        grace: Seconds::new(0),
        on_too_few: OnTooFew::Wait,
        ..Schedule::default()
    };
    CollectorSettings { start, retention: None, schedule, presentation: Presentation::default(), webhooks: Vec::new() }
}

impl Parties {
    /// The task as its collector stores it.
    pub fn collector_record(&self, settings: CollectorSettings) -> CollectorRecord {
        CollectorRecord {
            name: None,
            public: self.leader.public.clone(),
            token: self.collector_token.clone(),
            previous_token: None,
            key: self.keypair.config().clone(),
            private_key: self.keypair.private_key().clone(),
            advertisement: None,
            settings,
            created: Time(0),
        }
    }
}

/// Collector tasks.
impl Node {
    /// Adds or changes a task; returns the status of the answer and its content.
    pub async fn collect(&self, record: &CollectorRecord) -> (u16, Option<CollectorTaskAdded>) {
        let answer = self.control().post("http://control/results/tasks").json(record).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.ok())
    }

    /// The status of a collector task.
    pub async fn collecting(&self, task: &TaskId) -> CollectorTaskStatus {
        let url = format!("http://control/results/tasks/{task}");
        self.control().get(url).send().await.unwrap().json().await.unwrap()
    }

    /// All windows of a task.
    pub async fn windows(&self, task: &TaskId) -> Vec<WindowStatus> {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let url = format!("http://control/results/tasks/{task}/windows?limit=100{after}");
            let page: WindowPage = self.control().get(url).send().await.unwrap().json().await.unwrap();
            found.extend(page.windows);
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => return found,
            }
        }
    }

    /// Waits until the windows of a task satisfy a condition.
    pub async fn until_windows(&self, task: &TaskId, is_right: impl Fn(&[WindowStatus]) -> bool) -> Vec<WindowStatus> {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let windows = self.windows(task).await;
            if is_right(&windows) {
                return windows;
            }
            assert!(Instant::now() < deadline, "still not so: {windows:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// The results of the collected windows, by number.
    pub async fn results(&self, task: &TaskId) -> BTreeMap<u64, (u64, AggregateResult)> {
        let collected = self.windows(task).await.into_iter().filter(|window| window.state == "collected");
        let result = |window: WindowStatus| {
            let result = self.server().window_result(task, window.number).unwrap().unwrap();
            (window.number, (window.report_count.unwrap(), result))
        };
        collected.map(result).collect()
    }

    /// Requests a window again; returns the status of the answer.
    pub async fn retry_window(&self, task: TaskId, window: u64) -> u16 {
        let request = RetryRequest { task, window, force: false };
        let answer = self.control().post("http://control/results/retry").json(&request).send().await.unwrap();
        answer.status().as_u16()
    }

    /// Creates a link to the results of a task.
    pub async fn link(&self, task: TaskId, valid_for: Option<Duration>) -> LinkCreated {
        let new = NewLink { task, label: "a colleague".to_owned(), valid_for };
        self.control().post("http://control/results/links").json(&new).send().await.unwrap().json().await.unwrap()
    }

    /// Sends a test notification to the webhooks of a task.
    pub async fn test_webhooks(&self, task: TaskId) -> Vec<WebhookOutcome> {
        let url = "http://control/results/test_webhook";
        let body = serde_json::json!({ "task": task });
        self.control().post(url).json(&body).send().await.unwrap().json().await.unwrap()
    }

    /// Gets a path of the private listener of results: the status and the body.
    pub async fn results_page(&self, path: &str) -> (u16, String) {
        let address = self.server().results_address().unwrap();
        let answer = super::get(format!("http://{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// A key of webhooks.
pub fn webhook_secret() -> Secret {
    Secret::new(b"webhook-key".to_vec())
}
