//! `dapbox man`: the manual pages.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, Failure, Outcome, style::say};

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
    match &args.dir {
        Some(dir) => {
            let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
            written.map_err(|e| Failure::new(e).context(dir.display()))
        }
        None => {
            let mut page = Vec::new();
            Man::new(Cli::command().disable_help_subcommand(true)).render(&mut page)?;
            Ok(say(String::from_utf8_lossy(&page))?)
        }
    }
}
