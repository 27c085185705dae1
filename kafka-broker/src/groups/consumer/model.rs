//! Random members against a coordinator: whatever they do and whatever gets lost, no partition has two owners, every
//! group settles, and the log tells the same story as the memory.

use std::collections::{BTreeMap, BTreeSet};

use kafka_wire::messages::ConsumerGroupHeartbeatResponse;
use kafka_wire::{ErrorCode, Uuid};
use proptest::prelude::*;

use super::super::testing::{config, secs};
use super::super::{Group, GroupConfig};
use super::tests::{Client, World, with_interval};
use super::{ConsumerGroup, GroupState};

const MEMBERS: usize = 4;
const TOPICS: [&str; 3] = ["t0", "t1", "t2"];

#[derive(Debug, Clone)]
enum Action {
    Join {
        who: usize,
        topics: u8,
    },
    Beat {
        who: usize,
        fate: Fate,
    },
    /// The member gives up what it was told to give up, and takes what it was given.
    Obey {
        who: usize,
    },
    /// A heartbeat with an epoch out of thin air.
    Lie {
        who: usize,
        epoch: i32,
    },
    Leave {
        who: usize,
    },
    Subscribe {
        who: usize,
        topics: u8,
    },
    /// A new process: the member knows nothing and owns nothing.
    Crash {
        who: usize,
    },
    Grow {
        topic: usize,
        by: i32,
    },
    Delete {
        topic: usize,
    },
    Wait {
        seconds: u64,
    },
    Log {
        works: bool,
    },
    RestartBroker,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    AnswerLost,
    SaysNothing,
}

fn action() -> impl Strategy<Value = Action> {
    let who = 0..MEMBERS;
    let fate = prop_oneof![
        6 => Just(Fate::Answered),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::SaysNothing),
    ];
    prop_oneof![
        5 => (who.clone(), 0..8u8).prop_map(|(who, topics)| Action::Join { who, topics }),
        12 => (who.clone(), fate).prop_map(|(who, fate)| Action::Beat { who, fate }),
        10 => who.clone().prop_map(|who| Action::Obey { who }),
        1 => (who.clone(), -1..9).prop_map(|(who, epoch)| Action::Lie { who, epoch }),
        1 => who.clone().prop_map(|who| Action::Leave { who }),
        2 => (who.clone(), 0..8u8).prop_map(|(who, topics)| Action::Subscribe { who, topics }),
        1 => who.prop_map(|who| Action::Crash { who }),
        1 => (0..TOPICS.len(), 1..4).prop_map(|(topic, by)| Action::Grow { topic, by }),
        1 => (0..TOPICS.len()).prop_map(|topic| Action::Delete { topic }),
        3 => prop_oneof![Just(1), Just(5), Just(20), Just(46)].prop_map(|seconds| Action::Wait { seconds }),
        1 => any::<bool>().prop_map(|works| Action::Log { works }),
        1 => Just(Action::RestartBroker),
    ]
}

fn names(topics: u8) -> Vec<String> {
    TOPICS
        .iter()
        .enumerate()
        .filter(|(at, _)| topics & (1 << at) != 0)
        .map(|(_, t)| (*t).to_owned())
        .collect()
}

/// What of a group is on record.
fn recorded(group: &ConsumerGroup) -> impl PartialEq + std::fmt::Debug + use<> {
    let members: BTreeMap<_, _> = group
        .members
        .iter()
        .map(|(id, member)| (id.clone(), ((*member.metadata).clone(), (*member.current).clone())))
        .collect();
    let owned: BTreeSet<(Uuid, i32)> = group.owned.iter().copied().collect();
    (group.epoch, group.target_epoch, members, group.targets.clone(), group.regexes.clone(), owned)
}

struct Model {
    world: World,
    clients: Vec<Client>,
    sizes: BTreeMap<usize, i32>,
    interval: u64,
}

impl Model {
    fn new(interval: u64) -> Self {
        let consumer = with_interval(secs(interval));
        let mut world = World::with(GroupConfig { consumer, ..config() }, &[("t0", 3), ("t1", 2)]);
        world.grow("t2", 1);
        let clients = (0..MEMBERS).map(|who| Client {
            instance: (who >= 2).then(|| format!("i{who}")),
            regex: (who == 1).then(|| "t[12]".to_owned()),
            assignor: (who % 2 == 0).then(|| "range".to_owned()),
            ..Client::new(&format!("m{who}-0"), &["t0"])
        });
        Self { world, clients: clients.collect(), sizes: [(0, 3), (1, 2), (2, 1)].into(), interval }
    }

    fn group(&self) -> Option<&ConsumerGroup> {
        match self.world.harness.coordinator.groups.values().next() {
            Some(Group::Consumer(group)) => Some(group),
            _ => None,
        }
    }

    fn run(&mut self, action: &Action) {
        match *action {
            Action::Join { who, topics } => {
                self.clients[who].topics = names(topics);
                self.clients[who].owned.clear();
                self.join(who);
            }
            Action::Beat { who, fate } => self.beat(who, fate),
            Action::Obey { who } => self.clients[who].owned = self.clients[who].told.clone(),
            Action::Lie { who, epoch } => {
                // As another incarnation would, so nothing of the answer reaches the member.
                let request =
                    self.clients[who].staying().with_member_epoch(epoch).with_topic_partitions(None);
                let answer = self.world.send(&request);
                if epoch == -1 && answer.error_code == 0 {
                    self.clients[who].fence();
                }
            }
            Action::Leave { who } => {
                let epoch = if self.clients[who].instance.is_some() { -2 } else { -1 };
                // A client that leaves has let go of everything.
                self.clients[who].fence();
                let request = self.clients[who].staying().with_member_epoch(epoch);
                self.world.send(&request);
            }
            Action::Subscribe { who, topics } => {
                self.clients[who].topics = names(topics);
                let names = self.clients[who].joining().subscribed_topic_names;
                if self.clients[who].epoch > 0 {
                    let request = self.clients[who].staying().with_subscribed_topic_names(names);
                    let answer = self.world.send(&request);
                    self.take(who, &answer);
                }
            }
            Action::Crash { who } => {
                let client = &mut self.clients[who];
                client.fence();
                client.id = format!("{}x", client.id);
            }
            Action::Grow { topic, by } => {
                let size = self.sizes.entry(topic).or_default();
                *size = (*size + by).min(8);
                let size = *size;
                self.world.grow(TOPICS[topic], size);
            }
            Action::Delete { topic } => {
                self.sizes.remove(&topic);
                self.world.delete(TOPICS[topic]);
            }
            Action::Wait { seconds } => self.wait(seconds),
            Action::Log { works } => {
                self.world.harness.append = if works { Ok(()) } else { Err(ErrorCode::KafkaStorageError) };
            }
            Action::RestartBroker => {
                let before = self.group().map(recorded);
                self.world.harness.append = Ok(());
                self.world.harness.restart();
                let after = self.group().map(recorded);
                assert!(before == after, "replayed: {after:?}, live: {before:?}");
            }
        }
        self.check();
    }

    fn wait(&mut self, seconds: u64) {
        self.world.harness.advance(secs(seconds));
        // A client that could not heartbeat for a session gives up what it has.
        if seconds > 45 {
            self.clients.iter_mut().for_each(Client::fence);
        }
        // As does one that is no longer a member; it is about to be told, and until then it was given nothing away.
        let members: BTreeSet<String> =
            self.group().map(|group| group.members.keys().cloned().collect()).unwrap_or_default();
        for client in &mut self.clients {
            if !members.contains(&client.id) {
                client.fence();
            }
        }
    }

    fn join(&mut self, who: usize) {
        let request = self.clients[who].joining();
        let answer = self.world.send(&request);
        self.take(who, &answer);
    }

    fn beat(&mut self, who: usize, fate: Fate) {
        if self.clients[who].epoch <= 0 {
            return;
        }
        let mut request = self.clients[who].staying();
        if let Fate::SaysNothing = fate {
            request.topic_partitions = None;
        }
        let answer = self.world.send(&request);
        match fate {
            Fate::AnswerLost => self.clients[who].missed = true,
            _ => self.take(who, &answer),
        }
    }

    fn take(&mut self, who: usize, answer: &ConsumerGroupHeartbeatResponse) {
        let client = &mut self.clients[who];
        match ErrorCode::from(answer.error_code) {
            ErrorCode::None => client.take(answer),
            ErrorCode::UnknownMemberId
            | ErrorCode::FencedMemberEpoch
            | ErrorCode::FencedInstanceId
            | ErrorCode::GroupIdNotFound
            | ErrorCode::UnreleasedInstanceId => client.fence(),
            ErrorCode::NotCoordinator => client.missed = true,
            other => panic!("{other:?}: {:?}", answer.error_message),
        }
        // What it may have beyond what it was told it gives up only when it obeys; what it is given it has at once.
        let told = client.told.clone();
        client.owned.extend(told);
    }

    fn check(&self) {
        let Some(group) = self.group() else { return };
        let mut owners: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
        for (id, member) in &group.members {
            for partition in member.current.owned() {
                let other = owners.insert(partition, id);
                assert_eq!(other, None, "{partition:?} belongs to {id} as well");
                assert!(group.owned.contains(&partition));
            }
        }
        assert_eq!(owners.len(), group.owned.len(), "nothing is owned by nobody");
        let mut holders: BTreeMap<(Uuid, i32), &str> = BTreeMap::new();
        for client in &self.clients {
            for partition in &client.owned {
                let other = holders.insert(*partition, &client.id);
                assert_eq!(other, None, "{} reads {partition:?} as well", client.id);
            }
        }
    }

    /// Everyone behaves from now on: all partitions that are read come to be owned, in one epoch.
    fn finish(&mut self) {
        self.world.harness.append = Ok(());
        for round in 0..60 {
            for who in 0..MEMBERS {
                if self.clients[who].epoch <= 0 {
                    self.join(who);
                } else {
                    self.beat(who, Fate::Answered);
                }
                self.clients[who].owned = self.clients[who].told.clone();
                self.check();
            }
            self.wait(self.interval.max(1));
            let joined = self.clients.iter().all(|client| client.epoch > 0);
            if round > 3 && joined && self.group().is_some_and(|group| group.state() == GroupState::Stable) {
                break;
            }
        }
        let group = self.group().expect("a group");
        assert_eq!(group.state(), GroupState::Stable);
        let read: BTreeSet<&str> = self
            .clients
            .iter()
            .flat_map(|client| client.topics.iter().map(String::as_str))
            // The second reads by pattern.
            .chain(["t1", "t2"])
            .collect();
        let expected: i32 = self
            .sizes
            .iter()
            .filter(|(topic, _)| read.contains(TOPICS[**topic]))
            .map(|(_, size)| *size)
            .sum();
        let owned: usize = self.clients.iter().map(|client| client.owned.len()).sum();
        assert_eq!(owned, expected as usize, "all that is read is owned");
        let before = recorded(group);
        self.world.harness.restart();
        assert!(self.group().map(recorded) == Some(before));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn partitions_have_one_owner_groups_settle_and_the_log_tells_the_same_story(
        actions in proptest::collection::vec(action(), 1..80),
        interval in 0..2u64,
    ) {
        let mut model = Model::new(interval);
        for action in &actions {
            model.run(action);
        }
        model.finish();
    }
}
