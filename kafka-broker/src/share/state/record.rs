//! What rests in `__share_group_state`, and how: Kafka's own keys and values.

use bytes::Bytes;
use kafka_wire::records::share_snapshot_value::StateBatch as SnapshotBatch;
use kafka_wire::records::share_update_value::StateBatch as UpdateBatch;
use kafka_wire::records::{
    self, RecordError, ShareSnapshotKey, ShareSnapshotValue, ShareUpdateKey, ShareUpdateValue,
};

use super::super::ShareKey;
use super::super::partition::StateBatch;
use crate::api::text;
use crate::coordinator_log::KeyValue;

const VERSION: i16 = 0;

/// One change of the share coordinator's state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ShareRecord {
    /// Everything there is to know; `None`: the state is deleted.
    Snapshot {
        key: ShareKey,
        value: Option<Snapshot>,
    },
    Update {
        key: ShareKey,
        value: Update,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) snapshot_epoch: i32,
    pub(crate) state_epoch: i32,
    pub(crate) leader_epoch: i32,
    /// -1: not decided yet.
    pub(crate) start_offset: i64,
    /// -1: not known.
    pub(crate) delivery_complete_count: i32,
    pub(crate) created_at_ms: i64,
    pub(crate) written_at_ms: i64,
    pub(crate) batches: Vec<StateBatch>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Update {
    pub(crate) snapshot_epoch: i32,
    pub(crate) leader_epoch: i32,
    /// -1: as before.
    pub(crate) start_offset: i64,
    pub(crate) delivery_complete_count: i32,
    pub(crate) batches: Vec<StateBatch>,
}

impl ShareRecord {
    /// Key and value as they rest in the log.
    pub(crate) fn encode(&self) -> Result<KeyValue, RecordError> {
        match self {
            Self::Snapshot { key, value } => {
                let key = ShareSnapshotKey::default()
                    .with_group_id(text(&key.group))
                    .with_topic_id(key.topic_id)
                    .with_partition(key.partition);
                let value = value.as_ref().map(|value| records::encode_value(&snapshot(value), VERSION));
                Ok((records::encode_key(&key)?, value.transpose()?))
            }
            Self::Update { key, value } => {
                let key = ShareUpdateKey::default()
                    .with_group_id(text(&key.group))
                    .with_topic_id(key.topic_id)
                    .with_partition(key.partition);
                Ok((records::encode_key(&key)?, Some(records::encode_value(&update(value), VERSION)?)))
            }
        }
    }

    /// Reads a record of the log; `None` for kinds that are not known here.
    pub(crate) fn decode(key: Bytes, value: Option<Bytes>) -> Result<Option<Self>, RecordError> {
        match records::key_type(&key)? {
            ShareSnapshotKey::API_KEY => {
                let key: ShareSnapshotKey = records::decode_key(key)?;
                let key = ShareKey::new(&key.group_id, key.topic_id, key.partition);
                let value = value.map(records::decode_value::<ShareSnapshotValue>).transpose()?;
                Ok(Some(Self::Snapshot { key, value: value.map(from_snapshot) }))
            }
            ShareUpdateKey::API_KEY => {
                let key: ShareUpdateKey = records::decode_key(key)?;
                let key = ShareKey::new(&key.group_id, key.topic_id, key.partition);
                let Some(value) = value else { return Ok(None) };
                Ok(Some(Self::Update { key, value: from_update(records::decode_value(value)?) }))
            }
            _ => Ok(None),
        }
    }
}

fn snapshot(value: &Snapshot) -> ShareSnapshotValue {
    let batch = |batch: &StateBatch| {
        SnapshotBatch::default()
            .with_first_offset(batch.first)
            .with_last_offset(batch.last)
            .with_delivery_state(batch.state)
            .with_delivery_count(batch.delivery_count)
    };
    ShareSnapshotValue::default()
        .with_snapshot_epoch(value.snapshot_epoch)
        .with_state_epoch(value.state_epoch)
        .with_leader_epoch(value.leader_epoch)
        .with_start_offset(value.start_offset)
        .with_delivery_complete_count(value.delivery_complete_count)
        .with_create_timestamp(value.created_at_ms)
        .with_write_timestamp(value.written_at_ms)
        .with_state_batches(value.batches.iter().map(batch).collect())
}

fn from_snapshot(value: ShareSnapshotValue) -> Snapshot {
    let batch = |batch: &SnapshotBatch| StateBatch {
        first: batch.first_offset,
        last: batch.last_offset,
        state: batch.delivery_state,
        delivery_count: batch.delivery_count,
    };
    Snapshot {
        snapshot_epoch: value.snapshot_epoch,
        state_epoch: value.state_epoch,
        leader_epoch: value.leader_epoch,
        start_offset: value.start_offset,
        delivery_complete_count: value.delivery_complete_count,
        created_at_ms: value.create_timestamp,
        written_at_ms: value.write_timestamp,
        batches: value.state_batches.iter().map(batch).collect(),
    }
}

fn update(value: &Update) -> ShareUpdateValue {
    let batch = |batch: &StateBatch| {
        UpdateBatch::default()
            .with_first_offset(batch.first)
            .with_last_offset(batch.last)
            .with_delivery_state(batch.state)
            .with_delivery_count(batch.delivery_count)
    };
    ShareUpdateValue::default()
        .with_snapshot_epoch(value.snapshot_epoch)
        .with_leader_epoch(value.leader_epoch)
        .with_start_offset(value.start_offset)
        .with_delivery_complete_count(value.delivery_complete_count)
        .with_state_batches(value.batches.iter().map(batch).collect())
}

fn from_update(value: ShareUpdateValue) -> Update {
    let batch = |batch: &UpdateBatch| StateBatch {
        first: batch.first_offset,
        last: batch.last_offset,
        state: batch.delivery_state,
        delivery_count: batch.delivery_count,
    };
    Update {
        snapshot_epoch: value.snapshot_epoch,
        leader_epoch: value.leader_epoch,
        start_offset: value.start_offset,
        delivery_complete_count: value.delivery_complete_count,
        batches: value.state_batches.iter().map(batch).collect(),
    }
}
