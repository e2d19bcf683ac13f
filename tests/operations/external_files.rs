//! Files of other software: Divvi Up's collector credential, and the task lists that Janus's tools provision from.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dapbox::{
    model::{BatchMode, Duration, Revision, TaskId, VdafConfig},
    support::clock,
    vdaf::Measurement,
    wire::management::task_list,
};
use janus_core::{
    auth_tokens::{AuthenticationToken, AuthenticationTokenHash},
    hpke::HpkeKeypair,
    vdaf::VdafInstance,
};
use janus_messages as janus;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{self, Pair};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
    command.args(arguments).env_remove("DAPBOX_CONFIG").output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(arguments: &[&str], code: i32) -> String {
    let output = run(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(&[arguments, &["-o", "json"]].concat())).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn collects_with_divvi_up_credential() {
    let pair = Pair::start(Revision::Dap09, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let parties = &pair.parties;
    let client = parties.client();
    for is_true in [1, 0, 1] {
        client.upload(Measurement::Number(is_true), None).await.unwrap();
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("collector-credential.json");
    let key = parties.keypair.config();
    let credential = json!({
        "id": key.id,
        "kem": "X25519HkdfSha256",
        "kdf": "Sha256",
        "aead": "AesGcm128",
        "public_key": URL_SAFE_NO_PAD.encode(&key.public_key),
        "private_key": URL_SAFE_NO_PAD.encode(parties.keypair.private_key().expose()),
        "token": parties.collector_token.expose_text().unwrap(),
    });
    fs::write(&path, credential.to_string()).unwrap();

    let (id, leader, file) = (parties.id().to_string(), parties.leader.public.leader_url.clone(), path.clone());
    let hour = clock::now().truncate(Duration(3600));
    let [since, until] =
        [hour.saturating_sub(Duration(7200)), hour.saturating_add(Duration(3600))].map(|time| time.0.to_string());
    tokio::task::spawn_blocking(move || {
        let client_file = client_file(dir.path(), &id, &leader);
        let id = format!("--task-id={id}");
        let stated = ["collect", "--credential", text(&file), &id, "--leader", &leader, "--vdaf", "count"];
        let interval = ["--since", &since, "--until", &until];
        let of_file = ["collect", "--credential", text(&file), "--task", text(&client_file)];
        // Missing options are named, and the credential does not override a file of `--task` that contradicts it.
        assert!(refused(&stated, 2).contains("--time-precision"));
        let error = refused(&[&stated[..], &["--time-precision", "1h"]].concat(), 2);
        assert!(error.contains("--since"), "{error}");
        for task in [&[&stated[..], &["--time-precision", "1h"]].concat(), &of_file[..]] {
            let collected = json(&[task, &interval[..]].concat());
            assert_eq!((&collected["result"], &collected["report_count"]), (&json!(2), &json!(3)), "{collected}");
        }

        collects_on_schedule(dir.path(), &file, &client_file, &id, &leader);
        refused(&[&stated[..], &["--task", "collector.toml"]].concat(), 2);
        let error = refused(&[&of_file[..], &["--vdaf", "count"]].concat(), 2);
        assert!(error.contains("the file of --task"), "{error}");
        refused(&["collect", "--leader", &leader], 2);
        let mut spoilt = credential.clone();
        spoilt["public_key"] = json!(URL_SAFE_NO_PAD.encode([9; 32]));
        fs::write(&file, spoilt.to_string()).unwrap();
        let error = refused(&[&stated[..], &["--time-precision", "1h", "--since", &since]].concat(), 1);
        assert!(error.contains("does not belong to the private key"), "{error}");
    })
    .await
    .unwrap();
    pair.stop().await;
}

/// `task add` makes a server the collector of the task, from stated parameters or from the clients' file.
fn collects_on_schedule(dir: &Path, credential: &Path, client_file: &Path, id: &str, leader: &str) {
    let (data, written, other) = (dir.join("data"), dir.join("collector.toml"), dir.join("other-data"));
    [&data, &other].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let add = ["task", "add", "--data-dir", text(&data), "--credential", text(credential)];
    let helper = file_value(client_file, "helper_url");
    let stated = [&add[..], &[id, "--leader", leader, "--vdaf", "count", "--time-precision", "1h"]].concat();
    assert!(refused(&stated, 2).contains("--helper"));
    let stated = [&stated[..], &["--helper", &helper]].concat();
    assert!(refused(&stated, 2).contains("--min-batch-size"));
    let stated = [&stated[..], &["--min-batch-size", "1", "--write", text(&written)]].concat();
    let added = json(&stated);
    assert_eq!((&added["role"], &added["done"]), (&json!("collector"), &json!("added")), "{added}");
    // The written file is the same task; its schedule may be changed.
    let again = ["task", "add", "--data-dir", text(&data), text(&written)];
    assert_eq!(json(&again)["done"], json!("unchanged"));
    let mut file: toml::Table = toml::from_str(&fs::read_to_string(&written).unwrap()).unwrap();
    file["schedule"]["every"] = "week".into();
    fs::write(&written, toml::to_string(&file).unwrap()).unwrap();
    assert_eq!(json(&again)["done"], json!("changed"));
    let of_file = ["task", "add", "--data-dir", text(&other), "--credential", text(credential), text(client_file)];
    assert_eq!(json(&of_file)["role"], json!("collector"));
}

/// A value of the table `task` of a task file.
fn file_value(path: &Path, name: &str) -> String {
    let file: toml::Table = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    file["task"][name].as_str().unwrap().to_owned()
}

/// The public parameters of a task, in a file as clients have it.
fn client_file(dir: &Path, id: &str, leader: &str) -> PathBuf {
    new_task(&dir.join("like-it"), &["--vdaf", "count"]);
    let path = dir.join("like-it/client.toml");
    let mut file: toml::Table = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    file["task"]["id"] = id.into();
    file["task"]["leader_url"] = leader.into();
    fs::write(&path, toml::to_string(&file).unwrap()).unwrap();
    path
}

/// How Janus's published crates read a task of a list; the other types of the format are private there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "that it is read is the point")]
struct Theirs {
    task_id: Option<janus::TaskId>,
    peer_aggregator_endpoint: url::Url,
    query_type: TheirQueryType,
    vdaf: VdafInstance,
    role: janus::Role,
    vdaf_verify_key: Option<String>,
    max_batch_query_count: u64,
    task_expiration: Option<janus::Time>,
    report_expiry_age: Option<janus::Duration>,
    min_batch_size: u64,
    time_precision: janus::Duration,
    tolerable_clock_skew: janus::Duration,
    collector_hpke_config: janus::HpkeConfig,
    aggregator_auth_token: Option<AuthenticationToken>,
    aggregator_auth_token_hash: Option<AuthenticationTokenHash>,
    collector_auth_token_hash: Option<AuthenticationTokenHash>,
    hpke_keys: Vec<HpkeKeypair>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
enum TheirQueryType {
    TimeInterval,
    FixedSize { max_batch_size: Option<u64>, batch_time_window_size: Option<janus::Duration> },
}

/// A task between two servers that need not exist, in its own directory.
fn new_task(out: &Path, more: &[&str]) {
    let urls = ["--leader", "https://leader.example", "--helper", "https://helper.example"];
    stdout(&[&["task", "new", "--out", text(out)], &urls[..], more].concat());
}

#[test]
fn exports_task_list_that_janus_reads() {
    let dir = TempDir::new().unwrap();
    let [first, second, out] = ["first", "second", "tasks.yaml"].map(|name| dir.path().join(name));
    new_task(&first, &["--vdaf", "count", "--expires", "2031-01-01"]);
    let windows = ["--query", "fixed-size", "--max-batch-size", "500", "--batch-time-window", "2h"];
    new_task(&second, &[&["--vdaf", "histogram", "--length", "10", "--epsilon", "0.5"], &windows[..]].concat());
    let files = [first.join("helper.toml"), second.join("leader.toml")];
    let export = ["task", "export", text(&files[0]), text(&files[1]), "--out", text(&out)];
    stdout(&export);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(refused(&export, 1).contains("exists"));

    let list = fs::read_to_string(&out).unwrap();
    assert!(list.starts_with("# ") && list.contains("SECRET"));
    let theirs: Vec<Theirs> = yaml_serde::from_str(&list).unwrap();
    let [helper, leader] = theirs.as_slice() else { panic!("{list}") };
    assert_eq!((helper.role, leader.role), (janus::Role::Helper, janus::Role::Leader));
    assert_eq!(helper.peer_aggregator_endpoint.as_str(), "https://leader.example/dap-09/");
    assert_eq!(leader.peer_aggregator_endpoint.as_str(), "https://helper.example/dap-09/");
    assert_eq!((&helper.vdaf, &helper.query_type), (&VdafInstance::Prio3Count, &TheirQueryType::TimeInterval));
    assert!(helper.task_expiration.is_some() && helper.aggregator_auth_token_hash.is_some());
    let window = Some(janus::Duration::from_seconds(7200));
    let sizes = TheirQueryType::FixedSize { max_batch_size: Some(500), batch_time_window_size: window };
    assert_eq!(leader.query_type, sizes);
    let VdafInstance::Prio3Histogram { length: 10, dp_strategy, .. } = &leader.vdaf else { panic!("{list}") };
    let strategy = json!({ "dp_strategy": "PureDpDiscreteLaplace", "budget": { "epsilon": [[1], [2]] } });
    assert_eq!(serde_json::to_value(dp_strategy).unwrap(), strategy);
    let file: toml::Value = toml::from_str(&fs::read_to_string(&files[1]).unwrap()).unwrap();
    assert_eq!(
        leader.aggregator_auth_token.as_ref().unwrap().as_str(),
        file["leader"]["helper_token"].as_str().unwrap()
    );
    assert!(leader.collector_auth_token_hash.is_some());
}

#[test]
fn imports_task_list_atomically() {
    let dir = TempDir::new().unwrap();
    let names = ["a", "b", "data", "tasks.yaml", "b.yaml", "new.yaml"];
    let [a, b, data, out, second, third] = names.map(|name| dir.path().join(name));
    for place in [&a, &b] {
        new_task(place, &["--vdaf", "sum", "--bits", "8"]);
    }
    let [of_a, of_b] = [a.join("helper.toml"), b.join("helper.toml")];
    stdout(&["task", "export", text(&of_a), text(&of_b), "--out", text(&out)]);
    fs::create_dir(&data).unwrap();
    let data = ["--data-dir", text(&data)];
    let import = |file: &Path, more: &[&str]| {
        let url = ["--url", "https://helper.example/dap-09/"];
        json(&[&["task", "import", file.to_str().unwrap()], more, &url[..], &data[..]].concat())
    };
    let listed = || json(&[&["task", "list"], &data[..]].concat()).as_array().unwrap().len();

    let error = refused(&[&["task", "import", text(&out)], &data[..]].concat(), 2);
    assert!(error.contains("--url"), "{error}");
    assert_eq!(import(&out, &["--dry-run"])["added"], json!(false));
    assert_eq!(listed(), 0);
    let imported = import(&out, &[]);
    assert_eq!((&imported["added"], imported["tasks"].as_array().unwrap().len()), (&json!(true), 2));
    assert_eq!(imported["tasks"][0]["role"], "helper");
    assert_eq!(listed(), 2);
    // The tasks are identical: adding them again, in either way, changes nothing.
    import(&out, &[]);
    for file in [&of_a, &of_b] {
        stdout(&[&["task", "add", text(file), "--role", "helper"], &data[..]].concat());
    }

    // A removed task blocks the whole list.
    let id = imported["tasks"][1]["task"].as_str().unwrap();
    let pasted: TaskId = id.parse().unwrap();
    let in_hex = data_encoding::HEXLOWER.encode(pasted.as_bytes());
    let now = clock::now().0.to_string();
    // A closed past survives, although the task was never used.
    stdout(&[&["task", "close", "--yes", &in_hex, "--before", &now], &data[..]].concat());
    stdout(&[&["task", "remove", "--yes", &in_hex], &data[..]].concat());
    let c = dir.path().join("c");
    new_task(&c, &["--vdaf", "count"]);
    stdout(&["task", "export", text(&c.join("helper.toml")), text(&of_b), "--out", text(&second)]);
    let arguments = ["task", "import", text(&second), "--url", "https://helper.example/dap-09/"];
    let error = refused(&[&arguments[..], &data[..]].concat(), 1);
    assert!(error.contains(id) && error.contains("was removed"), "{error}");
    assert_eq!(listed(), 1);

    // The keys of another aggregator are reported, not dropped silently.
    let keys = "hpke_keys:\n  - config: {id: 1, kem_id: X25519HkdfSha256, kdf_id: HkdfSha256, aead_id: Aes128Gcm, \
        public_key: bK5esYAgvRb7eWto4IlzDV5fMpmdTeO0K56sV-rf9xo}\n    \
        private_key: wFRYwiypcHC-mkGP1u3XQgIvtnlkQlUfZjgtM_zRsnI";
    stdout(&["task", "export", text(&of_a), "--out", text(&third)]);
    let list = fs::read_to_string(&third).unwrap();
    let with_keys = list.replace("hpke_keys: []", keys);
    assert_ne!(with_keys, list);
    fs::write(&third, with_keys).unwrap();
    let arguments = ["task", "import", text(&third), "--url", "https://helper.example/dap-09/"];
    assert!(refused(&[&arguments[..], &data[..]].concat(), 1).contains("--new-keys"));
    import(&third, &["--new-keys"]);
}

#[test]
fn refuses_to_export_inexpressible_task() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("tasks.yaml");
    let cases = [
        (&["--dap", "18", "--vdaf", "count"][..], "leader.toml", 1, "DAP-09"),
        (&["--vdaf", "multihot", "--length", "3", "--max-weight", "1"], "leader.toml", 1, "VDAF"),
        (&["--dap", "18", "--vdaf", "l1-bound-sum", "--length", "3", "--max-value", "5"], "leader.toml", 1, "DAP-09"),
        (&["--vdaf", "count"], "collector.toml", 2, "leader.toml or helper.toml"),
    ];
    for (index, (more, file, code, says)) in cases.into_iter().enumerate() {
        let task = dir.path().join(index.to_string());
        new_task(&task, more);
        let error = refused(&["task", "export", text(&task.join(file)), "--out", text(&out)], code);
        assert!(error.contains(says), "{error}");
        assert!(!out.exists());
    }
    let both = dir.path().join("both");
    new_task(&both, &["--vdaf", "count"]);
    let files = ["leader.toml", "helper.toml"].map(|name| both.join(name));
    let error = refused(&["task", "export", text(&files[0]), text(&files[1]), "--out", text(&out)], 2);
    assert!(error.contains("duplicate file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_task_list_into_running_server() {
    let mut node = common::Node::start().await;
    let dir = TempDir::new().unwrap();
    let data = node.config.data_dir.clone();
    tokio::task::spawn_blocking(move || {
        let out = dir.path().join("tasks.yaml");
        new_task(dir.path(), &["--vdaf", "count"]);
        stdout(&["task", "export", text(&dir.path().join("leader.toml")), "--out", text(&out)]);
        let data = ["--data-dir", text(&data)];
        let import = [&["task", "import", text(&out), "--url", "https://leader.example/dap-09/"], &data[..]].concat();
        let imported = json(&import);
        let id = imported["tasks"][0]["task"].as_str().unwrap().to_owned();
        let shown = json(&[&["task", "list"], &data[..]].concat());
        assert_eq!((&shown[0]["id"], &shown[0]["role"]), (&json!(id), &json!("leader")));
        // A different task with the same id is refused.
        let list = fs::read_to_string(&out).unwrap();
        fs::write(&out, list.replace("min_batch_size: 100", "min_batch_size: 101")).unwrap();
        assert!(refused(&import, 1).contains("other parameters"));

        // A list of the maximum length is added in one write.
        let entry = list.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let entry = |_| format!("{}\n", entry.replace(&id, &TaskId::random().to_string()));
        let long: String = (0..task_list::MAX_TASKS).map(entry).collect();
        fs::write(&out, &long).unwrap();
        assert_eq!(json(&import)["tasks"].as_array().unwrap().len(), task_list::MAX_TASKS);
        assert_eq!(json(&[&["task", "list"], &data[..]].concat()).as_array().unwrap().len(), 1 + task_list::MAX_TASKS);
        fs::write(&out, format!("{long}{list}")).unwrap();
        assert!(refused(&import, 1).contains("more than 1000"));
        // Duplicates are an error.
        fs::write(&out, format!("{list}{list}")).unwrap();
        assert!(refused(&import, 1).contains("more than once"));
    })
    .await
    .unwrap();
    node.stop().await;
}
