//! `dapbox man`: the manual pages.

use std::{io, path::PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, Failure, Outcome, style::say};
use crate::support::version;

/// Arguments of `dapbox man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without --dir the page of dapbox itself is printed: dapbox man | man -l -\n\n\
    Examples:\n  \
    dapbox man\n  \
    dapbox man --dir /usr/local/share/man/man1")]
pub struct Args {
    /// Write a page for each command into this directory, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs `dapbox man`.
pub fn run(args: &Args) -> Outcome {
    // One page for each command, and none for the help that each of them has.
    let mut program = Cli::command().disable_help_subcommand(true).version(version::RELEASE).long_version(None);
    program.build();
    let Some(dir) = &args.dir else { return Ok(say(page(program)?.1)?) };
    let at_dir = |error: io::Error| Failure::new(error).context(dir.display());
    std::fs::create_dir_all(dir).map_err(at_dir)?;
    let mut commands = vec![program];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(|each| !each.is_hide_set()).cloned());
        let (name, text) = page(command)?;
        std::fs::write(dir.join(name), text).map_err(at_dir)?;
    }
    Ok(())
}

/// The name of a command's page, and its text.
fn page(command: Command) -> io::Result<(String, String)> {
    // The name of a page stands twice beside the manual's: more than "dapbox" has no room in 80 columns.
    let man = Man::new(command).source(format!("dapbox {}", version::RELEASE)).manual("dapbox");
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((man.get_filename(), polish(&String::from_utf8_lossy(&text))))
}

/// What the generator does not know: that a date which is not there leaves its place empty, that our last section is notes
/// with examples, and that lines which are indented must not be wrapped.
fn polish(page: &str) -> String {
    let (mut polished, mut is_indented) = (String::with_capacity(page.len()), false);
    for line in page.lines() {
        match (is_indented, line.starts_with(' ')) {
            (false, true) => polished.push_str(".nf\n"),
            (true, false) => polished.push_str(".fi\n"),
            _ => {}
        }
        is_indented = line.starts_with(' ');
        match line {
            ".SH EXTRA" => polished.push_str(".SH NOTES"),
            _ if line.starts_with(".TH ") => polished.push_str(&line.replacen("  ", " \"\" ", 1)),
            _ => polished.push_str(line),
        }
        polished.push('\n');
    }
    polished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_indented_is_not_wrapped_and_the_title_is_whole() {
        let polished = polish(".TH a 1  \"a 0.1\" manual\n.SH EXTRA\nExamples:\n  dapbox a \\\\\n      b\n\nEnd\n");
        let title = ".TH a 1 \"\" \"a 0.1\" manual\n";
        assert_eq!(
            polished.strip_prefix(title).unwrap(),
            ".SH NOTES\nExamples:\n.nf\n  dapbox a \\\\\n      b\n.fi\n\nEnd\n"
        );
    }
}
