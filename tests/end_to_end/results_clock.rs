//! A collector whose clock is set forward and back, whose leader is down for days, and which is restarted meanwhile.

use std::{sync::Arc, time::Duration as Span};

use dapbox::{
    config::{OptionalAddress, Seconds},
    model::{BatchMode, Duration},
    results::ledger::check_invariants,
    server::{Clock, store_options},
    support::clock,
    vdaf::AggregateResult,
    views::results::WindowStatus,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::common::{
    Node,
    chaos::variable,
    collecting::every,
    fake_leader::{FakeLeader, Reports, Trouble},
    fast_clock::FastClock,
    open_store,
};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Number of events before the clocks are right again.
const EVENTS: usize = 25;
/// The days that pass at least.
const DAYS: u64 = 450;

fn value(hour: u64) -> u64 {
    hour / HOUR % 200
}

/// What happens to the collector and its leader.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// Time passes, in days.
    Pass(u64),
    /// The collector's clock is set forward or back, in hours.
    Set(i64),
    /// The collector's clock is set right.
    Correct,
    /// The leader stops to answer, or answers again.
    Turn,
    /// The leader handles the next requests, and their answers are lost.
    Lose(usize),
    /// The collector is restarted.
    Restart,
}

fn random(rng: &mut StdRng) -> Happening {
    match rng.random_range(0..10) {
        0 | 1 => Happening::Pass(rng.random_range(0..20)),
        2 => Happening::Set(rng.random_range(1..30)),
        3 => Happening::Set(rng.random_range(1..400) * 24),
        4 => Happening::Set(-rng.random_range(1..400) * 24),
        5 => Happening::Correct,
        6 => Happening::Turn,
        7 | 8 => Happening::Lose(rng.random_range(1..12)),
        _ => Happening::Restart,
    }
}

struct Scene {
    leader: FakeLeader,
    clock: Arc<FastClock>,
    node: Node,
}

impl Scene {
    async fn undergo(&mut self, what: Happening) {
        match what {
            Happening::Pass(days) => {
                let seconds = i64::try_from(days * DAY).unwrap();
                self.clock.set_by(seconds);
                self.leader.clock.set_by(seconds);
            }
            Happening::Set(hours) => self.clock.set_by(hours * 3600),
            Happening::Correct => self.clock.set(self.leader.clock.now()),
            Happening::Turn => self.leader.set(|state| state.is_down = !state.is_down),
            Happening::Lose(answers) => {
                let lost = std::iter::repeat_n(Trouble::PageAfterwards(504), answers);
                self.leader.set(|state| state.troubles.extend(lost));
            }
            Happening::Restart => self.node.restart().await,
        }
    }
}

/// No window is lost, requested before its end or under a second id, whatever the clock says.
#[tokio::test(flavor = "multi_thread")]
async fn no_clock_loses_or_repeats_a_window() {
    let seed = variable("DAPBOX_SEED", rand::random());
    println!("setting the clock of a collector, DAPBOX_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let start = clock::now().truncate(Duration(DAY));
    let [clock, leader_clock] = [0, 1].map(|_| Arc::new(FastClock::starting_at(start)));
    let reports: Reports = Box::new(|hour| Some(value(hour)));
    let (leader, parties) = FakeLeader::start(leader_clock, BatchMode::TimeInterval, reports).await;
    let node = Node::start_at(clock.clone(), |config| {
        config.results.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
        config.results.retry_max = Seconds::new(600);
    })
    .await;
    let (id, settings) = (parties.id(), every(DAY, start));
    assert_eq!(node.collect(&parties.collector_record(settings.clone())).await.0, 201);
    let mut scene = Scene { leader, clock, node };
    for _ in 0..EVENTS {
        let what = random(&mut rng);
        println!("{what:?}");
        scene.undergo(what).await;
        // Long enough for some requests, and short enough to interrupt others.
        tokio::time::sleep(Span::from_millis(rng.random_range(0..150))).await;
    }
    scene.leader.set(|state| state.is_down = false);
    scene.leader.clock.set(scene.leader.clock.now().max(start.saturating_add(Duration(DAYS * DAY))));
    scene.undergo(Happening::Correct).await;

    let windows = scene.leader.clock.now().saturating_sub(Duration(start.0)).0 / DAY;
    let is_done = |found: &[WindowStatus]| {
        found.iter().filter(|window| window.number < windows && window.state == "collected").count() as u64 == windows
    };
    scene.node.until_windows(&id, is_done).await;
    for (number, result) in scene.node.results(&id).await {
        let day = start.0 + number * DAY;
        let sum = (day..day + DAY).step_by(HOUR as usize).map(|hour| u128::from(value(hour))).sum();
        assert_eq!(result, (24, AggregateResult::Number(sum)), "window {number}");
    }
    scene.node.stop().await;
    scene.leader.see(|state| {
        assert_eq!(state.violations, Vec::<String>::new());
        assert!(state.jobs.len() as u64 >= windows);
    });
    let store = open_store(scene.node.data_dir(), store_options(&scene.node.config)).await;
    let check = |view: &dapbox::store::View<'_>| {
        let state = view.collector(&id).unwrap();
        Ok(check_invariants(&parties.leader.public, &settings, &state.windows))
    };
    assert_eq!(store.read(check).unwrap(), Ok(()));
}
