//! An operator at a terminal who answers prompts.

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use super::sandbox::Sandbox;

/// Timeout of a prompt.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The key for one line up.
pub const UP: &str = "\x1b[A";

/// A program on its own terminal.
pub struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: Receiver<Vec<u8>>,
    /// All output, without colours and cursor movements.
    shown: String,
    /// How much of it was matched.
    seen: usize,
}

impl Terminal {
    /// Runs dapbox with these arguments.
    pub fn run(sandbox: &Sandbox, arguments: &str) -> Self {
        Self::run_in(sandbox, arguments, "")
    }

    /// Runs it after a shell command.
    pub fn run_in(sandbox: &Sandbox, arguments: &str, before: &str) -> Self {
        let command = sandbox.command(&[]);
        let line = format!("{before}{} {arguments}", command.get_program().to_str().unwrap());
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(command.get_current_dir().unwrap());
        script.env("LC_ALL", "C.UTF-8");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        script.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = script.spawn().expect("script, of Debian's bsdutils, is there");
        let (keyboard, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut part) {
                if sender.send(part[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keyboard, screen, shown: String::new(), seen: 0 }
    }

    /// Waits for a text, then types.
    #[track_caller]
    pub fn answer(&mut self, question: &str, keys: &str) {
        loop {
            if let Some(at) = self.shown[self.seen..].find(question) {
                self.seen += at + question.len();
                break;
            }
            match self.screen.recv_timeout(TEST_TIMEOUT) {
                Ok(part) => self.shown.push_str(&plain(&part)),
                Err(_) => panic!("'{question}' is not asked: {}", self.shown),
            }
        }
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    /// The exit code and all output.
    pub fn end(&mut self) -> (i32, String) {
        let code = self.child.wait().unwrap().code().unwrap();
        while let Ok(part) = self.screen.recv() {
            self.shown.push_str(&plain(&part));
        }
        (code, self.shown.clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The program ends together with its terminal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes sequences for colours and cursor movements (ECMA-48 section 5.4).
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => {
                letters.find(|c| c.is_ascii_alphabetic());
            }
            '\r' => {}
            letter => plain.push(letter),
        }
    }
    plain
}
