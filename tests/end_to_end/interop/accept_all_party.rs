//! All four parties in one, without any checks. It adds up every measurement, answers every collector, and adds one to
//! the result of each further collection of a task.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use warp::{Filter, http::Response};

/// Reports, sum and collections of a task.
#[derive(Default)]
struct Task {
    reports: u64,
    sum: u64,
    collections: u64,
}

#[derive(Default)]
struct State {
    tasks: HashMap<String, Task>,
    /// Answers to collection polls.
    results: HashMap<String, Value>,
}

/// Starts it; returns its URL.
pub async fn start() -> String {
    let state = Arc::<Mutex<State>>::default();
    let filter = warp::post().and(warp::path::full()).and(warp::body::bytes()).map(
        move |path: warp::path::FullPath, body: bytes::Bytes| {
            let request = serde_json::from_slice(&body).unwrap();
            let what = path.as_str().rsplit('/').next().unwrap().to_owned();
            Response::new(state.lock().unwrap().answer(&what, &request).to_string())
        },
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(warp::serve(filter).incoming(listener).run());
    url
}

impl State {
    fn answer(&mut self, what: &str, request: &Value) -> Value {
        let id = request["task_id"].as_str().unwrap_or_default().to_owned();
        match what {
            // Some requests have a few members only.
            "ready" => json!({}),
            "endpoint_for_task" => json!({"status": "success", "endpoint": "/"}),
            // One answer serves aggregators and collector.
            "add_task" => json!({"status": "success", "error": null, "collector_hpke_config": "AQAgAAEAAQ"}),
            "upload" => {
                let task = self.tasks.entry(id).or_default();
                task.reports += 1;
                let measurement = request["measurement"].as_str().unwrap_or("0");
                task.sum += measurement.parse::<u64>().unwrap();
                json!({"status": "success"})
            }
            "collection_start" => self.collect(id, &request["query"]),
            "collection_poll" => self.results[request["handle"].as_str().unwrap()].clone(),
            other => panic!("{other} is not in the design"),
        }
    }

    fn collect(&mut self, id: String, query: &Value) -> Value {
        let task = self.tasks.entry(id).or_default();
        let result = json!({
            "status": "complete",
            "report_count": task.reports,
            "result": (task.sum + task.collections).to_string(),
            "interval_start": query["batch_interval_start"].as_u64().unwrap_or(0),
            "interval_duration": query["batch_interval_duration"].as_u64().unwrap_or(300),
            "batch_id": (query["type"] == 2).then_some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        });
        task.collections += 1;
        let handle = self.results.len().to_string();
        self.results.insert(handle.clone(), result);
        json!({"status": "success", "handle": handle})
    }
}
