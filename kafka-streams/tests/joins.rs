//! Joins and grouped tables in the test driver.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_streams::testing::TestDriver;
use kafka_streams::{
    ChangelogRecords, JoinWindows, Joined, Store, StreamJoined, StreamsBuilder, TableJoined,
};
use proptest::prelude::*;

type Row = (String, Option<String>, i64);

fn show(value: Option<&String>) -> String {
    value.map_or("-".to_owned(), Clone::clone)
}

fn driver(build: impl FnOnce(&StreamsBuilder)) -> TestDriver {
    let builder = StreamsBuilder::new();
    build(&builder);
    TestDriver::new(&builder.build().unwrap()).unwrap()
}

fn pipe(driver: &mut TestDriver, topic: &str, key: &str, value: &str, timestamp: i64) {
    let value = (value != "null").then(|| value.to_owned());
    driver.input::<String, Option<String>>(topic).pipe(key.to_owned(), value, timestamp).unwrap();
}

fn out(driver: &mut TestDriver) -> Vec<Row> {
    let records = driver.output::<String, Option<String>>("out").read_records().unwrap();
    records.into_iter().map(|record| (record.key, record.value, record.timestamp)).collect()
}

fn rows(expected: &[(&str, &str, i64)]) -> Vec<Row> {
    expected
        .iter()
        .map(|(key, value, time)| ((*key).to_owned(), (*value != "null").then(|| (*value).to_owned()), *time))
        .collect()
}

fn windows(grace: u64) -> JoinWindows {
    JoinWindows::within(Duration::from_millis(10)).grace(Duration::from_millis(grace))
}

#[test]
fn streams_join_within_their_window_on_either_side() {
    let mut driver = driver(|b| {
        let right = b.stream::<String, String>("right");
        b.stream::<String, String>("left")
            .join(right, |_, l, r| format!("{l}{r}"), windows(0).after(Duration::from_millis(2)), "pair")
            .to("out");
    });
    pipe(&mut driver, "left", "k", "a", 20);
    pipe(&mut driver, "right", "k", "x", 10);
    pipe(&mut driver, "right", "k", "y", 22);
    pipe(&mut driver, "right", "k", "z", 23);
    pipe(&mut driver, "right", "other", "w", 20);
    pipe(&mut driver, "left", "k", "b", 21);
    assert_eq!(out(&mut driver), rows(&[("k", "ax", 20), ("k", "ay", 22), ("k", "by", 22), ("k", "bz", 23)]));
}

#[test]
fn left_and_outer_joins_give_up_waiting_when_the_window_is_over() {
    let mut driver = driver(|b| {
        let right = b.stream::<String, String>("right");
        b.stream::<String, String>("left")
            .outer_join(right, |_, l, r| format!("{}{}", show(l), show(r)), windows(5), "pair")
            .to("out");
    });
    pipe(&mut driver, "left", "a", "1", 0);
    pipe(&mut driver, "right", "b", "2", 3);
    pipe(&mut driver, "left", "b", "3", 4);
    pipe(&mut driver, "left", "c", "4", 15);
    assert_eq!(out(&mut driver), rows(&[("b", "32", 4)]));
    // 0 + 10 + 5 < 16
    pipe(&mut driver, "left", "c", "5", 16);
    assert_eq!(out(&mut driver), rows(&[("a", "1-", 0)]));
    // Too late to wait.
    pipe(&mut driver, "right", "d", "6", 1);
    assert_eq!(out(&mut driver), rows(&[("d", "-6", 1)]));
    pipe(&mut driver, "right", "z", "7", 1000);
    assert_eq!(out(&mut driver), rows(&[("c", "4-", 15), ("c", "5-", 16)]));
}

#[test]
fn who_waits_survives_a_crash() {
    let mut driver = driver(|b| {
        let right = b.stream::<String, String>("right");
        b.stream::<String, String>("left")
            .left_join(right, |_, l, r| format!("{l}{}", show(r)), windows(0), "pair")
            .to("out");
    });
    pipe(&mut driver, "left", "a", "1", 0);
    pipe(&mut driver, "left", "b", "2", 1);
    driver.crash_and_restore().unwrap();
    pipe(&mut driver, "right", "a", "x", 5);
    pipe(&mut driver, "left", "c", "3", 100);
    assert_eq!(out(&mut driver), rows(&[("a", "1x", 5), ("b", "2-", 1)]));
}

#[test]
fn a_stream_joins_the_rows_as_they_are_now() {
    let mut driver = driver(|b| {
        let table = b.table::<String, String>("table").map_values(|_, row| row.to_uppercase());
        let stream = b.stream::<String, String>("stream");
        stream.clone().join_table(&table, |_, v, row| format!("{v}{row}"), Joined::auto()).to("out");
        stream
            .left_join_table(&table, |_, v, row| format!("{v}{}", show(row)), Joined::auto())
            .to("left-out");
    });
    pipe(&mut driver, "stream", "k", "1", 5);
    pipe(&mut driver, "table", "k", "a", 9);
    pipe(&mut driver, "stream", "k", "2", 6);
    pipe(&mut driver, "table", "k", "null", 10);
    pipe(&mut driver, "stream", "k", "3", 7);
    assert_eq!(out(&mut driver), rows(&[("k", "2A", 6)]));
    let left = driver.output::<String, String>("left-out").read_all().unwrap();
    assert_eq!(left.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), ["1-", "2A", "3-"]);
}

#[test]
fn a_stream_with_a_new_key_is_repartitioned_before_it_is_joined() {
    let mut driver = driver(|b| {
        let table = b.table::<String, String>("table");
        b.stream::<String, String>("stream")
            .select_key(|_, value| value.clone())
            .join_table(&table, |_, v, row| format!("{v}{row}"), "enrich")
            .to("out");
    });
    pipe(&mut driver, "table", "v", "row", 0);
    pipe(&mut driver, "stream", "k", "v", 1);
    assert_eq!(out(&mut driver), rows(&[("v", "vrow", 1)]));
    assert_eq!(driver.output::<String, String>("test-enrich-repartition").read_all().unwrap().len(), 1);
}

#[test]
fn tables_join_row_by_row() {
    let build = |kind: &'static str| {
        driver(move |b| {
            let left = b.table::<String, String>("left");
            let right = b.table::<String, String>("right");
            let joined = match kind {
                "inner" => left.join(right, |_, l, r| format!("{l}{r}"), TableJoined::auto()),
                "left" => left.left_join(right, |_, l, r| format!("{l}{}", show(r)), TableJoined::auto()),
                _ => left.outer_join(right, |_, l, r| format!("{}{}", show(l), show(r)), TableJoined::auto()),
            };
            joined.to_stream().to("out");
        })
    };
    let feed = |driver: &mut TestDriver| {
        pipe(driver, "left", "k", "a", 1);
        pipe(driver, "right", "k", "x", 5);
        pipe(driver, "left", "k", "b", 3);
        pipe(driver, "right", "k", "null", 6);
        pipe(driver, "left", "k", "null", 7);
        pipe(driver, "left", "k", "null", 8);
        out(driver)
    };
    assert_eq!(feed(&mut build("inner")), rows(&[("k", "ax", 5), ("k", "bx", 5), ("k", "null", 6)]));
    assert_eq!(
        feed(&mut build("left")),
        rows(&[("k", "a-", 1), ("k", "ax", 5), ("k", "bx", 5), ("k", "b-", 6), ("k", "null", 7)])
    );
    assert_eq!(
        feed(&mut build("outer")),
        rows(&[("k", "a-", 1), ("k", "ax", 5), ("k", "bx", 5), ("k", "b-", 6), ("k", "null", 7)])
    );
}

proptest! {
    /// A table that is grouped, joined and filtered is what those operations make of its latest rows.
    #[test]
    fn derived_tables_follow_from_the_latest_rows(
        updates in prop::collection::vec((any::<bool>(), 0..4u8, proptest::option::of(0..5u8)), 1..40),
        kept in any::<bool>(),
        crash_at in 0..40usize,
    ) {
        let builder = StreamsBuilder::new();
        let left = builder.table::<String, i64>("left");
        let right = builder.table::<String, i64>("right").filter(|_, row| row % 2 == 0);
        let joined = if kept { TableJoined::from(Store::kv("joined")) } else { TableJoined::auto() };
        let sums = left.outer_join(right, |_, l, r| l.copied().unwrap_or(0) * 10 + r.copied().unwrap_or(0), joined);
        let _ = sums
            .group_by("by-digit", |_, sum| (format!("d{}", sum % 3), sum))
            .aggregate(|| (0i64, 0i64).0, |_, sum, total| *total += sum, |_, sum, total| *total -= sum, Store::kv("totals"));
        let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
        let (mut left, mut right) = (BTreeMap::new(), BTreeMap::new());
        for (at, (is_left, key, value)) in updates.into_iter().enumerate() {
            let (topic, model) = if is_left { ("left", &mut left) } else { ("right", &mut right) };
            let (key, value) = (format!("k{key}"), value.map(i64::from));
            match value {
                Some(value) => model.insert(key.clone(), value),
                None => model.remove(&key),
            };
            driver.input::<String, Option<i64>>(topic).pipe(key, value, at as i64).unwrap();
            if at == crash_at {
                driver.crash_and_restore().unwrap();
            }
        }
        right.retain(|_, row| *row % 2 == 0);
        let mut expected = BTreeMap::<String, i64>::new();
        let keys: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
        for key in keys {
            let sum = left.get(key).copied().unwrap_or(0) * 10 + right.get(key).copied().unwrap_or(0);
            *expected.entry(format!("d{}", sum % 3)).or_default() += sum;
        }
        let totals: BTreeMap<String, i64> = driver.store::<String, i64>("totals").unwrap().all().unwrap().into_iter().collect();
        // A group that lost its last row stays, as 0.
        for (group, total) in totals {
            prop_assert_eq!(total, expected.remove(&group).unwrap_or(0), "{}", group);
        }
        prop_assert!(expected.is_empty(), "{:?}", expected);
    }

    /// Each pair within the window is joined once, as is each record that finds no partner. Records come a little out of
    /// order: one that is later than its window after is given up at once, as in Java, though the grace is not over.
    #[test]
    fn every_pair_within_the_window_is_joined_once(
        records in prop::collection::vec((any::<bool>(), 0..2u8, 0i64..8, 0i64..4), 1..30),
        each_update in any::<bool>(),
    ) {
        let builder = StreamsBuilder::new();
        let right = builder.stream::<String, String>("right");
        let changelog = if each_update { ChangelogRecords::EachUpdate } else { ChangelogRecords::EachCommit };
        builder
            .stream::<String, String>("left")
            .outer_join(
                right,
                |_, l, r| format!("{}+{}", show(l), show(r)),
                windows(1000).after(Duration::from_millis(3)),
                StreamJoined::auto().changelog_records(changelog),
            )
            .to("out");
        let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut now = 3;
        for (at, (is_left, key, step, late)) in records.into_iter().enumerate() {
            now += step;
            let time = now - late;
            let (topic, all) = if is_left { ("left", &mut left) } else { ("right", &mut right) };
            all.push((format!("k{key}"), format!("{at}"), time));
            pipe(&mut driver, topic, &format!("k{key}"), &at.to_string(), time);
        }
        pipe(&mut driver, "left", "end", "end", 1_000_000);
        let mut expected = Vec::new();
        for (key, l, time) in &left {
            for (_, r, other) in right.iter().filter(|(k, _, t)| k == key && time - 10 <= *t && *t <= time + 3) {
                expected.push((key.clone(), Some(format!("{l}+{r}")), *time.max(other)));
            }
        }
        // Records of one key, side and time share their fate: one partner is enough for all of them.
        let lonely = |mine: &Vec<(String, String, i64)>, others: &Vec<(String, String, i64)>, before: i64, after: i64| {
            mine.iter()
                .filter(|(key, _, time)| !others.iter().any(|(k, _, t)| k == key && time - before <= *t && *t <= time + after))
                .cloned()
                .collect::<Vec<_>>()
        };
        for (key, l, time) in lonely(&left, &right, 10, 3) {
            expected.push((key, Some(format!("{l}+-")), time));
        }
        for (key, r, time) in lonely(&right, &left, 3, 10) {
            expected.push((key, Some(format!("-+{r}")), time));
        }
        let mut found = out(&mut driver);
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected);
    }
}
