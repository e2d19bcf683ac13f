//! The collector of tasks: drivers of windows and webhooks, pages of results, and links to them.

pub mod addresses;
pub mod classify;
pub mod collectors;
pub mod context;
pub mod driver;
pub mod leader_clock;
pub mod listener;
pub mod load;
pub mod notifications;
pub mod operations;
pub mod pace;
pub mod render;
pub mod signature;
pub mod status;
pub mod steps;
pub mod storing;
pub mod webhooks;
