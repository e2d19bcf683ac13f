//! Raw HTTP/1.1 requests that no HTTP client library sends.

use dapbox::wire::ProblemType;
use reqwest::{Method, header::HeaderMap};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Parties, calls::expected_kind};

/// An answer with its headers.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl RawAnswer {
    /// The value of a header; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The problem document; checks what RFC 9457 section 3.1 requires.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!((self.status, self.header("content-type")), (status, "application/problem+json"), "{self:?}");
        let document: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(document["status"], status, "{document}");
        assert!(document["title"].as_str().is_some_and(|title| !title.is_empty()), "{document}");
        document
    }

    /// Asserts a problem, mapped to the task's revision.
    #[track_caller]
    pub fn refused(&self, parties: &Parties, kind: ProblemType) -> Value {
        let kind = expected_kind(parties.revision(), kind);
        let document = self.problem(kind.status());
        assert_eq!(document["type"], kind.urn(), "{document}");
        document
    }

    /// Asserts a problem that DAP defines (DAP-09 section 3.2, DAP-18 section 3.6).
    #[track_caller]
    pub fn assert_problem(&self, status: u16, name: &str) -> Value {
        let document = self.problem(status);
        assert_eq!(document["type"], format!("urn:ietf:params:ppm:dap:error:{name}"), "{document}");
        document
    }
}

/// Sends one request.
pub async fn send_raw(method: &str, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> RawAnswer {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = reqwest::Client::builder().no_proxy().build().unwrap().request(method, url).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    RawAnswer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
}

/// Opens a connection and sends the head of a request. The caller sends the body.
pub async fn begin_request(method: &str, url: &str, headers: &[(&str, &str)]) -> TcpStream {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut head = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    stream
}

/// The status of the answer on a connection; `None` if it is closed without one.
pub async fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    while answer.len() < 12 {
        let mut part = [0; 512];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return None,
            Ok(length) => answer.extend_from_slice(&part[..length]),
        }
    }
    Some(String::from_utf8_lossy(&answer[9..12]).parse().unwrap())
}

/// The whole answer on a connection: status, head, and body with its chunked encoding.
pub async fn answer(stream: &mut TcpStream) -> (u16, String, Vec<u8>) {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    (head[9..12].parse().unwrap(), head, body)
}
