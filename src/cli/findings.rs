//! What `check` and `doctor` have found, and how it is shown.

use serde::Serialize;

use super::{
    Failure, Outcome,
    style::{self, Style},
};

/// The narrowest column that text is wrapped to, in characters.
const MIN_TEXT_WIDTH: usize = 20;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at. These names stay: scripts know them.
    pub name: &'static str,
    /// How bad it is.
    pub outcome: Severity,
    /// Which one of several, such as a peer's URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// All is well.
    Ok,
    /// It works, and may not for long or not as it is meant to.
    Warning,
    /// It does not work.
    Failed,
}

/// What was found if all is well, or what is wrong.
pub type CheckResult = Result<String, CheckIssue>;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckIssue {
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: String,
}

/// It works, and may not for long or not as it is meant to.
pub fn warning(detail: impl Into<String>, remedy: impl Into<String>) -> CheckResult {
    Err(CheckIssue { severity: Severity::Warning, detail: detail.into(), remedy: remedy.into() })
}

/// It does not work.
pub fn failed(detail: impl Into<String>, remedy: impl Into<String>) -> CheckResult {
    Err(CheckIssue { severity: Severity::Failed, detail: detail.into(), remedy: remedy.into() })
}

/// All is well.
pub fn passed(detail: impl Into<String>) -> CheckResult {
    Ok(detail.into())
}

/// A part of a sentence as one of its own.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

impl Finding {
    /// What a check with this name says.
    pub fn new(name: &'static str, verdict: CheckResult) -> Self {
        let (outcome, detail, remedy) = match verdict {
            Ok(detail) => (Severity::Ok, detail, None),
            Err(trouble) => (trouble.severity, trouble.detail, Some(trouble.remedy)),
        };
        Self { name, outcome, subject: None, detail, remedy }
    }

    /// The same about one of several.
    pub fn with_subject(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }
}

/// Fails if one of the checks did.
pub fn outcome(findings: &[Finding]) -> Outcome {
    match findings.iter().filter(|finding| finding.outcome == Severity::Failed).count() {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{} failed", style::counted(failed as u64, "check")))),
    }
}

/// The findings for people, one to a line, with what to do below.
pub fn show(findings: &[Finding], style: Style) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or_default();
    let indent = " ".repeat(width + 13);
    let mut text = String::new();
    for Finding { name, outcome, subject, detail, remedy } in findings {
        let outcome = match outcome {
            Severity::Ok => style.good("ok     "),
            Severity::Warning => style.accent("warning"),
            Severity::Failed => style.bad("failed "),
        };
        let detail = subject.as_ref().map_or_else(|| detail.clone(), |subject| format!("{subject}: {detail}"));
        let room = style.width().saturating_sub(indent.len()).max(MIN_TEXT_WIDTH);
        let mut lines = wrap(&detail, room);
        let remedy = wrap(remedy.as_deref().unwrap_or_default(), room);
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
    fn renders_findings_aligned_within_width() {
        let detail = "there is something to say about this that is longer than a line of a terminal";
        let findings = [
            Finding::new("one", passed(detail)),
            Finding::new("another", failed(detail, "call somebody, who comes")).with_subject("https://a.example"),
        ];
        let text = show(&findings, Style::plain());
        assert!(text.starts_with("  ok       one      there is something"), "{text}");
        assert!(text.contains("  failed   another  https://a.example: there is"), "{text}");
        assert!(text.ends_with("                    call somebody, who comes\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= style::WIDTH), "{text}");
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!((&json[1]["outcome"], json[0].get("remedy")), (&"failed".into(), None));
        assert!(outcome(&findings).is_err() && outcome(&findings[..1]).is_ok());
    }
}
