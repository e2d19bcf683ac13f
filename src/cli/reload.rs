//! `dapbox reload` and `dapbox log`: reloads the configuration or changes the log level of the running server.

use super::{
    Failure, Outcome,
    args::{ConfigArgs, OutputArgs},
    control::Socket,
    style::{Style, counted},
};
use crate::config::changes::{LogLevel, OptionChange, ReloadResult};

/// Arguments of `dapbox reload`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The running server reads its configuration file again, as on SIGHUP, and applies the options that \
    can change at runtime. Lists the options that require a restart. An invalid configuration changes nothing. The \
    server's environment and command line remain.\n\n\
    Exit code 1 if the configuration is invalid or an option could not be applied.\n\n\
    Examples:\n  \
    dapbox reload\n  \
    dapbox reload --config /etc/dapbox/appliance.toml -o json"
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox log`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without LEVEL, prints the current level. A level is valid until the next 'dapbox reload' or \
    restart, which apply log.level of the configuration. Levels by crate: 'warn,dapbox_aggregator=debug'.\n\n\
    Examples:\n  \
    dapbox log\n  \
    dapbox log debug\n  \
    dapbox log info,dapbox_server=trace --data-dir /var/lib/dapbox")]
pub struct LogArgs {
    /// New level: error, warn, info, debug or trace, or levels by crate.
    #[arg(value_name = "LEVEL")]
    level: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `dapbox reload`.
pub async fn run(args: Args) -> Outcome {
    let reloaded = connect_running(&args.config).await?.reload().await?;
    args.output.print(&reloaded, || show(&reloaded, Style::stdout()))?;
    match reloaded.errors.len() {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{} could not be applied", counted(failed as u64, "option")))),
    }
}

/// Runs `dapbox log`.
pub async fn run_log(args: LogArgs) -> Outcome {
    let socket = connect_running(&args.config).await?;
    let level = match args.level {
        Some(level) => socket.set_log_level(&LogLevel { level }).await?,
        None => socket.log_level().await?,
    };
    args.output.print(&level, || level.level.clone())
}

/// Connects to the control socket of the running server.
async fn connect_running(config: &ConfigArgs) -> Result<Socket, Failure> {
    let path = config.control_socket()?;
    let socket = Socket::new(path.clone())?;
    if socket.is_alive().await? {
        Ok(socket)
    } else {
        let text = format!("no server is running: no answer at {} (hint: set --config or --data-dir)", path.display());
        Err(Failure::new(text))
    }
}

fn show(ReloadResult { changed, needs_restart, errors }: &ReloadResult, style: Style) -> String {
    let mut text = String::new();
    let mut section = |title: String, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("{title}\n{}", lines.iter().map(|line| format!("  {line}\n")).collect::<String>()));
        }
    };
    let lines = |changes: &[OptionChange]| changes.iter().map(ToString::to_string).collect::<Vec<_>>();
    section(style.good("Applied:"), lines(changed));
    section(style.accent("Requires a restart:"), lines(needs_restart));
    section(style.bad("Failed:"), errors.clone());
    if text.is_empty() { "No change.".to_owned() } else { text }
}
