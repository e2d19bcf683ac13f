//! HTTPS from the outside: the whole life of a task, certificate changes, and useless connections.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{ChildStderr, Command, Stdio},
};

use bytes::Bytes;
use dapbox::{
    client::Client,
    collector::{Collector, CollectorTask},
    config::{Config, Seconds},
    model::{BatchMode, MaxMeasurement, Revision, TaskId, VdafConfig},
    peer::RetryPolicy,
    server::{CertificateError, Server, StartError},
    wire,
};
use reqwest::Version;
use rstest::rstest;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use warp::http::Request;

use crate::common::{
    self, Node, Pair, Parties, TEST_TIMEOUT,
    child::Running,
    relay::{MEASUREMENTS, assert_whole, upload_all},
    tls::{Authority, replace, shown},
};

const SUM: VdafConfig = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };

/// A leader with HTTPS and a task. The helper does not exist.
async fn leader(authority: &Authority, change: impl FnOnce(&mut Config)) -> (Node, Parties) {
    let node = Node::start_with(|config| {
        authority.equip(config);
        change(config);
    })
    .await;
    let url = node.url(Revision::Dap09);
    let parties = Parties::new(Revision::Dap09, SUM, BatchMode::TimeInterval, url, "https://nowhere.test/".to_owned());
    node.add(&parties.leader).await;
    (node, parties)
}

/// Waits until the server closes the connection; returns the bytes received before.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    // A connection that is closed with unread input ends with an error.
    let _ = tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut said)).await.expect("it stays open");
    said
}

#[rstest]
#[case(Revision::Dap09)]
#[case(Revision::Dap18)]
#[tokio::test(flavor = "multi_thread")]
async fn completes_task_over_https(#[case] revision: Revision) {
    let authority = Authority::new();
    let equip = |config: &mut Config| authority.equip(config);
    let least = |task: &mut dapbox::model::Task| task.public.min_batch_size = MEASUREMENTS.len() as u64;
    let pair = Pair::start_with(revision, SUM, BatchMode::TimeInterval, equip, least).await;
    let parties = &pair.parties;
    assert!(parties.task().leader_url.starts_with("https://") && parties.task().helper_url.starts_with("https://"));
    assert_eq!(pair.leader.server().url(), format!("https://{}/", pair.leader.config.listen));
    let query = parties.query_now();
    let client = Client::new(parties.task().clone(), authority.peer(), RetryPolicy::default()).unwrap();
    upload_all(&client, None).await;
    let task =
        CollectorTask { public: parties.task().clone(), token: parties.collector_token.clone(), previous_token: None };
    let collector = Collector::new(task, parties.keypair.clone(), authority.peer(), RetryPolicy::default()).unwrap();
    assert_whole("over HTTPS", collector.collect(query, Some(TEST_TIMEOUT), |_| {}).await);
    pair.stop().await;
}

#[tokio::test]
async fn negotiates_http2_and_http1() {
    let authority = Authority::new();
    let node = Node::start_with(|config| authority.equip(config)).await;
    let url = format!("{}hpke_config", node.url(Revision::Dap09));
    let version = async |client: reqwest::Client| {
        let answer = client.get(&url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.version()
    };
    assert_eq!(version(authority.http().build().unwrap()).await, Version::HTTP_2);
    assert_eq!(version(authority.http().http1_only().build().unwrap()).await, Version::HTTP_11);
    // Without ALPN.
    let mut stream = authority.connect(node.config.listen, &[]).await;
    stream.write_all(b"GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(closed(&mut stream).await.starts_with(b"HTTP/1.1 404"));

    // Our own client negotiates HTTP/2.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let acceptor = tokio_rustls::TlsAcceptor::from(authority.server_config(&["h2", "http/1.1"]));
    let accept = async { acceptor.accept(listener.accept().await.unwrap().0).await.unwrap() };
    let (peer, call) =
        (authority.peer(), wire::for_revision(Revision::Dap09).hpke_config_request(Some(&TaskId::random())));
    let (asked, stream) = tokio::join!(peer.send(&url, &call, None, Bytes::new()), async {
        accept.await.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    });
    assert!(asked.is_err_and(|error| !error.never_sent()));
    assert_eq!(stream.as_deref(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn serves_both_http_versions_without_tls() {
    let node = Node::start().await;
    let url = format!("{}hpke_config", node.url(Revision::Dap09));
    for (builder, version) in [
        (reqwest::Client::builder().no_proxy(), Version::HTTP_11),
        (reqwest::Client::builder().no_proxy().http2_prior_knowledge(), Version::HTTP_2),
    ] {
        let answer = builder.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
}

#[tokio::test]
async fn answers_plain_http_on_tls_port() {
    let authority = Authority::new();
    let node = Node::start_with(|config| authority.equip(config)).await;
    let answer = common::get(format!("http://{}/", node.config.listen)).await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("https://"));
    // Other garbage gets no HTTP answer.
    let mut stream = TcpStream::connect(node.config.listen).await.unwrap();
    stream.write_all(&[0; 64]).await.unwrap();
    assert!(!closed(&mut stream).await.starts_with(b"HTTP"));
}

#[tokio::test]
async fn replaces_certificate_without_closing_connections() {
    let authority = Authority::new();
    let change = |config: &mut Config| config.tls.check_interval = Seconds::millis(10);
    let (node, _) = leader(&authority, change).await;
    let address = node.config.listen;
    let mut old = authority.connect(address, &["http/1.1"]).await;
    let (first, second) = (shown(&old), authority.issue());
    second.write(&node.config);
    while shown(&authority.connect(address, &[]).await) == first {}
    assert_eq!(shown(&authority.connect(address, &[]).await), second.der());

    // A certificate without its key, as during a renewal: the last valid pair stays active.
    let third = authority.issue();
    replace(&node.config.tls.certificate_file, &third.certificate);
    let reload = || node.server().reload_certificates();
    assert!(matches!(reload(), Err(CertificateError::Mismatch { .. })));
    assert_eq!(shown(&authority.connect(address, &[]).await), second.der());
    replace(&node.config.tls.key_file, &third.key);
    reload().unwrap();
    assert_eq!(shown(&authority.connect(address, &[]).await), third.der());

    old.write_all(b"GET /dap-09/hpke_config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(closed(&mut old).await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn refuses_unusable_certificate_with_hint() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
    config.listen = "127.0.0.1:0".parse().unwrap();
    authority.equip(&mut config);
    replace(&config.tls.key_file, &authority.issue().key);
    let refused = async |config: &Config| match Server::start(config.clone()).await {
        Err(error @ (StartError::Certificate(_) | StartError::RootCertificates(_))) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it starts"),
    };
    let text = refused(&config).await;
    assert!(text.contains("key.pem does not match the first certificate in"), "{text}");
    replace(&config.tls.key_file, "no key");
    assert!(refused(&config).await.contains("-----BEGIN PRIVATE KEY-----"));
    config.tls.certificate_file = dir.path().join("nothing");
    assert!(refused(&config).await.contains("tls.certificate_file"));
    config.peer.ca_file = config.tls.key_file.clone();
    assert!(refused(&config).await.contains("no root certificates"));
    assert!(!config.data_dir.exists(), "nothing was begun");
}

/// A container without system certificates: a private authority and the compiled-in roots must suffice.
#[tokio::test(flavor = "multi_thread")]
async fn works_without_system_certificates() {
    let authority = Authority::new();
    let equip = |config: &mut Config| authority.equip(config);
    let pair = Pair::start_with(Revision::Dap09, SUM, BatchMode::TimeInterval, equip, |_| {}).await;
    let dir = tempfile::tempdir().unwrap();
    let (files, ca) = (dir.path().join("task"), authority.file());
    let dapbox = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
        command.args(arguments).env_remove("DAPBOX_CONFIG").env_remove("DAPBOX_CA_FILE");
        command.env("SSL_CERT_FILE", "/nowhere/cert.pem").env("SSL_CERT_DIR", "/nowhere");
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let task = pair.parties.task();
    let (leader, helper) = (&task.leader_url, &task.helper_url);
    let new =
        ["task", "new", "--leader", leader, "--helper", helper, "--vdaf", "count", "--out", files.to_str().unwrap()];
    assert_eq!(dapbox(&new).0, 0, "{:?}", dapbox(&new));
    for (party, node) in [("leader", &pair.leader), ("helper", &pair.helper)] {
        let file = files.join(format!("{party}.toml"));
        let add = ["task", "add", file.to_str().unwrap(), "--data-dir", node.data_dir().to_str().unwrap()];
        assert_eq!(dapbox(&add), (0, String::new()));
    }
    let client = files.join("client.toml");
    let upload = ["upload", "--task", client.to_str().unwrap(), "true"];
    let with_ca = [&upload[..], &["--ca-file", ca.to_str().unwrap()]].concat();
    let (code, text) = dapbox(&with_ca);
    assert_eq!(code, 0, "{text}");
    let (code, text) = dapbox(&upload);
    assert!(code == 1 && text.contains("--ca-file"), "{text}");
    let collector = files.join("collector.toml");
    let wrong = ["collect", "--task", collector.to_str().unwrap(), "--ca-file", client.to_str().unwrap()];
    let (code, text) = dapbox(&wrong);
    assert!(code == 1 && text.contains("no root certificates in"), "{text}");
    pair.stop().await;
}

/// An HTTP/2 connection for raw requests.
async fn speak_h2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<()>) {
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    // Ends when the server closes it or all requests are done.
    (sender.ready().await.unwrap(), tokio::spawn(async move { drop(connection.await) }))
}

/// An upload of this many invalid bytes, none of which is sent yet.
fn nonsense(parties: &Parties, length: usize) -> Request<()> {
    let call = parties.wire().upload_request(&parties.id());
    let request = Request::builder().method(call.method).uri(parties.at_leader(&call.path));
    let request = request.header("content-type", call.content_type.unwrap());
    request.header("content-length", length).body(()).unwrap()
}

#[tokio::test]
async fn closes_idle_connections() {
    let authority = Authority::new();
    let (node, _) = leader(&authority, |config| {
        config.tls.handshake_timeout = Seconds::millis(50);
        config.limits.head_timeout = Seconds::millis(50);
    })
    .await;
    let plain = Node::start_with(|config| config.limits.head_timeout = Seconds::millis(50)).await;
    let tcp = |address: SocketAddr| async move { TcpStream::connect(address).await.unwrap() };
    // No handshake, half a handshake; no bytes, the HTTP/2 preface, half a head.
    assert!(closed(&mut tcp(node.config.listen).await).await.is_empty());
    for (said, address) in [
        (&[22, 3, 1][..], node.config.listen),
        (b"", plain.config.listen),
        (b"PRI * HTTP/2.0\r\n", plain.config.listen),
        (b"GET / HTTP/1.1\r\nhost: ", plain.config.listen),
    ] {
        let mut stream = tcp(address).await;
        stream.write_all(said).await.unwrap();
        closed(&mut stream).await;
    }
    for protocol in ["h2", "http/1.1"] {
        closed(&mut authority.connect(node.config.listen, &[protocol]).await).await;
    }
    let mut stream = authority.connect(node.config.listen, &["http/1.1"]).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    closed(&mut stream).await;
    // HTTP/2 without a request: the client gets GOAWAY, and the connection closes in any case.
    let (_sender, connection) = speak_h2(authority.connect(node.config.listen, &["h2"]).await).await;
    tokio::time::timeout(TEST_TIMEOUT, connection).await.unwrap().unwrap();
}

/// A missing body times out after the configured time, even if idle connections close earlier.
#[tokio::test]
async fn times_out_missing_body_over_http2() {
    let authority = Authority::new();
    let (node, parties) = leader(&authority, |config| {
        config.limits.head_timeout = Seconds::millis(20);
        config.limits.request_timeout = Seconds::millis(500);
    })
    .await;
    let (mut sender, _connection) = speak_h2(authority.connect(node.config.listen, &["h2"]).await).await;
    let (answer, _body) = sender.send_request(nonsense(&parties, 10), false).unwrap();
    assert_eq!(answer.await.unwrap().status(), 408);
}

/// A leader must learn that its job is too long while it is still sending.
#[tokio::test]
async fn refuses_over_http2_before_body_ends() {
    let authority = Authority::new();
    let (_node, parties) = leader(&authority, |config| config.limits.max_report_bytes = 1000).await;
    let call = parties.wire().upload_request(&parties.id());
    let body = Bytes::from(vec![0; 16 << 20]);
    let answer = authority.peer().send(&parties.task().leader_url, &call, None, body).await.unwrap();
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn closes_connection_over_limit() {
    let authority = Authority::new();
    let (node, _) = leader(&authority, |config| config.limits.max_connections = 2).await;
    let address = node.config.listen;
    let held = [authority.connect(address, &[]).await, authority.connect(address, &[]).await];
    assert!(closed(&mut TcpStream::connect(address).await.unwrap()).await.is_empty());
    // The operator is still served.
    assert_eq!(node.health().await.fault, None);
    drop(held);
    let url = format!("{}hpke_config", node.url(Revision::Dap09));
    let client = authority.http().pool_max_idle_per_host(0).build().unwrap();
    while client.get(&url).send().await.is_err() {}
}

#[rstest]
#[case("h2")]
#[case("http/1.1")]
#[tokio::test]
async fn finishes_request_in_progress_at_shutdown(#[case] protocol: &str) {
    let authority = Authority::new();
    let (mut node, parties) = leader(&authority, |_| {}).await;
    let address = node.config.listen;
    // These connections have no request in progress and must not delay the shutdown.
    let _handshake = TcpStream::connect(address).await.unwrap();
    let _idle = [authority.connect(address, &["h2"]).await, authority.connect(address, &["http/1.1"]).await];
    let stream = authority.connect(address, &[protocol]).await;
    let gone = async { while TcpStream::connect(address).await.is_ok() {} };
    let status = match protocol {
        "h2" => {
            let (mut sender, connection) = speak_h2(stream).await;
            let (answer, mut body) = sender.send_request(nonsense(&parties, 4), false).unwrap();
            body.send_data(Bytes::from_static(b"no"), false).unwrap();
            // Another request on the same connection proves that this one has arrived.
            let other = Request::get(parties.at_leader("hpke_config")).body(()).unwrap();
            let other = sender.send_request(other, true).unwrap().0;
            assert_eq!(other.await.unwrap().status(), 200);
            let finish = async {
                gone.await;
                // No further requests are accepted (GOAWAY).
                while sender.clone().ready().await.is_ok() {
                    tokio::task::yield_now().await;
                }
                body.send_data(Bytes::from_static(b"ne"), true).unwrap();
                answer.await.unwrap().status().as_u16()
            };
            let ((), status) = tokio::join!(node.stop(), finish);
            connection.await.unwrap();
            status
        }
        _ => {
            let mut stream = stream;
            let call = parties.wire().upload_request(&parties.id());
            let head = format!(
                "{} /dap-09/{} HTTP/1.1\r\nhost: x\r\ncontent-type: {}\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n",
                call.method,
                call.path,
                call.content_type.unwrap()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // The server asks for the body: the request has arrived.
            let mut interim = [0; 25];
            stream.read_exact(&mut interim).await.unwrap();
            assert!(interim.starts_with(b"HTTP/1.1 100"));
            let finish = async {
                gone.await;
                stream.write_all(b"none").await.unwrap();
                let answer = String::from_utf8(closed(&mut stream).await).unwrap();
                answer[9..12].parse().unwrap()
            };
            let ((), status) = tokio::join!(node.stop(), finish);
            status
        }
    };
    assert_eq!(status, 400, "the upload is nonsense");
}

/// `dapbox serve` with these variables in its environment, and its log.
struct Serving {
    process: Running,
    log: BufReader<ChildStderr>,
}

impl Serving {
    fn start(config: &Config, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
        command.args(["serve", "--data-dir", config.data_dir.to_str().unwrap()]).env_remove("DAPBOX_CONFIG");
        command.env("DAPBOX_LOG__FORMAT", "json").env("DAPBOX_MONITOR__LISTEN", "");
        command.env("DAPBOX_DISK__RESERVE_BYTES", "0").env("DAPBOX_DISK__BALLAST_BYTES", "0");
        let mut process = Running::spawn(command.envs(variables.iter().copied()).stderr(Stdio::piped()));
        let log = BufReader::new(process.stderr.take().unwrap());
        Self { process, log }
    }

    /// The first log line with this message, and all lines before it.
    fn until(&mut self, message: &str) -> (serde_json::Value, String) {
        let (mut line, mut before) = (String::new(), String::new());
        loop {
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the server ended: {before}");
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            if value["message"] == message || value["fields"]["message"] == message {
                let fields = if value["fields"].is_object() { value["fields"].clone() } else { value };
                return (fields, before);
            }
            before.push_str(&line);
            line.clear();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_client_address_behind_trusted_proxies() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    let mut config = Config { data_dir: dir.path().join("data"), ..Config::default() };
    authority.equip(&mut config);
    let file = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    for (trusted, client) in [("[\"127.0.0.0/8\"]", "198.51.100.7"), ("[]", "127.0.0.1")] {
        let mut serving = Serving::start(
            &config,
            &[
                ("DAPBOX_LISTEN", "127.0.0.1:0"),
                ("DAPBOX_LOG__LEVEL", "info,dapbox_server=debug"),
                ("DAPBOX_PROXY__TRUSTED", trusted),
                ("DAPBOX_TLS__MODE", "files"),
                ("DAPBOX_TLS__CERTIFICATE_FILE", &file(&config.tls.certificate_file)),
                ("DAPBOX_TLS__KEY_FILE", &file(&config.tls.key_file)),
            ],
        );
        let url = serving.until("serving").0["url"].as_str().unwrap().to_owned();
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        let request = authority.http().build().unwrap().get(format!("{url}nonsense"));
        let request =
            request.header("x-forwarded-for", "203.0.113.9, 198.51.100.7").header("x-forwarded-proto", "http");
        assert_eq!(request.send().await.unwrap().status(), 404);
        let (refused, _) = serving.until("request rejected");
        assert_eq!((refused["client"].as_str(), refused["path"].as_str()), (Some(client), Some("/nonsense")));
        assert_eq!(refused["https"], client == "127.0.0.1", "what the proxy says, or what we see");
    }
}

#[test]
fn warns_once_of_plain_http_on_public_address() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { data_dir: dir.path().join("data"), ..Config::default() };
    let warnings = |variables: &[(&str, &str)]| {
        let (_, before) = Serving::start(&config, variables).until("serving");
        before.lines().filter(|line| line.contains("plain HTTP") && line.contains("tls.mode")).count()
    };
    let public = ("DAPBOX_LISTEN", "0.0.0.0:0");
    assert_eq!(warnings(&[public]), 1);
    assert_eq!(warnings(&[public, ("DAPBOX_PROXY__TRUSTED", "[\"10.0.0.1/32\"]")]), 0);
    assert_eq!(warnings(&[("DAPBOX_LISTEN", "127.0.0.1:0")]), 0);
}
