//! `dapbox man`: generates manual pages.

use std::{io, path::PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, Failure, Outcome, style::print};
use crate::support::version;

/// Arguments of `dapbox man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without --dir, prints the page of dapbox(1): dapbox man | man -l -\n\n\
    Examples:\n  \
    dapbox man\n  \
    dapbox man --dir /usr/local/share/man/man1")]
pub struct Args {
    /// Directory for one page per command; created if missing.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs `dapbox man`.
pub fn run(args: &Args) -> Outcome {
    // One page per command, without the help subcommands.
    let mut program = Cli::command().disable_help_subcommand(true).version(version::RELEASE).long_version(None);
    program.build();
    let Some(dir) = &args.dir else { return Ok(print(page(program)?.1)?) };
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

/// Renders the page of a command. Returns its file name and text.
fn page(command: Command) -> io::Result<(String, String)> {
    // The header repeats the page's name: a longer manual name would not fit 80 columns.
    let man = Man::new(command).source(format!("dapbox {}", version::RELEASE)).manual("dapbox");
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((man.get_filename(), fix_page(&String::from_utf8_lossy(&text))))
}

/// Fixes the generated page: quotes the missing date, names the last section NOTES, and does not wrap indented lines.
fn fix_page(page: &str) -> String {
    let (mut fixed, mut is_indented) = (String::with_capacity(page.len()), false);
    for line in page.lines() {
        match (is_indented, line.starts_with(' ')) {
            (false, true) => fixed.push_str(".nf\n"),
            (true, false) => fixed.push_str(".fi\n"),
            _ => {}
        }
        is_indented = line.starts_with(' ');
        match line {
            ".SH EXTRA" => fixed.push_str(".SH NOTES"),
            _ if line.starts_with(".TH ") => fixed.push_str(&line.replacen("  ", " \"\" ", 1)),
            _ => fixed.push_str(line),
        }
        fixed.push('\n');
    }
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_indented_lines_of_man_page() {
        let fixed = fix_page(".TH a 1  \"a 0.1\" manual\n.SH EXTRA\nExamples:\n  dapbox a \\\\\n      b\n\nEnd\n");
        let title = ".TH a 1 \"\" \"a 0.1\" manual\n";
        assert_eq!(
            fixed.strip_prefix(title).unwrap(),
            ".SH NOTES\nExamples:\n.nf\n  dapbox a \\\\\n      b\n.fi\n\nEnd\n"
        );
    }
}
