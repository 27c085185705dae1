//! The core alone, and against a coordinator that loses answers, fences and forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_wire::ErrorCode;
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::batch::Identity;
use super::super::error::SendError;
use super::core::{Ask, OffsetsJob, Previous, Reply, Told, Transactions, Version};
use super::{AbortCause, CommitError, CommitOffsetsError, FatalError, GroupMetadata, Outcome};
use crate::TopicPartition;
use crate::consumer::OffsetAndMetadata;

const ME: Identity = Identity { producer_id: 7, epoch: 3 };
const NEXT: Identity = Identity { producer_id: 7, epoch: 4 };
const SECOND: Duration = Duration::from_secs(1);

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn job(number: u64) -> OffsetsJob {
    let offsets = BTreeMap::from([(tp(0), OffsetAndMetadata::new(5))]);
    OffsetsJob { number, group: GroupMetadata::of_group("g"), offsets }
}

fn lost() -> SendError {
    SendError::Encode { reason: "no".to_owned() }
}

/// A transaction that is open.
fn open(version: Version) -> Transactions {
    let mut core = Transactions::new();
    core.speaks(version);
    core.begin();
    core.identified();
    assert!(matches!(told(&mut core)[..], [Told::Begun { previous: None, .. }]));
    core
}

fn told(core: &mut Transactions) -> Vec<Told> {
    core.take_told().collect()
}

fn ended(core: &mut Transactions) -> Result<Outcome, CommitError> {
    match told(core).pop() {
        Some(Told::Ended(result)) => result,
        other => panic!("{other:?}"),
    }
}

fn reply(core: &mut Transactions, reply: Reply) -> Option<Identity> {
    core.replied(Instant::now(), reply, |_| SECOND)
}

/// A transaction of which the coordinator has heard, closed.
fn closed(version: Version, commit: bool) -> Transactions {
    let mut core = open(version);
    core.sent();
    core.close(commit, true);
    core
}

#[tokio::test(start_paused = true)]
async fn before_kip_890_a_batch_waits_until_the_coordinator_knows_its_partition() {
    let (mut core, now) = (open(Version::V1), Instant::now());
    assert_eq!(core.poll(now, true), None);
    assert!(!core.may_send(&tp(0)) && !core.may_send(&tp(1)));
    assert_eq!(core.poll(now, false), Some(Ask::AddPartitions(BTreeSet::from([tp(0), tp(1)]))));
    assert_eq!(core.poll(now, false), None, "one request at a time");
    assert!(!core.may_send(&tp(2)), "comes while the others are being added");
    reply(&mut core, Reply::Done);
    assert!(core.may_send(&tp(0)) && core.may_send(&tp(1)) && !core.may_send(&tp(2)));
    assert_eq!(core.poll(now, false), Some(Ask::AddPartitions(BTreeSet::from([tp(2)]))));
    reply(&mut core, Reply::Done);
    core.close(true, true);
    assert_eq!(core.poll(now, false), None, "batches are on their way");
    assert_eq!(core.poll(now, true), Some(Ask::End { commit: true }));
    assert_eq!(reply(&mut core, Reply::Ended(None)), None);
    assert_eq!(ended(&mut core).unwrap(), Outcome::Committed);
    core.begin();
    core.identified();
    assert!(!core.may_send(&tp(0)), "another transaction knows nothing of it");
    let committed = Previous { serial: 1, outcome: Some(Outcome::Committed) };
    assert!(matches!(told(&mut core)[..], [Told::Begun { serial: 2, previous: Some(p) }] if p == committed));
}

#[tokio::test(start_paused = true)]
async fn since_kip_890_nothing_is_added_and_an_end_brings_the_next_identity() {
    let (mut core, now) = (open(Version::V2), Instant::now());
    assert!(core.may_send(&tp(0)));
    core.sent();
    core.commit_offsets(job(1));
    assert_eq!(core.poll(now, false), Some(Ask::CommitOffsets(job(1))));
    reply(&mut core, Reply::Done);
    assert!(matches!(told(&mut core)[..], [Told::Offsets { number: 1, result: Ok(()) }]));
    core.close(true, true);
    assert_eq!(core.poll(now, true), Some(Ask::End { commit: true }));
    assert_eq!(reply(&mut core, Reply::Ended(Some(NEXT))), Some(NEXT));
    assert_eq!(ended(&mut core).unwrap(), Outcome::Committed);
}

/// Found by the simulation: a time that had passed woke the producer's task at once, again and again, while there was
/// nothing to do: it took a whole core until the next event.
#[tokio::test(start_paused = true)]
async fn what_was_due_and_has_to_wait_for_something_else_wakes_nobody() {
    let later = |millis| Instant::now() + Duration::from_millis(millis);
    // Begun again at once, while the producer's new identity is long in coming: nobody polls the core meanwhile.
    let (mut core, now) = (closed(Version::V2, true), Instant::now());
    assert!(core.poll(now, true).is_some());
    reply(&mut core, Reply::Ended(Some(NEXT)));
    core.begin();
    assert_eq!(core.next_wake(now), Some(later(20)));
    assert_eq!(core.next_wake(later(20)), None);

    // Told "not yet" just before it need not ask any more, and then nothing is sent.
    core.identified();
    assert_eq!(core.poll(later(19), true), Some(Ask::IsOver));
    core.replied(later(19), Reply::Refused(ErrorCode::ConcurrentTransactions), |_| SECOND);
    assert_eq!(core.poll(later(20), true), None);
    assert_eq!(core.next_wake(later(20)), None);

    // Offsets are to be committed again after a second, and a record's failure makes that needless.
    let mut core = open(Version::V2);
    core.commit_offsets(job(1));
    assert!(core.poll(now, true).is_some());
    reply(&mut core, Reply::Refused(ErrorCode::CoordinatorLoadInProgress));
    assert_eq!(core.next_wake(now), Some(now + SECOND));
    core.failed(&lost());
    assert_eq!(core.poll(now, true), None);
    assert!(
        matches!(told(&mut core)[..], [Told::Offsets { number: 1, result: Err(_) }]),
        "or its caller waits"
    );
    assert_eq!(core.poll(now + SECOND, true), None);
    assert_eq!(core.next_wake(now + SECOND), None);
}

#[tokio::test(start_paused = true)]
async fn who_begins_again_at_once_asks_whether_the_transaction_before_is_over() {
    let begin_again = |after: Duration| {
        let (mut core, now) = (closed(Version::V2, true), Instant::now());
        assert!(core.poll(now, true).is_some());
        reply(&mut core, Reply::Ended(Some(NEXT)));
        core.begin();
        core.identified();
        let ask = core.poll(now + after, false);
        (core, now, ask)
    };
    let (mut core, now, ask) = begin_again(Duration::from_millis(1));
    assert_eq!(ask, Some(Ask::IsOver));
    assert!(!core.may_send(&tp(0)), "its leader would hold it back");
    core.replied(now, Reply::Refused(ErrorCode::ConcurrentTransactions), |_| Duration::from_millis(1));
    assert_eq!(core.next_wake(now), Some(now + Duration::from_millis(1)));
    assert_eq!(core.poll(now + Duration::from_millis(2), false), Some(Ask::IsOver));
    reply(&mut core, Reply::Done);
    assert!(core.may_send(&tp(0)));
    // No answer, and an answer that says nothing, hold nobody up.
    for silence in [Reply::Unanswered, Reply::Refused(ErrorCode::TransactionalIdNotFound)] {
        let (mut core, _, _) = begin_again(Duration::from_millis(1));
        reply(&mut core, silence);
        assert!(core.may_send(&tp(0)));
    }
    let (mut core, _, ask) = begin_again(Duration::from_millis(20));
    assert!(ask.is_none() && core.may_send(&tp(0)), "it is over by now");
}

#[tokio::test(start_paused = true)]
async fn the_version_is_that_of_the_cluster_when_the_transaction_began() {
    let (mut core, now) = (open(Version::V1), Instant::now());
    core.speaks(Version::V2);
    assert!(!core.may_send(&tp(0)));
    assert!(core.poll(now, false).is_some());
    reply(&mut core, Reply::Done);
    core.close(true, true);
    assert!(core.poll(now, true).is_some());
    reply(&mut core, Reply::Ended(None));
    core.begin();
    core.identified();
    assert!(core.may_send(&tp(0)));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_of_nothing_ends_without_a_word() {
    for commit in [true, false] {
        let mut core = open(Version::V2);
        core.close(commit, true);
        assert_eq!(core.poll(Instant::now(), true), None);
        let outcome = if commit { Outcome::Committed } else { Outcome::Aborted };
        assert_eq!(ended(&mut core).unwrap(), outcome);
        assert!(!core.take_needs_epoch(false));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_is_asked_again_after_a_while() {
    for again in [Reply::Unanswered, Reply::Refused(ErrorCode::ConcurrentTransactions)] {
        let (mut core, now) = (closed(Version::V2, true), Instant::now());
        assert_eq!(core.poll(now, true), Some(Ask::End { commit: true }));
        reply(&mut core, again);
        assert!(told(&mut core).is_empty(), "an outcome that nobody knows is not told");
        assert_eq!(core.poll(now, true), None);
        assert_eq!(core.next_wake(now), Some(now + SECOND));
        assert_eq!(core.poll(now + SECOND, true), Some(Ask::End { commit: true }));
        reply(&mut core, Reply::Ended(Some(NEXT)));
        assert_eq!(ended(&mut core).unwrap(), Outcome::Committed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_failed_makes_a_commit_an_abort() {
    for version in [Version::V1, Version::V2] {
        let (mut core, now) = (open(version), Instant::now());
        core.sent();
        core.failed(&lost());
        assert!(core.drops_batches() && !core.may_send(&tp(0)));
        core.close(true, true);
        assert_eq!(core.poll(now, false), None, "what is in flight is waited for");
        assert_eq!(core.poll(now, true), Some(Ask::End { commit: false }));
        let next = reply(&mut core, Reply::Ended((version == Version::V2).then_some(NEXT)));
        assert!(matches!(ended(&mut core), Err(CommitError::Aborted(AbortCause::Send(_)))));
        // The numbers may have a hole: only another epoch begins at 0 again.
        assert_eq!(core.take_needs_epoch(next.is_some()), version == Version::V1);
        core.begin();
        core.identified();
        assert!(!core.drops_batches(), "the next transaction is another one");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_while_the_commit_waits_for_its_records_counts() {
    let mut core = closed(Version::V2, true);
    assert_eq!(core.poll(Instant::now(), false), None);
    core.failed(&lost());
    assert_eq!(core.poll(Instant::now(), true), Some(Ask::End { commit: false }));
}

#[tokio::test(start_paused = true)]
async fn the_coordinators_refusals_are_told_apart() {
    let aborts = [ErrorCode::InvalidTxnState, ErrorCode::InvalidProducerIdMapping];
    for code in aborts {
        let mut core = closed(Version::V1, true);
        assert!(core.poll(Instant::now(), true).is_some());
        reply(&mut core, Reply::Refused(code));
        let refused = ended(&mut core).unwrap_err();
        assert!(matches!(refused, CommitError::Aborted(AbortCause::Coordinator { code: c }) if c == code));
        assert!(core.take_needs_epoch(false), "{code}");
    }
    for (code, fatal) in [
        (ErrorCode::ProducerFenced, FatalError::Fenced),
        (ErrorCode::InvalidProducerEpoch, FatalError::Fenced),
        (
            ErrorCode::TransactionalIdAuthorizationFailed,
            FatalError::Refused { code: ErrorCode::TransactionalIdAuthorizationFailed },
        ),
    ] {
        let mut core = closed(Version::V2, true);
        assert!(core.poll(Instant::now(), true).is_some());
        reply(&mut core, Reply::Refused(code));
        assert!(matches!(ended(&mut core), Err(CommitError::Fatal(why)) if why == fatal));
        core.begin();
        assert!(matches!(&told(&mut core)[..], [Told::NotBegun(why)] if *why == fatal));
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_the_coordinator_wants_aborted_is_aborted() {
    let (mut core, now) = (closed(Version::V2, true), Instant::now());
    assert_eq!(core.poll(now, true), Some(Ask::End { commit: true }));
    reply(&mut core, Reply::Refused(ErrorCode::TransactionAbortable));
    assert_eq!(core.poll(now, true), Some(Ask::End { commit: false }));
    reply(&mut core, Reply::Ended(Some(NEXT)));
    assert!(matches!(ended(&mut core), Err(CommitError::Aborted(AbortCause::Coordinator { .. }))));
}

#[tokio::test(start_paused = true)]
async fn refused_offsets_spoil_the_transaction_and_those_behind_them() {
    let (mut core, now) = (open(Version::V1), Instant::now());
    core.commit_offsets(job(1));
    core.commit_offsets(job(2));
    assert_eq!(core.poll(now, true), Some(Ask::AddGroup("g".to_owned())));
    reply(&mut core, Reply::Done);
    assert_eq!(core.poll(now, true), Some(Ask::CommitOffsets(job(1))));
    reply(&mut core, Reply::Refused(ErrorCode::IllegalGeneration));
    for (told, expected) in told(&mut core).iter().zip([1, 2]) {
        let Told::Offsets { number, result: Err(CommitOffsetsError::Abort(cause)) } = told else {
            panic!("{told:?}")
        };
        assert_eq!(*number, expected);
        assert!(matches!(cause, AbortCause::Offsets { code: ErrorCode::IllegalGeneration, .. }));
    }
    core.close(true, true);
    assert_eq!(core.poll(now, true), Some(Ask::End { commit: false }));
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_for_a_transaction_gets_none() {
    let mut core = Transactions::new();
    core.begin();
    assert!(core.wants_identity());
    core.not_wanted();
    core.identified();
    assert!(told(&mut core).is_empty() && core.is_idle());
}

/// A transaction as its coordinator knows it.
#[derive(Debug, Default)]
struct Coordinator {
    epoch: i16,
    is_open: bool,
    partitions: BTreeSet<TopicPartition>,
    /// How the last one ended, which a repeated request is answered with.
    last: Option<bool>,
    fenced: bool,
    ends: Vec<bool>,
}

impl Coordinator {
    fn serve(&mut self, ask: &Ask, epoch: i16, version: Version) -> Reply {
        if self.fenced {
            return Reply::Refused(ErrorCode::ProducerFenced);
        }
        match ask {
            Ask::End { commit } => {
                let repeats = version == Version::V2 && epoch + 1 == self.epoch && !self.is_open;
                if epoch != self.epoch && !repeats {
                    return Reply::Refused(ErrorCode::ProducerFenced);
                }
                if !self.is_open {
                    let same = self.last == Some(*commit);
                    return match version {
                        Version::V1 if same => Reply::Ended(None),
                        Version::V2 if repeats && same => Reply::Ended(Some(self.identity())),
                        Version::V2 if !repeats && !*commit => self.end(false, version),
                        _ => Reply::Refused(ErrorCode::InvalidTxnState),
                    };
                }
                self.end(*commit, version)
            }
            Ask::IsOver => Reply::Done,
            _ if epoch != self.epoch => Reply::Refused(ErrorCode::ProducerFenced),
            Ask::AddPartitions(partitions) => {
                self.is_open = true;
                self.partitions.extend(partitions.iter().cloned());
                Reply::Done
            }
            Ask::AddGroup(_) | Ask::CommitOffsets(_) => {
                self.is_open = true;
                Reply::Done
            }
        }
    }

    fn identity(&self) -> Identity {
        Identity { epoch: self.epoch, ..ME }
    }

    fn end(&mut self, commit: bool, version: Version) -> Reply {
        (self.is_open, self.last) = (false, Some(commit));
        self.partitions.clear();
        self.ends.push(commit);
        if version == Version::V2 {
            self.epoch += 1;
            return Reply::Ended(Some(self.identity()));
        }
        Reply::Ended(None)
    }
}

#[derive(Debug, Clone)]
enum Event {
    Send(i32),
    Offsets,
    FailRecord,
    /// The coordinator gets what was asked; its answer may be lost.
    Serve {
        lost: bool,
    },
    /// What was asked is lost on its way.
    Lose,
    /// Not now.
    Busy,
    /// The transaction is open for too long.
    TimeOut,
    Fence,
    Close {
        commit: bool,
    },
    Upgrade,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..3i32).prop_map(Event::Send),
        2 => Just(Event::Offsets),
        1 => Just(Event::FailRecord),
        10 => prop::bool::weighted(0.2).prop_map(|lost| Event::Serve { lost }),
        1 => Just(Event::Lose),
        1 => Just(Event::Busy),
        1 => prop::bool::weighted(0.1).prop_map(|real| if real { Event::Fence } else { Event::Busy }),
        1 => prop::bool::weighted(0.3).prop_map(|real| if real { Event::TimeOut } else { Event::Busy }),
        5 => any::<bool>().prop_map(|commit| Event::Close { commit }),
        1 => Just(Event::Upgrade),
    ]
}

proptest! {
    /// Whatever is lost: what is told of a transaction is what its coordinator did, every call is answered once, and no
    /// batch leaves that the coordinator would not know of.
    #[test]
    fn what_is_told_is_what_the_coordinator_did(
        starts_v2 in any::<bool>(),
        events in prop::collection::vec(event(), 0..200),
    ) {
        let mut now = Instant::now();
        let mut core = Transactions::new();
        let mut coordinator = Coordinator::default();
        let mut identity = coordinator.identity();
        core.speaks(if starts_v2 { Version::V2 } else { Version::V1 });
        let mut asked: Option<(Ask, i16, Version)> = None;
        let (mut open, mut closing, mut failed) = (false, None, false);
        let (mut jobs, mut next_job) = (BTreeSet::new(), 0);
        let drained = std::iter::repeat_n(Event::Serve { lost: false }, 12);
        let end = [Event::Close { commit: true }].into_iter().chain(drained);
        for event in events.into_iter().chain(end) {
            now += Duration::from_secs(2);
            if core.is_idle() && !open {
                core.begin();
                core.identified();
            }
            match event {
                Event::Send(partition) if core.accepts() && core.may_send(&tp(partition)) => {
                        core.sent();
                        match core.version() {
                            Version::V1 => prop_assert!(
                                coordinator.fenced || !coordinator.is_open || coordinator.partitions.contains(&tp(partition))
                            ),
                            Version::V2 if coordinator.epoch == identity.epoch => coordinator.is_open = true,
                            Version::V2 => {}
                        }
                    }
                Event::Offsets if open && closing.is_none() => {
                    jobs.insert(next_job);
                    core.commit_offsets(job(next_job));
                    next_job += 1;
                }
                Event::FailRecord if core.accepts() => {
                    core.failed(&lost());
                    failed = true;
                }
                Event::Serve { lost } => if let Some((ask, epoch, version)) = asked.take() {
                    let reply = coordinator.serve(&ask, epoch, version);
                    let reply = if lost { Reply::Unanswered } else { reply };
                    let next = core.replied(now, reply, |_| Duration::from_secs(1));
                    identity = next.unwrap_or(identity);
                    if core.take_needs_epoch(next.is_some()) {
                        // InitProducerId with who the producer believes to be.
                        coordinator.epoch += 1;
                        coordinator.is_open = false;
                        identity = coordinator.identity();
                    }
                },
                Event::Lose if asked.take().is_some() => {
                    core.replied(now, Reply::Unanswered, |_| Duration::from_secs(1));
                }
                Event::Busy if asked.take().is_some() => {
                    let busy = Reply::Refused(ErrorCode::ConcurrentTransactions);
                    core.replied(now, busy, |_| Duration::from_secs(1));
                }
                Event::TimeOut if coordinator.is_open => {
                    // As of version 1: the epoch is another, so the producer finds itself fenced.
                    coordinator.end(false, Version::V1);
                    coordinator.epoch += 1;
                }
                Event::Fence => coordinator.fenced = true,
                Event::Close { commit } if open && closing.is_none() => {
                    closing = Some(commit);
                    core.close(commit, true);
                }
                Event::Upgrade => core.speaks(Version::V2),
                _ => {}
            }
            if asked.is_none() && let Some(ask) = core.poll(now, true) {
                if let Ask::End { commit: true } = ask {
                    prop_assert!(!failed && closing == Some(true), "a spoilt transaction is never committed");
                }
                asked = Some((ask, identity.epoch, core.version()));
            }
            if core.take_needs_epoch(false) {
                coordinator.epoch += 1;
                identity = coordinator.identity();
            }
            for told in core.take_told().collect::<Vec<_>>() {
                match told {
                    Told::Begun { .. } => {
                        prop_assert!(!open);
                        (open, closing, failed) = (true, None, false);
                        coordinator.ends.clear();
                    }
                    Told::NotBegun(_) => prop_assert!(coordinator.fenced || !open),
                    Told::Offsets { number, .. } => prop_assert!(jobs.remove(&number), "told once"),
                    Told::Ended(result) => {
                        prop_assert!(open && closing.is_some());
                        open = false;
                        match result {
                            Ok(Outcome::Committed) => {
                                prop_assert!(closing == Some(true) && !failed);
                                prop_assert!(!coordinator.ends.contains(&false), "{:?}", coordinator.ends);
                            }
                            Ok(Outcome::Aborted) => prop_assert!(closing == Some(false)),
                            Err(_) => {}
                        }
                        if !matches!(result, Ok(Outcome::Committed) | Err(CommitError::Unresolved { .. })) {
                            prop_assert!(!coordinator.ends.contains(&true), "{result:?} {:?}", coordinator.ends);
                        }
                    }
                }
            }
        }
        prop_assert!(!open || closing.is_none() || coordinator.fenced, "every end is told");
        prop_assert!(open || jobs.is_empty(), "every call is answered: {:?}", jobs);
    }
}
