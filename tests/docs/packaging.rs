//! The systemd unit and the Dockerfile: named files exist, commands parse, and systemd accepts the unit.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use clap::Parser;
use dapbox::cli::Cli;
use tempfile::TempDir;

use crate::child::Running;
use crate::skip::has_programs;

const DAPBOX: &str = env!("CARGO_BIN_EXE_dapbox");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn unit() -> String {
    fs::read_to_string(root().join("packaging/dapbox.service")).unwrap()
}

/// The unit's settings without comments. A repeated name has several values.
fn settings() -> BTreeMap<String, Vec<String>> {
    let mut settings = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in unit().lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        settings.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    settings
}

/// The command of a setting, with the system's paths moved into a directory of the test.
fn command(setting: &str, dir: &Path) -> Command {
    let line = settings()[setting][0].replace("/etc/", &format!("{}/etc/", dir.display()));
    let line = line.replace("/var/lib/", &format!("{}/var/lib/", dir.display()));
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("/usr/local/bin/dapbox"));
    let mut command = Command::new(DAPBOX);
    command.args(words).env_remove("DAPBOX_CONFIG").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts, reloads and stops the service with the unit's commands, as systemd does.
#[test]
fn starts_and_reloads_service_with_commands_of_unit() {
    let dir = TempDir::new().unwrap();
    let etc = dir.path().join("etc/dapbox");
    fs::create_dir_all(&etc).unwrap();
    fs::create_dir_all(dir.path().join("var/lib/dapbox")).unwrap();
    let file = etc.join("appliance.toml");
    fs::write(&file, "listen = \"127.0.0.1:0\"\n[monitor]\nlisten = \"\"\n").unwrap();
    let socket = dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(120))).unwrap();

    let service = Running::spawn(command("ExecStart", dir.path()).env("NOTIFY_SOCKET", &socket));
    let mut message = [0; 4096];
    while !message.starts_with(b"READY=1\n") {
        message.fill(0);
        manager.recv(&mut message).unwrap();
    }
    assert!(command("ExecReload", dir.path()).status().unwrap().success());
    fs::write(&file, "nonsense = 1\n").unwrap();
    assert_eq!(command("ExecReload", dir.path()).status().unwrap().code(), Some(1), "a broken file is refused");
    service.terminate();
}

#[test]
fn restricts_service_in_unit() {
    let settings = settings();
    for (name, value) in [
        ("Type", "notify"),
        ("DynamicUser", "yes"),
        ("StateDirectory", "dapbox"),
        ("StateDirectoryMode", "0700"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("AmbientCapabilities", "CAP_NET_BIND_SERVICE"),
        ("CapabilityBoundingSet", "CAP_NET_BIND_SERVICE"),
        ("Restart", "on-failure"),
    ] {
        assert_eq!(settings[name], [value], "{name}");
    }
    // The server's own limits fit into those of the unit.
    let config = dapbox::config::Config::default();
    let files: usize = settings["LimitNOFILE"][0].parse().unwrap();
    assert!(files >= 2 * config.limits.max_connections + 1000, "{files}");
    let span = |name: &str| dapbox::support::duration::parse(&settings[name][0]).unwrap();
    assert!(span("TimeoutStopSec") > *config.limits.stop_timeout);
}

#[test]
fn passes_systemd_analyze() {
    if !has_programs(&["systemd-analyze"]) {
        return;
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("dapbox.service");
    let analyze = |text: &str, arguments: &[&str]| {
        fs::write(&path, text).unwrap();
        let Output { status, stdout, stderr } =
            Command::new("systemd-analyze").args(arguments).arg(&path).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        (status.success(), said)
    };
    // The program is not installed at the unit's path.
    let plain = unit().replace("/usr/local/bin/dapbox", DAPBOX);
    let (head, service) = plain.split_once("[Service]").unwrap();
    let suggested = format!("{head}[Service]{}", service.replace("\n#   ", "\n"));
    assert_ne!(plain, suggested, "it shows how to pass a certificate's key");
    for text in [&plain, &suggested] {
        let (accepted, said) = analyze(text, &["verify", "--man=no"]);
        assert!(accepted && said.trim().is_empty(), "{said}");
    }
    let (tight, said) = analyze(&plain, &["security", "--offline=true", "--no-pager", "--threshold=20"]);
    assert!(tight, "{said}");
}

/// Checks of the file that need no Docker.
#[test]
fn names_existing_files_in_dockerfile() {
    let read = |name: &str| fs::read_to_string(root().join("packaging").join(name)).unwrap();
    let file = read("Dockerfile").replace("\\\n", " ");
    let lines: Vec<_> = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let of = |name: &str| lines.iter().filter_map(|line| line.strip_prefix(name)).map(str::trim).collect::<Vec<_>>();
    assert_eq!(of("FROM").last(), Some(&"scratch"), "nothing but the binary");
    assert!(!of("USER")[0].starts_with('0') && of("USER")[0].starts_with(|c: char| c.is_ascii_digit()), "not root");

    // All copied files exist, and everything that cargo needs is copied.
    let kept: Vec<_> =
        read("Dockerfile.dockerignore").lines().filter_map(|line| line.strip_prefix('!').map(PathBuf::from)).collect();
    for path in &kept {
        assert!(root().join(path).exists(), "{}", path.display());
    }
    let needed = [".ci/static", "Cargo.toml", "Cargo.lock", "src", "benches"];
    assert!(needed.iter().all(|path| kept.iter().any(|kept| kept == Path::new(path))), "{kept:?}");
    let mut sources = vec![root().join("src")];
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            sources.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let before = |text: &str, mark: &str| text.split(mark).next().unwrap_or_default().to_owned();
        let shipped = before(&before(&text, "#[cfg(test)]"), "#[cfg(all(test,");
        for included in ["include_str!(\"", "include_bytes!(\""].iter().flat_map(|word| shipped.split(word).skip(1)) {
            let included = path.parent().unwrap().join(included.split('"').next().unwrap()).canonicalize().unwrap();
            let is_kept = kept.iter().any(|kept| included.starts_with(root().canonicalize().unwrap().join(kept)));
            assert!(is_kept, "{} is included and not copied into the image's build", included.display());
        }
    }

    // The image runs the binary with valid arguments.
    let words = |text: &str| serde_json::from_str::<Vec<String>>(&text[text.find('[').unwrap()..]).unwrap();
    assert_eq!(words(of("ENTRYPOINT")[0]), ["/dapbox"]);
    let started = [words(of("ENTRYPOINT")[0]), words(of("CMD").last().unwrap())].concat();
    for command in [started, words(of("HEALTHCHECK")[0])] {
        assert_eq!(command[0], "/dapbox");
        if let Err(error) = Cli::try_parse_from(command) {
            panic!("{error}");
        }
    }
}
