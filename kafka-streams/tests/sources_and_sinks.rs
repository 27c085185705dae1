//! Which time records have, and where they go.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use kafka_streams::config::ProcessingHandler;
use kafka_streams::testing::{DriverError, TestDriver};
use kafka_streams::{
    Consumed, Grouped, Partitions, Produced, Repartitioned, Store, StreamsBuilder, StreamsError,
    TimestampExtractor,
};

fn timed(extractor: TimestampExtractor<String, String>) -> TestDriver {
    let builder = StreamsBuilder::new();
    builder.stream(Consumed::<String, String>::topics(["in"]).timestamps(extractor)).to("out");
    TestDriver::new(&builder.build().unwrap()).unwrap()
}

fn pipe(driver: &mut TestDriver, value: &str, timestamp: i64) -> Result<(), DriverError> {
    driver.input::<String, String>("in").pipe("k".to_owned(), value.to_owned(), timestamp)
}

fn times(driver: &mut TestDriver) -> Vec<i64> {
    let records = driver.output::<String, String>("out").read_records().unwrap();
    records.into_iter().map(|record| record.timestamp).collect()
}

#[test]
fn a_record_without_a_timestamp_is_handled_as_the_extractor_says() {
    let mut driver = timed(TimestampExtractor::FailOnInvalidTimestamp);
    pipe(&mut driver, "a", 5).unwrap();
    let DriverError::Streams(error) = pipe(&mut driver, "b", -1).unwrap_err() else { panic!() };
    assert!(matches!(*error, StreamsError::InvalidTimestamp { timestamp: -1, .. }), "{error}");

    let mut driver = timed(TimestampExtractor::LogAndSkipOnInvalidTimestamp);
    for time in [5, -1, 6] {
        pipe(&mut driver, "a", time).unwrap();
    }
    assert_eq!((times(&mut driver), driver.dropped_records()), (vec![5, 6], 1));

    let mut driver = timed(TimestampExtractor::UsePartitionTimeOnInvalidTimestamp);
    for time in [9, 5, -1] {
        pipe(&mut driver, "a", time).unwrap();
    }
    assert_eq!(times(&mut driver), [9, 5, 9]);
    let mut driver = timed(TimestampExtractor::UsePartitionTimeOnInvalidTimestamp);
    assert!(pipe(&mut driver, "a", -1).is_err(), "there is no partition time yet");

    let mut driver = timed(TimestampExtractor::WallclockTimestamp);
    driver.advance_wall_time(70).unwrap();
    pipe(&mut driver, "a", -1).unwrap();
    assert_eq!(times(&mut driver), [70]);
}

#[test]
fn an_extractor_of_ones_own_sees_the_record_and_the_partitions_time() {
    let mut driver = timed(TimestampExtractor::<String, String>::custom(|from| match from.value.parse() {
        Ok(time) => time,
        Err(_) => from.partition_time + 1,
    }));
    for value in ["20", "later", "10", "-3", "later"] {
        pipe(&mut driver, value, 1000).unwrap();
    }
    assert_eq!((times(&mut driver), driver.dropped_records()), (vec![20, 21, 10, 22], 1));
}

#[test]
fn records_are_taken_in_the_order_of_the_times_that_their_sources_give_them() {
    let builder = StreamsBuilder::new();
    let consumed = Consumed::<String, String>::topics(["first"]);
    let first = builder.stream(consumed.timestamps_by(|from| from.value.parse().unwrap_or(-1)));
    first.repartition("one").merge(builder.stream::<String, String>("in").repartition("two")).to("out");
    let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
    driver.input::<String, String>("first").pipe("k".to_owned(), "7".to_owned(), 1000).unwrap();
    pipe(&mut driver, "x", 8).unwrap();
    // The repartition topics carry the times on.
    assert_eq!(times(&mut driver), [7, 8]);
}

#[test]
fn each_record_says_which_topic_it_goes_to() {
    let builder = StreamsBuilder::new();
    let stream = builder.stream::<String, String>("in");
    stream
        .to(Produced::<String, String>::by_record(|record| format!("{}-{}", record.value, record.timestamp)));
    let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
    for (value, time) in [("a", 1), ("b", 1), ("a", 1)] {
        pipe(&mut driver, value, time).unwrap();
    }
    assert_eq!(driver.output::<String, String>("a-1").read_all().unwrap().len(), 2);
    assert_eq!(driver.output::<String, String>("b-1").read_all().unwrap().len(), 1);
}

#[test]
fn a_partitioner_chooses_one_partition_or_several_or_none() {
    let builder = StreamsBuilder::new();
    let produced = Produced::<String, String>::to("out").partitioner(|topic, _, value, count| {
        assert_eq!((topic, count), ("out", 3));
        match value.as_str() {
            "all" => Partitions::Many((0..count).collect()),
            "none" => Partitions::Drop,
            "key" => Partitions::Default,
            other => Partitions::One(other.parse().unwrap_or(-1)),
        }
    });
    builder.stream::<String, String>("in").to(produced);
    let mut driver = TestDriver::with_partitions(&builder.build().unwrap(), "app", 3).unwrap();
    for value in ["all", "none", "2"] {
        pipe(&mut driver, value, 0).unwrap();
    }
    let written = |driver: &mut TestDriver| {
        let records = driver.output::<String, String>("out").read_records().unwrap();
        records.into_iter().map(|record| (record.partition, record.value)).collect::<Vec<_>>()
    };
    let all = "all".to_owned();
    assert_eq!(written(&mut driver), [(0, all.clone()), (1, all.clone()), (2, all), (2, "2".to_owned())]);
    assert_eq!(driver.dropped_records(), 1);
    pipe(&mut driver, "key", 0).unwrap();
    assert_eq!(written(&mut driver).len(), 1);
    let error = pipe(&mut driver, "3", 0).unwrap_err();
    assert!(error.to_string().contains("the partitioner chose partition 3 of 3"), "{error}");
}

#[test]
fn a_repartition_topic_is_partitioned_as_it_was_told() {
    let builder = StreamsBuilder::new();
    let by_length = Repartitioned::<String, String>::auto()
        .named("by-length")
        .partitioner(|_, _, value, count| Partitions::One(value.len() as i32 % count));
    let stream = builder.stream::<String, String>("in").repartition(by_length);
    let _ = stream.group_by_key(Grouped::auto()).count(Store::kv("counts"));
    let mut driver = TestDriver::with_partitions(&builder.build().unwrap(), "app", 2).unwrap();
    for value in ["a", "aa", "aaa"] {
        pipe(&mut driver, value, 0).unwrap();
    }
    let counts = driver.stores::<String, i64>("counts").unwrap();
    let counts: Vec<_> = counts.iter().map(|store| store.get(&"k".to_owned()).unwrap()).collect();
    assert_eq!(counts, [Some(1), Some(2)]);
}

#[test]
fn operators_that_may_fail_leave_out_what_failed_and_only_that() {
    let builder = StreamsBuilder::new();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let see = std::sync::Arc::clone(&seen);
    let number = |text: &str| text.parse::<i64>();
    let stream = builder.stream::<String, String>("in");
    stream
        .clone()
        .try_filter(move |_, text| number(text).map(|n| n > 1))
        .try_map_values(|_, text| text.parse::<i64>())
        .try_map(|key, n| if n == 3 { Err("no three") } else { Ok((key, n)) })
        .try_flat_map(|key, n| if n == 4 { Err("no four") } else { Ok([(key.clone(), n), (key, -n)]) })
        .to("out");
    stream.try_for_each(move |_, text| match text.as_str() {
        "5" => Err("no five"),
        _ => {
            see.lock().unwrap().push(text);
            Ok(())
        }
    });
    let driver = TestDriver::new(&builder.build().unwrap()).unwrap();
    let driver = driver.processing_handler(ProcessingHandler::LogAndContinue).unwrap();
    let mut driver = driver.dead_letter_queue("dlq").unwrap();
    for value in ["1", "x", "2", "3", "4", "5"] {
        pipe(&mut driver, value, 0).unwrap();
    }
    let out = driver.output::<String, i64>("out").read_all().unwrap();
    assert_eq!(out.into_iter().map(|(_, n)| n).collect::<Vec<_>>(), [2, -2, 5, -5]);
    assert_eq!(*seen.lock().unwrap(), ["1", "x", "2", "3", "4"]);
    let letters = driver.output::<String, String>("dlq").read_all().unwrap();
    assert_eq!(letters.into_iter().map(|(_, text)| text).collect::<Vec<_>>(), ["x", "3", "4", "5"]);
    assert_eq!(driver.dropped_records(), 4);
}
