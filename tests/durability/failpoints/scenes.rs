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
    in_band,
    machine::REST,
    managed,
    stage::{NUMBERS, Setting, Stage, Who},
};
use crate::common::{
    calls::{assert_deleted, assert_refused, assert_upload_refused, is_pending},
    relay::{Act, Asked, Relay, Told},
};

/// A deterministic scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scene {
    /// The life of a task and of a batch.
    Life,
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
}

/// How long the helper delays a job, so that its operator can act.
const HOLD: Span = Span::from_millis(300);

impl Scene {
    /// The scenarios of a revision.
    pub fn all(revision: Revision) -> &'static [Self] {
        use Scene::{Closed, Deferred, Early, InBand, Keys, Life, Managed, Mismatch, Refused, Removed, Violation};
        match revision {
            Revision::Dap09 => &[Life, Early, Refused, Violation, Mismatch, Closed, Removed, Keys, Managed, InBand],
            Revision::Dap18 => &[Life, Deferred, Early, Refused, Violation, Mismatch, Closed, Removed, Keys],
        }
    }

    /// The point where the scenario needs a delay.
    pub fn slow(self, who: Who) -> Option<(Point, Phase, Span)> {
        let is_slow = (self, who) == (Self::Removed, Who::Helper);
        is_slow.then_some((Point::HelperReserve, Phase::After, HOLD))
    }

    /// Runs it.
    pub async fn play(self, setting: Setting) {
        match self {
            Self::Life => life(setting).await,
            Self::Deferred => deferred(setting).await,
            Self::Early => early(setting).await,
            Self::Refused => refused(setting).await,
            Self::Violation => breach(setting).await,
            Self::Mismatch => mismatch(setting).await,
            Self::Closed => closed(setting).await,
            Self::Removed => removed(setting).await,
            Self::Keys => keys(setting).await,
            Self::Managed => managed::play(setting).await,
            Self::InBand => in_band::play(setting).await,
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

async fn life(setting: Setting) {
    let stage = Stage::build(setting, None, short_jobs, |_| {}, |_| {}).await;
    let parties = &stage.parties;
    let refused = stage.upload_bytes(vec![1, 2, 3]).await;
    assert_refused(&refused, parties, ProblemType::InvalidMessage);
    assert!(stage.leader.status(&parties.id()).await.counters["report_decode_failure"] >= 1);

    let reports = stage.upload_numbers(clock::now()).await;
    let collected = stage.collect(parties.query_now()).await;
    stage.check_counts().await;
    // Aggregated reports are not aggregated again.
    let place = collected.location.unwrap();
    let wire = parties.wire();
    let result = stage.insist(COLLECTION, &wire.poll_request(ResourceKind::CollectionJob, &place).unwrap(), "").await;
    assert!(result.is_success() && !result.body.is_empty(), "{result:?}");
    stage.delete(COLLECTION, &place).await;
    for report in &reports {
        let bytes = wire.encode_upload(parties.task(), std::slice::from_ref(report));
        stage.upload_bytes(bytes).await;
    }
    stage.check_counts().await;
    stage.remove().await;
    stage.stop().await;
}

const COLLECTION: Option<ResourceKind> = Some(ResourceKind::CollectionJob);
const SHARE: Option<ResourceKind> = Some(ResourceKind::AggregateShare);

impl Stage {
    /// The outcome of a collection job.
    async fn outcome(&self, query: Query) -> Answer {
        let (parties, wire) = (&self.parties, self.parties.wire());
        let create = wire.create_request(ResourceKind::CollectionJob, &parties.id(), &[1; 16]);
        let mut answer = self.insist(COLLECTION, &create, parties.collection_req(query)).await;
        let place = create.resource_path.clone().or_else(|| parties.place_in(&answer));
        while is_pending(&answer, parties) {
            tokio::time::sleep(REST).await;
            let poll = wire.poll_request(ResourceKind::CollectionJob, place.as_deref().unwrap()).unwrap();
            answer = self.insist(COLLECTION, &poll, "").await;
        }
        answer
    }

    /// Deletes a resource.
    async fn delete(&self, kind: Option<ResourceKind>, place: &str) {
        let wire = self.parties.wire();
        let [delete, poll] = [wire.delete_request(kind.unwrap(), place), wire.poll_request(kind.unwrap(), place)];
        let deleted = self.insist(kind, &delete.unwrap(), "").await;
        // Already gone: the answer to its deletion was lost.
        assert!(deleted.is_success() || matches!(deleted.status, 404 | 410), "{deleted:?}");
        assert_deleted(&self.insist(kind, &poll.unwrap(), "").await, &self.parties);
    }
}

/// Our leader and helper never defer shares to each other; other implementations do.
async fn deferred(setting: Setting) {
    let relay = Relay::start().await;
    relay.plan(|asked, _| match asked.makes(ResourceKind::AggregateShare) {
        true => Act::Edit(Box::new(|told| if told.status < 300 { Told { body: Vec::new(), ..told } } else { told })),
        false => Act::Pass,
    });
    let later = |config: &mut Config| {
        (config.helper.synchronous_reports, config.helper.retry_after) = (0, Seconds::millis(0));
    };
    let stage = Stage::build(setting, Some(&relay), short_jobs, later, |_| {}).await;
    stage.upload_numbers(clock::now()).await;
    stage.collect(stage.parties.query_now()).await;
    stage.check_counts().await;

    // The share is a resource, and the same request finds it again.
    let Asked { body, .. } = relay.made(ResourceKind::AggregateShare).swap_remove(0);
    let call = stage.parties.wire().create_request(ResourceKind::AggregateShare, &stage.parties.id(), &[0; 16]);
    let made = stage.insist(SHARE, &call, body).await;
    let place = stage.parties.place_in(&made).unwrap();
    stage.delete(SHARE, &place).await;
    relay.check_repeats(&stage.parties);
    stage.stop().await;
}

async fn early(setting: Setting) {
    let exact = |config: &mut Config| config.limits.clock_skew = Seconds::new(0);
    let stage = Stage::build(setting, None, long_jobs, exact, |task| task.public.time_precision = Duration(1)).await;
    let soon = clock::now().saturating_add(Duration(2));
    stage.upload_numbers(soon).await;
    stage.collect(Query::TimeInterval(Interval::new(soon, Duration(1)).unwrap())).await;
    stage.check_counts().await;
    stage.stop().await;
}

/// A job that is too long for the helper is dissolved. If its leader no longer knows that every attempt was refused,
/// the job must not be dissolved and waits until the helper's operator has raised the limit.
async fn refused(setting: Setting) {
    let relay = Relay::start().await;
    let limit = OnceLock::new();
    relay.plan(move |asked, before| {
        let is_job = asked.makes(ResourceKind::AggregationJob);
        let is_too_long = is_job && asked.body.len() >= *limit.get_or_init(|| asked.body.len());
        if is_too_long && before < 3 { Act::Tell(Told::new(413, "text/plain", "")) } else { Act::Pass }
    });
    let stage = Stage::build(setting, Some(&relay), long_jobs, |_| {}, |_| {}).await;
    stage.upload_numbers(clock::now()).await;
    stage.collect(stage.parties.query_now()).await;
    stage.check_counts().await;
    stage.stop().await;
}

async fn breach(setting: Setting) {
    let relay = Relay::start().await;
    let stage = Stage::build(setting, Some(&relay), long_jobs, |_| {}, |_| {}).await;
    let parties = &stage.parties;
    let (id, task) = (parties.id(), parties.task().clone());
    relay.plan(move |asked, _| {
        let task = task.clone();
        let tamper = move |told: Told| {
            let wire = dapbox::wire::for_revision(task.revision);
            match wire.decode_job_resp(&Bytes::from(told.body.clone()), NUMBERS.len()) {
                Ok(mut resps) if told.status < 300 => {
                    resps.swap(1, 3);
                    Told { body: wire.encode_job_resp(&resps), ..told }
                }
                _ => told,
            }
        };
        if asked.makes(ResourceKind::AggregationJob) { Act::Edit(Box::new(tamper)) } else { Act::Pass }
    });
    let hour = parties.interval(0);
    stage.upload_numbers(hour.start().saturating_sub(Duration(1))).await;
    stage.settle(|status| status.jobs == 0 && status.counters.get("helper_protocol_error") == Some(&5)).await;

    relay.plan(|_, _| Act::Pass);
    stage.upload_numbers(hour.start()).await;
    stage.collect(Query::TimeInterval(hour)).await;
    let status = stage.leader.status(&id).await;
    let counts = ["report_success", "aggregate_success", "helper_protocol_error"].map(|name| status.counters[name]);
    assert_eq!(counts, [10, 5, 5], "{status:?}");
    relay.check_repeats(parties);
    stage.stop().await;
}

async fn mismatch(setting: Setting) {
    let relay = Relay::start().await;
    relay.plan(|asked, _| match asked.makes(ResourceKind::AggregateShare) {
        true => Act::Tell(Told::problem(400, "batchMismatch")),
        false => Act::Pass,
    });
    let stage = Stage::build(setting, Some(&relay), short_jobs, |_| {}, |_| {}).await;
    let parties = &stage.parties;
    stage.upload_numbers(clock::now()).await;
    // However often it is requested.
    for _ in 0..2 {
        assert_refused(&stage.outcome(parties.query_now()).await, parties, ProblemType::BatchMismatch);
    }
    relay.check_repeats(parties);
    stage.stop().await;
}

async fn closed(setting: Setting) {
    let traps = [setting.leader.clone(), setting.helper.clone()];
    let often = |config: &mut Config| config.retention.sweep_interval = Seconds::millis(50);
    let leader = |config: &mut Config| {
        short_jobs(config);
        often(config);
    };
    let stage = Stage::build(setting, None, leader, often, |_| {}).await;
    stage.replace_token().await;
    stage.rename().await;
    let reports = stage.upload_numbers(clock::now()).await;
    stage.collect(stage.parties.query_now()).await;
    stage.close_before(clock::now()).await;
    for trap in &traps {
        trap.passed(Point::Sweep, Phase::After).await;
        trap.passed(Point::SweepRemoved, Phase::After).await;
    }
    // Aggregated reports are deleted, and still not aggregated again.
    for report in &reports {
        let wire = stage.parties.wire();
        stage.upload_bytes(wire.encode_upload(stage.parties.task(), std::slice::from_ref(report))).await;
    }
    stage.check_counts().await;
    stage.remove().await;
    stage.stop().await;
}

async fn removed(setting: Setting) {
    let trap = setting.helper.clone();
    let stage = Stage::build(setting, None, short_jobs, |_| {}, |_| {}).await;
    stage.upload_numbers(clock::now()).await;
    trap.passed(Point::HelperReserve, Phase::After).await;
    stage.remove_at(&stage.helper, &stage.parties.helper).await;
    trap.passed(Point::HelperRelease, Phase::Before).await;
    stage.remove().await;
    stage.stop().await;
}

/// Reports sealed to old keys are counted. No client ever sees a key that a crash can undo.
async fn keys(setting: Setting) {
    let leader = |config: &mut Config| {
        long_jobs(config);
        pending_shortly(config);
    };
    let stage = Stage::build(setting, None, leader, pending_shortly, |_| {}).await;
    let (old, new) = (stage.client(), stage.client());
    let mut reports = Vec::new();
    for number in &NUMBERS[..3] {
        reports.push(old.prepare(Measurement::Number(*number), clock::now()).await.unwrap());
    }
    let late = reports.pop().unwrap();
    stage.upload(&reports).await;
    let first = late.leader_share.config_id;
    let (told, ()) = tokio::join!(stage.watch_keys(), async {
        for machine in [&stage.leader, &stage.helper] {
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
        stage.done.notify_one();
    });
    let active = stage.leader.keys(KeyState::Active).await;
    let known = [active, stage.leader.keys(KeyState::Expired).await].concat();
    assert!(told.iter().all(|id| known.contains(id)), "clients were told of {told:?}, and known are {known:?}");

    stage.upload(&[late]).await;
    for number in &NUMBERS[3..] {
        let report = new.prepare(Measurement::Number(*number), clock::now()).await.unwrap();
        assert_ne!(report.leader_share.config_id, first);
        stage.upload(&[report]).await;
    }
    stage.collect(stage.parties.query_now()).await;
    stage.check_counts().await;

    let too_late = old.prepare(Measurement::Number(1), clock::now()).await.unwrap();
    // Already gone: the answer to its deletion was lost.
    assert!(matches!(stage.leader.order("DELETE", &first.to_string(), "").await, 200 | 404));
    let bytes = stage.parties.wire().encode_upload(stage.parties.task(), std::slice::from_ref(&too_late));
    let refused = stage.upload_bytes(bytes).await;
    assert_upload_refused(&refused, &stage.parties, &too_late, ReportError::OutdatedConfig);
    let _ = stage.helper.order("DELETE", &stage.helper.keys(KeyState::Active).await[0].to_string(), "").await;
    stage.stop().await;
}
