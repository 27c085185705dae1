use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_client::TopicPartition;
use kafka_client::wire::murmur2::partition_for_key;
use kafka_client::wire::record_batch::{Header, Headers};
use parking_lot::Mutex;

use crate::config::{DeserializationHandler, ProcessingHandler};
use crate::error::{StreamsError, TaskId};
use crate::processor::{Outgoing, RawRecord, RecordCollector, TaskSettings};
use crate::runtime::task::{RawBatch, Task};
use crate::serde::{HasSerde, SerdeContext, SerdeError, to_bytes};
use crate::state::{ChangelogRecords, ReadOnlyKeyValueStore};
use crate::topology::Topology;

/// Why a step of a test failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The topology failed, as it would in an application.
    #[error(transparent)]
    Streams(#[from] Box<StreamsError>),
    /// The test's own keys or values do not convert: its types differ from the topology's.
    #[error("topic {topic}: {source}")]
    Serde {
        /// The topic.
        topic: String,
        /// What is wrong.
        source: SerdeError,
    },
    /// No task has a store of this name and these types.
    #[error("no store {name} of these types")]
    NoStore {
        /// The name.
        name: String,
    },
}

/// A record of an output topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestRecord<K, V> {
    /// The partition it went to.
    pub partition: i32,
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The headers.
    pub headers: Headers,
}

/// The topics of a test: what a cluster would hold.
#[derive(Default)]
struct Logs {
    partitions: i32,
    logs: BTreeMap<(Arc<str>, i32), Vec<RawRecord>>,
}

impl Logs {
    fn append(&mut self, record: Outgoing<'_>) {
        let partition = record.partition.unwrap_or_else(|| match record.partition_by.or(record.key) {
            Some(key) => partition_for_key(key, self.partitions),
            None => 0,
        });
        let log = self.logs.entry((Arc::clone(record.topic), partition)).or_default();
        log.push(RawRecord {
            offset: log.len() as i64,
            timestamp: record.timestamp,
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers: record.headers.clone(),
        });
    }

    /// A partition's records from an offset on.
    fn from(&self, topic: &Arc<str>, partition: i32, offset: i64) -> &[RawRecord] {
        let log = self.logs.get(&(Arc::clone(topic), partition)).map_or(&[][..], Vec::as_slice);
        log.get(usize::try_from(offset).unwrap_or(0)..).unwrap_or_default()
    }
}

impl RecordCollector for Logs {
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), String> {
        self.append(record);
        Ok(())
    }

    fn partitions(&mut self, _: &Arc<str>) -> Result<i32, String> {
        Ok(self.partitions)
    }
}

/// Runs a topology in a test: `pipe` records in, read what comes out.
///
/// Repartition topics and other topics that the topology both writes and reads go round. Every topic, changelogs and
/// repartition topics too, can be read with [`TestDriver::output`] by its name on the cluster.
pub struct TestDriver {
    topology: Topology,
    settings: TaskSettings,
    tasks: Vec<Arc<Mutex<Task>>>,
    /// Milliseconds since 1970.
    wall_time: i64,
    logs: Logs,
    fetched: BTreeMap<(usize, Arc<str>, i32), i64>,
    committed: BTreeMap<TopicPartition, i64>,
    read: BTreeMap<(Arc<str>, i32), i64>,
    commit_each_record: bool,
}

impl std::fmt::Debug for TestDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestDriver")
            .field("application_id", &self.settings.application_id)
            .finish_non_exhaustive()
    }
}

impl TestDriver {
    /// A driver with the application id `test` and one partition for each topic.
    ///
    /// # Errors
    /// When the tasks cannot be put together: one store's name is used with two types.
    pub fn new(topology: &Topology) -> Result<Self, DriverError> {
        Self::with_partitions(topology, "test", 1)
    }

    /// A driver with this application id and so many partitions for each topic.
    ///
    /// # Errors
    /// As [`TestDriver::new`].
    pub fn with_partitions(
        topology: &Topology,
        application_id: &str,
        partitions: i32,
    ) -> Result<Self, DriverError> {
        let mut driver = Self {
            topology: topology.clone(),
            settings: TaskSettings { application_id: application_id.to_owned(), ..TaskSettings::default() },
            tasks: Vec::new(),
            wall_time: 0,
            logs: Logs { partitions: partitions.max(1), logs: BTreeMap::new() },
            fetched: BTreeMap::new(),
            committed: BTreeMap::new(),
            read: BTreeMap::new(),
            commit_each_record: true,
        };
        driver.start()?;
        Ok(driver)
    }

    /// Commits only when [`TestDriver::commit`] is called. By default each piped record is followed by a commit.
    pub fn manual_commit(mut self) -> Self {
        self.commit_each_record = false;
        self
    }

    /// What to do with unreadable input. Default: fail.
    ///
    /// # Errors
    /// As [`TestDriver::new`].
    pub fn deserialization_handler(mut self, handler: DeserializationHandler) -> Result<Self, DriverError> {
        self.settings.errors.deserialization = handler;
        self.start()?;
        Ok(self)
    }

    /// What to do when the application's code fails with an error. Default: fail.
    ///
    /// # Errors
    /// As [`TestDriver::new`].
    pub fn processing_handler(mut self, handler: ProcessingHandler) -> Result<Self, DriverError> {
        self.settings.errors.processing = handler;
        self.start()?;
        Ok(self)
    }

    /// Where records go that could not be read or processed. Default: nowhere.
    ///
    /// # Errors
    /// As [`TestDriver::new`].
    pub fn dead_letter_queue(mut self, topic: &str) -> Result<Self, DriverError> {
        self.settings.errors.dead_letter = Some(Arc::from(topic));
        self.start()?;
        Ok(self)
    }

    /// When the changelogs of all stores get records, whatever each store asks for.
    ///
    /// # Errors
    /// As [`TestDriver::new`].
    pub fn changelog_records(mut self, records: ChangelogRecords) -> Result<Self, DriverError> {
        self.settings.changelog_records = Some(records);
        self.start()?;
        Ok(self)
    }

    fn start(&mut self) -> Result<(), DriverError> {
        self.tasks.clear();
        self.fetched.clear();
        for subtopology in 0..self.topology.inner.subtopologies.len() {
            for partition in 0..self.logs.partitions {
                let id = TaskId { subtopology, partition };
                let mut task = Task::new(&self.topology.inner, &self.settings, id).map_err(Box::new)?;
                for (changelog, from) in task.changelogs() {
                    let from = from.unwrap_or(0);
                    let mut records = self.logs.from(&changelog, partition, from);
                    if task.reads(&changelog) {
                        let at = TopicPartition::new(Arc::clone(&changelog), partition);
                        let processed = self.committed.get(&at).map_or(0, |next| next.saturating_sub(from));
                        let processed = usize::try_from(processed).unwrap_or(0);
                        records = records.get(..processed).unwrap_or(records);
                    }
                    task.restore(&changelog, records)?;
                }
                task.initialize(self.wall_time, &mut self.logs)?;
                self.tasks.push(Arc::new(Mutex::new(task)));
            }
        }
        Ok(())
    }

    /// Records that operators left out so far, because they were too late or had no key
    /// (Java's metric `dropped-records-total`).
    pub fn dropped_records(&self) -> u64 {
        self.tasks.iter().map(|task| task.lock().dropped()).sum()
    }

    /// Lets the wall clock go on by so many milliseconds. It begins at 0 and never moves by itself.
    ///
    /// # Errors
    /// When what waited for the time fails.
    pub fn advance_wall_time(&mut self, milliseconds: i64) -> Result<(), DriverError> {
        self.wall_time = self.wall_time.saturating_add(milliseconds);
        for task in &self.tasks {
            task.lock().punctuate_wall_time(self.wall_time, &mut self.logs)?;
        }
        self.process()?;
        if self.commit_each_record { self.commit() } else { Ok(()) }
    }

    /// The topics that have records, by their names on the cluster.
    pub fn topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.logs.logs.keys().map(|(topic, _)| topic.to_string()).collect();
        topics.dedup();
        topics
    }

    /// Feeds a topic.
    pub fn input<K: HasSerde, V: HasSerde>(&mut self, topic: &str) -> TestInput<'_, K, V> {
        TestInput { driver: self, topic: Arc::from(topic), types: std::marker::PhantomData }
    }

    /// Reads a topic, from where the last reader of it stopped.
    pub fn output<K: HasSerde, V: HasSerde>(&mut self, topic: &str) -> TestOutput<'_, K, V> {
        TestOutput { driver: self, topic: Arc::from(topic), types: std::marker::PhantomData }
    }

    /// Looks into the store of a name: one view for each partition.
    ///
    /// # Errors
    /// [`DriverError::NoStore`].
    pub fn stores<K: Send + 'static, V: Clone + Send + 'static>(
        &self,
        name: &str,
    ) -> Result<Vec<ReadOnlyKeyValueStore<K, V>>, DriverError> {
        let views: Vec<_> =
            self.tasks.iter().filter_map(|task| ReadOnlyKeyValueStore::find(task, name)).collect();
        if views.is_empty() { Err(DriverError::NoStore { name: name.to_owned() }) } else { Ok(views) }
    }

    /// Looks into the store of a name in the first partition, the only one by default.
    ///
    /// # Errors
    /// [`DriverError::NoStore`].
    pub fn store<K: Send + 'static, V: Clone + Send + 'static>(
        &self,
        name: &str,
    ) -> Result<ReadOnlyKeyValueStore<K, V>, DriverError> {
        let first = self.stores(name)?.into_iter().next();
        first.ok_or_else(|| DriverError::NoStore { name: name.to_owned() })
    }

    /// Commits all tasks: held-back results are forwarded, changelogs written, offsets kept.
    ///
    /// # Errors
    /// When a node, a serde or a store fails.
    pub fn commit(&mut self) -> Result<(), DriverError> {
        // Results of a commit can lead to input of other tasks, which may hold something back in turn.
        loop {
            for task in &self.tasks {
                let mut task = task.lock();
                let offsets = task.prepare_commit(self.wall_time, &mut self.logs)?;
                self.committed.extend(offsets);
                task.finish_commit()?;
            }
            if self.process()? == 0 {
                return Ok(());
            }
        }
    }

    /// Drops all tasks as a crash would, restores their state from the changelogs and goes on from the committed
    /// offsets. What was not committed is processed again.
    ///
    /// # Errors
    /// When a store cannot be restored or processing fails.
    pub fn crash_and_restore(&mut self) -> Result<(), DriverError> {
        self.start()?;
        self.process()?;
        if self.commit_each_record { self.commit() } else { Ok(()) }
    }

    /// Runs tasks until nothing is left to read, with a commit after each record where records are committed one by one.
    /// Returns how many records were processed.
    fn process(&mut self) -> Result<usize, DriverError> {
        let limit = if self.commit_each_record { 1 } else { usize::MAX };
        let mut total = 0;
        loop {
            let mut processed = 0;
            for task in &self.tasks {
                let mut task = task.lock();
                let Some(sub) = self.topology.inner.subtopologies.get(task.id.subtopology) else { continue };
                for topic in &sub.source_topics {
                    let topic = topic.resolve(&self.settings.application_id);
                    let partition = task.id.partition;
                    let at = TopicPartition::new(Arc::clone(&topic), partition);
                    let start = self.committed.get(&at).copied().unwrap_or(0);
                    let position = self
                        .fetched
                        .entry((task.id.subtopology, Arc::clone(&topic), partition))
                        .or_insert(start);
                    let records = self.logs.from(&topic, partition, *position).to_vec();
                    if records.is_empty() {
                        continue;
                    }
                    *position += records.len() as i64;
                    let records = Box::new(records.into_iter().map(Ok));
                    task.add(&topic, RawBatch { records, next_offset: *position });
                }
                let done = task.process(limit, self.wall_time, &mut self.logs)?;
                if done > 0 && self.commit_each_record {
                    self.committed.extend(task.prepare_commit(self.wall_time, &mut self.logs)?);
                    task.finish_commit()?;
                }
                processed += done;
            }
            if processed == 0 {
                return Ok(total);
            }
            total += processed;
        }
    }
}

/// A topic that a test feeds.
pub struct TestInput<'a, K, V> {
    driver: &'a mut TestDriver,
    topic: Arc<str>,
    types: std::marker::PhantomData<fn(K, V)>,
}

impl<K: HasSerde, V: HasSerde> TestInput<'_, K, V> {
    /// Appends a record with this timestamp (milliseconds since 1970) and runs until all its effects are there.
    ///
    /// # Errors
    /// When a node, a serde or a store fails.
    pub fn pipe(&mut self, key: K, value: V, timestamp: i64) -> Result<(), DriverError> {
        self.pipe_with_headers(key, value, timestamp, &[])
    }

    /// As [`TestInput::pipe`], the record with headers.
    ///
    /// # Errors
    /// As [`TestInput::pipe`].
    pub fn pipe_with_headers(
        &mut self,
        key: K,
        value: V,
        timestamp: i64,
        headers: &[Header],
    ) -> Result<(), DriverError> {
        let serde = |source| DriverError::Serde { topic: self.topic.to_string(), source };
        let key = to_bytes(&*K::serde(), SerdeContext::key(&self.topic), &key).map_err(serde)?;
        let value = to_bytes(&*V::serde(), SerdeContext::value(&self.topic), &value).map_err(serde)?;
        self.driver.logs.append(Outgoing {
            topic: &self.topic,
            partition: None,
            partition_by: None,
            key: key.as_deref(),
            value: value.as_deref(),
            timestamp,
            headers: &headers.iter().cloned().collect(),
        });
        self.driver.process()?;
        if self.driver.commit_each_record { self.driver.commit() } else { Ok(()) }
    }
}

/// A topic that a test reads.
pub struct TestOutput<'a, K, V> {
    driver: &'a mut TestDriver,
    topic: Arc<str>,
    types: std::marker::PhantomData<fn() -> (K, V)>,
}

impl<K: HasSerde, V: HasSerde> TestOutput<'_, K, V> {
    /// The records that were not read yet, by partition and offset.
    ///
    /// # Errors
    /// [`DriverError::Serde`] when they are not of these types.
    pub fn read_records(&mut self) -> Result<Vec<TestRecord<K, V>>, DriverError> {
        let serde = |source| DriverError::Serde { topic: self.topic.to_string(), source };
        let (keys, values) = (K::serde(), V::serde());
        let mut found = Vec::new();
        for partition in 0..self.driver.logs.partitions {
            let position = self.driver.read.entry((Arc::clone(&self.topic), partition)).or_default();
            for record in self.driver.logs.from(&self.topic, partition, *position) {
                *position += 1;
                let key =
                    keys.deserialize(SerdeContext::key(&self.topic), record.key.as_ref()).map_err(serde)?;
                let value = values
                    .deserialize(SerdeContext::value(&self.topic), record.value.as_ref())
                    .map_err(serde)?;
                let (timestamp, headers) = (record.timestamp, record.headers.clone());
                found.push(TestRecord { partition, key, value, timestamp, headers });
            }
        }
        Ok(found)
    }

    /// Keys and values of the records that were not read yet.
    ///
    /// # Errors
    /// As [`TestOutput::read_records`].
    pub fn read_all(&mut self) -> Result<Vec<(K, V)>, DriverError> {
        Ok(self.read_records()?.into_iter().map(|record| (record.key, record.value)).collect())
    }
}
