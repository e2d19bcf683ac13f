//! The pages in a real browser: readable in all sizes, with a keyboard, without scripts and on paper.
//!
//! With `DRAW_PAGES=DIR` in the environment, pictures are written to that directory.

use std::collections::BTreeMap;

use dapbox::{
    model::TaskId,
    pages::{Addresses, MEDIA_TYPE, Selection, TaskView, export, overview, policy, task},
};
use serde_json::{Value, json};
use warp::Filter;

use super::gallery::{addresses, pages};
use crate::common::chromium::{Chromium, Key};

/// A phone, a tablet and a desktop.
const WIDTHS: [u32; 3] = [360, 768, 1280];

/// Pages that together have every kind of chart, table and control.
const KINDS: [&str; 11] = [
    "overview",
    "holder-of-a-link",
    "sum-gaps",
    "count",
    "histogram-30",
    "histogram-window",
    "histogram-noise",
    "flags-6-compare",
    "vector-9",
    "long-texts",
    "nothing-yet",
];

/// All pages, by name.
fn gallery() -> Vec<(&'static str, String)> {
    let all = pages();
    let numbered = all.iter().cloned().enumerate();
    let views: Vec<_> =
        numbered.map(|(at, (_, view, _))| TaskView { id: TaskId::new([at as u8; 32]), ..view }).collect();
    let link = Addresses { overview: None, task: "/results/token".to_owned() };
    let (_, view, selection) = all.iter().find(|(name, ..)| *name == "sum-gaps").unwrap();
    let mut found = vec![
        ("overview", overview::render("collector.example.org", &views, &|_| addresses().task)),
        ("overview-empty", overview::render("", &[], &|_| addresses().task)),
        ("holder-of-a-link", task::render(view, selection, &link)),
    ];
    found.extend(all.iter().map(|(name, view, selection)| (*name, task::render(view, selection, &addresses()))));
    found
}

/// Serves the pages by name, with their policy. Returns the URL of the server.
async fn serve() -> String {
    let pages: BTreeMap<_, _> = gallery().into_iter().collect();
    let page = warp::path!(String).map(move |name: String| {
        let page = pages.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not a page")).clone();
        let page = warp::reply::with_header(page, "content-type", MEDIA_TYPE);
        warp::reply::with_header(page, "content-security-policy", policy())
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(warp::serve(page).incoming(listener).run());
    url
}

fn open(browser: &mut Chromium, url: &str, name: &str) {
    browser.open(&format!("{url}{name}"));
    browser.until("document.body.dataset.link === 'live'");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_readable_at_all_sizes() {
    let Some(mut browser) = Chromium::installed() else { return };
    let url = serve().await;
    let mut problems = BTreeMap::new();
    for (name, _) in gallery() {
        open(&mut browser, &url, name);
        for (width, scheme) in WIDTHS.into_iter().flat_map(|width| ["light", "dark"].map(|scheme| (width, scheme))) {
            browser.resize(width, 800);
            browser.scheme(scheme);
            browser.value("document.querySelectorAll('details').forEach((part) => part.open = false)");
            browser.draw(&format!("{name}-{width}-{scheme}"));
            problems.insert((name, width, scheme), browser.audit(width));
        }
        assert_eq!(browser.complaints(&url), Vec::<Value>::new(), "{name}");
    }
    problems.retain(|_, found| *found != json!([]));
    assert!(problems.is_empty(), "{problems:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paper_is_white() {
    let Some(mut browser) = Chromium::installed() else { return };
    let url = serve().await;
    browser.resize(794, 1123);
    for name in KINDS {
        open(&mut browser, &url, name);
        browser.medium("print", "dark");
        browser.draw(&format!("{name}-print"));
        let dark = browser.value(
            "[...document.querySelectorAll('*')].filter((element) => {
                const { width, height } = element.getBoundingClientRect();
                const [red, green, blue, alpha] = getComputedStyle(element).backgroundColor.match(/[\\d.]+/g).map(Number);
                return width * height > 1000 && alpha !== 0 && red + green + blue < 3 * 200;
            }).map((element) => element.outerHTML.slice(0, 160))",
        );
        assert_eq!(dark, json!([]), "{name}");
        assert_eq!(browser.audit(794), json!([]), "{name}");
        assert_eq!(browser.value("document.querySelector('.banner').getBoundingClientRect().height > 0"), true);
        assert_eq!(browser.value("document.querySelector('.controls')?.checkVisibility() ?? false"), false, "{name}");
        browser.medium("screen", "light");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_complete_without_scripts() {
    let Some(mut browser) = Chromium::installed() else { return };
    let url = serve().await;
    for name in KINDS {
        open(&mut browser, &url, name);
        let with = browser.value("document.querySelector('main').innerText");
        browser.scripts(false);
        browser.open(&format!("{url}{name}"));
        assert_eq!(browser.value("document.querySelector('main').innerText"), with, "{name}");
        let banner = browser.value("document.querySelector('.live').innerText.trim()");
        assert_eq!(banner, "", "{name}: nothing claims that the page is live");
        assert_eq!(browser.complaints(&url), Vec::<Value>::new(), "{name}");
        browser.scripts(true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keyboard_reaches_every_control() {
    let Some(mut browser) = Chromium::installed() else { return };
    let url = serve().await;
    for (name, width) in KINDS.into_iter().flat_map(|name| [360, 1280].map(|width| (name, width))) {
        browser.resize(width, 800);
        open(&mut browser, &url, name);
        let count = browser.value(
            "const stops = [...document.querySelectorAll('a[href]:not([tabindex=\"-1\"]), button, input, summary, [tabindex=\"0\"]')];
            const seen = stops.filter((stop) => stop.checkVisibility());
            seen.forEach((stop, at) => stop.dataset.stop = at);
            seen.length",
        );
        let forward: Vec<u64> = (0..count.as_u64().unwrap()).collect();
        assert_eq!(stops(&mut browser, Key::Tab, forward.len()), forward, "{name}, {width}");
        let backward: Vec<u64> = forward.iter().rev().skip(1).copied().collect();
        assert_eq!(stops(&mut browser, Key::ShiftTab, backward.len()), backward, "{name}, {width}");
        tables_open(&mut browser, name);
    }
}

/// Presses a key until it has reached `count` other elements. Returns their numbers. Each must show that it has the focus.
fn stops(browser: &mut Chromium, key: Key, count: usize) -> Vec<u64> {
    let mut found: Vec<u64> = Vec::new();
    // Fields of dates have several parts.
    for _ in 0..4 * count {
        browser.press(key);
        let stop = browser.value(
            "(() => {
                const element = document.activeElement, style = getComputedStyle(element);
                const [box] = element.getClientRects();
                const top = document.elementFromPoint(box.left + box.width / 2, box.top + Math.min(box.height / 2, 20));
                return {
                    number: Number(element.dataset.stop ?? -1),
                    hasOutline: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
                    isOnTop: element.contains(top),
                    top: top?.outerHTML.slice(0, 160),
                    html: element.outerHTML.slice(0, 160),
                };
            })()",
        );
        let Some(number) = stop["number"].as_u64() else { panic!("{stop} at {found:?}") };
        assert!(stop["hasOutline"] == true && stop["isOnTop"] == true, "{stop}");
        if found.last() != Some(&number) {
            found.push(number);
        }
        if found.len() == count {
            break;
        }
    }
    found
}

/// Each table opens with Enter, and Tab leads into it.
fn tables_open(browser: &mut Chromium, name: &str) {
    let tables = browser.value("document.querySelectorAll('.data, .ledger').length").as_u64().unwrap();
    for at in 0..tables {
        let table = format!("document.querySelectorAll('.data, .ledger')[{at}]");
        browser.value(&format!("{table}.open = false; {table}.querySelector('summary').focus()"));
        browser.press(Key::Enter);
        assert_eq!(browser.value(&format!("{table}.open")), true, "{name}");
        browser.press(Key::Tab);
        let is_inside = format!("{table}.querySelector('.scroll') === document.activeElement");
        assert_eq!(browser.value(&is_inside), true, "{name}");
    }
}

/// The cells of a table of the page, without separators of thousands. The first row is the head.
fn table(browser: &mut Chromium, selector: &str) -> Vec<Vec<String>> {
    let rows = browser.value(&format!(
        "[...document.querySelectorAll('{selector} tr')].map((row) =>
            [...row.cells].map((cell) => cell.textContent.replaceAll(',', '').replace('−', '-')))"
    ));
    serde_json::from_value(rows).unwrap()
}

/// The cells of a column, of rows without a gap.
fn column(table: &[Vec<String>], names: &[&str]) -> Vec<String> {
    let at = table[0].iter().position(|head| names.contains(&head.as_str())).unwrap();
    table[1..].iter().filter(|row| row.len() == table[0].len()).map(|row| row[at].clone()).collect()
}

/// The report counts and the numbers of the file of a task: a count for each window, and all numbers.
fn file(view: &TaskView, selection: Selection) -> (Vec<String>, Vec<String>) {
    let mut text = Vec::new();
    export::csv(view, &Selection { compare: None, ..selection }, &mut text).unwrap();
    let rows = csv::Reader::from_reader(text.as_slice()).into_records().map(Result::unwrap).collect::<Vec<_>>();
    let at = |name: &str| export::COLUMNS.iter().position(|column| *column == name).unwrap();
    let cell = |row: &csv::StringRecord, name: &str| row[at(name)].to_owned();
    let first = rows.iter().filter(|row| cell(row, "position") == "0");
    (first.map(|row| cell(row, "report_count")).collect(), rows.iter().map(|row| cell(row, "value")).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_have_the_numbers_of_the_files() {
    let Some(mut browser) = Chromium::installed() else { return };
    let url = serve().await;
    let mut compared = 0;
    for (name, view, selection) in pages() {
        open(&mut browser, &url, name);
        let (reports, values) = file(&view, Selection { window: None, ..selection });
        let is_grouped = browser.text().contains("successive windows");
        for (figure, has_values) in [("#amount", true), ("#development", false)] {
            let shown = table(&mut browser, &format!("{figure} .data"));
            if shown.is_empty() || is_grouped {
                continue;
            }
            assert_eq!(column(&shown, &["Reports"]), reports, "{name}");
            if has_values {
                assert_eq!(column(&shown, &["Sum", "True"]), values, "{name}");
            }
            compared += 1;
        }
        let shown = table(&mut browser, "#distribution table.rows");
        if !shown.is_empty() {
            let (_, values) = file(&view, Selection { sum: selection.window.is_none(), ..selection });
            assert_eq!(column(&shown, &["Reports", "Sum"]), values[..values.len().min(300)], "{name}");
            compared += 1;
        }
        let total = browser.value("document.querySelector('#total dl')?.innerText.replaceAll(',', '') ?? ''");
        if selection.sum {
            assert!(total.as_str().unwrap().contains(&values[0]), "{name}: {total}");
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared}");
}
