//! A full-screen terminal view that is redrawn repeatedly.

use std::io::{self, Write};

use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{self, Event, KeyCode, KeyEvent, KeyModifiers},
    execute,
    style::ResetColor,
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};
use tokio::sync::mpsc;

/// What the user did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScreenEvent {
    /// Pressed q or Ctrl-C.
    Quit,
    /// Resized the terminal.
    Resized,
}

/// The terminal's alternate screen in raw mode. Dropping it restores the terminal.
pub struct Screen {
    /// Replaces the part of a line that does not fit.
    ellipsis: &'static str,
    events: mpsc::Receiver<ScreenEvent>,
}

impl Screen {
    /// Opens the alternate screen. Without a terminal for input, there are no events.
    pub fn open(ellipsis: &'static str) -> io::Result<Self> {
        let (sender, events) = mpsc::channel(1);
        if terminal::enable_raw_mode().is_ok() {
            // The thread ends with the process: a blocking read cannot be cancelled.
            std::thread::spawn(move || {
                let events = std::iter::from_fn(|| event::read().ok()).filter_map(|event| screen_event(&event));
                events.take_while(|event| sender.blocking_send(*event).is_ok()).for_each(drop);
            });
        }
        let screen = Self { ellipsis, events };
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Replaces the contents with a text and a line below it. Truncates what does not fit.
    pub fn draw(&self, text: &str, below: &str) -> io::Result<()> {
        // A terminal without a known size reports zero.
        let (width, height) = match terminal::size()? {
            (0, _) | (_, 0) => (80, 24),
            size => size,
        };
        let mut out = io::stdout().lock();
        out.write_all(frame(text, below, (height.into(), width.into()), self.ellipsis).as_bytes())?;
        out.flush()
    }

    /// Waits for an event.
    pub async fn event(&mut self) -> ScreenEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing to restore if the terminal is gone.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

fn screen_event(event: &Event) -> Option<ScreenEvent> {
    match event {
        Event::Resize(..) => Some(ScreenEvent::Resized),
        Event::Key(KeyEvent { code: KeyCode::Char('q' | 'Q'), .. }) => Some(ScreenEvent::Quit),
        Event::Key(KeyEvent { code: KeyCode::Char('c'), modifiers: KeyModifiers::CONTROL, .. }) => {
            Some(ScreenEvent::Quit)
        }
        _ => None,
    }
}

/// The output that shows a text. Lines are replaced one by one to avoid flicker.
fn frame(text: &str, below: &str, (height, width): (usize, usize), ellipsis: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = height.saturating_sub(1);
    let shown = if lines.len() > room { room.saturating_sub(1) } else { lines.len() };
    let end_of_line = format!("{ResetColor}{}\r\n", Clear(ClearType::UntilNewLine));
    let mut frame = MoveTo(0, 0).to_string();
    for line in &lines[..shown] {
        frame += &format!("{}{end_of_line}", console::truncate_str(line, width, ellipsis));
    }
    if shown < lines.len() && room > 0 {
        frame += &format!("{ellipsis} {} more lines: the terminal is too small{end_of_line}", lines.len() - shown);
    }
    let below = console::truncate_str(below, width, ellipsis);
    format!("{frame}{below}{ResetColor}{}", Clear(ClearType::FromCursorDown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncates_frame_to_terminal() {
        let text = "\x1b[1mone two three\x1b[0m\ntwo\nthree\nfour";
        let plain = |height, width| console::strip_ansi_codes(&frame(text, "below", (height, width), "…")).into_owned();
        assert_eq!(plain(5, 80), "one two three\r\ntwo\r\nthree\r\nfour\r\nbelow");
        assert!(plain(4, 80).starts_with("one two three\r\ntwo\r\n… 2 more lines"), "{:?}", plain(4, 80));
        assert!(plain(4, 80).ends_with("\r\nbelow"));
        assert_eq!(plain(5, 4), "one…\r\ntwo\r\nthr…\r\nfour\r\nbel…");
        assert_eq!(plain(1, 80), "below");
        assert_eq!(plain(0, 0).matches("\r\n").count(), 0);
    }

    #[test]
    fn quits_on_q_and_ctrl_c() {
        let pressed = |key, modifiers| screen_event(&Event::Key(KeyEvent::new(KeyCode::Char(key), modifiers)));
        assert_eq!(pressed('q', KeyModifiers::NONE), Some(ScreenEvent::Quit));
        assert_eq!(pressed('c', KeyModifiers::CONTROL), Some(ScreenEvent::Quit));
        assert_eq!(pressed('c', KeyModifiers::NONE), None);
        assert_eq!(screen_event(&Event::Resize(80, 24)), Some(ScreenEvent::Resized));
    }
}
