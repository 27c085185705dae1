//! What happens to logs without a request: retention, forgetting idle producers, syncing, and the orderly end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::checkpoint::Offsets;
use crate::log::{FlushJob, PartitionLog};
use crate::partition::Partition;
use crate::state::BrokerState;

/// Looks at the logs now and then until it is dropped.
pub(crate) async fn run(state: Arc<BrokerState>) {
    let mut retention = ticks(state.config.retention_check_interval_ms());
    let mut sync = ticks(state.config.flush_check_interval_ms());
    let mut recovery_points = ticks(state.config.recovery_point_interval_ms());
    let mut high_watermarks = ticks(state.config.high_watermark_interval_ms());
    loop {
        tokio::select! {
            biased;
            _ = retention.tick() => on_disk_thread(&state, clean).await,
            _ = sync.tick() => on_disk_thread(&state, sync_due).await,
            _ = recovery_points.tick() => on_disk_thread(&state, checkpoint_recovery).await,
            _ = high_watermarks.tick() => on_disk_thread(&state, checkpoint_high_watermarks).await,
        }
    }
}

/// A timer that first fires after one period. An interval beyond a year is as good as never, and fits the timer.
fn ticks(interval_ms: i64) -> tokio::time::Interval {
    const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
    let period = Duration::from_millis(u64::try_from(interval_ms).unwrap_or(1).clamp(1, YEAR_MS));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Deleting and syncing may block for long, so it does not run on a thread that serves connections.
pub(crate) async fn on_disk_thread(state: &Arc<BrokerState>, work: fn(&BrokerState)) {
    if !state.logs.may_block() {
        return work(state);
    }
    let state = Arc::clone(state);
    if let Err(error) = tokio::task::spawn_blocking(move || work(&state)).await {
        tracing::error!(%error, "work on the logs failed");
    }
}

/// Deletes what has outlived its topic's retention, and forgets producers that were idle for long.
fn clean(state: &BrokerState) {
    let now_ms = state.clock.now_ms();
    let producer_expiration_ms = state.config.producer_id_expiration_ms();
    for partition in state.topics.all_partitions() {
        let cleaned = partition.maintain_committed(|log, high_watermark| {
            log.expire_producers(now_ms, producer_expiration_ms);
            log.enforce_retention(now_ms, high_watermark)
        });
        match cleaned {
            Some(Ok(segments)) if segments > 0 => {
                tracing::info!(partition = partition.name(), segments, "old segments deleted");
            }
            Some(Err(error)) => {
                tracing::error!(partition = partition.name(), %error, "old segments cannot be deleted");
            }
            Some(Ok(_)) | None => {}
        }
        // Segments that retention or a coordinator's append closed; a client's append sees to its own.
        sync(&partition, |log| log.has_closed_segments_to_flush().then(|| log.begin_flush_of_closed()));
    }
}

/// Syncs the logs of topics that set `flush.ms`.
fn sync_due(state: &BrokerState) {
    for partition in
        state.topics.all_partitions().into_iter().filter(|partition| partition.is_synced_by_time())
    {
        sync(&partition, |log| Some(log.begin_flush()));
    }
}

/// Writes down how much of the logs needs no recovery after a crash.
fn checkpoint_recovery(state: &BrokerState) {
    let mut here = BTreeSet::new();
    for partition in state.topics.all_partitions().into_iter().filter(|partition| partition.is_hosted()) {
        partition.maintain(PartitionLog::note_recovery_point);
        here.insert((Arc::clone(partition.topic()), partition.index()));
    }
    keep_recovery_points(state, &here);
}

fn keep_recovery_points(state: &BrokerState, here: &BTreeSet<(Arc<str>, i32)>) {
    if let Err(error) = state.logs.keep_recovery_points(|topic, index| here.contains(&(topic.into(), index)))
    {
        tracing::warn!(%error, "recovery points cannot be written");
    }
}

/// Writes down up to where partitions are committed.
fn checkpoint_high_watermarks(state: &BrokerState) {
    let mut all = Offsets::default();
    for partition in state.topics.all_partitions() {
        if let Some(high_watermark) = partition.high_watermark() {
            all.set(partition.topic(), partition.index(), high_watermark);
        }
    }
    if let Err(error) = state.logs.keep_high_watermarks(all) {
        tracing::warn!(%error, "high watermarks cannot be written");
    }
}

/// Runs a sync that the log asks for, without its lock.
pub(crate) fn sync(partition: &Partition, begin: impl FnOnce(&mut PartitionLog) -> Option<FlushJob>) {
    let Some(Some(job)) = partition.maintain(begin) else { return };
    let result = job.run();
    if let Some(Err(error)) = partition.maintain(|log| log.end_flush(&job, result)) {
        tracing::error!(partition = partition.name(), %error, "log cannot be synced");
    }
}

/// Closes every log and, if all went well, says so in the folder. Nothing may be appended any more.
pub(crate) fn close(state: &BrokerState) {
    let mut clean = true;
    let mut high_watermarks = Offsets::default();
    let mut here = BTreeSet::new();
    for partition in state.topics.all_partitions().into_iter().filter(|partition| partition.is_hosted()) {
        if let Some(high_watermark) = partition.high_watermark() {
            high_watermarks.set(partition.topic(), partition.index(), high_watermark);
        }
        here.insert((Arc::clone(partition.topic()), partition.index()));
        let Some(mut log) = partition.take() else {
            clean = false;
            continue;
        };
        if let Err(error) = log.close() {
            tracing::error!(partition = partition.name(), %error, "log not closed");
            clean = false;
        }
    }
    keep_recovery_points(state, &here);
    let marked = state.logs.keep_high_watermarks(high_watermarks).and_then(|()| match clean {
        true => state.logs.mark_clean(),
        false => Ok(()),
    });
    if let Err(error) = marked {
        tracing::error!(%error, "the data folder is not marked as cleanly closed");
    }
}
