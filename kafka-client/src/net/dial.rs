//! How to get at one broker: which of its addresses to try next, for how long, and when. Pure: callers pass `now`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::AddressFamily;
use crate::backoff::Backoff;

/// More addresses of one name than this are not tried.
const MAX_ADDRESSES: usize = 64;
/// An address that took no connection after this long gets company by the next one: the Connection Attempt Delay of
/// "Happy Eyeballs" (RFC 8305, section 5). A route that swallows packets, as broken IPv6 does, then costs no time-out.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// When a broker is tried again, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DialPolicy {
    /// `socket.connection.setup.timeout.ms` to `.max.ms`: doubles with each time-out in a row (KIP-601).
    pub(crate) setup_timeout: Backoff,
    /// `reconnect.backoff.ms` to `.max.ms`: doubles each time that all of a broker's addresses failed (KIP-144).
    pub(crate) reconnect_backoff: Backoff,
    /// Which of a name's addresses are tried.
    pub(crate) address_family: AddressFamily,
}

/// The way to one broker. Its addresses are tried in turn, each once and the next one as soon as the last one failed or
/// hesitates; then comes the back-off, and the name is resolved again, as it is after a connection was lost (KIP-302,
/// KIP-602): addresses behind a name change when brokers are replaced.
///
/// How many attempts are under way is the caller's to know, since it may stop at any time.
#[derive(Debug)]
pub(super) struct Dialer {
    policy: DialPolicy,
    /// Addresses not tried yet. `None` stands for the name itself, where nobody resolves it.
    untried: VecDeque<Option<SocketAddr>>,
    /// How often in a row every address failed.
    failures: u32,
    /// How many rounds of attempts in a row ended for lack of an answer.
    timeouts: u32,
    /// Whether an attempt of this round did.
    timed_out: bool,
    /// When the last attempt began, if it is not known to have failed.
    began_at: Option<Instant>,
    retry_at: Option<Instant>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    Wait {
        until: Instant,
    },
    Resolve {
        within: Duration,
    },
    /// Begin an attempt.
    Connect {
        to: Option<SocketAddr>,
        within: Duration,
    },
    /// Wait for the attempts that are under way; look again at that time.
    Hold {
        until: Option<Instant>,
    },
}

/// What to make of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There are other addresses.
    GoOn,
    /// Tell the caller, who may have other brokers to turn to.
    GiveUp,
}

impl Dialer {
    pub(super) fn new(policy: DialPolicy) -> Self {
        Self {
            policy,
            untried: VecDeque::new(),
            failures: 0,
            timeouts: 0,
            timed_out: false,
            began_at: None,
            retry_at: None,
        }
    }

    /// Since or until when the broker may be tried again, if it did not take a connection when it was tried last, or the
    /// back-off still holds. A server that failed stays behind those that did not: bootstrap servers would else never
    /// get their turn while some broker's back-off is over.
    pub(super) fn doubted(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|&at| self.failures > 0 || at > now)
    }

    /// How often in a row every address failed.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Until when nothing is tried, if that is later than `now`.
    pub(super) fn backing_off(&self, now: Instant) -> Option<Instant> {
        self.retry_at.filter(|&at| at > now)
    }

    /// The next step while `open` attempts are under way, with jitter from `unit` in `0.0..1.0`. An address is handed out
    /// once: an attempt that nobody finishes counts as tried.
    pub(super) fn step(&mut self, now: Instant, open: usize, unit: f64) -> Step {
        if open > 0 {
            let next_at = self.began_at.map_or(now, |at| at + ATTEMPT_DELAY);
            let until = (!self.untried.is_empty()).then_some(next_at);
            if until.is_none_or(|at| at > now) {
                return Step::Hold { until };
            }
        } else if let Some(until) = self.backing_off(now) {
            return Step::Wait { until };
        }
        let within = self.policy.setup_timeout.delay(self.timeouts.saturating_add(1), unit);
        match self.untried.pop_front() {
            Some(to) => {
                self.began_at = Some(now);
                Step::Connect { to, within }
            }
            None => Step::Resolve { within },
        }
    }

    /// The name's addresses; none if it is for the connector to resolve.
    pub(super) fn resolved(&mut self, addresses: Vec<SocketAddr>) {
        self.untried = addresses.into_iter().take(MAX_ADDRESSES).map(Some).collect();
        if self.untried.is_empty() {
            self.untried.push_back(None);
        }
    }

    pub(super) fn connected(&mut self) {
        self.failures = 0;
        self.timeouts = 0;
        self.timed_out = false;
        self.retry_at = None;
        self.untried.clear();
    }

    /// The name could not be resolved, or the address did not lead to a broker; `open` attempts are still under way.
    pub(super) fn failed(&mut self, now: Instant, open: usize, timed_out: bool, unit: f64) -> Verdict {
        self.timed_out |= timed_out;
        self.began_at = None;
        let exhausted = self.untried.is_empty();
        // A peer that took the connection and says nothing has no company, and time-outs would add up for a caller who
        // waits for all of them.
        if open > 0 || (!exhausted && !timed_out) {
            return Verdict::GoOn;
        }
        if std::mem::take(&mut self.timed_out) {
            self.timeouts = self.timeouts.saturating_add(1);
        }
        if exhausted {
            self.failures = self.failures.saturating_add(1);
            self.retry_at = Some(now + self.policy.reconnect_backoff.delay(self.failures, unit));
        }
        Verdict::GiveUp
    }

    /// The connection ended at `at`. Also a broker that takes connections and drops them is not to be hammered.
    pub(super) fn lost(&mut self, at: Instant, unit: f64) {
        self.retry_at = Some(at + self.policy.reconnect_backoff.delay(1, unit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy() -> DialPolicy {
        DialPolicy {
            setup_timeout: Backoff::new(Duration::from_secs(10), Duration::from_secs(30)),
            reconnect_backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            address_family: AddressFamily::Any,
        }
    }

    fn dialer() -> Dialer {
        Dialer::new(policy())
    }

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|n| SocketAddr::from(([10, 0, 0, n], 9092))).collect()
    }

    const PLAIN: f64 = 0.5;

    #[test]
    fn every_address_is_tried_before_the_back_off_and_the_name_is_resolved_again_after_it() {
        let (mut dialer, now) = (dialer(), Instant::now());
        let within = Duration::from_secs(10);
        assert_eq!(dialer.step(now, 0, PLAIN), Step::Resolve { within });
        dialer.resolved(addresses(3));
        for (address, verdict) in
            addresses(3).into_iter().zip([Verdict::GoOn, Verdict::GoOn, Verdict::GiveUp])
        {
            assert_eq!(dialer.step(now, 0, PLAIN), Step::Connect { to: Some(address), within });
            assert_eq!(dialer.failed(now, 0, false, PLAIN), verdict);
        }
        let until = now + Duration::from_millis(50);
        assert_eq!(dialer.step(now, 0, PLAIN), Step::Wait { until });
        assert_eq!(dialer.step(until, 0, PLAIN), Step::Resolve { within });
    }

    #[test]
    fn a_broker_that_is_down_is_asked_ever_less_often() {
        let (mut dialer, mut now) = (dialer(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..7 {
            dialer.resolved(addresses(1));
            dialer.step(now, 0, PLAIN);
            assert_eq!(dialer.failed(now, 0, false, PLAIN), Verdict::GiveUp);
            let Step::Wait { until } = dialer.step(now, 0, PLAIN) else { panic!() };
            pauses.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        dialer.connected();
        dialer.lost(now, PLAIN);
        assert_eq!(dialer.backing_off(now), Some(now + Duration::from_millis(50)));
    }

    #[test]
    fn attempts_get_more_time_after_each_that_got_no_answer() {
        let (mut dialer, now) = (dialer(), Instant::now());
        let mut given = Vec::new();
        for _ in 0..4 {
            dialer.retry_at = None;
            dialer.resolved(addresses(2));
            let Step::Connect { within, .. } = dialer.step(now, 0, PLAIN) else { panic!() };
            given.push(within.as_secs());
            // The caller does not wait for the second address too.
            assert_eq!(dialer.failed(now, 0, true, PLAIN), Verdict::GiveUp);
            assert_eq!(dialer.backing_off(now), None);
        }
        assert_eq!(given, [10, 20, 30, 30]);
        dialer.connected();
        assert_eq!(dialer.step(now, 0, PLAIN), Step::Resolve { within: Duration::from_secs(10) });
    }

    #[test]
    fn an_address_that_hesitates_gets_company_and_none_is_given_up_before_all_are() {
        let (mut dialer, now) = (dialer(), Instant::now());
        dialer.resolved(addresses(2));
        let next_at = now + ATTEMPT_DELAY;
        assert!(matches!(dialer.step(now, 0, PLAIN), Step::Connect { .. }));
        assert_eq!(dialer.step(now, 1, PLAIN), Step::Hold { until: Some(next_at) });
        assert!(matches!(dialer.step(next_at, 1, PLAIN), Step::Connect { .. }));
        assert_eq!(dialer.step(next_at, 2, PLAIN), Step::Hold { until: None });
        assert_eq!(dialer.failed(next_at, 1, true, PLAIN), Verdict::GoOn);
        assert_eq!(dialer.failed(next_at, 0, false, PLAIN), Verdict::GiveUp);
        assert_eq!((dialer.failures, dialer.timeouts), (1, 1));
    }

    #[test]
    fn a_name_that_does_not_resolve_is_a_broker_that_is_down() {
        let (mut dialer, now) = (dialer(), Instant::now());
        assert_eq!(dialer.failed(now, 0, false, PLAIN), Verdict::GiveUp);
        assert!(matches!(dialer.step(now, 0, PLAIN), Step::Wait { .. }));
    }

    #[test]
    fn a_connector_that_resolves_nothing_is_given_the_name() {
        let (mut dialer, now) = (dialer(), Instant::now());
        dialer.resolved(Vec::new());
        assert!(matches!(dialer.step(now, 0, PLAIN), Step::Connect { to: None, .. }));
    }

    proptest! {
        /// Whatever happens, no pause and no attempt is longer than configured (and a fifth of jitter), no address is
        /// tried twice between two looks at the name, attempts do not crowd, and all addresses are tried.
        #[test]
        fn attempts_are_bounded_and_fair(
            outcomes in prop::collection::vec((0u8..5, 0.0..1.0f64, 1u8..5), 1..300),
        ) {
            let (mut dialer, mut now) = (dialer(), Instant::now());
            let mut left: Vec<SocketAddr> = Vec::new();
            let mut open = 0;
            let mut began_at = None;
            for (outcome, unit, count) in outcomes {
                match dialer.step(now, open, unit) {
                    Step::Wait { until } => {
                        prop_assert!(open == 0 && until > now && until - now <= Duration::from_millis(1200));
                        now = until;
                    }
                    Step::Resolve { within } => {
                        prop_assert!(left.is_empty() && open == 0, "{left:?} were not tried");
                        prop_assert!(within <= Duration::from_secs(36));
                        if outcome == 0 {
                            prop_assert_eq!(dialer.failed(now, 0, false, unit), Verdict::GiveUp);
                            prop_assert!(dialer.backing_off(now).is_some());
                        } else {
                            left = addresses(count);
                            dialer.resolved(left.clone());
                        }
                    }
                    Step::Connect { to, within } => {
                        prop_assert!(within >= Duration::from_secs(8) && within <= Duration::from_secs(36));
                        prop_assert_eq!(to, Some(left.remove(0)));
                        prop_assert!(open == 0 || began_at.is_none_or(|at| now - at >= ATTEMPT_DELAY));
                        began_at = Some(now);
                        open += 1;
                    }
                    Step::Hold { until } => {
                        prop_assert!(open > 0 && until.is_some() != left.is_empty());
                        match outcome {
                            0 => {
                                dialer.connected();
                                left.clear();
                                open = 0;
                                dialer.lost(now, unit);
                            }
                            1 | 2 => {
                                open -= 1;
                                began_at = None;
                                let verdict = dialer.failed(now, open, outcome == 1, unit);
                                let over = open == 0 && left.is_empty();
                                prop_assert_eq!(dialer.backing_off(now).is_some(), over);
                                prop_assert!(verdict == Verdict::GiveUp || !over);
                            }
                            // The caller gave up.
                            3 => open = 0,
                            _ => now = until.unwrap_or(now),
                        }
                    }
                }
            }
        }
    }
}
