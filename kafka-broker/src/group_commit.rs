//! Syncs of one partition's log, one at a time and off its lock. Appends that arrive while one runs wait together for the
//! next, which covers all of them: the more there are, the fewer syncs each costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kafka_wire::error_code::ErrorCode;
use tokio::sync::Mutex;

use crate::log::{FlushError, FlushJob};
use crate::partition::Partition;

/// Whose turn it is to sync.
#[derive(Debug, Default)]
pub(crate) struct GroupCommit {
    turn: Mutex<()>,
    closed_is_under_way: AtomicBool,
}

impl GroupCommit {
    /// Returns when everything before `end_offset` is durable.
    ///
    /// Dropping the future leaves it to the next sync.
    pub(crate) async fn flush(
        &self,
        partition: &Partition,
        end_offset: i64,
        may_block: bool,
    ) -> Result<(), ErrorCode> {
        let _turn = self.turn.lock().await;
        // The sync of the one before was taken after this append, or there is no other way than another one; and one
        // more if the log was cut meanwhile.
        loop {
            let due = partition.maintain(|log| {
                if log.flushed_offset() >= end_offset {
                    return Ok(None);
                }
                match log.is_offline() {
                    true => Err(ErrorCode::KafkaStorageError),
                    // The records were cut, which happens to followers alone.
                    false if log.log_end_offset() < end_offset => Err(ErrorCode::NotLeaderOrFollower),
                    false => Ok(Some(log.begin_flush())),
                }
            });
            match due.unwrap_or(Err(ErrorCode::KafkaStorageError))? {
                Some(job) => run(partition, job, may_block).await?,
                None => return Ok(()),
            }
        }
    }

    /// Whether the caller is to see to [`flush_closed`](Self::flush_closed), because nobody else does.
    pub(crate) fn takes_closed(&self) -> bool {
        !self.closed_is_under_way.swap(true, Ordering::Relaxed)
    }

    /// Makes segments durable to which nothing is appended any more, with their indexes.
    pub(crate) async fn flush_closed(&self, partition: &Partition, may_block: bool) {
        let _turn = self.turn.lock().await;
        self.closed_is_under_way.store(false, Ordering::Relaxed);
        if let Some(job) = partition.maintain(|log| log.begin_flush_of_closed()) {
            // What failed was logged, and is tried again at the log's close at the latest.
            let _ = run(partition, job, may_block).await;
        }
    }
}

async fn run(partition: &Partition, job: FlushJob, may_block: bool) -> Result<(), ErrorCode> {
    let job = Arc::new(job);
    let result = if may_block {
        let job = Arc::clone(&job);
        // The runtime refuses only while it shuts down, and then nobody is answered.
        let Ok(result) = tokio::task::spawn_blocking(move || job.run()).await else {
            return Err(ErrorCode::KafkaStorageError);
        };
        result
    } else {
        job.run()
    };
    let is_durable = !matches!(result, Err(FlushError::Records(_)));
    if let Some(Err(error)) = partition.maintain(|log| log.end_flush(&job, result)) {
        tracing::error!(partition = partition.name(), %error, "log cannot be synced");
    }
    if is_durable { Ok(()) } else { Err(ErrorCode::KafkaStorageError) }
}
