//! What happened in a run, in order: two runs of one seed must give the same trace.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The events of a run, each with its virtual time. Clones are the same trace.
#[derive(Debug, Clone)]
pub struct Trace {
    started: Instant,
    lines: Arc<Mutex<Vec<String>>>,
    live: bool,
}

impl Trace {
    /// An empty trace that begins now. With `SIMULATION_LIVE` in the environment it is printed as it grows, for runs
    /// that do not end.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            lines: Arc::default(),
            live: std::env::var_os("SIMULATION_LIVE").is_some(),
        }
    }

    /// Notes an event.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        let at = self.started.elapsed();
        let line = format!("{:>9.3} {event}", at.as_secs_f64());
        if self.live {
            eprintln!("{line}");
        }
        lock(&self.lines).push(line);
    }

    /// Everything noted so far.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }
}

/// Locks; what a panicking thread left behind is still good enough to look at.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
