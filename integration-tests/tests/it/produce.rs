//! What a producer promises: every acknowledged record is there, once, in order, as it was sent.

use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_admin::{Admin, NewTopic};
use kafka_client::producer::{ProducerEvent, Record, SendError};
use kafka_client::wire::compression::Compression;
use kafka_client::wire::murmur2::partition_for_key;

use crate::consume::{Read, read_all};

#[tokio::test]
async fn every_acknowledged_record_is_read_back_in_order_with_every_codec() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    for compression in
        [Compression::None, Compression::GZIP, Compression::Snappy, Compression::Lz4, Compression::ZSTD]
    {
        let topic = cluster.topic("codecs", 3).await?;
        let producer = client.producer().compression(compression).batch_size(4096).build()?;
        let mut deliveries = Vec::new();
        for i in 0..3000 {
            let record =
                Record::to(&topic).partition(i % 3).key(format!("key-{i}")).value(format!("value-{i}"));
            deliveries.push(producer.send(record).await?);
        }
        let acknowledged = try_join_all(deliveries).await?;
        let read = read_all(&client, &topic, 3).await?;
        assert_eq!(read.len(), 3000);
        for partition in 0..3 {
            let sent: Vec<_> = (0..3000).filter(|i| i % 3 == partition).collect();
            let found: Vec<&Read> = read.iter().filter(|record| record.partition == partition).collect();
            for (offset, (record, i)) in found.iter().zip(sent).enumerate() {
                assert_eq!(record.offset, offset as i64);
                assert_eq!(record.value, Some(Bytes::from(format!("value-{i}"))));
                let acknowledgement = &acknowledged[i as usize];
                assert_eq!((acknowledgement.partition, acknowledgement.offset), (partition, record.offset));
            }
        }
        producer.close(Duration::from_secs(10)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_before_a_close_or_a_drop_is_delivered() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("farewell", 1).await?;
    for round in 0..300 {
        let producer = client.producer().linger(Duration::from_secs(5)).build()?;
        // The producer's task is up and at rest when the record comes.
        drop(producer.send(Record::to(&topic).value("hello")).await?);
        producer.flush().await;
        let last = producer.send(Record::to(&topic).value("farewell")).await?;
        if round % 2 == 0 {
            producer.close(PATIENCE).await?;
        } else {
            drop(producer);
        }
        last.await.map_err(|error| format!("round {round}: {error}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn keys_values_headers_and_timestamps_come_back_as_they_were() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("fields", 1).await?;
    let producer = client.producer().build()?;
    let now = 1_750_000_000_000;
    producer.send(Record::to(&topic).value("no key").timestamp(now)).await?.await?;
    producer.send(Record::to(&topic).key("tombstone").timestamp(now + 1)).await?.await?;
    producer.send(Record::to(&topic).key("").value("").timestamp(now + 2)).await?.await?;
    let with_headers =
        Record::to(&topic).value("h").header("trace", "1").header("trace", "2").timestamp(now + 3);
    producer.send(with_headers).await?.await?;

    let read = read_all(&client, &topic, 1).await?;
    let bytes = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let fields: Vec<_> = read.iter().map(|record| (record.key.clone(), record.value.clone())).collect();
    assert_eq!(
        fields,
        [(None, bytes("no key")), (bytes("tombstone"), None), (bytes(""), bytes("")), (None, bytes("h"))]
    );
    assert_eq!(read.iter().map(|record| record.timestamp - now).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let headers: Vec<_> =
        read[3].headers.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    assert_eq!(headers, [("trace", bytes("1")), ("trace", bytes("2"))]);
    Ok(())
}

#[tokio::test]
async fn a_key_lands_where_javas_partitioner_puts_it() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("keyed", 7).await?;
    let producer = client.producer().build()?;
    for i in 0..100 {
        let key = format!("user-{i}");
        let written = producer.send(Record::to(&topic).key(key.clone()).value("x")).await?.await?;
        assert_eq!(written.partition, partition_for_key(key.as_bytes(), 7), "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn dropped_deliveries_are_written_all_the_same() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("dropped", 4).await?;
    let producer = client.producer().linger(Duration::from_millis(5)).build()?;
    for i in 0..10_000 {
        drop(producer.send(Record::to(&topic).value(i.to_string())).await?);
    }
    producer.flush().await;
    let mut values: Vec<u32> = Vec::new();
    for record in read_all(&client, &topic, 4).await? {
        values.push(std::str::from_utf8(&record.value.unwrap_or_default())?.parse()?);
    }
    values.sort_unstable();
    assert_eq!(values, (0..10_000).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_record_beyond_the_limit_is_refused_by_name_and_the_next_one_is_written() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("large", 1).await?;
    let producer = client.producer().build()?;
    let refused = match producer.send(Record::to(&topic).value(vec![b'x'; 2_000_000])).await {
        Ok(delivery) => delivery.await.err(),
        Err(error) => Some(error),
    };
    let refused = refused.ok_or("a record of 2 MB was accepted")?;
    assert!(matches!(refused, SendError::RecordTooLarge { .. }), "{refused}");
    assert!(!refused.possibly_written());
    assert_eq!(producer.send(Record::to(&topic).value("small")).await?.await?.offset, 0);
    Ok(())
}

#[tokio::test]
async fn the_brokers_own_size_limit_is_an_error_for_that_record_only() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic_with("small-limit", 1, &[("max.message.bytes", "1000")]).await?;
    let producer = client.producer().build()?;
    let delivery = producer.send(Record::to(&topic).value(vec![b'x'; 5000])).await?;
    let refused = delivery.await.err().ok_or("the broker took a record above max.message.bytes")?;
    assert!(!refused.possibly_written(), "{refused}");
    // Records that fit only one by one are split out of their batch (KIP-126).
    let deliveries = [
        producer.send(Record::to(&topic).value(vec![b'a'; 600])).await?,
        producer.send(Record::to(&topic).value(vec![b'b'; 600])).await?,
    ];
    let offsets: Vec<_> = try_join_all(deliveries).await?.into_iter().map(|written| written.offset).collect();
    assert_eq!(offsets, [0, 1]);
    Ok(())
}

#[tokio::test]
async fn an_invalid_topic_name_is_a_clear_error_at_once() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let producer = client.producer().build()?;
    let result = match producer.send(Record::to("no spaces allowed").value("x")).await {
        Ok(delivery) => delivery.await,
        Err(error) => Err(error),
    };
    let error = result.err().ok_or("an invalid topic name was accepted")?;
    assert!(error.to_string().contains("no spaces allowed"), "{error}");
    assert!(!error.is_retriable() && !error.possibly_written());
    Ok(())
}

#[tokio::test]
async fn an_unknown_topic_ends_with_an_error_that_names_it() -> TestResult {
    let cluster = Cluster::start().await?;
    let client =
        kafka_client::Client::builder(cluster.bootstrap_servers()).auto_create_topics(false).build()?;
    let topic = unique("never-created");
    let producer = client.producer().max_block(Duration::from_secs(2)).build()?;
    let result = match producer.send(Record::to(&topic).value("x")).await {
        Ok(delivery) => delivery.await,
        Err(error) => Err(error),
    };
    let error = result.err().ok_or("an unknown topic was accepted")?;
    assert!(error.to_string().contains(&topic), "{error}");
    assert!(!error.possibly_written());
    Ok(())
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_within_its_time_out() -> TestResult {
    // A port that was free a moment ago and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let started = std::time::Instant::now();
    let error = kafka_client::Client::builder(format!("127.0.0.1:{port}"))
        .api_timeout(Duration::from_secs(2))
        .connect()
        .await
        .err()
        .ok_or("connected to nobody")?;
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
    Ok(())
}

#[tokio::test]
async fn sends_from_many_tasks_keep_each_tasks_order() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("many-tasks", 2).await?;
    let producer = client.producer().build()?;
    let tasks = (0..20).map(|task| {
        let (producer, topic) = (producer.clone(), topic.clone());
        tokio::spawn(async move {
            for i in 0..200 {
                let record =
                    Record::to(&topic).partition(task % 2).key(task.to_string()).value(i.to_string());
                drop(producer.send(record).await?);
            }
            Ok::<_, SendError>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    producer.flush().await;
    let read = read_all(&client, &topic, 2).await?;
    assert_eq!(read.len(), 4000);
    for task in 0..20 {
        let key = Some(Bytes::from(task.to_string()));
        let values: Vec<_> = read.iter().filter(|r| r.key == key).filter_map(|r| r.value.clone()).collect();
        let expected: Vec<_> = (0..200).map(|i| Bytes::from(i.to_string())).collect();
        assert_eq!(values, expected, "task {task}");
    }
    Ok(())
}

#[tokio::test]
async fn records_sent_together_share_batches_and_one_handle() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("together", 4).await?;
    let producer = client.producer().compression(Compression::Lz4).build()?;
    let values: Vec<_> = (0..20_000).map(|i| format!("value-{i}")).collect();
    let handle = producer.topic(&topic);
    let sent = producer.send_all(values.iter().map(|value| handle.record().key(value).value(value))).await?;
    assert_eq!(sent.len(), values.len());
    sent.all().await?;
    let deliveries = try_join_all(sent.into_each()).await?;
    let mut read = read_all(&client, &topic, 4).await?;
    read.sort_by_key(|record| (record.partition, record.offset));
    assert_eq!(read.len(), values.len());
    for (value, written) in values.iter().zip(deliveries) {
        let at = read.binary_search_by_key(&(written.partition, written.offset), |r| (r.partition, r.offset));
        let found = at.ok().and_then(|at| read.get(at)).ok_or("an acknowledged record is not there")?;
        assert_eq!(found.value.as_deref(), Some(value.as_bytes()));
    }
    Ok(())
}

#[tokio::test]
async fn a_topic_made_anew_under_its_old_name_starts_at_offset_0_and_gets_no_old_record() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("phoenix", 1).await?;
    let admin = Admin::new(client.clone());
    let producer = client.producer().build()?;
    for i in 0..10 {
        producer.send(Record::to(&topic).value(format!("old {i}"))).await?.await?;
    }
    admin.delete_topics([&topic]).await?.all()?;
    eventually("the topic is made anew", async || {
        Ok(admin.create_topics([NewTopic::new(&topic, 1, 1)]).await?.all().is_ok())
    })
    .await?;
    // What was addressed to the old topic fails, and may be sent again.
    let mut written = None;
    eventually("the new topic is found", async || {
        let sent = producer.send(Record::to(&topic).value("new")).await?.await;
        match sent {
            Ok(acknowledgement) => written = Some(acknowledgement.offset),
            Err(error) => assert!(error.is_retriable() && !error.possibly_written(), "{error}"),
        }
        Ok(written.is_some())
    })
    .await?;
    assert_eq!(written, Some(0));
    let read = read_all(&client, &topic, 1).await?;
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].value.as_deref(), Some(&b"new"[..]));
    Ok(())
}

#[tokio::test]
async fn a_compressed_batch_above_the_topics_limit_is_split_until_it_fits() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic_with("tight", 1, &[("max.message.bytes", "4000")]).await?;
    let producer = client.producer().compression(Compression::ZSTD).batch_size(64 * 1024).build()?;
    let mut events = producer.events();
    // Random text, which does not shrink to the limit.
    let values: Vec<_> =
        (0..500u64).map(|i| format!("{:x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let sent = producer.send_all(values.iter().map(|value| Record::to(&topic).value(value))).await?;
    sent.all().await?;
    let read = read_all(&client, &topic, 1).await?;
    let found: Vec<_> = read.iter().filter_map(|record| record.value.clone()).collect();
    assert_eq!(found, values);
    assert!(matches!(events.try_recv(), Ok(ProducerEvent::BatchSplit { .. })));
    Ok(())
}
