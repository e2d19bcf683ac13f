//! `dapbox interop run`, over parties in separate processes and over parties that misbehave.

mod accept_all_party;
mod lying_collector;
mod parties;

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use parties::{Party, Run, run};

/// The rows about results, and the number of all cells.
const ROWS: [&str; 21] = [
    "count",
    "sum",
    "sumvec",
    "histogram",
    "multihot",
    "l1-bound-sum",
    "sumvec-hmac",
    "many-reports",
    "out-of-range",
    "too-early",
    "task-expired",
    "unknown-task",
    "bad-parameter",
    "too-few",
    "collected-twice",
    "overlap",
    "late-report",
    "collector-token",
    "leader-token",
    "verify-key",
    "collector-key",
];

/// Every cell of the matrix, between four processes, in both revisions.
#[test]
fn runs_matrix_over_four_processes() {
    for dap in ["09", "18"] {
        let aggregators = [Party::serve("aggregator", dap), Party::serve("aggregator", dap)];
        let (client, collector) = (Party::serve("client", dap), Party::serve("collector", dap));
        let [leader, helper] = &aggregators;
        let parties = [("client", &client), ("leader", leader), ("helper", helper), ("collector", &collector)];
        let options: Vec<String> =
            parties.iter().flat_map(|(name, party)| [format!("--{name}"), party.url.clone()]).collect();
        let mut arguments: Vec<&str> = options.iter().map(String::as_str).collect();
        arguments.extend(["--dap", dap, "--strict"]);
        let Run { code, facts, errors } = run(&arguments);
        assert_eq!(code, 0, "{errors}{facts:#}");
        for (name, party) in parties {
            assert_eq!(facts["parties"][name], party.url.as_str());
        }
        for row in ROWS {
            let cells = parties::cells(&facts, row);
            let expected = match (row, dap) {
                ("sumvec-hmac", "18") | ("l1-bound-sum", "09") => &[][..],
                ("overlap" | "late-report", _) => &[("time-interval", "ok")],
                _ => &[("time-interval", "ok"), ("fixed-size", "ok")],
            };
            assert_eq!(cells, expected, "{row} {dap} {facts:#}");
        }
        for party in aggregators.into_iter().chain([client, collector]) {
            party.stop();
        }
    }
}

/// Without options the parties run in the process, and the matrix is printed as a table.
#[test]
fn prints_matrix() {
    let output = parties::dapbox(&["interop", "run", "--only", "count,overlap"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in ["  count             ok              ok", "  overlap           ok              -"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    assert!(text.contains("3 cells: 3 ok, 0 failed, 0 not supported, in "), "{text}");
    for party in ["client", "leader", "helper", "collector"] {
        assert!(text.contains(&format!("{party:<10} http://127.0.0.1:")), "{text}");
    }
}

/// A collector that lies about some tasks fails exactly their cells.
#[tokio::test(flavor = "multi_thread")]
async fn lying_collector_fails_only_its_cells() {
    let honest = Party::serve("collector", "09");
    let lying_collector = lying_collector::LyingCollector::before(&honest.url).await;
    let rows = "count,sum,sumvec,histogram,multihot";
    // Only a missing answer takes the whole timeout.
    let arguments = ["--collector", &lying_collector.url, "--only", rows, "--timeout", "20s"].map(str::to_owned);
    let ended = tokio::task::spawn_blocking(move || run(&arguments.each_ref().map(String::as_str)));
    let Run { code, facts, errors } = ended.await.unwrap();
    assert_eq!(code, 1, "{facts:#}");
    assert!(errors.contains("6 of 10 failed"), "{errors}");
    for cell in facts["cells"].as_array().unwrap() {
        let (row, mode) = (cell["row"].as_str().unwrap(), cell["mode"].as_str().unwrap());
        let (verdict, why) = lying_collector::expected(row, mode);
        assert_eq!(cell["verdict"], verdict, "{cell}");
        assert!(cell["reason"].as_str().unwrap_or_default().contains(why), "{cell}");
    }
}

/// Parties that reject nothing fail every cell that expects a rejection, each for its own reason.
#[tokio::test(flavor = "multi_thread")]
async fn party_that_accepts_everything_fails_each_case() {
    let url = accept_all_party::start().await;
    let options = ["--client", "--leader", "--helper", "--collector"];
    let mut arguments: Vec<String> = options.iter().flat_map(|name| [(*name).to_owned(), url.clone()]).collect();
    arguments.extend(["--only", &ROWS.map(|row| row.to_owned()).join(",")].map(str::to_owned));
    let ended = tokio::task::spawn_blocking(move || run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()));
    let Run { code, facts, .. } = ended.await.unwrap();
    assert_eq!(code, 1, "{facts:#}");
    let reasons = [
        ("out-of-range", "the number 256 was accepted"),
        ("too-early", "three days in the future"),
        ("task-expired", "an expired task"),
        ("unknown-task", "an unknown task"),
        ("bad-parameter", "the leader accepted a histogram"),
        ("too-few", "below the minimum batch size of 10"),
        ("collected-twice", "first 10 reports, 7; then 10 reports, 8"),
        ("overlap", "overlaps"),
        ("late-report", "first 10 reports, 7; then"),
        ("collector-token", "a collector token unknown to the leader"),
        ("leader-token", "a leader token unknown to the helper"),
        ("verify-key", "different verification keys"),
        ("collector-key", "a key that the collector does not have"),
    ];
    for (row, why) in reasons {
        let cells: Vec<_> = facts["cells"].as_array().unwrap().iter().filter(|cell| cell["row"] == row).collect();
        assert!(!cells.is_empty(), "{row}");
        for cell in cells {
            assert_eq!(cell["verdict"], "failed", "{cell}");
            assert!(cell["reason"].as_str().unwrap().contains(why), "{cell}");
        }
    }
    // It can add, so some cells pass.
    for row in ["count", "sum", "many-reports"] {
        assert_eq!(parties::cells(&facts, row), [("time-interval", "ok"), ("fixed-size", "ok")], "{facts:#}");
    }
    // It answers vectors with a number.
    for row in ["sumvec", "histogram", "multihot", "sumvec-hmac"] {
        assert_eq!(parties::cells(&facts, row), [("time-interval", "failed"), ("fixed-size", "failed")], "{facts:#}");
    }
}

/// An unreachable party is named, and no cell is tried.
#[test]
fn names_unreachable_party() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Run { code, errors, .. } = run(&["--helper", &format!("http://{unused}"), "--timeout", "1s"]);
    assert_eq!(code, 1);
    assert!(errors.contains("the helper at http://127.0.0.1:") && errors.contains("is not ready"), "{errors}");
}

/// The test API has no password, so it refuses addresses of other machines.
#[test]
fn refuses_non_loopback_addresses() {
    let output =
        parties::dapbox(&["interop", "serve", "aggregator", "--listen", "127.0.0.1:0", "--dap-listen", "0.0.0.0:0"]);
    let output = { output }.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-remote"));
}

/// A site whose name resolves to this machine (DNS rebinding) can send JSON to its own origin. The test API does not
/// answer it.
#[test]
fn test_api_rejects_foreign_host_names() {
    let party = Party::serve("client", "18");
    let address = party.url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let port = address.rsplit_once(':').unwrap().1;
    for (host, status) in [
        (address.to_owned(), "200"),
        (format!("localhost:{port}"), "200"),
        (format!("evil.example:{port}"), "421"),
        ("evil.example".to_owned(), "421"),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "POST /internal/test/ready HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: 2\r\nconnection: close\r\n\r\n{{}}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{host}: {answer}");
    }
    party.stop();
}
