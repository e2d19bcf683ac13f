//! Rules of the tasks that a server collects: added, changed, removed, shown, and shared by links.

pub mod links;
pub mod tasks;
pub mod windows;
