//! The fixture of a scenario: a leader and a helper with a task, and clients and collectors that never give up.

use std::{collections::BTreeSet, sync::Arc, time::Duration as Span};

use bytes::Bytes;
use dapbox::{
    client::Client,
    collector::{CollectedAggregate, Collector, CollectorTask},
    config::Config,
    model::{
        BatchMode, Duration, Epsilon, MaxMeasurement, Query, Report, Revision, Secret, Task, TaskId, Time, TokenHash,
        VdafConfig,
        tokens::{NewToken, TokenChange},
        verify_keys::{VerifyKeyAction, VerifyKeyChange},
    },
    peer::{Answer, Peer, PeerOptions, RetryPolicy, is_retryable},
    vdaf::{AggregateResult, Measurement},
    views::{
        privacy::{BudgetChange, PrivacyChange},
        status::{CloseRequest, RenameRequest},
    },
    wire::{RequestSpec, ResourceKind, taskprov},
};

use tokio::sync::Notify;

use super::machine::{FaultInjector, Machine, RETRY_PAUSE};
use crate::common::{Parties, calls::assert_accepted, relay::Relay};

/// Clients and collectors retry soon, and for longer than any test takes.
const RETRIES: RetryPolicy =
    RetryPolicy { initial: Span::from_millis(5), max: Span::from_millis(20), give_up_after: Span::from_secs(600) };

/// The uploaded numbers: powers of two, so that the sum tells which were counted and how often.
pub const NUMBERS: [u128; 5] = [1, 2, 4, 8, 16];

/// One of the two aggregators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Leader,
    Helper,
}

/// The fixture's parameters.
pub struct FixtureParams {
    pub revision: Revision,
    /// Part of the addresses of both machines, unique for each fixture.
    pub number: u16,
    pub leader: Arc<FaultInjector>,
    pub helper: Arc<FaultInjector>,
}

/// Two machines with a task.
pub struct Fixture {
    pub leader: Machine,
    pub helper: Machine,
    pub parties: Parties,
    /// Ends [`Fixture::watch_keys`].
    pub done: Notify,
    /// The task configuration of an in-band task, sent with all requests.
    pub configuration: Option<Bytes>,
    peer: Peer,
}

impl Fixture {
    pub async fn build(
        params: FixtureParams,
        relay: Option<&Relay>,
        leader: impl FnOnce(&mut Config),
        helper: impl FnOnce(&mut Config),
        task: impl Fn(&mut Task),
    ) -> Self {
        let [high, low] = params.number.to_be_bytes();
        let (leader, helper) = tokio::join!(
            Machine::start([127, 1, high, low], params.leader, leader),
            Machine::start([127, 2, high, low], params.helper, helper),
        );
        let (leader_url, helper_url) = (leader.url(params.revision), helper.url(params.revision));
        let helper_url = relay.map_or(helper_url.clone(), |relay| relay.before(&helper_url));
        let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
        let parties = Parties::new(params.revision, vdaf, BatchMode::TimeInterval, leader_url, helper_url)
            .with(|task| task.public.min_batch_size = NUMBERS.len() as u64)
            .with(task);
        for (machine, task) in [(&leader, &parties.leader), (&helper, &parties.helper)] {
            // Already known: the answer to its addition was lost.
            assert!(matches!(machine.add(task).await, 201 | 409));
        }
        let peer = Peer::new(&PeerOptions::default()).unwrap();
        Self { leader, helper, parties, done: Notify::new(), configuration: None, peer }
    }

    pub async fn stop(self) {
        self.leader.stop().await;
        self.helper.stop().await;
    }

    pub fn client(&self) -> Client {
        let client = Client::new(self.parties.task().clone(), self.peer.clone(), RETRIES).unwrap();
        match &self.configuration {
            Some(configuration) => client.with_advertisement(configuration),
            None => client,
        }
    }

    /// Sends a request until a healthy server answers.
    pub async fn send_until_answered(
        &self,
        to: Option<ResourceKind>,
        call: &RequestSpec,
        body: impl Into<Bytes>,
    ) -> Answer {
        let (parties, body) = (&self.parties, body.into());
        let task = parties.task();
        let (url, token) = match to {
            None => (&task.leader_url, None),
            Some(ResourceKind::CollectionJob) => (&task.leader_url, Some(&parties.collector_token)),
            Some(_) => (&task.helper_url, Some(&parties.helper_token)),
        };
        let encode = |bytes: &Bytes| taskprov::for_revision(task.revision).unwrap().encode_header(bytes);
        let call = call.clone().with_advertisement(self.configuration.as_ref().map(encode));
        loop {
            self.leader.check();
            self.helper.check();
            match self.peer.send(url, &call, token, body.clone()).await {
                Ok(answer) if !is_retryable(answer.status) => return answer,
                _ => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Uploads any bytes until they are answered.
    pub async fn upload_bytes(&self, bytes: Vec<u8>) -> Answer {
        self.send_until_answered(None, &self.parties.wire().upload_request(&self.parties.id()), bytes).await
    }

    /// Polls the leader's HPKE keys continuously, as clients do; returns all ids seen.
    pub async fn watch_keys(&self) -> BTreeSet<u8> {
        let (wire, mut told) = (self.parties.wire(), BTreeSet::new());
        let call = wire.hpke_config_request(Some(&self.parties.id()));
        let watch = async {
            loop {
                if let Ok(answer) = self.peer.send(&self.parties.task().leader_url, &call, None, Bytes::new()).await
                    && answer.is_success()
                {
                    told.extend(wire.decode_hpke_configs(&answer.body).unwrap().iter().map(|config| config.id));
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        };
        tokio::select! {
            () = watch => {}
            () = self.done.notified() => {}
        }
        told
    }

    /// Makes one report of each of [`NUMBERS`] and uploads each until it is accepted.
    pub async fn upload_numbers(&self, time: Time) -> Vec<Report> {
        let client = self.client();
        let mut reports = Vec::new();
        for number in NUMBERS {
            reports.push(client.prepare(Measurement::Number(number), time).await.unwrap());
        }
        self.upload(&reports).await;
        reports
    }

    /// Uploads reports, each until it is accepted.
    pub async fn upload(&self, reports: &[Report]) {
        for report in reports {
            let bytes = self.parties.wire().encode_upload(self.parties.task(), std::slice::from_ref(report));
            assert_accepted(&self.upload_bytes(bytes).await);
        }
    }

    /// Collects a batch, which must be exactly [`NUMBERS`].
    pub async fn collect(&self, query: Query) -> CollectedAggregate {
        let parties = &self.parties;
        let task = CollectorTask {
            public: parties.task().clone(),
            token: parties.collector_token.clone(),
            previous_token: None,
        };
        let collector = Collector::new(task, parties.keypair.clone(), self.peer.clone(), RETRIES).unwrap();
        let collector = match &self.configuration {
            Some(configuration) => collector.with_advertisement(configuration),
            None => collector,
        };
        let collected = collector.collect(query, None, |_| {}).await.unwrap();
        let sum = NUMBERS.iter().sum();
        assert_eq!((collected.report_count, &collected.result), (5, &AggregateResult::Number(sum)));
        collected
    }

    /// Waits until the leader's status satisfies a condition that also holds after a crash. The shown state may not be
    /// durable yet; the answer to a later write proves that it is.
    pub async fn poll_until_ready(&self, is_right: impl Fn(&dapbox::views::status::TaskStatus) -> bool) {
        let id = self.parties.id();
        loop {
            self.leader.until(&id, &is_right).await;
            self.upload_bytes(vec![1, 2, 3]).await;
            if is_right(&self.leader.status(&id).await) {
                return;
            }
        }
    }

    /// Checks that both sides have counted the same reports once and have no pending work.
    pub async fn check_counts(&self) {
        for machine in [&self.leader, &self.helper] {
            let is_quiet = |status: &dapbox::views::status::TaskStatus| status.jobs == 0 && status.waiting == 0;
            let status = machine.until(&self.parties.id(), is_quiet).await;
            let count = |name: &str| status.counters.get(name).copied().unwrap_or(0);
            assert_eq!((count("aggregate_success"), status.batches_collected), (5, 1), "{status:#?}");
            assert!([0, 5].contains(&count("report_success")), "{status:#?}");
            let replayed: Vec<_> = status.counters.keys().filter(|name| name.contains("replay")).collect();
            assert!(replayed.is_empty(), "{replayed:?}");
        }
    }

    /// Adds a verification key to another task, of a revision that has several.
    pub async fn add_verify_key(&self) {
        for (machine, task) in [(&self.leader, &self.parties.leader), (&self.helper, &self.parties.helper)] {
            let mut task = task.clone();
            (task.public.id, task.public.revision) = (TaskId::new([8; 32]), Revision::Dap19);
            let key = Secret::new(vec![1; 32]);
            task.verify_key = key.clone();
            assert!(matches!(machine.add(&task).await, 201 | 409));
            let change = VerifyKeyChange { task: task.public.id, change: VerifyKeyAction::Add { id: 1, key } };
            assert!(matches!(machine.change_verify_keys(&change).await, 200 | 409));
        }
    }

    /// Limits the noise of another task at both machines.
    pub async fn set_privacy_budget(&self) {
        for (machine, task) in [(&self.leader, &self.parties.leader), (&self.helper, &self.parties.helper)] {
            let mut task = task.clone();
            (task.public.id, task.public.noise) = (TaskId::new([7; 32]), Epsilon::new(1, 2));
            assert!(matches!(machine.add(&task).await, 201 | 409));
            let budget = BudgetChange::Set(Epsilon::new(3, 1).unwrap());
            let change = PrivacyChange { task: task.public.id, budget, batches: None };
            assert_eq!(machine.change_privacy(&change).await, 200);
        }
    }

    /// Closes everything before a time on both sides.
    pub async fn close_before(&self, before: Time) {
        let id = self.parties.id();
        for machine in [&self.leader, &self.helper] {
            assert_eq!(machine.close(&CloseRequest { task: id, before }).await, 200);
            assert!(machine.status(&id).await.horizon >= Some(before));
        }
    }

    /// Rotates the leader's token for the helper, at the leader first: the helper accepts the old one until it knows
    /// the new one.
    pub async fn replace_token(&self) {
        let (task, token, keep_old) = (self.parties.id(), Secret::random_token(), Duration(3600));
        let accepted = NewToken::Accepted(TokenHash::of(token.expose()));
        for (machine, new) in [(&self.leader, NewToken::Presented(token)), (&self.helper, accepted)] {
            assert_eq!(machine.change_token(&TokenChange { task, new, keep_old }).await, 200);
        }
    }

    /// Names the task on both sides.
    pub async fn rename(&self) {
        let request = RenameRequest { task: self.parties.id(), name: Some("a name".parse().unwrap()) };
        for machine in [&self.leader, &self.helper] {
            assert_eq!(machine.rename(&request).await, 204);
            assert_eq!(machine.status(&self.parties.id()).await.name, request.name);
        }
    }

    /// Removes the task on both sides.
    pub async fn remove(&self) {
        for (machine, task) in [(&self.leader, &self.parties.leader), (&self.helper, &self.parties.helper)] {
            self.remove_at(machine, task).await;
        }
    }

    /// Removes the never-contacted task on both sides without a trace.
    pub async fn discard(&self) {
        let id = self.parties.id();
        for machine in [&self.leader, &self.helper] {
            // Already gone: the answer to its removal was lost.
            assert!(matches!(machine.remove(&id).await, 200 | 400));
            assert_eq!(machine.remove(&id).await, 400);
        }
    }

    pub async fn remove_at(&self, machine: &Machine, task: &Task) {
        // Already gone: the answer to its removal was lost.
        assert!(matches!(machine.remove(&task.public.id).await, 204 | 400));
        assert_eq!((machine.remove(&task.public.id).await, machine.add(task).await), (400, 409));
    }
}
