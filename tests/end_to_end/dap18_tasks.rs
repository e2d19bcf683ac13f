//! What all parties of a DAP-18 task must agree on, media types, and both revisions on one server.

use dapbox::{
    client::Client,
    collector::{CollectError, Collector, CollectorTask},
    config::Config,
    model::{
        BatchMode, Duration, FixedSizeQuery, Interval, MaxMeasurement, PartialBatchSelector, Query, Revision, Task,
        TaskParameters, Time, VdafConfig,
    },
    peer::RetryPolicy,
    support::clock,
    vdaf::{AggregateResult, Measurement},
};

use crate::common::{
    self, Node, Pair, Parties, TEST_TIMEOUT, batches_of,
    calls::assert_accepted,
    raw::{RawAnswer, send_raw},
    report_builder::ReportBuilder,
    resources::{Resource, resources},
};

const DAP18: Revision = Revision::Dap18;

type Difference = fn(&mut TaskParameters);

/// One difference in a party's view of a task.
const DIFFERENCES: [(&str, Difference); 7] = [
    ("info", |task| task.info.push('!')),
    ("leader's URL", |task| task.leader_url = task.leader_url.trim_end_matches('/').to_owned()),
    ("helper's URL", |task| task.helper_url = task.helper_url.trim_end_matches('/').to_owned()),
    ("batch size", |task| task.min_batch_size += 1),
    ("VDAF", |task| task.vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement(200) }),
    ("interval", |task| task.task_interval = Interval::new(Time(0), Duration(1 << 40).aligned())),
    ("batch mode", |task| task.batch_mode = batches_of(DAP18, 2)),
];

trait Aligned {
    fn aligned(self) -> Self;
}

impl Aligned for Duration {
    /// Whole hours.
    fn aligned(self) -> Self {
        Self(self.0 / 3600 * 3600)
    }
}

fn sum() -> VdafConfig {
    VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) }
}

/// A new task between two nodes; the helper has its own view of it.
async fn misunderstood(nodes: [&Node; 2], difference: Difference) -> Parties {
    let (leader_url, helper_url) = (nodes[0].url(DAP18), nodes[1].url(DAP18));
    let mut parties = Parties::new(DAP18, sum(), BatchMode::TimeInterval, leader_url, helper_url);
    difference(&mut parties.helper.public);
    nodes[0].add(&parties.leader).await;
    nodes[1].add(&parties.helper).await;
    parties
}

/// Shares are bound to all parameters of a task (section 4.2). A party with a different view opens none of them.
#[tokio::test(flavor = "multi_thread")]
async fn parties_with_different_tasks_open_nothing() {
    // No report waits for others.
    let eager = |config: &mut Config| config.leader.min_job_size = 1;
    let (mut leader, mut helper) = (Node::start_with(eager).await, Node::start().await);
    for (name, difference) in DIFFERENCES {
        let parties = misunderstood([&leader, &helper], difference).await;
        let client = parties.client();
        for number in [1, 2] {
            client.upload(Measurement::Number(number), None).await.unwrap();
        }
        let is_settled =
            |status: &dapbox::views::status::TaskStatus| status.counters.get("helper_hpke_decrypt_error") == Some(&2);
        if name == "batch mode" {
            // The helper does not even decode the jobs.
            leader.until(&parties.id(), |status| status.last_error.is_some()).await;
        } else {
            leader.until(&parties.id(), is_settled).await;
            assert_eq!(helper.counter(&parties.id(), "hpke_decrypt_error").await, 2, "{name}");
        }
        assert_eq!(leader.counter(&parties.id(), "aggregate_success").await, 0, "{name}");

        // A client whose view differs from both aggregators.
        let parties = Parties::between(DAP18, sum(), BatchMode::TimeInterval, [&leader, &helper]).await;
        let mut task = parties.task().clone();
        difference(&mut task);
        let client = Client::new(task, common::peer(), RetryPolicy::default()).unwrap();
        client.upload(Measurement::Number(1), None).await.unwrap();
        let is_settled =
            |status: &dapbox::views::status::TaskStatus| status.counters.get("hpke_decrypt_error") == Some(&1);
        leader.until(&parties.id(), is_settled).await;
    }
    leader.stop().await;
    helper.stop().await;
}

/// The same for a collector. Only the collector notices.
#[tokio::test(flavor = "multi_thread")]
async fn collector_with_different_task_opens_nothing() {
    let pair = Pair::start(DAP18, sum(), BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    parties.client().upload(Measurement::Number(1), None).await.unwrap();
    for (name, difference) in DIFFERENCES {
        let mut public = parties.task().clone();
        difference(&mut public);
        let task = CollectorTask { public, token: parties.collector_token.clone(), previous_token: None };
        let collector = Collector::new(task, parties.keypair.clone(), common::peer(), RetryPolicy::default()).unwrap();
        let collected = collector.collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await;
        assert!(matches!(collected, Err(CollectError::Open(..))), "{name}: {collected:?}");
    }
    let collected = parties.collector().collect(parties.query_now(), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
    assert_eq!((collected.report_count, collected.result), (1, AggregateResult::Number(1)));
    pair.stop().await;
}

/// A share is bound to the collection request too (section 4.6.7): it does not answer another query.
#[tokio::test(flavor = "multi_thread")]
async fn binds_aggregate_share_to_request() {
    let pair = Pair::start(DAP18, sum(), BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    parties.client().upload(Measurement::Number(1), None).await.unwrap();
    let body = parties.outcome_of(parties.query_now()).await.body;
    let collection = parties.wire().decode_collection(parties.task(), &body).unwrap();
    let Query::TimeInterval(asked) = parties.query_now() else { unreachable!() };
    let wider = Query::TimeInterval(Interval::new(asked.start(), Duration(asked.duration().0 + 3600)).unwrap());
    for (query, opens) in [(parties.query_now(), true), (wider, false)] {
        let batch = dapbox::model::BatchSelector::TimeInterval(asked);
        let aad = parties.wire().aggregate_share_aad(parties.task(), &parties.collection_req(query), &batch);
        for (role, share) in [
            (dapbox::model::Role::Leader, &collection.leader_share),
            (dapbox::model::Role::Helper, &collection.helper_share),
        ] {
            let opened = parties.keypair.open(&parties.wire().aggregate_share_info(role), &aad, share);
            assert_eq!(opened.is_ok(), opens, "{role}");
        }
    }
    pair.stop().await;
}

/// A task that the protocol cannot express is refused when it is added (sections 4.2 and 5.2).
#[tokio::test(flavor = "multi_thread")]
async fn refuses_inexpressible_task() {
    let mut node = Node::start().await;
    let changes: [fn(&mut Task); 7] = [
        |task| task.public.info = String::new(),
        |task| task.public.info = "x".repeat(256),
        |task| task.public.leader_url = String::new(),
        |task| task.public.task_expiration = Some(Time(1 << 40)),
        |task| task.public.batch_mode = BatchMode::fixed_size(Some(2)),
        |task| task.public.task_interval = Interval::new(Time(3600), Duration(3601)),
        |task| task.public.task_interval = Interval::new(Time(3600), Duration(0)),
    ];
    let (own, other) = (node.url(DAP18), "http://127.0.0.1:1/dap-18/".to_owned());
    let parties = Parties::new(DAP18, VdafConfig::Prio3Count, BatchMode::TimeInterval, own, other);
    for (n, change) in changes.into_iter().enumerate() {
        assert_eq!(node.try_add(&parties.clone().with(change).leader).await, 400, "{n}");
    }
    node.add(&parties.leader).await;
    node.stop().await;
}

/// Media types have a parameter and may be written in any form that HTTP allows (section 9.1).
#[tokio::test(flavor = "multi_thread")]
async fn compares_media_types_semantically() {
    let pair = Pair::start(DAP18, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    for resource in resources(parties, parties.id()) {
        let (method, right) = resource.post.unwrap();
        let (essence, message) = right.split_once(";message=").unwrap();
        let send = async |media_type: &str| -> RawAnswer {
            let bearer = resource.bearer();
            send_raw(method, &resource.url, &[("content-type", media_type), ("authorization", &bearer)], vec![0]).await
        };
        for same in [
            right.to_owned(),
            format!("{essence}; message={message}"),
            format!("{} ; MESSAGE={message}", essence.to_ascii_uppercase()),
            format!("{essence};message=\"{message}\""),
            format!("{essence}; version=18; message={message}; q=\"a;b\""),
        ] {
            send(&same).await.assert_problem(400, "invalidMessage");
        }
        for other in [
            essence.to_owned(),
            format!("{essence};message="),
            format!("{essence};message={}", message.to_ascii_uppercase()),
            format!("{essence};message={message}-x"),
            format!("{essence};massage={message}"),
            format!("application/dap;message={message}"),
            format!("application/{message}"),
            format!("{essence};message=aggregation-job-resp"),
        ] {
            let document = send(&other).await.problem(415);
            assert_eq!(
                (&document["type"], &document["taskid"]),
                (&"about:blank".into(), &parties.id().to_string().into())
            );
        }
    }
    pair.stop().await;
}

/// A pair of servers has tasks of both revisions, each under its own path only.
#[tokio::test(flavor = "multi_thread")]
async fn serves_both_revisions() {
    let (mut leader, mut helper) = (Node::start().await, Node::start().await);
    let mut tasks = Vec::new();
    for revision in Revision::ALL {
        for mode in [BatchMode::TimeInterval, batches_of(revision, 3)] {
            tasks.push(Parties::between(revision, sum(), mode, [&leader, &helper]).await);
        }
    }
    let uploads = tasks.iter().map(|parties| async {
        let client = parties.client();
        for number in [1, 2, 4] {
            client.upload(Measurement::Number(number), None).await.unwrap();
        }
    });
    futures_util::future::join_all(uploads).await;
    for parties in &tasks {
        elsewhere_is_nothing(parties, [&leader, &helper]).await;
        let query = match parties.task().batch_mode {
            BatchMode::TimeInterval => parties.query_now(),
            BatchMode::FixedSize { .. } => Query::FixedSize(FixedSizeQuery::CurrentBatch),
        };
        let collector = parties.collector();
        let (mut sum, mut count) = (0, 0);
        while count < 3 {
            let collected = collector.collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
            collector.release(&collected).await.unwrap();
            let AggregateResult::Number(number) = collected.result else { panic!("{collected:?}") };
            (sum, count) = (sum + number, count + collected.report_count);
        }
        assert_eq!((sum, count), (7, 3), "{:?}", parties.revision());
    }
    leader.stop().await;
    helper.stop().await;
}

/// A task is not found under the path of the other revision.
async fn elsewhere_is_nothing(parties: &Parties, [leader, helper]: [&Node; 2]) {
    let other = if parties.revision() == DAP18 { Revision::Dap09 } else { DAP18 };
    let (leader_url, helper_url) = (leader.url(other), helper.url(other));
    // A client that takes the task for one of the other revision.
    let mistaken = Parties::new(other, VdafConfig::Prio3Count, BatchMode::TimeInterval, leader_url, helper_url);
    for resource in resources(&mistaken, parties.id()) {
        let Resource { url, post, .. } = &resource;
        let tokens = [&parties.helper_token, &parties.collector_token];
        for token in tokens.map(|token| format!("Bearer {}", token.expose_text().unwrap())) {
            let headers = [("content-type", post.unwrap().1), ("authorization", &token)];
            let said = send_raw(post.unwrap().0, url, &headers, vec![0]).await;
            said.assert_problem(400, "unrecognizedTask");
        }
    }
}

/// A report is bound to its task: the same shares do not open in a task that differs in its id only.
#[tokio::test(flavor = "multi_thread")]
async fn rejects_report_of_another_task() {
    let (mut leader, mut helper) = (Node::start().await, Node::start().await);
    let nodes = [&leader, &helper];
    let one = Parties::between(DAP18, VdafConfig::Prio3Count, BatchMode::TimeInterval, nodes).await;
    let other = Parties::between(DAP18, VdafConfig::Prio3Count, BatchMode::TimeInterval, nodes).await;
    let builder = ReportBuilder::new(&one).await;
    let draft = builder.draft(&Measurement::Flag(true), clock::now());
    assert_accepted(&other.upload(&builder.seal(&draft)).await);
    leader.until(&other.id(), |status| status.counters.get("hpke_decrypt_error") == Some(&1)).await;
    let resps = other.run_job(&builder.job(PartialBatchSelector::TimeInterval, &[draft])).await;
    let refused = dapbox::model::PrepareOutcome::Reject(dapbox::model::ReportError::HpkeDecryptError);
    assert_eq!(resps[0].outcome, refused);
    leader.stop().await;
    helper.stop().await;
}
