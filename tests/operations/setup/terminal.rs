//! Somebody at a terminal, who reads the questions and answers them.

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use super::sandbox::Place;

/// Longest that a question is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The key for one line further up.
pub const UP: &str = "\x1b[A";

/// A program on a terminal of its own.
pub struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: Receiver<Vec<u8>>,
    /// All that was shown, with colours and movements of the cursor taken out.
    shown: String,
    /// How much of it was looked at.
    seen: usize,
}

impl Terminal {
    /// Runs dapbox with these arguments.
    pub fn run(place: &Place, arguments: &str) -> Self {
        Self::run_in(place, arguments, "")
    }

    /// The same after a command of a shell.
    pub fn run_in(place: &Place, arguments: &str, before: &str) -> Self {
        let command = place.command(&[]);
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

    /// Waits for a text, and types.
    #[track_caller]
    pub fn answer(&mut self, question: &str, keys: &str) {
        loop {
            if let Some(at) = self.shown[self.seen..].find(question) {
                self.seen += at + question.len();
                break;
            }
            match self.screen.recv_timeout(PATIENCE) {
                Ok(part) => self.shown.push_str(&plain(&part)),
                Err(_) => panic!("'{question}' is not asked: {}", self.shown),
            }
        }
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    /// The exit code, and all that was shown.
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
        // Its terminal goes with it, which ends the program, too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Text without the sequences that colour it and move the cursor (ECMA-48 section 5.4).
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
