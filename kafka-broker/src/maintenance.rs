//! What happens to logs without a request: retention.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::state::BrokerState;

/// Looks at the logs now and then until it is dropped.
pub(crate) async fn run(state: Arc<BrokerState>) {
    let mut retention = ticks(state.config.retention_check_interval_ms());
    loop {
        retention.tick().await;
        on_disk_thread(&state, clean).await;
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
async fn on_disk_thread(state: &Arc<BrokerState>, work: fn(&BrokerState)) {
    let state = Arc::clone(state);
    if let Err(error) = tokio::task::spawn_blocking(move || work(&state)).await {
        tracing::error!(%error, "log maintenance failed");
    }
}
/// Deletes what has outlived its topic's retention.
fn clean(state: &BrokerState) {
    let now_ms = state.clock.now_ms();
    for partition in state.topics.all_partitions() {
        partition.maintain(|log| log.apply_retention(now_ms));
    }
}
