//! Every command with its help.

use std::fmt::Write;

use clap::{Command, CommandFactory};
use dapbox::cli::Cli;

use super::table;

/// How wide a help text is, whatever the terminal of the test is.
const WIDTH: usize = 80;

/// All commands, those that are hidden left out.
pub fn text() -> String {
    let mut command = Cli::command().term_width(WIDTH);
    command.build();
    let mut text = "`dapbox help COMMAND` and `dapbox COMMAND --help` print the same.\n\n".to_owned();
    let mut rows = Vec::new();
    list(&command, &mut rows);
    text.push_str(&table(&["command", "what it does"], rows));
    describe(&command, &mut text);
    text
}

/// Those that can be given to a command, those that are hidden left out.
fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
}

/// The commands that do something themselves.
fn list(command: &Command, rows: &mut Vec<Vec<String>>) {
    for inner in subcommands(command) {
        if !inner.is_subcommand_required_set() {
            let name = inner.get_bin_name().unwrap_or(inner.get_name());
            let about = inner.get_about().map(ToString::to_string).unwrap_or_default();
            rows.push(vec![format!("[{name}](#{})", name.replace(' ', "-")), about]);
        }
        list(inner, rows);
    }
}

fn describe(command: &Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.clone().term_width(WIDTH).mut_args(|arg| arg.hide_env_values(true)).render_long_help();
    let help: Vec<_> = help.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    let _ = write!(text, "\n### {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    for inner in subcommands(command) {
        describe(inner, text);
    }
}

/// What the exit code of every command says.
pub fn exit_codes() -> String {
    let rows = [
        ("0", "What was asked for is done. Where something was looked at, warnings are no failure."),
        ("1", "It failed. Standard error says why, and what to do where there is something to do."),
        ("2", "The command makes no sense as it was given: a flag is unknown, missing or contradicts another."),
    ];
    table(&["code", "means"], rows.map(|(code, means)| vec![code.to_owned(), means.to_owned()]))
}
