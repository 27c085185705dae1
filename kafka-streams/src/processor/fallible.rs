//! Stateless operators whose code may fail: the processing handler decides what becomes of the record.

use std::sync::Arc;

use super::{Context, Node, NodeName, NodeResult, Out, ProcessorError, Record};

pub(crate) struct TryFilter<K, V, F> {
    pub(crate) name: NodeName,
    pub(crate) keep: Arc<F>,
    pub(crate) out: Out<K, V>,
}

impl<K, V, E, F> Node<K, V> for TryFilter<K, V, F>
where
    K: Send,
    V: Send,
    E: Into<ProcessorError>,
    F: Fn(&K, &V) -> Result<bool, E> + Send + Sync,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        match (self.keep)(&record.key, &record.value) {
            Ok(true) => self.out.forward(record, cx),
            Ok(false) => Ok(()),
            Err(error) => cx.processing_failed(&self.name, error.into()),
        }
    }
}

pub(crate) struct TryMapValues<K, V2, F> {
    pub(crate) name: NodeName,
    pub(crate) map: Arc<F>,
    pub(crate) out: Out<K, V2>,
}

impl<K, V, V2, E, F> Node<K, V> for TryMapValues<K, V2, F>
where
    K: Send,
    V2: Send,
    E: Into<ProcessorError>,
    F: Fn(&K, V) -> Result<V2, E> + Send + Sync,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        match (self.map)(&key, value) {
            Ok(value) => self.out.forward(Record { key, value, timestamp, headers }, cx),
            Err(error) => cx.processing_failed(&self.name, error.into()),
        }
    }
}

/// `try_map`, `try_flat_map` and `try_for_each`: any number of results.
pub(crate) struct TryFlatMap<K2, V2, F> {
    pub(crate) name: NodeName,
    pub(crate) map: Arc<F>,
    pub(crate) out: Out<K2, V2>,
}

impl<K, V, K2, V2, I, E, F> Node<K, V> for TryFlatMap<K2, V2, F>
where
    K2: Send,
    V2: Send,
    I: IntoIterator<Item = (K2, V2)>,
    E: Into<ProcessorError>,
    F: Fn(K, V) -> Result<I, E> + Send + Sync,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        match (self.map)(key, value) {
            Ok(results) => results.into_iter().try_for_each(|(key, value)| {
                self.out.forward(Record { key, value, timestamp, headers: headers.clone() }, cx)
            }),
            Err(error) => cx.processing_failed(&self.name, error.into()),
        }
    }
}
