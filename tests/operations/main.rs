//! Operator interfaces: commands, configuration, certificates, keys, status, and the management API.

mod acme;
mod backup;
mod bench;
mod cli;
#[path = "../common/mod.rs"]
mod common;
mod demo;
mod doctor;
mod external_files;
mod https;
mod keys;
mod logs;
mod management;
mod manager;
mod partner;
mod reload;
mod results_pages;
mod robustness;
mod scrape;
mod setup;
mod shell;
mod static_binary;
mod status;
mod status_page;
mod systemd;
mod tokens;
mod verify_keys;
