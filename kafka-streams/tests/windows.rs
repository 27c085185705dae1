//! Windowed aggregates in the test driver.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::time::Duration;

use kafka_streams::testing::TestDriver;
use kafka_streams::{
    Emit, SessionWindows, SlidingWindows, Store, StreamsBuilder, TimeWindows, Topology, Windowed,
};
use proptest::prelude::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Counts by key and writes `key@start-end` and the count.
fn counts(cut: impl FnOnce(&StreamsBuilder) -> kafka_streams::KTable<Windowed<String>, i64>) -> Topology {
    let builder = StreamsBuilder::new();
    cut(&builder)
        .to_stream()
        .map(|window, count| (format!("{}@{}-{}", window.key, window.start, window.end), count))
        .to("out");
    builder.build().unwrap()
}

fn run(topology: &Topology, input: &[(&str, i64)]) -> Vec<(String, Option<i64>, i64)> {
    let mut driver = TestDriver::new(topology).unwrap();
    for (key, timestamp) in input {
        driver.input::<String, String>("in").pipe((*key).into(), "v".into(), *timestamp).unwrap();
    }
    let records = driver.output::<String, Option<i64>>("out").read_records().unwrap();
    records.into_iter().map(|record| (record.key, record.value, record.timestamp)).collect()
}

fn rows(expected: &[(&str, i64, i64)]) -> Vec<(String, Option<i64>, i64)> {
    expected.iter().map(|(key, count, time)| ((*key).to_owned(), Some(*count), *time)).collect()
}

#[test]
fn tumbling_windows_take_late_records_until_their_grace_is_over() {
    let topology = counts(|b| {
        b.stream::<String, String>("in")
            .group_by_key("g")
            .windowed_by(TimeWindows::tumbling(ms(10)).grace(ms(5)))
            .count(Store::window("counts"))
    });
    // At 15 the window that ended at 10 is over.
    let out =
        run(&topology, &[("a", 1), ("a", 9), ("a", 12), ("a", 3), ("b", 14), ("a", 9), ("b", 15), ("a", 9)]);
    assert_eq!(
        out,
        rows(&[
            ("a@0-10", 1, 1),
            ("a@0-10", 2, 9),
            ("a@10-20", 1, 12),
            ("a@0-10", 3, 9),
            ("b@10-20", 1, 14),
            ("a@0-10", 4, 9),
            ("b@10-20", 2, 15),
        ])
    );
}

#[test]
fn hopping_windows_overlap() {
    let topology = counts(|b| {
        b.stream::<String, String>("in")
            .group_by_key("g")
            .windowed_by(TimeWindows::hopping(ms(10), ms(5)))
            .count(Store::window("counts"))
    });
    let out = run(&topology, &[("a", 7), ("a", 11)]);
    assert_eq!(out, rows(&[("a@0-10", 1, 7), ("a@5-15", 1, 7), ("a@5-15", 2, 11), ("a@10-20", 1, 11)]));
}

#[test]
fn windows_that_close_are_each_forwarded_once_and_survive_a_crash() {
    let topology = counts(|b| {
        b.stream::<String, String>("in")
            .group_by_key("g")
            .windowed_by(TimeWindows::tumbling(ms(10)))
            .emit(Emit::OnClose)
            .count(Store::window("counts"))
    });
    let out = run(&topology, &[("b", 1), ("a", 2), ("a", 9), ("c", 25), ("a", 4), ("d", 1000)]);
    assert_eq!(out, rows(&[("a@0-10", 2, 9), ("b@0-10", 1, 1), ("c@20-30", 1, 25)]));

    let mut driver = TestDriver::new(&topology).unwrap();
    driver.input::<String, String>("in").pipe("a".into(), "v".into(), 5).unwrap();
    driver.crash_and_restore().unwrap();
    driver.input::<String, String>("in").pipe("b".into(), "v".into(), 11).unwrap();
    let out = driver.output::<String, Option<i64>>("out").read_all().unwrap();
    assert_eq!(out, [("a@0-10".to_owned(), Some(1))]);
}

#[test]
fn sessions_grow_and_merge() {
    let topology = counts(|b| {
        b.stream::<String, String>("in")
            .group_by_key("g")
            .windowed_by(SessionWindows::gap(ms(10)).grace(ms(100)))
            .count(Store::session("counts"))
    });
    let out = run(&topology, &[("a", 10), ("a", 30), ("a", 20), ("a", 20)]);
    assert_eq!(
        out,
        [
            ("a@10-10".to_owned(), Some(1), 10),
            ("a@30-30".to_owned(), Some(1), 30),
            // The record between joins both.
            ("a@10-10".to_owned(), None, 10),
            ("a@30-30".to_owned(), None, 30),
            ("a@10-30".to_owned(), Some(3), 30),
            ("a@10-30".to_owned(), None, 30),
            ("a@10-30".to_owned(), Some(4), 30),
        ]
    );
}

#[test]
fn sessions_that_close_are_forwarded_once() {
    let topology = counts(|b| {
        b.stream::<String, String>("in")
            .group_by_key("g")
            .windowed_by(SessionWindows::gap(ms(10)))
            .emit(Emit::OnClose)
            .count(Store::session("counts"))
    });
    let out = run(&topology, &[("a", 10), ("b", 15), ("a", 18), ("b", 40), ("a", 5)]);
    assert_eq!(out, rows(&[("b@15-15", 1, 15), ("a@10-18", 2, 18)]));
}

#[test]
fn streams_of_different_values_fill_one_windowed_aggregate() {
    let build = |cut: &'static str| {
        let builder = StreamsBuilder::new();
        let right = builder.stream::<String, i64>("right").group_by_key("r");
        let both = builder
            .stream::<String, String>("left")
            .group_by_key("l")
            .cogroup(|_, text, total: &mut i64| *total += text.len() as i64)
            .cogroup(right, |_, number, total| *total += number);
        let grace = ms(1000);
        let table = match cut {
            "time" => both.aggregate_in(TimeWindows::tumbling(ms(10)).grace(grace), || 0, Store::window("w")),
            "sliding" => {
                both.aggregate_in_sliding(SlidingWindows::of(ms(10)).grace(grace), || 0, Store::window("w"))
            }
            _ => {
                let sessions = SessionWindows::gap(ms(10)).grace(grace);
                both.aggregate_in_sessions(sessions, || 0, |_, all, more| *all += more, Store::session("w"))
            }
        };
        table.to_stream().map(|w, total| (format!("{}@{}-{}", w.key, w.start, w.end), total)).to("out");
        let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
        driver.input::<String, String>("left").pipe("k".into(), "abc".into(), 12).unwrap();
        driver.input::<String, i64>("right").pipe("k".into(), 10, 17).unwrap();
        driver.crash_and_restore().unwrap();
        driver.input::<String, String>("left").pipe("k".into(), "x".into(), 19).unwrap();
        let out = driver.output::<String, Option<i64>>("out").read_all().unwrap();
        out.into_iter()
            .filter_map(|(window, total)| Some((window, total?)))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(build("time"), [("k@10-20".to_owned(), 14)].into());
    assert_eq!(
        build("session"),
        [("k@12-12".to_owned(), 3), ("k@12-17".to_owned(), 13), ("k@12-19".to_owned(), 14)].into()
    );
    let sliding = build("sliding");
    assert_eq!(
        (sliding["k@2-12"], sliding["k@7-17"], sliding["k@9-19"], sliding["k@13-23"]),
        (3, 13, 14, 11)
    );
}

proptest! {
    /// A sliding window is there for each stretch of time that ends with a record or begins right after one, and has
    /// exactly the records in it.
    #[test]
    fn sliding_windows_hold_the_records_between_their_ends(
        times in prop::collection::vec(20i64..80, 1..25),
    ) {
        const DIFFERENCE: i64 = 10;
        let topology = counts(|b| {
            b.stream::<String, String>("in")
                .group_by_key("g")
                .windowed_by(SlidingWindows::of(ms(DIFFERENCE as u64)).grace(ms(1000)))
                .count(Store::window("counts"))
        });
        let input: Vec<_> = times.iter().map(|time| ("a", *time)).collect();
        let mut latest = std::collections::BTreeMap::new();
        for (window, count, _) in run(&topology, &input) {
            latest.insert(window, count.unwrap());
        }
        let within = |start: i64| times.iter().filter(|time| (start..=start + DIFFERENCE).contains(*time)).count() as i64;
        let mut expected = std::collections::BTreeMap::new();
        for time in &times {
            for start in [time - DIFFERENCE, time + 1] {
                if within(start) > 0 {
                    expected.insert(format!("a@{start}-{}", start + DIFFERENCE), within(start));
                }
            }
        }
        prop_assert_eq!(latest, expected);
    }

    /// Whatever order records come in, closed windows hold what was in time and are forwarded once, in the order of
    /// their starts and keys.
    #[test]
    fn closed_windows_hold_what_was_in_time(
        input in prop::collection::vec((0..3u8, 0i64..100), 1..40),
        grace in 0i64..20,
    ) {
        let topology = counts(|b| {
            b.stream::<String, String>("in")
                .group_by_key("g")
                .windowed_by(TimeWindows::tumbling(ms(10)).grace(ms(grace as u64)))
                .emit(Emit::OnClose)
                .count(Store::window("counts"))
        });
        let mut records: Vec<(String, i64)> = input.iter().map(|(key, time)| (format!("k{key}"), *time)).collect();
        records.push(("end".to_owned(), 10_000));
        let borrowed: Vec<_> = records.iter().map(|(key, time)| (key.as_str(), *time)).collect();
        let out = run(&topology, &borrowed);
        let (mut observed, mut expected) = (-1, std::collections::BTreeMap::<(i64, String), i64>::new());
        for (key, time) in &records[..records.len() - 1] {
            observed = observed.max(*time);
            let start = time / 10 * 10;
            if start + 10 > observed - grace {
                *expected.entry((start, key.clone())).or_default() += 1;
            }
        }
        let expected: Vec<_> = expected
            .into_iter()
            .map(|((start, key), count)| (format!("{key}@{start}-{}", start + 10), Some(count)))
            .collect();
        prop_assert_eq!(out.into_iter().map(|(key, count, _)| (key, count)).collect::<Vec<_>>(), expected);
    }
}
