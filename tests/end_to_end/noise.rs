//! Differential privacy noise: it has the configured distribution, each batch and aggregator has one sample, and there
//! is none
//! by default.
//!
//! The Dvoretzky-Kiefer-Wolfowitz inequality bounds the error of an empirical distribution. Of n independent samples,
//! the
//! share that is at most x differs from its probability, at any x, by more than t with a probability of at most
//! 2 exp(-2 n t^2). Each test uses the t for which that is 1e-9, so that a correct sampler fails once in 1e9 runs.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex},
};

use dapbox::{
    config::Config,
    model::{
        AggregateShareReq, BatchId, BatchMode, BatchSelector, Duration, Epsilon, FixedSizeQuery, HpkeCiphertext,
        Interval, MaxMeasurement, PartialBatchSelector, Query, Revision, Role, Task, VdafConfig,
    },
    store::{CollectedBy, CollectionProgress, Options},
    support::{Act, Failpoints, Phase, Point, clock},
    vdaf::{self, AggregateResult, Measurement, Preparer, noise::Noise},
    wire::ProblemType,
};
use rstest::rstest;
use tokio::sync::watch;

use crate::common::{
    Pair, Parties, TEST_TIMEOUT, batches_of,
    calls::{assert_rejected, is_pending},
    open_store,
    report_builder::ReportBuilder,
};

/// The probability that a test of a correct distribution fails.
const FALSE_FAILURES: f64 = 1e-9;

const HOUR: u64 = 3600;

fn noisy(revision: Revision, vdaf: &VdafConfig, epsilon: Epsilon) -> Arc<dyn Preparer> {
    let urls = || "https://a.example/".to_owned();
    let mut parties = Parties::new(revision, vdaf.clone(), BatchMode::TimeInterval, urls(), urls());
    parties.leader.public.noise = Some(epsilon);
    vdaf::preparer_for_task(&parties.leader.public).unwrap()
}

/// Asserts that samples follow a cumulative distribution function.
#[track_caller]
fn assert_distributed(mut draws: Vec<i128>, cumulative: impl Fn(i128) -> f64) {
    draws.sort_unstable();
    let n = draws.len() as f64;
    let mut furthest: f64 = 0.0;
    for (index, draw) in draws.iter().enumerate() {
        // Between two occurring values, both functions are compared at the ends.
        if draws.get(index + 1) != Some(draw) {
            furthest = furthest.max(((index + 1) as f64 / n - cumulative(*draw)).abs());
        }
        if index == 0 || draws[index - 1] != *draw {
            furthest = furthest.max((index as f64 / n - cumulative(draw - 1)).abs());
        }
    }
    let most = ((2.0 / FALSE_FAILURES).ln() / (2.0 * n)).sqrt();
    assert!(furthest < most, "{furthest} from the distribution, with {n} draws at most {most}");
}

/// The discrete Laplace distribution.
fn one_draw(scale: f64) -> impl Fn(i128) -> f64 {
    let q = (-1.0 / scale).exp();
    move |x| if x < 0 { q.powi(-x as i32) / (1.0 + q) } else { 1.0 - q.powi(x as i32 + 1) / (1.0 + q) }
}

/// The distribution of the sum of two samples, computed by convolution.
fn two_draws(scale: f64) -> impl Fn(i128) -> f64 {
    let q = (-1.0 / scale).exp();
    let (factor, middle) = (((1.0 - q) / (1.0 + q)).powi(2), (1.0 + q * q) / (1.0 - q * q));
    let end = (scale * 60.0) as i128;
    let mut sums = vec![0.0];
    for n in -end..=end {
        let far = n.unsigned_abs() as f64;
        sums.push(sums[sums.len() - 1] + factor * q.powf(far) * (far + middle));
    }
    move |x| if x < -end { 0.0 } else { sums[((x + end + 1) as usize).min(sums.len() - 1)] }
}

fn numbers(result: AggregateResult) -> Vec<i128> {
    match result {
        AggregateResult::Noisy(numbers) => numbers,
        AggregateResult::NoisyNumber(number) => vec![number],
        other => panic!("{other:?}"),
    }
}

/// Vectors of 50,000 numbers, and an epsilon that makes the scale of their noise five.
fn long_vectors(revision: Revision) -> Vec<(VdafConfig, Epsilon)> {
    let (length, chunk_length) = (50_000, 300);
    let epsilon = |sensitivity: u128| Epsilon::new(sensitivity, 5).unwrap();
    let mut all = vec![
        (VdafConfig::Prio3Histogram { length, chunk_length }, epsilon(2)),
        (VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(2), length, chunk_length }, epsilon(3 * 50_000)),
    ];
    match revision {
        Revision::Dap09 => {
            let vdaf =
                VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits: 2, length, chunk_length, proofs: 2 };
            all.push((vdaf, epsilon(3 * 50_000)));
        }
        // The maximum that counts has whole bits.
        Revision::Dap18 | Revision::Dap19 => {
            all.push((VdafConfig::Prio3SumVec { max: MaxMeasurement(2), length, chunk_length }, epsilon(3 * 50_000)));
            // A vector may exchange its whole sum, at most five, for another one at other positions.
            all.push((VdafConfig::Prio3L1BoundSum { max_value: 5, length, chunk_length }, epsilon(2 * 5)));
        }
    }
    all
}

#[rstest]
fn adds_noise_with_scale_of_epsilon(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    for (vdaf, epsilon) in long_vectors(revision) {
        let preparer = noisy(revision, &vdaf, epsilon);
        let scale = Noise::new(&vdaf, epsilon).unwrap().scale();
        assert!((scale - 5.0).abs() < 1e-9, "{vdaf:?}");
        let zero = preparer.encode(&preparer.zero());
        let shares = [(); 4].map(|()| preparer.encode(&preparer.sample_noise().unwrap()));
        let drawn = |share: &Vec<u8>| numbers(preparer.unshard(share, &zero, 1).unwrap());
        let draws: Vec<i128> = shares.iter().flat_map(drawn).collect();
        // Each number alone, with its neighbour, and with the same element of another sample. If any of them were
        // dependent, their sums would not follow the distribution of a sum of two.
        assert_distributed(draws.iter().copied().step_by(2).collect(), one_draw(scale));
        assert_distributed(draws.chunks_exact(2).map(|pair| pair[0] + pair[1]).collect(), two_draws(scale));
        let both = |[one, other]: [usize; 2]| numbers(preparer.unshard(&shares[one], &shares[other], 1).unwrap());
        assert_distributed([[0, 1], [2, 3]].into_iter().flat_map(both).collect(), two_draws(scale));
    }
}

/// Numbers and flags, for which `prio` has no noise, with an epsilon that makes the scale of their noise five.
fn numbers_and_flags(revision: Revision) -> [(VdafConfig, Epsilon); 3] {
    let epsilon = |sensitivity: u128| Epsilon::new(sensitivity, 5).unwrap();
    let max = if revision == Revision::Dap09 { 127 } else { 100 };
    [
        (VdafConfig::Prio3Count, epsilon(1)),
        (VdafConfig::Prio3Sum { max: MaxMeasurement(max) }, epsilon(max.into())),
        (VdafConfig::Prio3MultihotCountVec { length: 100, max_weight: 3, chunk_length: 10 }, epsilon(6)),
    ]
}

#[rstest]
fn adds_noise_to_numbers_and_flags(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    for (vdaf, epsilon) in numbers_and_flags(revision) {
        let preparer = noisy(revision, &vdaf, epsilon);
        let scale = Noise::new(&vdaf, epsilon).unwrap().scale();
        assert!((scale - 5.0).abs() < 1e-9, "{vdaf:?}");
        let zero = preparer.encode(&preparer.zero());
        let sample = || preparer.encode(&preparer.sample_noise().unwrap());
        let (mut one, mut two) = (Vec::new(), Vec::new());
        while one.len() < 20_000 {
            let shares = [sample(), sample()];
            one.extend(numbers(preparer.unshard(&shares[0], &zero, 1).unwrap()));
            two.extend(numbers(preparer.unshard(&shares[0], &shares[1], 1).unwrap()));
        }
        assert_distributed(one, one_draw(scale));
        assert_distributed(two, two_draws(scale));
    }
}

/// Writes draws of one aggregator's noise to the file in `NOISE_DRAWS`, for benches/noise_opendp.py.
#[test]
#[ignore = "writes a file, for people"]
fn writes_draws() {
    const DRAWS: usize = 100_000;
    let sums = |max| VdafConfig::Prio3Sum { max: MaxMeasurement(max) };
    let vectors = |max| VdafConfig::Prio3SumVec { max, length: 3, chunk_length: 2 };
    let flags = |max_weight| VdafConfig::Prio3MultihotCountVec { length: 10, max_weight, chunk_length: 3 };
    let bounded = VdafConfig::Prio3L1BoundSum { max_value: 100, length: 10, chunk_length: 3 };
    let kinds: [(&str, Revision, VdafConfig, u128, &str); 9] = [
        ("count, DAP-09", Revision::Dap09, VdafConfig::Prio3Count, 1, "0.5"),
        ("count, DAP-19", Revision::Dap19, VdafConfig::Prio3Count, 1, "0.1"),
        ("sum to 127, DAP-09", Revision::Dap09, sums(127), 127, "2"),
        ("sum to 100, DAP-19", Revision::Dap19, sums(100), 100, "1/3"),
        ("histogram, DAP-18", Revision::Dap18, VdafConfig::Prio3Histogram { length: 10, chunk_length: 3 }, 2, "0.25"),
        ("sumvec of 2 bits, DAP-09", Revision::Dap09, vectors(MaxMeasurement::of_bits(2)), 9, "1"),
        ("multihot of weight 3, DAP-19", Revision::Dap19, flags(3), 6, "0.7"),
        ("multihot of weight 8, DAP-09", Revision::Dap09, flags(8), 10, "0.7"),
        ("l1-bound-sum to 100, DAP-19", Revision::Dap19, bounded, 200, "4"),
    ];
    let draws = kinds.map(|(name, revision, vdaf, sensitivity, epsilon)| {
        let epsilon: Epsilon = epsilon.parse().unwrap();
        let preparer = noisy(revision, &vdaf, epsilon);
        let zero = preparer.encode(&preparer.zero());
        let draw = || numbers(preparer.unshard(&preparer.encode(&preparer.sample_noise().unwrap()), &zero, 1).unwrap());
        let drawn: Vec<i64> =
            std::iter::repeat_with(draw).flatten().take(DRAWS).map(|draw| draw.try_into().unwrap()).collect();
        let scale = Noise::new(&vdaf, epsilon).unwrap().scale();
        let epsilon = epsilon.as_f64();
        serde_json::json!({
            "name": name, "scale": scale, "sensitivity": sensitivity as u64, "epsilon": epsilon, "draws": drawn,
        })
    });
    let path = std::env::var("NOISE_DRAWS").expect("NOISE_DRAWS names the file to write");
    std::fs::write(path, serde_json::to_string(&draws).unwrap()).unwrap();
}

/// Results of numbers with noise: what the collector prints and what its pages show.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn collects_sums_with_noise(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement(127) };
    // Noise of the scale 2^32 exceeds every sum, so that half of the results are negative.
    let task = |task: &mut Task| task.public.noise = Epsilon::new(127, 1 << 32);
    let pair = Pair::start_with(revision, vdaf, BatchMode::TimeInterval, |_| {}, task).await;
    let parties = &pair.parties;
    let (mut negative, mut all) = (0, 0);
    while negative == 0 || all == negative {
        assert!(all < 40, "{negative} of {all} are negative");
        let hours = all + 1;
        let start = clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(hours * HOUR));
        parties.client().upload(Measurement::Number(5), Some(start)).await.unwrap();
        let query = Query::TimeInterval(Interval::new(start, Duration(HOUR)).unwrap());
        let collected = parties.collector().collect(query, Some(TEST_TIMEOUT), |_| {}).await.unwrap();
        let AggregateResult::NoisyNumber(number) = collected.result else { panic!("{:?}", collected.result) };
        assert!(number.unsigned_abs() < 1 << 40, "{number} is noise around the field's modulus");
        let json = serde_json::to_value(&collected.result).unwrap();
        assert_eq!(json.as_i64().map(i128::from), Some(number));
        (negative, all) = (negative + u64::from(number < 0), all + 1);
    }
    pair.stop().await;
}

/// The test of a distribution must fail for noise of another scale.
#[test]
fn detects_wrong_scale() {
    let vdaf = VdafConfig::Prio3Histogram { length: 50_000, chunk_length: 300 };
    let preparer = noisy(Revision::Dap09, &vdaf, Epsilon::new(2, 5).unwrap());
    let zero = preparer.encode(&preparer.zero());
    let draws = numbers(preparer.unshard(&preparer.encode(&preparer.sample_noise().unwrap()), &zero, 1).unwrap());
    for wrong in [4.0, 6.2] {
        let fails = std::panic::catch_unwind(|| assert_distributed(draws.clone(), one_draw(wrong)));
        assert!(fails.is_err(), "{wrong}");
    }
}

#[rstest]
fn adds_no_noise_by_default(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    for (vdaf, _) in long_vectors(revision) {
        let preparer = vdaf::preparer(revision, &vdaf).unwrap();
        assert!(!preparer.has_noise());
        let [begun, zero] = [preparer.sample_noise().unwrap(), preparer.zero()].map(|share| preparer.encode(&share));
        assert!(begun.iter().all(|byte| *byte == 0));
        let result = preparer.unshard(&begun, &zero, 1).unwrap();
        assert_eq!(result, AggregateResult::Vector(vec![0; 50_000]));
    }
}

const BINS: usize = 2000;

fn histogram() -> VdafConfig {
    VdafConfig::Prio3Histogram { length: BINS, chunk_length: 50 }
}

/// The scale of each aggregator's noise is four.
fn with_noise(task: &mut Task) {
    task.public.noise = Epsilon::new(1, 2);
}

const SCALE: f64 = 4.0;

/// The released aggregate is the sum plus the noise of both aggregators, and repeated requests return the same.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn releases_aggregate_with_noise_of_both(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
    #[values(true, false)] is_by_time: bool,
) {
    let mode = if is_by_time { BatchMode::TimeInterval } else { batches_of(revision, 4) };
    let task = |task: &mut Task| {
        with_noise(task);
        task.public.min_batch_size = 4;
    };
    let mut pair = Pair::start_with(revision, histogram(), mode, |_| {}, task).await;
    let parties = pair.parties.clone();
    assert_eq!(pair.leader.status(&parties.id()).await.noise, Epsilon::new(1, 2));
    let client = parties.client();
    for bin in [0, 1, 1, 1999] {
        client.upload(Measurement::Number(bin), None).await.unwrap();
    }
    let query = if is_by_time { parties.query_now() } else { Query::FixedSize(FixedSizeQuery::CurrentBatch) };
    let job = parties.start_collection(query).await;
    let first = parties.outcome(&job).await;
    assert!(first.is_success(), "{first:?}");

    // A repeated request gets the same, immediately and after a restart.
    for _ in 0..2 {
        assert_eq!(parties.poll(&job).await.body, first.body);
        pair.leader.restart().await;
        pair.helper.restart().await;
    }
    let wire = parties.wire();
    let collection = wire.decode_collection(parties.task(), &first.body).unwrap();
    let batch = batch_of(query, collection.batch);
    let [leader, helper] = open(&parties, query, &batch, [&collection.leader_share, &collection.helper_share]);
    let preparer = vdaf::preparer_for_task(parties.task()).unwrap();
    let zero = preparer.encode(&preparer.zero());
    let mut released = numbers(preparer.unshard(&leader, &helper, 4).unwrap());
    for bin in [0, 1, 1, 1999] {
        released[bin] -= 1;
    }
    assert_distributed(released, two_draws(SCALE));
    assert_ne!(preparer.unshard(&leader, &zero, 4), preparer.unshard(&zero, &helper, 4));
    pair.stop().await;
}

/// The batch that shares are bound to, for this query.
fn batch_of(query: Query, told: Option<PartialBatchSelector>) -> BatchSelector {
    match (query, told) {
        (Query::TimeInterval(interval), _) => BatchSelector::TimeInterval(interval),
        (_, Some(PartialBatchSelector::FixedSize(id))) => BatchSelector::FixedSize(id),
        _ => BatchSelector::FixedSize(BatchId::new([0; 32])),
    }
}

/// Both aggregate shares as the collector opens them.
fn open(parties: &Parties, query: Query, batch: &BatchSelector, sealed: [&HpkeCiphertext; 2]) -> [Vec<u8>; 2] {
    let wire = parties.wire();
    let aad = wire.aggregate_share_aad(parties.task(), &parties.collection_req(query), batch);
    let share = |role, sealed| parties.keypair.open(&wire.aggregate_share_info(role), &aad, sealed).unwrap().to_vec();
    [share(Role::Leader, sealed[0]), share(Role::Helper, sealed[1])]
}

fn interval() -> Interval {
    let start = clock::now().truncate(Duration(HOUR)).saturating_sub(Duration(5 * HOUR));
    Interval::new(start, Duration(HOUR)).unwrap()
}

/// The leader's stored share of a batch.
async fn stored_share(dir: &Path, parties: &Parties, batch: &BatchSelector) -> Vec<u8> {
    let store = open_store(dir, Options::default()).await;
    let party = store.read(|view| Ok(view.collected(&parties.id(), batch)?.map(|batch| batch.party))).unwrap();
    store.close().await;
    match party {
        Some(CollectedBy::Leader { progress: CollectionProgress::Share(share), .. }) => share,
        _ => panic!("the batch is not closed, or is done"),
    }
}

/// A leader that stops after closing a batch, before its share was released, continues with the stored share. The sum
/// without noise no longer exists.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn stores_leader_noise_before_use(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    let mut pair = Pair::start_with(revision, histogram(), BatchMode::TimeInterval, |_| {}, with_noise).await;
    let parties = pair.parties.clone();
    let builder = ReportBuilder::new(&parties).await;
    parties.upload_all([&builder.report(&Measurement::Number(7), interval().start())]).await;
    pair.leader.until(&parties.id(), |status| status.aggregated == 1).await;
    pair.helper.stop().await;
    let query = Query::TimeInterval(interval());
    let job = parties.start_collection(query).await;
    pair.leader.until(&parties.id(), |status| status.batches_collected == 1).await;
    let batch = BatchSelector::TimeInterval(interval());
    let mut shares = Vec::new();
    for _ in 0..2 {
        pair.leader.stop().await;
        shares.push(stored_share(pair.leader.data_dir(), &parties, &batch).await);
        pair.leader.resume().await;
        assert!(is_pending(&parties.poll(&job).await, &parties));
    }
    pair.helper.resume().await;
    let answer = parties.outcome(&job).await;
    let collection = parties.wire().decode_collection(parties.task(), &answer.body).unwrap();
    let [given, _] = open(&parties, query, &batch, [&collection.leader_share, &collection.helper_share]);
    assert!(shares.iter().all(|share| *share == given));
    pair.stop().await;
}

/// Counts noise samples and blocks the first one until it is opened.
#[derive(Clone)]
struct Gate {
    samples: watch::Sender<usize>,
    is_open: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    fn closed() -> Self {
        Self { samples: watch::Sender::new(0), is_open: Arc::default() }
    }

    fn open() -> Self {
        let gate = Self::closed();
        gate.let_pass();
        gate
    }

    fn let_pass(&self) {
        *self.is_open.0.lock().unwrap() = true;
        self.is_open.1.notify_all();
    }

    fn failpoints(&self) -> Failpoints {
        let gate = self.clone();
        Failpoints::new(move |point, phase| {
            if (point, phase) == (Point::NoiseSample, Phase::Before) {
                gate.samples.send_modify(|samples| *samples += 1);
                if gate.samples() == 1 {
                    let (is_open, opened) = &*gate.is_open;
                    drop(opened.wait_while(is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
                }
            }
            Act::Go
        })
    }

    fn samples(&self) -> usize {
        *self.samples.borrow()
    }

    /// Waits until a sample is requested.
    async fn wanted(&self) {
        let mut samples = self.samples.subscribe();
        tokio::time::timeout(TEST_TIMEOUT, samples.wait_for(|samples| *samples > 0)).await.unwrap().unwrap();
    }
}

/// Collections of one task do not wait for the noise of another. A batch gets one sample, however many jobs request it
/// and however long the helper takes.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn samples_noise_once_without_delaying_other_tasks(
    #[values(Revision::Dap09, Revision::Dap18)] revision: Revision,
) {
    const MANY: u8 = 30;
    let config = |config: &mut Config| (config.limits.workers, config.leader.min_job_size) = (2, 1);
    let mut pair = Pair::start_with(revision, histogram(), BatchMode::TimeInterval, config, with_noise).await;
    let gate = Gate::closed();
    pair.leader.restart_with(gate.failpoints()).await;
    let noisy = pair.parties.clone();
    let nodes = [&pair.leader, &pair.helper];
    let plain = Parties::between(revision, VdafConfig::Prio3Count, BatchMode::TimeInterval, nodes).await;
    for (parties, measurement) in [(&noisy, Measurement::Number(7)), (&plain, Measurement::Flag(true))] {
        let report = ReportBuilder::new(parties).await.report(&measurement, interval().start());
        parties.upload_all([&report]).await;
        pair.leader.until(&parties.id(), |status| status.aggregated == 1).await;
    }
    let query = Query::TimeInterval(interval());
    let mut jobs = vec![noisy.start_collection(query).await];
    gate.wanted().await;
    let other = plain.outcome_of(query).await;
    assert!(other.is_success(), "{other:?}");
    assert_eq!(pair.leader.status(&noisy.id()).await.batches_collected, 0);

    // Where the collector chooses ids, each request is a separate job and makes the leader check all of them.
    pair.helper.stop().await;
    gate.let_pass();
    pair.leader.until(&noisy.id(), |status| status.batches_collected == 1).await;
    for n in 0..MANY {
        jobs.push(noisy.create_collection_as(&[n; 16], query).await.resource_path().to_owned());
    }
    pair.helper.resume().await;
    let first = noisy.outcome(&jobs[0]).await;
    assert!(first.is_success(), "{first:?}");
    for job in &jobs {
        assert_eq!(noisy.outcome(job).await.body, first.body);
    }
    assert_eq!(gate.samples(), 2, "one for each batch");
    pair.stop().await;
}

/// A helper gives one share of a batch, for repeated requests and after restarts.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn helper_samples_noise_once(#[values(Revision::Dap09, Revision::Dap18)] revision: Revision) {
    // The test acts as the leader; the real one is idle.
    let mut pair = Pair::start_with(revision, histogram(), BatchMode::TimeInterval, |_| {}, with_noise).await;
    let gate = Gate::open();
    pair.helper.restart_with(gate.failpoints()).await;
    let parties = pair.parties.clone();
    let builder = ReportBuilder::new(&parties).await;
    let draft = builder.draft(&Measurement::Number(7), interval().start());
    let job = builder.job(PartialBatchSelector::TimeInterval, std::slice::from_ref(&draft));
    assert_eq!(parties.run_job(&job).await.len(), 1);
    let request = parties.share_request(BatchSelector::TimeInterval(interval()), &[draft]);
    // A refused request takes no noise.
    let wrong = AggregateShareReq { report_count: 2, ..request.clone() };
    assert_rejected(&parties.request_share(&wrong).await, &parties, ProblemType::BatchMismatch);
    // Concurrent requests: one closes the batch, the other gets its answer.
    let (one, two) = tokio::join!(parties.request_share(&request), parties.request_share(&request));
    assert!(one.is_success() && one.body == two.body, "{one:?}");
    for _ in 0..2 {
        pair.helper.restart_with(gate.failpoints()).await;
        assert_eq!(parties.request_share(&request).await.body, one.body);
    }
    assert_eq!(gate.samples(), 1);
    pair.stop().await;
}
