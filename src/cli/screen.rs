//! A terminal that is drawn anew again and again, and given back as it was.

use std::io::{self, IsTerminal, Read};

use console::Term;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// The other screen, without a cursor; what was there before comes back in the end.
const BEGIN: &str = "\x1b[?1049h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?1049l";

/// The terminal's screen, for as long as this lives.
pub struct Screen {
    term: Term,
    /// What stands for the part of a line that does not fit.
    ellipsis: &'static str,
    /// How the terminal was, if there is somebody at its keys.
    before: Option<Termios>,
    keys: mpsc::Receiver<u8>,
}

impl Screen {
    /// Takes the screen, and the keys, if there are any.
    pub fn open(ellipsis: &'static str) -> io::Result<Self> {
        let term = Term::stdout();
        let before = if io::stdin().is_terminal() { tcgetattr(io::stdin()).ok() } else { None };
        if let Some(mut modes) = before.clone() {
            // A key is there as soon as it is pressed, and is not shown. Ctrl-C stays a signal.
            modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        }
        let (sender, keys) = mpsc::channel(1);
        let screen = Self { term, ellipsis, before, keys };
        if screen.before.is_some() {
            // It reads until the program ends: nothing can make it stop before.
            std::thread::spawn(move || {
                let bytes = io::stdin().lock().bytes().map_while(Result::ok);
                bytes.take_while(|byte| sender.blocking_send(*byte).is_ok()).for_each(drop);
            });
        }
        screen.term.write_str(BEGIN)?;
        Ok(screen)
    }

    /// Shows a text in place of what is there, and a line below it; what does not fit is left out.
    pub fn draw(&self, text: &str, below: &str) -> io::Result<()> {
        let (height, width) = self.term.size();
        self.term.write_str(&frame(text, below, (height.into(), width.into()), self.ellipsis))
    }

    /// Resolves when somebody presses q.
    pub async fn quit(&mut self) {
        while let Some(key) = self.keys.recv().await {
            if key.eq_ignore_ascii_case(&b'q') {
                return;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to give back.
        let _ = self.term.write_str(END);
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// What to write to show a text. Each line is replaced as it is written, so that nothing flickers.
fn frame(text: &str, below: &str, (height, width): (usize, usize), ellipsis: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = height.saturating_sub(1);
    let shown = if lines.len() > room { room.saturating_sub(1) } else { lines.len() };
    let mut frame = String::from("\x1b[H");
    for line in &lines[..shown] {
        frame += &format!("{}\x1b[0m\x1b[K\r\n", console::truncate_str(line, width, ellipsis));
    }
    if shown < lines.len() && room > 0 {
        frame += &format!("{ellipsis} {} more lines: the terminal is too small\x1b[K\r\n", lines.len() - shown);
    }
    frame += &format!("{}\x1b[0m\x1b[J", console::truncate_str(below, width, ellipsis));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out() {
        let text = "\x1b[1mone two three\x1b[0m\ntwo\nthree\nfour";
        let plain = |height, width| console::strip_ansi_codes(&frame(text, "below", (height, width), "…")).into_owned();
        assert_eq!(plain(5, 80), "one two three\r\ntwo\r\nthree\r\nfour\r\nbelow");
        assert!(plain(4, 80).starts_with("one two three\r\ntwo\r\n… 2 more lines"), "{:?}", plain(4, 80));
        assert!(plain(4, 80).ends_with("\r\nbelow"));
        assert_eq!(plain(5, 4), "one…\r\ntwo\r\nthr…\r\nfour\r\nbel…");
        assert_eq!(plain(1, 80), "below");
        assert_eq!(plain(0, 0).matches("\r\n").count(), 0);
    }
}
