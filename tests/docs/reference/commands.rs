//! Every command with its help.

use std::fmt::Write;

use clap::{Command, CommandFactory};
use dapbox::cli::Cli;

use super::table;

/// The width of help texts, independent of the terminal of the test.
const WIDTH: usize = 80;

/// All commands, except hidden ones.
pub fn text() -> String {
    let mut command = Cli::command().term_width(WIDTH);
    command.build();
    let mut text = "`dapbox help COMMAND` and `dapbox COMMAND --help` print the same.\n\n".to_owned();
    let mut rows = Vec::new();
    list(&command, &mut rows);
    text.push_str(&table(&["command", "purpose"], rows));
    describe(&command, &mut text);
    text
}

/// The subcommands of a command, except hidden ones.
fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
}

/// Appends a row for each command that runs without a subcommand.
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

/// The exit codes of every command.
pub fn exit_codes() -> String {
    let rows = [
        ("0", "Success. Warnings, such as those of `doctor`, are not failures."),
        ("1", "Failure. Standard error has the cause and, where possible, a hint."),
        ("2", "Wrong usage: a flag is unknown, missing or conflicts with another."),
    ];
    table(&["code", "meaning"], rows.map(|(code, means)| vec![code.to_owned(), means.to_owned()]))
}
