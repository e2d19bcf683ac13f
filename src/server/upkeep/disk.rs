//! The free space of the disk. Uploads and new aggregation jobs are rejected before the disk is full, so that accepted
//! reports can be aggregated, collected and deleted.
//!
//! # Decision: the disk is checked by bytes, not only by time
//!
//! The disk is low below `disk.reserve_bytes` of free space, until there is a quarter more; the hysteresis prevents
//! flapping. Free space is measured every `disk.check_interval`. It is also measured when the bytes written or admitted
//! since the last measurement could have used half of the reserve. Half of the reserve therefore remains for what
//! continues on a low disk: running jobs, waiting reports, which free space, and collections.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dapbox_aggregator::{config, views::status::DiskStatus};
use dapbox_protocol::wire::Problem;
use dapbox_store::{
    Store,
    space::{self, Ballast},
};

/// Maximum disk space per stored byte: the database writes whole nodes and reclaims space later.
const FACTOR: u64 = 4;

/// Admitted and measured bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SpaceGauge {
    /// The disk is low below this free space.
    reserve: u64,
    /// Free space at the last measurement.
    free: u64,
    /// Bytes written until the last measurement.
    written: u64,
    /// Admitted bytes that are not written yet.
    in_flight: u64,
    /// Whether the disk is low.
    is_short: bool,
    /// `Retry-After` of rejected requests, in seconds.
    retry_after: u64,
}

/// The verdict on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Admitted,
    /// The free space must be measured first.
    Unknown,
    Short,
}

/// Free space above which the disk is no longer low.
pub fn needed_bytes(reserve: u64) -> u64 {
    reserve.saturating_add(reserve / 4)
}

impl SpaceGauge {
    /// Free space above which the disk is no longer low.
    fn enough(&self) -> u64 {
        needed_bytes(self.reserve)
    }

    /// Updates the gauge with a measurement. `missing` is the size of the ballast that is still to be created. Returns
    /// whether `is_short` has changed.
    fn look(&mut self, free: u64, written: u64, missing: u64) -> bool {
        let before = self.is_short;
        (self.free, self.written) = (free, written);
        self.is_short = match before {
            true => free.saturating_sub(missing) < self.enough(),
            false => free < self.reserve,
        };
        self.is_short != before
    }

    /// Admits `bytes`, if they certainly fit. `written` is the total written so far.
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
    gauge: Arc<Mutex<SpaceGauge>>,
}

/// Admitted space, reserved until this is dropped: keep it until the data is durable.
#[derive(Debug)]
pub struct Admission {
    gauge: Arc<Mutex<SpaceGauge>>,
    bytes: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        lock(&self.gauge).in_flight -= self.bytes;
    }
}

/// Locks the gauge. It contains numbers only, so poisoning is ignored.
fn lock(gauge: &Mutex<SpaceGauge>) -> MutexGuard<'_, SpaceGauge> {
    gauge.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// The disk of the data directory of an open store.
    pub fn new(config: &config::Config, store: Store) -> Self {
        let dir = config.data_dir.clone();
        let ballast = Ballast::new(&dir, config.disk.ballast_bytes);
        let disk = Self { store, dir, ballast, gauge: Arc::default() };
        disk.adopt(&config.disk);
        disk
    }

    /// Applies options that can change in a reload.
    pub fn adopt(&self, config: &config::Disk) {
        let mut gauge = lock(&self.gauge);
        (gauge.reserve, gauge.retry_after) = (config.reserve_bytes, config.retry_after.as_secs().max(1));
    }

    /// Rejects a request that needs space if the disk is low. Used before the body is read.
    pub fn check(&self) -> Result<(), Problem> {
        if lock(&self.gauge).is_short { Err(self.problem()) } else { Ok(()) }
    }

    /// Admits `bytes`, or rejects them.
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
        let detail = "the aggregator is low on disk space and accepts no new data; retry later";
        Problem::from_status(507).with_detail(detail).with_retry_after(lock(&self.gauge).retry_after)
    }

    /// Measures the free space, and logs a change of the state.
    pub fn look(&self) {
        let written = self.store.written();
        let found = match space::space(&self.dir) {
            Ok(found) => found,
            // The next commit reports the error.
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

    /// Measures the free space, and creates the ballast if it is missing and there is space. May block for a moment.
    pub fn check_and_fill_ballast(&self) {
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

    /// The status for the operator.
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn gauge() -> SpaceGauge {
        SpaceGauge { reserve: 256 * MIB, ..SpaceGauge::default() }
    }

    #[test]
    fn applies_hysteresis_to_reserve() {
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
    fn waits_for_ballast_space() {
        let mut gauge = gauge();
        assert!(gauge.look(100 * MIB, 0, 64 * MIB));
        assert!(!gauge.look(383 * MIB, 0, 64 * MIB));
        assert!(gauge.look(384 * MIB, 0, 64 * MIB));
        // The ballast does not count while the disk is not low.
        assert!(!gauge.look(256 * MIB, 0, 64 * MIB));
    }

    #[test]
    fn bounds_burst_to_half_of_reserve() {
        for free in [256, 300, 1000, 5000].map(|free| free * MIB) {
            for size in [1000, MIB, 40 * MIB] {
                let mut gauge = gauge();
                gauge.look(free, 0, 0);
                let mut taken = 0;
                // Half of the admitted bytes are written, the other half is in flight.
                while gauge.admit(size, taken / 2) == Verdict::Admitted {
                    taken += size;
                    gauge.in_flight = taken / 2;
                }
                let left = free - FACTOR * taken;
                assert!(left >= gauge.reserve / 2, "{free} {size}: {left}");
                // The rejection is necessary: one more request would use too much.
                assert!(left < gauge.reserve / 2 + FACTOR * (size + 2), "{free} {size}: {left}");
                assert_eq!(gauge.admit(size, taken / 2), Verdict::Unknown);
                // A measurement updates the state.
                gauge.look(free - taken / 2, taken / 2, 0);
                assert_eq!(gauge.is_short, free - taken / 2 < gauge.reserve);
            }
        }
    }

    #[test]
    fn counts_writes_of_others() {
        let mut gauge = gauge();
        gauge.look(256 * MIB, 1000, 0);
        assert_eq!(gauge.admit(1, 1000 + 32 * MIB), Verdict::Unknown);
        assert_eq!(gauge.admit(1, 1000 + 31 * MIB), Verdict::Admitted);
        gauge.look(255 * MIB, 1000 + 32 * MIB, 0);
        assert_eq!(gauge.admit(1, 1000 + 32 * MIB), Verdict::Short);
    }

    #[test]
    fn admits_everything_without_reserve() {
        let mut gauge = SpaceGauge::default();
        assert!(!gauge.look(MIB, 0, 0));
        assert_eq!(gauge.admit(MIB / 4, 0), Verdict::Admitted);
        assert!(!gauge.look(0, 0, 0) && !gauge.is_short);
    }
}
