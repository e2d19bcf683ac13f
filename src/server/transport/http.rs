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

/// How long the rest of a request is read and thrown away after its answer.
const LINGER: Duration = Duration::from_secs(5);

/// Bodies of at most so many bytes take nothing of a budget: what is small is answered however much memory others hold,
/// and there are no more of them than requests in progress and bodies that are awaited.
const FREE: usize = 4 << 10;

/// How long the memory of bodies that end is waited for.
const RELEASE: Duration = Duration::from_secs(5);

/// A body's part of a budget grows by so much at once.
const STEP: usize = 64 << 10;

/// A response with its whole body.
pub type Response = warp::http::Response<Bytes>;

/// The bytes of a request's body as they come.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// A request whose body is still to be read.
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path with its leading slash.
    pub path: String,
    /// The query without its question mark; empty if there is none.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// Who asks, and over what.
    pub origin: Origin,
    /// What is still to be read.
    body: Option<BodyStream>,
    /// Its place among the bodies that are awaited, if it has one.
    pending: Option<PendingBody>,
}

impl Request {
    /// Puts the parts of a request together.
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

    /// The method that the resource must have: HEAD is GET without the body (RFC 9110 section 9.3.2).
    pub fn method_of_resource(&self) -> &str {
        if self.method == Method::HEAD { Method::GET.as_str() } else { self.method.as_str() }
    }

    /// The value of a header, if it is there once and is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Refuses a body that is announced to be longer than `limit` bytes.
    pub fn expect_at_most(&self, limit: usize) -> Result<(), Problem> {
        if self.announced().is_some_and(|length| length > limit) { Err(Self::too_long(limit)) } else { Ok(()) }
    }

    fn announced(&self) -> Option<usize> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// Says that the body is longer than `limit` bytes.
    pub fn too_long(limit: usize) -> Problem {
        Problem::from_status(413).with_detail(format!("the body is longer than {limit} bytes"))
    }

    /// Counts the body among those that are awaited, until all of it has come.
    pub fn await_among(&mut self, bodies: &PendingBodies) {
        self.pending = self.body.as_ref().map(|_| bodies.add());
    }

    /// The next part of the body as it comes, if there is more and it comes before `deadline`.
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
                // The rest is not awaited either.
                self.body = None;
                return Err(Problem::busy());
            }
        };
        let part = part.map_err(|_| Problem::from_status(408).with_detail("the body did not arrive in time"))?;
        match pending {
            Some(pending) if part.is_some() => pending.touch(),
            _ => {}
        }
        if part.is_none() {
            (self.body, self.pending) = (None, None);
        }
        part.transpose().map_err(|_| {
            Problem::new(ProblemType::InvalidMessage).with_detail("the body ended before its announced length")
        })
    }

    /// Takes so much memory in all for a body. Where there is not enough, bodies end that have sent nothing for `silence`, if
    /// that is of use.
    pub async fn cover(
        &mut self,
        lease: &mut Lease,
        bytes: usize,
        bodies: &PendingBodies,
        silence: Duration,
    ) -> Result<(), Problem> {
        let is_there = bytes <= FREE || lease.cover(bytes.next_multiple_of(STEP)) || lease.cover(bytes);
        let missing = bytes.saturating_sub(lease.bytes());
        let is_there = is_there || (bodies.end_silent(silence, missing) && lease.cover_within(bytes, RELEASE).await);
        if !is_there {
            return Err(Problem::busy());
        }
        if let Some(pending) = &self.pending {
            pending.hold(lease.bytes());
        }
        Ok(())
    }

    /// Reads the body: at most `limit` bytes, within `timeout`. It takes its memory from the budget as it comes, since
    /// whoever announces much may send little of it, and keeps it for as long as any part of the body is kept. Until then it
    /// is one of the bodies that are awaited.
    pub async fn read_body(
        &mut self,
        limit: usize,
        timeout: Duration,
        budget: &Budget,
        bodies: &PendingBodies,
        silence: Duration,
    ) -> Result<Bytes, Problem> {
        self.expect_at_most(limit)?;
        self.await_among(bodies);
        let (deadline, mut lease) = (Instant::now() + timeout, budget.open());
        let mut body = Parts::default();
        while let Some(part) = self.next_chunk(deadline).await? {
            let length = body.len() + part.len();
            if length > limit {
                return Err(Self::too_long(limit));
            }
            // Twice if it grows: for a moment it is in two places. But whatever is not too long must find room.
            let needed = if self.announced().is_some() { length } else { limit.min(2 * length) };
            self.cover(&mut lease, needed, bodies, silence).await?;
            body.push(part, self.announced().unwrap_or(0));
        }
        Ok(lease.guard(body.freeze()))
    }
}

/// A body as it comes.
#[derive(Default)]
enum Parts {
    #[default]
    None,
    /// All that has come yet, as it came.
    One(Bytes),
    /// Copied together.
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

    /// Appends a part of a body that is announced to be so long. Memory that nothing is written to costs nothing yet.
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
            // What is small may be kept for long, and should not keep all of the buffer that it was received in.
            Self::One(part) if part.len() <= FREE => Bytes::copy_from_slice(&part),
            Self::One(part) => part,
            Self::Many(parts) => parts.freeze(),
        }
    }
}

impl Drop for Request {
    /// Whoever is refused before the end of the request may still be sending it. If we closed the connection then, the
    /// system would reset it, and the answer would be lost with it: a leader would never learn that its job is too
    /// long. So what comes for a moment is thrown away.
    fn drop(&mut self) {
        self.pending = None;
        let has_body =
            self.headers.contains_key(header::CONTENT_LENGTH) || self.headers.contains_key(header::TRANSFER_ENCODING);
        // There is no runtime any more when a server that was cut off is taken down.
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(mut body), Ok(runtime)) = (self.body.take().filter(|_| has_body), runtime) {
            let rest = async move { while let Some(Ok(_)) = body.next().await {} };
            runtime.spawn(async { tokio::time::timeout(LINGER, rest).await });
        }
    }
}

/// A response without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// A response with a body of a media type.
pub fn content(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The answer to HEAD, given that to GET: the same headers, with the length of the body, and no body.
pub fn head(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    Response::from_parts(head, Bytes::new())
}

/// The response to a request that failed. Faults are logged here, once; the peer learns nothing of them.
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
