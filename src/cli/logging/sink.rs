//! Writes log lines to standard error through a bounded queue and one thread.
//!
//! # Decision: the log never blocks the server
//!
//! Standard error may be a pipe that its reader does not empty, or a file on a full disk. A blocked write in a driver or a
//! handler would stop the server. So log lines go to a bounded queue, and one thread writes them. If the queue is full, or a
//! write fails, lines are dropped and counted; the next line that is written is preceded by their number.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Delay between attempts to write to a non-blocking standard error.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// A handle of the queue. Clones share the queue.
#[derive(Clone)]
pub struct Sink(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Signals the writer that a line is queued.
    queued: Condvar,
    /// Signals `flush` that the queue is empty.
    emptied: Condvar,
    /// Number of dropped lines since the start.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of all unwritten lines, including the one that is being written.
    bytes: usize,
    /// Maximum of `bytes`.
    max_bytes: usize,
    is_writing: bool,
}

impl Sink {
    /// Starts the thread that writes to `out`. Drops lines that exceed `max_bytes`; `notice` formats the number of dropped
    /// lines as a line.
    pub fn start(
        out: impl Write + Send + 'static,
        max_bytes: usize,
        notice: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let sink = Self(Arc::new(Shared {
            queue: Mutex::new(Queue { max_bytes, ..Queue::default() }),
            queued: Condvar::new(),
            emptied: Condvar::new(),
            dropped: AtomicU64::new(0),
        }));
        let shared = sink.0.clone();
        thread::Builder::new().name("log".into()).spawn(move || shared.write_all(out, notice))?;
        Ok(sink)
    }

    /// Queues a line, or drops it if the queue is full.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        if line.len() > queue.max_bytes.saturating_sub(queue.bytes) {
            drop(queue);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.push(line);
        self.0.queued.notify_one();
    }

    /// Queues a line regardless of the limit: for the error that ends the process.
    pub fn push_unbounded(&self, line: &[u8]) {
        self.0.lock().push(line);
        self.0.queued.notify_one();
    }

    /// Waits until all lines are written. Returns false after `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut queue = self.0.lock();
        while queue.is_writing || !queue.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.emptied.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Number of dropped lines since the start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Queue {
    fn push(&mut self, line: &[u8]) {
        self.bytes += line.len();
        self.lines.push_back(line.to_vec());
    }
}

impl Shared {
    /// Locks the queue. Every change is complete, so a poisoned lock is usable.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines until the process ends.
    fn write_all(&self, mut out: impl Write, notice: impl Fn(u64) -> Vec<u8>) {
        let mut reported = 0;
        loop {
            let line = self.next();
            let dropped = self.dropped.load(Ordering::Relaxed);
            if dropped > reported && write_line(&mut out, &notice(dropped - reported)).is_ok() {
                reported = dropped;
            }
            if write_line(&mut out, &line).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            let mut queue = self.lock();
            queue.bytes -= line.len();
            queue.is_writing = false;
            if queue.lines.is_empty() {
                self.emptied.notify_all();
            }
        }
    }

    /// Waits for the next line.
    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.is_writing = true;
                return line;
            }
            queue = self.queued.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn write_line(out: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the terminal or pipe may have made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_DELAY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The writer of `tracing`, which writes whole lines.
impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Sink {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A writer that waits for the outcome of each write.
    struct GatedWriter {
        verdicts: Receiver<io::Result<()>>,
        written: Sender<String>,
    }

    impl Write for GatedWriter {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.verdicts.recv().map_err(io::Error::other)??;
            self.written.send(String::from_utf8(line.to_vec()).unwrap()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated_sink(max_bytes: usize) -> (Sink, Sender<io::Result<()>>, Receiver<String>) {
        let ((allow, verdicts), (written, lines)) = (channel(), channel());
        let notice = |count| format!("{count} dropped\n").into_bytes();
        (Sink::start(GatedWriter { verdicts, written }, max_bytes, notice).unwrap(), allow, lines)
    }

    #[test]
    fn drops_and_counts_lines_while_blocked() {
        let (sink, allow, lines) = gated_sink(4);
        for line in ["a\n", "b\n", "c\n", "d\n"] {
            sink.push(line.as_bytes());
        }
        assert_eq!(sink.dropped(), 2);
        assert!(!sink.flush(Duration::from_millis(1)), "nothing can be written yet");
        sink.push_unbounded(b"last words\n");
        for _ in 0..4 {
            allow.send(Ok(())).unwrap();
        }
        assert!(sink.flush(Duration::from_secs(60)));
        let mut written: Vec<_> = lines.try_iter().collect();
        // The notice is written before or after the line that was waiting.
        written.retain(|line| line != "2 dropped\n");
        assert_eq!(written, ["a\n", "b\n", "last words\n"]);
    }

    #[test]
    fn reports_dropped_lines_after_write_errors() {
        let (sink, allow, lines) = gated_sink(100);
        for (line, verdicts) in [("a\n", vec![false]), ("b\n", vec![false, false]), ("c\n", vec![true, true])] {
            for verdict in verdicts {
                allow.send(if verdict { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }).unwrap();
            }
            sink.push(line.as_bytes());
            assert!(sink.flush(Duration::from_secs(60)));
        }
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["2 dropped\n", "c\n"]);
        assert_eq!(sink.dropped(), 2);
    }
}
