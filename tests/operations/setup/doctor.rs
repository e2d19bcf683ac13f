//! `dapbox doctor` in broken environments: each problem is found, named, and has a fix.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dapbox::{
    hpke::{Keypair, Suite},
    model::Revision,
    wire,
};

use super::sandbox::{Authority, Sandbox, answering, free_port, showing, silent};

/// The media type of a list of keys (DAP-09 section 4.4.1).
const KEYS: &str = "application/dap-hpke-config-list";

/// A list of keys as an aggregator sends it.
fn keys() -> Bytes {
    let key = Keypair::generate(1, Suite::DEFAULT).unwrap();
    wire::for_revision(Revision::Dap09).encode_hpke_configs(&[key.config().clone()]).into()
}

fn now() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

#[test]
fn diagnoses_each_peer() {
    let mut sandbox = Sandbox::new();
    sandbox.set("DAPBOX_LISTEN", "127.0.0.1:0");
    let authority = Authority::new();
    let root = authority.write(&sandbox);
    sandbox.set("DAPBOX_PEER__CA_FILE", &root);
    sandbox.succeed(&["init", "--yes"]);

    let far = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3600));
    let near = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(45));
    let down = format!("127.0.0.1:{}", free_port());
    let (past, future) = (answering(KEYS, &far, &keys()), answering(KEYS, &near, &keys()));
    let (garbage, page) = (answering(KEYS, &now(), b"garbage"), answering("text/html", &now(), b"<html>"));
    let (expired, other) =
        (showing(authority.issue(&["localhost"], -2)).port(), showing(authority.issue(&["other.example"], 80)).port());
    let fine = showing(authority.issue(&["localhost"], 80)).port();
    let quiet = silent();
    let peers = [
        ("down", format!("http://{down}")),
        ("past", format!("http://{past}")),
        ("future", format!("http://{future}")),
        ("garbage", format!("http://{garbage}")),
        ("page", format!("http://{page}")),
        ("expired", format!("https://localhost:{expired}")),
        ("other", format!("https://localhost:{other}")),
        ("fine", format!("https://localhost:{fine}")),
        ("quiet", format!("http://{quiet}")),
        ("nowhere", "https://dap.invalid".to_owned()),
    ];
    for (name, url) in &peers {
        sandbox.lead(name, url);
    }
    // Offline the doctor sends no request.
    let (code, found) = sandbox.doctor(&["--offline"]);
    found.expect_none("peer keys");
    assert_eq!(code, 0);

    let (code, found) = sandbox.doctor(&["--timeout", "2s"]);
    assert_eq!(code, 1);
    let url = |name: &str| format!("{}/dap-09/", peers.iter().find(|(known, _)| *known == name).unwrap().1);
    found.expect("peer keys", &url("down"), "failed", "cannot connect");
    found.expect("peer clock", &url("past"), "failed", "behind ours");
    found.expect("peer keys", &url("past"), "ok", "the helper offers 1 key, cached for 1d");
    found.expect("peer clock", &url("future"), "warning", "ahead of ours");
    found.expect("peer keys", &url("garbage"), "failed", "not a list of HPKE configs");
    // The data directory is as old as the test.
    found.expect("peer clock", &url("garbage"), "ok", "");
    found.expect("peer keys", &url("page"), "failed", "text/html");
    found.expect("peer certificate", &format!("localhost:{expired}"), "failed", "expired");
    found.expect("peer certificate", &format!("localhost:{other}"), "failed", "for other.example, not for localhost");
    found.expect("peer certificate", &format!("localhost:{fine}"), "ok", "for localhost");
    found.expect("peer keys", &url("expired"), "failed", "untrusted certificate");
    found.expect("peer keys", &url("quiet"), "failed", "timed out");
    found.expect("peer name", "dap.invalid", "failed", "has no address");
}

#[test]
fn detects_peer_without_task() {
    let (ours, mut theirs) = (Sandbox::new(), Sandbox::new());
    let port = free_port();
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    ours.succeed(&["init", "--yes"]);
    theirs.succeed(&["init", "--yes", "--listen", &listen]);
    ours.lead("known", &url);
    ours.lead("unknown", &url);
    let file = ours.path("known/helper.toml").display().to_string();
    theirs.succeed(&["task", "add", &file]);
    let _running = theirs.serve();
    let (code, found) = ours.doctor(&[]);
    // The doctor asks about both tasks, and the peer has one line.
    let findings = ours.command(&["doctor", "-o", "json"]).output().unwrap().stdout;
    let findings: serde_json::Value = serde_json::from_slice(&findings).unwrap();
    let keys: Vec<_> = findings.as_array().unwrap().iter().filter(|finding| finding["name"] == "peer keys").collect();
    let detail = keys[0]["detail"].as_str().unwrap();
    assert!(keys.len() == 1 && keys[0]["outcome"] == "failed" && detail.ends_with("(1 of 2 tasks)"), "{keys:#?}");
    assert!(findings.to_string().contains("dapbox task add helper.toml"), "{findings:#}");
    found.expect("peer clock", &format!("{url}/dap-09/"), "ok", "in sync");
    assert_eq!(code, 1);

    // The helper has the leader as its peer, which is not running.
    theirs.set("DAPBOX_PUBLIC_URL", "http://127.0.0.1:1");
    let (code, found) = theirs.doctor(&["--timeout", "2s"]);
    found.expect("peer keys", "http://127.0.0.1:1/dap-09/", "failed", "the leader");
    found.expect("public URL", "", "failed", "cannot connect");
    assert_eq!(code, 1);
}

#[test]
fn detects_wrong_public_url() {
    let mut sandbox = Sandbox::new();
    let port = free_port();
    sandbox.succeed(&["init", "--yes", "--listen", &format!("127.0.0.1:{port}")]);
    let _running = sandbox.serve();
    let (other, page) = (answering(KEYS, &now(), &keys()), answering("text/html", &now(), b"<html>"));
    for (url, says) in [
        (format!("http://{other}"), "another aggregator"),
        (format!("http://{page}"), "not from a DAP aggregator"),
        (format!("http://127.0.0.1:{port}/below"), "answers 404"),
        ("https://dap.invalid".to_owned(), "dap.invalid"),
    ] {
        sandbox.set("DAPBOX_PUBLIC_URL", &url);
        let (code, found) = sandbox.doctor(&["--timeout", "3s"]);
        found.expect("public URL", "", "failed", says);
        assert_eq!(code, 1, "{url}");
        if url.contains("invalid") {
            found.expect("public name", "dap.invalid", "failed", "A or AAAA record");
        }
    }
    sandbox.set("DAPBOX_PUBLIC_URL", "https://dap.example.org");
    let (_, found) = sandbox.doctor(&["--offline"]);
    found.expect_none("public URL");
    found.expect_none("public name");
}
