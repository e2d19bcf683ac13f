//! The selected windows of a task as the columns of charts.
//!
//! # Decision: columns are aggregated
//!
//! A chart has at most [`MAX_COLUMNS`] columns, because a screen shows no more. Further windows are added up in groups of equal
//! size, which the page states. A column of several windows shows their mean, so that it is comparable with its neighbors even
//! if some of its windows have no result.

use dapbox_protocol::{
    model::{BatchMode, Duration, Interval, MaxMeasurement, Time, VdafConfig},
    vdaf::AggregateResult,
};
use dapbox_results::{
    Unit, Window, WindowState,
    statistics::{self, Exact, Interval95, NoiseModel, Share},
};

use crate::{TaskView, calendar::Calendar};

/// Maximum number of columns of a chart.
pub const MAX_COLUMNS: usize = 320;

/// Sizes of groups of windows, smallest first.
const GROUPS: [usize; 15] = [1, 2, 3, 4, 6, 8, 12, 24, 48, 168, 336, 1_000, 10_000, 100_000, 1_000_000];

/// Sizes of groups of days. Each has as many Sundays as Mondays.
const DAY_GROUPS: [usize; 8] = [1, 7, 14, 28, 91, 182, 364, 3_640];

/// What a task measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The number of reports that are true.
    Count,
    /// The sum of numbers.
    Sum,
    /// The number of reports in each bin.
    Histogram,
    /// The sum of each position of vectors.
    Vector,
    /// The number of reports that have each flag.
    Flags,
}

impl Measure {
    /// The measure of a VDAF.
    pub fn of(vdaf: &VdafConfig) -> Self {
        match vdaf {
            VdafConfig::Prio3Count => Self::Count,
            VdafConfig::Prio3Sum { .. } => Self::Sum,
            VdafConfig::Prio3Histogram { .. } => Self::Histogram,
            VdafConfig::Prio3MultihotCountVec { .. } => Self::Flags,
            VdafConfig::Prio3SumVec { max: MaxMeasurement(1), .. }
            | VdafConfig::Prio3L1BoundSum { max_value: 1, .. } => Self::Flags,
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits: 1, .. } => Self::Flags,
            VdafConfig::Prio3SumVec { .. }
            | VdafConfig::Prio3L1BoundSum { .. }
            | VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { .. } => Self::Vector,
        }
    }
}

/// Why a window has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// The window has not ended.
    Upcoming,
    /// The result is awaited.
    Pending,
    /// Too few reports.
    TooFew,
    /// The leader refuses the request.
    Refused,
    /// The result is lost.
    Lost,
    /// The result cannot be added to those of the other windows of its group.
    Unusable,
}

impl Gap {
    /// All gaps.
    pub const ALL: [Self; 6] = [Self::Upcoming, Self::Pending, Self::TooFew, Self::Refused, Self::Lost, Self::Unusable];

    fn of(state: &WindowState) -> Self {
        match state {
            WindowState::Upcoming => Self::Upcoming,
            WindowState::Due | WindowState::Requested { .. } | WindowState::Pending { .. } => Self::Pending,
            WindowState::TooFewReports { .. } => Self::TooFew,
            WindowState::Refused { .. } => Self::Refused,
            WindowState::Lost { .. } => Self::Lost,
            WindowState::Collected(_) => Self::Unusable,
        }
    }

    /// A few words for legends.
    pub fn text(self) -> &'static str {
        match self {
            Self::Upcoming => "not over yet",
            Self::Pending => "result pending",
            Self::TooFew => "too few reports",
            Self::Refused => "refused by the leader",
            Self::Lost => "lost",
            Self::Unusable => "not available",
        }
    }

    /// The class of its shapes.
    pub fn class(self) -> &'static str {
        match self {
            Self::Upcoming => "g-upcoming",
            Self::Pending => "g-pending",
            Self::TooFew => "g-few",
            Self::Refused => "g-refused",
            Self::Lost | Self::Unusable => "g-lost",
        }
    }
}

/// The sum of the collected windows of a range.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// The numbers; empty if no window is collected.
    pub values: Vec<Exact>,
    /// Number of reports.
    pub reports: u64,
    /// Number of collected windows.
    pub windows: u64,
}

impl Total {
    /// Adds up the results of windows. Results that cannot be added are left out.
    pub fn of<'a>(windows: impl IntoIterator<Item = &'a Window>, view: &TaskView) -> Self {
        let mut sum: Option<AggregateResult> = None;
        let (mut reports, mut count) = (0_u64, 0);
        for window in windows {
            let (Some(collected), Some(result)) = (window.collected(), view.results.get(&window.number)) else {
                continue;
            };
            let is_added = match &mut sum {
                Some(sum) => statistics::add(sum, result).is_ok(),
                None => {
                    sum = Some(result.clone());
                    true
                }
            };
            if is_added {
                (reports, count) = (reports.saturating_add(collected.report_count), count + 1);
            }
        }
        Self { values: sum.as_ref().map(statistics::values).unwrap_or_default(), reports, windows: count }
    }

    /// Whether no window is collected.
    pub fn is_empty(&self) -> bool {
        self.windows == 0
    }

    /// A value with the error of the noise.
    pub fn value(&self, at: usize, noise: Option<NoiseModel>) -> Option<Interval95> {
        let value = self.values.get(at)?.as_f64();
        Some(Interval95::around(value, self.bound(noise)))
    }

    /// The error of each number that noise causes.
    pub fn bound(&self, noise: Option<NoiseModel>) -> f64 {
        noise.map_or(0.0, |noise| noise.bound(self.windows))
    }

    /// A value per report, with the error of the noise.
    pub fn mean(&self, at: usize, noise: Option<NoiseModel>) -> Option<Interval95> {
        (self.reports > 0).then(|| self.value(at, noise).map(|value| value.per(self.reports as f64))).flatten()
    }

    /// A value per window, with the error of the noise.
    pub fn per_window(&self, at: usize, noise: Option<NoiseModel>) -> Option<Interval95> {
        (self.windows > 0).then(|| self.value(at, noise).map(|value| value.per(self.windows as f64))).flatten()
    }

    /// A value as a share of the reports.
    pub fn share(&self, at: usize, noise: Option<NoiseModel>) -> Option<Interval95> {
        Share::of(self.values.get(at)?.as_f64(), self.reports, self.bound(noise))
    }

    /// The first of the largest values with its position; `None` if no value is above zero.
    pub fn largest(&self) -> Option<(usize, f64)> {
        let positive = self.values.iter().map(|value| value.as_f64()).enumerate().filter(|(_, value)| *value > 0.0);
        positive.reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// The values as floating-point numbers.
    pub fn floats(&self) -> Vec<f64> {
        self.values.iter().map(|value| value.as_f64()).collect()
    }
}

/// One or several successive windows.
#[derive(Clone, Debug)]
pub struct Column {
    /// The left end, as a share of the width.
    pub left: f64,
    /// The right end.
    pub right: f64,
    /// What the column covers, for people.
    pub label: String,
    /// The span of time, if known.
    pub interval: Option<Interval>,
    /// The number of the first window.
    pub first: u64,
    /// Number of windows.
    pub windows: usize,
    /// The sum of the collected windows.
    pub total: Total,
    /// The most important reason for which windows have no result.
    pub gap: Option<Gap>,
    /// Number of windows without a result.
    pub missing: usize,
}

impl Column {
    /// The center, as a share of the width.
    pub fn center(&self) -> f64 {
        f64::midpoint(self.left, self.right)
    }
}

/// The selected windows of a task.
pub struct Series<'a> {
    /// The task.
    pub view: &'a TaskView,
    /// The time zone.
    pub calendar: Calendar,
    /// What is measured.
    pub measure: Measure,
    /// The noise.
    pub noise: Option<NoiseModel>,
    /// The windows in the selected range, in order of time.
    pub windows: Vec<&'a Window>,
    /// The columns of charts.
    pub columns: Vec<Column>,
    /// Windows per column.
    pub group: usize,
    /// Start and end of the time axis; `None` if columns are numbered batches.
    pub span: Option<(Time, Time)>,
}

impl<'a> Series<'a> {
    /// The windows of a task that end after the first and start before the second time, in at most `most` columns.
    pub fn of_range(view: &'a TaskView, (from, to): (Option<Time>, Option<Time>), most: usize) -> Self {
        Self::of_windows(view, view.windows.iter().filter(|window| is_shown(window, view, from, to)).collect(), most)
    }

    /// The windows from a number on.
    pub fn since(view: &'a TaskView, first: u64) -> Self {
        let is_shown = |window: &&Window| window.number >= first && is_shown(window, view, None, None);
        Self::of_windows(view, view.windows.iter().filter(is_shown).collect(), MAX_COLUMNS)
    }

    fn of_windows(view: &'a TaskView, windows: Vec<&'a Window>, most: usize) -> Self {
        let calendar = Calendar::new(&view.settings.schedule.time_zone);
        let is_timed = view.parameters.batch_mode == BatchMode::TimeInterval;
        let is_daily = is_timed && view.settings.schedule.every == Unit::Day;
        let groups: &[usize] = if is_daily { &DAY_GROUPS } else { &GROUPS };
        let fits = |group: &&usize| windows.len().div_ceil(**group) <= most;
        let group = groups.iter().find(fits).copied().unwrap_or(usize::MAX);
        let bounds = windows.first().zip(windows.last()).filter(|_| is_timed);
        let span = bounds.and_then(|(first, last)| Some((first.interval?.start(), last.interval?.end())));
        let columns = windows.chunks(group).enumerate().map(|(at, windows)| {
            let left = at.saturating_mul(group);
            column(view, &calendar, windows, (left, left + windows.len()))
        });
        let mut columns: Vec<Column> = columns.collect();
        place(&mut columns, span);
        let noise = NoiseModel::of(&view.parameters);
        let measure = Measure::of(&view.parameters.vdaf);
        Self { view, calendar, measure, noise, windows, columns, group, span }
    }

    /// One window as a column; `None` if there is no window with the number.
    pub fn window(view: &TaskView, number: u64) -> Option<Column> {
        let window = view.windows.iter().find(|window| window.number == number)?;
        Some(column(view, &Calendar::new(&view.settings.schedule.time_zone), &[window], (0, 1)))
    }

    /// The number of values of a result.
    pub fn length(&self) -> usize {
        self.view.parameters.vdaf.vector_length()
    }

    /// What all windows cover, for people.
    pub fn label(&self) -> String {
        let collected = || self.windows.iter().filter(|window| window.collected().is_some());
        let (Some(first), Some(last)) = (collected().next(), collected().next_back()) else {
            return "This range".to_owned();
        };
        let spans = first.shown_interval().zip(last.shown_interval());
        let length = spans.map(|(first, last)| Duration(last.end().0.saturating_sub(first.start().0)));
        let hull = spans.zip(length).and_then(|((first, _), length)| Interval::new(first.start(), length));
        match (hull, self.span) {
            (Some(hull), Some(_)) => self.calendar.span(hull),
            _ if first.number == last.number => format!("Batch #{}", first.number),
            _ => format!("Batches #{}–#{}", first.number, last.number),
        }
    }

    /// The sum of all windows.
    pub fn total(&self) -> Total {
        Total::of(self.windows.iter().copied(), self.view)
    }

    /// Number of windows that are over and have no result.
    pub fn missing(&self) -> u64 {
        let is_missing = |window: &&&Window| window.collected().is_none() && window.state != WindowState::Upcoming;
        self.windows.iter().filter(is_missing).count() as u64
    }

    /// The columns with a result.
    pub fn collected(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.total.is_empty())
    }

    /// The gaps that occur.
    pub fn gaps(&self) -> Vec<Gap> {
        Gap::ALL.into_iter().filter(|gap| self.columns.iter().any(|column| column.gap == Some(*gap))).collect()
    }

    /// The position of a time, as a share of the width; `None` outside of the chart.
    pub fn position(&self, at: Time) -> Option<f64> {
        match self.span {
            Some((start, end)) if start <= at && at <= end => Some(share(at, start, end)),
            Some(_) => None,
            None => {
                let column = self.columns.iter().find(|column| column.interval.is_some_and(|span| span.end() > at))?;
                (column.interval?.start().0 <= at.0 || column.left > 0.0).then_some(column.left)
            }
        }
    }

    /// The labelled times below the charts, at most `most`.
    pub fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        if let Some((start, end)) = self.span {
            let lengths = self.windows.iter().filter_map(|window| window.interval).map(|span| span.duration().0);
            let ticks = self.calendar.ticks(start, end, most, lengths.min().unwrap_or_default());
            return ticks.into_iter().map(|tick| (share(tick.at, start, end), tick.label)).collect();
        }
        let step = crate::chart::scale::nice_step(self.columns.len() as f64 / most as f64).max(1.0) as usize;
        let ticks = self.columns.iter().step_by(step);
        ticks.map(|column| (column.center(), format!("#{}", column.first))).collect()
    }

    /// The labels of the values.
    pub fn value_label(&self, at: usize) -> String {
        let presentation = &self.view.settings.presentation;
        if let Some(label) = presentation.labels.get(at).filter(|label| !label.trim().is_empty()) {
            return label.clone();
        }
        let kind = match self.measure {
            Measure::Histogram => "Bin",
            Measure::Flags => "Flag",
            Measure::Count | Measure::Sum | Measure::Vector => "Position",
        };
        match presentation.edges.get(at..at + 2) {
            Some([low, high]) => crate::number::bin(*low, *high) + &self.unit(),
            _ => format!("{kind} {at}"),
        }
    }

    /// The unit with a space before it, or nothing.
    pub fn unit(&self) -> String {
        self.view.settings.presentation.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default()
    }
}

/// Whether a window belongs to a range. A window that has not begun does not.
fn is_shown(window: &Window, view: &TaskView, from: Option<Time>, to: Option<Time>) -> bool {
    let Some(interval) = window.shown_interval() else {
        // A batch without a known span of time belongs to the latest range.
        return to.is_none_or(|to| to > view.now) && window.state != WindowState::Upcoming;
    };
    let has_begun = window.state != WindowState::Upcoming || interval.start() <= view.now;
    has_begun && from.is_none_or(|from| interval.end() > from) && to.is_none_or(|to| interval.start() < to)
}

fn column(view: &TaskView, calendar: &Calendar, windows: &[&Window], position: (usize, usize)) -> Column {
    let total = Total::of(windows.iter().copied(), view);
    let is_missing = |window: &&&Window| window.collected().is_none() || !view.results.contains_key(&window.number);
    let missing = windows.iter().filter(is_missing);
    let gap = missing.clone().map(|window| Gap::of(&window.state)).max();
    let spans = windows.iter().filter_map(|window| window.shown_interval());
    let start = spans.clone().map(|span| span.start()).min();
    let end = spans.map(|span| span.end()).max();
    let interval =
        start.zip(end).and_then(|(start, end)| Interval::new(start, Duration(end.0.saturating_sub(start.0))));
    let first = windows.first().map_or(0, |window| window.number);
    let label = match (interval, view.parameters.batch_mode) {
        (Some(interval), BatchMode::TimeInterval) => calendar.span(interval),
        (Some(interval), _) => format!("Batch #{}, {}", first, calendar.span(interval)),
        (None, _) => format!("Batch #{}", first),
    };
    let (left, right) = (position.0 as f64, position.1 as f64);
    Column { left, right, label, interval, first, windows: windows.len(), total, gap, missing: missing.count() }
}

/// Places the columns on the width: by time if there is a span, otherwise one after the other.
fn place(columns: &mut [Column], span: Option<(Time, Time)>) {
    let all = columns.last().map_or(1.0, |column| column.right);
    for column in columns {
        (column.left, column.right) = match (span, column.interval) {
            (Some((start, end)), Some(interval)) => {
                (share(interval.start(), start, end), share(interval.end(), start, end))
            }
            _ => (column.left / all, column.right / all),
        };
    }
}

fn share(at: Time, start: Time, end: Time) -> f64 {
    at.0.saturating_sub(start.0) as f64 / end.0.saturating_sub(start.0).max(1) as f64
}
