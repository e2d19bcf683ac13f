//! `dapbox completions`: generates shell completion scripts.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Outcome, style::print};

/// Arguments of `dapbox completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Prints a script. Install it, depending on the shell and the system, as:\n\n  \
    bash  /usr/share/bash-completion/completions/dapbox\n  \
    zsh   a directory in $fpath, as _dapbox\n  \
    fish  ~/.config/fish/completions/dapbox.fish\n\n\
    Examples:\n  \
    dapbox completions bash\n  \
    dapbox completions zsh\n\n\
    For the current bash session: source <(dapbox completions bash)")]
pub struct Args {
    /// Shell to generate the script for.
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs `dapbox completions`.
pub fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dapbox", &mut script);
    Ok(print(String::from_utf8_lossy(&script))?)
}
