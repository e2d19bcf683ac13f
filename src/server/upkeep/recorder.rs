//! Statistics in memory for monitoring: recent activity of each task, contacts of its helper, and durations of
//! requests.
//!
//! # Decision: monitoring reads what the store counts
//!
//! Metrics, overview, `dapbox status` and the status page read the counters of the store. Only what the store does not
//! count is recorded here. It is bounded, and lost at a restart. The monitoring listener stops last, so that it shows
//! why a server stops.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration as Span, Instant},
};

use crate::shared::{clock::Clock, task_cache::ForgetTask};
use dapbox_aggregator::{
    counters::{self, AGGREGATE_SUCCESS, REPORT_SUCCESS},
    views::overview::Sample,
};
use dapbox_client::peer::RequestError;
use dapbox_protocol::{
    model::{Duration, TaskId, Time},
    wire::ResourceKind,
};
use dapbox_store::{Counters, latency::LatencyHistogram};

/// Interval of sampling the counters of tasks. Rates and the last step of the history extend to the time of the query.
pub const SAMPLE_INTERVAL: Span = Span::from_secs(5);

/// Window over which rates are averaged.
const RATE_WINDOW: Span = Span::from_secs(60);

/// Resolution and length of the history.
const HISTORY_STEP: Duration = Duration(60);
const HISTORY_LEN: usize = 60;

/// Statistics of a running server.
pub struct Recorder {
    clock: Arc<dyn Clock>,
    /// Start time of the server.
    pub started: Time,
    tracks: Mutex<TaskTracks>,
    contacts: Mutex<HashMap<TaskId, HelperContact>>,
    requests: [[LatencyHistogram; STATUS_CLASSES.len()]; ROUTES.len()],
    helper_requests: [[LatencyHistogram; OUTCOMES.len()]; HELPER_REQUESTS.len()],
}

/// When a task's helper last responded successfully, and when a request last failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HelperContact {
    /// The last success.
    pub success: Option<Time>,
    /// The last failure.
    pub failure: Option<Time>,
}

/// Total numbers of a task's reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportTotals {
    /// Uploaded reports.
    pub uploaded: u64,
    /// Aggregated reports.
    pub aggregated: u64,
    /// Rejected reports and uploads.
    pub refused: u64,
}

impl ReportTotals {
    /// Computes the totals from a task's counters.
    pub fn of(counters: &Counters) -> Self {
        let of = |name| counters.get(name).copied().unwrap_or(0);
        let refused = counters.iter().filter(|(name, _)| counters::is_refusal(name)).map(|(_, count)| count).sum();
        Self { uploaded: of(REPORT_SUCCESS), aggregated: of(AGGREGATE_SUCCESS), refused }
    }

    fn since(self, before: Self) -> Self {
        Self {
            uploaded: self.uploaded.saturating_sub(before.uploaded),
            aggregated: self.aggregated.saturating_sub(before.aggregated),
            refused: self.refused.saturating_sub(before.refused),
        }
    }
}

/// The recent activity of a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecentActivity {
    /// Uploads per second, over the last minute.
    pub upload_rate: f64,
    /// Aggregated reports per second, over the last minute.
    pub aggregation_rate: f64,
    /// The history, oldest first.
    pub history: Vec<Sample>,
}

/// A point in time on both clocks. Intervals use the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Instants {
    /// For display.
    pub time: Time,
    /// For intervals.
    pub instant: Instant,
}

impl Instants {
    /// The current instants.
    pub fn now(clock: &dyn Clock) -> Self {
        Self { time: clock.now(), instant: clock.instant() }
    }
}

#[derive(Default)]
struct TaskTracks {
    /// When all tasks were last sampled.
    last: Option<Instants>,
    tasks: HashMap<TaskId, Track>,
}

/// The sampled totals of a task.
struct Track {
    /// Samples of the last minute.
    recent: VecDeque<(Instant, ReportTotals)>,
    /// The totals at the beginning of each step.
    history: VecDeque<(Time, ReportTotals)>,
}

impl Track {
    fn new(now: Instants, totals: ReportTotals) -> Self {
        Self { recent: VecDeque::from([(now.instant, totals)]), history: VecDeque::from([(now.time, totals)]) }
    }

    fn look(&mut self, now: Instants, totals: ReportTotals) {
        self.recent.push_back((now.instant, totals));
        // The first sample that remains is the last one outside the window.
        while self.recent.get(1).is_some_and(|(then, _)| now.instant.saturating_duration_since(*then) >= RATE_WINDOW) {
            self.recent.pop_front();
        }
        let begin = now.time.truncate(HISTORY_STEP);
        // A clock that is set back extends the current step.
        if self.history.back().is_none_or(|(last, _)| begin > *last) {
            self.history.push_back((begin, totals));
        }
        while self.history.len() > HISTORY_LEN {
            self.history.pop_front();
        }
    }

    fn lately(&self, now: Instants, totals: ReportTotals) -> RecentActivity {
        let (then, before) = self.recent.front().copied().unwrap_or((now.instant, totals));
        // A minimum of one second avoids meaningless rates.
        let seconds = now.instant.saturating_duration_since(then).as_secs_f64().max(1.0);
        let since = totals.since(before);
        let ends = self.history.iter().skip(1).copied().chain([(now.time, totals)]);
        let history = self.history.iter().zip(ends).map(|((start, before), (end, after))| {
            let ReportTotals { uploaded, aggregated, refused } = after.since(*before);
            let duration = Duration(end.0.saturating_sub(start.0).max(1));
            Sample { start: *start, duration, uploaded, aggregated, refused }
        });
        RecentActivity {
            upload_rate: since.uploaded as f64 / seconds,
            aggregation_rate: since.aggregated as f64 / seconds,
            history: history.collect(),
        }
    }
}

impl Recorder {
    /// Creates empty statistics.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            started: clock.now(),
            clock,
            tracks: Mutex::default(),
            contacts: Mutex::default(),
            requests: Default::default(),
            helper_requests: Default::default(),
        }
    }

    /// Samples the totals of all tasks. Forgets other tasks.
    pub fn look(&self, now: Instants, tasks: impl IntoIterator<Item = (TaskId, ReportTotals)>) {
        let mut tracks = lock(&self.tracks);
        let mut before = std::mem::take(&mut tracks.tasks);
        for (id, totals) in tasks {
            let mut track = before.remove(&id).unwrap_or_else(|| tracks.begin(now, totals));
            track.look(now, totals);
            tracks.tasks.insert(id, track);
        }
        tracks.last = Some(now);
        lock(&self.contacts).retain(|id, _| tracks.tasks.contains_key(id));
    }

    /// Computes the recent activity of a task from its current totals.
    pub fn lately(&self, id: &TaskId, now: Instants, totals: ReportTotals) -> RecentActivity {
        let tracks = lock(&self.tracks);
        match tracks.tasks.get(id) {
            Some(track) => track.lately(now, totals),
            None => tracks.begin(now, totals).lately(now, totals),
        }
    }

    /// Records a response or a failure of a task's helper.
    pub fn contact(&self, id: &TaskId, is_success: bool) {
        let mut contacts = lock(&self.contacts);
        let contact = contacts.entry(*id).or_default();
        let field = if is_success { &mut contact.success } else { &mut contact.failure };
        *field = Some(self.clock.now());
    }

    /// The contacts of a task's helper since the start.
    pub fn helper_contact(&self, id: &TaskId) -> HelperContact {
        lock(&self.contacts).get(id).copied().unwrap_or_default()
    }

    /// Records the duration of a request by its path and status.
    pub fn answered(&self, path: &str, status: u16, time: Span) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.requests[route(path)][class].observe(time);
    }

    /// Records the duration of a request to a helper.
    pub fn record_helper_request<T>(
        &self,
        interaction: ResourceKind,
        is_poll: bool,
        end: &Result<T, RequestError>,
        time: Span,
    ) {
        let errand = match interaction {
            ResourceKind::AggregationJob => 0,
            _ => 2,
        };
        let end = match end {
            Ok(_) => 0,
            Err(RequestError::Refused(_)) => 1,
            Err(_) => 2,
        };
        self.helper_requests[errand + usize::from(is_poll)][end].observe(time);
    }

    /// Durations of requests, by resource and status class.
    pub fn requests(&self) -> impl Iterator<Item = ([&'static str; 2], &LatencyHistogram)> {
        table(&ROUTES, &STATUS_CLASSES, &self.requests)
    }

    /// Durations of requests to helpers, by kind and outcome.
    pub fn helper_requests(&self) -> impl Iterator<Item = ([&'static str; 2], &LatencyHistogram)> {
        table(&HELPER_REQUESTS, &OUTCOMES, &self.helper_requests)
    }
}

impl ForgetTask for Recorder {
    fn forget(&self, id: &TaskId) {
        lock(&self.tracks).tasks.remove(id);
        lock(&self.contacts).remove(id);
    }
}

impl TaskTracks {
    /// The track of a new task. It was added after the last sample, with zero counters, or existed at the start.
    fn begin(&self, now: Instants, totals: ReportTotals) -> Track {
        match self.last {
            Some(last) => Track::new(last, ReportTotals::default()),
            None => Track::new(now, totals),
        }
    }
}

/// Resources of requests. Paths are arbitrary, so they are classified.
const ROUTES: [&str; 6] =
    ["hpke_config", "reports", "aggregation_jobs", "collection_jobs", "aggregate_shares", "other"];

/// Status classes of responses.
const STATUS_CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Kinds of requests to helpers.
const HELPER_REQUESTS: [&str; 4] =
    ["aggregation_job", "aggregation_job_poll", "aggregate_share", "aggregate_share_poll"];

/// Outcomes of requests to helpers. After `failed`, it is unknown whether the helper has processed the request.
const OUTCOMES: [&str; 3] = ["answered", "refused", "failed"];

/// The index in [`ROUTES`] of a path: the resource follows the revision, or the task.
fn route(path: &str) -> usize {
    let mut parts = path.split('/').filter(|part| !part.is_empty()).skip(1);
    let name = match parts.next() {
        Some("tasks") => parts.nth(1),
        name => name,
    };
    let other = ROUTES.len() - 1;
    ROUTES[..other].iter().position(|route| Some(*route) == name).unwrap_or(other)
}

fn table<'a, const C: usize, const R: usize>(
    rows: &'static [&'static str; R],
    columns: &'static [&'static str; C],
    cells: &'a [[LatencyHistogram; C]; R],
) -> impl Iterator<Item = ([&'static str; 2], &'a LatencyHistogram)> {
    let of_row = |(row, cells): (&'static &'static str, &'a [LatencyHistogram; C])| {
        columns.iter().zip(cells).map(|(column, cell)| ([*row, *column], cell))
    };
    rows.iter().zip(cells).flat_map(of_row)
}

/// Locks a map. It contains whole values only, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::clock::SystemClock;

    fn totals(uploaded: u64) -> ReportTotals {
        ReportTotals { uploaded, ..ReportTotals::default() }
    }

    #[test]
    fn interpolates_rates_and_bounds_history() {
        let (recorder, id) = (Recorder::new(Arc::new(SystemClock)), TaskId::random());
        let begin = Instants { time: Time(600_030), instant: Instant::now() };
        let after = |seconds: u64| Instants {
            time: Time(begin.time.0 + seconds),
            instant: begin.instant + Span::from_secs(seconds),
        };
        recorder.look(begin, [(id, totals(1000))]);
        // Two reports per second from the start.
        for seconds in (5..=7200).step_by(5) {
            recorder.look(after(seconds), [(id, totals(1000 + 2 * seconds))]);
        }
        let lately = recorder.lately(&id, after(7203), totals(1000 + 2 * 7203));
        assert_eq!(lately.upload_rate, 2.0);
        assert_eq!(lately.history.len(), HISTORY_LEN);
        assert!(lately.history.windows(2).all(|pair| pair[0].start.0 + pair[0].duration.0 == pair[1].start.0));
        assert!(lately.history.iter().all(|sample| sample.uploaded == 2 * sample.duration.0), "{:?}", lately.history);
        assert_eq!(lately.history.last().unwrap().duration, Duration(33));
        // No more reports.
        for seconds in (7205..7300).step_by(5) {
            recorder.look(after(seconds), [(id, totals(1000 + 2 * 7203))]);
        }
        assert_eq!(recorder.lately(&id, after(7300), totals(1000 + 2 * 7203)).upload_rate, 0.0);
        recorder.look(after(7305), []);
        assert!(lock(&recorder.tracks).tasks.is_empty());
    }

    #[test]
    fn counts_from_zero_for_new_tasks_only() {
        let (recorder, old, new) = (Recorder::new(Arc::new(SystemClock)), TaskId::random(), TaskId::random());
        let now = Instants::now(&SystemClock);
        recorder.look(now, [(old, totals(7))]);
        let uploaded = |id| recorder.lately(id, now, totals(7)).history.iter().map(|s| s.uploaded).sum::<u64>();
        assert_eq!((uploaded(&old), uploaded(&new)), (0, 7));
        recorder.look(now, [(old, totals(7)), (new, totals(7))]);
        assert_eq!((uploaded(&old), uploaded(&new)), (0, 7));
    }

    #[test]
    fn classifies_paths() {
        let name = |path| ROUTES[route(path)];
        assert_eq!(name("/dap-09/hpke_config"), "hpke_config");
        assert_eq!(name("/dap-18/tasks/AAAA/reports"), "reports");
        assert_eq!(name("/dap-09/tasks/AAAA/aggregation_jobs/BBBB"), "aggregation_jobs");
        assert_eq!(name("/dap-18/tasks/reports/x"), "other");
        assert_eq!(name("/"), "other");
        assert_eq!(name(""), "other");
    }
}
