//! A shell that does what somebody with a document types into it.

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

/// When we stop to wait for something that does not come. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(180);
/// What is written after a command, with its exit code.
const DONE: &str = "--- the command is done:";

/// A shell.
pub struct Terminal {
    shell: Running,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Whether a command runs that does not end by itself.
    pub is_busy: bool,
}

/// What a command wrote, both streams, and its exit code.
pub struct Output {
    /// The lines.
    pub lines: Vec<String>,
    /// The exit code.
    pub code: i32,
}

impl Terminal {
    /// Opens a shell in a directory, with this on its path before everything else.
    pub fn open(dir: &Path, path: &Path, environment: &[(String, String)]) -> Self {
        let paths = format!("{}:{}", path.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(dir);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DAPBOX_")) {
            command.env_remove(name);
        }
        // The documents' servers are on loopback, which curl would look for behind a proxy.
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command.env("PATH", paths).env("HOME", dir).env("NO_COLOR", "1").env("TERM", "dumb").env("LC_ALL", "C.UTF-8");
        command.env("RUST_BACKTRACE", "0").envs(environment.iter().cloned());
        // A group of its own, so that all that was started in it can be ended with it.
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

    /// Starts a command, and waits until `is_enough` is true of the lines that it has written.
    pub fn start(&mut self, command: &str, is_enough: impl Fn(&[String]) -> bool) {
        self.enter(command);
        self.is_busy = true;
        let mut lines = Vec::new();
        while !is_enough(&lines) {
            lines.push(self.line(command, &lines));
            assert!(!lines.last().unwrap().starts_with(DONE), "{command}\nended:\n{}", lines.join("\n"));
        }
    }

    /// Presses Ctrl-C, and waits for the end of what runs.
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
                // The empty line that we asked for.
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
        // The whole group: the shell and what runs in it. By the system call, since there are programs named kill that
        // take the number of a group for that of everybody.
        if let Some(group) = i32::try_from(self.shell.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.shell.wait();
    }
}
