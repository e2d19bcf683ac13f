//! Pages of a server that collects, in a real browser. They show what the control socket says, and follow it.

use dapbox::{
    config::OptionalAddress,
    model::{BatchMode, MaxMeasurement, Revision, VdafConfig},
    vdaf::{AggregateResult, Measurement},
};
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    common::{Node, Pair, chromium::Chromium, collecting::every},
    results_pages::{HOUR, collecting_node, hours_ago, quick},
};

/// A new result appears on an open page. All numbers are those of the control socket, also without scripts and for the
/// holder of a link.
#[rstest]
#[case::count(VdafConfig::Prio3Count, Measurement::Flag(true), None)]
#[case::sum(VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(12) }, Measurement::Number(1_234), None)]
#[case::histogram(VdafConfig::Prio3Histogram { length: 5, chunk_length: 2 }, Measurement::Number(3), Some("1"))]
#[case::flags(
    VdafConfig::Prio3MultihotCountVec { length: 3, max_weight: 3, chunk_length: 2 },
    Measurement::Vector(vec![1, 0, 1]),
    None
)]
#[case::vector(
    VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(10), length: 4, chunk_length: 2 },
    Measurement::Vector(vec![1_000, 0, 7, 500]),
    None
)]
#[tokio::test(flavor = "multi_thread")]
async fn page_follows_its_collector(
    #[case] vdaf: VdafConfig,
    #[case] measurement: Measurement,
    #[case] noise: Option<&str>,
) {
    let Some(mut browser) = Chromium::installed() else { return };
    let change = |task: &mut dapbox::model::Task| {
        task.public.noise = noise.map(|epsilon| epsilon.parse().unwrap());
        // A window is collected when it has all its reports.
        task.public.min_batch_size = 3;
    };
    let pair = Pair::start_with(Revision::Dap18, vdaf, BatchMode::TimeInterval, quick, change).await;
    let mut node = collecting_node().await;
    let id = pair.parties.id();
    let upload = async |hours: u64, reports: usize| {
        for _ in 0..reports {
            pair.parties.client().upload(measurement.clone(), Some(hours_ago(hours))).await.unwrap();
        }
    };
    upload(4, 5).await;
    node.collect(&pair.parties.collector_record(every(HOUR, hours_ago(4)))).await;
    until_collected(&node, 1, &pair).await;

    let url = format!("http://{}/", node.server().results_address().unwrap());
    browser.open(&url);
    let task = browser.value("document.querySelector('.task a').href");
    browser.open(task.as_str().unwrap());
    browser.until("document.body.dataset.link === 'live'");
    browser.value("window.isTheSame = true; document.querySelector('#facts').open = true");
    browser.value("document.querySelector('#facts summary').focus()");
    assert_eq!(shown(&mut browser), facts(&node, &pair).await);

    upload(3, 3).await;
    until_collected(&node, 2, &pair).await;
    // The page fetches itself when it becomes visible, and once a minute.
    browser.value("document.dispatchEvent(new Event('visibilitychange'))");
    browser.until("document.querySelectorAll('#ledger .s-collected').length === 2");
    assert_eq!(browser.value("window.isTheSame"), true, "it was loaded again");
    assert_eq!(browser.value("document.activeElement.matches('#facts summary')"), true);
    assert_eq!(browser.value("document.querySelector('#facts').open"), true, "the reader opened it");
    let facts = facts(&node, &pair).await;
    assert_eq!(shown(&mut browser), facts);
    assert_eq!(browser.complaints(&url), Vec::<Value>::new());

    browser.scripts(false);
    browser.open(&format!("{url}tasks/{id}"));
    assert_eq!(shown(&mut browser), facts);
    browser.scripts(true);

    let link = node.link(id, None).await;
    browser.open(&format!("{url}{}", link.path.trim_start_matches('/')));
    assert_eq!(shown(&mut browser), facts);
    let other = "[...document.links].map((link) => link.pathname).filter((path) => !path.startsWith('/results/'))";
    assert_eq!(browser.value(other), json!([]), "a link that its holder cannot open");
    assert_eq!(browser.complaints(&url), Vec::<Value>::new());
    gone_and_back(&mut browser, &mut node, &url).await;
    node.stop().await;
    pair.stop().await;
}

/// The page says when its data is stale, and recovers.
async fn gone_and_back(browser: &mut Chromium, node: &mut Node, url: &str) {
    let look = "document.dispatchEvent(new Event('visibilitychange'))";
    browser.open(url);
    browser.until("document.body.dataset.link === 'live'");
    node.config.results.listen = OptionalAddress(node.server().results_address());
    node.stop().await;
    browser.value(look);
    browser.until("document.body.dataset.link === 'gone'");
    assert!(browser.text().contains("Not connected since"));
    assert_eq!(browser.audit(800), json!([]));
    node.resume().await;
    browser.value(look);
    browser.until("document.body.dataset.link === 'live'");
}

async fn until_collected(node: &Node, number: usize, pair: &Pair) {
    let collected = |windows: &[dapbox::views::results::WindowStatus]| {
        windows.iter().filter(|window| window.state == "collected").count() == number
    };
    node.until_windows(&pair.parties.id(), collected).await;
}

/// The numbers of reports by window, and the numbers of the results: of each window, or added up.
async fn facts(node: &Node, pair: &Pair) -> Value {
    let results = node.results(&pair.parties.id()).await;
    let reports: Vec<_> = results.values().map(|(reports, _)| reports.to_string()).collect();
    let mut numbers: Vec<String> = Vec::new();
    let mut sums: Vec<i128> = Vec::new();
    for (_, result) in results.values() {
        let values = match result {
            AggregateResult::Number(number) => {
                numbers.push(number.to_string());
                continue;
            }
            AggregateResult::NoisyNumber(number) => {
                numbers.push(number.to_string());
                continue;
            }
            AggregateResult::Vector(values) => values.iter().map(|value| *value as i128).collect(),
            AggregateResult::Noisy(values) => values.clone(),
        };
        sums.resize(values.len(), 0);
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    numbers.extend(sums.iter().map(i128::to_string));
    json!({ "reports": reports, "numbers": numbers })
}

/// The same, as the tables of the page show them.
fn shown(browser: &mut Chromium) -> Value {
    browser.value(
        "(() => {
            const cells = (rows) => [...document.querySelectorAll(rows)].map((row) => [...row.cells]);
            const digits = (cell) => cell.textContent.replaceAll(',', '').replace('−', '-');
            const collected = cells('#ledger tbody tr').filter(([, state]) => state.querySelector('.s-collected'));
            const heads = cells('#distribution thead tr')[0]?.map((cell) => cell.textContent) ?? [];
            const column = heads.findIndex((head) => head === 'Reports' || head === 'Sum');
            const values = cells('#amount tbody tr').filter((row) => !row[1].matches('.gap')).map((row) => row[2]);
            const sums = cells('#distribution tbody tr').map((row) => row[column]);
            return { reports: collected.map((row) => digits(row[2])).reverse(), numbers: [...values, ...sums].map(digits) };
        })()",
    )
}
