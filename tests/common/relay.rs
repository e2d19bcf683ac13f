//! A proxy between leader and helper. It forwards requests, injects the faults that a test asks for, and records
//! everything.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration as Span,
};

use dapbox::{
    client::Client,
    collector::{CollectError, CollectedAggregate},
    config::Config,
    model::{BatchMode, FixedSizeQuery, MaxMeasurement, Query, Revision, Time, VdafConfig},
    vdaf::{AggregateResult, Measurement},
    wire::ResourceKind,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{Node, Pair, Parties, batches_of};

/// A received request.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayedRequest {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl RelayedRequest {
    /// Whether the request creates a resource of this kind. Leader-chosen ids use PUT, others POST.
    pub fn creates(&self, kind: ResourceKind) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        let (name, last) = (name_of(kind), parts.len() - 1);
        (self.method == "POST" && parts[last] == name) || (self.method == "PUT" && parts[last - 1] == name)
    }

    /// Whether the request is about a resource of this kind.
    pub fn is_about(&self, kind: ResourceKind) -> bool {
        self.path.split('/').any(|part| part == name_of(kind))
    }
}

fn name_of(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::AggregationJob => "aggregation_jobs",
        ResourceKind::AggregateShare => "aggregate_shares",
        ResourceKind::CollectionJob => "collection_jobs",
    }
}

/// An answer to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayedAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What the relay does with a request.
pub enum RelayAction {
    /// Forwards the request and the answer.
    Pass,
    /// Forwards the request without credentials.
    Anonymous,
    /// Forwards the request and delays the answer.
    Slow(Span),
    /// Closes the connection without forwarding.
    Lose,
    /// Forwards the request and closes the connection without an answer.
    LoseAnswer,
    /// Forwards the request and truncates the answer.
    CutAnswer,
    /// Forwards the request twice in sequence.
    Twice,
    /// Forwards the request twice concurrently.
    TwiceAtOnce,
    /// Answers without forwarding.
    Answer(RelayedAnswer),
    /// Forwards the request and changes the answer.
    Edit(Box<dyn FnOnce(RelayedAnswer) -> RelayedAnswer + Send>),
    /// Never answers.
    Hang,
}

/// Decides on a request, given the number of earlier identical ones.
pub type Plan = Box<dyn Fn(&RelayedRequest, usize) -> RelayAction + Send + Sync>;

struct State {
    target: Mutex<String>,
    plan: Mutex<Plan>,
    record: Mutex<Vec<RelayedRequest>>,
    /// Pairs of different answers to the same request.
    unlike: Mutex<Vec<(RelayedAnswer, RelayedAnswer)>>,
    http: reqwest::Client,
}

/// A running relay.
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
}

impl Relay {
    /// A relay without a target that forwards everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // No connection outlives its request, so that a restarted server never meets an old connection.
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let state = Arc::new(State {
            target: Mutex::default(),
            plan: Mutex::new(Box::new(|_, _| RelayAction::Pass)),
            record: Mutex::default(),
            unlike: Mutex::default(),
            http,
        });
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(shared.clone(), stream));
            }
        });
        Self { address, state }
    }

    /// The URL to use instead of `target`. Requests are forwarded to `target` from now on.
    pub fn before(&self, target: &str) -> String {
        let target = url::Url::parse(target).unwrap();
        *self.state.target.lock().unwrap() = target.origin().ascii_serialization();
        format!("http://{}{}", self.address, target.path())
    }

    pub fn plan(&self, plan: impl Fn(&RelayedRequest, usize) -> RelayAction + Send + Sync + 'static) {
        *self.state.plan.lock().unwrap() = Box::new(plan);
    }

    /// All requests whose path contains `part`, in order.
    pub fn requests(&self, part: &str) -> Vec<RelayedRequest> {
        self.state.record.lock().unwrap().iter().filter(|asked| asked.path.contains(part)).cloned().collect()
    }

    /// All requests that create a resource of this kind, in order.
    pub fn creations(&self, kind: ResourceKind) -> Vec<RelayedRequest> {
        self.state.record.lock().unwrap().iter().filter(|asked| asked.creates(kind)).cloned().collect()
    }

    /// Asserts that repeated requests had the same bytes and got the same answers.
    pub fn check_repeats(&self, parties: &Parties) {
        let mut bodies: HashMap<(String, String, String), Vec<u8>> = HashMap::new();
        for asked in self.state.record.lock().unwrap().iter() {
            let RelayedRequest { method, path, body, .. } = asked;
            let key = (method.clone(), path.clone(), subject(asked, parties));
            let first = bodies.entry(key).or_insert_with(|| body.clone());
            assert_eq!(first, body, "{method} {path} was repeated with other bytes");
        }
        let unlike = self.state.unlike.lock().unwrap();
        assert!(unlike.is_empty(), "answers to the same request differ: {unlike:?}");
    }
}

/// The subject of a posted request. Two requests about the same subject must have the same bytes. Other requests name
/// it in their path.
fn subject(asked: &RelayedRequest, parties: &Parties) -> String {
    let (wire, task, body) = (parties.wire(), parties.task(), asked.body.clone().into());
    match asked.method.as_str() {
        "POST" if asked.creates(ResourceKind::AggregationJob) => {
            let init = wire.decode_job_init(task, &body, 1000).unwrap();
            init.prepare_inits[0].share.metadata.id.to_string()
        }
        "POST" if asked.creates(ResourceKind::AggregateShare) => {
            format!("{:?}", wire.decode_aggregate_share_req(task, &body).unwrap().batch)
        }
        _ => String::new(),
    }
}

async fn serve(state: Arc<State>, stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = read(&mut stream).await {
        let act = {
            let mut record = state.record.lock().unwrap();
            let same = |old: &&RelayedRequest| {
                (&old.method, &old.path, &old.body) == (&asked.method, &asked.path, &asked.body)
            };
            let before = record.iter().filter(same).count();
            record.push(asked.clone());
            let plan = state.plan.lock().unwrap();
            plan(&asked, before)
        };
        let told = match act {
            RelayAction::Pass => state.pass(&asked).await,
            RelayAction::Anonymous => {
                let headers = asked.headers.iter().filter(|(name, _)| name != "authorization").cloned().collect();
                state.pass(&RelayedRequest { headers, ..asked }).await
            }
            RelayAction::Slow(delay) => {
                let told = state.pass(&asked).await;
                tokio::time::sleep(delay).await;
                told
            }
            RelayAction::Lose => None,
            RelayAction::LoseAnswer => {
                state.pass(&asked).await;
                None
            }
            RelayAction::CutAnswer => {
                if let Some(told) = state.pass(&asked).await {
                    let bytes = encode(&told);
                    // The client may have disconnected.
                    let _ = stream.write_all(&bytes[..bytes.len() - 1 - told.body.len() / 2]).await;
                }
                None
            }
            RelayAction::Twice => {
                let first = state.pass(&asked).await;
                let second = state.pass(&asked).await;
                state.compare(first, second)
            }
            RelayAction::TwiceAtOnce => {
                let (first, second) = tokio::join!(state.pass(&asked), state.pass(&asked));
                state.compare(first, second)
            }
            RelayAction::Answer(told) => Some(told),
            RelayAction::Edit(edit) => state.pass(&asked).await.map(edit),
            RelayAction::Hang => std::future::pending().await,
        };
        let Some(told) = told else { return };
        if stream.write_all(&encode(&told)).await.is_err() {
            return;
        }
    }
}

impl State {
    async fn pass(&self, asked: &RelayedRequest) -> Option<RelayedAnswer> {
        let url = format!("{}{}", self.target.lock().unwrap(), asked.path);
        let mut request = self.http.request(asked.method.parse().unwrap(), url).body(asked.body.clone());
        for (name, value) in asked.headers.iter().filter(|(name, _)| is_end_to_end(name)) {
            request = request.header(name, value);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| value.to_str().unwrap().to_owned();
        let headers = answer.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value)));
        let headers = headers.filter(|(name, _)| is_end_to_end(name)).collect();
        Some(RelayedAnswer { status, headers, body: answer.bytes().await.ok()?.to_vec() })
    }

    fn compare(&self, first: Option<RelayedAnswer>, second: Option<RelayedAnswer>) -> Option<RelayedAnswer> {
        let without_date = |told: Option<RelayedAnswer>| {
            told.map(|mut told| {
                told.headers.retain(|(name, _)| name != "date");
                told
            })
        };
        let (first, second) = (without_date(first)?, without_date(second)?);
        if first != second {
            self.unlike.lock().unwrap().push((first.clone(), second));
        }
        Some(first)
    }
}

fn is_end_to_end(name: &str) -> bool {
    !matches!(name, "host" | "connection" | "content-length" | "transfer-encoding")
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<RelayedRequest> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut headers, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
        if name == "content-length" {
            length = value.parse().unwrap();
        }
        assert_ne!(name, "transfer-encoding", "this relay reads whole bodies only");
        headers.push((name, value));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(RelayedRequest { method, path, headers, body })
}

fn encode(told: &RelayedAnswer) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} -\r\n", told.status);
    for (name, value) in &told.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if told.status != 204 {
        head += &format!("content-length: {}\r\n", told.body.len());
    }
    [format!("{head}\r\n").as_bytes(), &told.body].concat()
}

impl RelayedAnswer {
    /// An answer with a body of a media type.
    pub fn new(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type".to_owned(), media_type.to_owned())], body: body.into() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A problem document (RFC 9457).
    pub fn problem(status: u16, kind: &str) -> Self {
        let body = format!(r#"{{"type":"urn:ietf:params:ppm:dap:error:{kind}","status":{status}}}"#);
        Self::new(status, "application/problem+json", body)
    }
}

/// A leader and a helper with a task, and a relay between them. Jobs have at most two reports.
pub async fn pair_through_relay(revision: Revision, mode: BatchMode, config: impl Fn(&mut Config)) -> (Pair, Relay) {
    let change = |all: &mut Config| {
        all.leader.max_job_size = 2;
        config(all);
    };
    let (leader, helper, relay) =
        (Node::start_with(change).await, Node::start_with(change).await, Relay::start().await);
    let (leader_url, helper_url) = (leader.url(revision), relay.before(&helper.url(revision)));
    let parties =
        Parties::new(revision, VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) }, mode, leader_url, helper_url);
    let parties = parties.with(|task| task.public.min_batch_size = MEASUREMENTS.len() as u64);
    leader.add(&parties.leader).await;
    helper.add(&parties.helper).await;
    (Pair { leader, helper, parties }, relay)
}

/// The uploaded measurements: powers of two, so that the sum tells which of them were counted and how often.
pub const MEASUREMENTS: [u128; 5] = [1, 2, 4, 8, 16];

/// A query for the only batch.
pub fn query(parties: &Parties) -> Query {
    match parties.task().batch_mode {
        BatchMode::TimeInterval => parties.query_now(),
        BatchMode::FixedSize { .. } => Query::FixedSize(FixedSizeQuery::CurrentBatch),
    }
}

/// The two batch modes; batches have room for [`MEASUREMENTS`].
pub fn modes(revision: Revision) -> [BatchMode; 2] {
    [BatchMode::TimeInterval, batches_of(revision, MEASUREMENTS.len() as u64)]
}

/// Uploads [`MEASUREMENTS`] with one client.
pub async fn upload_all(client: &Client, time: Option<Time>) {
    for number in MEASUREMENTS {
        client.upload(Measurement::Number(number), time).await.unwrap();
    }
}

/// Asserts that a collected batch holds exactly [`MEASUREMENTS`].
#[track_caller]
pub fn assert_whole(name: &str, collected: Result<CollectedAggregate, CollectError>) {
    let collected = collected.unwrap_or_else(|error| panic!("{name}: {error}"));
    let sum = MEASUREMENTS.iter().sum();
    assert_eq!((collected.report_count, collected.result), (5, AggregateResult::Number(sum)), "{name}");
}
