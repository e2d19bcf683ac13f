//! The status page in a real browser: its content, its updates, its accessibility, and its isolation from other hosts.
//!
//! With `DRAW_PAGES=DIR` in the environment, pictures are written to that directory. The picture `status.png`
//! belongs to
//! the documents.

mod overviews;

use dapbox::{
    config::{Config, OptionalAddress},
    model::{BatchMode, Revision, VdafConfig},
    server::status_page,
    support::{clock, format::count},
    vdaf::Measurement,
    views::overview::Overview,
};
use serde_json::Value;

use crate::common::{
    self, Node, Pair,
    chromium::{Chromium, Key, serve_page},
    report_builder::ReportBuilder,
};

/// A small phone, a usual one, a tablet, and a desktop.
const WIDTHS: [u32; 4] = [320, 390, 768, 1280];

const SCHEMES: [&str; 2] = ["light", "dark"];

/// Asserts that a page contains all texts; its style may capitalize the first letters of sentences.
fn assert_told(browser: &mut Chromium, overview: &Overview) {
    let shown = browser.text().to_lowercase();
    for fact in facts(overview) {
        assert!(shown.contains(&fact.to_lowercase()), "{fact}: {shown}");
    }
}

/// The texts of every page about this overview.
fn facts(overview: &Overview) -> Vec<String> {
    let mut facts = vec![overview.version.clone(), overview.disk.dir.display().to_string()];
    facts.extend(overview.not_ready.iter().cloned());
    facts.extend(overview.keys.iter().map(|key| format!("Key {} {}", key.id, key.state.name())));
    for view in &overview.tasks {
        let status = &view.status;
        facts.extend([
            status.id.to_string(),
            status.leader_url.clone(),
            status.helper_url.clone(),
            status.info.clone(),
        ]);
        facts.extend(status.counters.iter().filter(|(name, _)| name.starts_with("re")).map(|(_, n)| count(*n)));
        facts.extend(view.refused.keys().cloned());
        facts.extend(view.batches.iter().map(|batch| {
            format!(
                "{}{}",
                count(batch.aggregated),
                match batch.waiting {
                    0 => String::new(),
                    waiting => format!(" + {} waiting", count(waiting)),
                }
            )
        }));
        facts.extend(view.batches.iter().filter_map(|batch| batch.id.clone()));
        facts.extend(status.collected.iter().map(|batch| batch.result.name().to_owned()));
        facts.extend(status.collected.iter().filter_map(|batch| batch.id).map(|id| id.to_string()));
    }
    facts
}

fn watched(config: &mut Config) {
    config.monitor.listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
    config.leader.min_job_size = 1;
}

async fn overview(node: &Node) -> Overview {
    common::get(node.monitor() + "status.json").await.unwrap().json().await.unwrap()
}

/// The position of a figure of the only task, by the text before it.
fn figure(name: &str) -> String {
    format!("[...document.querySelectorAll('.body dt')].find((name) => name.textContent === '{name}').nextSibling")
}

/// A leader with an unreachable helper. The page shows it without a reload and without disturbing a reader.
#[tokio::test(flavor = "multi_thread")]
async fn page_follows_running_pair() {
    let Some(mut browser) = Chromium::installed() else { return };
    let three = |task: &mut dapbox::model::Task| task.public.min_batch_size = 3;
    let (vdaf, mode) = (VdafConfig::Prio3Count, BatchMode::TimeInterval);
    let mut pair = Pair::start_with(Revision::Dap18, vdaf, mode, watched, three).await;
    let builder = ReportBuilder::new(&pair.parties).await;
    let url = pair.leader.monitor();
    browser.open(&url);
    browser.until("document.body.dataset.link === 'live'");
    browser.value("window.isTheSame = true; document.querySelector('.task > summary').focus()");
    assert!(browser.text().contains("No batches yet"));

    pair.helper.stop().await;
    let upload = async |reports: usize| {
        for _ in 0..reports {
            pair.parties.upload(&builder.report(&Measurement::Flag(true), clock::now())).await;
        }
    };
    let batch = |words: &str, numbers: &str| {
        let text = |class: &str| format!("document.querySelector('.batch .{class}')?.textContent");
        // The state of an open batch names the end of its interval.
        format!("{}?.startsWith('{words}') && {} === '{numbers}'", text("state"), text("numbers"))
    };
    upload(2).await;
    browser.until(&batch("Too few reports", "0 + 2 waiting of 3, 1 more needed"));
    upload(1).await;
    browser.until(&batch("Not aggregated yet", "0 + 3 waiting of 3"));
    browser.until("document.querySelector('.alerts')?.innerText.includes('an aggregation job failed')");
    browser.value("document.querySelector('.task').open = false");
    pair.helper.resume().await;
    // Reports of this hour still arrive.
    browser.until(&batch("Ready to collect, open until ", "3 of 3"));
    browser.until(&format!("{}.textContent === '3'", figure("aggregated, total")));
    browser.until("!document.querySelector('.alerts')");
    assert_eq!(browser.value("window.isTheSame"), true, "it was loaded again");
    assert_eq!(browser.value("document.activeElement.matches('.task > summary')"), true);
    assert_eq!(browser.value("document.querySelector('.task').open"), false, "somebody has folded it");
    browser.press(Key::Enter);
    browser.until("document.querySelector('.task').open");
    let seen = overview(&pair.leader).await;
    assert_told(&mut browser, &seen);
    assert_eq!(browser.complaints(&url), Vec::<Value>::new());

    without_scripts(&mut browser, &url, &seen);
    nothing_else_runs(&mut browser, &url);
    gone_and_back(&mut browser, &mut pair.leader).await;
    pair.stop().await;
}

/// Without scripts the page has all facts and reloads periodically.
fn without_scripts(browser: &mut Chromium, url: &str, seen: &Overview) {
    browser.scripts(false);
    browser.open(url);
    assert_told(browser, seen);
    let shown = browser.text();
    assert!(shown.contains("Reloads every 30 s") && !shown.contains("Pause"), "{shown}");
    assert_eq!(browser.value("document.querySelector('meta[http-equiv]').content"), "30");
    assert_eq!(browser.complaints(url), Vec::<Value>::new());
    browser.scripts(true);
}

/// Injected content neither runs nor sends requests.
fn nothing_else_runs(browser: &mut Chromium, url: &str) {
    browser.open(url);
    let directive = browser.value(
        "new Promise((done) => {
            document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));
            new Image().src = 'http://127.0.0.1:9/picture';
        })",
    );
    assert_eq!(directive, "img-src");
    browser.value(
        "const script = document.createElement('script');
        script.text = 'window.hasRun = true';
        document.body.append(script)",
    );
    assert_eq!(browser.value("'hasRun' in window"), false);
}

/// The page says when its data is stale, and recovers.
async fn gone_and_back(browser: &mut Chromium, node: &mut Node) {
    browser.open(&node.monitor());
    browser.until("document.body.dataset.link === 'live'");
    node.config.monitor.listen = OptionalAddress(node.server().monitor_address());
    node.stop().await;
    browser.until("document.body.dataset.link === 'gone'");
    assert!(browser.text().contains("Not connected since"));
    assert_eq!(browser.audit(800), serde_json::json!([]));
    node.resume().await;
    browser.until("document.body.dataset.link === 'live'");
    browser.value("document.querySelector('#pause').click()");
    assert!(browser.text().contains("Paused") && browser.text().contains("Resume"));
}

/// Any amount of text fits the page, is readable, and is available to screen readers.
#[tokio::test(flavor = "multi_thread")]
async fn page_is_readable_at_all_sizes() {
    let Some(mut browser) = Chromium::installed() else { return };
    bad_pages_are_known(&mut browser).await;
    for (name, overview) in
        [("fresh", overviews::fresh()), ("busy", overviews::busy()), ("troubled", overviews::troubled())]
    {
        let url = serve_page(status_page(&overview)).await;
        for (width, scheme) in WIDTHS.into_iter().flat_map(|width| SCHEMES.map(|scheme| (width, scheme))) {
            browser.resize(width, 800);
            browser.scheme(scheme);
            browser.open(&url);
            browser.until("document.body.dataset.link === 'live'");
            browser.draw(&format!("{name}-{width}-{scheme}"));
            assert_eq!(browser.audit(width), serde_json::json!([]), "{name}, {width}, {scheme}");
            browser.draw(&format!("{name}-{width}-{scheme}-unfolded"));
        }
        is_told(&mut browser);
        assert_told(&mut browser, &overview);
        assert_eq!(browser.complaints(&url), Vec::<Value>::new());
    }
    browser.resize(1280, 800);
    browser.scheme("light");
    browser.open(&serve_page(status_page(&overviews::calm())).await);
    browser.until("document.body.dataset.link === 'live'");
    // The parameters of a task are not news for its reader.
    browser.value("document.querySelector('.parameters').previousSibling.remove()");
    browser.value("document.querySelector('.parameters').remove()");
    browser.draw("status");
}

/// The audit itself must find problems.
async fn bad_pages_are_known(browser: &mut Chromium) {
    let bad = "<!DOCTYPE html><meta name=viewport content='width=device-width'><link rel=icon href='data:,'><h1>One</h1><h3 id=a>Three</h3>\
               <p id=a style='color: #999'>pale</p><p style='width: 900px; font-size: 8px'>wide</p><svg></svg>\
               <div style='width: 5em; white-space: nowrap'>more than fits into this</div><a href='#nowhere'>link</a>\
               <div style='width: 5em; overflow: auto; white-space: nowrap'>more than is seen of it</div>\
               <svg role='img' aria-labelledby='a' style='paint-order: fill'><rect width='90' height='40' fill='#ddd'/>\
               <text y='20' fill='#aaa'>faint</text><text x='9' y='22'>near</text></svg>";
    browser.resize(390, 800);
    browser.open(&serve_page(bad.to_owned()).await);
    let found = browser.audit(390).to_string();
    browser.complaints("");
    for complaint in [
        "it scrolls",
        "from 8 to 908",
        "more in it than fits",
        "contrast of text 2.85",
        "small text",
        "heading after level 1",
        "twice: a",
        "leads nowhere: nowhere",
        "decoration, or a drawing?",
        "scrolls without a keyboard",
        "contrast of text 2.32",
        "text without an outline on a shape",
        "text on text",
    ] {
        assert!(found.contains(complaint), "{complaint}: {found}");
    }
}

/// Text alternatives of charts, names of all controls, and the reading order.
fn is_told(browser: &mut Chromium) {
    let tree = browser.call("Accessibility.getFullAXTree", serde_json::json!({}));
    let nodes: Vec<_> = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] != true).collect();
    let named = |roles: &[&str]| {
        let with = nodes.iter().filter(|node| roles.iter().any(|role| node["role"]["value"] == *role));
        with.map(|node| node["name"]["value"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let charts = named(&["image", "img", "graphics-document"]);
    let drawn = browser.value("document.querySelectorAll('figure.chart').length");
    assert_eq!(drawn, charts.len());
    assert!(charts.iter().all(|name| name.contains("per minute") && name.contains("in all")), "{charts:?}");
    let usable = named(&["button", "link", "DisclosureTriangle", "DisclosureTriangleGrouped"]);
    assert!(!usable.is_empty() && usable.iter().all(|name| !name.trim().is_empty()), "{usable:?}");
    browser.value("document.activeElement.blur()");
    browser.press(Key::Tab);
    assert_eq!(browser.value("document.activeElement.textContent"), "Skip to the tasks");
}

/// Task texts are escaped; checked without a browser.
#[test]
fn escapes_texts_of_tasks() {
    let page = status_page(&overviews::troubled());
    assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; "));
    assert_eq!(page.matches("<script>").count(), 1);
}

/// Nothing above an alert is green, and a helper has one line for all waiting tasks.
#[test]
fn shows_each_alert_once() {
    let readiness =
        |page: &str| page.split("of-readiness").nth(1).unwrap().split("</section>").next().unwrap().to_owned();
    let calm = status_page(&overviews::calm());
    assert!(readiness(&calm).contains("i-good") && !calm.contains("of-attention"));
    assert!(calm.contains("<title>Ready, 1 task - leader.example.org - dapbox</title>"), "the server is named");

    let mut busy = overviews::busy();
    let trouble = busy.tasks.iter().find_map(|view| view.status.last_error.clone());
    for view in busy.tasks.iter_mut().filter(|view| view.status.role == dapbox::model::Role::Leader) {
        view.status.last_error.clone_from(&trouble);
    }
    let page = status_page(&busy);
    let shown = readiness(&page);
    assert!(!shown.contains("i-good") && shown.contains("Ready, needs attention"), "{shown}");
    let alerts = page.split("of-attention").nth(1).unwrap().split("</section>").next().unwrap();
    assert_eq!(alerts.matches("<li>").count(), 1, "{alerts}");
    assert!(alerts.contains("4 tasks") && alerts.matches("#about-").count() == 4, "{alerts}");
    assert!(alerts.contains("Checkout, page loads (EU) ("), "a task goes by its name: {alerts}");
}
