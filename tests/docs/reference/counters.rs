//! Counters, report errors and problem types, from the comments in the source.

use dapbox::wire::ProblemType;

use super::{code, table};

const COUNTERS: &str = include_str!("../../../src/aggregator/counters.rs");
const REPORTS: &str = include_str!("../../../src/protocol/model/report.rs");

/// All counters of a task.
pub fn text() -> String {
    let named = commented(COUNTERS, |line| {
        let (_, name) = line.strip_prefix("pub const ")?.split_once(" = ")?;
        Some(name.trim_matches([';', '"']).to_owned())
    });
    let in_error = REPORTS.split("pub enum ReportError {").nth(1).unwrap().split("\n}").next().unwrap();
    let mut reasons = commented(in_error, |line| Some(line.trim_end_matches(',').to_owned()));
    let names: Vec<_> = in_error.split("#[error(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(names.len(), reasons.len());
    reasons.iter_mut().zip(names).for_each(|(reason, name)| reason.0 = name.replace("{0}", "N"));
    let rows = |rows: Vec<(String, String)>| rows.into_iter().map(|(name, why)| vec![code(&name), why]);
    format!(
        "Each task counts its reports by outcome since it was added. `dapbox task show` and `dapbox status` print the \
        counters, and metrics have them as labels. Names follow the aggregator API of control planes where possible.\n\n{}\n\
        An aggregator counts each report that it refuses to aggregate by reason. A leader counts refusals of its *helper* \
        under the same names with the prefix `helper_`.\n\n{}",
        table(&["counter", "counts"], rows(named)),
        table(&["counter", "reason of the refusal"], rows(reasons)),
    )
}

/// The names that `name` finds in lines, with the comment above each.
fn commented(source: &str, name: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let (mut found, mut comment) = (Vec::new(), Vec::new());
    for line in source.lines().map(str::trim) {
        match line.strip_prefix("/// ") {
            Some(text) => comment.push(text.replace("[`", "`").replace("`]", "`")),
            None if line.is_empty() || line.starts_with("#[") => {}
            None => {
                let comment = std::mem::take(&mut comment).join(" ");
                found.extend(name(line).map(|name| (name, comment)));
            }
        }
    }
    assert!(found.len() > 5, "the source was parsed incompletely");
    found
}

/// All problem types.
pub fn problems() -> String {
    let rows = ProblemType::DEFINED.into_iter().map(|kind| {
        let name = kind.name().unwrap_or_default();
        vec![code(name), kind.status().to_string(), kind.title().to_owned()]
    });
    format!(
        "Errors are answered with `application/problem+json` (RFC 9457): `type`, `title`, `status`, a `detail` for people, \
        and the IDs of task and job. The `type` is `urn:ietf:params:ppm:dap:error:` with one of these names, or \
        `about:blank` if the protocol defines none. DAP-18 lacks some of the names; they are `about:blank` there.\n\n{}\n\
        Further statuses: 503 means busy and 507 low on disk space, both with `Retry-After`; 410 means that the answer to \
        an aggregation job has expired.\n",
        table(&["name", "status", "meaning"], rows)
    )
}
