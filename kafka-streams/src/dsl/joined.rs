//! What joins need to know beside the streams.

use std::time::Duration;

use super::windows::millis;
use crate::serde::{HasSerde, SharedSerde};
use crate::state::ChangelogRecords;

/// How far apart in time records of a stream-stream join may be (`JoinWindows`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinWindows {
    pub(crate) before: i64,
    pub(crate) after: i64,
    pub(crate) grace: i64,
}

impl JoinWindows {
    /// The right record is at most so much earlier or later than the left one.
    pub fn within(difference: Duration) -> Self {
        let difference = millis(difference);
        Self { before: difference, after: difference, grace: 0 }
    }

    /// The right record is at most so much earlier than the left one.
    pub fn before(self, before: Duration) -> Self {
        Self { before: millis(before), ..self }
    }

    /// The right record is at most so much later than the left one.
    pub fn after(self, after: Duration) -> Self {
        Self { after: millis(after), ..self }
    }

    /// Records that come so late, by stream time, still find partners, and records without one wait so much longer.
    /// Default: no time.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace: millis(grace), ..self }
    }

    /// How long a record can be a partner.
    pub(crate) fn retention(&self) -> i64 {
        self.before.saturating_add(self.after).saturating_add(self.grace)
    }
}

/// How two streams are joined: names and serdes (`StreamJoined`).
pub struct StreamJoined<K, L, R> {
    pub(crate) name: Option<String>,
    pub(crate) store_name: Option<String>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) left: SharedSerde<L>,
    pub(crate) right: SharedSerde<R>,
    pub(crate) logged: bool,
    pub(crate) records: ChangelogRecords,
}

impl<K, L, R> StreamJoined<K, L, R> {
    /// With serdes of one's own and generated names.
    pub fn with(key: SharedSerde<K>, left: SharedSerde<L>, right: SharedSerde<R>) -> Self {
        let (logged, records) = (true, ChangelogRecords::EachCommit);
        Self { name: None, store_name: None, key, left, right, logged, records }
    }

    /// Names the operators, and the repartition topics if there are any.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Names the stores, and so their changelogs (`withStoreName`).
    pub fn stores_named(mut self, name: impl Into<String>) -> Self {
        self.store_name = Some(name.into());
        self
    }

    /// Keeps no changelogs: what waits for a partner is lost with the task.
    pub fn without_changelog(mut self) -> Self {
        self.logged = false;
        self
    }

    /// When the changelogs get records. Default: [`ChangelogRecords::EachCommit`].
    pub fn changelog_records(mut self, records: ChangelogRecords) -> Self {
        self.records = records;
        self
    }
}

impl<K: HasSerde, L: HasSerde, R: HasSerde> StreamJoined<K, L, R> {
    /// With the types' own serdes and generated names, which change when the topology does.
    pub fn auto() -> Self {
        Self::with(K::serde(), L::serde(), R::serde())
    }
}

/// Names operators and stores.
impl<K: HasSerde, L: HasSerde, R: HasSerde> From<&str> for StreamJoined<K, L, R> {
    fn from(name: &str) -> Self {
        Self::auto().named(name).stores_named(name)
    }
}

/// How a stream is joined with a table: a name, and the serdes of the stream's records (`Joined`).
pub struct Joined<K, V> {
    pub(crate) name: Option<String>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) grace: Option<Duration>,
}

impl<K, V> Joined<K, V> {
    /// With serdes of one's own and a generated name.
    pub fn with(key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        Self { name: None, key, value, grace: None }
    }

    /// Names the operator, and the repartition topic if there is one.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Lets each record of the stream wait so long, by the stream's time, for updates of the table that come late
    /// (KIP-923). The table must be [versioned](crate::Store::history), with a history that goes back as far. Records
    /// that come later than that are joined at once. Default: nobody waits.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::{Joined, Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let rates = builder.table_in::<String, i64>("rates", Store::versioned("rates", Duration::from_secs(60)));
    ///     let patient = Joined::from("convert").grace(Duration::from_millis(10));
    ///     let amounts = builder.stream::<String, i64>("amounts");
    ///     amounts.join_table(&rates, |_, amount, rate| amount * rate, patient).to("out");
    /// })
    /// .pipe_at(0, "rates", [("usd", 2)])
    /// .pipe_at(20, "amounts", [("usd", 100)])
    /// .pipe_at(15, "rates", [("usd", 3)])
    /// // Now the first one has waited long enough, and meets the rate of its time.
    /// .pipe_at(30, "amounts", [("usd", 1)])
    /// .gives("out", [("usd", 300)]);
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }
}

impl<K: HasSerde, V: HasSerde> Joined<K, V> {
    /// With the types' own serdes and a generated name, which changes when the topology does.
    pub fn auto() -> Self {
        Self::with(K::serde(), V::serde())
    }
}

impl<K: HasSerde, V: HasSerde> From<&str> for Joined<K, V> {
    fn from(name: &str) -> Self {
        Self::auto().named(name)
    }
}
