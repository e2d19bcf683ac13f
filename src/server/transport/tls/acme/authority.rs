//! The HTTP client for the CA: limited in time and size, without redirects, HTTPS only.

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::{Response, redirect::Policy};
use warp::http::{
    self, Request,
    header::{HeaderValue, RETRY_AFTER, USER_AGENT},
};

use super::error::AuthorityError;
use dapbox_client::peer::{Proxies, Proxy, Resolver, RootCertificates, client_config, parse_retry_after, root_cause};

/// Timeouts of the connection and of an exchange.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum length of a response in bytes. A certificate chain has a few thousand.
const MAX_ANSWER: usize = 256 << 10;
/// Maximum `Retry-After` that is respected.
const MAX_PAUSE: Duration = Duration::from_secs(86_400);
/// The user agent (RFC 8555 section 6.1).
const NAME: &str = concat!("dapbox/", env!("CARGO_PKG_VERSION"));

/// The server of the CA. Clones share the requested delay.
#[derive(Clone)]
pub struct Authority {
    http: reqwest::Client,
    proxies: Proxies,
    pause: Arc<Mutex<Option<Duration>>>,
}

impl Authority {
    /// Creates a client that trusts the certificates in a file, in addition to those of the system.
    pub fn new(ca_file: &Path) -> Result<Self, AuthorityError> {
        let roots = RootCertificates::read(ca_file).map_err(AuthorityError::RootCertificates)?;
        let tls = client_config(&roots).map_err(|error| AuthorityError::Client(error.to_string()))?;
        let builder = reqwest::Client::builder().tls_backend_preconfigured(tls).https_only(true);
        let builder = builder.redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
        let proxies = Proxies::from_env();
        let builder =
            builder.proxy(proxies.for_client()).dns_resolver(Resolver::default().for_connect_timeout(CONNECT_TIMEOUT));
        let http = builder.build().map_err(|error| AuthorityError::Client(root_cause(&error)))?;
        Ok(Self { http, proxies, pause: Arc::default() })
    }

    /// Takes the delay that the CA requested with its last refusal.
    pub fn take_pause(&self) -> Option<Duration> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn exchange(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, AuthorityError> {
        let via = url::Url::parse(&request.uri().to_string()).ok().and_then(|url| self.proxies.for_url(&url));
        if let Some(Proxy { url: Err(why), variable }) = &via {
            return Err(AuthorityError::Broken { why: format!("{variable}: {why}"), connected: false });
        }
        let through = via.map_or_else(String::new, |proxy| format!(" (through {proxy})"));
        let broken = |error: reqwest::Error| AuthorityError::Broken {
            why: format!("{}{through}", root_cause(&error)),
            connected: !error.is_connect(),
        };
        let mut request = reqwest::Request::try_from(request.map(reqwest::Body::wrap)).map_err(&broken)?;
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(NAME));
        let mut response = self.http.execute(request).await.map_err(&broken)?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(&broken)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(AuthorityError::TooLong(MAX_ANSWER));
            }
            body.extend_from_slice(&chunk);
        }
        self.normalize(response, body.freeze())
    }

    /// Normalizes a response for `instant-acme`: turns failures without a problem document into errors, and limits
    /// `Retry-After`.
    fn normalize(&self, response: Response, body: Bytes) -> Result<BytesResponse, AuthorityError> {
        let mut parts = http::Response::<reqwest::Body>::from(response).into_parts().0;
        let asked = parts.headers.remove(RETRY_AFTER);
        let asked = asked.and_then(|value| parse_retry_after(value.to_str().ok()?, SystemTime::now()));
        let pause = asked.map(|pause| pause.min(MAX_PAUSE));
        if let Some(pause) = pause {
            parts.headers.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs()));
        }
        if !parts.status.is_success() {
            *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = pause;
            if serde_json::from_slice::<instant_acme::Problem>(&body).is_err() {
                return Err(AuthorityError::Status(parts.status.as_u16()));
            }
        }
        Ok(BytesResponse { parts, body: Box::new(body) })
    }
}

impl HttpClient for Authority {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let exchange = self.clone().exchange(request);
        Box::pin(async move { exchange.await.map_err(|error| Error::Other(Box::new(error))) })
    }
}
