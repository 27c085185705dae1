//! Holds changes of a table back (KIP-328).

use std::sync::Arc;

use super::{Called, Change, Context, Getter, Node, NodeResult, Out, Record, ValueGetter};
use crate::error::StreamsError;
use crate::state::{RecordContext, Released, StoreToken, Stores, SuppressBuffer};

/// When a change is let go.
pub(crate) struct Suppress<K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) buffer: StoreToken<SuppressBuffer<K, V>>,
    /// The time from which a change is held: its record's, or its window's end.
    pub(crate) time: fn(&K, i64) -> i64,
    /// So long after that, by the time of the records that come here.
    pub(crate) wait: i64,
    pub(crate) max_records: u64,
    pub(crate) max_bytes: u64,
    pub(crate) stop_when_full: bool,
    /// A row that is deleted before it was let go never was.
    pub(crate) drops_tombstones: bool,
    pub(crate) observed: i64,
    pub(crate) out: Out<K, Change<V>>,
}

impl<K: Send + 'static, V: Send + 'static> Suppress<K, V> {
    fn is_full(&self, buffer: &SuppressBuffer<K, V>) -> bool {
        buffer.len() > self.max_records || buffer.bytes() > self.max_bytes
    }
}

impl<K: Send + 'static, V: Send + 'static> Node<K, Change<V>> for Suppress<K, V> {
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        self.observed = self.observed.max(timestamp);
        let context = cx.record_context(timestamp, &headers);
        cx.stores.get(self.buffer)?.put((self.time)(&key, timestamp), &key, &value, context)?;
        let over = self.observed.saturating_sub(self.wait);
        loop {
            let buffer = cx.stores.get(self.buffer)?;
            let is_due = buffer.earliest().is_some_and(|time| time <= over);
            if !is_due {
                if !self.is_full(buffer) {
                    return Ok(());
                }
                if self.stop_when_full {
                    let (node, records, bytes) = (Arc::clone(&self.name), buffer.len(), buffer.bytes());
                    return Err(Box::new(StreamsError::BufferFull { task: cx.task, node, records, bytes }));
                }
            }
            let Some(Released { key, change, context }) = buffer.release()? else { return Ok(()) };
            if change.new.is_none() && self.drops_tombstones {
                continue;
            }
            let RecordContext { timestamp, headers, .. } = context;
            self.out.forward(Record { key, value: change, timestamp, headers }, cx)?;
        }
    }
}

impl<K: Send + 'static, V: Send + 'static> Called for Suppress<K, V> {}

/// The rows as downstream of a suppression knows them.
pub(crate) struct SuppressGetter<K, V> {
    pub(crate) buffer: StoreToken<SuppressBuffer<K, V>>,
    pub(crate) parent: Getter<K, V>,
}

impl<K: Send + 'static, V: Send + 'static> ValueGetter<K, V> for SuppressGetter<K, V> {
    fn get(&mut self, key: &K, stores: &mut Stores) -> Result<Option<(V, i64)>, Box<StreamsError>> {
        match stores.get(self.buffer)?.prior(key)? {
            Some(prior) => Ok(prior.map(|row| (row, -1))),
            None => self.parent.get(key, stores),
        }
    }
}
