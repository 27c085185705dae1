//! The rules of classic groups, each on virtual time.

use std::time::Duration;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::messages::{JoinGroupRequest, JoinGroupResponse};

use super::super::record::text;
use super::super::testing::{GROUP, Harness, config, join_request, protocol, secs};
use super::super::{CallId, GroupConfig};

fn error(response: &JoinGroupResponse) -> ErrorCode {
    ErrorCode::from(response.error_code)
}

fn join_error(harness: &mut Harness, version: i16, request: JoinGroupRequest) -> ErrorCode {
    let call = harness.join_call(version, request);
    error(&harness.joined(call).expect("answered at once"))
}

fn static_request(member: &str, instance: &str) -> JoinGroupRequest {
    join_request(member).with_group_instance_id(Some(text(instance)))
}

/// A stable group of two static members, `a` (the leader) and `b`; their ids.
fn stable_static_group(harness: &mut Harness) -> (String, String) {
    let a = harness.join_call(9, static_request("", "a"));
    let b = harness.join_call(9, static_request("", "b"));
    harness.advance(secs(10));
    let (a, b) = (harness.joined(a).unwrap(), harness.joined(b).unwrap());
    let (a_id, b_id) = (a.member_id.to_string(), b.member_id.to_string());
    assert_eq!(a.leader.as_str(), a_id);
    harness.sync(&a_id, 1, &[(a_id.clone(), Bytes::from("1")), (b_id.clone(), Bytes::from("2"))]);
    harness.sync(&b_id, 1, &[]);
    (a_id, b_id)
}

#[test]
fn a_first_member_waits_for_the_initial_delay_and_leads_generation_1() {
    let mut harness = Harness::new();
    let join = harness.join_new();
    harness.advance(Duration::from_millis(2999));
    assert_eq!(harness.joined(join), None);
    harness.advance(Duration::from_millis(1));
    let joined = harness.joined(join).unwrap();
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(joined.members.len(), 1);
    assert_eq!(joined.protocol_name, Some(text("range")));
    assert_eq!(joined.protocol_type, Some(text("consumer")));
    assert!(joined.member_id.starts_with("client-"));
}

#[test]
fn without_an_initial_delay_the_join_is_answered_at_once() {
    let mut harness = Harness::with(GroupConfig { initial_rebalance_delay: Duration::ZERO, ..config() });
    let join = harness.join_new();
    assert_eq!(harness.joined(join).unwrap().generation_id, 1);
}

#[test]
fn each_newcomer_extends_the_initial_delay_up_to_the_rebalance_timeout() {
    let mut harness = Harness::new();
    let first = harness.join_new();
    for _ in 0..9 {
        harness.advance(secs(2));
        harness.join_new();
    }
    assert_eq!(harness.joined(first), None, "18 seconds in, still extended");
    for _ in 0..6 {
        harness.advance(secs(2));
        harness.join_new();
    }
    assert_eq!(
        harness.joined(first).unwrap().members.len(),
        harness.member_count() - 1,
        "over at 30 seconds"
    );
}

#[test]
fn from_version_4_on_a_member_comes_back_with_its_id() {
    let mut harness = Harness::new();
    let call = harness.join_call(4, join_request(""));
    let first = harness.joined(call).unwrap();
    assert_eq!(error(&first), ErrorCode::MemberIdRequired);
    assert_eq!(harness.member_count(), 0);
    let call = harness.join_call(4, join_request(&first.member_id));
    harness.advance(secs(3));
    let joined = harness.joined(call).unwrap();
    assert_eq!((joined.error_code, joined.member_id), (0, first.member_id));
}

#[test]
fn an_id_that_is_not_used_within_the_session_timeout_is_forgotten() {
    let mut harness = Harness::new();
    let call = harness.join_call(4, join_request(""));
    let id = harness.joined(call).unwrap().member_id;
    harness.advance(secs(10));
    assert_eq!(join_error(&mut harness, 4, join_request(&id)), ErrorCode::UnknownMemberId);
}

#[test]
fn a_rebalance_waits_for_a_member_that_was_told_its_id() {
    let mut harness = Harness::new();
    let members = harness.stable_group(1);
    let call = harness.join_call(4, join_request(""));
    let id = harness.joined(call).unwrap().member_id;
    let rejoin = harness.join_call(4, join_request(&members[0]));
    assert_eq!(harness.joined(rejoin), None);
    harness.join_call(4, join_request(&id));
    assert_eq!(harness.joined(rejoin).unwrap().members.len(), 2);
}

#[test]
fn session_timeouts_outside_of_the_bounds_are_refused() {
    let mut harness = Harness::new();
    for timeout in [5_999, 1_800_001, -1] {
        let request = join_request("").with_session_timeout_ms(timeout);
        assert_eq!(join_error(&mut harness, 5, request), ErrorCode::InvalidSessionTimeout);
    }
    assert_eq!(harness.state(), "Dead");
}

#[test]
fn an_empty_group_id_is_invalid() {
    let mut harness = Harness::new();
    let request = join_request("").with_group_id(Default::default());
    assert_eq!(join_error(&mut harness, 5, request), ErrorCode::InvalidGroupId);
}

#[test]
fn strangers_are_unknown_to_every_request() {
    let mut harness = Harness::new();
    assert_eq!(join_error(&mut harness, 5, join_request("who")), ErrorCode::UnknownMemberId);
    assert_eq!(harness.sync_error("who", 1), ErrorCode::UnknownMemberId);
    assert_eq!(harness.heartbeat("who", 1), ErrorCode::UnknownMemberId);
    assert_eq!(harness.leave("who", None), ErrorCode::UnknownMemberId);
    harness.stable_group(1);
    assert_eq!(join_error(&mut harness, 5, join_request("who")), ErrorCode::UnknownMemberId);
    assert_eq!(harness.sync_error("who", 1), ErrorCode::UnknownMemberId);
    assert_eq!(harness.heartbeat("who", 1), ErrorCode::UnknownMemberId);
    assert_eq!(harness.leave("who", None), ErrorCode::UnknownMemberId);
    assert_eq!(harness.commit("who", 1, 5), ErrorCode::UnknownMemberId);
}

#[test]
fn another_generation_is_illegal() {
    let mut harness = Harness::new();
    let members = harness.stable_group(1);
    assert_eq!(harness.sync_error(&members[0], 2), ErrorCode::IllegalGeneration);
    assert_eq!(harness.heartbeat(&members[0], 0), ErrorCode::IllegalGeneration);
    assert_eq!(harness.commit(&members[0], 7, 5), ErrorCode::IllegalGeneration);
    assert_eq!(harness.committed(), None);
}

#[test]
fn a_member_needs_a_protocol_type_and_a_protocol_in_common() {
    let mut harness = Harness::new();
    let nothing = join_request("").with_protocols(vec![]);
    assert_eq!(join_error(&mut harness, 5, nothing), ErrorCode::InconsistentGroupProtocol);
    let no_type = join_request("").with_protocol_type(text(""));
    assert_eq!(join_error(&mut harness, 5, no_type), ErrorCode::InconsistentGroupProtocol);
    harness.stable_group(1);
    let connect = join_request("").with_protocol_type(text("connect"));
    assert_eq!(join_error(&mut harness, 5, connect), ErrorCode::InconsistentGroupProtocol);
    let sticky = join_request("").with_protocols(vec![protocol("sticky", b"")]);
    assert_eq!(join_error(&mut harness, 5, sticky), ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn a_flood_of_protocols_is_refused() {
    let mut harness = Harness::new();
    let flood = join_request("").with_protocols((0..101).map(|n| protocol(&n.to_string(), b"")).collect());
    assert_eq!(join_error(&mut harness, 5, flood), ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn any_protocol_type_will_do() {
    let mut harness = Harness::new();
    let call = harness.join_call(3, join_request("").with_protocol_type(text("sr")));
    harness.advance(secs(3));
    assert_eq!(harness.joined(call).unwrap().protocol_type, Some(text("sr")));
}

#[test]
fn the_protocol_with_the_most_votes_among_the_common_ones_is_chosen() {
    let mut harness = Harness::new();
    let all =
        |names: &[&str]| join_request("").with_protocols(names.iter().map(|n| protocol(n, b"m")).collect());
    let call = harness.join_call(3, all(&["x", "a", "b"]));
    harness.join_call(3, all(&["b", "a"]));
    harness.join_call(3, all(&["b", "a", "y"]));
    harness.advance(secs(10));
    assert_eq!(harness.joined(call).unwrap().protocol_name, Some(text("b")));
}

#[test]
fn followers_wait_for_the_leader_and_each_gets_its_part() {
    let mut harness = Harness::new();
    let (a, b) = (harness.join_new(), harness.join_new());
    harness.advance(secs(10));
    let (a, b) = (harness.joined(a).unwrap(), harness.joined(b).unwrap());
    let (leader, follower) = if a.leader == a.member_id { (a, b) } else { (b, a) };
    assert_eq!((leader.members.len(), follower.members.len()), (2, 0));
    let waiting = harness.sync(&follower.member_id, 1, &[]);
    assert_eq!(harness.synced(waiting), None);
    let assignments = [
        (follower.member_id.to_string(), Bytes::from("its part")),
        ("stranger".to_owned(), Bytes::from("nobody's")),
    ];
    let own = harness.sync(&leader.member_id, 1, &assignments);
    assert_eq!(harness.synced(waiting).unwrap().assignment, "its part");
    assert_eq!(harness.synced(own).unwrap().assignment, "", "left out by itself");
    let again = harness.sync(&follower.member_id, 1, &[]);
    assert_eq!(harness.synced(again).unwrap().assignment, "its part");
}

#[test]
fn a_newcomer_makes_the_others_join_again_in_the_next_generation() {
    let mut harness = Harness::new();
    let members = harness.stable_group(1);
    let newcomer = harness.join_new();
    assert_eq!(harness.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
    assert_eq!(harness.sync_error(&members[0], 1), ErrorCode::RebalanceInProgress);
    assert_eq!(
        harness.commit(&members[0], 1, 11),
        ErrorCode::None,
        "while preparing, the old members commit"
    );
    let rejoin = harness.join_call(3, join_request(&members[0]));
    let (rejoined, joined) = (harness.joined(rejoin).unwrap(), harness.joined(newcomer).unwrap());
    assert_eq!((rejoined.generation_id, joined.generation_id), (2, 2));
    assert_eq!(rejoined.leader.as_str(), members[0], "the leader stays");
    assert_eq!(harness.state(), "CompletingRebalance");
    assert_eq!(harness.commit(&members[0], 2, 12), ErrorCode::RebalanceInProgress);
    assert_eq!(harness.heartbeat(&members[0], 2), ErrorCode::None);
}

#[test]
fn members_that_do_not_join_again_are_out_after_the_longest_rebalance_timeout() {
    let mut harness = Harness::new();
    let first = harness.join_call(3, join_request("").with_session_timeout_ms(600_000));
    let second = harness
        .join_call(3, join_request("").with_session_timeout_ms(600_000).with_rebalance_timeout_ms(60_000));
    harness.advance(secs(10));
    let leader = harness.joined(first).unwrap().leader;
    let ids = [harness.joined(first).unwrap().member_id, harness.joined(second).unwrap().member_id];
    harness.sync(&leader, 1, &[]);
    for id in &ids {
        harness.sync(id, 1, &[]);
    }
    let newcomer = harness.join_new();
    harness.advance(secs(59));
    assert_eq!(harness.joined(newcomer), None);
    harness.advance(secs(1));
    let joined = harness.joined(newcomer).unwrap();
    assert_eq!((joined.generation_id, joined.members.len()), (2, 1));
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(harness.heartbeat(&ids[0], 2), ErrorCode::UnknownMemberId);
    assert_eq!(harness.commit(&ids[1], 1, 5), ErrorCode::UnknownMemberId, "an evicted member cannot commit");
}

#[test]
fn a_silent_member_is_out_after_its_session_timeout_and_the_others_rebalance() {
    let mut harness = Harness::new();
    let members = harness.stable_group(2);
    harness.advance(secs(5));
    assert_eq!(harness.heartbeat(&members[0], 1), ErrorCode::None);
    harness.advance(secs(5));
    assert_eq!(harness.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId);
    assert_eq!(harness.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
    let rejoin = harness.join_call(3, join_request(&members[0]));
    assert_eq!(harness.joined(rejoin).unwrap().generation_id, 2);
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let mut harness = Harness::new();
    let members = harness.stable_group(1);
    for offset in 0..5 {
        harness.advance(secs(9));
        assert_eq!(harness.commit(&members[0], 1, offset), ErrorCode::None);
    }
}

#[test]
fn a_heartbeat_that_is_told_to_join_again_is_a_sign_of_life_too() {
    let mut harness = Harness::new();
    let members = harness.stable_group(1);
    harness.join_call(3, join_request("").with_session_timeout_ms(600_000));
    for _ in 0..3 {
        harness.advance(secs(8));
        assert_eq!(harness.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
    }
    assert_eq!(harness.member_count(), 2);
    harness.advance(secs(11));
    assert_eq!(harness.heartbeat(&members[0], 1), ErrorCode::UnknownMemberId);
}

#[test]
fn who_was_thrown_out_commits_nothing() {
    let mut harness = Harness::new();
    let members = harness.stable_group(2);
    harness.advance(secs(8));
    harness.heartbeat(&members[0], 1);
    harness.advance(secs(8));
    assert_eq!(harness.commit(&members[1], 1, 5), ErrorCode::UnknownMemberId);
    assert_eq!(harness.commit(&members[0], 1, 6), ErrorCode::None, "while preparing");
    assert_eq!(harness.committed(), Some(6));
}

#[test]
fn a_parked_join_stands_in_for_heartbeats_except_for_newcomers_after_five_minutes() {
    let mut harness = Harness::new();
    let long = |member: &str| join_request(member).with_rebalance_timeout_ms(900_000);
    let slow = harness.join_call(3, long("").with_session_timeout_ms(1_800_000));
    let other = harness.join_call(3, long(""));
    harness.advance(secs(10));
    let ids = [harness.joined(slow).unwrap().member_id, harness.joined(other).unwrap().member_id];
    harness.sync(&ids[0], 1, &[]);
    harness.sync(&ids[1], 1, &[]);
    let rejoin = harness.join_call(3, long(&ids[1]).with_protocols(vec![protocol("range", b"new")]));
    let newcomer = harness.join_call(3, long(""));
    harness.advance(secs(299));
    assert_eq!((harness.joined(rejoin), harness.joined(newcomer)), (None, None));
    harness.advance(secs(2));
    assert_eq!(error(&harness.joined(newcomer).unwrap()), ErrorCode::UnknownMemberId);
    assert_eq!(harness.joined(rejoin), None, "a known member may wait as long as the rebalance takes");
    harness.advance(secs(600));
    assert_eq!(harness.joined(rejoin).unwrap().generation_id, 2);
}

#[test]
fn followers_that_join_again_unchanged_get_the_same_generation_and_the_leader_starts_a_new_one() {
    let mut harness = Harness::new();
    let members = harness.stable_group(2);
    let follower = harness.join_call(3, join_request(&members[1]));
    let joined = harness.joined(follower).unwrap();
    assert_eq!((joined.generation_id, joined.members.len()), (1, 0));
    assert_eq!(harness.state(), "Stable");
    let leader = harness.join_call(3, join_request(&members[0]));
    assert_eq!(harness.joined(leader), None);
    assert_eq!(harness.state(), "PreparingRebalance");
}

#[test]
fn a_follower_with_new_metadata_starts_a_rebalance() {
    let mut harness = Harness::new();
    let members = harness.stable_group(2);
    let changed = join_request(&members[1]).with_protocols(vec![protocol("range", b"other topics")]);
    let call = harness.join_call(3, changed);
    assert_eq!(harness.joined(call), None);
    assert_eq!(harness.state(), "PreparingRebalance");
}

#[test]
fn a_join_repeated_while_completing_is_answered_again_and_a_changed_one_starts_over() {
    let mut harness = Harness::new();
    let join = harness.join_new();
    harness.advance(secs(3));
    let id = harness.joined(join).unwrap().member_id;
    let again = harness.join_call(3, join_request(&id));
    let joined = harness.joined(again).unwrap();
    assert_eq!((joined.generation_id, joined.members.len()), (1, 1));
    let changed = join_request(&id).with_protocols(vec![protocol("range", b"other topics")]);
    let changed = harness.join_call(3, changed);
    assert_eq!(harness.joined(changed).unwrap().generation_id, 2);
}

#[test]
fn a_join_sent_twice_answers_the_first_call_too() {
    let mut harness = Harness::new();
    let members = harness.stable_group(2);
    let first = harness.join_call(3, join_request(&members[0]));
    let second = harness.join_call(3, join_request(&members[0]));
    assert_eq!(error(&harness.joined(first).unwrap()), ErrorCode::RebalanceInProgress);
    assert_eq!(harness.joined(second), None);
}

#[test]
fn members_without_a_sync_are_out_at_the_rebalance_timeout() {
    let mut harness = Harness::new();
    let slow = |member: &str| join_request(member).with_session_timeout_ms(60_000);
    let joins = [harness.join_call(3, slow("")), harness.join_call(3, slow(""))];
    harness.advance(secs(10));
    let [a, b] = joins.map(|call| harness.joined(call).unwrap());
    let (leader, follower) = if a.leader == a.member_id { (a, b) } else { (b, a) };
    let waiting = harness.sync(&follower.member_id, 1, &[]);
    harness.advance(secs(30));
    assert_eq!(harness.synced(waiting).unwrap().error_code, ErrorCode::RebalanceInProgress.code());
    assert_eq!(harness.heartbeat(&leader.member_id, 1), ErrorCode::UnknownMemberId);
    let rejoin = harness.join_call(3, slow(&follower.member_id));
    let joined = harness.joined(rejoin).unwrap();
    assert_eq!((joined.generation_id, joined.leader), (2, follower.member_id));
}

#[test]
fn a_follower_that_never_fetches_its_assignment_is_out_of_the_stable_group_too() {
    let mut harness = Harness::new();
    let slow = |member: &str| join_request(member).with_session_timeout_ms(60_000);
    let joins = [harness.join_call(3, slow("")), harness.join_call(3, slow(""))];
    harness.advance(secs(10));
    let leader = harness.joined(joins[0]).unwrap().leader;
    harness.sync(&leader, 1, &[]);
    assert_eq!(harness.state(), "Stable");
    harness.advance(secs(30));
    assert_eq!((harness.state().as_str(), harness.member_count()), ("PreparingRebalance", 1));
}

#[test]
fn who_leaves_is_gone_at_once_and_the_last_one_empties_the_group() {
    let mut harness = Harness::new();
    let members = harness.stable_group(2);
    assert_eq!(harness.leave(&members[0], None), ErrorCode::None);
    let rejoin = harness.join_call(3, join_request(&members[1]));
    let joined = harness.joined(rejoin).unwrap();
    assert_eq!((joined.generation_id, joined.leader.as_str()), (2, members[1].as_str()));
    assert_eq!(harness.leave(&members[1], None), ErrorCode::None);
    assert_eq!((harness.state().as_str(), harness.member_count()), ("Empty", 0));
    assert_eq!(harness.commit("", -1, 99), ErrorCode::None, "an empty group takes commits from outside");
}

#[test]
fn a_member_told_its_id_can_leave_before_it_joins() {
    let mut harness = Harness::new();
    let call = harness.join_call(4, join_request(""));
    let id = harness.joined(call).unwrap().member_id;
    assert_eq!(harness.leave(&id, None), ErrorCode::None);
    assert_eq!(join_error(&mut harness, 4, join_request(&id)), ErrorCode::UnknownMemberId);
}

#[test]
fn a_full_group_takes_no_more_members() {
    let mut harness = Harness::with(GroupConfig { max_size: 2, ..config() });
    let members = harness.stable_group(2);
    assert_eq!(join_error(&mut harness, 3, join_request("")), ErrorCode::GroupMaxSizeReached);
    assert_eq!(harness.state(), "Stable");
    assert_eq!(harness.heartbeat(&members[0], 1), ErrorCode::None);
}

#[test]
fn a_restarted_static_member_keeps_its_place_without_a_rebalance() {
    let mut harness = Harness::new();
    let (a, b) = stable_static_group(&mut harness);
    let call = harness.join_call(9, static_request("", "b"));
    let joined = harness.joined(call).unwrap();
    let new_b = joined.member_id.to_string();
    assert_ne!(new_b, b);
    assert_eq!((joined.error_code, joined.generation_id, joined.skip_assignment), (0, 1, false));
    assert_eq!(joined.leader.as_str(), a);
    let sync = harness.sync(&new_b, 1, &[]);
    assert_eq!(harness.synced(sync).unwrap().assignment, "2");
    assert_eq!(harness.state(), "Stable");
    assert_eq!(harness.heartbeat_as(&b, Some("b"), 1), ErrorCode::FencedInstanceId);
    assert_eq!(harness.leave(&b, Some("b")), ErrorCode::FencedInstanceId);
    assert_eq!(join_error(&mut harness, 9, static_request(&b, "b")), ErrorCode::FencedInstanceId);
    assert_eq!(join_error(&mut harness, 9, static_request(&b, "never")), ErrorCode::UnknownMemberId);
    harness.restart();
    assert_eq!(harness.heartbeat_as(&new_b, Some("b"), 1), ErrorCode::None, "the new id is on record");
}

#[test]
fn a_static_member_that_comes_back_with_another_protocol_makes_the_group_rebalance() {
    let mut harness = Harness::new();
    let both = |instance: &str, names: [&str; 2]| {
        let protocols = names.map(|name| protocol(name, b"")).to_vec();
        static_request("", instance).with_protocols(protocols)
    };
    let a = harness.join_call(9, both("a", ["range", "roundrobin"]));
    let b = harness.join_call(9, both("b", ["range", "roundrobin"]));
    harness.advance(secs(10));
    let a = harness.joined(a).unwrap().member_id.to_string();
    let b = harness.joined(b).unwrap().member_id.to_string();
    harness.sync(&a, 1, &[]);
    // In another order the vote comes to the same: `a` was there first.
    let call = harness.join_call(9, both("b", ["roundrobin", "range"]));
    let same = harness.joined(call).unwrap();
    assert_eq!((same.generation_id, harness.state().as_str()), (1, "Stable"));
    let call =
        harness.join_call(9, static_request("", "b").with_protocols(vec![protocol("roundrobin", b"")]));
    assert_eq!((harness.joined(call), harness.state().as_str()), (None, "PreparingRebalance"));
    assert_eq!(harness.commit(&b, 1, 5), ErrorCode::UnknownMemberId);
}

#[test]
fn a_restarted_static_leader_is_told_not_to_assign() {
    let mut harness = Harness::new();
    let (a, _) = stable_static_group(&mut harness);
    let call = harness.join_call(9, static_request("", "a"));
    let joined = harness.joined(call).unwrap();
    assert_eq!((joined.leader == joined.member_id, joined.skip_assignment), (true, true));
    assert_eq!(joined.members.len(), 2);
    let second = joined.member_id.to_string();
    assert_ne!(second, a);
    // A client before version 9 would assign if it believed to lead, so it is told of its old self.
    let call = harness.join_call(8, static_request("", "a"));
    let joined = harness.joined(call).unwrap();
    assert_eq!(
        (joined.leader.as_str(), joined.skip_assignment, joined.members.len()),
        (second.as_str(), false, 0)
    );
}

#[test]
fn a_static_member_that_cannot_be_written_keeps_its_old_id() {
    let mut harness = Harness::new();
    let (_, b) = stable_static_group(&mut harness);
    harness.append = Err(ErrorCode::KafkaStorageError);
    assert_eq!(join_error(&mut harness, 9, static_request("", "b")), ErrorCode::NotCoordinator);
    assert_eq!(harness.heartbeat_as(&b, Some("b"), 1), ErrorCode::None);
    assert_eq!(harness.member_count(), 2);
}

#[test]
fn a_static_member_that_restarts_while_completing_starts_the_rebalance_over() {
    let mut harness = Harness::new();
    let (a, _) = stable_static_group(&mut harness);
    let rejoin = harness.join_call(9, static_request(&a, "a"));
    harness.join_call(9, static_request("", "b"));
    assert_eq!(harness.joined(rejoin).unwrap().generation_id, 2);
    let waiting = harness.sync(&harness.joined(rejoin).unwrap().member_id.clone(), 1, &[]);
    assert_eq!(harness.synced(waiting).unwrap().error_code, ErrorCode::IllegalGeneration.code());
    assert_eq!(harness.state(), "CompletingRebalance");
    harness.join_call(9, static_request("", "b"));
    assert_eq!(harness.state(), "PreparingRebalance");
}

#[test]
fn a_static_member_that_restarts_inside_its_join_fences_the_parked_call() {
    let mut harness = Harness::new();
    let (a, _) = stable_static_group(&mut harness);
    let parked = harness.join_call(9, static_request(&a, "a"));
    let restarted = harness.join_call(9, static_request("", "a"));
    assert_eq!(error(&harness.joined(parked).unwrap()), ErrorCode::FencedInstanceId);
    assert_eq!(harness.joined(restarted), None);
}

#[test]
fn static_members_outlive_a_rebalance_they_miss_and_leave_by_instance_id() {
    let mut harness = Harness::new();
    let long =
        |member: &str, instance: &str| static_request(member, instance).with_session_timeout_ms(600_000);
    let joins = [harness.join_call(9, long("", "a")), harness.join_call(9, long("", "b"))];
    harness.advance(secs(10));
    let [a, b] = joins.map(|call| harness.joined(call).unwrap().member_id);
    harness.sync(&a, 1, &[]);
    harness.sync(&b, 1, &[]);
    let rejoin = harness.join_call(9, long(&a, "a"));
    harness.advance(secs(30));
    assert_eq!(harness.joined(rejoin).unwrap().members.len(), 2, "b is asleep, not gone");
    assert_eq!(harness.leave("", Some("b")), ErrorCode::None);
    assert_eq!(harness.leave("", Some("b")), ErrorCode::UnknownMemberId);
    assert_eq!(harness.member_count(), 1);
}

#[test]
fn an_assignment_that_cannot_be_written_makes_all_join_again() {
    let mut harness = Harness::new();
    let join = harness.join_new();
    harness.advance(secs(3));
    let id = harness.joined(join).unwrap().member_id;
    harness.append = Err(ErrorCode::KafkaStorageError);
    let sync = harness.sync(&id, 1, &[]);
    assert_eq!(harness.synced(sync).unwrap().error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(harness.state(), "PreparingRebalance");
}

#[test]
fn a_group_that_cannot_be_written_does_not_come_to_be() {
    let mut harness = Harness::new();
    harness.append = Err(ErrorCode::NotEnoughReplicas);
    let call = harness.join_new();
    assert_eq!(error(&harness.joined(call).unwrap()), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(harness.state(), "Dead");
}

#[test]
fn after_a_restart_members_carry_on_and_the_silent_ones_expire() {
    let mut harness = Harness::new();
    let members = harness.stable_group(2);
    harness.advance(secs(9));
    harness.restart();
    assert_eq!(harness.state(), "Stable");
    harness.advance(secs(9));
    assert_eq!(harness.heartbeat(&members[0], 1), ErrorCode::None);
    let sync = harness.sync(&members[1], 1, &[]);
    assert_eq!(harness.synced(sync).unwrap().assignment, format!("for {}", members[1]));
    harness.advance(secs(1));
    assert_eq!((harness.state().as_str(), harness.member_count()), ("PreparingRebalance", 1));
}

#[test]
fn a_group_larger_than_a_lowered_limit_rebalances_when_it_is_loaded() {
    let mut harness = Harness::new();
    harness.stable_group(3);
    harness.coordinator.config.max_size = 2;
    harness.restart();
    assert_eq!(harness.state(), "PreparingRebalance");
}

#[test]
fn a_protocol_named_in_a_sync_has_to_be_the_groups() {
    let mut harness = Harness::new();
    let members = harness.stable_group(1);
    let request = kafka_wire::messages::SyncGroupRequest::default()
        .with_group_id(kafka_wire::messages::GroupId(text(GROUP)))
        .with_generation_id(1)
        .with_member_id(text(&members[0]))
        .with_protocol_type(Some(text("connect")));
    let call: CallId =
        harness.call_with_view(|coordinator, call, view, now| coordinator.sync(call, &request, view, now));
    assert_eq!(harness.synced(call).unwrap().error_code, ErrorCode::InconsistentGroupProtocol.code());
}
