//! What rests in `__transaction_state`: Kafka's own keys and values.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_wire::StrBytes;
use kafka_wire::records::transaction_log_value::PartitionsSchema;
use kafka_wire::records::{self, RecordError, TransactionLogKey, TransactionLogValue};

/// The flexible version, which Kafka writes once `transaction.version` is above 0.
const VALUE_VERSION: i16 = 1;

/// A partition, by its topic's name.
pub(crate) type TopicPartition = (String, i32);

/// The states of Kafka's `TransactionState`, with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Empty = 0,
    Ongoing = 1,
    PrepareCommit = 2,
    PrepareAbort = 3,
    CompleteCommit = 4,
    CompleteAbort = 5,
    Dead = 6,
    PrepareEpochFence = 7,
}

impl State {
    pub(crate) const ALL: [Self; 8] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
        Self::PrepareEpochFence,
    ];

    fn from_number(number: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i8 == number)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
        }
    }
}

/// What is on record of a transactional id (`TransactionMetadata`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) producer_id: i64,
    /// The id before the last rotation; -1: none.
    pub(crate) previous_producer_id: i64,
    /// The id from the end of this transaction on, because the epochs of the present one are used up; -1: the same.
    pub(crate) next_producer_id: i64,
    /// -1: the id was never given out.
    pub(crate) epoch: i16,
    /// The epoch before the last bump that the producer itself asked for; not on record.
    pub(crate) last_epoch: i16,
    pub(crate) timeout_ms: i32,
    pub(crate) state: State,
    pub(crate) partitions: BTreeSet<TopicPartition>,
    /// -1: none has begun.
    pub(crate) started_ms: i64,
    pub(crate) updated_ms: i64,
    /// The transaction version that its client speaks.
    pub(crate) version: i16,
}

/// One change; `None`: the transactional id is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransactionRecord {
    pub(crate) id: String,
    pub(crate) value: Option<Transaction>,
}

impl TransactionRecord {
    /// Key and value as they rest in the log.
    pub(crate) fn encode(&self) -> Result<(Bytes, Option<Bytes>), RecordError> {
        let key = TransactionLogKey::default().with_transactional_id(text(&self.id));
        let value = self.value.as_ref().map(Transaction::encode).transpose()?;
        Ok((records::encode_key(&key)?, value))
    }

    /// Reads a record of the log; `None` for kinds that Kafka added later.
    pub(crate) fn decode(key: Bytes, value: Option<Bytes>) -> Result<Option<Self>, RecordError> {
        if records::key_type(&key)? != TransactionLogKey::API_KEY {
            return Ok(None);
        }
        let key: TransactionLogKey = records::decode_key(key)?;
        let value = value.map(records::decode_value::<TransactionLogValue>).transpose()?;
        Ok(Some(Self {
            id: key.transactional_id.to_string(),
            value: value.and_then(|value| Transaction::from_value(&value)),
        }))
    }
}

impl Transaction {
    fn encode(&self) -> Result<Bytes, RecordError> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in &self.partitions {
            topics.entry(topic).or_default().push(*partition);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            PartitionsSchema::default().with_topic(text(topic)).with_partition_ids(partitions)
        });
        let value = TransactionLogValue::default()
            .with_producer_id(self.producer_id)
            .with_previous_producer_id(self.previous_producer_id)
            .with_next_producer_id(self.next_producer_id)
            .with_producer_epoch(self.epoch)
            .with_transaction_timeout_ms(self.timeout_ms)
            .with_transaction_status(self.state as i8)
            // Kafka has no list at all where no transaction is.
            .with_transaction_partitions((self.state != State::Empty).then(|| topics.collect()))
            .with_transaction_last_update_timestamp_ms(self.updated_ms)
            .with_transaction_start_timestamp_ms(self.started_ms)
            .with_client_transaction_version(self.version);
        records::encode_value(&value, VALUE_VERSION)
    }

    fn from_value(value: &TransactionLogValue) -> Option<Self> {
        let topics = value.transaction_partitions.iter().flatten();
        let partitions = topics.flat_map(|topic| {
            topic.partition_ids.iter().map(|&partition| (topic.topic.to_string(), partition))
        });
        Some(Self {
            producer_id: value.producer_id,
            previous_producer_id: value.previous_producer_id,
            next_producer_id: value.next_producer_id,
            epoch: value.producer_epoch,
            last_epoch: -1,
            timeout_ms: value.transaction_timeout_ms,
            state: State::from_number(value.transaction_status)?,
            partitions: partitions.collect(),
            started_ms: value.transaction_start_timestamp_ms,
            updated_ms: value.transaction_last_update_timestamp_ms,
            version: value.client_transaction_version,
        })
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
