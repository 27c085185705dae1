use std::time::Duration;

use tokio::time::Instant;

/// Decides when a group member heartbeats. Owns no socket and reads no clock: callers pass `now`.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    session_timeout: Duration,
    due_at: Instant,
    answered_at: Instant,
    in_flight: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Send,
    WaitUntil(Instant),
    /// No answer came for as long as the coordinator waits for a heartbeat: it is not where we think it is.
    CoordinatorSilent,
}

impl Heartbeat {
    pub(super) fn new(interval: Duration, session_timeout: Duration, now: Instant) -> Self {
        Self { interval, session_timeout, due_at: now + interval, answered_at: now, in_flight: false }
    }

    /// Starts over, after JoinGroup or SyncGroup, which count as heartbeats.
    pub(super) fn restart(&mut self, now: Instant) {
        self.due_at = now + self.interval;
        self.answered_at = now;
        self.in_flight = false;
    }

    pub(super) fn answered(&mut self, now: Instant) {
        self.answered_at = now;
        self.in_flight = false;
    }

    /// The heartbeat got no answer; the next one goes out after `backoff`.
    pub(super) fn failed(&mut self, now: Instant, backoff: Duration) {
        self.in_flight = false;
        self.due_at = now + backoff.min(self.interval);
    }

    pub(super) fn poll(&mut self, now: Instant) -> Step {
        let expires_at = self.answered_at + self.session_timeout;
        if now >= expires_at {
            self.answered_at = now;
            self.in_flight = false;
            self.due_at = now;
            return Step::CoordinatorSilent;
        }
        if self.in_flight {
            return Step::WaitUntil(expires_at);
        }
        if now < self.due_at {
            return Step::WaitUntil(self.due_at.min(expires_at));
        }
        self.due_at = now + self.interval;
        self.in_flight = true;
        Step::Send
    }

    /// When [`Heartbeat::poll`] has something to say again.
    pub(super) fn wake_at(&self) -> Instant {
        let expires_at = self.answered_at + self.session_timeout;
        if self.in_flight { expires_at } else { self.due_at.min(expires_at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_due_each_interval_and_wait_for_their_answer() {
        let start = Instant::now();
        let secs = Duration::from_secs;
        let mut heartbeat = Heartbeat::new(secs(3), secs(45), start);
        assert_eq!(heartbeat.poll(start), Step::WaitUntil(start + secs(3)));
        assert_eq!(heartbeat.poll(start + secs(3)), Step::Send);
        assert_eq!(heartbeat.poll(start + secs(7)), Step::WaitUntil(start + secs(45)));
        heartbeat.answered(start + secs(7));
        assert_eq!(heartbeat.poll(start + secs(7)), Step::Send);
    }

    #[test]
    fn a_silent_coordinator_is_looked_for_again() {
        let start = Instant::now();
        let secs = Duration::from_secs;
        let mut heartbeat = Heartbeat::new(secs(3), secs(45), start);
        assert_eq!(heartbeat.poll(start + secs(3)), Step::Send);
        assert_eq!(heartbeat.poll(start + secs(45)), Step::CoordinatorSilent);
        assert_eq!(heartbeat.poll(start + secs(45)), Step::Send);
    }
}
