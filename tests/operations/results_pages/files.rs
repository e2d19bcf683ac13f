//! Tests of files: exact numbers, sums, noise and windows without a result.

use serde_json::Value;

use super::gallery::{fill, lose, lost, task};
use dapbox::{
    model::VdafConfig,
    pages::{
        Selection, TaskView,
        export::{COLUMNS, ExportError, csv, json, ndjson},
    },
    vdaf::AggregateResult,
};

/// A histogram of three bins over three days, of which the second is lost.
fn view() -> TaskView {
    let mut view = task(VdafConfig::Prio3Histogram { length: 3, chunk_length: 1 }, "Ages");
    fill(&mut view, 3, |day| (10, AggregateResult::Vector(vec![u128::from(day), 5, 1 << 70])));
    lose(&mut view, 1..2, &lost());
    view.settings.presentation.labels = vec!["young".to_owned(), "=1+1".to_owned(), "old, \"very\"".to_owned()];
    view
}

fn text(write: impl FnOnce(&mut Vec<u8>) -> Result<(), ExportError>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn csv_has_a_row_for_each_number() {
    let (view, all) = (view(), Selection::default());
    let text = text(|out| csv(&view, &all, out));
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    assert_eq!(reader.headers().unwrap(), &COLUMNS[..]);
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 6);
    let last = &rows[5];
    assert_eq!((&last[0], &last[3], &last[4]), ("2", "10", "2"));
    assert_eq!((&last[5], &last[6], &last[7]), ("old, \"very\"", "1180591620717411303424", ""));
    assert!(last[1].ends_with("T00:00:00Z"), "{last:?}");
    assert_eq!(&rows[1][5], "'=1+1");
}

#[test]
fn sum_is_the_sum_of_the_windows() {
    let (view, sum) = (view(), Selection { sum: true, ..Selection::default() });
    let text = text(|out| csv(&view, &sum, out));
    let rows: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(rows.len(), 3);
    assert!(rows[1].starts_with(',') && rows[1].contains(",20,1,'=1+1,10,"), "{rows:?}");
}

#[test]
fn csv_has_the_effect_of_noise() {
    let mut view = view();
    view.parameters.noise = Some("1".parse().unwrap());
    view.results.insert(0, AggregateResult::Noisy(vec![-3, 5, 7]));
    let text = text(|out| csv(&view, &Selection::default(), out));
    let row: Vec<&str> = text.lines().nth(1).unwrap().split(',').collect();
    let number = |at: usize| row[at].parse::<f64>().unwrap();
    assert_eq!(row[6], "-3");
    assert!(number(7) > 0.0 && number(8) < -3.0 && number(9) > -3.0, "{row:?}");
    assert!((number(9) + 3.0 - (-3.0 - number(8))).abs() < 0.011, "{row:?}");
}

#[test]
fn json_has_windows_without_result() {
    let (view, all) = (view(), Selection::default());
    let lines = text(|out| ndjson(&view, &all, out));
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<_> = lines.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["collected", "lost", "collected", "upcoming"]);
    assert!(lines[1]["reason"].is_string() && lines[1].get("result").is_none());
    assert_eq!((&lines[2]["report_count"], &lines[2]["result"][1]), (&10.into(), &5.into()));
    let document: Value = serde_json::from_str(&text(|out| json(&view, &all, out))).unwrap();
    assert_eq!((&document["title"], document["windows"].as_array().unwrap().len()), (&"Ages".into(), 4));
    assert_eq!(document["vdaf"]["type"], "Prio3Histogram");
}
