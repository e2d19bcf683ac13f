//! Checks before a task is added that its file is for this server, by comparing this aggregator's URL in the task with the
//! server's own.

use std::{
    io::{BufRead, IsTerminal, Write},
    net::SocketAddr,
};

use super::super::{
    Failure, Outcome,
    control::Control,
    endpoint::{self, Ownership},
    show,
    style::warn,
};
use crate::{
    config::Config,
    model::{Role, Task},
};

/// The operator's statements about the task.
#[derive(Debug, clap::Args)]
pub struct RoleArgs {
    /// Role of this server in the task; the file of the other role is refused. Required without public_url and terminal.
    #[arg(long, value_enum)]
    role: Option<Aggregator>,
    /// Accept a URL that is not below public_url but also leads to this server.
    #[arg(long)]
    any_url: bool,
}

/// A role that a server can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Aggregator {
    /// Accepts uploads and collections.
    Leader,
    /// Answers the leader.
    Helper,
}

impl Aggregator {
    fn role(self) -> Role {
        match self {
            Self::Leader => Role::Leader,
            Self::Helper => Role::Helper,
        }
    }
}

/// Refuses a task of another server. Asks the user if it cannot tell.
pub async fn check(control: &Control, config: &Config, task: &Task, args: &RoleArgs) -> Outcome {
    let role = task.role();
    let name = show::role(role);
    if let Some(wanted) = args.role.map(Aggregator::role).filter(|wanted| *wanted != role) {
        let wanted = show::role(wanted);
        return Err(Failure::usage(format!("this is the {name}'s file, but --role is {wanted}: nothing was added")));
    }
    match endpoint::ownership(config, listening(control, config).await, &task.public, role) {
        Ownership::Ours => Ok(()),
        Ownership::Foreign(why) if args.any_url => {
            warn(why);
            Ok(())
        }
        Ownership::Foreign(why) => Err(Failure::new(format!(
            "{why}: nothing was added (hint: use the file of this server's role; if that URL also leads to this server, \
             use --any-url)"
        ))),
        Ownership::Unknown if args.role.is_some() || args.any_url => Ok(()),
        Ownership::Unknown => ask(endpoint::own_url(&task.public, role), name),
    }
}

/// Returns the listen address of the running server, or the configured one.
async fn listening(control: &Control, config: &Config) -> SocketAddr {
    match control {
        Control::Server(socket) => socket.health().await.ok().and_then(|health| health.address),
        Control::Offline(_) => None,
    }
    .unwrap_or(config.listen)
}

fn ask(url: &str, role: &str) -> Outcome {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "cannot tell whether the task's {role}, {url}, is this server (hint: set public_url in the configuration, or \
             use --role {role})"
        )));
    }
    let mut out = std::io::stderr().lock();
    write!(out, "The task's {role} is at {url}. Is that this server? Type yes to add the task: ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(Failure::new("cancelled: nothing was added")) }
}
