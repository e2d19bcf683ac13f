//! The first run: `init`, `check`, `serve` and `doctor` as a newcomer uses them.

mod check;
mod doctor;
mod environment;
mod init;
mod sandbox;
mod tasks;
mod terminal;
