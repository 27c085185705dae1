use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;

use super::DriverError;
use crate::error::TaskId;
use crate::processor::{Outgoing, RawRecord, RecordCollector, TaskSettings};
use crate::runtime::task::{RawBatch, Task};
use crate::state::ChangelogRecords;
use crate::topology::Topology;

/// A record as a fetch would give it: key, value and timestamp.
pub type RawInput = (Option<Bytes>, Option<Bytes>, i64);

/// What a [`TaskRunner`]'s task has sent, changelog records too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SentRecords {
    /// How many records.
    pub records: u64,
    /// Their keys and values.
    pub bytes: u64,
}

impl RecordCollector for SentRecords {
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), String> {
        self.records += 1;
        self.bytes += record.key.map_or(0, <[u8]>::len) as u64 + record.value.map_or(0, <[u8]>::len) as u64;
        Ok(())
    }

    fn partitions(&mut self, _: &Arc<str>) -> Result<i32, String> {
        Ok(1)
    }
}

/// Runs the first sub-topology of a topology on one partition and forgets what it sends, to measure the engine alone:
/// sources, operators, stores, changelogs and sinks, without topics and sockets.
pub struct TaskRunner {
    task: Task,
    sent: SentRecords,
    wall_time: i64,
}

impl std::fmt::Debug for TaskRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskRunner").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl TaskRunner {
    /// The task, with empty stores.
    ///
    /// # Errors
    /// As [`super::TestDriver::new`].
    pub fn new(topology: &Topology, changelog_records: ChangelogRecords) -> Result<Self, DriverError> {
        let settings = TaskSettings {
            application_id: "runner".to_owned(),
            changelog_records: Some(changelog_records),
            ..TaskSettings::default()
        };
        let id = TaskId { subtopology: 0, partition: 0 };
        let mut task = Task::new(&topology.inner, &settings, id).map_err(Box::new)?;
        let mut sent = SentRecords::default();
        task.initialize(0, &mut sent)?;
        Ok(Self { task, sent, wall_time: 0 })
    }

    /// Queues records of a source topic.
    pub fn add(
        &mut self,
        topic: &str,
        records: impl IntoIterator<Item = RawInput, IntoIter: Send + 'static>,
    ) {
        let records = records.into_iter().enumerate().map(|(offset, (key, value, timestamp))| {
            Ok(RawRecord { offset: offset as i64, timestamp, key, value, headers: Headers::default() })
        });
        self.task.add(topic, RawBatch { records: Box::new(records), next_offset: 0 });
    }

    /// Processes what is queued. Returns how many records that was.
    ///
    /// # Errors
    /// When a node, a serde or a store fails.
    pub fn process(&mut self) -> Result<usize, DriverError> {
        Ok(self.task.process(usize::MAX, self.wall_time, &mut self.sent)?)
    }

    /// Commits: what is held back goes on, changelogs are written, stores keep what changed.
    ///
    /// # Errors
    /// When a node, a serde or a store fails.
    pub fn commit(&mut self) -> Result<(), DriverError> {
        self.wall_time += 1_000;
        self.task.prepare_commit(self.wall_time, &mut self.sent)?;
        self.task.finish_commit()?;
        Ok(())
    }

    /// What was sent so far.
    pub fn sent(&self) -> SentRecords {
        self.sent
    }
}
