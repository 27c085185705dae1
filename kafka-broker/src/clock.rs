//! The wall clock of a broker: the system's at start, moved on by tokio's clock.
//!
//! Under a paused tokio clock a broker's timestamps then follow the test's time, and a step of the system's clock
//! never makes a log's append times jump back.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// See the module's documentation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    started_ms: i64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            started_ms: i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.started_ms.saturating_add(elapsed)
    }
}
