//! The first run: `init`, `check`, `serve` and `doctor` as somebody meets them who has just got the binary.

mod check;
mod doctor;
mod init;
mod surroundings;
mod tasks;
mod terminal;
mod world;
