//! Findings of `check` and `doctor`, and their output.

use serde::Serialize;

use super::{
    Failure, Outcome,
    style::{self, Style},
};

/// Minimum width of the text column, in characters.
const MIN_TEXT_WIDTH: usize = 20;

/// A finding of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check. Scripts match it, so it must not change.
    pub name: &'static str,
    /// The severity.
    pub outcome: Severity,
    /// The subject, if there are several, such as a peer's URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What was found.
    pub detail: String,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No problem.
    Ok,
    /// It works, but may fail soon or is not as intended.
    Warning,
    /// It does not work.
    Failed,
}

/// What was found, or a problem.
pub type CheckResult = Result<String, CheckIssue>;

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckIssue {
    /// The severity.
    pub severity: Severity,
    /// What was found, with the value.
    pub detail: String,
    /// How to fix it.
    pub remedy: String,
}

/// A problem that may cause a failure.
pub fn warning(detail: impl Into<String>, remedy: impl Into<String>) -> CheckResult {
    Err(CheckIssue { severity: Severity::Warning, detail: detail.into(), remedy: remedy.into() })
}

/// A problem that is a failure.
pub fn failed(detail: impl Into<String>, remedy: impl Into<String>) -> CheckResult {
    Err(CheckIssue { severity: Severity::Failed, detail: detail.into(), remedy: remedy.into() })
}

/// No problem.
pub fn passed(detail: impl Into<String>) -> CheckResult {
    Ok(detail.into())
}

/// Capitalizes a phrase and adds a full stop.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

/// Splits the text of an error, `problem (hint: fix)` or `problem; fix`, into the problem and the fix as a sentence.
pub fn split_hint(text: &str) -> (&str, Option<String>) {
    let parts = text.strip_suffix(')').and_then(|text| text.rsplit_once(" (hint: ")).or_else(|| text.rsplit_once("; "));
    parts.map_or((text, None), |(problem, fix)| (problem, Some(sentence(fix))))
}

impl Finding {
    /// Creates a finding from a check's result.
    pub fn new(name: &'static str, verdict: CheckResult) -> Self {
        let (outcome, detail, remedy) = match verdict {
            Ok(detail) => (Severity::Ok, detail, None),
            Err(issue) => (issue.severity, issue.detail, Some(issue.remedy)),
        };
        Self { name, outcome, subject: None, detail, remedy }
    }

    /// Adds the subject.
    pub fn with_subject(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }
}

/// Fails if a check failed.
pub fn outcome(findings: &[Finding]) -> Outcome {
    match findings.iter().filter(|finding| finding.outcome == Severity::Failed).count() {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{} failed", style::counted(failed as u64, "check")))),
    }
}

/// The findings as text: one per line, with the fix below.
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

/// Breaks text into lines of at most `width` characters, except for longer words.
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
    fn splits_hint_from_error() {
        let fix = Some("Free space.".to_owned());
        assert_eq!(split_hint("the disk is full (hint: free space)"), ("the disk is full", fix.clone()));
        assert_eq!(split_hint("the disk (/dev/vda) is full; free space"), ("the disk (/dev/vda) is full", fix));
        assert_eq!(split_hint("the disk is full"), ("the disk is full", None));
    }

    #[test]
    fn renders_findings_aligned_within_width() {
        let detail = "this text about some finding is longer than one line of a terminal of the usual width";
        let findings = [
            Finding::new("one", passed(detail)),
            Finding::new("another", failed(detail, "ask the operator to fix it")).with_subject("https://a.example"),
        ];
        let text = show(&findings, Style::plain());
        assert!(text.starts_with("  ok       one      this text about"), "{text}");
        assert!(text.contains("  failed   another  https://a.example: this"), "{text}");
        assert!(text.ends_with("                    ask the operator to fix it\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= style::WIDTH), "{text}");
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!((&json[1]["outcome"], json[0].get("remedy")), (&"failed".into(), None));
        assert!(outcome(&findings).is_err() && outcome(&findings[..1]).is_ok());
    }
}
