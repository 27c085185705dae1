//! A share session with one broker: what the next request to it is, and what its answer means. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_wire::messages::share_acknowledge_request::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch as AcknowledgeBatch,
};
use kafka_wire::messages::share_fetch_request::{
    AcknowledgementBatch as FetchBatch, FetchPartition, FetchTopic, ForgottenTopic,
};
use kafka_wire::messages::{ShareAcknowledgeRequest, ShareFetchRequest};
use kafka_wire::{ErrorCode, StrBytes};
use tokio::time::Instant;

use super::AcknowledgeError;
use super::acknowledgements::{Queue, SaidRun, Settled};
use super::membership::TopicIdPartition;

/// The epoch that closes a session.
const FINAL_EPOCH: i32 = -1;
/// Acknowledgements wait this long for a fetch that takes them along.
const LINGER: Duration = Duration::from_millis(100);

/// What a fetch asks for.
#[derive(Debug, Clone)]
pub(super) struct FetchLimits {
    pub(super) max_wait: Duration,
    pub(super) min_bytes: i32,
    pub(super) max_bytes: i32,
    pub(super) max_records: i32,
    /// Not one record more than `max_records` (KIP-1206).
    pub(super) is_strict: bool,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) group: StrBytes,
    pub(super) id: StrBytes,
}

#[derive(Debug)]
pub(super) enum Plan {
    Fetch(ShareFetchRequest),
    Acknowledge(ShareAcknowledgeRequest),
    /// Until something changes, or then.
    Wait(Option<Instant>),
}

/// What the moment asks of a session.
pub(super) struct Moment<'a> {
    pub(super) now: Instant,
    /// What this broker leads of the member's partitions.
    pub(super) wanted: &'a BTreeSet<TopicIdPartition>,
    /// The application wants records.
    pub(super) wants_records: bool,
    /// Somebody waits for what becomes of acknowledgements.
    pub(super) is_awaited: bool,
    /// Whether the broker still leads a partition.
    pub(super) is_ours: &'a dyn Fn(TopicIdPartition) -> bool,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    /// What the next request says; 0: there is no session.
    epoch: i32,
    /// What the broker knows that we fetch.
    known: BTreeSet<TopicIdPartition>,
    /// What it will know once the request in flight is answered.
    asked: BTreeSet<TopicIdPartition>,
    pub(super) queue: Queue,
}

impl Session {
    /// The next request, and what of the acknowledgements cannot be sent any more.
    pub(super) fn plan(
        &mut self,
        member: &Member,
        limits: &FetchLimits,
        moment: &Moment<'_>,
    ) -> (Plan, Vec<Settled>) {
        let late = self.queue.take_late(moment.now, moment.is_ours);
        (self.plan_rest(member, limits, moment), late)
    }

    fn plan_rest(&mut self, member: &Member, limits: &FetchLimits, moment: &Moment<'_>) -> Plan {
        let wants_fetch = moment.wants_records && !moment.wanted.is_empty();
        let is_due = self.due_at().is_some_and(|due_at| moment.now >= due_at);
        let must_say = self.queue.is_waiting() && (moment.is_awaited || is_due || self.queue.renews());
        if self.epoch == 0 {
            // A session is opened by a fetch, which cannot acknowledge yet.
            return match wants_fetch || must_say {
                true => Plan::Fetch(self.open(member, limits, moment, wants_fetch)),
                false => Plan::Wait(self.due_at()),
            };
        }
        // What is not fetched any more is acknowledged on its own, so that the session does not take it up again; what
        // renews is not to wait for records.
        let rides_along = wants_fetch && !self.queue.renews() && self.queue.is_about(moment.wanted);
        if !rides_along && (must_say || wants_fetch) {
            let renews = self.queue.renews();
            let runs = self.queue.take(moment.now);
            return Plan::Acknowledge(self.acknowledge(member, self.epoch, &runs, renews));
        }
        match wants_fetch {
            true => {
                let runs = self.queue.take(moment.now);
                Plan::Fetch(self.fetch(member, limits, moment.wanted, &runs))
            }
            false => Plan::Wait(self.due_at()),
        }
    }

    /// The request that ends the session with the last acknowledgements; what the member holds besides is released.
    pub(super) fn close(
        &mut self,
        member: &Member,
        now: Instant,
    ) -> (Option<ShareAcknowledgeRequest>, Vec<Settled>) {
        if self.epoch == 0 {
            return (None, self.queue.give_up(&AcknowledgeError::Closed));
        }
        let renews = self.queue.renews();
        let failed = self.queue.take_late(now, |_| true);
        let runs = self.queue.take(now);
        (Some(self.acknowledge(member, FINAL_EPOCH, &runs, renews)), failed)
    }

    /// A request was answered without an error of the session.
    pub(super) fn answered(&mut self) {
        self.epoch = self.epoch.checked_add(1).unwrap_or(1);
    }

    /// A fetch was. Returns the partitions it was about.
    pub(super) fn answered_fetch(&mut self) -> BTreeSet<TopicIdPartition> {
        self.answered();
        self.known = std::mem::take(&mut self.asked);
        self.known.clone()
    }

    /// The broker refused the request as a whole. Returns what became of the acknowledgements in it.
    pub(super) fn refused(&mut self, code: ErrorCode, now: Instant) -> Vec<Settled> {
        self.forget();
        match code {
            // It has not looked at them: its session is not ours. They go out in a new one.
            ErrorCode::ShareSessionNotFound
            | ErrorCode::InvalidShareSessionEpoch
            | ErrorCode::ShareSessionLimitReached => self.queue.put_back(now),
            code => self.queue.settle_all(&Err(AcknowledgeError::Refused { code })),
        }
    }

    /// No answer came.
    pub(super) fn lost(&mut self, reason: &str) -> Vec<Settled> {
        self.forget();
        self.queue.settle_all(&Err(AcknowledgeError::Unanswered { reason: reason.to_owned() }))
    }

    fn forget(&mut self) {
        self.epoch = 0;
        self.known.clear();
        self.asked.clear();
    }

    fn due_at(&self) -> Option<Instant> {
        self.queue.since.map(|since| since + LINGER)
    }

    fn open(
        &mut self,
        member: &Member,
        limits: &FetchLimits,
        moment: &Moment<'_>,
        wants_fetch: bool,
    ) -> ShareFetchRequest {
        self.known.clear();
        let mut request = self.fetch(member, limits, moment.wanted, &BTreeMap::new());
        if !wants_fetch {
            // Only to have a session to acknowledge in.
            request.max_wait_ms = 0;
            request.max_records = 0;
        }
        request
    }

    fn fetch(
        &mut self,
        member: &Member,
        limits: &FetchLimits,
        wanted: &BTreeSet<TopicIdPartition>,
        runs: &BTreeMap<TopicIdPartition, Vec<SaidRun>>,
    ) -> ShareFetchRequest {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for partition in wanted.difference(&self.known).chain(runs.keys()).collect::<BTreeSet<_>>() {
            let batches = runs.get(partition).into_iter().flatten().map(|run| {
                FetchBatch::default()
                    .with_first_offset(run.first)
                    .with_last_offset(run.last)
                    .with_acknowledge_types(vec![run.kind.code()])
            });
            let listed = FetchPartition::default()
                .with_partition_index(partition.1)
                .with_acknowledgement_batches(batches.collect());
            match topics.last_mut() {
                Some(topic) if topic.topic_id == partition.0 => topic.partitions.push(listed),
                _ => topics
                    .push(FetchTopic::default().with_topic_id(partition.0).with_partitions(vec![listed])),
            }
        }
        let mut forgotten: Vec<ForgottenTopic> = Vec::new();
        for partition in self.known.difference(wanted) {
            match forgotten.last_mut() {
                Some(topic) if topic.topic_id == partition.0 => topic.partitions.push(partition.1),
                _ => forgotten.push(
                    ForgottenTopic::default().with_topic_id(partition.0).with_partitions(vec![partition.1]),
                ),
            }
        }
        self.asked = wanted.clone();
        ShareFetchRequest::default()
            .with_group_id(Some(member.group.clone()))
            .with_member_id(Some(member.id.clone()))
            .with_share_session_epoch(self.epoch)
            .with_max_wait_ms(i32::try_from(limits.max_wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(limits.min_bytes)
            .with_max_bytes(limits.max_bytes)
            .with_max_records(limits.max_records)
            .with_batch_size(limits.max_records)
            .with_share_acquire_mode(i8::from(limits.is_strict))
            .with_topics(topics)
            .with_forgotten_topics_data(forgotten)
    }

    fn acknowledge(
        &self,
        member: &Member,
        epoch: i32,
        runs: &BTreeMap<TopicIdPartition, Vec<SaidRun>>,
        renews: bool,
    ) -> ShareAcknowledgeRequest {
        let mut topics: Vec<AcknowledgeTopic> = Vec::new();
        for (partition, runs) in runs {
            let batches = runs.iter().map(|run| {
                AcknowledgeBatch::default()
                    .with_first_offset(run.first)
                    .with_last_offset(run.last)
                    .with_acknowledge_types(vec![run.kind.code()])
            });
            let listed = AcknowledgePartition::default()
                .with_partition_index(partition.1)
                .with_acknowledgement_batches(batches.collect());
            match topics.last_mut() {
                Some(topic) if topic.topic_id == partition.0 => topic.partitions.push(listed),
                _ => topics.push(
                    AcknowledgeTopic::default().with_topic_id(partition.0).with_partitions(vec![listed]),
                ),
            }
        }
        ShareAcknowledgeRequest::default()
            .with_group_id(Some(member.group.clone()))
            .with_member_id(Some(member.id.clone()))
            .with_share_session_epoch(epoch)
            .with_is_renew_ack(renews)
            .with_topics(topics)
    }
}

#[cfg(test)]
mod tests {
    use kafka_wire::Uuid;

    use super::super::AcknowledgeType;
    use super::super::acknowledgements::Rounds;
    use super::*;

    const A: TopicIdPartition = (Uuid::from_u128(1), 0);
    const B: TopicIdPartition = (Uuid::from_u128(1), 1);

    struct Fixture {
        session: Session,
        rounds: Rounds,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Self { session: Session::default(), rounds: Rounds::default(), now: Instant::now() }
        }

        fn plan(
            &mut self,
            wanted: &[TopicIdPartition],
            wants_records: bool,
            is_awaited: bool,
        ) -> (Plan, Vec<Settled>) {
            let member = Member { group: StrBytes::from_static_str("g"), id: StrBytes::from_static_str("m") };
            let limits = FetchLimits {
                max_wait: Duration::from_millis(500),
                min_bytes: 1,
                max_bytes: 1 << 20,
                max_records: 500,
                is_strict: false,
            };
            let wanted = wanted.iter().copied().collect();
            let moment =
                Moment { now: self.now, wanted: &wanted, wants_records, is_awaited, is_ours: &|_| true };
            self.session.plan(&member, &limits, &moment)
        }

        fn fetch(&mut self, wanted: &[TopicIdPartition]) -> ShareFetchRequest {
            match self.plan(wanted, true, false).0 {
                Plan::Fetch(request) => request,
                other => panic!("{other:?}"),
            }
        }

        fn say(&mut self, partition: TopicIdPartition, offset: i64, kind: AcknowledgeType) {
            let said = self.rounds.say(kind, self.now + Duration::from_secs(30), None);
            self.session.queue.push(partition, offset, said, self.now);
        }
    }

    #[test]
    fn a_session_names_partitions_once_and_forgets_those_that_went() {
        let mut it = Fixture::new();
        let first = it.fetch(&[A, B]);
        assert_eq!((first.share_session_epoch, first.topics[0].partitions.len()), (0, 2));
        it.session.answered_fetch();
        let second = it.fetch(&[A]);
        assert_eq!((second.share_session_epoch, second.topics.len()), (1, 0));
        assert_eq!(second.forgotten_topics_data[0].partitions, [1]);
        it.session.answered_fetch();
        assert!(it.fetch(&[A]).forgotten_topics_data.is_empty());
    }

    #[test]
    fn acknowledgements_ride_along_with_a_fetch_and_go_alone_when_there_is_none() {
        let mut it = Fixture::new();
        it.fetch(&[A]);
        it.session.answered_fetch();
        it.say(A, 5, AcknowledgeType::Accept);
        let fetch = it.fetch(&[A]);
        assert_eq!(fetch.topics[0].partitions[0].acknowledgement_batches[0].first_offset, 5);
        assert_eq!(it.session.queue.settle(A, &Ok(())).len(), 1);
        it.session.answered_fetch();
        it.say(A, 6, AcknowledgeType::Accept);
        // Nobody wants records: it waits a moment for a fetch, then goes alone; at once if somebody waits for it.
        let (Plan::Wait(Some(at)), _) = it.plan(&[A], false, false) else { panic!("not waiting") };
        assert_eq!(at, it.now + LINGER);
        it.now = at;
        let (Plan::Acknowledge(alone), _) = it.plan(&[A], false, false) else { panic!("still waiting") };
        assert_eq!(alone.topics[0].partitions[0].acknowledgement_batches[0].first_offset, 6);
    }

    #[test]
    fn what_is_not_fetched_any_more_and_what_renews_is_acknowledged_alone() {
        let mut it = Fixture::new();
        it.fetch(&[A, B]);
        it.session.answered_fetch();
        it.say(B, 1, AcknowledgeType::Accept);
        assert!(matches!(it.plan(&[A], true, false).0, Plan::Acknowledge(_)));
        it.session.queue.settle_all(&Ok(()));
        it.session.answered();
        it.say(A, 2, AcknowledgeType::Renew);
        let (Plan::Acknowledge(renewal), _) = it.plan(&[A], true, false) else { panic!("not alone") };
        assert!(renewal.is_renew_ack);
    }

    #[test]
    fn a_lost_session_is_opened_again_and_what_was_not_looked_at_goes_out_in_it() {
        let mut it = Fixture::new();
        it.fetch(&[A]);
        it.session.answered_fetch();
        it.say(A, 5, AcknowledgeType::Accept);
        it.fetch(&[A]);
        assert!(it.session.refused(ErrorCode::ShareSessionNotFound, it.now).is_empty());
        let opening = it.fetch(&[A]);
        assert_eq!(
            (opening.share_session_epoch, opening.topics[0].partitions[0].acknowledgement_batches.len()),
            (0, 0)
        );
        it.session.answered_fetch();
        assert_eq!(it.fetch(&[A]).topics[0].partitions[0].acknowledgement_batches.len(), 1);
        let lost = it.session.lost("cut");
        assert!(matches!(lost[0].result, Err(AcknowledgeError::Unanswered { .. })));
    }

    #[test]
    fn closing_says_the_last_word_and_without_a_session_there_is_nobody_to_say_it_to() {
        let mut it = Fixture::new();
        let member = Member { group: StrBytes::from_static_str("g"), id: StrBytes::from_static_str("m") };
        it.say(A, 5, AcknowledgeType::Accept);
        let (none, failed) = it.session.close(&member, it.now);
        assert!(none.is_none());
        assert_eq!(failed[0].result, Err(AcknowledgeError::Closed));
        it.fetch(&[A]);
        it.session.answered_fetch();
        it.say(A, 6, AcknowledgeType::Accept);
        let (close, _) = it.session.close(&member, it.now);
        let close = close.unwrap();
        assert_eq!((close.share_session_epoch, close.topics.len()), (-1, 1));
    }
}
