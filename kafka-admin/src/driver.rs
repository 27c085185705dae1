//! Asks brokers until every item of an operation is settled or the time is over.
//!
//! [`Rounds`] decides; [`drive`] owns the clock and the requests.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use kafka_client::{Client, RequestError, TopicPartition};
use kafka_wire::{ErrorCode, StrBytes};
use tokio::time::Instant;

use crate::{AdminError, ConfigResource, ItemResults, Resource};

/// The first pause before asking again; it doubles up to [`RETRY_MAX`] (`retry.backoff.ms`, KIP-580). Without jitter:
/// administrators do not come in herds.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Whether a request whose answer was lost may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It only reads.
    Read,
    /// It changes something: a second one could be refused because the first one worked.
    Write,
}

/// A broker's refusal of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: Option<String>,
    /// What was refused, where it is more than the item: the group that the item belongs to.
    pub(crate) resource: Option<Resource>,
}

impl Refusal {
    /// `Ok` for code 0.
    pub(crate) fn check(code: i16, message: Option<StrBytes>) -> Result<(), Self> {
        let code = ErrorCode::from(code);
        let message = message.map(|text| text.to_string()).filter(|text| !text.is_empty());
        code.into_result().map_err(|code| Self { code, message, resource: None })
    }

    /// The refusal of something larger than the item.
    pub(crate) fn of(self, resource: Resource) -> Self {
        Self { resource: Some(resource), ..self }
    }

    /// Whether the reason passes by itself, so that asking again soon is what the caller wants.
    ///
    /// Narrower than [`ErrorCode::is_retriable`]: an unknown topic is news to an administrator, and a change that timed
    /// out may have been made.
    pub(crate) fn passes(&self) -> bool {
        self.is_stale()
            || matches!(
                self.code,
                ErrorCode::CoordinatorLoadInProgress
                    | ErrorCode::CoordinatorNotAvailable
                    | ErrorCode::NotCoordinator
                    | ErrorCode::ThrottlingQuotaExceeded
                    | ErrorCode::ConcurrentTransactions
                    | ErrorCode::RebalanceInProgress
                    | ErrorCode::UnstableOffsetCommit
            )
    }

    /// Whether the wrong broker was asked.
    fn is_stale(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::NotController
                | ErrorCode::LeaderNotAvailable
                | ErrorCode::NotLeaderOrFollower
                | ErrorCode::ReplicaNotAvailable
                | ErrorCode::FencedLeaderEpoch
                | ErrorCode::UnknownLeaderEpoch
        )
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None, resource: None }
    }
}

/// What one request says about the items it was about.
pub(crate) type Answers<K, V> = Vec<(K, Result<V, Refusal>)>;

/// An item that results are kept by.
pub(crate) trait Key: Clone + Eq + Hash + fmt::Debug {
    fn resource(&self) -> Resource;
}

/// A topic's name.
impl Key for String {
    fn resource(&self) -> Resource {
        Resource::Topic(self.clone())
    }
}

impl Key for TopicPartition {
    fn resource(&self) -> Resource {
        Resource::Partition(self.clone())
    }
}

impl Key for ConfigResource {
    fn resource(&self) -> Resource {
        self.clone().into()
    }
}

/// Operations on the whole cluster have one item.
impl Key for () {
    fn resource(&self) -> Resource {
        Resource::Cluster
    }
}

#[derive(Debug)]
struct Item<K, V> {
    key: K,
    settled: Option<Result<V, AdminError>>,
    /// Why it was not settled by the last request.
    passing: Option<Refusal>,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Ask,
    WaitUntil(Instant),
    Done,
}

/// The items of an operation and what is known of each. Owns no socket and reads no clock.
#[derive(Debug)]
pub(crate) struct Rounds<K, V> {
    items: Vec<Item<K, V>>,
    places: HashMap<K, usize>,
    effect: Effect,
    waited: Duration,
    deadline: Instant,
    failures: u32,
    ask_at: Instant,
    /// Set by the last request: metadata should be refreshed before the next one.
    stale: bool,
    /// The last request that went unanswered, for items of which nothing else is known.
    unanswered: Option<RequestError>,
}

impl<K: Key, V> Rounds<K, V> {
    pub(crate) fn new(
        keys: impl IntoIterator<Item = K>,
        effect: Effect,
        waited: Duration,
        now: Instant,
    ) -> Self {
        let mut rounds = Self {
            items: Vec::new(),
            places: HashMap::new(),
            effect,
            waited,
            deadline: now + waited,
            failures: 0,
            ask_at: now,
            stale: false,
            unanswered: None,
        };
        for key in keys {
            let place = rounds.items.len();
            if let Entry::Vacant(vacant) = rounds.places.entry(key.clone()) {
                vacant.insert(place);
                rounds.items.push(Item { key, settled: None, passing: None });
            }
        }
        rounds
    }

    /// The items that the next request is about.
    pub(crate) fn open(&self) -> Vec<K> {
        self.items.iter().filter(|item| item.settled.is_none()).map(|item| item.key.clone()).collect()
    }

    pub(crate) fn poll(&mut self, now: Instant) -> Step {
        if self.items.iter().all(|item| item.settled.is_some()) {
            return Step::Done;
        }
        if self.failures > 0 && (now >= self.deadline || self.ask_at >= self.deadline) {
            self.give_up();
            return Step::Done;
        }
        if now < self.ask_at { Step::WaitUntil(self.ask_at) } else { Step::Ask }
    }

    /// Takes the answer to a request about [`open`](Self::open) items.
    pub(crate) fn handle_answers(&mut self, answers: Answers<K, V>, now: Instant) {
        let asked: Vec<usize> = (0..self.items.len())
            .filter(|&at| self.items.get(at).is_some_and(|i| i.settled.is_none()))
            .collect();
        self.unanswered = None;
        let mut answered = vec![false; self.items.len()];
        for (key, result) in answers {
            let Some(&at) = self.places.get(&key) else { continue };
            let Some(item) = self.items.get_mut(at) else { continue };
            if let Some(answered) = answered.get_mut(at) {
                *answered = true;
            }
            match result {
                Ok(value) => item.settled = Some(Ok(value)),
                Err(refusal) if refusal.passes() => {
                    self.stale |= refusal.is_stale();
                    item.passing = Some(refusal);
                }
                Err(Refusal { code, message, resource }) => {
                    let resource = resource.unwrap_or_else(|| item.key.resource());
                    item.settled = Some(Err(AdminError::Refused { resource, code, message }));
                }
            }
        }
        for at in asked {
            let known = answered.get(at).copied().unwrap_or_default();
            if let Some(item) = self.items.get_mut(at).filter(|_| !known) {
                item.settled = Some(Err(AdminError::Missing { resource: item.key.resource() }));
            }
        }
        self.back_off(now);
    }

    /// Takes the failure of a request about [`open`](Self::open) items.
    pub(crate) fn handle_failure(&mut self, error: RequestError, now: Instant) {
        let again = match self.effect {
            Effect::Read => error.is_retriable(),
            Effect::Write => error.is_retriable() && !error.possibly_written(),
        };
        // A time-out of the request is the operation's own: there is no time left for another.
        if again && !matches!(error, RequestError::Timeout { .. }) {
            self.stale = true;
            self.unanswered = Some(error);
            self.back_off(now);
            return;
        }
        self.settle_open(|_| AdminError::Request(error.clone()));
    }

    /// Whether metadata should be refreshed before the next request; once.
    pub(crate) fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }

    pub(crate) fn remaining(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    /// The results; `Err` if no broker said anything about any item.
    pub(crate) fn finish(self) -> Result<ItemResults<K, V>, AdminError> {
        let items = self.items.into_iter().filter_map(|item| Some((item.key, item.settled?)));
        ItemResults::if_anybody_answered(items.collect())
    }

    fn back_off(&mut self, now: Instant) {
        let doublings = self.failures.min(10);
        self.failures = self.failures.saturating_add(1);
        self.ask_at = now + RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX);
    }

    fn give_up(&mut self) {
        let (waited, unanswered) = (self.waited, self.unanswered.take());
        self.settle_open(|item| match (&item.passing, &unanswered) {
            (_, Some(error)) => {
                AdminError::Request(RequestError::Timeout { waited, last: Some(Box::new(error.clone())) })
            }
            (Some(Refusal { code, message, resource }), None) => AdminError::Timeout {
                resource: resource.clone().unwrap_or_else(|| item.key.resource()),
                code: *code,
                message: message.clone(),
                waited,
            },
            (None, None) => AdminError::Request(RequestError::Timeout { waited, last: None }),
        });
    }

    fn settle_open(&mut self, error: impl Fn(&Item<K, V>) -> AdminError) {
        for item in self.items.iter_mut().filter(|item| item.settled.is_none()) {
            item.settled = Some(Err(error(item)));
        }
    }
}

/// Runs an operation: `ask` sends one request about some items, in at most the given time.
pub(crate) async fn drive<K: Key, V, F, Fut>(
    client: &Client,
    keys: impl IntoIterator<Item = K>,
    effect: Effect,
    timeout: Duration,
    mut ask: F,
) -> Result<ItemResults<K, V>, AdminError>
where
    F: FnMut(Vec<K>, Duration) -> Fut,
    Fut: Future<Output = Result<Answers<K, V>, RequestError>>,
{
    let mut rounds = Rounds::new(keys, effect, timeout, Instant::now());
    loop {
        let now = Instant::now();
        match rounds.poll(now) {
            Step::Done => return rounds.finish(),
            Step::WaitUntil(at) => tokio::time::sleep_until(at).await,
            Step::Ask => {
                let remaining = rounds.remaining(now);
                if rounds.take_stale() {
                    // If this fails, the request itself fails too and says why.
                    let refresh = client.refresh_topics(std::iter::empty::<&str>());
                    drop(tokio::time::timeout(remaining, refresh).await);
                }
                match ask(rounds.open(), remaining).await {
                    Ok(answers) => rounds.handle_answers(answers, Instant::now()),
                    Err(error) => rounds.handle_failure(error, Instant::now()),
                }
            }
        }
    }
}

/// Runs an operation that has no items, only an answer.
pub(crate) async fn drive_one<V, F, Fut>(
    client: &Client,
    effect: Effect,
    timeout: Duration,
    mut ask: F,
) -> Result<V, AdminError>
where
    F: FnMut(Duration) -> Fut,
    Fut: Future<Output = Result<Result<V, Refusal>, RequestError>>,
{
    let results = drive(client, [()], effect, timeout, |_, remaining| {
        let answer = ask(remaining);
        async move { Ok(vec![((), answer.await?)]) }
    });
    match results.await?.into_iter().next() {
        Some(((), result)) => result,
        None => Err(AdminError::Missing { resource: Resource::Cluster }),
    }
}

/// A time-out as requests carry it.
pub(crate) fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn rounds(names: &[&str], effect: Effect, now: Instant) -> Rounds<String, u32> {
        Rounds::new(names.iter().map(|name| name.to_string()), effect, TIMEOUT, now)
    }

    fn lost() -> RequestError {
        RequestError::Unanswered(kafka_client::ConnectionError::Closed {
            address: kafka_client::net::Address::new("b", 9092),
        })
    }

    fn key(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn an_item_refused_by_the_wrong_controller_is_asked_again_alone_and_after_a_pause() {
        let now = Instant::now();
        let mut rounds = rounds(&["a", "b"], Effect::Write, now);
        assert_eq!(rounds.poll(now), Step::Ask);
        rounds.handle_answers(vec![(key("a"), Ok(1)), (key("b"), Err(ErrorCode::NotController.into()))], now);
        assert_eq!(rounds.open(), ["b"]);
        assert!(rounds.take_stale());
        let at = now + RETRY_FIRST;
        assert_eq!(rounds.poll(now), Step::WaitUntil(at));
        assert_eq!(rounds.poll(at), Step::Ask);
        rounds.handle_answers(vec![(key("b"), Ok(2))], at);
        assert_eq!(rounds.poll(at), Step::Done);
        let all = rounds.finish().unwrap().all().unwrap();
        assert_eq!(all, [(key("a"), 1), (key("b"), 2)]);
    }

    #[test]
    fn pauses_double_and_the_deadline_ends_them_with_the_last_reason() {
        let mut now = Instant::now();
        let start = now;
        let mut rounds = rounds(&["a"], Effect::Write, now);
        let mut asked = 0;
        loop {
            match rounds.poll(now) {
                Step::Ask => {
                    asked += 1;
                    rounds.handle_answers(vec![(key("a"), Err(ErrorCode::NotController.into()))], now);
                }
                Step::WaitUntil(at) => now = at,
                Step::Done => break,
            }
        }
        assert!(now <= start + TIMEOUT);
        // 0.1 + 0.2 + 0.4 + 0.8 s, then one each second.
        assert_eq!(asked, 13);
        let results = rounds.finish().unwrap();
        let error = results.get("a").unwrap().as_ref().unwrap_err();
        assert_eq!(error.to_string(), r#"topic "a": NOT_CONTROLLER (41) for 10s"#);
        assert!(error.is_retriable() && !error.possibly_written());
    }

    #[test]
    fn a_change_whose_answer_was_lost_is_not_made_twice() {
        let now = Instant::now();
        let mut rounds = rounds(&["a"], Effect::Write, now);
        rounds.handle_failure(lost(), now);
        assert_eq!(rounds.poll(now), Step::Done);
        let error = rounds.finish().unwrap_err();
        assert!(error.possibly_written(), "{error}");
    }

    #[test]
    fn a_question_whose_answer_was_lost_is_asked_again() {
        let now = Instant::now();
        let mut rounds = rounds(&["a"], Effect::Read, now);
        rounds.handle_failure(lost(), now);
        let Step::WaitUntil(at) = rounds.poll(now) else { panic!("it should wait") };
        assert_eq!(rounds.poll(at), Step::Ask);
        rounds.handle_answers(vec![(key("a"), Ok(7))], at);
        assert_eq!(rounds.finish().unwrap().all().unwrap(), [(key("a"), 7)]);
    }

    #[test]
    fn an_item_that_the_answer_leaves_out_is_an_error_and_one_that_nobody_asked_for_is_not_a_result() {
        let now = Instant::now();
        let mut rounds = rounds(&["a", "a"], Effect::Write, now);
        rounds.handle_answers(vec![(key("z"), Ok(1))], now);
        assert_eq!(rounds.poll(now), Step::Done);
        let results = rounds.finish().unwrap();
        assert_eq!(results.len(), 1);
        assert!(matches!(results.get("a"), Some(Err(AdminError::Missing { .. }))));
    }

    #[test]
    fn an_unknown_topic_is_an_answer_and_not_a_reason_to_wait() {
        let now = Instant::now();
        let mut rounds = rounds(&["a"], Effect::Read, now);
        rounds.handle_answers(vec![(key("a"), Err(ErrorCode::UnknownTopicOrPartition.into()))], now);
        assert_eq!(rounds.poll(now), Step::Done);
        let results = rounds.finish().unwrap();
        assert_eq!(
            results.get("a").unwrap().as_ref().unwrap_err().code(),
            Some(ErrorCode::UnknownTopicOrPartition)
        );
    }

    #[test]
    fn nothing_asked_is_nothing_answered() {
        let now = Instant::now();
        let mut rounds = rounds(&[], Effect::Read, now);
        assert_eq!(rounds.poll(now), Step::Done);
        assert!(rounds.finish().unwrap().is_empty());
    }

    /// What a broker may say about the open items of one round.
    #[derive(Debug, Clone)]
    enum Said {
        /// For each open item in turn: a value, a lasting refusal, a passing one, or nothing.
        Answers(Vec<u8>),
        Lost,
    }

    fn said() -> impl proptest::strategy::Strategy<Value = Said> {
        use proptest::prelude::*;
        prop_oneof![
            4 => proptest::collection::vec(0u8..4, 0..6).prop_map(Said::Answers),
            1 => Just(Said::Lost),
        ]
    }

    proptest::proptest! {
        /// Whatever brokers say, the operation ends in time with one outcome for each item, in the caller's order, and
        /// an item that is settled is never asked about again.
        #[test]
        fn every_item_gets_one_outcome(
            names in proptest::collection::vec("[a-d]", 0..6),
            script in proptest::collection::vec(said(), 1..8),
            write: bool,
        ) {
            let effect = if write { Effect::Write } else { Effect::Read };
            let start = Instant::now();
            let mut now = start;
            let mut rounds: Rounds<String, usize> = Rounds::new(names.clone(), effect, TIMEOUT, now);
            let mut settled: HashMap<String, usize> = HashMap::new();
            let mut round = 0;
            loop {
                match rounds.poll(now) {
                    Step::Done => break,
                    Step::WaitUntil(at) => now = at,
                    Step::Ask => {
                        let open = rounds.open();
                        for name in &open {
                            proptest::prop_assert!(!settled.contains_key(name), "{name} was asked about again");
                        }
                        match &script[round % script.len()] {
                            Said::Lost => rounds.handle_failure(lost(), now),
                            Said::Answers(answers) => {
                                let answers = open.iter().zip(answers).filter_map(|(name, answer)| {
                                    let result = match answer {
                                        0 => Ok(round),
                                        1 => Err(ErrorCode::InvalidTopicException.into()),
                                        2 => Err(ErrorCode::NotController.into()),
                                        _ => return None,
                                    };
                                    if let Ok(value) = result {
                                        settled.insert(name.clone(), value);
                                    }
                                    Some((name.clone(), result))
                                });
                                let answers = answers.collect();
                                rounds.handle_answers(answers, now);
                            }
                        }
                        round += 1;
                    }
                }
                proptest::prop_assert!(now <= start + TIMEOUT);
            }
            let mut distinct = Vec::new();
            for name in names {
                if !distinct.contains(&name) {
                    distinct.push(name);
                }
            }
            match rounds.finish() {
                Ok(results) => {
                    let got: Vec<_> = results.iter().map(|(name, _)| name.clone()).collect();
                    proptest::prop_assert_eq!(got, distinct);
                    for (name, result) in results {
                        proptest::prop_assert_eq!(result.ok(), settled.get(&name).copied());
                    }
                }
                Err(error) => {
                    proptest::prop_assert!(matches!(error, AdminError::Request(_)));
                    proptest::prop_assert!(settled.is_empty());
                }
            }
        }
    }
}
