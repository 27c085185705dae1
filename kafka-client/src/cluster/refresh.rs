//! When to ask for metadata, about what, and whom. Pure: callers pass `now`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::ErrorCode;
use rustc_hash::FxBuildHasher;
use tokio::time::Instant;

use super::snapshot::Asked;
use crate::backoff::Backoff;
use crate::client::MetadataSnapshot;
use crate::net::RequestError;

/// So many rounds may follow each other at once, as at start-up, where each new topic is a question of its own. More
/// than that is a broker which keeps answering "not leader", and is asked at the pace of the back-off.
const BURST: u32 = 5;

/// What to do when no broker of the cluster can be asked (`metadata.recovery.strategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MetadataRecovery {
    /// Turn to the bootstrap servers again, whose names are resolved anew (KIP-899, KIP-1102).
    #[default]
    Rebootstrap,
    /// Go on trying the brokers that were known last.
    None,
}

#[derive(Debug, Clone)]
pub(crate) struct MetadataConfig {
    /// `metadata.max.age`: the snapshot is refreshed this often even if nobody asks.
    pub(crate) max_age: Duration,
    /// `metadata.max.idle`: a topic that nobody used for this long is forgotten.
    pub(crate) max_idle: Duration,
    pub(crate) retry_backoff: Backoff,
    pub(crate) recovery: MetadataRecovery,
    /// `metadata.recovery.rebootstrap.trigger`: brokers that gave no metadata for this long are given up.
    pub(crate) rebootstrap_trigger: Duration,
}

/// Which servers may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sources {
    /// The cluster's brokers, and the bootstrap servers while none of those can be reached.
    All,
    /// The cluster's brokers; the bootstrap servers only as long as no broker is known.
    Brokers,
    Bootstrap,
}

/// Gathers what is to be asked. A round asks for the topics that somebody misses or doubts (KIP-526); once in
/// `max_age` one asks for all that are in use.
#[derive(Debug)]
pub(super) struct Refresher {
    config: MetadataConfig,
    wanted: bool,
    all: bool,
    topics: BTreeSet<Arc<str>>,
    used_at: HashMap<Arc<str>, Instant, FxBuildHasher>,
    rounds_begun: u64,
    /// When everything in use is asked for again; `None` before the first round.
    full_at: Option<Instant>,
    /// The end of the last round, or of the back-off after it.
    rested_since: Option<Instant>,
    in_a_row: u32,
    failures: u32,
    /// The end of the last good round.
    refreshed_at: Option<Instant>,
    /// When the first round since the last good one began.
    failing_since: Option<Instant>,
    bootstrap_only: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Ask; `unused` topics are not asked for any more and can be forgotten.
    Ask { asked: Asked, unused: Vec<Arc<str>> },
    /// Nothing to do before that time, unless somebody asks.
    Wait { until: Option<Instant> },
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Told,
    /// The brokers are to be forgotten. The same is asked again, of the bootstrap servers, before anybody hears of it.
    Rebootstrap,
    /// The round failed and whoever waits for it is told so; the brokers are to be forgotten.
    FailedAndRebootstrap,
}

impl Refresher {
    pub(super) fn new(config: MetadataConfig) -> Self {
        Self {
            config,
            wanted: false,
            all: false,
            topics: BTreeSet::new(),
            used_at: HashMap::default(),
            rounds_begun: 0,
            full_at: None,
            rested_since: None,
            in_a_row: 0,
            failures: 0,
            refreshed_at: None,
            failing_since: None,
            bootstrap_only: false,
        }
    }

    /// Asks for topics, or for all of the cluster's. The answer is that of the first round with a higher number than
    /// the one returned.
    pub(super) fn ask<'a>(
        &mut self,
        now: Instant,
        topics: impl IntoIterator<Item = &'a Arc<str>>,
        all: bool,
    ) -> u64 {
        self.wanted = true;
        self.all |= all;
        for topic in topics {
            self.topics.insert(topic.clone());
            self.touch(now, topic);
        }
        self.rounds_begun
    }

    /// Keeps a topic among those in use.
    pub(super) fn touch(&mut self, now: Instant, topic: &Arc<str>) {
        match self.used_at.get_mut(topic) {
            Some(at) => *at = now,
            None => drop(self.used_at.insert(topic.clone(), now)),
        }
    }

    /// The number of the round that began last.
    pub(super) fn round(&self) -> u64 {
        self.rounds_begun
    }

    pub(super) fn sources(&self) -> Sources {
        match self.config.recovery {
            _ if self.bootstrap_only => Sources::Bootstrap,
            MetadataRecovery::Rebootstrap => Sources::All,
            MetadataRecovery::None => Sources::Brokers,
        }
    }

    pub(super) fn show(&self, now: Instant) -> MetadataSnapshot {
        let since = |at: Instant| now.saturating_duration_since(at);
        let mut topics_in_use: Vec<_> =
            self.used_at.iter().map(|(topic, &at)| (topic.clone(), since(at))).collect();
        topics_in_use.sort();
        MetadataSnapshot {
            age: self.refreshed_at.map(since),
            failures: self.failures,
            is_wanted: self.wanted,
            is_rebootstrapping: self.bootstrap_only,
            topics_in_use,
        }
    }

    /// What to do now; not to be called between `Step::Ask` and [`answered`](Self::answered).
    pub(super) fn poll(&mut self, now: Instant) -> Step {
        let full = self.full_at.is_some_and(|at| at <= now);
        if !self.wanted && !full {
            return Step::Wait { until: self.full_at };
        }
        if let Some(until) = self.rested_since.filter(|&at| at > now) {
            return Step::Wait { until: Some(until) };
        }
        self.begin(now, full)
    }

    fn begin(&mut self, now: Instant, full: bool) -> Step {
        let pause = self.config.retry_backoff.delay(1, 1.0);
        let calm = self.rested_since.is_none_or(|since| now.saturating_duration_since(since) >= pause);
        self.in_a_row = if calm { 0 } else { self.in_a_row.saturating_add(1) };
        self.rounds_begun += 1;
        self.wanted = false;
        self.failing_since.get_or_insert(now);
        let max_idle = self.config.max_idle;
        let mut topics = std::mem::take(&mut self.topics);
        let is_unused = |topic: &Arc<str>, at: &mut Instant| {
            now.saturating_duration_since(*at) > max_idle && !topics.contains(topic)
        };
        let unused = self.used_at.extract_if(is_unused).map(|(topic, _)| topic).collect();
        let all = std::mem::take(&mut self.all);
        if full || all || self.full_at.is_none() {
            self.full_at = Some(now + self.config.max_age);
        }
        if all {
            return Step::Ask { asked: Asked::All, unused };
        }
        if full {
            topics.extend(self.used_at.keys().cloned());
        }
        Step::Ask { asked: Asked::Topics(topics.into_iter().collect()), unused }
    }

    /// A round is over, well or badly; jitter comes from `unit` in `0.0..1.0`.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        asked: &Asked,
        outcome: Result<(), &RequestError>,
        unit: f64,
    ) -> Verdict {
        let error = match outcome {
            Ok(()) => {
                self.failures = 0;
                self.refreshed_at = Some(now);
                self.failing_since = None;
                self.bootstrap_only = false;
                let crowded = self.in_a_row >= BURST;
                self.rest(now, if crowded { 1 } else { 0 }, unit);
                return Verdict::Told;
            }
            Err(error) => error,
        };
        self.failures = self.failures.saturating_add(1);
        let sent_away = matches!(error, RequestError::Refused { code: ErrorCode::RebootstrapRequired });
        let rebootstraps = self.config.recovery == MetadataRecovery::Rebootstrap;
        if sent_away && rebootstraps && !self.bootstrap_only {
            self.bootstrap_only = true;
            self.ask_again(asked);
            self.rest(now, 0, unit);
            return Verdict::Rebootstrap;
        }
        self.rest(now, self.failures, unit);
        if error.is_retriable() && *asked != Asked::Topics(Vec::new()) && *asked != Asked::All {
            // Whoever only said that the snapshot is stale does not wait, and still needs it.
            self.ask_again(asked);
        }
        let trigger = self.config.rebootstrap_trigger;
        let given_up =
            self.failing_since.is_some_and(|since| now.saturating_duration_since(since) >= trigger);
        if rebootstraps && given_up {
            self.bootstrap_only = true;
            self.failing_since = Some(now);
            return Verdict::FailedAndRebootstrap;
        }
        // Also bootstrap servers can be down while the brokers are back.
        self.bootstrap_only &= sent_away;
        Verdict::Told
    }

    fn ask_again(&mut self, asked: &Asked) {
        self.wanted = true;
        match asked {
            Asked::All => self.all = true,
            Asked::Topics(topics) => self.topics.extend(topics.iter().cloned()),
        }
    }

    /// No round before the back-off of so many failures is over.
    fn rest(&mut self, now: Instant, failures: u32, unit: f64) {
        let pause =
            if failures == 0 { Duration::ZERO } else { self.config.retry_backoff.delay(failures, unit) };
        self.rested_since = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Address, ConnectionError};
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn config() -> MetadataConfig {
        MetadataConfig {
            max_age: 5 * MINUTE,
            max_idle: 5 * MINUTE,
            retry_backoff: Backoff::new(SECOND / 10, SECOND),
            recovery: MetadataRecovery::Rebootstrap,
            rebootstrap_trigger: 5 * MINUTE,
        }
    }

    fn topic(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn lost() -> RequestError {
        RequestError::Unanswered(ConnectionError::Closed { address: Address::new("b", 1) })
    }

    fn refused(code: ErrorCode) -> RequestError {
        RequestError::Refused { code }
    }

    /// What the next round asks for; it must begin now.
    fn asked(refresher: &mut Refresher, now: Instant) -> Asked {
        match refresher.poll(now) {
            Step::Ask { asked, .. } => asked,
            wait => panic!("{wait:?}"),
        }
    }

    fn good(refresher: &mut Refresher, now: Instant) -> Asked {
        let asked = asked(refresher, now);
        assert_eq!(refresher.answered(now, &asked, Ok(()), 0.5), Verdict::Told);
        asked
    }

    fn names(names: &[&str]) -> Asked {
        Asked::Topics(names.iter().map(|name| topic(name)).collect())
    }

    #[test]
    fn a_new_topic_is_asked_for_alone_and_all_in_use_once_in_max_age() {
        let (mut refresher, start) = (Refresher::new(config()), Instant::now());
        refresher.ask(start, [&topic("a")], false);
        assert_eq!(good(&mut refresher, start), names(&["a"]));
        let later = start + 4 * MINUTE;
        refresher.touch(later, &topic("a"));
        refresher.ask(later, [&topic("b")], false);
        assert_eq!(good(&mut refresher, later), names(&["b"]));
        // The question about b did not put off the round for all.
        let full_at = start + 5 * MINUTE;
        assert_eq!(refresher.poll(later), Step::Wait { until: Some(full_at) });
        assert_eq!(good(&mut refresher, full_at), names(&["a", "b"]));
        assert_eq!(refresher.poll(full_at), Step::Wait { until: Some(full_at + 5 * MINUTE) });
    }

    #[test]
    fn a_topic_that_nobody_uses_is_forgotten() {
        let (mut refresher, start) = (Refresher::new(config()), Instant::now());
        refresher.ask(start, [&topic("idle"), &topic("used")], false);
        good(&mut refresher, start);
        refresher.touch(start + 4 * MINUTE, &topic("used"));
        good(&mut refresher, start + 5 * MINUTE);
        refresher.touch(start + 9 * MINUTE, &topic("used"));
        let now = start + 10 * MINUTE;
        let step = refresher.poll(now);
        assert_eq!(step, Step::Ask { asked: names(&["used"]), unused: vec![topic("idle")] });
    }

    #[test]
    fn questions_that_come_in_a_row_are_asked_at_the_pace_of_the_back_off() {
        let (mut refresher, now) = (Refresher::new(config()), Instant::now());
        let mut at_once = 0;
        loop {
            refresher.ask(now, [&topic("t")], false);
            if let Step::Wait { until } = refresher.poll(now) {
                assert_eq!(until, Some(now + SECOND / 10));
                break;
            }
            refresher.answered(now, &names(&["t"]), Ok(()), 0.5);
            at_once += 1;
        }
        assert_eq!(at_once, BURST + 1);
    }

    #[test]
    fn a_failed_round_is_repeated_after_a_back_off_that_doubles() {
        let (mut refresher, mut now) = (Refresher::new(config()), Instant::now());
        refresher.ask(now, [&topic("t")], false);
        for millis in [100, 200, 400, 800, 1000, 1000] {
            let asked = asked(&mut refresher, now);
            assert_eq!(asked, names(&["t"]));
            assert_eq!(refresher.answered(now, &asked, Err(&lost()), 0.5), Verdict::Told);
            let until = now + Duration::from_millis(millis);
            assert_eq!(refresher.poll(now), Step::Wait { until: Some(until) });
            now = until;
        }
        // What no repetition helps is not repeated.
        let question = asked(&mut refresher, now);
        refresher.answered(now, &question, Err(&refused(ErrorCode::ClusterAuthorizationFailed)), 0.5);
        assert!(!refresher.wanted);
    }

    #[test]
    fn a_client_that_is_sent_away_asks_the_bootstrap_servers_at_once_and_nobody_notices() {
        let (mut refresher, now) = (Refresher::new(config()), Instant::now());
        refresher.ask(now, [], true);
        let question = asked(&mut refresher, now);
        let away = refused(ErrorCode::RebootstrapRequired);
        assert_eq!(refresher.answered(now, &question, Err(&away), 0.5), Verdict::Rebootstrap);
        assert_eq!(refresher.sources(), Sources::Bootstrap);
        let again = asked(&mut refresher, now);
        assert_eq!(again, Asked::All);
        // A bootstrap server that sends it away too is an error, and not asked without a pause.
        assert_eq!(refresher.answered(now, &again, Err(&away), 0.5), Verdict::Told);
        refresher.ask(now, [], true);
        assert!(matches!(refresher.poll(now), Step::Wait { .. }));
        assert_eq!(good(&mut refresher, now + SECOND), Asked::All);
        assert_eq!(refresher.sources(), Sources::All);
    }

    #[test]
    fn brokers_that_give_no_metadata_for_the_trigger_are_given_up() {
        let (mut refresher, start) = (Refresher::new(config()), Instant::now());
        refresher.ask(start, [&topic("t")], false);
        let mut now = start;
        let gave_up_at = loop {
            let question = asked(&mut refresher, now);
            now += 30 * SECOND;
            match refresher.answered(now, &question, Err(&lost()), 0.5) {
                Verdict::Told => assert_eq!(refresher.sources(), Sources::All),
                verdict => {
                    assert_eq!(verdict, Verdict::FailedAndRebootstrap);
                    break now;
                }
            }
            now += SECOND;
        };
        assert!((300..340).contains(&(gave_up_at - start).as_secs()), "{:?}", gave_up_at - start);
        assert_eq!(refresher.sources(), Sources::Bootstrap);
        // The bootstrap servers are down as well: from then on whoever answers first.
        now += SECOND;
        let question = asked(&mut refresher, now);
        refresher.answered(now, &question, Err(&lost()), 0.5);
        assert_eq!(refresher.sources(), Sources::All);
    }

    #[test]
    fn without_recovery_the_bootstrap_servers_are_for_the_beginning_only() {
        let config = MetadataConfig {
            recovery: MetadataRecovery::None,
            rebootstrap_trigger: Duration::ZERO,
            ..config()
        };
        let (mut refresher, now) = (Refresher::new(config), Instant::now());
        refresher.ask(now, [&topic("t")], false);
        let question = asked(&mut refresher, now);
        let away = refused(ErrorCode::RebootstrapRequired);
        assert_eq!(refresher.answered(now, &question, Err(&away), 0.5), Verdict::Told);
        assert_eq!(refresher.sources(), Sources::Brokers);
    }

    proptest! {
        /// Whoever asks is in some later round, no topic in use is left out of a full one, rounds are not more frequent
        /// than a burst and the back-off allow, and a question is never lost to a failure.
        #[test]
        fn every_question_is_asked(
            events in prop::collection::vec((0u8..6, 0u8..4, 0u64..400_000, 0.0..1.0f64), 1..300),
        ) {
            let (mut refresher, start) = (Refresher::new(config()), Instant::now());
            let mut now = start;
            let mut open: BTreeSet<Arc<str>> = BTreeSet::new();
            let mut used: HashMap<Arc<str>, Instant> = HashMap::new();
            let mut last_full = None;
            for (event, name, millis, unit) in events {
                let name = topic(&format!("t{name}"));
                match event {
                    0 | 1 => {
                        refresher.ask(now, [&name], false);
                        open.insert(name.clone());
                        used.insert(name, now);
                    }
                    2 => {
                        refresher.touch(now, &name);
                        used.insert(name, now);
                    }
                    3 => now += Duration::from_millis(millis),
                    _ => {}
                }
                match refresher.poll(now) {
                    Step::Wait { until: None } => prop_assert!(open.is_empty()),
                    Step::Wait { until: Some(until) } => {
                        prop_assert!(until > now);
                        prop_assert!(open.is_empty() || until <= now + 2 * SECOND);
                    }
                    Step::Ask { asked: Asked::All, .. } => prop_assert!(false, "nobody asked for all"),
                    Step::Ask { asked: Asked::Topics(topics), unused } => {
                        let full = last_full.is_some_and(|at| now.saturating_duration_since(at) >= 5 * MINUTE);
                        last_full = last_full.filter(|_| !full).or(Some(now));
                        for gone in &unused {
                            prop_assert!(now.saturating_duration_since(used[gone]) > 5 * MINUTE);
                            used.remove(gone);
                        }
                        prop_assert!(open.iter().all(|name| topics.contains(name)));
                        if full {
                            prop_assert!(used.keys().all(|name| topics.contains(name)));
                        } else {
                            prop_assert_eq!(topics.len(), open.len());
                        }
                        let question = Asked::Topics(topics.clone());
                        if event == 5 {
                            refresher.answered(now, &question, Err(&lost()), unit);
                            open.extend(topics);
                        } else {
                            refresher.answered(now, &question, Ok(()), unit);
                            open.clear();
                        }
                    }
                }
            }
        }
    }
}
