//! Tasks with real and awkward data.

use dapbox::{
    model::{BatchMode, Duration, Interval, MaxMeasurement, Revision, TaskId, TaskParameters, Time, VdafConfig},
    pages::{Addresses, Selection, TaskView},
    results::{
        CollectedWindow, CollectorSettings, LossReason, Presentation, Schedule, Unit, Window, WindowState,
        presentation::Note,
    },
    support::{duration::Seconds, timestamp},
    vdaf::AggregateResult,
};

pub const DAY: u64 = 86_400;

/// 1 December 2026, 06:00 UTC.
pub const NOW: Time = Time(1_796_104_800);

/// A generator of numbers that look random and are always the same.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 to 1.
    pub fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Approximately normal.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.roll()).sum::<f64>() - 6.0
    }
}

/// A task without windows.
pub fn task(vdaf: VdafConfig, title: &str) -> TaskView {
    let id = TaskId::new([7; 32]);
    let parameters = TaskParameters {
        id,
        revision: Revision::Dap09,
        info: String::new(),
        leader_url: "https://leader.example.org/".to_owned(),
        helper_url: "https://helper.example.net/".to_owned(),
        batch_mode: BatchMode::TimeInterval,
        vdaf,
        min_batch_size: 100,
        time_precision: Duration(3600),
        task_expiration: None,
        task_interval: None,
        noise: None,
    };
    let settings = CollectorSettings {
        start: Time(0),
        retention: None,
        schedule: Schedule::default(),
        presentation: Presentation { title: Some(title.to_owned()), ..Presentation::default() },
        webhooks: Vec::new(),
    };
    TaskView { id, name: None, parameters, settings, windows: Vec::new(), results: Default::default(), now: NOW }
}

/// Appends daily windows with results until today, and the window of today.
pub fn fill(view: &mut TaskView, days: u64, mut result: impl FnMut(u64) -> (u64, AggregateResult)) {
    let today = NOW.0 - NOW.0 % DAY;
    for number in 0..days {
        let interval = Interval::new(Time(today - (days - number) * DAY), Duration(DAY)).unwrap();
        let (report_count, result) = result(number);
        let state = collected(report_count, interval);
        view.windows.push(Window {
            number,
            interval: Some(interval),
            state,
            changed: interval.end(),
            is_joined: false,
        });
        view.results.insert(number, result);
    }
    let interval = Interval::new(Time(today), Duration(DAY)).unwrap();
    let state = WindowState::Upcoming;
    view.windows.push(Window { number: days, interval: Some(interval), state, changed: NOW, is_joined: false });
}

fn collected(report_count: u64, interval: Interval) -> WindowState {
    WindowState::Collected(CollectedWindow {
        report_count,
        report_interval: interval,
        batch_id: None,
        collected: interval.end().saturating_add(Duration(900)),
        to_release: None,
    })
}

/// Replaces the state of some windows.
pub fn lose(view: &mut TaskView, numbers: std::ops::Range<usize>, state: &WindowState) {
    for number in numbers {
        view.results.remove(&view.windows[number].number);
        view.windows[number].state = state.clone();
    }
}

pub fn lost() -> WindowState {
    WindowState::Lost { reason: LossReason::Expired, detail: String::new() }
}

pub fn too_few() -> WindowState {
    WindowState::TooFewReports { request: None, location: None, since: NOW, is_final: true }
}

pub fn addresses() -> Addresses {
    Addresses { overview: Some("/results/".to_owned()), task: "/results/tasks/BwcHBwc".to_owned() }
}

pub fn sums(days: u64) -> TaskView {
    let mut view = task(VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(16) }, "Page load time");
    view.settings.presentation.unit = Some("ms".to_owned());
    view.settings.presentation.description =
        Some("How long the start page takes to load in the browsers of participating readers.".to_owned());
    let mut dice = Dice::new(3);
    fill(&mut view, days, |day| {
        let week = if day % 7 > 4 { 0.6 } else { 1.0 };
        let reports = (4200.0 * week * (1.0 + 0.06 * dice.normal())) as u64;
        let mean = 840.0 - 90.0 * (day as f64 / 40.0).sin() + 14.0 * dice.normal() - if day > 60 { 120.0 } else { 0.0 };
        (reports, AggregateResult::Number((mean * reports as f64) as u128))
    });
    view
}

fn gaps() -> TaskView {
    let mut view = sums(90);
    lose(&mut view, 20..24, &lost());
    lose(&mut view, 40..42, &too_few());
    lose(&mut view, 70..90, &WindowState::Due);
    lose(&mut view, 5..6, &lost());
    let today = NOW.0 - NOW.0 % DAY;
    let note = |ago: u64, text: &str| Note { at: Time(today - ago * DAY + 36_000), text: text.to_owned() };
    view.settings.presentation.notes =
        vec![note(60, "Images are loaded lazily"), note(28, "New data center in Frankfurt")];
    view
}

/// Counts of a histogram with a log-normal shape that drifts.
fn shape(dice: &mut Dice, bins: usize, reports: u64, center: f64, width: f64) -> Vec<u128> {
    let weight = |bin: usize| (-((bin as f64 + 0.5 - center) / width).powi(2) / 2.0).exp() + 0.002;
    let all: f64 = (0..bins).map(weight).sum();
    let mut count = |bin: usize| {
        let expected = weight(bin) / all * reports as f64;
        (expected + expected.sqrt() * dice.normal()).max(0.0).round() as u128
    };
    (0..bins).map(&mut count).collect()
}

/// A histogram of `bins` bins of 20 ms over some days.
pub fn histogram(bins: usize, days: u64) -> TaskView {
    let mut view = task(VdafConfig::Prio3Histogram { length: bins, chunk_length: 10 }, "Time to first byte");
    view.settings.presentation.unit = Some("ms".to_owned());
    view.settings.presentation.description = Some("Time until the first byte of an article arrives.".to_owned());
    view.settings.presentation.edges = (0..bins).map(|bin| bin as f64 * 20.0).chain([f64::INFINITY]).collect();
    let (mut dice, n) = (Dice::new(5), bins as f64);
    fill(&mut view, days, |day| {
        let reports = 2_000 + (dice.roll() * 900.0) as u64;
        let drift = (day as f64 / days as f64 * 9.0).sin() * 0.12;
        let counts = shape(&mut dice, bins, reports, n * (0.35 + drift), n * (0.1 + drift * 0.3));
        (counts.iter().sum::<u128>() as u64, AggregateResult::Vector(counts))
    });
    view
}

pub fn noisy() -> TaskView {
    let mut view = task(VdafConfig::Prio3Histogram { length: 8, chunk_length: 3 }, "Reasons for ending a call");
    view.parameters.noise = Some("0.1".parse().unwrap());
    view.settings.presentation.labels = [
        "Hung up",
        "Lost network",
        "Battery empty",
        "Other call",
        "Headset unplugged by accident or on purpose",
        "Crash of the app",
        "Low memory",
        "Unknown",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut dice = Dice::new(9);
    fill(&mut view, 45, |_| {
        let counts = [410.0, 130.0, 60.0, 44.0, 12.0, 3.0, 0.0, 1.0];
        let laplace = |dice: &mut Dice| -20.0 * (1.0 - dice.roll()).ln() * if dice.roll() < 0.5 { -1.0 } else { 1.0 };
        let noisy = counts.map(|count| (count + laplace(&mut dice) + laplace(&mut dice)).round() as i128);
        (660, AggregateResult::Noisy(noisy.to_vec()))
    });
    view
}

fn stacked() -> TaskView {
    let mut view = task(VdafConfig::Prio3Histogram { length: 5, chunk_length: 3 }, "Self-rated health");
    view.settings.presentation.labels = ["Excellent", "Good", "Fair", "Poor", "No answer"].map(str::to_owned).to_vec();
    let mut dice = Dice::new(19);
    fill(&mut view, 60, |day| {
        let counts = [540.0 - 3.0 * day as f64, 360.0, 75.0 + day as f64, 15.0, 20.0 + 2.0 * day as f64];
        let counts: Vec<u128> = counts.iter().map(|count| (count + count.sqrt() * dice.normal()) as u128).collect();
        (counts.iter().sum::<u128>() as u64, AggregateResult::Vector(counts))
    });
    lose(&mut view, 33..36, &too_few());
    view
}

fn flags(length: usize, days: u64) -> TaskView {
    let vdaf = VdafConfig::Prio3MultihotCountVec { length, max_weight: length, chunk_length: 2 };
    let mut view = task(vdaf, "Accessibility settings");
    let labels = ["Large text", "High contrast", "Reduced motion", "Screen reader", "Captions", "Mono audio"];
    view.settings.presentation.labels = labels.iter().take(length).map(|label| (*label).to_owned()).collect();
    let mut dice = Dice::new(11);
    fill(&mut view, days, |day| {
        let reports = 300 + (dice.roll() * 250.0) as u64;
        let share = |at: usize| 0.3 / (at as f64 + 1.0) + if at == 1 { 0.08 * (day as f64 / 9.0).sin() } else { 0.0 };
        let mut count = |at: usize| {
            let expected = share(at) * reports as f64;
            (expected + expected.sqrt() * dice.normal()).max(0.0) as u128
        };
        (reports, AggregateResult::Vector((0..length).map(&mut count).collect()))
    });
    view
}

fn vectors(length: usize, days: u64) -> TaskView {
    let vdaf = VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(8), length, chunk_length: 10 };
    let mut view = task(vdaf, "Keyboard heat");
    let mut dice = Dice::new(13);
    fill(&mut view, days, |day| {
        let reports = 900 + (dice.roll() * 300.0) as u64;
        let mean = |at: usize| 60.0 + 50.0 * (at as f64 / length as f64 * 12.0 + day as f64 / 20.0).sin();
        let mut sum = |at: usize| ((mean(at) + dice.normal()) * reports as f64) as u128;
        (reports, AggregateResult::Vector((0..length).map(&mut sum).collect()))
    });
    view
}

/// Vectors with a bound on the sum of their numbers.
pub fn bounded_vectors() -> TaskView {
    let mut view = vectors(9, 120);
    view.parameters.vdaf = VdafConfig::Prio3L1BoundSum { max_value: 1_000, length: 9, chunk_length: 10 };
    view
}

fn counts(days: u64) -> TaskView {
    let mut view = task(VdafConfig::Prio3Count, "Dark mode is on");
    let mut dice = Dice::new(17);
    fill(&mut view, days, |day| {
        let reports = 500 + (dice.roll() * 200.0) as u64;
        let share = 0.42 + 0.0015 * day as f64 + 0.02 * dice.normal();
        (reports, AggregateResult::Number((share * reports as f64) as u128))
    });
    view
}

pub fn huge() -> TaskView {
    let mut view = task(VdafConfig::Prio3Sum { max: MaxMeasurement(u64::MAX) }, "Huge numbers");
    fill(&mut view, 10, |day| {
        (u64::MAX / 100, AggregateResult::Number(u128::MAX / 20 - u128::from(day) * (u128::MAX / 300)))
    });
    view
}

fn zeros() -> TaskView {
    let mut view = task(VdafConfig::Prio3Histogram { length: 12, chunk_length: 3 }, "Crashes by module");
    fill(&mut view, 30, |_| (150, AggregateResult::Vector(vec![0; 12])));
    view
}

fn zero_sums() -> TaskView {
    let mut view = task(VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) }, "Errors per session");
    fill(&mut view, 30, |_| (150, AggregateResult::Number(0)));
    view
}

fn all_lost() -> TaskView {
    let mut view = sums(20);
    lose(&mut view, 0..20, &lost());
    view
}

fn fixed_size() -> TaskView {
    let mut view = sums(25);
    view.parameters.batch_mode = BatchMode::fixed_size(Some(1_000));
    for window in &mut view.windows {
        window.interval = None;
    }
    view
}

/// Windows that were joined because they had too few reports.
fn joined() -> TaskView {
    let mut view = counts(40);
    for at in [25, 12, 11, 3] {
        let removed = view.windows.remove(at);
        view.results.remove(&removed.number);
        let start = view.windows[at - 1].interval.unwrap().start();
        let length = Duration(removed.interval.unwrap().end().0 - start.0);
        view.windows[at - 1].interval = Interval::new(start, length);
        view.windows[at - 1].is_joined = true;
    }
    view
}

fn long_texts() -> TaskView {
    let mut view = flags(6, 12);
    let long = "A label that somebody wrote without thinking of the space that it takes on a page or a telephone";
    let presentation = &mut view.settings.presentation;
    presentation.labels = vec![
        long.to_owned(),
        "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft".to_owned(),
        "日本語のラベル".to_owned(),
        "<script>alert(1)</script>".to_owned(),
        "x".to_owned(),
        String::new(),
    ];
    presentation.title = Some(
        "A title that is much longer than any title should be, but titles like this are written by people in a hurry"
            .to_owned(),
    );
    presentation.description = Some(format!("{long}. {long}. {long}."));
    view
}

fn one_window() -> TaskView {
    histogram(30, 1)
}

/// The RAND Health Insurance Experiment: outpatient visits in a year, 20,190 rows spread over 26 weeks.
fn rand_visits() -> TaskView {
    let rows = include_str!("../../../fixtures/rand-health-insurance.csv").lines().skip(1);
    let visits: Vec<usize> = rows.map(|row| row.split(',').next().unwrap().parse().unwrap()).collect();
    let mut view = task(VdafConfig::Prio3Histogram { length: 13, chunk_length: 4 }, "Visits to a doctor");
    let presentation = &mut view.settings.presentation;
    presentation.description =
        Some("Outpatient visits of a person in a year, from the RAND Health Insurance Experiment.".to_owned());
    presentation.unit = Some("visits".to_owned());
    presentation.labels = (0..12).map(|visits| visits.to_string()).chain(["12+".to_owned()]).collect();
    presentation.edges = (0..=12).map(f64::from).chain([f64::INFINITY]).collect();
    let per_day = visits.len() / 182;
    fill(&mut view, 182, |day| {
        let mut counts = vec![0_u128; 13];
        let first = day as usize * per_day;
        for visits in &visits[first..first + per_day] {
            counts[(*visits).min(12)] += 1;
        }
        (per_day as u64, AggregateResult::Vector(counts))
    });
    view
}

/// The same: self-rated health as flags.
fn rand_health() -> TaskView {
    let rows: Vec<Vec<u128>> = include_str!("../../../fixtures/rand-health-insurance.csv")
        .lines()
        .skip(1)
        .map(|row| row.split(',').skip(2).map(|cell| cell.parse().unwrap()).collect())
        .collect();
    let vdaf = VdafConfig::Prio3SumVec { max: MaxMeasurement(1), length: 4, chunk_length: 2 };
    let mut view = task(vdaf, "Health of the participants");
    view.settings.presentation.description = Some(
        "Physical limitation and self-rated health of the participants of the RAND Health Insurance Experiment."
            .to_owned(),
    );
    view.settings.presentation.labels =
        ["Physical limitation", "Health: good", "Health: fair", "Health: poor"].map(str::to_owned).to_vec();
    let per_day = rows.len() / 60;
    fill(&mut view, 60, |day| {
        let rows = &rows[day as usize * per_day..(day as usize + 1) * per_day];
        let sums = (0..4).map(|at| rows.iter().map(|row| row[at]).sum()).collect();
        (per_day as u64, AggregateResult::Vector(sums))
    });
    lose(&mut view, 30..33, &too_few());
    view
}

/// Windows of calendar months in Berlin.
fn monthly() -> TaskView {
    let mut view = counts(0);
    view.windows.clear();
    view.settings.schedule.every = Unit::Month;
    view.settings.schedule.time_zone = "Europe/Berlin".to_owned();
    let mut start = timestamp::parse("2024-12-31T23:00:00Z").unwrap();
    let mut dice = Dice::new(23);
    for number in 0..23 {
        let end = view.settings.schedule.window_end(start, Duration(3600));
        let interval = Interval::new(start, Duration(end.0 - start.0)).unwrap();
        let reports = 9_000 + (dice.roll() * 4_000.0) as u64;
        view.windows.push(Window {
            number,
            interval: Some(interval),
            state: collected(reports, interval),
            changed: end,
            is_joined: false,
        });
        view.results.insert(number, AggregateResult::Number((reports as f64 * (0.3 + 0.2 * dice.roll())) as u128));
        start = end;
    }
    view
}

/// Hourly windows of vectors with noise.
fn noisy_vectors() -> TaskView {
    let mut view = vectors(48, 72);
    view.parameters.noise = Some("0.5".parse().unwrap());
    view.settings.schedule.every = Unit::Span(Seconds::new(3600));
    let now = NOW.0 - NOW.0 % 3600;
    for window in &mut view.windows {
        let start = Time(now - (72 - window.number) * 3600);
        window.interval = Interval::new(start, Duration(3600));
    }
    for result in view.results.values_mut() {
        let AggregateResult::Vector(sums) = &result else { continue };
        *result = AggregateResult::Noisy(sums.iter().map(|sum| *sum as i128 - 60_000).collect());
    }
    view
}

/// All pages, by file name.
pub fn pages() -> Vec<(&'static str, TaskView, Selection)> {
    let all = Selection::default;
    let window = |window| Selection { window: Some(window), ..all() };
    let days = |days: u64| Time(NOW.0 - NOW.0 % DAY - days * DAY);
    let compare =
        || Selection { from: Some(days(20)), to: Some(days(0)), compare: Some((days(40), days(20))), ..all() };
    vec![
        ("rand-visits", rand_visits(), all()),
        ("rand-health", rand_health(), all()),
        ("sum", sums(90), all()),
        ("sum-gaps", gaps(), all()),
        ("sum-1000", sums(1000), all()),
        ("sum-compare", sums(90), compare()),
        ("sum-added", sums(90), Selection { sum: true, ..all() }),
        ("count", counts(60), all()),
        ("count-compare", counts(60), compare()),
        ("histogram-30", histogram(30, 60), all()),
        ("histogram-100-5-years", histogram(100, 1826), all()),
        ("histogram-window", histogram(30, 60), window(40)),
        ("histogram-compare", histogram(30, 60), compare()),
        ("histogram-4096", histogram(4096, 20), all()),
        ("histogram-noise", noisy(), all()),
        ("histogram-noise-window", noisy(), window(20)),
        ("histogram-stacked", stacked(), all()),
        ("histogram-zero", zeros(), all()),
        ("sum-zero", zero_sums(), all()),
        ("flags-6", flags(6, 60), all()),
        ("flags-6-compare", flags(6, 60), compare()),
        ("flags-60", flags(60, 60), all()),
        ("vector-9", vectors(9, 120), all()),
        ("vector-bounded", bounded_vectors(), all()),
        ("vector-24-1000", vectors(24, 1000), all()),
        ("vector-4096", vectors(4096, 30), all()),
        ("huge", huge(), all()),
        ("one-window", one_window(), all()),
        ("one-count", counts(1), all()),
        ("nothing-yet", histogram(30, 0), all()),
        ("all-lost", all_lost(), all()),
        ("fixed-size", fixed_size(), all()),
        ("joined", joined(), all()),
        ("monthly", monthly(), all()),
        ("vector-noise-hourly", noisy_vectors(), all()),
        ("long-texts", long_texts(), all()),
    ]
}
