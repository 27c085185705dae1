//! Aggregates by key and session.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;

use super::aggregate::Forwarding;
use super::window_aggregate::WindowUpdate;
use super::{Called, Change, Context, Node, NodeResult, Out, Record, ValueGetter};
use crate::dsl::{Emit, SessionWindows, Windowed};
use crate::error::StreamsError;
use crate::serde::SharedSerde;
use crate::state::{SessionStore, StoreToken, Stores};

/// How two sessions become one.
pub(crate) trait Merge<K, V, A>: WindowUpdate<K, V, A> {
    /// `None`: nothing yet.
    fn merge(&self, key: &K, merged: Option<A>, session: A) -> A;
}

/// Where an open session is in the order in which they close: end, key, start.
type Place = (i64, Bytes, i64);

pub(crate) struct SessionAggregate<K, V, A, U> {
    pub(crate) store: StoreToken<SessionStore<K, A>>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) windows: SessionWindows,
    pub(crate) update: Arc<U>,
    pub(crate) forwarding: Forwarding,
    pub(crate) emit: Emit,
    /// The latest record's time; -1 before the first, and again after a restart.
    pub(crate) observed: i64,
    /// Sessions that are not over, where they are forwarded once they are.
    pub(crate) open: BTreeMap<Place, K>,
    pub(crate) knows_restored: bool,
    pub(crate) out: Out<Windowed<K>, Change<A>>,
    pub(crate) values: std::marker::PhantomData<fn(V)>,
}

impl<K, V, A, U> SessionAggregate<K, V, A, U>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: Merge<K, V, A>,
{
    /// Sessions that end before this take no more records.
    fn close_time(&self, observed: i64) -> i64 {
        observed.saturating_sub(self.windows.grace).saturating_sub(self.windows.gap)
    }

    /// A session begins, grows or is replaced by a longer one. The changelog has the time of the record that did it.
    fn put(
        &mut self,
        window: Windowed<K>,
        change: Change<A>,
        (now, headers): (i64, &Headers),
        cx: &mut Context<'_>,
    ) -> NodeResult {
        let Windowed { key, start, end } = &window;
        let store = cx.stores.get(self.store)?;
        match self.emit {
            Emit::OnClose => {
                let place = (*end, store.key_bytes(key)?, *start);
                match &change.new {
                    Some(_) => self.open.insert(place, key.clone()),
                    None => self.open.remove(&place),
                };
                store.put(key, *start, *end, change.new, now)
            }
            Emit::OnUpdate if self.forwarding.cached => {
                let send_old = self.forwarding.send_old;
                store.put_held(key, *start, *end, change.new, now, headers, send_old)
            }
            Emit::OnUpdate => {
                store.put(key, *start, *end, change.new.clone(), now)?;
                let (timestamp, headers) = (*end, Headers::default());
                self.out.forward(Record { key: window, value: change, timestamp, headers }, cx)
            }
        }
    }

    /// Forwards sessions that are over, before the store forgets them.
    fn close(&mut self, headers: &Headers, cx: &mut Context<'_>) -> NodeResult {
        if self.emit != Emit::OnClose {
            return Ok(());
        }
        if !std::mem::replace(&mut self.knows_restored, true) {
            let store = cx.stores.get(self.store)?;
            let before =
                store.stream_time().saturating_sub(self.windows.grace).saturating_sub(self.windows.gap);
            for (key, start, end, _, _) in store.all()? {
                if end >= before {
                    let bytes = store.key_bytes(&key)?;
                    self.open.insert((end, bytes, start), key);
                }
            }
        }
        let close_time = self.close_time(self.observed);
        while let Some(entry) = self.open.first_entry() {
            let (end, start) = (entry.key().0, entry.key().2);
            if end >= close_time {
                break;
            }
            let key = entry.remove();
            let row = cx.stores.get(self.store)?.get(&key, start, end)?.map(|(row, _)| row.clone());
            let Some(row) = row else { continue };
            let (key, value) = (Windowed { key, start, end }, Change::new(None, Some(row)));
            self.out.forward(Record { key, value, timestamp: end, headers: headers.clone() }, cx)?;
        }
        Ok(())
    }
}

impl<K, V, A, U> Node<K, V> for SessionAggregate<K, V, A, U>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: Merge<K, V, A>,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        if self.key.is_null(&key) {
            cx.dropped += 1;
            return Ok(());
        }
        self.observed = self.observed.max(timestamp);
        let close_time = self.close_time(self.observed);
        let gap = self.windows.gap;
        let sessions = cx.stores.get(self.store)?.find(
            &key,
            timestamp.saturating_sub(gap),
            timestamp.saturating_add(gap),
        )?;
        let (mut start, mut end) = (timestamp, timestamp);
        let mut merged = self.update.initial();
        for session in &sessions {
            start = start.min(session.start);
            end = end.max(session.end);
            merged = Some(self.update.merge(&key, merged, session.value.clone()));
        }
        if end < close_time {
            cx.dropped += 1;
            return self.close(&headers, cx);
        }
        if (start, end) != (timestamp, timestamp) {
            for session in sessions {
                let window = Windowed { key: key.clone(), start: session.start, end: session.end };
                let old = self.forwarding.send_old.then_some(session.value);
                self.put(window, Change::new(old, None), (timestamp, &headers), cx)?;
            }
        }
        self.close(&headers, cx)?;
        let merged = self.update.update(&key, &value, merged);
        self.put(Windowed { key, start, end }, Change::new(None, Some(merged)), (timestamp, &headers), cx)
    }
}

impl<K, V, A, U> Called for SessionAggregate<K, V, A, U>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: Merge<K, V, A>,
{
    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        if !self.forwarding.cached || self.emit == Emit::OnClose {
            return Ok(());
        }
        for (key, start, end, row) in cx.stores.get(self.store)?.take_held()? {
            let (key, value) = (Windowed { key, start, end }, Change::new(row.before, row.value));
            self.out.forward(Record { key, value, timestamp: end, headers: row.headers }, cx)?;
        }
        Ok(())
    }
}

/// The rows of a session store by windowed key; a row's time is its session's end.
pub(crate) struct SessionGetter<K, V>(pub(crate) StoreToken<SessionStore<K, V>>);

impl<K: Send + 'static, V: Clone + Send + 'static> ValueGetter<Windowed<K>, V> for SessionGetter<K, V> {
    fn get(&mut self, key: &Windowed<K>, stores: &mut Stores) -> Result<Option<(V, i64)>, Box<StreamsError>> {
        let row = stores.get(self.0)?.get(&key.key, key.start, key.end)?;
        Ok(row.map(|(row, _)| (row.clone(), key.end)))
    }
}
