//! The HTTP client that leader, uploader and collector share: bounded in time and size, never redirected, and exact
//! about whether a request that failed may have arrived. Repeating is up to the caller: [`retry()`] for one that waits,
//! [`Backoff`] for one that has other things to do meanwhile.

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

/// The longest `Location` that is followed, in bytes: a leader stores it.
const MAX_LOCATION: usize = 2048;
/// The most memory, in bytes, that is taken for an answer before it comes.
const MAX_PREALLOCATION: u64 = 1 << 20;
/// How long a peer may be silent, where requests share a connection (HTTP/2), before it is asked whether it is there. One
/// that has vanished would have all requests until the system gives the connection up, which takes many minutes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long it may take over that answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The HTTP status of a request that was taken and is not done (RFC 9110 section 15.3.3).
const ACCEPTED: u16 = 202;
/// The HTTP status of a proxy that wants a password (RFC 9110 section 15.5.8).
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

/// What a [`Peer`] may spend on one request.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the whole request may take, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// The longest answer in bytes.
    pub max_answer_bytes: usize,
    /// Whose certificates are believed besides those that everybody believes.
    pub roots: RootCertificates,
    /// What is made to fail: nothing, outside of tests.
    pub failpoints: Failpoints,
    /// Where a token stands.
    pub token_header: TokenHeader,
    /// How many connections to a host are kept for the next requests.
    pub max_idle: usize,
    /// The proxies that requests go through: those of this process, by default.
    pub proxies: Proxies,
}

/// The header that tokens are presented in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenHeader {
    /// `Authorization: Bearer` (DAP-09 section 3.1, DAP-18 section 3.4).
    #[default]
    Bearer,
    /// `DAP-Auth-Token`, as the interop test design has it: some who were told a token by its API take it nowhere else.
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

/// A client for the other parties' HTTP servers. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Peer {
    http: reqwest::Client,
    options: PeerOptions,
    /// Tokens to try where the one of a request is refused.
    fallback_tokens: Vec<Secret>,
    /// The name of the request, for those who want it to fail.
    point: Option<Point>,
}

/// What a peer answered, whatever the status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body, as sent.
    pub content_type: Option<String>,
    /// For how long the peer asks us to stay away.
    pub retry_after: Option<Duration>,
    /// Where the peer says that a new resource is, as sent.
    pub location: Option<String>,
    /// For how long the answer may be kept, if the peer says so (zero: not at all).
    pub max_age: Option<Duration>,
    /// When the peer says that it answered, by its clock.
    pub date: Option<SystemTime>,
    /// The body.
    pub body: Bytes,
    /// The proxy that the answer came through, which may be the one that answered.
    pub via: Option<String>,
}

/// What a peer says of a resource that it makes.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The path of the resource below the peer's base URL, if it is known.
    pub location: Option<String>,
    /// The resource, if it is ready.
    pub ready: Option<Bytes>,
    /// For how long the peer asks us to stay away.
    pub retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The address is not an `http` or `https` URL, or a header cannot be written. Nothing was sent.
    #[error("cannot ask {url}: {why}")]
    InvalidRequest {
        /// The address.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// There was no connection. Nothing was sent.
    #[error("cannot connect to {url}: {why}")]
    Connect {
        /// The address.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// The server's certificate is not believed, so that there was no connection. Nothing was sent.
    #[error("{url} cannot be trusted: {why}")]
    UntrustedCertificate {
        /// The address.
        url: String,
        /// What is wrong with the certificate, and what to do if the server is the right one.
        why: String,
    },
    /// There was no complete answer in time. The peer may have acted on the request.
    #[error("no answer from {url} in time")]
    Timeout {
        /// The address.
        url: String,
    },
    /// The connection broke. The peer may have acted on the request.
    #[error("the connection to {url} broke: {why}")]
    Broken {
        /// The address.
        url: String,
        /// The innermost cause.
        why: String,
    },
    /// The answer is longer than we accept. The peer has acted on the request.
    #[error("the answer of {url} is longer than {limit} bytes")]
    AnswerTooLong {
        /// The address.
        url: String,
        /// The most that we accept.
        limit: usize,
    },
}

/// Why a call did not get what it asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no answer.
    #[error(transparent)]
    NoAnswer(#[from] PeerError),
    /// The peer refused.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The peer's answer is not what the protocol says.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

impl PeerError {
    /// Whether it is certain that the peer never saw the request.
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

    /// For how long the peer asks us to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_after.map(Duration::from_secs),
            _ => None,
        }
    }

    /// What the peer says is wrong, if it refused.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }
}

/// Whether a request that was answered with `status` may succeed later: the peer is busy, slow or broken.
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// `base` and `path` with exactly one slash between them. `base` keeps its bytes: both sides of a task compare them.
pub fn join(base: &str, path: &str) -> String {
    format!("{}/{}", base.strip_suffix('/').unwrap_or(base), path)
}

/// Where a revision of the protocol is spoken, below the public URL of an aggregator of ours.
pub fn dap_url(public_url: &str, revision: Revision) -> String {
    join(public_url, &format!("{}/", wire::for_revision(revision).path_prefix()))
}

/// The path below `base` of what a `Location` header names (RFC 9110 section 10.2.2), in an answer to a request for
/// `path`. Anywhere else is refused: our credentials are for this peer alone.
fn resolve_location(base: &str, path: &str, location: &str) -> Result<String, RequestError> {
    let below = || {
        let asked = Url::parse(&join(base, path)).ok()?;
        let location = asked.join(location).ok()?;
        // Parsing has resolved all dots, so that what begins like the base is below it.
        let base = Url::parse(&join(base, "")).ok().filter(|base| base.origin() == location.origin())?;
        // A base that ends in several slashes is the same location for a server that counts only one.
        let once = format!("{}/", base.path().trim_end_matches('/'));
        let rest = location.path().strip_prefix(base.path()).or_else(|| location.path().strip_prefix(&once));
        let rest = rest.filter(|rest| !rest.is_empty())?;
        Some(location.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}")))
    };
    match location.len() {
        0..=MAX_LOCATION => below()
            .ok_or_else(|| RequestError::Unexpected(format!("a location that is not below {base}: {location:?}"))),
        length => Err(RequestError::Unexpected(format!("a location of {length} bytes"))),
    }
}

impl Peer {
    /// Makes a client with its own pool of connections.
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

    /// The same client with connections of its own, to whoever these roots vouch for. None if it has no others.
    pub fn with_roots(&self, roots: RootCertificates) -> Result<Option<Self>, Fault> {
        let is_new = roots != self.options.roots;
        is_new.then(|| Self::new(&PeerOptions { roots, ..self.options.clone() })).transpose()
    }

    /// The same client with a connection for each request. One that is used again may be closed by the other side just then,
    /// and whether it has read the request is not known: that is for requests which must not be repeated.
    pub fn without_connection_reuse(&self) -> Result<Self, Fault> {
        Self::new(&PeerOptions { max_idle: 0, ..self.options.clone() })
    }

    /// The same client, for a request that has a name. Each request of a server has.
    pub fn at(&self, point: Point) -> Self {
        Self { point: Some(point), ..self.clone() }
    }

    /// The same client, for requests that may take so long and whose answers may be so long.
    pub fn within(&self, timeout: Duration, max_answer_bytes: usize) -> Self {
        Self { options: PeerOptions { timeout, max_answer_bytes, ..self.options.clone() }, ..self.clone() }
    }

    /// The same client, which presents tokens as the interop test design has it.
    pub fn with_dap_auth_token_header(&self) -> Self {
        let options = PeerOptions { token_header: TokenHeader::DapAuthToken, ..self.options.clone() };
        Self { options, ..self.clone() }
    }

    /// The same client, for a request whose answer has at most so many bytes.
    pub fn with_max_answer_bytes(&self, bytes: usize) -> Self {
        self.within(self.options.timeout, bytes.min(self.options.max_answer_bytes))
    }

    /// The same client, which repeats a request whose token is refused with each of these, the newest first: while a token
    /// is being replaced, nobody knows which one the peer takes.
    pub fn with_fallback_tokens(&self, fallback_tokens: impl IntoIterator<Item = Secret>) -> Self {
        Self { fallback_tokens: fallback_tokens.into_iter().collect(), ..self.clone() }
    }

    /// Sends one request and takes the whole answer, whatever its status. Does not retry.
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
        // What errors call the peer: who reads them may not know of the proxy.
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
                credentials(self.options.token_header, token).ok_or_else(|| invalid_request(&url, "unfit token"))?;
            request = request.header(name, value);
        }
        self.pass_failpoint(Phase::Before, |why| PeerError::Connect { url: url.clone(), why }).await?;
        let response = request.send().await.map_err(|e| classify(&shown, &e))?;
        let mut answer = self.receive(&shown, response).await?;
        if let Some(proxy) = via {
            if answer.status == PROXY_AUTHENTICATION_REQUIRED {
                let why = "the proxy asks for a password (407); put user:password@ before its host".to_owned();
                return Err(PeerError::Connect { url: shown, why });
            }
            answer.via = Some(proxy.to_string());
        }
        self.pass_failpoint(Phase::After, |why| PeerError::Broken { url: url.clone(), why }).await?;
        Ok(answer)
    }

    /// Passes the request's failure point, if it has one.
    async fn pass_failpoint(&self, phase: Phase, fail: impl FnOnce(String) -> PeerError) -> Result<(), PeerError> {
        let Some(point) = self.point else { return Ok(()) };
        match self.options.failpoints.at(point, phase) {
            Act::Go => {}
            Act::Fail => return Err(fail(format!("made to fail at {point:?}, {phase:?}"))),
            Act::Wait(delay) => tokio::time::sleep(delay).await,
            Act::Panic => panic!("made to panic at {point:?}, {phase:?}"),
        }
        Ok(())
    }

    /// Sends one request and insists on success with the media type that the call expects. Does not retry.
    pub async fn call(
        &self,
        base_url: &str,
        call: &RequestSpec,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Answer, RequestError> {
        self.send(base_url, call, token, body).await?.expect(call.accept)
    }

    /// Sends one request that makes a resource, or asks for one, and insists on success. Does not retry.
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
        // What is announced may never come: so much of it is believed.
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
    /// Whether the request was successful. Peers differ in which 2xx they send.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Insists on success and, if `accept` is given, on a body of that media type.
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

    /// The body of a successful answer if it is of the media type `accept`. There is none yet if the peer takes its time:
    /// the body is empty then (DAP-18 section 3.1), or says something else with the status for that (DAP-09).
    pub fn ready(self, accept: Option<&str>) -> Result<Option<Bytes>, RequestError> {
        match accept {
            Some(wanted) if !self.body.is_empty() && (self.status != ACCEPTED || self.has_media_type(wanted)) => {
                self.expect(accept).map(|answer| Some(answer.body))
            }
            // Whoever expects no body is not interested in what a peer may send.
            _ => Ok(None),
        }
    }

    /// Whether the body has the media type.
    pub fn has_media_type(&self, wanted: &str) -> bool {
        self.content_type.as_deref().is_some_and(|found| media::matches(found, wanted))
    }

    /// Whether the peer did not take the token, and so did nothing else (DAP-09 section 3.1, DAP-18 section 3.4).
    fn refuses_the_token(&self) -> bool {
        let says_so = || self.problem().kind == ProblemType::UnauthorizedRequest;
        matches!(self.status, 401 | 403) || (!self.is_success() && says_so())
    }

    /// What the peer says is wrong.
    fn problem(&self) -> Problem {
        let document = if self.has_media_type(problem::MEDIA_TYPE) { &self.body[..] } else { &[] };
        let mut problem = Problem::from_json(self.status, document);
        problem.retry_after = self.retry_after.map(|delay| delay.as_secs());
        if let (Some(proxy), true) = (&self.via, document.is_empty()) {
            problem.detail = match problem.detail.as_str() {
                "" => format!("asked through {proxy}"),
                detail => format!("{detail} (asked through {proxy})"),
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

/// The text of the cause of the cause: the outer ones only say that something went wrong.
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

/// `Retry-After`: a number of seconds or a date (RFC 9110 section 10.2.3).
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

/// `Cache-Control`: `max-age`, or zero if the answer must not be kept (RFC 9111 section 5.2.2).
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
