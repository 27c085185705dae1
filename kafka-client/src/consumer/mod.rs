//! Consumer: reads records, alone or in a group.

mod error;
mod fetch;
mod fetch_request;
mod records;

#[cfg(test)]
mod fetch_tests;

pub use error::{CommitError, ConsumeError, OffsetsError};
pub use records::{ConsumerRecord, IntoRecords, PartitionRecords};

/// Where to start without a committed offset, or when the position is out of range (`auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OffsetReset {
    /// At the oldest record that is kept.
    Earliest,
    /// At the end: only records that come from now on. The default, as in Java.
    #[default]
    Latest,
    /// At the first record with this timestamp or a later one, in milliseconds since 1970; at the end if there
    /// is none.
    Timestamp(i64),
    /// Nowhere: report [`ConsumeError::NoOffset`] and wait for a seek.
    None,
}

/// Whether records of open and aborted transactions are read (`isolation.level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum IsolationLevel {
    /// Every record, as it is written. The default, as in Java.
    #[default]
    ReadUncommitted,
    /// Records of transactions only once they are committed, and nothing beyond the first open one.
    ReadCommitted,
}
