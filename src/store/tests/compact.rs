//! Compaction preserves the content.

use std::ops::ControlFlow;

use serde_bytes::ByteBuf;

use super::*;
use crate::{
    CompactStage, OpenError, compact,
    compact::JOINED_BYTES,
    engine::{Engine, EngineError, Row, Rows},
    rebuild::{check_room, rebuild},
    swap::OldDatabase,
    table,
};

const CACHE: u64 = 64 << 20;

fn quiet(_: CompactStage, _: u64, _: u64) {}

fn all(engine: &Engine) -> Vec<Row> {
    let mut rows = Vec::new();
    let visit = |key: &[u8], value| {
        rows.push((key.to_vec(), value));
        Ok::<_, EngineError>(ControlFlow::Continue(()))
    };
    engine.scan_after(None, visit).unwrap();
    rows
}

/// The `n`th incompressible id of eight bytes.
fn id(n: u64) -> [u8; 8] {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

/// Writes rows of 300 ids, ten per commit, like a busy server.
fn fill(engine: &Engine, ids: u64) {
    let value = table::SEQUENCES.value(&0).unwrap();
    engine.commit(&Rows::from([(table::SEQUENCES.key(&table::NEXT_PACK), Some(value))])).unwrap();
    let numbers: Vec<u64> = (0..ids).collect();
    for (commit, numbers) in (0u64..).zip(numbers.chunks(3000)) {
        let row = |(n, ids): (u64, &[u64])| {
            let key = table::REPLAY.key(&(TaskId::new([7; 32]), 20_000 + commit * 3 / 1000, commit * 10 + n));
            let ids: Vec<u8> = ids.iter().flat_map(|n| id(*n)).collect();
            (key, Some(table::REPLAY.value(&ByteBuf::from(ids)).unwrap()))
        };
        engine.commit(&(0u64..).zip(numbers.chunks(300)).map(row).collect()).unwrap();
    }
}

fn ids_in(rows: &[Row]) -> Vec<u8> {
    let replay = rows.iter().filter(|row| row.0[0] == table::REPLAY.prefix);
    replay.flat_map(|row| table::REPLAY.read(&row.1).unwrap().into_vec()).collect()
}

/// Creates a directory with unmerged id rows.
fn filled(ids: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dapbox-data"), "dapbox data directory, version 2\n").unwrap();
    let engine = Engine::open(&dir.path().join("tables"), CACHE).unwrap();
    fill(&engine, ids);
    engine.close().unwrap();
    dir
}

/// Compacts, checks all ids, and returns the bytes per id before and after.
fn measure(ids: u64) -> (f64, f64) {
    let dir = filled(ids);
    let compacted = compact(dir.path(), CACHE, &mut quiet).unwrap();
    let engine = Engine::open(&dir.path().join("tables"), CACHE).unwrap();
    let rows = all(&engine);
    assert!(ids_in(&rows) == (0..ids).flat_map(id).collect::<Vec<_>>());
    assert!(rows.iter().all(|row| row.1.len() <= JOINED_BYTES + 4));
    assert_eq!(rows.len() as u64, compacted.rows);
    let per_id = |bytes: u64| bytes as f64 / ids as f64;
    (per_id(compacted.bytes_before), per_id(compacted.bytes_after))
}

/// The file consists of segments of 8 MiB.
#[test]
fn compacted_id_takes_under_12_bytes() {
    let (before, after) = measure(2_500_000);
    assert!(after < 12.0, "{after} bytes, and {before} before");
}

#[test]
#[ignore = "a measurement: run it with --nocapture"]
fn measures_bytes_per_id() {
    for ids in [1_000_000, 5_000_000, 10_000_000] {
        let (before, after) = measure(ids);
        eprintln!("{ids} ids: {before:.1} bytes each before, {after:.2} after");
    }
}

#[tokio::test]
async fn compaction_preserves_content() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    add_task(&store, 2).await;
    for n in 0..40 {
        let write = store.write(Point::Test, move |tx| {
            tx.append_report(&task_id(1), &report(n, 7, 90_000))?;
            // Alternates between two tasks and two days.
            let of_day = |day: u64| [(report_id(1000 + n), Time(day * 86_400))];
            tx.record_aggregated(&task_id(1 + n as u8 % 2), &of_day(u64::from(n / 2 % 2)))?;
            tx.count(&task_id(2), "n", 1)
        });
        write.await.unwrap();
    }
    store.close().await;
    let engine = Engine::open(&dir.path().join("tables"), CACHE).unwrap();
    let before = all(&engine);
    engine.close().unwrap();

    compact(dir.path(), CACHE, &mut quiet).unwrap();
    let engine = Engine::open(&dir.path().join("tables"), CACHE).unwrap();
    let after = all(&engine);
    engine.close().unwrap();
    let others =
        |rows: &[Row]| -> Vec<Row> { rows.iter().filter(|row| row.0[0] != table::REPLAY.prefix).cloned().collect() };
    assert!(others(&before) == others(&after));
    assert_eq!(before.len() - others(&before).len(), 40);
    assert_eq!(after.len() - others(&after).len(), 4, "one for each task and day");
    let store = open(dir.path());
    store
        .read(|view| {
            for n in 0..40u32 {
                let replay = &view.task(&task_id(1 + n as u8 % 2)).unwrap().replay;
                assert!(replay.contains(&report_id(1000 + n)));
            }
            Ok(())
        })
        .unwrap();
    // New ids do not overwrite existing rows.
    store
        .write(Point::Test, |tx| tx.record_aggregated(&task_id(1), &[(ReportId::new([9; 16]), Time(0))]))
        .await
        .unwrap();
    store.close().await;
    let store = open(dir.path());
    assert_eq!(store.read(|view| Ok(view.task(&task_id(1)).unwrap().replay.len())).unwrap(), 21);
}

#[tokio::test]
async fn rejects_directory_in_use_or_foreign() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(compact(dir.path(), CACHE, &mut quiet), Err(OpenError::NoDataDirectory)));
    let store = open(dir.path());
    assert!(matches!(compact(dir.path(), CACHE, &mut quiet), Err(OpenError::Locked)));
    store.close().await;
    compact(dir.path(), CACHE, &mut quiet).unwrap();
}

#[test]
fn failed_rebuild_keeps_the_original() {
    let dir = filled(3000);
    let tables = dir.path().join("tables");
    let from = Engine::open(&tables, CACHE).unwrap();
    let before = all(&from);
    let mut rows = 0;
    let fails = |row: Option<Row>, out: &mut Vec<Row>| {
        rows += 1;
        out.extend(row);
        if rows < 5 { Ok(()) } else { Err(EngineError::Damaged("on purpose".into())) }
    };
    let done = rebuild(dir.path(), CACHE, from, OldDatabase::Delete, fails, &mut quiet);
    assert!(matches!(done, Err(EngineError::Damaged(_))), "{done:?}");
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let engine = Engine::open(&tables, CACHE).unwrap();
    assert!(all(&engine) == before);
}

#[test]
fn rebuild_maps_rows() {
    let dir = filled(3000);
    let tables = dir.path().join("tables");
    let from = Engine::open(&tables, CACHE).unwrap();
    let before = all(&from);
    let mut number = 0;
    let map = |row: Option<Row>, out: &mut Vec<Row>| {
        number += 1;
        match row {
            Some((key, value)) if number % 2 == 0 => out.push((key, [value, vec![1]].concat())),
            Some(_) => {}
            None => out.push((vec![0], vec![7; 200_000])),
        }
        Ok::<_, EngineError>(())
    };
    rebuild(dir.path(), CACHE, from, OldDatabase::Keep("tables.kept"), map, &mut quiet).unwrap();
    let changed = before.iter().skip(1).step_by(2).map(|row| (row.0.clone(), [&row.1[..], &[1]].concat()));
    let expected: Vec<Row> = std::iter::once((vec![0], vec![7; 200_000])).chain(changed).collect();
    assert!(all(&Engine::open(&tables, CACHE).unwrap()) == expected);
    assert!(all(&Engine::open(&dir.path().join("tables.kept"), CACHE).unwrap()) == before);
}

#[test]
fn rejects_rebuild_without_disk_space() {
    let dir = tempfile::tempdir().unwrap();
    check_room(dir.path(), 1 << 20).unwrap();
    let refused = check_room(dir.path(), 1 << 60).unwrap_err().to_string();
    assert!(refused.contains("MiB of free space"), "{refused}");
}
