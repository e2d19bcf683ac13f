//! Scenarios of leader, helper, clients and collectors that together pass every failure point.
//!
//! No party knows about the fault. Each retries until it is answered, as in production. The final state must equal that
//! of a
//! run without faults.

use std::{sync::OnceLock, time::Duration as Span};

use bytes::Bytes;
use dapbox::{
    config::{Config, Seconds},
    model::{Duration, Interval, KeyState, Query, ReportError, Revision},
    peer::Answer,
    support::{Phase, Point, clock},
    vdaf::Measurement,
    wire::{ProblemType, ResourceKind},
};

use super::{
    collector,
    fixture::{Fixture, FixtureParams, NUMBERS, Who},
    in_band,
    machine::RETRY_PAUSE,
    managed,
};
use crate::common::{
    calls::{assert_deleted, assert_rejected, assert_report_rejected, is_pending},
    relay::{Relay, RelayAction, RelayedAnswer, RelayedRequest},
};

/// A deterministic scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// The life of a task and of a batch.
    Lifecycle,
    /// The helper defers its answers, and its share is deleted.
    Deferred,
    /// Reports are too early for the helper's clock and are retried.
    Early,
    /// The helper accepts only shorter jobs.
    Refused,
    /// The helper's answers are about other reports.
    Violation,
    /// The helper refuses its share.
    Mismatch,
    /// A token is rotated; then both sides close and delete the past.
    Closed,
    /// The helper's operator removes the task during a job.
    Removed,
    /// Both rotate their HPKE keys while reports are pending.
    Keys,
    /// A control plane provisions a task, which then runs.
    Managed,
    /// A task is provisioned in-band with its first report.
    InBand,
    /// The helper's server is the collector of the task.
    Collector,
}

/// How long the helper delays a job, so that its operator can act.
const HOLD: Span = Span::from_millis(300);

impl Scenario {
    /// The scenarios of a revision.
    pub fn all(revision: Revision) -> &'static [Self] {
        use Scenario::{
            Closed, Collector, Deferred, Early, InBand, Keys, Lifecycle, Managed, Mismatch, Refused, Removed, Violation,
        };
        match revision {
            Revision::Dap09 => {
                &[Lifecycle, Early, Refused, Violation, Mismatch, Closed, Removed, Keys, Managed, InBand, Collector]
            }
            Revision::Dap18 | Revision::Dap19 => {
                &[Lifecycle, Deferred, Early, Refused, Violation, Mismatch, Closed, Removed, Keys, Collector]
            }
        }
    }

    /// The point where the scenario needs a delay.
    pub fn slow(self, who: Who) -> Option<(Point, Phase, Span)> {
        let is_slow = (self, who) == (Self::Removed, Who::Helper);
        is_slow.then_some((Point::HelperReserve, Phase::After, HOLD))
    }

    /// Runs it.
    pub async fn run(self, params: FixtureParams) {
        match self {
            Self::Lifecycle => life(params).await,
            Self::Deferred => deferred(params).await,
            Self::Early => early(params).await,
            Self::Refused => refused(params).await,
            Self::Violation => violation(params).await,
            Self::Mismatch => mismatch(params).await,
            Self::Closed => closed(params).await,
            Self::Removed => removed(params).await,
            Self::Keys => keys(params).await,
            Self::Managed => managed::run(params).await,
            Self::InBand => in_band::run(params).await,
            Self::Collector => collector::run(params).await,
        }
    }
}

/// New keys are activated a second after their creation.
fn pending_shortly(config: &mut Config) {
    config.hpke.pending_time = Seconds::new(1);
}

/// Jobs of up to two reports, as soon as one is pending.
fn short_jobs(config: &mut Config) {
    (config.leader.max_job_size, config.leader.min_job_size) = (2, 1);
}

/// Jobs of five reports, or of those that a collection waits for.
fn long_jobs(config: &mut Config) {
    (config.leader.max_job_size, config.leader.min_job_size) = (5, 5);
    config.leader.max_job_delay = Seconds::new(600);
}

async fn life(params: FixtureParams) {
    let fixture = Fixture::build(params, None, short_jobs, |_| {}, |_| {}).await;
    let parties = &fixture.parties;
    let refused = fixture.upload_bytes(vec![1, 2, 3]).await;
    assert_rejected(&refused, parties, ProblemType::InvalidMessage);
    assert!(fixture.leader.status(&parties.id()).await.counters["report_decode_failure"] >= 1);

    let reports = fixture.upload_numbers(clock::now()).await;
    let collected = fixture.collect(parties.query_now()).await;
    fixture.check_counts().await;
    // Aggregated reports are not aggregated again.
    let place = collected.location.unwrap();
    let wire = parties.wire();
    let result = fixture
        .send_until_answered(COLLECTION, &wire.poll_request(ResourceKind::CollectionJob, &place).unwrap(), "")
        .await;
    assert!(result.is_success() && !result.body.is_empty(), "{result:?}");
    fixture.delete(COLLECTION, &place).await;
    for report in &reports {
        let bytes = wire.encode_upload(parties.task(), std::slice::from_ref(report));
        fixture.upload_bytes(bytes).await;
    }
    fixture.check_counts().await;
    fixture.remove().await;
    fixture.stop().await;
}

const COLLECTION: Option<ResourceKind> = Some(ResourceKind::CollectionJob);
const SHARE: Option<ResourceKind> = Some(ResourceKind::AggregateShare);

impl Fixture {
    /// The outcome of a collection job.
    async fn outcome(&self, query: Query) -> Answer {
        let (parties, wire) = (&self.parties, self.parties.wire());
        let create = wire.create_request(ResourceKind::CollectionJob, &parties.id(), &[1; 16]);
        let mut answer = self.send_until_answered(COLLECTION, &create, parties.collection_req(query)).await;
        let place = create.resource_path.clone().or_else(|| parties.location_path(&answer));
        while is_pending(&answer, parties) {
            tokio::time::sleep(RETRY_PAUSE).await;
            let poll = wire.poll_request(ResourceKind::CollectionJob, place.as_deref().unwrap()).unwrap();
            answer = self.send_until_answered(COLLECTION, &poll, "").await;
        }
        answer
    }

    /// Deletes a resource.
    async fn delete(&self, kind: Option<ResourceKind>, place: &str) {
        let wire = self.parties.wire();
        let [delete, poll] = [wire.delete_request(kind.unwrap(), place), wire.poll_request(kind.unwrap(), place)];
        let deleted = self.send_until_answered(kind, &delete.unwrap(), "").await;
        // Already gone: the answer to its deletion was lost.
        assert!(deleted.is_success() || matches!(deleted.status, 404 | 410), "{deleted:?}");
        assert_deleted(&self.send_until_answered(kind, &poll.unwrap(), "").await, &self.parties);
    }
}

/// Our leader and helper never defer shares to each other; other implementations do.
async fn deferred(params: FixtureParams) {
    let relay = Relay::start().await;
    relay.plan(|asked, _| match asked.creates(ResourceKind::AggregateShare) {
        true => RelayAction::Edit(Box::new(|told| {
            if told.status < 300 { RelayedAnswer { body: Vec::new(), ..told } } else { told }
        })),
        false => RelayAction::Pass,
    });
    let later = |config: &mut Config| {
        (config.helper.synchronous_reports, config.helper.retry_after) = (0, Seconds::millis(0));
    };
    let fixture = Fixture::build(params, Some(&relay), short_jobs, later, |_| {}).await;
    fixture.upload_numbers(clock::now()).await;
    fixture.collect(fixture.parties.query_now()).await;
    fixture.check_counts().await;

    // The share is a resource, and the same request finds it again.
    let RelayedRequest { body, .. } = relay.creations(ResourceKind::AggregateShare).swap_remove(0);
    let call = fixture.parties.wire().create_request(ResourceKind::AggregateShare, &fixture.parties.id(), &[0; 16]);
    let made = fixture.send_until_answered(SHARE, &call, body).await;
    let place = fixture.parties.location_path(&made).unwrap();
    fixture.delete(SHARE, &place).await;
    relay.check_repeats(&fixture.parties);
    fixture.stop().await;
}

async fn early(params: FixtureParams) {
    let exact = |config: &mut Config| config.limits.clock_skew = Seconds::new(0);
    let fixture = Fixture::build(params, None, long_jobs, exact, |task| task.public.time_precision = Duration(1)).await;
    let soon = clock::now().saturating_add(Duration(2));
    fixture.upload_numbers(soon).await;
    fixture.collect(Query::TimeInterval(Interval::new(soon, Duration(1)).unwrap())).await;
    fixture.check_counts().await;
    fixture.stop().await;
}

/// A job that is too long for the helper is dissolved. If its leader no longer knows that every attempt was refused,
/// the job must not be dissolved and waits until the helper's operator has raised the limit.
async fn refused(params: FixtureParams) {
    let relay = Relay::start().await;
    let limit = OnceLock::new();
    relay.plan(move |asked, before| {
        let is_job = asked.creates(ResourceKind::AggregationJob);
        let is_too_long = is_job && asked.body.len() >= *limit.get_or_init(|| asked.body.len());
        if is_too_long && before < 3 {
            RelayAction::Answer(RelayedAnswer::new(413, "text/plain", ""))
        } else {
            RelayAction::Pass
        }
    });
    let fixture = Fixture::build(params, Some(&relay), long_jobs, |_| {}, |_| {}).await;
    fixture.upload_numbers(clock::now()).await;
    fixture.collect(fixture.parties.query_now()).await;
    fixture.check_counts().await;
    fixture.stop().await;
}

async fn violation(params: FixtureParams) {
    let relay = Relay::start().await;
    let fixture = Fixture::build(params, Some(&relay), long_jobs, |_| {}, |_| {}).await;
    let parties = &fixture.parties;
    let (id, task) = (parties.id(), parties.task().clone());
    relay.plan(move |asked, _| {
        let task = task.clone();
        let tamper = move |told: RelayedAnswer| {
            let wire = dapbox::wire::for_revision(task.revision);
            match wire.decode_job_resp(&Bytes::from(told.body.clone()), NUMBERS.len()) {
                Ok(mut resps) if told.status < 300 => {
                    resps.swap(1, 3);
                    RelayedAnswer { body: wire.encode_job_resp(&resps), ..told }
                }
                _ => told,
            }
        };
        if asked.creates(ResourceKind::AggregationJob) {
            RelayAction::Edit(Box::new(tamper))
        } else {
            RelayAction::Pass
        }
    });
    let hour = parties.interval(0);
    fixture.upload_numbers(hour.start().saturating_sub(Duration(1))).await;
    fixture
        .poll_until_ready(|status| status.jobs == 0 && status.counters.get("helper_protocol_error") == Some(&5))
        .await;

    relay.plan(|_, _| RelayAction::Pass);
    fixture.upload_numbers(hour.start()).await;
    fixture.collect(Query::TimeInterval(hour)).await;
    let status = fixture.leader.status(&id).await;
    let counts = ["report_success", "aggregate_success", "helper_protocol_error"].map(|name| status.counters[name]);
    assert_eq!(counts, [10, 5, 5], "{status:?}");
    relay.check_repeats(parties);
    fixture.stop().await;
}

async fn mismatch(params: FixtureParams) {
    let relay = Relay::start().await;
    relay.plan(|asked, _| match asked.creates(ResourceKind::AggregateShare) {
        true => RelayAction::Answer(RelayedAnswer::problem(400, "batchMismatch")),
        false => RelayAction::Pass,
    });
    let fixture = Fixture::build(params, Some(&relay), short_jobs, |_| {}, |_| {}).await;
    let parties = &fixture.parties;
    fixture.upload_numbers(clock::now()).await;
    // However often it is requested.
    for _ in 0..2 {
        assert_rejected(&fixture.outcome(parties.query_now()).await, parties, ProblemType::BatchMismatch);
    }
    relay.check_repeats(parties);
    fixture.stop().await;
}

async fn closed(params: FixtureParams) {
    let traps = [params.leader.clone(), params.helper.clone()];
    let often = |config: &mut Config| config.retention.sweep_interval = Seconds::millis(50);
    let leader = |config: &mut Config| {
        short_jobs(config);
        often(config);
    };
    let fixture = Fixture::build(params, None, leader, often, |_| {}).await;
    fixture.replace_token().await;
    fixture.rename().await;
    fixture.set_privacy_budget().await;
    fixture.add_verify_key().await;
    let reports = fixture.upload_numbers(clock::now()).await;
    fixture.collect(fixture.parties.query_now()).await;
    fixture.close_before(clock::now()).await;
    for injector in &traps {
        injector.passed(Point::Sweep, Phase::After).await;
        injector.passed(Point::SweepRemoved, Phase::After).await;
    }
    // Aggregated reports are deleted, and still not aggregated again.
    for report in &reports {
        let wire = fixture.parties.wire();
        fixture.upload_bytes(wire.encode_upload(fixture.parties.task(), std::slice::from_ref(report))).await;
    }
    fixture.check_counts().await;
    fixture.remove().await;
    fixture.stop().await;
}

async fn removed(params: FixtureParams) {
    let injector = params.helper.clone();
    let fixture = Fixture::build(params, None, short_jobs, |_| {}, |_| {}).await;
    fixture.upload_numbers(clock::now()).await;
    injector.passed(Point::HelperReserve, Phase::After).await;
    fixture.remove_at(&fixture.helper, &fixture.parties.helper).await;
    injector.passed(Point::HelperRelease, Phase::Before).await;
    fixture.remove().await;
    fixture.stop().await;
}

/// Reports sealed to old keys are counted. No client ever sees a key that a crash can undo.
async fn keys(params: FixtureParams) {
    let leader = |config: &mut Config| {
        long_jobs(config);
        pending_shortly(config);
    };
    let fixture = Fixture::build(params, None, leader, pending_shortly, |_| {}).await;
    let (old, new) = (fixture.client(), fixture.client());
    let mut reports = Vec::new();
    for number in &NUMBERS[..3] {
        reports.push(old.prepare(Measurement::Number(*number), clock::now()).await.unwrap());
    }
    let late = reports.pop().unwrap();
    fixture.upload(&reports).await;
    let first = late.leader_share.config_id;
    let (told, ()) = tokio::join!(fixture.watch_keys(), async {
        for machine in [&fixture.leader, &fixture.helper] {
            let before = machine.keys(KeyState::Active).await;
            assert_eq!(machine.order("POST", "rotate", r#"{"now":false}"#).await, 200);
            machine.until_keys(|active| *active != before).await;
            // An operator repeats an unanswered command, which is then executed again.
            let before = machine.keys(KeyState::Active).await[0];
            assert_eq!(machine.order("POST", "rotate", r#"{"now":true}"#).await, 200);
            machine.until_keys(|active| !active.contains(&before)).await;
            let before = machine.keys(KeyState::Active).await[0];
            assert_eq!(machine.order("POST", &format!("{before}/disable"), "").await, 200);
            machine.until_keys(|active| active.len() == 1 && !active.contains(&before)).await;
        }
        fixture.done.notify_one();
    });
    let active = fixture.leader.keys(KeyState::Active).await;
    let known = [active, fixture.leader.keys(KeyState::Expired).await].concat();
    assert!(told.iter().all(|id| known.contains(id)), "clients were told of {told:?}, and known are {known:?}");

    fixture.upload(&[late]).await;
    for number in &NUMBERS[3..] {
        let report = new.prepare(Measurement::Number(*number), clock::now()).await.unwrap();
        assert_ne!(report.leader_share.config_id, first);
        fixture.upload(&[report]).await;
    }
    fixture.collect(fixture.parties.query_now()).await;
    fixture.check_counts().await;

    let too_late = old.prepare(Measurement::Number(1), clock::now()).await.unwrap();
    // Already gone: the answer to its deletion was lost.
    assert!(matches!(fixture.leader.order("DELETE", &first.to_string(), "").await, 200 | 404));
    let bytes = fixture.parties.wire().encode_upload(fixture.parties.task(), std::slice::from_ref(&too_late));
    let refused = fixture.upload_bytes(bytes).await;
    assert_report_rejected(&refused, &fixture.parties, &too_late, ReportError::OutdatedConfig);
    let _ = fixture.helper.order("DELETE", &fixture.helper.keys(KeyState::Active).await[0].to_string(), "").await;
    fixture.stop().await;
}
