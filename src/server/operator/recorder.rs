//! What a server keeps in memory about how it goes, for those who watch it: what happened to each task lately, whether
//! its helper answers, and how long requests take. All of it is bounded, and a restart begins anew.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration as Span, Instant},
};

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
use dapbox_support::clock;

/// How often tasks are looked at. A rate is taken between such a look and the moment that it is asked for, and so is
/// the last stretch of the history: whoever asks every second sees something new every second.
pub const PACE: Span = Span::from_secs(5);

/// Rates are those of so much time.
const RATE_OVER: Span = Span::from_secs(60);

/// The history goes back so far, in stretches of so many seconds.
const STRETCH: Duration = Duration(60);
const STRETCHES: usize = 60;

/// What is kept in memory about how it goes.
pub struct Recorder {
    /// When the server started.
    pub started: Time,
    tracks: Mutex<Tracks>,
    contacts: Mutex<HashMap<TaskId, Contact>>,
    requests: [[LatencyHistogram; CLASSES.len()]; ROUTES.len()],
    errands: [[LatencyHistogram; ENDS.len()]; ERRANDS.len()],
}

/// When a task's helper last answered as it should, and when it did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// When it did.
    pub success: Option<Time>,
    /// When it did not.
    pub failure: Option<Time>,
}

/// What happened to a task's reports since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Uploads taken.
    pub uploaded: u64,
    /// Reports aggregated.
    pub aggregated: u64,
    /// Reports and uploads refused.
    pub refused: u64,
}

impl Totals {
    /// The totals of a task's counters.
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

/// How a task has gone lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lately {
    /// Uploads taken per second, over the last minute.
    pub upload_rate: f64,
    /// Reports aggregated per second, over the last minute.
    pub aggregation_rate: f64,
    /// What happened, the oldest first.
    pub history: Vec<Sample>,
}

/// A moment, on both clocks: intervals are measured on one that nobody sets.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For people.
    pub time: Time,
    /// For intervals.
    pub instant: Instant,
}

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self { time: clock::now(), instant: Instant::now() }
    }
}

#[derive(Default)]
struct Tracks {
    /// When all tasks were last looked at.
    last: Option<Moment>,
    tasks: HashMap<TaskId, Track>,
}

/// A task's totals at some moments.
struct Track {
    /// Of the last minute.
    recent: VecDeque<(Instant, Totals)>,
    /// At the beginning of each stretch.
    stretches: VecDeque<(Time, Totals)>,
}

impl Track {
    fn new(now: Moment, totals: Totals) -> Self {
        Self { recent: VecDeque::from([(now.instant, totals)]), stretches: VecDeque::from([(now.time, totals)]) }
    }

    fn look(&mut self, now: Moment, totals: Totals) {
        self.recent.push_back((now.instant, totals));
        // The first that stays is the last that is old enough.
        while self.recent.get(1).is_some_and(|(then, _)| now.instant.saturating_duration_since(*then) >= RATE_OVER) {
            self.recent.pop_front();
        }
        let begin = now.time.truncate(STRETCH);
        // Whoever sets the clock back has a longer stretch.
        if self.stretches.back().is_none_or(|(last, _)| begin > *last) {
            self.stretches.push_back((begin, totals));
        }
        while self.stretches.len() > STRETCHES {
            self.stretches.pop_front();
        }
    }

    fn lately(&self, now: Moment, totals: Totals) -> Lately {
        let (then, before) = self.recent.front().copied().unwrap_or((now.instant, totals));
        // Who has looked for a moment only does not know of a rate yet.
        let seconds = now.instant.saturating_duration_since(then).as_secs_f64().max(1.0);
        let since = totals.since(before);
        let ends = self.stretches.iter().skip(1).copied().chain([(now.time, totals)]);
        let history = self.stretches.iter().zip(ends).map(|((start, before), (end, after))| {
            let Totals { uploaded, aggregated, refused } = after.since(*before);
            let duration = Duration(end.0.saturating_sub(start.0).max(1));
            Sample { start: *start, duration, uploaded, aggregated, refused }
        });
        Lately {
            upload_rate: since.uploaded as f64 / seconds,
            aggregation_rate: since.aggregated as f64 / seconds,
            history: history.collect(),
        }
    }
}

impl Recorder {
    /// Nothing happened yet.
    pub fn new() -> Self {
        Self {
            started: clock::now(),
            tracks: Mutex::default(),
            contacts: Mutex::default(),
            requests: Default::default(),
            errands: Default::default(),
        }
    }

    /// Takes in how far all tasks are now. Those that are not among them are forgotten.
    pub fn look(&self, now: Moment, tasks: impl IntoIterator<Item = (TaskId, Totals)>) {
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

    /// How a task has gone lately, given how far it is now.
    pub fn lately(&self, id: &TaskId, now: Moment, totals: Totals) -> Lately {
        let tracks = lock(&self.tracks);
        match tracks.tasks.get(id) {
            Some(track) => track.lately(now, totals),
            None => tracks.begin(now, totals).lately(now, totals),
        }
    }

    /// A task's helper answered as it should, or did not.
    pub fn contact(&self, id: &TaskId, is_success: bool) {
        let mut contacts = lock(&self.contacts);
        let contact = contacts.entry(*id).or_default();
        let field = if is_success { &mut contact.success } else { &mut contact.failure };
        *field = Some(clock::now());
    }

    /// Whether a task's helper answers, as far as it was asked since the start.
    pub fn contact_of(&self, id: &TaskId) -> Contact {
        lock(&self.contacts).get(id).copied().unwrap_or_default()
    }

    /// Forgets a task that was removed.
    pub fn forget(&self, id: &TaskId) {
        lock(&self.tracks).tasks.remove(id);
        lock(&self.contacts).remove(id);
    }

    /// A request from outside, by its path, was answered with a status.
    pub fn answered(&self, path: &str, status: u16, time: Span) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.requests[route(path)][class].observe(time);
    }

    /// A request to a helper has ended, in whatever way.
    pub fn asked<T>(&self, interaction: ResourceKind, is_poll: bool, end: &Result<T, RequestError>, time: Span) {
        let errand = match interaction {
            ResourceKind::AggregationJob => 0,
            _ => 2,
        };
        let end = match end {
            Ok(_) => 0,
            Err(RequestError::Refused(_)) => 1,
            Err(_) => 2,
        };
        self.errands[errand + usize::from(is_poll)][end].observe(time);
    }

    /// How long requests from outside took, by the kind of their resource and their status class.
    pub fn requests(&self) -> impl Iterator<Item = ([&'static str; 2], &LatencyHistogram)> {
        table(&ROUTES, &CLASSES, &self.requests)
    }

    /// How long requests to helpers took, by kind and end.
    pub fn errands(&self) -> impl Iterator<Item = ([&'static str; 2], &LatencyHistogram)> {
        table(&ERRANDS, &ENDS, &self.errands)
    }
}

impl Tracks {
    /// The track of a task that was not seen before. It was added after the last look, with nothing counted; or the
    /// server has started with it.
    fn begin(&self, now: Moment, totals: Totals) -> Track {
        match self.last {
            Some(last) => Track::new(last, Totals::default()),
            None => Track::new(now, totals),
        }
    }
}

/// What there may be of requests from outside. Their paths could be anything, so that they are put into classes.
const ROUTES: [&str; 6] =
    ["hpke_config", "reports", "aggregation_jobs", "collection_jobs", "aggregate_shares", "other"];

/// What may become of them.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// What helpers are asked for.
const ERRANDS: [&str; 4] = ["aggregation_job", "aggregation_job_poll", "aggregate_share", "aggregate_share_poll"];

/// What may become of it: an answer; a refusal; or none of both, and nobody knows what the helper has done.
const ENDS: [&str; 3] = ["answered", "refused", "failed"];

/// Which of [`ROUTES`] a path is: the resource is named after the revision, or after the task.
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

/// These hold whole values only, so that a panic elsewhere leaves them usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(uploaded: u64) -> Totals {
        Totals { uploaded, ..Totals::default() }
    }

    #[test]
    fn rates_and_history_go_on_between_looks_and_stay_bounded() {
        let (recorder, id) = (Recorder::new(), TaskId::random());
        let begin = Moment { time: Time(600_030), instant: Instant::now() };
        let after = |seconds: u64| Moment {
            time: Time(begin.time.0 + seconds),
            instant: begin.instant + Span::from_secs(seconds),
        };
        recorder.look(begin, [(id, totals(1000))]);
        // Two reports a second, from the start on.
        for seconds in (5..=7200).step_by(5) {
            recorder.look(after(seconds), [(id, totals(1000 + 2 * seconds))]);
        }
        let lately = recorder.lately(&id, after(7203), totals(1000 + 2 * 7203));
        assert_eq!(lately.upload_rate, 2.0);
        assert_eq!(lately.history.len(), STRETCHES);
        assert!(lately.history.windows(2).all(|pair| pair[0].start.0 + pair[0].duration.0 == pair[1].start.0));
        assert!(lately.history.iter().all(|sample| sample.uploaded == 2 * sample.duration.0), "{:?}", lately.history);
        assert_eq!(lately.history.last().unwrap().duration, Duration(33));
        // Nothing more comes.
        for seconds in (7205..7300).step_by(5) {
            recorder.look(after(seconds), [(id, totals(1000 + 2 * 7203))]);
        }
        assert_eq!(recorder.lately(&id, after(7300), totals(1000 + 2 * 7203)).upload_rate, 0.0);
        recorder.look(after(7305), []);
        assert!(lock(&recorder.tracks).tasks.is_empty());
    }

    #[test]
    fn what_a_new_task_begins_with_is_not_lost_and_what_an_old_one_had_is_not_news() {
        let (recorder, old, new) = (Recorder::new(), TaskId::random(), TaskId::random());
        let now = Moment::now();
        recorder.look(now, [(old, totals(7))]);
        let uploaded = |id| recorder.lately(id, now, totals(7)).history.iter().map(|s| s.uploaded).sum::<u64>();
        assert_eq!((uploaded(&old), uploaded(&new)), (0, 7));
        recorder.look(now, [(old, totals(7)), (new, totals(7))]);
        assert_eq!((uploaded(&old), uploaded(&new)), (0, 7));
    }

    #[test]
    fn paths_are_put_into_few_classes() {
        let name = |path| ROUTES[route(path)];
        assert_eq!(name("/dap-09/hpke_config"), "hpke_config");
        assert_eq!(name("/dap-18/tasks/AAAA/reports"), "reports");
        assert_eq!(name("/dap-09/tasks/AAAA/aggregation_jobs/BBBB"), "aggregation_jobs");
        assert_eq!(name("/dap-18/tasks/reports/x"), "other");
        assert_eq!(name("/"), "other");
        assert_eq!(name(""), "other");
    }
}
