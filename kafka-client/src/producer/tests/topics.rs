//! Topics by id: made, grown and made anew (KIP-516).

use super::*;

#[tokio::test(start_paused = true)]
async fn a_topic_with_an_id_is_written_by_it() {
    let broker = FakeBroker::new(1);
    broker.set_topic_id(11);
    let producer = client(&broker).producer().build().unwrap();
    assert_eq!(producer.send(record("a")).await.unwrap().await.unwrap().offset, 0);
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_gets_what_is_sent_later_and_nothing_of_what_was_on_the_way() {
    let broker = FakeBroker::new(1);
    broker.set_topic_id(11);
    let client = client(&broker);
    let producer = client.producer().build().unwrap();
    let mut events = producer.events();
    producer.send(record("old")).await.unwrap().await.unwrap();
    broker.set_topic_id(12);
    // The batch meets a broker that knows only the new topic.
    let error = producer.send(record("on the way")).await.unwrap().await.unwrap_err();
    assert!(matches!(error, SendError::TopicRecreated { possibly_written: false, .. }), "{error}");
    assert!(error.is_retriable());
    assert!(matches!(events.try_recv(), Ok(ProducerEvent::TopicRecreated { .. })));
    let acknowledged = producer.send(record("new")).await.unwrap().await.unwrap();
    assert_eq!(acknowledged.offset, 0);
    assert_eq!(broker.values(0), ["new"]);
}

#[tokio::test(start_paused = true)]
async fn an_open_batch_does_not_move_to_a_topic_made_anew() {
    let broker = FakeBroker::new(2);
    broker.set_topic_id(11);
    let client = client(&broker);
    let producer = client.producer().linger(Duration::from_secs(30)).build().unwrap();
    producer.send(record("warm").partition(1)).await.unwrap().await.unwrap();
    let lingering = producer.send(record("lingers")).await.unwrap();
    broker.set_topic_id(12);
    client.refresh_topics(["t"]).await.unwrap();
    let error = lingering.await.unwrap_err();
    assert!(matches!(error, SendError::TopicRecreated { possibly_written: false, .. }), "{error}");
    drop(producer.send(record("new")).await.unwrap());
    producer.flush().await;
    assert_eq!(broker.values(0), ["new"]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_id_that_the_broker_does_not_know_yet_is_asked_for_again() {
    let broker = FakeBroker::new(1);
    broker.set_topic_id(11);
    let producer = client(&broker).producer().build().unwrap();
    broker.set_error(Some(ErrorCode::UnknownTopicId));
    let delivery = producer.send(record("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    broker.set_error(None);
    assert_eq!(delivery.await.unwrap().offset, 0);
}

#[tokio::test(start_paused = true)]
async fn a_leader_named_by_an_answer_gets_the_batch_at_once_though_metadata_knows_neither() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().linger(Duration::ZERO).build().unwrap();
    producer.send(record("a")).await.unwrap().await.unwrap();
    let mut events = producer.events();
    broker.move_leaders();
    let started = Instant::now();
    assert_eq!(producer.send(record("b")).await.unwrap().await.unwrap().offset, 1);
    assert!(started.elapsed() < Duration::from_millis(50), "{:?}", started.elapsed());
    assert!(matches!(events.try_recv(), Ok(ProducerEvent::LeaderMoved { from: 1, to: 2, .. })));
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_the_topic_just_grew_is_found_by_asking() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    producer.send(record("a")).await.unwrap().await.unwrap();
    broker.set_partitions(3);
    let acknowledged = producer.send(record("b").partition(2)).await.unwrap().await.unwrap();
    assert_eq!((acknowledged.partition, acknowledged.offset), (2, 0));
    let error = producer.send(record("c").partition(3)).await.unwrap_err();
    assert!(matches!(error, SendError::UnknownPartition { partition: 3, count: 3, .. }), "{error}");
    let error = producer.send(record("d").partition(-7)).await.unwrap_err();
    assert!(matches!(error, SendError::UnknownPartition { partition: -7, .. }), "{error}");
}

/// Whoever only tried never learned a topic: nobody had asked for it.
#[tokio::test(start_paused = true)]
async fn trying_alone_gets_to_know_the_topic_in_the_end() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    let mut tries = 0;
    let delivery = loop {
        match producer.try_send(record("a")) {
            Ok(delivery) => break delivery,
            Err(TrySendError::Full(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(TrySendError::Failed(error)) => panic!("{error}"),
        }
        tries += 1;
        assert!(tries < 100);
    };
    assert_eq!(delivery.await.unwrap().offset, 0);
    assert!(matches!(
        producer.try_send(Record::to("not a name")),
        Err(TrySendError::Failed(SendError::InvalidTopic { .. }))
    ));
}

#[test]
fn trying_outside_of_a_runtime_gives_the_record_back() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    assert!(matches!(producer.try_send(record("a")), Err(TrySendError::Full(_))));
}
