//! `dapbox token`: manages the bearer tokens of the management API.

use reqwest::{Method, StatusCode};
use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format, OutputArgs, parse_duration},
    control::{Control, refusal},
    style::{Style, print},
    table::{Cell, Table},
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
    /// Create a token and show it once.
    New(NewArgs),
    /// List the tokens by name; the tokens themselves are not stored.
    List(ListArgs),
    /// Revoke a token.
    Revoke(RevokeArgs),
}

/// Arguments of `dapbox token new`.
#[derive(Debug, clap::Args)]
#[command(after_help = "A token authorises its holder to provision tasks through the management API ([management] in \
    appliance.toml), to list and remove those tasks, and to rotate HPKE keys. Several tokens may be valid: to rotate one, \
    create the next, configure it at the control plane, and revoke the first. Only the hash is stored.\n\n\
    Examples:\n  \
    dapbox token new divviup\n  \
    dapbox token new divviup-2027 --expires-in 90d -o json")]
pub struct NewArgs {
    /// Name of the token: letters, digits or any of -._
    name: String,
    /// Lifetime of the token. Default: until it is revoked.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    expires_in: Option<std::time::Duration>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox token list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The time of last use is reset when the server restarts.\n\n\
    Examples:\n  \
    dapbox token list\n  \
    dapbox token list -o json")]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `dapbox token revoke`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Tasks provisioned with the token remain. Older backups still contain it: revoke it again after a \
    restore.\n\n\
    Example:\n  \
    dapbox token revoke divviup"
)]
pub struct RevokeArgs {
    /// Name of the token.
    name: String,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The JSON output of `new`.
#[derive(Serialize)]
struct Created<'a> {
    name: &'a str,
    token: &'a str,
    hash: TokenHash,
    until: Option<Time>,
    /// URL of the management API, if configured.
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
            Self::Server(socket) => match socket.request(Method::GET, "/api_tokens", None).await? {
                (StatusCode::OK, body) => Ok(serde_json::from_slice(&body)?),
                (status, body) => Err(refusal(status, &body)),
            },
            Self::Offline(data) => Ok(data.api_tokens()?),
        }
    }

    pub(super) async fn add_api_token(&self, token: ApiToken) -> Outcome {
        match self {
            Self::Server(socket) => {
                match socket.request(Method::POST, "/api_tokens", Some(serde_json::to_vec(&token)?)).await? {
                    (StatusCode::CREATED, _) => Ok(()),
                    (status, body) => Err(refusal(status, &body)),
                }
            }
            Self::Offline(data) => Ok(data.add_api_token(token).await?),
        }
    }

    pub(super) async fn revoke_api_token(&self, name: &str) -> Outcome {
        match self {
            Self::Server(socket) => match socket.request(Method::DELETE, &format!("/api_tokens/{name}"), None).await? {
                (StatusCode::NO_CONTENT, _) => Ok(()),
                (status, body) => Err(refusal(status, &body)),
            },
            Self::Offline(data) => Ok(data.revoke_api_token(name.to_owned()).await.map(drop)?),
        }
    }
}

async fn new(args: NewArgs) -> Outcome {
    check_name(&args.name).map_err(Failure::usage)?;
    let config = args.config.load(None)?;
    let (secret, token) = generate(&args.name, args.expires_in);
    let (hash, until) = (token.hash, token.until);
    let control = Control::open(&config).await?;
    let added = control.add_api_token(token).await;
    control.close().await;
    added?;
    let token = secret.expose_text().unwrap_or_default();
    let url = config.management.url(&config.public_url);
    if args.output.format == Format::Json {
        return Ok(print(serde_json::to_string(&Created { name: &args.name, token, hash, until, url })?)?);
    }
    let validity = validity(until);
    print(format!("API token {}, valid {validity}. SECRET, shown only once:\n\n  {token}\n", args.name))?;
    Ok(print(describe_url(&config, url))?)
}

/// Generates a token, and the record that is stored.
pub fn generate(name: &str, expires_in: Option<std::time::Duration>) -> (Secret, ApiToken) {
    let (secret, created) = (Secret::random_token(), clock::now());
    let until = expires_in.map(|span| created.saturating_add(Duration(span.as_secs())));
    let token = ApiToken { name: name.to_owned(), hash: TokenHash::of(secret.expose()), created, until };
    (secret, token)
}

/// Describes the validity of a token.
pub fn validity(until: Option<Time>) -> String {
    until.map_or_else(|| "until it is revoked".to_owned(), |until| format!("until {}", timestamp::show(until)))
}

/// Describes the URL of the management API.
fn describe_url(config: &Config, url: Option<String>) -> String {
    match url {
        Some(url) => format!("URL of the API, for the control plane: {url}"),
        None if config.management.is_on() => {
            "The URL of the API is that of management.listen, as the control plane reaches it.".to_owned()
        }
        None => "The management API is off (hint: set management.path and restart the server).".to_owned(),
    }
}

async fn list(args: ListArgs) -> Outcome {
    let control = Control::open(&args.config.load(None)?).await?;
    let tokens = control.api_tokens().await;
    control.close().await;
    let mut tokens = tokens?;
    tokens.sort_by(|a, b| (a.token.created, &a.token.name).cmp(&(b.token.created, &b.token.name)));
    args.output.print(&tokens, || match tokens.is_empty() {
        true => "No API tokens (hint: create one with 'dapbox token new').".to_owned(),
        false => table(&tokens, clock::now()),
    })
}

fn table(tokens: &[ApiTokenStatus], now: Time) -> String {
    let mut table = Table::new(Style::stdout(), ["name", "validity", "last used", "created"]);
    for ApiTokenStatus { token, last_used } in tokens {
        let validity = match token.until {
            Some(until) if !token.is_active(now) => Cell::bad(format!("expired {}", timestamp::show(until))),
            until => Cell::new(validity(until)),
        };
        let used = last_used.map_or_else(|| "never".to_owned(), timestamp::show);
        table.row([token.name.as_str().into(), validity, used.into(), Cell::dim(timestamp::show(token.created))]);
    }
    table.to_string()
}

async fn revoke(args: RevokeArgs) -> Outcome {
    check_name(&args.name).map_err(Failure::usage)?;
    let control = Control::open(&args.config.load(None)?).await?;
    let revoked = control.revoke_api_token(&args.name).await;
    control.close().await;
    revoked?;
    Ok(print(match args.output.format {
        Format::Json => serde_json::json!({ "name": args.name, "done": "revoked" }).to_string(),
        Format::Text => format!("API token {} revoked.", args.name),
    })?)
}
