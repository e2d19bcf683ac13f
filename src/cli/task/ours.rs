//! Whether a task's file is for this server: before it is added, the URL that the task has for us is compared with what is
//! known of where we are.

use std::{
    io::{BufRead, IsTerminal, Write},
    net::SocketAddr,
};

use super::super::{
    Failure, Outcome,
    control::Control,
    place::{self, Ownership},
    show,
    style::warn,
};
use crate::{
    config::Config,
    model::{Role, Task},
};

/// What an operator says about a task that is added.
#[derive(Debug, clap::Args)]
pub struct RoleArgs {
    /// The role that this server shall have in the task. Refuses the file of the other aggregator. Needed where nothing
    /// tells and nobody can be asked: without public_url, and on no terminal.
    #[arg(long, value_enum)]
    role: Option<Aggregator>,
    /// Add the task although its URL for this server is not below public_url, because it leads here too.
    #[arg(long)]
    any_url: bool,
}

/// A role that a server can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Aggregator {
    /// Takes uploads and collections.
    Leader,
    /// Is asked by the leader.
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

/// Refuses a task that is meant for another server; asks if nothing tells.
pub async fn check(control: &Control, config: &Config, task: &Task, args: &RoleArgs) -> Outcome {
    let role = task.role();
    let name = show::role(role);
    if let Some(wanted) = args.role.map(Aggregator::role).filter(|wanted| *wanted != role) {
        let wanted = show::role(wanted);
        return Err(Failure::usage(format!("this file is the {name}'s, and --role says {wanted}: nothing was added")));
    }
    match place::ownership(config, listening(control, config).await, &task.public, role) {
        Ownership::Ours => Ok(()),
        Ownership::Foreign(why) if args.any_url => {
            warn(why);
            Ok(())
        }
        Ownership::Foreign(why) => Err(Failure::new(format!(
            "{why}. Nothing was added. Take the file of the role that this server has; if that URL leads here too, give \
             --any-url"
        ))),
        Ownership::Unknown if args.role.is_some() || args.any_url => Ok(()),
        Ownership::Unknown => ask(place::own_url(&task.public, role), name),
    }
}

/// Where the server listens, or would.
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
            "the task's {role} is at {url}, and nothing tells whether that is this server: set public_url in the \
             configuration, or give --role {role}"
        )));
    }
    let mut out = std::io::stderr().lock();
    write!(out, "The task's {role} is at {url}. Is that this server? Type yes to add the task: ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(Failure::new("nothing was added")) }
}
