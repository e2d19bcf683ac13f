//! `dapbox completions`: what a shell needs to complete our command lines.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Outcome, style::say};

/// Arguments of `dapbox completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Prints a script. Where it belongs depends on the shell and the system:\n\n  \
    bash  /usr/share/bash-completion/completions/dapbox\n  \
    zsh   a directory in $fpath, as _dapbox\n  \
    fish  ~/.config/fish/completions/dapbox.fish\n\n\
    Examples:\n  \
    dapbox completions bash\n  \
    dapbox completions zsh\n\n\
    To try it at once, in bash: source <(dapbox completions bash)")]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs `dapbox completions`.
pub fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dapbox", &mut script);
    Ok(say(String::from_utf8_lossy(&script))?)
}
