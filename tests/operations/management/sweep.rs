//! Provisioned tasks that were never contacted: they are shown, and removed if configured.

use std::time::Duration as Span;

use dapbox::{
    config::{Config, OptionalAddress, Seconds},
    model::{BatchMode, Duration, Revision, TaskId, VdafConfig},
};
use serde_json::{Value, json};

use super::control_plane::{ControlPlane, Draft, managed, run};
use crate::common::{self, Node, Parties, TEST_TIMEOUT};

/// Provisions tasks at a helper, which does not contact them.
async fn set_up(plane: &ControlPlane, how_many: usize) -> Vec<TaskId> {
    let mut ids = Vec::new();
    for _ in 0..how_many {
        let draft = Draft::count();
        let order = draft.for_helper("https://leader.example/dap-09/");
        plane.expect("POST", "/tasks", Some(order.clone()), 200).await;
        plane.expect("POST", "/tasks", Some(order), 200).await;
        plane.get(&format!("/tasks/{}", draft.id())).await;
        ids.push(draft.id());
    }
    ids
}

/// One request of a leader, with a wrong token.
async fn contact(node: &Node, id: &TaskId) {
    let url = format!("{}tasks/{id}/aggregation_jobs/AAAAAAAAAAAAAAAAAAAAAA", node.url(Revision::Dap09));
    let request = reqwest::Client::builder().no_proxy().build().unwrap().put(url).bearer_auth("wrong");
    let answer = request.header("content-type", "application/dap-aggregation-job-init-req").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    node.until(id, |status| !status.provisioned.as_ref().unwrap().is_never_contacted).await;
}

/// A request for keys is no contact: any client may send it.
async fn ask_for_keys(node: &Node, id: &TaskId) {
    let url = format!("{}hpke_config?task_id={id}", node.url(Revision::Dap09));
    assert_eq!(common::get(url).await.unwrap().status(), 200);
}

async fn is_never_contacted(node: &Node, id: &TaskId) -> bool {
    node.status(id).await.provisioned.unwrap().is_never_contacted
}

/// An operator's own task, never contacted either.
async fn own(node: &Node) -> TaskId {
    let urls = ["https://leader.example/", "https://helper.example/"].map(str::to_owned);
    let [leader, helper] = urls;
    let parties = Parties::new(Revision::Dap09, VdafConfig::Prio3Count, BatchMode::TimeInterval, leader, helper);
    node.add(&parties.helper).await;
    parties.id()
}

/// The ids of the tasks that a control plane sees.
async fn ids(plane: &ControlPlane) -> Vec<String> {
    let told = plane.get("/task_ids").await;
    told["task_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn age(seconds: u64) -> impl FnOnce(&mut Config) {
    move |config| config.provisioning.never_contacted_age = Seconds::new(seconds)
}

/// Reloads a node with a changed option.
async fn reload(node: &Node, change: impl FnOnce(&mut Config)) {
    let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..node.config.clone() };
    change(&mut config);
    let reloaded = node.server().reload(config).await.unwrap();
    assert_eq!(reloaded.changed.len(), 1, "{reloaded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn removes_never_contacted_tasks_when_configured() {
    let mut node = managed(|config| {
        config.retention.sweep_interval = Seconds::millis(50);
        config.monitor.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
    })
    .await;
    let plane = ControlPlane::of(&node);
    let own = own(&node).await;
    let [touched, forgotten] = set_up(&plane, 2).await.try_into().unwrap();
    assert!(is_never_contacted(&node, &touched).await && is_never_contacted(&node, &forgotten).await);
    contact(&node, &touched).await;
    ask_for_keys(&node, &forgotten).await;
    assert!(is_never_contacted(&node, &forgotten).await);
    // A restart keeps both states.
    node.restart().await;
    assert!(!is_never_contacted(&node, &touched).await && is_never_contacted(&node, &forgotten).await);
    assert_eq!(node.status(&forgotten).await.provisioned.unwrap().removed_from, None);

    // A removal is announced, and the server must have run for the whole period.
    reload(&node, age(3600)).await;
    let provisioned = node.status(&forgotten).await.provisioned.unwrap();
    let from = provisioned.removed_from.unwrap();
    assert!(from >= provisioned.at.saturating_add(Duration(3600)) && from.0 <= provisioned.at.0 + 3600 + 60);
    assert_eq!(node.status(&touched).await.provisioned.unwrap().removed_from, None);
    let data_dir = node.config.data_dir.to_str().unwrap().to_owned();
    let shown = run(&["status", "--data-dir", &data_dir]).unwrap();
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words.matches("unless contacted").count(), 1, "{shown}");

    reload(&node, age(1)).await;
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    let metrics = format!("{}metrics", node.monitor());
    let is_counted = async || {
        let text = common::get(&metrics).await.unwrap().text().await.unwrap();
        text.lines().any(|line| line == "dapbox_never_contacted_tasks_removed_total 1")
    };
    while !is_counted().await {
        assert!(std::time::Instant::now() < deadline, "it stays");
        tokio::time::sleep(Span::from_millis(20)).await;
    }
    assert_eq!(ids(&plane).await, [touched.to_string()]);
    plane.expect("GET", format!("/tasks/{forgotten}"), None, 404).await;
    assert_eq!(node.status(&own).await.id, own);
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_removes_never_contacted_tasks() {
    let mut node = managed(|_| {}).await;
    let plane = ControlPlane::of(&node);
    let own = own(&node).await;
    let data_dir = node.config.data_dir.to_str().unwrap().to_owned();
    let sweep = |more: &[&str]| -> Result<Value, String> {
        let arguments = [&["task", "sweep", "-o", "json", "--data-dir", &data_dir], more].concat();
        run(&arguments).map(|text| serde_json::from_str(&text).unwrap())
    };
    // With and without a running server.
    for runs in [true, false] {
        let [touched, forgotten] = set_up(&plane, 2).await.try_into().unwrap();
        contact(&node, &touched).await;
        if !runs {
            node.stop().await;
        }
        let nothing = json!({ "tasks": [], "removed": false });
        assert_eq!(sweep(&["--never-contacted-for", "1h", "--yes"]), Ok(nothing.clone()));
        let found = json!({ "tasks": [forgotten], "removed": false });
        assert_eq!(sweep(&["--never-contacted-for", "0s", "--dry-run"]), Ok(found));
        // There is no terminal to confirm it.
        assert!(sweep(&["--never-contacted-for", "0s"]).unwrap_err().contains("--yes"));
        let removed = json!({ "tasks": [forgotten], "removed": true });
        assert_eq!(sweep(&["--never-contacted-for", "0s", "--yes"]), Ok(removed));
        assert_eq!(sweep(&["--never-contacted-for", "0s", "--yes"]), Ok(nothing));
        if !runs {
            node.resume().await;
        }
        plane.expect("GET", format!("/tasks/{forgotten}"), None, 404).await;
        plane.get(&format!("/tasks/{touched}")).await;
    }
    assert_eq!(node.status(&own).await.id, own);
}

/// The task may have been contacted after the backup.
#[tokio::test(flavor = "multi_thread")]
async fn keeps_restored_tasks() {
    let node = managed(|_| {}).await;
    let plane = ControlPlane::of(&node);
    let [id] = set_up(&plane, 1).await.try_into().unwrap();
    let data = node.config.data_dir.to_str().unwrap().to_owned();
    let [file, restored] = ["backup", "restored"].map(|name| format!("{data}.{name}"));
    let sweep = |data: &str| {
        let dry = ["task", "sweep", "--never-contacted-for", "0s", "--dry-run", "-o", "json", "--data-dir", data];
        serde_json::from_str::<Value>(&run(&dry).unwrap()).unwrap()["tasks"].clone()
    };
    assert_eq!(sweep(&data), json!([id]));
    run(&["backup", "--with-key", "--out", &file, "--data-dir", &data]).unwrap();
    run(&["restore", &file, "--data-dir", &restored]).unwrap();
    assert_eq!(sweep(&restored), json!([]));
}
