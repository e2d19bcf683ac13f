//! A server that collects a task: windows, results, a link and a webhook.

use dapbox::{
    config::{Config, Seconds},
    model::{Duration, TaskId, Time},
    results::{OnTooFew, Webhook},
    support::clock,
    views::results::{CollectorTaskStatus, WindowPage},
};
use serde_json::{Value, json};
use warp::Filter;

use super::{
    fixture::{Fixture, FixtureParams, NUMBERS},
    machine::{Machine, RETRY_PAUSE},
};
use crate::common::collecting::{every, webhook_secret};

const HOUR: u64 = 3600;

fn often(config: &mut Config) {
    config.results.retry_max = Seconds::millis(50);
}

fn short_jobs(config: &mut Config) {
    (config.leader.max_job_size, config.leader.min_job_size) = (2, 1);
}

/// Starts a receiver that accepts all notifications.
async fn receiver() -> String {
    let hook = warp::post().and(warp::body::bytes()).map(|_| warp::reply());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(warp::serve(hook).incoming(listener).run());
    url
}

/// One window with all reports, which is collected, and one without, which is given up.
pub async fn run(params: FixtureParams) {
    let hourly = |task: &mut dapbox::model::Task| task.public.time_precision = Duration(HOUR);
    let fixture = Fixture::build(params, None, short_jobs, often, hourly).await;
    let (machine, id) = (&fixture.helper, fixture.parties.id());
    let start = clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(2 * HOUR));
    fixture.upload_numbers(start).await;
    // All are aggregated before the first request, so that the empty window is the only one without a result.
    let aggregated = |status: &dapbox::views::status::TaskStatus| {
        status.counters.get("aggregate_success").is_some_and(|count| *count == NUMBERS.len() as u64)
    };
    fixture.leader.until(&id, aggregated).await;
    let mut settings = every(HOUR, start);
    settings.schedule.on_too_few = OnTooFew::Skip;
    settings.schedule.patience = Seconds::new(2);
    settings.webhooks = vec![Webhook { url: receiver().await, secret: webhook_secret() }];
    let record = fixture.parties.collector_record(settings);
    let added = machine.control(|control| control.post("http://control/results/tasks").json(&record)).await;
    assert!(matches!(added.status().as_u16(), 200 | 201), "{added:?}");

    until_final(machine, &id, start).await;
    let link = json!({ "task": id, "label": "", "valid_for": null });
    let created = machine.control(|control| control.post("http://control/results/links").json(&link)).await;
    assert_eq!(created.status(), 201);
    let lines = machine.control(|control| control.get(format!("http://control/results/tasks/{id}.ndjson"))).await;
    let first: Value = serde_json::from_str(lines.text().await.unwrap().lines().next().unwrap()).unwrap();
    let sum = u64::try_from(NUMBERS.iter().sum::<u128>()).unwrap();
    assert_eq!((&first["report_count"], &first["result"]), (&NUMBERS.len().into(), &sum.into()), "{first}");
    until_notified(machine, &id).await;
    let removed = machine.control(|control| control.delete(format!("http://control/results/tasks/{id}"))).await;
    // Already removed: the answer was lost.
    assert!(matches!(removed.status().as_u16(), 204 | 400 | 404), "{removed:?}");
    fixture.check_counts().await;
    fixture.stop().await;
}

/// Waits until the first window is collected and the second is given up.
async fn until_final(machine: &Machine, id: &TaskId, start: Time) {
    loop {
        let url = format!("http://control/results/tasks/{id}/windows");
        let page = machine.control(|control| control.get(&url)).await;
        if let Ok(page) = page.json::<WindowPage>().await
            && let [first, second, ..] = &page.windows[..]
        {
            assert_eq!(first.interval.unwrap().start(), start);
            assert_ne!((first.state.as_str(), second.state.as_str()), ("lost", "lost"), "{page:?}");
            if first.state == "collected" && second.state == "too_few_reports" && second.is_final {
                return;
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Waits until the webhook has all notifications.
async fn until_notified(machine: &Machine, id: &TaskId) {
    loop {
        let status = machine.control(|control| control.get(format!("http://control/results/tasks/{id}"))).await;
        if let Ok(status) = status.json::<CollectorTaskStatus>().await
            && status.webhook_queue == 0
        {
            return;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
