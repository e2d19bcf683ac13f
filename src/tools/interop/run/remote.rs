//! The runner's view of a party: a URL that serves the interop test API.

use std::time::Duration as Span;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::super::api::{PREFIX, Reply, Status};
use crate::{
    model::{BaseUrl, base_url::BaseUrlError},
    peer::{Answer, Peer},
    wire::RequestSpec,
};

/// Maximum length of a response, in bytes. A sum of a hundred thousand numbers has a few megabytes.
const ANSWER_BYTES: usize = 16 << 20;
/// Maximum number of characters shown of a party's text.
const TEXT_CHARS: usize = 300;
/// The port that the design uses in every container.
const PORT: u16 = 8080;
/// Interval between two checks whether a party is ready.
const READY_EVERY: Span = Span::from_millis(200);

/// A party behind the interop test API.
#[derive(Clone)]
pub struct RemoteParty {
    /// Its name in this run.
    pub name: &'static str,
    /// The base URL of its API.
    pub url: String,
    /// The host name that the other parties use, if given.
    pub host: Option<Host>,
    /// The HTTP client.
    pub peer: Peer,
}

/// Why a request to a party failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteError {
    /// The party reported an error, as the design has it.
    Refused(String),
    /// The party could not parse the request.
    BadRequest(String),
    /// The response is not valid in the design.
    Invalid(String),
}

impl RemoteError {
    /// The description.
    pub fn text(self) -> String {
        let (Self::Refused(text) | Self::BadRequest(text) | Self::Invalid(text)) = self;
        text
    }
}

impl RemoteParty {
    /// A party whose responses must arrive within `patience`.
    pub fn new(name: &'static str, url: &str, host: Option<Host>, peer: &Peer, patience: Span) -> Self {
        Self { name, url: url.to_owned(), host, peer: peer.with_limits(patience, ANSWER_BYTES) }
    }

    /// Waits until the party is ready.
    pub async fn ready(&self, deadline: Instant) -> Result<(), String> {
        let mut last = "no response yet".to_owned();
        while Instant::now() < deadline {
            match timeout_at(deadline, self.send("ready", Bytes::from_static(b"{}"))).await {
                Ok(Ok(answer)) if answer.status == 200 => return Ok(()),
                Ok(Ok(answer)) => last = format!("HTTP status {}", answer.status),
                Ok(Err(why)) => last = why,
                Err(_) => break,
            }
            sleep(READY_EVERY).await;
        }
        Err(format!("the {} at {} is not ready: {last}", self.name, self.url))
    }

    /// Sends a request and returns its successful reply.
    pub async fn ask(&self, what: &str, request: &impl Serialize) -> Result<Reply, RemoteError> {
        let at = |why: String| format!("{}, {what}: {}", self.name, sanitize(&why));
        let body = serde_json::to_vec(request).map_err(|error| RemoteError::Invalid(at(error.to_string())))?;
        let answer = self.send(what, body.into()).await.map_err(|why| RemoteError::Invalid(at(why)))?;
        read(&answer).map_err(|trouble| match trouble {
            RemoteError::Refused(why) => RemoteError::Refused(at(why)),
            RemoteError::BadRequest(why) => RemoteError::BadRequest(at(why)),
            RemoteError::Invalid(why) => RemoteError::Invalid(at(why)),
        })
    }

    async fn send(&self, what: &str, body: Bytes) -> Result<Answer, String> {
        let call = RequestSpec {
            method: "POST",
            path: format!("{PREFIX}{what}"),
            content_type: Some("application/json"),
            accept: None,
            resource_path: None,
            advertisement: None,
        };
        self.peer.send(&self.url, &call, None, body).await.map_err(|error| error.to_string())
    }
}

/// Parses a response. Its media type is not checked.
fn read(answer: &Answer) -> Result<Reply, RemoteError> {
    let reply = serde_json::from_slice::<Reply>(&answer.body);
    let said = |reply: &Reply| reply.error.clone().unwrap_or_else(|| "an error without a reason".to_owned());
    match (answer.status, reply) {
        (200, Ok(reply)) if reply.status == Status::Error => Err(RemoteError::Refused(said(&reply))),
        (200, Ok(reply)) => Ok(reply),
        (200, Err(error)) => {
            let text = String::from_utf8_lossy(&answer.body);
            Err(RemoteError::Invalid(format!("the response is not valid in the API ({error}): {text}")))
        }
        (status @ (400 | 422 | 501), reply) => {
            let why = reply.map_or_else(|_| reason(&answer.body), |reply| said(&reply));
            Err(RemoteError::BadRequest(format!("HTTP status {status}: {why}")))
        }
        (status, _) => Err(RemoteError::Invalid(format!("HTTP status {status}: {}", reason(&answer.body)))),
    }
}

/// The description in a response without a status of the API.
fn reason(body: &[u8]) -> String {
    let in_json = serde_json::from_slice::<Value>(body).ok();
    let in_json = in_json.as_ref().and_then(|value| {
        let found = value.get("error").or(value.get("detail"))?;
        found.get("message").unwrap_or(found).as_str()
    });
    in_json.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned)
}

/// A remote text as one short line without control characters.
fn sanitize(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.trim();
    match clean.char_indices().nth(TEXT_CHARS) {
        Some((end, _)) => format!("{}...", &clean[..end]),
        None => clean.to_owned(),
    }
}

/// The host name that the other parties use for an aggregator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name or address.
    name: String,
    /// Name and port, as in a URL.
    authority: String,
}

impl Host {
    /// Parses `NAME`, `NAME:PORT` or `[ADDRESS]:PORT`, for clap.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, port) = split_port(text).ok_or("expected NAME or NAME:PORT")?;
        let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if name.is_empty() || !name.chars().all(is_fit) {
            return Err("expected NAME or NAME:PORT".to_owned());
        }
        let bracketed = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
        Ok(Self { name: name.to_owned(), authority: format!("{bracketed}:{}", port.unwrap_or(PORT)) })
    }
}

/// Splits a host from its port, if there is one.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (name, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    match rest.strip_prefix(':') {
        Some(port) => Some((name, Some(port.parse().ok()?))),
        None => rest.is_empty().then_some((name, None)),
    }
}

/// Splits a base URL: scheme, host with port, and path with a trailing slash.
fn parts(url: &str) -> Option<(&str, &str, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let path = if path.is_empty() { "/".to_owned() } else { format!("/{path}/") };
    let is_fit = matches!(scheme, "http" | "https") && split_port(authority).is_some_and(|(name, _)| !name.is_empty());
    is_fit.then_some((scheme, authority, path))
}

/// Parses the base URL of an API, for clap.
pub fn parse_url(text: &str) -> Result<String, String> {
    let text = text.parse::<BaseUrl>().map_err(|why: BaseUrlError| why.to_string())?.into_string();
    match parts(&text) {
        Some((scheme, authority, path)) => Ok(format!("{scheme}://{authority}{path}")),
        None => Err("expected a URL such as http://127.0.0.1:8080".to_owned()),
    }
}

impl RemoteParty {
    /// The host name to announce to the aggregator.
    pub fn host_name(&self) -> Option<String> {
        let of_url = || split_port(parts(&self.url)?.1).map(|(name, _)| name.to_owned());
        self.host.as_ref().map(|host| host.name.clone()).or_else(of_url)
    }

    /// Resolves an aggregator's endpoint to an absolute URL (section 4.3.2).
    pub fn absolute(&self, endpoint: &str) -> String {
        if endpoint.starts_with("http://") || endpoint.starts_with("https://") {
            return endpoint.to_owned();
        }
        let Some((scheme, authority, path)) = parts(&self.url) else { return endpoint.to_owned() };
        // Inside a network of containers: the design's port, without TLS.
        let (scheme, authority) = match &self.host {
            Some(host) => ("http", host.authority.as_str()),
            None => (scheme, authority),
        };
        match endpoint.strip_prefix('/') {
            Some(below) => format!("{scheme}://{authority}/{below}"),
            None => format!("{scheme}://{authority}{path}{endpoint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::PeerOptions;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            content_type: None,
            retry_after: None,
            location: None,
            max_age: None,
            date: None,
            body: body.to_owned().into(),
            via: None,
        }
    }

    #[test]
    fn classifies_responses() {
        let read = |status, body| read(&answer(status, body));
        assert_eq!(read(200, r#"{"status":"success","handle":"x","more":1}"#).unwrap().handle.unwrap(), "x");
        let refused = read(200, r#"{"status":"error","error":"no"}"#).unwrap_err();
        assert_eq!(refused, RemoteError::Refused("no".to_owned()));
        let in_words = [(400, r#"{"status":"error","error":"no"}"#), (422, r#"{"error":"no"}"#), (501, "no")];
        for (status, body) in in_words.into_iter().chain([(422, r#"{"error":{"message":"no","path":"vdaf"}}"#)]) {
            let found = read(status, body).unwrap_err();
            assert_eq!(found, RemoteError::BadRequest(format!("HTTP status {status}: no")));
        }
        for (status, body) in [(500, "no"), (404, ""), (200, "no"), (200, r#"{"status":"great"}"#), (200, "{}")] {
            assert!(matches!(read(status, body), Err(RemoteError::Invalid(_))), "{status} {body}");
        }
    }

    #[test]
    fn sanitizes_remote_text() {
        assert_eq!(sanitize(" a\n\x1b[31mb "), "a  [31mb");
        assert_eq!(sanitize(&"é".repeat(1000)).chars().count(), TEXT_CHARS + 3);
    }

    #[test]
    fn resolves_endpoints() {
        let peer = Peer::new(&PeerOptions::default()).unwrap();
        let remote = |url: &str, host: Option<&str>| {
            let host = host.map(|host| Host::parse(host).unwrap());
            RemoteParty::new("leader", &parse_url(url).unwrap(), host, &peer, Span::from_secs(1))
        };
        let near = remote("http://127.0.0.1:9001", None);
        assert_eq!(near.host_name().unwrap(), "127.0.0.1");
        for (endpoint, absolute) in [
            ("/", "http://127.0.0.1:9001/"),
            ("/dap/", "http://127.0.0.1:9001/dap/"),
            ("dap", "http://127.0.0.1:9001/dap"),
            ("https://leader/x", "https://leader/x"),
        ] {
            assert_eq!(near.absolute(endpoint), absolute);
        }
        let inside = remote("http://127.0.0.1:9001/", Some("leader"));
        assert_eq!(
            (inside.host_name().unwrap(), inside.absolute("/")),
            ("leader".into(), "http://leader:8080/".into())
        );
        assert_eq!(remote("http://[::1]:80", None).host_name().unwrap(), "::1");
        assert_eq!(remote("http://x", Some("[::1]:90")).absolute("/a"), "http://[::1]:90/a");
        assert_eq!(remote("https://x/y", None).absolute("z"), "https://x/y/z");
    }

    #[test]
    fn rejects_bad_urls_and_hosts() {
        for url in ["127.0.0.1:80", "ftp://x", "http://", "http://x:port", "http://x/?a", "http://a@b"] {
            assert!(parse_url(url).is_err(), "{url}");
        }
        for host in ["", ":80", "a/b", "a:b", "[::1", "a b"] {
            assert!(Host::parse(host).is_err(), "{host}");
        }
    }
}
