//! The processors that specs can use; `java/Parity.java` has the same.

use std::time::Duration;

use kafka_streams::processor::{FixedKeyProcessorContext, KeyValueRef, ProcessorContext};
use kafka_streams::{FixedKeyProcessor, FixedKeyRecord, Processor, ProcessorResult, PunctuationType, Record};

use crate::value::{Val, number, text};

/// What a processor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Forwards a key's first record.
    Dedupe,
    /// Forwards the sum of a key's numbers.
    Running,
    /// Forwards the latest values every ten milliseconds of stream time, and forgets them.
    StreamTick,
    /// Forwards the latest values each second of wall-clock time.
    WallTick,
    /// Forwards each record twice. Has no store.
    Twice,
}

impl Kind {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "dedupe" => Self::Dedupe,
            "running" => Self::Running,
            "streamTick" => Self::StreamTick,
            "wallTick" => Self::WallTick,
            "twice" => Self::Twice,
            _ => return None,
        })
    }
}

/// A processor of the library.
pub(crate) struct Library {
    pub(crate) kind: Kind,
    pub(crate) store: Option<KeyValueRef<Val, Val>>,
}

/// Stores have no null keys.
fn stored_key(key: &Val) -> Val {
    if key.is_null() { Val::Text(String::new()) } else { key.clone() }
}

impl Library {
    fn tick(&mut self, time: i64, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        let Some(store) = self.store else { return Ok(()) };
        for (key, value) in cx.store(store).all()? {
            let (headers, row) = (Default::default(), key.clone());
            cx.forward(Record { key, value, timestamp: time, headers })?;
            if self.kind == Kind::StreamTick {
                cx.store(store).delete(&row)?;
            }
        }
        Ok(())
    }
}

impl Processor for Library {
    type KIn = Val;
    type VIn = Val;
    type KOut = Val;
    type VOut = Val;

    fn init(&mut self, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        match self.kind {
            Kind::StreamTick => {
                cx.schedule(Duration::from_millis(10), PunctuationType::StreamTime, Self::tick);
            }
            Kind::WallTick => {
                cx.schedule(Duration::from_secs(1), PunctuationType::WallClockTime, Self::tick);
            }
            _ => {}
        }
        Ok(())
    }

    fn process(&mut self, record: Record<Val, Val>, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        let key = stored_key(&record.key);
        match (self.kind, self.store) {
            (Kind::Dedupe, Some(store)) => {
                if cx.store(store).put_if_absent(&key, Val::Long(record.timestamp))?.is_none() {
                    cx.forward(record)?;
                }
            }
            (Kind::Running, Some(store)) => {
                let before = cx.store(store).get(&key)?.unwrap_or(Val::Null);
                let sum = Val::Long(number(&before).wrapping_add(number(&record.value)));
                cx.store(store).put(&key, sum.clone())?;
                cx.forward(record.with_value(sum))?;
            }
            (Kind::StreamTick | Kind::WallTick, Some(store)) => {
                cx.store(store).put(&key, Val::Text(text(&record.value)))?;
            }
            _ => {
                cx.forward(record.clone())?;
                let (value, timestamp) = (Val::Text(text(&record.value) + "!"), record.timestamp + 1);
                cx.forward(Record { timestamp, ..record.with_value(value) })?;
            }
        }
        Ok(())
    }
}

/// As [`Library`], for values only.
pub(crate) struct Values(pub(crate) Library);

impl FixedKeyProcessor for Values {
    type K = Val;
    type VIn = Val;
    type VOut = Val;

    fn process(
        &mut self,
        record: FixedKeyRecord<Val, Val>,
        cx: &mut FixedKeyProcessorContext<'_, Self>,
    ) -> ProcessorResult {
        let key = stored_key(record.key());
        match (self.0.kind, self.0.store) {
            (Kind::Dedupe, Some(store)) => {
                if cx.store(store).put_if_absent(&key, Val::Long(record.timestamp()))?.is_none() {
                    cx.forward(record)?;
                }
            }
            (Kind::Running, Some(store)) => {
                let before = cx.store(store).get(&key)?.unwrap_or(Val::Null);
                let sum = Val::Long(number(&before).wrapping_add(number(record.value())));
                cx.store(store).put(&key, sum.clone())?;
                cx.forward(record.with_value(sum))?;
            }
            _ => {
                cx.forward(record.clone())?;
                let value = Val::Text(text(record.value()) + "!");
                cx.forward(record.with_value(value))?;
            }
        }
        Ok(())
    }
}
