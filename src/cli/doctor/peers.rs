//! The other aggregators of our tasks: connectivity, certificate, keys and clock.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{
    certificate,
    context::{DoctorContext, PeerAggregator},
    join_findings, names,
};
use crate::{
    cli::{
        certificate::CertOwner,
        endpoint::Endpoint,
        findings::{CheckResult, Finding, Severity, failed, passed, warning},
        show, style,
    },
    hpke,
    peer::{Answer, PeerError, RequestError},
    wire::{self, ProblemType},
};

/// Maximum number of requests; some revisions need one per task.
const MAX_PEERS: usize = 50;
/// Half of the resolution of `Date`, one second (RFC 9110 section 5.6.7).
const DATE_RESOLUTION: Duration = Duration::from_millis(500);

/// Checks all peers concurrently.
pub async fn examine(context: &DoctorContext) -> Vec<Finding> {
    let others = context.peers(MAX_PEERS);
    // Names and certificates belong to an endpoint, which several peers may share.
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for other in &others {
        if let Some(endpoint) = Endpoint::of(&other.url).filter(|new| endpoints.iter().all(|known| known != new)) {
            endpoints.push(endpoint);
        }
    }
    let (endpoints, others) = tokio::join!(
        join_findings(endpoints.iter().map(|endpoint| check_endpoint(context, endpoint))),
        join_findings(others.iter().map(|other| check_peer(context, other))),
    );
    endpoints.into_iter().chain(merge_by_peer(others)).collect()
}

/// Merges the findings of all tasks of a peer into one per check: the worst, with the number of affected tasks.
fn merge_by_peer(findings: Vec<Finding>) -> Vec<Finding> {
    let mut groups: Vec<Vec<Finding>> = Vec::new();
    for finding in findings {
        let is_same = |group: &&mut Vec<Finding>| {
            group.first().is_some_and(|first| (first.name, &first.subject) == (finding.name, &finding.subject))
        };
        match groups.iter_mut().find(is_same) {
            Some(group) => group.push(finding),
            None => groups.push(vec![finding]),
        }
    }
    groups.into_iter().filter_map(worst).collect()
}

fn worst(group: Vec<Finding>) -> Option<Finding> {
    let rank = |finding: &Finding| match finding.outcome {
        Severity::Ok => 0,
        Severity::Warning => 1,
        Severity::Failed => 2,
    };
    let all = group.len();
    let most = group.iter().map(rank).max()?;
    let (mut bad, rest): (Vec<_>, Vec<_>) = group.into_iter().partition(|finding| rank(finding) == most);
    let (alike, first) = (bad.len(), bad.swap_remove(0));
    // The clock belongs to the peer, not to a task.
    let is_about_tasks = first.name != CLOCK_CHECK && most > 0 && !(rest.is_empty() && bad.is_empty());
    let detail = if is_about_tasks { format!("{} ({alike} of {all} tasks)", first.detail) } else { first.detail };
    Some(Finding { detail, ..first })
}

/// Checks the name and the certificate of an endpoint.
async fn check_endpoint(context: &DoctorContext, endpoint: &Endpoint) -> Vec<Finding> {
    if let Some(proxy) = context.proxy(&endpoint.url()) {
        // The proxy resolves the name, and the request for the keys checks the certificate.
        let verdict = passed(format!("reached through {proxy}"));
        return vec![Finding::new("peer name", verdict).with_subject(endpoint.label())];
    }
    let name = async {
        if endpoint.address.is_some() || endpoint.is_loopback() {
            return None;
        }
        Some(match names::resolve(context, &endpoint.host).await {
            Ok(addresses) => passed(format!("resolves to {}", names::list(&addresses))),
            Err(why) => failed(
                format!("has no address: {why}"),
                "Check that this machine can resolve other names (/etc/resolv.conf). If it can, the task's URL is wrong or \
                 its operator must create the record.",
            ),
        })
    };
    let shown = async {
        if endpoint.is_secure { certificate::check_at(context, endpoint, CertOwner::Peer).await } else { None }
    };
    let (name, shown) = tokio::join!(name, shown);
    let mut findings = Vec::new();
    findings.extend(name.map(|verdict| Finding::new("peer name", verdict).with_subject(endpoint.label())));
    findings.extend(shown.map(|verdict| Finding::new("peer certificate", verdict).with_subject(endpoint.label())));
    if !endpoint.is_secure && !endpoint.is_loopback() {
        let text = "the peer has no TLS: requests, including tokens, are sent in the clear";
        let verdict = warning(text, "Create a new task with an https URL.");
        findings.push(Finding::new("peer certificate", verdict).with_subject(endpoint.label()));
    }
    findings
}

/// Name of the clock check.
const CLOCK_CHECK: &str = "peer clock";

/// Checks a peer's keys and clock.
async fn check_peer(context: &DoctorContext, other: &PeerAggregator) -> Vec<Finding> {
    let call = other.call();
    let before = SystemTime::now();
    let answer = context.peer.send(&other.url, &call, None, Bytes::new()).await;
    let after = SystemTime::now();
    let subject = other.url.clone();
    let clock = answer.as_ref().ok().and_then(|answer| answer.date).map(|date| {
        let verdict = clock(date, before, after, *context.config.limits.clock_skew);
        Finding::new(CLOCK_CHECK, verdict).with_subject(subject.clone())
    });
    let keys = Finding::new("peer keys", keys(other, &call, answer)).with_subject(subject);
    std::iter::once(keys).chain(clock).collect()
}

/// Evaluates a peer's response for its keys (DAP-09 section 4.4.1, DAP-18 section 4.4.1).
fn keys(other: &PeerAggregator, call: &wire::RequestSpec, answer: Result<Answer, PeerError>) -> CheckResult {
    let role = show::role(other.role);
    let answer = match answer.map_err(RequestError::from).and_then(|answer| answer.expect(call.accept)) {
        Ok(answer) => answer,
        Err(error) => return explain_failure(other, &error),
    };
    let configs = match wire::for_revision(other.revision).decode_hpke_configs(&answer.body) {
        Ok(configs) => configs,
        Err(malformed) => {
            return failed(
                format!("the {role}'s response is not a list of HPKE configs: {malformed}"),
                format!(
                    "Check whether it is a DAP aggregator of revision {}; ask its operator.",
                    show::revision(other.revision)
                ),
            );
        }
    };
    let usable = configs.iter().filter(|config| hpke::is_supported(config)).count();
    if usable == 0 {
        return failed(
            format!("none of the {role}'s {} uses a supported algorithm", style::counted(configs.len() as u64, "key")),
            "Clients cannot upload. Ask its operator for X25519, HKDF-SHA256, AES-128-GCM.",
        );
    }
    let detail = format!("the {role} offers {}", style::counted(configs.len() as u64, "key"));
    match answer.max_age {
        Some(age) if age.is_zero() => warning(
            format!("{detail} without caching: clients request them for each upload"),
            "Ask its operator to set max-age in Cache-Control (DAP section 4.4.1).",
        ),
        Some(age) => passed(format!("{detail}, cached for {}", crate::support::duration::show(age))),
        None => passed(format!("{detail}, without Cache-Control")),
    }
}

/// Explains why a peer's keys could not be fetched.
fn explain_failure(other: &PeerAggregator, error: &RequestError) -> CheckResult {
    let role = show::role(other.role);
    if error.problem().is_some_and(|problem| problem.kind == ProblemType::UnrecognizedTask) {
        return failed(
            format!("the {role} does not know task {}", other.label()),
            format!(
                "Ask its operator to add the task: dapbox task add {role}.toml, or the equivalent in other software."
            ),
        );
    }
    let remedy = match error {
        RequestError::NoAnswer(PeerError::Connect { .. }) => {
            "Check that it runs, the findings on its name and certificate, and the firewalls on both sides."
        }
        RequestError::NoAnswer(PeerError::UntrustedCertificate { .. }) => "See the check of its certificate.",
        RequestError::NoAnswer(_) => "Ask its operator whether it runs; retry with a longer --timeout.",
        RequestError::Refused(problem) if problem.status == 404 => {
            "Check the task's URL, or whether another program answers there; ask its operator."
        }
        RequestError::Refused(_) | RequestError::Unexpected(_) => "Ask its operator.",
    };
    failed(format!("cannot fetch the {role}'s keys: {error}"), remedy)
}

/// Compares the peer's clock with ours: its date is from some moment between request and response.
fn clock(date: SystemTime, before: SystemTime, after: SystemTime, allowed: Duration) -> CheckResult {
    let trip = after.duration_since(before).unwrap_or_default();
    let (told, ours) = (date + DATE_RESOLUTION, before + trip / 2);
    let (apart, direction) = match told.duration_since(ours) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    // The uncertainty is in the peer's favor.
    let apart = apart.saturating_sub(trip / 2 + DATE_RESOLUTION);
    if apart <= allowed / 2 {
        return match apart.as_secs() {
            0 => passed("in sync with ours"),
            _ => passed(format!("{} {direction} ours", style::elapsed(apart))),
        };
    }
    let detail = format!("{} {direction} ours; the maximum is {}", style::elapsed(apart), style::elapsed(allowed));
    let remedy = "Synchronize both clocks by NTP ('timedatectl' shows the state of this one). Reports from the future are \
        rejected.";
    if apart > allowed { failed(detail, remedy) } else { warning(detail, remedy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_findings_of_one_peer() {
        let finding = |name, verdict, url: &str| Finding::new(name, verdict).with_subject(url);
        let merged = merge_by_peer(vec![
            finding("peer keys", passed("answers"), "a"),
            finding(CLOCK_CHECK, passed("in sync with ours"), "a"),
            finding("peer keys", failed("does not know task X", "Add it."), "a"),
            finding(CLOCK_CHECK, passed("in sync with ours"), "a"),
            finding("peer keys", failed("does not know task Y", "Add it."), "a"),
            finding("peer keys", passed("answers"), "b"),
            finding("peer keys", passed("answers"), "b"),
        ]);
        let said = |finding: &Finding| (finding.subject.clone().unwrap(), finding.outcome, finding.detail.clone());
        let unknown = "does not know task X (2 of 3 tasks)".to_owned();
        let expected = [
            ("a".to_owned(), Severity::Failed, unknown),
            ("a".to_owned(), Severity::Ok, "in sync with ours".to_owned()),
            ("b".to_owned(), Severity::Ok, "answers".to_owned()),
        ];
        assert_eq!(merged.iter().map(said).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn allows_for_uncertainty_of_peer_clock() {
        let at = |seconds: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1e9 + seconds);
        let judge = |date, before, after| match clock(at(date), at(before), at(after), Duration::from_secs(60)) {
            Ok(text) => (Severity::Ok, text),
            Err(issue) => (issue.severity, issue.detail),
        };
        assert_eq!(judge(0.0, 0.9, 0.9), (Severity::Ok, "in sync with ours".to_owned()));
        assert_eq!(judge(20.0, 0.5, 0.5).0, Severity::Ok);
        // A slow response may have been dated at any time.
        assert_eq!(judge(0.0, 0.0, 70.0).0, Severity::Ok);
        let (outcome, text) = judge(45.0, 0.0, 0.0);
        assert!(outcome == Severity::Warning && text.contains("ahead of"), "{text}");
        let (outcome, text) = judge(0.0, 3600.0, 3600.2);
        assert!(outcome == Severity::Failed && text.contains("59 min 59 s behind ours"), "{text}");
    }
}
