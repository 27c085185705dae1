//! Committed offsets: commit, fetch, delete, expire (Kafka's `OffsetMetadataManager`).

use std::collections::{BTreeMap, BTreeSet};

use kafka_wire::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_wire::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_wire::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
};
use kafka_wire::{ErrorCode, Uuid};

use super::classic::ClassicGroup;
use super::record::{CommittedOffset, GroupRecord};
use super::{CallId, Coordinator, Decision, Group, Now, Response, TxnProducer};

/// From this version on a commit to an unknown group says so (KIP-848).
const GROUP_ID_NOT_FOUND_VERSION: i16 = 9;

pub(super) type TopicOffsets = BTreeMap<i32, CommittedOffset>;

/// Offsets by group, topic and partition. No level is kept empty.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Offsets {
    by_group: BTreeMap<String, BTreeMap<String, TopicOffsets>>,
}

impl Offsets {
    fn put(&mut self, group: &str, topic: &str, partition: i32, value: CommittedOffset) {
        let topics = self.by_group.entry(group.to_owned()).or_default();
        topics.entry(topic.to_owned()).or_default().insert(partition, value);
    }

    fn remove(&mut self, group: &str, topic: &str, partition: i32) {
        let Some(topics) = self.by_group.get_mut(group) else { return };
        if let Some(partitions) = topics.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                topics.remove(topic);
            }
        }
        if topics.is_empty() {
            self.by_group.remove(group);
        }
    }

    fn of_group(&self, group: &str) -> impl Iterator<Item = (&str, i32, &CommittedOffset)> {
        self.by_group.get(group).into_iter().flatten().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, value)| (topic.as_str(), *partition, value))
        })
    }
}

/// A commit with its topics known to exist, by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit<'a> {
    pub(crate) call: CallId,
    pub(crate) request: &'a OffsetCommitRequest,
    pub(crate) version: i16,
    /// The commit is part of this producer's transaction.
    pub(crate) producer: Option<TxnProducer>,
}

impl Coordinator {
    /// OffsetCommit. The caller has checked the topics, and fills in ids in the answer.
    ///
    /// The empty group id is a group like another here, for the sake of clients that had no other.
    pub(crate) fn commit(&mut self, commit: Commit<'_>, now: Now) -> Decision {
        let mut out = Decision::default();
        let Commit { call, request, version, producer } = commit;
        out.producer = producer;
        if let Err(error) = self.check_commit(request, version, producer.is_some()) {
            out.answer(call, Response::OffsetCommit(commit_refusal(request, error)));
            return out;
        }
        self.step(&request.group_id, now, &mut out, |group, cx| {
            group.note_commit(&request.member_id, cx.now);
        });
        // Asked for in versions 2 to 4; -1: the broker's retention.
        let expires_at_ms =
            (request.retention_time_ms >= 0).then(|| now.ms.saturating_add(request.retention_time_ms));
        let mut response = OffsetCommitResponse::default();
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
                // Kafka counts the characters of a Java string.
                let length = metadata.encode_utf16().count();
                let too_large = length > self.config.offset_metadata_max_bytes;
                let error = if too_large { ErrorCode::OffsetMetadataTooLarge } else { ErrorCode::None };
                partitions.push(
                    OffsetCommitResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(error.code()),
                );
                if !too_large {
                    out.records.push(GroupRecord::Offset {
                        group: request.group_id.to_string(),
                        topic: topic.name.to_string(),
                        partition: partition.partition_index,
                        value: Some(CommittedOffset {
                            offset: partition.committed_offset,
                            leader_epoch: partition.committed_leader_epoch.max(-1),
                            metadata: metadata.to_owned(),
                            committed_at_ms: now.ms,
                            expires_at_ms,
                            topic_id: topic.topic_id,
                        }),
                    });
                }
            }
            response.topics.push(
                OffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_topic_id(topic.topic_id)
                    .with_partitions(partitions),
            );
        }
        out.answer_when_written(call, Response::OffsetCommit(response));
        out
    }

    fn check_commit(
        &self,
        request: &OffsetCommitRequest,
        version: i16,
        is_transactional: bool,
    ) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        let is_anonymous = request.member_id.is_empty() && request.group_instance_id.is_none();
        if is_transactional && generation < 0 && is_anonymous {
            // A producer of before KIP-447 does not say for whom it commits; its transactional id fences it.
            return Ok(());
        }
        match self.groups.get(request.group_id.as_str()) {
            Some(Group::Classic(group)) => group.check_offset_commit(
                &request.member_id,
                request.group_instance_id.as_deref(),
                generation,
            ),
            Some(Group::Consumer(group)) => {
                let partitions = request.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|partition| (topic.topic_id, partition.partition_index))
                });
                group.check_offset_commit(&request.member_id, generation, version, partitions)
            }
            // A simple group begins with its first commit.
            None if generation < 0 => Ok(()),
            None if version >= GROUP_ID_NOT_FOUND_VERSION => Err(ErrorCode::GroupIdNotFound),
            None => Err(ErrorCode::IllegalGeneration),
        }
    }

    pub(super) fn replay_offset(
        &mut self,
        group: &str,
        topic: &str,
        partition: i32,
        value: Option<CommittedOffset>,
        now: Now,
    ) {
        match value {
            Some(value) => {
                if !self.groups.contains_key(group) {
                    self.groups.insert(group.to_owned(), Group::Classic(ClassicGroup::new(now)));
                }
                self.offsets.put(group, topic, partition, value);
            }
            None => self.offsets.remove(group, topic, partition),
        }
    }

    /// What a group has committed of a partition. `topic_id`, if known, keeps the offset of a deleted namesake apart.
    pub(crate) fn committed(
        &self,
        group: &str,
        topic: &str,
        topic_id: Option<Uuid>,
        partition: i32,
    ) -> Option<&CommittedOffset> {
        let committed = self.offsets.by_group.get(group)?.get(topic)?.get(&partition)?;
        let same_topic = topic_id.is_none_or(|id| committed.topic_id.is_nil() || committed.topic_id == id);
        same_topic.then_some(committed)
    }

    /// All that a group has committed, by topic.
    pub(crate) fn committed_topics(
        &self,
        group: &str,
    ) -> impl Iterator<Item = (&str, &BTreeMap<i32, CommittedOffset>)> {
        let topics = self.offsets.by_group.get(group).into_iter().flatten();
        topics.map(|(topic, partitions)| (topic.as_str(), partitions))
    }

    /// OffsetDelete: only offsets of topics that the group does not read.
    pub(crate) fn delete_offsets(&mut self, call: CallId, request: &OffsetDeleteRequest) -> Decision {
        let mut out = Decision::default();
        let group_id = request.group_id.as_str();
        let mut response = OffsetDeleteResponse::default();
        let group = self.groups.get(group_id);
        let checked = match group {
            None => Err(ErrorCode::GroupIdNotFound),
            Some(Group::Classic(group)) => group.check_offset_delete(),
            Some(Group::Consumer(_)) => Ok(()),
        };
        if let Err(error) = checked {
            out.answer(call, Response::OffsetDelete(response.with_error_code(error.code())));
            return out;
        }
        for topic in &request.topics {
            let subscribed = group.is_some_and(|group| group.is_subscribed_to(&topic.name));
            let error = if subscribed { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
            let partitions = topic.partitions.iter().map(|partition| {
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(error.code())
            });
            response.topics.push(
                OffsetDeleteResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect()),
            );
            let unused =
                topic.partitions.iter().filter(|_| !subscribed).map(|partition| partition.partition_index);
            let committed: BTreeSet<i32> = unused
                .filter(|&index| self.committed(group_id, &topic.name, None, index).is_some())
                .collect();
            out.records.extend(committed.into_iter().map(|index| tombstone(group_id, &topic.name, index)));
        }
        out.answer_when_written(call, Response::OffsetDelete(response));
        out
    }

    /// Tombstones for all offsets of a group.
    pub(super) fn offset_tombstones(&self, group: &str) -> impl Iterator<Item = GroupRecord> {
        self.offsets.of_group(group).map(move |(topic, partition, _)| tombstone(group, topic, partition))
    }

    /// Topics were deleted: their offsets mean nothing any more.
    pub(crate) fn topics_deleted(&mut self, topics: &[String]) -> Decision {
        let mut out = Decision::default();
        for group in self.offsets.by_group.keys() {
            let of_deleted =
                self.offsets.of_group(group).filter(|(topic, ..)| topics.iter().any(|t| t == topic));
            out.records.extend(of_deleted.map(|(topic, partition, _)| tombstone(group, topic, partition)));
        }
        out
    }

    /// Expires offsets whose retention has passed since they could matter (KIP-211), and groups left with nothing.
    pub(super) fn expire_offsets(&self, now: Now) -> Decision {
        let mut out = Decision::default();
        for (group_id, group) in &self.groups {
            let mut none_left = self.pending.of_group(group_id).next().is_none();
            for (topic, partition, offset) in self.offsets.of_group(group_id) {
                let expired = match (group.retention_base_ms(offset.committed_at_ms), offset.expires_at_ms) {
                    (None, _) => false,
                    (Some(_), _) if group.is_subscribed_to(topic) => false,
                    (Some(_), Some(at)) => now.ms >= at,
                    (Some(base), None) => now.ms.saturating_sub(base) >= self.config.offsets_retention_ms,
                };
                if expired {
                    out.records.push(tombstone(group_id, topic, partition));
                } else {
                    none_left = false;
                }
            }
            if none_left && group.is_abandoned() {
                out.records.extend(group.tombstones(group_id));
            }
        }
        out
    }
}

fn tombstone(group: &str, topic: &str, partition: i32) -> GroupRecord {
    GroupRecord::Offset { group: group.to_owned(), topic: topic.to_owned(), partition, value: None }
}

/// The same error for every partition of a commit.
pub(crate) fn commit_refusal(request: &OffsetCommitRequest, error: ErrorCode) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kafka_wire::messages::offset_delete_request::{
        OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
    };
    use kafka_wire::messages::{GroupId, TopicName};

    use super::super::record::text;
    use super::super::testing::{GROUP, Harness, secs};
    use super::super::{Coordinator, partition_for};
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn delete_offsets(harness: &mut Harness, topic: &str) -> (ErrorCode, ErrorCode) {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(TopicName(text(topic)))
            .with_partitions(vec![partition]);
        let request =
            OffsetDeleteRequest::default().with_group_id(GroupId(text(GROUP))).with_topics(vec![topic]);
        let call =
            harness.call(|coordinator: &mut Coordinator, call, _| coordinator.delete_offsets(call, &request));
        match harness.answer(call) {
            Some(Response::OffsetDelete(response)) => {
                let partition = response.topics.first().map_or(0, |topic| topic.partitions[0].error_code);
                (response.error_code.into(), partition.into())
            }
            other => panic!("{other:?}"),
        }
    }

    fn delete_group(harness: &mut Harness) -> ErrorCode {
        let call =
            harness.call(|coordinator, call, _| coordinator.delete_groups(call, &[GroupId(text(GROUP))]));
        match harness.answer(call) {
            Some(Response::DeleteGroups(response)) => response.results[0].error_code.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_commit_without_members_makes_a_simple_group() {
        let mut harness = Harness::new();
        assert_eq!(harness.committed(), None);
        assert_eq!(harness.commit("", -1, 7), ErrorCode::None);
        assert_eq!((harness.committed(), harness.state().as_str()), (Some(7), "Empty"));
        harness.restart();
        assert_eq!(harness.committed(), Some(7));
    }

    #[test]
    fn a_commit_of_a_generation_needs_its_group() {
        let mut harness = Harness::new();
        assert_eq!(harness.commit_with("m", 1, 7, "", 8), ErrorCode::IllegalGeneration);
        assert_eq!(harness.commit_with("m", 1, 7, "", 9), ErrorCode::GroupIdNotFound);
        assert_eq!(harness.state(), "Dead");
    }

    #[test]
    fn a_group_with_members_takes_no_commit_from_outside() {
        let mut harness = Harness::new();
        let members = harness.stable_group(1);
        assert_eq!(harness.commit("", -1, 7), ErrorCode::UnknownMemberId);
        assert_eq!(harness.commit(&members[0], 1, 8), ErrorCode::None);
        assert_eq!(harness.committed(), Some(8));
    }

    #[test]
    fn metadata_up_to_the_limit_is_kept_and_more_is_refused() {
        let mut harness = Harness::new();
        assert_eq!(harness.commit_with("", -1, 1, &"x".repeat(4096), 8), ErrorCode::None);
        assert_eq!(harness.commit_with("", -1, 2, &"x".repeat(4097), 8), ErrorCode::OffsetMetadataTooLarge);
        assert_eq!(harness.committed(), Some(1));
        assert_eq!(harness.coordinator.committed(GROUP, "t", None, 0).unwrap().metadata.len(), 4096);
    }

    #[test]
    fn a_commit_that_cannot_be_written_is_not_acknowledged_and_not_fetched() {
        let mut harness = Harness::new();
        harness.commit("", -1, 1);
        harness.append = Err(ErrorCode::NotEnoughReplicas);
        assert_eq!(harness.commit("", -1, 2), ErrorCode::CoordinatorNotAvailable);
        assert_eq!(harness.committed(), Some(1));
    }

    #[test]
    fn offsets_expire_seven_days_after_their_group_is_empty_and_the_group_with_them() {
        let mut harness = Harness::new();
        let members = harness.stable_group(1);
        harness.commit(&members[0], 1, 7);
        harness.advance(secs(60));
        assert_eq!(harness.state(), "Empty");
        harness.advance(7 * DAY - secs(3600));
        assert_eq!(harness.committed(), Some(7));
        harness.advance(secs(7200));
        assert_eq!((harness.committed(), harness.state().as_str()), (None, "Dead"));
        harness.restart();
        assert_eq!((harness.committed(), harness.state().as_str()), (None, "Dead"));
    }

    #[test]
    fn a_simple_groups_offsets_expire_seven_days_after_their_commit() {
        let mut harness = Harness::new();
        harness.commit("", -1, 7);
        harness.advance(6 * DAY);
        harness.commit("", -1, 8);
        harness.advance(6 * DAY);
        assert_eq!(harness.committed(), Some(8));
        harness.advance(DAY + secs(3600));
        assert_eq!(harness.committed(), None);
    }

    #[test]
    fn an_old_groups_age_survives_a_restart() {
        let mut harness = Harness::new();
        let members = harness.stable_group(1);
        harness.commit(&members[0], 1, 7);
        harness.leave(&members[0], None);
        harness.advance(6 * DAY);
        harness.restart();
        harness.advance(DAY + secs(3600));
        assert_eq!(harness.committed(), None);
    }

    #[test]
    fn a_live_member_keeps_the_offsets_of_its_topics() {
        let mut harness = Harness::new();
        let members = harness.stable_group(1);
        harness.commit(&members[0], 1, 7);
        // Heartbeats every nine seconds for eight days would be slow to run; a long session says the same.
        let request = super::super::testing::join_request(&members[0]).with_session_timeout_ms(1_800_000);
        harness.join_call(3, request);
        harness.sync(&members[0], 2, &[]);
        for _ in 0..8 * 24 * 3 {
            harness.advance(secs(1200));
            assert_eq!(harness.heartbeat(&members[0], 2), ErrorCode::None);
        }
        assert_eq!(harness.committed(), Some(7));
    }

    #[test]
    fn offsets_of_a_deleted_topic_go_with_it() {
        let mut harness = Harness::new();
        harness.commit("", -1, 7);
        let decision = harness.coordinator.topics_deleted(&["t".to_owned()]);
        harness.settle(decision);
        assert_eq!(harness.committed(), None);
        harness.restart();
        assert_eq!(harness.committed(), None);
    }

    #[test]
    fn an_offset_of_another_topic_of_the_same_name_is_none() {
        let mut harness = Harness::new();
        let value = CommittedOffset {
            offset: 7,
            leader_epoch: -1,
            metadata: String::new(),
            committed_at_ms: 0,
            expires_at_ms: None,
            topic_id: Uuid::from_u128(1),
        };
        harness.coordinator.replay_offset(GROUP, "t", 0, Some(value), harness.now);
        assert!(harness.coordinator.committed(GROUP, "t", Some(Uuid::from_u128(1)), 0).is_some());
        assert!(harness.coordinator.committed(GROUP, "t", Some(Uuid::from_u128(2)), 0).is_none());
    }

    #[test]
    fn only_offsets_of_topics_not_read_can_be_deleted() {
        let mut harness = Harness::new();
        assert_eq!(delete_offsets(&mut harness, "t").0, ErrorCode::GroupIdNotFound);
        let members = harness.stable_group(1);
        harness.commit(&members[0], 1, 7);
        assert_eq!(delete_offsets(&mut harness, "t"), (ErrorCode::None, ErrorCode::GroupSubscribedToTopic));
        assert_eq!(delete_offsets(&mut harness, "other"), (ErrorCode::None, ErrorCode::None));
        harness.leave(&members[0], None);
        assert_eq!(delete_offsets(&mut harness, "t"), (ErrorCode::None, ErrorCode::None));
        assert_eq!(harness.committed(), None);
    }

    #[test]
    fn a_group_is_deleted_with_its_offsets_once_it_is_empty() {
        let mut harness = Harness::new();
        assert_eq!(delete_group(&mut harness), ErrorCode::GroupIdNotFound);
        let members = harness.stable_group(1);
        harness.commit(&members[0], 1, 7);
        assert_eq!(delete_group(&mut harness), ErrorCode::NonEmptyGroup);
        harness.leave(&members[0], None);
        assert_eq!(delete_group(&mut harness), ErrorCode::None);
        assert_eq!((harness.committed(), harness.state().as_str()), (None, "Dead"));
        harness.restart();
        assert_eq!((harness.committed(), harness.state().as_str()), (None, "Dead"));
    }

    #[test]
    fn a_groups_partition_is_javas_hash_of_its_name() {
        // As Java 17 prints them; the hash of "polygenelubricants" is the smallest integer.
        assert_eq!(partition_for("g", 50), 3);
        assert_eq!(partition_for("my-group", 50), 12);
        assert_eq!(partition_for("polygenelubricants", 50), 0);
        assert_eq!(partition_for("", 50), 0);
        assert_eq!(partition_for("\u{1F980}", 50), 2);
    }
}
