//! What callers gave to producers, and what they were told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::trace::lock;

/// What a caller was told about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: the call, or the delivery, is still open.
    Open,
    /// It was not taken: `send` failed, or was dropped before it was ready.
    NotTaken(String),
    /// It was written.
    Acknowledged {
        /// The partition.
        partition: i32,
        /// The offset; -1 where it is not known.
        offset: i64,
    },
    /// It was not acknowledged, and is not in the log.
    Failed(String),
    /// It was not acknowledged, and may be in the log.
    PossiblyWritten(String),
    /// Nobody asked.
    Ignored,
}

/// A record that was given to a producer.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its number in the whole run, which is also its value.
    pub id: u64,
    /// The task that sent it; records of one task have an order.
    pub sender: u32,
    /// The partition that was asked for.
    pub partition: Option<i32>,
    /// When `send` returned it, since the start of the run.
    pub taken_at: Option<Duration>,
    /// When its outcome was told, since the start of the run.
    pub told_at: Option<Duration>,
    /// What was told.
    pub outcome: Outcome,
}

/// Everything that was given to producers. Clones are the same history.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Vec<Sent>>>);

impl History {
    /// Notes a record that is about to be sent, and numbers it. `None` once there are `limit` of them.
    pub fn begin(&self, sender: u32, partition: Option<i32>, limit: u32) -> Option<u64> {
        let mut sent = lock(&self.0);
        let id = sent.len() as u64;
        if id >= u64::from(limit) {
            return None;
        }
        sent.push(Sent { id, sender, partition, taken_at: None, told_at: None, outcome: Outcome::Open });
        Some(id)
    }

    /// Notes that a producer took it.
    pub fn taken(&self, id: u64, at: Duration) {
        if let Some(sent) = lock(&self.0).get_mut(id as usize) {
            sent.taken_at = Some(at);
        }
    }

    /// Notes what was told.
    pub fn told(&self, id: u64, at: Duration, outcome: Outcome) {
        if let Some(sent) = lock(&self.0).get_mut(id as usize) {
            sent.told_at = Some(at);
            sent.outcome = outcome;
        }
    }

    /// The records so far.
    pub fn records(&self) -> Vec<Sent> {
        lock(&self.0).clone()
    }
}
