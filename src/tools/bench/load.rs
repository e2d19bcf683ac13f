//! Load generator: plain threads write pre-encoded requests to blocking sockets and read the responses with little work.

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
use crate::{cli::failure::Failure, model::Secret, wire::RequestSpec};

/// Time limit for a response.
const RESPONSE_TIMEOUT: Span = Span::from_secs(120);

/// Encodes a request to a path below a base URL.
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

/// A persistent connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a connection.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        Ok(Self { stream, buffer: vec![0; 16 << 10] })
    }

    /// Sends a request and returns the body of a successful response.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        self.send(request)?;
        self.receive()
    }

    /// Sends a request.
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)
    }

    /// Reads the response to the last request.
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

/// The parts of a response's head that matter here.
struct ResponseHead {
    status: u16,
    /// Length of the head, in bytes.
    length: usize,
    /// Length of the body, in bytes.
    body: usize,
}

impl ResponseHead {
    /// Parses a head once it is complete. Only responses with a Content-Length are supported.
    fn read(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let nonsense = || io::Error::other("the server's response cannot be parsed");
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
    /// Number of connections, each with one request at a time.
    pub connections: usize,
    /// Number of threads that share the connections.
    pub threads: usize,
    /// Minimum duration.
    pub time: Span,
    /// Minimum number of responses.
    pub answers: usize,
}

/// One request and its response.
pub struct Exchange {
    /// The body of the response.
    pub answer: Vec<u8>,
    /// Time from request to response.
    pub took: Span,
    at: Instant,
}

/// Results of a load.
pub struct LoadResult {
    /// All exchanges, in the order of the responses.
    pub exchanges: Vec<Exchange>,
    /// Requests answered per second while all connections were busy.
    pub per_second: f64,
    /// CPU time of the load generator.
    pub cpu: Span,
}

impl LoadResult {
    /// Summarizes the latency of all responses.
    pub fn latency(&self) -> Latency {
        Latency::of(self.exchanges.iter().map(|exchange| exchange.took).collect())
    }
}

/// Latency of responses, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Number of responses.
    pub answers: usize,
    /// Median.
    pub median_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Maximum.
    pub max_ms: f64,
}

impl Latency {
    /// Summarizes these times.
    pub fn of(mut times: Vec<Span>) -> Self {
        times.sort();
        let at = |position: usize| times.get(position).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        let last = times.len().saturating_sub(1);
        Self { answers: times.len(), median_ms: at(last / 2), p99_ms: at(last * 99 / 100), max_ms: at(last) }
    }
}

/// Sends each request once.
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
        .ok_or_else(|| Failure::new("too few requests were answered to compute a rate; increase --seconds"))?;
    Ok(LoadResult { exchanges, per_second, cpu })
}

/// A running load.
struct Load<'a> {
    requests: &'a [Vec<u8>],
    shape: LoadSpec,
    next: AtomicUsize,
    answered: AtomicUsize,
    start: Barrier,
}

/// Results of one thread.
struct WorkerResult {
    exchanges: Vec<Exchange>,
    /// When the first connection ran out of requests.
    idle_from: Instant,
    cpu: Span,
}

impl Load<'_> {
    /// Serves its connections in turn: reads the response, sends the next request, continues with the next connection.
    /// Most responses have arrived by then, so a thread rarely sleeps.
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

/// The rate from the end of the first round of requests to the last response before a connection was idle.
fn steady_rate(exchanges: &[Exchange], connections: usize, idle_from: Instant) -> Option<f64> {
    let first = connections - 1;
    let last = exchanges.iter().rposition(|exchange| exchange.at <= idle_from)?;
    let time = exchanges.get(last)?.at.checked_duration_since(exchanges.get(first)?.at)?;
    (last > first).then(|| (last - first) as f64 / time.as_secs_f64())
}
