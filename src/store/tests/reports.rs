//! Uploaded reports: packs, positions, picking and deletion.

use super::*;
use crate::{
    LeaderJobRecord, LeaderJobState, Pick, Picked, ReportEntry, ReportRef, WaitingReports,
    engine::Engine,
    table::{self, Table},
};
use dapbox_protocol::model::{AggregationJobId, Interval, PartialBatchSelector};

async fn append(store: &Store, reports: Vec<Report>) -> Vec<ReportRef> {
    let write = move |tx: &mut crate::Tx<'_>| {
        reports.iter().map(|report| tx.append_report(&task_id(1), report)).collect::<Result<Vec<_>, _>>()
    };
    store.write(Point::Test, write).await.unwrap()
}

async fn delete(store: &Store, reports: Vec<(ReportId, ReportRef)>) {
    store.write(Point::Test, move |tx| tx.delete_reports(&task_id(1), &reports)).await.unwrap();
}

fn load(store: &Store, positions: &[ReportRef]) -> Vec<Report> {
    store.read(|view| view.load_reports(&task_id(1), positions)).unwrap()
}

fn waiting<T>(store: &Store, f: impl FnOnce(&WaitingReports) -> T) -> T {
    store.read(|view| Ok(f(&view.task(&task_id(1)).unwrap().waiting))).unwrap()
}

/// Counts the rows of a table on disk. The store must be closed.
fn rows<K, V>(dir: &Path, table: &Table<K, V>) -> usize {
    let engine = Engine::open(&dir.join("tables"), 1 << 20).unwrap();
    let mut count = 0;
    let visit = |_: &[u8]| -> Result<(), crate::engine::EngineError> {
        count += 1;
        Ok(())
    };
    engine.keys(&[table.prefix], visit).unwrap();
    count
}

#[tokio::test]
async fn group_shares_packs_except_for_long_reports() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let reports: Vec<_> = (0..4).map(|n| report(n, 5, 100)).chain([report(4, 5, 300_000), report(5, 5, 100)]).collect();
    let positions = append(&store, reports.clone()).await;
    let packs: Vec<u64> = positions.iter().map(|at| at.pack).collect();
    assert_eq!(packs, [0, 0, 0, 0, 1, 2]);
    assert!(positions.is_sorted());
    assert_eq!(load(&store, &positions), reports);
    let backwards: Vec<_> = positions.iter().rev().copied().collect();
    assert!(load(&store, &backwards).iter().eq(reports.iter().rev()));
    drop(store);
    let store = open(dir.path());
    assert_eq!(load(&store, &positions), reports);
}

#[tokio::test]
async fn keeps_pack_until_its_last_report_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let positions = append(&store, (0..20).map(|n| report(n, 5, 100)).collect()).await;
    let of = |n: u32| (report_id(n), positions[n as usize]);
    delete(&store, (0..19).map(of).collect()).await;
    drop(store);
    assert_eq!((rows(dir.path(), &table::PACKS), rows(dir.path(), &table::DEAD)), (1, 1));
    let store = open(dir.path());
    assert!(waiting(&store, |w| w.len() == 1 && w.contains(&report_id(19)) && !w.contains(&report_id(18))));
    assert!(store.read(|view| view.load_reports(&task_id(1), &positions[..1])).is_err());
    assert_eq!(load(&store, &positions[19..]), [report(19, 5, 100)]);
    // Deleting again changes nothing.
    delete(&store, vec![of(3), of(19)]).await;
    drop(store);
    assert_eq!((rows(dir.path(), &table::PACKS), rows(dir.path(), &table::DEAD)), (0, 0));
    assert!(waiting(&open(dir.path()), WaitingReports::is_empty));
}

#[tokio::test]
async fn positions_only_increase() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let positions = append(&store, vec![report(1, 5, 10)]).await;
    delete(&store, vec![(report_id(1), positions[0])]).await;
    let position = store.write(Point::Test, |tx| Ok(tx.next_position())).await.unwrap();
    assert!(positions[0] < position);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.write(Point::Test, |tx| Ok(tx.next_position())).await.unwrap(), position);
    assert!(append(&store, vec![report(2, 5, 10)]).await[0] >= position);
}

#[tokio::test]
async fn position_separates_reports_of_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    let write = |tx: &mut crate::Tx<'_>| {
        let before = tx.append_report(&task_id(1), &report(1, 5, 10))?;
        let position = tx.next_position();
        let after = tx.append_report(&task_id(1), &report(2, 5, 10))?;
        tx.delete_reports(&task_id(1), &[(report_id(2), after)])?;
        Ok((before, position, after))
    };
    let (before, position, after) = store.write(Point::Test, write).await.unwrap();
    assert!(before < position && position <= after);
    assert!(waiting(&store, |w| w.has_before(interval(0, 10), position) && w.len() == 1));
    assert_eq!(load(&store, &[before]), [report(1, 5, 10)]);
    assert!(store.read(|view| view.load_reports(&task_id(1), &[after])).is_err());
    drop(store);
    assert_eq!((rows(dir.path(), &table::PACKS), rows(dir.path(), &table::DEAD)), (1, 0));
}

#[tokio::test]
async fn does_not_pick_assigned_reports_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    append(&store, (0..10).map(|n| report(n, 5, 10)).collect()).await;
    let job = AggregationJobId::new([1; 16]);
    let write = move |tx: &mut crate::Tx<'_>| {
        let picked = tx.task_mut(&task_id(1)).unwrap().waiting.pick(Time(0), 4, |_| Pick::Take);
        let reports = picked.taken.iter().map(|entry| entry.at).collect();
        let (batch, state) = (PartialBatchSelector::TimeInterval, LeaderJobState::Picked);
        tx.put_leader_job(
            &task_id(1),
            job,
            LeaderJobRecord { batch, now: Time(0), created: Time(0), reports, state, verify_key_id: None },
        )
    };
    store.write(Point::Test, write).await.unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(waiting(&store, |w| w.len() == 6 && (0..10).all(|n| w.contains(&report_id(n)))));
    let dissolve = move |tx: &mut crate::Tx<'_>| {
        let reports = tx.task(&task_id(1)).unwrap().leader_jobs[&job].reports.clone();
        let entry = |(n, at)| ReportEntry { id: report_id(n), time: Time(5), at };
        let entries: Vec<ReportEntry> = (0..).zip(reports).map(entry).collect();
        tx.task_mut(&task_id(1)).unwrap().waiting.defer(&entries, Time(0));
        tx.end_leader_job(&task_id(1), &job)
    };
    store.write(Point::Test, dissolve).await.unwrap();
    assert!(waiting(&store, |w| w.len() == 10));
    drop(store);
    assert!(waiting(&open(dir.path()), |w| w.len() == 10));
}

/// Creates an index of reports with these times, in upload order, one per pack.
fn index(times: &[u64]) -> WaitingReports {
    let mut waiting = WaitingReports::new(Duration(PRECISION), Duration(PRECISION));
    for (n, time) in times.iter().enumerate() {
        waiting.append(n as u64, report_id(n as u32), Time(*time));
    }
    waiting
}

fn packs(entries: &[ReportEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.at.pack).collect()
}

fn take(waiting: &mut WaitingReports, now: u64, limit: usize) -> Vec<ReportEntry> {
    waiting.pick(Time(now), limit, |_| Pick::Take).taken
}

fn interval(start: u64, duration: u64) -> Interval {
    Interval::new(Time(start), Duration(duration)).unwrap()
}

#[test]
fn picks_by_bucket_then_by_upload_order() {
    let mut waiting = index(&[250, 10, 220, 20, 150]);
    assert_eq!(packs(&take(&mut waiting, 0, 4)), [1, 3, 4, 0]);
    assert_eq!(packs(&take(&mut waiting, 0, 4)), [2]);
    assert_eq!(packs(&take(&mut waiting, 0, 4)), [0u64; 0]);
    assert!(waiting.is_empty() && (0..5).all(|n| waiting.contains(&report_id(n))));
}

#[test]
fn picking_stops_at_the_limit() {
    let mut waiting = index(&[5; 1000]);
    let mut offered = 0;
    let picked = waiting.pick(Time(0), 10, |_| {
        offered += 1;
        Pick::Take
    });
    assert_eq!((picked.taken.len(), offered, waiting.len()), (10, 10, 990));
}

#[test]
fn filter_decides_what_is_picked() {
    let mut waiting = index(&[1, 2, 3, 106]);
    let decide = |entry: &ReportEntry| match entry.at.pack {
        0 => Pick::Skip,
        1 => Pick::Drop,
        _ => Pick::Take,
    };
    let Picked { taken, dropped } = waiting.pick(Time(0), 10, decide);
    assert_eq!((packs(&taken), packs(&dropped)), (vec![2, 3], vec![1]));
    assert!(dropped.iter().all(|entry| waiting.remove(&entry.id, entry.at) && !waiting.contains(&entry.id)));
    assert_eq!(packs(&take(&mut waiting, 0, 10)), [0]);
}

#[test]
fn deferred_reports_return_to_the_front() {
    let mut waiting = index(&[1, 2, 3, 4]);
    let mut taken = take(&mut waiting, 0, 3);
    taken.reverse();
    waiting.defer(&taken, Time(0));
    waiting.defer(&taken, Time(0));
    assert_eq!(waiting.len(), 4);
    assert_eq!(packs(&take(&mut waiting, 0, 10)), [0, 1, 2, 3]);
}

#[test]
fn deferred_reports_become_ready_at_their_time() {
    let mut waiting = index(&[1, 2, 3]);
    let taken = take(&mut waiting, 0, 2);
    waiting.defer(&taken, Time(50));
    assert_eq!(waiting.len(), 3);
    assert!(waiting.has_before(interval(0, 100), ReportRef { pack: 1, slot: 0 }));
    assert_eq!(packs(&take(&mut waiting, 49, 10)), [2]);
    assert!(waiting.remove(&taken[0].id, taken[0].at));
    assert_eq!(packs(&take(&mut waiting, 50, 10)), [1]);
    assert!(waiting.is_empty());
}

#[test]
fn finds_reports_before_a_position() {
    let mut waiting = index(&[150, 50, 250]);
    let at = |pack| ReportRef { pack, slot: 0 };
    assert!(!waiting.has_before(interval(0, 1 << 63), at(0)));
    assert!(waiting.has_before(interval(0, 1 << 63), at(1)));
    assert!(!waiting.has_before(interval(0, 100), at(1)));
    assert!(waiting.has_before(interval(0, 100), at(2)));
    assert!(!waiting.has_before(interval(200, 100), at(2)));
    // Unaligned and empty intervals.
    assert!(waiting.has_before(interval(20, 31), at(2)) && !waiting.has_before(interval(20, 30), at(2)));
    assert!(!waiting.has_before(interval(50, 0), at(2)));
    assert!(!waiting.has_assigned(interval(0, 1 << 63)));
    take(&mut waiting, 0, 1);
    assert!(!waiting.has_before(interval(0, 100), at(2)));
    assert!(waiting.has_assigned(interval(0, 100)));
    assert!(!waiting.has_assigned(interval(100, 100)));
}
