//! Programs that a test starts. They end with the test, whatever its outcome, and are signalled without a program.
// Programs include this file alone, and few need all of it.
#![allow(dead_code, unused_imports)]

use std::{
    ops::{Deref, DerefMut},
    process::{Child, Command},
};

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

/// A child process that is killed when this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts a command.
    pub fn spawn(command: &mut Command) -> Self {
        match command.spawn() {
            Ok(child) => Self(child),
            Err(error) => panic!("cannot start {command:?}: {error}"),
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Terminates the process as a service manager does, and insists that it succeeds.
    pub fn terminate(mut self) {
        self.signal(Signal::TERM);
        let status = self.0.wait().unwrap();
        assert!(status.success(), "after SIGTERM: {status}");
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
