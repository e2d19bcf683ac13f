//! A minimal Debian that runs under its own systemd, in a container of `systemd-nspawn` without a network.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::common::{
    child::{Running, Signal},
    skip,
};

const RELEASE: &str = "bookworm";
/// What a server has beyond the essential packages of Debian: systemd, and the names of its dynamic users.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libnss-systemd";
/// The time that one command in the container has, in seconds, as does its boot.
const COMMAND_TIMEOUT: &str = "180";

/// A container that has booted. All changes in it are lost when it ends.
pub struct Container {
    nspawn: Running,
    init: u32,
    console: PathBuf,
    _dir: TempDir,
}

impl Container {
    /// Boots a container in which `files` are below /media. `None` if this machine cannot do that; the test is then skipped.
    pub fn boot(name: &str, files: &Path) -> Option<Self> {
        if !skip::has_programs(&["debootstrap", "systemd-nspawn", "nsenter", "timeout"]) || !skip::may_mount() {
            return None;
        }
        let root = debian_root()?;
        let dir = TempDir::new().unwrap();
        let console = dir.path().join("console");
        // The processes of a test share a directory of the host under this name.
        let machine = format!("{name}-{}", std::process::id());
        let nspawn = |arguments: &[&str]| {
            let mut command = Command::new("systemd-nspawn");
            command.args(["--quiet", "--register=no", "--private-network", "--link-journal=no"]);
            command.args(["--volatile=overlay", &format!("--machine={machine}")]);
            if !Path::new("/run/systemd/system").exists() {
                // No systemd on the host could make a scope for the container.
                command.arg("--keep-unit");
            }
            command.arg(format!("--directory={}", root.display()));
            command.arg(format!("--bind-ro={}:/media", files.display())).args(arguments).stdin(Stdio::null());
            command
        };
        let Output { status, stderr, .. } = nspawn(&["/bin/true"]).output().unwrap();
        if !status.success() {
            let reason = String::from_utf8_lossy(&stderr);
            skip::skip(&format!("containers are not permitted: {}", reason.trim().lines().last().unwrap_or_default()));
            return None;
        }
        let output = File::create(&console).unwrap();
        let nspawn = Running::spawn(nspawn(&["--boot"]).stdout(output.try_clone().unwrap()).stderr(output));
        let mut container = Self { init: 0, nspawn, console, _dir: dir };
        container.wait_for_boot();
        Some(container)
    }

    fn wait_for_boot(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let children = format!("/proc/{0}/task/{0}/children", self.nspawn.id());
        loop {
            for child in fs::read_to_string(&children).unwrap_or_default().split_whitespace() {
                self.init = child.parse().unwrap();
                let state = self.shell("systemctl is-system-running --wait").output().unwrap();
                if String::from_utf8_lossy(&state.stdout).trim() == "running" {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "the container did not boot:\n{}", self.console_text());
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn console_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", COMMAND_TIMEOUT, "nsenter", "--all", &format!("--target={}", self.init)]);
        command.args(["sh", "-euc", script]).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        command
    }

    /// Runs a shell script as root. Returns its exit code and its output, errors included.
    pub fn try_run(&self, script: &str) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.shell(script).output().unwrap();
        let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (status.code(), text.trim_end().to_owned())
    }

    /// Runs a shell script as root, which must succeed. Returns its output.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let (code, text) = self.try_run(script);
        if code != Some(0) {
            let (_, journal) = self.try_run("journalctl --no-pager --boot --lines=60");
            panic!("{script}: exit code {code:?}\n{text}\n{journal}");
        }
        text
    }

    /// Repeats a script until it prints `expected`.
    #[track_caller]
    pub fn wait_for(&self, script: &str, expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let (_, text) = self.try_run(script);
            if text == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{script}: {text}, and not {expected}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// A property of the service.
    #[track_caller]
    pub fn property(&self, name: &str) -> String {
        self.run(&format!("systemctl show --value --property={name} dapbox"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // SIGTERM halts the container. Dropping the child kills it if that fails.
        self.nspawn.signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        while matches!(self.nspawn.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The directory with the minimal Debian, which is made once per target directory. `None` if it cannot be; the test is then
/// skipped.
fn debian_root() -> Option<PathBuf> {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let root = parent.join(format!("debian-{RELEASE}"));
    let lock = File::create(parent.join("debian.lock")).unwrap();
    lock.lock().unwrap();
    if root.exists() {
        return Some(root);
    }
    if !rustix::process::geteuid().is_root() {
        skip::skip("installs a Debian; run it as root");
        return None;
    }
    let fresh = parent.join(format!("debian-{RELEASE}.new"));
    match fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{}: {error}", fresh.display()),
        _ => {}
    }
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "600", "debootstrap", "--variant=minbase"]);
    command.arg(format!("--include={PACKAGES}")).arg(RELEASE).arg(&fresh);
    let Output { status, stdout, .. } = command.stdin(Stdio::null()).output().unwrap();
    if !status.success() {
        let text = String::from_utf8_lossy(&stdout);
        skip::skip(&format!("debootstrap failed: {}", text.trim().lines().last().unwrap_or_default()));
        return None;
    }
    // Each container has an identity of its own.
    fs::write(fresh.join("etc/machine-id"), "").unwrap();
    fs::rename(&fresh, &root).unwrap();
    Some(root)
}
