//! The way of log lines to standard error: a bounded queue and one thread that writes.
//!
//! Only that thread waits for whoever reads standard error. A full pipe, a full disk or a broken pipe costs lines, which are
//! counted, and never the time or the life of the thread that logs.

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

/// How long the writer pauses when standard error is non-blocking and takes nothing.
const RETRY: Duration = Duration::from_millis(10);

/// A handle of the queue. Clones are handles of the same queue.
#[derive(Clone)]
pub struct Sink(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Signals the writer that a line is queued.
    queued: Condvar,
    /// Signals whoever flushes that the queue is empty.
    emptied: Condvar,
    /// Lines that were not written, since the start.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of all lines that are not written yet, the one that is being written among them.
    bytes: usize,
    /// The most bytes that may be queued.
    most: usize,
    is_writing: bool,
}

impl Sink {
    /// Starts the thread that writes to `out`. Lines for which `most` bytes leave no room are dropped. `notice` is the line
    /// that says how many were.
    pub fn start(
        out: impl Write + Send + 'static,
        most: usize,
        notice: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let sink = Self(Arc::new(Shared {
            queue: Mutex::new(Queue { most, ..Queue::default() }),
            queued: Condvar::new(),
            emptied: Condvar::new(),
            dropped: AtomicU64::new(0),
        }));
        let shared = sink.0.clone();
        thread::Builder::new().name("log".into()).spawn(move || shared.write_all(out, notice))?;
        Ok(sink)
    }

    /// Queues a line, or drops it.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        if line.len() > queue.most.saturating_sub(queue.bytes) {
            drop(queue);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.push(line);
        self.0.queued.notify_one();
    }

    /// Queues a line beyond the limit: for the last words of a process.
    pub fn push_anyway(&self, line: &[u8]) {
        self.0.lock().push(line);
        self.0.queued.notify_one();
    }

    /// Waits until all lines are written, and no longer than `patience`. False if some are not.
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
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

    /// How many lines were dropped since the start.
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
    /// Whole values only are in the queue, so that a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines for as long as the process lives.
    fn write_all(&self, mut out: impl Write, notice: impl Fn(u64) -> Vec<u8>) {
        let mut told = 0;
        loop {
            let line = self.next();
            let dropped = self.dropped.load(Ordering::Relaxed);
            if dropped > told && write_line(&mut out, &notice(dropped - told)).is_ok() {
                told = dropped;
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
            // Whoever shares the terminal or the pipe with us has made it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What `tracing` writes a line to.
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

    /// Takes each line only when it is told to, and how.
    struct Gate {
        verdicts: Receiver<io::Result<()>>,
        written: Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.verdicts.recv().map_err(io::Error::other)??;
            self.written.send(String::from_utf8(line.to_vec()).unwrap()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated(most: usize) -> (Sink, Sender<io::Result<()>>, Receiver<String>) {
        let ((allow, verdicts), (written, lines)) = (channel(), channel());
        let notice = |count| format!("{count} dropped\n").into_bytes();
        (Sink::start(Gate { verdicts, written }, most, notice).unwrap(), allow, lines)
    }

    #[test]
    fn drops_and_counts_lines_while_nobody_reads() {
        let (sink, allow, lines) = gated(4);
        for line in ["a\n", "b\n", "c\n", "d\n"] {
            sink.push(line.as_bytes());
        }
        assert_eq!(sink.dropped(), 2);
        assert!(!sink.flush(Duration::from_millis(1)), "nothing can be written yet");
        sink.push_anyway(b"last words\n");
        for _ in 0..4 {
            allow.send(Ok(())).unwrap();
        }
        assert!(sink.flush(Duration::from_secs(60)));
        let mut written: Vec<_> = lines.try_iter().collect();
        // The notice comes as soon as something can be written, before or after the line that was waiting.
        written.retain(|line| line != "2 dropped\n");
        assert_eq!(written, ["a\n", "b\n", "last words\n"]);
    }

    #[test]
    fn survives_a_sink_that_fails_and_says_later_what_was_lost() {
        let (sink, allow, lines) = gated(100);
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
