//! Responses of peers: status, headers and body.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};

use super::RequestError;
use dapbox_protocol::wire::{Problem, ProblemType, media, problem};

/// HTTP status of an accepted, incomplete request (RFC 9110 section 15.3.3).
const ACCEPTED: u16 = 202;

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
    /// The `Date` header: time of the response by the peer's clock.
    pub date: Option<SystemTime>,
}

impl Answer {
    /// Reads the headers of a response.
    pub(super) fn new(status: u16, headers: &HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            content_type: text(headers, CONTENT_TYPE).map(str::to_owned),
            retry_after: text(headers, RETRY_AFTER).and_then(|value| parse_retry_after(value, SystemTime::now())),
            location: text(headers, LOCATION).map(str::to_owned),
            max_age: text(headers, CACHE_CONTROL).and_then(parse_max_age),
            date: text(headers, DATE).and_then(|value| httpdate::parse_http_date(value).ok()),
            body,
            via: None,
        }
    }

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
    pub(super) fn rejects_token(&self) -> bool {
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
mod tests {
    use super::*;

    #[test]
    fn parses_retry_after() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(parse_retry_after(" 30 ", now), Some(Duration::from_secs(30)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:48:37 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon", now), None);
    }

    #[test]
    fn parses_cache_control() {
        assert_eq!(parse_max_age("public, Max-Age=86400"), Some(Duration::from_secs(86_400)));
        assert_eq!(parse_max_age("max-age=60, no-store"), Some(Duration::ZERO));
        assert_eq!(parse_max_age("private"), None);
    }
}
