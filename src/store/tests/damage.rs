//! A damaged directory is rejected, unless the damage hits unused bytes. It never opens with another state and never
//! panics.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    sync::mpsc,
    time::Duration as Span,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{group::copy, *};
use crate::{HelperJobRecord, HelperJobState, OpenError, Tx, View, engine::EngineError, ledger::row_hash};
use dapbox_protocol::model::{AggregationJobId, BatchId, Bucket};
use dapbox_support::Fault;

/// A limit for any operation that ends at all.
const PATIENCE: Span = Span::from_secs(120);

/// Writes records of several kinds in several commits.
async fn fill(dir: &Path, rounds: u32, len: usize) {
    let store = open(dir);
    for n in 1..=3 {
        add_task(&store, n).await;
    }
    for round in 0..rounds {
        store.write(Point::Test, move |tx| fill_round(tx, round, len)).await.unwrap();
    }
    store.write(Point::Test, |tx| tx.remove_task(&task_id(3), Time(7))).await.unwrap();
    store.close().await;
}

fn fill_round(tx: &mut Tx<'_>, round: u32, len: usize) -> Result<(), Fault> {
    for n in 1..=3u8 {
        let (id, number) = (task_id(n), round * 8);
        for i in 0..4 {
            tx.append_report(&id, &report(number + i, 100, len))?;
            tx.count(&id, "report_success", 1)?;
        }
        let ids: Vec<_> = (4..8).map(|i| (report_id(number + i), Time(100))).collect();
        tx.record_aggregated(&id, &ids)?;
        let mut bucket = tx.bucket_mut(&id, Bucket::Time(Time(u64::from(round % 5) * PRECISION)))?;
        bucket.header.count = u64::from(round);
        bucket.replace_share(vec![n; len]);
        let record = HelperJobRecord {
            request_hash: [n; 32],
            created: Time(1),
            state: HelperJobState::Answered(Bytes::from(vec![round as u8; len])),
        };
        tx.put_helper_job(&id, AggregationJobId::new([round as u8; 16]), &record)?;
        tx.name_batch(&id, BatchId::new([round as u8; 32]))?;
    }
    Ok(())
}

/// Hashes all rows by table.
fn content(view: &View<'_>) -> BTreeMap<u8, u64> {
    let disk = view.core.disk.read().unwrap();
    let engine = &disk.as_ref().unwrap().engine;
    let mut weights = BTreeMap::new();
    for prefix in 1..=0xfd {
        engine
            .scan(&[prefix], |key, value| -> Result<(), EngineError> {
                let weight: &mut u64 = weights.entry(prefix).or_default();
                *weight = weight.wrapping_add(row_hash(key, &value));
                Ok(())
            })
            .unwrap();
    }
    weights
}

type Opened = Result<BTreeMap<u8, u64>, OpenError>;

/// Opens a directory that may be damaged, on its own thread with a timeout.
fn try_open(dir: &Path) -> Opened {
    let (sender, receiver) = mpsc::channel();
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        let opened = Store::open(&dir, Options { cache_bytes: 1 << 20, ..Options::default() });
        let _ = sender.send(opened.map(|store| store.read(|view| Ok(content(view))).unwrap()));
    });
    receiver.recv_timeout(PATIENCE).expect("opening panics, or does not end")
}

/// A directory to damage repeatedly.
struct Subject {
    dir: tempfile::TempDir,
    content: BTreeMap<u8, u64>,
    refused: u32,
    whole: u32,
}

impl Subject {
    /// `is_listed` reopens the directory after filling it, which writes a list of all pages beside the database.
    /// Otherwise it looks like that of a running server.
    async fn new(rounds: u32, len: usize, is_listed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), rounds, len).await;
        if is_listed {
            open(dir.path()).close().await;
        }
        let image = tempfile::tempdir().unwrap();
        copy(dir.path(), image.path());
        let content = try_open(image.path()).unwrap();
        assert!(content.len() >= 6, "{content:?}");
        Self { dir, content, refused: 0, whole: 0 }
    }

    /// Damages a copy. Asserts that it is rejected or unchanged, and returns whether it is unchanged.
    fn damaged(&mut self, name: &str, damage: impl FnOnce(&Path)) -> bool {
        let image = tempfile::tempdir().unwrap();
        copy(self.dir.path(), image.path());
        damage(image.path());
        match try_open(image.path()) {
            Ok(content) => {
                assert!(content == self.content, "{name}: it opens and is not what it was");
                self.whole += 1;
                true
            }
            Err(OpenError::Damaged(_) | OpenError::Foreign | OpenError::Newer { .. } | OpenError::Io(_)) => {
                self.refused += 1;
                false
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let tables = fs::read_dir(self.dir.path().join("tables")).unwrap();
        let tables = tables.map(|entry| Path::new("tables").join(entry.unwrap().file_name()));
        let mut files: Vec<_> = tables.filter(|path| self.dir.path().join(path).is_file()).collect();
        files.push(PathBuf::from("dapbox-data"));
        files.sort();
        files
    }

    fn flip_and_cut(&mut self, seed: u64, rounds: u32) {
        let mut random = StdRng::seed_from_u64(seed);
        let length = fs::metadata(self.dir.path().join("tables/db")).unwrap().len();
        for round in 0..rounds {
            let place = random.random_range(0..length);
            self.damaged(&format!("flip {round} at {place}"), |image| {
                let path = image.join("tables/db");
                let mut bytes = fs::read(&path).unwrap();
                bytes[place as usize] ^= 1 << (place % 8);
                fs::write(&path, bytes).unwrap();
            });
            let place = random.random_range(0..length);
            self.damaged(&format!("cut {round} at {place}"), |image| {
                File::options().write(true).open(image.join("tables/db")).unwrap().set_len(place).unwrap();
            });
            let place = random.random_range(0..length);
            self.damaged(&format!("block {round} at {place}"), |image| {
                let path = image.join("tables/db");
                let mut bytes = fs::read(&path).unwrap();
                bytes[place as usize..].iter_mut().take(4096).for_each(|byte| *byte = 0);
                fs::write(&path, bytes).unwrap();
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_damage_in_small_database() {
    for is_listed in [false, true] {
        let mut subject = Subject::new(40, 2000, is_listed).await;
        subject.flip_and_cut(1, 40);
        let Subject { refused, whole, .. } = subject;
        assert!(refused > 20, "{refused} refused, {whole} whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_damage_in_database_of_several_segments() {
    for is_listed in [false, true] {
        let mut subject = Subject::new(60, 60_000, is_listed).await;
        assert!(fs::metadata(subject.dir.path().join("tables/db")).unwrap().len() > 24 << 20);
        subject.flip_and_cut(2, 6);
        let Subject { refused, whole, .. } = subject;
        assert!(refused > 3, "{refused} refused, {whole} whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_missing_empty_and_garbled_files() {
    let mut subject = Subject::new(40, 2000, true).await;
    let files = subject.files();
    assert!(files.len() >= 5, "{files:?}");
    let mut random = StdRng::seed_from_u64(3);
    for file in &files {
        let name = file.display().to_string();
        subject.damaged(&format!("{name} deleted"), |image| fs::remove_file(image.join(file)).unwrap());
        subject.damaged(&format!("{name} emptied"), |image| fs::write(image.join(file), b"").unwrap());
        for round in 0..8 {
            let garbage: Vec<u8> = (0..random.random_range(1..10_000)).map(|_| random.random()).collect();
            subject.damaged(&format!("{name} garbled {round}"), |image| fs::write(image.join(file), garbage).unwrap());
            let (share, bit) = (random.random_range(0.0..1.0), random.random_range(0..8));
            subject.damaged(&format!("{name} flipped {round}"), |image| {
                let mut bytes = fs::read(image.join(file)).unwrap();
                let place = (bytes.len() as f64 * share) as usize;
                bytes[place] ^= 1 << bit;
                fs::write(image.join(file), bytes).unwrap();
            });
        }
    }
    assert!(subject.damaged("no blobs", |image| fs::remove_dir_all(image.join("tables/blobs")).unwrap()));
    assert!(subject.damaged("no note", |image| fs::remove_file(image.join("tables/acknowledged")).unwrap()));
    for gone in ["tables/db", "tables"] {
        let path = |image: &Path| image.join(gone);
        let is_whole = subject.damaged(gone, |image| match path(image).is_dir() {
            true => fs::remove_dir_all(path(image)).unwrap(),
            false => fs::remove_file(path(image)).unwrap(),
        });
        assert!(!is_whole, "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_files_of_another_directory() {
    // Both directories have the same history except for its end.
    let mut subject = Subject::new(40, 2000, true).await;
    let other = tempfile::tempdir().unwrap();
    fill(other.path(), 45, 2000).await;
    open(other.path()).close().await;
    for file in subject.files() {
        let tables = Path::new("tables");
        let here = fs::read_dir(other.path().join(tables)).unwrap();
        let snapshot =
            here.map(|entry| entry.unwrap().file_name()).find(|name| name.to_string_lossy().starts_with("snap."));
        let theirs = match file.to_string_lossy().contains("snap.") {
            true => tables.join(snapshot.unwrap()),
            false => file.clone(),
        };
        let name = format!("{} of another", file.display());
        subject.damaged(&name, |image| {
            fs::remove_file(image.join(&file)).unwrap();
            fs::copy(other.path().join(&theirs), image.join(&theirs)).unwrap();
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_older_state_of_the_database() {
    let mut subject = Subject::new(10, 2000, true).await;
    let older = tempfile::tempdir().unwrap();
    copy(subject.dir.path(), older.path());
    let store = open(subject.dir.path());
    store.write(Point::Test, |tx| tx.count(&task_id(1), "report_success", 1)).await.unwrap();
    store.close().await;
    let put_back = |image: &Path, all: bool| {
        let note = fs::read(image.join("tables/acknowledged")).unwrap();
        fs::remove_dir_all(image.join("tables")).unwrap();
        copy(&older.path().join("tables"), &image.join("tables"));
        if !all {
            fs::write(image.join("tables/acknowledged"), note).unwrap();
        }
    };
    subject.content = try_open(subject.dir.path()).unwrap();
    assert!(!subject.damaged("older", |image| put_back(image, false)));
    // A complete older copy is a legitimate restore.
    let restored = tempfile::tempdir().unwrap();
    copy(subject.dir.path(), restored.path());
    put_back(restored.path(), true);
    assert!(try_open(restored.path()).is_ok());
}
