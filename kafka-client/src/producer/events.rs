//! What happens between `send` and the acknowledgement that an operator may want to know.

use std::time::Duration;

use kafka_wire::ErrorCode;

use super::SendError;
use crate::TopicPartition;

/// What a producer does when a leader lost records that it had acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DataLoss {
    /// Goes on after the gap, under a new epoch, as Java's producer does; the event
    /// [`PossibleDataLoss`](ProducerEvent::PossibleDataLoss) tells of it.
    #[default]
    Continue,
    /// Fails whatever is sent to the partition from then on, so that nothing follows the gap.
    Stop,
}

/// Something rare that happened to a producer; see [`Producer::events`](super::Producer::events).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ProducerEvent {
    /// A partition to which batches go has another leader.
    LeaderMoved {
        /// The partition.
        partition: TopicPartition,
        /// The broker that led it.
        from: i32,
        /// The broker that leads it now.
        to: i32,
    },
    /// A broker asked for a pause because of a quota (KIP-219); nothing is sent to it meanwhile.
    Throttled {
        /// The broker.
        broker: i32,
        /// How long.
        pause: Duration,
    },
    /// A batch was larger than the broker accepts, was cut and is sent again (KIP-126).
    BatchSplit {
        /// The partition.
        partition: TopicPartition,
        /// Its size in bytes when it was refused.
        size_bytes: usize,
        /// How many batches it became.
        parts: usize,
    },
    /// The producer goes on under another epoch, or with `epoch: None` asks for another id (KIP-360).
    EpochBumped {
        /// The producer id.
        producer_id: i64,
        /// The new epoch.
        epoch: Option<i16>,
        /// What the leader said.
        cause: ErrorCode,
    },
    /// The leader does not know records that were acknowledged, and no retention explains it: an unclean leader
    /// election or a lost disk took them. Whether the producer goes on is [`DataLoss`](super::DataLoss)'s to say.
    PossibleDataLoss {
        /// The partition.
        partition: TopicPartition,
        /// The offset acknowledged last; -1 if unknown.
        last_acknowledged_offset: i64,
        /// Where the leader's log starts; -1 if it did not tell.
        log_start_offset: i64,
        /// What the leader said.
        cause: ErrorCode,
    },
    /// A topic was deleted and made anew; what was on the way to the old one fails.
    TopicRecreated {
        /// One of its partitions to which batches were on the way.
        partition: TopicPartition,
    },
    /// Records were not delivered.
    BatchFailed {
        /// The partition.
        partition: TopicPartition,
        /// How many records.
        records: i32,
        /// Why.
        error: SendError,
    },
}
