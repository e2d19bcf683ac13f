//! The load: requests that were made beforehand are written to blocking sockets by plain threads, and the answers are
//! read with as little work as can be.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration as Span, Instant},
};

use super::cores::joined;
use crate::{cli::Failure, model::Secret, wire::Call};

/// How long an answer may take.
const PATIENCE: Span = Span::from_secs(120);

/// The bytes of a request below the path of a base URL.
pub fn request(base: &str, call: &Call, token: Option<&Secret>, body: &[u8]) -> Vec<u8> {
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
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: vec![0; 16 << 10] })
    }

    /// Sends a request and returns the body of its answer, which must say that all is well.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<&[u8]> {
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
            if let Some(head) = Head::read(&self.buffer[..filled])? {
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
struct Head {
    status: u16,
    /// Of the head itself, in bytes.
    length: usize,
    /// Of the body.
    body: usize,
}

impl Head {
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

/// When requests stop.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// After this time,
    pub time: Span,
    /// but not before so many answers.
    pub answers: usize,
}

/// One request and its answer.
pub struct Exchange {
    /// Which request it was.
    pub request: usize,
    /// The answer.
    pub answer: Vec<u8>,
    at: Instant,
}

/// What came of a load.
pub struct Outcome {
    /// All exchanges, in the order of the answers.
    pub exchanges: Vec<Exchange>,
    /// Requests answered in a second, while all connections were busy.
    pub per_second: f64,
}

/// Sends requests, each once, over so many connections, with one request at a time on each.
pub fn run(address: SocketAddr, requests: &[Vec<u8>], connections: usize, until: Until) -> Result<Outcome, Failure> {
    let (next, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Barrier::new(connections);
    let part = || {
        let connection = Connection::new(address);
        start.wait();
        let mut connection = connection?;
        let begin = Instant::now();
        let mut exchanges = Vec::with_capacity(requests.len() / connections + 1);
        while begin.elapsed() < until.time || answered.load(Ordering::Relaxed) < until.answers {
            let request = next.fetch_add(1, Ordering::Relaxed);
            let Some(bytes) = requests.get(request) else { break };
            let answer = connection.ask(bytes)?.to_vec();
            answered.fetch_add(1, Ordering::Relaxed);
            exchanges.push(Exchange { request, answer, at: Instant::now() });
        }
        Ok::<_, Failure>(exchanges)
    };
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(part)).collect();
        threads.into_iter().map(joined).collect::<Vec<_>>()
    });
    let mut exchanges = Vec::new();
    let mut all_busy_until = None;
    for part in parts {
        let part = part??;
        let last = part.last().map(|exchange: &Exchange| exchange.at);
        all_busy_until = all_busy_until.map_or(last, |until: Instant| last.map(|last| last.min(until)));
        exchanges.extend(part);
    }
    exchanges.sort_by_key(|exchange| exchange.at);
    let per_second = steady(&exchanges, connections, all_busy_until)
        .ok_or_else(|| Failure::new("too few requests were answered to tell a rate"))?;
    Ok(Outcome { exchanges, per_second })
}

/// The rate from the answer that ended the first round of requests to the last answer before a connection fell idle.
fn steady(exchanges: &[Exchange], connections: usize, all_busy_until: Option<Instant>) -> Option<f64> {
    let first = connections - 1;
    let last = exchanges.iter().rposition(|exchange| Some(exchange.at) <= all_busy_until)?;
    let time = exchanges.get(last)?.at.checked_duration_since(exchanges.get(first)?.at)?;
    (last > first).then(|| (last - first) as f64 / time.as_secs_f64())
}
