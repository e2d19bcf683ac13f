//! Stored data survives kills, power cuts, full disks, damage, backups and restarts.

mod backup;
#[path = "../common/mod.rs"]
mod common;
mod corruption;
mod disk_full;
mod failpoints;
mod kill;
mod power_cut;
mod restart;
mod results;
mod retention;
