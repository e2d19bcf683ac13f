//! What is taken, and what is refused.

use std::fs;

use bytes::Bytes;
use dapbox::{
    aggregator::taskprov,
    config::{Seconds, taskprov::PeerFile},
    model::{
        AggregationJobId, BatchMode, Duration, Extension, PartialBatchSelector, PrepareOutcome, Report, ReportError,
        Role, Secret, TaskParameters, Time, TokenHash, VdafConfig,
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

use super::{
    lifecycle::dapbox,
    pair::{Acquaintances, DAP09, aggregated, assert_refused, draft, has, header},
};
use crate::common::{Node, PATIENCE, Parties, calls::assert_taken, open_store, peer, raw::ask};

#[tokio::test(flavor = "multi_thread")]
async fn helper_rejects_invalid_advertisement_without_storing_it() {
    let met = Acquaintances::start(|_| {}).await;
    // Another leader is a peer, too. Nothing of it is good for this one's tasks.
    let (anothers, path) = (Secret::random_token(), met.dir.path().join("another.toml"));
    let another = PeerFile {
        endpoint: "https://another.example/".to_owned(),
        leader_token_hashes: vec![TokenHash::of(anothers.expose())],
        ..met.files[1].clone()
    };
    fs::write(&path, another.to_text().unwrap()).unwrap();
    let mut config = met.helper.config.clone();
    config.taskprov.peers.push(path);
    met.helper.server().reload(config).await.unwrap();
    let good = met.task(|_| {});
    let parties = met.parties(&good);
    let job = |task: &Advertisement| {
        let parties = Parties { ..met.parties(task) };
        let met = &met;
        async move {
            let forge = met.forge(&parties).await;
            let init = forge.job(PartialBatchSelector::TimeInterval, &[draft(&forge)]);
            (parties.wire().encode_job_init(parties.task(), &init), parties)
        }
    };
    let (body, _) = job(&good).await;
    let token = Some(&met.helper_token);
    let mut longer = good.bytes.to_vec();
    longer.push(0);
    let longer: Bytes = longer.into();
    let encode = |bytes: &[u8]| Some(for_revision(DAP09).unwrap().encode_header(bytes));
    let other = met.task(|_| {});

    use ProblemType::{InvalidMessage, InvalidTask, UnauthorizedRequest, UnrecognizedTask};
    for (header, token, kind, detail) in [
        (None, token, UnrecognizedTask, ""),
        (Some("not base64!".to_owned()), token, InvalidMessage, "base64url"),
        (Some("A".repeat(8000)), token, InvalidMessage, "longer"),
        (header(&other), token, UnrecognizedTask, "not that of the configuration"),
        (encode(&longer), token, UnrecognizedTask, "not that of the configuration"),
        (header(&good), None, UnauthorizedRequest, ""),
        (header(&good), Some(&met.collector_token), UnauthorizedRequest, ""),
        (header(&good), Some(&anothers), UnauthorizedRequest, ""),
    ] {
        assert_refused(&met.put_job(&parties, header, token, body.clone()).await, kind, detail);
    }
    assert!(!has(&met.helper, &parties).await);

    // The id is right each time, and all else may be wrong.
    type Spoil = fn(&mut TaskParameters);
    let cases: [(&str, Spoil); 6] = [
        ("not this server's", |task| task.helper_url = "https://stranger.example/".to_owned()),
        ("leader is not one", |task| task.leader_url = "https://stranger.example/".to_owned()),
        ("operator allows, which is 2", |task| task.min_batch_size = 1),
        ("expired", |task| task.task_expiration = Some(Time(clock::now().0 - 1))),
        ("VDAF", |task| task.vdaf = VdafConfig::Prio3Histogram { length: 3, chunk_length: 0 }),
        ("maximum batch size", |task| task.batch_mode = BatchMode::fixed_size(Some(1))),
    ];
    for (detail, spoil) in cases {
        let task = met.task(spoil);
        let call = parties.wire().create_request(ResourceKind::AggregationJob, &task.configuration.public.id, &[1; 16]);
        let call = call.with_advertisement(header(&task));
        let answer = peer().send(&met.helper.url(DAP09), &call, token, Bytes::from(body.clone())).await.unwrap();
        assert_refused(&answer, InvalidTask, detail);
        assert!(met.helper.server().task_status(&task.configuration.public.id).unwrap().is_none(), "{detail}");
    }
    // What no version of ours would write: an unknown VDAF, and noise.
    for (at_end, detail) in [([0, 1, 1, 0, 0, 0x10, 0], "VDAF"), ([0, 1, 2, 0, 0, 0, 0], "differential privacy")] {
        let mut bytes = good.bytes.to_vec();
        let end = bytes.len() - at_end.len();
        bytes[end..].copy_from_slice(&at_end);
        let id = for_revision(DAP09).unwrap().task_id(&bytes);
        let call = parties
            .wire()
            .create_request(ResourceKind::AggregationJob, &id, &[1; 16])
            .with_advertisement(encode(&bytes));
        let answer = peer().send(&met.helper.url(DAP09), &call, token, Bytes::from(body.clone())).await.unwrap();
        assert_refused(&answer, InvalidTask, detail);
    }
    let cut = encode(&good.bytes[..good.bytes.len() - 1]);
    let id = for_revision(DAP09).unwrap().task_id(&good.bytes[..good.bytes.len() - 1]);
    let call = parties.wire().create_request(ResourceKind::AggregationJob, &id, &[1; 16]).with_advertisement(cut);
    let answer = peer().send(&met.helper.url(DAP09), &call, token, Bytes::from(body.clone())).await.unwrap();
    assert_refused(&answer, InvalidMessage, "");

    // And the good one is good. Once it is known, its id in the header still has to be right.
    assert!(met.put_job(&parties, header(&good), token, body.clone()).await.is_success());
    let answer = met.put_job(&parties, header(&other), token, body.clone()).await;
    assert_refused(&answer, UnrecognizedTask, "");
    let answer = met.put_job(&parties, header(&good), Some(&anothers), body.clone()).await;
    assert_refused(&answer, UnauthorizedRequest, "");
    // What was removed is refused for ever.
    met.helper.remove(&parties.id()).await;
    assert_refused(&met.put_job(&parties, header(&good), token, body).await, InvalidTask, "removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn requires_taskprov_extension_in_in_band_tasks_only() {
    let met = Acquaintances::start(|_| {}).await;
    let task = met.task(|_| {});
    let parties = met.parties(&task);
    let forge = met.forge(&parties).await;
    type Spoil = fn(&mut Vec<Extension>);
    let spoils: [Spoil; 4] = [
        |extensions| extensions.clear(),
        |extensions| extensions[0].data = Bytes::from_static(b"?"),
        |extensions| extensions[0].kind = 0xff01,
        |extensions| extensions.push(Extension { kind: 1, data: Bytes::new() }),
    ];
    let mut drafts = vec![draft(&forge)];
    for spoil in spoils {
        let mut draft = draft(&forge);
        spoil(&mut draft.helper.extensions);
        drafts.push(draft);
    }
    let init = forge.job(PartialBatchSelector::TimeInterval, &drafts);
    let body = parties.wire().encode_job_init(parties.task(), &init);
    let answer = met.put_job(&parties, header(&task), Some(&met.helper_token), body).await;
    let resps = parties.wire().decode_job_resp(&answer.body, 9).unwrap();
    assert!(matches!(resps[0].outcome, PrepareOutcome::Continue(_)));
    let refused = PrepareOutcome::Reject(ReportError::InvalidMessage);
    assert!(resps[1..].iter().all(|resp| resp.outcome == refused), "{resps:?}");

    // A task that an operator has added knows no extension.
    let added = Parties::between(DAP09, VdafConfig::Prio3Count, BatchMode::TimeInterval, [&met.leader, &met.helper]);
    let added = added.await;
    let forge = met.forge(&added).await;
    let job = forge
        .job(PartialBatchSelector::TimeInterval, &[draft(&forge), forge.draft(&Measurement::Number(1), clock::now())]);
    let resps = added.run_job(&job).await;
    assert_eq!(resps[0].outcome, refused);
    assert!(matches!(resps[1].outcome, PrepareOutcome::Continue(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_limits_tasks_from_clients() {
    let met = Acquaintances::start(|config| config.taskprov.max_tasks = 2).await;
    let tasks: Vec<_> = (0..4).map(|_| met.task(|_| {})).collect();
    let upload = |task: &Advertisement, header: Option<String>| {
        let (call, url) =
            (met.parties(task).wire().upload_request(&task.configuration.public.id), met.leader.url(DAP09));
        let (client, id) = (met.client(task), task.configuration.public.clone());
        async move {
            let report = client.prepare(Measurement::Number(1), clock::now()).await.unwrap();
            let body = dapbox::wire::for_revision(DAP09).encode_upload(&id, std::slice::from_ref(&report));
            peer().send(&url, &call.with_advertisement(header), None, Bytes::from(body)).await.unwrap()
        }
    };
    assert_refused(&upload(&tasks[0], None).await, ProblemType::UnrecognizedTask, "");
    assert_refused(&upload(&tasks[0], header(&tasks[1])).await, ProblemType::UnrecognizedTask, "");
    let strange = met.task(|task| task.helper_url = "https://stranger.example/".to_owned());
    let (call, url) =
        (dapbox::wire::for_revision(DAP09).upload_request(&strange.configuration.public.id), met.leader.url(DAP09));
    let answer =
        peer().send(&url, &call.with_advertisement(header(&strange)), None, Bytes::from_static(b"x")).await.unwrap();
    assert_refused(&answer, ProblemType::InvalidTask, "helper is not one");

    assert_taken(&upload(&tasks[0], header(&tasks[0])).await);
    // A collector may be first, and shows who it is.
    let parties = met.parties(&tasks[1]);
    let call = parties.wire().create_request(ResourceKind::CollectionJob, &parties.id(), &[1; 16]);
    let (call, body) = (call.with_advertisement(header(&tasks[1])), parties.collection_req(parties.query_now()));
    let answer = peer().send(&url, &call, Some(&met.helper_token), body.clone()).await.unwrap();
    assert_refused(&answer, ProblemType::UnauthorizedRequest, "");
    assert!(!has(&met.leader, &parties).await);
    assert!(peer().send(&url, &call, Some(&met.collector_token), body).await.unwrap().is_success());
    assert!(has(&met.leader, &parties).await);

    // Both are in use: one has a report, and the other a collection under way.
    assert_refused(&upload(&tasks[2], header(&tasks[2])).await, ProblemType::InvalidTask, "max_tasks");
    let mut more = met.leader.config.clone();
    more.taskprov.max_tasks = 3;
    met.leader.server().reload(more).await.unwrap();
    assert_taken(&upload(&tasks[2], header(&tasks[2])).await);
    assert_refused(&upload(&tasks[3], header(&tasks[3])).await, ProblemType::InvalidTask, "max_tasks");
    met.leader.remove(&parties.id()).await;
    assert_taken(&upload(&tasks[3], header(&tasks[3])).await);

    // Browsers may send the header.
    let reports = format!("{url}tasks/{}/reports", parties.id());
    let said = ask("OPTIONS", &reports, &[("origin", "https://site.example")], Vec::new()).await;
    assert!(said.header("access-control-allow-headers").split(", ").any(|allowed| allowed == HEADER));
}

/// What Janus's leader sends: its own codec makes the header and reads the job, and the token is in the older header.
#[tokio::test(flavor = "multi_thread")]
async fn accepts_janus_request() {
    let met = Acquaintances::start(|_| {}).await;
    let task = met.task(|_| {});
    let parties = met.parties(&task);
    let forge = met.forge(&parties).await;
    let config = janus::taskprov::TaskConfig::get_decoded(&task.bytes).unwrap();
    let init = forge.job(PartialBatchSelector::TimeInterval, &[draft(&forge), draft(&forge)]);
    let body = parties.wire().encode_job_init(parties.task(), &init);
    type Init = janus::AggregationJobInitializeReq<janus::query_type::TimeInterval>;
    let body = Init::get_decoded(&body).unwrap().get_encoded().unwrap();

    let url =
        format!("{}tasks/{}/aggregation_jobs/{}", met.helper.url(DAP09), parties.id(), AggregationJobId::random());
    let advertisement = for_revision(DAP09).unwrap().encode_header(&config.get_encoded().unwrap());
    let headers = [
        ("content-type", "application/dap-aggregation-job-init-req"),
        ("dap-auth-token", met.helper_token.expose_text().unwrap()),
        (HEADER, advertisement.as_str()),
    ];
    let said = ask("PUT", &url, &headers, body).await;
    assert_eq!(said.status, 201, "{said:?}");
    let resp = janus::AggregationJobResp::get_decoded(&said.body).unwrap();
    let is_continued = |resp: &janus::PrepareResp| matches!(resp.result(), janus::PrepareStepResult::Continue { .. });
    assert!(resp.prepare_resps().len() == 2 && resp.prepare_resps().iter().all(is_continued));
}

/// Without peers the header is none of our business (section 6).
#[tokio::test(flavor = "multi_thread")]
async fn ignores_header_without_peers() {
    let met = Acquaintances::start(|_| {}).await;
    let (task, node) = (met.task(|_| {}), Node::start().await);
    let call = dapbox::wire::for_revision(DAP09)
        .upload_request(&task.configuration.public.id)
        .with_advertisement(Some("not base64!".to_owned()));
    let answer = peer().send(&node.url(DAP09), &call, None, Bytes::from_static(b"x")).await.unwrap();
    assert_refused(&answer, ProblemType::UnrecognizedTask, "");
    let call = dapbox::wire::for_revision(DAP09).hpke_config_request(Some(&task.configuration.public.id));
    for (url, is_known) in [(node.url(DAP09), false), (met.helper.url(DAP09), true)] {
        assert_eq!(peer().send(&url, &call, None, Bytes::new()).await.unwrap().is_success(), is_known);
    }
    let TaskConfiguration { public, .. } = &task.configuration;
    assert_eq!(taskprov::peer_of(&task.configuration, Role::Helper).endpoint, public.leader_url);
}

/// Requests without a token and without a report that could be taken leave no task behind, and a task that was never used
/// leaves its place to one that is.
#[tokio::test(flavor = "multi_thread")]
async fn anonymous_requests_do_not_consume_peer_quota() {
    let mut met = Acquaintances::start(|config| {
        config.taskprov.max_tasks = 3;
        // Reports that cannot be opened are taken, and fail when their jobs run.
        config.leader.upload_sample_ratio = 0;
    })
    .await;
    let tasks_of = |met: &Acquaintances| met.leader.server().task_ids().unwrap();
    let url = met.leader.url(DAP09);
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
        let elsewhere = met.task(|task| task.leader_url = "https://stranger.example/dap-09/".to_owned());
        assert_refused(&put(&elsewhere, Bytes::from_static(b"x")).await, ProblemType::InvalidTask, "not this server's");
        let ours = met.task(|_| {});
        assert_refused(&put(&ours, Bytes::from(vec![n; 100])).await, ProblemType::InvalidMessage, "");
    }
    let task = met.task(|_| {});
    let forge = met.forge(&met.parties(&task)).await;
    let mut late = draft(&forge);
    late.metadata.time = Time(clock::now().0 + 7200);
    assert_refused(&put(&task, encode(&task, &forge.seal(&late))).await, ProblemType::ReportTooEarly, "");
    let mut outdated = forge.seal(&draft(&forge));
    outdated.leader_share.config_id = outdated.leader_share.config_id.wrapping_add(1);
    assert_refused(&put(&task, encode(&task, &outdated)).await, ProblemType::OutdatedConfig, "");
    assert_eq!(tasks_of(&met), []);

    // Reports that decode and cannot be opened set tasks up, of which nothing comes: all places are taken.
    let mut useless = Vec::new();
    for _ in 0..3 {
        let task = met.task(|_| {});
        let forge = met.forge(&met.parties(&task)).await;
        let mut report = forge.seal(&draft(&forge));
        report.leader_share.payload = Bytes::from(vec![0; report.leader_share.payload.len()]);
        assert_taken(&put(&task, encode(&task, &report)).await);
        met.leader.until(&task.configuration.public.id, |status| status.waiting == 0 && status.jobs == 0).await;
        useless.push(task.configuration.public.id);
    }
    // They are new: their reports might still be on the way.
    assert_refused(
        &put(&task, encode(&task, &forge.seal(&draft(&forge)))).await,
        ProblemType::InvalidTask,
        "max_tasks",
    );
    age_in_band(&mut met.leader, 3600).await;
    assert_taken(&put(&task, encode(&task, &forge.seal(&draft(&forge)))).await);
    aggregated(&met.leader, &met.parties(&task), 1).await;
    let left = tasks_of(&met);
    assert!(left.len() == 3 && left.contains(&task.configuration.public.id), "{left:?}");

    // An operator removes the others. They leave no tombstones and may come again; the used one stays.
    let data_dir = met.leader.config.data_dir.to_str().unwrap().to_owned();
    let swept = dapbox(&["task", "sweep", "--untouched-for", "30m", "--yes", "-o", "json", "--data-dir", &data_dir]);
    let swept: serde_json::Value = serde_json::from_str(&swept.unwrap()).unwrap();
    assert_eq!((swept["removed"].as_bool(), swept["tasks"].as_array().map(Vec::len)), (Some(true), Some(2)), "{swept}");
    assert_eq!(tasks_of(&met), [task.configuration.public.id]);
    met.leader.restart().await;
    assert_eq!(tasks_of(&met), [task.configuration.public.id]);
}

/// Has all in-band tasks of a node be older than they are.
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

/// A task that has ended is removed by the server when too few reports are left for a batch.
#[tokio::test(flavor = "multi_thread")]
async fn removes_expired_in_band_tasks() {
    let mut met = Acquaintances::start(|config| config.retention.sweep_interval = Seconds::millis(50)).await;
    let tasks = [met.task(|_| {}), met.task(|task| task.task_expiration = Some(Time(clock::now().0 + 60 * 86_400)))];
    for task in &tasks {
        met.client(task).upload(Measurement::Number(1), None).await.unwrap();
        aggregated(&met.leader, &met.parties(task), 1).await;
    }
    // As if their ends had been earlier: the store keeps what a control plane says of one instead.
    let [over, goes_on] = tasks.map(|task| task.configuration.public.id);
    met.leader.stop().await;
    let store = open_store(met.leader.data_dir(), Options::default()).await;
    let end = Some(Time(clock::now().0 - 2 * 86_400));
    let ended = move |tx: &mut Tx<'_>| tx.put_provision(&over, Provision { at: Time(1), by: String::new(), end });
    store.write(Point::Test, ended).await.unwrap();
    store.close().await;
    met.leader.resume().await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while met.leader.server().task_ids().unwrap() != [goes_on] {
        assert!(std::time::Instant::now() < deadline, "it stays");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
