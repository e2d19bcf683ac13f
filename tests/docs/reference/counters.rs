//! What a task counts, and what peers are told: from the sources, which say it in a comment for each.

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
        "What happened to a task's reports since it was added. `dapbox task show` and `dapbox status` print them, and they \
        are labels of metrics. The names are those of the aggregator API that control planes read, where it has one.\n\n{}\n\
        An aggregator that refuses to aggregate a report counts one of these. A leader counts a report that its *helper* \
        refused below the same name with `helper_` in front.\n\n{}",
        table(&["counter", "what happened"], rows(named)),
        table(&["counter", "why a report was not aggregated"], rows(reasons)),
    )
}

/// What `name` finds in lines, with the comment above each.
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
    assert!(found.len() > 5, "the source is not read as it is written");
    found
}

/// All problem types.
pub fn problems() -> String {
    let rows = ProblemType::DEFINED.into_iter().map(|kind| {
        let name = kind.name().unwrap_or_default();
        vec![code(name), kind.status().to_string(), kind.title().to_owned()]
    });
    format!(
        "Failures are answered with a document of the type `application/problem+json` (RFC 9457): `type`, `title`, `status`, \
        a `detail` for people, and the ids of task and job. The `type` is `urn:ietf:params:ppm:dap:error:` with one of these \
        names, or `about:blank` where the protocol has none: the status says it all then. DAP-18 does not register all of \
        them; those that it lacks are `about:blank` there.\n\n{}\n\
        Statuses that say more than the protocol: 503 is busy, 507 is short of disk space, 410 is an aggregation job whose \
        answer is not kept any more; the first two have `Retry-After`.\n",
        table(&["name", "status", "means"], rows)
    )
}
