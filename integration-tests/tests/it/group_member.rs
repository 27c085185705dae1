//! Members of groups that divide something else than partitions, as Kafka Connect's workers do.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_admin::Admin;
use kafka_admin::groups::{GroupState, MemberIdentity, MembersToRemove};
use kafka_broker::Broker;
use kafka_client::Client;
use kafka_client::group::{
    GroupAssignment, GroupError, GroupEvent, GroupMember, GroupMemberBuilder, GroupMemberError, GroupToAssign,
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

const JOBS: [&str; 4] = ["a", "b", "c", "d"];

/// Jobs in turn, to members in the order of their ids; each is told whose jobs they are: what it joined with.
fn deal(group: &GroupToAssign) -> Result<BTreeMap<String, Bytes>, Infallible> {
    let mut hands: BTreeMap<String, Vec<u8>> = group
        .members
        .iter()
        .map(|member| (member.id.clone(), [&member.metadata[..], b":"].concat()))
        .collect();
    for (turn, job) in JOBS.into_iter().enumerate() {
        if let Some(hand) = hands.values_mut().nth(turn % group.members.len()) {
            hand.extend_from_slice(job.as_bytes());
        }
    }
    Ok(hands.into_iter().map(|(id, hand)| (id, hand.into())).collect())
}

fn worker(client: &Client, group: &str, name: &str) -> GroupMemberBuilder {
    client
        .group_member(group, "connect")
        .protocol("compatible", name.as_bytes().to_vec())
        .assignor(deal)
        .heartbeat_interval(Duration::from_millis(200))
        .session_timeout(Duration::from_secs(10))
}

async fn next(member: &GroupMember) -> TestResult<GroupEvent> {
    Ok(timeout(PATIENCE, member.next_event()).await??.ok_or("the member is closed")?)
}

async fn assigned(member: &GroupMember) -> TestResult<GroupAssignment> {
    match next(member).await? {
        GroupEvent::Assigned(assignment) => Ok(assignment),
        other => Err(format!("not assigned: {other:?}").into()),
    }
}

/// What a worker that takes all its events has now.
type Hand = Arc<Mutex<Option<Bytes>>>;

fn work(member: &Arc<GroupMember>) -> Hand {
    let hand = Hand::default();
    let (holds, member) = (Arc::clone(&hand), Arc::clone(member));
    tokio::spawn(async move {
        while let Ok(Some(event)) = member.next_event().await {
            *holds.lock() = match event {
                GroupEvent::Assigned(assignment) => Some(assignment.assignment),
                _ => None,
            };
        }
    });
    hand
}

fn hands(hands: &[&Hand]) -> BTreeSet<String> {
    let hand = |hand: &&Hand| hand.lock().as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    hands.iter().filter_map(hand).collect()
}

fn is_dealt(found: &BTreeSet<String>, names: [&str; 2]) -> bool {
    let ways = [["ac", "bd"], ["bd", "ac"]];
    ways.iter().any(|jobs| {
        let expected = names.iter().zip(jobs).map(|(name, jobs)| format!("{name}:{jobs}"));
        *found == expected.collect()
    })
}

#[tokio::test]
async fn workers_divide_what_only_they_understand() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let group = unique("workers");

    let first = Arc::new(worker(&client, &group, "one").build()?);
    let all = assigned(&first).await?;
    assert!(all.is_leader(), "{all:?}");
    assert_eq!((all.protocol.as_str(), &all.assignment[..]), ("compatible", &b"one:abcd"[..]));
    let described = admin.describe_classic_groups([&group]).await?.all()?.remove(0).1;
    assert_eq!((described.state, described.protocol_type.as_str()), (GroupState::Stable, "connect"));
    assert_eq!((described.protocol.as_str(), described.members.len()), ("compatible", 1));
    assert_eq!(described.members[0].id, all.member_id);
    assert_eq!(
        (&described.members[0].metadata[..], &described.members[0].assignment[..]),
        (&b"one"[..], &b"one:abcd"[..])
    );

    let second = Arc::new(worker(&client, &group, "two").build()?);
    let (one, two) = (work(&first), work(&second));
    eventually("both have work", async || Ok(is_dealt(&hands(&[&one, &two]), ["one", "two"]))).await?;
    second.set_protocols([("compatible", "deux")]);
    eventually("the others know", async || Ok(is_dealt(&hands(&[&one, &two]), ["one", "deux"]))).await?;

    second.close().await;
    assert!(second.next_event().await?.is_none());
    eventually("one does it all", async || Ok(hands(&[&one]) == BTreeSet::from(["one:abcd".into()]))).await?;
    first.close().await;
    let described = admin.describe_classic_groups([&group]).await?.all()?.remove(0).1;
    assert_eq!((described.state, described.members.len()), (GroupState::Empty, 0));
    Ok(())
}

#[tokio::test]
async fn a_worker_that_is_thrown_out_loses_its_work_and_comes_back() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let group = unique("workers");
    let member = worker(&client, &group, "one").build()?;
    let before = assigned(&member).await?;
    let thrown_out = MembersToRemove::These(vec![MemberIdentity::Member(before.member_id.clone())]);
    Admin::new(client.clone()).remove_members(&group, thrown_out).await?.all()?;
    assert_eq!(next(&member).await?, GroupEvent::Lost);
    let after = assigned(&member).await?;
    assert_ne!(before.member_id, after.member_id);
    assert_eq!(before.assignment, after.assignment);

    // Asking for a rebalance gives the work up in good order.
    member.rejoin("a test");
    assert_eq!(next(&member).await?, GroupEvent::Revoked);
    let again = assigned(&member).await?;
    assert_eq!(again.member_id, after.member_id);
    assert!(again.generation > after.generation);
    member.close().await;
    Ok(())
}

#[tokio::test]
async fn a_leader_that_cannot_assign_says_why_and_leaves_the_work_to_others() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let group = unique("workers");
    type Assign = fn(&GroupToAssign) -> Result<BTreeMap<String, Bytes>, &'static str>;
    let broken: [(Assign, &str); 3] = [
        (|_| Err("no idea"), "no idea"),
        (|_| Ok(BTreeMap::from([("a stranger".to_owned(), Bytes::new())])), "a stranger"),
        (|_| panic!("a broken assignor"), "panic"),
    ];
    for (assign, why) in broken {
        let member = worker(&client, &group, "broken").assignor(assign).build()?;
        let error = timeout(PATIENCE, member.next_event()).await?.err().ok_or("it was assigned")?;
        let GroupMemberError::Group(GroupError::Assign { source, .. }) = &error else {
            return Err(error.into());
        };
        assert!(source.reason.contains(why), "{source}");
        assert!(member.next_event().await.is_err(), "for good");
    }
    let member = worker(&client, &group, "one").build()?;
    assert_eq!(&assigned(&member).await?.assignment[..], b"one:abcd");
    member.close().await;
    Ok(())
}

/// On a paused clock, so on our broker only.
#[tokio::test(start_paused = true)]
async fn a_rebalance_waits_for_a_slow_worker_but_not_for_ever() -> TestResult {
    let broker = Arc::new(Broker::builder().config("group.initial.rebalance.delay.ms", "0").start().await?);
    let dialed = Arc::clone(&broker);
    let connector = move |_host: String, _port: u16| {
        let broker = Arc::clone(&dialed);
        async move { Ok::<_, std::io::Error>(broker.connect().await) }
    };
    let client = Client::builder("broker:9092").connector(connector).build()?;
    // No heartbeat is due in the moment when the coordinator's patience ends.
    let (limit, interval) = (Duration::from_secs(30), Duration::from_secs(7));
    let patient =
        |name: &str| worker(&client, "g", name).rebalance_timeout(limit).heartbeat_interval(interval).build();
    let slow = patient("slow")?;
    assert_eq!(&assigned(&slow).await?.assignment[..], b"slow:abcd");

    let other = patient("other")?;
    assert_eq!(next(&slow).await?, GroupEvent::Revoked);
    // It is giving up, and comes back when it has: until then nobody else has its work.
    assert!(timeout(Duration::from_secs(20), other.next_event()).await.is_err());
    let (mine, others) = tokio::join!(assigned(&slow), assigned(&other));
    assert_eq!(mine?.generation, others?.generation);

    // This time it takes too long: the coordinator goes on without it, and it comes back later.
    let begun = Instant::now();
    other.set_protocols([("compatible", "autre")]);
    assert_eq!(next(&other).await?, GroupEvent::Revoked);
    let (all, told) = tokio::join!(assigned(&other), next(&slow));
    assert_eq!((&all?.assignment[..], told?), (&b"autre:abcd"[..], GroupEvent::Revoked));
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    tokio::time::sleep(interval).await;
    assert_eq!(next(&slow).await?, GroupEvent::Lost);
    let make_room = async {
        assert_eq!(next(&other).await?, GroupEvent::Revoked);
        assigned(&other).await
    };
    let (mine, others) = tokio::join!(assigned(&slow), make_room);
    assert_eq!(mine?.generation, others?.generation);
    Ok(())
}
