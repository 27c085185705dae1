//! Asking leaders where an epoch ended (OffsetForLeaderEpoch, KIP-320).

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_wire::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_wire::messages::{BrokerId, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, TopicName};
use kafka_wire::{ErrorCode, StrBytes};
use tokio::time::Instant;

use super::fetch::{EpochCheck, Position};
use super::shared::Shared;
use crate::net::{Call, Purpose, RequestError};

/// Before this version the broker does not say which epoch the end belongs to.
const WITH_EPOCH_VERSION: i16 = 3;

/// One request to each leader, side by side.
pub(super) async fn check(shared: Arc<Shared>, checks: Vec<EpochCheck>) {
    let mut by_leader: BTreeMap<i32, Vec<EpochCheck>> = BTreeMap::new();
    for check in checks {
        by_leader.entry(check.leader.broker).or_default().push(check);
    }
    let asks = by_leader.into_iter().map(|(leader, checks)| ask(&shared, leader, checks));
    futures::future::join_all(asks).await;
}

async fn ask(shared: &Shared, leader: i32, checks: Vec<EpochCheck>) {
    let answer = answer(shared, leader, &checks).await;
    let now = Instant::now();
    let mut fetcher = shared.fetcher.lock();
    let response = match answer {
        Ok(Some(response)) => response,
        Ok(None) => {
            checks.iter().for_each(|check| fetcher.epoch_check_failed(check, true, now));
            return;
        }
        Err(error) => {
            tracing::debug!(leader, %error, "positions could not be checked");
            checks.iter().for_each(|check| fetcher.epoch_check_failed(check, false, now));
            return;
        }
    };
    let mut found = BTreeMap::new();
    for topic in &response.topics {
        for partition in &topic.partitions {
            found.insert((topic.topic.as_str(), partition.partition), partition);
        }
    }
    for check in &checks {
        let answer = found.get(&(&*check.partition.topic, check.partition.partition));
        match answer.map(|answer| (ErrorCode::from(answer.error_code), answer)) {
            Some((ErrorCode::None, answer)) => {
                let end = Position { offset: answer.end_offset, leader_epoch: answer.leader_epoch };
                let is_known = end.offset >= 0 && end.leader_epoch >= 0;
                fetcher.epoch_checked(check, is_known.then_some(end));
            }
            _ => fetcher.epoch_check_failed(check, false, now),
        }
    }
}

/// `None`: the broker is too old to be asked.
async fn answer(
    shared: &Shared,
    leader: i32,
    checks: &[EpochCheck],
) -> Result<Option<OffsetForLeaderEpochResponse>, RequestError> {
    let node = shared.client.node(leader).ok_or(RequestError::UnknownBroker { broker_id: leader })?;
    let connection = shared.pool.connection(&node, Purpose::Control).await.map_err(RequestError::NotSent)?;
    match connection.version_of::<OffsetForLeaderEpochRequest>(i16::MAX) {
        Ok(WITH_EPOCH_VERSION..) => {}
        Ok(_) | Err(RequestError::Unsupported(_)) => return Ok(None),
        Err(error) => return Err(error),
    }
    let call = Call::within(shared.client.request_timeout());
    connection.request(&request(checks), call).await.map(Some)
}

fn request(checks: &[EpochCheck]) -> OffsetForLeaderEpochRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetForLeaderPartition>> = BTreeMap::new();
    for check in checks {
        let partition = OffsetForLeaderPartition::default()
            .with_partition(check.partition.partition)
            .with_current_leader_epoch(check.leader.epoch)
            .with_leader_epoch(check.position_epoch);
        topics.entry(&check.partition.topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        OffsetForLeaderTopic::default()
            .with_topic(TopicName(StrBytes::from_string(name.to_owned())))
            .with_partitions(partitions)
    });
    OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics.collect())
}
