//! The other aggregators of our tasks: whether they can be reached, are what they should be, and agree on the time.

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
        findings::{CheckResult, Finding, Severity, failed, passed, warning},
        place::Place,
        show, style,
    },
    hpke,
    peer::{Answer, PeerError, RequestError},
    wire::{self, ProblemType},
};

/// The most questions that are asked: some revisions ask about each task.
const MAX_PEERS: usize = 50;
/// A `Date` is of whole seconds (RFC 9110 section 5.6.7): half of one is not known.
const DATE_RESOLUTION: Duration = Duration::from_millis(500);

/// Looks at all of them at once.
pub async fn examine(context: &DoctorContext) -> Vec<Finding> {
    let others = context.peers(MAX_PEERS);
    // Names and certificates are a place's, and several peers may be at one.
    let mut places: Vec<Place> = Vec::new();
    for other in &others {
        if let Some(place) = Place::of(&other.url).filter(|new| places.iter().all(|known| known != new)) {
            places.push(place);
        }
    }
    let (places, others) = tokio::join!(
        join_findings(places.iter().map(|place| check_endpoint(context, place))),
        join_findings(others.iter().map(|other| check_peer(context, other))),
    );
    places.into_iter().chain(merge_by_peer(others)).collect()
}

/// One finding for each peer and check, where the peer was asked about each of its tasks: the worst, and of how many tasks
/// it is true.
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
    // A clock is looked at with each answer, and is one and the same.
    let is_about_tasks = first.name != CLOCK_CHECK && most > 0 && !(rest.is_empty() && bad.is_empty());
    let detail = if is_about_tasks { format!("{} ({alike} of {all} tasks)", first.detail) } else { first.detail };
    Some(Finding { detail, ..first })
}

/// Its name and its certificate.
async fn check_endpoint(context: &DoctorContext, place: &Place) -> Vec<Finding> {
    if let Some(proxy) = context.proxy(&place.url()) {
        // The proxy finds its address. Its certificate is checked with the request for its keys.
        let verdict = passed(format!("is reached through {proxy}"));
        return vec![Finding::new("peer name", verdict).with_subject(place.label())];
    }
    let name = async {
        if place.address.is_some() || place.is_loopback() {
            return None;
        }
        Some(match names::resolve(context, &place.host).await {
            Ok(addresses) => passed(format!("leads to {}", names::list(&addresses))),
            Err(why) => failed(
                format!("has no address: {why}"),
                "See whether this machine can look up any name (/etc/resolv.conf); if so, the task's URL is wrong, or \
                 the operator there has to have the record made.",
            ),
        })
    };
    let shown =
        async { if place.is_secure { certificate::check_at(context, place, CertOwner::Peer).await } else { None } };
    let (name, shown) = tokio::join!(name, shown);
    let mut findings = Vec::new();
    findings.extend(name.map(|verdict| Finding::new("peer name", verdict).with_subject(place.label())));
    findings.extend(shown.map(|verdict| Finding::new("peer certificate", verdict).with_subject(place.label())));
    if !place.is_secure && !place.is_loopback() {
        let text = "it is spoken to without TLS: whoever is between sees and changes what is sent, tokens included";
        let verdict = warning(text, "Have the task made anew with an https URL.");
        findings.push(Finding::new("peer certificate", verdict).with_subject(place.label()));
    }
    findings
}

/// The name of the check of the clock.
const CLOCK_CHECK: &str = "peer clock";

/// Its keys, and its clock.
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

/// What a peer says of its keys (DAP-09 section 4.4.1, DAP-18 section 4.4.1).
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
                format!("the {role} answers with something that is no list of keys: {malformed}"),
                format!(
                    "Is it a DAP aggregator of revision {}? Tell the operator there.",
                    show::revision(other.revision)
                ),
            );
        }
    };
    let usable = configs.iter().filter(|config| hpke::is_supported(config)).count();
    if usable == 0 {
        return failed(
            format!(
                "none of the {role}'s {} uses algorithms that are known here",
                style::counted(configs.len() as u64, "key")
            ),
            "Clients like ours cannot upload. Ask the operator there for X25519, HKDF-SHA256, AES-128-GCM.",
        );
    }
    let detail = format!("the {role} answers, with {}", style::counted(configs.len() as u64, "key"));
    match answer.max_age {
        Some(age) if age.is_zero() => warning(
            format!("{detail} that clients may not keep: each upload asks for them again"),
            "Tell the operator there: Cache-Control should have a max-age (DAP section 4.4.1).",
        ),
        Some(age) => passed(format!("{detail} for {}", crate::support::duration::show(age))),
        None => passed(format!("{detail}; it does not say for how long")),
    }
}

/// Why a peer did not say anything of its keys.
fn explain_failure(other: &PeerAggregator, error: &RequestError) -> CheckResult {
    let role = show::role(other.role);
    if error.problem().is_some_and(|problem| problem.kind == ProblemType::UnrecognizedTask) {
        return failed(
            format!("the {role} does not know task {}", other.label()),
            format!(
                "Have the operator there add the task: dapbox task add {role}.toml, or as the software there does it."
            ),
        );
    }
    let remedy = match error {
        RequestError::NoAnswer(PeerError::Connect { .. }) => {
            "Is it up? See the checks of its name and certificate; a firewall here or there may be in the way."
        }
        RequestError::NoAnswer(PeerError::UntrustedCertificate { .. }) => "See the check of its certificate.",
        RequestError::NoAnswer(_) => "Ask the operator there whether it is up; try again with a longer --timeout.",
        RequestError::Refused(problem) if problem.status == 404 => {
            "The task's URL may be wrong, or another program answers there: ask the operator."
        }
        RequestError::Refused(_) | RequestError::Unexpected(_) => "Tell the operator there.",
    };
    failed(format!("the {role} does not give its keys: {error}"), remedy)
}

/// How far the peer's clock is from ours: its date is from some moment between the request and the answer.
fn clock(date: SystemTime, before: SystemTime, after: SystemTime, allowed: Duration) -> CheckResult {
    let trip = after.duration_since(before).unwrap_or_default();
    let (told, ours) = (date + DATE_RESOLUTION, before + trip / 2);
    let (apart, direction) = match told.duration_since(ours) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    // What is not known is not held against it.
    let apart = apart.saturating_sub(trip / 2 + DATE_RESOLUTION);
    if apart <= allowed / 2 {
        return match apart.as_secs() {
            0 => passed("agrees with ours"),
            _ => passed(format!("{} {direction} ours", style::elapsed(apart))),
        };
    }
    let detail =
        format!("it is {} {direction} ours, and {} are allowed", style::elapsed(apart), style::elapsed(allowed));
    let remedy = "Make sure that both set their clocks by NTP ('timedatectl' says whether this one does). Reports from \
        the future are refused.";
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
            finding(CLOCK_CHECK, passed("agrees with ours"), "a"),
            finding("peer keys", failed("does not know task X", "Add it."), "a"),
            finding(CLOCK_CHECK, passed("agrees with ours"), "a"),
            finding("peer keys", failed("does not know task Y", "Add it."), "a"),
            finding("peer keys", passed("answers"), "b"),
            finding("peer keys", passed("answers"), "b"),
        ]);
        let said = |finding: &Finding| (finding.subject.clone().unwrap(), finding.outcome, finding.detail.clone());
        let unknown = "does not know task X (2 of 3 tasks)".to_owned();
        let expected = [
            ("a".to_owned(), Severity::Failed, unknown),
            ("a".to_owned(), Severity::Ok, "agrees with ours".to_owned()),
            ("b".to_owned(), Severity::Ok, "answers".to_owned()),
        ];
        assert_eq!(merged.iter().map(said).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn allows_for_uncertainty_of_peer_clock() {
        let at = |seconds: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1e9 + seconds);
        let judge = |date, before, after| match clock(at(date), at(before), at(after), Duration::from_secs(60)) {
            Ok(text) => (Severity::Ok, text),
            Err(trouble) => (trouble.severity, trouble.detail),
        };
        assert_eq!(judge(0.0, 0.9, 0.9), (Severity::Ok, "agrees with ours".to_owned()));
        assert_eq!(judge(20.0, 0.5, 0.5).0, Severity::Ok);
        // It could have been written at any time of a slow answer.
        assert_eq!(judge(0.0, 0.0, 70.0).0, Severity::Ok);
        let (outcome, text) = judge(45.0, 0.0, 0.0);
        assert!(outcome == Severity::Warning && text.contains("ahead of"), "{text}");
        let (outcome, text) = judge(0.0, 3600.0, 3600.2);
        assert!(outcome == Severity::Failed && text.contains("59 min 59 s behind ours"), "{text}");
    }
}
