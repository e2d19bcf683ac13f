//! Tests of the rules: each answer of a leader, each policy, and random histories.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    schedule::{Schedule, Unit},
    window::{CollectedWindow, CollectionRequest, LossReason},
};
use dapbox_protocol::model::{BatchMode, CollectionJobId, FixedSizeQuery, Query, Revision, TaskId, VdafConfig};
use dapbox_support::duration::Seconds;

const HOUR: u64 = 3600;
const START: Time = Time(1_767_225_600);

fn task(batch_mode: BatchMode) -> TaskParameters {
    TaskParameters {
        id: TaskId::new([7; 32]),
        revision: Revision::Dap09,
        info: String::new(),
        leader_url: "https://leader.example/".to_owned(),
        helper_url: "https://helper.example/".to_owned(),
        batch_mode,
        vdaf: VdafConfig::Prio3Count,
        min_batch_size: 10,
        time_precision: Duration(HOUR),
        task_expiration: None,
        task_interval: None,
        noise: None,
    }
}

fn settings(on_too_few: OnTooFew) -> CollectorSettings {
    let schedule = Schedule {
        every: Unit::Span(Seconds::new(4 * HOUR)),
        grace: Seconds::new(600),
        patience: Seconds::new(2 * HOUR),
        on_too_few,
        ..Schedule::default()
    };
    CollectorSettings {
        start: START,
        retention: Some(Duration(14 * 24 * HOUR)),
        schedule,
        presentation: Default::default(),
        webhooks: Vec::new(),
    }
}

/// A collector and its windows.
struct Collector {
    task: TaskParameters,
    settings: CollectorSettings,
    windows: BTreeMap<u64, Window>,
    now: Time,
    next_id: u8,
    /// Requests that may still be at the leader.
    at_leader: BTreeSet<CollectionJobId>,
}

impl Collector {
    fn new(batch_mode: BatchMode, on_too_few: OnTooFew) -> Self {
        Self {
            task: task(batch_mode),
            settings: settings(on_too_few),
            windows: BTreeMap::new(),
            now: START,
            next_id: 0,
            at_leader: BTreeSet::new(),
        }
    }

    fn plan(&mut self) {
        for _ in 0..100 {
            let changes = plan(&self.task, &self.settings, &self.windows, self.now);
            if changes.is_empty() {
                return check_invariants(&self.task, &self.settings, &self.windows).unwrap();
            }
            for change in changes {
                match change {
                    Change::Put(window) => {
                        let before = self.windows.insert(window.number, window.clone());
                        let was_collected = before.is_some_and(|before| before.collected().is_some());
                        assert!(!was_collected, "a plan changes a collected window: {window:?}");
                    }
                    Change::Remove(number) => {
                        let removed = self.windows.remove(&number).unwrap();
                        assert!(matches!(removed.state, WindowState::Upcoming | WindowState::Due), "{removed:?}");
                    }
                }
            }
        }
        panic!("the plan does not settle: {:?}", self.windows);
    }

    fn advance(&mut self, seconds: u64) {
        self.now = self.now.saturating_add(Duration(seconds));
        self.plan();
    }

    fn action(&self, number: u64) -> Action {
        let next = self.windows.range(number + 1..).next().map(|(_, window)| window);
        next_action(&self.windows[&number], next, &self.settings, self.now)
    }

    fn begin(&mut self, number: u64) {
        self.next_id += 1;
        let window = &self.windows[&number];
        let query = window.interval.map_or(Query::FixedSize(FixedSizeQuery::CurrentBatch), Query::TimeInterval);
        let id = CollectionJobId::new([self.next_id; 16]);
        let request = CollectionRequest { id, query, body: Vec::new(), created: self.now };
        self.at_leader.insert(id);
        let begun = begin(window, request, self.now);
        self.windows.insert(number, begun);
    }

    fn apply(&mut self, number: u64, event: Event) {
        let window = apply(&self.windows[&number], event, self.now);
        self.windows.insert(number, window);
    }

    fn fail(&mut self, number: u64, kind: FailureKind) {
        self.apply(number, Event::Failed(Failure { kind, detail: "said the leader".to_owned() }));
    }

    fn accept(&mut self, number: u64) {
        self.begin(number);
        self.apply(number, Event::Accepted { location: format!("jobs/{number}") });
    }

    fn collected(&self, number: u64) -> Event {
        let report_interval = self.windows[&number].interval.or(Interval::new(START, Duration(HOUR))).unwrap();
        Event::Collected(CollectedWindow {
            report_count: 10,
            report_interval,
            batch_id: None,
            collected: self.now,
            to_release: self.windows[&number].interval.is_none().then(|| "jobs/1".to_owned()),
        })
    }

    fn state(&self, number: u64) -> &'static str {
        self.windows[&number].state.name()
    }

    fn states(&self) -> Vec<&'static str> {
        self.windows.values().map(|window| window.state.name()).collect()
    }
}

#[test]
fn collects_windows_in_order_of_time() {
    let mut collector = Collector::new(BatchMode::TimeInterval, OnTooFew::Wait);
    collector.plan();
    assert_eq!(collector.states(), ["upcoming"]);
    collector.advance(4 * HOUR + 599);
    assert_eq!(collector.states(), ["upcoming", "upcoming"]);
    collector.advance(1);
    assert_eq!((collector.states(), collector.action(0)), (vec!["due", "upcoming"], Action::Begin));
    collector.begin(0);
    assert_eq!(collector.action(0), Action::Request);
    collector.apply(0, Event::Accepted { location: "jobs/0".to_owned() });
    assert_eq!(collector.action(0), Action::Poll);
    collector.apply(0, collector.collected(0));
    assert_eq!((collector.state(0), collector.action(0)), ("collected", Action::None));
    collector.fail(0, FailureKind::Deleted);
    assert_eq!(collector.state(0), "collected");
}

#[test]
fn requests_all_windows_of_task_that_is_added_late() {
    let mut collector = Collector::new(BatchMode::TimeInterval, OnTooFew::Wait);
    collector.advance(4 * HOUR * 2_500);
    assert_eq!(collector.windows.len(), 2_501);
    assert_eq!(counts(&collector.windows)["due"], 2_499);
}

#[test]
fn ends_with_task() {
    let mut collector = Collector::new(BatchMode::TimeInterval, OnTooFew::Wait);
    collector.task.task_expiration = Some(Time(START.0 + 5 * HOUR));
    collector.advance(100 * HOUR);
    let ends: Vec<_> = collector.windows.values().map(|window| window.interval.unwrap().end().0 - START.0).collect();
    assert_eq!(ends, [4 * HOUR, 6 * HOUR]);
}

#[test]
fn waits_for_reports() {
    let mut collector = Collector::new(BatchMode::TimeInterval, OnTooFew::Wait);
    collector.advance(5 * HOUR);
    collector.accept(0);
    collector.advance(2 * HOUR);
    assert_eq!((collector.state(0), collector.action(0)), ("too_few_reports", Action::Poll));
    collector.advance(100 * HOUR);
    assert_eq!(collector.action(0), Action::Poll);
    collector.apply(0, collector.collected(0));
    assert_eq!(collector.state(0), "collected");
    collector.begin(1);
    collector.fail(1, FailureKind::TooFewReports);
    assert_eq!(collector.action(1), Action::None);
    collector.advance(2 * HOUR);
    assert_eq!(collector.action(1), Action::Begin);
}

#[test]
fn joins_windows_with_too_few_reports() {
    let mut collector = Collector::new(BatchMode::TimeInterval, OnTooFew::Extend);
    collector.advance(5 * HOUR);
    collector.accept(0);
    collector.advance(2 * HOUR);
    assert_eq!(collector.action(0), Action::Poll);
    collector.advance(2 * HOUR);
    assert_eq!((collector.state(1), collector.action(0)), ("due", Action::Cancel));
    collector.apply(0, Event::Cancelled);
    collector.plan();
    let joined = &collector.windows[&0];
    assert_eq!((joined.interval.unwrap().duration(), joined.is_joined), (Duration(8 * HOUR), true));
    assert_eq!((collector.states(), collector.action(0)), (vec!["due", "upcoming"], Action::Begin));
}

#[test]
fn skips_window_with_too_few_reports() {
    let mut collector = Collector::new(BatchMode::TimeInterval, OnTooFew::Skip);
    collector.advance(5 * HOUR);
    collector.accept(0);
    collector.advance(2 * HOUR);
    assert_eq!(collector.action(0), Action::Cancel);
    collector.apply(0, Event::Cancelled);
    collector.plan();
    assert!(collector.windows[&0].state.is_final());
    collector.advance(100 * HOUR);
    assert_eq!(collector.state(0), "too_few_reports");
    let again = retry(&collector.windows[&0], false, collector.now).unwrap();
    assert_eq!(again.state, WindowState::Due);
}

#[test]
fn interprets_failures() {
    let cases = [
        (FailureKind::Retryable, "pending", Action::Poll),
        (FailureKind::Unauthorized, "refused", Action::Poll),
        (FailureKind::TooFewReports, "too_few_reports", Action::None),
        (FailureKind::Deleted, "due", Action::Begin),
        (FailureKind::Lost(LossReason::CollectedElsewhere), "lost", Action::None),
        (FailureKind::Lost(LossReason::Unreadable), "lost", Action::Reopen),
    ];
    for (kind, state, action) in cases {
        let mut collector = Collector::new(BatchMode::TimeInterval, OnTooFew::Wait);
        collector.advance(5 * HOUR);
        collector.accept(0);
        collector.fail(0, kind);
        assert_eq!((collector.state(0), collector.action(0)), (state, action), "{kind:?}");
    }
}

#[test]
fn collects_batch_after_batch() {
    let mut collector = Collector::new(BatchMode::fixed_size(None), OnTooFew::Wait);
    collector.plan();
    collector.accept(0);
    collector.advance(1000 * HOUR);
    assert_eq!((collector.states(), collector.action(0)), (vec!["pending"], Action::Poll));
    collector.apply(0, collector.collected(0));
    collector.plan();
    assert_eq!((collector.states(), collector.action(0)), (vec!["collected"], Action::Release));
    collector.apply(0, Event::Released);
    collector.plan();
    assert_eq!(collector.states(), ["collected", "due"]);
    collector.accept(1);
    collector.fail(1, FailureKind::Lost(LossReason::Rejected));
    collector.plan();
    assert_eq!(collector.states(), ["collected", "lost"]);
    collector.advance(2 * HOUR);
    assert_eq!(collector.states(), ["collected", "lost", "due"]);
}

#[test]
fn follows_changed_schedule_from_last_requested_window() {
    let mut collector = Collector::new(BatchMode::TimeInterval, OnTooFew::Wait);
    collector.advance(9 * HOUR);
    collector.begin(0);
    collector.settings.schedule.every = Unit::Span(Seconds::new(HOUR));
    collector.plan();
    let lengths: Vec<u64> = collector.windows.values().map(|window| window.interval.unwrap().duration().0).collect();
    assert_eq!(lengths[0], 4 * HOUR);
    assert!(lengths[1..].iter().all(|length| *length == HOUR), "{lengths:?}");
}

#[test]
fn reports_what_needs_attention() {
    let mut collector = Collector::new(BatchMode::TimeInterval, OnTooFew::Wait);
    collector.advance(5 * HOUR);
    assert_eq!(attention(&collector.windows, &collector.settings, collector.now), []);
    collector.accept(0);
    collector.fail(0, FailureKind::Retryable);
    collector.now = Time(START.0 + 13 * 24 * HOUR);
    let found = attention(&collector.windows, &collector.settings, collector.now);
    let deadline = Time(START.0 + 14 * 24 * HOUR);
    assert!(found.contains(&Attention::DeadlineNear { number: 0, deadline }), "{found:?}");
    assert!(found.iter().any(|found| matches!(found, Attention::Overdue { last_error: Some(_), .. })), "{found:?}");
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Advance(u64),
    JumpBack(u64),
    Act { window: prop::sample::Index, answer: u8 },
    Reschedule(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..10 * HOUR).prop_map(Step::Advance),
        1 => (1..400 * HOUR).prop_map(Step::JumpBack),
        1 => (300 * HOUR..3000 * HOUR).prop_map(Step::Advance),
        12 => (any::<prop::sample::Index>(), 0u8..12).prop_map(|(window, answer)| Step::Act { window, answer }),
        1 => (1u64..30).prop_map(Step::Reschedule),
    ]
}

impl Collector {
    /// Acts on a window as the server does, with a random answer of the leader.
    fn act(&mut self, number: u64, answer: u8) {
        let before = self.windows[&number].clone();
        match self.action(number) {
            Action::None | Action::Reopen => {}
            Action::Release => self.apply(number, Event::Released),
            Action::Begin => {
                // Each window has at most one request that the leader may have.
                self.begin(number);
            }
            Action::Cancel if answer < 9 => self.apply(number, Event::Cancelled),
            Action::Request | Action::Poll | Action::Cancel => match answer {
                0 | 1 => self.apply(number, Event::Accepted { location: "jobs/1".to_owned() }),
                2 => self.apply(number, Event::Waiting),
                3 | 4 => self.apply(number, self.collected(number)),
                5 => self.fail(number, FailureKind::Retryable),
                6 => self.fail(number, FailureKind::Unauthorized),
                7 => self.fail(number, FailureKind::TooFewReports),
                8 => self.fail(number, FailureKind::Deleted),
                9 => self.fail(number, FailureKind::Lost(LossReason::CollectedElsewhere)),
                10 => self.fail(number, FailureKind::Lost(LossReason::Expired)),
                _ => {}
            },
        }
        let is_same = |after: &Window| {
            CollectedWindow { to_release: None, ..after.collected().cloned().unwrap() }
                == CollectedWindow { to_release: None, ..before.collected().cloned().unwrap() }
        };
        assert!(before.collected().is_none() || is_same(&self.windows[&number]), "a collected window changed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn keeps_invariants_in_random_histories(
        steps in prop::collection::vec(step(), 1..80),
        policy in prop::sample::select(vec![OnTooFew::Wait, OnTooFew::Extend, OnTooFew::Skip]),
        is_batch in any::<bool>(),
    ) {
        let mode = if is_batch { BatchMode::fixed_size(None) } else { BatchMode::TimeInterval };
        let mut collector = Collector::new(mode, policy);
        collector.plan();
        for step in steps {
            match step {
                Step::Advance(seconds) => collector.now = collector.now.saturating_add(Duration(seconds)),
                Step::JumpBack(seconds) => collector.now = collector.now.saturating_sub(Duration(seconds)),
                Step::Act { window, answer } => {
                    let numbers: Vec<u64> = collector.windows.keys().copied().collect();
                    collector.act(*window.get(&numbers), answer);
                }
                Step::Reschedule(hours) => {
                    collector.settings.schedule.every = Unit::Span(Seconds::new(hours * HOUR));
                }
            }
            collector.plan();
        }
    }
}
