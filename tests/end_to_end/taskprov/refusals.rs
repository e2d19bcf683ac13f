//! Which in-band tasks are accepted and which are rejected.

use std::fs;

use bytes::Bytes;
use dapbox::{
    aggregator::taskprov,
    config::{Seconds, taskprov::PeerFile},
    model::{
        AggregationJobId, BatchMode, Duration, Extension, Interval, PartialBatchSelector, PrepareOutcome, Report,
        ReportError, Revision, Role, Secret, TaskParameters, Time, TokenHash, VdafConfig,
        taskprov::{Advertisement, InBandOrigin, TaskConfiguration},
    },
    store::{Options, Tx, api_token::Provision},
    support::{Point, clock},
    vdaf::Measurement,
    wire::{
        ProblemType, ResourceKind,
        taskprov::{HEADER, for_revision},
    },
};
use janus_messages::{
    self as janus,
    codec::{Decode, Encode},
};
use rstest::rstest;

use super::{
    lifecycle::dapbox,
    pair::{DAP09, TaskprovPair, aggregated, assert_rejected, draft, has, header},
};
use crate::common::{
    Node, Parties, TEST_TIMEOUT,
    calls::{assert_accepted, expected_kind, upload_errors},
    open_store, peer,
    raw::send_raw,
};

#[tokio::test(flavor = "multi_thread")]
async fn helper_rejects_invalid_advertisement_without_storing_it() {
    let pair = TaskprovPair::start(|_| {}).await;
    // Another leader is a peer, too. Its credentials are not valid for the first leader's tasks.
    let (anothers, path) = (Secret::random_token(), pair.dir.path().join("another.toml"));
    let another = PeerFile {
        endpoint: "https://another.example/".to_owned(),
        leader_token_hashes: vec![TokenHash::of(anothers.expose())],
        ..pair.files[1].clone()
    };
    fs::write(&path, another.to_text().unwrap()).unwrap();
    let mut config = pair.helper.config.clone();
    config.taskprov.peers.push(path);
    pair.helper.server().reload(config).await.unwrap();
    let good = pair.task(|_| {});
    let parties = pair.parties(&good);
    let job = |task: &Advertisement| {
        let parties = Parties { ..pair.parties(task) };
        let pair = &pair;
        async move {
            let builder = pair.builder(&parties).await;
            let init = builder.job(PartialBatchSelector::TimeInterval, &[draft(&builder)]);
            (parties.wire().encode_job_init(parties.task(), &init), parties)
        }
    };
    let (body, _) = job(&good).await;
    let token = Some(&pair.helper_token);
    let mut longer = good.bytes.to_vec();
    longer.push(0);
    let longer: Bytes = longer.into();
    let encode = |bytes: &[u8]| Some(for_revision(DAP09).unwrap().encode_header(bytes));
    let other = pair.task(|_| {});

    use ProblemType::{InvalidMessage, InvalidTask, UnauthorizedRequest, UnrecognizedTask};
    for (header, token, kind, detail) in [
        (None, token, UnrecognizedTask, ""),
        (Some("not base64!".to_owned()), token, InvalidMessage, "base64url"),
        (Some("A".repeat(8000)), token, InvalidMessage, "too long"),
        (header(&other), token, UnrecognizedTask, "does not match the configuration"),
        (encode(&longer), token, UnrecognizedTask, "does not match the configuration"),
        (header(&good), None, UnauthorizedRequest, ""),
        (header(&good), Some(&pair.collector_token), UnauthorizedRequest, ""),
        (header(&good), Some(&anothers), UnauthorizedRequest, ""),
    ] {
        assert_rejected(&pair.send_job(&parties, header, token, body.clone()).await, kind, detail);
    }
    assert!(!has(&pair.helper, &parties).await);

    // The id always matches; every other field may be wrong.
    type Corruption = fn(&mut TaskParameters);
    let cases: [(&str, Corruption); 6] = [
        ("not that of this server", |task| task.helper_url = "https://stranger.example/".to_owned()),
        ("leader is not a configured peer", |task| task.leader_url = "https://stranger.example/".to_owned()),
        ("below the minimum of this aggregator, 2", |task| task.min_batch_size = 1),
        ("expired", |task| task.task_expiration = Some(Time(clock::now().0 - 1))),
        ("VDAF", |task| task.vdaf = VdafConfig::Prio3Histogram { length: 3, chunk_length: 0 }),
        ("maximum batch size", |task| task.batch_mode = BatchMode::fixed_size(Some(1))),
    ];
    for (detail, spoil) in cases {
        let task = pair.task(spoil);
        let call = parties.wire().create_request(ResourceKind::AggregationJob, &task.configuration.public.id, &[1; 16]);
        let call = call.with_advertisement(header(&task));
        let answer = peer().send(&pair.helper.url(DAP09), &call, token, Bytes::from(body.clone())).await.unwrap();
        assert_rejected(&answer, InvalidTask, detail);
        assert!(pair.helper.server().task_status(&task.configuration.public.id).unwrap().is_none(), "{detail}");
    }
    // Fields that no version of dapbox writes: an unknown VDAF, and noise.
    for (at_end, detail) in [([0, 1, 1, 0, 0, 0x10, 0], "VDAF"), ([0, 1, 2, 0, 0, 0, 0], "differential privacy")] {
        let mut bytes = good.bytes.to_vec();
        let end = bytes.len() - at_end.len();
        bytes[end..].copy_from_slice(&at_end);
        let id = for_revision(DAP09).unwrap().task_id(&bytes);
        let call = parties
            .wire()
            .create_request(ResourceKind::AggregationJob, &id, &[1; 16])
            .with_advertisement(encode(&bytes));
        let answer = peer().send(&pair.helper.url(DAP09), &call, token, Bytes::from(body.clone())).await.unwrap();
        assert_rejected(&answer, InvalidTask, detail);
    }
    let cut = encode(&good.bytes[..good.bytes.len() - 1]);
    let id = for_revision(DAP09).unwrap().task_id(&good.bytes[..good.bytes.len() - 1]);
    let call = parties.wire().create_request(ResourceKind::AggregationJob, &id, &[1; 16]).with_advertisement(cut);
    let answer = peer().send(&pair.helper.url(DAP09), &call, token, Bytes::from(body.clone())).await.unwrap();
    assert_rejected(&answer, InvalidMessage, "");

    // The valid advertisement is accepted. Once the task is known, the id in the header must still match.
    assert!(pair.send_job(&parties, header(&good), token, body.clone()).await.is_success());
    let answer = pair.send_job(&parties, header(&other), token, body.clone()).await;
    assert_rejected(&answer, UnrecognizedTask, "");
    let answer = pair.send_job(&parties, header(&good), Some(&anothers), body.clone()).await;
    assert_rejected(&answer, UnauthorizedRequest, "");
    // A removed task is rejected for good.
    pair.helper.remove(&parties.id()).await;
    assert_rejected(&pair.send_job(&parties, header(&good), token, body).await, InvalidTask, "removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn requires_taskprov_extension_in_in_band_tasks_only() {
    let pair = TaskprovPair::start(|_| {}).await;
    let task = pair.task(|_| {});
    let parties = pair.parties(&task);
    let builder = pair.builder(&parties).await;
    type Corruption = fn(&mut Vec<Extension>);
    let spoils: [Corruption; 4] = [
        |extensions| extensions.clear(),
        |extensions| extensions[0].data = Bytes::from_static(b"?"),
        |extensions| extensions[0].kind = 0xff01,
        |extensions| extensions.push(Extension { kind: 1, data: Bytes::new() }),
    ];
    let mut drafts = vec![draft(&builder)];
    for spoil in spoils {
        let mut draft = draft(&builder);
        spoil(&mut draft.helper.extensions);
        drafts.push(draft);
    }
    let init = builder.job(PartialBatchSelector::TimeInterval, &drafts);
    let body = parties.wire().encode_job_init(parties.task(), &init);
    let answer = pair.send_job(&parties, header(&task), Some(&pair.helper_token), body).await;
    let resps = parties.wire().decode_job_resp(&answer.body, 9).unwrap();
    assert!(matches!(resps[0].outcome, PrepareOutcome::Continue(_)));
    let refused = PrepareOutcome::Reject(ReportError::InvalidMessage);
    assert!(resps[1..].iter().all(|resp| resp.outcome == refused), "{resps:?}");

    // A task added by an operator accepts no taskprov extension.
    let added = Parties::between(DAP09, VdafConfig::Prio3Count, BatchMode::TimeInterval, [&pair.leader, &pair.helper]);
    let added = added.await;
    let builder = pair.builder(&added).await;
    let job = builder.job(
        PartialBatchSelector::TimeInterval,
        &[draft(&builder), builder.draft(&Measurement::Number(1), clock::now())],
    );
    let resps = added.run_job(&job).await;
    assert_eq!(resps[0].outcome, refused);
    assert!(matches!(resps[1].outcome, PrepareOutcome::Continue(_)));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn leader_limits_tasks_from_clients(#[values(Revision::Dap09, Revision::Dap19)] revision: Revision) {
    let pair = TaskprovPair::start_with(revision, |config| config.taskprov.max_tasks = 2).await;
    let tasks: Vec<_> = (0..4).map(|_| pair.task(|_| {})).collect();
    let upload = |task: &Advertisement, header: Option<String>| {
        let (call, url) =
            (pair.parties(task).wire().upload_request(&task.configuration.public.id), pair.leader.url(revision));
        let (client, id) = (pair.client(task), task.configuration.public.clone());
        async move {
            let report = client.prepare(Measurement::Number(1), clock::now()).await.unwrap();
            let body = dapbox::wire::for_revision(revision).encode_upload(&id, std::slice::from_ref(&report));
            peer().send(&url, &call.with_advertisement(header), None, Bytes::from(body)).await.unwrap()
        }
    };
    assert_rejected(&upload(&tasks[0], None).await, ProblemType::UnrecognizedTask, "");
    assert_rejected(&upload(&tasks[0], header(&tasks[1])).await, ProblemType::UnrecognizedTask, "");
    let strange = pair.task(|task| task.helper_url = "https://stranger.example/".to_owned());
    let (call, url) = (
        dapbox::wire::for_revision(revision).upload_request(&strange.configuration.public.id),
        pair.leader.url(revision),
    );
    let answer =
        peer().send(&url, &call.with_advertisement(header(&strange)), None, Bytes::from_static(b"x")).await.unwrap();
    assert_rejected(&answer, ProblemType::InvalidTask, "helper is not a configured peer");

    assert_accepted(&upload(&tasks[0], header(&tasks[0])).await);
    // A collector may send the first request, with its token.
    let parties = pair.parties(&tasks[1]);
    let call = parties.wire().create_request(ResourceKind::CollectionJob, &parties.id(), &[1; 16]);
    let (call, body) = (call.with_advertisement(header(&tasks[1])), parties.collection_req(parties.query_now()));
    let answer = peer().send(&url, &call, Some(&pair.helper_token), body.clone()).await.unwrap();
    assert_rejected(&answer, expected_kind(revision, ProblemType::UnauthorizedRequest), "");
    assert!(!has(&pair.leader, &parties).await);
    assert!(peer().send(&url, &call, Some(&pair.collector_token), body).await.unwrap().is_success());
    assert!(has(&pair.leader, &parties).await);

    // Both are in use: one has a report, the other a collection in progress.
    assert_rejected(&upload(&tasks[2], header(&tasks[2])).await, ProblemType::InvalidTask, "max_tasks");
    let mut more = pair.leader.config.clone();
    more.taskprov.max_tasks = 3;
    pair.leader.server().reload(more).await.unwrap();
    assert_accepted(&upload(&tasks[2], header(&tasks[2])).await);
    assert_rejected(&upload(&tasks[3], header(&tasks[3])).await, ProblemType::InvalidTask, "max_tasks");
    pair.leader.remove(&parties.id()).await;
    assert_accepted(&upload(&tasks[3], header(&tasks[3])).await);

    // Browsers may send the header.
    let reports = format!("{url}tasks/{}/reports", parties.id());
    let said = send_raw("OPTIONS", &reports, &[("origin", "https://site.example")], Vec::new()).await;
    assert!(said.header("access-control-allow-headers").split(", ").any(|allowed| allowed == HEADER));
}

/// Janus's leader: its own codec writes the header and reads the job, and the token is in the older header.
#[tokio::test(flavor = "multi_thread")]
async fn accepts_janus_request() {
    let pair = TaskprovPair::start(|_| {}).await;
    let task = pair.task(|_| {});
    let parties = pair.parties(&task);
    let builder = pair.builder(&parties).await;
    let config = janus::taskprov::TaskConfig::get_decoded(&task.bytes).unwrap();
    let init = builder.job(PartialBatchSelector::TimeInterval, &[draft(&builder), draft(&builder)]);
    let body = parties.wire().encode_job_init(parties.task(), &init);
    type Init = janus::AggregationJobInitializeReq<janus::query_type::TimeInterval>;
    let body = Init::get_decoded(&body).unwrap().get_encoded().unwrap();

    let url =
        format!("{}tasks/{}/aggregation_jobs/{}", pair.helper.url(DAP09), parties.id(), AggregationJobId::random());
    let advertisement = for_revision(DAP09).unwrap().encode_header(&config.get_encoded().unwrap());
    let headers = [
        ("content-type", "application/dap-aggregation-job-init-req"),
        ("dap-auth-token", pair.helper_token.expose_text().unwrap()),
        (HEADER, advertisement.as_str()),
    ];
    let said = send_raw("PUT", &url, &headers, body).await;
    assert_eq!(said.status, 201, "{said:?}");
    let resp = janus::AggregationJobResp::get_decoded(&said.body).unwrap();
    let is_continued = |resp: &janus::PrepareResp| matches!(resp.result(), janus::PrepareStepResult::Continue { .. });
    assert!(resp.prepare_resps().len() == 2 && resp.prepare_resps().iter().all(is_continued));
}

/// Without peers the header is ignored (section 6).
#[tokio::test(flavor = "multi_thread")]
async fn ignores_header_without_peers() {
    let pair = TaskprovPair::start(|_| {}).await;
    let (task, node) = (pair.task(|_| {}), Node::start().await);
    let call = dapbox::wire::for_revision(DAP09)
        .upload_request(&task.configuration.public.id)
        .with_advertisement(Some("not base64!".to_owned()));
    let answer = peer().send(&node.url(DAP09), &call, None, Bytes::from_static(b"x")).await.unwrap();
    assert_rejected(&answer, ProblemType::UnrecognizedTask, "");
    let call = dapbox::wire::for_revision(DAP09).hpke_config_request(Some(&task.configuration.public.id));
    for (url, is_known) in [(node.url(DAP09), false), (pair.helper.url(DAP09), true)] {
        assert_eq!(peer().send(&url, &call, None, Bytes::new()).await.unwrap().is_success(), is_known);
    }
    let TaskConfiguration { public, .. } = &task.configuration;
    assert_eq!(taskprov::peer_of(&task.configuration, Role::Helper).endpoint, public.leader_url);
}

/// Requests without a token and without an acceptable report leave no task, and a never-used task yields its slot to a
/// used one.
#[tokio::test(flavor = "multi_thread")]
async fn anonymous_requests_do_not_consume_peer_quota() {
    let mut pair = TaskprovPair::start(|config| {
        config.taskprov.max_tasks = 3;
        // Undecryptable reports are accepted at upload and rejected in their jobs.
        config.leader.upload_sample_ratio = 0;
    })
    .await;
    let tasks_of = |pair: &TaskprovPair| pair.leader.server().task_ids().unwrap();
    let url = pair.leader.url(DAP09);
    let put = |task: &Advertisement, body: Bytes| {
        let call = dapbox::wire::for_revision(DAP09)
            .upload_request(&task.configuration.public.id)
            .with_advertisement(header(task));
        let url = url.clone();
        async move { peer().send(&url, &call, None, body).await.unwrap() }
    };
    let encode = |task: &Advertisement, report: &Report| -> Bytes {
        dapbox::wire::for_revision(DAP09).encode_upload(&task.configuration.public, std::slice::from_ref(report)).into()
    };
    for n in 0..20 {
        let elsewhere = pair.task(|task| task.leader_url = "https://stranger.example/dap-09/".to_owned());
        assert_rejected(
            &put(&elsewhere, Bytes::from_static(b"x")).await,
            ProblemType::InvalidTask,
            "not that of this server",
        );
        let ours = pair.task(|_| {});
        assert_rejected(&put(&ours, Bytes::from(vec![n; 100])).await, ProblemType::InvalidMessage, "");
    }
    let task = pair.task(|_| {});
    let builder = pair.builder(&pair.parties(&task)).await;
    let mut late = draft(&builder);
    late.metadata.time = Time(clock::now().0 + 7200);
    assert_rejected(&put(&task, encode(&task, &builder.seal(&late))).await, ProblemType::ReportTooEarly, "");
    let mut outdated = builder.seal(&draft(&builder));
    outdated.leader_share.config_id = outdated.leader_share.config_id.wrapping_add(1);
    assert_rejected(&put(&task, encode(&task, &outdated)).await, ProblemType::OutdatedConfig, "");
    assert_eq!(tasks_of(&pair), []);

    // Reports that decode but do not open provision tasks without further use, until no slot is left.
    let mut useless = Vec::new();
    for _ in 0..3 {
        let task = pair.task(|_| {});
        let builder = pair.builder(&pair.parties(&task)).await;
        let mut report = builder.seal(&draft(&builder));
        report.leader_share.payload = Bytes::from(vec![0; report.leader_share.payload.len()]);
        assert_accepted(&put(&task, encode(&task, &report)).await);
        pair.leader.until(&task.configuration.public.id, |status| status.waiting == 0 && status.jobs == 0).await;
        useless.push(task.configuration.public.id);
    }
    // They are recent: their reports may still be arriving.
    assert_rejected(
        &put(&task, encode(&task, &builder.seal(&draft(&builder)))).await,
        ProblemType::InvalidTask,
        "max_tasks",
    );
    age_in_band(&mut pair.leader, 3600).await;
    assert_accepted(&put(&task, encode(&task, &builder.seal(&draft(&builder)))).await);
    aggregated(&pair.leader, &pair.parties(&task), 1).await;
    let left = tasks_of(&pair);
    assert!(left.len() == 3 && left.contains(&task.configuration.public.id), "{left:?}");

    // An operator removes the others. They leave no tombstones and may return; the used one stays.
    let data_dir = pair.leader.config.data_dir.to_str().unwrap().to_owned();
    let swept =
        dapbox(&["task", "sweep", "--never-contacted-for", "30m", "--yes", "-o", "json", "--data-dir", &data_dir]);
    let swept: serde_json::Value = serde_json::from_str(&swept.unwrap()).unwrap();
    assert_eq!((swept["removed"].as_bool(), swept["tasks"].as_array().map(Vec::len)), (Some(true), Some(2)), "{swept}");
    assert_eq!(tasks_of(&pair), [task.configuration.public.id]);
    pair.leader.restart().await;
    assert_eq!(tasks_of(&pair), [task.configuration.public.id]);
}

/// Makes all in-band tasks of a node older than they are.
async fn age_in_band(node: &mut Node, seconds: u64) {
    node.stop().await;
    let store = open_store(node.data_dir(), Options::default()).await;
    let age = move |tx: &mut Tx<'_>| {
        let known: Vec<_> = tx.tasks().filter_map(|(id, state)| Some((*id, state.in_band.clone()?))).collect();
        for (id, in_band) in known {
            tx.put_in_band(&id, InBandOrigin { at: in_band.at.saturating_sub(Duration(seconds)), ..in_band })?;
        }
        Ok(())
    };
    store.write(Point::Test, age).await.unwrap();
    store.close().await;
    node.resume().await;
}

/// A server removes an expired task when too few reports are left for a batch.
#[tokio::test(flavor = "multi_thread")]
async fn removes_expired_in_band_tasks() {
    let mut pair = TaskprovPair::start(|config| config.retention.sweep_interval = Seconds::millis(50)).await;
    let tasks = [pair.task(|_| {}), pair.task(|task| task.task_expiration = Some(Time(clock::now().0 + 60 * 86_400)))];
    for task in &tasks {
        pair.client(task).upload(Measurement::Number(1), None).await.unwrap();
        aggregated(&pair.leader, &pair.parties(task), 1).await;
    }
    // Moves the expiration into the past: the store prefers the expiration that a control plane has set.
    let [over, goes_on] = tasks.map(|task| task.configuration.public.id);
    pair.leader.stop().await;
    let store = open_store(pair.leader.data_dir(), Options::default()).await;
    let end = Some(Time(clock::now().0 - 2 * 86_400));
    let ended = move |tx: &mut Tx<'_>| tx.put_provision(&over, Provision { at: Time(1), by: String::new(), end });
    store.write(Point::Test, ended).await.unwrap();
    store.close().await;
    pair.leader.resume().await;
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while pair.leader.server().task_ids().unwrap() != [goes_on] {
        assert!(std::time::Instant::now() < deadline, "it stays");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// What a helper of DAP-19 does with advertisements that it cannot follow (draft-ietf-ppm-dap-taskprov-04 sections 3.2, 3.5
/// and 3.8): a value that is no configuration is ignored, and a valid one is refused.
#[tokio::test(flavor = "multi_thread")]
async fn helper_of_dap19_ignores_or_refuses_advertisements() {
    let pair = TaskprovPair::start_with(Revision::Dap19, |_| {}).await;
    let good = pair.task(|_| {});
    let parties = pair.parties(&good);
    let builder = pair.builder(&parties).await;
    let job = builder.job(PartialBatchSelector::TimeInterval, &[builder.draft(&Measurement::Number(1), clock::now())]);
    let body = parties.wire().encode_job_init(parties.task(), &job);
    let taskprov = for_revision(Revision::Dap19).unwrap();
    let token = Some(&pair.helper_token);

    use ProblemType::{InvalidTask, UnrecognizedTask};
    let other = pair.task(|_| {});
    for (header, detail) in [
        (None, ""),
        (Some("token".to_owned()), ""),
        (Some("AAAA".to_owned()), ""),
        (header(&other), "does not match the configuration"),
    ] {
        assert_rejected(&pair.send_job(&parties, header, token, body.clone()).await, UnrecognizedTask, detail);
    }
    // The id is that of the bytes, so that only the content is wrong.
    let refused = async |bytes: Vec<u8>| {
        let mut parties = parties.clone();
        parties.leader.public.id = taskprov.task_id(&bytes);
        parties.helper.public.id = parties.leader.public.id;
        pair.send_job(&parties, Some(taskprov.encode_header(&bytes)), token, body.clone()).await
    };
    assert_rejected(&refused(good.bytes[..good.bytes.len() - 1].to_vec()).await, UnrecognizedTask, "");
    // An extension of an unknown type, after the interval.
    let mut extended = good.bytes.to_vec();
    let at = extended.len() - 22;
    assert_eq!(extended[at..at + 4], [0, 20, 0, 1]);
    extended[at + 1] += 4;
    extended.extend([0x7f, 0, 0, 0]);
    assert_rejected(&refused(extended).await, InvalidTask, "task extension 32512");
    let small = pair.task(|task| task.min_batch_size = 1);
    assert_rejected(&refused(small.bytes.to_vec()).await, InvalidTask, "min_batch_size 1 is below");
    let over = pair.task(|task| task.task_interval = Interval::new(Time(3600), Duration(3600)));
    assert_rejected(&refused(over.bytes.to_vec()).await, InvalidTask, "expired");
    assert!(!has(&pair.helper, &parties).await);
    assert!(pair.send_job(&parties, header(&good), token, body.clone()).await.is_success());
    assert!(has(&pair.helper, &parties).await);
}

/// A leader of DAP-19 sets up a task if one report of its first upload is acceptable.
#[tokio::test(flavor = "multi_thread")]
async fn leader_of_dap19_sets_up_task_with_acceptable_report() {
    let pair = TaskprovPair::start_with(Revision::Dap19, |_| {}).await;
    let task = pair.task(|_| {});
    let parties = pair.parties(&task);
    let builder = pair.builder(&parties).await;
    let early = builder.report(&Measurement::Number(1), clock::now().saturating_add(Duration(36_000)));
    let good = builder.report(&Measurement::Number(1), clock::now());
    let upload = async |reports: &[Report]| {
        let call = parties.wire().upload_request(&parties.id()).with_advertisement(header(&task));
        let body = parties.wire().encode_upload(parties.task(), reports);
        let answer = peer().send(&pair.leader.url(Revision::Dap19), &call, None, Bytes::from(body)).await.unwrap();
        upload_errors(&answer, &parties)
    };
    let refused = [(early.metadata.id, ReportError::ReportTooEarly)];
    assert_eq!(upload(std::slice::from_ref(&early)).await, refused);
    assert!(!has(&pair.leader, &parties).await);
    assert_eq!(upload(&[early.clone(), good]).await, refused);
    aggregated(&pair.helper, &parties, 1).await;
}
