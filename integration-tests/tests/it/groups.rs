//! What a consumer group promises: the partitions are shared, nothing is skipped, a new member goes on where the last
//! one committed.

use std::collections::BTreeSet;
use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, unique};
use kafka_admin::{Admin, NewTopic};
use kafka_broker::Broker;
use kafka_client::Client;
use kafka_client::consumer::{CloseOptions, ConsumeError, Consumer, ConsumerBuilder, OffsetReset};
use kafka_client::group::assignor::{CooperativeStickyAssignor, RangeAssignor, StickyAssignor};
use kafka_client::group::{GroupError, GroupProtocol};
use kafka_client::producer::Record;
use tokio::time::{Instant, timeout};

async fn fill(client: &Client, topic: &str, partitions: i32, values: std::ops::Range<u32>) -> TestResult {
    let producer = client.producer().build()?;
    for value in values {
        drop(
            producer
                .send(Record::to(topic).partition(value as i32 % partitions).value(value.to_string()))
                .await?,
        );
    }
    producer.close(Duration::from_secs(30)).await?;
    Ok(())
}

fn member(client: &Client, group: &str, topic: &str, cooperative: bool) -> TestResult<Consumer> {
    let builder = client
        .consumer()
        .group(group)
        .topics([topic])
        .auto_offset_reset(OffsetReset::Earliest)
        .enable_auto_commit(false);
    Ok(if cooperative {
        builder.assignor(CooperativeStickyAssignor).build()?
    } else {
        builder.assignor(RangeAssignor).build()?
    })
}

async fn take(consumer: &Consumer, count: usize) -> TestResult<BTreeSet<u32>> {
    let mut values = BTreeSet::new();
    while values.len() < count {
        let record = timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
        values.insert(std::str::from_utf8(record.value.as_deref().unwrap_or_default())?.parse()?);
    }
    Ok(values)
}

/// Waits until each member owns that many partitions.
async fn settled(members: &[&Consumer], each: usize) -> TestResult {
    let deadline = Instant::now() + PATIENCE;
    while !members.iter().all(|member| member.assignment().len() == each) {
        if Instant::now() > deadline {
            let owned: Vec<_> = members.iter().map(|member| member.assignment()).collect();
            return Err(format!("the group did not settle: {owned:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_new_member_goes_on_where_the_group_committed() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let (topic, group) = (cluster.topic("resume", 2).await?, unique("resume"));
    fill(&client, &topic, 2, 0..100).await?;
    let first = member(&client, &group, &topic, false)?;
    let mut seen = take(&first, 60).await?;
    first.commit().await?;
    first.close().await?;
    let second = member(&client, &group, &topic, false)?;
    seen.extend(take(&second, 40).await?);
    assert_eq!(seen, (0..100).collect());
    second.close().await?;
    Ok(())
}

#[tokio::test]
async fn what_was_not_committed_is_read_again() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let (topic, group) = (cluster.topic("uncommitted", 1).await?, unique("uncommitted"));
    fill(&client, &topic, 1, 0..10).await?;
    let first = member(&client, &group, &topic, false)?;
    take(&first, 10).await?;
    first.close().await?;
    let second = member(&client, &group, &topic, false)?;
    assert_eq!(take(&second, 10).await?, (0..10).collect());
    Ok(())
}

#[tokio::test]
async fn sticky_members_keep_their_partitions_when_another_one_leaves() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let (topic, group) = (cluster.topic("sticky", 6).await?, unique("sticky"));
    let join =
        || client.consumer().group(&group).topics([&topic]).assignor(StickyAssignor::default()).build();
    let members = [join()?, join()?, join()?];
    settled(&members.each_ref(), 2).await?;
    let [first, second, third] = members;
    let before = [first.assignment(), second.assignment()];
    third.close().await?;
    settled(&[&first, &second], 3).await?;
    for (member, before) in [&first, &second].into_iter().zip(before) {
        let after = member.assignment();
        assert!(before.iter().all(|partition| after.contains(partition)), "{before:?} became {after:?}");
    }
    Ok(())
}

#[tokio::test]
async fn members_share_the_partitions_and_the_last_one_takes_them_all() -> TestResult {
    for cooperative in [false, true] {
        let cluster = Cluster::start().await?;
        let client = cluster.client().await?;
        let (topic, group) = (cluster.topic("share", 4).await?, unique("share"));
        let first = member(&client, &group, &topic, cooperative)?;
        let second = member(&client, &group, &topic, cooperative)?;
        settled(&[&first, &second], 2).await?;
        let mut owned = first.assignment();
        owned.extend(second.assignment());
        assert_eq!(owned.iter().map(|of| of.partition).collect::<BTreeSet<_>>(), (0..4).collect());
        second.close().await?;
        settled(&[&first], 4).await?;
        fill(&client, &topic, 4, 0..40).await?;
        assert_eq!(take(&first, 40).await?, (0..40).collect());
        first.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn no_record_is_skipped_while_members_come_and_go() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let (topic, group) = (cluster.topic("churn", 4).await?, unique("churn"));
    fill(&client, &topic, 4, 0..4000).await?;
    let mut seen = BTreeSet::new();
    // Each generation commits what it saw before it leaves; at least once means that the union is everything.
    for round in 0..4 {
        let steady = member(&client, &group, &topic, true)?;
        let joining = member(&client, &group, &topic, true)?;
        settled(&[&steady, &joining], 2).await?;
        for consumer in [&steady, &joining] {
            seen.extend(take(consumer, 300).await?);
            consumer.commit().await?;
        }
        if round % 2 == 0 {
            joining.close().await?;
            steady.close().await?;
        } else {
            steady.close().await?;
            joining.close().await?;
        }
    }
    let last = member(&client, &group, &topic, true)?;
    let deadline = Instant::now() + PATIENCE;
    while seen.len() < 4000 && Instant::now() < deadline {
        let record = timeout(PATIENCE, last.next()).await??.ok_or("the consumer ended")?;
        seen.insert(std::str::from_utf8(record.value.as_deref().unwrap_or_default())?.parse()?);
    }
    assert_eq!(seen.len(), 4000);
    Ok(())
}

/// Without an option that only classic groups have, the cluster's newer protocol is used (KIP-848).
#[tokio::test]
async fn a_group_of_kip_848_shares_the_partitions_and_commits_before_they_go() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let (topic, group) = (cluster.topic("kip848", 4).await?, unique("kip848"));
    fill(&client, &topic, 4, 0..400).await?;
    let start = || {
        let builder = client.consumer().group(&group).topics([&topic]);
        builder.auto_offset_reset(OffsetReset::Earliest).build()
    };
    let first = start()?;
    let mut seen = take(&first, 100).await?;
    assert_eq!(first.group_protocol(), Some(GroupProtocol::Consumer));
    let second = start()?;
    // The first gives partitions up when it asks for more: what it was handed is committed then.
    let deadline = Instant::now() + PATIENCE;
    while seen.len() < 400 {
        assert!(Instant::now() < deadline, "{} records came", seen.len());
        for consumer in [&first, &second] {
            if let Ok(record) = timeout(Duration::from_millis(50), consumer.next()).await {
                let record = record?.ok_or("the consumer ended")?;
                seen.insert(std::str::from_utf8(record.value.as_deref().unwrap_or_default())?.parse()?);
            }
        }
    }
    second.close().await?;
    settled(&[&first], 4).await?;
    first.close().await?;
    Ok(())
}

/// The coordinator matches the pattern (KIP-1082), or in classic groups the client does.
#[tokio::test]
async fn topics_are_subscribed_to_by_pattern_in_both_protocols() -> TestResult {
    for protocol in [GroupProtocol::Consumer, GroupProtocol::Classic] {
        let cluster = Cluster::start().await?;
        let client = cluster.client().await?;
        let (topic, group) = (cluster.topic("pattern", 2).await?, unique("pattern"));
        let builder = client.consumer().group(&group).pattern(format!("{topic}.*")).protocol(protocol);
        let consumer = builder.auto_offset_reset(OffsetReset::Earliest).build()?;
        settled(&[&consumer], 2).await?;
        assert_eq!(consumer.group_protocol(), Some(protocol));
        fill(&client, &topic, 2, 0..10).await?;
        assert_eq!(take(&consumer, 10).await?, (0..10).collect());
        consumer.close().await?;
    }
    Ok(())
}

/// `group.instance.id` (KIP-345): closing keeps the partitions for a while, unless told otherwise (KIP-1092).
#[tokio::test]
async fn a_static_member_keeps_its_place_when_it_closes_and_gives_it_up_when_told_to() -> TestResult {
    for protocol in [GroupProtocol::Consumer, GroupProtocol::Classic] {
        let cluster = Cluster::start().await?;
        let client = cluster.client().await?;
        let (topic, group) = (cluster.topic("static", 4).await?, unique("static"));
        let start = |instance: &str| {
            let builder = client.consumer().group(&group).topics([&topic]).protocol(protocol);
            builder.group_instance_id(instance).build()
        };
        let (one, other) = (start("one")?, start("other")?);
        settled(&[&one, &other], 2).await?;
        let (kept, others) = (one.assignment(), other.assignment());

        one.close().await?;
        let back = start("one")?;
        settled(&[&back], 2).await?;
        assert_eq!(back.assignment(), kept, "{protocol:?}: nobody took what was kept for it");
        assert_eq!(other.assignment(), others, "{protocol:?}");

        let began = Instant::now();
        back.close_with(CloseOptions::within(PATIENCE).leave_group()).await?;
        settled(&[&other], 4).await?;
        assert!(began.elapsed() < Duration::from_secs(40), "{protocol:?}: its session had to end first");
        other.close_with(CloseOptions::default().leave_group()).await?;
    }
    Ok(())
}

/// Where a group's members cannot be moved to KIP-848, whoever may choose joins them. Apache Kafka's broker would have to be
/// set up for it, so on our broker only.
#[tokio::test]
async fn a_member_that_may_choose_joins_a_classic_group_in_its_own_protocol() -> TestResult {
    let broker = Broker::builder().config("group.consumer.migration.policy", "disabled").start().await?;
    let client = Client::connect(broker.bootstrap_servers().as_str()).await?;
    let (topic, group) = (unique("fallback"), unique("fallback"));
    Admin::new(client.clone()).create_topics([NewTopic::new(&topic, 4, 1)]).await?.all()?;
    let start = |protocol| client.consumer().group(&group).topics([&topic]).protocol(protocol).build();
    let classic = start(GroupProtocol::Classic)?;
    settled(&[&classic], 4).await?;
    let flexible = start(GroupProtocol::Auto)?;
    settled(&[&classic, &flexible], 2).await?;
    assert_eq!(flexible.group_protocol(), Some(GroupProtocol::Classic));

    let strict = start(GroupProtocol::Consumer)?;
    let Err(error) = timeout(PATIENCE, strict.next()).await? else {
        return Err("a member of KIP-848 is in a classic group".into());
    };
    assert!(matches!(&error, ConsumeError::Group(GroupError::ProtocolUnsupported { .. })), "{error:?}");
    Ok(())
}

/// KIP-881: without racks, `range` would give each member the first or the last two partitions. Apache Kafka would need
/// more brokers than this suite starts, so on our broker only.
#[tokio::test]
async fn members_of_classic_groups_read_from_replicas_in_their_own_rack() -> TestResult {
    let racks = [(1, "a"), (2, "b")];
    let nodes = Broker::builder().nodes(2);
    let broker = racks.iter().fold(nodes, |nodes, (id, rack)| nodes.node_config(*id, "broker.rack", *rack));
    let broker = broker.start().await?;
    let client = Client::connect(broker.bootstrap_servers().as_str()).await?;
    let topic = unique("racks");
    let new = NewTopic::with_defaults(&topic).assignments([1, 2, 1, 2].map(|node| vec![node]));
    Admin::new(client.clone()).create_topics([new]).await?.all()?;
    let assignors: [fn(ConsumerBuilder) -> ConsumerBuilder; 3] = [
        |builder| builder.assignor(RangeAssignor),
        |builder| builder.assignor(StickyAssignor::default()),
        |builder| builder.assignor(CooperativeStickyAssignor),
    ];
    for assignor in assignors {
        let group = unique("racks");
        let start = |rack| assignor(client.consumer().group(&group).topics([&topic]).rack(rack)).build();
        let members = [start("b")?, start("a")?];
        settled(&members.each_ref(), 2).await?;
        for (member, expected) in members.iter().zip([[1, 3], [0, 2]]) {
            let partitions: Vec<i32> = member.assignment().iter().map(|of| of.partition).collect();
            assert_eq!(partitions, expected);
        }
    }
    Ok(())
}

/// Our broker counts epochs as Apache's does: tools and tests compare them.
#[tokio::test]
async fn epochs_of_a_group_of_kip_848_grow_as_kafkas_do() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("epochs", 2).await?;
    let group = unique("epochs");
    let start = || client.consumer().group(&group).topics([&topic]).protocol(GroupProtocol::Consumer).build();
    let epoch = |consumer: &Consumer| consumer.group_metadata().map_or(-1, |metadata| metadata.generation);
    let first = start()?;
    settled(&[&first], 2).await?;
    let mut epochs = vec![epoch(&first)];
    let second = start()?;
    settled(&[&first, &second], 1).await?;
    epochs.push(epoch(&second));
    second.close().await?;
    settled(&[&first], 2).await?;
    epochs.push(epoch(&first));
    first.close().await?;
    let last = start()?;
    settled(&[&last], 2).await?;
    epochs.push(epoch(&last));
    last.close().await?;
    assert_eq!(epochs, [2, 3, 4, 6]);
    cluster.shutdown().await;
    Ok(())
}
