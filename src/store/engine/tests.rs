//! The preconditions of durability: no blob files, short values, no partial snapshot.

use super::*;

fn row(key: &[u8], value: Option<Vec<u8>>) -> Rows {
    Rows::from([(key.to_vec(), value)])
}

fn raw_rows(engine: &Engine) -> usize {
    engine.db.iter().keys().filter(|key| key.as_deref().unwrap() != LEDGER).count()
}

#[test]
fn splits_long_values_and_deletes_their_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), 1 << 20).unwrap();
    for len in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES, 5 * PIECE_BYTES - 1, 10] {
        let value: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        engine.commit(&row(b"key", Some(value.clone()))).unwrap();
        assert_eq!(engine.get(b"key").unwrap(), Some(value));
        assert_eq!(raw_rows(&engine), len.div_ceil(PIECE_BYTES).max(1), "{len}");
        assert!(engine.db.iter().values().all(|v| v.unwrap().len() <= PIECE_BYTES + 4));
    }
    engine.commit(&row(b"key", Some(vec![1; 3 * PIECE_BYTES]))).unwrap();
    engine.commit(&row(b"key", None)).unwrap();
    assert_eq!((engine.get(b"key").unwrap(), raw_rows(&engine)), (None, 0));
}

#[test]
fn scan_returns_whole_values_under_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), 1 << 20).unwrap();
    let long = vec![7; 3 * PIECE_BYTES];
    let rows = Rows::from([(vec![1, 1], Some(long.clone())), (vec![1, 2], Some(vec![])), (vec![2, 1], Some(vec![9]))]);
    engine.commit(&rows).unwrap();
    let mut seen = Vec::new();
    let visit = |key: &[u8], value| -> Result<(), EngineError> {
        seen.push((key.to_vec(), value));
        Ok(())
    };
    engine.scan(&[1], visit).unwrap();
    assert_eq!(seen, [(vec![1, 1], long), (vec![1, 2], vec![])]);
}

#[test]
fn import_leaves_no_dead_space() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), 1 << 20).unwrap();
    let rows: Vec<Row> = (0..1000u32)
        .map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; if n % 100 == 7 { 3 * PIECE_BYTES } else { 60_000 }]))
        .collect();
    engine.import(&rows).unwrap();
    engine.close().unwrap();
    let engine = Engine::open(dir.path(), 1 << 20).unwrap();
    let mut seen = Vec::new();
    let visit = |key: &[u8], value| -> Result<_, EngineError> {
        seen.push((key.to_vec(), value));
        Ok(if seen.len() < 900 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    };
    engine.scan_after(Some(&49u32.to_be_bytes()), visit).unwrap();
    assert!(seen == rows[50..950]);
    let bytes: usize = rows.iter().map(|row| row.1.len()).sum();
    let segments = bytes.div_ceil(SEGMENT_BYTES) + 1;
    assert!(fs::metadata(dir.path().join("db")).unwrap().len() <= (segments * SEGMENT_BYTES) as u64);
    // Imported rows can be changed like others.
    engine.commit(&row(&7u32.to_be_bytes(), None)).unwrap();
    assert_eq!(raw_rows(&engine), 999 + 2 * 9);
}

#[test]
fn writes_no_blob_files() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), 1 << 20).unwrap();
    for round in 0..4u8 {
        let rows = (0..40u8).map(|n| (vec![1, n, round / 2], Some(vec![n ^ round; 3 * PIECE_BYTES])));
        engine.commit(&rows.collect()).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn recognizes_database_threads_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), 1 << 20).unwrap();
    engine.commit(&row(b"key", Some(vec![1]))).unwrap();
    let names: Vec<_> = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("comm")).ok())
        .filter(|name| is_own_thread(name.trim_end()))
        .collect();
    assert!(names.iter().any(|name| name.starts_with("log")), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("sled")), "{names:?}");
    assert!(!is_own_thread("store") && !is_own_thread("acknowledged"));
}

#[test]
fn reports_missing_piece_as_damage() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), 1 << 20).unwrap();
    engine.commit(&row(b"key", Some(vec![1; 3 * PIECE_BYTES]))).unwrap();
    engine.db.remove(piece_key(b"key", 1)).unwrap();
    assert!(matches!(engine.get(b"key"), Err(EngineError::Damaged(_))));
}

#[test]
fn opens_after_interrupted_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), 1 << 20).unwrap();
    engine.commit(&row(b"key", Some(vec![1]))).unwrap();
    drop(engine);
    let leftover = dir.path().join("snap.0000000000000FFF.generating");
    fs::write(&leftover, b"half a snap").unwrap();
    let engine = Engine::open(dir.path(), 1 << 20).unwrap();
    assert!(!leftover.exists());
    assert_eq!(engine.get(b"key").unwrap(), Some(vec![1]));
}
