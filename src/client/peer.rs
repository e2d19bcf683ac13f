//! The HTTP client of leader, client and collector.
//!
//! Requests are bounded in time and size and never redirected. Errors tell whether the peer may have received the
//! request. The client does not retry: use [`retry()`] to wait for an outcome, or [`Backoff`] to schedule retries.

mod backoff;
mod proxy;
mod resolver;
mod retry;
mod trust;

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Method, Response,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    },
    redirect::Policy,
};

use url::Url;

use dapbox_protocol::{
    model::{Revision, Secret},
    wire::{self, Problem, ProblemType, RequestSpec, media, problem, taskprov},
};
use dapbox_support::{Act, Failpoints, Fault, Phase, Point};

pub use backoff::Backoff;
pub use proxy::{Proxies, Proxy};
pub use resolver::{LookupError, Resolver};
pub use retry::{RetryPolicy, retry};
pub use trust::{RootCertificates, RootCertificatesError, client_config};

/// Maximum length of a `Location` header in bytes; a leader stores it.
const MAX_LOCATION: usize = 2048;
/// Maximum memory to allocate in advance for a response body, in bytes.
const MAX_PREALLOCATION: u64 = 1 << 20;
/// Idle time of an HTTP/2 connection before a keep-alive ping. Without pings, requests would wait many minutes for a
/// peer that vanished.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Time to wait for the response to a keep-alive ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// HTTP status of an accepted, incomplete request (RFC 9110 section 15.3.3).
const ACCEPTED: u16 = 202;
/// HTTP status of a proxy that requires credentials (RFC 9110 section 15.5.8).
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

/// Settings and limits of a [`Peer`].
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// Timeout for establishing a connection.
    pub connect_timeout: Duration,
    /// Timeout for a whole request, from connecting to the last byte of the response.
    pub timeout: Duration,
    /// Maximum length of a response body in bytes.
    pub max_answer_bytes: usize,
    /// Root certificates in addition to those of the system.
    pub roots: RootCertificates,
    /// Injected failures; none outside of tests.
    pub failpoints: Failpoints,
    /// The header that presents tokens.
    pub token_header: TokenHeader,
    /// Maximum number of idle connections per host.
    pub max_idle: usize,
    /// Proxies for requests; by default those of the environment.
    pub proxies: Proxies,
}

/// The header that presents a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenHeader {
    /// `Authorization: Bearer` (DAP-09 section 3.1, DAP-18 section 3.4).
    #[default]
    Bearer,
    /// `DAP-Auth-Token` of the interoperability test design. Some aggregators accept the token of a test task in this
    /// header only.
    DapAuthToken,
}

impl Default for PeerOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
            max_answer_bytes: 128 << 20,
            roots: RootCertificates::default(),
            failpoints: Failpoints::default(),
            token_header: TokenHeader::default(),
            max_idle: usize::MAX,
            proxies: Proxies::from_env(),
        }
    }
}

/// An HTTP client for requests to peers. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Peer {
    http: reqwest::Client,
    options: PeerOptions,
    /// Tokens to retry with if the peer rejects the token of a request.
    fallback_tokens: Vec<Secret>,
    /// The failpoint of the requests, for tests.
    point: Option<Point>,
}

/// The response of a peer, with any status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body, as sent.
    pub content_type: Option<String>,
    /// Delay that the peer requests.
    pub retry_after: Option<Duration>,
    /// The `Location` header, as sent.
    pub location: Option<String>,
    /// Cache lifetime of the response, if stated; zero if it must not be cached.
    pub max_age: Option<Duration>,
    /// The `Date` header: time of the response by the peer's clock.
    pub date: Option<SystemTime>,
    /// The body.
    pub body: Bytes,
    /// The proxy that forwarded the response, or that may have sent it.
    pub via: Option<String>,
}

/// The state of a resource at a peer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Path of the resource relative to the peer's base URL, if known.
    pub location: Option<String>,
    /// The representation of the resource, if it is ready.
    pub ready: Option<Bytes>,
    /// Delay that the peer requests.
    pub retry_after: Option<Duration>,
}

/// The reason why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The URL is not `http` or `https`, or a header is invalid. Nothing was sent.
    #[error("cannot send a request to {url}: {why}")]
    InvalidRequest {
        /// The URL.
        url: String,
        /// The problem.
        why: String,
    },
    /// The connection failed. Nothing was sent.
    #[error("cannot connect to {url}: {why}")]
    Connect {
        /// The URL.
        url: String,
        /// The root cause.
        why: String,
    },
    /// The server's certificate is not trusted, so the connection failed. Nothing was sent.
    #[error("untrusted certificate of {url}: {why}")]
    UntrustedCertificate {
        /// The URL.
        url: String,
        /// The problem with the certificate, and a remedy if the server is genuine.
        why: String,
    },
    /// The response was not complete in time. The peer may have processed the request.
    #[error("request to {url} timed out")]
    Timeout {
        /// The URL.
        url: String,
    },
    /// The connection broke. The peer may have processed the request.
    #[error("connection to {url} broke: {why}")]
    Broken {
        /// The URL.
        url: String,
        /// The root cause.
        why: String,
    },
    /// The response exceeds the size limit. The peer has processed the request.
    #[error("response of {url} exceeds {limit} bytes")]
    AnswerTooLong {
        /// The URL.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
}

/// The reason why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no response.
    #[error(transparent)]
    NoAnswer(#[from] PeerError),
    /// The peer rejected the request.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The response violates the protocol.
    #[error("unexpected response: {0}")]
    Unexpected(String),
}

impl PeerError {
    /// Whether the peer has certainly not received the request.
    pub fn never_sent(&self) -> bool {
        matches!(self, Self::InvalidRequest { .. } | Self::Connect { .. } | Self::UntrustedCertificate { .. })
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::InvalidRequest { .. } | Self::UntrustedCertificate { .. } | Self::AnswerTooLong { .. })
    }
}

impl RequestError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoAnswer(error) => error.is_retryable(),
            Self::Refused(problem) => is_retryable(problem.status),
            Self::Unexpected(_) => false,
        }
    }

    /// Delay that the peer requests.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_after.map(Duration::from_secs),
            _ => None,
        }
    }

    /// The peer's problem, if it rejected the request.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }
}

/// Whether a request with this response status may succeed later: the peer is overloaded, slow or failing.
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// Joins a base URL and a path with exactly one slash. Keeps the bytes of `base`, which leader and helper compare.
pub fn join(base: &str, path: &str) -> String {
    format!("{}/{}", base.strip_suffix('/').unwrap_or(base), path)
}

/// The base URL of a revision, below the public URL of a dapbox aggregator.
pub fn dap_url(public_url: &str, revision: Revision) -> String {
    join(public_url, &format!("{}/", wire::for_revision(revision).path_prefix()))
}

/// Resolves a `Location` header (RFC 9110 section 10.2.2) to a path below `base`. `path` is the path of the request.
///
/// Fails for locations elsewhere, because the credentials of the request are for this peer only.
fn resolve_location(base: &str, path: &str, location: &str) -> Result<String, RequestError> {
    let below = || {
        let asked = Url::parse(&join(base, path)).ok()?;
        let location = asked.join(location).ok()?;
        // Parsing has resolved all dot segments, so a prefix match is sufficient.
        let base = Url::parse(&join(base, "")).ok().filter(|base| base.origin() == location.origin())?;
        // A server may treat several trailing slashes of the base as one.
        let once = format!("{}/", base.path().trim_end_matches('/'));
        let rest = location.path().strip_prefix(base.path()).or_else(|| location.path().strip_prefix(&once));
        let rest = rest.filter(|rest| !rest.is_empty())?;
        Some(location.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}")))
    };
    match location.len() {
        0..=MAX_LOCATION => {
            below().ok_or_else(|| RequestError::Unexpected(format!("location {location:?} is not below {base}")))
        }
        length => Err(RequestError::Unexpected(format!("location of {length} bytes"))),
    }
}

impl Peer {
    /// Creates a client with its own connection pool.
    pub fn new(options: &PeerOptions) -> Result<Self, Fault> {
        let tls = trust::client_config(&options.roots).map_err(|e| Fault::while_doing("preparing HTTPS", e))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .dns_resolver(Resolver::default().within(options.connect_timeout))
            .proxy(options.proxies.for_client())
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(options.max_idle)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .user_agent(concat!("dapbox/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Fault::while_doing("making an HTTP client", root_cause(&e)))?;
        Ok(Self { http, options: options.clone(), fallback_tokens: Vec::new(), point: None })
    }

    /// Returns a client with its own connections and these additional root certificates; `None` if they are unchanged.
    pub fn with_roots(&self, roots: RootCertificates) -> Result<Option<Self>, Fault> {
        let is_new = roots != self.options.roots;
        is_new.then(|| Self::new(&PeerOptions { roots, ..self.options.clone() })).transpose()
    }

    /// Returns a client that opens a connection for each request.
    ///
    /// A reused connection may be closed by the peer at any time, so that it is unknown whether the peer has received
    /// the request. Use this for requests that must not be repeated.
    pub fn without_connection_reuse(&self) -> Result<Self, Fault> {
        Self::new(&PeerOptions { max_idle: 0, ..self.options.clone() })
    }

    /// Returns a client for requests with this failpoint.
    pub fn at(&self, point: Point) -> Self {
        Self { point: Some(point), ..self.clone() }
    }

    /// Returns a client with another timeout and another limit on response bodies.
    pub fn within(&self, timeout: Duration, max_answer_bytes: usize) -> Self {
        Self { options: PeerOptions { timeout, max_answer_bytes, ..self.options.clone() }, ..self.clone() }
    }

    /// Returns a client that presents tokens in the `DAP-Auth-Token` header.
    pub fn with_dap_auth_token_header(&self) -> Self {
        let options = PeerOptions { token_header: TokenHeader::DapAuthToken, ..self.options.clone() };
        Self { options, ..self.clone() }
    }

    /// Returns a client with a lower limit on response bodies.
    pub fn with_max_answer_bytes(&self, bytes: usize) -> Self {
        self.within(self.options.timeout, bytes.min(self.options.max_answer_bytes))
    }

    /// Returns a client that retries a request with each of these tokens, the newest first, if the peer rejects its
    /// token. During a rotation it is unknown which token the peer accepts.
    pub fn with_fallback_tokens(&self, fallback_tokens: impl IntoIterator<Item = Secret>) -> Self {
        Self { fallback_tokens: fallback_tokens.into_iter().collect(), ..self.clone() }
    }

    /// Sends one request and receives the whole response, with any status. Does not retry.
    pub async fn send(
        &self,
        base_url: &str,
        call: &RequestSpec,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Answer, PeerError> {
        let mut answer = self.send_with(base_url, call, token, body.clone()).await?;
        for older in &self.fallback_tokens {
            if !answer.refuses_the_token() {
                break;
            }
            answer = self.send_with(base_url, call, Some(older), body.clone()).await?;
        }
        Ok(answer)
    }

    async fn send_with(
        &self,
        base_url: &str,
        call: &RequestSpec,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Answer, PeerError> {
        let url = join(base_url, &call.path);
        let via = self.options.proxies.for_url(&Url::parse(&url).map_err(|e| invalid_request(&url, e))?);
        // Errors mention the proxy, because the operator may not know of it.
        let shown = via.as_ref().map_or_else(|| url.clone(), |proxy| format!("{url} through {proxy}"));
        if let Some(Proxy { url: Err(why), .. }) = &via {
            return Err(invalid_request(&shown, why));
        }
        let method = Method::from_bytes(call.method.as_bytes()).map_err(|e| invalid_request(&url, e))?;
        let mut request = self.http.request(method, &url).timeout(self.options.timeout);
        if let Some(media_type) = call.content_type {
            request = request.header(CONTENT_TYPE, media_type).body(body);
        }
        if let Some(advertisement) = &call.advertisement {
            request = request.header(taskprov::HEADER, advertisement);
        }
        if let Some(token) = token {
            let (name, value) =
                credentials(self.options.token_header, token).ok_or_else(|| invalid_request(&url, "invalid token"))?;
            request = request.header(name, value);
        }
        self.pass_failpoint(Phase::Before, |why| PeerError::Connect { url: url.clone(), why }).await?;
        let response = request.send().await.map_err(|e| classify(&shown, &e))?;
        let mut answer = self.receive(&shown, response).await?;
        if let Some(proxy) = via {
            if answer.status == PROXY_AUTHENTICATION_REQUIRED {
                let why = "the proxy requires credentials (407) (hint: put user:password@ before its host)".to_owned();
                return Err(PeerError::Connect { url: shown, why });
            }
            answer.via = Some(proxy.to_string());
        }
        self.pass_failpoint(Phase::After, |why| PeerError::Broken { url: url.clone(), why }).await?;
        Ok(answer)
    }

    /// Passes the failpoint of the request, if it has one.
    async fn pass_failpoint(&self, phase: Phase, fail: impl FnOnce(String) -> PeerError) -> Result<(), PeerError> {
        let Some(point) = self.point else { return Ok(()) };
        match self.options.failpoints.at(point, phase) {
            Act::Go => {}
            Act::Fail => return Err(fail(format!("injected failure at {point:?}, {phase:?}"))),
            Act::Wait(delay) => tokio::time::sleep(delay).await,
            Act::Panic => panic!("injected panic at {point:?}, {phase:?}"),
        }
        Ok(())
    }

    /// Sends one request. Fails unless the response is successful and has the expected media type. Does not retry.
    pub async fn call(
        &self,
        base_url: &str,
        call: &RequestSpec,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Answer, RequestError> {
        self.send(base_url, call, token, body).await?.expect(call.accept)
    }

    /// Sends one request that creates or polls a resource. Fails unless the response is successful. Does not retry.
    pub async fn ask(
        &self,
        base_url: &str,
        call: &RequestSpec,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Reply, RequestError> {
        let answer = self.send(base_url, call, token, body).await?.expect(None)?;
        let location = match (&call.resource_path, &answer.location) {
            (Some(location), _) => Some(location.clone()),
            (None, Some(location)) => Some(resolve_location(base_url, &call.path, location)?),
            (None, None) => None,
        };
        let (status, retry_after) = (answer.status, answer.retry_after);
        Ok(Reply { status, location, retry_after, ready: answer.ready(call.accept)? })
    }

    async fn receive(&self, url: &str, mut response: Response) -> Result<Answer, PeerError> {
        let limit = self.options.max_answer_bytes;
        let too_long = || PeerError::AnswerTooLong { url: url.to_owned(), limit };
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        // The peer may never send the announced body, so the allocation is limited.
        let announced = response.content_length().map_or(0, |length| length.min(MAX_PREALLOCATION) as usize);
        let mut body = BytesMut::with_capacity(announced);
        while let Some(chunk) = response.chunk().await.map_err(|e| classify(url, &e))? {
            if body.len() + chunk.len() > limit {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        let headers = response.headers();
        Ok(Answer {
            status: response.status().as_u16(),
            content_type: text(headers, CONTENT_TYPE).map(str::to_owned),
            retry_after: text(headers, RETRY_AFTER).and_then(|value| parse_retry_after(value, SystemTime::now())),
            location: text(headers, LOCATION).map(str::to_owned),
            max_age: text(headers, CACHE_CONTROL).and_then(parse_max_age),
            date: text(headers, DATE).and_then(|value| httpdate::parse_http_date(value).ok()),
            body: body.freeze(),
            via: None,
        })
    }
}

impl Answer {
    /// Whether the status is successful. Peers differ in the 2xx status that they use.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Fails unless the response is successful and has the media type `accept`, if given.
    pub fn expect(self, accept: Option<&str>) -> Result<Self, RequestError> {
        if !self.is_success() {
            return Err(RequestError::Refused(Box::new(self.problem())));
        }
        match accept {
            Some(wanted) if !self.has_media_type(wanted) => {
                let found = self.content_type.as_deref().unwrap_or("no media type");
                Err(RequestError::Unexpected(format!("status {} with {found} instead of {wanted}", self.status)))
            }
            _ => Ok(self),
        }
    }

    /// The body of a successful response with the media type `accept`; `None` if the resource is not ready.
    ///
    /// Until then, the body is empty (DAP-18 section 3.1), or the status is 202 and the body has another media type
    /// (DAP-09).
    pub fn ready(self, accept: Option<&str>) -> Result<Option<Bytes>, RequestError> {
        match accept {
            Some(wanted) if !self.body.is_empty() && (self.status != ACCEPTED || self.has_media_type(wanted)) => {
                self.expect(accept).map(|answer| Some(answer.body))
            }
            // Ignore the body if none is expected.
            _ => Ok(None),
        }
    }

    /// Whether the body has the media type.
    pub fn has_media_type(&self, wanted: &str) -> bool {
        self.content_type.as_deref().is_some_and(|found| media::matches(found, wanted))
    }

    /// Whether the peer rejected the token and thus did not process the request (DAP-09 section 3.1, DAP-18 section
    /// 3.4).
    fn refuses_the_token(&self) -> bool {
        let says_so = || self.problem().kind == ProblemType::UnauthorizedRequest;
        matches!(self.status, 401 | 403) || (!self.is_success() && says_so())
    }

    /// The peer's problem.
    fn problem(&self) -> Problem {
        let document = if self.has_media_type(problem::MEDIA_TYPE) { &self.body[..] } else { &[] };
        let mut problem = Problem::from_json(self.status, document);
        problem.retry_after = self.retry_after.map(|delay| delay.as_secs());
        if let (Some(proxy), true) = (&self.via, document.is_empty()) {
            problem.detail = match problem.detail.as_str() {
                "" => format!("sent through {proxy}"),
                detail => format!("{detail} (sent through {proxy})"),
            };
        }
        problem
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn credentials(header: TokenHeader, token: &Secret) -> Option<(HeaderName, HeaderValue)> {
    let token = token.expose_text()?;
    let (name, value) = match header {
        TokenHeader::Bearer => (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))),
        TokenHeader::DapAuthToken => (HeaderName::from_static("dap-auth-token"), HeaderValue::from_str(token)),
    };
    let mut value = value.ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

fn invalid_request(url: &str, why: impl ToString) -> PeerError {
    PeerError::InvalidRequest { url: url.to_owned(), why: why.to_string() }
}

fn classify(url: &str, error: &reqwest::Error) -> PeerError {
    let url = url.to_owned();
    let why = root_cause(error);
    if error.is_builder() {
        PeerError::InvalidRequest { url, why }
    } else if let Some(why) = trust::certificate_error(error) {
        PeerError::UntrustedCertificate { url, why }
    } else if error.is_connect() {
        PeerError::Connect { url, why }
    } else if error.is_timeout() {
        PeerError::Timeout { url }
    } else {
        PeerError::Broken { url, why }
    }
}

/// The text of the innermost cause of an error.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

/// Parses `Retry-After`: a number of seconds or a date (RFC 9110 section 10.2.3).
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

/// Parses `Cache-Control`: `max-age`, or zero if the response must not be cached (RFC 9111 section 5.2.2).
fn parse_max_age(value: &str) -> Option<Duration> {
    let mut age = None;
    for directive in value.split(',').map(|part| part.trim().to_ascii_lowercase()) {
        if directive == "no-store" || directive == "no-cache" {
            return Some(Duration::ZERO);
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            age = seconds.trim_matches('"').parse().ok().map(Duration::from_secs);
        }
    }
    age
}

#[cfg(test)]
mod tests;
