//! The KIP-848 member on virtual time: alone against scripted answers, and many against a model coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::{ErrorCode, Uuid};
use proptest::prelude::*;
use tokio::time::Instant;

use super::GroupError;
use super::consumer::{
    Action, Beat, BeatAnswer, ConsumerMembership, ConsumerMembershipConfig, News, PartitionId,
};
use super::member::{Failure, GroupExit, Identity, Topics};
use crate::TopicPartition;

const INTERVAL: Duration = Duration::from_secs(5);
const SESSION: Duration = Duration::from_secs(45);
const MAX_POLL: Duration = Duration::from_secs(300);
const TOPIC: Uuid = Uuid::from_u128(1);

fn config() -> ConsumerMembershipConfig {
    ConsumerMembershipConfig {
        group: "g".into(),
        member_id: "m".into(),
        instance_id: None,
        rack: Some("r".into()),
        assignor: Some("range".into()),
        max_poll_interval: MAX_POLL,
    }
}

fn named(topics: &[&str]) -> Topics {
    Topics::Named(topics.iter().map(|topic| Arc::from(*topic)).collect())
}

fn member(now: Instant) -> ConsumerMembership {
    ConsumerMembership::new(config(), named(&["t"]), now)
}

fn name_of(id: Uuid) -> Option<Arc<str>> {
    (id == TOPIC).then(|| Arc::from("t"))
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn ids(partitions: &[i32]) -> Vec<PartitionId> {
    partitions.iter().map(|partition| (TOPIC, *partition)).collect()
}

fn told(epoch: i32, partitions: &[i32]) -> BeatAnswer {
    BeatAnswer { epoch, interval: INTERVAL, assignment: Some(ids(partitions)) }
}

fn nothing_new(epoch: i32) -> BeatAnswer {
    BeatAnswer { epoch, interval: INTERVAL, assignment: None }
}

fn refused(code: ErrorCode) -> Failure {
    Failure::Refused(code)
}

#[track_caller]
fn beat(member: &mut ConsumerMembership, now: Instant) -> Beat {
    match member.poll(now) {
        Some(Action::Heartbeat(beat)) => beat,
        other => panic!("no heartbeat but {other:?}"),
    }
}

#[track_caller]
fn quiet(member: &mut ConsumerMembership, now: Instant) {
    assert_eq!(member.poll(now), None);
}

/// Takes a new member into the group with these partitions, up to the heartbeat that says so.
#[track_caller]
fn enter(member: &mut ConsumerMembership, now: Instant, epoch: i32, partitions: &[i32]) {
    let joining = beat(member, now);
    assert_eq!(joining.identity.generation, 0);
    member.answered(now, joining.number, told(epoch, partitions));
    member.named(now, false, name_of);
    if partitions.is_empty() {
        return;
    }
    let added = partitions.iter().copied().map(tp).collect();
    assert_eq!(member.poll(now), Some(Action::Assign { added }));
    quiet(member, now);
    member.assigned(now);
    let acknowledgement = beat(member, now);
    assert_eq!(acknowledgement.news, News { owned: Some(ids(partitions)), ..News::default() });
    member.answered(now, acknowledgement.number, nothing_new(epoch));
    quiet(member, now);
}

#[test]
fn a_member_joins_with_all_it_has_to_say_and_later_says_only_what_changed() {
    let now = Instant::now();
    let mut member = member(now);
    let joining = beat(&mut member, now);
    assert_eq!(joining.identity, Identity { generation: 0, member_id: "m".into(), instance_id: None });
    assert_eq!(
        joining.news,
        News {
            rack: Some("r".into()),
            rebalance_timeout: Some(MAX_POLL),
            topics: Some(vec![Arc::from("t")]),
            pattern: None,
            assignor: Some("range".into()),
            owned: Some(Vec::new()),
        }
    );
    quiet(&mut member, now);
    member.answered(now, joining.number, told(3, &[]));
    quiet(&mut member, now);
    assert_eq!(member.wake_at(), Some(now + INTERVAL));
    assert_eq!(member.identity().generation, 3);
    let later = now + INTERVAL;
    assert_eq!(beat(&mut member, later).news, News::default());
}

#[test]
fn what_came_is_acknowledged_only_after_the_application_has_it() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[0, 1]);
}

#[test]
fn what_goes_is_given_up_before_anything_comes_and_before_the_coordinator_hears_it() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[0, 1]);
    let at = now + INTERVAL;
    let due = beat(&mut member, at);
    member.answered(at, due.number, told(2, &[1, 2]));
    member.named(at, false, name_of);
    assert_eq!(member.poll(at), Some(Action::Release { partitions: vec![tp(0)], lost: false }));
    assert_eq!(member.identity().generation, 2, "commits before the revocation carry the new epoch");
    // The application takes its time; heartbeats go on, and do not say that anything was given up.
    let later = at + INTERVAL;
    let meanwhile = beat(&mut member, later);
    assert_eq!(meanwhile.news, News::default());
    member.answered(later, meanwhile.number, nothing_new(2));
    member.released(later);
    assert_eq!(member.poll(later), Some(Action::Assign { added: vec![tp(2)] }));
    quiet(&mut member, later);
    member.assigned(later);
    assert_eq!(beat(&mut member, later).news.owned, Some(ids(&[1, 2])));
}

#[test]
fn a_newer_assignment_is_taken_up_after_the_step_under_way() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[0]);
    let at = now + INTERVAL;
    let due = beat(&mut member, at);
    member.answered(at, due.number, told(2, &[]));
    assert!(matches!(member.poll(at), Some(Action::Release { .. })));
    let later = at + INTERVAL;
    let due = beat(&mut member, later);
    member.answered(later, due.number, told(3, &[0, 1]));
    member.named(later, false, name_of);
    member.released(later);
    assert_eq!(member.poll(later), Some(Action::Assign { added: vec![tp(0), tp(1)] }));
}

#[test]
fn a_topic_without_a_name_is_asked_about_and_does_not_hold_up_the_others() {
    let now = Instant::now();
    let mut member = member(now);
    let joining = beat(&mut member, now);
    let unknown = Uuid::from_u128(2);
    let assignment = Some(vec![(TOPIC, 0), (unknown, 0)]);
    member.answered(now, joining.number, BeatAnswer { epoch: 1, interval: INTERVAL, assignment });
    member.named(now, false, name_of);
    assert_eq!(member.poll(now), Some(Action::NameTopics));
    assert_eq!(member.poll(now), Some(Action::Assign { added: vec![tp(0)] }));
    member.named(now, true, name_of);
    member.assigned(now);
    assert_eq!(beat(&mut member, now).news.owned, Some(ids(&[0])));
    quiet(&mut member, now);
    let again = member.wake_at().unwrap();
    assert!(again > now, "not without a pause");
    assert_eq!(member.poll(again), Some(Action::NameTopics));
    member.named(again, true, |id| if id == unknown { Some(Arc::from("u")) } else { name_of(id) });
    assert_eq!(member.poll(again), Some(Action::Assign { added: vec![TopicPartition::new("u", 0)] }));
}

/// The coordinator gave a partition and took it back before the member knew its topic's name: it waits to hear that the
/// member does not have it.
#[test]
fn an_assignment_that_takes_no_step_is_acknowledged_too() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[0]);
    let at = now + INTERVAL;
    let due = beat(&mut member, at);
    let assignment = Some(vec![(TOPIC, 0), (Uuid::from_u128(2), 0)]);
    member.answered(at, due.number, BeatAnswer { epoch: 2, interval: INTERVAL, assignment });
    assert_eq!(member.poll(at), Some(Action::NameTopics));
    let first = beat(&mut member, at);
    assert_eq!(first.news.owned, Some(ids(&[0])));
    member.answered(at, first.number, told(2, &[0]));
    assert_eq!(beat(&mut member, at).news.owned, Some(ids(&[0])));
}

#[test]
fn a_topic_made_anew_is_another_topic() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[0]);
    let at = now + INTERVAL;
    let due = beat(&mut member, at);
    let anew = Uuid::from_u128(9);
    let assignment = Some(vec![(anew, 0)]);
    member.answered(at, due.number, BeatAnswer { epoch: 2, interval: INTERVAL, assignment });
    member.named(at, false, |_| Some(Arc::from("t")));
    assert_eq!(member.poll(at), Some(Action::Release { partitions: vec![tp(0)], lost: false }));
    member.released(at);
    assert_eq!(member.poll(at), Some(Action::Assign { added: vec![tp(0)] }));
}

#[test]
fn after_an_answer_that_did_not_come_everything_is_said_again() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[0]);
    let at = now + INTERVAL;
    let lost = beat(&mut member, at);
    member.failed(at, lost.number, Failure::Unanswered);
    assert_eq!(member.poll(at), Some(Action::ForgetCoordinator));
    quiet(&mut member, at);
    let retry_at = member.wake_at().unwrap();
    let retry = beat(&mut member, retry_at);
    assert_eq!(retry.identity.generation, 1);
    assert_eq!(retry.news.owned, Some(ids(&[0])));
    assert!(retry.news.topics.is_some() && retry.news.rebalance_timeout.is_some());
    // The first answer turns up after all: too late.
    member.answered(retry_at, lost.number, told(7, &[]));
    assert_eq!(member.identity().generation, 1);
}

#[test]
fn a_fenced_member_loses_its_partitions_and_joins_again_under_its_id() {
    for code in [ErrorCode::FencedMemberEpoch, ErrorCode::UnknownMemberId, ErrorCode::GroupIdNotFound] {
        let now = Instant::now();
        let mut member = member(now);
        enter(&mut member, now, 4, &[0]);
        let at = now + INTERVAL;
        let due = beat(&mut member, at);
        member.failed(at, due.number, refused(code));
        assert_eq!(member.poll(at), Some(Action::Release { partitions: vec![tp(0)], lost: true }));
        assert_eq!(member.identity().generation, -1, "nothing can be committed");
        member.released(at);
        let again = member.wake_at().unwrap();
        let joining = beat(&mut member, again);
        assert_eq!((joining.identity.generation, joining.identity.member_id.as_str()), (0, "m"));
        assert_eq!(joining.news.owned, Some(Vec::new()));
    }
}

#[test]
fn a_member_that_is_fenced_while_it_gives_up_partitions_has_lost_them() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[0, 1]);
    let at = now + INTERVAL;
    let due = beat(&mut member, at);
    member.answered(at, due.number, told(2, &[1]));
    assert_eq!(member.poll(at), Some(Action::Release { partitions: vec![tp(0)], lost: false }));
    let later = at + INTERVAL;
    let due = beat(&mut member, later);
    member.failed(later, due.number, refused(ErrorCode::FencedMemberEpoch));
    assert_eq!(member.poll(later), Some(Action::Release { partitions: vec![tp(0), tp(1)], lost: true }));
}

#[test]
fn an_instance_that_is_in_use_or_fenced_is_the_end() {
    for (code, error) in [
        (
            ErrorCode::UnreleasedInstanceId,
            GroupError::InstanceInUse { group: "g".into(), instance: "i".into() },
        ),
        (ErrorCode::FencedInstanceId, GroupError::Fenced { group: "g".into(), instance: "i".into() }),
        (
            ErrorCode::UnsupportedAssignor,
            GroupError::Refused { group: "g".into(), code: ErrorCode::UnsupportedAssignor },
        ),
    ] {
        let now = Instant::now();
        let config = ConsumerMembershipConfig { instance_id: Some("i".into()), ..config() };
        let mut member = ConsumerMembership::new(config, named(&["t"]), now);
        let joining = beat(&mut member, now);
        member.failed(now, joining.number, refused(code));
        assert_eq!(member.poll(now), Some(Action::Release { partitions: Vec::new(), lost: true }));
        assert_eq!(member.poll(now), Some(Action::Fail(error)));
        member.released(now);
        quiet(&mut member, now);
        assert!(member.has_left());
    }
}

#[test]
fn a_coordinator_without_the_protocol_is_reported_before_anything_is_joined() {
    for code in [ErrorCode::UnsupportedVersion, ErrorCode::GroupIdNotFound] {
        let now = Instant::now();
        let mut member = member(now);
        let joining = beat(&mut member, now);
        member.failed(now, joining.number, refused(code));
        assert_eq!(member.poll(now), Some(Action::Unsupported(code)));
        quiet(&mut member, now);
    }
}

#[test]
fn closing_says_goodbye_as_the_member_is_and_as_it_was_asked_to() {
    for (instance, exit, epoch) in [
        (None, GroupExit::Default, Some(-1)),
        (None, GroupExit::Remain, None),
        (Some("i"), GroupExit::Default, Some(-2)),
        (Some("i"), GroupExit::Remain, Some(-2)),
        (Some("i"), GroupExit::Leave, Some(-1)),
    ] {
        let now = Instant::now();
        let config = ConsumerMembershipConfig { instance_id: instance.map(Into::into), ..config() };
        let mut member = ConsumerMembership::new(config, named(&["t"]), now);
        enter(&mut member, now, 1, &[0]);
        member.leave(exit);
        assert_eq!(member.poll(now), Some(Action::Release { partitions: vec![tp(0)], lost: false }));
        assert_eq!(beat(&mut member, now + INTERVAL).identity.generation, 1, "alive while it commits");
        member.released(now + INTERVAL);
        let goodbye = match member.poll(now + INTERVAL) {
            Some(Action::Leave(identity)) => Some(identity.generation),
            None => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(goodbye, epoch, "{instance:?} {exit:?}");
        assert!(member.has_left());
    }
}

#[test]
fn a_member_whose_application_is_silent_leaves_and_comes_back_with_it() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[0]);
    let mut at = now;
    while at + INTERVAL < now + MAX_POLL {
        at += INTERVAL;
        let due = beat(&mut member, at);
        member.answered(at, due.number, nothing_new(1));
    }
    let late = now + MAX_POLL;
    assert_eq!(member.poll(late), Some(Action::Release { partitions: vec![tp(0)], lost: true }));
    assert!(matches!(member.poll(late), Some(Action::Leave(identity)) if identity.generation == -1));
    member.released(late);
    quiet(&mut member, late + MAX_POLL);
    let back = late + MAX_POLL * 2;
    member.polled(back);
    quiet(&mut member, back);
    member.left();
    assert_eq!(beat(&mut member, back).identity.generation, 0);
}

/// A heartbeat that was lost makes the next one tell everything. One that left out what was being taken over let the
/// coordinator give it to another member at once.
#[test]
fn what_is_being_taken_over_is_told_as_owned() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[]);
    let at = now + INTERVAL;
    let lost = beat(&mut member, at);
    member.answered(at, lost.number, BeatAnswer { assignment: Some(vec![(TOPIC, 0)]), ..nothing_new(1) });
    member.named(at, false, name_of);
    assert!(matches!(member.poll(at), Some(Action::Assign { .. })));
    let late = at + INTERVAL;
    let lost = beat(&mut member, late);
    member.failed(late, lost.number, Failure::Unanswered);
    assert_eq!(member.poll(late), Some(Action::ForgetCoordinator));
    let again = beat(&mut member, late + INTERVAL);
    assert_eq!(again.news.owned, Some(vec![(TOPIC, 0)]));
}

#[test]
fn a_subscription_that_changes_is_told_at_once() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[]);
    quiet(&mut member, now);
    let at = now + Duration::from_secs(1);
    member.subscribe(Topics::Matching(Arc::from("t.*")), at);
    let news = beat(&mut member, at);
    assert_eq!((news.news.topics, news.news.pattern), (Some(Vec::new()), Some(Arc::from("t.*"))));
    // Once more before the answer: told right after it.
    member.subscribe(named(&["u"]), at);
    quiet(&mut member, at);
    member.answered(at, news.number, nothing_new(2));
    let news = beat(&mut member, at).news;
    assert_eq!((news.topics, news.pattern), (Some(vec![Arc::from("u")]), Some(Arc::from(""))));
}

#[test]
fn a_commit_under_a_stale_epoch_asks_for_the_new_one_at_once() {
    let now = Instant::now();
    let mut member = member(now);
    enter(&mut member, now, 1, &[0]);
    let at = now + Duration::from_secs(1);
    member.commit_refused(at, 1, ErrorCode::StaleMemberEpoch);
    let asked = beat(&mut member, at);
    member.answered(at, asked.number, nothing_new(2));
    assert_eq!(member.identity().generation, 2);
    member.commit_refused(at, 1, ErrorCode::StaleMemberEpoch);
    quiet(&mut member, at);
}

// ---- many members against a model

/// A coordinator as Kafka's, reduced to what members can see: it takes a partition from one member before it gives it
/// to another (`CurrentAssignmentBuilder`).
#[derive(Default)]
struct Coordinator {
    group_epoch: i32,
    partitions: i32,
    members: BTreeMap<String, Seat>,
}

struct Seat {
    epoch: i32,
    previous_epoch: i32,
    /// Told to have.
    assigned: BTreeSet<i32>,
    /// Told to give up, and not heard to have done.
    revoking: BTreeSet<i32>,
    seen_at: Instant,
}

impl Coordinator {
    fn targets(&self) -> BTreeMap<String, BTreeSet<i32>> {
        let mut targets: BTreeMap<String, BTreeSet<i32>> =
            self.members.keys().map(|id| (id.clone(), BTreeSet::new())).collect();
        let ids: Vec<String> = targets.keys().cloned().collect();
        for (partition, id) in (0..self.partitions).zip(ids.iter().cycle()) {
            targets.get_mut(id).unwrap().insert(partition);
        }
        targets
    }

    fn expire(&mut self, now: Instant) {
        let before = self.members.len();
        self.members.retain(|_, seat| now < seat.seen_at + SESSION);
        if self.members.len() < before {
            self.group_epoch += 1;
        }
    }

    fn leave(&mut self, id: &str) {
        if self.members.remove(id).is_some() {
            self.group_epoch += 1;
        }
    }

    fn heartbeat(&mut self, beat: &Beat, now: Instant) -> Result<BeatAnswer, Failure> {
        let id = &beat.identity.member_id;
        let joining = beat.identity.generation == 0;
        if joining {
            self.group_epoch += 1;
            let seat = Seat {
                epoch: 0,
                previous_epoch: -1,
                assigned: BTreeSet::new(),
                revoking: BTreeSet::new(),
                seen_at: now,
            };
            self.members.insert(id.clone(), seat);
        }
        let targets = self.targets();
        let held_by_others: BTreeSet<i32> = self
            .members
            .iter()
            .filter(|(other, _)| *other != id)
            .flat_map(|(_, seat)| seat.assigned.union(&seat.revoking).copied().collect::<Vec<_>>())
            .collect();
        let Some(seat) = self.members.get_mut(id) else {
            return Err(refused(ErrorCode::UnknownMemberId));
        };
        let owned: Option<BTreeSet<i32>> =
            beat.news.owned.as_ref().map(|owned| owned.iter().map(|(_, partition)| *partition).collect());
        let epoch = beat.identity.generation;
        let is_behind = epoch == seat.previous_epoch
            && owned.as_ref().is_some_and(|owned| owned.is_subset(&seat.assigned));
        if !joining && epoch != seat.epoch && !is_behind {
            return Err(refused(ErrorCode::FencedMemberEpoch));
        }
        seat.seen_at = now;
        let before = (seat.epoch, seat.assigned.clone());
        if let Some(owned) = &owned
            && owned.is_disjoint(&seat.revoking)
        {
            seat.revoking.clear();
        }
        if seat.revoking.is_empty() {
            let target = &targets[id];
            let kept: BTreeSet<i32> = seat.assigned.intersection(target).copied().collect();
            let mut revoking: BTreeSet<i32> = seat.assigned.difference(target).copied().collect();
            if let Some(owned) = &owned {
                revoking.retain(|partition| owned.contains(partition));
            }
            if !revoking.is_empty() {
                seat.revoking = revoking;
                seat.assigned = kept;
            } else {
                seat.assigned = target.difference(&held_by_others).copied().chain(kept).collect();
                if seat.epoch != self.group_epoch {
                    seat.previous_epoch = seat.epoch;
                    seat.epoch = self.group_epoch;
                }
            }
        }
        let changed = before != (seat.epoch, seat.assigned.clone());
        let full = beat.news.rebalance_timeout.is_some();
        let assignment = (changed || full || joining)
            .then(|| seat.assigned.iter().map(|partition| (TOPIC, *partition)).collect());
        Ok(BeatAnswer { epoch: seat.epoch.max(1), interval: INTERVAL, assignment })
    }
}

struct Process {
    member: ConsumerMembership,
    holds: BTreeSet<TopicPartition>,
    /// The release or assignment that the application works on, and when it is done.
    step: Option<(Instant, Step)>,
    steps: Vec<Step>,
    /// Answers on their way, and when they arrive; `None` if they never do.
    answers: Vec<(Instant, u64, Result<BeatAnswer, Failure>)>,
    polls: bool,
    alive: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Release(Vec<TopicPartition>),
    Assign(Vec<TopicPartition>),
}

#[derive(Debug, Clone)]
enum Shock {
    Start,
    Close(usize),
    Crash(usize),
    Stall(usize),
    Wake(usize),
    Forget(usize),
    Grow,
    /// Answers get lost or late from now on, by this many in ten.
    Weather(u8),
    Wait(u64),
}

fn any_shock() -> impl Strategy<Value = Shock> {
    prop_oneof![
        3 => Just(Shock::Start),
        1 => (0..6usize).prop_map(Shock::Close),
        1 => (0..6usize).prop_map(Shock::Crash),
        1 => (0..6usize).prop_map(Shock::Stall),
        1 => (0..6usize).prop_map(Shock::Wake),
        1 => (0..6usize).prop_map(Shock::Forget),
        1 => Just(Shock::Grow),
        1 => (0..8u8).prop_map(Shock::Weather),
        6 => (1..60u64).prop_map(Shock::Wait),
    ]
}

struct World {
    now: Instant,
    coordinator: Coordinator,
    processes: Vec<Process>,
    step_takes: Duration,
    weather: u8,
    dice: u64,
}

impl World {
    fn roll(&mut self) -> u8 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.dice >> 33) % 10) as u8
    }

    fn apply(&mut self, shock: &Shock) {
        let now = self.now;
        let process = |world: &mut Self, i: usize, f: &dyn Fn(&mut Process)| {
            if let Some(process) = world.processes.get_mut(i) {
                f(process);
            }
        };
        match *shock {
            Shock::Start if self.processes.len() < 6 => {
                let config =
                    ConsumerMembershipConfig { member_id: format!("m{}", self.processes.len()), ..config() };
                self.processes.push(Process {
                    member: ConsumerMembership::new(config, named(&["t"]), now),
                    holds: BTreeSet::new(),
                    step: None,
                    steps: Vec::new(),
                    answers: Vec::new(),
                    polls: true,
                    alive: true,
                });
            }
            Shock::Start => {}
            Shock::Close(i) => process(self, i, &|process| process.member.leave(GroupExit::Default)),
            Shock::Crash(i) => process(self, i, &|process| {
                process.alive = false;
                process.holds.clear();
            }),
            Shock::Stall(i) => process(self, i, &|process| process.polls = false),
            Shock::Wake(i) => process(self, i, &|process| process.polls = true),
            Shock::Forget(i) => self.coordinator.leave(&format!("m{i}")),
            Shock::Grow => {
                self.coordinator.partitions += 1;
                self.coordinator.group_epoch += 1;
            }
            Shock::Weather(weather) => self.weather = weather,
            Shock::Wait(seconds) => {
                for _ in 0..seconds {
                    self.now += Duration::from_secs(1);
                    self.turn();
                }
            }
        }
        self.turn();
    }

    fn turn(&mut self) {
        self.coordinator.expire(self.now);
        for index in 0..self.processes.len() {
            while self.processes[index].alive && self.run(index) {}
        }
    }

    fn run(&mut self, index: usize) -> bool {
        let (now, dice) = (self.now, (self.roll(), self.roll()));
        let weather = self.weather;
        let process = &mut self.processes[index];
        let member = &mut process.member;
        if process.polls {
            member.polled(now);
        }
        let mut busy = false;
        if let Some(at) = process.answers.iter().position(|(at, ..)| *at <= now) {
            let (_, number, answer) = process.answers.remove(at);
            match answer {
                Ok(answer) => member.answered(now, number, answer),
                Err(failure) => member.failed(now, number, failure),
            }
            member.named(now, false, name_of);
            busy = true;
        }
        if let Some((_, step)) = process.step.take_if(|(at, _)| *at <= now) {
            busy = true;
            match step {
                Step::Release(partitions) => {
                    process.holds.retain(|held| !partitions.contains(held));
                    member.released(now);
                }
                Step::Assign(_) => member.assigned(now),
            }
        }
        if process.step.is_none() && !process.steps.is_empty() {
            busy = true;
            let step = process.steps.remove(0);
            if let Step::Assign(added) = &step {
                process.holds.extend(added.iter().cloned());
            }
            process.step = Some((now + self.step_takes, step));
        }
        let Some(action) = member.poll(now) else { return busy };
        match action {
            Action::Heartbeat(beat) => {
                // Lost on the way there, on the way back, or only late.
                let unhappy = dice.0 < weather;
                let answer = match (unhappy, dice.1 % 3) {
                    (true, 0) => Err(Failure::Unanswered),
                    (true, 1) => {
                        let _ = self.coordinator.heartbeat(&beat, now);
                        Err(Failure::Unanswered)
                    }
                    _ => self.coordinator.heartbeat(&beat, now),
                };
                let late = if unhappy { Duration::from_secs(3) } else { Duration::ZERO };
                process.answers.push((now + late, beat.number, answer));
            }
            Action::Leave(identity) => {
                self.coordinator.leave(&identity.member_id);
                member.left();
            }
            Action::ForgetCoordinator => {}
            Action::NameTopics => member.named(now, true, name_of),
            Action::Release { partitions, lost } => {
                process.steps.retain(|step| !matches!(step, Step::Release(_)));
                process.step.take_if(|(_, step)| matches!(step, Step::Release(_)));
                if lost {
                    process.holds.retain(|held| !partitions.contains(held));
                }
                process.steps.push(Step::Release(partitions));
            }
            Action::Assign { added } => process.steps.push(Step::Assign(added)),
            Action::Unsupported(code) => panic!("{code}"),
            Action::Fail(error) => panic!("{error}"),
        }
        true
    }

    /// Who holds what, and what the coordinator thinks.
    fn summary(&self) -> Vec<String> {
        let partitions = |set: &BTreeSet<TopicPartition>| set.iter().map(|p| p.partition).collect::<Vec<_>>();
        let members = self.processes.iter().map(|process| {
            let identity = process.member.identity();
            let seat = self.coordinator.members.get(&identity.member_id);
            let seat = seat.map(|seat| (seat.epoch, &seat.assigned, &seat.revoking));
            let (holds, steps) = (partitions(&process.holds), (&process.step, &process.steps));
            format!("{identity:?} alive {} holds {holds:?} seat {seat:?} steps {steps:?}", process.alive)
        });
        members.collect()
    }

    /// Members the coordinator counts on, and that know it, never hold the same partition.
    fn check_no_overlap(&self) -> Result<(), TestCaseError> {
        let mut seen = BTreeSet::new();
        for process in self.processes.iter().filter(|process| process.alive) {
            let identity = process.member.identity();
            let seat = self.coordinator.members.get(&identity.member_id);
            let knows =
                seat.is_some_and(|seat| [seat.epoch, seat.previous_epoch].contains(&identity.generation));
            if knows {
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
        shocks in prop::collection::vec(any_shock(), 1..30),
        step_takes in 0..8u64,
        dice in any::<u64>(),
    ) {
        let mut world = World {
            now: Instant::now(),
            coordinator: Coordinator { partitions: 5, ..Coordinator::default() },
            processes: Vec::new(),
            step_takes: Duration::from_secs(step_takes),
            weather: 0,
            dice,
        };
        for shock in &shocks {
            world.apply(shock);
            world.check_no_overlap()?;
        }
        // Quiet at last: crashed sessions end and the rest settles.
        world.apply(&Shock::Weather(0));
        for i in 0..6 {
            world.apply(&Shock::Wake(i));
        }
        for _ in 0..6 {
            world.apply(&Shock::Wait(60));
            world.check_no_overlap()?;
        }
        let live: Vec<_> = world.processes.iter().filter(|p| p.alive && !p.member.has_left()).collect();
        if !live.is_empty() {
            let held: BTreeSet<_> = live.iter().flat_map(|process| process.holds.iter().cloned()).collect();
            prop_assert_eq!(held.len(), world.coordinator.partitions as usize, "all partitions are read again: {:?}", world.summary());
        }
    }
}
