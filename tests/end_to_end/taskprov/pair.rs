//! Aggregators that are peers and have no task yet.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use dapbox::{
    aggregator::taskprov::{self, InBandTerms},
    client::Client,
    collector::{Collector, CollectorTask},
    config::{
        Config, Seconds,
        taskprov::{PeerFile, PeerRole, PresentedToken},
    },
    hpke::{Keypair, Suite},
    model::{
        AggregationJobId, BatchMode, Duration, Extension, Interval, Revision, Secret, TaskId, TaskParameters, Time,
        TokenHash, VdafConfig, taskprov::Advertisement,
    },
    peer::{Answer, RetryPolicy},
    support::clock,
    vdaf::Measurement,
    wire::{
        ProblemType, ResourceKind,
        taskprov::{advertise, for_revision},
    },
};
use tempfile::TempDir;

use crate::common::{
    self, Node, Parties,
    calls::problem,
    peer,
    report_builder::{Draft, ReportBuilder},
};

pub const DAP09: Revision = Revision::Dap09;
pub const TERMS: InBandTerms = InBandTerms { min_batch_size: 1, report_expiry_age: None, max_tasks: 10 };

/// A leader and a helper that are peers, without a task.
pub struct TaskprovPair {
    pub revision: Revision,
    pub leader: Node,
    pub helper: Node,
    /// The peer files of leader and helper.
    pub files: [PeerFile; 2],
    pub helper_token: Secret,
    pub collector_token: Secret,
    pub keypair: Keypair,
    pub dir: TempDir,
}

pub fn near_future(config: &mut Config) {
    (config.leader.min_job_size, config.leader.max_job_delay) = (1, Seconds::millis(50));
    config.provisioning.min_batch_size = 2;
}

pub fn extension() -> Extension {
    Extension { kind: 0xff00, data: Bytes::new() }
}

impl TaskprovPair {
    pub async fn start(change: impl Fn(&mut Config)) -> Self {
        Self::start_with(DAP09, change).await
    }

    pub async fn start_with(revision: Revision, change: impl Fn(&mut Config)) -> Self {
        let change = |config: &mut Config| {
            near_future(config);
            change(config);
        };
        let (leader, helper) = (Node::start_with(change).await, Node::start_with(change).await);
        let keypair = Keypair::generate(9, Suite::DEFAULT).unwrap();
        let (helper_token, collector_token) = (Secret::random_token(), Secret::random_token());
        let of_helper = PeerFile {
            role: PeerRole::Helper,
            endpoint: helper.url(revision),
            verify_key_init: Secret::random(32),
            leader_token_hashes: Vec::new(),
            helper_tokens: vec![PresentedToken(helper_token.clone())],
            collector_token_hashes: vec![TokenHash::of(collector_token.expose())],
            report_expiry_age: None,
            min_batch_size: None,
            collector_key: keypair.config().clone(),
        };
        let of_leader = PeerFile {
            role: PeerRole::Leader,
            // A trailing slash in the URL makes no difference.
            endpoint: leader.url(revision).trim_end_matches('/').to_owned(),
            leader_token_hashes: vec![TokenHash::of(helper_token.expose())],
            helper_tokens: Vec::new(),
            collector_token_hashes: Vec::new(),
            ..of_helper.clone()
        };
        let (files, dir) = ([of_helper, of_leader], TempDir::new().unwrap());
        let mut pair = Self { revision, leader, helper, files, helper_token, collector_token, keypair, dir };
        (0..2).for_each(|n| pair.write(n));
        (pair.leader.config.taskprov.peers, pair.helper.config.taskprov.peers) =
            (vec![pair.path(0)], vec![pair.path(1)]);
        for node in [&mut pair.leader, &mut pair.helper] {
            node.config.public_url = format!("http://{}", node.config.listen);
        }
        tokio::join!(pair.leader.restart(), pair.helper.restart());
        pair
    }

    pub fn path(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("peer-{n}.toml"))
    }

    pub fn write(&self, n: usize) {
        fs::write(self.path(n), self.files[n].to_text().unwrap()).unwrap();
    }

    /// A task between them that neither knows yet.
    pub fn task(&self, change: impl FnOnce(&mut TaskParameters)) -> Advertisement {
        // Later drafts have the text that distinguishes tasks, and a start, among the parameters.
        let (is_first, id, precision) = (self.revision == DAP09, TaskId::random(), Duration(3600));
        let end = clock::now().saturating_add(Duration(86_400));
        let start = clock::now().truncate(precision).saturating_sub(Duration(86_400));
        let interval = Interval::new(start, Duration(3 * 86_400)).filter(|_| !is_first);
        let mut public = TaskParameters {
            id,
            revision: self.revision,
            info: if is_first { String::new() } else { id.to_string() },
            leader_url: self.leader.url(self.revision),
            helper_url: self.helper.url(self.revision),
            batch_mode: BatchMode::TimeInterval,
            vdaf: VdafConfig::Prio3Count,
            min_batch_size: 2,
            time_precision: precision,
            task_expiration: Some(end).filter(|_| is_first),
            task_interval: interval,
            noise: None,
        };
        change(&mut public);
        let info = if is_first { Bytes::copy_from_slice(public.id.as_bytes()) } else { Bytes::new() };
        advertise(public, info, 1).unwrap()
    }

    /// The parameters that all parties know.
    pub fn parties(&self, task: &Advertisement) -> Parties {
        let [of_helper, of_leader] = &self.files;
        let now = Time(0);
        let known =
            |file: &PeerFile| taskprov::task(&task.configuration, &file.clone().peer().unwrap(), &TERMS, now).unwrap();
        Parties {
            leader: known(of_helper),
            helper: known(of_leader),
            helper_token: self.helper_token.clone(),
            collector_token: self.collector_token.clone(),
            keypair: self.keypair.clone(),
        }
    }

    pub fn client(&self, task: &Advertisement) -> Client {
        let client = Client::new(task.configuration.public.clone(), peer(), RetryPolicy::default()).unwrap();
        client.with_advertisement(&task.bytes)
    }

    pub fn collector(&self, task: &Advertisement) -> Collector {
        let of = CollectorTask {
            public: task.configuration.public.clone(),
            token: self.collector_token.clone(),
            previous_token: None,
        };
        let collector = Collector::new(of, self.keypair.clone(), peer(), RetryPolicy::default()).unwrap();
        collector.with_advertisement(&task.bytes)
    }

    /// Sends the helper an aggregation job with a header and a token.
    pub async fn send_job(
        &self,
        parties: &Parties,
        header: Option<String>,
        token: Option<&Secret>,
        body: Vec<u8>,
    ) -> Answer {
        let job = AggregationJobId::random();
        let call = parties.wire().create_request(ResourceKind::AggregationJob, &parties.id(), job.as_bytes());
        let url = self.helper.url(self.revision);
        peer().send(&url, &call.with_advertisement(header), token, Bytes::from(body)).await.unwrap()
    }

    pub async fn builder(&self, parties: &Parties) -> ReportBuilder {
        // The keys are the same for all tasks, known or not.
        ReportBuilder::new(parties).await
    }
}

pub fn header(task: &Advertisement) -> Option<String> {
    Some(for_revision(task.configuration.public.revision).unwrap().encode_header(&task.bytes))
}

/// A report as clients of in-band tasks make it.
pub fn draft(builder: &ReportBuilder) -> Draft {
    let mut draft = builder.draft(&Measurement::Number(1), clock::now());
    draft.leader.extensions = vec![extension()];
    draft.helper.extensions = vec![extension()];
    draft
}

#[track_caller]
pub fn assert_rejected(answer: &Answer, kind: ProblemType, detail: &str) {
    let problem = problem(answer);
    assert_eq!(problem.kind, kind, "{problem}");
    assert!(problem.detail.contains(detail), "{problem}");
    assert!(problem.task_id.is_some());
}

/// Waits until a node has aggregated this many reports of the task. The node may not know the task yet.
pub async fn aggregated(node: &Node, parties: &Parties, count: u64) {
    let is_so = async {
        loop {
            let status = node.server().task_status(&parties.id()).unwrap();
            if status.is_some_and(|status| status.counters.get("aggregate_success") == Some(&count)) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(common::TEST_TIMEOUT, is_so).await.unwrap();
}

/// Whether a node has a task.
pub async fn has(node: &Node, parties: &Parties) -> bool {
    node.server().task_status(&parties.id()).unwrap().is_some()
}
