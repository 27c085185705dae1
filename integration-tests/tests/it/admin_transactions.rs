//! The Admin client and transactions.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use integration_tests::{Cluster, TestResult, eventually, unique};
use kafka_admin::transactions::{ActiveProducer, TransactionState, TransactionToAbort};
use kafka_admin::{Admin, OffsetSpec};
use kafka_client::TopicPartition;
use kafka_client::consumer::{IsolationLevel, OffsetReset};
use kafka_client::producer::{CommitError, FatalError, Producer, Record};
use kafka_client::wire::ErrorCode;

/// Where partition 0 ends for readers of committed records, and for others.
async fn ends(admin: &Admin, at: &TopicPartition) -> TestResult<(i64, i64)> {
    let asked = || admin.list_offsets([(at.clone(), OffsetSpec::Latest)]);
    let committed = asked().read_committed(true).await?.all()?;
    let end = asked().await?.all()?;
    let offset = |listed: &[(TopicPartition, kafka_admin::offsets::ListedOffset)]| {
        listed.first().and_then(|(_, it)| it.offset).ok_or("no offset")
    };
    Ok((offset(&committed)?, offset(&end)?))
}

/// The producer that has a transaction open in a partition.
async fn writing(admin: &Admin, at: &TopicPartition) -> TestResult<Option<ActiveProducer>> {
    let described = admin.describe_producers([at.clone()]).await?.all()?;
    let mut producers = described.into_iter().flat_map(|(_, producers)| producers);
    Ok(producers.find(|it| it.transaction_start_offset.is_some()))
}

/// Sends and waits until it is written.
async fn write(producer: &Producer, topic: &str, value: &str) -> TestResult {
    producer.send(Record::to(topic).partition(0).value(value)).await?.await?;
    Ok(())
}

#[tokio::test]
async fn an_open_transaction_is_listed_and_described_until_it_ends() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let topic = cluster.topic("tx-admin", 2).await?;
    let (id, at) = (unique("tx"), TopicPartition::new(topic.as_str(), 0));
    let unknown = admin.describe_transactions([&id]).await?.all().err().ok_or("it was not known yet")?;
    assert_eq!(unknown.code(), Some(ErrorCode::TransactionalIdNotFound));
    let timeout = Duration::from_secs(40);
    let producer = client.producer().transactional_id(&id).transaction_timeout(timeout).build()?;
    let transaction = producer.begin().await?;
    write(&producer, &topic, "one").await?;

    let described = admin.describe_transactions([&id]).await?.all()?;
    let (_, open) = described.first().ok_or("nothing was described")?;
    assert_eq!(open.state, TransactionState::Ongoing);
    assert_eq!(open.partitions, std::slice::from_ref(&at));
    assert_eq!(open.transaction_timeout, timeout);
    let started = open.started.ok_or("it began at no time")?;
    assert!(SystemTime::now().duration_since(started).unwrap_or_default() < Duration::from_secs(60));

    let listed =
        admin.list_transactions().in_states([TransactionState::Ongoing]).of_producers([open.producer_id]);
    let listed: Vec<_> = listed.await?.into_iter().map(|it| (it.transactional_id, it.coordinator)).collect();
    assert_eq!(listed, [(id.clone(), open.coordinator)]);
    let by_pattern = |pattern: String| admin.list_transactions().matching(pattern);
    assert_eq!(by_pattern(format!("{}.*", &id[..id.len() - 1])).await?.len(), 1);
    assert!(by_pattern(id[1..].to_owned()).await?.is_empty(), "a pattern matches the whole id");
    let old = admin.list_transactions().running_longer_than(Duration::from_secs(3600)).await?;
    assert!(old.iter().all(|it| it.transactional_id != id));

    let producing = writing(&admin, &at).await?.ok_or("nobody writes")?;
    assert_eq!(producing.producer_id, open.producer_id);
    assert_eq!(producing.transaction_start_offset, Some(0));
    assert_eq!(producing.last_sequence, 0);
    // Its coordinator knows of it, however long it is open.
    let hanging = admin.find_hanging_transactions([at.clone()]).older_than(Duration::ZERO);
    assert_eq!(hanging.await?.all()?, [(at.clone(), Vec::new())]);

    transaction.commit().await?;
    eventually("it is committed everywhere", async || {
        let described = admin.describe_transactions([&id]).await?.all()?;
        let (_, ended) = described.into_iter().next().ok_or("nothing was described")?;
        Ok(ended.state == TransactionState::CompleteCommit && ended.partitions.is_empty())
    })
    .await?;
    assert_eq!(writing(&admin, &at).await?, None);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn fencing_aborts_what_is_open_and_the_producer_learns_it() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let topic = cluster.topic("tx-fenced", 1).await?;
    let (id, at) = (unique("tx"), TopicPartition::new(topic.as_str(), 0));
    let producer = client.producer().transactional_id(&id).build()?;
    let transaction = producer.begin().await?;
    write(&producer, &topic, "lost").await?;
    let before = writing(&admin, &at).await?.ok_or("nobody writes")?;
    let fenced = admin.fence_producers([&id]).await?.all()?;
    let (_, fenced) = fenced.first().ok_or("nothing was fenced")?;
    assert!(
        (fenced.producer_id, i32::from(fenced.producer_epoch)) > (before.producer_id, before.producer_epoch)
    );
    let refused = transaction.commit().await.err().ok_or("a fenced producer committed")?;
    assert!(matches!(refused, CommitError::Fatal(FatalError::Fenced)), "{refused:?}");
    eventually("nothing is open", async || Ok(writing(&admin, &at).await?.is_none())).await?;
    // The id is free for the next one.
    let next = client.producer().transactional_id(&id).build()?;
    let transaction = next.begin().await?;
    transaction.send(Record::to(&*topic).value("kept")).await?;
    transaction.commit().await?;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn readers_go_on_once_a_transaction_is_aborted_in_a_partition() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let topic = cluster.topic("tx-abort", 1).await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let producer = client.producer().transactional_id(unique("tx")).build()?;
    let open = producer.begin().await?;
    write(&producer, &topic, "stuck").await?;
    let plain = client.producer().build()?;
    write(&plain, &topic, "waiting").await?;
    assert_eq!(ends(&admin, &at).await?, (0, 2));

    let described = writing(&admin, &at).await?.ok_or("nobody writes")?;
    let transaction = TransactionToAbort::of(at.clone(), &described).ok_or("nothing is open")?;
    let mut of_another = transaction.clone();
    of_another.producer_epoch -= 1;
    if of_another.producer_epoch >= 0 {
        let refused = admin.abort_transaction(of_another).await.err().ok_or("an old epoch was taken")?;
        assert_eq!(refused.code(), Some(ErrorCode::InvalidProducerEpoch));
    }
    admin.abort_transaction(transaction).await?;
    assert_eq!(ends(&admin, &at).await?, (3, 3));
    assert_eq!(writing(&admin, &at).await?, None);

    let builder = client.consumer().assign([at.clone()]).auto_offset_reset(OffsetReset::Earliest);
    let consumer = builder.isolation_level(IsolationLevel::ReadCommitted).build()?;
    let record = consumer.next().await?.ok_or("the consumer ended")?;
    assert_eq!(record.value.as_deref(), Some(&b"waiting"[..]));
    drop(open);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn each_partition_and_each_id_has_a_result_of_its_own() -> TestResult {
    let cluster = Cluster::start().await?;
    let admin = Admin::new(cluster.client().await?);
    let topic = cluster.topic("tx-items", 1).await?;
    let (known, unknown) = (TopicPartition::new(topic.as_str(), 0), TopicPartition::new(topic.as_str(), 9));
    let described = admin.describe_producers([unknown.clone(), known.clone()]).await?;
    let codes: BTreeMap<_, _> = described
        .iter()
        .map(|(partition, result)| (partition.clone(), result.as_ref().err().and_then(|error| error.code())))
        .collect();
    assert_eq!(codes, BTreeMap::from([(known, None), (unknown, Some(ErrorCode::UnknownTopicOrPartition))]));
    let pattern = admin.list_transactions().matching("(").await.err().ok_or("a broken pattern was taken")?;
    assert_eq!(pattern.code(), Some(ErrorCode::InvalidRegularExpression));
    cluster.shutdown().await;
    Ok(())
}
