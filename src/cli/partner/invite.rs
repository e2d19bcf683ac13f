//! `dapbox partner invite`: creates an API token for a control plane.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{ConfigArgs, Format, OutputArgs, parse_duration},
        control::{Control, Socket},
        findings::{self, Finding},
        style::{Style, print, warn},
        token,
    },
    check,
    probe::{NOT_CHECKED, ProbeArgs},
};
use crate::{
    config::Config,
    model::{Revision, Secret, Time, TokenHash},
    peer,
    store::api_token::check_name,
};

/// Arguments of `dapbox partner invite`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Runs the checks of 'dapbox partner check', and creates an API token if none failed. Prints what \
the other side needs: the URL, the token, the command for Divvi Up's tool 'divviup', and the fields of its web form. \
The token is printed only once; send it over a channel that you trust. If a check fails, no token is created and the \
exit code is 1.\n\n\
    Examples:\n  \
    dapbox partner invite divviup\n  \
    dapbox partner invite divviup-2027 --display-name Example --expires-in 365d\n  \
    dapbox partner invite divviup -o json --config /etc/dapbox/appliance.toml"
)]
pub struct Args {
    /// Name of the token: letters, digits and -._
    name: String,
    /// Display name of this aggregator at the control plane; by default its host name.
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// Lifetime of the token; by default it is valid until revoked.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    expires_in: Option<Duration>,
    /// Create the token even if a check fails or no server runs.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    probe: ProbeArgs,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The invitation as JSON.
#[derive(Serialize)]
struct Invitation<'a> {
    /// Name of the token.
    name: &'a str,
    api_url: String,
    /// The DAP URL that the API reports.
    dap_url: String,
    /// The token.
    token: &'a str,
    hash: TokenHash,
    until: Option<Time>,
    /// The command line, split into words.
    command: Vec<String>,
    /// The fields of the web form, by label.
    form: BTreeMap<&'static str, String>,
    findings: &'a [Finding],
    not_checked: &'a [&'static str],
}

/// Runs `dapbox partner invite`.
pub async fn run(args: Args) -> Outcome {
    check_name(&args.name).map_err(Failure::usage)?;
    let config = args.config.load(None)?;
    let api_url = args.probe.url(&config)?;
    let findings = run_checks(&args, &config).await?;
    if let (Err(failure), false) = (findings::outcome(&findings), args.force) {
        match args.output.format {
            Format::Json => {
                print(serde_json::to_string_pretty(&serde_json::json!({ "api_url": api_url, "findings": findings }))?)?;
            }
            Format::Text => print(findings::show(&findings, Style::stdout()))?,
        }
        return Err(Failure::new(format!("{}: no token was created (hint: --force creates one)", failure.message())));
    }
    let (secret, kept) = token::generate(&args.name, args.expires_in);
    let (hash, until) = (kept.hash, kept.until);
    let control = Control::open(&config).await?;
    let added = control.add_api_token(kept).await;
    control.close().await;
    added?;
    let display_name = args.display_name.clone().unwrap_or_else(|| host(&api_url));
    let invitation = invitation(&args.name, &config, api_url, &display_name, &secret, (hash, until), &findings);
    Ok(print(match args.output.format {
        Format::Json => serde_json::to_string_pretty(&invitation)?,
        Format::Text => text(&invitation, Style::stdout()),
    })?)
}

/// Checks whether the API can be reached, if a server runs.
async fn run_checks(args: &Args, config: &Config) -> Result<Vec<Finding>, Failure> {
    if Socket::new(config.control_socket())?.is_alive().await? {
        return args.probe.run(config.clone(), None).await;
    }
    if !args.force {
        let text = "no server runs, so its API cannot be checked (hint: start it with 'dapbox serve', or use --force)";
        return Err(Failure::new(text));
    }
    warn("no server runs, so nothing was checked; run 'dapbox partner check' once it runs");
    Ok(Vec::new())
}

fn host(api_url: &str) -> String {
    super::super::endpoint::Endpoint::of(api_url).map_or_else(|| api_url.to_owned(), |endpoint| endpoint.host)
}

fn invitation<'a>(
    name: &'a str,
    config: &Config,
    api_url: String,
    display_name: &str,
    secret: &'a Secret,
    (hash, until): (TokenHash, Option<Time>),
    findings: &'a [Finding],
) -> Invitation<'a> {
    let token = secret.expose_text().unwrap_or_default();
    // With equal signs, because a token may begin with a dash.
    let command = ["divviup", "aggregator", "create"].map(str::to_owned).into_iter().chain([
        format!("--name={display_name}"),
        format!("--api-url={api_url}"),
        format!("--bearer-token={token}"),
    ]);
    let form = [("Name", display_name), ("API Url", &api_url), ("Bearer Token", token)];
    Invitation {
        name,
        dap_url: peer::dap_url(&config.public_url, Revision::Dap09),
        token,
        hash,
        until,
        command: command.collect(),
        form: form.map(|(label, value)| (label, value.to_owned())).into(),
        api_url,
        findings,
        not_checked: &NOT_CHECKED,
    }
}

/// The invitation as text.
fn text(invitation: &Invitation<'_>, style: Style) -> String {
    let Invitation { name, api_url, dap_url, token, until, command, form, findings, .. } = invitation;
    let mut text = String::new();
    if !findings.is_empty() {
        text.push_str(&format!("{}\n{}\n\n", findings::show(findings, style), check::not_checked(style)));
    }
    let validity = token::validity(*until);
    text.push_str(&format!(
        "{}\n\n  API URL    {}\n  API token  {}\n\nThe token is named {name} and valid {validity}.\nSECRET, printed only \
         once: send it over a channel that you trust.\n\n",
        style.bold("For the operator of the control plane"),
        style.accent(api_url),
        style.accent(token),
    ));
    let quoted: Vec<_> = command.iter().map(|word| quote(word)).collect();
    let (start, flags) = quoted.split_at(3);
    text.push_str(&format!(
        "With Divvi Up's command-line tool, after login:\n\n  {} \\\n      {}\n\nOr in its web form, Aggregators, New \
         (\"Pair Private Aggregator\"):\n\n",
        start.join(" "),
        flags.join(" \\\n      ")
    ));
    for label in ["Name", "API Url", "Bearer Token"] {
        text.push_str(&format!("  {label:<12}  {}\n", form.get(label).map(String::as_str).unwrap_or_default()));
    }
    text.push_str(&format!(
        "\nAny other control plane for this API needs the URL and the token. The API reports\nthe DAP URL: \
         {dap_url}\n\nNext:\n  \
         1. The other side pairs and creates tasks. 'dapbox token list' shows when the\n     token was last used.\n  \
         2. 'dapbox status' shows these tasks and whether they were contacted.\n  \
         3. To replace the token: invite under another name, let the other side enter it\n     \
         (divviup aggregator rotate-bearer-token), then\n     dapbox token revoke {name}"
    ));
    text
}

/// Quotes a word for a shell.
fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:=%+@".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_divviup_command_and_form_fields() {
        let config = Config { public_url: "https://helper.example/x".to_owned(), ..Config::default() };
        let secret = Secret::new(b"-token_".to_vec());
        let facts = (TokenHash::of(secret.expose()), Some(Time(1_900_000_000)));
        let url = "https://helper.example/x/api".to_owned();
        let invitation = invitation("divviup", &config, url, "Bob's helper", &secret, facts, &[]);
        assert_eq!(invitation.dap_url, "https://helper.example/x/dap-09/");
        let text = text(&invitation, Style::plain());
        for line in [
            r"  divviup aggregator create \",
            r"      '--name=Bob'\''s helper' \",
            r"      --api-url=https://helper.example/x/api \",
            "      --bearer-token=-token_",
            "  API Url       https://helper.example/x/api",
            "  Bearer Token  -token_",
            "     dapbox token revoke divviup",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("valid until 2030-03-17T17:46:40Z"), "{text}");
        let json = serde_json::to_value(&invitation).unwrap();
        assert_eq!(json["command"][5], "--bearer-token=-token_");
        assert_eq!(json["form"]["Name"], "Bob's helper");
    }
}
