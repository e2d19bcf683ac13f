//! A whole helper job over HTTP with durable commits: what a leader sees of a helper, one job in flight.
//!
//! The leader's work is done beforehand. Each job is new: a repeated one would only be looked up.

use std::{hint::black_box, time::Duration as Span};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dapbox::{
    client::{AggregatorKeys, make_report},
    config::Config,
    hpke::{Keypair, Suite},
    model::{
        AggregationJobId, BatchMode, Duration, JobInit, PartialBatch, Party, PrepareInit, ReportShare, Revision, Role,
        Secret, Task, TaskId, TaskParameters, Time, TokenHash, VdafConfig,
    },
    peer::{Peer, PeerOptions},
    server::Server,
    vdaf::{self, InputShare, Measurement, Preparer, Verification},
    wire::{self, Interaction},
};

const JOB_SIZE: usize = 100;

fn helper_job(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut group = c.benchmark_group("helper job");
    group.throughput(Throughput::Elements(JOB_SIZE as u64)).sample_size(10).measurement_time(Span::from_secs(5));
    let questions = [
        ("count", VdafConfig::Prio3Count, Measurement::Flag(true)),
        ("histogram 100", VdafConfig::Prio3Histogram { length: 100, chunk_length: 10 }, Measurement::Number(7)),
    ];
    for (name, vdaf, measurement) in questions {
        for revision in Revision::ALL {
            let dir = tempfile::tempdir().unwrap();
            let bench = runtime.block_on(Bench::start(dir.path(), revision, vdaf.clone(), measurement.clone()));
            group.bench_function(format!("{name}, {}", wire::of(revision).prefix()), |b| {
                b.iter_batched(
                    || bench.request(),
                    |request| black_box(runtime.block_on(bench.send(request))),
                    BatchSize::PerIteration,
                );
            });
            runtime.block_on(bench.server.stop()).unwrap();
        }
    }
    group.finish();
}

struct Bench {
    server: Server,
    task: Task,
    token: Secret,
    measurement: Measurement,
    leader: Keypair,
    keys: AggregatorKeys,
    peer: Peer,
}

impl Bench {
    async fn start(dir: &std::path::Path, revision: Revision, vdaf: VdafConfig, measurement: Measurement) -> Self {
        let config = Config { data_dir: dir.join("data"), listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        let server = Server::start(config.clone()).await.unwrap();
        let wire = wire::of(revision);
        let url = format!("http://{}/{}/", server.address(), wire.prefix());
        let token = Secret::random_token();
        let public = TaskParameters {
            id: TaskId::random(),
            revision,
            // A text that tells the task from others, where the protocol has one.
            info: if wire.has_info() { "bench".to_owned() } else { String::new() },
            leader_url: url.clone(),
            helper_url: url,
            batch_mode: BatchMode::TimeInterval,
            vdaf,
            min_batch_size: 1,
            time_precision: Duration(3600),
            task_expiration: None,
            task_interval: None,
        };
        let task = Task {
            verify_key: Secret::random(vdaf::preparer(revision, &public.vdaf).unwrap().verify_key_length()),
            public,
            verify_key_id: 0,
            max_batch_query_count: 1,
            report_expiry_age: None,
            collector_hpke_config: Keypair::generate(0, Suite::DEFAULT).unwrap().config().clone(),
            party: Party::Helper { leader_token: TokenHash::of(token.expose()) },
        };
        let control = reqwest::Client::builder().unix_socket(config.control_socket()).build().unwrap();
        control.post("http://control/tasks").json(&task).send().await.unwrap().error_for_status().unwrap();
        let peer = Peer::new(&PeerOptions::default()).unwrap();
        let call = wire.hpke_config_call(&task.public.id);
        let answer = peer.call(&task.public.helper_url, &call, None, Bytes::new()).await.unwrap();
        let helper = wire.decode_hpke_configs(&answer.body).unwrap().remove(0);
        let leader = Keypair::generate(0, Suite::DEFAULT).unwrap();
        let keys = AggregatorKeys { leader: leader.config().clone(), helper };
        Self { server, task, token, measurement, leader, keys, peer }
    }

    fn request(&self) -> Bytes {
        let task = &self.task.public;
        let preparer = vdaf::preparer(task.revision, &task.vdaf).unwrap();
        let init = JobInit {
            verify_key_id: Some(self.task.verify_key_id),
            aggregation_parameter: Bytes::new(),
            batch: PartialBatch::TimeInterval,
            extensions: Vec::new(),
            inits: (0..JOB_SIZE).map(|_| self.init(preparer.as_ref())).collect(),
        };
        wire::of(task.revision).encode_job_init(task, &init).into()
    }

    /// Does for one report what a client and then the leader do.
    fn init(&self, preparer: &dyn Preparer) -> PrepareInit {
        let task = &self.task.public;
        let wire = wire::of(task.revision);
        let report = make_report(task, preparer, &self.keys, &self.measurement, Time::now()).unwrap();
        let aad = wire.input_share_aad(task, &report.metadata, &report.extensions, &report.public_share);
        let opened = self.leader.open(&wire.input_share_info(Role::Leader), &aad, &report.leader_share).unwrap();
        let plaintext = wire.decode_plaintext(&opened.into()).unwrap();
        let share = InputShare {
            report_id: &report.metadata.id,
            public_share: &report.public_share,
            input_share: &plaintext.payload,
        };
        let verify = Verification { key: self.task.verify_key.expose(), context: &wire.vdaf_context(&task.id) };
        let (_, message) = preparer.leader_start(verify, share).unwrap();
        let share = ReportShare {
            metadata: report.metadata,
            extensions: report.extensions,
            public_share: report.public_share,
            input_share: report.helper_share,
        };
        PrepareInit { share, message: message.into() }
    }

    async fn send(&self, request: Bytes) -> usize {
        let task = &self.task.public;
        let job = AggregationJobId::random();
        let call = wire::of(task.revision).create_call(Interaction::AggregationJob, &task.id, job.as_bytes());
        let reply = self.peer.ask(&task.helper_url, &call, Some(&self.token), request).await.unwrap();
        reply.ready.unwrap().len()
    }
}

criterion_group!(benches, helper_job);
criterion_main!(benches);
