//! Text output of an overview, in the width of the terminal.

use std::fmt::Write;

use super::Snapshot;
use crate::{
    aggregator::{
        counters::{self, AGGREGATE_SUCCESS, REPORT_SUCCESS},
        privacy,
    },
    cli::{
        findings, results, show,
        style::{self, Style},
        timestamp,
    },
    model::{Duration, Role, Time},
    server::needs_attention,
    support::format::{self, bytes, rate, relative, span},
    views::{
        overview::{BatchState, BatchView, KeyStatus, Overview, PeerStatus, TaskView, TlsStatus},
        status::{CollectedBatchStatus, ResultState, TaskStatus},
    },
};

/// Maximum number of listed batches per task in an overview of all tasks.
const MAX_BATCHES: usize = 5;

/// Width of the column of names.
const NAME_WIDTH: usize = 14;

/// Renders a snapshot; with `whole`, including all batches.
pub fn snapshot(snapshot: &Snapshot, whole: bool, style: Style) -> String {
    let Snapshot { overview, collected } = snapshot;
    let mut text = Text { text: String::new(), style };
    server(&mut text, overview);
    for view in &overview.tasks {
        text.text.push('\n');
        task(&mut text, view, overview.now, if whole { usize::MAX } else { MAX_BATCHES });
    }
    if !collected.is_empty() {
        let _ = write!(text.text, "\n{}\n", results::titled_task_table(collected, style));
    }
    if overview.tasks.is_empty() && collected.is_empty() {
        text.text.push_str("\nNo tasks (hint: create one with 'dapbox task new').\n");
    }
    text.text
}

struct Text {
    text: String,
    style: Style,
}

impl Text {
    /// Appends a line with a name. Long values are wrapped.
    fn line(&mut self, name: &str, value: &str) {
        self.styled_line(name, value, |_, line| line.to_owned());
    }

    /// Appends a line whose parts are styled after wrapping.
    fn styled_line(&mut self, name: &str, value: &str, paint: fn(Style, &str) -> String) {
        let name = self.style.dim(&format!("{name:<NAME_WIDTH$}"));
        let lines = findings::wrap(value, self.style.width().saturating_sub(NAME_WIDTH + 2));
        let lines: Vec<_> = lines.iter().map(|line| paint(self.style, line)).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "  {name}{}", lines.join(&format!("\n  {:NAME_WIDTH$}", "")));
    }
}

fn server(text: &mut Text, overview: &Overview) {
    let Overview { version, server, now, started, not_ready, load, disk, keys, tls, log_lines_dropped, .. } = overview;
    let style = text.style;
    let state = match needs_attention(overview) {
        _ if !not_ready.is_empty() => style.bad("not ready"),
        true => style.accent("ready, needs attention"),
        false => style.good("ready"),
    };
    let up = span(Duration(now.0.saturating_sub(started.0)));
    let on = if server.is_empty() { String::new() } else { format!(" on {server}") };
    let _ = writeln!(text.text, "{}{on}  {state}, up {up}", style.bold(&format!("dapbox {version}")));
    for reason in not_ready {
        text.styled_line("because", reason, Style::bad);
    }
    text.line("disk", &format!("{} free, {} needed", bytes(disk.free_bytes), bytes(disk.reserve_bytes)));
    text.line(
        "load",
        &format!(
            "{}, {} in progress, {} computing, {}",
            style::counted(load.connections, "connection"),
            style::counted(load.requests, "request"),
            style::counted(load.computing, "job"),
            style::counted(load.commits, "commit"),
        ),
    );
    for (index, key) in keys.iter().enumerate() {
        text.line(if index == 0 { "keys" } else { "" }, &key_line(key, *now));
    }
    if let Some(tls) = tls {
        certificate(text, tls, *now);
    }
    if *log_lines_dropped > 0 {
        let lines = style::counted(*log_lines_dropped, "line");
        text.styled_line("log", &format!("{lines} dropped: standard error was blocked"), Style::bad);
    }
}

fn key_line(key: &KeyStatus, now: Time) -> String {
    let until =
        key.until.map(|until| format!(", {} {}", key.state.end_label(), relative(until, now))).unwrap_or_default();
    let age = span(Duration(now.0.saturating_sub(key.created.0)));
    format!("{} {}, {}, {age} old{until}", key.id, key.suite, key.state.name())
}

fn certificate(text: &mut Text, tls: &TlsStatus, now: Time) {
    match &tls.certificate {
        None => text.styled_line("certificate", "none yet", Style::bad),
        Some(certificate) => {
            let names = certificate.names.join(", ");
            match certificate.not_after.0.checked_sub(now.0) {
                Some(left @ 1..) => text.line("certificate", &format!("{names}, valid for {}", span(Duration(left)))),
                _ => text.styled_line("certificate", &format!("{names}, expired"), Style::bad),
            }
        }
    }
    if let Some(error) = &tls.last_error {
        text.styled_line("", error, Style::bad);
    }
}

fn task(text: &mut Text, view: &TaskView, now: Time, most: usize) {
    let status = &view.status;
    let counted = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    let name = status.name.as_ref().map(|name| format!("{}  ", text.style.bold(name.as_str()))).unwrap_or_default();
    let _ = writeln!(text.text, "{name}{}", text.style.bold(&format!("Task {}", status.id)));
    let (revision, measures) = (show::revision(status.revision), show::vdaf(&status.vdaf));
    text.line(show::role(status.role), &format!("{revision}, {measures}"));
    text.line("batch mode", &show::batches(status.batch_mode, status.min_batch_size));
    if let Some(epsilon) = status.noise {
        text.line("noise", &format::noise(&status.vdaf, epsilon));
    }
    if let Some(account) = &status.privacy {
        text.line("privacy", &privacy::describe(account));
    }
    if let Some(provisioned) = status.provisioned.as_ref().filter(|provisioned| provisioned.is_never_contacted) {
        text.line("set up", &show::provisioned_by(provisioned));
    }
    if let Some(in_band) = &status.in_band {
        text.line("set up", &show::set_up_in_band(in_band));
    }
    let is_leader = status.role == Role::Leader;
    if is_leader {
        text.line("uploads", &rate_and_total(view.upload_rate, counted(REPORT_SUCCESS)));
    }
    text.line("aggregated", &rate_and_total(view.aggregation_rate, counted(AGGREGATE_SUCCESS)));
    last_hour(text, view);
    if is_leader {
        let oldest = view
            .oldest_waiting
            .map(|oldest| format!(", the oldest for {}", span(Duration(now.0.saturating_sub(oldest.0)))));
        let jobs = style::counted(status.jobs, "job");
        let waiting = style::counted(status.waiting, "report");
        text.line("waiting", &format!("{waiting}{}; {jobs} in progress", oldest.unwrap_or_default()));
    } else if status.jobs > 0 {
        text.line("deferred", &style::counted(status.jobs, "aggregation job"));
    }
    batches(text, view, now, most);
    let collections = match status.collections_waiting {
        0 => String::new(),
        waiting => format!("; {} waiting", style::counted(waiting, "collection")),
    };
    text.line("collected", &format!("{}{collections}", style::counted(status.batches_collected, "batch")));
    collected(text, status);
    refusals(text, view);
    if let Some(contradiction) = counters::contradiction(&status.counters) {
        text.styled_line("error", &contradiction, Style::bad);
    }
    if let Some(peer) = &view.peer {
        helper(text, peer, status.last_error.as_deref(), now);
    }
}

fn rate_and_total(per_second: f64, total: u64) -> String {
    format!("{} now, {} total", rate(per_second), style::count(total))
}

/// Appends the rates of the last hour as a row of bars.
fn last_hour(text: &mut Text, view: &TaskView) {
    let rates = view.history.iter().map(|sample| {
        let happened = if view.status.role == Role::Leader { sample.uploaded } else { sample.aggregated };
        happened as f64 / sample.duration.0.max(1) as f64
    });
    let rates: Vec<f64> = rates.collect();
    let most = rates.iter().copied().fold(0.0, f64::max);
    if most > 0.0 {
        let bars = rates.iter().map(|rate| text.style.levels()[(rate / most * 8.0).ceil().clamp(0.0, 8.0) as usize]);
        let bars: String = bars.collect();
        let name = text.style.dim(&format!("{:<NAME_WIDTH$}", "last hour"));
        let _ = writeln!(text.text, "  {name}{}", text.style.accent(bars.trim_start()));
    }
}

fn batches(text: &mut Text, view: &TaskView, now: Time, most: usize) {
    let counts = &view.counts;
    let kinds = [
        (counts.batches_ready, "ready to collect"),
        (counts.batches_not_aggregated_yet, "not aggregated yet"),
        (counts.batches_too_few, "with too few reports"),
    ];
    let kinds: Vec<_> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", style::count(*count)))
        .collect();
    text.line("batches", &if kinds.is_empty() { "none with reports".to_owned() } else { kinds.join(", ") });
    for batch in view.batches.iter().take(most) {
        let line = batch_line(batch, view.status.min_batch_size, text.style);
        let _ = writeln!(text.text, "    {line}");
        if let Some(end) = batch.open_until(now).filter(|_| batch.state == BatchState::Ready) {
            let open =
                format!("open until {}; if collected now, later reports are refused", timestamp::brief(end, now));
            let _ = writeln!(text.text, "      {}", text.style.dim(&open));
        }
    }
    let more = counts.batches().saturating_sub(view.batches.len().min(most) as u64);
    if more > 0 {
        let _ = writeln!(text.text, "    {}", text.style.dim(&format!("and {} more", style::count(more))));
    }
}

/// Appends collected batches whose result is not fetched. `dapbox task show` lists all.
fn collected(text: &mut Text, status: &TaskStatus) {
    if status.results_not_fetched == 0 {
        return;
    }
    let is_open =
        |batch: &&CollectedBatchStatus| matches!(batch.result, ResultState::Pending | ResultState::NotFetched);
    for batch in status.collected.iter().filter(is_open).take(MAX_BATCHES) {
        let reports = batch.report_count.map(|count| style::counted(count, "report")).unwrap_or_default();
        let line = format!("{}  {reports}, {}", show::collected_batch(batch), batch.result.name());
        for part in findings::wrap(&line, style::WIDTH - 4) {
            let _ = writeln!(text.text, "    {part}");
        }
    }
    let more = status.results_not_fetched.saturating_sub(MAX_BATCHES as u64);
    if more > 0 {
        let _ = writeln!(text.text, "    {}", text.style.dim(&format!("and {} more not fetched", style::count(more))));
    }
}

fn batch_line(batch: &BatchView, needed: u64, style: Style) -> String {
    let name = match (&batch.id, batch.interval) {
        (Some(id), _) => id.chars().take(20).collect(),
        (None, Some(interval)) => timestamp::show(interval.start()),
        (None, None) => "next".to_owned(),
    };
    let state = match batch.state {
        BatchState::Ready => style.good("ready"),
        BatchState::NotAggregatedYet => style.accent("not aggregated yet"),
        BatchState::TooFew => style.dim("too few"),
    };
    // The line without the bar has 65 columns.
    let room = style.width().saturating_sub(68).min(40);
    let bar = style.bar(batch.aggregated.min(needed).into(), needed.into(), room);
    let waiting = if batch.waiting > 0 { format!(" + {}", short(batch.waiting)) } else { String::new() };
    let fill = format!("{}{waiting} of {}", short(batch.aggregated), short(needed));
    format!("{name:<20}  {bar:<room$} {fill:<19} {state}")
}

fn refusals(text: &mut Text, view: &TaskView) {
    if view.refused.is_empty() {
        return;
    }
    text.line("refused", &style::counted(view.refused.values().sum(), "report"));
    for (name, count) in &view.refused {
        let whose = if name.starts_with("helper_") { "by the helper: " } else { "" };
        let _ = writeln!(text.text, "    {:>10}  {whose}{}", style::count(*count), counters::reason(name));
    }
}

fn helper(text: &mut Text, peer: &PeerStatus, last_error: Option<&str>, now: Time) {
    let since = |time: Option<Time>| time.map(|time| relative(time, now));
    match (since(peer.last_success), since(peer.last_failure), last_error) {
        (success, failure, Some(error)) => {
            let last = success.map_or("no response since the start".to_owned(), |time| format!("last response {time}"));
            let failure = failure.map(|time| format!(", failed {time}")).unwrap_or_default();
            text.styled_line("helper", &format!("failing: {last}{failure}"), Style::bad);
            text.styled_line("", error, Style::bad);
        }
        (Some(success), ..) => text.line("helper", &format!("ok, last response {success}")),
        (None, Some(failure), None) => text.line("helper", &format!("failed {failure}, no request since")),
        (None, None, None) => text.line("helper", "no request since the start"),
    }
}

/// Formats a number with at most five characters, up to a trillion.
fn short(number: u64) -> String {
    let value = number as f64;
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{:.0}k", (value / 1e3).floor()),
        1_000_000..1_000_000_000 => format!("{:.0}M", (value / 1e6).floor()),
        _ => format!("{:.0}G", (value / 1e9).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{BatchId, BatchMode, Interval, KeyState, Revision, TaskId, VdafConfig},
        views::{
            overview::{CertificateStatus, Load, Sample, StateCounts},
            status::{CollectedBatchStatus, DiskStatus, ResultState},
        },
    };

    const NOW: Time = Time(1_795_305_600);

    fn overview(overview: &Overview, whole: bool, style: Style) -> String {
        snapshot(&Snapshot { overview: overview.clone(), collected: Vec::new() }, whole, style)
    }

    fn view() -> TaskView {
        let batch = |hours: u64, aggregated, waiting, state| BatchView {
            id: None,
            interval: Interval::new(NOW.saturating_sub(Duration(3600 * hours)), Duration(3600)),
            aggregated,
            waiting,
            state,
        };
        TaskView {
            status: TaskStatus {
                id: TaskId::new([0xff; 32]),
                name: Some("Page load times".parse().unwrap()),
                revision: Revision::Dap09,
                info: String::new(),
                role: Role::Leader,
                leader_url: "https://leader.example/".to_owned(),
                helper_url: "https://helper.example/".to_owned(),
                vdaf: VdafConfig::Prio3Count,
                batch_mode: BatchMode::TimeInterval,
                min_batch_size: 1_000_000,
                time_precision: Duration(3600),
                task_expiration: None,
                task_interval: None,
                horizon: None,
                counters: [(REPORT_SUCCESS.to_owned(), 12_345_678)].into(),
                waiting: 1234,
                jobs: 2,
                aggregated: 7,
                batches_collected: 3,
                collections_waiting: 1,
                collected: vec![CollectedBatchStatus {
                    id: Some(BatchId::new([0xff; 32])),
                    interval: Interval::new(NOW.saturating_sub(Duration(7200)), Duration(3600)),
                    report_count: Some(1_000_000),
                    closed: Some(NOW),
                    result: ResultState::NotFetched,
                    fetched: None,
                }],
                results_not_fetched: 7,
                collected_unlisted: 0,
                last_error: Some("a long description of a persistent error that needs several lines ".repeat(3)),
                provisioned: None,
                in_band: None,
                noise: None,
                privacy: None,
            },
            upload_rate: 12.34,
            aggregation_rate: 0.0,
            oldest_waiting: Some(NOW.saturating_sub(Duration(4))),
            refused: [("report_outdated_key".to_owned(), 3), ("helper_vdaf_prep_error".to_owned(), 1)].into(),
            batches: vec![
                batch(1, 999_999, 999_999, BatchState::NotAggregatedYet),
                batch(2, 2_000_000, 0, BatchState::Ready),
                batch(0, 2_000_000, 0, BatchState::Ready),
                batch(3, 1, 0, BatchState::TooFew),
            ],
            counts: StateCounts { batches_ready: 1, batches_too_few: 9, ..StateCounts::default() },
            peer: Some(PeerStatus { last_success: Some(NOW.saturating_sub(Duration(65))), last_failure: Some(NOW) }),
            history: vec![
                Sample { start: NOW, duration: Duration(60), uploaded: 60, aggregated: 0, refused: 0 },
                Sample { start: NOW, duration: Duration(30), uploaded: 60, aggregated: 0, refused: 0 },
            ],
        }
    }

    #[test]
    fn shows_overview_within_80_columns() {
        let disk = DiskStatus {
            dir: "/var/lib/dapbox".into(),
            free_bytes: 100 << 20,
            reserve_bytes: 256 << 20,
            needed_bytes: 300 << 20,
            has_ballast: true,
            is_short: true,
        };
        let key = KeyStatus {
            id: 200,
            suite: "x25519-sha256-aes128gcm".to_owned(),
            state: KeyState::Active,
            created: NOW.saturating_sub(Duration(3 * 86_400)),
            until: Some(NOW.saturating_add(Duration(86_400))),
        };
        let certificate = CertificateStatus {
            names: vec!["dap.example".to_owned()],
            not_before: NOW,
            not_after: NOW.saturating_add(Duration(10 * 86_400)),
        };
        let all = Overview {
            version: "1.2.3".to_owned(),
            server: "dap.example".to_owned(),
            now: NOW,
            started: NOW.saturating_sub(Duration(7260)),
            not_ready: disk.advice().into_iter().collect(),
            load: Load::default(),
            disk,
            keys: vec![key],
            tls: Some(TlsStatus { certificate: Some(certificate), last_error: None }),
            log_lines_dropped: 17,
            tasks: vec![view(), view()],
        };
        let text = overview(&all, false, Style::plain());
        assert!(text.lines().all(|line| line.chars().count() <= style::WIDTH), "{text}");
        for part in [
            "dapbox 1.2.3 on dap.example  not ready, up 2 h 1 min",
            "Page load times  Task ",
            "low on disk space",
            "100 MiB free, 256 MiB needed",
            "200 x25519-sha256-aes128gcm, active, 3 d old, replaced in 1 d",
            "dap.example, valid for 10 d",
            "log           17 lines dropped",
            "leader        dap-09, count",
            "uploads       12/s now, 12,345,678 total",
            "last hour     ▄█",
            "1,234 reports, the oldest for 4 s; 2 jobs in progress",
            "1 ready to collect, 9 with too few reports",
            "999k + 999k of 1M   not aggregated yet",
            "████████████ 2M of 1M            ready",
            "open until 01:00; if collected now, later reports are refused",
            "1,000,000 reports, not fetched",
            "and 6 more",
            "and 2 more not fetched",
            "3 batches; 1 collection waiting",
            "         3  sealed to an unknown key",
            "         1  by the helper: with an invalid proof",
            "helper        failing: last response 1 min ago, failed now",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let narrow = overview(&all, false, Style::ascii(60));
        let has_room =
            |line: &&str| line.starts_with("    ") || line.starts_with("Page load") || line.starts_with("dapbox");
        assert!(narrow.lines().all(|line| has_room(&line) || line.len() <= 60) && narrow.is_ascii(), "{narrow}");
        assert!(narrow.contains("last hour     =#"), "{narrow}");
        let ready = overview(&Overview { not_ready: Vec::new(), ..all.clone() }, false, Style::plain());
        assert!(ready.contains("dapbox 1.2.3 on dap.example  ready, needs attention, up 2 h"), "{ready}");
        let tls = Some(TlsStatus { certificate: None, last_error: Some("the authority is away".to_owned()) });
        let text = overview(&Overview { tls, tasks: Vec::new(), ..all }, true, Style::plain());
        for part in ["certificate   none yet\n                the authority is away", "No tasks"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
