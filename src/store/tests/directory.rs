//! What may be opened, and what is said about the rest.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use ciborium::Value;

use super::*;
use crate::store::{HelperJobRecord, HelperJobState, Old, OpenError, engine::Engine, engine::Rows, table};

fn error(dir: &Path) -> OpenError {
    Store::open(dir, Options::default()).err().expect("this must not open")
}

/// Changes the database behind the store's back.
fn tamper(dir: &Path, key: Vec<u8>, value: Vec<u8>) {
    let engine = Engine::open(&dir.join("tables"), 1 << 20).unwrap();
    engine.commit(&Rows::from([(key, Some(value))])).unwrap();
}

#[tokio::test]
async fn a_new_directory_is_for_its_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    open(&dir).close().await;
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn an_open_directory_is_locked_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(error(dir.path()), OpenError::Locked));
    store.close().await;
    // The handle still exists.
    open(dir.path()).close().await;
    assert!(store.write(|_| Ok(())).await.is_err());
    assert!(store.read(|view| view.collection(&task_id(1), &crate::model::CollectionJobId::new([0; 16]))).is_err());
}

#[tokio::test]
async fn a_directory_with_something_else_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letters.txt"), "dear reader").unwrap();
    assert!(matches!(error(dir.path()), OpenError::Foreign));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn the_root_of_a_file_system_counts_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    open(dir.path()).close().await;
}

#[tokio::test]
async fn a_directory_that_was_only_begun_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dapbox-data"), "").unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    store.close().await;
    // As if the power had failed just before the marker was written.
    fs::write(dir.path().join("dapbox-data"), "").unwrap();
    open(dir.path()).close().await;
    let store = open(dir.path());
    assert!(store.read(|view| Ok(view.task(&task_id(1)).is_some())).unwrap());
}

#[tokio::test]
async fn a_database_that_has_vanished_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    fs::remove_dir_all(dir.path().join("tables")).unwrap();
    assert!(matches!(error(dir.path()), OpenError::Damaged(_)));
}

#[tokio::test]
async fn a_newer_layout_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    let marker = dir.path().join("dapbox-data");
    let text = fs::read_to_string(&marker).unwrap().replace("version 1", "version 7");
    fs::write(&marker, &text).unwrap();
    let error = error(dir.path());
    assert!(matches!(error, OpenError::Newer { found: 7 }), "{error}");
    assert!(error.to_string().contains("newer release"), "{error}");
    assert_eq!(fs::read_to_string(&marker).unwrap(), text);
}

#[tokio::test]
async fn a_marker_that_makes_no_sense_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    for text in [&b"dapbox data directory"[..], b"dapbox data directory, version 0\n", b"\xff\xfe"] {
        fs::write(dir.path().join("dapbox-data"), text).unwrap();
        assert!(matches!(error(dir.path()), OpenError::Damaged(_)), "{text:?}");
    }
}

#[tokio::test]
async fn a_row_of_a_newer_version_is_named() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    let mut value = table::TASKS.value(&task(1)).unwrap();
    value[0] += 1;
    tamper(dir.path(), table::TASKS.key(&task_id(1)), value);
    assert!(matches!(error(dir.path()), OpenError::Newer { found: 3 }));
}

/// Until there was a second revision, what all parties know of a task stood beside what only one of them knows.
#[tokio::test]
async fn a_task_of_the_first_version_is_read() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    let now = Value::serialized(&task(1)).unwrap().into_map().unwrap();
    let is_public = |(name, _): &(Value, Value)| name.as_text() == Some("public");
    let (public, mut then): (Vec<_>, Vec<_>) = now.into_iter().partition(is_public);
    then.extend(public.into_iter().flat_map(|(_, public)| public.into_map().unwrap()));
    let is_new = |name: &Value| matches!(name.as_text(), Some("verify_key_id" | "info" | "task_interval"));
    then.retain(|(name, _)| !is_new(name));
    let mut row = vec![1];
    ciborium::into_writer(&Value::Map(then), &mut row).unwrap();
    tamper(dir.path(), table::TASKS.key(&task_id(1)), row);
    let store = open(dir.path());
    let found = store.read(|view| Ok(view.task(&task_id(1)).unwrap().task.clone())).unwrap();
    assert_eq!(*found, task(1));
    store.close().await;
}

/// A version 1 row made of one of today's layout but for some fields.
fn old_row(fields: Vec<(&str, Value)>) -> Vec<u8> {
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    let mut row = vec![1];
    ciborium::into_writer(&Value::Map(fields), &mut row).unwrap();
    row
}

/// Answers stood beside their jobs once, and whether there was none yet was to be seen from its length.
#[tokio::test]
async fn helper_jobs_of_the_first_version_are_read_and_their_answers_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    store.close().await;
    let cases = [
        (1, &b""[..], false, HelperJobState::Pending),
        (2, b"answer", false, HelperJobState::Answered(Bytes::from_static(b"answer"))),
        (3, b"", true, HelperJobState::Deleted),
    ];
    let id = |n| crate::model::AggregationJobId::new([n; 16]);
    for (n, answer, deleted, _) in &cases {
        let row = old_row(vec![
            ("request_hash", Value::Bytes(vec![*n; 32])),
            ("created", 77.into()),
            ("answer", Value::Bytes(answer.to_vec())),
            ("deleted", (*deleted).into()),
        ]);
        tamper(dir.path(), table::HELPER_JOBS.key(&(task_id(1), id(*n))), row);
    }
    let count = (task_id(1), 2, [9; 32]);
    tamper(dir.path(), table::GENERATIONS.key(&count), vec![1, 5]);
    let store = open(dir.path());
    let found = |n| store.read(|view| view.helper_job(&task_id(1), &id(n))).unwrap().unwrap();
    for (n, _, _, state) in &cases {
        let expected = HelperJobRecord { request_hash: [*n; 32], created: Time(77), state: state.clone() };
        assert_eq!(found(*n), expected);
    }
    assert_eq!(store.write(|tx| tx.generation(&task_id(1), 2, &[9; 32])).await.unwrap(), 5);
    let old = Old { now: Time(9), answers: Time(78), results: None, jobs: None, generations: Some(Time(0)) };
    sweep::sweep_task(&store, task_id(1), old).await;
    assert_eq!([1, 2, 3].map(|n| found(n).state), {
        let [one, _, three] = cases.map(|case| case.3);
        [one, HelperJobState::Forgotten, three]
    });
    assert_eq!(store.write(|tx| tx.generation(&task_id(1), 2, &[9; 32])).await.unwrap(), 5);
    // It counts from when it was first seen.
    sweep::sweep_task(&store, task_id(1), Old { generations: Some(Time(9)), ..old }).await;
    assert_eq!(store.write(|tx| tx.generation(&task_id(1), 2, &[9; 32])).await.unwrap(), 5);
    sweep::sweep_task(&store, task_id(1), Old { generations: Some(Time(10)), ..old }).await;
    assert_eq!(store.write(|tx| tx.generation(&task_id(1), 2, &[9; 32])).await.unwrap(), 0);
    store.close().await;
}

#[tokio::test]
async fn rows_that_make_no_sense_are_damage() {
    let row = |value: Vec<u8>| (table::TASKS.key(&task_id(1)), value);
    let good = table::TASKS.value(&task(1)).unwrap();
    let orphan = (table::COUNTERS.key(&task_id(9)), table::COUNTERS.value(&Default::default()).unwrap());
    let cut_off = row(good[..good.len() - 1].to_vec());
    let too_long = row([&good[..], &[0]].concat());
    let bad_key = (vec![table::TASKS.prefix, 1, 2, 3], good.clone());
    for (key, value) in [row(vec![]), row(vec![0]), cut_off, too_long, bad_key, orphan] {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).close().await;
        tamper(dir.path(), key, value);
        let error = error(dir.path());
        assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_is_garbage_is_an_error_and_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    store.close().await;
    let file = dir.path().join("tables/db");
    let mut bytes = fs::read(&file).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
    fs::write(&file, bytes).unwrap();
    let error = error(dir.path());
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_an_input_output_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(error(&file.join("below")), OpenError::Io(_)));
}
