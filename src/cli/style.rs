//! Output style: colour on terminals unless `NO_COLOR` is set, the width of the terminal, thousands separators, and bars
//! in the characters of the locale.

use std::{
    fmt::Display,
    io::{self, ErrorKind, IsTerminal, Write},
    time::Duration,
};

use console::Term;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

pub use crate::support::format::{count, counted};

/// Width of lines where there is no terminal, in columns.
pub const WIDTH: usize = 80;

/// Minimum width of lines, in columns. Narrower terminals wrap them.
const MIN_WIDTH: usize = 40;

/// Prints lines to standard output. A closed pipe, as with `head`, is no error.
pub fn print(text: impl Display) -> io::Result<()> {
    try_print(text).map(drop)
}

/// Prints lines to standard output. Returns false if the pipe is closed.
pub fn try_print(text: impl Display) -> io::Result<bool> {
    let text = text.to_string();
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// Prints a warning to standard error.
pub fn warn(text: impl Display) {
    // A closed standard error is no failure.
    let _ = writeln!(io::stderr(), "{} {text}", Style::stderr().bad("warning:"));
}

/// Prints a note to standard error.
pub fn note(text: impl Display) {
    // A closed standard error is no failure.
    let _ = writeln!(io::stderr(), "{} {text}", Style::stderr().bold("note:"));
}

/// The capabilities of an output: colour, width, characters.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
    width: usize,
    is_unicode: bool,
}

impl Style {
    /// The style of standard output: plain without a terminal or with `NO_COLOR`.
    pub fn stdout() -> Self {
        Self::new(io::stdout().is_terminal().then(Term::stdout))
    }

    /// The style of standard error.
    pub fn stderr() -> Self {
        Self::new(io::stderr().is_terminal().then(Term::stderr))
    }

    /// A style without colour.
    #[cfg(test)]
    pub const fn plain() -> Self {
        Self { colour: false, width: WIDTH, is_unicode: true }
    }

    /// A style with colour.
    #[cfg(test)]
    pub const fn coloured() -> Self {
        Self { colour: true, width: WIDTH, is_unicode: true }
    }

    /// A style without colour and Unicode.
    #[cfg(test)]
    pub const fn ascii(width: usize) -> Self {
        Self { colour: false, width, is_unicode: false }
    }

    fn new(terminal: Option<Term>) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
        let is_capable = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let size = terminal.as_ref().and_then(Term::size_checked);
        Self {
            colour: terminal.is_some() && !set("NO_COLOR") && is_capable,
            width: size.map_or(WIDTH, |(_, columns)| usize::from(columns).max(MIN_WIDTH)),
            is_unicode: is_unicode(),
        }
    }

    /// Whether output is coloured.
    pub fn has_colour(self) -> bool {
        self.colour
    }

    /// Maximum width of a line, in columns.
    pub fn width(self) -> usize {
        self.width
    }

    /// A horizontal bar of at most `width` cells: in eighths of a cell, or in whole cells without Unicode.
    pub fn bar(self, value: u128, largest: u128, width: usize) -> String {
        const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        if largest == 0 {
            return String::new();
        }
        let parts = if self.is_unicode { 8 } else { 1 };
        let filled = (value as f64 / largest as f64 * (width * parts) as f64).round() as usize;
        // Values above zero are always visible.
        let filled = if value > 0 { filled.clamp(1, (width * parts).max(1)) } else { 0 };
        if self.is_unicode {
            format!("{}{}", "█".repeat(filled / 8), EIGHTHS[filled % 8])
        } else {
            "#".repeat(filled)
        }
    }

    /// Characters of rising height: blank, then eight levels.
    pub fn levels(self) -> [char; 9] {
        if self.is_unicode {
            [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
        } else {
            [' ', '.', ':', '-', '=', '+', '*', '%', '#']
        }
    }

    /// Replaces truncated text.
    pub fn ellipsis(self) -> &'static str {
        if self.is_unicode { "…" } else { "..." }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// For headings.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// For minor details.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// For good states.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// For errors and bad states.
    pub fn bad(self, text: &str) -> String {
        self.paint("31;1", text)
    }

    /// For commands to type and for highlights.
    pub fn accent(self, text: &str) -> String {
        self.paint("36", text)
    }
}

/// Formats a duration with three digits: `12.3 ms`, `1.23 s`.
pub fn elapsed(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 0.001 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 100.0 => format!("{s:.1} s"),
        s => format!("{:.0} min {:.0} s", (s / 60.0).floor(), s % 60.0),
    }
}

/// Formats a rate per second.
pub fn rate(number: u64, duration: Duration) -> String {
    let per_second = number as f64 / duration.as_secs_f64().max(1e-9);
    format!("{}/s", count(per_second.round() as u64))
}

/// Returns whether the locale uses UTF-8 (POSIX, "Internationalization Variables"). The first variable that is set decides;
/// without any the locale is C.
pub fn is_unicode() -> bool {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
    locale.to_ascii_lowercase().replace('-', "").contains("utf8")
}

/// The characters of a progress bar.
fn progress_chars() -> &'static str {
    if is_unicode() { "█▉▊▋▌▍▎▏ " } else { "#> " }
}

/// Creates a progress bar on standard error, hidden without a terminal.
pub fn progress(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what.to_owned());
    // The template is valid; otherwise the default bar is used.
    if let Ok(style) = ProgressStyle::with_template("  {msg:<13}{wide_bar} {human_pos}/{human_len} {rate}") {
        let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}/s", count(state.per_sec() as u64));
        };
        bar.set_style(style.with_key("rate", rate).progress_chars(progress_chars()));
    }
    bar
}

/// Creates a progress bar in bytes on standard error, hidden without a terminal.
pub fn transfer(total: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("  {msg:<13}{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style.progress_chars(progress_chars()));
    }
    bar
}

/// Creates a spinner for work of unknown length on standard error, hidden without a terminal.
pub fn spinner(what: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}") {
        spinner.set_style(style.tick_chars(if is_unicode() { "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ " } else { "|/-\\ " }));
    }
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_numbers_with_separators() {
        let texts = [0_u64, 999, 1000, 20_190, 1_234_567].map(count);
        assert_eq!(texts, ["0", "999", "1,000", "20,190", "1,234,567"]);
        assert_eq!(counted(1, "report"), "1 report");
        assert_eq!(counted(0, "report"), "0 reports");
    }

    #[test]
    fn draws_proportional_bars() {
        let bar = |value, largest, width| Style::plain().bar(value, largest, width);
        assert_eq!(bar(10, 10, 4), "████");
        assert_eq!(bar(5, 10, 4), "██");
        assert_eq!(bar(1, 1_000_000, 4), "▏");
        assert_eq!(bar(0, 10, 4), "");
        assert_eq!(bar(0, 0, 4), "");
        assert_eq!(bar(u128::MAX, u128::MAX, 4), "████");
        let bar = |value| Style::ascii(WIDTH).bar(value, 10, 4);
        assert_eq!(
            (bar(10), bar(5), bar(1), bar(0)),
            ("####".to_owned(), "##".to_owned(), "#".to_owned(), String::new())
        );
    }

    #[test]
    fn plain_style_adds_no_escapes() {
        assert_eq!(Style::new(None).bold("x"), "x");
        assert_eq!(Style { colour: true, ..Style::plain() }.bold("x"), "\x1b[1mx\x1b[0m");
    }

    #[test]
    fn formats_elapsed_times() {
        let texts = [12, 1_234, 12_345, 125_000].map(|ms| elapsed(Duration::from_millis(ms)));
        assert_eq!(texts, ["12 ms", "1.23 s", "12.3 s", "2 min 5 s"]);
        assert_eq!(rate(1000, Duration::from_millis(500)), "2,000/s");
    }
}
