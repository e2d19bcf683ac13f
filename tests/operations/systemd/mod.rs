//! The unit and the Debian package under a real systemd: readiness, reload, restart, watchdog, the dynamic user; install,
//! upgrade, removal and purge.

mod container;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use self::container::Container;
use crate::{common::child::copy_program, static_binary::binary};

/// A service file of the guide's server: a helper behind a proxy.
const INIT: &str = "dapbox init --role helper --public-url https://helper.example --tls proxy \
    --data-dir /var/lib/dapbox --config /etc/dapbox/appliance.toml";
/// Makes a task and adds it to the running server. Prints the number of its tasks.
const ADD_TASK: &str = "cd /root && export DAPBOX_CONFIG=/etc/dapbox/appliance.toml
    dapbox task new --leader https://leader.example --helper https://helper.example \
        --vdaf histogram --length 10 --min-batch-size 500 --expires 2099-04-01 --out my-task >/dev/null
    dapbox task add my-task/helper.toml >/dev/null
    dapbox task list | tail -n +2 | wc -l";
const COUNT_TASKS: &str = "dapbox task list --data-dir /var/lib/dapbox | tail -n +2 | wc -l";
/// Prints the status line of the answer to a client that fetches the HPKE configuration.
const FETCH_HPKE_CONFIG: &str = r#"bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080
    printf "GET /dap-09/hpke_config HTTP/1.0\r\nHost: helper.example\r\n\r\n" >&3; head -n 1 <&3' | tr -d '\r'"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory with the static binary and the unit.
fn media(binary: &Path) -> TempDir {
    let dir = TempDir::new().unwrap();
    copy_program(binary, &dir.path().join("dapbox"));
    fs::copy(root().join("packaging/dapbox.service"), dir.path().join("dapbox.service")).unwrap();
    dir
}

/// A booted container in which the service is installed and started as the guide for helpers does it.
fn installed_by_guide(name: &str, media: &TempDir) -> Option<Container> {
    let container = Container::boot(name, media.path())?;
    container.run("install -m 0755 /media/dapbox /usr/local/bin/dapbox");
    container.run("install -D -m 0644 /media/dapbox.service /etc/systemd/system/dapbox.service");
    container.run("systemctl daemon-reload && mkdir -p /etc/dapbox");
    container.run(INIT);
    container.run("DAPBOX_CONFIG=/etc/dapbox/appliance.toml dapbox check");
    // This returns when the service is ready.
    container.run("systemctl enable --now dapbox");
    assert_eq!(container.property("ActiveState"), "active");
    Some(container)
}

#[test]
fn unit_starts_reloads_and_restarts_service() {
    let Some(binary) = binary() else { return };
    let media = media(binary);
    let Some(container) = installed_by_guide("dapbox-unit", &media) else { return };
    assert!(container.run(FETCH_HPKE_CONFIG).ends_with(" 200 OK"), "it answers when systemd calls it ready");

    // The user exists while the service runs, and alone reads the data.
    assert_eq!(container.run("stat -c %U /proc/$(systemctl show --value -p MainPID dapbox)"), "dapbox");
    assert_eq!(container.run("grep -c ^dapbox: /etc/passwd || true"), "0");
    assert_eq!(container.run("stat -L -c '%U %a' /var/lib/dapbox"), "dapbox 700");
    assert_eq!(container.run("readlink -f /var/lib/dapbox"), "/var/lib/private/dapbox");
    assert_eq!(container.run(ADD_TASK), "1");
    container.run("DAPBOX_CONFIG=/etc/dapbox/appliance.toml dapbox doctor --offline");

    // Reload waits for the result, and a broken file changes nothing.
    let main = container.property("MainPID");
    container.run("cp /etc/dapbox/appliance.toml /root/ && systemctl reload dapbox");
    container.run("echo 'nonsense = 1' > /etc/dapbox/appliance.toml");
    let (code, text) = container.try_run("systemctl reload dapbox");
    assert_ne!(code, Some(0), "{text}");
    assert_eq!(container.property("ActiveState"), "active");
    assert_eq!(container.property("MainPID"), main);
    container.run("cp /root/appliance.toml /etc/dapbox/");

    // A killed server is started again, with its tasks.
    container.run("systemctl kill --kill-whom=main --signal=KILL dapbox");
    container.wait_for("systemctl show --value -p NRestarts,ActiveState dapbox | xargs", "1 active");
    assert_ne!(container.property("MainPID"), main);
    assert_eq!(container.run(COUNT_TASKS), "1");

    // It stops in order. A command that needs the data of a stopped server runs as the same user.
    container.run("systemctl stop dapbox");
    assert_eq!(container.property("Result"), "success");
    container.run(
        "systemd-run --quiet --pipe --wait -p DynamicUser=yes -p User=dapbox -p StateDirectory=dapbox \
         /usr/local/bin/dapbox compact --data-dir /var/lib/dapbox",
    );
    container.run("systemctl start dapbox");
    assert_eq!(container.run(COUNT_TASKS), "1");
}

#[test]
fn watchdog_restarts_unresponsive_service() {
    let Some(binary) = binary() else { return };
    let media = media(binary);
    let Some(container) = installed_by_guide("dapbox-watchdog", &media) else { return };
    container.run(
        "mkdir -p /etc/systemd/system/dapbox.service.d
         printf '[Service]\nWatchdogSec=10s\nTimeoutAbortSec=1s\n' > /etc/systemd/system/dapbox.service.d/test.conf
         systemctl daemon-reload && systemctl restart dapbox",
    );
    // Longer than the limit: the server resets the watchdog.
    container.run("sleep 15");
    assert_eq!(container.property("NRestarts"), "0");
    container.run("systemctl kill --kill-whom=main --signal=STOP dapbox");
    container.wait_for("systemctl show --value -p NRestarts,ActiveState dapbox | xargs", "1 active");
    container.run("journalctl --unit=dapbox | grep -q 'Watchdog timeout'");
    assert!(container.run(FETCH_HPKE_CONFIG).ends_with(" 200 OK"));
}

/// Makes a Debian package of a version in a directory.
fn package(binary: &Path, version: &str, dir: &Path) {
    let mut command = Command::new(root().join(".ci/package"));
    command.arg(binary).arg(dir).arg("-Znone").env("PACKAGE_VERSION", version).stdout(Stdio::null());
    assert!(command.status().unwrap().success());
    let built: PathBuf = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains(&format!("_{version}_")))
        .unwrap();
    fs::rename(built, dir.join(format!("{version}.deb"))).unwrap();
}

#[test]
fn debian_package_installs_upgrades_and_purges() {
    let Some(binary) = binary() else { return };
    if !crate::common::skip::has_programs(&["dpkg-deb"]) {
        return;
    }
    let media = media(binary);
    package(binary, "0.0.1", media.path());
    package(binary, "0.0.2", media.path());
    let Some(container) = Container::boot("dapbox-package", media.path()) else { return };
    let new_files = "find / -xdev -name '*dapbox*' ! -path '/proc/*' ! -path '/sys/*' ! -path '/var/log/*' \
        ! -path '/var/lib/dpkg/*' ! -path '/var/cache/*' ! -path '/tmp/*' ! -path '/run/*' ! -path '/root/*' | sort";
    assert_eq!(container.run(new_files), "", "nothing is installed yet");

    container.run("dpkg --install /media/0.0.1.deb");
    for file in [
        "/usr/share/man/man1/dapbox.1.gz",
        "/usr/share/man/man1/dapbox-serve.1.gz",
        "/usr/share/bash-completion/completions/dapbox",
        "/usr/share/zsh/vendor-completions/_dapbox",
        "/usr/share/fish/vendor_completions.d/dapbox.fish",
        "/usr/share/doc/dapbox/copyright",
        "/usr/lib/systemd/system/dapbox.service",
    ] {
        container.run(&format!("test -s {file}"));
    }
    assert_eq!(container.run("dpkg --verify dapbox"), "");
    assert_eq!(container.run("DAPBOX_CONFIG=/etc/dapbox/appliance.toml dapbox check >/dev/null; echo valid"), "valid");
    assert_eq!(container.property("ActiveState"), "inactive", "it waits for its configuration");

    // With a changed configuration and a task.
    container.run(&format!("{INIT} --force"));
    container.run("systemctl enable --now dapbox");
    assert_eq!(container.run(ADD_TASK), "1");
    let main = container.property("MainPID");

    container.run("dpkg --install /media/0.0.2.deb");
    assert_eq!(container.run("dpkg-query --show --showformat='${Version}' dapbox"), "0.0.2");
    assert_eq!(container.property("ActiveState"), "active");
    assert_ne!(container.property("MainPID"), main, "the new binary runs");
    assert_eq!(container.run(COUNT_TASKS), "1");
    container.run("grep -q helper.example /etc/dapbox/appliance.toml");
    assert!(container.run(FETCH_HPKE_CONFIG).ends_with(" 200 OK"));

    // Removal keeps configuration and data for a later installation.
    container.run("dpkg --remove dapbox");
    container.run("test ! -e /usr/bin/dapbox");
    assert_eq!(container.property("ActiveState"), "inactive");
    assert_eq!(container.property("LoadState"), "not-found");
    container.run("dpkg --install /media/0.0.2.deb && systemctl enable --now dapbox");
    assert_eq!(container.run(COUNT_TASKS), "1");

    container.run("dpkg --purge dapbox");
    assert_eq!(container.run(new_files), "", "a purge leaves nothing");
    assert_eq!(container.run("systemctl list-units --failed --no-legend"), "");
}
