//! The other aggregators of our tasks: whether they can be reached, are what they should be, and agree on the time.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{
    all, certificate, names,
    world::{Other, World},
};
use crate::{
    cli::{
        certificate::Whose,
        findings::{Finding, Severity, Verdict, failed, good, warning},
        place::Place,
        show, style,
    },
    hpke,
    peer::{Answer, CallError, PeerError},
    wire::{self, ProblemType},
};

/// The most questions that are asked: some revisions ask about each task.
const MAX_PEERS: usize = 50;
/// A `Date` is of whole seconds (RFC 9110 section 5.6.7): half of one is not known.
const DATE_GRAIN: Duration = Duration::from_millis(500);

/// Looks at all of them at once.
pub async fn examine(world: &World) -> Vec<Finding> {
    let others = world.others(MAX_PEERS);
    // Names and certificates are a place's, and several peers may be at one.
    let mut places: Vec<Place> = Vec::new();
    for other in &others {
        if let Some(place) = Place::of(&other.url).filter(|new| places.iter().all(|known| known != new)) {
            places.push(place);
        }
    }
    let (places, others) = tokio::join!(
        all(places.iter().map(|place| at_place(world, place))),
        all(others.iter().map(|other| asked(world, other))),
    );
    places.into_iter().chain(per_peer(others)).collect()
}

/// One finding for each peer and check, where the peer was asked about each of its tasks: the worst, and of how many tasks
/// it is true.
fn per_peer(findings: Vec<Finding>) -> Vec<Finding> {
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
    let is_about_tasks = first.name != CLOCK && most > 0 && !(rest.is_empty() && bad.is_empty());
    let detail = if is_about_tasks { format!("{} ({alike} of {all} tasks)", first.detail) } else { first.detail };
    Some(Finding { detail, ..first })
}

/// Its name and its certificate.
async fn at_place(world: &World, place: &Place) -> Vec<Finding> {
    if let Some(proxy) = world.proxy(&place.url()) {
        // The proxy finds its address. Its certificate is checked with the request for its keys.
        let verdict = good(format!("is reached through {proxy}"));
        return vec![Finding::new("peer name", verdict).about(place.label())];
    }
    let name = async {
        if place.address.is_some() || place.is_loopback() {
            return None;
        }
        Some(match names::resolve(world, &place.host).await {
            Ok(addresses) => good(format!("leads to {}", names::list(&addresses))),
            Err(why) => failed(
                format!("has no address: {why}"),
                "See whether this machine can look up any name (/etc/resolv.conf); if so, the task's URL is wrong, or \
                 the operator there has to have the record made.",
            ),
        })
    };
    let shown = async { if place.is_secure { certificate::at(world, place, Whose::Peer).await } else { None } };
    let (name, shown) = tokio::join!(name, shown);
    let mut findings = Vec::new();
    findings.extend(name.map(|verdict| Finding::new("peer name", verdict).about(place.label())));
    findings.extend(shown.map(|verdict| Finding::new("peer certificate", verdict).about(place.label())));
    if !place.is_secure && !place.is_loopback() {
        let text = "it is spoken to without TLS: whoever is between sees and changes what is sent, tokens included";
        let verdict = warning(text, "Have the task made anew with an https URL.");
        findings.push(Finding::new("peer certificate", verdict).about(place.label()));
    }
    findings
}

/// The name of the check of the clock.
const CLOCK: &str = "peer clock";

/// Its keys, and its clock.
async fn asked(world: &World, other: &Other) -> Vec<Finding> {
    let call = other.call();
    let before = SystemTime::now();
    let answer = world.peer.send(&other.url, &call, None, Bytes::new()).await;
    let after = SystemTime::now();
    let subject = other.url.clone();
    let clock = answer.as_ref().ok().and_then(|answer| answer.date).map(|date| {
        let verdict = clock(date, before, after, *world.config.limits.clock_skew);
        Finding::new(CLOCK, verdict).about(subject.clone())
    });
    let keys = Finding::new("peer keys", keys(other, &call, answer)).about(subject);
    std::iter::once(keys).chain(clock).collect()
}

/// What a peer says of its keys (DAP-09 section 4.4.1, DAP-18 section 4.4.1).
fn keys(other: &Other, call: &wire::Call, answer: Result<Answer, PeerError>) -> Verdict {
    let role = show::role(other.role);
    let answer = match answer.map_err(CallError::from).and_then(|answer| answer.expect(call.accept)) {
        Ok(answer) => answer,
        Err(error) => return silent(other, &error),
    };
    let configs = match wire::of(other.revision).decode_hpke_configs(&answer.body) {
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
        Some(age) => good(format!("{detail} for {}", crate::support::span::show(age))),
        None => good(format!("{detail}; it does not say for how long")),
    }
}

/// Why a peer did not say anything of its keys.
fn silent(other: &Other, error: &CallError) -> Verdict {
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
        CallError::Unanswered(PeerError::Connect { .. }) => {
            "Is it up? See the checks of its name and certificate; a firewall here or there may be in the way."
        }
        CallError::Unanswered(PeerError::Untrusted { .. }) => "See the check of its certificate.",
        CallError::Unanswered(_) => "Ask the operator there whether it is up; try again with a longer --timeout.",
        CallError::Refused(problem) if problem.status == 404 => {
            "The task's URL may be wrong, or another program answers there: ask the operator."
        }
        CallError::Refused(_) | CallError::Unexpected(_) => "Tell the operator there.",
    };
    failed(format!("the {role} does not give its keys: {error}"), remedy)
}

/// How far the peer's clock is from ours: its date is from some moment between the request and the answer.
fn clock(date: SystemTime, before: SystemTime, after: SystemTime, allowed: Duration) -> Verdict {
    let trip = after.duration_since(before).unwrap_or_default();
    let (told, ours) = (date + DATE_GRAIN, before + trip / 2);
    let (apart, direction) = match told.duration_since(ours) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    // What is not known is not held against it.
    let apart = apart.saturating_sub(trip / 2 + DATE_GRAIN);
    if apart <= allowed / 2 {
        return match apart.as_secs() {
            0 => good("agrees with ours"),
            _ => good(format!("{} {direction} ours", style::elapsed(apart))),
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
    fn a_peer_of_many_tasks_has_one_finding_for_each_check() {
        let finding = |name, verdict, url: &str| Finding::new(name, verdict).about(url);
        let merged = per_peer(vec![
            finding("peer keys", good("answers"), "a"),
            finding(CLOCK, good("agrees with ours"), "a"),
            finding("peer keys", failed("does not know task X", "Add it."), "a"),
            finding(CLOCK, good("agrees with ours"), "a"),
            finding("peer keys", failed("does not know task Y", "Add it."), "a"),
            finding("peer keys", good("answers"), "b"),
            finding("peer keys", good("answers"), "b"),
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
    fn a_clock_is_judged_by_what_is_certain() {
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
