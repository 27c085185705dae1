//! The shell of the producer: one task that owns connections and timers, and does what the sender decides.

mod collect;
mod compressors;
mod report;
mod request;
mod transactions;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use kafka_wire::ErrorCode;
use kafka_wire::messages::ProduceResponse;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::compressors::Compressors;
use self::report::Spans;
use self::request::{Standing, produce_request, standing};
pub(crate) use self::transactions::Begun;
use self::transactions::{Desk, TransactionCommand};
use super::Shared;
use super::accumulator::PartitionBuffer;
use super::batch::{Batch, Identity, Lane, Uncompressed};
use super::delivery::Completion;
use super::metrics::Meters;
use super::sender::{Acks, Action, CompressionId, PartAnswer, ProducePlan, RequestId, Sender};
use super::snapshot::ProducerSnapshot;
use super::transaction::core::{Reply, Version};
use crate::backoff::random_u64;
use crate::cluster::{Broker, Cluster};
use crate::net::{Call, Connection, Purpose, RequestError};

/// A smaller batch is compressed on the spot: handing it to another thread takes longer.
const COMPRESS_HERE_UP_TO: usize = 2048;
/// While every connected broker is busy, new batches do not wake the task. One of them may be for a broker that was not
/// needed before; it waits for the next answer, and no longer than this.
const BUSY_SLEEP: Duration = Duration::from_millis(5);
/// The task looks around this often while anything is open, whatever else it waits for.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Who wants to know what is not settled yet.
type Flush = oneshot::Sender<Vec<Arc<Completion>>>;

/// What handles ask of the task.
#[derive(Debug, Default)]
pub(super) struct Commands {
    flushes: Mutex<Vec<Flush>>,
    inspections: Mutex<Vec<oneshot::Sender<ProducerSnapshot>>>,
    transactions: Mutex<Vec<TransactionCommand>>,
    aborted: AtomicBool,
    /// The task is gone: nobody answers any more.
    ended: AtomicBool,
}

impl Commands {
    /// Closes all open batches and answers with everything that is not settled.
    pub(super) fn flush(&self) -> oneshot::Receiver<Vec<Arc<Completion>>> {
        let (sender, receiver) = oneshot::channel();
        let mut flushes = self.flushes.lock();
        // Looked at under the lock, which `end` takes afterwards.
        if !self.ended.load(Ordering::SeqCst) {
            flushes.push(sender);
        }
        receiver
    }

    /// Answers with the state of things.
    pub(super) fn inspect(&self) -> oneshot::Receiver<ProducerSnapshot> {
        let (sender, receiver) = oneshot::channel();
        let mut inspections = self.inspections.lock();
        if !self.ended.load(Ordering::SeqCst) {
            inspections.push(sender);
        }
        receiver
    }

    fn take_flushes(&self) -> Vec<Flush> {
        std::mem::take(&mut *self.flushes.lock())
    }

    /// Lets go of everybody who waits for the task, and of whoever comes later.
    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.flushes.lock().clear();
        self.inspections.lock().clear();
        self.transactions.lock().clear();
    }

    /// Fails whatever is not settled and ends the task.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
    }
}

/// Ends the commands with the task, however that ends.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.commands.end();
    }
}

enum Event {
    Identity(Result<Identity, ErrorCode>, Option<Version>),
    Connected(i32, Result<Connection, RequestError>),
    Answered {
        id: RequestId,
        broker: i32,
        sent_at: Instant,
        spans: Spans,
        answer: Result<ProduceResponse, RequestError>,
    },
    Compressed(CompressionId, Result<Bytes, String>),
    Coordinated(Reply, Option<Version>),
}

struct Task {
    shared: Arc<Shared>,
    sender: Sender,
    actions: Vec<Action>,
    connections: HashMap<i32, Connection>,
    events: FuturesUnordered<Pin<Box<dyn Future<Output = Event> + Send>>>,
    cluster: Arc<Cluster>,
    /// Partitions that have, or had, an open batch.
    lingering: VecDeque<Arc<PartitionBuffer>>,
    next_linger: Option<Instant>,
    /// Something happened that may let a broker take more.
    look_again: bool,
    /// When to look at each open batch, whatever brokers would take.
    next_look: Option<Instant>,
    closed: Vec<Batch>,
    opened: Vec<Arc<PartitionBuffer>>,
    compressors: Arc<Compressors>,
    meters: Meters,
    /// Those who wait for transactions.
    desk: Desk,
}

pub(super) async fn run(shared: Arc<Shared>) {
    let _ending = Ending(shared.clone());
    let sender = Sender::new(shared.options.sender.clone(), random_u64());
    let mut rounds = shared.client.metadata().subscribe();
    let mut task = Task {
        cluster: shared.client.cluster(),
        shared: shared.clone(),
        sender,
        actions: Vec::new(),
        connections: HashMap::new(),
        events: FuturesUnordered::new(),
        lingering: VecDeque::new(),
        next_linger: None,
        look_again: false,
        next_look: None,
        closed: Vec::new(),
        opened: Vec::new(),
        compressors: Arc::new(Compressors::new()),
        meters: Meters::new(&shared.client_id, shared.accumulator.memory().total()),
        desk: Desk::default(),
    };
    let mut ending_since = None;
    loop {
        // Both are taken first: what was sent before a close or a flush is then in the batches collected below.
        let ending = shared.accumulator.is_closed();
        let flushes = shared.commands.take_flushes();
        let transactions = shared.commands.take_transactions();
        task.follow_metadata();
        task.collect(!flushes.is_empty() || transactions.iter().any(TransactionCommand::is_end));
        task.answer(flushes);
        task.take_transactions(transactions);
        if shared.commands.aborted.load(Ordering::SeqCst) {
            break;
        }
        task.drop_unused();
        let now = task.act();
        task.publish();
        task.show();
        if ending && task.sender.is_idle() && task.lingering.is_empty() {
            // Nobody waits for the end of a transaction for ever; the coordinator ends it when its time is over.
            let since = *ending_since.get_or_insert(now);
            let is_late = now.duration_since(since) >= shared.options.sender.delivery_timeout;
            if is_late || !task.sender.is_ending_transaction() {
                break;
            }
        }
        let busy = task.sender.is_saturated();
        let look_around = if busy { Some(now + BUSY_SLEEP) } else { task.next_linger };
        let expiry = task.next_look.filter(|_| !task.lingering.is_empty());
        let wake = [task.sender.next_wake(now), look_around, expiry].into_iter().flatten().min();
        if !shared.accumulator.may_sleep(task.next_linger.is_some(), busy) {
            continue;
        }
        let idle = task.sender.is_idle() && task.lingering.is_empty() && wake.is_none();
        let sleep_until = wake.unwrap_or(now + LONGEST_SLEEP).min(now + LONGEST_SLEEP);
        tokio::select! {
            biased;
            Some(event) = task.events.next(), if !task.events.is_empty() => task.take(event),
            () = shared.accumulator.wake.notified() => {}
            _ = rounds.changed() => {}
            () = tokio::time::sleep_until(sleep_until), if !idle => {}
        }
        while let Some(Some(event)) = task.events.next().now_or_never() {
            task.take(event);
        }
    }
    for batch in shared.accumulator.end() {
        task.sender.enqueue(batch);
    }
    task.sender.abort(Instant::now());
    task.publish();
    task.show();
    task.answer(shared.commands.take_flushes());
}

impl Task {
    fn answer(&self, flushes: Vec<Flush>) {
        for flush in flushes {
            // Whoever asked may have stopped waiting.
            let _ = flush.send(self.sender.unsettled().cloned().collect());
        }
    }

    /// Tells the sender of leaders that moved, and the accumulator of partitions that came.
    fn follow_metadata(&mut self) {
        let cluster = self.shared.client.cluster();
        if Arc::ptr_eq(&cluster, &self.cluster) {
            return;
        }
        self.cluster = cluster;
        self.look_again = true;
        let standings: Vec<_> =
            self.sender.lanes().map(|lane| (lane.slot, standing(&self.cluster, lane))).collect();
        for (slot, standing) in standings {
            self.follow(slot, standing);
        }
        for topic in self.shared.accumulator.topics() {
            self.shared.install_from_snapshot(&topic);
        }
    }

    fn follow(&mut self, slot: usize, standing: Standing) {
        match standing {
            Standing::Led(leader) => self.sender.set_leader(slot, leader),
            Standing::Recreated => self.sender.retire(slot),
        }
    }

    /// Lets go of connections that ended while nobody used them (`connections.max.idle.ms`, the broker's or ours).
    fn drop_unused(&mut self) {
        let sender = &mut self.sender;
        self.connections
            .retain(|&broker, connection| !connection.is_closed() || !sender.ended_unused(broker));
    }

    /// Does what the sender decides until it has nothing more to say; returns the time it was asked for the last time.
    fn act(&mut self) -> Instant {
        loop {
            let now = Instant::now();
            self.sender.poll(now, &mut self.actions);
            let told = self.tell_transactions();
            if self.actions.is_empty() && !told {
                return now;
            }
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::InitProducerId { expected } => self.init_producer_id(expected),
                    Action::Coordinate { ask, identity, version } => self.coordinate(ask, identity, version),
                    Action::Connect { broker } => self.connect(broker),
                    Action::Send(plan) => self.send(now, plan),
                    Action::Compress { id, work } => self.compress(id, work),
                    Action::RefreshMetadata { lane } => self.shared.client.want_refresh([&lane.name.topic]),
                }
            }
        }
    }

    fn compress(&mut self, id: CompressionId, work: Uncompressed) {
        let codec = self.shared.options.sender.compression;
        if work.size_bytes() <= COMPRESS_HERE_UP_TO {
            self.sender.compressed(id, self.compressors.compress(codec, work));
            return;
        }
        let compressed = self.compressors.clone().compress_elsewhere(codec, work);
        self.events.push(Box::pin(async move { Event::Compressed(id, compressed.await) }));
    }

    fn connect(&self, broker: i32) {
        let client = self.shared.client.clone();
        self.events.push(Box::pin(async move {
            Event::Connected(broker, client.broker_connection(broker, Purpose::Produce).await)
        }));
    }

    fn send(&mut self, now: Instant, plan: ProducePlan) {
        let ProducePlan { id, broker, parts } = plan;
        let acks = self.shared.options.sender.acks;
        let timeout = self.shared.options.request_timeout;
        for part in &parts {
            self.shared.client.metadata().touch(&part.lane.name.topic);
        }
        self.meters.request(now, broker, &parts);
        let spans = Spans::open(&parts, broker, &self.shared.client_id);
        let transactional_id = self.shared.options.sender.transactional_id.as_deref();
        let (mut request, payloads, mut max_version) = produce_request(parts, acks, timeout);
        if let Some(id) = transactional_id {
            request.transactional_id = Some(transactions::transactional_id(id));
            max_version = max_version.min(self.sender.max_produce_version());
        }
        let call = Call { timeout, max_version, payloads: &payloads };
        let sent = match self.connections.get(&broker) {
            None => Err(false),
            Some(connection) if acks == Acks::None => {
                connection.try_send_only(&request, call).map_err(|e| e.possibly_written())
            }
            Some(connection) => match connection.try_start(&request, call) {
                Ok(answer) => {
                    self.events.push(Box::pin(async move {
                        let answer = answer.await;
                        Event::Answered { id, broker, sent_at: now, spans, answer }
                    }));
                    return;
                }
                Err(error) => {
                    tracing::debug!(broker, %error, "produce request not sent");
                    Err(error.possibly_written())
                }
            },
        };
        self.meters.answered(broker, Duration::ZERO);
        match sent {
            // Nobody answers: sent is all that can be said.
            Ok(()) => {
                let written = |_: &Lane| {
                    Some(PartAnswer {
                        code: ErrorCode::None,
                        base_offset: -1,
                        log_append_time: None,
                        log_start_offset: -1,
                    })
                };
                self.sender.answered(now, id, written, &mut self.actions);
            }
            Err(possibly_written) => self.lost(now, id, broker, possibly_written),
        }
    }

    fn lost(&mut self, now: Instant, id: RequestId, broker: i32, possibly_written: bool) {
        if self.connections.get(&broker).is_none_or(Connection::is_closed) {
            self.connections.remove(&broker);
            self.sender.not_connected(now, broker);
        }
        self.sender.failed(now, id, possibly_written, &mut self.actions);
    }

    fn take(&mut self, event: Event) {
        let now = Instant::now();
        self.look_again = true;
        match event {
            Event::Identity(Ok(identity), speaks) => {
                self.sender.speaks(speaks);
                tracing::debug!(producer_id = identity.producer_id, epoch = identity.epoch, "producer id");
                self.sender.identified(identity);
            }
            Event::Identity(Err(code), _) => self.sender.not_identified(now, code),
            Event::Coordinated(reply, speaks) => self.sender.coordinated(now, reply, speaks),
            Event::Connected(broker, Ok(connection)) => {
                self.connections.insert(broker, connection);
                self.sender.connected(broker);
            }
            Event::Connected(broker, Err(error)) => {
                tracing::debug!(broker, %error, "no connection for produce");
                self.sender.not_connected(now, broker);
                let topics: Vec<_> = self.sender.lanes().map(|lane| lane.name.topic.clone()).collect();
                self.shared.client.want_refresh(&topics);
            }
            Event::Compressed(id, result) => self.sender.compressed(id, result),
            Event::Answered { id, broker, sent_at, spans, answer } => {
                self.meters.answered(broker, now.saturating_duration_since(sent_at));
                match answer {
                    Ok(response) => self.answered(now, id, broker, &response, &spans),
                    Err(error) => {
                        tracing::debug!(broker, %error, "produce request unanswered");
                        spans.lost(&error);
                        self.lost(now, id, broker, error.possibly_written());
                    }
                }
            }
        }
    }

    fn answered(
        &mut self,
        now: Instant,
        id: RequestId,
        broker: i32,
        response: &ProduceResponse,
        spans: &Spans,
    ) {
        if let Ok(throttle @ 1..) = u64::try_from(response.throttle_time_ms) {
            self.sender.throttled(now, broker, now + Duration::from_millis(throttle));
        }
        let metadata = self.shared.client.metadata();
        // Given only where a leader moved to a broker that the client may not know yet.
        let nodes = response.node_endpoints.iter();
        let nodes: Vec<_> = nodes
            .filter_map(|node| Broker::described(node.node_id.0, &node.host, node.port, node.rack.as_deref()))
            .collect();
        let answer_for = |lane: &Lane| {
            let topic = response.responses.iter().find(|topic| {
                topic.name.as_str() == &*lane.name.topic || lane.topic_id == Some(topic.topic_id)
            })?;
            let part = topic.partition_responses.iter().find(|part| part.index == lane.name.partition)?;
            let code = ErrorCode::from(part.error_code);
            spans.answered(lane.slot, code, part.base_offset);
            let hint = &part.current_leader;
            if !code.is_ok() {
                tracing::debug!(partition = %lane.name, broker, %code, "batch refused");
                metadata.take_leader(
                    &lane.name.topic,
                    lane.name.partition,
                    hint.leader_id.0,
                    hint.leader_epoch,
                    &nodes,
                );
            }
            let log_append_time = Some(part.log_append_time_ms).filter(|&at| at >= 0);
            let (base_offset, log_start_offset) = (part.base_offset, part.log_start_offset);
            Some(PartAnswer { code, base_offset, log_append_time, log_start_offset })
        };
        self.sender.answered(now, id, answer_for, &mut self.actions);
    }
}
