use std::{future::Future, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use dapbox_protocol::wire::ProblemType;

const SPEC: RequestSpec = RequestSpec {
    method: "PUT",
    path: String::new(),
    content_type: Some("application/x-ask"),
    accept: Some("application/x-answer"),
    resource_path: None,
    advertisement: None,
};

fn peer(timeout: Duration, max_answer_bytes: usize) -> Peer {
    Peer::new(&PeerOptions { timeout, max_answer_bytes, ..PeerOptions::default() }).unwrap()
}

/// Serves one connection with a fixed response and returns the request.
async fn serve(answer: &'static str) -> (SocketAddr, impl Future<Output = String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"question") {
            let mut buffer = [0; 1024];
            let n = stream.read(&mut buffer).await.unwrap();
            request.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, async { task.await.unwrap() })
}

async fn ask(peer: &Peer, address: SocketAddr) -> Result<Answer, RequestError> {
    let spec = RequestSpec { path: "tasks/x".to_owned(), ..SPEC };
    let token = Secret::new(b"hunter2".to_vec());
    peer.call(&format!("http://{address}/dap-09/"), &spec, Some(&token), Bytes::from_static(b"question")).await
}

#[tokio::test]
async fn sends_path_media_type_and_token() {
    let (address, request) = serve(
        "HTTP/1.1 201 Created\r\nContent-Type: Application/X-Answer; v=1\r\nCache-Control: public, max-age=60\r\n\
         Content-Length: 3\r\n\r\nyes",
    )
    .await;
    let answer = ask(&peer(Duration::from_secs(5), 3), address).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (201, &b"yes"[..]));
    assert_eq!(answer.max_age, Some(Duration::from_secs(60)));
    let request = request.await.to_lowercase();
    assert!(request.starts_with("put /dap-09/tasks/x http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nauthorization: bearer hunter2\r\n"), "{request}");
    assert!(request.contains("\r\ncontent-type: application/x-ask\r\n"), "{request}");
}

#[tokio::test]
async fn does_not_reuse_connections_on_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"question") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-answer\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
            // Keep the connection open: a client that reused it would wait for a response and time out.
            streams.push(stream);
        }
        streams.len()
    });
    let peer = peer(Duration::from_secs(5), 100).without_connection_reuse().unwrap();
    for _ in 0..2 {
        ask(&peer, address).await.unwrap();
    }
    assert_eq!(accepted.await.unwrap(), 2);
}

#[tokio::test]
async fn does_not_follow_redirects() {
    let (address, _request) =
        serve("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n").await;
    let error = ask(&peer(Duration::from_secs(5), 100), address).await.unwrap_err();
    assert_eq!(error.problem().map(|p| p.status), Some(307));
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn reads_problems_and_rejects_wrong_media_type() {
    let (address, _request) = serve(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nContent-Length: 61\r\n\r\n\
         {\"type\":\"urn:ietf:params:ppm:dap:error:outdatedConfig\",\"x\":1}",
    )
    .await;
    let error = ask(&peer(Duration::from_secs(5), 100), address).await.unwrap_err();
    assert_eq!(error.problem().map(|p| p.kind), Some(ProblemType::OutdatedConfig));

    let (address, _request) = serve("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi").await;
    let error = ask(&peer(Duration::from_secs(5), 100), address).await.unwrap_err();
    assert!(matches!(&error, RequestError::Unexpected(why) if why.contains("text/html")), "{error}");
}

#[tokio::test]
async fn honours_retry_after() {
    let (address, _request) =
        serve("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n").await;
    let error = ask(&peer(Duration::from_secs(5), 100), address).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn rejects_long_answers() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlong",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nlo\r\n2\r\nng\r\n0\r\n\r\n",
    ] {
        let (address, _request) = serve(answer).await;
        let error = ask(&peer(Duration::from_secs(5), 3), address).await.unwrap_err();
        assert!(matches!(error, RequestError::NoAnswer(PeerError::AnswerTooLong { limit: 3, .. })), "{error}");
    }
}

#[tokio::test]
async fn distinguishes_unsent_requests() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = peer(Duration::from_secs(5), 100).send(&format!("http://{closed}"), &SPEC, None, Bytes::new()).await;
    assert!(matches!(&error, Err(e @ PeerError::Connect { .. }) if e.never_sent() && e.is_retryable()), "{error:?}");

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let error = peer(Duration::from_millis(50), 100).send(&url, &SPEC, None, Bytes::new()).await;
    assert!(matches!(&error, Err(e @ PeerError::Timeout { .. }) if !e.never_sent()), "{error:?}");

    let (address, _request) = serve("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut").await;
    let error = ask(&peer(Duration::from_secs(5), 100), address).await.unwrap_err();
    assert!(matches!(&error, RequestError::NoAnswer(e @ PeerError::Broken { .. }) if !e.never_sent()), "{error:?}");

    let error = peer(Duration::from_secs(5), 100).send("ftp:/x", &SPEC, None, Bytes::new()).await;
    assert!(matches!(&error, Err(PeerError::InvalidRequest { .. })), "{error:?}");
}

#[tokio::test]
async fn returns_resource_or_location() {
    let ask = async |answer: &'static str, spec: RequestSpec| {
        let (address, _request) = serve(answer).await;
        let url = format!("http://{address}/dap");
        peer(Duration::from_secs(5), 100).ask(&url, &spec, None, Bytes::from_static(b"question")).await
    };
    let spec = RequestSpec { path: "tasks/x/jobs".to_owned(), ..SPEC };
    let ready = "HTTP/1.1 200 OK\r\nLocation: /dap/tasks/x/jobs/1\r\nContent-Type: application/x-answer\r\n\
                 Content-Length: 3\r\n\r\nyes";
    let reply = ask(ready, spec.clone()).await.unwrap();
    assert_eq!((reply.location.as_deref(), reply.ready.as_deref()), (Some("tasks/x/jobs/1"), Some(&b"yes"[..])));

    let deferred = "HTTP/1.1 201 Created\r\nLocation: jobs/1?step=0\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    let reply = ask(deferred, spec.clone()).await.unwrap();
    assert_eq!((reply.location.as_deref(), &reply.ready), (Some("tasks/x/jobs/1?step=0"), &None));
    assert_eq!((reply.status, reply.retry_after), (201, Some(Duration::from_secs(7))));

    // If the client chooses the path, the location in the response does not matter.
    let ours = RequestSpec { resource_path: Some("tasks/x/jobs/2".to_owned()), ..spec.clone() };
    let elsewhere = "HTTP/1.1 201 Created\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ask(elsewhere, ours).await.unwrap().location.as_deref(), Some("tasks/x/jobs/2"));
    assert!(matches!(ask(elsewhere, spec.clone()).await, Err(RequestError::Unexpected(_))));

    // A text body with 202 is not the resource; with any other status it is an error.
    let words = "HTTP/1.1 202 Accepted\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nsoon";
    assert_eq!(ask(words, spec.clone()).await.unwrap().ready, None);
    let wrong = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nsoon";
    assert!(matches!(ask(wrong, spec.clone()).await, Err(RequestError::Unexpected(_))));
    assert_eq!(ask(wrong, RequestSpec { accept: None, ..spec }).await.unwrap().ready, None);
}
