//! Made-up servers: a new one, one in normal operation, and one with problems.

use std::collections::BTreeMap;

use dapbox::{
    model::{
        BatchId, BatchMode, Duration, Interval, KeyState, MaxMeasurement, Revision, Role, TaskId, Time, VdafConfig,
    },
    views::{
        overview::{
            BatchState, BatchView, CertificateStatus, KeyStatus, Load, Overview, PeerStatus, Sample, StateCounts,
            TaskView, TlsStatus,
        },
        status::{CollectedBatchStatus, DiskStatus, ResultState, TaskStatus},
    },
};

/// 2026-11-25 04:30 UTC.
const NOW: Time = Time(1_795_581_000);

fn before(seconds: u64) -> Time {
    NOW.saturating_sub(Duration(seconds))
}

/// A server that was just set up.
pub fn fresh() -> Overview {
    Overview {
        version: "0.1.0 (1e3f8721ebc2)".to_owned(),
        server: "leader.example.org".to_owned(),
        now: NOW,
        started: before(42),
        not_ready: Vec::new(),
        load: Load::default(),
        disk: DiskStatus {
            dir: "/var/lib/dapbox".into(),
            free_bytes: 41_283_518_464,
            reserve_bytes: 1 << 30,
            needed_bytes: 1 << 30,
            has_ballast: true,
            is_short: false,
        },
        keys: vec![key(1, KeyState::Active, 42)],
        tls: None,
        log_lines_dropped: 0,
        tasks: Vec::new(),
    }
}

fn key(id: u8, state: KeyState, age: u64) -> KeyStatus {
    let suite = "x25519-sha256-aes128gcm".to_owned();
    KeyStatus { id, suite, state, created: before(age), until: Some(NOW.saturating_add(Duration(86_400 * 12))) }
}

fn task(seed: u8, role: Role, vdaf: VdafConfig, batch_mode: BatchMode) -> TaskView {
    let id = TaskId::new([seed.wrapping_mul(37).wrapping_add(5); 32]);
    let status = TaskStatus {
        id,
        name: seed.is_multiple_of(3).then(|| "Checkout, page loads (EU)".parse().unwrap()),
        revision: Revision::ALL[usize::from(seed) % 2],
        info: if seed % 2 == 1 { "page load times, checkout".to_owned() } else { String::new() },
        role,
        leader_url: "https://leader.example.org/dap-18/".to_owned(),
        helper_url: "https://helper.partner.example/api/dap-18/".to_owned(),
        vdaf,
        batch_mode,
        min_batch_size: 100,
        time_precision: Duration(3600),
        task_expiration: None,
        task_interval: None,
        horizon: Some(before(86_400 * 14)),
        counters: BTreeMap::from([("report_success".to_owned(), 48_213), ("aggregate_success".to_owned(), 47_990)]),
        waiting: if role == Role::Leader { 223 } else { 0 },
        jobs: 2,
        aggregated: 5_120,
        batches_collected: 37,
        collections_waiting: u64::from(role == Role::Leader),
        collected: if role == Role::Leader { collected() } else { Vec::new() },
        results_not_fetched: u64::from(role == Role::Leader),
        collected_unlisted: 0,
        last_error: None,
        provisioned: None,
        in_band: None,
        noise: None,
        privacy: None,
    };
    TaskView {
        status,
        upload_rate: 7.42,
        aggregation_rate: 7.1,
        oldest_waiting: (role == Role::Leader).then(|| before(754)),
        refused: BTreeMap::new(),
        batches: Vec::new(),
        counts: StateCounts::default(),
        peer: None,
        history: history(60, role),
    }
}

/// Results in every state.
fn collected() -> Vec<CollectedBatchStatus> {
    let states = [ResultState::NotFetched, ResultState::Fetched, ResultState::Failed, ResultState::Unknown];
    let batch = |(n, result): (usize, &ResultState)| CollectedBatchStatus {
        id: (n % 2 == 1).then(|| BatchId::new([n as u8; 32])),
        interval: Interval::new(before(86_400 * (n as u64 + 1)).truncate(Duration(3600)), Duration(3600)),
        report_count: (*result != ResultState::Unknown).then_some(1_204),
        closed: (*result != ResultState::Unknown).then(|| before(7_200)),
        result: *result,
        fetched: (*result == ResultState::Fetched).then(|| before(3_600)),
    };
    states.iter().enumerate().map(batch).collect()
}

fn history(samples: u64, role: Role) -> Vec<Sample> {
    let wave = |i: u64, high: u64| high * ((i * i * 7 + i * 13) % 41 + 20 + i % 9) / 60;
    let sample = |i: u64| Sample {
        start: before((samples - i) * 60),
        duration: Duration(60),
        uploaded: if role == Role::Leader { wave(i, 480) } else { 0 },
        aggregated: if i.is_multiple_of(2) { wave(i + 1, 900) } else { 0 },
        refused: if i % 17 == 3 { 4 } else { 0 },
    };
    (0..samples).filter(|i| !(20..26).contains(i)).map(sample).collect()
}

fn batch(hours_ago: u64, aggregated: u64, waiting: u64, state: BatchState) -> BatchView {
    let start = before(hours_ago * 3600).truncate(Duration(3600));
    BatchView { id: None, interval: Interval::new(start, Duration(3600)), aggregated, waiting, state }
}

/// A server in normal operation: tasks in every state.
pub fn busy() -> Overview {
    let histogram = VdafConfig::Prio3Histogram { length: 12, chunk_length: 4 };
    let mut leader = task(1, Role::Leader, histogram, BatchMode::TimeInterval);
    leader.refused = BTreeMap::from([
        ("upload_too_early".to_owned(), 3),
        ("vdaf_prep_error".to_owned(), 41),
        ("helper_hpke_decrypt_error".to_owned(), 1),
    ]);
    leader.peer = Some(PeerStatus { last_success: Some(before(3)), last_failure: Some(before(90_000)) });
    leader.batches = vec![
        batch(0, 12, 9, BatchState::TooFew),
        batch(1, 61, 152, BatchState::NotAggregatedYet),
        batch(2, 1_411, 62, BatchState::Ready),
        batch(3, 118, 0, BatchState::Ready),
    ];
    leader.batches.extend((4..12).map(|hours| batch(hours, 300 * hours, 0, BatchState::Ready)));
    leader.counts =
        StateCounts { batches_ready: 10, batches_not_aggregated_yet: 1, batches_too_few: 1, ..StateCounts::default() };

    let mut helper = task(
        2,
        Role::Helper,
        VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(32) },
        BatchMode::fixed_size(Some(500)),
    );
    helper.batches = vec![BatchView {
        id: Some("4d3vL0sBzyH6Xn-pr3J8y5mZC8n1sVtYlqDPX5sZ0aE".to_owned()),
        interval: Interval::new(before(7_200).truncate(Duration(3600)), Duration(7_200)),
        aggregated: 63,
        waiting: 0,
        state: BatchState::TooFew,
    }];
    helper.counts.batches_too_few = 1;

    let mut stuck = task(3, Role::Leader, VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let trouble = "an aggregation job failed (17 times): connection refused".to_owned();
    stuck.status.last_error = Some(trouble);
    stuck.peer = Some(PeerStatus { last_success: Some(before(5_400)), last_failure: Some(before(12)) });
    stuck.status.info = String::new();
    let mut ended = task(4, Role::Leader, VdafConfig::Prio3Count, BatchMode::TimeInterval);
    ended.status.task_expiration = Some(before(86_400));
    (ended.history, ended.upload_rate, ended.status.waiting, ended.oldest_waiting) = (Vec::new(), 0.0, 0, None);
    let mut future = task(5, Role::Leader, VdafConfig::Prio3Count, BatchMode::TimeInterval);
    future.status.task_interval = Interval::new(NOW.saturating_add(Duration(7_200)), Duration(86_400));
    Overview {
        started: before(86_400 * 9 + 3_600 * 5),
        load: Load { connections: 23, requests: 4, computing: 2, commits: 1_284_113 },
        keys: vec![
            key(3, KeyState::Pending, 600),
            key(2, KeyState::Active, 86_400 * 3),
            key(1, KeyState::Expired, 86_400 * 33),
        ],
        tls: Some(TlsStatus { certificate: Some(certificate()), last_error: None }),
        tasks: vec![leader, helper, stuck, ended, future],
        ..fresh()
    }
}

/// A leader with one task and no problems.
pub fn calm() -> Overview {
    let mut all = busy();
    all.tasks.truncate(1);
    let leader = &mut all.tasks[0];
    leader.batches.truncate(3);
    leader.counts.batches_ready = 1;
    all.keys.truncate(2);
    all
}

fn certificate() -> CertificateStatus {
    CertificateStatus {
        names: vec!["leader.example.org".to_owned()],
        not_before: before(86_400 * 20),
        not_after: NOW.saturating_add(Duration(86_400 * 61)),
    }
}

/// A server with every kind of problem, many tasks, and unusual texts and numbers.
pub fn troubled() -> Overview {
    let mut all = busy();
    all.disk = DiskStatus { free_bytes: 412 << 20, needed_bytes: 1_342_177_280, is_short: true, ..all.disk };
    all.disk.dir = format!("/srv/{}/dapbox", "very-long-name-of-a-volume".repeat(4)).into();
    let refused = "the authority refused the order: urn:ietf:params:acme:error:dns: no A record for leader.example.org: \
                   see that the name leads to this server";
    all.tls = Some(TlsStatus { certificate: None, last_error: Some(refused.to_owned()) });
    all.not_ready =
        all.disk.advice().into_iter().chain([format!("there is no TLS certificate yet: {refused}")]).collect();
    let strange = &mut all.tasks[0];
    strange.status.info = format!("<script>alert(1)</script> & {}", "unbroken".repeat(30));
    strange.status.helper_url = format!("https://{}.example/", "a-long-label.".repeat(15));
    strange.status.min_batch_size = u64::MAX;
    strange.status.counters.insert("report_success".to_owned(), u64::MAX);
    strange.status.task_expiration = Some(Time(u64::MAX));
    strange.upload_rate = 1e12;
    (strange.batches[0].aggregated, strange.batches[0].waiting) = (u64::MAX, u64::MAX);
    let plain = |seed| task(seed, Role::Leader, VdafConfig::Prio3Count, BatchMode::TimeInterval);
    all.tasks.extend((6..40).map(plain));
    all
}
