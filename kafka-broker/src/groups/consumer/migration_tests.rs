//! Groups that change their protocol while they have members, both ways (KIP-848).

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::messages::{JoinGroupRequest, JoinGroupResponse};

use super::super::classic::{NamedPartitions, assignment, encode_assignment};
use super::super::record::text;
use super::super::testing::{Harness, config, join_request, protocol, secs};
use super::super::{CallId, GroupConfig};
use super::tests::{Client, World, with_interval};
use super::{ConsumerGroupConfig, GroupState};

/// A consumer of topic `t` that owns what it says.
fn joining(member: &str, owned: &[i32]) -> JoinGroupRequest {
    let mut metadata = b"\0\x01\0\0\0\x01\0\x01t\xff\xff\xff\xff".to_vec();
    metadata.extend(1i32.to_be_bytes());
    metadata.extend(b"\0\x01t");
    metadata.extend((owned.len() as i32).to_be_bytes());
    owned.iter().for_each(|partition| metadata.extend(partition.to_be_bytes()));
    let range = protocol("range", b"").with_metadata(Bytes::from(metadata));
    join_request(member).with_protocols(vec![range])
}

fn join(harness: &mut Harness, version: i16, request: JoinGroupRequest) -> JoinGroupResponse {
    let call = harness.join_call(version, request);
    harness.joined(call).expect("answered at once")
}

fn synced(harness: &Harness, call: CallId) -> Result<Vec<i32>, ErrorCode> {
    let response = harness.synced(call).expect("answered at once");
    match ErrorCode::from(response.error_code) {
        ErrorCode::None => {
            let named: NamedPartitions = assignment(&response.assignment).unwrap();
            Ok(named.into_iter().flat_map(|(_, partitions)| partitions).collect())
        }
        error => Err(error),
    }
}

/// A stable classic group of one, that owns all four partitions of `t`.
fn classic_group(world: &mut World) -> String {
    let harness = &mut world.harness;
    let call = harness.join_call(3, joining("", &[]));
    harness.advance(secs(3));
    let joined = harness.joined(call).unwrap();
    let id = joined.member_id.to_string();
    let assigned = encode_assignment(&vec![("t".to_owned(), vec![0, 1, 2, 3])]);
    harness.sync(&id, joined.generation_id, &[(id.clone(), assigned)]);
    id
}

#[test]
fn a_classic_group_goes_over_member_by_member_without_a_partition_having_two_owners() {
    let mut world = World::new(&[("t", 4)]);
    let old = classic_group(&mut world);
    let mut new = Client::new("new", &["t"]);
    world.join(&mut new);
    assert_eq!((new.owned.len(), world.group().members.len()), (0, 2));
    world.harness.restart();

    // The classic member hears of it by its heartbeat and joins again; it has to give up two partitions.
    assert_eq!(world.harness.heartbeat(&old, 1), ErrorCode::RebalanceInProgress);
    let joined = join(&mut world.harness, 5, joining(&old, &[0, 1, 2, 3]));
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(joined.protocol_name, Some(text("range")));
    let call = world.harness.sync(&old, 1, &[]);
    let kept = synced(&world.harness, call).unwrap();
    assert_eq!(kept.len(), 2);
    assert_eq!((world.beat(&mut new), new.owned.len()), (ErrorCode::None, 0), "not yet");
    assert_eq!(world.harness.heartbeat(&old, 1), ErrorCode::RebalanceInProgress);
    let joined = join(&mut world.harness, 5, joining(&old, &kept));
    assert_eq!(joined.generation_id, 2);
    let call = world.harness.sync(&old, 2, &[]);
    assert_eq!(synced(&world.harness, call), Ok(kept));
    assert_eq!((world.beat(&mut new), new.owned.len()), (ErrorCode::None, 2));
    assert_eq!(world.harness.heartbeat(&old, 2), ErrorCode::None);
    assert_eq!(world.group().state(), GroupState::Stable);
    assert_eq!(world.harness.commit(&old, 2, 5), ErrorCode::None);
    assert_eq!(world.harness.commit(&old, 3, 5), ErrorCode::IllegalGeneration);

    // The old process goes; the group is one of consumers altogether.
    assert_eq!(world.harness.leave(&old, None), ErrorCode::None);
    assert_eq!((world.beat(&mut new), new.owned.len()), (ErrorCode::None, 4));
    assert_eq!(world.harness.heartbeat(&old, 2), ErrorCode::UnknownMemberId);
}

/// A member that found a newer group epoch without a target joined and synced in a loop until the last target was old
/// enough for another.
#[test]
fn a_classic_member_waits_in_peace_for_a_target_that_is_not_due() {
    let consumer = with_interval(secs(2));
    let mut world = World::with(GroupConfig { consumer, ..config() }, &[("t", 4)]);
    let old = classic_group(&mut world);
    let (mut new, mut late) = (Client::new("new", &["t"]), Client::new("late", &["t"]));
    world.join(&mut new);
    world.join(&mut late);
    assert_eq!((world.group().epoch.epoch, world.group().target_epoch.epoch), (3, 2));
    assert_eq!(world.harness.heartbeat(&old, 1), ErrorCode::RebalanceInProgress);
    join(&mut world.harness, 5, joining(&old, &[0, 1, 2, 3]));
    let call = world.harness.sync(&old, 1, &[]);
    let kept = synced(&world.harness, call).unwrap();
    assert_eq!(join(&mut world.harness, 5, joining(&old, &kept)).generation_id, 2);
    let call = world.harness.sync(&old, 2, &[]);
    assert_eq!(synced(&world.harness, call), Ok(kept.clone()));
    assert_eq!(world.harness.heartbeat(&old, 2), ErrorCode::None);

    world.harness.advance(secs(2));
    assert_eq!(world.harness.heartbeat(&old, 2), ErrorCode::RebalanceInProgress);
    join(&mut world.harness, 5, joining(&old, &kept));
    assert_eq!(world.group().target_epoch.epoch, 3);
}

#[test]
fn when_the_last_consumer_leaves_the_group_is_classic_again() {
    let mut world = World::new(&[("t", 4)]);
    let old = classic_group(&mut world);
    let mut new = Client::new("new", &["t"]);
    world.join(&mut new);
    world.send(&new.staying().with_member_epoch(-1));
    assert_eq!(world.harness.state(), "PreparingRebalance");
    assert_eq!(world.harness.heartbeat(&old, 3), ErrorCode::RebalanceInProgress);
    let joined = join(&mut world.harness, 5, joining(&old, &[]));
    assert_eq!((joined.error_code, joined.leader.as_str()), (0, old.as_str()));
    world.harness.restart();
    assert_eq!((world.harness.state().as_str(), world.harness.member_count()), ("Stable", 1));
}

#[test]
fn a_consumer_that_falls_silent_leaves_a_classic_group_behind() {
    let mut world = World::new(&[("t", 4)]);
    let old = classic_group(&mut world);
    let mut new = Client::new("new", &["t"]);
    world.join(&mut new);
    let mut generation = 1;
    for _ in 0..9 {
        world.harness.advance(secs(5));
        if world.harness.heartbeat(&old, generation) == ErrorCode::RebalanceInProgress {
            let joined = join(&mut world.harness, 5, joining(&old, &[]));
            generation = joined.generation_id;
            world.harness.sync(&old, generation, &[]);
        }
    }
    assert_eq!(world.harness.state(), "PreparingRebalance");
}

#[test]
fn a_classic_member_joins_a_group_of_consumers() {
    let mut world = World::new(&[("t", 4)]);
    let mut new = Client::new("new", &["t"]);
    world.join(&mut new);
    let told = join(&mut world.harness, 5, joining("", &[]));
    assert_eq!(ErrorCode::from(told.error_code), ErrorCode::MemberIdRequired);
    let joined = join(&mut world.harness, 5, joining(&told.member_id, &[]));
    assert_eq!((joined.error_code, joined.generation_id), (0, 3));
    let call = world.harness.sync(&told.member_id, 3, &[]);
    assert_eq!(synced(&world.harness, call), Ok(vec![]));
    assert_eq!(world.harness.heartbeat(&told.member_id, 3), ErrorCode::None, "nothing is free yet");
    world.beat(&mut new);
    world.beat(&mut new);
    assert_eq!(world.harness.heartbeat(&told.member_id, 3), ErrorCode::RebalanceInProgress);
    let joined = join(&mut world.harness, 5, joining(&told.member_id, &[]));
    let call = world.harness.sync(&told.member_id, joined.generation_id, &[]);
    assert_eq!(synced(&world.harness, call).unwrap().len(), 2);
    let other = joining("", &[]).with_protocol_type(text("connect"));
    assert_eq!(
        ErrorCode::from(join(&mut world.harness, 3, other).error_code),
        ErrorCode::InconsistentGroupProtocol
    );
}

#[test]
fn a_classic_member_that_does_not_join_or_sync_in_time_is_out() {
    let mut world = World::new(&[("t", 4)]);
    let old = classic_group(&mut world);
    let mut new = Client::new("new", &["t"]);
    world.join(&mut new);
    for _ in 0..6 {
        assert_eq!(world.harness.heartbeat(&old, 1), ErrorCode::RebalanceInProgress);
        world.harness.advance(secs(5));
        world.beat(&mut new);
    }
    assert_eq!(world.harness.heartbeat(&old, 1), ErrorCode::UnknownMemberId);
    assert_eq!((world.beat(&mut new), new.owned.len()), (ErrorCode::None, 4));
}

#[test]
fn a_static_member_changes_its_protocol_with_its_process() {
    let mut world = World::new(&[("t", 4)]);
    let static_join = |member: &str| joining(member, &[]).with_group_instance_id(Some(text("i")));
    let call = world.harness.join_call(5, static_join(""));
    world.harness.advance(secs(3));
    let joined = world.harness.joined(call).unwrap();
    let id = joined.member_id.to_string();
    let assigned = encode_assignment(&vec![("t".to_owned(), vec![0, 1, 2, 3])]);
    world.harness.sync(&id, 1, &[(id.clone(), assigned)]);

    let mut new = Client { instance: Some("i".into()), ..Client::new("new", &["t"]) };
    world.join(&mut new);
    assert_eq!(new.owned.len(), 4, "it takes over at once");
    let fenced = world.harness.heartbeat_as(&id, Some("i"), 1);
    assert_eq!(fenced, ErrorCode::FencedInstanceId);

    // And back: the only consumer is replaced, so the group is classic again.
    let back = join(&mut world.harness, 5, static_join(""));
    assert_eq!(back.error_code, 0);
    assert_eq!(world.harness.state(), "PreparingRebalance");
}

#[test]
fn a_policy_may_forbid_it_and_groups_of_others_never_go_over() {
    let consumer = ConsumerGroupConfig { upgrades: false, downgrades: false, ..config().consumer };
    let mut world = World::with(GroupConfig { consumer, ..config() }, &[("t", 4)]);
    classic_group(&mut world);
    assert_eq!(world.error(&Client::new("new", &["t"]).joining()), ErrorCode::GroupIdNotFound);

    let mut world = World::new(&[("t", 4)]);
    world.harness.join_call(3, join_request("").with_protocol_type(text("connect")));
    world.harness.advance(secs(3));
    assert_eq!(world.error(&Client::new("new", &["t"]).joining()), ErrorCode::GroupIdNotFound);

    let mut world = World::new(&[("t", 4)]);
    let broken = join_request("").with_protocols(vec![protocol("range", b"broken")]);
    world.harness.join_call(3, broken);
    world.harness.advance(secs(3));
    let answer = world.send(&Client::new("new", &["t"]).joining());
    assert_eq!(ErrorCode::from(answer.error_code), ErrorCode::GroupIdNotFound);
    assert!(answer.error_message.unwrap().contains("malformed"));
    assert_eq!(world.harness.state(), "CompletingRebalance", "nothing came of it");
}

#[test]
fn who_waits_in_a_classic_group_is_sent_to_join_again_when_it_goes_over() {
    let mut world = World::new(&[("t", 4)]);
    let parked = world.harness.join_call(3, joining("", &[]));
    let mut new = Client::new("new", &["t"]);
    world.join(&mut new);
    let answer = world.harness.joined(parked).unwrap();
    assert_eq!(ErrorCode::from(answer.error_code), ErrorCode::RebalanceInProgress);
    assert_eq!(world.group().members.len(), 2);
    // A failing log leaves the classic group as it was.
    let mut world = World::new(&[("t", 4)]);
    classic_group(&mut world);
    world.harness.append = Err(ErrorCode::NotLeaderOrFollower);
    assert_eq!(world.error(&new.joining()), ErrorCode::NotCoordinator);
    assert_eq!((world.harness.state().as_str(), world.harness.member_count()), ("Stable", 1));
}
