//! Room on the disk: uploads and new aggregation jobs are refused before there is none, so that what was accepted can be
//! aggregated, collected and deleted.
//!
//! Below `disk.reserve_bytes` of free space we are short of it, and until there is a quarter more than that, so that the
//! state does not flap. Free space is looked at every `disk.check_interval`, and besides as soon as what was written since
//! the last look, or was admitted and is still to be written, could have used up half of the reserve. So however much
//! comes in at once, half of the reserve is left for what goes on when we are short: jobs in flight, jobs of reports that
//! wait, which make room, and collections.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::app::App;
use dapbox_aggregator::{config, views::status::DiskStatus};
use dapbox_protocol::wire::Problem;
use dapbox_store::{
    Store,
    space::{self, Ballast},
};
use dapbox_support::{Fault, Part};

/// How much room on the disk a byte takes that is to be stored, at most: the database writes whole nodes now and then,
/// and cleans up behind itself later.
const FACTOR: u64 = 4;

/// What is admitted and what was found, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gauge {
    /// Below this much free space we are short.
    reserve: u64,
    /// Free space at the last look.
    free: u64,
    /// How much had been written at the last look.
    written: u64,
    /// What was admitted and is not written yet.
    in_flight: u64,
    /// Whether we are short.
    is_short: bool,
    /// When those who are refused are told to come back, in seconds.
    retry_after: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Admitted,
    /// The disk must be looked at first.
    Unknown,
    Short,
}

/// How much free space ends being short of a reserve: a little more, so that it does not begin again at once.
pub fn needed_bytes(reserve: u64) -> u64 {
    reserve.saturating_add(reserve / 4)
}

impl Gauge {
    /// What ends being short.
    fn enough(&self) -> u64 {
        needed_bytes(self.reserve)
    }

    /// Takes in a look at the disk. `missing` is what the ballast will take that is to be made. True if we are short now
    /// and were not, or the other way round.
    fn look(&mut self, free: u64, written: u64, missing: u64) -> bool {
        let before = self.is_short;
        (self.free, self.written) = (free, written);
        self.is_short = match before {
            true => free.saturating_sub(missing) < self.enough(),
            false => free < self.reserve,
        };
        self.is_short != before
    }

    /// Whether so many bytes may be stored, given how much was written so far.
    fn admit(&mut self, bytes: u64, written: u64) -> Verdict {
        if self.is_short {
            return Verdict::Short;
        }
        let unseen = self.in_flight.saturating_add(bytes).saturating_add(written.saturating_sub(self.written));
        if unseen.saturating_mul(FACTOR) > self.free.saturating_sub(self.reserve / 2) {
            return Verdict::Unknown;
        }
        self.in_flight += bytes;
        Verdict::Admitted
    }
}

/// The disk of the data directory.
pub struct Disk {
    store: Store,
    dir: std::path::PathBuf,
    ballast: Ballast,
    gauge: Arc<Mutex<Gauge>>,
}

/// Room that is spoken for until this is dropped: keep it until what it is for is durable.
#[derive(Debug)]
pub struct Admission {
    gauge: Arc<Mutex<Gauge>>,
    bytes: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        lock(&self.gauge).in_flight -= self.bytes;
    }
}

/// Numbers only, so that a panic elsewhere leaves them usable.
fn lock(gauge: &Mutex<Gauge>) -> MutexGuard<'_, Gauge> {
    gauge.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// The disk of an open store's directory.
    pub fn new(config: &config::Config, store: Store) -> Self {
        let dir = config.data_dir.clone();
        let ballast = Ballast::new(&dir, config.disk.ballast_bytes);
        let disk = Self { store, dir, ballast, gauge: Arc::default() };
        disk.adopt(&config.disk);
        disk
    }

    /// Takes over what can change of the configuration.
    pub fn adopt(&self, config: &config::Disk) {
        let mut gauge = lock(&self.gauge);
        (gauge.reserve, gauge.retry_after) = (config.reserve_bytes, config.retry_after.as_secs().max(1));
    }

    /// Refuses what would take room, if we are short of it. For requests whose body need not be read then.
    pub fn check(&self) -> Result<(), Problem> {
        if lock(&self.gauge).is_short { Err(self.problem()) } else { Ok(()) }
    }

    /// Speaks for the room for so many bytes, or refuses them.
    pub fn admit(&self, bytes: usize) -> Result<Admission, Problem> {
        let bytes = bytes as u64;
        let mut verdict = lock(&self.gauge).admit(bytes, self.store.written());
        if verdict == Verdict::Unknown {
            self.look();
            verdict = lock(&self.gauge).admit(bytes, self.store.written());
        }
        match verdict {
            Verdict::Admitted => Ok(Admission { gauge: self.gauge.clone(), bytes }),
            Verdict::Unknown | Verdict::Short => Err(self.problem()),
        }
    }

    fn problem(&self) -> Problem {
        let detail =
            "the aggregator is short of disk space and takes nothing new; what it has taken is safe; come back later";
        Problem::from_status(507).with_detail(detail).with_retry_after(lock(&self.gauge).retry_after)
    }

    /// Looks at the disk, and tells the operator when something has changed.
    pub fn look(&self) {
        let written = self.store.written();
        let found = match space::space(&self.dir) {
            Ok(found) => found,
            // The next commit will tell what is wrong.
            Err(error) => {
                tracing::error!(path = %self.dir.display(), %error, "cannot read free disk space");
                return;
            }
        };
        let missing = if self.ballast.is_ready() { 0 } else { self.ballast.bytes() };
        let has_changed = lock(&self.gauge).look(found.free, written, missing);
        if has_changed {
            let status = self.status();
            match status.advice() {
                Some(hint) => {
                    let DiskStatus { free_bytes, needed_bytes, ref dir, .. } = status;
                    tracing::error!(free_bytes, needed_bytes, path = %dir.display(), hint, "disk space low");
                }
                None => tracing::info!(free_bytes = status.free_bytes, "disk space sufficient"),
            }
        }
    }

    /// Looks at the disk, and makes the ballast if it is missing and there is room. May take a moment.
    pub fn tend(&self) {
        self.look();
        let is_roomy = {
            let gauge = lock(&self.gauge);
            !gauge.is_short && gauge.free.saturating_sub(self.ballast.bytes()) >= gauge.enough()
        };
        if is_roomy && !self.ballast.is_ready() {
            if let Err(error) = self.ballast.create() {
                tracing::warn!(%error, "cannot create ballast");
            }
            self.look();
        }
    }

    /// For the operator.
    pub fn status(&self) -> DiskStatus {
        let gauge = *lock(&self.gauge);
        DiskStatus {
            dir: self.dir.clone(),
            free_bytes: gauge.free,
            reserve_bytes: gauge.reserve,
            needed_bytes: gauge.enough().saturating_add(if self.ballast.is_ready() { 0 } else { self.ballast.bytes() }),
            has_ballast: self.ballast.is_ready(),
            is_short: gauge.is_short,
        }
    }
}

/// Tends the disk until the server stops.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    loop {
        app.failpoints.turn(Part::Disk);
        let pause = (*app.config.disk.check_interval).max(Duration::from_millis(10));
        tokio::select! {
            () = app.stopped() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        let shared = app.clone();
        let tended = tokio::task::spawn_blocking(move || shared.disk.tend()).await;
        tended.map_err(|error| Fault::while_doing("looking at the disk", error))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn gauge() -> Gauge {
        Gauge { reserve: 256 * MIB, ..Gauge::default() }
    }

    #[test]
    fn being_short_begins_at_the_reserve_and_ends_a_quarter_above_it() {
        let mut gauge = gauge();
        for (free, changes, is_short) in [
            (256, false, false),
            (255, true, true),
            (256, false, true),
            (319, false, true),
            (320, true, false),
            (300, false, false),
            (256, false, false),
            (0, true, true),
        ] {
            assert_eq!((gauge.look(free * MIB, 0, 0), gauge.is_short), (changes, is_short), "{free}");
        }
    }

    #[test]
    fn being_short_does_not_end_before_there_is_room_for_the_ballast_too() {
        let mut gauge = gauge();
        assert!(gauge.look(100 * MIB, 0, 64 * MIB));
        assert!(!gauge.look(383 * MIB, 0, 64 * MIB));
        assert!(gauge.look(384 * MIB, 0, 64 * MIB));
        // It is not missed as long as we are not short.
        assert!(!gauge.look(256 * MIB, 0, 64 * MIB));
    }

    #[test]
    fn a_burst_cannot_use_up_more_than_half_of_the_reserve_between_two_looks() {
        for free in [256, 300, 1000, 5000].map(|free| free * MIB) {
            for size in [1000, MIB, 40 * MIB] {
                let mut gauge = gauge();
                gauge.look(free, 0, 0);
                let mut taken = 0;
                // Half of what is admitted is written, the other half waits.
                while gauge.admit(size, taken / 2) == Verdict::Admitted {
                    taken += size;
                    gauge.in_flight = taken / 2;
                }
                let left = free - FACTOR * taken;
                assert!(left >= gauge.reserve / 2, "{free} {size}: {left}");
                // And it is not refused for nothing: with another request it would have been less.
                assert!(left < gauge.reserve / 2 + FACTOR * (size + 2), "{free} {size}: {left}");
                assert_eq!(gauge.admit(size, taken / 2), Verdict::Unknown);
                // A look shows how it is.
                gauge.look(free - taken / 2, taken / 2, 0);
                assert_eq!(gauge.is_short, free - taken / 2 < gauge.reserve);
            }
        }
    }

    #[test]
    fn what_is_written_by_others_counts_as_well() {
        let mut gauge = gauge();
        gauge.look(256 * MIB, 1000, 0);
        assert_eq!(gauge.admit(1, 1000 + 32 * MIB), Verdict::Unknown);
        assert_eq!(gauge.admit(1, 1000 + 31 * MIB), Verdict::Admitted);
        gauge.look(255 * MIB, 1000 + 32 * MIB, 0);
        assert_eq!(gauge.admit(1, 1000 + 32 * MIB), Verdict::Short);
    }

    #[test]
    fn without_a_reserve_nothing_is_refused_before_the_disk_is_full() {
        let mut gauge = Gauge::default();
        assert!(!gauge.look(MIB, 0, 0));
        assert_eq!(gauge.admit(MIB / 4, 0), Verdict::Admitted);
        assert!(!gauge.look(0, 0, 0) && !gauge.is_short);
    }
}
