//! The `dapbox` command: one file for each subcommand.

pub(crate) mod args;
mod backup;
mod certificate;
mod check;
mod clock;
mod collect;
mod compact;
pub(crate) mod control;
mod credential;
mod demo;
mod doctor;
pub(crate) mod failure;
mod findings;
mod init;
mod keys;
pub(crate) mod local;
pub mod log_events;
pub(crate) mod logging;
mod manager;
mod manual;
mod pair;
mod partner;
mod pasted;
mod place;
mod reload;
mod restore;
mod screen;
mod serve;
mod shell;
mod show;
pub(crate) mod signals;
mod status;
pub(crate) mod style;
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

/// What the command line says. Exit codes: 0 success, 1 failure, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(
    name = "dapbox",
    version = VERSION,
    long_version = version::long(),
    max_term_width = 80,
    about = "Privacy-preserving measurement in one binary: a DAP leader, helper, client and collector.",
    long_about = "Privacy-preserving measurement in one binary.\n\n\
        Clients split each measurement in two and send one sealed half to each of two aggregators, a leader and a \
        helper. Neither can read a measurement. Together they compute the sum (or a count, histogram, ...) over all \
        clients, and only the collector can open it. This is DAP, the Distributed Aggregation Protocol \
        in its revisions 09 and 18 (draft-ietf-ppm-dap); dapbox can be any of its parties.",
    after_help = "Start here:\n  \
        dapbox demo              see the whole protocol run on this machine\n  \
        dapbox pair              keep a leader and a helper running to try things\n\n\
        Then, for real:\n  \
        dapbox init              decide what must be decided: makes appliance.toml\n  \
        dapbox check             look whether it makes sense\n  \
        dapbox serve             run an aggregator\n  \
        dapbox doctor            look whether all is well with it\n  \
        dapbox task new --help   make a task: one file for each party\n\n\
        Exit codes: 0 success, 1 failure, 2 wrong usage."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decide the few things that must be decided, and write appliance.toml.
    Init(Box<init::Args>),
    /// Look whether a configuration makes sense, without starting anything.
    Check(check::Args),
    /// Run an aggregator until it is told to stop.
    Serve(serve::Args),
    /// Look at everything that a server needs, and say what is wrong and what to do.
    Doctor(doctor::Args),
    /// Show how the running server is: tasks, rates, batches, trouble.
    Status(status::Args),
    /// Make, add, list, show, close and remove tasks.
    #[command(subcommand)]
    Task(task::Command),
    /// Prepare tasks that are set up in-band, by the requests that are about them.
    #[command(subcommand)]
    Taskprov(taskprov::Command),
    /// List, replace, disable and delete the keys that reports are sealed to.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Make, list and revoke what control planes show to the management API.
    #[command(subcommand)]
    Token(token::Command),
    /// Have a control plane such as Divvi Up's set tasks up here: what it needs, and whether it can reach us.
    #[command(subcommand)]
    Partner(partner::Command),
    /// Have a running server take over a changed configuration.
    Reload(reload::Args),
    /// Show what a running server logs, or change it.
    Log(reload::LogArgs),
    /// Copy all data into a file, with the server running, or look through such a file.
    Backup(Box<backup::Args>),
    /// Make a new data directory of a backup.
    Restore(restore::Args),
    /// Make the database as small as it can be, with the server stopped.
    Compact(compact::Args),
    /// Upload measurements, as a client.
    Upload(upload::Args),
    /// Collect an aggregate, as the collector.
    Collect(Box<collect::Args>),
    /// Run a leader and a helper on this machine to try things with.
    Pair(pair::Args),
    /// Run the whole protocol on this machine, step by step.
    Demo(demo::Args),
    /// Try implementations of DAP against each other.
    #[command(subcommand)]
    Interop(interop::Command),
    /// Measure what this machine can hold.
    Bench(Box<bench::Args>),
    /// Print what a shell needs to complete command lines.
    Completions(shell::Args),
    /// Print or write the manual pages.
    Man(manual::Args),
    /// Say which release this is, and what it can do.
    Version(version::Args),
}

/// Runs the command that the arguments ask for, and says what went wrong if something did.
pub fn run() -> ExitCode {
    handle_panics();
    let outcome = execute(Cli::parse().command);
    match outcome {
        Ok(()) => {
            logging::flush();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            logging::last_words(failure.message());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Logs panics through the log, which never blocks, once there is one. A thread of the database that panics ends the
/// process: the database does not say so, and waits for that thread for ever.
fn handle_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !logging::panicked(panic) {
            usual(panic);
        }
        if std::thread::current().name().is_some_and(store::is_own_thread) {
            logging::last_words(
                "the database has broken down. Start again, which recovers what was stored; if that ends like this \
                 too, the data directory is damaged: move it away and restore a backup",
            );
            std::process::exit(1);
        }
    }));
}

impl Command {
    /// Whether it works with any clock, or finds out itself.
    fn needs_clock(&self) -> bool {
        let needs_none = matches!(self, Self::Completions(_) | Self::Man(_) | Self::Version(_));
        !needs_none && !matches!(self, Self::Check(_) | Self::Doctor(_))
    }
}

fn execute(command: Command) -> Outcome {
    if command.needs_clock() {
        clock::require(SystemTime::now())?;
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
            Command::Completions(args) => shell::run(&args),
            Command::Man(args) => manual::run(&args),
            Command::Version(args) => version::run(&args),
        }
    });
    // What is still computing is of no use to anybody.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_example_in_the_help_is_a_command_that_parses() {
        let mut examples = 0;
        let mut whole = Cli::command();
        whole.build();
        let mut commands = vec![whole];
        while let Some(command) = commands.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_bin_name().unwrap_or_default();
            // Those that only lead to others have theirs there, and those of `bench` share one text.
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
