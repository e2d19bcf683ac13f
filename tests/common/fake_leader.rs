//! A leader of a DAP-09 task as its collector sees it, built on the messages of Janus. It has one report in each unit of
//! time, with a value that the test chooses, or any number of batches of one report.
//!
//! It records all requests. A request that a leader must never get from our collector is a violation.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration as Span, UNIX_EPOCH},
};

use bytes::Bytes;
use dapbox::{
    model::{BatchMode, MaxMeasurement, Revision, VdafConfig},
    server::Clock,
};
use janus_core::hpke::{HpkeApplicationInfo, Label, seal};
use janus_messages::{
    self as janus, AggregateShareAad, BatchSelector, Collection, CollectionReq, PartialBatchSelector, Role,
    problem_type::DapProblemType,
    query_type::{FixedSize, QueryType, TimeInterval},
};
use prio16::{
    codec::{Decode, Encode},
    field::Field128,
};
use warp::{
    Filter,
    http::{Method, Response, StatusCode},
    path::FullPath,
};

use super::{Parties, fast_clock::FastClock};

/// The value of the report in the unit of time that starts at this second; `None` for no report.
pub type Reports = Box<dyn Fn(u64) -> Option<u64> + Send>;

/// What happens to a request instead of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A proxy answers with an HTML page, and the leader does not get the request.
    Page(u16),
    /// The leader gets the request, but a proxy answers with an HTML page.
    PageAfterwards(u16),
    /// The leader answers with a problem document.
    Problem(u16, DapProblemType),
}

/// A request that the leader got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub method: Method,
    pub job: String,
    pub status: u16,
    /// When, by the clock's intervals.
    pub at: Span,
}

/// A collection job.
#[derive(Clone, Debug)]
pub struct Job {
    /// How many jobs were created before.
    pub number: u64,
    pub body: Bytes,
    pub polls: u64,
    pub is_deleted: bool,
    pub is_collected: bool,
}

/// What the leader does and has seen.
pub struct State {
    parties: Parties,
    pub reports: Reports,
    pub min_batch_size: u64,
    /// Whether a batch that is too small is refused. Otherwise, it is not ready.
    pub refuses_small: bool,
    /// Number of polls before a result is ready.
    pub polls: u64,
    /// The header `Retry-After` of jobs that are not ready.
    pub retry_after: Option<u64>,
    /// Status of a created job.
    pub created: u16,
    pub is_down: bool,
    /// Troubles of the next requests for collection jobs.
    pub troubles: VecDeque<Trouble>,
    pub jobs: BTreeMap<String, Job>,
    pub recorded: Vec<Recorded>,
    pub violations: Vec<String>,
}

/// The leader.
pub struct FakeLeader {
    state: Arc<Mutex<State>>,
    /// Its own clock.
    pub clock: Arc<FastClock>,
}

type Answer = Response<Bytes>;

fn answer(status: u16, media_type: &str, body: impl Into<Bytes>) -> Answer {
    let status = StatusCode::from_u16(status).unwrap();
    Response::builder().status(status).header("content-type", media_type).body(body.into()).unwrap()
}

fn page(status: u16) -> Answer {
    answer(status, "text/html", "<html><h1>Bad Gateway</h1></html>")
}

fn problem(status: u16, kind: DapProblemType) -> Answer {
    let document = serde_json::json!({ "type": kind.type_uri(), "title": kind.description(), "status": status });
    answer(status, "application/problem+json", document.to_string())
}

impl FakeLeader {
    /// Starts a leader, and creates its task of sums of numbers up to 255.
    pub async fn start(clock: Arc<FastClock>, batch_mode: BatchMode, reports: Reports) -> (Self, Parties) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/dap/", listener.local_addr().unwrap());
        let vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
        let parties = Parties::new(Revision::Dap09, vdaf, batch_mode, url, "http://127.0.0.1:1/".to_owned());
        let state = Arc::new(Mutex::new(State::new(parties.clone(), reports)));
        let (shared, own_clock) = (state.clone(), clock.clone());
        let routes = warp::method().and(warp::path::full()).and(warp::body::bytes()).map(
            move |method: Method, path: FullPath, body: Bytes| {
                let mut answer = shared.lock().unwrap().handle(&own_clock, &method, path.as_str(), &body);
                let date = httpdate::fmt_http_date(UNIX_EPOCH + Span::from_secs(own_clock.now().0));
                answer.headers_mut().insert("date", date.parse().unwrap());
                answer
            },
        );
        tokio::spawn(warp::serve(routes).incoming(listener).run());
        (Self { state, clock }, parties)
    }

    /// Changes what the leader does.
    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// Reads what the leader has seen.
    pub fn see<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock().unwrap())
    }
}

impl State {
    fn new(parties: Parties, reports: Reports) -> Self {
        Self {
            parties,
            reports,
            min_batch_size: 1,
            refuses_small: false,
            polls: 0,
            retry_after: None,
            created: 201,
            is_down: false,
            troubles: VecDeque::new(),
            jobs: BTreeMap::new(),
            recorded: Vec::new(),
            violations: Vec::new(),
        }
    }

    fn handle(&mut self, clock: &FastClock, method: &Method, path: &str, body: &Bytes) -> Answer {
        if self.is_down {
            return page(503);
        }
        let Some((_, job)) = path.rsplit_once("/collection_jobs/") else {
            return answer(200, janus::HpkeConfigList::MEDIA_TYPE, "");
        };
        let trouble = self.troubles.pop_front();
        let answer = match trouble {
            Some(Trouble::Page(status)) => page(status),
            Some(Trouble::Problem(status, kind)) => problem(status, kind),
            Some(Trouble::PageAfterwards(_)) | None => match *method {
                Method::PUT => self.create(clock, job, body),
                Method::POST => self.poll(job),
                Method::DELETE => self.delete(job),
                _ => answer(405, "text/plain", ""),
            },
        };
        let answer = if let Some(Trouble::PageAfterwards(status)) = trouble { page(status) } else { answer };
        let status = answer.status().as_u16();
        let (method, job) = (method.clone(), job.to_owned());
        self.recorded.push(Recorded { method, job, status, at: clock.elapsed() });
        answer
    }

    /// Creates a job, or returns an existing one, as Janus does (DAP-09 section 4.6.1).
    fn create(&mut self, clock: &FastClock, id: &str, body: &Bytes) -> Answer {
        if let Some(job) = self.jobs.get(id) {
            if job.body != *body {
                self.violations.push(format!("job {id} was requested with another body"));
                return answer(409, "text/plain", "");
            }
            return if job.is_deleted { answer(204, "text/plain", "") } else { answer(self.created, "text/plain", "") };
        }
        if let Some(wanted) = interval_of(body) {
            if wanted.end() > clock.now().0 + 1 {
                self.violations.push(format!("{wanted:?} was requested at {} before its end", clock.now().0));
            }
            if let Some(kind) = self.overlap(id, &wanted) {
                return problem(400, kind);
            }
            if self.refuses_small && self.aggregate(&wanted).0 < self.min_batch_size {
                return problem(400, DapProblemType::InvalidBatchSize);
            }
        }
        let number = self.jobs.len() as u64;
        let job = Job { number, body: body.clone(), polls: 0, is_deleted: false, is_collected: false };
        self.jobs.insert(id.to_owned(), job);
        answer(self.created, "text/plain", "")
    }

    /// Why a time interval cannot be collected: a part of it was requested by another job that still exists or had its
    /// result.
    fn overlap(&mut self, id: &str, wanted: &Interval) -> Option<DapProblemType> {
        let found = self.jobs.iter().filter(|(_, job)| !job.is_deleted || job.is_collected).find_map(|(other, job)| {
            let taken = interval_of(&job.body)?;
            (taken.start < wanted.end() && wanted.start < taken.end()).then(|| (other.clone(), taken))
        });
        let (other, taken) = found?;
        self.violations.push(format!("job {id} requests {wanted:?}, but {other} requested {taken:?}"));
        let is_same = taken == *wanted;
        Some(if is_same { DapProblemType::BatchQueriedTooManyTimes } else { DapProblemType::BatchOverlap })
    }

    /// The number of reports in an interval and their sum.
    fn aggregate(&self, interval: &Interval) -> (u64, u128) {
        let precision = self.parties.leader.public.time_precision.0;
        let units = (interval.start..interval.end()).step_by(usize::try_from(precision).unwrap());
        units.filter_map(&self.reports).fold((0, 0), |(count, sum), value| (count + 1, sum + u128::from(value)))
    }

    fn poll(&mut self, id: &str) -> Answer {
        let Some(job) = self.jobs.get_mut(id) else { return answer(404, "text/plain", "") };
        if job.is_deleted {
            return answer(204, "text/plain", "");
        }
        job.polls += 1;
        let job = job.clone();
        let ready = (job.polls > self.polls).then(|| self.result(&job)).flatten();
        match ready {
            Some(result) => {
                self.jobs.get_mut(id).unwrap().is_collected = true;
                answer(200, Collection::<TimeInterval>::MEDIA_TYPE, result)
            }
            None => {
                let mut waiting = answer(202, "text/plain", "");
                if let Some(seconds) = self.retry_after {
                    waiting.headers_mut().insert("retry-after", seconds.into());
                }
                waiting
            }
        }
    }

    /// The encoded result of a job; `None` if it has too few reports.
    fn result(&self, job: &Job) -> Option<Vec<u8>> {
        let precision = self.parties.leader.public.time_precision.0;
        let Some(wanted) = interval_of(&job.body) else {
            let batch = janus::BatchId::from(batch_id(job.number));
            let selectors = (BatchSelector::new_fixed_size(batch), PartialBatchSelector::new_fixed_size(batch));
            let unit = Interval { start: 1_700_000_000 / precision * precision, length: precision };
            let value = (self.reports)(job.number)?;
            return Some(seal_result::<FixedSize>(&self.parties, selectors, 1, unit, value.into()));
        };
        let (count, sum) = self.aggregate(&wanted);
        let selectors =
            (BatchSelector::new_time_interval(janus_interval(wanted)), PartialBatchSelector::new_time_interval());
        let is_enough = count >= self.min_batch_size;
        is_enough.then(|| seal_result::<TimeInterval>(&self.parties, selectors, count, wanted, sum))
    }

    fn delete(&mut self, id: &str) -> Answer {
        let Some(job) = self.jobs.get_mut(id) else { return answer(404, "text/plain", "") };
        job.is_deleted = true;
        answer(204, "text/plain", "")
    }
}

/// The id of a batch.
pub fn batch_id(number: u64) -> [u8; 32] {
    std::array::from_fn(|at| if at < 8 { number.to_be_bytes()[at] } else { 7 })
}

/// An interval in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub start: u64,
    pub length: u64,
}

impl Interval {
    fn end(&self) -> u64 {
        self.start + self.length
    }
}

fn janus_interval(Interval { start, length }: Interval) -> janus::Interval {
    janus::Interval::new(janus::Time::from_seconds_since_epoch(start), janus::Duration::from_seconds(length)).unwrap()
}

/// The interval of a request; `None` for the next batch of a fixed-size task.
pub fn interval_of(body: &[u8]) -> Option<Interval> {
    let Ok(request) = CollectionReq::<TimeInterval>::get_decoded(body) else {
        CollectionReq::<FixedSize>::get_decoded(body).unwrap();
        return None;
    };
    let interval = request.query().batch_interval();
    Some(Interval { start: interval.start().as_seconds_since_epoch(), length: interval.duration().as_seconds() })
}

/// Splits a sum in two shares and seals them for the collector.
fn seal_result<Q: QueryType>(
    parties: &Parties,
    (selector, partial): (BatchSelector<Q>, PartialBatchSelector<Q>),
    count: u64,
    interval: Interval,
    sum: u128,
) -> Vec<u8> {
    let config = parties.keypair.config();
    let key = janus::HpkeConfig::new(
        config.id.into(),
        config.kem_id.into(),
        config.kdf_id.into(),
        config.aead_id.into(),
        config.public_key.clone().into(),
    );
    let task: janus::TaskId = parties.id().to_string().parse().unwrap();
    let aad = AggregateShareAad::new(task, Vec::new(), selector).get_encoded().unwrap();
    let mask = Field128::from(u128::from(rand::random::<u64>()));
    let sealed = [(Role::Leader, mask), (Role::Helper, Field128::from(sum) - mask)].map(|(role, share)| {
        let info = HpkeApplicationInfo::new(&Label::AggregateShare, &role, &Role::Collector);
        seal(&key, &info, &share.get_encoded().unwrap(), &aad).unwrap()
    });
    let [leader, helper] = sealed;
    Collection::new(partial, count, janus_interval(interval), leader, helper).get_encoded().unwrap()
}
