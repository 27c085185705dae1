//! Markers: how the partitions of a transaction learn its end (`TransactionMarkerChannelManager`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::ErrorCode;
use kafka_wire::record_batch::{Seal, end_transaction_marker};
use tokio::time::Instant;

use super::{Ending, TopicPartition};
use crate::groups::service::OFFSETS_TOPIC;
use crate::state::BrokerState;

/// How long to wait before partitions that could not be told are tried again.
const RETRY_BACKOFF: Duration = Duration::from_millis(20);
/// How long a marker may take to get to all in-sync replicas before it is written again.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A marker, as WriteTxnMarkers brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marker {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) is_commit: bool,
    pub(crate) coordinator_epoch: i32,
    /// Its epoch is no earlier transaction's.
    pub(crate) bumps: bool,
}

/// Tells all partitions of an ending transaction, and puts on record that they know. Goes on until that is done or the
/// coordinator is another.
pub(super) async fn tell(state: &Arc<BrokerState>, id: &str) {
    let mut told: BTreeSet<TopicPartition> = BTreeSet::new();
    let mut of: Option<(Ending, i32)> = None;
    loop {
        match state.transactions.ending(state, id).await {
            Ok(Some(current)) => {
                if of.as_ref() != Some(&current) {
                    told.clear();
                }
                let (ending, coordinator_epoch) = of.insert(current);
                match tell_once(state, ending, *coordinator_epoch, &mut told).await {
                    Ok(true) => match state.transactions.complete(state, id, ending) {
                        Ok(()) => return,
                        Err(error) => tracing::debug!(id, %error, "a transaction's end is not on record"),
                    },
                    Ok(false) => {}
                    // A later coordinator has told them.
                    Err(error) => {
                        tracing::info!(id, %error, "a transaction is another coordinator's to end");
                        return;
                    }
                }
            }
            Ok(None) | Err(ErrorCode::NotCoordinator) => return,
            Err(error) => tracing::debug!(id, %error, "a transaction cannot end yet"),
        }
        tokio::time::sleep(RETRY_BACKOFF).await;
    }
}

/// Whether all partitions know now.
async fn tell_once(
    state: &Arc<BrokerState>,
    ending: &Ending,
    coordinator_epoch: i32,
    told: &mut BTreeSet<TopicPartition>,
) -> Result<bool, ErrorCode> {
    let (producer_id, epoch) = ending.producer;
    let marker =
        Marker { producer_id, epoch, is_commit: ending.is_commit, coordinator_epoch, bumps: ending.bumps };
    let mut all = true;
    for at in &ending.partitions {
        if told.contains(at) {
            continue;
        }
        let leader = state.topics.partition(&at.0, at.1).map(|partition| partition.leader().0);
        let written = match leader {
            // Its topic was deleted: nobody is left to be told.
            None => Ok(()),
            Some(leader) => match state.cluster.node(leader) {
                Some(node) => write(&node, at, marker).await,
                None => Err(ErrorCode::LeaderNotAvailable),
            },
        };
        match written {
            Ok(()) | Err(ErrorCode::UnknownTopicOrPartition) => {
                told.insert(at.clone());
            }
            // The producer is in a later epoch there: the end of this transaction was before.
            Err(ErrorCode::InvalidProducerEpoch) => {
                told.insert(at.clone());
            }
            Err(error @ ErrorCode::TransactionCoordinatorFenced) => return Err(error),
            Err(error) => {
                tracing::debug!(topic = at.0, partition = at.1, %error, "a marker is not written yet");
                all = false;
            }
        }
    }
    Ok(all)
}

/// Writes a marker to a partition that this node leads, and waits until all in-sync replicas have it. Offsets that the
/// transaction committed count from then on.
pub(crate) async fn write(
    state: &Arc<BrokerState>,
    (topic, index): &TopicPartition,
    marker: Marker,
) -> Result<(), ErrorCode> {
    let partition = state.topics.partition(topic, *index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let now_ms = state.clock.now_ms();
    let mut seal = Seal::default();
    (seal.producer_id, seal.producer_epoch) = (marker.producer_id, marker.epoch);
    let batch = end_transaction_marker(marker.is_commit, marker.coordinator_epoch, now_ms, &seal)
        .map_err(|_| ErrorCode::UnknownServerError)?;
    let uncommitted = match topic == OFFSETS_TOPIC {
        true => state.groups.end_transaction(state, *index, marker, batch)?,
        false => partition.append_marker(batch, marker.bumps, now_ms).map_err(|refused| refused.code)?,
    };
    match uncommitted {
        Some(append) => partition.committed(append, Instant::now() + COMMIT_TIMEOUT).await,
        None => Ok(()),
    }
}
