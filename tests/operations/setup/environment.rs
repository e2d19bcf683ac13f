//! The environment of a server: foreign variables, paths, encodings, pasted URLs, and proxies.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    process::Stdio,
    time::SystemTime,
};

use dapbox::{
    hpke::{Keypair, Suite},
    model::Revision,
    wire,
};

use super::sandbox::{Authority, CommandOutput, Findings, Sandbox, answering, free_port};
use crate::common::child;

/// The findings of `check` for these arguments and this variable.
fn check(sandbox: &Sandbox, arguments: &[&OsStr], variable: Option<(&str, &OsStr)>) -> (CommandOutput, Findings) {
    let mut command = sandbox.command(&["check", "-o", "json"]);
    let said = CommandOutput::from(command.args(arguments).envs(variable).output().unwrap());
    let found = Findings::new(said.json()["findings"].clone());
    (said, found)
}

#[test]
fn ignores_variables_of_kubernetes_services() {
    let mut sandbox = Sandbox::new();
    for (name, value) in [
        ("DAPBOX_PORT", "tcp://10.0.0.7:8080"),
        ("DAPBOX_SERVICE_HOST", "10.0.0.7"),
        ("DAPBOX_SERVICE_PORT_HTTP", "8080"),
        ("DAPBOX_X_PORT_8080_TCP_ADDR", "10.0.0.7"),
    ] {
        sandbox.set(name, value);
    }
    sandbox.succeed(&["check"]);
    let mut command = sandbox.command(&["serve", "--listen", "localhost:0", "--data-dir", "data"]);
    command.env("DAPBOX_DISK__RESERVE_BYTES", "0").env("DAPBOX_DISK__BALLAST_BYTES", "0");
    command.env("DAPBOX_MONITOR__LISTEN", "").env("DAPBOX_LOG__FORMAT", "json");
    let mut server = child::Running::spawn(command.stderr(Stdio::piped()));
    let mut lines = Vec::new();
    for line in BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok) {
        let is_last = line.contains("\"serving\"");
        lines.push(line);
        if is_last {
            break;
        }
    }
    drop(server);
    let about: Vec<_> = lines.iter().filter(|line| line.contains("DAPBOX_")).collect();
    assert!(lines.last().unwrap().contains("127.0.0.1:") && about.len() == 1, "{lines:#?}");
    assert!(about[0].contains("DAPBOX_PORT DAPBOX_SERVICE_HOST DAPBOX_SERVICE_PORT_HTTP DAPBOX_X_PORT_8080_TCP_ADDR"));

    sandbox.set("DAPBOX_PROT", "8080");
    assert_eq!(sandbox.run(&["check"]).code, 1, "another name with our prefix is refused");
}

#[test]
fn refuses_values_and_paths_that_are_not_utf8() {
    let sandbox = Sandbox::new();
    let bytes = OsStr::from_bytes(b"127.0.0.1:1\xff");
    let (_, found) = check(&sandbox, &[], Some(("DAPBOX_LISTEN", bytes)));
    found.expect("configuration", "", "failed", "environment variable DAPBOX_LISTEN is not UTF-8");
    let flag = [OsStr::new("--data-dir"), bytes];
    let (_, found) = check(&sandbox, &flag, None);
    found.expect("configuration", "", "failed", "is not UTF-8 text; choose another path");
    for command in ["serve", "doctor", "init"] {
        let said = CommandOutput::from(sandbox.command(&[command]).args(flag).output().unwrap());
        assert!(said.code > 0 && said.stderr.contains("is not UTF-8 text"), "{command}: {}", said.stderr);
        assert!(!said.stderr.contains("panicked"), "{command}: {}", said.stderr);
    }
}

#[test]
fn listens_on_localhost_and_explains_addresses() {
    let sandbox = Sandbox::new();
    let said = sandbox.succeed(&["check", "--listen", "localhost:8099"]);
    assert!(said.stdout.contains("127.0.0.1:8099"), "{}", said.stdout);
    let said = sandbox.run(&["serve", "--listen", "dap.example.org:8080"]);
    assert!(said.code == 2 && said.stderr.contains("write an IP address and a port"), "{}", said.stderr);
    fs::write(sandbox.path("appliance.toml"), "listen = \":8080\"\n").unwrap();
    let (_, found) = check(&sandbox, &[], None);
    found.expect("configuration", "", "failed", "write an IP address and a port");
}

/// The path of a socket may have 108 bytes.
#[test]
fn serves_from_long_path() {
    let mut sandbox = Sandbox::new();
    let data = sandbox.path(&"d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(data.parent().unwrap()).unwrap();
    sandbox.set("DAPBOX_DATA_DIR", data.to_str().unwrap());
    sandbox.set("DAPBOX_LISTEN", "127.0.0.1:0");
    sandbox.succeed(&["check"]);
    let _running = sandbox.serve();
    assert_eq!(sandbox.succeed(&["task", "list", "-o", "json"]).json(), serde_json::json!([]));
    sandbox.succeed(&["status"]);
    let (_, found) = sandbox.doctor(&["--offline"]);
    found.expect("server", "", "ok", "");
}

#[test]
fn skips_byte_order_marks() {
    let sandbox = Sandbox::new();
    let authority = Authority::new();
    authority.issue_files(&sandbox, "good", &["dap.example.org"], 80);
    authority.write(&sandbox);
    let config = "data_dir = \"data\"\nlisten = \"127.0.0.1:0\"\n[tls]\nmode = \"files\"\ncertificate_file = \"good.pem\"\n\
                  key_file = \"good.key\"\n[peer]\nca_file = \"root.pem\"\n[secrets]\nkey_file = \"secret\"\n";
    fs::write(sandbox.path("appliance.toml"), config).unwrap();
    fs::write(sandbox.path("secret"), format!("{}\n", "A".repeat(43))).unwrap();
    sandbox.succeed(&[
        "task",
        "new",
        "--leader",
        "http://127.0.0.1:1",
        "--helper",
        "http://127.0.0.1:2",
        "--vdaf",
        "count",
        "--out",
        "task",
    ]);
    for name in ["appliance.toml", "good.pem", "good.key", "root.pem", "secret", "task/leader.toml"] {
        let path = sandbox.path(name);
        fs::write(&path, [&b"\xef\xbb\xbf"[..], &fs::read(&path).unwrap()].concat()).unwrap();
    }
    for name in ["good.key", "secret"] {
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (said, found) = check(&sandbox, &[], None);
    assert_eq!(said.code, 0, "{}", said.stdout);
    found.expect("certificate", "", "ok", "80 days");
    found.expect("peer roots", "", "ok", "root.pem");
    let running = sandbox.serve();
    sandbox.succeed(&["task", "add", "task/leader.toml", "--any-url"]);
    drop(running);
}

/// Surrounding blanks are trimmed. URLs that parsers read differently are refused, in files and flags.
#[test]
fn stores_urls_as_parsed() {
    let mut sandbox = Sandbox::new();
    sandbox.set("DAPBOX_DATA_DIR", "data");
    let new = ["task", "new", "--vdaf", "count", "--out"];
    let (leader, helper) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
    sandbox.succeed(&[&new[..], &["task", "--leader", &format!(" {leader} "), "--helper", helper]].concat());
    for url in [
        "http://127.0.0.1:3/?x",
        "http://a:b@127.0.0.1:3",
        "http://127.0.0.1:3/a b",
        "http:127.0.0.1",
        &format!("{leader}/"),
    ] {
        let said = sandbox.run(&[&new[..], &["bad", "--leader", leader, "--helper", url]].concat());
        assert!(said.code == 2 && !sandbox.path("bad").exists(), "{url}: {}", said.stderr);
    }
    let file = sandbox.read("task/leader.toml");
    let line = format!("helper_url = \"{helper}/dap-09/\"");
    assert!(file.contains(&format!("leader_url = \"{leader}/dap-09/\"")) && file.contains(&line), "{file}");
    for (url, why) in [
        (format!("{helper}/dap-\\n09/"), "line breaks"),
        (format!("{helper}/dap-09/#x"), "fragment"),
        (format!("{leader}/dap-09"), "different URLs"),
    ] {
        fs::write(sandbox.path("bad.toml"), file.replace(&line, &format!("helper_url = \"{url}\""))).unwrap();
        let said = sandbox.run(&["task", "add", "bad.toml"]);
        assert!(said.code == 1 && said.stderr.contains(why), "{url}: {}", said.stderr);
    }
    fs::create_dir(sandbox.path("data")).unwrap();
    let blanks = file.replace(&line, &format!("helper_url = \"  {helper}/dap-09/\\n\""));
    fs::write(sandbox.path("blanks.toml"), blanks).unwrap();
    sandbox.succeed(&["task", "add", "blanks.toml", "--role", "leader"]);
    let tasks = sandbox.succeed(&["task", "list", "-o", "json"]).json();
    assert_eq!(tasks[0]["helper_url"], format!("{helper}/dap-09/"), "{tasks}");

    sandbox.set("DAPBOX_PUBLIC_URL", " https://dap.example.org\n");
    sandbox.succeed(&["check"]);
    sandbox.set("DAPBOX_PUBLIC_URL", "https://dap.exam\nple.org");
    assert_eq!(sandbox.run(&["check"]).code, 1);
}

/// Proxies of the environment: never used for this machine, named in errors, and the doctor uses those of the server.
#[test]
fn doctor_uses_proxies_of_server() {
    let key = Keypair::generate(1, Suite::DEFAULT).unwrap();
    let keys = wire::for_revision(Revision::Dap09).encode_hpke_configs(&[key.config().clone()]);
    let answers = || answering("application/dap-hpke-config-list", &httpdate::fmt_http_date(SystemTime::now()), &keys);
    let (near, proxy) = (answers(), answers());
    let mut sandbox = Sandbox::new();
    sandbox.set("DAPBOX_LISTEN", "127.0.0.1:0");
    sandbox.succeed(&["init", "--yes"]);
    sandbox.lead("near", &format!("http://{near}"));
    // An address for documentation (RFC 5737): only a proxy answers.
    sandbox.lead("far", "http://192.0.2.1");
    let far = "http://192.0.2.1/dap-09/";

    let closed = format!("http://user:secret@127.0.0.1:{}", free_port());
    sandbox.set("HTTP_PROXY", &closed);
    let (_, found) = sandbox.doctor(&["--timeout", "2s"]);
    found.expect("peer keys", &format!("http://{near}/dap-09/"), "ok", "the helper offers");
    found.expect(
        "peer keys",
        far,
        "failed",
        &format!("through the proxy {} (HTTP_PROXY)", closed.replace("user:secret@", "")),
    );
    found.expect("proxies", "", "ok", "this program connects through");

    // The server's environment has another proxy than the doctor's.
    sandbox.set("HTTP_PROXY", &format!("http://{proxy}"));
    let _running = sandbox.serve();
    sandbox.set("HTTP_PROXY", &closed);
    let (_, found) = sandbox.doctor(&["--timeout", "2s"]);
    found.expect("peer keys", far, "ok", "the helper offers");
    found.expect("peer name", "192.0.2.1", "ok", &format!("through the proxy http://{proxy} (HTTP_PROXY)"));
    found.expect("proxies", "", "ok", "the server connects through");
}

#[test]
fn refuses_unusable_proxies() {
    let mut sandbox = Sandbox::new();
    sandbox.set("DAPBOX_LISTEN", "127.0.0.1:0");
    sandbox.succeed(&["init", "--yes"]);
    sandbox.lead("far", "http://192.0.2.1");
    sandbox.set("ALL_PROXY", "socks5h://user:secret@127.0.0.1:1080");
    let (code, found) = sandbox.doctor(&["--timeout", "2s"]);
    found.expect("proxies", "", "failed", "ALL_PROXY: unsupported proxy scheme socks5h://");
    found.expect("peer keys", "http://192.0.2.1/dap-09/", "failed", "socks5h://");
    assert_eq!(code, 1);
    let new = ["task", "new", "--leader", "https://192.0.2.1", "--helper", "https://192.0.2.2", "--vdaf", "count"];
    sandbox.succeed(&[&new[..], &["--out", "task"]].concat());
    let said = sandbox.run(&["upload", "--task", "task/client.toml", "true"]);
    assert!(said.code == 1 && said.stderr.contains("ALL_PROXY"), "{}", said.stderr);
    assert!(said.stderr.contains("socks5h://") && !said.stderr.contains("secret"), "{}", said.stderr);
}
