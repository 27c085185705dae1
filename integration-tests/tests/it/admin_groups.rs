//! The Admin client and groups of every type. Members of KIP-848 and share groups are played by single heartbeats, so
//! that what is described is known exactly.

use std::time::Duration;

use bytes::Bytes;
use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_admin::groups::{GroupState, GroupType, MemberIdentity, MembersToRemove};
use kafka_admin::{Admin, AdminError, ItemResults, Resource};
use kafka_client::consumer::{OffsetAndMetadata, OffsetReset};
use kafka_client::producer::Record;
use kafka_client::wire::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_client::wire::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_client::wire::messages::{
    ConsumerGroupHeartbeatRequest, GroupId, JoinGroupRequest, ShareGroupHeartbeatRequest, SyncGroupRequest,
    TopicName,
};
use kafka_client::wire::{ErrorCode, StrBytes};
use kafka_client::{Client, Target, TopicPartition};
use tokio::time::timeout;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// The code of the only item's error.
fn refused<K: Clone, V>(results: ItemResults<K, V>) -> TestResult<AdminError> {
    results.all().err().ok_or_else(|| "nothing was refused".into())
}

/// Waits until the coordinator takes a heartbeat: on a young cluster it may still be loading.
async fn taken(beat: impl AsyncFn() -> TestResult<i16>) -> TestResult {
    eventually("the coordinator serves the group", async || match ErrorCode::from(beat().await?) {
        ErrorCode::None => Ok(true),
        code if code.is_retriable() => Ok(false),
        code => Err(code.into()),
    })
    .await
}

/// The id of a member that a classic group's coordinator made, and its generation.
async fn join_classic(client: &Client, group: &str, protocol_type: &str) -> TestResult<(String, i32)> {
    let protocol =
        JoinGroupRequestProtocol::default().with_name(text("one")).with_metadata(Bytes::from_static(b"meta"));
    let request = JoinGroupRequest::default()
        .with_group_id(id(group))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text(protocol_type))
        .with_protocols(vec![protocol]);
    // Up to version 3 a member needs no id to begin with.
    let joined =
        client.request(request).to(Target::GroupCoordinator(group.to_owned())).max_version(3).await?;
    ErrorCode::from(joined.error_code).into_result()?;
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(Bytes::from_static(b"work"));
    let request = SyncGroupRequest::default()
        .with_group_id(id(group))
        .with_member_id(joined.member_id.clone())
        .with_generation_id(joined.generation_id)
        .with_assignments(vec![assignment]);
    let synced =
        client.request(request).to(Target::GroupCoordinator(group.to_owned())).max_version(3).await?;
    ErrorCode::from(synced.error_code).into_result()?;
    Ok((joined.member_id.to_string(), joined.generation_id))
}

#[tokio::test]
async fn a_group_of_consumers_is_listed_described_emptied_moved_and_deleted() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let (topic, group) = (cluster.topic("described", 2).await?, unique("described"));
    let partition = |index| TopicPartition::new(topic.clone(), index);
    let producer = client.producer().build()?;
    for number in 0..10 {
        producer.send(Record::to(&*topic).partition(0).value(number.to_string())).await?.await?;
    }
    let consumer = client
        .consumer()
        .group(&group)
        .topics([&topic])
        .auto_offset_reset(OffsetReset::Earliest)
        .enable_auto_commit(false)
        .build()?;
    for _ in 0..4 {
        timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
    }
    consumer.commit().await?;

    let described = admin.describe_consumer_groups([&group]).await?.all()?.remove(0).1;
    assert_eq!((described.state, described.is_simple), (GroupState::Stable, false));
    assert_eq!(described.members.len(), 1);
    let mut owned = described.members[0].assignment.clone();
    owned.sort();
    assert_eq!(owned, [partition(0), partition(1)]);
    let listed = admin
        .list_groups()
        .consumer_groups()
        .in_states([GroupState::Stable])
        .of_types([described.group_type])
        .await?;
    let listing = listed.iter().find(|it| it.id == group).ok_or("not listed")?;
    assert_eq!((listing.state, listing.group_type), (GroupState::Stable, described.group_type));
    let empty = admin.list_groups().in_states([GroupState::Empty]).await?;
    assert!(!empty.iter().any(|it| it.id == group));
    let share = admin.list_groups().of_types([GroupType::Share]).await?;
    assert!(!share.iter().any(|it| it.id == group));

    let lag = admin.group_lag(&group).and_partitions([partition(1)]).await?;
    let lags: Vec<_> = lag.all()?.into_iter().map(|(it, lag)| (it.partition, lag.lag())).collect();
    assert_eq!(lags[0], (0, Some(6)));
    assert!(matches!(lags[1], (1, None | Some(0))), "{lags:?}");

    // What members may lose is refused.
    let error = refused(admin.delete_groups([&group]).await?)?;
    assert_eq!(error.code(), Some(ErrorCode::NonEmptyGroup), "{error}");
    let to_five = || [(partition(0), OffsetAndMetadata::new(5).with_metadata("by hand"))];
    let error = refused(admin.alter_group_offsets(&group, to_five()).await?)?;
    assert_eq!(error.code(), Some(ErrorCode::UnknownMemberId), "{error}");
    let error = refused(admin.delete_group_offsets(&group, [partition(0)]).await?)?;
    assert_eq!(error.code(), Some(ErrorCode::GroupSubscribedToTopic), "{error}");

    consumer.close().await?;
    eventually("the group is empty", async || {
        let described = admin.describe_consumer_groups([&group]).await?.all()?;
        Ok(described[0].1.state == GroupState::Empty)
    })
    .await?;
    admin.alter_group_offsets(&group, to_five()).await?.all()?;
    let offsets = admin.list_group_offsets(&group).partitions([partition(0)]).require_stable(true).await?;
    let offsets = offsets.all()?;
    assert_eq!((offsets[0].1.offset, offsets[0].1.metadata.as_str()), (5, "by hand"));
    admin.delete_group_offsets(&group, [partition(0)]).await?.all()?;
    assert!(admin.list_group_offsets(&group).partitions([partition(0)]).await?.is_empty());

    let ghost = unique("ghost");
    let results = admin.delete_groups([&group, &ghost]).await?;
    assert!(matches!(results.get(&group), Some(Ok(()))), "{results:?}");
    let code = |result: Option<&Result<(), AdminError>>| result.and_then(|it| it.as_ref().err()?.code());
    assert_eq!(code(results.get(&ghost)), Some(ErrorCode::GroupIdNotFound));
    let error = refused(admin.describe_consumer_groups([&group]).await?)?;
    assert_eq!(error.code(), Some(ErrorCode::GroupIdNotFound), "{error}");
    Ok(())
}

#[tokio::test]
async fn offsets_are_set_for_a_group_that_never_had_members() -> TestResult {
    let cluster = Cluster::start().await?;
    let admin = Admin::new(cluster.client().await?);
    let (topic, group) = (cluster.topic("by-hand", 1).await?, unique("by-hand"));
    let (known, unknown) = (TopicPartition::new(topic, 0), TopicPartition::new(unique("ghost"), 0));
    let at = OffsetAndMetadata::new(3);
    let results =
        admin.alter_group_offsets(&group, [(known.clone(), at.clone()), (unknown.clone(), at)]).await?;
    assert!(matches!(results.get(&known), Some(Ok(()))), "{results:?}");
    let Some(Err(error)) = results.get(&unknown) else { return Err("an unknown topic was taken".into()) };
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
    let described = admin.describe_consumer_groups([&group]).await?.all()?.remove(0).1;
    assert!(described.is_simple && described.state == GroupState::Empty, "{described:?}");

    // What is refused to the group as a whole says so.
    let error = refused(admin.delete_group_offsets(unique("ghost"), [known]).await?)?;
    let AdminError::Refused { resource: Resource::Group(_), code, .. } = error else {
        return Err(format!("not about the group: {error}").into());
    };
    assert_eq!(code, ErrorCode::GroupIdNotFound);
    Ok(())
}

#[tokio::test]
async fn members_of_any_classic_group_are_described_and_removed() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let group = unique("workers");
    let (member, _) = timeout(PATIENCE, join_classic(&client, &group, "connect")).await??;
    let described = admin.describe_classic_groups([&group]).await?.all()?.remove(0).1;
    assert_eq!((described.state, described.protocol_type.as_str()), (GroupState::Stable, "connect"));
    assert_eq!((described.protocol.as_str(), described.members.len()), ("one", 1));
    assert_eq!(
        (&*described.members[0].metadata, &*described.members[0].assignment),
        (&b"meta"[..], &b"work"[..])
    );
    assert!(described.members[0].partitions().is_empty());
    let error = refused(admin.describe_consumer_groups([&group]).await?)?;
    assert_eq!(error.code(), Some(ErrorCode::InconsistentGroupProtocol), "{error}");
    let workers = admin.list_groups().with_protocol_types(["connect"]).await?;
    assert!(workers.iter().any(|it| it.id == group));

    let members = [MemberIdentity::Member(member.clone()), MemberIdentity::Instance("nobody".to_owned())];
    let results =
        admin.remove_members(&group, MembersToRemove::These(members.to_vec())).reason("a test").await?;
    assert!(matches!(results.get(&members[0]), Some(Ok(()))), "{results:?}");
    let Some(Err(error)) = results.get(&members[1]) else { return Err("a stranger was removed".into()) };
    assert_eq!(error.code(), Some(ErrorCode::UnknownMemberId));
    let described = admin.describe_classic_groups([&group]).await?.all()?.remove(0).1;
    assert_eq!((described.state, described.members.len()), (GroupState::Empty, 0));
    Ok(())
}

#[tokio::test]
async fn all_members_are_removed_at_once() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let group = unique("crowd");
    let (member, _) = timeout(PATIENCE, join_classic(&client, &group, "consumer")).await??;
    let removed = admin.remove_members(&group, MembersToRemove::All).await?.all()?;
    assert_eq!(removed, [(MemberIdentity::Member(member), ())]);
    admin.delete_groups([&group]).await?.all()?;
    let removed = admin.remove_members(&group, MembersToRemove::All).await;
    let error = removed.err().ok_or("a group that is gone had members")?;
    assert_eq!(error.code(), Some(ErrorCode::GroupIdNotFound));
    Ok(())
}

#[tokio::test]
async fn a_kip_848_group_is_described_with_its_epochs() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let (topic, group) = (cluster.topic("epochs", 2).await?, unique("epochs"));
    let member = unique("member");
    let beat = |epoch| {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(id(&group))
            .with_member_id(text(&member))
            .with_member_epoch(epoch)
            .with_rebalance_timeout_ms(60_000)
            .with_rack_id(Some(text("r1")))
            .with_instance_id(Some(text("i")))
            .with_subscribed_topic_names(Some(vec![TopicName(text(&topic))]))
            .with_topic_partitions(Some(Vec::new()));
        client.request(request).to(Target::GroupCoordinator(group.clone()))
    };
    taken(async || Ok(beat(0).await?.error_code)).await?;

    let described = admin.describe_consumer_groups([&group]).await?.all()?.remove(0).1;
    assert_eq!(described.group_type, GroupType::Consumer);
    let epoch = described.group_epoch.ok_or("no epoch")?;
    assert!(epoch > 0 && described.assignment_epoch == Some(epoch), "{described:?}");
    assert_eq!(described.members.len(), 1);
    let it = &described.members[0];
    assert_eq!((it.id.as_str(), it.rack.as_deref(), it.epoch), (member.as_str(), Some("r1"), Some(epoch)));
    assert_eq!((it.topics.as_slice(), it.is_classic), ([topic.clone()].as_slice(), Some(false)));
    let mut target = it.target_assignment.clone().ok_or("no target assignment")?;
    target.sort();
    assert_eq!(target, [TopicPartition::new(topic.clone(), 0), TopicPartition::new(topic.clone(), 1)]);
    let listed = admin.list_groups().of_types([GroupType::Consumer]).await?;
    assert!(listed.iter().any(|it| it.id == group && it.protocol_type == "consumer"));
    let error = refused(admin.describe_classic_groups([&group]).await?)?;
    assert_eq!(error.code(), Some(ErrorCode::GroupIdNotFound), "{error}");

    let removed = admin.remove_members(&group, MembersToRemove::All).await?.all()?;
    assert_eq!(removed, [(MemberIdentity::Instance("i".to_owned()), ())]);
    let partition = TopicPartition::new(topic, 0);
    admin.alter_group_offsets(&group, [(partition.clone(), OffsetAndMetadata::new(1))]).await?.all()?;
    assert_eq!(admin.list_group_offsets(&group).await?.all()?[0].1.offset, 1);
    admin.delete_group_offsets(&group, [partition]).await?.all()?;
    admin.delete_groups([&group]).await?.all()?;
    Ok(())
}

#[tokio::test]
async fn a_share_groups_offsets_are_altered_listed_and_deleted() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let (topic, group) = (cluster.topic("shared", 1).await?, unique("shared"));
    let partition = TopicPartition::new(topic.clone(), 0);
    let producer = client.producer().build()?;
    for number in 0..10 {
        producer.send(Record::to(&*topic).value(number.to_string())).await?.await?;
    }
    let member = unique("member");
    let beat = |epoch| {
        let request = ShareGroupHeartbeatRequest::default()
            .with_group_id(id(&group))
            .with_member_id(text(&member))
            .with_member_epoch(epoch)
            .with_subscribed_topic_names(Some(vec![TopicName(text(&topic))]));
        client.request(request).to(Target::GroupCoordinator(group.clone()))
    };
    taken(async || Ok(beat(0).await?.error_code)).await?;
    let described = admin.describe_share_groups([&group]).await?.all()?.remove(0).1;
    assert_eq!((described.state, described.members.len()), (GroupState::Stable, 1));
    let it = &described.members[0];
    assert_eq!((it.id.as_str(), it.topics.as_slice()), (member.as_str(), [topic.clone()].as_slice()));
    let listed = admin.list_groups().of_types([GroupType::Share]).await?;
    assert!(listed.iter().any(|it| it.id == group && it.group_type == GroupType::Share));
    let error = refused(admin.alter_share_group_offsets(&group, [(partition.clone(), 4)]).await?)?;
    assert_eq!(error.code(), Some(ErrorCode::NonEmptyGroup), "{error}");

    taken(async || Ok(beat(-1).await?.error_code)).await?;
    // The group's partitions are initialised after the first heartbeat, in a log of their own.
    eventually("the offset is set", async || {
        let results = admin
            .alter_share_group_offsets(&group, [(partition.clone(), 4)])
            .timeout(Duration::from_secs(10))
            .await?;
        Ok(results.all().is_ok())
    })
    .await?;
    let offsets = admin.list_share_group_offsets(&group).await?.all()?;
    assert_eq!(offsets.len(), 1);
    assert_eq!((&offsets[0].0, offsets[0].1.start_offset), (&partition, 4));
    assert!(matches!(offsets[0].1.lag, None | Some(6)), "{offsets:?}");
    admin.delete_share_group_offsets(&group, [&topic]).await?.all()?;
    assert!(admin.list_share_group_offsets(&group).await?.is_empty());
    admin.delete_groups([&group]).await?.all()?;
    let error = refused(admin.describe_share_groups([&group]).await?)?;
    assert_eq!(error.code(), Some(ErrorCode::GroupIdNotFound), "{error}");
    Ok(())
}
