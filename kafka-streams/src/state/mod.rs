//! State: typed rows with the writes that are not committed yet, and the stores of bytes that may lie below them.

mod buffer_value;
mod history;
mod index;
mod join_buffer;
mod key_value;
#[cfg(test)]
mod memory;
mod outer_join;
mod rows;
#[cfg(test)]
mod rows_tests;
mod session;
mod stores;
mod subscription;
mod suppress_buffer;
mod view;
mod window;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use buffer_value::RecordContext;
pub(crate) use history::Version;
pub(crate) use index::Order;
pub(crate) use join_buffer::JoinBuffer;
pub(crate) use key_value::KvStore;
pub(crate) use outer_join::{Either, OuterJoinStore, Side, either_list};
pub use rows::ChangelogRecords;
pub(crate) use rows::{HeldRow, Rows, RowsConfig};
pub(crate) use session::SessionStore;
pub(crate) use stores::{StorePlace, StoreToken, Stores, TaskStore};
pub(crate) use subscription::{
    Instruction, Subscription, SubscriptionResponse, SubscriptionResponseSerde, SubscriptionSerde, ValueHash,
};
pub(crate) use suppress_buffer::{Released, SuppressBuffer};
pub use view::ReadOnlyKeyValueStore;
pub(crate) use window::{WindowStore, WindowStoreConfig};

use crate::error::StreamsError;
use crate::serde::SerdeError;

/// Why a store could not read or write.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A key or a value and its bytes do not convert.
    #[error("cannot convert an entry: {0}")]
    Serde(#[from] SerdeError),
    /// The store holds an entry that no version of this library writes.
    #[error("an entry of {size} bytes is too short")]
    Malformed {
        /// The entry's size.
        size: usize,
    },
    /// The storage below failed.
    #[error("{0}")]
    Storage(Arc<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// What was wrong with the store, for who knows which one it is.
    pub(crate) fn from_streams(error: StreamsError) -> Self {
        match error {
            StreamsError::Store { source, .. } => source,
            other => StoreError::Storage(Arc::new(other)),
        }
    }
}

/// Changes that become visible together: `None` deletes.
#[derive(Debug, Default)]
pub struct WriteBatch {
    /// Keys and their new values; of several for one key the last counts.
    pub entries: Vec<(Bytes, Option<Bytes>)>,
    /// How far the changelog holds these changes: its next offset, kept with the data. `None` leaves it as it is.
    pub changelog_offset: Option<i64>,
}

/// Sees entries one by one; `Break` ends the scan.
pub type EntryVisitor<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// An ordered map of bytes that keeps what is committed.
///
/// A task reads through to it and writes to it only when it commits, one batch with the changelog's offset. So a
/// persistent store needs no undo: what it holds is always what was committed.
pub trait KeyValueStore: Send {
    /// The value of a key.
    ///
    /// # Errors
    /// When the storage fails.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Shows the entries from `from` (included) to `to` (excluded; `None` is the end), in the order of the keys' bytes,
    /// or against it.
    ///
    /// # Errors
    /// When the storage fails.
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
        visit: EntryVisitor<'_>,
    ) -> Result<(), StoreError>;

    /// Applies a batch, all or nothing.
    ///
    /// # Errors
    /// When the storage fails; nothing was applied then.
    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError>;

    /// Forgets the entries from `from` (included) to `to` (excluded).
    ///
    /// # Errors
    /// When the storage fails.
    fn delete_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError>;

    /// The changelog's next offset as last written; `None` for a store that begins empty.
    fn committed_offset(&self) -> Option<i64>;

    /// Roughly how many entries there are.
    fn approximate_entries(&self) -> u64;
}
