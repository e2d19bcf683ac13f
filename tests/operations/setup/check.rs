//! `dapbox check`: errors, warnings, and the sources of values.

use std::{fs, os::unix::fs::PermissionsExt};

use super::sandbox::{Authority, Findings, Sandbox};

/// The exit code and the findings for this configuration.
fn check(sandbox: &Sandbox, text: &str) -> (i32, Findings) {
    fs::write(sandbox.path("appliance.toml"), text).unwrap();
    let said = sandbox.run(&["check", "-o", "json"]);
    (said.code, Findings::new(said.json()["findings"].clone()))
}

#[test]
fn fails_where_serve_fails_without_side_effects() {
    let sandbox = Sandbox::new();
    Authority::new().issue_files(&sandbox, "good", &["dap.example.org"], 80);
    let tls = |more: &str| {
        format!(
            "data_dir = \"data\"\n{more}\n[tls]\nmode = \"files\"\ncertificate_file = \"good.pem\"\nkey_file = \"good.key\"\n"
        )
    };
    for (text, name, says) in [
        ("[limits]\nworkres = 1\n".to_owned(), "configuration", "did you mean 'limits.workers'?"),
        ("listen = \"nowhere\"\n".to_owned(), "configuration", "listen"),
        ("public_url = \"dap.example.org\"\n".to_owned(), "configuration", "public_url"),
        ("[log]\nlevel = \"dapbox=loud\"\n".to_owned(), "log level", "dapbox=loud"),
        ("[monitor]\nlisten = \"127.0.0.1:8080\"\n".to_owned(), "monitor", "another port"),
        ("[secrets]\nkey_file = \"nowhere/key\"\n".to_owned(), "secrets key", "nowhere/key"),
        ("[peer]\nca_file = \"none.pem\"\n".to_owned(), "peer roots", "none.pem"),
        (tls("public_url = \"https://other.example\""), "certificate", "not for other.example"),
        (tls("public_url = \"http://dap.example.org\""), "public URL", "speaks TLS only"),
        (tls("").replace("good.key", "none.key"), "certificate", "none.key"),
        (tls("").replace("good.key", "good.pem"), "certificate", "good.pem"),
    ] {
        let (code, found) = check(&sandbox, &text);
        found.expect(name, "", "failed", says);
        assert_eq!(code, 1, "{text}");
        // The same as text.
        assert!(sandbox.run(&["check"]).stdout.contains("  failed "), "{text}");
    }
    // Values that may be intended are only warned about.
    fs::set_permissions(sandbox.path("good.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, found) =
        check(&sandbox, &tls("public_url = \"https://dap.example.org\"\n[monitor]\nlisten = \"0.0.0.0:9464\"\n"));
    found.expect("certificate key", "", "warning", "chmod o=");
    found.expect("monitor", "", "warning", "SSH");
    found.expect("certificate", "", "ok", "80 days");
    assert_eq!(code, 0);
    let (code, found) = check(&sandbox, "listen = \"0.0.0.0:8080\"\npublic_url = \"http://dap.example.org\"\n");
    found.expect("listen address", "", "warning", "plain HTTP");
    found.expect("public URL", "", "warning", "has no TLS");
    assert_eq!(code, 0);
    assert!(!sandbox.path("data").exists() && !sandbox.path("dapbox-data").exists());
}

#[test]
fn shows_each_value_with_source_and_no_secret() {
    let mut sandbox = Sandbox::new();
    let secret = "A".repeat(43);
    fs::write(sandbox.path("appliance.toml"), "# mine\ndata_dir = \"data\"\n[limits]\nworkers = 2\n").unwrap();
    sandbox.set("DAPBOX_LIMITS__WORKERS", "3");
    sandbox.set("DAPBOX_SECRETS__KEY", &secret);
    let said = sandbox.succeed(&["check", "--listen", "127.0.0.1:1", "-o", "json"]);
    let options = said.json()["options"].clone();
    let option = |key: &str| options.as_array().unwrap().iter().find(|option| option["key"] == key).unwrap().clone();
    assert_eq!(option("data_dir")["origin"], "appliance.toml:2");
    assert_eq!(option("listen")["origin"], "command line");
    let workers = option("limits.workers");
    assert_eq!((&workers["value"], &workers["origin"]), (&"3".into(), &"DAPBOX_LIMITS__WORKERS".into()));
    assert_eq!(workers["overridden"][0], "appliance.toml:4");
    let text = sandbox.succeed(&["check"]).stdout;
    assert!(text.contains("(secret)") && text.contains("overridden: appliance.toml:4"), "{text}");
    assert!(!text.contains(&secret) && !said.stdout.contains(&secret));

    // The doctor reports it, too.
    let (_, found) = sandbox.doctor(&["--offline"]);
    found.expect("environment", "", "warning", "DAPBOX_LIMITS__WORKERS");
}
