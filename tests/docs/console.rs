//! Runs the commands of the documents.
//!
//! # Format of a document
//!
//! A block of the language `console` shows a terminal. Lines that begin with `$ ` are commands, continued after a
//! backslash;
//! other lines are their output. All commands of a document run in order, in one directory and one shell, and must
//! succeed.
//! The output must contain the shown lines in this order; other lines may be in between. `…` matches any text, and
//! alone on a
//! line it matches any lines. All instants are equal. After a shown `Task ID`, that id means the id that the test
//! printed.
//!
//! | behind `console` | means |
//! |---|---|
//! | `in=NAME` | another terminal in the same directory |
//! | `exit=N` | the exit code of the block's last command |
//! | `norun REASON` | not run, since it would change the machine or needs something that a test lacks; dapbox's commands are parsed |
//!
//! A command that runs until it is interrupted (`serve`, `pair`, `--watch`) gets its own terminal. The test waits until
//! its
//! shown output was printed. A line `^C` interrupts it.
//!
//! `<!-- meanwhile $ COMMAND -->` between blocks is a command of another party, which the reader does not type.
//!
//! Names such as `https://leader.example` or `/etc/dapbox` have another meaning in the test; each document's table is
//! with its
//! test below. Nothing else differs.

use std::collections::BTreeMap;

use clap::Parser;
use dapbox::{
    cli::Cli,
    config::{Config, Overrides},
};

use super::{
    DOCUMENTS,
    markdown::{self, Block},
    places::Places,
    read, root,
    skip::has_programs,
    terminal::Terminal,
};

/// Commands that run until they are interrupted.
const ENDLESS: [&str; 5] = ["dapbox serve", "dapbox pair", "dapbox interop serve", "--watch", "--follow"];

/// A step of a block.
#[derive(Debug, PartialEq)]
enum Step {
    /// A command with its output.
    Command(String, Vec<String>),
    /// Ctrl-C with the following output.
    Interrupt(Vec<String>),
}

fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in &block.lines {
        if goes_on {
            let Some(Step::Command(command, _)) = steps.last_mut() else { unreachable!() };
            command.push('\n');
            command.push_str(line.trim_start());
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step::Command(command.to_owned(), Vec::new()));
        } else if line == "^C" {
            steps.push(Step::Interrupt(Vec::new()));
            continue;
        } else {
            let (Step::Command(_, shown) | Step::Interrupt(shown)) =
                steps.last_mut().unwrap_or_else(|| panic!("line {}: a block begins with a command", block.line));
            shown.push(line.clone());
            continue;
        }
        goes_on = line.ends_with('\\');
    }
    steps
}

/// The state of a document's test.
struct Session {
    name: &'static str,
    places: Places,
    environment: Vec<(String, String)>,
    terminals: BTreeMap<String, Terminal>,
}

impl Session {
    fn new(name: &'static str, places: Places, environment: &[(&str, &str)]) -> Self {
        let dir = places.home().parent().unwrap().display().to_string();
        let meant = |(name, value): &(&str, &str)| ((*name).to_owned(), places.meant(value).replace("DIR", &dir));
        let environment = environment.iter().map(meant).collect();
        Self { name, environment, places, terminals: BTreeMap::new() }
    }

    fn terminal(&mut self, name: &str) -> &mut Terminal {
        let (places, environment) = (&self.places, &self.environment);
        let open = || Terminal::open(&places.home(), &places.bin(), environment);
        self.terminals.entry(name.to_owned()).or_insert_with(open)
    }

    /// Runs a setup step in these terminals.
    fn prepare(&mut self, text: &str) {
        for block in markdown::blocks(text) {
            self.run_block(&block);
        }
    }

    /// Runs all blocks.
    fn run(mut self) {
        let text = read(self.name);
        let blocks = markdown::blocks(&text);
        let mut commands = 0;
        for block in blocks.iter().filter(|block| matches!(block.language(), "console" | "meanwhile")) {
            match block.info.get(1).map(String::as_str) {
                Some("norun") => check_norun(self.name, block),
                _ => commands += self.run_block(block),
            }
        }
        assert!(commands > 0, "{} has no commands", self.name);
    }

    fn run_block(&mut self, block: &Block) -> usize {
        let place = format!("{}:{}", self.name, block.line);
        let terminal = block.value("in").unwrap_or_default().to_owned();
        let code: i32 = block.value("exit").map_or(0, |code| code.parse().unwrap());
        let steps = steps(block);
        for (index, step) in steps.iter().enumerate() {
            let expected = if index + 1 == steps.len() { code } else { 0 };
            match step {
                Step::Interrupt(shown) => {
                    let output = self.terminal(&terminal).interrupt();
                    self.check(&place, "^C", &output.lines, shown);
                    assert_eq!(output.code, expected, "{place}: ^C: {}", output.lines.join("\n"));
                }
                Step::Command(command, shown) if ENDLESS.iter().any(|word| command.contains(word)) => {
                    assert!(!terminal.is_empty(), "{place}: this does not end, and needs in=NAME: {command}");
                    self.start(&place, &terminal, command, shown);
                }
                Step::Command(command, shown) => {
                    let meant = self.places.meant(command);
                    let output = self.terminal(&terminal).run(&meant);
                    let all = output.lines.join("\n");
                    assert_eq!(output.code, expected, "{place}: {command}\n(run as {meant})\n{all}");
                    self.check(&place, command, &output.lines, shown);
                }
            }
        }
        steps.len()
    }

    fn start(&mut self, place: &str, terminal: &str, command: &str, shown: &[String]) {
        assert!(!shown.is_empty(), "{place}: show what is to be waited for: {command}");
        let meant = self.places.meant(command);
        // Taken out of the map, so that the terminal and the names can be borrowed together.
        self.terminal(terminal);
        let mut opened = self.terminals.remove(terminal).unwrap();
        opened.start(&meant, |lines| {
            let lines: Vec<_> = lines.iter().map(|line| self.places.written(line)).collect();
            missing(&lines, shown).is_none()
        });
        self.terminals.insert(terminal.to_owned(), opened);
    }

    fn check(&mut self, place: &str, command: &str, lines: &[String], shown: &[String]) {
        if let (Some(example), Some(id)) =
            (shown.iter().find_map(|l| task_id(l)), lines.iter().find_map(|l| task_id(l)))
        {
            self.places.name(example, id);
        }
        let lines: Vec<_> = lines.iter().map(|line| self.places.written(line)).collect();
        if let Some(line) = missing(&lines, shown) {
            panic!("{place}: {command}\ndoes not print\n{line}\nbut\n{}", lines.join("\n"));
        }
    }
}

/// The first shown line that was not printed after the previous ones.
fn missing<'a>(printed: &[String], shown: &'a [String]) -> Option<&'a str> {
    let mut printed = printed.iter().map(|line| plain(line));
    let wanted = |line: &&String| !line.trim().is_empty() && line.trim() != "…";
    shown.iter().filter(wanted).find(|line| !printed.any(|found| fits(&found, &plain(line)))).map(String::as_str)
}

/// The id in a line that announces a task.
fn task_id(line: &str) -> Option<&str> {
    line.strip_prefix("Task ").filter(|id| id.len() == 43 && !id.contains(' '))
}

/// A line without volatile parts: times and column widths.
fn plain(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().map(|word| if is_time(word) { "TIME" } else { word }).collect();
    words.join(" ")
}

/// Whether a word is an instant such as `2026-11-25T04:31:00Z`.
fn is_time(word: &str) -> bool {
    let word = word.trim_end_matches(['.', ',', ':', ';']).trim_matches(['"', '(', ')']);
    let shape: String = word.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape.starts_with("0000-00-00T00:00") && shape.ends_with('Z')
}

/// Whether a line matches a pattern with `…`.
fn fits(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Commands that are not run are parsed if they are ours, and need a reason.
fn check_norun(name: &str, block: &Block) {
    assert!(block.info.len() > 3, "{name}:{}: say why it is not run", block.line);
    for step in steps(block) {
        let Step::Command(command, _) = step else { continue };
        let joined = command.replace("\\\n", " ");
        for part in joined.split(['|', ';']).flat_map(|part| part.split("&&")) {
            let part = part.split(['>', '<']).next().unwrap_or_default();
            let Some(at) = part.find("dapbox ").filter(|at| *at == 0 || part[..*at].ends_with([' ', '/'])) else {
                continue;
            };
            // As the argument of another command, such as systemctl, it is a name.
            let before = part[..at].trim();
            if !(before.is_empty() || before.starts_with("sudo") || before.ends_with("/bin/")) {
                continue;
            }
            let parsed = Cli::try_parse_from(part[at..].split_whitespace().map(|word| word.trim_matches(['"', '\''])));
            let is_wrong = |e: &clap::Error| e.exit_code() != 0;
            if let Some(error) = parsed.err().filter(is_wrong) {
                panic!("{name}:{}: {command}\n{error}", block.line);
            }
        }
    }
}

#[test]
fn runs_commands_of_tutorial() {
    let places = Places::new(&[8080, 8081, 9464, 9465], &[]);
    let environment = [("DAPBOX_LOG__FORMAT", "text"), ("DAPBOX_MONITOR__LISTEN", "127.0.0.1:9464")];
    Session::new("docs/tutorial.md", places, &environment).run();
}

#[test]
fn runs_commands_of_results_page() {
    let places = Places::new(&[8080, 8081, 8090, 9464, 9465], &[]);
    let environment = [("DAPBOX_LOG__FORMAT", "text"), ("DAPBOX_MONITOR__LISTEN", "127.0.0.1:9464")];
    Session::new("docs/results.md", places, &environment).run();
}

#[test]
fn runs_commands_of_helper_guide() {
    if !has_programs(&["curl"]) {
        return;
    }
    let mut session = machine("docs/helper-guide.md");
    session.prepare(
        "```console
$ cp -L $(command -v dapbox) ./dapbox
```
```console in=theirs
$ export DAPBOX_LISTEN=127.0.0.1:8090 DAPBOX_MONITOR__LISTEN=127.0.0.1:9465 DAPBOX_LOG__FORMAT=text
$ dapbox serve --data-dir theirs
… serving …
```
```console in=leader
$ export DAPBOX_DATA_DIR=theirs
```",
    );
    session.run();
}

/// An aggregator set up according to the guide, with a task that it leads and one that it helps with.
#[test]
fn runs_commands_of_operations_guide() {
    if !has_programs(&["curl"]) {
        return;
    }
    let mut session = machine("docs/operations.md");
    session.prepare(
        "```console
$ cp -L $(command -v dapbox) /usr/local/bin/dapbox
$ install -D -m 0644 packaging/dapbox.service /etc/systemd/system/dapbox.service
$ dapbox init --role both --public-url https://helper.example --tls acme \\
    --data-dir /var/lib/dapbox --config /etc/dapbox/appliance.toml
$ systemctl enable --now dapbox
$ dapbox task new --leader https://leader.example --helper https://helper.example --vdaf count --out their-task
$ dapbox task new --leader https://helper.example --helper https://leader.example --vdaf count --out my-task
Task 9GgQd3pEE6DiJtYTFyOYGDjRQzdrRaUrVL0Yn-3uAF4
$ dapbox task add their-task/helper.toml --role helper --data-dir /var/lib/dapbox
$ dapbox task add my-task/leader.toml --role leader --data-dir /var/lib/dapbox
$ dapbox task new --dap 19 --leader https://helper.example --helper https://leader.example --vdaf count --out task-19
Task q83vEjRWeJASNFZ4kKvN7xI0VniQEjRWeJCrze8SNFY
$ dapbox task add task-19/leader.toml --role leader --data-dir /var/lib/dapbox
```
```console in=theirs
$ export DAPBOX_LISTEN=127.0.0.1:8090 DAPBOX_MONITOR__LISTEN=127.0.0.1:9465 DAPBOX_LOG__FORMAT=text
$ dapbox serve --data-dir theirs
… serving …
```
```console
$ dapbox task add their-task/leader.toml --any-url --data-dir theirs
$ dapbox task add my-task/helper.toml --any-url --data-dir theirs
```",
    );
    session.run();
}

#[test]
fn runs_commands_of_interop_page() {
    let places = Places::new(&[9001, 9002, 9003, 9004], &[]);
    Session::new("docs/interop.md", places, &[]).run();
}

/// A machine in a directory. Its services are run by a script that interprets the unit as systemd does, as far as the
/// documents need it. There is no certificate authority, so dapbox speaks plain HTTP. The other party is a dapbox, too.
fn machine(document: &'static str) -> Session {
    let places = Places::new(
        &[8080, 9464, 8090, 9465],
        &[
            ("--public-url https://helper.example", "--public-url https://helper.example"),
            ("https://helper.example", "http://127.0.0.1:8080"),
            ("https://leader.example", "http://127.0.0.1:8090"),
            ("/etc/dapbox", "DIR/etc/dapbox"),
            ("/etc/systemd", "DIR/etc/systemd"),
            ("/usr/local/", "DIR/usr/local/"),
            ("/usr/share/", "DIR/usr/share/"),
            ("/var/lib/dapbox", "DIR/var/lib/dapbox"),
            ("/var/backups", "DIR/var/backups"),
            ("/root/", "DIR/root/"),
            (" packaging/", &format!(" {}/packaging/", root().display())),
        ],
    );
    for name in ["systemctl", "systemd-run", "journalctl"] {
        places.pretend(name, include_str!("systemctl"));
    }
    let environment = [
        ("MACHINE", "DIR"),
        ("DAPBOX_TLS__MODE", "off"),
        ("DAPBOX_LISTEN", "127.0.0.1:8080"),
        ("DAPBOX_PUBLIC_URL", "https://helper.example"),
        ("DAPBOX_MONITOR__LISTEN", "127.0.0.1:9464"),
    ];
    let mut session = Session::new(document, places, &environment);
    session.prepare("```console\n$ mkdir -p /usr/local/bin /var/backups /root/\n```");
    session
}

/// A command outside of such blocks would not run.
#[test]
fn shows_commands_in_consoles_only() {
    for name in DOCUMENTS.into_iter().filter(|name| *name != "docs/reference.md") {
        let text = read(name);
        for (line, text) in markdown::prose(&text) {
            assert!(!text.starts_with("    "), "{name}:{line}: use a fenced block");
        }
        for block in markdown::blocks(&text).iter().filter(|block| !matches!(block.language(), "console" | "meanwhile"))
        {
            assert!(!block.language().is_empty(), "{name}:{}: say what the block is", block.line);
            let command = block.lines.iter().find(|line| line.starts_with("$ ") || line.starts_with("dapbox "));
            assert_eq!(command, None, "{name}:{}: commands belong into a console block", block.line);
        }
    }
}

/// Shown configurations are valid.
#[test]
fn loads_configurations_in_documents() {
    for name in DOCUMENTS.into_iter().chain(["README.md"]) {
        for block in markdown::blocks(&read(name)).iter().filter(|block| block.language() == "toml") {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("appliance.toml");
            std::fs::write(&file, block.lines.join("\n")).unwrap();
            if let Err(error) = Config::from_sources(Some(&file), [], &Overrides::default()) {
                panic!("{name}:{}: {error}", block.line);
            }
        }
    }
}

#[test]
fn parses_console_block() {
    let text = "```console in=x exit=1\n$ a \\\n    b\nc\n^C\nd\n```\n";
    let found = steps(&markdown::blocks(text)[0]);
    assert_eq!(
        found,
        [Step::Command("a \\\nb".to_owned(), vec!["c".to_owned()]), Step::Interrupt(vec!["d".to_owned()]),]
    );
}

#[test]
fn compares_output_except_volatile_parts() {
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    let printed = lines("one 2026-11-25T04:31:00Z\ntwo   3 ms\nthree");
    assert_eq!(missing(&printed, &lines("one 2020-01-01T00:00:00Z\n…\ntwo … ms")), None);
    assert_eq!(missing(&printed, &lines("three\none …")), Some("one …"));
    assert_eq!(missing(&printed, &lines("two 3")), Some("two 3"));
    assert!(fits("a b c", "a … c") && !fits("a b c", "a … b") && fits("abc", "…"));
}
