//! `dapbox reload` and `dapbox log`: a running server takes over a changed configuration, or logs something else.

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format},
    control::Socket,
    style::{Style, say},
};
use crate::config::changes::{LogLevel, OptionChange, ReloadResult};

/// Arguments of `dapbox reload`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The running server reads its configuration file again, as it does on SIGHUP, and takes over \
    what can change while it runs. What cannot is named, and stays as it is until a restart. A configuration that is \
    broken changes nothing. The server's environment and command line stay what they were.\n\n\
    Exit code 1 if the configuration is refused or something could not be taken over.\n\n\
    Examples:\n  \
    dapbox reload\n  \
    dapbox reload --config /etc/dapbox/appliance.toml -o json")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox log`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without a level, what is logged now is printed. A level holds until the next 'dapbox reload' \
    or start, when log.level of the configuration counts again. Levels by module are understood: \
    'warn,dapbox::aggregator=debug'.\n\n\
    Examples:\n  \
    dapbox log\n  \
    dapbox log debug\n  \
    dapbox log info,dapbox_server=trace --data-dir /var/lib/dapbox")]
pub struct LogArgs {
    /// What to log from now on: error, warn, info, debug or trace, or levels by module.
    #[arg(value_name = "LEVEL")]
    level: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs `dapbox reload`.
pub async fn run(args: Args) -> Outcome {
    let reloaded = running(&args.config).await?.reload().await?;
    say(match args.output {
        Format::Json => serde_json::to_string_pretty(&reloaded)?,
        Format::Text => show(&reloaded, Style::stdout()),
    })?;
    match reloaded.errors.len() {
        0 => Ok(()),
        errors => Err(Failure::new(format!("{errors} of it could not be taken over"))),
    }
}

/// Runs `dapbox log`.
pub async fn run_log(args: LogArgs) -> Outcome {
    let socket = running(&args.config).await?;
    let level = match args.level {
        Some(level) => socket.set_log_level(&LogLevel { level }).await?,
        None => socket.log_level().await?,
    };
    Ok(say(match args.output {
        Format::Json => serde_json::to_string_pretty(&level)?,
        Format::Text => level.level,
    })?)
}

/// The control socket of the server, which must run.
async fn running(config: &ConfigArgs) -> Result<Socket, Failure> {
    let path = config.control_socket()?;
    let socket = Socket::new(path.clone())?;
    if socket.is_alive().await? {
        Ok(socket)
    } else {
        let text =
            format!("no server is running: nobody answers at {}; is --config or --data-dir missing?", path.display());
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
    section(style.good("Taken over:"), lines(changed));
    section(style.accent("Needs a restart, and stays as it was until then:"), lines(needs_restart));
    section(style.bad("Could not be taken over:"), errors.clone());
    if text.is_empty() { "Nothing has changed.".to_owned() } else { text }
}
