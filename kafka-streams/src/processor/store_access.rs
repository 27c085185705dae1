//! The stores of a processor, as its code reads and writes them.

use std::fmt;
use std::ops::ControlFlow;

use super::TaskContext;
use crate::error::StreamsError;
use crate::state::{KvStore, SessionStore, StoreError, StoreToken, Stores, WindowStore};

/// A processor's hold of one of its stores; [`TaskContext::store`] makes it readable.
pub trait StoreRef: Copy + Send + 'static {
    /// What reads and writes the store while a record is processed.
    type Access<'a>;

    /// The store in the task at work.
    fn access<'a>(self, cx: &'a mut TaskContext<'_>) -> Self::Access<'a>;
}

macro_rules! store_ref {
    ($(#[$doc:meta])* $name:ident, $(#[$access_doc:meta])* $access:ident, $store:ident) => {
        $(#[$doc])*
        pub struct $name<K, V>(pub(crate) StoreToken<$store<K, V>>);

        impl<K, V> Clone for $name<K, V> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<K, V> Copy for $name<K, V> {}

        impl<K, V> fmt::Debug for $name<K, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }

        impl<K: Send + 'static, V: Clone + Send + 'static> StoreRef for $name<K, V> {
            type Access<'a> = $access<'a, K, V>;

            fn access<'a>(self, cx: &'a mut TaskContext<'_>) -> $access<'a, K, V> {
                $access { token: self.0, timestamp: cx.timestamp, stores: &mut *cx.cx.stores }
            }
        }

        $(#[$access_doc])*
        pub struct $access<'a, K, V> {
            stores: &'a mut Stores,
            token: StoreToken<$store<K, V>>,
            timestamp: i64,
        }

        impl<K, V> fmt::Debug for $access<'_, K, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($access)).finish_non_exhaustive()
            }
        }

        impl<K: Send + 'static, V: Clone + Send + 'static> $access<'_, K, V> {
            fn with<T>(
                &mut self,
                work: impl FnOnce(&mut $store<K, V>, i64) -> Result<T, Box<StreamsError>>,
            ) -> Result<T, StoreError> {
                let timestamp = self.timestamp;
                let store = self.stores.get(self.token);
                store.and_then(|store| work(store, timestamp)).map_err(|error| StoreError::from_streams(*error))
            }
        }
    };
}

store_ref!(
    /// A key-value store of a processor.
    KeyValueRef,
    /// Reads and writes a key-value store. What it writes takes the timestamp of the record at hand, or of the
    /// punctuation.
    KeyValueAccess,
    KvStore
);
store_ref!(
    /// A window store of a processor.
    WindowRef,
    /// Reads and writes a window store: values by key and time. A value is seen until the store's time, the latest that
    /// was put, is its retention ahead.
    WindowAccess,
    WindowStore
);
store_ref!(
    /// A session store of a processor.
    SessionRef,
    /// Reads and writes a session store: values by key, start and end.
    SessionAccess,
    SessionStore
);

impl<K: Send + 'static, V: Clone + Send + 'static> KeyValueAccess<'_, K, V> {
    /// A key's value.
    ///
    /// # Errors
    /// When the storage fails or an entry does not convert.
    pub fn get(&mut self, key: &K) -> Result<Option<V>, StoreError> {
        self.with(|store, _| Ok(store.get(key)?.map(|(value, _)| value.clone())))
    }

    /// A key's value and the timestamp it was written with, in milliseconds since 1970.
    ///
    /// # Errors
    /// As [`KeyValueAccess::get`].
    pub fn get_with_timestamp(&mut self, key: &K) -> Result<Option<(V, i64)>, StoreError> {
        self.with(|store, _| Ok(store.get(key)?.map(|(value, timestamp)| (value.clone(), timestamp))))
    }

    /// Whether the key has a value, without a copy of it.
    ///
    /// # Errors
    /// As [`KeyValueAccess::get`].
    pub fn contains(&mut self, key: &K) -> Result<bool, StoreError> {
        self.with(|store, _| Ok(store.get(key)?.is_some()))
    }

    /// Sets a key's value. A null key has none.
    ///
    /// # Errors
    /// As [`KeyValueAccess::get`].
    pub fn put(&mut self, key: &K, value: V) -> Result<(), StoreError> {
        self.with(|store, timestamp| store.put(key, Some(value), timestamp))
    }

    /// Sets a key's value unless it has one, and returns the one it had.
    ///
    /// # Errors
    /// As [`KeyValueAccess::get`].
    pub fn put_if_absent(&mut self, key: &K, value: V) -> Result<Option<V>, StoreError> {
        self.with(|store, timestamp| {
            let before = store.get(key)?.map(|(value, _)| value.clone());
            if before.is_none() {
                store.put(key, Some(value), timestamp)?;
            }
            Ok(before)
        })
    }

    /// Changes a key's value in place: `change` gets what there is. `None` deletes.
    ///
    /// # Errors
    /// As [`KeyValueAccess::get`].
    pub fn update(&mut self, key: &K, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<(), StoreError> {
        self.with(|store, timestamp| {
            store.update(key, |row| (change(row.map(|(value, _)| value)), timestamp)).map(|_| ())
        })
    }

    /// Deletes a key's value and returns it.
    ///
    /// # Errors
    /// As [`KeyValueAccess::get`].
    pub fn delete(&mut self, key: &K) -> Result<Option<V>, StoreError> {
        self.with(|store, timestamp| {
            let before = store.get(key)?.map(|(value, _)| value.clone());
            if before.is_some() {
                store.put(key, None, timestamp)?;
            }
            Ok(before)
        })
    }

    /// The entries from `from` to `to`, both included, in the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`KeyValueAccess::get`].
    pub fn range(&mut self, from: &K, to: &K) -> Result<Vec<(K, V)>, StoreError> {
        self.scan(Some(from), Some(to), false)
    }

    /// As [`KeyValueAccess::range`], against the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`KeyValueAccess::get`].
    pub fn reverse_range(&mut self, from: &K, to: &K) -> Result<Vec<(K, V)>, StoreError> {
        self.scan(Some(from), Some(to), true)
    }

    /// Every entry, in the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`KeyValueAccess::get`].
    pub fn all(&mut self) -> Result<Vec<(K, V)>, StoreError> {
        self.scan(None, None, false)
    }

    fn scan(&mut self, from: Option<&K>, to: Option<&K>, reverse: bool) -> Result<Vec<(K, V)>, StoreError> {
        let rows = self.with(|store, _| store.range(from, to, reverse))?;
        Ok(rows.into_iter().map(|(key, value, _)| (key, value)).collect())
    }

    /// Roughly how many entries there are.
    pub fn approximate_entries(&mut self) -> u64 {
        self.with(|store, _| Ok(store.approximate_entries())).unwrap_or(0)
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> WindowAccess<'_, K, V> {
    /// Sets the value of a key's window that begins at `start` (milliseconds since 1970). Nothing happens if the time is
    /// out of the retention already.
    ///
    /// # Errors
    /// When the storage fails or an entry does not convert.
    pub fn put(&mut self, key: &K, value: V, start: i64) -> Result<(), StoreError> {
        self.with(|store, timestamp| store.put(key, start, Some(value), timestamp))
    }

    /// Deletes the value of a key's window.
    ///
    /// # Errors
    /// As [`WindowAccess::put`].
    pub fn delete(&mut self, key: &K, start: i64) -> Result<(), StoreError> {
        self.with(|store, timestamp| store.put(key, start, None, timestamp))
    }

    /// The value of a key's window that begins at `start`.
    ///
    /// # Errors
    /// As [`WindowAccess::put`].
    pub fn get(&mut self, key: &K, start: i64) -> Result<Option<V>, StoreError> {
        self.with(|store, _| Ok(store.get(key, start)?.map(|(value, _)| value.clone())))
    }

    /// A key's windows that begin between two times, both included: start and value, by start.
    ///
    /// # Errors
    /// As [`WindowAccess::put`].
    pub fn fetch(&mut self, key: &K, from: i64, to: i64) -> Result<Vec<(i64, V)>, StoreError> {
        self.fetched(key, from, to, false)
    }

    /// As [`WindowAccess::fetch`], the latest first.
    ///
    /// # Errors
    /// As [`WindowAccess::put`].
    pub fn backward_fetch(&mut self, key: &K, from: i64, to: i64) -> Result<Vec<(i64, V)>, StoreError> {
        self.fetched(key, from, to, true)
    }

    fn fetched(&mut self, key: &K, from: i64, to: i64, reverse: bool) -> Result<Vec<(i64, V)>, StoreError> {
        self.with(|store, _| {
            let mut found = Vec::new();
            store.fetch(key, from, to, reverse, &mut |start, value, _| {
                found.push((start, value.clone()));
                ControlFlow::Continue(())
            })?;
            Ok(found)
        })
    }

    /// All keys' windows that begin between two times, both included: key, start and value.
    ///
    /// # Errors
    /// As [`WindowAccess::put`].
    pub fn fetch_all(&mut self, from: i64, to: i64) -> Result<Vec<(K, i64, V)>, StoreError> {
        let rows = self.with(|store, _| store.fetch_all(from, to))?;
        Ok(rows.into_iter().map(|(key, start, value, _)| (key, start, value)).collect())
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> SessionAccess<'_, K, V> {
    /// Sets the value of a key's session from `start` to `end`, both included (milliseconds since 1970). Nothing happens
    /// if the end is out of the retention already.
    ///
    /// # Errors
    /// When the storage fails or an entry does not convert.
    pub fn put(&mut self, key: &K, start: i64, end: i64, value: V) -> Result<(), StoreError> {
        self.with(|store, timestamp| store.put(key, start, end, Some(value), timestamp))
    }

    /// Deletes a session.
    ///
    /// # Errors
    /// As [`SessionAccess::put`].
    pub fn delete(&mut self, key: &K, start: i64, end: i64) -> Result<(), StoreError> {
        self.with(|store, timestamp| store.put(key, start, end, None, timestamp))
    }

    /// The value of a session.
    ///
    /// # Errors
    /// As [`SessionAccess::put`].
    pub fn get(&mut self, key: &K, start: i64, end: i64) -> Result<Option<V>, StoreError> {
        self.with(|store, _| Ok(store.get(key, start, end)?.map(|(value, _)| value.clone())))
    }

    /// A key's sessions that end at `earliest_end` or later and begin at `latest_start` or earlier: start, end and value,
    /// by end and start (`findSessions`).
    ///
    /// # Errors
    /// As [`SessionAccess::put`].
    pub fn find(
        &mut self,
        key: &K,
        earliest_end: i64,
        latest_start: i64,
    ) -> Result<Vec<(i64, i64, V)>, StoreError> {
        let found = self.with(|store, _| store.find(key, earliest_end, latest_start))?;
        Ok(found.into_iter().map(|session| (session.start, session.end, session.value)).collect())
    }
}
