//! A shell that runs the commands of a document.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use crate::child::Running;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Timeout of every wait.
const PATIENCE: Duration = Duration::from_secs(180);
/// The mark after a command's output, with its exit code.
const DONE: &str = "--- the command is done:";

/// A shell.
pub struct Terminal {
    shell: Running,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Whether a command is running that must be interrupted.
    pub is_busy: bool,
}

/// The output of a command, both streams, with its exit code.
pub struct Output {
    /// The lines.
    pub lines: Vec<String>,
    /// The exit code.
    pub code: i32,
}

impl Terminal {
    /// Opens a shell in a directory, with `path` at the front of `PATH`.
    pub fn open(dir: &Path, path: &Path, environment: &[(String, String)]) -> Self {
        let paths = format!("{}:{}", path.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(dir);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DAPBOX_")) {
            command.env_remove(name);
        }
        // Without a proxy: the documents' servers are on loopback.
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command.env("PATH", paths).env("HOME", dir).env("NO_COLOR", "1").env("TERM", "dumb").env("LC_ALL", "C.UTF-8");
        command.env("RUST_BACKTRACE", "0").envs(environment.iter().cloned());
        // In its own process group, so that everything started in it ends together.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = Running::spawn_group(&mut command);
        let mut input = shell.stdin.take().unwrap();
        input.write_all(b"exec 2>&1\n").unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { shell, input, lines, is_busy: false }
    }

    /// Types a command.
    fn enter(&mut self, command: &str) {
        assert!(!self.is_busy, "the terminal is still busy when this is typed: {command}");
        let text = format!("{{ {command}\n}} </dev/null; set -- $?; echo; echo \"{DONE} $1\"\n");
        self.input.write_all(text.as_bytes()).unwrap();
        self.input.flush().unwrap();
    }

    /// Runs a command to its end.
    pub fn run(&mut self, command: &str) -> Output {
        self.enter(command);
        self.finish(command)
    }

    /// Starts a command and waits until `is_enough` holds for the lines of its output.
    pub fn start(&mut self, command: &str, is_enough: impl Fn(&[String]) -> bool) {
        self.enter(command);
        self.is_busy = true;
        let mut lines = Vec::new();
        while !is_enough(&lines) {
            lines.push(self.line(command, &lines));
            assert!(!lines.last().unwrap().starts_with(DONE), "{command}\nended:\n{}", lines.join("\n"));
        }
    }

    /// Presses Ctrl-C and waits for the end of the running command.
    pub fn interrupt(&mut self) -> Output {
        assert!(self.is_busy, "Ctrl-C where nothing runs");
        let shell = self.shell.id();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        for child in children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)) {
            kill_process(child, Signal::INT).unwrap();
        }
        let output = self.finish("^C");
        self.is_busy = false;
        output
    }

    fn finish(&mut self, command: &str) -> Output {
        let mut lines = Vec::new();
        loop {
            let line = self.line(command, &lines);
            if let Some(code) = line.strip_prefix(DONE) {
                // The requested empty line.
                lines.pop();
                return Output { lines, code: code.trim().parse().unwrap() };
            }
            lines.push(line);
        }
    }

    fn line(&mut self, command: &str, before: &[String]) -> String {
        let start = Instant::now();
        match self.lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{command}\ndoes not go on after:\n{}", before.join("\n")),
            Err(RecvTimeoutError::Disconnected) => panic!("{command}\nended the shell:\n{}", before.join("\n")),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Kills the whole group: the shell and its commands. By a system call, because some programs named kill misread
        // a group's number.
        if let Some(group) = i32::try_from(self.shell.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.shell.wait();
    }
}
