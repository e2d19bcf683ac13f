//! Pages and files of results, of tasks with real and awkward data. Pages are written as files if `DAPBOX_GALLERY` names a directory.

mod browser;
mod files;
mod gallery;

use std::{fs, path::PathBuf};

use dapbox::{
    model::TaskId,
    pages::{Addresses, Selection, TaskView, overview, policy, task},
    results::{LossReason, WindowState},
};
use gallery::{addresses, bounded_vectors, histogram, huge, lose, noisy, pages, sums};

#[test]
fn pages_need_nothing_else_and_are_valid() {
    for (name, view, selection) in pages() {
        let page = task::render(&view, &selection, &addresses());
        assert!(!page.contains(" style="), "{name}: the policy forbids style attributes");
        assert!(!page.contains("<script>alert"), "{name}: labels are escaped");
        let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "{name}: ids are unique: {ids:?}");
        for id in page.split("aria-labelledby=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(id.split(' ').all(|id| ids.binary_search(&id).is_ok()), "{name}: {id} exists");
        }
        for address in page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let is_local = address.starts_with('/') || address.starts_with('?') || address.starts_with('#');
            assert!(is_local || address.starts_with("data:image/"), "{name}: {address} is on the same host");
        }
    }
}

#[test]
fn holders_of_links_learn_no_details_of_failures() {
    let mut view = sums(3);
    let detail = "unauthorized: token 12 is revoked".to_owned();
    lose(&mut view, 1..2, &WindowState::Lost { reason: LossReason::Rejected, detail: detail.clone() });
    let page = task::render(&view, &Selection::default(), &addresses());
    assert!(page.contains(&detail));
    let link = Addresses { overview: None, task: "/results/abc".to_owned() };
    let page = task::render(&view, &Selection::default(), &link);
    assert!(!page.contains("token 12"));
    assert!(page.contains(LossReason::Rejected.text()));
}

#[test]
fn pages_show_exact_numbers() {
    let page = task::render(&huge(), &Selection::default(), &addresses());
    assert!(page.contains("17,014,118,346,046,923,173,168,730,371,588,410,572"));
    let page = task::render(&noisy(), &Selection { window: Some(20), ..Selection::default() }, &addresses());
    assert!(page.contains("−6"), "negative numbers stay negative");
}

#[test]
fn page_states_bound_of_sum() {
    let page = task::render(&bounded_vectors(), &Selection::default(), &addresses());
    assert!(page.contains("Sum of vectors of 9 numbers, at most 1,000 in total"));
    assert!(page.contains("Mean per report at each position"));
}

/// Run with `cargo test --release --test operations -- --ignored --nocapture measure`.
#[test]
#[ignore = "measures time, for people"]
fn measure_five_years_of_a_histogram() {
    let view = histogram(100, 1826);
    let mut times: Vec<_> = (0..20)
        .map(|_| {
            let start = std::time::Instant::now();
            let size = task::render(&view, &Selection::default(), &addresses()).len();
            (start.elapsed(), size)
        })
        .collect();
    times.sort();
    eprintln!("task page: median {:?}, {} bytes", times[10].0, times[10].1);
    let view = histogram(4096, 1826);
    let start = std::time::Instant::now();
    let size = task::render(&view, &Selection::default(), &addresses()).len();
    eprintln!("task page of 4,096 bins: {:?}, {size} bytes", start.elapsed());
    let views: Vec<_> = (0..200).map(|_| histogram(30, 60)).collect();
    let start = std::time::Instant::now();
    let size = overview::render("", &views, &|_| addresses().task).len();
    eprintln!("overview of 200 tasks: {:?}, {size} bytes", start.elapsed());
}

#[test]
fn renders_all_kinds_of_pages() {
    let directory = std::env::var_os("DAPBOX_GALLERY").map(PathBuf::from);
    let mut sizes = String::new();
    for (name, view, selection) in pages() {
        let page = task::render(&view, &selection, &addresses());
        sizes += &format!("{name}: {} bytes\n", page.len());
        assert!(!page.contains("NaN"), "{name}");
        if let Some(directory) = &directory {
            fs::write(directory.join(format!("{name}.html")), page).unwrap();
            fs::write(directory.join("sizes.txt"), &sizes).unwrap();
        }
    }
    let too_large = |line: &str| line.split(' ').nth(1).unwrap().parse::<usize>().unwrap() > 300_000;
    assert!(!sizes.lines().any(too_large), "{sizes}");
    let numbered = pages().into_iter().enumerate();
    let views: Vec<_> =
        numbered.map(|(at, (_, view, _))| TaskView { id: TaskId::new([at as u8; 32]), ..view }).collect();
    let page = overview::render("collector.example.org", &views, &|_| addresses().task);
    if let Some(directory) = &directory {
        fs::write(directory.join("overview.html"), page).unwrap();
        fs::write(directory.join("policy.txt"), policy()).unwrap();
    }
}
