//! A proxy before a real collector that falsifies the results of some tasks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use warp::{Filter, http::Response};

/// How the result of a task is falsified.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    None,
    UnknownVdaf,
    AnotherSum,
    OneReportLess,
    StatusError,
    Garbage,
    Crash,
    Silence,
}

/// The rows with falsified results.
const LIES: [(&str, &str, Lie); 7] = [
    ("count", "time-interval", Lie::OneReportLess),
    ("sum", "time-interval", Lie::AnotherSum),
    ("sumvec", "time-interval", Lie::Garbage),
    ("histogram", "time-interval", Lie::UnknownVdaf),
    ("histogram", "fixed-size", Lie::StatusError),
    ("multihot", "time-interval", Lie::Crash),
    ("multihot", "fixed-size", Lie::Silence),
];

fn lie(row: &str, mode: &str) -> Lie {
    LIES.iter().find(|(a, b, _)| (*a, *b) == (row, mode)).map_or(Lie::None, |(_, _, lie)| *lie)
}

/// The verdict expected from the runner.
pub fn expected(row: &str, mode: &str) -> (&'static str, &'static str) {
    match lie(row, mode) {
        Lie::None => ("ok", ""),
        Lie::UnknownVdaf => ("not supported", "collector, add_task: never heard of it"),
        Lie::AnotherSum => ("failed", "the result is "),
        Lie::OneReportLess => ("failed", "report_count is 9, not 10"),
        Lie::StatusError => ("failed", "collector, collection_poll: lost it"),
        Lie::Garbage => ("failed", "collector, collection_poll: the response is not valid in the API"),
        Lie::Crash => ("failed", "collector, collection_start: HTTP status 500"),
        Lie::Silence => ("failed", "timed out"),
    }
}

/// The falsifying collector.
pub struct LyingCollector {
    pub url: String,
}

#[derive(Clone)]
struct Front {
    behind: String,
    http: reqwest::Client,
    /// The tasks and collections with falsified results.
    lies: Arc<Mutex<HashMap<String, Lie>>>,
}

impl LyingCollector {
    /// Starts one before an honest collector.
    pub async fn before(behind: &str) -> Self {
        let front = Front {
            behind: behind.to_owned(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            lies: Arc::default(),
        };
        let filter = warp::post().and(warp::path::full()).and(warp::body::bytes()).then(
            move |path: warp::path::FullPath, body: bytes::Bytes| {
                let front = front.clone();
                async move { front.answer(path.as_str(), serde_json::from_slice(&body).unwrap()).await }
            },
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(warp::serve(filter).incoming(listener).run());
        Self { url }
    }
}

impl Front {
    async fn answer(&self, path: &str, request: Value) -> Response<String> {
        let what = path.rsplit('/').next().unwrap();
        let lie = self.lie_of(what, &request);
        match (what, lie) {
            ("add_task", Lie::UnknownVdaf) => return ok(&json!({"status": "error", "error": "never heard of it"})),
            ("collection_poll", Lie::StatusError) => return ok(&json!({"status": "error", "error": "lost it"})),
            ("collection_poll", Lie::Garbage) => return Response::new("<html>".to_owned()),
            ("collection_start", Lie::Crash) => return Response::builder().status(500).body(String::new()).unwrap(),
            ("collection_start", Lie::Silence) => std::future::pending().await,
            _ => {}
        }
        let sent = self.http.post(format!("{}{}", self.behind, path.trim_start_matches('/'))).json(&request);
        let mut reply: Value = sent.send().await.unwrap().json().await.unwrap();
        if let Some(handle) = reply["handle"].as_str() {
            self.lies.lock().unwrap().insert(handle.to_owned(), lie);
        }
        if reply["status"] == "complete" {
            match lie {
                Lie::AnotherSum => {
                    let sum: u64 = reply["result"].as_str().unwrap().parse().unwrap();
                    reply["result"] = json!((sum + 1).to_string());
                }
                Lie::OneReportLess => reply["report_count"] = json!(reply["report_count"].as_u64().unwrap() - 1),
                _ => {}
            }
        }
        ok(&reply)
    }

    fn lie_of(&self, what: &str, request: &Value) -> Lie {
        let mut lies = self.lies.lock().unwrap();
        if what == "add_task" {
            let row = request["vdaf"]["type"].as_str().unwrap().trim_start_matches("Prio3").to_lowercase();
            let row = if row == "multihotcountvec" { "multihot".to_owned() } else { row };
            let mode = if request["query_type"] == 1 { "time-interval" } else { "fixed-size" };
            lies.insert(request["task_id"].as_str().unwrap().to_owned(), lie(&row, mode));
        }
        let name = request["task_id"].as_str().or(request["handle"].as_str()).unwrap_or_default();
        lies.get(name).copied().unwrap_or(Lie::None)
    }
}

fn ok(reply: &Value) -> Response<String> {
    Response::new(reply.to_string())
}
