//! The rules of consumer groups (KIP-848), each on virtual time.

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_wire::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, TopicName,
    consumer_group_heartbeat_request,
};
use kafka_wire::{ErrorCode, Uuid};

use super::super::assignor::{Assignor, Partitions};
use super::super::record::text;
use super::super::testing::{GROUP, Harness, config, secs};
use super::super::{Caller, Group, GroupConfig, Response};
use super::member::each;
use super::{ConsumerGroup, ConsumerGroupConfig, GroupState, Heartbeat};
use crate::cluster::record::{ConfigResource, MetadataRecord, PartitionState};
use crate::config::group::ConsumerSettings;

/// Topics of a cluster, and a coordinator that knows them.
pub(in crate::groups) struct World {
    pub(in crate::groups) harness: Harness,
}

/// A member as its client would have it.
#[derive(Debug, Clone, Default)]
pub(in crate::groups) struct Client {
    pub(in crate::groups) id: String,
    pub(in crate::groups) instance: Option<String>,
    pub(in crate::groups) epoch: i32,
    pub(in crate::groups) topics: Vec<String>,
    pub(in crate::groups) regex: Option<String>,
    pub(in crate::groups) assignor: Option<String>,
    pub(in crate::groups) owned: BTreeSet<(Uuid, i32)>,
    /// What it was last told to own.
    pub(in crate::groups) told: BTreeSet<(Uuid, i32)>,
    /// An answer was lost, so the next heartbeat says everything, and is told everything.
    pub(in crate::groups) missed: bool,
}

impl Client {
    pub(in crate::groups) fn new(id: &str, topics: &[&str]) -> Self {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Self { id: id.to_owned(), topics, ..Self::default() }
    }

    pub(in crate::groups) fn joining(&self) -> ConsumerGroupHeartbeatRequest {
        let topics = self.topics.iter().map(|topic| TopicName(text(topic))).collect();
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_member_id(text(&self.id))
            .with_instance_id(self.instance.as_deref().map(text))
            .with_rebalance_timeout_ms(30_000)
            .with_subscribed_topic_names(Some(topics))
            .with_subscribed_topic_regex(self.regex.as_deref().map(text))
            .with_server_assignor(self.assignor.as_deref().map(text))
            .with_topic_partitions(Some(Vec::new()))
    }

    pub(in crate::groups) fn staying(&self) -> ConsumerGroupHeartbeatRequest {
        let mut owned = Partitions::new();
        for (topic, partition) in &self.owned {
            owned.entry(*topic).or_default().insert(*partition);
        }
        let owned = owned.into_iter().map(|(topic, partitions)| {
            consumer_group_heartbeat_request::TopicPartitions::default()
                .with_topic_id(topic)
                .with_partitions(partitions.into_iter().collect())
        });
        if self.missed {
            return self.joining().with_member_epoch(self.epoch).with_topic_partitions(Some(owned.collect()));
        }
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_member_id(text(&self.id))
            .with_instance_id(self.instance.as_deref().map(text))
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_names(None)
            .with_topic_partitions(Some(owned.collect()))
    }

    /// It is no member any more and owns nothing.
    pub(in crate::groups) fn fence(&mut self) {
        self.epoch = 0;
        self.owned.clear();
        self.told.clear();
    }

    /// What the client makes of an answer; what it owns is its own affair.
    pub(in crate::groups) fn take(&mut self, answer: &ConsumerGroupHeartbeatResponse) {
        self.epoch = answer.member_epoch;
        self.missed = false;
        if let Some(member_id) = &answer.member_id {
            self.id = member_id.to_string();
        }
        if let Some(assignment) = &answer.assignment {
            let topics = assignment.topic_partitions.iter();
            self.told = topics.flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p))).collect();
        }
    }
}

impl World {
    pub(in crate::groups) fn new(topics: &[(&str, i32)]) -> Self {
        Self::with(config(), topics)
    }

    pub(in crate::groups) fn with(config: GroupConfig, topics: &[(&str, i32)]) -> Self {
        let mut world = Self { harness: Harness::with(config) };
        for (name, partitions) in topics {
            world.grow(name, *partitions);
        }
        world
    }

    /// The topic has this many partitions from now on.
    pub(in crate::groups) fn grow(&mut self, name: &str, partitions: i32) -> Uuid {
        let known = self.harness.image.topic(name).map(|topic| (topic.id, topic.partitions.len() as i32));
        let (id, count) = known.unwrap_or_else(|| {
            let id = Uuid::from_u128(self.harness.offset as u128 + 1);
            self.harness.image.replay(&MetadataRecord::Topic { name: name.to_owned(), id });
            (id, 0)
        });
        for index in count..partitions {
            let state = PartitionState::new(vec![1]);
            self.harness.image.replay(&MetadataRecord::Partition { topic_id: id, index, state });
        }
        self.harness.offset += 1;
        id
    }

    pub(in crate::groups) fn delete(&mut self, name: &str) {
        let Some(id) = self.harness.image.topic(name).map(|topic| topic.id) else { return };
        self.harness.image.replay(&MetadataRecord::RemoveTopic { id });
        self.harness.offset += 1;
    }

    pub(in crate::groups) fn send(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> ConsumerGroupHeartbeatResponse {
        let caller = Caller { client_id: "client".into(), client_host: "/127.0.0.1".into() };
        let call = self.harness.call_with_view(|coordinator, call, view, now| {
            let fresh = Uuid::from_u128(u128::from(call.0));
            let heartbeat = Heartbeat { request, version: 1, caller: &caller, fresh, view };
            coordinator.consumer_heartbeat(call, &heartbeat, now)
        });
        match self.harness.answer(call) {
            Some(Response::ConsumerGroupHeartbeat(response)) => response.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::groups) fn error(&mut self, request: &ConsumerGroupHeartbeatRequest) -> ErrorCode {
        self.send(request).error_code.into()
    }

    pub(in crate::groups) fn join(&mut self, client: &mut Client) {
        let answer = self.send(&client.joining());
        assert_eq!(ErrorCode::from(answer.error_code), ErrorCode::None, "{:?}", answer.error_message);
        client.take(&answer);
        client.owned = client.told.clone();
    }

    /// A heartbeat of a client that does as it is told at once.
    pub(in crate::groups) fn beat(&mut self, client: &mut Client) -> ErrorCode {
        let answer = self.send(&client.staying());
        let error = ErrorCode::from(answer.error_code);
        if error == ErrorCode::None {
            client.take(&answer);
            client.owned = client.told.clone();
        }
        error
    }

    pub(in crate::groups) fn group(&self) -> &ConsumerGroup {
        match self.harness.coordinator.groups.get(GROUP) {
            Some(Group::Consumer(group)) => group,
            other => panic!("{other:?}"),
        }
    }

    /// Beats until nothing changes any more.
    pub(in crate::groups) fn settle(&mut self, clients: &mut [Client]) {
        for _ in 0..10 {
            for client in &mut *clients {
                assert_eq!(self.beat(client), ErrorCode::None);
            }
        }
        assert_eq!(self.group().state(), GroupState::Stable);
    }
}

/// Targets hold at least this long.
pub(in crate::groups) fn with_interval(assignment_interval: Duration) -> ConsumerGroupConfig {
    let consumer = config().consumer;
    let settings = ConsumerSettings { assignment_interval, ..consumer.settings };
    ConsumerGroupConfig { settings, ..consumer }
}

fn sizes(clients: &[Client]) -> Vec<usize> {
    clients.iter().map(|client| client.owned.len()).collect()
}

#[test]
fn a_first_member_gets_everything_in_the_epoch_that_it_brings_about() {
    let mut world = World::new(&[("t", 3), ("other", 1)]);
    let mut a = Client::new("a", &["t"]);
    world.join(&mut a);
    assert_eq!((a.epoch, a.owned.len()), (2, 3));
    assert_eq!(world.group().state(), GroupState::Stable);
}

#[test]
fn a_partition_is_given_only_once_its_owner_has_let_go_of_it() {
    let mut world = World::new(&[("t", 2)]);
    let (mut a, mut b) = (Client::new("a", &["t"]), Client::new("b", &["t"]));
    world.join(&mut a);
    world.join(&mut b);
    assert_eq!((b.epoch, b.owned.len()), (3, 0));
    assert_eq!(world.group().state(), GroupState::Reconciling);

    // `a` is told to revoke, and says nothing of what it owns.
    let answer = world.send(&a.staying());
    a.take(&answer);
    assert_eq!((a.epoch, a.told.len()), (2, 1));
    let answer = world.send(&a.staying().with_topic_partitions(None));
    assert!(answer.assignment.is_none());
    assert_eq!((world.beat(&mut b), b.owned.len()), (ErrorCode::None, 0));

    a.owned = a.told.clone();
    assert_eq!(world.beat(&mut a), ErrorCode::None);
    assert_eq!(a.epoch, 3);
    assert_eq!((world.beat(&mut b), b.owned.len()), (ErrorCode::None, 1));
    assert_eq!(world.group().state(), GroupState::Stable);
}

#[test]
fn an_assignment_is_told_when_it_changes_or_is_asked_for_and_not_otherwise() {
    let mut world = World::new(&[("t", 2)]);
    let mut a = Client::new("a", &["t"]);
    world.join(&mut a);
    assert!(world.send(&a.staying()).assignment.is_none());
    let full = a.joining().with_member_epoch(a.epoch).with_topic_partitions(a.staying().topic_partitions);
    assert!(world.send(&full).assignment.is_some());
    world.grow("t", 3);
    assert_eq!(world.send(&a.staying()).assignment.unwrap().topic_partitions[0].partitions, [0, 1, 2]);
}

#[test]
fn epochs_of_the_future_are_fenced_and_the_last_one_is_taken_from_a_member_that_missed_its_answer() {
    let mut world = World::new(&[("t", 2)]);
    let mut a = Client::new("a", &["t"]);
    world.join(&mut a);
    assert_eq!(world.error(&a.staying().with_member_epoch(3)), ErrorCode::FencedMemberEpoch);
    world.grow("t", 3);
    let lost = world.send(&a.staying());
    assert_eq!(lost.member_epoch, 3);
    let again = world.send(&a.staying());
    assert_eq!((again.error_code, again.member_epoch, again.assignment.is_some()), (0, 3, true));
    a.owned.insert((Uuid::from_u128(99), 0));
    assert_eq!(world.error(&a.staying()), ErrorCode::FencedMemberEpoch, "it owns what is not its own");
    a.owned.clear();
    assert_eq!(world.error(&a.staying().with_topic_partitions(None)), ErrorCode::FencedMemberEpoch);
}

#[test]
fn whoever_is_silent_for_a_session_is_out_and_its_partitions_go_to_the_others() {
    let mut world = World::new(&[("t", 2)]);
    let mut clients = [Client::new("a", &["t"]), Client::new("b", &["t"])];
    for client in &mut clients {
        world.join(client);
    }
    world.settle(&mut clients);
    assert_eq!(sizes(&clients), [1, 1]);
    let [mut a, b] = clients;
    for _ in 0..10 {
        world.harness.advance(secs(5));
        assert_eq!(world.beat(&mut a), ErrorCode::None);
    }
    assert_eq!(a.owned.len(), 2);
    assert_eq!(world.error(&b.staying()), ErrorCode::UnknownMemberId);
}

#[test]
fn who_does_not_revoke_within_its_rebalance_timeout_is_out() {
    let mut world = World::new(&[("t", 2)]);
    let (mut a, mut b) = (Client::new("a", &["t"]), Client::new("b", &["t"]));
    world.join(&mut a);
    world.join(&mut b);
    for _ in 0..5 {
        assert_eq!(world.error(&a.staying()), ErrorCode::None, "heartbeats alone do not help");
        assert_eq!(world.beat(&mut b), ErrorCode::None);
        world.harness.advance(secs(6));
    }
    assert_eq!(world.error(&a.staying()), ErrorCode::UnknownMemberId);
    assert_eq!((world.beat(&mut b), b.owned.len()), (ErrorCode::None, 2));
}

#[test]
fn a_static_member_comes_back_to_what_it_had_and_its_old_id_is_fenced() {
    let mut world = World::new(&[("t", 4)]);
    let mut clients = [Client::new("a", &["t"]), Client::new("b", &["t"])];
    clients[0].instance = Some("i".into());
    for client in &mut clients {
        world.join(client);
    }
    world.settle(&mut clients);
    let [mut a, mut b] = clients;
    let had = a.owned.clone();

    let mut thief = Client { id: "c".into(), ..a.clone() };
    assert_eq!(world.error(&thief.joining()), ErrorCode::UnreleasedInstanceId);
    assert_eq!(world.error(&thief.staying()), ErrorCode::FencedInstanceId);
    assert_eq!(world.send(&a.staying().with_member_epoch(-2)).member_epoch, -2);
    world.harness.advance(secs(20));
    assert_eq!((world.beat(&mut b), b.owned.len()), (ErrorCode::None, 2), "kept for the instance");
    world.join(&mut thief);
    assert_eq!(thief.owned, had);
    assert_eq!(world.error(&a.staying()), ErrorCode::FencedInstanceId);

    assert_eq!(world.send(&thief.staying().with_member_epoch(-2)).member_epoch, -2);
    for _ in 0..10 {
        world.harness.advance(secs(5));
        assert_eq!(world.beat(&mut b), ErrorCode::None);
    }
    assert_eq!(b.owned.len(), 4, "it did not come back in time");
    a.instance = Some("unknown".into());
    assert_eq!(world.error(&a.staying()), ErrorCode::UnknownMemberId);
}

#[test]
fn who_leaves_is_gone_at_once() {
    let mut world = World::new(&[("t", 2)]);
    let mut a = Client::new("a", &["t"]);
    assert_eq!(world.error(&a.staying().with_member_epoch(1)), ErrorCode::GroupIdNotFound);
    world.join(&mut a);
    assert_eq!(world.send(&a.staying().with_member_epoch(-1)).member_epoch, -1);
    assert_eq!(world.group().state(), GroupState::Empty);
    assert_eq!(world.error(&a.staying().with_member_epoch(-1)), ErrorCode::UnknownMemberId);
    world.join(&mut a);
    assert_eq!((a.epoch, a.owned.len()), (4, 2));
}

#[test]
fn patterns_follow_the_topics_that_come_and_go() {
    let mut world = World::new(&[("logs-a", 1), ("other", 1)]);
    let mut a = Client { regex: Some("logs-.*".into()), ..Client::new("a", &[]) };
    world.join(&mut a);
    assert_eq!(a.owned.len(), 1);
    world.grow("logs-b", 2);
    assert_eq!((world.beat(&mut a), a.owned.len()), (ErrorCode::None, 3));
    assert!(world.group().is_subscribed_to("logs-b") && !world.group().is_subscribed_to("other"));
    world.delete("logs-a");
    assert_eq!((world.beat(&mut a), a.told.len()), (ErrorCode::None, 2));
    assert_eq!(
        world.error(&a.staying().with_subscribed_topic_regex(Some(text("(")))),
        ErrorCode::InvalidRegularExpression
    );
    world.send(
        &a.staying().with_subscribed_topic_regex(Some(text(""))).with_subscribed_topic_names(Some(vec![])),
    );
    assert!(world.group().regexes.is_empty());
}

#[test]
fn a_topic_made_anew_is_another_topic() {
    let mut world = World::new(&[("t", 1)]);
    let mut a = Client::new("a", &["t"]);
    world.join(&mut a);
    let before = a.owned.clone();
    world.delete("t");
    world.grow("t", 1);
    for _ in 0..3 {
        assert_eq!(world.beat(&mut a), ErrorCode::None);
    }
    assert_eq!(a.owned.len(), 1);
    assert!(a.owned.is_disjoint(&before));
}

#[test]
fn the_assignor_that_most_ask_for_decides_and_an_unknown_one_is_refused() {
    let mut world = World::new(&[("t", 4), ("u", 4)]);
    let mut clients = [Client::new("a", &["t", "u"]), Client::new("b", &["t", "u"])];
    for client in &mut clients {
        client.assignor = Some("range".into());
        world.join(client);
    }
    world.settle(&mut clients);
    let numbers: BTreeSet<i32> = clients[0].owned.iter().map(|(_, partition)| *partition).collect();
    assert_eq!(numbers.len(), 2, "the same partitions of both topics");
    let request = clients[0].staying().with_server_assignor(Some(text("nonsense")));
    let answer = world.send(&request);
    assert_eq!(ErrorCode::from(answer.error_code), ErrorCode::UnsupportedAssignor);
    assert_eq!(
        answer.error_message.unwrap().as_str(),
        "ServerAssignor nonsense is not supported. Supported assignors: uniform, range."
    );
}

#[test]
fn a_full_group_takes_nobody_but_those_who_are_in() {
    let consumer = ConsumerGroupConfig { max_size: 1, ..config().consumer };
    let mut world = World::with(GroupConfig { consumer, ..config() }, &[("t", 1)]);
    let mut a = Client::new("a", &["t"]);
    world.join(&mut a);
    assert_eq!(world.error(&Client::new("b", &["t"]).joining()), ErrorCode::GroupMaxSizeReached);
    world.join(&mut a);
}

#[test]
fn requests_that_make_no_sense_are_refused_in_kafkas_words() {
    let mut world = World::new(&[("t", 1)]);
    let a = Client::new("a", &["t"]);
    let mut message = |request: &ConsumerGroupHeartbeatRequest| {
        let answer = world.send(request);
        assert_eq!(ErrorCode::from(answer.error_code), ErrorCode::InvalidRequest);
        answer.error_message.unwrap().to_string()
    };
    assert_eq!(message(&a.joining().with_group_id(GroupId(text(" ")))), "GroupId can't be empty.");
    assert_eq!(message(&a.joining().with_member_id(text(""))), "MemberId can't be empty.");
    assert_eq!(message(&a.joining().with_instance_id(Some(text("")))), "InstanceId can't be empty.");
    assert_eq!(message(&a.joining().with_rack_id(Some(text("")))), "RackId can't be empty.");
    assert_eq!(
        message(&a.joining().with_rebalance_timeout_ms(-1)),
        "RebalanceTimeoutMs must be provided in first request."
    );
    assert_eq!(
        message(&a.joining().with_topic_partitions(None)),
        "TopicPartitions must be empty when (re-)joining."
    );
    assert_eq!(message(&a.staying().with_member_epoch(-2)), "InstanceId can't be null.");
    assert_eq!(message(&a.staying().with_member_epoch(-3)), "MemberEpoch is invalid.");
}

#[test]
fn a_target_assignment_holds_for_the_assignment_interval() {
    let consumer = with_interval(secs(1));
    let mut world = World::with(GroupConfig { consumer, ..config() }, &[("t", 2), ("u", 2)]);
    let (mut a, mut b) = (Client::new("a", &["t", "u"]), Client::new("b", &["t"]));
    world.join(&mut a);
    let answer = world.send(&b.joining());
    assert_eq!((answer.member_epoch, answer.heartbeat_interval_ms), (2, 100), "it is to come back soon");
    b.take(&answer);
    assert_eq!(world.group().state(), GroupState::Assigning);

    // A topic that is not read any more is given up without waiting for the next target.
    let narrowed = a.staying().with_subscribed_topic_names(Some(vec![TopicName(text("t"))]));
    a.take(&world.send(&narrowed));
    assert_eq!((a.epoch, a.told.len()), (2, 2));
    a.owned = a.told.clone();

    world.harness.advance(secs(1));
    let mut clients = [a, b];
    world.settle(&mut clients);
    assert_eq!(sizes(&clients), [1, 1]);
    assert_eq!((clients[0].epoch, clients[1].epoch), (4, 4));
}

#[test]
fn what_cannot_be_written_did_not_happen() {
    let mut world = World::new(&[("t", 2)]);
    let (mut a, b) = (Client::new("a", &["t"]), Client::new("b", &["t"]));
    world.harness.append = Err(ErrorCode::NotLeaderOrFollower);
    assert_eq!(world.error(&a.joining()), ErrorCode::NotCoordinator);
    assert_eq!(world.harness.state(), "Dead");
    world.harness.append = Ok(());
    world.join(&mut a);
    world.harness.append = Err(ErrorCode::NotLeaderOrFollower);
    assert_eq!(world.error(&b.joining()), ErrorCode::NotCoordinator);
    assert_eq!(world.group().members.len(), 1);
    assert_eq!(world.error(&a.staying()), ErrorCode::None, "nothing to write");
}

#[test]
fn commits_need_the_epoch_in_which_the_partition_was_the_members() {
    let mut world = World::new(&[("t", 1)]);
    let mut a = Client::new("a", &["t"]);
    world.join(&mut a);
    let topic = a.owned.iter().next().unwrap().0;
    let check = |world: &World, epoch, version, partition| {
        world.group().check_offset_commit("a", epoch, version, [(topic, partition)].into_iter())
    };
    assert_eq!(check(&world, 2, 9, 0), Ok(()));
    assert_eq!(check(&world, 2, 8, 0), Err(ErrorCode::UnsupportedVersion));
    assert_eq!(check(&world, 3, 9, 0), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(check(&world, -1, 9, 0), Err(ErrorCode::StaleMemberEpoch));
    world.grow("t", 2);
    world.beat(&mut a);
    assert_eq!(a.epoch, 3);
    assert_eq!(check(&world, 2, 9, 0), Ok(()), "it had it in epoch 2 and has it still");
    assert_eq!(check(&world, 2, 9, 1), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(
        world.group().check_offset_commit("b", 3, 9, std::iter::empty()),
        Err(ErrorCode::UnknownMemberId)
    );
    assert_eq!(world.group().check_offset_fetch(None, -1), Ok(()));
    assert_eq!(world.group().check_offset_fetch(Some("a"), 3), Ok(()));
    assert_eq!(world.group().check_offset_fetch(Some("a"), 2), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(world.group().check_offset_fetch(Some("b"), 1), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn an_empty_group_can_change_its_protocol_and_keeps_its_offsets() {
    let mut world = World::new(&[("t", 1)]);
    assert_eq!(world.harness.commit("", -1, 7), ErrorCode::None);
    let mut a = Client::new("a", &["t"]);
    world.join(&mut a);
    world.send(&a.staying().with_member_epoch(-1));
    let members = world.harness.stable_group(1);
    world.harness.restart();
    assert_eq!((world.harness.state().as_str(), world.harness.committed()), ("Stable", Some(7)));
    world.harness.leave(&members[0], None);
    world.join(&mut a);
    world.harness.restart();
    assert_eq!((world.group().members.len(), world.harness.committed()), (1, Some(7)));
}

#[test]
fn a_silent_group_is_forgotten_with_its_offsets() {
    let mut world = World::new(&[("t", 1)]);
    let mut a = Client::new("a", &["t"]);
    world.join(&mut a);
    assert_eq!(world.harness.commit_with("a", 2, 7, "", 9), ErrorCode::None);
    world.harness.advance(secs(8 * 24 * 3600));
    assert_eq!(world.harness.committed(), None);
    assert!(world.harness.coordinator.groups.is_empty());
    world.harness.restart();
    assert!(world.harness.coordinator.groups.is_empty());
}

#[test]
fn a_restart_keeps_the_group_and_gives_its_members_a_session_to_be_heard() {
    let mut world = World::new(&[("t", 5)]);
    let mut clients = [Client::new("a", &["t"]), Client::new("b", &["t"])];
    for client in &mut clients {
        world.join(client);
    }
    world.harness.restart();
    world.settle(&mut clients);
    world.harness.restart();
    world.harness.advance(secs(44));
    for client in &mut clients {
        let epoch = client.epoch;
        assert_eq!((world.beat(client), client.epoch), (ErrorCode::None, epoch));
    }
    let owned: BTreeSet<_> =
        world.group().members.values().flat_map(|member| each(&member.current.assigned)).collect();
    assert_eq!(owned.len(), 5);
    world.harness.advance(Duration::from_secs(45));
    assert_eq!(world.group().state(), GroupState::Empty);
    assert_eq!(Assignor::by_name("range"), Some(Assignor::Range));
}

#[test]
fn a_groups_own_settings_win_over_the_brokers() {
    let mut world = World::new(&[("t", 1)]);
    let set = |world: &mut World, key: &str, value: &str| {
        let (resource, key) = (ConfigResource::Group(GROUP.to_owned()), key.to_owned());
        world.harness.image.replay(&MetadataRecord::Config { resource, key, value: Some(value.to_owned()) });
    };
    let mut a = Client::new("a", &["t"]);
    world.join(&mut a);
    set(&mut world, "consumer.session.timeout.ms", "10000");
    set(&mut world, "consumer.heartbeat.interval.ms", "700");
    assert_eq!(world.send(&a.staying()).heartbeat_interval_ms, 700);
    world.harness.advance(secs(9));
    assert_eq!(world.beat(&mut a), ErrorCode::None);
    world.harness.advance(secs(10));
    assert_eq!(world.error(&a.staying()), ErrorCode::UnknownMemberId);
}
