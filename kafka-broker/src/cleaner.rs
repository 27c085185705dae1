//! Compacts logs in the background (`LogCleaner`): looks at all of them now and then, and works on one at a time.

use std::sync::Arc;
use std::time::Duration;

use crate::log::{PartitionLog, ReadError};
use crate::maintenance::{on_disk_thread, sync};
use crate::partition::Partition;
use crate::state::BrokerState;

/// Looks at the logs every `log.cleaner.backoff.ms` until it is dropped.
pub(crate) async fn run(state: Arc<BrokerState>) {
    const LONGEST_MS: u64 = 24 * 3600 * 1000;
    loop {
        // Looked up each time, because it may be altered while the broker runs.
        let backoff_ms = u64::try_from(state.config.cleaner_backoff_ms()).unwrap_or(1).clamp(1, LONGEST_MS);
        tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
        if state.config.cleaner_enabled() {
            on_disk_thread(&state, compact_all).await;
        }
    }
}

fn compact_all(state: &BrokerState) {
    for partition in state.topics.all_partitions() {
        compact(state, &partition);
    }
}

/// One pass over one log: only its beginning and its end hold the partition's lock.
fn compact(state: &BrokerState, partition: &Partition) {
    let Some(high_watermark) = partition.high_watermark() else { return };
    let (now_ms, max_bytes) = (state.clock.now_ms(), state.config.cleaner_buffer_bytes());
    // Segments are compacted once they and their indexes are on disk.
    sync(partition, |log| log.has_closed_segments_to_flush().then(|| log.begin_flush_of_closed()));
    let begun = partition.maintain(|log| log.begin_compaction(now_ms, high_watermark, max_bytes));
    let Some(Some(pass)) = begun else { return };
    let compacted = match pass.run() {
        Ok(compacted) => compacted,
        Err(error) => {
            tracing::error!(partition = partition.name(), %error, "log cannot be compacted");
            // A disk may recover, what is written wrong does not.
            if !matches!(error, ReadError::Storage(_)) {
                partition.maintain(PartitionLog::give_up_compaction);
            }
            return;
        }
    };
    let finished = partition
        .maintain(|log| log.finish_compaction(compacted).map(|done| done.then(|| log.cleaned_offset())));
    let kept = match finished {
        Some(Ok(Some(offset))) => {
            tracing::info!(partition = partition.name(), offset, "log compacted");
            state.logs.keep_cleaned(partition.topic(), partition.index(), offset)
        }
        Some(Err(error)) => Err(error),
        Some(Ok(None)) | None => Ok(()),
    };
    if let Err(error) = kept {
        tracing::error!(partition = partition.name(), %error, "compacted segments are not in place");
    }
}
