//! Suppression in the test driver.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::time::Duration;

use kafka_streams::serde::HasSerde;
use kafka_streams::testing::{DriverError, TestDriver};
use kafka_streams::{
    BufferConfig, Store, StreamsBuilder, StreamsError, Suppressed, TimeWindows, TopologyError,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn final_counts(buffer: BufferConfig) -> StreamsBuilder {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>("in")
        .group_by_key("g")
        .windowed_by(TimeWindows::tumbling(ms(10)).grace(ms(5)))
        .count(Store::window("counts"))
        .suppress(Suppressed::until_window_closes(buffer).named("final"))
        .to_stream()
        .map(|window, count| (format!("{}@{}", window.key, window.start), count))
        .to("out");
    builder
}

fn pipe(driver: &mut TestDriver, key: &str, timestamp: i64) -> Result<(), DriverError> {
    driver.input::<String, String>("in").pipe(key.to_owned(), "v".to_owned(), timestamp)
}

fn counts(driver: &mut TestDriver) -> Vec<(String, Option<i64>)> {
    driver.output::<String, Option<i64>>("out").read_all().unwrap()
}

#[test]
fn a_window_is_shown_once_it_takes_no_more_records() {
    let mut driver = TestDriver::new(&final_counts(BufferConfig::unbounded()).build().unwrap()).unwrap();
    for (key, time) in [("a", 1), ("b", 2), ("a", 9), ("a", 14)] {
        pipe(&mut driver, key, time).unwrap();
    }
    assert_eq!(counts(&mut driver), []);
    driver.crash_and_restore().unwrap();
    pipe(&mut driver, "b", 15).unwrap();
    assert_eq!(counts(&mut driver), [("a@0".to_owned(), Some(2)), ("b@0".to_owned(), Some(1))]);
    assert_eq!(
        driver
            .output::<bytes::Bytes, Option<bytes::Bytes>>("test-final-store-changelog")
            .read_all()
            .unwrap()
            .len(),
        7
    );
}

#[test]
fn a_full_buffer_stops_what_must_be_final_and_lets_go_what_need_not_be() {
    let strict = BufferConfig::max_records(1).shut_down_when_full();
    let mut driver = TestDriver::new(&final_counts(strict).build().unwrap()).unwrap();
    pipe(&mut driver, "a", 1).unwrap();
    let Err(DriverError::Streams(error)) = pipe(&mut driver, "b", 1) else { panic!("no error") };
    assert!(matches!(*error, StreamsError::BufferFull { records: 2, .. }), "{error}");

    let builder = StreamsBuilder::new();
    builder
        .table::<String, String>("in")
        .suppress(Suppressed::until_time_limit(ms(100), BufferConfig::max_records(1)))
        .to_stream()
        .to("out");
    let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
    for (key, value, time) in [
        ("a", Some("1"), 0),
        ("a", Some("2"), 5),
        ("b", Some("3"), 6),
        ("b", None, 120),
        ("c", Some("4"), 230),
    ] {
        let value = value.map(str::to_owned);
        driver.input::<String, Option<String>>("in").pipe(key.to_owned(), value, time).unwrap();
    }
    let records = driver.output::<String, Option<String>>("out").read_records().unwrap();
    let seen: Vec<_> = records.iter().map(|r| (r.key.as_str(), r.value.as_deref(), r.timestamp)).collect();
    // "a" went early; the deletion of "b" took the place of its first value, and its time with it.
    assert_eq!(seen, [("a", Some("2"), 5), ("b", None, 120)]);
}

#[test]
fn what_is_aggregated_behind_a_suppression_stays_right() {
    let builder = StreamsBuilder::new();
    let _ = builder
        .table::<String, i64>("in")
        .suppress(Suppressed::until_time_limit(ms(10), BufferConfig::unbounded()))
        .group_by("all", |_, value| ("all".to_owned(), value))
        .reduce(|total, value| total + value, |total, value| total - value, Store::kv("total"));
    let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
    for (value, time) in [(1, 0), (100, 11), (2, 12), (3, 13), (50, 30)] {
        driver.input::<String, i64>("in").pipe("k".to_owned(), value, time).unwrap();
    }
    let total = driver.store::<String, i64>("total").unwrap();
    assert_eq!(total.get(&"all".to_owned()).unwrap(), Some(50));
}

#[test]
fn suppressions_that_cannot_work_are_problems_of_the_topology() {
    let problems = final_counts(BufferConfig::max_records(5)).build().unwrap_err().problems;
    assert!(
        matches!(&problems[..], [TopologyError::EarlyResults { node }] if node == "final"),
        "{problems:?}"
    );
    let builder = StreamsBuilder::new();
    let suppressed = || Suppressed::until_time_limit(ms(1), BufferConfig::unbounded()).named("s");
    builder
        .table::<String, String>("in")
        .map_values(|_, v| v.len() as i64)
        .suppress(suppressed())
        .to_stream()
        .to("out");
    let problems = builder.build().unwrap_err().problems;
    assert!(matches!(&problems[..], [TopologyError::SerdesUnknown { .. }]), "{problems:?}");
    let builder = StreamsBuilder::new();
    let suppressed = suppressed().serdes(String::serde(), i64::serde());
    builder
        .table::<String, String>("in")
        .map_values(|_, v| v.len() as i64)
        .suppress(suppressed)
        .to_stream()
        .to("out");
    builder.build().unwrap();
}
