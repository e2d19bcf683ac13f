//! A fault at every failure point (`failpoint.rs` of `src/support`): the disk or the network fails, is slow, or the
//! process crashes, before and after the point. Afterwards every acknowledged upload is counted exactly once, nothing
//! else is counted, and both sides agree.

mod in_band;
mod machine;
mod managed;
mod scenes;
mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use dapbox::{
    model::Revision,
    support::{Phase, Point},
};
use machine::{Kind, Mishap, Passings, Trap};
use scenes::Scene;
use stage::{Setting, Who};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::common::PATIENCE;

/// Scenarios that run concurrently. Most of the time they wait for the disk or each other.
const AT_ONCE: usize = 12;

const PHASES: [Phase; 2] = [Phase::Before, Phase::After];
const KINDS: [Kind; 3] = [Kind::Error, Kind::Delay, Kind::Crash];

/// A scenario with its fault.
#[derive(Clone, Copy, Debug)]
struct Case {
    revision: Revision,
    scene: Scene,
    mishap: Option<(Who, Mishap)>,
}

/// The outcome of a case.
struct Outcome {
    case: Case,
    failure: Option<String>,
    is_sprung: bool,
    passings: BTreeMap<Who, Passings>,
}

impl Case {
    async fn run(self, number: u16) -> Outcome {
        let trap = |who| {
            let mishap = self.mishap.filter(|(whose, _)| *whose == who).map(|(_, mishap)| mishap);
            Trap::new(mishap, self.scene.slow(who))
        };
        let [leader, helper] = [Who::Leader, Who::Helper].map(trap);
        let setting = Setting { revision: self.revision, number, leader: leader.clone(), helper: helper.clone() };
        let played = tokio::time::timeout(PATIENCE, tokio::spawn(self.scene.play(setting))).await;
        let passings = BTreeMap::from([(Who::Leader, leader.passings()), (Who::Helper, helper.passings())]);
        let failure = match played {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("it does not end; passed so far: {passings:?}")),
        };
        Outcome { case: self, failure, is_sprung: leader.is_sprung() || helper.is_sprung(), passings }
    }
}

/// Runs cases concurrently. `first` is the number of the first case.
async fn run_all(cases: impl IntoIterator<Item = Case>, first: u16) -> Vec<Outcome> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
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

/// The points that each side passes, with the first scenario and the number of passings.
type Map = BTreeMap<(Who, Point), (Scene, usize)>;

fn map(outcomes: &[Outcome], revision: Revision) -> Map {
    let mut map = Map::new();
    for Outcome { case, passings, .. } in outcomes.iter().filter(|outcome| outcome.case.revision == revision) {
        for (who, passings) in passings {
            for ((point, _), count) in passings.iter().filter(|((_, phase), _)| *phase == Phase::Before) {
                let found = map.entry((*who, *point)).or_insert((case.scene, *count));
                if case.scene < found.0 {
                    *found = (case.scene, *count);
                }
            }
        }
    }
    map
}

/// Asserts that the scenarios pass all points.
fn check_points(outcomes: &[Outcome]) {
    let passed: BTreeSet<Point> =
        outcomes.iter().flat_map(|outcome| outcome.passings.values()).flatten().map(|((point, _), _)| *point).collect();
    let missed: Vec<_> = Point::ALL.iter().filter(|point| !passed.contains(point)).collect();
    assert!(missed.is_empty(), "no scene comes by these points, of which nobody knows whether they hold: {missed:?}");
    let unlisted: Vec<_> = passed.iter().filter(|point| !Point::ALL.contains(point)).collect();
    assert!(unlisted.is_empty(), "these points are not in Point::ALL: {unlisted:?}");
}

/// All faults at the first passing of each point, and a crash at the second.
fn cases(map: &Map, revision: Revision) -> Vec<Case> {
    let mut cases = Vec::new();
    for ((who, point), (scene, count)) in map {
        for (phase, kind) in PHASES.iter().flat_map(|phase| KINDS.map(|kind| (*phase, kind))) {
            let passings = if *count > 1 && kind == Kind::Crash { 1..=2 } else { 1..=1 };
            cases.extend(passings.map(|passing| {
                let mishap = Mishap { point: *point, phase, kind, passing };
                Case { revision, scene: *scene, mishap: Some((*who, mishap)) }
            }));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_each_report_once_after_failure_at_each_point() {
    let begun = Instant::now();
    let revisions = [Revision::Dap09, Revision::Dap18];
    let quiet = |revision| Scene::all(revision).iter().map(move |scene| Case { revision, scene: *scene, mishap: None });
    let outcomes = run_all(revisions.into_iter().flat_map(quiet), 0).await;
    check_points(&outcomes);
    eprintln!("all scenes without a mishap: {:.1?}", begun.elapsed());

    let cases = revisions.into_iter().flat_map(|revision| cases(&map(&outcomes, revision), revision));
    let outcomes = run_all(cases, outcomes.len() as u16).await;
    for Outcome { case, is_sprung, .. } in &outcomes {
        let is_first = case.mishap.is_some_and(|(_, mishap)| mishap.passing == 1);
        assert!(*is_sprung || !is_first, "nothing went wrong in {case:?}");
    }
    let (sprung, all) = (outcomes.iter().filter(|outcome| outcome.is_sprung).count(), outcomes.len());
    eprintln!("{} points, {all} cases, {sprung} mishaps: {:.1?}", Point::ALL.len(), begun.elapsed());
}
