//! A collector whose leader is Janus, as the messages of Janus describe it, behind proxies with pages of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration as Span,
};

use dapbox::{
    config::{OptionalAddress, Seconds},
    model::{BatchMode, Duration, Time},
    results::{CollectorSettings, OnTooFew},
    support::clock,
    vdaf::AggregateResult,
    views::results::WindowStatus,
};
use janus_messages::problem_type::DapProblemType;
use rstest::rstest;
use warp::http::Method;

use crate::common::{
    Node, Parties,
    collecting::every,
    fake_leader::{FakeLeader, Reports, State, Trouble, batch_id, interval_of},
    fast_clock::FastClock,
};

const HOUR: u64 = 3600;

/// The value of the report of an hour.
fn value(hour: u64) -> u64 {
    hour / HOUR % 200
}

/// A leader, and a collector with this number of windows of an hour that have ended.
struct Scene {
    leader: FakeLeader,
    parties: Parties,
    node: Node,
    start: Time,
    windows: u64,
}

impl Scene {
    async fn start(
        windows: u64,
        reports: impl Fn(Time) -> Reports,
        change: impl FnOnce(&mut State),
        settings: impl FnOnce(&mut CollectorSettings),
    ) -> Self {
        let start = clock::now().truncate(Duration(HOUR));
        let now = start.saturating_add(Duration(windows * HOUR + 60));
        let clock = Arc::new(FastClock::starting_at(now));
        let (leader, parties) = FakeLeader::start(clock.clone(), BatchMode::TimeInterval, reports(start)).await;
        leader.set(change);
        let node = collecting_node(clock).await;
        let mut chosen = every(HOUR, start);
        settings(&mut chosen);
        assert_eq!(node.collect(&parties.collector_record(chosen)).await.0, 201);
        Self { leader, parties, node, start, windows }
    }

    /// Waits until these windows are collected.
    async fn until_collected(&self, windows: impl Fn(&WindowStatus) -> bool) -> Vec<WindowStatus> {
        let is_done = |found: &[WindowStatus]| {
            let ended = found.iter().filter(|window| windows(window));
            found.len() as u64 > self.windows && ended.clone().all(|window| window.state == "collected")
        };
        self.node.until_windows(&self.parties.id(), is_done).await
    }

    fn is_ended(&self, window: &WindowStatus) -> bool {
        window.number < self.windows
    }

    /// Every window has the report of its hour, and was requested under one id.
    async fn expect_all(mut self) {
        let results = self.node.results(&self.parties.id()).await;
        for number in 0..self.windows {
            let expected = AggregateResult::Number(u128::from(value(self.start.0 + number * HOUR)));
            assert_eq!(results[&number], (1, expected), "window {number}");
        }
        self.leader.see(|state| {
            assert_eq!(state.violations, Vec::<String>::new());
            assert!(state.jobs.len() as u64 >= self.windows);
        });
        self.node.stop().await;
    }
}

async fn collecting_node(clock: Arc<FastClock>) -> Node {
    Node::start_at(clock, |config| {
        config.results.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
        config.results.retry_max = Seconds::new(120);
    })
    .await
}

fn one_each(_: Time) -> Reports {
    Box::new(|hour| Some(value(hour)))
}

/// A job is created with status 202 and no `Location`, and then takes its time.
#[tokio::test(flavor = "multi_thread")]
async fn waits_as_long_as_janus_says() {
    let slow = |state: &mut State| (state.created, state.polls, state.retry_after) = (202, 3, Some(90));
    let scene = Scene::start(4, one_each, slow, |_| {}).await;
    scene.until_collected(|window| scene.is_ended(window)).await;
    scene.leader.see(|state| {
        for job in state.jobs.keys() {
            let polls = state.recorded.iter().filter(|request| request.job == *job && request.method == Method::POST);
            let times: Vec<Span> = polls.map(|poll| poll.at).collect();
            assert!(times.len() >= 4, "{times:?}");
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Span::from_secs(90)), "{times:?}");
        }
        assert!(state.recorded.iter().all(|request| request.method != Method::DELETE));
    });
    scene.expect_all().await;
}

/// What a proxy says is not about the window, whether or not the leader has the request.
#[rstest]
#[case::unavailable(Trouble::Page(502))]
#[case::slow(Trouble::PageAfterwards(504))]
#[case::not_found(Trouble::Page(404))]
#[case::forbidden(Trouble::PageAfterwards(403))]
#[case::redirect(Trouble::Page(302))]
#[case::portal(Trouble::Page(200))]
#[case::portal_afterwards(Trouble::PageAfterwards(200))]
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_proxies_lose_no_window(#[case] trouble: Trouble) {
    let change = |state: &mut State| state.troubles = std::iter::repeat_n(trouble, 9).collect();
    let scene = Scene::start(3, one_each, change, |_| {}).await;
    scene.until_collected(|window| scene.is_ended(window)).await;
    scene.leader.see(|state| assert_eq!(state.jobs.len(), 3, "one id for each window"));
    scene.expect_all().await;
}

/// A job that Janus has deleted without a result is requested again.
#[tokio::test(flavor = "multi_thread")]
async fn requests_a_deleted_job_again() {
    let scene = Scene::start(2, one_each, |state| state.polls = u64::MAX, |_| {}).await;
    let is_pending = |windows: &[WindowStatus]| windows.iter().filter(|window| window.state == "pending").count() == 2;
    scene.node.until_windows(&scene.parties.id(), is_pending).await;
    scene.leader.set(|state| {
        state.jobs.values_mut().for_each(|job| job.is_deleted = true);
        state.polls = 0;
    });
    scene.until_collected(|window| scene.is_ended(window)).await;
    scene.leader.see(|state| assert_eq!(state.jobs.len(), 4));
    scene.expect_all().await;
}

/// A leader that was restored from a backup does not know the job, and says so with a plain 404.
#[tokio::test(flavor = "multi_thread")]
async fn repeats_a_request_that_janus_forgot() {
    let scene = Scene::start(2, one_each, |state| state.polls = u64::MAX, |_| {}).await;
    let is_pending = |windows: &[WindowStatus]| windows.iter().filter(|window| window.state == "pending").count() == 2;
    scene.node.until_windows(&scene.parties.id(), is_pending).await;
    let before = scene.leader.see(|state| state.jobs.keys().cloned().collect::<BTreeSet<_>>());
    scene.leader.set(|state| {
        state.jobs.clear();
        state.polls = 0;
    });
    scene.until_collected(|window| scene.is_ended(window)).await;
    let after = scene.leader.see(|state| state.jobs.keys().cloned().collect::<BTreeSet<_>>());
    assert_eq!(before, after, "the same requests under the same ids");
    scene.expect_all().await;
}

/// Problems of a leader: what loses a window, and what does not.
#[rstest]
#[case(400, DapProblemType::BatchOverlap, "lost")]
#[case(400, DapProblemType::BatchQueriedTooManyTimes, "lost")]
#[case(400, DapProblemType::BatchMismatch, "lost")]
#[case(400, DapProblemType::InvalidBatchSize, "too_few_reports")]
#[case(400, DapProblemType::UnauthorizedRequest, "refused")]
#[case(404, DapProblemType::UnrecognizedTask, "refused")]
#[tokio::test(flavor = "multi_thread")]
async fn problem_documents_decide(#[case] status: u16, #[case] kind: DapProblemType, #[case] expected: &str) {
    let refuse = |state: &mut State| state.troubles = std::iter::repeat_n(Trouble::Problem(status, kind), 2).collect();
    let mut scene = Scene::start(1, one_each, refuse, |settings| settings.schedule.patience = Seconds::new(600)).await;
    let id = scene.parties.id();
    let is_so = |windows: &[WindowStatus]| windows[0].state == expected;
    let windows = scene.node.until_windows(&id, is_so).await;
    assert_eq!(windows[1].state, "upcoming");
    if expected == "lost" {
        assert_eq!(scene.leader.see(|state| state.jobs.len()), 0, "nothing repeats a lost window");
        scene.node.stop().await;
    } else {
        scene.until_collected(|window| scene.is_ended(window)).await;
        scene.expect_all().await;
    }
}

/// Only each third hour has a report and batches need two: windows are joined, and no report is collected twice.
#[rstest]
#[case::refused(true)]
#[case::not_ready(false)]
#[tokio::test(flavor = "multi_thread")]
async fn joins_windows_with_too_few_reports(#[case] refuses_small: bool) {
    let few = |start: Time| -> Reports {
        Box::new(move |hour| ((hour - start.0) / HOUR).is_multiple_of(3).then(|| value(hour)))
    };
    let change = |state: &mut State| (state.min_batch_size, state.refuses_small) = (2, refuses_small);
    let settings = |settings: &mut CollectorSettings| {
        settings.schedule.on_too_few = OnTooFew::Extend;
        settings.schedule.patience = Seconds::new(300);
    };
    let mut scene = Scene::start(8, few, change, settings).await;
    let id = scene.parties.id();
    // The hours 0 to 3 have two reports, and the hours 4 to 9 have the next two.
    let is_done = |windows: &[WindowStatus]| windows.iter().filter(|window| window.state == "collected").count() == 2;
    let windows = scene.node.until_windows(&id, is_done).await;
    let results: BTreeMap<_, _> = scene.node.results(&id).await;
    let sums = [[0, 3], [6, 9]].map(|hours| hours.map(|hour| u128::from(value(scene.start.0 + hour * HOUR))));
    let expected = sums.map(|[first, second]| (2, AggregateResult::Number(first + second)));
    assert_eq!(results.into_values().collect::<Vec<_>>(), expected);
    let mut end = scene.start;
    for window in &windows {
        assert_eq!(window.interval.unwrap().start(), end, "no gap and no overlap");
        end = window.interval.unwrap().end();
    }
    scene.leader.see(|state| {
        assert_eq!(state.violations, Vec::<String>::new());
        let collected = state.jobs.values().filter(|job| job.is_collected);
        let lengths: Vec<u64> = collected.map(|job| interval_of(&job.body).unwrap().length / HOUR).collect();
        assert_eq!(lengths.iter().sum::<u64>(), 10, "{lengths:?}");
    });
    scene.node.stop().await;
}

/// A leader that names the batch: each batch arrives once, and nothing is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn collects_each_named_batch_once() {
    const BATCHES: u64 = 6;
    let clock = Arc::new(FastClock::starting_at(clock::now()));
    let reports: Reports = Box::new(|number| (number < BATCHES).then_some(number + 10));
    let (leader, parties) = FakeLeader::start(clock.clone(), BatchMode::fixed_size(Some(1)), reports).await;
    leader.set(|state| (state.created, state.polls) = (202, 1));
    let mut node = collecting_node(clock.clone()).await;
    let settings = every(HOUR, dapbox::server::Clock::now(&*clock));
    assert_eq!(node.collect(&parties.collector_record(settings)).await.0, 201);
    let is_done = |windows: &[WindowStatus]| {
        let done = windows.iter().filter(|window| window.state == "collected").count() as u64;
        done == BATCHES && windows.last().is_some_and(|window| window.state == "pending")
    };
    let windows = node.until_windows(&parties.id(), is_done).await;
    let found = node.results(&parties.id()).await;
    for (window, number) in windows.iter().zip(0..BATCHES) {
        let expected = AggregateResult::Number(u128::from(number) + 10);
        assert_eq!(found[&window.number], (1, expected));
        assert_eq!(window.batch_id, Some(dapbox::model::BatchId::new(batch_id(number))));
    }
    leader.see(|state| {
        assert_eq!(state.violations, Vec::<String>::new());
        assert!(state.recorded.iter().all(|request| request.method != Method::DELETE));
    });
    node.stop().await;
}
