//! `dapbox doctor`: looks at everything that a server needs, and says what to do about what is wrong.

mod checks;

use serde::Serialize;

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Format},
    control::Socket,
    style::{self, Style, say},
};
use checks::{CHECKS, World};

/// Arguments of `dapbox doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Works whether a server runs or not. Exit code 1 if something is wrong, 0 if there are \
    warnings at most.\n\n\
    Examples:\n  \
    dapbox doctor\n  \
    dapbox doctor --config /etc/dapbox/appliance.toml\n  \
    dapbox doctor --data-dir /var/lib/dapbox -o json")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    name: &'static str,
    outcome: Severity,
    /// What was found.
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Ok,
    Warning,
    Failed,
}

/// Runs `dapbox doctor`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(None)?;
    let socket = Socket::new(config.control_socket())?;
    let health = match socket.is_alive().await {
        Ok(true) => Some(socket.health().await.map_err(|failure| failure.message)),
        // Whoever may not use the socket learns of it from the check of the permissions.
        Ok(false) | Err(_) => None,
    };
    let world = World { dir: config.data_dir.clone(), config, health };
    let findings = tokio::task::spawn_blocking(move || examine(&world)).await?;
    say(match args.output {
        Format::Json => serde_json::to_string_pretty(&findings)?,
        Format::Text => show(&findings, Style::stdout()),
    })?;
    match findings.iter().filter(|finding| finding.outcome == Severity::Failed).count() {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{} failed", style::counted(failed as u64, "check")))),
    }
}

/// Makes all checks that have something to look at.
fn examine(world: &World) -> Vec<Finding> {
    let found = |(name, check): &(&'static str, checks::Check)| {
        let (outcome, detail, remedy) = match check(world)? {
            Ok(detail) => (Severity::Ok, detail, None),
            Err(trouble) => (trouble.severity, trouble.detail, Some(trouble.remedy)),
        };
        Some(Finding { name, outcome, detail, remedy })
    };
    CHECKS.iter().filter_map(found).collect()
}

/// The findings for people, one to a line, with what to do below.
fn show(findings: &[Finding], style: Style) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or_default();
    let indent = " ".repeat(width + 13);
    let mut text = String::new();
    for Finding { name, outcome, detail, remedy } in findings {
        let outcome = match outcome {
            Severity::Ok => style.good("ok     "),
            Severity::Warning => style.accent("warning"),
            Severity::Failed => style.bad("failed "),
        };
        let mut lines = wrap(detail, style::WIDTH - indent.len());
        let remedy = wrap(remedy.as_deref().unwrap_or_default(), style::WIDTH - indent.len());
        lines.extend(remedy.iter().map(|line| style.bold(line)));
        text.push_str(&format!("  {outcome}  {:<width$}  {}\n", name, lines.join(&format!("\n{indent}"))));
    }
    text
}

/// Lines of at most `width` characters, as far as there are words that fit.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut().filter(|line| line.chars().count() + 1 + word.chars().count() <= width) {
            Some(line) => line.extend([" ", word]),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_aligned_fit_the_width_and_say_what_to_do() {
        let finding = |name, outcome, remedy: Option<&str>| Finding {
            name,
            outcome,
            detail: "there is something to say about this that is longer than a line of a terminal".to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let findings = [
            finding("one", Severity::Ok, None),
            finding("another", Severity::Failed, Some("call somebody, who comes")),
        ];
        let text = show(&findings, Style::plain());
        assert!(text.starts_with("  ok       one      there is something"), "{text}");
        assert!(text.contains("  failed   another  there is"), "{text}");
        assert!(text.ends_with("                    call somebody, who comes\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= style::WIDTH), "{text}");
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!((&json[1]["outcome"], json[0].get("remedy")), (&"failed".into(), None));
    }
}
