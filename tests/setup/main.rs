//! The first run: `init`, `check`, `serve` and `doctor` as somebody meets them who has just got the binary.

mod check;
#[path = "../common/child.rs"]
mod child;
mod doctor;
mod init;
#[path = "../common/skip.rs"]
mod skip;
mod surroundings;
mod tasks;
mod terminal;
mod world;
