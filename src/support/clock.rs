//! The system clock, read at the edges only: decisions take `now` as an argument. The replaceable clock of a server is
//! `Clock` in `src/server/shared/clock.rs`.

use std::time::{SystemTime, UNIX_EPOCH};

use dapbox_protocol::model::Time;

/// The current time; zero if the clock shows a time before 1970.
pub fn now() -> Time {
    Time(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
