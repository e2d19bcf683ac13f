//! The HTTP client of leader, client and collector.
//!
//! Requests are bounded in time and size and never redirected. Errors tell whether the peer may have received the
//! request. The client does not retry: use [`retry()`] to wait for an outcome, or [`Backoff`] to schedule retries.

mod answer;
mod backoff;
mod error;
mod location;
mod post;
mod proxy;
mod resolver;
mod retry;
mod trust;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{
    Method, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
    redirect::Policy,
};
use url::Url;

use dapbox_protocol::{
    model::Secret,
    wire::{RequestSpec, taskprov},
};
use dapbox_support::{Act, Failpoints, Fault, Phase, Point};

pub use answer::{Answer, Reply, parse_retry_after};
pub use backoff::Backoff;
pub use error::{PeerError, RequestError, is_retryable, root_cause};
pub use location::{dap_url, join};
pub use proxy::{Proxies, Proxy};
pub use resolver::{LookupError, Resolver};
pub use retry::{RetryPolicy, retry};
pub use trust::{RootCertificates, RootCertificatesError, client_config};

use error::{classify, invalid_request};
use location::resolve_location;

/// Maximum memory to allocate in advance for a response body, in bytes.
const MAX_PREALLOCATION: u64 = 1 << 20;
/// Idle time of an HTTP/2 connection before a keep-alive ping. Without pings, requests would wait many minutes for a
/// peer that vanished.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Time to wait for the response to a keep-alive ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
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

impl Peer {
    /// Creates a client with its own connection pool.
    pub fn new(options: &PeerOptions) -> Result<Self, Fault> {
        let tls = trust::client_config(&options.roots).map_err(|e| Fault::while_doing("configuring TLS", e))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .dns_resolver(Resolver::default().for_connect_timeout(options.connect_timeout))
            .proxy(options.proxies.for_client())
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(options.max_idle)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .user_agent(concat!("dapbox/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Fault::while_doing("creating an HTTP client", root_cause(&e)))?;
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
    pub fn with_failpoint(&self, point: Point) -> Self {
        Self { point: Some(point), ..self.clone() }
    }

    /// Returns a client with another timeout and another limit on response bodies.
    pub fn with_limits(&self, timeout: Duration, max_answer_bytes: usize) -> Self {
        Self { options: PeerOptions { timeout, max_answer_bytes, ..self.options.clone() }, ..self.clone() }
    }

    /// Returns a client that presents tokens in the `DAP-Auth-Token` header.
    pub fn with_dap_auth_token_header(&self) -> Self {
        let options = PeerOptions { token_header: TokenHeader::DapAuthToken, ..self.options.clone() };
        Self { options, ..self.clone() }
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
        spec: &RequestSpec,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Answer, PeerError> {
        let mut answer = self.send_with(base_url, spec, token, body.clone()).await?;
        for older in &self.fallback_tokens {
            if !answer.rejects_token() {
                break;
            }
            answer = self.send_with(base_url, spec, Some(older), body.clone()).await?;
        }
        Ok(answer)
    }

    async fn send_with(
        &self,
        base_url: &str,
        spec: &RequestSpec,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Answer, PeerError> {
        let url = join(base_url, &spec.path);
        let via = self.options.proxies.for_url(&Url::parse(&url).map_err(|e| invalid_request(&url, e))?);
        // Errors mention the proxy, because the operator may not know of it.
        let shown = via.as_ref().map_or_else(|| url.clone(), |proxy| format!("{url} through {proxy}"));
        if let Some(Proxy { url: Err(why), .. }) = &via {
            return Err(invalid_request(&shown, why));
        }
        let method = Method::from_bytes(spec.method.as_bytes()).map_err(|e| invalid_request(&url, e))?;
        let mut request = self.http.request(method, &url).timeout(self.options.timeout);
        if let Some(media_type) = spec.content_type {
            request = request.header(CONTENT_TYPE, media_type).body(body);
        }
        if let Some(advertisement) = &spec.advertisement {
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
        spec: &RequestSpec,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Answer, RequestError> {
        self.send(base_url, spec, token, body).await?.expect(spec.accept)
    }

    /// Sends one request that creates or polls a resource. Fails unless the response is successful. Does not retry.
    pub async fn ask(
        &self,
        base_url: &str,
        spec: &RequestSpec,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Reply, RequestError> {
        let answer = self.send(base_url, spec, token, body).await?.expect(None)?;
        let location = match (&spec.resource_path, &answer.location) {
            (Some(location), _) => Some(location.clone()),
            (None, Some(location)) => Some(resolve_location(base_url, &spec.path, location)?),
            (None, None) => None,
        };
        let (status, retry_after, date) = (answer.status, answer.retry_after, answer.date);
        Ok(Reply { status, location, retry_after, date, ready: answer.ready(spec.accept)? })
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
        Ok(Answer::new(response.status().as_u16(), response.headers(), body.freeze()))
    }
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

#[cfg(test)]
mod tests;
