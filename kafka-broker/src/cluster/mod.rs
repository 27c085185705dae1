//! The controller: the cluster's metadata as a state machine over records, and the log in which the records rest.
//!
//! Decisions ([`topics`]) are functions of the [`Image`] and a request; they return records. The records are appended
//! to `__cluster_metadata-0` first and replayed into the image then, so a restart that replays the log comes to the
//! same image (`QuorumController`).

mod codec;
pub(crate) mod elections;
pub(crate) mod image;
pub(crate) mod reassignments;
pub(crate) mod record;
pub(crate) mod topic_name;
pub(crate) mod topics;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::record_batch::{BatchBuilder, RecordBatch, Seal};
use parking_lot::{Mutex, MutexGuard, RwLock};

use self::elections::AlterPartition;
use self::image::Image;
use self::record::MetadataRecord;
use self::topics::{Refusal, refuse};
use crate::log::{Append, Origin, PartitionLog};
use crate::replicator::Inbox;
use crate::state::BrokerState;

/// The topic whose only partition holds the metadata.
pub(crate) const METADATA_TOPIC: &str = "__cluster_metadata";
/// The epoch in which this node leads the metadata quorum of one.
pub(crate) const LEADER_EPOCH: i32 = 1;
/// 4.3-IV0, the metadata version of Apache Kafka 4.3 (`MetadataVersion`).
pub(crate) const METADATA_VERSION: i16 = 30;
/// A feature with the levels that this broker supports; a cluster starts at the highest, as Kafka's storage tool formats it.
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    pub(crate) min_level: i16,
    pub(crate) max_level: i16,
}

/// `metadata.version` from 3.3-IV3 on, the oldest that Kafka 4 reads; `group.version` 1 is KIP-848, `share.version` 1 KIP-932,
/// `transaction.version` 2 KIP-890.
pub(crate) const FEATURES: [Feature; 4] = [
    Feature { name: "metadata.version", min_level: 7, max_level: METADATA_VERSION },
    Feature { name: "group.version", min_level: 0, max_level: 1 },
    Feature { name: "share.version", min_level: 0, max_level: 1 },
    Feature { name: "transaction.version", min_level: 0, max_level: 2 },
];

/// Reads of the log at start take this many bytes at a time.
const REPLAY_BYTES: usize = 1024 * 1024;
/// A metadata batch decompresses to at most this; our own are not compressed.
const MAX_BATCH_BYTES: usize = 64 * 1024 * 1024;

/// Why the metadata log cannot be replayed. The data folder is then left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The log cannot be read.
    #[error("the metadata log cannot be read at offset {offset}: {reason}")]
    Read {
        /// Where reading failed.
        offset: i64,
        /// What failed.
        reason: String,
    },
    /// A record is not what Kafka's schema says.
    #[error("the metadata record at offset {offset} is malformed: {reason}")]
    Record {
        /// The record's offset.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
}

/// What all nodes share: the metadata, its log, and who is there.
pub(crate) struct Cluster {
    node_id: i32,
    log: Mutex<PartitionLog>,
    view: RwLock<View>,
    /// The nodes that run. Weak, because each of them holds the cluster.
    nodes: RwLock<BTreeMap<i32, Weak<BrokerState>>>,
    inboxes: RwLock<BTreeMap<i32, Arc<Inbox>>>,
}

struct View {
    image: Image,
    /// The offset of the last record in the image, -1 before the first.
    offset: i64,
}

impl Cluster {
    /// Replays the whole log.
    pub(crate) fn open(log: PartitionLog, node_id: i32) -> Result<Self, ReplayError> {
        let mut view = View { image: Image::default(), offset: log.log_start_offset() - 1 };
        while view.offset + 1 < log.log_end_offset() {
            let offset = view.offset + 1;
            let chunks = log
                .read(offset, REPLAY_BYTES, true)
                .map_err(|error| ReplayError::Read { offset, reason: error.to_string() })?;
            for chunk in chunks {
                view.replay(chunk)?;
            }
            if view.offset < offset {
                return Err(ReplayError::Read {
                    offset,
                    reason: "no records where the log has some".to_owned(),
                });
            }
        }
        Ok(Self {
            node_id,
            log: Mutex::new(log),
            view: RwLock::new(view),
            nodes: RwLock::default(),
            inboxes: RwLock::default(),
        })
    }

    /// Looks at the image, and at the offset of its last record.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Image, i64) -> R) -> R {
        let view = self.view.read();
        look(&view.image, view.offset)
    }

    /// Locks out other changes, so that a decision and its effects are one step.
    pub(crate) fn controller(&self) -> Controller<'_> {
        Controller { cluster: self, log: self.log.lock() }
    }

    /// The node whose folder holds the metadata: the quorum's one voter.
    pub(crate) fn voter(&self) -> i32 {
        self.node_id
    }

    /// Decides, and commits what was decided, as one step.
    pub(crate) fn change(
        &self,
        now_ms: i64,
        decide: impl FnOnce(&Image) -> Result<Vec<MetadataRecord>, Refusal>,
    ) -> Result<(), Refusal> {
        let mut controller = self.controller();
        let records = controller.read(decide)?;
        controller.commit(&records, now_ms)
    }

    /// A leader asks for other in-sync replicas.
    pub(crate) fn alter_partition(&self, asked: &AlterPartition, now_ms: i64) -> Result<(), Refusal> {
        self.change(now_ms, |image| Ok(vec![elections::alter_partition(image, asked)?]))
    }

    /// A node that runs.
    pub(crate) fn node(&self, node_id: i32) -> Option<Arc<BrokerState>> {
        self.nodes.read().get(&node_id)?.upgrade()
    }

    /// All nodes that run, by id.
    pub(crate) fn nodes(&self) -> Vec<Arc<BrokerState>> {
        self.nodes.read().values().filter_map(Weak::upgrade).collect()
    }

    /// From now on the node is told of every change.
    pub(crate) fn join(&self, node: &Arc<BrokerState>) {
        self.nodes.write().insert(node.node_id, Arc::downgrade(node));
    }

    /// The node is gone.
    pub(crate) fn leave(&self, node_id: i32) {
        self.nodes.write().remove(&node_id);
        self.inbox(node_id).clear();
    }

    /// Where a node is told that there is more to copy.
    pub(crate) fn inbox(&self, node_id: i32) -> Arc<Inbox> {
        if let Some(inbox) = self.inboxes.read().get(&node_id) {
            return Arc::clone(inbox);
        }
        Arc::clone(self.inboxes.write().entry(node_id).or_default())
    }
}

impl View {
    fn replay(&mut self, chunk: Bytes) -> Result<(), ReplayError> {
        let malformed = |offset, reason: String| ReplayError::Record { offset, reason };
        for batch in RecordBatch::iter(chunk) {
            let batch = batch.map_err(|error| malformed(self.offset + 1, error.to_string()))?;
            if batch.next_offset() <= self.offset + 1 {
                continue;
            }
            let end = batch.last_offset();
            if !batch.is_control() {
                let records = batch
                    .records(MAX_BATCH_BYTES)
                    .map_err(|error| malformed(batch.base_offset(), error.to_string()))?;
                for record in records {
                    let record = record.map_err(|error| malformed(batch.base_offset(), error.to_string()))?;
                    let value = record.value.unwrap_or_default();
                    match codec::decode(value).map_err(|error| malformed(record.offset, error.to_string()))? {
                        Some(change) => self.image.replay(&change),
                        None => tracing::warn!(offset = record.offset, "metadata record without effect here"),
                    }
                }
            }
            self.offset = end;
        }
        Ok(())
    }
}

/// The right to change the metadata; one at a time.
pub(crate) struct Controller<'a> {
    cluster: &'a Cluster,
    log: MutexGuard<'a, PartitionLog>,
}

impl Controller<'_> {
    /// Looks at the image, which cannot change before this controller is dropped.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Image) -> R) -> R {
        look(&self.cluster.view.read().image)
    }

    /// Appends the records as one batch, so that a crash keeps all or none of them, replays them, and lets every node
    /// act on them.
    pub(crate) fn commit(&mut self, records: &[MetadataRecord], now_ms: i64) -> Result<(), Refusal> {
        if records.is_empty() {
            return Ok(());
        }
        let mut builder = BatchBuilder::new(records.len() * 64);
        for record in records {
            match codec::encode(record, self.cluster.node_id) {
                Ok(value) => builder.append(now_ms, None, Some(&value), &[]),
                Err(error) => return refuse(ErrorCode::UnknownServerError, error.to_string()),
            };
        }
        let sealed = builder.finish(&Seal::default());
        let batch = sealed.or_else(|error| refuse(ErrorCode::UnknownServerError, error.to_string()))?;
        let append = Append { leader_epoch: LEADER_EPOCH, origin: Origin::Coordinator, now_ms, guard: None };
        let appended = self.log.append(batch, append).or_else(|error| {
            tracing::error!(%error, "metadata not written");
            refuse(ErrorCode::KafkaStorageError, "The metadata log cannot be written.")
        })?;
        if appended.flush_due {
            self.log.flush().or_else(|error| {
                tracing::error!(%error, "metadata not synced");
                refuse(ErrorCode::KafkaStorageError, "The metadata log cannot be synced.")
            })?;
        }
        let mut view = self.cluster.view.write();
        records.iter().for_each(|record| view.image.replay(record));
        view.offset = appended.last_offset;
        drop(view);
        for node in self.cluster.nodes() {
            self.cluster.read(|image, _| node.apply(records, image));
        }
        Ok(())
    }

    /// Closes the metadata log. Nothing is committed any more.
    pub(crate) fn close(&mut self) -> std::io::Result<()> {
        self.log.close()
    }
}
