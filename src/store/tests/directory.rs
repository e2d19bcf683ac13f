//! Opening directories, and the errors of opening.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ciborium::Value;

use super::*;
use crate::{
    BackupOptions, HelperJobRecord, HelperJobState, KeyError, KeyRecord, KeySource, KeyStage, OpenError, SweepCutoffs,
    Tombstone, check_user, compact,
    engine::{Engine, Rows},
    table,
    vault::Vault,
};
use dapbox_protocol::model::Epsilon;

fn error(dir: &Path) -> OpenError {
    Store::open(dir, Options::default()).err().expect("the directory must not open")
}

/// Writes a row behind the back of the store.
fn tamper(dir: &Path, key: Vec<u8>, value: Vec<u8>) {
    let engine = Engine::open(&dir.join("tables"), 1 << 20).unwrap();
    engine.commit(&Rows::from([(key, Some(value))])).unwrap();
}

#[tokio::test]
async fn creates_directory_with_mode_0700() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    open(&dir).close().await;
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
}

/// Only root can change the owner; other users skip this test.
#[tokio::test]
async fn root_rejects_directory_of_another_user() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    if chown(dir.path(), Some(4711), Some(4711)).is_err() {
        return;
    }
    assert!(matches!(check_user(dir.path()), Err(OpenError::ForeignOwner(4711))));
    assert!(matches!(compact(dir.path(), 1 << 20, &mut |_, _, _| {}), Err(OpenError::ForeignOwner(4711))));
    open(dir.path()).close().await;
}

#[tokio::test]
async fn locks_directory_until_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(error(dir.path()), OpenError::Locked));
    store.close().await;
    // Closing unlocks although the handle exists.
    open(dir.path()).close().await;
    assert!(store.write(Point::Test, |_| Ok(())).await.is_err());
    assert!(
        store
            .read(|view| view.collection(&task_id(1), &dapbox_protocol::model::CollectionJobId::new([0; 16])))
            .is_err()
    );
}

#[tokio::test]
async fn rejects_foreign_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letters.txt"), "dear reader").unwrap();
    assert!(matches!(error(dir.path()), OpenError::Foreign));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn accepts_root_of_a_file_system() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    open(dir.path()).close().await;
}

#[tokio::test]
async fn completes_interrupted_creation() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dapbox-data"), "").unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    store.close().await;
    // The power fails just before the marker is written.
    fs::write(dir.path().join("dapbox-data"), "").unwrap();
    open(dir.path()).close().await;
    let store = open(dir.path());
    assert!(store.read(|view| Ok(view.task(&task_id(1)).is_some())).unwrap());
}

#[tokio::test]
async fn reports_missing_database_as_damage() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    fs::remove_dir_all(dir.path().join("tables")).unwrap();
    assert!(matches!(error(dir.path()), OpenError::Damaged(_)));
}

#[tokio::test]
async fn leaves_newer_layout_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    let marker = dir.path().join("dapbox-data");
    let text = fs::read_to_string(&marker).unwrap().replace("version 2", "version 7");
    fs::write(&marker, &text).unwrap();
    let error = error(dir.path());
    assert!(matches!(error, OpenError::Newer { found: 7 }), "{error}");
    assert!(error.to_string().contains("newer release"), "{error}");
    assert_eq!(fs::read_to_string(&marker).unwrap(), text);
}

#[tokio::test]
async fn reports_invalid_marker_as_damage() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    for text in [&b"dapbox data directory"[..], b"dapbox data directory, version 0\n", b"\xff\xfe"] {
        fs::write(dir.path().join("dapbox-data"), text).unwrap();
        assert!(matches!(error(dir.path()), OpenError::Damaged(_)), "{text:?}");
    }
}

#[tokio::test]
async fn names_row_of_newer_version() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    let mut value = table::COUNTERS.value(&Default::default()).unwrap();
    value[0] += 1;
    tamper(dir.path(), table::COUNTERS.key(&task_id(1)), value);
    assert!(matches!(error(dir.path()), OpenError::Newer { found: 2 }));
}

/// Older programs would ignore the noise of a task.
#[tokio::test]
async fn marks_tasks_that_older_programs_must_refuse() {
    let windows = BatchMode::FixedSize { max_batch_size: None, batch_time_window_size: Some(Duration(PRECISION)) };
    type Change = fn(&mut Task, BatchMode);
    let changes: [(u8, Change); 3] = [
        (2, |_, _| {}),
        (3, |task, _| task.public.noise = Epsilon::new(2, 3)),
        (3, |task, windows| task.public.batch_mode = windows),
    ];
    for (version, change) in changes {
        let mut new = task(1);
        change(&mut new, windows);
        assert_eq!(table::TASKS.0.value(&new).unwrap()[0], version);
        let dir = tempfile::tempdir().unwrap();
        let (store, added) = (open(dir.path()), new.clone());
        store.write(Point::Test, move |tx| tx.add_task(added)).await.unwrap();
        store.close().await;
        let store = open(dir.path());
        let read = store.read(|view| Ok(view.task(&task_id(1)).map(|state| (*state.task).clone()))).unwrap();
        assert_eq!(read, Some(new));
        store.close().await;
    }
}

/// Creates a directory of version 1: secrets in plain text, whole ids, and public task parameters beside the private
/// ones.
fn of_version_1(dir: &Path) {
    let now = Value::serialized(&task(1)).unwrap().into_map().unwrap();
    let is_public = |(name, _): &(Value, Value)| name.as_text() == Some("public");
    let (public, mut then): (Vec<_>, Vec<_>) = now.into_iter().partition(is_public);
    then.extend(public.into_iter().flat_map(|(_, public)| public.into_map().unwrap()));
    let is_new = |name: &Value| matches!(name.as_text(), Some("verify_key_id" | "info" | "task_interval"));
    then.retain(|(name, _)| !is_new(name));
    let old_row = |value: &Value| {
        let mut row = vec![1];
        ciborium::into_writer(value, &mut row).unwrap();
        row
    };
    let ids = [report_id(1), report_id(2)].map(|id| *id.as_bytes()).concat();
    let rows = [
        (table::SEQUENCES.key(&table::NEXT_PACK), table::SEQUENCES.value(&7).unwrap()),
        (table::TASKS.key(&task_id(1)), old_row(&Value::Map(then))),
        (table::KEYS.key(&3), key_of_version_1()),
        (table::REPLAY.key(&(task_id(1), 0, 0)), old_row(&Value::Bytes(ids))),
    ];
    let engine = Engine::open(&dir.join("tables"), 1 << 20).unwrap();
    engine.commit(&rows.into_iter().map(|(key, value)| (key, Some(value))).collect()).unwrap();
    engine.close().unwrap();
    fs::write(dir.join("dapbox-data"), "dapbox data directory, version 1\n").unwrap();
}

fn key() -> KeyRecord {
    let config = HpkeConfig { id: 3, kem_id: 0x20, kdf_id: 1, aead_id: 1, public_key: vec![5; 32] };
    let private_key = Secret::new(b"an HPKE private key, in the clear".to_vec());
    KeyRecord { config, private_key, created: Time(1), stage: KeyStage::Active { since: Time(1) } }
}

/// The key as encoded in version 1, which had no stages.
fn key_of_version_1() -> Vec<u8> {
    let config = b"\x66config\xa5\x62id\x03\x66kem_id\x18\x20\x66kdf_id\x01\x67aead_id\x01\x6apublic_key\x58\x20";
    let private_key = b"\x6bprivate_key\x58\x21an HPKE private key, in the clear";
    [b"\x01\xa3", &config[..], &[5; 32], private_key, b"\x67created\x01"].concat()
}

/// Keys were encrypted before they had stages.
#[tokio::test]
async fn reads_encrypted_key_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { key: KeySource::Given(Secret::new(vec![7; 32])), ..Options::default() };
    Store::open(dir.path(), options()).unwrap().close().await;
    let (vault, row) = (Vault::new(&Secret::new(vec![7; 32])).unwrap(), table::KEYS.key(&3));
    tamper(dir.path(), row.clone(), [&[128], &vault.seal(&row, &key_of_version_1()).unwrap()[..]].concat());

    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(store.read(|view| Ok(view.keys()[&3].clone())).unwrap(), key());
    let mut backup = Vec::new();
    store.backup(&mut backup, BackupOptions { key: None, tracking_bytes: 1 << 20 }).unwrap();
    store.close().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let restored = elsewhere.path().join("data");
    crate::restore(&restored, &options(), &backup[..], None, |_, _| Ok(()), |_| {}).unwrap();
    let store = Store::open(&restored, options()).unwrap();
    assert_eq!(store.read(|view| Ok(view.keys()[&3].clone())).unwrap(), key());
    // A changed key gets the current version.
    let expired = KeyRecord { stage: KeyStage::Expired { since: Time(9) }, ..key() };
    let put = expired.clone();
    store.write(Point::Test, move |tx| tx.put_key(put)).await.unwrap();
    store
        .write(Point::Test, |tx| tx.put_key(KeyRecord { config: HpkeConfig { id: 4, ..key().config }, ..key() }))
        .await
        .unwrap();
    let remove = |tx: &mut crate::Tx<'_>| {
        tx.remove_key(4);
        Ok(())
    };
    store.write(Point::Test, remove).await.unwrap();
    store.close().await;
    let store = Store::open(&restored, options()).unwrap();
    assert_eq!(store.read(|view| Ok(view.keys().values().cloned().collect::<Vec<_>>())).unwrap(), [expired]);
    store.close().await;
}

/// Whether any file below a directory contains these bytes.
fn is_written(dir: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            is_written(&path, bytes)
        } else {
            fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes)
        }
    })
}

fn upgrade(dir: &Path) -> Store {
    Store::open(dir, Options { migrate: true, ..Options::default() }).unwrap()
}

async fn check_migrated(dir: &Path) {
    let store = upgrade(dir);
    store
        .read(|view| {
            let state = view.task(&task_id(1)).unwrap();
            assert_eq!((&*state.task, &view.keys()[&3]), (&task(1), &key()));
            assert_eq!([1, 2, 3].map(|n| state.replay.contains(&report_id(n))), [true, true, false]);
            Ok(())
        })
        .unwrap();
    store.close().await;
    for secret in [task(1).verify_key.expose(), key().private_key.expose(), report_id(1).as_bytes()] {
        assert!(!is_written(&dir.join("tables"), secret));
    }
}

#[tokio::test]
async fn migrates_directory_of_version_1_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    of_version_1(dir.path());
    assert!(matches!(compact(dir.path(), 1 << 20, &mut |_, _, _| {}), Err(OpenError::NeedsMigration)));
    assert!(matches!(error(dir.path()), OpenError::NeedsMigration), "opening without migration changes nothing");
    check_migrated(dir.path()).await;
    check_migrated(dir.path()).await;
    // The kept database equals the original.
    let kept = tempfile::tempdir().unwrap();
    fs::rename(dir.path().join("tables.version-1"), kept.path().join("tables")).unwrap();
    assert!(is_written(kept.path(), task(1).verify_key.expose()));
    fs::write(kept.path().join("dapbox-data"), "dapbox data directory, version 1\n").unwrap();
    // The earlier release writes to the database again and does not update the ledger.
    let config = sled::Config::new().path(kept.path().join("tables"));
    let db = config.segment_size(8 << 20).open().unwrap();
    db.insert(
        table::REMOVED.key(&task_id(7)),
        [&[0; 4], &table::REMOVED.value(&Tombstone { at: Time(1) }).unwrap()[..]].concat(),
    )
    .unwrap();
    db.flush().unwrap();
    drop(db);
    check_migrated(kept.path()).await;
    let store = open(kept.path());
    assert!(store.write(Point::Test, |tx| Ok(tx.is_removed(&task_id(7)))).await.unwrap());
    store.close().await;
}

#[tokio::test]
async fn finishes_interrupted_migration() {
    let dir = tempfile::tempdir().unwrap();
    of_version_1(dir.path());
    check_migrated(dir.path()).await;
    // The power fails before the marker is written.
    fs::write(dir.path().join("dapbox-data"), "dapbox data directory, version 1\n").unwrap();
    check_migrated(dir.path()).await;
    // The power fails before the old database is moved away.
    let half = tempfile::tempdir().unwrap();
    of_version_1(half.path());
    of_version_1(&half.path().join("tables.new"));
    check_migrated(half.path()).await;
    assert!(!half.path().join("tables.new").exists());
}

#[tokio::test]
async fn encrypts_secrets_under_separate_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    store.write(Point::Test, |tx| tx.put_key(key())).await.unwrap();
    store.close().await;
    let Party::Leader { helper_token, .. } = task(1).party else { panic!("the tests' task is a leader's") };
    for secret in [task(1).verify_key.expose(), helper_token.expose(), key().private_key.expose()] {
        assert!(!is_written(&dir.path().join("tables"), secret));
    }
    let file = dir.path().join("secrets.key");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert!(!is_written(&dir.path().join("tables"), text.trim().as_bytes()));

    // Without the key the directory does not open, and no new key is created.
    let elsewhere = dir.path().with_extension("key");
    fs::rename(&file, &elsewhere).unwrap();
    assert!(matches!(error(dir.path()), OpenError::Key(KeyError::Missing(_))));
    assert!(!file.exists());
    let with = |key| Store::open(dir.path(), Options { key, ..Options::default() });
    let other = with(KeySource::Given(Secret::random(32))).err().unwrap();
    assert!(matches!(other, OpenError::Key(KeyError::Wrong)), "{other}");
    with(KeySource::File(elsewhere.clone())).unwrap().close().await;
    let bytes = URL_SAFE_NO_PAD.decode(text.trim()).unwrap();
    with(KeySource::Given(Secret::new(bytes))).unwrap().close().await;
    fs::remove_file(elsewhere).unwrap();
}

/// Encodes a row of version 1.
fn old_row(fields: Vec<(&str, Value)>) -> Vec<u8> {
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
    let mut row = vec![1];
    ciborium::into_writer(&Value::Map(fields), &mut row).unwrap();
    row
}

/// In version 1 a job contained its answer; an empty one meant that there was none.
#[tokio::test]
async fn reads_helper_jobs_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add_task(&store, 1).await;
    store.close().await;
    let cases = [
        (1, &b""[..], false, HelperJobState::Pending),
        (2, b"answer", false, HelperJobState::Answered(Bytes::from_static(b"answer"))),
        (3, b"", true, HelperJobState::Deleted),
    ];
    let id = |n| dapbox_protocol::model::AggregationJobId::new([n; 16]);
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
    assert_eq!(store.write(Point::Test, |tx| tx.generation(&task_id(1), 2, &[9; 32])).await.unwrap(), 5);
    let old = SweepCutoffs { now: Time(9), answers: Time(78), results: None, jobs: None, generations: Some(Time(0)) };
    sweep::sweep_task(&store, task_id(1), old).await;
    assert_eq!([1, 2, 3].map(|n| found(n).state), {
        let [one, _, three] = cases.map(|case| case.3);
        [one, HelperJobState::Expired, three]
    });
    assert_eq!(store.write(Point::Test, |tx| tx.generation(&task_id(1), 2, &[9; 32])).await.unwrap(), 5);
    // The time counts from the first sweep.
    sweep::sweep_task(&store, task_id(1), SweepCutoffs { generations: Some(Time(9)), ..old }).await;
    assert_eq!(store.write(Point::Test, |tx| tx.generation(&task_id(1), 2, &[9; 32])).await.unwrap(), 5);
    sweep::sweep_task(&store, task_id(1), SweepCutoffs { generations: Some(Time(10)), ..old }).await;
    assert_eq!(store.write(Point::Test, |tx| tx.generation(&task_id(1), 2, &[9; 32])).await.unwrap(), 0);
    store.close().await;
}

#[tokio::test]
async fn reports_malformed_rows_as_damage() {
    let row = |value: Vec<u8>| (table::REMOVED.key(&task_id(1)), value);
    let good = table::REMOVED.value(&Tombstone { at: Time(1) }).unwrap();
    let orphan = (table::COUNTERS.key(&task_id(9)), table::COUNTERS.value(&Default::default()).unwrap());
    let cut_off = row(good[..good.len() - 1].to_vec());
    let too_long = row([&good[..], &[0]].concat());
    let bad_key = (vec![table::REMOVED.prefix, 1, 2, 3], good.clone());
    let plain = (table::TASKS.key(&task_id(1)), table::TASKS.0.value(&task(1)).unwrap());
    for (key, value) in [row(vec![]), row(vec![0]), cut_off, too_long, bad_key, plain, orphan] {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).close().await;
        tamper(dir.path(), key, value);
        let error = error(dir.path());
        assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    }
}

#[tokio::test]
async fn reports_garbage_database_without_panic() {
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
async fn rejects_file_in_place_of_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for dir in [file.join("below"), file] {
        let error = error(&dir);
        assert!(matches!(error, OpenError::NotADirectory), "{error}");
    }
}
