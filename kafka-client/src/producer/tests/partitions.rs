//! Which partition a record goes to.

use super::*;
use crate::producer::partitioner::TopicView;

async fn partitions_of<'a>(producer: &Producer, records: impl IntoIterator<Item = Record<'a>>) -> Vec<i32> {
    let mut partitions = Vec::new();
    for record in records {
        partitions.push(producer.send(record).await.unwrap().await.unwrap().partition);
    }
    partitions
}

const LONG: &str = "this is another string with more length to it perhaps";

#[tokio::test(start_paused = true)]
async fn keys_go_where_librdkafka_sends_them() {
    // Figures from librdkafka's tests/0048-partitioner.c, of 17 partitions.
    for (name, hashes) in [
        ("consistent", [0, 0xb1b4_51d7, 0xb015_0df7, 0xd077_037e_u32]),
        ("murmur2", [0x106e_08d9, 0x058d_780f, 0x4f77_03da, 0x5ec1_9395]),
        ("fnv1a", [0x7ee3_623b, 0x27e6_f469, 0x155e_3e5f, 0x17b1_e27a]),
    ] {
        let broker = FakeBroker::new(17);
        let expected: Vec<_> = hashes.iter().map(|hash| (hash % 17) as i32).collect();
        for partitioning in [name.to_owned(), format!("{name}_random")] {
            let partitioning = partitioning.parse::<Partitioning>().unwrap();
            let client = client(&broker);
            let producer =
                client.producer().linger(Duration::ZERO).partitioner(partitioning).build().unwrap();
            let keys = ["23456", LONG, "hejsan"].map(|key| Record::to("t").key(key).value("v"));
            assert_eq!(partitions_of(&producer, keys).await, expected[1..], "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_key_and_an_empty_key_are_not_the_same() {
    let broker = FakeBroker::new(17);
    let client = client(&broker);
    let of = async |name: &str, record: fn() -> Record<'static>| {
        let partitioning = name.parse::<Partitioning>().unwrap();
        let producer =
            client.producer().linger(Duration::ZERO).batch_size(1).partitioner(partitioning).build().unwrap();
        let mut partitions = partitions_of(&producer, (0..20).map(|_| record())).await;
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    };
    let null: fn() -> Record<'static> = || Record::to("t").value("v");
    let empty: fn() -> Record<'static> = || Record::to("t").key("").value("v");
    let hash_of_nothing = vec![0x106e_08d9 % 17];
    assert!(of("murmur2_random", null).await.len() > 1);
    assert_eq!(of("murmur2_random", empty).await, hash_of_nothing);
    assert_eq!(of("murmur2", null).await, hash_of_nothing);
    assert_eq!(of("consistent", null).await, [0]);
    // librdkafka takes an empty key for none here, and only here.
    assert!(of("consistent_random", empty).await.len() > 1);
    assert_eq!(of("fnv1a_random", empty).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_can_be_ignored() {
    let broker = FakeBroker::new(17);
    let client = client(&broker);
    let producer = client.producer().batch_size(1).partitioner_ignore_keys(true).build().unwrap();
    let partitions = partitions_of(&producer, (0..20).map(|_| Record::to("t").key("k").value("v"))).await;
    assert!(partitions.iter().any(|&partition| partition != partitions[0]), "{partitions:?}");
}

#[tokio::test(start_paused = true)]
async fn round_robin_visits_every_partition() {
    let broker = FakeBroker::new(3);
    let client = client(&broker);
    let producer =
        client.producer().linger(Duration::ZERO).partitioner(Partitioning::RoundRobin).build().unwrap();
    let partitions = partitions_of(&producer, (0..6).map(|_| Record::to("t").key("same").value("v"))).await;
    assert_eq!(partitions, [0, 1, 2, 0, 1, 2]);
    let sent = producer.send_all((0..6).map(|_| Record::to("t").value("v"))).await.unwrap();
    let partitions: Vec<_> = sent.into_each().map(|delivery| delivery.partition().partition).collect();
    assert_eq!(partitions, [0, 1, 2, 0, 1, 2]);
}

/// Records for the south go to the last partition, all others where keys send them.
#[derive(Debug)]
struct South;

impl Partitioner for South {
    fn partition(&self, record: &Record<'_>, topic: &TopicView<'_>) -> Option<i32> {
        assert_eq!(topic.name(), "t");
        assert!(topic.is_available(0) && !topic.is_available(99));
        let south = record.headers().iter().any(|header| &*header.key == "south");
        south.then(|| topic.partition_count() - 1)
    }
}

#[tokio::test(start_paused = true)]
async fn an_applications_partitioner_sees_the_whole_record() {
    let broker = FakeBroker::new(5);
    let client = client(&broker);
    let producer = client.producer().partitioner(Partitioning::custom(South)).build().unwrap();
    let partitions = partitions_of(
        &producer,
        [Record::to("t").header("south", "yes").value("v"), record("x").partition(1)],
    )
    .await;
    assert_eq!(partitions, [4, 1]);
    let sent =
        producer.send_all((0..10).map(|_| Record::to("t").header("south", "yes").value("v"))).await.unwrap();
    sent.all().await.unwrap();
    assert_eq!((sent.len(), broker.values(4).len()), (10, 11));
}
