//! Adding tasks: files of the other aggregator, local names, and the traces of removed tasks.

use std::{fs, net::TcpListener};

use super::{
    sandbox::{Sandbox, free_port},
    terminal::Terminal,
};
use crate::common::skip::has_programs;

/// Makes a task with this leader URL and a helper elsewhere.
fn new_task(sandbox: &Sandbox, leader: &str, more: &[&str]) -> String {
    let fixed = ["task", "new", "--leader", leader, "--helper", "https://helper.example", "--vdaf", "histogram"];
    let rest = ["--length", "3", "--min-batch-size", "2", "-o", "json"];
    sandbox.succeed(&[&fixed[..], &rest, more].concat()).json()["task"].as_str().unwrap().to_owned()
}

#[test]
fn refuses_file_of_other_aggregator() {
    let mut sandbox = Sandbox::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let leader = format!("http://{listen}");
    new_task(&sandbox, &leader, &[]);
    fs::write(sandbox.path("appliance.toml"), format!("data_dir = \"data\"\nlisten = \"{listen}\"\n")).unwrap();
    let running = sandbox.serve();
    let add = |sandbox: &Sandbox, file: &str, more: &[&str]| sandbox.run(&[&["task", "add", file], more].concat());

    // Without `public_url` the server's own address decides.
    let refused = add(&sandbox, "helper.toml", &[]);
    assert!(refused.code == 1 && refused.stderr.contains("https://helper.example/dap-09/"), "{}", refused.stderr);
    let refused = add(&sandbox, "leader.toml", &["--role", "helper"]);
    assert!(refused.code == 2 && refused.stderr.contains("this is the leader's file"), "{}", refused.stderr);
    assert_eq!(sandbox.succeed(&["task", "list", "-o", "json"]).json(), serde_json::json!([]));
    sandbox.succeed(&["task", "add", "leader.toml"]);
    drop(running);

    // An ambiguous address without a terminal.
    fs::write(sandbox.path("appliance.toml"), "data_dir = \"data\"\nlisten = \"127.0.0.1:1\"\n").unwrap();
    let refused = add(&sandbox, "leader.toml", &[]);
    assert!(refused.code == 2 && refused.stderr.contains("--role leader"), "{}", refused.stderr);
    assert_eq!(add(&sandbox, "leader.toml", &["--role", "leader"]).code, 0);

    // With `public_url` only that decides.
    sandbox.set("DAPBOX_PUBLIC_URL", "https://helper.example");
    let refused = add(&sandbox, "leader.toml", &["--role", "leader"]);
    assert!(refused.code == 1 && refused.stderr.contains("public_url is https://helper.example"), "{}", refused.stderr);
    assert_eq!(add(&sandbox, "leader.toml", &["--any-url"]).code, 0);
}

#[test]
fn asks_for_role_of_ambiguous_file() {
    if !has_programs(&["script"]) {
        return;
    }
    let sandbox = Sandbox::new();
    new_task(&sandbox, "https://leader.example", &[]);
    fs::create_dir(sandbox.path("data")).unwrap();
    for (answer, code) in [("no\r", 1), ("yes\r", 0)] {
        let mut terminal = Terminal::run(&sandbox, "task add leader.toml --data-dir data");
        terminal.answer("leader is at https://leader.example/dap-09/. Is that this server?", answer);
        let (ended, shown) = terminal.end();
        assert_eq!(ended, code, "{shown}");
    }
}

#[test]
fn leaves_tombstone_of_used_task_only() {
    let sandbox = Sandbox::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let id = new_task(&sandbox, &format!("http://{listen}"), &[]);
    fs::write(sandbox.path("appliance.toml"), format!("data_dir = \"data\"\nlisten = \"{listen}\"\n")).unwrap();
    let remove = |directory: &str| {
        let removed = sandbox.succeed(&["task", "remove", &id, "--yes", "-o", "json", "--data-dir", directory]);
        removed.json()["tombstone"].as_bool().unwrap()
    };
    let add = |more: &[&str]| sandbox.run(&[&["task", "add"], more].concat()).code;

    // The wrong file was added, then the right one; the wrong task has a name and other tokens by then.
    let running = sandbox.serve();
    assert_eq!(add(&["helper.toml", "--any-url", "--name", "wrong"]), 0);
    assert_eq!(add(&["leader.toml"]), 1, "another task with this id is there");
    assert!(!remove("data"));
    assert_eq!(add(&["leader.toml"]), 0);
    let shown = sandbox.succeed(&["task", "show", &id, "-o", "json"]).json();
    assert_eq!((shown["role"].as_str(), shown["name"].as_str()), (Some("leader"), None), "{shown:#}");
    drop(running);

    // The same without a server.
    assert!(!remove("data"));
    assert_eq!(add(&["leader.toml"]), 0);

    // A restored directory does not know whether the task was used.
    sandbox.succeed(&["backup", "--out", "a.backup"]);
    sandbox.succeed(&["restore", "a.backup", "--key-file", "data/secrets.key", "--data-dir", "restored"]);
    assert!(remove("restored"));
    assert_eq!(add(&["leader.toml", "--data-dir", "restored"]), 1);

    // Once a request has named it, its removal leaves a tombstone, over a restart too.
    let running = sandbox.serve();
    let upload = client().put(format!("http://{listen}/dap-09/tasks/{id}/reports"));
    assert_eq!(answer(upload.header("content-type", "application/dap-report").body("no report")).0, 400);
    drop(running);
    let running = sandbox.serve();
    assert!(remove("data"));
    let refused = sandbox.run(&["task", "add", "leader.toml"]);
    assert!(refused.code == 1 && refused.stderr.contains("was removed"), "{}", refused.stderr);
    drop(running);
}

#[test]
fn refused_request_counts_as_use() {
    let sandbox = Sandbox::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let id = new_task(&sandbox, &format!("http://{listen}"), &["--dap", "18"]);
    fs::write(sandbox.path("appliance.toml"), format!("data_dir = \"data\"\nlisten = \"{listen}\"\n")).unwrap();
    let _running = sandbox.serve();
    sandbox.succeed(&["task", "add", "leader.toml"]);
    // A request for keys is no use of a task.
    let base = format!("http://{listen}/dap-18");
    assert_eq!(ask(reqwest::Method::GET, &format!("{base}/hpke_config")).0, 200);
    let remove = || sandbox.succeed(&["task", "remove", &id, "--yes", "-o", "json"]).json()["tombstone"].clone();
    assert_eq!(remove(), false);
    sandbox.succeed(&["task", "add", "leader.toml"]);
    assert_eq!(ask(reqwest::Method::POST, &format!("{base}/tasks/{id}/collection_jobs")).0, 403);
    assert_eq!(remove(), true);
}

#[test]
fn shows_local_name_everywhere() {
    let mut sandbox = Sandbox::new();
    let (port, monitor) = (free_port(), free_port());
    let listen = format!("127.0.0.1:{port}");
    let id = new_task(&sandbox, &format!("http://{listen}"), &["--name", "Page load times"]);
    assert!(!sandbox.read("client.toml").contains("Page load"), "the file is public");
    for file in ["leader.toml", "helper.toml", "collector.toml"] {
        assert!(sandbox.read(file).contains("name = \"Page load times\""), "{file}");
    }
    fs::write(sandbox.path("appliance.toml"), format!("data_dir = \"data\"\nlisten = \"{listen}\"\n")).unwrap();
    sandbox.set("DAPBOX_MONITOR__LISTEN", &format!("127.0.0.1:{monitor}"));
    let running = sandbox.serve_watched();
    sandbox.succeed(&["task", "add", "leader.toml"]);
    let shown = |name: &str| {
        for arguments in [&["task", "list"][..], &["task", "show", name], &["status"], &["status", name]] {
            let said = sandbox.succeed(arguments);
            assert!(said.stdout.contains(name), "{arguments:?}: {}", said.stdout);
        }
        for path in ["", "status.json", "metrics"] {
            let body = get(&format!("http://127.0.0.1:{monitor}/{path}"));
            assert!(body.contains(name), "{path}: {body}");
        }
    };
    shown("Page load times");
    sandbox.succeed(&["task", "rename", "Page load times", "Checkout (EU)"]);
    shown("Checkout (EU)");
    // Adding it again keeps the operator's name.
    sandbox.succeed(&["task", "add", "leader.toml"]);
    shown("Checkout (EU)");
    drop(running);
    let listed = sandbox.succeed(&["task", "list"]).stdout;
    assert!(listed.contains("Checkout (EU)"), "{listed}");
    sandbox.succeed(&["task", "rename", &id[..8], "--none"]);
    assert_eq!(sandbox.succeed(&["task", "show", &id, "-o", "json"]).json()["name"], serde_json::Value::Null);
    for name in ["", "a\nb", "<b>", &"x".repeat(65)] {
        assert_eq!(sandbox.run(&["task", "rename", &id, name]).code, 2, "{name:?}");
    }
}

/// The answer of a server at a URL.
fn get(url: &str) -> String {
    ask(reqwest::Method::GET, url).1
}

/// The status and the body of an answer.
fn ask(method: reqwest::Method, url: &str) -> (u16, String) {
    answer(client().request(method, url))
}

/// Without the proxies of the tests' environment.
fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn answer(request: reqwest::RequestBuilder) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}

#[test]
fn leaves_no_data_directory_when_port_is_taken() {
    let mut sandbox = Sandbox::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (listen, monitor, management) in
        [(taken.as_str(), "", ""), ("127.0.0.1:0", taken.as_str(), ""), ("127.0.0.1:0", "", taken.as_str())]
    {
        sandbox.set("DAPBOX_MONITOR__LISTEN", monitor);
        sandbox.set("DAPBOX_MANAGEMENT__LISTEN", management);
        sandbox.set("DAPBOX_PUBLIC_URL", "https://helper.example");
        let said = sandbox.run(&["serve", "--listen", listen, "--data-dir", "data"]);
        assert!(said.code == 1 && said.stderr.contains(&taken), "{}", said.stderr);
        assert!(!sandbox.path("data").exists(), "{}", said.stderr);
    }
}

#[test]
fn serves_landing_page() {
    let mut sandbox = Sandbox::new();
    let listen = format!("127.0.0.1:{}", free_port());
    fs::write(sandbox.path("appliance.toml"), format!("data_dir = \"data\"\nlisten = \"{listen}\"\n")).unwrap();
    sandbox.set("DAPBOX_PUBLIC_URL", "https://helper.example");
    let _running = sandbox.serve();
    for path in ["", "dap-09/", "dap-18"] {
        let page = get(&format!("http://{listen}/{path}"));
        for part in ["<!DOCTYPE html>", "https://helper.example/dap-09/hpke_config", "https://helper.example/dap-18/"] {
            assert!(page.contains(part), "{path}: {page}");
        }
    }
    assert!(get(&format!("http://{listen}/else")).contains("\"status\":404"));
}

#[test]
fn wraps_lines_at_terminal_width() {
    if !has_programs(&["script", "stty"]) {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("data")).unwrap();
    let widest = |columns: usize| {
        let arguments = "doctor --offline --data-dir data";
        let (_, shown) = Terminal::run_in(&sandbox, arguments, &format!("stty rows 24 cols {columns};")).end();
        let words: Vec<_> = shown.split_whitespace().collect();
        assert!(words.join(" ").contains("no server uses this data directory"), "{shown}");
        // The spinner ends at the first finding.
        let (_, findings) = shown.split_once("configuration").unwrap();
        findings.lines().skip(1).map(|line| line.chars().count()).max().unwrap()
    };
    let (narrow, wide) = (widest(60), widest(160));
    assert!(narrow <= 60 && wide > 80 && wide <= 160, "{narrow} {wide}");
}

#[test]
fn draws_charts_in_locale_characters() {
    let mut sandbox = Sandbox::new();
    for (locale, has_blocks) in [("C", false), ("C.UTF-8", true), ("de_DE.ISO-8859-1", false)] {
        sandbox.set("LC_ALL", locale);
        let said = sandbox.succeed(&["demo", "--vdaf", "histogram", "--rows", "50"]);
        assert_eq!(said.stdout.is_ascii(), !has_blocks, "{locale}: {}", said.stdout);
        assert!(said.stdout.contains(if has_blocks { "██" } else { "##" }), "{locale}: {}", said.stdout);
    }
}
