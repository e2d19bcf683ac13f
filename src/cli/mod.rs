//! The `dapbox` command line: one file per command.

pub(crate) mod args;
mod backup;
mod certificate;
mod check;
mod clock;
mod collect;
mod compact;
mod completions;
pub(crate) mod control;
mod credential;
mod demo;
mod doctor;
mod endpoint;
pub(crate) mod failure;
pub(crate) mod findings;
mod init;
mod input;
mod keys;
pub(crate) mod local_pair;
pub mod log_events;
pub(crate) mod logging;
mod man;
mod pair;
mod partner;
mod reload;
mod restore;
mod results;
mod screen;
mod serve;
mod service_manager;
mod show;
pub(crate) mod signals;
mod status;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod task;
pub mod taskfile;
mod taskprov;
mod token;
mod upload;
mod version;

use std::{process::ExitCode, time::SystemTime};

use clap::{Parser, Subcommand};

use self::failure::{Failure, Outcome};
use crate::{
    store,
    support::{timestamp, version::VERSION},
    tools::{bench, interop},
};

/// The command line. Exit codes: 0 success, 1 failure, 2 usage error.
#[derive(Debug, Parser)]
#[command(
    name = "dapbox",
    version = VERSION,
    long_version = version::long(),
    max_term_width = 80,
    about = "Privacy-preserving measurement in one binary: a DAP leader, helper, client and collector.",
    long_about = "Privacy-preserving measurement in one binary.\n\n\
        Clients split each measurement into two shares and send one encrypted share to each of two aggregators, a \
        leader and a helper. Neither can read a measurement. Together they compute the sum (or a count, histogram, \
        ...) over all clients, and only the collector can decrypt it. This is DAP, the Distributed Aggregation \
        Protocol, in its revisions 09 and 18 (draft-ietf-ppm-dap); dapbox can be any of its parties.",
    after_help = "Try it:\n  \
        dapbox demo              run the whole protocol on this machine\n  \
        dapbox pair              run a leader and a helper for testing\n\n\
        Run an aggregator:\n  \
        dapbox init              create appliance.toml\n  \
        dapbox check             validate it\n  \
        dapbox serve             run the server\n  \
        dapbox doctor            diagnose the server and its environment\n  \
        dapbox task new --help   create a task: one file per party\n\n\
        Exit codes: 0 success, 1 failure, 2 usage error."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create appliance.toml interactively or from flags.
    Init(Box<init::Args>),
    /// Validate the configuration without starting the server.
    Check(check::Args),
    /// Run an aggregator.
    Serve(serve::Args),
    /// Diagnose a server and its environment; print a fix for each problem.
    Doctor(doctor::Args),
    /// Show the running server: tasks, rates, batches, errors.
    Status(status::Args),
    /// Create, add, list, show, close and remove tasks.
    #[command(subcommand)]
    Task(task::Command),
    /// Create tasks that are advertised in-band, by their own requests.
    #[command(subcommand)]
    Taskprov(taskprov::Command),
    /// List, rotate, disable and delete HPKE keys.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Create, list and revoke tokens of the management API.
    #[command(subcommand)]
    Token(token::Command),
    /// Connect a control plane, such as Divvi Up, that provisions tasks on this server.
    #[command(subcommand)]
    Partner(partner::Command),
    /// Reload the configuration of the running server.
    Reload(reload::Args),
    /// Show or change the log level of the running server.
    Log(reload::LogArgs),
    /// Back up the data directory while the server runs, or verify a backup.
    Backup(Box<backup::Args>),
    /// Restore a backup into a new data directory.
    Restore(restore::Args),
    /// Compact the database of a stopped server.
    Compact(compact::Args),
    /// Upload measurements as a client.
    Upload(upload::Args),
    /// Collect an aggregate as the collector.
    Collect(Box<collect::Args>),
    /// Show, export and share the results of the tasks that this server collects.
    #[command(subcommand)]
    Results(results::Command),
    /// Run a leader and a helper on this machine for testing.
    Pair(pair::Args),
    /// Demonstrate the whole protocol on this machine, step by step.
    Demo(demo::Args),
    /// Test DAP implementations against each other.
    #[command(subcommand)]
    Interop(interop::Command),
    /// Benchmark this machine.
    Bench(Box<bench::Args>),
    /// Generate a shell completion script.
    Completions(completions::Args),
    /// Generate manual pages.
    Man(man::Args),
    /// Show the version and the supported protocols.
    Version(version::Args),
}

/// Runs the command of the command line. Prints the error if it fails.
pub fn run() -> ExitCode {
    handle_panics();
    let outcome = execute(Cli::parse().command);
    match outcome {
        Ok(()) => {
            logging::flush();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            logging::log_final_error(failure.message());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Writes panics to the log, if it is started. A panic of a database thread ends the process: the database does not
/// report it and would wait for that thread forever.
fn handle_panics() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !logging::log_panic(panic) {
            default_hook(panic);
        }
        if std::thread::current().name().is_some_and(store::is_own_thread) {
            logging::log_final_error(
                "the database failed (hint: restart, which recovers the stored data; if it fails again, the data \
                 directory is damaged: move it away and restore a backup)",
            );
            std::process::exit(1);
        }
    }));
}

impl Command {
    /// Returns whether the command requires a valid system clock. `check` and `doctor` check the clock themselves.
    fn needs_clock(&self) -> bool {
        let needs_none = matches!(self, Self::Completions(_) | Self::Man(_) | Self::Version(_));
        !needs_none && !matches!(self, Self::Check(_) | Self::Doctor(_))
    }
}

fn execute(command: Command) -> Outcome {
    if command.needs_clock() {
        clock::require_valid(SystemTime::now())?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Init(args) => init::run(*args),
            Command::Check(args) => check::run(args),
            Command::Serve(args) => serve::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Task(command) => task::run(command).await,
            Command::Taskprov(command) => taskprov::run(command),
            Command::Keys(command) => keys::run(command).await,
            Command::Token(command) => token::run(command).await,
            Command::Partner(command) => partner::run(command).await,
            Command::Results(command) => results::run(command).await,
            Command::Backup(args) => backup::run(*args).await,
            Command::Restore(args) => restore::run(args).await,
            Command::Compact(args) => compact::run(args).await,
            Command::Upload(args) => upload::run(args).await,
            Command::Collect(args) => collect::run(*args).await,
            Command::Doctor(args) => doctor::run(args).await,
            Command::Pair(args) => pair::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Interop(command) => interop::run(command).await,
            Command::Bench(args) => bench::run(*args).await,
            Command::Reload(args) => reload::run(args).await,
            Command::Log(args) => reload::run_log(args).await,
            Command::Completions(args) => completions::run(&args),
            Command::Man(args) => man::run(&args),
            Command::Version(args) => version::run(&args),
        }
    });
    // Do not wait for computations whose result is no longer needed.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn parses_every_example_of_the_help() {
        let mut examples = 0;
        let mut whole = Cli::command();
        whole.build();
        let mut commands = vec![whole];
        while let Some(command) = commands.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_bin_name().unwrap_or_default();
            // Subcommands have examples of their own; the commands of `bench` share one text.
            let needs_one = !command.has_subcommands() && !name.starts_with("dapbox bench");
            assert!(!needs_one || help.contains("Example"), "{name} has no example");
            let too_wide = help.lines().find(|line| line.starts_with("  ") && line.len() > style::WIDTH);
            assert_eq!(too_wide, None, "would be wrapped");
            let joined = help.replace("\\\n      ", "");
            for line in joined.lines().map(str::trim).filter(|line| line.starts_with("dapbox ")) {
                let line = line.split("  ").next().unwrap_or_default();
                let words = line.split_whitespace();
                if let Err(error) = Cli::try_parse_from(words)
                    && error.kind() != clap::error::ErrorKind::DisplayHelp
                {
                    panic!("{line}\n{error}");
                }
                examples += 1;
            }
            commands.extend(command.get_subcommands().filter(|inner| inner.get_name() != "help").cloned());
        }
        assert!(examples >= 10, "only {examples} examples");
    }
}
