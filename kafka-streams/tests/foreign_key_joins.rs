//! Joins of tables by a foreign key (KIP-213).

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::collections::BTreeMap;

use kafka_streams::testing::TestDriver;
use kafka_streams::{ForeignKeyJoined, Store, StreamsBuilder};
use proptest::prelude::*;

/// Orders say `user:amount`; the foreign key is the user.
fn user(order: &str) -> Option<String> {
    let (user, _) = order.split_once(':')?;
    (!user.is_empty()).then(|| user.to_owned())
}

fn driver(left: bool) -> TestDriver {
    let builder = StreamsBuilder::new();
    let (orders, users) =
        (builder.table::<String, String>("orders"), builder.table::<String, String>("users"));
    let joined = ForeignKeyJoined::from(Store::kv("bills"));
    let bills = match left {
        true => orders.left_join_by_foreign_key(
            users,
            |_, order| user(order),
            |_, order, user| format!("{order} {}", user.map_or("-", String::as_str)),
            joined,
        ),
        false => orders.join_by_foreign_key(
            users,
            |_, order| user(order),
            |_, order, user| format!("{order} {user}"),
            joined,
        ),
    };
    bills.to_stream().to("out");
    TestDriver::new(&builder.build().unwrap()).unwrap()
}

fn put(driver: &mut TestDriver, topic: &str, key: &str, row: Option<&str>, time: i64) {
    driver.input::<String, Option<String>>(topic).pipe(key.into(), row.map(str::to_owned), time).unwrap();
}

/// Results as `key=row@time`.
fn out(driver: &mut TestDriver) -> Vec<String> {
    let records = driver.output::<String, Option<String>>("out").read_records().unwrap();
    let show = |row: &Option<String>| row.clone().unwrap_or_else(|| "x".into());
    records
        .iter()
        .map(|record| format!("{}={}@{}", record.key, show(&record.value), record.timestamp))
        .collect()
}

#[test]
fn results_follow_the_changes_of_both_tables() {
    let mut driver = driver(false);
    put(&mut driver, "orders", "1", Some("ada:5"), 10);
    assert!(out(&mut driver).is_empty(), "nobody is there yet");
    put(&mut driver, "users", "ada", Some("Ada"), 3);
    // The time of a change of the right side is its own.
    assert_eq!(out(&mut driver), ["1=ada:5 Ada@3"]);
    put(&mut driver, "orders", "2", Some("ada:6"), 1);
    assert_eq!(out(&mut driver), ["2=ada:6 Ada@3"]);
    put(&mut driver, "users", "ada", Some("Lady"), 20);
    assert_eq!(out(&mut driver), ["1=ada:5 Lady@20", "2=ada:6 Lady@20"]);
    put(&mut driver, "users", "bob", Some("Bob"), 21);
    put(&mut driver, "orders", "2", Some("bob:6"), 22);
    assert_eq!(out(&mut driver), ["2=bob:6 Bob@22"]);
    // Nobody listens to the old foreign key any more.
    put(&mut driver, "users", "ada", Some("Countess"), 23);
    assert_eq!(out(&mut driver), ["1=ada:5 Countess@23"]);
    put(&mut driver, "orders", "2", Some("eve:6"), 24);
    assert_eq!(out(&mut driver), ["2=x@24"], "there is no Eve");
    put(&mut driver, "users", "ada", None, 25);
    assert_eq!(out(&mut driver), ["1=x@25"]);
    put(&mut driver, "orders", "1", None, 26);
    assert_eq!(out(&mut driver), ["1=x@26"]);
    assert_eq!(driver.dropped_records(), 0);
}

#[test]
fn rows_of_the_left_side_have_results_of_their_own_in_a_left_join() {
    let mut driver = driver(true);
    put(&mut driver, "orders", "1", Some("ada:5"), 10);
    put(&mut driver, "orders", "2", Some("nobody"), 11);
    assert_eq!(out(&mut driver), ["1=ada:5 -@10", "2=nobody -@11"]);
    put(&mut driver, "users", "ada", Some("Ada"), 12);
    assert_eq!(out(&mut driver), ["1=ada:5 Ada@12"]);
    put(&mut driver, "orders", "1", Some("nobody"), 13);
    assert_eq!(out(&mut driver), ["1=nobody -@13"]);
    put(&mut driver, "orders", "1", None, 14);
    assert_eq!(out(&mut driver), ["1=x@14"]);
}

#[test]
fn rows_without_a_foreign_key_are_counted_and_joined_with_nothing() {
    let mut driver = driver(false);
    put(&mut driver, "orders", "1", Some("nobody"), 1);
    assert_eq!((out(&mut driver).len(), driver.dropped_records()), (0, 1));
    put(&mut driver, "users", "ada", Some("Ada"), 2);
    put(&mut driver, "orders", "1", Some("ada:1"), 3);
    assert_eq!(out(&mut driver), ["1=ada:1 Ada@3"]);
    put(&mut driver, "orders", "1", Some("nobody"), 4);
    assert_eq!((out(&mut driver), driver.dropped_records()), (vec!["1=x@4".to_owned()], 2));
}

#[test]
fn a_table_can_be_joined_with_itself() {
    let builder = StreamsBuilder::new();
    let people = builder.table::<String, String>("people");
    let parent = |_: &String, parent: &String| Some(parent.clone());
    let named = ForeignKeyJoined::from("grandparents");
    people
        .clone()
        .join_by_foreign_key(people, parent, |_, _, grandparent| grandparent.clone(), named)
        .to_stream()
        .to("out");
    let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
    put(&mut driver, "people", "child", Some("mother"), 1);
    put(&mut driver, "people", "mother", Some("grandmother"), 2);
    assert_eq!(out(&mut driver), ["child=grandmother@2"]);
}

proptest! {
    /// Whatever changes in whatever order, and wherever the task crashes, the result is what the two tables say.
    #[test]
    fn the_result_is_what_the_two_tables_say(
        left in any::<bool>(),
        updates in prop::collection::vec((any::<bool>(), 0..4u8, prop::option::of((0..4u8, 0..3u8))), 1..40),
        crash_at in 0usize..40,
    ) {
        let mut driver = driver(left);
        let (mut orders, mut users) = (BTreeMap::new(), BTreeMap::new());
        for (at, (is_order, key, row)) in updates.into_iter().enumerate() {
            let (topic, table) = if is_order { ("orders", &mut orders) } else { ("users", &mut users) };
            let (key, row) = match is_order {
                true => (format!("{key}"), row.map(|(user, amount)| match user {
                    3 => format!(":{amount}"),
                    user => format!("u{user}:{amount}"),
                })),
                false => (format!("u{key}"), row.map(|(name, _)| format!("n{name}"))),
            };
            put(&mut driver, topic, &key, row.as_deref(), at as i64);
            match row {
                Some(row) => table.insert(key, row),
                None => table.remove(&key),
            };
            if at == crash_at {
                driver.crash_and_restore().unwrap();
            }
        }
        let joined = orders.iter().filter_map(|(key, order)| {
            let user = user(order).and_then(|user| users.get(&user));
            match user {
                None if !left => None,
                user => Some((key.clone(), format!("{order} {}", user.map_or("-", String::as_str)))),
            }
        });
        let expected: Vec<_> = joined.collect();
        prop_assert_eq!(driver.store::<String, String>("bills").unwrap().all().unwrap(), expected);
    }
}
