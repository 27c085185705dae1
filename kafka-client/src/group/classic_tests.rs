//! The classic member on virtual time: alone against scripted answers, and many against a model coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use proptest::prelude::*;
use tokio::time::Instant;

use super::assignor::{Assignment, Assignor, CooperativeStickyAssignor, RangeAssignor};
use super::classic::{Action, Ask, JoinAnswer, Joined, Membership, MembershipConfig};
use super::duty::Term;
use super::member::{Failure, GroupExit, Identity};
use super::partitions::{NewlyOwned, Partitioning, Partitions};
use super::{GroupError, protocol};
use crate::TopicPartition;

const SESSION: Duration = Duration::from_secs(45);
const INTERVAL: Duration = Duration::from_secs(3);
const MAX_POLL: Duration = Duration::from_secs(300);

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn config() -> MembershipConfig {
    MembershipConfig {
        group: "g".into(),
        instance_id: None,
        session_timeout: SESSION,
        heartbeat_interval: INTERVAL,
        max_poll_interval: Some(MAX_POLL),
    }
}

fn reading(assignor: impl Assignor + 'static) -> Partitions {
    Partitions::new(vec![Arc::new(assignor)], None, Some(vec![Arc::from("t")]))
}

fn eager(now: Instant) -> Membership<Partitions> {
    Membership::new(config(), reading(RangeAssignor), now)
}

fn cooperative(now: Instant) -> Membership<Partitions> {
    Membership::new(config(), reading(CooperativeStickyAssignor), now)
}

fn assignment(partitions: &[i32]) -> Bytes {
    protocol::encode_assignment(&Assignment {
        partitions: partitions.iter().copied().map(tp).collect(),
        user_data: None,
    })
}

fn term(member: &str, generation: i32, leader: &str, protocol: &str) -> Term {
    Term { generation, member_id: member.into(), leader: leader.into(), protocol: protocol.into() }
}

fn follower(member: &str, generation: i32, protocol: &str) -> JoinAnswer {
    JoinAnswer::Joined(Joined {
        term: term(member, generation, "someone", protocol),
        skip_assignment: false,
        members: Vec::new(),
    })
}

fn identity(member: &str, generation: i32) -> Identity {
    Identity { generation, member_id: member.into(), instance_id: None }
}

/// How `t` is partitioned.
fn partitioned(count: i32) -> Partitioning {
    Partitioning { counts: BTreeMap::from([(Arc::from("t"), count)]), ..Partitioning::default() }
}

/// `t`, each partition with replicas in the racks that these letters name.
fn partitioned_over(partitions: &[&str]) -> Partitioning {
    let racks =
        partitions.iter().map(|racks| racks.chars().map(|rack| Arc::from(rack.to_string())).collect());
    let replica_racks = BTreeMap::from([(Arc::from("t"), racks.collect())]);
    Partitioning { replica_racks, ..partitioned(partitions.len() as i32) }
}

/// Takes a new member into `generation` with these partitions.
fn enter(member: &mut Membership<Partitions>, now: Instant, generation: i32, partitions: &[i32]) {
    let Some(Action::Ask(Ask::Join { protocols, .. })) = member.poll(now) else { panic!("no join") };
    member.joined(now, follower("m", generation, &protocols[0].0));
    assert!(matches!(member.poll(now), Some(Action::Ask(Ask::Sync { .. }))));
    member.synced(now, Ok(assignment(partitions)));
}

#[test]
fn a_member_joins_again_under_the_id_the_coordinator_gave_it() {
    let now = Instant::now();
    let mut member = eager(now);
    assert!(
        matches!(member.poll(now), Some(Action::Ask(Ask::Join { member_id, .. })) if member_id.is_empty())
    );
    member.joined(now, JoinAnswer::MemberIdRequired("m-1".into()));
    assert!(matches!(member.poll(now), Some(Action::Ask(Ask::Join { member_id, .. })) if member_id == "m-1"));
    // A failed attempt does not forget it either (KIP-394).
    member.joined(now, JoinAnswer::Failed(Failure::Unanswered));
    assert_eq!(member.poll(now), Some(Action::ForgetCoordinator));
    assert_eq!(member.poll(now), None);
    let later = member.wake_at().unwrap();
    assert!(
        matches!(member.poll(later), Some(Action::Ask(Ask::Join { member_id, .. })) if member_id == "m-1")
    );
}

#[test]
fn heartbeats_go_out_each_interval_whatever_the_application_does() {
    let now = Instant::now();
    let mut member = eager(now);
    enter(&mut member, now, 1, &[0, 1]);
    assert_eq!(
        member.poll(now),
        Some(Action::Take(NewlyOwned { added: vec![tp(0), tp(1)], all: vec![tp(0), tp(1)] }))
    );
    for beat in 1..20u32 {
        let at = now + INTERVAL * beat;
        assert_eq!(member.wake_at(), Some(at));
        assert_eq!(member.poll(at), Some(Action::Ask(Ask::Heartbeat(identity("m", 1)))));
        assert_eq!(member.poll(at), None);
        member.heartbeat_answered(at, 1, Ok(()));
    }
}

#[test]
fn an_eager_member_gives_everything_up_before_it_joins_again() {
    let now = Instant::now();
    let mut member = eager(now);
    enter(&mut member, now, 1, &[0, 1]);
    assert!(matches!(member.poll(now), Some(Action::Take(_))));
    member.heartbeat_answered(now, 1, Err(Failure::Refused(ErrorCode::RebalanceInProgress)));
    assert_eq!(member.poll(now), Some(Action::Release { what: vec![tp(0), tp(1)], lost: false }));
    assert_eq!(member.poll(now), None, "the application has not let go yet");
    let later = now + INTERVAL;
    assert_eq!(member.poll(later), Some(Action::Ask(Ask::Heartbeat(identity("m", 1)))), "alive meanwhile");
    member.released(later);
    assert!(matches!(member.poll(later), Some(Action::Ask(Ask::Join { member_id, .. })) if member_id == "m"));
}

#[test]
fn a_cooperative_member_keeps_reading_and_joins_again_after_a_revocation() {
    let now = Instant::now();
    let mut member = cooperative(now);
    enter(&mut member, now, 1, &[0, 1]);
    assert!(matches!(member.poll(now), Some(Action::Take(_))));
    member.heartbeat_answered(now, 1, Err(Failure::Refused(ErrorCode::RebalanceInProgress)));

    let Some(Action::Ask(Ask::Join { protocols, .. })) = member.poll(now) else { panic!("no release first") };
    let said = protocol::decode_subscription("m".into(), None, protocols[0].1.clone()).unwrap();
    assert_eq!((said.owned, said.generation), (vec![tp(0), tp(1)], Some(1)));

    member.joined(now, follower("m", 2, "cooperative-sticky"));
    assert!(matches!(member.poll(now), Some(Action::Ask(Ask::Sync { .. }))));
    member.synced(now, Ok(assignment(&[0])));
    assert_eq!(member.poll(now), Some(Action::Release { what: vec![tp(1)], lost: false }));
    assert_eq!(member.poll(now), None);
    member.released(now);
    assert_eq!(member.poll(now), Some(Action::Take(NewlyOwned { added: vec![], all: vec![tp(0)] })));
    let Some(Action::Ask(Ask::Join { protocols, .. })) = member.poll(now) else { panic!("no second join") };
    let said = protocol::decode_subscription("m".into(), None, protocols[0].1.clone()).unwrap();
    assert_eq!(said.owned, vec![tp(0)]);
}

#[test]
fn partitions_of_an_unknown_member_are_lost_not_revoked() {
    let now = Instant::now();
    let mut member = cooperative(now);
    enter(&mut member, now, 1, &[0]);
    assert!(matches!(member.poll(now), Some(Action::Take(_))));
    member.heartbeat_answered(now, 1, Err(Failure::Refused(ErrorCode::UnknownMemberId)));
    assert_eq!(member.poll(now), Some(Action::Release { what: vec![tp(0)], lost: true }));
    member.released(now);
    assert!(
        matches!(member.poll(now), Some(Action::Ask(Ask::Join { member_id, .. })) if member_id.is_empty())
    );
}

#[test]
fn a_heartbeat_answer_of_an_older_generation_is_ignored() {
    let now = Instant::now();
    let mut member = cooperative(now);
    enter(&mut member, now, 2, &[0]);
    assert!(matches!(member.poll(now), Some(Action::Take(_))));
    member.heartbeat_answered(now, 1, Err(Failure::Refused(ErrorCode::IllegalGeneration)));
    assert_eq!(member.poll(now), None);
}

#[test]
fn a_fenced_instance_is_the_end() {
    let now = Instant::now();
    let mut member = Membership::new(
        MembershipConfig { instance_id: Some("i".into()), ..config() },
        reading(RangeAssignor),
        now,
    );
    enter(&mut member, now, 1, &[0]);
    assert!(matches!(member.poll(now), Some(Action::Take(_))));
    member.heartbeat_answered(now, 1, Err(Failure::Refused(ErrorCode::FencedInstanceId)));
    assert_eq!(member.poll(now), Some(Action::Release { what: vec![tp(0)], lost: true }));
    let fenced = GroupError::Fenced { group: "g".into(), instance: "i".into() };
    assert_eq!(member.poll(now), Some(Action::Fail(fenced)));
    member.released(now);
    assert_eq!((member.poll(now + MAX_POLL), member.wake_at()), (None, None));
}

#[test]
fn a_member_whose_application_is_silent_leaves_and_comes_back_with_it() {
    let now = Instant::now();
    let mut member = eager(now);
    enter(&mut member, now, 1, &[0]);
    assert!(matches!(member.poll(now), Some(Action::Take(_))));
    let late = now + MAX_POLL;
    assert_eq!(member.poll(late), Some(Action::Release { what: vec![tp(0)], lost: true }));
    assert_eq!(member.poll(late), Some(Action::Ask(Ask::Leave(identity("m", 1)))));
    member.released(late);
    assert_eq!((member.poll(late), member.wake_at()), (None, None));
    member.polled(late + INTERVAL);
    assert!(matches!(member.poll(late + INTERVAL), Some(Action::Ask(Ask::Join { .. }))));
}

#[test]
fn close_leaves_the_group_unless_the_member_is_static() {
    for instance in [None, Some("i".to_owned())] {
        let now = Instant::now();
        let mut member = Membership::new(
            MembershipConfig { instance_id: instance.clone(), ..config() },
            reading(RangeAssignor),
            now,
        );
        enter(&mut member, now, 1, &[0]);
        assert!(matches!(member.poll(now), Some(Action::Take(_))));
        member.leave(GroupExit::Default);
        assert_eq!(member.poll(now), Some(Action::Release { what: vec![tp(0)], lost: false }));
        member.released(now);
        match member.poll(now) {
            Some(Action::Ask(Ask::Leave(_))) => assert_eq!(instance, None),
            None => assert!(instance.is_some()),
            other => panic!("{other:?}"),
        }
        assert!(member.has_left());
    }
}

/// Closing in the middle of a rebalance lost what was to be committed last: the generation was over, and nobody heard
/// of the next.
#[test]
fn a_member_that_closes_while_the_group_rebalances_gets_to_a_generation_to_commit_under() {
    let now = Instant::now();
    let mut member = cooperative(now);
    enter(&mut member, now, 1, &[0, 1]);
    assert!(matches!(member.poll(now), Some(Action::Take(_))));
    member.heartbeat_answered(now, 1, Err(Failure::Refused(ErrorCode::RebalanceInProgress)));
    assert!(matches!(member.poll(now), Some(Action::Ask(Ask::Join { .. }))));
    member.leave(GroupExit::Default);
    assert_eq!(member.poll(now), Some(Action::Release { what: vec![tp(0), tp(1)], lost: false }));
    member.joined(now, follower("m", 2, CooperativeStickyAssignor.name()));
    assert!(matches!(member.poll(now), Some(Action::Ask(Ask::Sync { .. }))));
    assert!(member.is_exchanging());
    member.synced(now, Ok(assignment(&[0])));
    assert_eq!(member.poll(now), None, "nothing is taken or released again");
    assert!(!member.is_exchanging());
    assert_eq!(member.identity(), identity("m", 2));
    assert_eq!(member.poll(now + INTERVAL), Some(Action::Ask(Ask::Heartbeat(identity("m", 2)))));
    member.released(now + INTERVAL);
    assert_eq!(member.poll(now + INTERVAL), Some(Action::Ask(Ask::Leave(identity("m", 2)))));
    assert!(member.has_left());
}

#[test]
fn an_unknown_member_that_is_closing_still_closes() {
    let now = Instant::now();
    let mut member = eager(now);
    enter(&mut member, now, 1, &[0]);
    assert!(matches!(member.poll(now), Some(Action::Take(_))));
    member.leave(GroupExit::Default);
    assert!(matches!(member.poll(now), Some(Action::Release { .. })));
    member.heartbeat_answered(now, 1, Err(Failure::Refused(ErrorCode::UnknownMemberId)));
    assert!(matches!(member.poll(now), Some(Action::Release { lost: true, .. })));
    member.released(now);
    assert_eq!(member.poll(now), None);
    assert!(member.has_left());
}

#[test]
fn the_leader_joins_again_when_a_topic_grows() {
    let now = Instant::now();
    let mut member = eager(now);
    lead(&mut member, now);
    assert_eq!(member.poll(now), Some(Action::Lead(vec![Arc::from("t")])));
    member.assign(Partitioning::default());
    let Some(Action::Ask(Ask::Sync { assignments, .. })) = member.poll(now) else { panic!() };
    member.synced(now, Ok(assignments[0].1.clone()));
    assert_eq!(member.poll(now), Some(Action::Take(NewlyOwned { added: vec![], all: vec![] })));
    assert_eq!(member.watched_topics(), [Arc::from("t")]);
    member.topics_changed(&partitioned(2));
    assert!(matches!(member.poll(now), Some(Action::Ask(Ask::Join { .. }))));
}

/// Takes a new member into generation 1, as the leader of itself.
fn lead(member: &mut Membership<Partitions>, now: Instant) {
    let Some(Action::Ask(Ask::Join { protocols, .. })) = member.poll(now) else { panic!() };
    let (name, metadata) = protocols[0].clone();
    member.joined(
        now,
        JoinAnswer::Joined(Joined {
            term: term("m", 1, "m", &name),
            skip_assignment: false,
            members: vec![("m".into(), None, metadata)],
        }),
    );
}

/// KIP-881. A broker that restarts is no reason to rebalance, a replica in another rack is.
#[test]
fn a_leader_joins_again_when_a_replica_turns_up_in_another_rack() {
    let now = Instant::now();
    for (rack, joins_again) in [(None, false), (Some("a"), true)] {
        let rack = rack.map(str::to_owned);
        let duty = Partitions::new(vec![Arc::new(RangeAssignor)], rack, Some(vec![Arc::from("t")]));
        let mut member = Membership::new(config(), duty, now);
        lead(&mut member, now);
        assert!(matches!(member.poll(now), Some(Action::Lead(_))));
        member.assign(partitioned_over(&["ab", "b"]));
        let Some(Action::Ask(Ask::Sync { assignments, .. })) = member.poll(now) else { panic!() };
        member.synced(now, Ok(assignments[0].1.clone()));
        assert!(matches!(member.poll(now), Some(Action::Take(_))));
        for unchanged in [&["ab", "b"], &["a", ""]] {
            member.topics_changed(&partitioned_over(unchanged));
            assert_eq!(member.poll(now), None, "{unchanged:?}");
        }
        member.topics_changed(&partitioned_over(&["ab", "a"]));
        assert_eq!(member.poll(now).is_some(), joins_again);
    }
}

/// A coordinator as Kafka's, reduced to what members can see.
#[derive(Default)]
struct Coordinator {
    generation: i32,
    next_id: u32,
    pending_ids: BTreeSet<String>,
    members: BTreeMap<String, Seat>,
    rebalancing: bool,
    leader: String,
    assignments: Option<BTreeMap<String, Bytes>>,
}

struct Seat {
    protocol: (String, Bytes),
    seen_at: Instant,
    /// Waiting in JoinGroup.
    joined: bool,
}

impl Coordinator {
    fn join(
        &mut self,
        member_id: String,
        protocol: (String, Bytes),
        now: Instant,
    ) -> Result<String, JoinAnswer> {
        if member_id.is_empty() {
            self.next_id += 1;
            let id = format!("m{}", self.next_id);
            self.pending_ids.insert(id.clone());
            return Err(JoinAnswer::MemberIdRequired(id));
        }
        if !self.pending_ids.remove(&member_id) && !self.members.contains_key(&member_id) {
            return Err(JoinAnswer::Failed(Failure::Refused(ErrorCode::UnknownMemberId)));
        }
        self.members.insert(member_id.clone(), Seat { protocol, seen_at: now, joined: true });
        self.rebalancing = true;
        Ok(member_id)
    }

    /// Ends the join phase once everyone is there.
    fn complete_join(&mut self, now: Instant) -> Option<BTreeMap<String, JoinAnswer>> {
        let before = self.members.len();
        self.members.retain(|_, seat| seat.joined || now < seat.seen_at + SESSION);
        self.rebalancing |= self.members.len() < before;
        if !self.rebalancing || self.members.is_empty() || !self.members.values().all(|seat| seat.joined) {
            return None;
        }
        self.rebalancing = false;
        self.generation += 1;
        self.assignments = None;
        self.leader = self.members.keys().next().unwrap().clone();
        let everyone: Vec<_> =
            self.members.iter().map(|(id, seat)| (id.clone(), None, seat.protocol.1.clone())).collect();
        let mut answers = BTreeMap::new();
        for (id, seat) in &mut self.members {
            seat.joined = false;
            seat.seen_at = now;
            let members = if *id == self.leader { everyone.clone() } else { Vec::new() };
            answers.insert(
                id.clone(),
                JoinAnswer::Joined(Joined {
                    term: term(id, self.generation, &self.leader, &seat.protocol.0),
                    skip_assignment: false,
                    members,
                }),
            );
        }
        Some(answers)
    }

    fn check(&mut self, identity: &Identity, now: Instant) -> Result<(), Failure> {
        let seat =
            self.members.get_mut(&identity.member_id).ok_or(Failure::Refused(ErrorCode::UnknownMemberId))?;
        seat.seen_at = now;
        if self.rebalancing {
            return Err(Failure::Refused(ErrorCode::RebalanceInProgress));
        }
        if identity.generation != self.generation {
            return Err(Failure::Refused(ErrorCode::IllegalGeneration));
        }
        Ok(())
    }
}

/// One consumer process of the simulation.
struct Process {
    member: Membership<Partitions>,
    holds: BTreeSet<TopicPartition>,
    joining_as: Option<String>,
    syncing: Option<Identity>,
    release_at: Option<(Instant, Vec<TopicPartition>, bool)>,
    /// So many answers do not reach it, although the coordinator does what was asked.
    answers_to_lose: u32,
    alive: bool,
}

impl Process {
    fn loses_answer(&mut self) -> bool {
        let loses = self.answers_to_lose > 0;
        self.answers_to_lose = self.answers_to_lose.saturating_sub(1);
        loses
    }
}

#[derive(Debug, Clone)]
enum Shock {
    Start,
    Close(usize),
    Crash(usize),
    Grow,
    ForgetMember(usize),
    LoseAnswers(usize, u32),
    Wait(u64),
}

fn any_shock() -> impl Strategy<Value = Shock> {
    prop_oneof![
        3 => Just(Shock::Start),
        1 => (0..6usize).prop_map(Shock::Close),
        1 => (0..6usize).prop_map(Shock::Crash),
        1 => Just(Shock::Grow),
        1 => (0..6usize).prop_map(Shock::ForgetMember),
        2 => (0..6usize, 1..6u32).prop_map(|(process, answers)| Shock::LoseAnswers(process, answers)),
        4 => (1..40u64).prop_map(Shock::Wait),
    ]
}

struct World {
    now: Instant,
    coordinator: Coordinator,
    processes: Vec<Process>,
    partitions: i32,
    assignor: Arc<dyn Assignor>,
    release_delay: Duration,
}

impl World {
    fn apply(&mut self, shock: &Shock) {
        let now = self.now;
        match shock {
            Shock::Start if self.processes.len() < 6 => self.processes.push(Process {
                member: Membership::new(
                    config(),
                    Partitions::new(vec![Arc::clone(&self.assignor)], None, Some(vec![Arc::from("t")])),
                    now,
                ),
                holds: BTreeSet::new(),
                joining_as: None,
                syncing: None,
                release_at: None,
                answers_to_lose: 0,
                alive: true,
            }),
            Shock::Start => {}
            Shock::Close(i) => {
                if let Some(process) = self.processes.get_mut(*i) {
                    process.member.leave(GroupExit::Default);
                }
            }
            Shock::Crash(i) => {
                if let Some(process) = self.processes.get_mut(*i) {
                    process.alive = false;
                    process.holds.clear();
                }
            }
            Shock::Grow => self.partitions += 1,
            Shock::ForgetMember(i) => {
                if let Some(process) = self.processes.get_mut(*i) {
                    let id = process.member.identity().member_id;
                    // Its session ended; the others rebalance, and it does not know yet.
                    if self.coordinator.members.remove(&id).is_some() {
                        self.coordinator.rebalancing = true;
                    }
                    if process.joining_as.take().is_some() {
                        let unknown = Failure::Refused(ErrorCode::UnknownMemberId);
                        process.member.joined(now, JoinAnswer::Failed(unknown));
                    }
                }
            }
            Shock::LoseAnswers(i, answers) => {
                if let Some(process) = self.processes.get_mut(*i) {
                    process.answers_to_lose += answers;
                }
            }
            Shock::Wait(seconds) => {
                for _ in 0..*seconds * 2 {
                    self.now += Duration::from_millis(500);
                    self.turn();
                }
            }
        }
        self.turn();
    }

    fn topics(&self) -> Partitioning {
        partitioned(self.partitions)
    }

    /// Everything that can happen at `now`.
    fn turn(&mut self) {
        let now = self.now;
        loop {
            let mut busy = false;
            for index in 0..self.processes.len() {
                busy |= self.run(index);
            }
            if let Some(answers) = self.coordinator.complete_join(now) {
                busy = true;
                for process in self.processes.iter_mut().filter(|process| process.alive) {
                    if let Some(answer) = process.joining_as.as_ref().and_then(|id| answers.get(id)) {
                        process.joining_as = None;
                        let is_lost = process.loses_answer();
                        let lost = JoinAnswer::Failed(Failure::Unanswered);
                        process.member.joined(now, if is_lost { lost } else { answer.clone() });
                    }
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn run(&mut self, index: usize) -> bool {
        let (now, topics) = (self.now, self.topics());
        let process = &mut self.processes[index];
        if !process.alive {
            return false;
        }
        let member = &mut process.member;
        member.polled(now);
        member.topics_changed(&topics);
        let mut busy = false;
        if let Some((_, partitions, _)) = process.release_at.take_if(|(at, _, _)| *at <= now) {
            for partition in &partitions {
                process.holds.remove(partition);
            }
            member.released(now);
            busy = true;
        }
        if let Some(identity) = &process.syncing {
            let answer = match self.coordinator.check(identity, now) {
                Ok(()) => self
                    .coordinator
                    .assignments
                    .as_ref()
                    .map(|all| Ok(all.get(&identity.member_id).cloned().unwrap_or_default())),
                Err(failure) => Some(Err(failure)),
            };
            if let Some(answer) = answer {
                process.syncing = None;
                let answer = if process.loses_answer() { Err(Failure::Unanswered) } else { answer };
                process.member.synced(now, answer);
                busy = true;
            }
        }
        while let Some(action) = process.member.poll(now) {
            busy = true;
            match action {
                Action::Ask(Ask::Join { member_id, protocols, .. }) => {
                    match self.coordinator.join(member_id, protocols[0].clone(), now) {
                        Ok(id) => process.joining_as = Some(id),
                        Err(_) if process.loses_answer() => {
                            process.member.joined(now, JoinAnswer::Failed(Failure::Unanswered));
                        }
                        Err(answer) => process.member.joined(now, answer),
                    }
                }
                Action::Lead(_) => process.member.assign(topics.clone()),
                Action::Ask(Ask::Sync { identity, assignments, .. }) => {
                    if identity.member_id == self.coordinator.leader
                        && self.coordinator.check(&identity, now).is_ok()
                    {
                        self.coordinator.assignments = Some(assignments.into_iter().collect());
                    }
                    process.syncing = Some(identity);
                }
                Action::Ask(Ask::Heartbeat(identity)) => {
                    let mut answer = self.coordinator.check(&identity, now);
                    if process.loses_answer() {
                        answer = Err(Failure::Unanswered);
                    }
                    process.member.heartbeat_answered(now, identity.generation, answer);
                }
                Action::Ask(Ask::Leave(identity)) => {
                    if self.coordinator.members.remove(&identity.member_id).is_some() {
                        self.coordinator.rebalancing = true;
                    }
                }
                Action::ForgetCoordinator => {}
                Action::Release { what: partitions, lost } => {
                    if lost {
                        // The real shell drops them at once: no one waits for an application that lost them.
                        process.holds.clear();
                        process.release_at = Some((now, partitions, lost));
                    } else {
                        process.release_at = Some((now + self.release_delay, partitions, lost));
                    }
                }
                Action::Take(NewlyOwned { all, .. }) => process.holds = all.into_iter().collect(),
                Action::Fail(error) => panic!("{error}"),
            }
        }
        busy
    }

    /// Members the coordinator counts on never hold the same partition.
    fn check_no_overlap(&self) -> Result<(), TestCaseError> {
        let mut seen = BTreeSet::new();
        for process in self.processes.iter().filter(|process| process.alive) {
            let id = process.member.identity().member_id;
            if self.coordinator.members.contains_key(&id) {
                for partition in &process.holds {
                    prop_assert!(seen.insert(partition.clone()), "two members hold {partition}");
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn members_share_all_partitions_and_never_overlap(
        shocks in prop::collection::vec(any_shock(), 1..25),
        cooperative in any::<bool>(),
        release_delay in 0..8u64,
    ) {
        let assignor: Arc<dyn Assignor> =
            if cooperative { Arc::new(CooperativeStickyAssignor) } else { Arc::new(RangeAssignor) };
        let mut world = World {
            now: Instant::now(),
            coordinator: Coordinator::default(),
            processes: Vec::new(),
            partitions: 5,
            assignor,
            release_delay: Duration::from_secs(release_delay),
        };
        for shock in &shocks {
            world.apply(shock);
            world.check_no_overlap()?;
        }
        // Quiet at last: crashed sessions end and the rest settles.
        for _ in 0..6 {
            world.apply(&Shock::Wait(60));
            world.check_no_overlap()?;
        }
        let live: Vec<_> = world.processes.iter().filter(|p| p.alive && !p.member.has_left()).collect();
        if !live.is_empty() {
            let held: BTreeSet<_> = live.iter().flat_map(|process| process.holds.iter().cloned()).collect();
            prop_assert_eq!(held.len(), world.partitions as usize, "all partitions are read again");
            let loads: Vec<usize> = live.iter().map(|process| process.holds.len()).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
        }
    }
}
