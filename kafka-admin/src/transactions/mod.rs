//! Transactions: which there are, who writes to a partition, and how one that nobody ends is ended (KIP-664).

mod abort;
mod describe;
mod fence;
mod hanging;
mod list;
mod producers;

pub use abort::{AbortTransaction, TransactionToAbort};
pub use describe::{DescribeTransactions, TransactionDescription};
pub use fence::{FenceProducers, FencedProducer};
pub use hanging::{FindHangingTransactions, HangingTransaction};
pub use list::{ListTransactions, TransactionListing};
pub use producers::{ActiveProducer, DescribeProducers};

use kafka_wire::StrBytes;
use kafka_wire::messages::TransactionalId;

use crate::named::named;

named! {
    /// Where a transactional id is (Kafka's `TransactionState`).
    TransactionState {
        /// No transaction has been begun since its producer came.
        Empty,
        /// A transaction is open.
        Ongoing,
        /// It is decided that the transaction is committed; partitions are being told.
        PrepareCommit,
        /// It is decided that the transaction is aborted; partitions are being told.
        PrepareAbort,
        /// The last transaction is committed everywhere.
        CompleteCommit,
        /// The last transaction is aborted everywhere.
        CompleteAbort,
        /// The transaction was open for too long; its producer is being fenced.
        PrepareEpochFence,
    }
}

fn transactional_id(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}
