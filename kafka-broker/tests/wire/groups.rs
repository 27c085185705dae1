//! Groups and offsets through frames: a whole life of a member in every version, and time on tokio's paused clock.

use std::time::Duration;

use bytes::Bytes;
use kafka_broker::Broker;
use kafka_wire::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::messages::leave_group_request::MemberIdentity;
use kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_wire::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::messages::*;
use kafka_wire::{ErrorCode, Request, Uuid};
use tokio::time::Instant;

use crate::connection::{Connection, text, topic};

const MEMBER_ID_REQUIRED: i16 = ErrorCode::MemberIdRequired.code();

async fn versions<R: Request>(connection: &mut Connection) -> std::ops::RangeInclusive<i16> {
    let answer = connection.api_versions().await;
    let api = answer.api_keys.iter().find(|api| api.api_key == R::KEY).expect("an advertised API");
    api.min_version..=api.max_version
}

/// A broker with topic `t` of two partitions and the groups' own topic.
async fn open() -> (Broker, Connection, Uuid) {
    let broker = Broker::builder().start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    let id = connection.create_topic("t", 2).await;
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    let found = connection.call(&find, 6).await;
    assert_eq!(found.coordinators[0].error_code, 0);
    (broker, connection, id)
}

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

fn join(member: &str, version: i16) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t"));
    let request = JoinGroupRequest::default()
        .with_group_id(group("g"))
        .with_session_timeout_ms(10_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    if version >= 1 { request.with_rebalance_timeout_ms(20_000) } else { request }
}

async fn joined(connection: &mut Connection, version: i16) -> JoinGroupResponse {
    let first = connection.call(&join("", version), version).await;
    match first.error_code {
        MEMBER_ID_REQUIRED => connection.call(&join(&first.member_id, version), version).await,
        _ => first,
    }
}

fn sync(member: &str, generation: i32) -> SyncGroupRequest {
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(text(member))
        .with_assignment(Bytes::from_static(b"all of it"));
    SyncGroupRequest::default()
        .with_group_id(group("g"))
        .with_generation_id(generation)
        .with_member_id(text(member))
        .with_assignments(vec![assignment])
}

fn heartbeat(member: &str, generation: i32) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_generation_id(generation)
        .with_member_id(text(member))
}

fn leave(member: &str, version: i16) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(group("g"));
    match version < 3 {
        true => request.with_member_id(text(member)),
        false => request.with_members(vec![MemberIdentity::default().with_member_id(text(member))]),
    }
}

fn commit(version: i16, name: &str, id: Uuid, partitions: &[i32], offset: i64) -> OffsetCommitRequest {
    let partitions = partitions.iter().map(|&index| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("note")))
    });
    let topic_request = OffsetCommitRequestTopic::default().with_partitions(partitions.collect());
    let topic_request = match version < 10 {
        true => topic_request.with_name(topic(name)),
        false => topic_request.with_topic_id(id),
    };
    OffsetCommitRequest::default()
        .with_group_id(group("g"))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic_request])
}

fn fetch(version: i16, topics: Option<(&str, Uuid)>) -> OffsetFetchRequest {
    if version < 8 {
        let topics = topics.map(|(name, _)| {
            vec![OffsetFetchRequestTopic::default().with_name(topic(name)).with_partition_indexes(vec![0, 1])]
        });
        return OffsetFetchRequest::default().with_group_id(group("g")).with_topics(topics);
    }
    let topics = topics.map(|(name, id)| {
        let asked = OffsetFetchRequestTopics::default().with_partition_indexes(vec![0, 1]);
        vec![if version < 10 { asked.with_name(topic(name)) } else { asked.with_topic_id(id) }]
    });
    let asked = OffsetFetchRequestGroup::default().with_group_id(group("g")).with_topics(topics);
    OffsetFetchRequest::default().with_groups(vec![asked])
}

/// Offset, metadata and error of each partition in the first topic, and how many topics there are.
fn fetched(response: &OffsetFetchResponse, version: i16) -> (usize, Vec<(i64, String, i16)>) {
    let text = |metadata: &Option<kafka_wire::StrBytes>| metadata.as_deref().unwrap_or("null").to_owned();
    if version < 8 {
        assert_eq!(response.error_code, 0);
        let partitions = response.topics.first().map(|topic| &topic.partitions[..]).unwrap_or_default();
        let partitions = partitions.iter().map(|p| (p.committed_offset, text(&p.metadata), p.error_code));
        return (response.topics.len(), partitions.collect());
    }
    let group = &response.groups[0];
    assert_eq!((group.group_id.as_str(), group.error_code), ("g", 0));
    let partitions = group.topics.first().map(|topic| &topic.partitions[..]).unwrap_or_default();
    let partitions = partitions.iter().map(|p| (p.committed_offset, text(&p.metadata), p.error_code));
    (group.topics.len(), partitions.collect())
}

#[tokio::test]
async fn members_join_sync_heartbeat_and_leave_in_every_version() {
    let (_broker, mut connection, _) = open().await;
    let mut generation = 0;
    for version in versions::<JoinGroupRequest>(&mut connection).await {
        let joined = joined(&mut connection, version).await;
        // The group empties once in each round, which counts as well.
        generation += if version == 0 { 1 } else { 2 };
        assert_eq!((joined.error_code, joined.generation_id), (0, generation), "v{version}");
        assert_eq!(joined.leader, joined.member_id);
        assert_eq!(joined.members.len(), 1);
        assert_eq!(joined.protocol_name.as_deref(), Some("range"));
        let member = joined.member_id.as_str();
        let synced = connection.call(&sync(member, generation), version.min(5)).await;
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all of it"[..]), "v{version}");
        let beat = connection.call(&heartbeat(member, generation), version.min(4)).await;
        assert_eq!(beat.error_code, 0);
        let left = connection.call(&leave(member, version.min(5)), version.min(5)).await;
        assert_eq!(left.error_code, 0);
        if version >= 3 {
            assert_eq!((left.members[0].member_id.as_str(), left.members[0].error_code), (member, 0));
        }
        let gone = connection.call(&leave(member, version.min(5)), version.min(5)).await;
        let error = gone.members.first().map_or(gone.error_code, |member| member.error_code);
        assert_eq!(error, ErrorCode::UnknownMemberId.code());
    }
    assert_eq!(*versions::<SyncGroupRequest>(&mut connection).await.end(), 5);
    assert_eq!(*versions::<HeartbeatRequest>(&mut connection).await.end(), 4);
    assert_eq!(*versions::<LeaveGroupRequest>(&mut connection).await.end(), 5);
}

#[tokio::test]
async fn refused_joins_can_be_read_in_every_version() {
    let (_broker, mut connection, _) = open().await;
    for version in versions::<JoinGroupRequest>(&mut connection).await {
        let refused = connection.call(&join("nobody", version), version).await;
        assert_eq!(refused.error_code, ErrorCode::UnknownMemberId.code());
        assert_eq!((refused.generation_id, refused.member_id.as_str()), (-1, "nobody"));
        assert_eq!(refused.protocol_name.as_deref(), if version < 7 { Some("") } else { None });
    }
}

#[tokio::test]
async fn offsets_are_committed_and_fetched_in_every_version() {
    let (_broker, mut connection, id) = open().await;
    for version in versions::<OffsetFetchRequest>(&mut connection).await {
        let none = connection.call(&fetch(version, Some(("t", id))), version).await;
        let nothing = (-1, String::new(), 0);
        assert_eq!(
            fetched(&none, version),
            (1, vec![nothing.clone(), nothing]),
            "v{version}: an unknown group"
        );
    }
    let mut last = -1;
    for version in versions::<OffsetCommitRequest>(&mut connection).await {
        last = i64::from(version);
        let answer = connection.call(&commit(version, "t", id, &[0], last), version).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, 0, "v{version}");
        assert_eq!(answer.topics[0].name.as_str(), if version < 10 { "t" } else { "" });
        assert_eq!(answer.topics[0].topic_id, if version < 10 { Uuid::nil() } else { id });
    }
    for version in versions::<OffsetFetchRequest>(&mut connection).await {
        let some = connection.call(&fetch(version, Some(("t", id))), version).await;
        let partitions = vec![(last, "note".to_owned(), 0), (-1, String::new(), 0)];
        assert_eq!(fetched(&some, version), (1, partitions), "v{version}");
        if version >= 2 {
            let all = connection.call(&fetch(version, None), version).await;
            assert_eq!(
                fetched(&all, version),
                (1, vec![(last, "note".to_owned(), 0)]),
                "v{version}: all topics"
            );
        }
    }
}

#[tokio::test]
async fn offsets_of_topics_that_do_not_exist_are_refused_and_the_others_kept() {
    let (_broker, mut connection, id) = open().await;
    for version in versions::<OffsetCommitRequest>(&mut connection).await {
        let answer = connection.call(&commit(version, "t", id, &[7, 0], 3), version).await;
        assert_eq!(answer.topics.len(), 1);
        let mut codes: Vec<_> =
            answer.topics[0].partitions.iter().map(|p| (p.partition_index, p.error_code)).collect();
        codes.sort();
        assert_eq!(codes, [(0, 0), (7, ErrorCode::UnknownTopicOrPartition.code())]);
        let answer = connection.call(&commit(version, "nope", Uuid::from_u128(9), &[0], 3), version).await;
        let unknown =
            if version < 10 { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::UnknownTopicId };
        assert_eq!(answer.topics[0].partitions[0].error_code, unknown.code());
    }
}

#[tokio::test]
async fn groups_are_described_listed_and_deleted_in_every_version() {
    let (_broker, mut connection, id) = open().await;
    let member = joined(&mut connection, 5).await;
    connection.call(&sync(&member.member_id, 1), 3).await;
    for version in versions::<DescribeGroupsRequest>(&mut connection).await {
        let request = DescribeGroupsRequest::default().with_groups(vec![group("g"), group("nope")]);
        let request = if version >= 3 { request.with_include_authorized_operations(true) } else { request };
        let answer = connection.call(&request, version).await;
        let [known, unknown] = &answer.groups[..] else { panic!("{answer:?}") };
        assert_eq!((known.group_state.as_str(), known.protocol_data.as_str()), ("Stable", "range"));
        assert_eq!((known.members.len(), &known.members[0].member_assignment[..]), (1, &b"all of it"[..]));
        assert_eq!(known.members[0].client_id.as_str(), "test");
        assert_eq!(unknown.group_state.as_str(), "Dead");
        let not_found = if version < 6 { 0 } else { ErrorCode::GroupIdNotFound.code() };
        assert_eq!(unknown.error_code, not_found, "v{version}");
    }
    for version in versions::<ListGroupsRequest>(&mut connection).await {
        let answer = connection.call(&ListGroupsRequest::default(), version).await;
        assert_eq!((answer.error_code, answer.groups.len()), (0, 1));
        if version >= 4 {
            let empty = ListGroupsRequest::default().with_states_filter(vec![text("Empty")]);
            assert_eq!(connection.call(&empty, version).await.groups.len(), 0);
        }
        if version >= 5 {
            let classic = ListGroupsRequest::default().with_types_filter(vec![text("Classic")]);
            assert_eq!(connection.call(&classic, version).await.groups.len(), 1);
        }
    }
    connection.call(&leave(&member.member_id, 3), 3).await;
    for version in versions::<DeleteGroupsRequest>(&mut connection).await {
        connection.call(&commit(9, "t", id, &[0], 3), 9).await;
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group("g"), group("nope")]);
        let answer = connection.call(&request, version).await;
        let codes: Vec<_> = answer.results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [0, ErrorCode::GroupIdNotFound.code()]);
    }
}

#[tokio::test]
async fn single_offsets_are_deleted() {
    let (_broker, mut connection, id) = open().await;
    connection.call(&commit(9, "t", id, &[0, 1], 3), 9).await;
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let asked = OffsetDeleteRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default().with_group_id(group("g")).with_topics(vec![asked]);
    let answer = connection.call(&request, 0).await;
    assert_eq!((answer.error_code, answer.topics[0].partitions[0].error_code), (0, 0));
    let left = connection.call(&fetch(9, None), 9).await;
    assert_eq!(left.groups[0].topics[0].partitions.len(), 1);
}

#[tokio::test]
async fn deleting_a_topic_forgets_its_offsets_even_for_a_namesake() {
    let (_broker, mut connection, id) = open().await;
    connection.call(&commit(9, "t", id, &[0], 3), 9).await;
    connection.call(&DeleteTopicsRequest::default().with_topic_names(vec![topic("t")]), 5).await;
    connection.create_topic("t", 2).await;
    let answer = connection.call(&fetch(7, Some(("t", id))), 7).await;
    assert_eq!(fetched(&answer, 7).1[0].0, -1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_expires_and_lets_the_others_go_on() {
    let (broker, mut one, _) = open().await;
    let mut two = Connection::open(&broker).await;
    let silent = joined(&mut one, 9).await;
    one.call(&sync(&silent.member_id, 1), 5).await;
    let start = Instant::now();
    let newcomer = joined(&mut two, 9).await;
    // It had ten seconds from its sync on; nobody sent anything in between.
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    assert_eq!((newcomer.generation_id, newcomer.members.len()), (2, 1));
    let late = one.call(&heartbeat(&silent.member_id, 1), 4).await;
    assert_eq!(late.error_code, ErrorCode::UnknownMemberId.code());
}

#[tokio::test(start_paused = true)]
async fn the_initial_delay_of_kafkas_profile_is_waited_for() {
    let broker = Broker::builder().profile(kafka_broker::Profile::Kafka).start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    connection.call(&FindCoordinatorRequest::default().with_key(text("g")), 3).await;
    let start = Instant::now();
    let member = joined(&mut connection, 9).await;
    assert_eq!((member.error_code, start.elapsed()), (0, Duration::from_secs(3)));
}

#[tokio::test]
async fn without_its_topic_there_is_no_coordinator() {
    let broker = Broker::builder().start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    let unavailable = ErrorCode::CoordinatorNotAvailable.code();
    assert_eq!(connection.call(&join("", 9), 9).await.error_code, unavailable);
    assert_eq!(connection.call(&fetch(8, None), 8).await.groups[0].error_code, unavailable);
    assert_eq!(connection.call(&fetch(7, None), 7).await.error_code, unavailable);
    assert!(connection.call(&ListGroupsRequest::default(), 5).await.groups.is_empty());
}
