//! What the application's side and the tasks of a share consumer have in common.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::ErrorCode;
use kafka_wire::messages::{ShareAcknowledgeResponse, ShareFetchResponse};
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use super::acknowledgements::{Rounds, Settled, result_of};
use super::answer::{MAX_SAID, Read, read};
use super::builder::Options;
use super::membership::TopicIdPartition;
use super::session::{FetchLimits, Member, Moment, Plan, Session};
use super::{AcknowledgeError, AcknowledgeOutcome, AcknowledgeType, ShareError};
use crate::TopicPartition;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::consumer::ConsumerRecord;
use crate::news::News;

/// Who reads that often is given the next records before the last ones are gone. Somebody slower would only hold locks.
const BRISK: Duration = Duration::from_secs(1);
/// How many outcomes of acknowledgements a slow listener may be behind.
const OUTCOMES: usize = 1024;
/// After this long without another word from the broker, a record's lock has ended (`share.record.lock.duration.ms`), where
/// the broker does not say.
const DEFAULT_LOCK: Duration = Duration::from_secs(30);

pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) options: Options,
    pub(super) member: Member,
    state: Mutex<State>,
    /// Told when there is something to read, or nothing any more.
    readable: Notify,
    /// Told when there is something to do for the tasks of brokers.
    pub(super) work: News<()>,
    pub(super) outcomes: broadcast::Sender<AcknowledgeOutcome>,
}

#[derive(Default)]
struct State {
    assigned: BTreeSet<TopicIdPartition>,
    sessions: BTreeMap<i32, Session>,
    ready: VecDeque<Ready>,
    rounds: Rounds,
    /// Calls that wait for a record.
    readers: usize,
    is_closed: bool,
    failure: Option<ShareError>,
}

/// A record that waits to be read.
pub(super) struct Ready {
    pub(super) record: ConsumerRecord,
    pub(super) delivery_count: i16,
    pub(super) origin: Origin,
    pub(super) came_at: Instant,
    pub(super) until: Instant,
}

/// Who gave a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) broker: i32,
    pub(super) partition: TopicIdPartition,
}

impl Shared {
    pub(super) fn new(client: Client, options: Options, member: Member) -> Self {
        Self {
            client,
            options,
            member,
            state: Mutex::default(),
            readable: Notify::new(),
            work: News::default(),
            outcomes: broadcast::Sender::new(OUTCOMES),
        }
    }

    fn wake(&self) {
        self.work.tell(());
    }

    /// Other partitions are this member's.
    pub(super) fn assign(&self, assigned: &BTreeSet<TopicIdPartition>) {
        self.state.lock().assigned.clone_from(assigned);
        self.wake();
    }

    pub(super) fn assignment(&self) -> BTreeSet<TopicPartition> {
        let cluster = self.client.cluster();
        let assigned = self.state.lock().assigned.clone();
        assigned.into_iter().filter_map(|partition| name(&cluster, partition)).collect()
    }

    /// The brokers that lead partitions of this member, or have to be told something; and whether a leader is unknown.
    pub(super) fn brokers(&self, cluster: &Cluster) -> (BTreeSet<i32>, bool) {
        let state = self.state.lock();
        let leaders: Vec<Option<i32>> =
            state.assigned.iter().map(|partition| leader(cluster, *partition)).collect();
        let mut brokers: BTreeSet<i32> = leaders.iter().flatten().copied().collect();
        brokers.extend(state.sessions.keys());
        (brokers, leaders.contains(&None))
    }

    /// What to send to a broker next.
    pub(super) fn plan(&self, broker: i32, now: Instant) -> Plan {
        let cluster = self.client.cluster();
        let limits = FetchLimits {
            max_wait: self.options.fetch_max_wait,
            min_bytes: self.options.fetch_min_bytes,
            max_bytes: self.options.fetch_max_bytes,
            max_records: self.options.max_records,
            is_strict: self.options.is_strict,
        };
        let mut state = self.state.lock();
        let state = &mut *state;
        let wanted =
            state.assigned.iter().copied().filter(|partition| leader(&cluster, *partition) == Some(broker));
        let wanted = wanted.collect();
        let half = usize::try_from(self.options.max_records / 2).unwrap_or(0);
        let is_brisk = state.ready.front().is_none_or(|ready| now < ready.came_at + BRISK);
        let wants_records = state.failure.is_none()
            && match state.ready.is_empty() {
                true => state.readers > 0,
                false => state.ready.len() < half && is_brisk,
            };
        let moment = Moment {
            now,
            wanted: &wanted,
            wants_records,
            is_awaited: state.rounds.is_awaited(),
            // What nobody is known to lead may be where it was.
            is_ours: &|partition| leader(&cluster, partition).is_none_or(|leader| leader == broker),
        };
        let session = state.sessions.entry(broker).or_default();
        let (plan, failed) = session.plan(&self.member, &limits, &moment);
        self.settle(state, failed, None);
        plan
    }

    /// The last request to a broker.
    pub(super) fn plan_close(
        &self,
        broker: i32,
        now: Instant,
    ) -> Option<kafka_wire::messages::ShareAcknowledgeRequest> {
        let mut state = self.state.lock();
        let (request, failed) = state.sessions.entry(broker).or_default().close(&self.member, now);
        self.settle(&mut state, failed, None);
        request
    }

    /// A fetch was answered. An error: the session with the broker is lost, or its metadata is not true any more.
    pub(super) fn fetched(
        &self,
        broker: i32,
        response: ShareFetchResponse,
        now: Instant,
    ) -> Result<(), ErrorCode> {
        let cluster = self.client.cluster();
        let lock = lock_duration(response.acquisition_lock_timeout_ms);
        let mut state = self.state.lock();
        let state = &mut *state;
        let session = state.sessions.entry(broker).or_default();
        let code = ErrorCode::from(response.error_code);
        if code != ErrorCode::None {
            let settled = session.refused(code, now);
            self.settle(state, settled, None);
            return Err(code);
        }
        // Nothing is taken that was not asked for, and no partition twice.
        let mut asked = session.answered_fetch();
        let mut left_to_say = MAX_SAID;
        let mut settled = Vec::new();
        let mut stale = None;
        let mut gaps = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                let partition = (topic.topic_id, data.partition_index);
                settled.extend(session.queue.settle(partition, &result_of(data.acknowledge_error_code)));
                match ErrorCode::from(data.error_code) {
                    ErrorCode::None => {}
                    code => stale = Some(code),
                }
                let Some(named) = name(&cluster, partition).filter(|_| asked.remove(&partition)) else {
                    continue;
                };
                let origin = Origin { broker, partition };
                // The locks began a moment before; the broker's clock decides.
                let until = now + lock;
                for read in read(&named, data, self.options.max_decompressed, &mut left_to_say) {
                    match read {
                        Read::Record(record, delivery_count) => state.ready.push_back(Ready {
                            record,
                            delivery_count,
                            origin,
                            came_at: now,
                            until,
                        }),
                        Read::Nothing(offset, kind) => gaps.push((partition, offset, kind, until)),
                    }
                }
            }
        }
        // Kafka names every partition that was acknowledged; what it left out it took.
        settled.extend(session.queue.settle_all(&Ok(())));
        for (partition, offset, kind, until) in gaps {
            let said = state.rounds.say(kind, until, None);
            settled.extend(session.queue.push(partition, offset, said, now));
        }
        self.settle(state, settled, None);
        if !state.ready.is_empty() {
            self.readable.notify_waiters();
        }
        stale.map_or(Ok(()), Err)
    }

    /// An acknowledgement was answered.
    pub(super) fn acknowledged(
        &self,
        broker: i32,
        response: &ShareAcknowledgeResponse,
        now: Instant,
    ) -> Result<(), ErrorCode> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let session = state.sessions.entry(broker).or_default();
        let code = ErrorCode::from(response.error_code);
        let renewed_until = now + lock_duration(response.acquisition_lock_timeout_ms);
        if code != ErrorCode::None {
            let settled = session.refused(code, now);
            self.settle(state, settled, None);
            return Err(code);
        }
        session.answered();
        let mut settled = Vec::new();
        for topic in &response.responses {
            for data in &topic.partitions {
                let partition = (topic.topic_id, data.partition_index);
                settled.extend(session.queue.settle(partition, &result_of(data.error_code)));
            }
        }
        settled.extend(session.queue.settle_all(&Ok(())));
        self.settle(state, settled, Some(renewed_until));
        Ok(())
    }

    /// No answer came from a broker.
    pub(super) fn lost(&self, broker: i32, reason: &str) {
        let mut state = self.state.lock();
        // The broker ends the session with its connection: what nobody has seen yet is anybody's again.
        state.ready.retain(|ready| ready.origin.broker != broker);
        let settled = state.sessions.entry(broker).or_default().lost(reason);
        self.settle(&mut state, settled, None);
    }

    fn settle(&self, state: &mut State, settled: Vec<Settled>, renewed_until: Option<Instant>) {
        if settled.is_empty() {
            return;
        }
        let cluster = self.client.cluster();
        let mut rest = settled;
        for settled in &mut rest {
            if let Some(renewed) = settled.said.renewed.take() {
                let until = renewed_until.unwrap_or(settled.said.until);
                // Who does not wait any more is not told.
                let _ = renewed.send(settled.result.clone().map(|()| until));
            }
        }
        for outcome in state.rounds.settled(rest, |partition| name(&cluster, partition)) {
            if let Err(error) = &outcome.result {
                tracing::debug!(partition = %outcome.partition, first = outcome.first, last = outcome.last, %error, "not acknowledged");
            }
            // Nobody has to listen.
            let _ = self.outcomes.send(outcome);
        }
    }

    /// The next record, if there is one. `Err(None)`: not now; `Err(Some(..))`: never again.
    pub(super) fn take(&self, now: Instant) -> Result<Ready, Option<Result<(), ShareError>>> {
        let mut state = self.state.lock();
        while let Some(ready) = state.ready.pop_front() {
            // Somebody else may have it by now.
            if ready.until > now {
                let is_low = state.ready.len() == usize::try_from(self.options.max_records / 2).unwrap_or(0);
                drop(state);
                if is_low {
                    self.wake();
                }
                return Ok(ready);
            }
        }
        match (&state.failure, state.is_closed) {
            (Some(failure), _) => Err(Some(Err(failure.clone()))),
            (None, true) => Err(Some(Ok(()))),
            (None, false) => Err(None),
        }
    }

    /// Waits for a record, or for the end of them.
    pub(super) async fn next(self: &Arc<Self>) -> Result<Option<Ready>, ShareError> {
        loop {
            let mut readable = std::pin::pin!(self.readable.notified());
            readable.as_mut().enable();
            match self.take(Instant::now()) {
                Ok(ready) => return Ok(Some(ready)),
                Err(Some(end)) => return end.map(|()| None),
                Err(None) => {}
            }
            let _reading = Reading::new(self);
            readable.await;
        }
    }

    /// Says something of a record to the broker that gave it.
    pub(super) fn say(
        &self,
        origin: Origin,
        offset: i64,
        kind: AcknowledgeType,
        until: Instant,
        renewed: Option<tokio::sync::oneshot::Sender<Result<Instant, AcknowledgeError>>>,
    ) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let wakes = renewed.is_some();
        let now = Instant::now();
        let said = state.rounds.say(kind, until, renewed);
        if state.is_closed {
            let partition = origin.partition;
            let settled = Settled { partition, offset, said, result: Err(AcknowledgeError::Closed) };
            self.settle(state, vec![settled], None);
            return;
        }
        let session = state.sessions.entry(origin.broker).or_default();
        let is_first = !session.queue.is_waiting();
        let superseded = session.queue.push(origin.partition, offset, said, now);
        self.settle(state, superseded.into_iter().collect(), None);
        if is_first || wakes {
            self.wake();
        }
    }

    pub(super) fn commit(&self) -> tokio::sync::oneshot::Receiver<Vec<AcknowledgeOutcome>> {
        let receiver = self.state.lock().rounds.commit();
        self.wake();
        receiver
    }

    pub(super) fn fail(&self, failure: ShareError) {
        let mut state = self.state.lock();
        state.failure.get_or_insert(failure);
        drop(state);
        self.readable.notify_waiters();
    }

    /// No more records; what is said from now on reaches nobody.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.ready.clear();
        drop(state);
        self.readable.notify_waiters();
    }

    /// Everybody who still waits learns that nothing will be said any more.
    pub(super) fn give_up(&self) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let error = AcknowledgeError::Closed;
        let settled = state.sessions.values_mut().flat_map(|session| session.queue.give_up(&error)).collect();
        self.settle(state, settled, None);
    }
}

/// A call that waits for a record: only while there is one is anything fetched.
struct Reading<'a>(&'a Shared);

impl<'a> Reading<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.state.lock().readers += 1;
        shared.wake();
        Self(shared)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.state.lock().readers -= 1;
    }
}

fn lock_duration(timeout_ms: i32) -> Duration {
    match u64::try_from(timeout_ms) {
        Ok(millis @ 1..) => Duration::from_millis(millis),
        _ => DEFAULT_LOCK,
    }
}

fn name(cluster: &Cluster, (topic_id, partition): TopicIdPartition) -> Option<TopicPartition> {
    let topic = cluster.topic_by_id(topic_id)?;
    Some(TopicPartition::new(Arc::clone(&topic.name), partition))
}

fn leader(cluster: &Cluster, (topic_id, partition): TopicIdPartition) -> Option<i32> {
    cluster.topic_by_id(topic_id)?.partition(partition)?.leader
}
