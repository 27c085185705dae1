//! Memory, linger and deadlines.

use super::*;

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_memory_ends_every_linger() {
    let broker = FakeBroker::new(2);
    let client = client(&broker);
    let producer = client
        .producer()
        .linger(Duration::from_secs(60))
        .batch_size(1000)
        .buffer_memory(2000)
        .build()
        .unwrap();
    let started = Instant::now();
    for partition in [0, 1] {
        drop(producer.send(record("lingers").partition(partition)).await.unwrap());
    }
    // Both batches are open and hold all the memory; a third one of this size needs some.
    let large = "x".repeat(900);
    drop(producer.send(record(&large).partition(0)).await.unwrap());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    producer.flush().await;
    assert_eq!(broker.all_values().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn max_block_is_shared_by_the_waits_for_metadata_and_for_room() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker)
        .producer()
        .batch_size(1000)
        .buffer_memory(1000)
        .max_block(Duration::from_secs(5))
        .build()
        .unwrap();
    producer.send(record("warm")).await.unwrap().await.unwrap();
    broker.set_silent(true);
    let large = "x".repeat(800);
    drop(producer.send(record(&large)).await.unwrap());
    broker.set_metadata_error(Some(ErrorCode::LeaderNotAvailable));
    let started = Instant::now();
    let sending = producer.send(Record::to("t2").value(&large));
    let later = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        broker.set_metadata_error(None);
    };
    // Three seconds for the metadata, and what is left for the room.
    let (error, ()) = futures::join!(sending, later);
    let error = error.unwrap_err();
    assert!(matches!(error, SendError::BufferFull { .. }), "{error}");
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn senders_get_memory_in_the_order_in_which_they_came() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker)
        .producer()
        .linger(Duration::ZERO)
        .batch_size(1000)
        .buffer_memory(1000)
        .build()
        .unwrap();
    producer.send(record("warm")).await.unwrap().await.unwrap();
    broker.set_silent(true);
    drop(producer.send(record(&"x".repeat(900))).await.unwrap());
    let mut waiting = Vec::new();
    for i in 0..5 {
        let producer = producer.clone();
        waiting.push(tokio::spawn(async move {
            let text = format!("{i}{}", "x".repeat(800));
            drop(producer.send(record(&text)).await.unwrap());
        }));
        tokio::task::yield_now().await;
    }
    broker.set_silent(false);
    for sender in waiting {
        sender.await.unwrap();
    }
    producer.flush().await;
    let firsts: Vec<u8> = broker.values(0).iter().map(|value| value[0]).collect();
    assert_eq!(firsts, b"wx01234");
}

#[tokio::test(start_paused = true)]
async fn delivery_timeout_counts_from_the_first_record_and_so_contains_linger() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker)
        .producer()
        .linger(Duration::from_secs(15))
        .delivery_timeout(Duration::from_secs(50))
        .build()
        .unwrap();
    producer.send(record("warm")).await.unwrap().await.unwrap();
    broker.set_silent(true);
    let started = Instant::now();
    let error = producer.send(record("a")).await.unwrap().await.unwrap_err();
    assert!(error.possibly_written(), "{error}");
    assert_eq!(started.elapsed().as_secs(), 50);
}

#[tokio::test(start_paused = true)]
async fn records_of_a_batch_keep_timestamps_of_their_own() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    let mut deliveries = Vec::new();
    for timestamp in [3000, 1000, 2000] {
        deliveries.push(producer.send(record("a").timestamp(timestamp)).await.unwrap());
    }
    let mut timestamps = Vec::new();
    for delivery in deliveries {
        timestamps.push(delivery.await.unwrap().timestamp);
    }
    assert_eq!(timestamps, [3000, 1000, 2000]);
    assert_eq!(broker.produce_requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_records_sent_together_are_written_in_order_and_told_by_one_handle() {
    let broker = FakeBroker::new(3);
    let producer = client(&broker).producer().batch_size(1000).build().unwrap();
    let texts: Vec<_> = (0..300).map(|i| format!("record {i:03}")).collect();
    let records = texts.iter().zip(0..).map(|(text, i)| record(text).partition(i % 3));
    let sent = producer.send_all(records).await.unwrap();
    assert_eq!(sent.len(), 300);
    sent.all().await.unwrap();
    for partition in 0..3 {
        let expected: Vec<_> = texts.iter().skip(partition).step_by(3).cloned().collect();
        assert_eq!(broker.values(partition as i32), expected);
    }
    let offsets: Vec<_> =
        sent.into_each().map(|delivery| delivery.now_or_never().unwrap().unwrap().offset).collect();
    assert_eq!(offsets, (0..300).map(|i| i / 3).collect::<Vec<i64>>());
}

#[tokio::test(start_paused = true)]
async fn sending_many_waits_for_memory_as_often_as_it_must() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().batch_size(500).buffer_memory(1000).build().unwrap();
    let topic = producer.topic("t");
    let text = "x".repeat(100);
    let sent = producer.send_all((0..100).map(|_| topic.record().value(&text))).await.unwrap();
    sent.all().await.unwrap();
    assert_eq!((sent.len(), broker.values(0).len()), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn sending_many_ends_at_a_record_that_cannot_be_taken_and_tells_of_those_before() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().max_request_size(1000).build().unwrap();
    let large = "x".repeat(2000);
    let error = producer.send_all([record("a"), record("b"), record(&large), record("c")]).await.unwrap_err();
    assert!(matches!(error.source, SendError::RecordTooLarge { .. }), "{error}");
    assert_eq!(error.sent.len(), 2);
    error.sent.all().await.unwrap();
    assert_eq!(broker.values(0), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn without_acks_a_broken_connection_is_the_only_sign_of_loss() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().acks(Acks::None).build().unwrap();
    producer.send(record("a")).await.unwrap().await.unwrap();
    broker.hang_up_once();
    // Gone with the connection, and nobody says so.
    assert_eq!(producer.send(record("b")).await.unwrap().await.unwrap().offset, -1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    producer.send(record("c")).await.unwrap().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.values(0), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_with_acks_loses_nothing() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    producer.send(record("a")).await.unwrap().await.unwrap();
    broker.hang_up_once();
    assert_eq!(producer.send(record("b")).await.unwrap().await.unwrap().offset, 1);
    assert_eq!(broker.values(0), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn batches_are_filled_further_once_it_is_known_how_well_they_shrink() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker)
        .producer()
        .compression(Compression::ZSTD)
        .batch_size(4000)
        .linger(Duration::from_secs(1))
        .build()
        .unwrap();
    let text = "x".repeat(900);
    let requests = async |count: usize| {
        let before = broker.produce_requests();
        for _ in 0..count {
            drop(producer.send(record(&text)).await.unwrap());
        }
        producer.flush().await;
        broker.produce_requests() - before
    };
    let fresh = requests(40).await;
    let learning = 40;
    for _ in 0..learning {
        requests(40).await;
    }
    let learned = requests(40).await;
    assert!(learned < fresh, "{learned} requests after {fresh}");
    assert_eq!(broker.values(0).len(), 40 * (2 + learning));
}

#[tokio::test(start_paused = true)]
async fn of_thousands_of_partitions_those_that_no_request_takes_go_on_filling_their_batches() {
    let partitions = 3000;
    let broker = FakeBroker::new(partitions);
    let producer = client(&broker).producer().linger(Duration::from_millis(1)).build().unwrap();
    // From here on the leader knows the producer, so that more than one request may be under way.
    for partition in 0..partitions {
        drop(producer.send(record("warm").partition(partition)).await.unwrap());
    }
    producer.flush().await;
    broker.set_silent(true);
    let mut deliveries = Vec::new();
    for round in ["first", "second"] {
        for partition in 0..partitions {
            deliveries.push(producer.send(record(round).partition(partition)).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let open = producer.debug_snapshot().await.open_batches;
    let filled = open.iter().filter(|batch| batch.records == 2).count();
    assert!(filled >= 1900, "{filled} of {} open batches have both records", open.len());
    broker.set_silent(false);
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_kept_open_fails_when_its_time_is_over() {
    let partitions = 1200;
    let broker = FakeBroker::new(partitions);
    let producer = client(&broker)
        .producer()
        .linger(Duration::ZERO)
        .delivery_timeout(Duration::from_secs(20))
        .request_timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    producer.send(record("warm")).await.unwrap().await.unwrap();
    broker.set_silent(true);
    let started = Instant::now();
    let mut deliveries = Vec::new();
    for partition in 0..partitions {
        deliveries.push(producer.send(record("late").partition(partition)).await.unwrap());
        tokio::task::yield_now().await;
    }
    for delivery in deliveries {
        delivery.await.unwrap_err();
    }
    let limit = Duration::from_millis(20_050);
    assert!(started.elapsed() <= limit, "{:?}", started.elapsed());
}
