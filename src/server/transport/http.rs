//! Requests and responses: bodies with limits, problem documents, headers.

use std::{pin::Pin, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::time::Instant;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::transport::{
    memory::{Budget, Lease},
    origin::Origin,
    slots::{PendingBodies, PendingBody},
};
use dapbox_aggregator::Error;
use dapbox_protocol::wire::{Problem, ProblemType, problem};

/// How long the rest of a request is read and discarded after the response.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Bodies up to this size need no budget, so that small requests succeed when memory is scarce. The limits of requests
/// and pending bodies bound their number.
const UNBUDGETED_BYTES: usize = 4 << 10;

/// How long to wait for the memory of aborted bodies.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Increment of the memory of a body.
const GROWTH_BYTES: usize = 64 << 10;

/// A response with its whole body.
pub type Response = warp::http::Response<Bytes>;

/// The chunks of a request body.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// A request whose body has not been read.
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, with a leading slash.
    pub path: String,
    /// The query without the question mark, or empty.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The client, and its protocol.
    pub origin: Origin,
    /// The unread body.
    body: Option<BodyStream>,
    /// The entry among the pending bodies.
    pending: Option<PendingBody>,
}

impl Request {
    /// Assembles a request.
    pub fn new(
        method: Method,
        path: String,
        query: String,
        headers: HeaderMap,
        origin: Origin,
        body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static,
    ) -> Self {
        let body = body.map(|part| part.map(|mut part| part.copy_to_bytes(part.remaining())));
        Self { method, path, query, headers, origin, body: Some(Box::pin(body)), pending: None }
    }

    /// The method that the resource must have: HEAD counts as GET (RFC 9110 section 9.3.2).
    pub fn method_of_resource(&self) -> &str {
        if self.method == Method::HEAD { Method::GET.as_str() } else { self.method.as_str() }
    }

    /// The value of a header, if it is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Rejects a body with a `Content-Length` above `limit` bytes.
    pub fn expect_at_most(&self, limit: usize) -> Result<(), Problem> {
        if self.announced().is_some_and(|length| length > limit) { Err(Self::too_long(limit)) } else { Ok(()) }
    }

    fn announced(&self) -> Option<usize> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// The problem for a body longer than `limit` bytes.
    pub fn too_long(limit: usize) -> Problem {
        Problem::from_status(413).with_detail(format!("the body exceeds {limit} bytes"))
    }

    /// Registers the body as pending until it is complete.
    pub fn count_as_pending(&mut self, bodies: &PendingBodies) {
        self.pending = self.body.as_ref().map(|_| bodies.add());
    }

    /// Receives the next chunk of the body, until `deadline`. Returns `None` at the end.
    pub async fn next_chunk(&mut self, deadline: Instant) -> Result<Option<Bytes>, Problem> {
        let Self { body: Some(body), pending, .. } = self else { return Ok(None) };
        let ended = async {
            match pending {
                Some(pending) => pending.ended().await,
                None => std::future::pending().await,
            }
        };
        let part = tokio::select! {
            biased;
            part = tokio::time::timeout_at(deadline, body.next()) => part,
            () = ended => {
                // The rest is discarded.
                self.body = None;
                return Err(Problem::busy());
            }
        };
        let part = part.map_err(|_| Problem::from_status(408).with_detail("the body timed out"))?;
        match pending {
            Some(pending) if part.is_some() => pending.touch(),
            _ => {}
        }
        if part.is_none() {
            (self.body, self.pending) = (None, None);
        }
        part.transpose().map_err(|_| {
            Problem::new(ProblemType::InvalidMessage).with_detail("the body is shorter than its Content-Length")
        })
    }

    /// Extends the lease of a body to `bytes` in total. If memory is scarce, aborts bodies that have been silent for
    /// `silence`, if that frees enough.
    pub async fn cover(
        &mut self,
        lease: &mut Lease,
        bytes: usize,
        bodies: &PendingBodies,
        silence: Duration,
    ) -> Result<(), Problem> {
        let is_there =
            bytes <= UNBUDGETED_BYTES || lease.cover(bytes.next_multiple_of(GROWTH_BYTES)) || lease.cover(bytes);
        let missing = bytes.saturating_sub(lease.bytes());
        let is_there =
            is_there || (bodies.end_silent(silence, missing) && lease.cover_within(bytes, RELEASE_TIMEOUT).await);
        if !is_there {
            return Err(Problem::busy());
        }
        if let Some(pending) = &self.pending {
            pending.hold(lease.bytes());
        }
        Ok(())
    }

    /// Reads a body of at most `limit` bytes within `timeout`. Leases memory as the body arrives, because a large
    /// `Content-Length` may be followed by few bytes. The body holds the lease until its last slice is dropped.
    pub async fn read_body(
        &mut self,
        limit: usize,
        timeout: Duration,
        budget: &Budget,
        bodies: &PendingBodies,
        silence: Duration,
    ) -> Result<Bytes, Problem> {
        self.expect_at_most(limit)?;
        self.count_as_pending(bodies);
        let (deadline, mut lease) = (Instant::now() + timeout, budget.open());
        let mut body = Parts::default();
        while let Some(part) = self.next_chunk(deadline).await? {
            let length = body.len() + part.len();
            if length > limit {
                return Err(Self::too_long(limit));
            }
            // Twice while it grows, because the old and the new buffer coexist. A body within the limit must always
            // fit.
            let needed = if self.announced().is_some() { length } else { limit.min(2 * length) };
            self.cover(&mut lease, needed, bodies, silence).await?;
            body.push(part, self.announced().unwrap_or(0));
        }
        Ok(lease.guard(body.freeze()))
    }
}

/// A body being received.
#[derive(Default)]
enum Parts {
    #[default]
    None,
    /// The first chunk, not copied.
    One(Bytes),
    /// The copied chunks.
    Many(BytesMut),
}

impl Parts {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(part) => part.len(),
            Self::Many(parts) => parts.len(),
        }
    }

    /// Appends a chunk. `announced` is the `Content-Length`; reserved memory costs nothing until it is written.
    fn push(&mut self, part: Bytes, announced: usize) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(part),
            Self::One(first) => {
                let mut parts = BytesMut::with_capacity(announced.max(first.len() + part.len()));
                parts.extend_from_slice(&first);
                parts.extend_from_slice(&part);
                Self::Many(parts)
            }
            Self::Many(mut parts) => {
                parts.extend_from_slice(&part);
                Self::Many(parts)
            }
        };
    }

    fn freeze(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            // Small bodies may be kept for long and should not hold a large receive buffer.
            Self::One(part) if part.len() <= UNBUDGETED_BYTES => Bytes::copy_from_slice(&part),
            Self::One(part) => part,
            Self::Many(parts) => parts.freeze(),
        }
    }
}

impl Drop for Request {
    /// Discards the rest of the body for a while. A client may still send the body of a request that was rejected
    /// early. Closing the connection would reset it and lose the response, so that a leader would never learn that its
    /// job is too large.
    fn drop(&mut self) {
        self.pending = None;
        let has_body =
            self.headers.contains_key(header::CONTENT_LENGTH) || self.headers.contains_key(header::TRANSFER_ENCODING);
        // There is no runtime when an aborted server is dropped.
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(mut body), Ok(runtime)) = (self.body.take().filter(|_| has_body), runtime) {
            let rest = async move { while let Some(Ok(_)) = body.next().await {} };
            runtime.spawn(async { tokio::time::timeout(DRAIN_TIMEOUT, rest).await });
        }
    }
}

/// A response without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// A response with a body.
pub fn content(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Converts the response of GET to that of HEAD: the same headers with the length, and no body.
pub fn head(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Response::from_parts(head, Bytes::new())
}

/// The response to a failed request. Logs faults, which the peer does not see.
pub fn failure(error: Error) -> Response {
    let problem = match error {
        Error::Problem(problem) => problem,
        Error::Busy => Problem::busy(),
        Error::Fault(fault) => {
            tracing::error!(error = %fault, "request failed");
            Problem::from_status(500)
        }
    };
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = content(status, problem::MEDIA_TYPE, problem.to_json());
    if let Some(seconds) = problem.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
