//! The published JavaScript client uploads to a real leader and helper as a browser runs it, and our collector gets its
//! reports. The interop runner drives it, too. Cross-origin requests of browsers are tested here as well.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use dapbox::{
    model::{BatchMode, MaxMeasurement, Report, Revision, Task, VdafConfig},
    support::clock,
    vdaf::{AggregateResult, Measurement},
};
use serde_json::{Value, json};

use crate::common::{
    Pair, TEST_TIMEOUT,
    child::Running,
    relay::query,
    report_builder::{ReportBuilder, other_config_id},
    skip::{has_programs, is_ci, skip},
};

/// Installed once for all tests.
static INSTALLED: LazyLock<Result<PathBuf, String>> = LazyLock::new(install);

/// The client's directory. If it cannot be installed, the test is skipped and must return.
async fn installed() -> Option<&'static Path> {
    if !has_programs(&["node", "npm"]) {
        return None;
    }
    match tokio::task::spawn_blocking(|| INSTALLED.as_deref()).await.unwrap() {
        Ok(dir) => Some(dir),
        Err(why) if is_ci() => panic!("the JavaScript client cannot be installed: {why}"),
        Err(why) => {
            skip(&format!("the JavaScript client cannot be installed: {why}"));
            None
        }
    }
}

/// The client's directory with its installed packages, or the reason why there is none.
fn install() -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser_client");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser_client");
    let copy = || -> io::Result<(File, bool)> {
        fs::create_dir_all(&dir)?;
        // Tests may run in several processes.
        let installing = File::create(dir.join("installing"))?;
        installing.lock()?;
        let lock = "package-lock.json";
        let is_installed = dir.join("node_modules/.package-lock.json").exists()
            && fs::read(dir.join(lock)).is_ok_and(|old| fs::read(source.join(lock)).is_ok_and(|new| new == old));
        for name in ["package.json", lock, ".npmrc", "upload.mjs", "interop.mjs"] {
            fs::copy(source.join(name), dir.join(name))?;
        }
        Ok((installing, is_installed))
    };
    let (installing, is_installed) = copy().map_err(|error| format!("copying to {}: {error}", dir.display()))?;
    if !is_installed {
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&dir))?;
    }
    installing.unlock().map_err(|error| error.to_string())?;
    Ok(dir)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Uploads with the JavaScript client; returns the outcome of each measurement.
fn upload(dir: &Path, parameters: &Value) -> Vec<Value> {
    let mut command = Command::new("node");
    command.arg("upload.mjs").current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(parameters.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_ne!(output.status.code(), Some(2), "the parameters are no good: {parameters}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn parameters(pair: &Pair, vdaf: &Value, measurements: &Value) -> Value {
    json!({
        "taskId": pair.parties.id(),
        "leader": pair.leader.url(Revision::Dap09),
        "helper": pair.helper.url(Revision::Dap09),
        "vdaf": vdaf,
        "timePrecisionSeconds": pair.parties.leader.public.time_precision,
        "measurements": measurements,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_client_uploads() {
    let Some(dir) = installed().await else { return };
    let cases = [
        (VdafConfig::Prio3Count, json!({"type": "count"}), json!([true, false, true]), AggregateResult::Number(2)),
        (
            VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) },
            json!({"type": "sum", "bits": 8}),
            json!([255, 0, 3]),
            AggregateResult::Number(258),
        ),
        (
            VdafConfig::Prio3Histogram { length: 4, chunk_length: 2 },
            json!({"type": "histogram", "length": 4, "chunkLength": 2}),
            json!([0, 3, 3]),
            AggregateResult::Vector(vec![1, 0, 0, 2]),
        ),
        (
            VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(2), length: 3, chunk_length: 2 },
            json!({"type": "sumVec", "bits": 2, "length": 3, "chunkLength": 2}),
            json!([[3, 0, 1], [1, 2, 3], [0, 0, 0]]),
            AggregateResult::Vector(vec![4, 2, 4]),
        ),
    ];
    let modes = [BatchMode::TimeInterval, BatchMode::fixed_size(Some(3))];
    for ((vdaf, theirs, measurements, expected), mode) in cases.into_iter().zip(modes.into_iter().cycle()) {
        let of_three = |task: &mut Task| task.public.min_batch_size = 3;
        let pair = Pair::start_with(Revision::Dap09, vdaf.clone(), mode, |_| {}, of_three).await;
        let given = parameters(&pair, &theirs, &measurements);
        let uploaded = upload(dir, &given);
        assert_eq!(uploaded, [0, 1, 2].map(|index| json!({"index": index, "ok": true})));
        let collected =
            pair.parties.collector().collect(query(&pair.parties), Some(TEST_TIMEOUT), |_| {}).await.unwrap();
        assert_eq!((collected.report_count, collected.result), (3, expected), "{vdaf:?}");
        pair.stop().await;
    }
    problems_are_understood(dir).await;
}

/// The JavaScript client recognizes our problem types (DAP-09 section 3.2).
async fn problems_are_understood(dir: &Path) {
    let pair = Pair::start(Revision::Dap09, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let mut early = parameters(&pair, &json!({"type": "count"}), &json!([true]));
    let mut unknown = early.clone();
    early["timestamp"] = json!(clock::now().0 + 86_400);
    unknown["taskId"] = json!(dapbox::model::TaskId::random());
    for (given, kind) in [(early, "reportTooEarly"), (unknown, "unrecognizedTask")] {
        let result = &upload(dir, &given)[0];
        assert_eq!(result["ok"], false);
        assert_eq!(result["type"], format!("urn:ietf:params:ppm:dap:error:{kind}"), "{result}");
    }
    assert_eq!(pair.leader.counter(&pair.parties.id(), "report_success").await, 0);
    pair.stop().await;
}

/// The client as a process with the interop test API.
struct Served {
    url: String,
    _process: Running,
}

impl Served {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new("node");
        command.arg("interop.mjs").current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Running::spawn(&mut command);
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { url: url.trim().to_owned(), _process: process }
    }
}

/// The interop runner uploads every VDAF with it. Unknown ones are not supported, and no cell fails.
#[tokio::test(flavor = "multi_thread")]
async fn runner_drives_javascript_client() {
    let Some(dir) = installed().await else { return };
    let run = move || {
        let client = Served::start(dir);
        let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
        command.args(["interop", "run", "--client", &client.url, "-o", "json"]).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let facts: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(output.status.success(), "{}{facts:#}", String::from_utf8_lossy(&output.stderr));
    let cells = facts["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 38);
    for cell in cells {
        let is_unknown = ["multihot", "sumvec-hmac"].iter().any(|row| cell["row"] == *row);
        assert_eq!(cell["verdict"], if is_unknown { "not supported" } else { "ok" }, "{cell}");
    }
}

/// A page of another origin may read every answer of `hpke_config` and of uploads, including errors, because a client
/// must learn that its keys are outdated. It may read nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn answers_cross_origin_requests() {
    let pair = Pair::start(Revision::Dap09, VdafConfig::Prio3Count, BatchMode::TimeInterval).await;
    let (http, id, url) =
        (reqwest::Client::builder().no_proxy().build().unwrap(), pair.parties.id(), pair.leader.url(Revision::Dap09));
    let builder = ReportBuilder::new(&pair.parties).await;
    let encode = |report: &Report| pair.parties.wire().encode_upload(pair.parties.task(), std::slice::from_ref(report));
    let mut report = builder.report(&Measurement::Flag(true), clock::now());
    let good = encode(&report);
    report.leader_share.config_id = other_config_id(&builder.keys.leader);
    let outdated = encode(&report);

    let reports = format!("{url}tasks/{id}/reports");
    let put = |body: Vec<u8>, media_type: &str| http.put(&reports).header("content-type", media_type).body(body);
    let a_type = "application/dap-report";
    let collection = format!("{url}tasks/{id}/collection_jobs/AAAAAAAAAAAAAAAAAAAAAA");
    for (name, request, status, kind, is_open) in [
        ("keys", http.get(format!("{url}hpke_config?task_id={id}")), 200, None, true),
        ("keys of no task", http.get(format!("{url}hpke_config?task_id=x")), 400, Some("invalidMessage"), true),
        ("upload", put(good, a_type), 200, None, true),
        ("outdated upload", put(outdated, a_type), 400, Some("outdatedConfig"), true),
        ("garbage", put(vec![1, 2, 3], a_type), 400, Some("invalidMessage"), true),
        ("another type", put(Vec::new(), "text/plain"), 415, None, true),
        ("another method", http.post(&reports), 405, None, true),
        ("collection", http.post(&collection), 403, Some("unauthorizedRequest"), false),
    ] {
        let answer = request.header("origin", "https://example.com").send().await.unwrap();
        assert_eq!(answer.status(), status, "{name}");
        let allowed = answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap());
        assert_eq!(allowed, is_open.then_some("*"), "{name}");
        if let Some(kind) = kind {
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["type"], format!("urn:ietf:params:ppm:dap:error:{kind}"), "{name}");
        }
    }

    // A browser's preflight request.
    let preflight = http.request(reqwest::Method::OPTIONS, &reports).header("origin", "https://example.com");
    let preflight = preflight.header("access-control-request-method", "PUT");
    let answer = preflight.header("access-control-request-headers", "content-type").send().await.unwrap();
    assert!(answer.status().is_success());
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("access-control-allow-origin"), "*");
    assert_eq!(header("access-control-allow-methods"), "PUT");
    assert_eq!(header("access-control-allow-headers"), "content-type, dap-taskprov");
    pair.stop().await;
}
