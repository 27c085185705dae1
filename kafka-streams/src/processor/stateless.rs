use std::sync::Arc;

use super::{Called, Context, Node, NodeResult, Out, Record};

pub(crate) struct Filter<K, V, F> {
    pub(crate) keep: Arc<F>,
    /// `filter` keeps what is true, `filter_not` what is false.
    pub(crate) when: bool,
    pub(crate) out: Out<K, V>,
}

impl<K: Send, V: Send, F: Fn(&K, &V) -> bool + Send + Sync> Node<K, V> for Filter<K, V, F> {
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        if (self.keep)(&record.key, &record.value) == self.when {
            self.out.forward(record, cx)
        } else {
            Ok(())
        }
    }
}

pub(crate) struct Map<K2, V2, F> {
    pub(crate) map: Arc<F>,
    pub(crate) out: Out<K2, V2>,
}

impl<K, V, K2, V2, F> Node<K, V> for Map<K2, V2, F>
where
    K2: Send,
    V2: Send,
    F: Fn(K, V) -> (K2, V2) + Send + Sync,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let (key, value) = (self.map)(record.key, record.value);
        self.out.forward(Record { key, value, timestamp: record.timestamp, headers: record.headers }, cx)
    }
}

pub(crate) struct MapValues<K, V2, F> {
    pub(crate) map: Arc<F>,
    pub(crate) out: Out<K, V2>,
}

impl<K, V, V2, F> Node<K, V> for MapValues<K, V2, F>
where
    K: Send,
    V2: Send,
    F: Fn(&K, V) -> V2 + Send + Sync,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let value = (self.map)(&record.key, record.value);
        let record = Record { key: record.key, value, timestamp: record.timestamp, headers: record.headers };
        self.out.forward(record, cx)
    }
}

pub(crate) struct SelectKey<K2, V, F> {
    pub(crate) select: Arc<F>,
    pub(crate) out: Out<K2, V>,
}

impl<K, V, K2, F> Node<K, V> for SelectKey<K2, V, F>
where
    K2: Send,
    V: Send,
    F: Fn(&K, &V) -> K2 + Send + Sync,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let key = (self.select)(&record.key, &record.value);
        let record =
            Record { key, value: record.value, timestamp: record.timestamp, headers: record.headers };
        self.out.forward(record, cx)
    }
}

pub(crate) struct FlatMap<K2, V2, F> {
    pub(crate) map: Arc<F>,
    pub(crate) out: Out<K2, V2>,
}

impl<K, V, K2, V2, I, F> Node<K, V> for FlatMap<K2, V2, F>
where
    K2: Send,
    V2: Send,
    I: IntoIterator<Item = (K2, V2)>,
    F: Fn(K, V) -> I + Send + Sync,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        for (key, value) in (self.map)(record.key, record.value) {
            let headers = record.headers.clone();
            self.out.forward(Record { key, value, timestamp: record.timestamp, headers }, cx)?;
        }
        Ok(())
    }
}

pub(crate) struct FlatMapValues<K, V2, F> {
    pub(crate) map: Arc<F>,
    pub(crate) out: Out<K, V2>,
}

impl<K, V, V2, I, F> Node<K, V> for FlatMapValues<K, V2, F>
where
    K: Clone + Send,
    V2: Send,
    I: IntoIterator<Item = V2>,
    F: Fn(&K, V) -> I + Send + Sync,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        let mut values = (self.map)(&key, value).into_iter();
        let Some(mut value) = values.next() else { return Ok(()) };
        // One ahead, so that the last result takes the key itself.
        for next in values {
            let value = std::mem::replace(&mut value, next);
            self.out.forward(Record { key: key.clone(), value, timestamp, headers: headers.clone() }, cx)?;
        }
        self.out.forward(Record { key, value, timestamp, headers }, cx)
    }
}

pub(crate) struct Peek<K, V, F> {
    pub(crate) look: Arc<F>,
    pub(crate) out: Out<K, V>,
}

impl<K: Send, V: Send, F: Fn(&K, &V) + Send + Sync> Node<K, V> for Peek<K, V, F> {
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        (self.look)(&record.key, &record.value);
        self.out.forward(record, cx)
    }
}

pub(crate) struct ForEach<F>(pub(crate) Arc<F>);

impl<K: Send, V: Send, F: Fn(K, V) + Send + Sync> Node<K, V> for ForEach<F> {
    fn process(&mut self, record: Record<K, V>, _: &mut Context<'_>) -> NodeResult {
        (self.0)(record.key, record.value);
        Ok(())
    }
}

/// The place where merged streams meet: it has several parents.
pub(crate) struct Forward<K, V>(pub(crate) Out<K, V>);

impl<K: Send, V: Send> Node<K, V> for Forward<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        self.0.forward(record, cx)
    }
}

impl<K: Send + 'static, V: Send + 'static> Called for Forward<K, V> {}
