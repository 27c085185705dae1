//! Consumer groups (KIP-848) through frames: a member's life in every version, with everything else that looks at groups.

use kafka_broker::Broker;
use kafka_wire::ErrorCode;
use kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_wire::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::messages::*;

use crate::connection::{Connection, text, topic};

fn group() -> GroupId {
    GroupId(text("g"))
}

async fn find_coordinator(connection: &mut Connection) {
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    assert_eq!(connection.call(&find, 6).await.coordinators[0].error_code, 0);
}

fn joining(member: &str) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group())
        .with_member_id(text(member))
        .with_rebalance_timeout_ms(30_000)
        .with_subscribed_topic_names(Some(vec![topic("t")]))
        .with_topic_partitions(Some(vec![]))
}

fn staying(member: &str, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group())
        .with_member_id(text(member))
        .with_member_epoch(epoch)
        .with_subscribed_topic_names(None)
        .with_topic_partitions(None)
}

fn commit(member: &str, epoch: i32) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(5);
    let committed =
        OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group())
        .with_member_id(text(member))
        .with_generation_id_or_member_epoch(epoch)
        .with_topics(vec![committed])
}

fn fetch(member: Option<&str>, epoch: i32) -> OffsetFetchRequest {
    let asked = OffsetFetchRequestTopics::default().with_name(topic("t")).with_partition_indexes(vec![0]);
    let asked = OffsetFetchRequestGroup::default()
        .with_group_id(group())
        .with_member_id(member.map(text))
        .with_member_epoch(epoch)
        .with_topics(Some(vec![asked]));
    OffsetFetchRequest::default().with_groups(vec![asked])
}

#[tokio::test]
async fn a_member_of_every_version_joins_commits_is_described_and_leaves() {
    for version in 0..=1 {
        let broker = Broker::builder().start().await.unwrap();
        let mut connection = Connection::open(&broker).await;
        let id = connection.create_topic("t", 2).await;
        find_coordinator(&mut connection).await;

        let given = if version == 0 { "" } else { "mine" };
        let joined = connection.call(&joining(given), version).await;
        assert_eq!((joined.error_code, joined.member_epoch), (0, 2));
        let member = joined.member_id.unwrap().to_string();
        assert_eq!(member == "mine", version == 1, "the broker names who brings no name");
        let assigned = &joined.assignment.unwrap().topic_partitions[0];
        assert_eq!((assigned.topic_id, &assigned.partitions[..]), (id, &[0, 1][..]));
        assert_eq!(connection.call(&staying(&member, 2), version).await.error_code, 0);
        let ahead = connection.call(&staying(&member, 7), version).await;
        assert_eq!(ErrorCode::from(ahead.error_code), ErrorCode::FencedMemberEpoch);
        assert!(ahead.error_message.unwrap().contains("must abandon all its partitions and rejoin"));

        let describe = ConsumerGroupDescribeRequest::default()
            .with_group_ids(vec![group(), GroupId(text("none"))])
            .with_include_authorized_operations(true);
        for version in 0..=1 {
            let described = connection.call(&describe, version).await.groups;
            assert_eq!(ErrorCode::from(described[1].error_code), ErrorCode::GroupIdNotFound);
            let described = &described[0];
            assert_eq!((described.group_state.as_str(), described.group_epoch), ("Stable", 2));
            assert_eq!((described.assignment_epoch, described.assignor_name.as_str()), (2, "uniform"));
            assert!(described.authorized_operations > 0);
            let shown = &described.members[0];
            assert_eq!((shown.member_id.as_str(), shown.client_id.as_str()), (member.as_str(), "test"));
            assert_eq!(shown.member_type, if version == 0 { -1 } else { 1 });
            assert_eq!(shown.assignment.topic_partitions[0].topic_name, topic("t"));
            assert_eq!(shown.target_assignment, shown.assignment);
        }
        for (types, states, found) in
            [("Consumer", "stable", 1), ("classic", "Stable", 0), ("consumer", "Empty", 0)]
        {
            let list = ListGroupsRequest::default()
                .with_types_filter(vec![text(types)])
                .with_states_filter(vec![text(states)]);
            let listed = connection.call(&list, 5).await.groups;
            assert_eq!(listed.len(), found, "{types} {states}");
            assert!(listed.iter().all(|group| group.group_type.as_str() == "consumer"));
        }
        let describe = DescribeGroupsRequest::default().with_groups(vec![group()]);
        assert_eq!(connection.call(&describe, 5).await.groups[0].group_state.as_str(), "Dead");
        let described = connection.call(&describe, 6).await;
        assert_eq!(ErrorCode::from(described.groups[0].error_code), ErrorCode::GroupIdNotFound);

        let mut committed = async |epoch: i32, version: i16| {
            let answer = connection.call(&commit(&member, epoch), version).await;
            ErrorCode::from(answer.topics[0].partitions[0].error_code)
        };
        assert_eq!(committed(2, 8).await, ErrorCode::UnsupportedVersion);
        assert_eq!(committed(3, 9).await, ErrorCode::StaleMemberEpoch);
        assert_eq!(committed(-1, 9).await, ErrorCode::StaleMemberEpoch);
        assert_eq!(committed(2, 9).await, ErrorCode::None);
        let mut fetched = async |who: Option<&str>, epoch: i32| {
            let answer = connection.call(&fetch(who, epoch), 9).await;
            let group = &answer.groups[0];
            let offset = group.topics.first().map(|topic| topic.partitions[0].committed_offset);
            (ErrorCode::from(group.error_code), offset)
        };
        assert_eq!(fetched(None, -1).await, (ErrorCode::None, Some(5)));
        assert_eq!(fetched(Some(&member), 2).await, (ErrorCode::None, Some(5)));
        assert_eq!(fetched(Some(&member), 3).await, (ErrorCode::StaleMemberEpoch, None));
        assert_eq!(fetched(Some("stranger"), 1).await, (ErrorCode::UnknownMemberId, None));

        let unused = OffsetDeleteRequestTopic::default()
            .with_name(topic("t"))
            .with_partitions(vec![OffsetDeleteRequestPartition::default().with_partition_index(0)]);
        let delete = OffsetDeleteRequest::default().with_group_id(group()).with_topics(vec![unused]);
        let deleted = connection.call(&delete, 0).await;
        let error = ErrorCode::from(deleted.topics[0].partitions[0].error_code);
        assert_eq!(error, ErrorCode::GroupSubscribedToTopic);
        let delete = DeleteGroupsRequest::default().with_groups_names(vec![group()]);
        let deleted = connection.call(&delete, 2).await;
        assert_eq!(ErrorCode::from(deleted.results[0].error_code), ErrorCode::NonEmptyGroup);

        let left = connection.call(&staying(&member, -1), version).await;
        assert_eq!((left.error_code, left.member_epoch), (0, -1));
        assert_eq!(connection.call(&delete, 2).await.results[0].error_code, 0);
        let gone = connection.call(&staying(&member, 2), version).await;
        assert_eq!(ErrorCode::from(gone.error_code), ErrorCode::GroupIdNotFound);
        broker.shutdown().await;
    }
}

#[tokio::test]
async fn a_group_goes_on_where_it_was_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::builder().data_dir(folder.path()).start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    connection.create_topic("t", 2).await;
    find_coordinator(&mut connection).await;
    assert_eq!(connection.call(&joining("a"), 1).await.member_epoch, 2);
    assert_eq!(connection.call(&joining("b"), 1).await.member_epoch, 3);
    broker.shutdown().await;

    let broker = Broker::builder().data_dir(folder.path()).start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    let answer = connection.call(&staying("a", 2).with_topic_partitions(Some(vec![])), 1).await;
    assert_eq!((answer.error_code, answer.member_epoch), (0, 3), "it holds nothing, so it goes on at once");
    let answer = connection.call(&staying("b", 3), 1).await;
    assert_eq!(answer.assignment.unwrap().topic_partitions[0].partitions.len(), 1);
    broker.shutdown().await;
}
