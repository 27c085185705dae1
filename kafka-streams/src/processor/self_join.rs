use std::any::Any;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::stream_join::JoinBoth;
use super::{Context, Node, NodeResult, Out, Record};
use crate::serde::SharedSerde;
use crate::state::{StoreToken, WindowStore};

/// A stream that is joined with itself, kept once (`KStreamKStreamSelfJoin`): the results of both sides, in their order.
///
/// What time it is says the store, which knows it after a restart too; Java's self join forgets it.
/// `L` and `R` are the same type, which only whoever rewrote the topology knows.
pub(crate) struct SelfJoin<K, L, R, O, J> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<L>,
    pub(crate) store: StoreToken<WindowStore<K, L>>,
    pub(crate) before: i64,
    pub(crate) after: i64,
    pub(crate) joiner: Arc<J>,
    pub(crate) out: Out<K, O>,
    pub(crate) results: Vec<(Option<O>, i64)>,
    pub(crate) right: PhantomData<fn() -> R>,
}

impl<K, L, R, O, J> SelfJoin<K, L, R, O, J>
where
    K: Clone + Send + 'static,
    L: Clone + Send + 'static,
    R: Send + 'static,
    O: Send + 'static,
    J: JoinBoth<K, L, R, O>,
{
    fn join(&self, key: &K, left: &L, right: &L) -> Option<O> {
        let right: &dyn Any = right;
        self.joiner.join(key, Some(left), Some(right.downcast_ref::<R>()?))
    }

    /// What the record makes with others and with itself, before it becomes one of them.
    fn join_all(&mut self, record: &Record<K, L>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, .. } = record;
        let time = *timestamp;
        let (before, after) = (self.before, self.after);
        let mut results = std::mem::take(&mut self.results);
        results.clear();
        let store = cx.stores.get(self.store)?;
        let (from, to) = (time.saturating_sub(before).max(0), time.saturating_add(after).max(0));
        store.fetch(key, from, to, false, &mut |other_time, other, _| {
            results.push((self.join(key, value, other), time.max(other_time)));
            ControlFlow::Continue(())
        })?;
        // A record that is too late to be kept does not meet itself either.
        let mut meets_itself = store.keeps(time);
        let (from, to) = (time.saturating_sub(after).max(0), time.saturating_add(before).max(0));
        store.fetch(key, from, to, false, &mut |other_time, other, _| {
            if other_time > time && std::mem::take(&mut meets_itself) {
                results.push((self.join(key, value, value), time));
            }
            results.push((self.join(key, other, value), time.max(other_time)));
            ControlFlow::Continue(())
        })?;
        if meets_itself {
            results.push((self.join(key, value, value), time));
        }
        for (result, timestamp) in results.drain(..) {
            let Some(value) = result else { continue };
            let (key, headers) = (record.key.clone(), record.headers.clone());
            self.out.forward(Record { key, value, timestamp, headers }, cx)?;
        }
        self.results = results;
        Ok(())
    }
}

impl<K, L, R, O, J> Node<K, L> for SelfJoin<K, L, R, O, J>
where
    K: Clone + Send + 'static,
    L: Clone + Send + 'static,
    R: Send + 'static,
    O: Send + 'static,
    J: JoinBoth<K, L, R, O>,
{
    fn process(&mut self, record: Record<K, L>, cx: &mut Context<'_>) -> NodeResult {
        let (no_key, no_value) = (self.key.is_null(&record.key), self.value.is_null(&record.value));
        if no_key || no_value {
            cx.dropped += 1;
        } else {
            self.join_all(&record, cx)?;
        }
        if no_key {
            return Ok(());
        }
        let Record { key, value, timestamp, headers } = record;
        cx.stores.get(self.store)?.add(&key, timestamp, (!no_value).then_some(value), timestamp, &headers)
    }
}
