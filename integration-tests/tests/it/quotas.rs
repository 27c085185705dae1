//! What a client does when the broker throttles it (KIP-219).

use std::time::Instant;

use integration_tests::{Cluster, TestResult, unique};
use kafka_client::producer::ProducerEvent;
use kafka_client::wire::messages::AlterClientQuotasRequest;
use kafka_client::wire::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_client::wire::{ErrorCode, StrBytes};
use kafka_client::{Client, Record, RequestError, TopicPartition};

/// Bytes a second. Kafka averages over eleven seconds, so that a burst of so many times as much passes at first.
const QUOTA: usize = 10_000;
const RECORDS: usize = 107;
const RECORD_BYTES: usize = 1000;

#[tokio::test]
async fn a_throttled_producer_waits_as_long_as_it_is_asked_to_and_loses_nothing() -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("throttled", 1).await?;
    let client_id = unique("throttled-client");
    let client = Client::builder(cluster.bootstrap_servers()).client_id(&*client_id).connect().await?;
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let quota = AlterClientQuotasRequest::default().with_entries(vec![
        EntryData::default()
            .with_entity(vec![
                EntityData::default()
                    .with_entity_type(text("client-id"))
                    .with_entity_name(Some(text(&client_id))),
            ])
            .with_ops(vec![OpData::default().with_key(text("producer_byte_rate")).with_value(QUOTA as f64)]),
    ]);
    match client.request(quota).await {
        Ok(answer) => assert_eq!(ErrorCode::from(answer.entries[0].error_code), ErrorCode::None),
        // Our broker has no quotas yet.
        Err(RequestError::Unsupported(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let producer = client.producer().batch_size(RECORD_BYTES).build()?;
    let mut events = producer.events();
    let began = Instant::now();
    let value = vec![b'x'; RECORD_BYTES];
    let records = (0..RECORDS).map(|_| Record::to(&topic).value(&value));
    producer.send_all(records).await?.all().await?;
    let pauses = std::iter::from_fn(|| events.try_recv().ok())
        .filter(|event| matches!(event, ProducerEvent::Throttled { .. }))
        .count();
    assert!(pauses > 0, "no pause in {:?}", began.elapsed());
    let end = client.consumer().assign([TopicPartition::new(&*topic, 0)]).build()?;
    let offsets = end.end_offsets([TopicPartition::new(&*topic, 0)]).await?;
    assert_eq!(offsets.into_values().collect::<Vec<_>>(), [RECORDS as i64]);
    Ok(())
}
