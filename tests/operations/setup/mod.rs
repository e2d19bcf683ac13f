//! The first run: `init`, `check`, `serve` and `doctor` as somebody meets them who has just got the binary.

mod check;
mod doctor;
mod environment;
mod init;
mod sandbox;
mod tasks;
mod terminal;
