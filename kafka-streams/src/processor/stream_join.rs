//! Joins of two streams: records of one key that are near each other in time.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Context, Node, NodeResult, Out, Record};
use crate::serde::SharedSerde;
use crate::state::{OuterJoinStore, Side, StoreToken, WindowStore};

/// Makes a result of both sides' values, in the order left and right; a side can be missing in left and outer joins.
pub(crate) trait JoinBoth<K, L, R, O>: Send + Sync + 'static {
    fn join(&self, key: &K, left: Option<&L>, right: Option<&R>) -> Option<O>;
}

impl<K, L, R, O, F> JoinBoth<K, L, R, O> for F
where
    F: Fn(&K, Option<&L>, Option<&R>) -> Option<O> + Send + Sync + 'static,
{
    #[inline]
    fn join(&self, key: &K, left: Option<&L>, right: Option<&R>) -> Option<O> {
        self(key, left, right)
    }
}

/// A joiner seen from one side.
pub(crate) trait JoinFrom<K, This, Other, O>: Send + 'static {
    fn join(&self, key: &K, this: Option<&This>, other: Option<&Other>) -> Option<O>;
}

pub(crate) struct FromLeft<J>(pub(crate) Arc<J>);
pub(crate) struct FromRight<J>(pub(crate) Arc<J>);

impl<J> Clone for FromLeft<J> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<J> Clone for FromRight<J> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, L, R, O, J: JoinBoth<K, L, R, O>> JoinFrom<K, L, R, O> for FromLeft<J> {
    #[inline]
    fn join(&self, key: &K, this: Option<&L>, other: Option<&R>) -> Option<O> {
        self.0.join(key, this, other)
    }
}

impl<K, L, R, O, J: JoinBoth<K, L, R, O>> JoinFrom<K, R, L, O> for FromRight<J> {
    #[inline]
    fn join(&self, key: &K, this: Option<&R>, other: Option<&L>) -> Option<O> {
        self.0.join(key, other, this)
    }
}

/// Where records wait that found no partner, and the time that both sides see.
pub(crate) struct Unmatched<K, L, R> {
    pub(crate) store: StoreToken<OuterJoinStore<K, L, R>>,
    /// How long after a left record a right one can be its partner, grace included; and the other way round.
    pub(crate) left_waits: i64,
    pub(crate) right_waits: i64,
    pub(crate) grace: i64,
}

impl<K, L, R> Clone for Unmatched<K, L, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, L, R> Copy for Unmatched<K, L, R> {}

/// One side of the join of two streams: looks for partners, then becomes one (`KStreamKStreamJoin` and
/// `KStreamJoinWindow`). Records of a self join do not find themselves, for they are put into the store last.
pub(crate) struct StreamJoinSide<K, This, Other, L, R, O, J> {
    pub(crate) side: Side,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<This>,
    pub(crate) own: StoreToken<WindowStore<K, This>>,
    pub(crate) other: StoreToken<WindowStore<K, Other>>,
    /// How much earlier and later than this record a partner can be.
    pub(crate) before: i64,
    pub(crate) after: i64,
    /// A record without a partner is a result too.
    pub(crate) outer: bool,
    /// For left and outer joins.
    pub(crate) unmatched: Option<Unmatched<K, L, R>>,
    pub(crate) joiner: J,
    pub(crate) both: Box<dyn JoinFromBoth<K, L, R, O>>,
    pub(crate) keep: fn(This) -> Waiting<L, R>,
    pub(crate) out: Out<K, O>,
    /// What the record at hand makes with its partners, and their times.
    pub(crate) found: Vec<(Option<O>, i64)>,
}

/// A value that waits, of either side.
pub(crate) type Waiting<L, R> = crate::state::Either<L, R>;

/// The joiner for records that waited in vain.
pub(crate) trait JoinFromBoth<K, L, R, O>: Send {
    fn join(&self, key: &K, left: Option<&L>, right: Option<&R>) -> Option<O>;
}

impl<K, L, R, O, J: JoinBoth<K, L, R, O>> JoinFromBoth<K, L, R, O> for FromLeft<J> {
    fn join(&self, key: &K, left: Option<&L>, right: Option<&R>) -> Option<O> {
        self.0.join(key, left, right)
    }
}

impl<K, This, Other, L, R, O, J> StreamJoinSide<K, This, Other, L, R, O, J>
where
    K: Clone + Send + 'static,
    This: Clone + Send + 'static,
    Other: Clone + Send + 'static,
    L: Clone + Send + 'static,
    R: Clone + Send + 'static,
    O: Send + 'static,
    J: JoinFrom<K, This, Other, O>,
{
    fn join(&mut self, record: &Record<K, This>, cx: &mut Context<'_>) -> NodeResult {
        let timestamp = record.timestamp;
        let stream_time = match self.unmatched {
            Some(unmatched) => cx.stores.get(unmatched.store)?.advance(timestamp),
            None => timestamp,
        };
        let (no_key, no_value) = (self.key.is_null(&record.key), self.value.is_null(&record.value));
        if self.outer && no_key && !no_value {
            // It can have no partner (KIP-962).
            return self.forward(
                record,
                self.joiner.join(&record.key, Some(&record.value), None),
                timestamp,
                cx,
            );
        }
        if no_key || no_value {
            cx.dropped += 1;
            return Ok(());
        }
        if timestamp == stream_time {
            self.give_up_waiting(record, cx)?;
        }
        let from = timestamp.saturating_sub(self.before).max(0);
        let to = timestamp.saturating_add(self.after).max(0);
        let (joiner, found) = (&self.joiner, &mut self.found);
        found.clear();
        cx.stores.get(self.other)?.fetch(&record.key, from, to, false, &mut |other_time, other, _| {
            found.push((joiner.join(&record.key, Some(&record.value), Some(other)), other_time));
            ControlFlow::Continue(())
        })?;
        if self.outer && self.found.is_empty() {
            return match self.unmatched {
                Some(unmatched) if to >= stream_time => {
                    let (side, value) = (self.side, (self.keep)(record.value.clone()));
                    cx.stores.get(unmatched.store)?.wait(&record.key, side, timestamp, value)
                }
                _ => {
                    let alone = self.joiner.join(&record.key, Some(&record.value), None);
                    self.forward(record, alone, timestamp, cx)
                }
            };
        }
        let mut found = std::mem::take(&mut self.found);
        for (result, other_time) in found.drain(..) {
            if let Some(unmatched) = self.unmatched {
                cx.stores.get(unmatched.store)?.matched(
                    &record.key,
                    self.side.other(),
                    other_time,
                    timestamp,
                )?;
            }
            self.forward(record, result, timestamp.max(other_time), cx)?;
        }
        self.found = found;
        Ok(())
    }

    fn forward(
        &mut self,
        record: &Record<K, This>,
        result: Option<O>,
        timestamp: i64,
        cx: &mut Context<'_>,
    ) -> NodeResult {
        let Some(value) = result else { return Ok(()) };
        self.out.forward(
            Record { key: record.key.clone(), value, timestamp, headers: record.headers.clone() },
            cx,
        )
    }

    /// Records whose time for a partner is over become results of their own.
    fn give_up_waiting(&mut self, record: &Record<K, This>, cx: &mut Context<'_>) -> NodeResult {
        let Some(unmatched) = self.unmatched else { return Ok(()) };
        let store = cx.stores.get(unmatched.store)?;
        // As Java asks first: by this side's window, though the other side's may have waited long enough.
        if store.nobody_waits_until(self.after.saturating_add(unmatched.grace)) {
            return Ok(());
        }
        let over = store.take_over(unmatched.left_waits, unmatched.right_waits, record.timestamp)?;
        for (key, timestamp, value) in over {
            let (left, right) = match &value {
                Waiting::Left(left) => (Some(left), None),
                Waiting::Right(right) => (None, Some(right)),
            };
            let Some(value) = self.both.join(&key, left, right) else { continue };
            self.out.forward(Record { key, value, timestamp, headers: record.headers.clone() }, cx)?;
        }
        Ok(())
    }
}

impl<K, This, Other, L, R, O, J> Node<K, This> for StreamJoinSide<K, This, Other, L, R, O, J>
where
    K: Clone + Send + 'static,
    This: Clone + Send + 'static,
    Other: Clone + Send + 'static,
    L: Clone + Send + 'static,
    R: Clone + Send + 'static,
    O: Send + 'static,
    J: JoinFrom<K, This, Other, O>,
{
    fn process(&mut self, record: Record<K, This>, cx: &mut Context<'_>) -> NodeResult {
        self.join(&record, cx)?;
        if self.key.is_null(&record.key) {
            return Ok(());
        }
        let Record { key, value, timestamp, headers } = record;
        let value = (!self.value.is_null(&value)).then_some(value);
        cx.stores.get(self.own)?.add(&key, timestamp, value, timestamp, &headers)
    }
}
