//! What is optimised gives the same results, with fewer topics and stores. `describe.rs` compares the texts with Java's.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::time::Duration;

use kafka_streams::testing::{TestDriver, TestRecord};
use kafka_streams::{
    Grouped, JoinWindows, Joined, KStream, Optimizations, Store, StreamJoined, StreamsBuilder,
};

type Build = fn(&StreamsBuilder);

fn driver(build: Build, optimizations: Optimizations) -> TestDriver {
    let builder = StreamsBuilder::new().optimize(optimizations);
    build(&builder);
    TestDriver::with_partitions(&builder.build().unwrap(), "app", 2).unwrap()
}

fn text(builder: &StreamsBuilder, topic: &str) -> KStream<String, String> {
    builder.stream(topic)
}

/// Keys, values and times that meet, miss each other and come too late.
fn feed(driver: &mut TestDriver, topic: &str) {
    for number in 0..60_i64 {
        let (key, value) = (format!("k{}", number * 7 % 3), format!("v{}", number * 5 % 4));
        driver.input::<String, String>(topic).pipe(key, value, 1000 + number * 13 % 50 + number).unwrap();
    }
}

fn out(driver: &mut TestDriver, topic: &str) -> Vec<TestRecord<String, String>> {
    driver.output::<String, String>(topic).read_records().unwrap()
}

fn internal_topics(driver: &TestDriver) -> Vec<String> {
    driver.topics().into_iter().filter(|topic| topic.starts_with("app-")).collect()
}

fn joined_with_itself(builder: &StreamsBuilder) {
    let within = JoinWindows::within(Duration::from_millis(4)).before(Duration::from_millis(9));
    let records = text(builder, "in");
    let pair = |_: &String, l: &String, r: &String| format!("{l}{r}");
    records.clone().join(records, pair, within, StreamJoined::from("pair")).to("out");
}

#[test]
fn a_stream_joined_with_itself_is_kept_once() {
    let mut plain = driver(joined_with_itself, Optimizations::none());
    let mut optimized = driver(joined_with_itself, Optimizations::all());
    feed(&mut plain, "in");
    feed(&mut optimized, "in");
    optimized.crash_and_restore().unwrap();
    plain.crash_and_restore().unwrap();
    feed(&mut plain, "in");
    feed(&mut optimized, "in");
    let expected = out(&mut plain, "out");
    assert!(expected.len() > 60, "{}", expected.len());
    assert_eq!(out(&mut optimized, "out"), expected);
    let (kept, other) = ("app-pair-this-join-store-changelog", "app-pair-other-join-store-changelog");
    assert_eq!(internal_topics(&plain), [other, kept]);
    assert_eq!(internal_topics(&optimized), [kept]);
}

fn grouped_twice_and_joined(builder: &StreamsBuilder) {
    let names = builder.table::<String, String>("names");
    let by_value = text(builder, "in").select_key(|_, v| v.clone());
    let counts = by_value.clone().group_by_key("counted").count(Store::kv("counts"));
    counts.to_stream().map_values(|_, n| n.map(|n| n.to_string()).unwrap_or_default()).to("counts-out");
    let odd = by_value.clone().filter(|_, v| v != "v2");
    let latest = odd.group_by_key("latest").reduce(|_, new| new, Store::kv("latest"));
    latest.to_stream().map_values(|_, v| v.unwrap_or_default()).to("latest-out");
    by_value.clone().join_table(&names, |_, v, name| format!("{v}{name}"), "named").to("named-out");
    by_value.to("copies");
}

fn grouped_in_branches(builder: &StreamsBuilder) {
    let mut parts = text(builder, "in").select_key(|_, v| v.clone()).split();
    let even = parts.branch(|_, v| v == "v0" || v == "v2");
    even.group_by_key("even").reduce(|_, new| new, Store::kv("evens")).to_stream().to("latest-out");
    let odd = parts.default_branch();
    let counts = odd.group_by_key("odd").count(Store::kv("odds")).to_stream();
    counts.map_values(|_, n| n.map(|n| n.to_string()).unwrap_or_default()).to("counts-out");
}

/// Runs the topology both ways, with a crash between, and gives the optimised driver.
fn same_results(build: Build, topics: &[&str]) -> TestDriver {
    let mut drivers = [Optimizations::none(), Optimizations::all()].map(|how| driver(build, how));
    let mut results = drivers.each_mut().map(|driver| {
        for value in ["v0", "v1", "v3"] {
            let name = format!("name-of-{value}");
            driver.input::<String, String>("names").pipe(value.into(), name, 0).unwrap();
        }
        feed(driver, "in");
        driver.crash_and_restore().unwrap();
        feed(driver, "in");
        topics.iter().map(|topic| out(driver, topic)).collect::<Vec<_>>()
    });
    // Which partition comes first is nobody's business.
    results.iter_mut().flatten().for_each(|records| records.sort_by_key(|record| record.key.clone()));
    let [plain, optimized] = results;
    assert!(plain.iter().all(|records| records.len() > 20));
    assert_eq!(optimized, plain);
    let [_, optimized] = drivers;
    optimized
}

#[test]
fn operators_behind_one_change_of_the_key_share_a_repartition_topic() {
    let driver = same_results(grouped_twice_and_joined, &["counts-out", "latest-out", "named-out", "copies"]);
    let repartitions: Vec<_> =
        internal_topics(&driver).into_iter().filter(|topic| topic.ends_with("-repartition")).collect();
    assert_eq!(repartitions, ["app-counted-repartition"]);
}

/// Java 4.3 fails to build this topology when it is optimised.
#[test]
fn branches_share_a_repartition_topic_before_the_split() {
    let driver = same_results(grouped_in_branches, &["counts-out", "latest-out"]);
    let repartitions: Vec<_> =
        internal_topics(&driver).into_iter().filter(|topic| topic.ends_with("-repartition")).collect();
    assert_eq!(repartitions, ["app-even-repartition"]);
}

#[test]
fn merged_streams_are_repartitioned_behind_the_merge() {
    let merged: Build = |builder| {
        let left = text(builder, "in").select_key(|_, v| v.clone());
        let both = left.merge(text(builder, "names").map(|k, v| (v, k)));
        let latest = both.clone().group_by_key("latest").reduce(|_, new| new, Store::kv("latest"));
        latest.to_stream().to("latest-out");
        let all = both.group_by_key(Grouped::auto()).reduce(|all, new| all + &new, Store::kv("all"));
        all.to_stream().to("all-out");
    };
    let driver = same_results(merged, &["latest-out", "all-out"]);
    let repartitions: Vec<_> =
        internal_topics(&driver).into_iter().filter(|topic| topic.ends_with("-repartition")).collect();
    assert_eq!(repartitions, ["app-latest-repartition"]);
}

#[test]
fn a_table_that_is_read_from_a_topic_is_restored_from_it_as_far_as_it_was_processed() {
    let build: Build = |builder| {
        let names = builder.table_in::<String, String>("names", Store::kv("kept-names"));
        text(builder, "in").join_table(&names, |_, v, name| format!("{v} {name}"), Joined::auto()).to("out");
    };
    let mut driver = driver(build, Optimizations::none().reuse_source_topics()).manual_commit();
    let names: &[(&str, &str)] = &[("a", "Ada"), ("b", "Bob"), ("a", "Ann")];
    for (key, name) in names {
        driver.input::<String, String>("names").pipe((*key).into(), (*name).into(), 7).unwrap();
    }
    driver.commit().unwrap();
    driver.input::<String, String>("names").pipe("b".into(), "Ben".into(), 8).unwrap();
    driver.crash_and_restore().unwrap();
    driver.input::<String, String>("in").pipe("a".into(), "hello".into(), 9).unwrap();
    driver.input::<String, String>("in").pipe("b".into(), "hello".into(), 9).unwrap();
    let mut values: Vec<_> = out(&mut driver, "out").into_iter().map(|record| record.value).collect();
    values.sort();
    assert_eq!(values, ["hello Ann", "hello Ben"]);
    assert_eq!(internal_topics(&driver), Vec::<String>::new());
    let kept = driver.stores::<String, String>("kept-names").unwrap();
    let times: Vec<_> =
        kept.iter().filter_map(|part| part.get_with_timestamp(&"a".to_owned()).unwrap()).collect();
    assert_eq!(times, [("Ann".to_owned(), 7)]);
}
