//! Random members against a coordinator: what must hold whatever they do, and whenever the broker restarts.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::messages::JoinGroupResponse;
use proptest::prelude::*;

use super::record::text;
use super::testing::{GROUP, Harness, config, join_request, protocol, secs};
use super::{CallId, Group, GroupConfig};

const MEMBERS: usize = 4;

#[derive(Debug, Clone)]
enum Action {
    /// Joins, with the id it has if it has one; `changed` alters its metadata.
    Join {
        who: usize,
        changed: bool,
    },
    /// Forgets its id and joins again, as a new process does.
    Restart {
        who: usize,
    },
    Sync {
        who: usize,
    },
    Heartbeat {
        who: usize,
    },
    Leave {
        who: usize,
    },
    Commit {
        who: usize,
        offset: i64,
    },
    /// Time passes, which for everyone else is silence.
    Wait {
        seconds: u64,
    },
    /// The next appends fail, or succeed again.
    Log {
        works: bool,
    },
    RestartBroker,
}

fn action() -> impl Strategy<Value = Action> {
    let who = 0..MEMBERS;
    prop_oneof![
        6 => (who.clone(), any::<bool>()).prop_map(|(who, changed)| Action::Join { who, changed }),
        1 => who.clone().prop_map(|who| Action::Restart { who }),
        6 => who.clone().prop_map(|who| Action::Sync { who }),
        4 => who.clone().prop_map(|who| Action::Heartbeat { who }),
        1 => who.clone().prop_map(|who| Action::Leave { who }),
        3 => (who, 0..100i64).prop_map(|(who, offset)| Action::Commit { who, offset }),
        4 => prop_oneof![Just(1), Just(3), Just(9), Just(31)].prop_map(|seconds| Action::Wait { seconds }),
        1 => any::<bool>().prop_map(|works| Action::Log { works }),
        1 => Just(Action::RestartBroker),
    ]
}

/// A client, as far as the rules go.
#[derive(Debug, Default)]
struct Client {
    instance: Option<&'static str>,
    version: i16,
    member_id: String,
    generation: i32,
    metadata: bool,
    /// What the leader was given to assign to.
    members: Vec<String>,
    /// Its generation is one that this broker told it, not the one before the restart: a generation that was not on
    /// record is lost with the broker.
    told: bool,
    waiting_join: Option<CallId>,
    waiting_sync: Option<(CallId, i32)>,
}

struct Model {
    harness: Harness,
    clients: Vec<Client>,
    /// Every parked call; it must be answered in the end.
    parked: BTreeSet<CallId>,
    /// The protocol, leader and members of each generation, as anyone was told.
    generations: BTreeMap<i32, (String, String)>,
    committed: Option<i64>,
    /// An append has failed at some time: a group may have emptied, or formed, off the record.
    log_failed: bool,
}

impl Model {
    fn new() -> Self {
        let config = GroupConfig { initial_rebalance_delay: secs(1), ..config() };
        let clients = (0..MEMBERS).map(|who| Client {
            // Two dynamic members, an old and a new one; two static ones.
            instance: [None, None, Some("i2"), Some("i3")][who],
            version: [3, 9, 5, 9][who],
            generation: -1,
            ..Client::default()
        });
        Self {
            harness: Harness::with(config),
            clients: clients.collect(),
            parked: BTreeSet::new(),
            generations: BTreeMap::new(),
            committed: None,
            log_failed: false,
        }
    }

    fn run(&mut self, action: &Action) {
        match *action {
            Action::Join { who, changed } => {
                self.clients[who].metadata ^= changed;
                self.join(who);
            }
            Action::Restart { who } => {
                self.clients[who].member_id.clear();
                self.join(who);
            }
            Action::Sync { who } => self.sync(who),
            Action::Heartbeat { who } => {
                let Client { member_id, instance, generation, .. } = &self.clients[who];
                let (member_id, instance, generation) = (member_id.clone(), *instance, *generation);
                let error = self.harness.heartbeat_as(&member_id, instance, generation);
                self.react(who, error);
            }
            Action::Leave { who } => {
                let Client { member_id, instance, .. } = &self.clients[who];
                let (member_id, instance) = (member_id.clone(), *instance);
                if self.harness.leave(&member_id, instance) == ErrorCode::None {
                    let gone = self.harness.heartbeat(&member_id, self.clients[who].generation);
                    assert_eq!(gone, ErrorCode::UnknownMemberId, "who left is gone");
                }
            }
            Action::Commit { who, offset } => {
                let Client { member_id, generation, .. } = &self.clients[who];
                let (member_id, generation) = (member_id.clone(), *generation);
                let state = self.harness.state();
                let error = self.harness.commit(&member_id, generation, offset);
                match error {
                    ErrorCode::None => self.committed = Some(offset),
                    // The log's failures, after append_error.
                    _ => assert!(
                        self.harness.append.is_err() || state != "Empty" || generation >= 0,
                        "{error}"
                    ),
                }
                self.react(who, error);
            }
            Action::Wait { seconds } => self.harness.advance(secs(seconds)),
            Action::Log { works } => {
                self.log_failed |= !works;
                self.harness.append = if works { Ok(()) } else { Err(ErrorCode::KafkaStorageError) };
            }
            Action::RestartBroker => {
                // Connections break: nobody waits any more, and nothing parked survives.
                self.harness.append = Ok(());
                self.harness.restart();
                self.parked.clear();
                for client in &mut self.clients {
                    (client.waiting_join, client.waiting_sync) = (None, None);
                    client.told = false;
                }
                // A generation that was not on record may be counted again with other members.
                self.generations.clear();
            }
        }
        self.take_answers();
        self.check();
    }

    fn join(&mut self, who: usize) {
        let client = &self.clients[who];
        let metadata: &'static [u8] =
            if client.metadata { b"\0\0\0\0\0\0" } else { b"\0\0\0\0\0\x01\0\x01t" };
        let request = join_request(&client.member_id)
            .with_group_instance_id(client.instance.map(text))
            .with_protocols(vec![protocol("range", metadata), protocol("sticky", metadata)]);
        let call = self.harness.join_call(client.version, request);
        self.parked.insert(call);
        self.clients[who].waiting_join = Some(call);
    }

    fn sync(&mut self, who: usize) {
        let client = &self.clients[who];
        let assignments: Vec<(String, Bytes)> = client
            .members
            .iter()
            .map(|id| (id.clone(), Bytes::from(format!("{id}@{}", client.generation))))
            .collect();
        let (member_id, generation) = (client.member_id.clone(), client.generation);
        let call = self.harness.sync(&member_id, generation, &assignments);
        self.parked.insert(call);
        self.clients[who].waiting_sync = Some((call, generation));
    }

    fn react(&mut self, who: usize, error: ErrorCode) {
        if matches!(error, ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId) {
            self.clients[who].member_id.clear();
            self.clients[who].generation = -1;
        }
    }

    fn take_answers(&mut self) {
        self.parked.retain(|&call| self.harness.answer(call).is_none());
        for who in 0..MEMBERS {
            if let Some(call) = self.clients[who].waiting_join
                && let Some(response) = self.harness.joined(call)
            {
                self.clients[who].waiting_join = None;
                self.joined(who, response);
            }
            if let Some((call, generation)) = self.clients[who].waiting_sync
                && let Some(response) = self.harness.synced(call)
            {
                self.clients[who].waiting_sync = None;
                let error = ErrorCode::from(response.error_code);
                if error == ErrorCode::None && !response.assignment.is_empty() {
                    let assignment = String::from_utf8(response.assignment.to_vec()).unwrap();
                    assert!(assignment.ends_with(&format!("@{generation}")), "{assignment} in {generation}");
                }
                self.react(who, error);
            }
        }
    }

    fn joined(&mut self, who: usize, response: JoinGroupResponse) {
        let error = ErrorCode::from(response.error_code);
        let client = &mut self.clients[who];
        match error {
            ErrorCode::None => {
                client.member_id = response.member_id.to_string();
                client.generation = response.generation_id;
                client.told = true;
                let leads = response.leader == response.member_id;
                assert!(leads || response.members.is_empty(), "only the leader learns the members");
                let members: Vec<String> = response.members.iter().map(|m| m.member_id.to_string()).collect();
                client.members = if response.skip_assignment { Vec::new() } else { members };
                let protocol = response.protocol_name.unwrap_or_default().to_string();
                let told = (protocol, response.protocol_type.unwrap_or_default().to_string());
                let agreed = self.generations.entry(response.generation_id).or_insert_with(|| told.clone());
                assert_eq!(*agreed, told, "members of one generation agree");
            }
            ErrorCode::MemberIdRequired => client.member_id = response.member_id.to_string(),
            _ => self.react(who, error),
        }
    }

    fn check(&self) {
        assert_eq!(self.harness.committed(), self.committed, "what was acknowledged is what is fetched");
        for client in &self.clients {
            let behind = client.generation <= self.generation();
            assert!(behind || !client.told || self.generation() == 0, "no one is ahead of the group");
        }
    }

    fn generation(&self) -> i32 {
        let Some(Group::Classic(group)) = self.harness.coordinator.groups.get(GROUP) else { return 0 };
        group.generation_id()
    }

    /// Everyone falls silent: every call is answered, all members go, and the log says the same as the memory.
    fn finish(&mut self) {
        self.harness.append = Ok(());
        self.harness.advance(secs(2000));
        self.take_answers();
        assert!(self.parked.is_empty(), "not answered: {:?}", self.parked);
        assert_eq!(self.harness.member_count(), 0);
        assert!(["Empty", "Dead"].contains(&self.harness.state().as_str()));
        let (generation, offset) = (self.generation(), self.harness.committed());
        self.harness.restart();
        assert_eq!(self.harness.committed(), offset);
        assert!(self.generation() <= generation && (self.log_failed || self.generation() == generation));
        // A group that emptied off the record comes back with members, which are silent.
        self.harness.advance(secs(2000));
        assert_eq!(self.harness.member_count(), 0);
    }
}

/// A stable group and what a restart makes of it.
fn snapshot(
    harness: &Harness,
) -> Option<(String, kafka_wire::messages::describe_groups_response::DescribedGroup)> {
    (harness.state() == "Stable").then(|| {
        let group_id = kafka_wire::messages::GroupId(text(GROUP));
        ("Stable".to_owned(), harness.coordinator.describe(&group_id, 5))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn members_agree_calls_are_answered_and_the_log_tells_the_same_story(
        actions in proptest::collection::vec(action(), 1..60),
    ) {
        let mut model = Model::new();
        for action in &actions {
            model.run(action);
        }
        model.finish();
    }

    #[test]
    fn a_restart_keeps_a_stable_group_as_it_is_described(
        actions in proptest::collection::vec(action(), 1..40),
    ) {
        let mut model = Model::new();
        for action in &actions {
            if matches!(action, Action::Log { .. } | Action::RestartBroker) {
                continue;
            }
            model.run(action);
        }
        let before = snapshot(&model.harness);
        if let Some(before) = before {
            model.harness.restart();
            prop_assert_eq!(snapshot(&model.harness), Some(before));
        }
    }
}
