//! What was used of the processors' time.

use std::time::Duration as Span;

use rustix::time::{ClockId, clock_gettime};

/// By this thread.
pub fn thread() -> Span {
    read(ClockId::ThreadCPUTime)
}

/// By all threads of this process, those included that have ended.
pub fn process() -> Span {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> Span {
    // These clocks are never negative.
    Span::try_from(clock_gettime(clock)).unwrap_or_default()
}
