use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use kafka_client::consumer::{Consumer, OffsetAndMetadata, PartitionRecords};
use kafka_client::producer::{Delivery, Producer, Record, TopicHandle, TrySendError};
use kafka_client::wire::murmur2::partition_for_key;
use kafka_client::{Client, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::blocking::Runtime;
use super::internal_topics::Layout;
use super::task::{RawBatch, Task};
use super::{QUEUED_BATCHES, State, Status, restore};
use crate::config::StreamsConfig;
use crate::error::{StreamsError, TaskId};
use crate::processor::{Outgoing, RawRecord, RecordCollector, TaskSettings};
use crate::topology::Topology;

/// Records that a task processes before others get their turn.
const RECORDS_PER_TURN: usize = 1_000;
/// Sent records between two looks at what became of the oldest ones.
const DELIVERIES_PER_LOOK: usize = 1024;

pub(super) enum Command {
    Batch(PartitionRecords),
    Assigned(Vec<TopicPartition>, oneshot::Sender<()>),
    Revoked(Vec<TopicPartition>, oneshot::Sender<()>),
    Lost(Vec<TopicPartition>, oneshot::Sender<()>),
    /// Time passed: a commit may be due.
    Tick,
    Close,
}

/// Owns the tasks, on a thread of its own.
pub(super) struct Worker {
    topology: Topology,
    config: StreamsConfig,
    layout: Layout,
    client: Client,
    consumer: Consumer,
    collector: ProducerCollector,
    status: Arc<Status>,
    runtime: Runtime,
    owned: BTreeSet<TopicPartition>,
    settings: TaskSettings,
    /// Shared with those who look into the stores; held for a turn at a time.
    tasks: BTreeMap<TaskId, Arc<Mutex<Task>>>,
    /// The offset after the last batch that a partition's task got: what comes again is left out.
    fetched: BTreeMap<TopicPartition, i64>,
    commit_at: Instant,
}

type Failure = Box<StreamsError>;

impl Worker {
    pub(super) fn new(
        topology: Topology,
        config: StreamsConfig,
        layout: Layout,
        client: Client,
        producer: Producer,
        consumer: Consumer,
        status: Arc<Status>,
    ) -> Self {
        let runtime = Runtime::current();
        let application_id = config.application_id.clone();
        Self {
            settings: TaskSettings {
                application_id,
                errors: config.errors.clone(),
                ..TaskSettings::default()
            },
            commit_at: Instant::now() + config.commit_interval,
            collector: ProducerCollector::new(client.clone(), producer, runtime.clone()),
            topology,
            config,
            layout,
            client,
            consumer,
            status,
            runtime,
            owned: BTreeSet::new(),
            tasks: BTreeMap::new(),
            fetched: BTreeMap::new(),
        }
    }

    pub(super) fn spawn(
        mut self,
        mut commands: mpsc::Receiver<Command>,
    ) -> std::io::Result<oneshot::Receiver<Result<(), StreamsError>>> {
        let (done, result) = oneshot::channel();
        let name = format!("{}-streams", self.config.application_id);
        std::thread::Builder::new().name(name).spawn(move || {
            let result = self.run(&mut commands).map_err(|error| *error);
            // Nobody listens once the runtime is gone.
            let _ = done.send(result);
        })?;
        Ok(result)
    }

    fn run(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), Failure> {
        loop {
            let idle = self.process_turn()? == 0;
            if Instant::now() >= self.commit_at || self.dirty_rows() >= self.config.max_uncommitted_rows {
                self.commit()?;
            }
            if idle {
                // Without the pump there is no runtime any more, and nothing can be committed.
                let Some(command) = commands.blocking_recv() else { return Ok(()) };
                if self.handle_command(command)? {
                    return Ok(());
                }
            }
            for _ in 0..QUEUED_BATCHES {
                let Ok(command) = commands.try_recv() else { break };
                if self.handle_command(command)? {
                    return Ok(());
                }
            }
        }
    }

    /// True at the end.
    fn handle_command(&mut self, command: Command) -> Result<bool, Failure> {
        match command {
            Command::Batch(batch) => self.add(batch),
            Command::Assigned(partitions, done) => {
                self.assign(partitions)?;
                self.status.set(State::Running);
                let _ = done.send(());
            }
            Command::Revoked(partitions, done) => {
                self.status.set(State::Rebalancing);
                self.process_all()?;
                self.commit()?;
                self.give_up(&partitions);
                let _ = done.send(());
            }
            Command::Lost(partitions, done) => {
                self.status.set(State::Rebalancing);
                self.give_up(&partitions);
                let _ = done.send(());
            }
            Command::Tick => {}
            Command::Close => {
                self.process_all()?;
                self.commit()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn add(&mut self, batch: PartitionRecords) {
        let partition = batch.topic_partition().clone();
        let Some(task) = self.layout.task_of(&partition).and_then(|id| self.tasks.get(&id)) else {
            return;
        };
        // A batch that was on its way during a rebalance is fetched again after it.
        let next_offset = batch.next_offset();
        let seen = self.fetched.insert(partition.clone(), next_offset).unwrap_or(-1);
        let records = batch.into_iter().filter_map(move |record| match record {
            Ok(record) if record.offset < seen => None,
            Ok(record) => Some(Ok(RawRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers,
            })),
            Err(error) => Some(Err(error.to_string())),
        });
        task.lock().add(&partition.topic, RawBatch { records: Box::new(records), next_offset });
    }

    fn assign(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Failure> {
        let mut new = Vec::new();
        for partition in partitions {
            let task = self.layout.task_of(&partition);
            self.owned.insert(partition);
            let Some(id) = task.filter(|id| !self.tasks.contains_key(id)) else { continue };
            if new.iter().any(|task: &Task| task.id == id) {
                continue;
            }
            let inner = &self.topology.inner;
            new.push(Task::new(inner, &self.settings, id).map_err(Box::new)?);
        }
        restore::restore(&self.runtime, &self.client, &self.consumer, &mut new)?;
        for mut task in new {
            task.initialize(wall_time(), &mut self.collector)?;
            self.tasks.insert(task.id, Arc::new(Mutex::new(task)));
        }
        self.status.tasks.lock().clone_from(&self.tasks);
        Ok(())
    }

    fn give_up(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.owned.remove(partition);
            self.fetched.remove(partition);
        }
        let kept: BTreeSet<TaskId> = self.owned.iter().filter_map(|at| self.layout.task_of(at)).collect();
        self.tasks.retain(|id, _| kept.contains(id));
        self.status.tasks.lock().clone_from(&self.tasks);
        self.collector.topics.clear();
    }

    fn process_turn(&mut self) -> Result<usize, Failure> {
        let mut processed = 0;
        let now = wall_time();
        for task in self.tasks.values() {
            let mut task = task.lock();
            task.punctuate_wall_time(now, &mut self.collector)?;
            processed += task.process(RECORDS_PER_TURN, now, &mut self.collector)?;
        }
        Ok(processed)
    }

    fn process_all(&mut self) -> Result<(), Failure> {
        while self.process_turn()? > 0 {}
        Ok(())
    }

    fn dirty_rows(&self) -> usize {
        self.tasks.values().map(|task| task.lock().dirty_rows()).sum()
    }

    /// At least once: results and changelogs are acknowledged before offsets are committed, and only then do the
    /// stores keep what changed.
    fn commit(&mut self) -> Result<(), Failure> {
        self.commit_at = Instant::now() + self.config.commit_interval;
        let mut offsets = Vec::new();
        let now = wall_time();
        for task in self.tasks.values() {
            offsets.extend(task.lock().prepare_commit(now, &mut self.collector)?);
        }
        self.collector.flush()?;
        if !offsets.is_empty() {
            let offsets: Vec<_> = offsets
                .into_iter()
                .map(|(partition, offset)| (partition, OffsetAndMetadata::new(offset)))
                .collect();
            let consumer = self.consumer.clone();
            let committed = self.runtime.run(async move { consumer.commit_offsets(offsets).await })?;
            if let Err(error) = committed {
                if error.is_fatal() {
                    let operation = "committing offsets".to_owned();
                    return Err(Box::new(StreamsError::Cluster { operation, reason: error.to_string() }));
                }
                // The next commit covers this one; after a lost assignment the tasks are dropped.
                tracing::warn!(%error, "offsets not committed");
                return Ok(());
            }
        }
        self.tasks.values().try_for_each(|task| task.lock().finish_commit())
    }
}

/// Milliseconds since 1970.
fn wall_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Sends results with the producer, and remembers what was not acknowledged yet.
struct ProducerCollector {
    client: Client,
    producer: Producer,
    runtime: Runtime,
    /// By the address of the name: each sink has its own, and there are few.
    topics: Vec<(Arc<str>, TopicHandle)>,
    deliveries: VecDeque<Delivery>,
}

impl ProducerCollector {
    fn new(client: Client, producer: Producer, runtime: Runtime) -> Self {
        Self { client, producer, runtime, topics: Vec::new(), deliveries: VecDeque::new() }
    }

    /// Waits until everything that was sent is acknowledged.
    fn flush(&mut self) -> Result<(), Failure> {
        let producer = self.producer.clone();
        self.runtime.run(async move { producer.flush().await })?;
        while let Some(delivery) = self.deliveries.pop_front() {
            let partition = delivery.partition().clone();
            if let Err(error) = self.runtime.run(delivery)? {
                let operation = format!("writing to {partition}");
                return Err(Box::new(StreamsError::Cluster { operation, reason: error.to_string() }));
            }
        }
        Ok(())
    }

    /// Forgets what is acknowledged.
    fn settle(&mut self) -> Result<(), String> {
        while let Some(delivery) = self.deliveries.front_mut() {
            match delivery.now_or_never() {
                Some(Ok(_)) => self.deliveries.pop_front(),
                Some(Err(error)) => return Err(error.to_string()),
                None => break,
            };
        }
        Ok(())
    }
}

impl RecordCollector for ProducerCollector {
    fn send(&mut self, outgoing: Outgoing<'_>) -> Result<(), String> {
        if self.deliveries.len() % DELIVERIES_PER_LOOK == DELIVERIES_PER_LOOK - 1 {
            self.settle()?;
        }
        let at = match self.topics.iter().position(|(name, _)| Arc::ptr_eq(name, outgoing.topic)) {
            Some(at) => at,
            None => {
                self.topics.push((Arc::clone(outgoing.topic), self.producer.topic(outgoing.topic)));
                self.topics.len() - 1
            }
        };
        let partition = match (outgoing.partition, outgoing.partition_by) {
            (None, Some(bytes)) => Some(partition_for_key(bytes, self.partitions(outgoing.topic)?)),
            (partition, _) => partition,
        };
        let Some((_, topic)) = self.topics.get(at) else { return Ok(()) };
        let mut record = Record::to(topic).timestamp(outgoing.timestamp);
        if let Some(key) = outgoing.key {
            record = record.key(key);
        }
        if let Some(value) = outgoing.value {
            record = record.value(value);
        }
        if let Some(partition) = partition {
            record = record.partition(partition);
        }
        for header in outgoing.headers.to_vec() {
            record = match header.value {
                Some(value) => record.header(header.key.to_string(), value),
                None => record.null_header(header.key.to_string()),
            };
        }
        let delivery = match self.producer.try_send(record) {
            Ok(delivery) => delivery,
            Err(TrySendError::Full(record)) => {
                let (producer, record) = (self.producer.clone(), record.into_owned());
                let sent = self.runtime.run(async move { producer.send(record).await });
                sent.map_err(|gone| gone.to_string())?.map_err(|error| error.to_string())?
            }
            Err(error) => return Err(error.to_string()),
        };
        self.deliveries.push_back(delivery);
        Ok(())
    }

    fn partitions(&mut self, topic: &Arc<str>) -> Result<i32, String> {
        let known = self.client.cluster().partition_count(topic);
        let count = match known {
            Some(count) => Some(count),
            None => {
                let (client, topics) = (self.client.clone(), [Arc::clone(topic)]);
                let cluster = self.runtime.run(async move { client.refresh_topics(&topics).await });
                let cluster = cluster.map_err(|gone| gone.to_string())?.map_err(|error| error.to_string())?;
                cluster.partition_count(topic)
            }
        };
        let count = count.and_then(|count| i32::try_from(count).ok()).filter(|count| *count > 0);
        count.ok_or_else(|| "the topic does not exist".to_owned())
    }
}
