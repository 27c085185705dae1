//! Windows: which stretches of time a record belongs to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::serde::{Encoded, Serde, SerdeContext, SerdeError, SharedSerde};

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A key and the window it was aggregated in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Windowed<K> {
    /// The key.
    pub key: K,
    /// The window's first millisecond.
    pub start: i64,
    /// Where the window ends: its first millisecond no more for [`TimeWindows`], its last one for
    /// [`SlidingWindows`] and [`SessionWindows`], as in Java.
    pub end: i64,
}

/// Windows in which a record has places by its timestamp alone.
///
/// Implement it for windows of one's own: by calendar, say.
///
/// ```
/// use kafka_streams::{Store, StreamsBuilder, Windowed, Windows, testing::TestDriver};
///
/// /// Days of a zone that is so many hours ahead of UTC.
/// struct Days(i64);
///
/// const HOUR: i64 = 3_600_000;
///
/// impl Windows for Days {
///     fn for_each_window(&self, timestamp: i64, visit: &mut dyn FnMut(i64, i64)) {
///         let start = (timestamp + self.0 * HOUR) / (24 * HOUR) * (24 * HOUR) - self.0 * HOUR;
///         visit(start.max(0), start + 24 * HOUR);
///     }
///     fn size_ms(&self) -> i64 {
///         24 * HOUR
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, i64>("sales")
///     .group_by_key("by-shop")
///     .windowed_by(Days(2))
///     .reduce(|total, cents| total + cents, Store::window("daily"))
///     .to_stream()
///     .map(|day: Windowed<String>, total| (day.start, total))
///     .to("totals");
/// let mut driver = TestDriver::new(&builder.build()?)?;
/// let mut sales = driver.input::<String, i64>("sales");
/// sales.pipe("a".into(), 5, 21 * HOUR)?;
/// sales.pipe("a".into(), 7, 23 * HOUR)?; // one in the morning, the next day
/// assert_eq!(driver.output::<i64, i64>("totals").read_all()?, [(0, 5), (22 * HOUR, 7)]);
/// # Ok(()) }
/// ```
pub trait Windows: Send + Sync + 'static {
    /// Calls `visit` with start (included) and end (excluded) of each window that a record of this timestamp belongs to,
    /// in the order of their starts. Times are milliseconds since 1970, never negative.
    fn for_each_window(&self, timestamp: i64, visit: &mut dyn FnMut(i64, i64));

    /// How long the longest window is.
    fn size_ms(&self) -> i64;

    /// How long after its end a window takes records. Default: not at all.
    fn grace_ms(&self) -> i64 {
        0
    }

    /// Where the window that begins at `start` ends.
    fn end_of(&self, start: i64) -> i64 {
        let mut found = start.saturating_add(self.size_ms());
        self.for_each_window(start, &mut |first, end| {
            if first == start {
                found = end;
            }
        });
        found
    }
}

/// Windows of one size, one beginning each `advance`: tumbling when that is the size, hopping otherwise
/// (`TimeWindows`). Aligned to 1970-01-01T00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWindows {
    size: i64,
    advance: i64,
    grace: i64,
}

impl TimeWindows {
    /// One after the other: each record is in one window. Whole milliseconds, at least one.
    pub fn tumbling(size: Duration) -> Self {
        let size = millis(size).max(1);
        Self { size, advance: size, grace: 0 }
    }

    /// Overlapping: a window of this size begins each `advance`, which is no longer than the size.
    pub fn hopping(size: Duration, advance: Duration) -> Self {
        let windows = Self::tumbling(size);
        Self { advance: millis(advance).clamp(1, windows.size), ..windows }
    }

    /// Takes records so long after a window's end, by stream time. Default: not at all.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace: millis(grace), ..self }
    }
}

impl Windows for TimeWindows {
    #[inline]
    fn for_each_window(&self, timestamp: i64, visit: &mut dyn FnMut(i64, i64)) {
        // The first window that has not ended yet, but none before 1970.
        let mut start = (timestamp.saturating_sub(self.size).saturating_add(self.advance)).max(0)
            / self.advance
            * self.advance;
        while start <= timestamp {
            visit(start, start.saturating_add(self.size));
            let Some(next) = start.checked_add(self.advance) else { break };
            start = next;
        }
    }

    fn size_ms(&self) -> i64 {
        self.size
    }

    fn grace_ms(&self) -> i64 {
        self.grace
    }

    fn end_of(&self, start: i64) -> i64 {
        start.saturating_add(self.size)
    }
}

/// One window without an end (`UnlimitedWindows`); records before its start belong to none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnlimitedWindows {
    start: i64,
}

impl UnlimitedWindows {
    /// The window begins at so many milliseconds since 1970.
    pub fn start_on(start: i64) -> Self {
        Self { start: start.max(0) }
    }
}

impl Windows for UnlimitedWindows {
    fn for_each_window(&self, timestamp: i64, visit: &mut dyn FnMut(i64, i64)) {
        if timestamp >= self.start {
            visit(self.start, i64::MAX);
        }
    }

    fn size_ms(&self) -> i64 {
        i64::MAX
    }

    fn end_of(&self, _: i64) -> i64 {
        i64::MAX
    }
}

/// A window for each set of records that are no further apart than a time difference (`SlidingWindows`, KIP-450). Both
/// ends belong to the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindows {
    pub(crate) difference: i64,
    pub(crate) grace: i64,
}

impl SlidingWindows {
    /// Records of one window are at most so far apart.
    pub fn of(difference: Duration) -> Self {
        Self { difference: millis(difference), grace: 0 }
    }

    /// Takes records so long after a window's end, by stream time. Default: not at all.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace: millis(grace), ..self }
    }
}

/// Windows that grow with their records and end when none comes for a while (`SessionWindows`). Both ends belong to the
/// window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionWindows {
    pub(crate) gap: i64,
    pub(crate) grace: i64,
}

impl SessionWindows {
    /// A session ends when no record comes for so long.
    pub fn gap(gap: Duration) -> Self {
        Self { gap: millis(gap), grace: 0 }
    }

    /// Takes records so long after a session's end, by stream time. Default: not at all.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace: millis(grace), ..self }
    }
}

/// When a window's result is forwarded (`EmitStrategy`, KIP-825).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Emit {
    /// With each update. The default.
    #[default]
    OnUpdate,
    /// Once, when the window and its grace are over, by stream time.
    ///
    /// No window is lost, whatever the store's retention and cache; Java 4.3 loses windows without a cache, since the
    /// store forgets them before they are looked for.
    OnClose,
}

/// A windowed key as Java writes it to topics: the key's bytes and the window's start; the size is not written.
pub(crate) struct TimeWindowedSerde<K> {
    inner: SharedSerde<K>,
    size: i64,
}

/// The key's bytes, then the session's end and start.
pub(crate) struct SessionWindowedSerde<K> {
    inner: SharedSerde<K>,
}

impl<K: 'static> Windowed<K> {
    /// The serde of keys in windows of one size: the key's bytes and the window's start
    /// (`WindowedSerdes.TimeWindowedSerde`). Reading them makes windows of `size`.
    pub fn time_serde(inner: SharedSerde<K>, size: Duration) -> SharedSerde<Self> {
        Arc::new(TimeWindowedSerde { inner, size: millis(size) })
    }

    /// The serde of keys in sessions: the key's bytes, the session's end and its start
    /// (`WindowedSerdes.SessionWindowedSerde`).
    pub fn session_serde(inner: SharedSerde<K>) -> SharedSerde<Self> {
        Arc::new(SessionWindowedSerde { inner })
    }
}

/// Cuts `count` times off the end of a windowed key's bytes.
fn split<const N: usize>(bytes: Option<&Bytes>) -> Result<(Bytes, [i64; N]), SerdeError> {
    let bytes = bytes.ok_or(SerdeError::Null { type_name: "Windowed" })?;
    let Some(at) = bytes.len().checked_sub(8 * N) else {
        return Err(SerdeError::Length { expected: 8 * N, actual: bytes.len() });
    };
    let mut times = [0; N];
    for (time, chunk) in times.iter_mut().zip(bytes.get(at..).unwrap_or_default().chunks_exact(8)) {
        *time = <[u8; 8]>::try_from(chunk).map_or(0, i64::from_be_bytes);
    }
    Ok((bytes.slice(..at), times))
}

impl<K: 'static> Serde<Windowed<K>> for TimeWindowedSerde<K> {
    fn serialize(
        &self,
        cx: SerdeContext<'_>,
        value: &Windowed<K>,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, SerdeError> {
        let encoded = self.inner.serialize(cx, &value.key, out)?;
        out.extend_from_slice(&value.start.to_be_bytes());
        Ok(encoded)
    }

    fn deserialize(&self, cx: SerdeContext<'_>, bytes: Option<&Bytes>) -> Result<Windowed<K>, SerdeError> {
        let (key, [start]) = split(bytes)?;
        let key = self.inner.deserialize(cx, Some(&key))?;
        Ok(Windowed { key, start, end: start.saturating_add(self.size) })
    }

    fn partition_bytes<'a>(&self, encoded: &'a [u8]) -> Option<&'a [u8]> {
        encoded.get(..encoded.len().checked_sub(8)?)
    }
}

impl<K: 'static> Serde<Windowed<K>> for SessionWindowedSerde<K> {
    fn serialize(
        &self,
        cx: SerdeContext<'_>,
        value: &Windowed<K>,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, SerdeError> {
        let encoded = self.inner.serialize(cx, &value.key, out)?;
        out.extend_from_slice(&value.end.to_be_bytes());
        out.extend_from_slice(&value.start.to_be_bytes());
        Ok(encoded)
    }

    fn deserialize(&self, cx: SerdeContext<'_>, bytes: Option<&Bytes>) -> Result<Windowed<K>, SerdeError> {
        let (key, [end, start]) = split(bytes)?;
        Ok(Windowed { key: self.inner.deserialize(cx, Some(&key))?, start, end })
    }

    fn partition_bytes<'a>(&self, encoded: &'a [u8]) -> Option<&'a [u8]> {
        encoded.get(..encoded.len().checked_sub(16)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serde::HasSerde;

    fn windows(windows: &dyn Windows, timestamp: i64) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        windows.for_each_window(timestamp, &mut |start, end| found.push((start, end)));
        found
    }

    #[test]
    fn windows_are_aligned_and_never_begin_before_1970() {
        let ms = Duration::from_millis;
        let tumbling = TimeWindows::tumbling(ms(10));
        assert_eq!(windows(&tumbling, 0), [(0, 10)]);
        assert_eq!(windows(&tumbling, 29), [(20, 30)]);
        let hopping = TimeWindows::hopping(ms(10), ms(4));
        assert_eq!(windows(&hopping, 3), [(0, 10)]);
        assert_eq!(windows(&hopping, 9), [(0, 10), (4, 14), (8, 18)]);
        assert_eq!(windows(&hopping, 10), [(4, 14), (8, 18)]);
        assert_eq!(windows(&UnlimitedWindows::start_on(5), 4), []);
        assert_eq!(windows(&UnlimitedWindows::start_on(5), 5), [(5, i64::MAX)]);
    }

    #[test]
    fn windowed_keys_are_written_as_in_java_and_lie_where_their_keys_do() {
        let key = Windowed { key: "k".to_owned(), start: 1, end: 11 };
        let time = Windowed::time_serde(String::serde(), Duration::from_millis(10));
        let mut out = Vec::new();
        time.serialize(SerdeContext::key("t"), &key, &mut out).unwrap();
        assert_eq!(out, [b'k', 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(time.partition_bytes(&out), Some(&b"k"[..]));
        assert_eq!(time.deserialize(SerdeContext::key("t"), Some(&out.into())).unwrap(), key);
        let session = Windowed::session_serde(String::serde());
        let mut out = Vec::new();
        session.serialize(SerdeContext::key("t"), &key, &mut out).unwrap();
        assert_eq!(out, [b'k', 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(session.deserialize(SerdeContext::key("t"), Some(&out.into())).unwrap(), key);
        assert!(session.deserialize(SerdeContext::key("t"), Some(&Bytes::from_static(b"short"))).is_err());
    }
}
