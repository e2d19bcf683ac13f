//! The cost of monitoring for a server with many tasks: clients must not notice it.

use std::time::{Duration as Span, Instant};

use dapbox::{
    config::{Config, OptionalAddress},
    model::{BatchMode, Duration, Report, Revision, VdafConfig},
    support::clock,
    vdaf::Measurement,
};

use crate::common::{self, Node, Parties, report_builder::ReportBuilder};

const TASKS: usize = 100;
const BUCKETS: u64 = 1000;
const SCRAPES: usize = 50;

fn watched(config: &mut Config) {
    config.monitor.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
}

fn middle(mut times: Vec<Span>) -> Span {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Scrapes are fast, and uploads do not wait for them: the store is read task by task.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: 100 tasks with 1,000 open batch buckets each; prints what it measures"]
async fn uploads_do_not_wait_for_scrapes() {
    let (mut leader, mut helper) = (Node::start_with(watched).await, Node::start().await);
    let mut last = None;
    for _ in 0..TASKS {
        let revision = Revision::Dap18;
        let (mode, urls) = (BatchMode::TimeInterval, [leader.url(revision), helper.url(revision)]);
        let [leader_url, helper_url] = urls;
        let minutes = |task: &mut dapbox::model::Task| task.public.time_precision = Duration(60);
        let parties = Parties::new(revision, VdafConfig::Prio3Count, mode, leader_url, helper_url).with(minutes);
        leader.add(&parties.leader).await;
        helper.add(&parties.helper).await;
        let builder = ReportBuilder::new(&parties).await;
        let at = |minutes: u64| clock::now().saturating_sub(Duration(60 * minutes));
        let reports: Vec<_> = (0..BUCKETS).map(|minute| builder.report(&Measurement::Flag(true), at(minute))).collect();
        parties.upload_together(&reports).await;
        leader.until(&parties.id(), |status| status.counters.get("aggregate_success") == Some(&BUCKETS)).await;
        last = Some((parties, builder));
    }
    let (parties, builder) = last.unwrap();
    let fresh: Vec<Report> = (0..2 * SCRAPES).map(|_| builder.report(&Measurement::Flag(true), clock::now())).collect();
    let (alone, meanwhile) = fresh.split_at(SCRAPES);

    let undisturbed = uploads(&parties, alone).await;
    let url = leader.monitor() + "metrics";
    let scraping = tokio::spawn(async move {
        let mut times = Vec::new();
        for _ in 0..SCRAPES {
            let begin = Instant::now();
            let text = common::get(&url).await.unwrap().text().await.unwrap();
            times.push(begin.elapsed());
            assert_eq!(text.matches("dapbox_batches{").count(), 3 * TASKS);
        }
        middle(times)
    });
    let disturbed = uploads(&parties, meanwhile).await;
    let scrape = scraping.await.unwrap();
    eprintln!("a scrape {scrape:?}; an upload {undisturbed:?} alone, {disturbed:?} during scrapes");
    assert!(scrape < Span::from_millis(500), "{scrape:?}");
    assert!(disturbed < undisturbed * 5 + Span::from_millis(20), "{disturbed:?}");
    leader.stop().await;
    helper.stop().await;
}

/// Uploads reports in sequence; returns the median time until a report was durable.
async fn uploads(parties: &Parties, reports: &[Report]) -> Span {
    let mut times = Vec::new();
    for report in reports {
        let begin = Instant::now();
        parties.upload(report).await;
        times.push(begin.elapsed());
    }
    middle(times)
}
