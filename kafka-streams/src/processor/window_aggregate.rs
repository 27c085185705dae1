//! Aggregates by key and window.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;

use super::aggregate::Forwarding;
use super::{Called, Change, Context, Getter, Node, NodeResult, Out, Record, ValueGetter};
use crate::dsl::{Emit, SlidingWindows, Windowed, Windows};
use crate::error::StreamsError;
use crate::serde::SharedSerde;
use crate::state::{StoreToken, Stores, WindowStore};

/// When windows end.
pub(crate) trait Ends {
    fn grace(&self) -> i64;
    fn end_of(&self, start: i64) -> i64;
    /// Whether a window takes no more records once those that came so late are left out.
    fn is_over(&self, start: i64, close_time: i64) -> bool;
}

impl<W: Windows> Ends for W {
    fn grace(&self) -> i64 {
        self.grace_ms()
    }

    fn end_of(&self, start: i64) -> i64 {
        Windows::end_of(self, start)
    }

    fn is_over(&self, start: i64, close_time: i64) -> bool {
        Windows::end_of(self, start) <= close_time
    }
}

/// A sliding window's last millisecond is its own.
impl Ends for SlidingWindows {
    fn grace(&self) -> i64 {
        self.grace
    }

    fn end_of(&self, start: i64) -> i64 {
        start.saturating_add(self.difference)
    }

    fn is_over(&self, start: i64, close_time: i64) -> bool {
        self.end_of(start) < close_time
    }
}

/// How a record changes a window's row: a record can be in many windows, so its value is borrowed.
pub(crate) trait WindowUpdate<K, V, A>: Send + Sync + 'static {
    fn initial(&self) -> Option<A>;
    fn update(&self, key: &K, value: &V, row: Option<A>) -> A;
}

/// The rows of windows that are not over, for those who want them once they are.
///
/// They are named here and not looked for in the store: by the time a window is over the store may have forgotten it.
pub(crate) struct Closing<K> {
    /// By start, then key.
    open: BTreeMap<i64, BTreeMap<Bytes, K>>,
    /// Rows that were restored are here too.
    knows_restored: bool,
}

impl<K> Default for Closing<K> {
    fn default() -> Self {
        Self { open: BTreeMap::new(), knows_restored: false }
    }
}

/// What aggregates of windows have in common.
pub(crate) struct WindowedOut<K, A> {
    pub(crate) store: StoreToken<WindowStore<K, A>>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) forwarding: Forwarding,
    pub(crate) emit: Emit,
    /// The latest record's time, which closes windows; -1 before the first, and again after a restart.
    pub(crate) observed: i64,
    pub(crate) closing: Closing<K>,
    pub(crate) out: Out<Windowed<K>, Change<A>>,
}

impl<K: Clone + Send + 'static, A: Clone + Send + 'static> WindowedOut<K, A> {
    /// A window's row has changed: tells downstream, now or later.
    fn changed(
        &mut self,
        window: Windowed<K>,
        change: Change<A>,
        timestamp: i64,
        headers: &Headers,
        cx: &mut Context<'_>,
    ) -> NodeResult {
        if self.emit == Emit::OnClose {
            let key = cx.stores.get(self.store)?.key_bytes(&window.key)?;
            self.closing.open.entry(window.start).or_default().insert(key, window.key);
            return Ok(());
        }
        self.out.forward(Record { key: window, value: change, timestamp, headers: headers.clone() }, cx)
    }

    /// Forwards the rows of windows that are over. Before the store's time goes on: it forgets such windows.
    fn close(&mut self, ends: &impl Ends, headers: &Headers, cx: &mut Context<'_>) -> NodeResult {
        if self.emit != Emit::OnClose {
            return Ok(());
        }
        if !std::mem::replace(&mut self.closing.knows_restored, true) {
            self.find_restored(ends, cx)?;
        }
        let close_time = self.observed.saturating_sub(ends.grace());
        while let Some(entry) = self.closing.open.first_entry() {
            if !ends.is_over(*entry.key(), close_time) {
                break;
            }
            let (start, keys) = entry.remove_entry();
            for key in keys.into_values() {
                let row = cx.stores.get(self.store)?.get(&key, start)?;
                let Some((row, timestamp)) = row.map(|(row, timestamp)| (row.clone(), timestamp)) else {
                    continue;
                };
                let value = Change::new(None, Some(row));
                let key = Windowed { key, start, end: ends.end_of(start) };
                self.out.forward(Record { key, value, timestamp, headers: headers.clone() }, cx)?;
            }
        }
        Ok(())
    }

    /// After a restart: the windows that may not have been over when it stopped. The last record was no earlier than
    /// the last window's start; windows that it closed beyond that are forwarded again.
    fn find_restored(&mut self, ends: &impl Ends, cx: &mut Context<'_>) -> NodeResult {
        let store = cx.stores.get(self.store)?;
        let close_time = store.stream_time().saturating_sub(1).saturating_sub(ends.grace());
        for (key, start, _, _) in store.fetch_all(0, i64::MAX)? {
            if !ends.is_over(start, close_time) {
                let bytes = store.key_bytes(&key)?;
                self.closing.open.entry(start).or_default().insert(bytes, key);
            }
        }
        Ok(())
    }

    fn flush(&mut self, ends: &impl Ends, cx: &mut Context<'_>) -> NodeResult {
        if !self.forwarding.cached || self.emit == Emit::OnClose {
            return Ok(());
        }
        for (key, start, row) in cx.stores.get(self.store)?.take_held()? {
            let key = Windowed { key, start, end: ends.end_of(start) };
            let value = Change::new(row.before, row.value);
            self.out.forward(Record { key, value, timestamp: row.timestamp, headers: row.headers }, cx)?;
        }
        Ok(())
    }

    /// Changes are held back until a commit.
    fn holds(&self) -> bool {
        self.forwarding.cached && self.emit == Emit::OnUpdate
    }
}

/// Windows that follow from the timestamp alone.
pub(crate) struct WindowAggregate<K, V, A, U, W> {
    pub(crate) windows: Arc<W>,
    pub(crate) update: Arc<U>,
    pub(crate) out: WindowedOut<K, A>,
    /// The windows of the record at hand.
    pub(crate) matched: Vec<(i64, i64)>,
    pub(crate) values: std::marker::PhantomData<fn(V)>,
}

impl<K, V, A, U, W> Node<K, V> for WindowAggregate<K, V, A, U, W>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: WindowUpdate<K, V, A>,
    W: Windows,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        // Null values are aggregated here, other than without windows (Java's KStreamWindowAggregate).
        if self.out.key.is_null(&key) {
            cx.dropped += 1;
            return Ok(());
        }
        self.out.observed = self.out.observed.max(timestamp);
        let close_time = self.out.observed.saturating_sub(self.windows.grace_ms());
        self.out.close(&*self.windows, &headers, cx)?;
        let mut matched = std::mem::take(&mut self.matched);
        matched.clear();
        self.windows.for_each_window(timestamp, &mut |start, end| matched.push((start, end)));
        for &(start, end) in &matched {
            if end <= close_time {
                cx.dropped += 1;
                continue;
            }
            let latest =
                |row: &Option<(A, i64)>| row.as_ref().map_or(timestamp, |(_, before)| timestamp.max(*before));
            let store = cx.stores.get(self.out.store)?;
            if self.out.holds() {
                store.update_held(&key, start, &headers, self.out.forwarding.send_old, |row| {
                    let latest = latest(&row);
                    (Some(self.update.update(&key, &value, row.map(|(row, _)| row))), latest)
                })?;
                continue;
            }
            let (mut change, mut time) = (Change::new(None, None), timestamp);
            let (send_old, on_update) = (self.out.forwarding.send_old, self.out.emit == Emit::OnUpdate);
            store.update(&key, start, |row| {
                time = latest(&row);
                let row = row.map(|(row, _)| row);
                if send_old {
                    // A new window was what it begins with, as Java has it.
                    change.old = row.clone().or_else(|| self.update.initial());
                }
                let row = self.update.update(&key, &value, row);
                if on_update {
                    change.new = Some(row.clone());
                }
                (Some(row), time)
            })?;
            let window = Windowed { key: key.clone(), start, end };
            self.out.changed(window, change, time, &headers, cx)?;
        }
        self.matched = matched;
        Ok(())
    }
}

impl<K, V, A, U, W> Called for WindowAggregate<K, V, A, U, W>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: WindowUpdate<K, V, A>,
    W: Windows,
{
    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        self.out.flush(&*self.windows, cx)
    }
}

/// Windows that records make by coming near each other (KIP-450). For each record there is a window that ends with it
/// and, if others follow it closely enough, one that begins right after it.
pub(crate) struct SlidingAggregate<K, V, A, U> {
    pub(crate) windows: SlidingWindows,
    pub(crate) value: SharedSerde<V>,
    pub(crate) update: Arc<U>,
    pub(crate) out: WindowedOut<K, A>,
}

/// A window's row: its aggregate and the time of its latest record.
type Row<A> = (A, i64);

impl<K, V, A, U> SlidingAggregate<K, V, A, U>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: WindowUpdate<K, V, A>,
{
    /// Adds the record to a window that has `row`, or is new.
    fn add(
        &mut self,
        start: i64,
        row: Option<Row<A>>,
        record: &Record<K, V>,
        close_time: i64,
        cx: &mut Context<'_>,
    ) -> NodeResult {
        let end = start.saturating_add(self.windows.difference);
        if end < close_time {
            cx.dropped += 1;
            return Ok(());
        }
        let (row, before) = match row {
            Some((row, before)) => (Some(row), before),
            None => (self.update.initial(), record.timestamp),
        };
        let old = if self.out.forwarding.send_old { row.clone() } else { None };
        let new = self.update.update(&record.key, &record.value, row);
        self.put(start, end, Change::new(old, Some(new)), record.timestamp.max(before), record, cx)
    }

    fn put(
        &mut self,
        start: i64,
        end: i64,
        change: Change<A>,
        timestamp: i64,
        record: &Record<K, V>,
        cx: &mut Context<'_>,
    ) -> NodeResult {
        let store = cx.stores.get(self.out.store)?;
        if self.out.holds() {
            let new = change.new;
            return store.update_held(
                &record.key,
                start,
                &record.headers,
                self.out.forwarding.send_old,
                |_| (new, timestamp),
            );
        }
        store.put(&record.key, start, change.new.clone(), timestamp)?;
        self.out.changed(
            Windowed { key: record.key.clone(), start, end },
            change,
            timestamp,
            &record.headers,
            cx,
        )
    }

    /// The rows of the windows that could concern a record, latest first.
    fn nearby(
        &self,
        record: &Record<K, V>,
        from: i64,
        cx: &mut Context<'_>,
    ) -> Result<Vec<(i64, Row<A>)>, Box<StreamsError>> {
        let mut found = Vec::new();
        let (from, to) = (from.max(0), record.timestamp.saturating_add(1));
        cx.stores.get(self.out.store)?.fetch(&record.key, from, to, true, &mut |start, row, timestamp| {
            found.push((start, (row.clone(), timestamp)));
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    fn process_record(&mut self, record: &Record<K, V>, close_time: i64, cx: &mut Context<'_>) -> NodeResult {
        let (timestamp, difference) = (record.timestamp, self.windows.difference);
        // Rows as they were before this record: what a new window has from them.
        let (mut left, mut right) = (None::<Row<A>>, None::<Row<A>>);
        let (mut has_left, mut has_right) = (false, false);
        let mut previous = None;
        let mut starts = Vec::new();
        for (start, row) in self.nearby(record, timestamp.saturating_sub(2 * difference), cx)? {
            starts.push(start);
            let end = start.saturating_add(difference);
            if start == timestamp + 1 {
                has_right = true;
            } else if end > timestamp {
                right.get_or_insert_with(|| row.clone());
                self.add(start, Some(row), record, close_time, cx)?;
            } else if end == timestamp {
                has_left = true;
                let latest = row.1;
                self.add(start, Some(row), record, close_time, cx)?;
                if latest >= timestamp {
                    // A record of this time came before: all its windows are there.
                    return Ok(());
                }
                previous = Some(latest);
            } else {
                previous = Some(row.1);
                left = Some(row);
                break;
            }
        }
        if let Some(previous) = previous {
            let start = previous + 1;
            if !starts.contains(&start) && start.saturating_add(difference) >= timestamp {
                self.add(start, None, record, close_time, cx)?;
            }
        }
        if !has_left {
            let reaches = previous.is_some_and(|previous| timestamp - difference <= previous);
            let row = left.filter(|_| reaches).map(|(row, _)| (row, timestamp));
            self.add(timestamp - difference, row, record, close_time, cx)?;
        }
        if let Some((row, latest)) = right.filter(|(_, latest)| !has_right && *latest > timestamp) {
            self.begin_after(record, row, latest, cx)?;
        }
        Ok(())
    }

    /// The window that begins right after the record has others, but not this one.
    fn begin_after(
        &mut self,
        record: &Record<K, V>,
        row: A,
        latest: i64,
        cx: &mut Context<'_>,
    ) -> NodeResult {
        let start = record.timestamp + 1;
        let end = start.saturating_add(self.windows.difference);
        self.put(start, end, Change::new(None, Some(row)), latest, record, cx)
    }

    /// Records so early that their own window would begin before 1970 share the one that begins then.
    fn process_early(&mut self, record: &Record<K, V>, close_time: i64, cx: &mut Context<'_>) -> NodeResult {
        let timestamp = record.timestamp;
        let (mut combined, mut right) = (None::<Row<A>>, None::<Row<A>>);
        let mut has_right = false;
        let mut previous = None;
        let mut starts = Vec::new();
        for (start, row) in self.nearby(record, 0, cx)?.into_iter().rev() {
            starts.push(start);
            if start == 0 {
                previous = Some(row.1).filter(|latest| *latest < timestamp);
                combined = Some(row);
            } else if start <= timestamp {
                right = Some(row.clone());
                self.add(start, Some(row), record, close_time, cx)?;
            } else {
                has_right = true;
            }
        }
        let right = right.or_else(|| combined.clone());
        if let Some((row, latest)) = right.filter(|(_, latest)| !has_right && *latest > timestamp) {
            self.begin_after(record, row, latest, cx)?;
        }
        if let Some(start) = previous.map(|previous| previous + 1).filter(|start| !starts.contains(start)) {
            self.add(start, None, record, close_time, cx)?;
        }
        self.add(0, combined, record, close_time, cx)
    }
}

impl<K, V, A, U> Node<K, V> for SlidingAggregate<K, V, A, U>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: WindowUpdate<K, V, A>,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        if self.out.key.is_null(&record.key) || self.value.is_null(&record.value) {
            cx.dropped += 1;
            return Ok(());
        }
        let difference = self.windows.difference;
        self.out.observed = self.out.observed.max(record.timestamp);
        let close_time = self.out.observed.saturating_sub(self.windows.grace);
        if record.timestamp.saturating_add(difference) < close_time {
            cx.dropped += 1;
            return Ok(());
        }
        let windows = self.windows;
        self.out.close(&windows, &record.headers, cx)?;
        if record.timestamp < difference {
            self.process_early(&record, close_time, cx)
        } else {
            self.process_record(&record, close_time, cx)
        }
    }
}

impl<K, V, A, U> Called for SlidingAggregate<K, V, A, U>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: WindowUpdate<K, V, A>,
{
    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        let windows = self.windows;
        self.out.flush(&windows, cx)
    }
}

/// The rows of a window store by windowed key.
pub(crate) struct WindowGetter<K, V>(pub(crate) StoreToken<WindowStore<K, V>>);

impl<K: Send + 'static, V: Clone + Send + 'static> ValueGetter<Windowed<K>, V> for WindowGetter<K, V> {
    fn get(&mut self, key: &Windowed<K>, stores: &mut Stores) -> Result<Option<(V, i64)>, Box<StreamsError>> {
        let row = stores.get(self.0)?.get(&key.key, key.start)?;
        Ok(row.map(|(row, timestamp)| (row.clone(), timestamp)))
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> WindowGetter<K, V> {
    pub(crate) fn boxed(store: StoreToken<WindowStore<K, V>>) -> Getter<Windowed<K>, V> {
        Box::new(Self(store))
    }
}
