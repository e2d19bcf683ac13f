//! CPU time of the thread, the process and the machine.

use std::{fs, time::Duration as Span};

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread.
pub fn thread_time() -> Span {
    read(ClockId::ThreadCPUTime)
}

/// CPU time of all threads of this process, including finished ones.
pub fn process_time() -> Span {
    read(ClockId::ProcessCPUTime)
}

/// CPU time of all processes on this machine, to a hundredth of a second, if the system reports it.
pub fn system_time() -> Option<Span> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    // user, nice, system, idle, iowait, irq, softirq: proc_stat(5). The unit is the same on all platforms.
    let fields: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
    let [user, nice, system, _, _, irq, softirq, ..] = fields[..] else { return None };
    Some(Span::from_millis(10 * (user + nice + system + irq + softirq)))
}

fn read(clock: ClockId) -> Span {
    // These clocks are never negative.
    Span::try_from(clock_gettime(clock)).unwrap_or_default()
}
