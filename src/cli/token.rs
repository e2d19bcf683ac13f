//! `dapbox token`: what a control plane shows to the management API.

use reqwest::{Method, StatusCode};
use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format, duration},
    control::{Control, refused},
    style::{Style, say},
    timestamp,
};
use crate::{
    config::Config,
    model::{Duration, Secret, Time, TokenHash},
    store::api_token::{ApiToken, check_name},
    support::clock,
    views::ApiTokenStatus,
};

/// The subcommands of `dapbox token`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token, which is shown once.
    New(NewArgs),
    /// List the tokens by their names. They themselves are not kept.
    List(ListArgs),
    /// Refuse a token from now on.
    Revoke(RevokeArgs),
}

/// Arguments of `dapbox token new`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Whoever has the token can set tasks up here through the management API ([management] in \
    appliance.toml), see and remove those that were, and replace HPKE keys. Several are in force at once: to replace one, \
    make the next, give it to the control plane, and revoke the first. Only the hash is kept.\n\n\
    Examples:\n  \
    dapbox token new divviup\n  \
    dapbox token new divviup-2027 --expires-in 90d -o json")]
pub struct NewArgs {
    /// What to call it: letters, digits and any of -._
    name: String,
    /// For how long it is good; without this, until it is revoked.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    expires_in: Option<std::time::Duration>,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox token list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "When a token was last used is known since the server started.\n\n\
    Examples:\n  \
    dapbox token list\n  \
    dapbox token list -o json")]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Arguments of `dapbox token revoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Tasks that were set up with it go on. A backup of before still has it: revoke it again after \
    restoring one.\n\n\
    Example:\n  \
    dapbox token revoke divviup")]
pub struct RevokeArgs {
    /// Its name.
    name: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// A token that was made, for machines.
#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    /// The token itself.
    token: &'a str,
    hash: TokenHash,
    until: Option<Time>,
    /// Where the management API is, if the configuration tells.
    url: Option<String>,
}

/// Runs `dapbox token`.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::New(args) => new(args).await,
        Command::List(args) => list(args).await,
        Command::Revoke(args) => revoke(args).await,
    }
}

impl Control {
    async fn api_tokens(&self) -> Result<Vec<ApiTokenStatus>, Failure> {
        match self {
            Self::Server(socket) => match socket.ask(Method::GET, "/api_tokens", None).await? {
                (StatusCode::OK, body) => Ok(serde_json::from_slice(&body)?),
                (status, body) => Err(refused(status, &body)),
            },
            Self::Offline(data) => Ok(data.api_tokens()?),
        }
    }

    pub(super) async fn add_api_token(&self, token: ApiToken) -> Outcome {
        match self {
            Self::Server(socket) => {
                match socket.ask(Method::POST, "/api_tokens", Some(serde_json::to_vec(&token)?)).await? {
                    (StatusCode::CREATED, _) => Ok(()),
                    (status, body) => Err(refused(status, &body)),
                }
            }
            Self::Offline(data) => Ok(data.add_api_token(token).await?),
        }
    }

    pub(super) async fn revoke_api_token(&self, name: &str) -> Outcome {
        match self {
            Self::Server(socket) => match socket.ask(Method::DELETE, &format!("/api_tokens/{name}"), None).await? {
                (StatusCode::NO_CONTENT, _) => Ok(()),
                (status, body) => Err(refused(status, &body)),
            },
            Self::Offline(data) => Ok(data.revoke_api_token(name.to_owned()).await.map(drop)?),
        }
    }
}

async fn new(args: NewArgs) -> Outcome {
    check_name(&args.name).map_err(Failure::usage)?;
    let config = args.config.load(None)?;
    let (secret, token) = draw(&args.name, args.expires_in);
    let (hash, until) = (token.hash, token.until);
    let control = Control::open(&config).await?;
    let added = control.add_api_token(token).await;
    control.close().await;
    added?;
    let token = secret.expose_text().unwrap_or_default();
    let url = config.management.url(&config.public_url);
    if args.output == Format::Json {
        return Ok(say(serde_json::to_string(&Made { name: &args.name, token, hash, until, url })?)?);
    }
    let good = good(until);
    say(format!("API token {}, good {good}. SECRET, and shown only now:\n\n  {token}\n", args.name))?;
    Ok(say(place(&config, url))?)
}

/// A new token, with what is kept of it.
pub fn draw(name: &str, expires_in: Option<std::time::Duration>) -> (Secret, ApiToken) {
    let (secret, created) = (Secret::random_token(), clock::now());
    let until = expires_in.map(|span| created.saturating_add(Duration(span.as_secs())));
    let token = ApiToken { name: name.to_owned(), hash: TokenHash::of(secret.expose()), created, until };
    (secret, token)
}

/// For how long a token is good, for people.
pub fn good(until: Option<Time>) -> String {
    until.map_or_else(|| "until it is revoked".to_owned(), |until| format!("until {}", timestamp::show(until)))
}

/// Where it is to be shown.
fn place(config: &Config, url: Option<String>) -> String {
    match url {
        Some(url) => format!("The API's URL, for the control plane: {url}"),
        None if config.management.is_on() => {
            "The API's URL is that of management.listen, as the control plane reaches it.".to_owned()
        }
        None => {
            "Nobody takes it yet: the management API is off. Set management.path and restart the server.".to_owned()
        }
    }
}

async fn list(args: ListArgs) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let tokens = control.api_tokens().await;
    control.close().await;
    let mut tokens = tokens?;
    tokens.sort_by(|a, b| (a.token.created, &a.token.name).cmp(&(b.token.created, &b.token.name)));
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&tokens)?,
        Format::Text if tokens.is_empty() => "There is no API token. Make one with 'dapbox token new'.".to_owned(),
        Format::Text => {
            let width = tokens.iter().map(|status| status.token.name.len()).max().unwrap_or_default();
            let (now, style) = (clock::now(), Style::stdout());
            tokens.iter().map(|status| line(status, width, now, style)).collect::<Vec<_>>().join("\n")
        }
    };
    Ok(say(text)?)
}

/// A token in a line.
fn line(status: &ApiTokenStatus, width: usize, now: Time, style: Style) -> String {
    let ApiTokenStatus { token, last_used } = status;
    let until = match token.until {
        None => "until it is revoked".to_owned(),
        Some(until) if token.is_active(now) => format!("until {}", timestamp::show(until)),
        Some(until) => style.bad(&format!("expired {}", timestamp::show(until))),
    };
    let used = last_used.map_or_else(String::new, |at| format!(", last used {}", timestamp::show(at)));
    let made = style.dim(&format!("made {}", timestamp::show(token.created)));
    format!("{:<width$}  {until}{used}  {made}", token.name)
}

async fn revoke(args: RevokeArgs) -> Outcome {
    check_name(&args.name).map_err(Failure::usage)?;
    let control = Control::open(&args.config.load(None)?).await?;
    let revoked = control.revoke_api_token(&args.name).await;
    control.close().await;
    revoked?;
    Ok(say(match args.output {
        Format::Json => serde_json::json!({ "name": args.name, "done": "revoked" }).to_string(),
        Format::Text => format!("API token {} is refused from now on.", args.name),
    })?)
}
