//! A fault at every failure point (`failpoint.rs` of `src/support`): the disk or the network fails, is slow, or the
//! process crashes, before and after the point. Afterwards every acknowledged upload is counted exactly once, nothing
//! else is counted, and both sides agree.

mod collector;
mod fixture;
mod in_band;
mod machine;
mod managed;
mod scenarios;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use dapbox::{
    model::Revision,
    support::{Phase, Point},
};
use fixture::{FixtureParams, Who};
use machine::{FaultInjector, FaultKind, InjectedFault, PassCounts};
use scenarios::Scenario;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::common::TEST_TIMEOUT;

/// Scenarios that run concurrently. Most of the time they wait for the disk or each other.
const CONCURRENT: usize = 12;

const PHASES: [Phase; 2] = [Phase::Before, Phase::After];
const FAULT_KINDS: [FaultKind; 3] = [FaultKind::Error, FaultKind::Delay, FaultKind::Crash];

/// A scenario with its fault.
#[derive(Clone, Copy, Debug)]
struct Case {
    revision: Revision,
    scenario: Scenario,
    fault: Option<(Who, InjectedFault)>,
}

/// The outcome of a case.
struct Outcome {
    case: Case,
    failure: Option<String>,
    has_fired: bool,
    pass_counts: BTreeMap<Who, PassCounts>,
}

impl Case {
    async fn run(self, number: u16) -> Outcome {
        let injector = |who| {
            let fault = self.fault.filter(|(whose, _)| *whose == who).map(|(_, fault)| fault);
            FaultInjector::new(fault, self.scenario.slow(who))
        };
        let [leader, helper] = [Who::Leader, Who::Helper].map(injector);
        let params = FixtureParams { revision: self.revision, number, leader: leader.clone(), helper: helper.clone() };
        let finished = tokio::time::timeout(TEST_TIMEOUT, tokio::spawn(self.scenario.run(params))).await;
        let pass_counts = BTreeMap::from([(Who::Leader, leader.pass_counts()), (Who::Helper, helper.pass_counts())]);
        let failure = match finished {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("it does not end; passed so far: {pass_counts:?}")),
        };
        Outcome { case: self, failure, has_fired: leader.has_fired() || helper.has_fired(), pass_counts }
    }
}

/// Runs cases concurrently. `first` is the number of the first case.
async fn run_all(cases: impl IntoIterator<Item = Case>, first: u16) -> Vec<Outcome> {
    let places = Arc::new(Semaphore::new(CONCURRENT));
    let mut running = JoinSet::new();
    for (number, case) in (first..).zip(cases) {
        let places = places.clone();
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            case.run(number).await
        });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = running.join_next().await {
        outcomes.push(outcome.unwrap());
    }
    let failed =
        outcomes.iter().filter_map(|outcome| Some(format!("{:?}: {}", outcome.case, outcome.failure.as_ref()?)));
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), outcomes.len(), failed.join("\n"));
    outcomes
}

/// The points that each side passes, with the first scenario and the number of pass_counts.
type PointMap = BTreeMap<(Who, Point), (Scenario, usize)>;

fn map(outcomes: &[Outcome], revision: Revision) -> PointMap {
    let mut map = PointMap::new();
    for Outcome { case, pass_counts, .. } in outcomes.iter().filter(|outcome| outcome.case.revision == revision) {
        for (who, pass_counts) in pass_counts {
            for ((point, _), count) in pass_counts.iter().filter(|((_, phase), _)| *phase == Phase::Before) {
                let found = map.entry((*who, *point)).or_insert((case.scenario, *count));
                if case.scenario < found.0 {
                    *found = (case.scenario, *count);
                }
            }
        }
    }
    map
}

/// Asserts that the scenarios pass all points.
fn check_points(outcomes: &[Outcome]) {
    let passed: BTreeSet<Point> = outcomes
        .iter()
        .flat_map(|outcome| outcome.pass_counts.values())
        .flatten()
        .map(|((point, _), _)| *point)
        .collect();
    let missed: Vec<_> = Point::ALL.iter().filter(|point| !passed.contains(point)).collect();
    assert!(missed.is_empty(), "no scenario reaches these points: {missed:?}");
    let unlisted: Vec<_> = passed.iter().filter(|point| !Point::ALL.contains(point)).collect();
    assert!(unlisted.is_empty(), "these points are not in Point::ALL: {unlisted:?}");
}

/// All faults at the first passing of each point, and a crash at the second.
fn cases(map: &PointMap, revision: Revision) -> Vec<Case> {
    let mut cases = Vec::new();
    for ((who, point), (scenario, count)) in map {
        for (phase, kind) in PHASES.iter().flat_map(|phase| FAULT_KINDS.map(|kind| (*phase, kind))) {
            let pass_counts = if *count > 1 && kind == FaultKind::Crash { 1..=2 } else { 1..=1 };
            cases.extend(pass_counts.map(|passing| {
                let fault = InjectedFault { point: *point, phase, kind, passing };
                Case { revision, scenario: *scenario, fault: Some((*who, fault)) }
            }));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_each_report_once_after_failure_at_each_point() {
    let begun = Instant::now();
    let revisions = [Revision::Dap09, Revision::Dap18];
    let without_fault = |revision| {
        Scenario::all(revision).iter().map(move |scenario| Case { revision, scenario: *scenario, fault: None })
    };
    let outcomes = run_all(revisions.into_iter().flat_map(without_fault), 0).await;
    check_points(&outcomes);
    eprintln!("all scenarios without a fault: {:.1?}", begun.elapsed());

    let cases = revisions.into_iter().flat_map(|revision| cases(&map(&outcomes, revision), revision));
    let outcomes = run_all(cases, outcomes.len() as u16).await;
    for Outcome { case, has_fired, .. } in &outcomes {
        let is_first = case.fault.is_some_and(|(_, fault)| fault.passing == 1);
        assert!(*has_fired || !is_first, "nothing went wrong in {case:?}");
    }
    let (fired, all) = (outcomes.iter().filter(|outcome| outcome.has_fired).count(), outcomes.len());
    eprintln!("{} points, {all} cases, {fired} faults: {:.1?}", Point::ALL.len(), begun.elapsed());
}
