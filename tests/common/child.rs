//! Child processes of a test. They are killed when the test ends, and signalled without a program such as `kill`.
//!
//! A test that fails drops them, which kills them. A killed test program drops nothing. Therefore a shell reads the ids
//! of all
//! children of the test program. Its input ends together with the test program; then it kills the remaining children.
// Some programs include this file alone and use only parts of it.
#![allow(dead_code, unused_imports)]

use std::{
    fmt, fs,
    io::Write,
    ops::{Deref, DerefMut},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
};

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

/// Reads process ids with their executables. At the end it kills those that still run the same executable, because an
/// id may be reused. A negative id is a process group.
const REAPER: &str = r#"
trap '' HUP INT QUIT TERM
known=
while read -r pid exe; do
    known="$known $pid"
    case $pid in -*) ;; *) eval "exe_$pid=\$exe" ;; esac
done
for pid in $known; do
    case $pid in
        -*) kill -s KILL -- "$pid" ;;
        *) eval "exe=\$exe_$pid"; [ "/proc/$pid/exe" -ef "$exe" ] && kill -s KILL "$pid" ;;
    esac
done
"#;

/// The standard input of the shell that kills remaining children. The shell has its own process group, so that a signal
/// to the group of the tests does not end it.
static REAPER_INPUT: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", REAPER]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Mutex::new(shell.process_group(0).spawn().unwrap().stdin.take().unwrap())
});

/// Registers a process or a group with the shell.
fn register(line: fmt::Arguments<'_>) {
    let mut input = REAPER_INPUT.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(input, "{line}").unwrap();
}

/// Copies a program that will be executed from its new path.
///
/// A separate process copies it. A child that another test spawns may inherit a descriptor that is open for writing,
/// and a
/// file that is open for writing cannot be executed.
pub fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

/// A child process that is killed when dropped and when the test program ends.
pub struct Running(Child);

impl Running {
    /// Starts a command.
    pub fn spawn(command: &mut Command) -> Self {
        let child = Self::start(command);
        // A process that has ended has no executable.
        if let Ok(exe) = fs::read_link(format!("/proc/{}/exe", child.id())) {
            register(format_args!("{} {}", child.id(), exe.display()));
        }
        child
    }

    /// Starts a command in its own process group. The group ends with the test program; dropping this kills only the
    /// process.
    pub fn spawn_group(command: &mut Command) -> Self {
        let child = Self::start(command.process_group(0));
        register(format_args!("-{}", child.id()));
        child
    }

    fn start(command: &mut Command) -> Self {
        match command.spawn() {
            Ok(child) => Self(child),
            Err(error) => panic!("cannot start {command:?}: {error}"),
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Terminates the process as a service manager does, and asserts that it succeeds.
    pub fn terminate(mut self) {
        self.signal(Signal::TERM);
        let status = self.0.wait().unwrap();
        assert!(status.success(), "after SIGTERM: {status}");
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both calls fail if the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
