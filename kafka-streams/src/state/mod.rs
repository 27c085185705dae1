//! State: byte stores behind a trait, and typed stores with the writes that are not committed yet.

mod memory;
mod typed;

use std::sync::Arc;

use bytes::Bytes;

pub use memory::MemoryStore;
pub use typed::ReadOnlyKeyValueStore;
pub(crate) use typed::{ChangelogError, SharedStore, TaskStore, TypedStore};

use crate::serde::SerdeError;

/// Why a store could not read or write.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A key or a value and its bytes do not convert.
    #[error("cannot convert an entry: {0}")]
    Serde(#[from] SerdeError),
    /// The store holds an entry that no version of this library writes.
    #[error("an entry of {size} bytes has no timestamp")]
    Malformed {
        /// The value's size.
        size: usize,
    },
    /// The storage below failed.
    #[error("{0}")]
    Storage(Arc<dyn std::error::Error + Send + Sync>),
}

/// One entry of a store.
pub type Entry = (Bytes, Bytes);

/// Changes that become visible together: `None` deletes.
#[derive(Debug, Default)]
pub struct WriteBatch {
    /// Keys, at most once each, and their new values.
    pub entries: Vec<(Bytes, Option<Bytes>)>,
    /// How far the changelog holds these changes: its next offset, kept with the data. `None` leaves it as it is.
    pub changelog_offset: Option<i64>,
}

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

    /// The entries from `from` (included) to `to` (excluded), in the order of the keys' bytes; `None` is no bound.
    ///
    /// # Errors
    /// When the storage fails.
    fn range(&self, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Vec<Entry>, StoreError>;

    /// Applies a batch, all or nothing.
    ///
    /// # Errors
    /// When the storage fails; nothing was applied then.
    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError>;

    /// The changelog's next offset as last written; `None` for a store that begins empty.
    fn committed_offset(&self) -> Option<i64>;

    /// Roughly how many entries there are.
    fn approximate_entries(&self) -> u64;
}
