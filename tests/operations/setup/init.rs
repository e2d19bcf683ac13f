//! `dapbox init`: with flags, at a terminal, and refused.

use std::{fs, os::unix::fs::PermissionsExt};

use super::{
    sandbox::{Authority, Sandbox, free_port},
    terminal::{Terminal, UP},
};
use crate::common::skip::has_programs;

/// The lines of a file that are not comments.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn initializes_local_server_from_flags() {
    let sandbox = Sandbox::new();
    let (port, other) = (free_port(), free_port());
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    let arguments = ["init", "--role", "both", "--tls", "off", "--listen", &listen, "--public-url", &url];
    let said = sandbox.succeed(&arguments);
    for step in
        ["dapbox check", "dapbox serve", "dapbox doctor", "task add helper.toml", "task new --leader http://127"]
    {
        assert!(said.stdout.contains(step), "{step} is not said: {}", said.stdout);
    }
    // Paths have any length.
    let here = sandbox.path("dapbox-data").display().to_string();
    let is_free = |line: &str| line.contains("dapbox task new") || line.contains(&here);
    assert!(said.stdout.lines().all(|line| line.chars().count() <= 80 || is_free(line)), "{}", said.stdout);

    // The configuration has only the decisions and is readable by all; the data is private.
    let data = sandbox.path("dapbox-data").display().to_string();
    let written = sandbox.read("appliance.toml");
    let expected =
        [format!("data_dir = \"{data}\""), format!("listen = \"{listen}\""), format!("public_url = \"{url}\"")];
    assert_eq!(lines(&written), expected);
    let mode = |name: &str| fs::metadata(sandbox.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("appliance.toml"), mode("dapbox-data")), (0o644, 0o700));

    // An existing file is replaced only on request, and the old one is kept.
    let again = sandbox.run(&arguments);
    assert!(again.code == 1 && again.stderr.contains("--force"), "{}", again.stderr);
    assert_eq!(sandbox.read("appliance.toml"), written);
    let forced = sandbox.succeed(&[&arguments[..], &["--force", "-o", "json"]].concat()).json();
    assert_eq!(
        (&forced["role"], &forced["tls"], &forced["previous_file"]),
        (&"both".into(), &"off".into(), &"appliance.toml.bak".into())
    );
    assert_eq!((sandbox.read("appliance.toml.bak"), sandbox.read("appliance.toml")), (written.clone(), written));

    let check = sandbox.succeed(&["check", "-o", "json"]).json();
    assert_eq!(check["options"].as_array().unwrap().len(), 3, "{check:#}");
    let running = sandbox.serve();
    let (code, found) = sandbox.doctor(&[]);
    found.expect("public URL", "", "ok", "leads here");
    found.expect("listen address", "", "ok", &listen);
    found.expect("configuration", "", "ok", "appliance.toml");
    assert_eq!(code, 0);

    // A task with another URL for this server is refused, unless it is forced.
    let foreign = format!("http://127.0.0.1:{other}");
    sandbox.succeed(&["task", "new", "--leader", &foreign, "--helper", &url, "--vdaf", "count", "--out", "task"]);
    let said = sandbox.run(&["task", "add", "task/leader.toml"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("public_url") && said.stderr.contains(&foreign), "{}", said.stderr);
    let said = sandbox.succeed(&["task", "add", "task/leader.toml", "--any-url"]);
    assert!(said.stderr.contains("public_url") && said.stderr.contains(&foreign), "{}", said.stderr);
    sandbox.succeed(&["task", "new", "--leader", &url, "--helper", &foreign, "--vdaf", "count", "--out", "ours"]);
    assert_eq!(sandbox.succeed(&["task", "add", "ours/leader.toml"]).stderr, "");
    drop(running);

    // Another server has taken the port meanwhile.
    let _taken = std::net::TcpListener::bind(&listen).unwrap();
    let (code, found) = sandbox.doctor(&[]);
    found.expect("listen address", "", "failed", "another program");
    found.expect("keys", "", "ok", "less than a day old");
    assert_eq!(code, 1);
}

#[test]
fn initializes_server_with_certificate_files() {
    let mut sandbox = Sandbox::new();
    let authority = Authority::new();
    authority.issue_files(&sandbox, "good", &["localhost", "127.0.0.1"], 80);
    authority.issue_files(&sandbox, "late", &["localhost"], -1);
    authority.issue_files(&sandbox, "other", &["elsewhere.example"], 80);
    let port = free_port();
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("https://localhost:{port}/"));
    let run = |certificate: &str, key: &str, url: &str| {
        let arguments = ["init", "--role", "helper", "--tls", "files", "--listen", &listen, "--public-url", url];
        sandbox.run(&[&arguments[..], &["--certificate-file", certificate, "--key-file", key]].concat())
    };
    for (certificate, key, url, says) in [
        ("late.pem", "late.key", url.as_str(), "expired"),
        ("other.pem", "other.key", &url, "elsewhere.example, not for localhost"),
        ("good.pem", "other.key", &url, "other.key does not match"),
        ("good.pem", "none.key", &url, "there is no file"),
        ("good.pem", "good.pem", &url, "no usable private key"),
        ("good.pem", "good.key", "http://localhost", "https://"),
        ("good.pem", "good.key", "https://localhost/dap-09/", "must not contain /dap-09"),
        ("good.pem", "good.key", "localhost", "the public URL"),
    ] {
        let said = run(certificate, key, url);
        assert!(said.code == 2 && said.stderr.contains(says), "{certificate} {key} {url}: {}", said.stderr);
        assert!(!sandbox.path("appliance.toml").exists() && !sandbox.path("dapbox-data").exists());
    }
    let said = run("good.pem", "good.key", &url);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout.contains(&format!("incoming TCP port {port} from everywhere")), "{}", said.stdout);
    assert!(
        said.stdout.contains("Tell the leader's operator") && !said.stdout.contains("leader.toml"),
        "{}",
        said.stdout
    );

    let root = authority.write(&sandbox);
    sandbox.set("DAPBOX_PEER__CA_FILE", &root);
    sandbox.succeed(&["check"]);
    let running = sandbox.serve();
    let (code, found) = sandbox.doctor(&[]);
    found.expect("certificate", "", "ok", "80 days");
    found.expect("public URL", "", "ok", "leads here");
    assert_eq!(code, 0);
    sandbox.set("DAPBOX_PEER__CA_FILE", "");
    let (code, found) = sandbox.doctor(&[]);
    found.expect("certificate", "", "failed", "not signed by a trusted authority");
    found.expect("public URL", "", "failed", "");
    assert_eq!(code, 1);
    // The certificate files are validated before they are configured.
    drop(running);
    authority.issue_files(&sandbox, "good", &["localhost"], 20);
    let (_, found) = sandbox.doctor(&[]);
    found.expect("certificate", "", "warning", "expires in 20 days");
}

#[test]
fn prompts_at_terminal_and_accepts_changed_answers() {
    // From Debian's bsdutils: it provides a terminal.
    if !has_programs(&["script"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let mut terminal = Terminal::run(&sandbox, "init");
    terminal.answer("Role of this server", &format!("{UP}\r"));
    terminal.answer("Public URL", "nowhere\r");
    terminal.answer("the public URL 'nowhere'", "\x15https://dap.example.org/\r");
    terminal.answer("Source of TLS", "\r");
    terminal.answer("Names in the certificate", "www.example.org\r");
    terminal.answer("must be among the names", "\x15dap.example.org, www.example.org\r");
    terminal.answer("Contact address", "ops@example.org\r");
    terminal.answer("Data directory", "\r");
    terminal.answer("Listen address", "\r");
    terminal.answer("Write this to appliance.toml?", "n");
    let (code, shown) = terminal.end();
    assert!(code == 1 && shown.contains("no file was written"), "{code} {shown}");
    assert!(!sandbox.path("appliance.toml").exists() && !sandbox.path("dapbox-data").exists());

    let mut terminal = Terminal::run(&sandbox, "init --public-url https://dap.example.org --data-dir data");
    terminal.answer("Role of this server", &format!("{UP}{UP}\r"));
    terminal.answer("Source of TLS", "\r");
    terminal.answer("Names in the certificate", "\r");
    terminal.answer("Contact address", "\r");
    terminal.answer("Listen address", "\r");
    terminal.answer("Write this to appliance.toml?", "y");
    let (code, shown) = terminal.end();
    assert!(code == 0 && shown.contains("incoming TCP port 443 from everywhere"), "{code} {shown}");
    let written = sandbox.read("appliance.toml");
    let lines = lines(&written);
    assert!(lines.contains(&"mode = \"acme\"") && lines.contains(&"domains = [\"dap.example.org\"]"), "{written}");
    assert!(lines.iter().any(|line| line.starts_with("listen = ") && line.ends_with(":443\"")), "{written}");
    assert!(written.contains("# Intended for a helper"), "{written}");
    assert!(lines.iter().all(|line| !line.contains("contact_email") && !line.contains("directory")), "{written}");
    sandbox.succeed(&["check"]);
}

#[test]
fn names_missing_flags_without_terminal() {
    let sandbox = Sandbox::new();
    let said = sandbox.run(&["init"]);
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert!(["--role", "--public-url", "--tls"].iter().all(|flag| said.stderr.contains(flag)), "{}", said.stderr);
    let files = ["init", "--role", "leader", "--tls", "files", "--public-url", "https://dap.example.org"];
    let acme = ["init", "--role", "leader", "--tls", "acme", "--public-url"];
    for (arguments, says) in [
        (files.to_vec(), "--certificate-file, --key-file"),
        ([&files[..], &["--contact-email", "a@b.example"]].concat(), "--contact-email requires --tls acme"),
        ([&acme[..], &["https://192.0.2.1"]].concat(), "needs a DNS name"),
        ([&acme[..], &["https://dap.example.org", "--domain", "www.example.org"]].concat(), "must be among the names"),
        (vec!["init", "--role", "both", "--tls", "off", "--public-url", "https://dap.example.org"], "needs TLS"),
        (vec!["init", "--role", "both", "--tls", "off", "--data-dir", "appliance"], "is not a directory"),
    ] {
        fs::write(sandbox.path("appliance"), "").unwrap();
        let said = sandbox.run(&arguments);
        assert!(said.code == 2 && said.stderr.contains(says), "{arguments:?}: {}", said.stderr);
        assert!(!sandbox.path("appliance.toml").exists());
    }

    // The defaults are for this machine; a URL alone determines the mode.
    sandbox.succeed(&["init", "--yes"]);
    assert_eq!(lines(&sandbox.read("appliance.toml")).len(), 1, "nothing but the data directory");
    let url = ["--public-url", "https://dap.example.org", "--config", "etc/second.toml", "--data-dir", "second"];
    let said = sandbox.succeed(&[&["init", "--yes", "-o", "json"], &url[..]].concat()).json();
    assert_eq!((&said["tls"], &said["domains"][0]), (&"acme".into(), &"dap.example.org".into()));
    assert!(said["next"].to_string().contains("dapbox serve --config etc/second.toml"), "{said:#}");
    sandbox.succeed(&["check", "--config", "etc/second.toml"]);

    let proxy = ["init", "--role", "leader", "--tls", "proxy", "--config", "third.toml"];
    let said = sandbox.succeed(&[&proxy[..], &["--public-url", "https://dap.example.org"]].concat());
    assert!(
        said.stdout.contains("X-Forwarded-For") && said.stdout.contains("http://127.0.0.1:8080"),
        "{}",
        said.stdout
    );
    assert!(sandbox.read("third.toml").contains("trusted = [\"127.0.0.1/32\", \"::1/128\"]"));
    sandbox.succeed(&["check", "--config", "third.toml"]);
}
