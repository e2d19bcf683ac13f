//! The load: requests that were made beforehand are written to blocking sockets by plain threads, and the answers are
//! read with as little work as can be.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration as Span, Instant},
};

use serde::Serialize;

use super::{cores::join_thread, cpu};
use crate::{cli::Failure, model::Secret, wire::RequestSpec};

/// How long an answer may take.
const RESPONSE_TIMEOUT: Span = Span::from_secs(120);

/// The bytes of a request below the path of a base URL.
pub fn request(base: &str, call: &RequestSpec, token: Option<&Secret>, body: &[u8]) -> Vec<u8> {
    let path = base.trim_start_matches("http://").trim_start_matches(|c| c != '/');
    let mut head = format!("{} {path}{} HTTP/1.1\r\nhost: localhost\r\n", call.method, call.path);
    if let Some(media_type) = call.content_type {
        head.push_str(&format!("content-type: {media_type}\r\ncontent-length: {}\r\n", body.len()));
    }
    if let Some(token) = token.and_then(Secret::expose_text) {
        head.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A connection that is kept.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        Ok(Self { stream, buffer: vec![0; 16 << 10] })
    }

    /// Sends a request and returns the body of its answer, which must say that all is well.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        self.send(request)?;
        self.receive()
    }

    /// Sends a request.
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)
    }

    /// Reads the answer to the request that was sent.
    pub fn receive(&mut self) -> io::Result<&[u8]> {
        let mut filled = 0;
        let head = loop {
            if let Some(head) = ResponseHead::read(&self.buffer[..filled])? {
                break head;
            }
            filled += self.fill(filled)?;
        };
        let end = head.length + head.body;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.stream.read_exact(&mut self.buffer[filled..end.max(filled)])?;
        let body = &self.buffer[head.length..end];
        if matches!(head.status, 200 | 201) && filled <= end {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(body);
        Err(io::Error::other(format!("the server answered {}: {text}", head.status)))
    }

    fn fill(&mut self, filled: usize) -> io::Result<usize> {
        if filled == self.buffer.len() {
            self.buffer.resize(2 * filled, 0);
        }
        match self.stream.read(&mut self.buffer[filled..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// What matters of an answer's head.
struct ResponseHead {
    status: u16,
    /// Of the head itself, in bytes.
    length: usize,
    /// Of the body.
    body: usize,
}

impl ResponseHead {
    /// Reads a head, if all of it is there. Only answers of a known length are understood.
    fn read(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let nonsense = || io::Error::other("the server's answer is not understood");
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| nonsense())?;
        let status = text.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(nonsense)?;
        let named = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        };
        let body = text.lines().find_map(named).ok_or_else(nonsense)?;
        Ok(Some(Self { status, length: end + 4, body }))
    }
}

/// How requests are sent.
#[derive(Clone, Copy, Debug)]
pub struct LoadSpec {
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// Threads that share them.
    pub threads: usize,
    /// Requests stop after this time,
    pub time: Span,
    /// but not before so many answers.
    pub answers: usize,
}

/// One request and its answer.
pub struct Exchange {
    /// The answer's body.
    pub answer: Vec<u8>,
    /// How long it took.
    pub took: Span,
    at: Instant,
}

/// What came of a load.
pub struct LoadResult {
    /// All exchanges, in the order of the answers.
    pub exchanges: Vec<Exchange>,
    /// Requests answered in a second, while all connections were busy.
    pub per_second: f64,
    /// What sending and receiving took of the processors' time.
    pub cpu: Span,
}

impl LoadResult {
    /// How long the answers took.
    pub fn latency(&self) -> Latency {
        Latency::of(self.exchanges.iter().map(|exchange| exchange.took).collect())
    }
}

/// How long answers took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// How many there were.
    pub answers: usize,
    /// The median.
    pub median_ms: f64,
    /// Of a hundred, one was slower.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    /// Of these times.
    pub fn of(mut times: Vec<Span>) -> Self {
        times.sort();
        let at = |place: usize| times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        let last = times.len().saturating_sub(1);
        Self { answers: times.len(), median_ms: at(last / 2), p99_ms: at(last * 99 / 100), max_ms: at(last) }
    }
}

/// Sends requests, each once.
pub fn run(address: SocketAddr, requests: &[Vec<u8>], shape: LoadSpec) -> Result<LoadResult, Failure> {
    let LoadSpec { connections, threads, .. } = shape;
    let load = Load {
        requests,
        shape,
        next: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
        start: Barrier::new(threads),
    };
    let parts = thread::scope(|scope| {
        let number = |thread: usize| connections / threads + usize::from(thread < connections % threads);
        let load = &load;
        let threads: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || load.run_worker(address, number(thread)))).collect();
        threads.into_iter().map(join_thread).collect::<Vec<_>>()
    });
    let (mut exchanges, mut cpu, mut idle_from) = (Vec::new(), Span::ZERO, Instant::now());
    for part in parts {
        let part = part??;
        idle_from = idle_from.min(part.idle_from);
        cpu += part.cpu;
        exchanges.extend(part.exchanges);
    }
    exchanges.sort_by_key(|exchange| exchange.at);
    let per_second = steady_rate(&exchanges, connections, idle_from)
        .ok_or_else(|| Failure::new("too few requests were answered to tell a rate; let it run for longer"))?;
    Ok(LoadResult { exchanges, per_second, cpu })
}

/// A load that runs.
struct Load<'a> {
    requests: &'a [Vec<u8>],
    shape: LoadSpec,
    next: AtomicUsize,
    answered: AtomicUsize,
    start: Barrier,
}

/// What one thread did.
struct WorkerResult {
    exchanges: Vec<Exchange>,
    /// When the first of its connections had nothing to do any more.
    idle_from: Instant,
    cpu: Span,
}

impl Load<'_> {
    /// Goes round its connections: reads the answer, sends the next request at once, goes to the next connection.
    /// Most answers are there by then, so that a thread rarely has to wait and to be woken up.
    fn run_worker(&self, address: SocketAddr, connections: usize) -> Result<WorkerResult, Failure> {
        let connected = (0..connections).map(|_| Connection::new(address)).collect::<io::Result<Vec<_>>>();
        self.start.wait();
        let (begin, cpu) = (Instant::now(), cpu::thread_time());
        let mut exchanges = Vec::with_capacity(self.requests.len() / self.shape.threads + 1);
        let mut busy = VecDeque::with_capacity(connections);
        let mut idle_from = None;
        for mut connection in connected? {
            match self.requests.get(self.next.fetch_add(1, Ordering::Relaxed)) {
                Some(request) => {
                    let sent = Instant::now();
                    connection.send(request)?;
                    busy.push_back((connection, sent));
                }
                None => idle_from = Some(begin),
            }
        }
        while let Some((mut connection, sent)) = busy.pop_front() {
            let answer = connection.receive()?.to_vec();
            let at = Instant::now();
            exchanges.push(Exchange { answer, took: at - sent, at });
            let answered = self.answered.fetch_add(1, Ordering::Relaxed) + 1;
            let goes_on = at - begin < self.shape.time || answered < self.shape.answers;
            let request = goes_on.then(|| self.requests.get(self.next.fetch_add(1, Ordering::Relaxed))).flatten();
            if let Some(request) = request {
                connection.send(request)?;
                busy.push_back((connection, at));
            } else {
                idle_from.get_or_insert(at);
            }
        }
        let cpu = cpu::thread_time().saturating_sub(cpu);
        Ok(WorkerResult { exchanges, idle_from: idle_from.unwrap_or(begin), cpu })
    }
}

/// The rate from the answer that ended the first round of requests to the last answer before a connection fell idle.
fn steady_rate(exchanges: &[Exchange], connections: usize, idle_from: Instant) -> Option<f64> {
    let first = connections - 1;
    let last = exchanges.iter().rposition(|exchange| exchange.at <= idle_from)?;
    let time = exchanges.get(last)?.at.checked_duration_since(exchanges.get(first)?.at)?;
    (last > first).then(|| (last - first) as f64 / time.as_secs_f64())
}
