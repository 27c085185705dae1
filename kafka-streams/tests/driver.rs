//! Operators and state, as a test of an application sees them.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::collections::BTreeMap;

use kafka_streams::config::DeserializationHandler;
use kafka_streams::testing::{DriverError, TestDriver};
use kafka_streams::{Consumed, Grouped, Store, StreamsBuilder, StreamsError, Topology, TopologyError};
use proptest::prelude::*;

type Builder = StreamsBuilder;

fn driver(build: impl Fn(&Builder)) -> TestDriver {
    let builder = StreamsBuilder::new();
    build(&builder);
    TestDriver::new(&builder.build().unwrap()).unwrap()
}

fn pipe(driver: &mut TestDriver, topic: &str, records: &[(&str, &str)]) {
    for (at, (key, value)) in records.iter().enumerate() {
        driver
            .input::<String, String>(topic)
            .pipe((*key).to_owned(), (*value).to_owned(), at as i64)
            .unwrap();
    }
}

fn read(driver: &mut TestDriver, topic: &str) -> Vec<(String, String)> {
    driver.output(topic).read_all().unwrap()
}

fn pairs(records: &[(&str, &str)]) -> Vec<(String, String)> {
    records.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn stateless_operators_do_what_they_say() {
    let mut driver = driver(|b| {
        b.stream::<String, String>("in")
            .filter(|_, v| v != "drop")
            .filter_not(|_, v| v == "drop too")
            .map_values(|_, v| format!("{v}!"))
            .map(|k, v| (v.clone(), k))
            .flat_map_values(|_, v| [v.clone(), format!("{v}{v}")])
            .select_key(|k, v| format!("{k}/{v}"))
            .flat_map(|k, v| vec![(k, v)])
            .to("out");
    });
    pipe(&mut driver, "in", &[("k", "a"), ("k", "drop"), ("k", "drop too")]);
    assert_eq!(read(&mut driver, "out"), pairs(&[("a!/k", "k"), ("a!/kk", "kk")]));
}

#[test]
fn a_stream_used_twice_reaches_both() {
    let mut driver = driver(|b| {
        let stream = b.stream::<String, String>("in");
        stream.clone().map_values(|_, v| v.to_uppercase()).to("upper");
        stream.to("same");
    });
    pipe(&mut driver, "in", &[("k", "a")]);
    assert_eq!(read(&mut driver, "upper"), pairs(&[("k", "A")]));
    assert_eq!(read(&mut driver, "same"), pairs(&[("k", "a")]));
}

#[test]
fn merged_streams_meet_and_one_topic_can_be_read_twice() {
    let mut driver = driver(|b| {
        let left = b.stream::<String, String>("left");
        left.merge(b.stream("right")).to("out");
        b.stream::<String, Vec<u8>>("left").map_values(|_, v| v.len() as i64).to("lengths");
    });
    pipe(&mut driver, "left", &[("k", "one")]);
    pipe(&mut driver, "right", &[("k", "two")]);
    assert_eq!(read(&mut driver, "out"), pairs(&[("k", "one"), ("k", "two")]));
    assert_eq!(driver.output::<String, i64>("lengths").read_all().unwrap(), [("k".to_owned(), 3)]);
}

#[test]
fn a_record_goes_to_the_first_branch_that_takes_it_or_to_the_default_one() {
    let mut driver = driver(|b| {
        let mut split = b.stream::<String, String>("in").split();
        split.branch(|_, v| v.len() > 3).to("long");
        split.branch(|_, v| v.len() > 1).map_values(|_, v| v.to_uppercase()).to("medium");
        split.default_branch().to("rest");
    });
    pipe(&mut driver, "in", &[("k", "ab"), ("k", "abcd"), ("k", "a"), ("k", "abc")]);
    assert_eq!(read(&mut driver, "long"), pairs(&[("k", "abcd")]));
    assert_eq!(read(&mut driver, "medium"), pairs(&[("k", "AB"), ("k", "ABC")]));
    assert_eq!(read(&mut driver, "rest"), pairs(&[("k", "a")]));
}

#[test]
fn what_no_branch_takes_is_dropped_without_a_default_branch() {
    let mut driver = driver(|b| {
        let mut split = b.stream::<String, String>("in").split();
        split.branch(|_, v| v == "keep").to("out");
    });
    pipe(&mut driver, "in", &[("k", "drop"), ("k", "keep")]);
    assert_eq!(read(&mut driver, "out"), pairs(&[("k", "keep")]));
}

#[test]
fn state_behind_a_branch_is_cached_counted_and_flushed() {
    let builder = StreamsBuilder::new();
    let mut split = builder.stream::<String, String>("in").split();
    let counted = split.branch(|_, v| v == "count").group_by_key(Grouped::auto());
    counted.count(Store::kv("counts").cached()).to_stream().to("counts-out");
    let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap().manual_commit();
    pipe(&mut driver, "in", &[("k", "count"), ("k", "else"), ("k", "count")]);
    driver.commit().unwrap();
    assert_eq!(driver.output::<String, i64>("counts-out").read_all().unwrap(), [("k".to_owned(), 2)]);
}

fn word_count(store: impl Fn() -> Store<String, i64>) -> Topology {
    let builder = StreamsBuilder::new();
    builder
        .stream::<(), String>("lines")
        .flat_map_values(|(), line| line.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>())
        .group_by("by-word", |(), word| word.clone())
        .count(store())
        .to_stream()
        .to("word-counts");
    builder.build().unwrap()
}

#[test]
fn words_are_counted_through_a_repartition_topic() {
    let driver = TestDriver::with_partitions(&word_count(|| Store::kv("counts")), "app", 3).unwrap();
    let mut driver = driver.manual_commit();
    driver.input::<(), String>("lines").pipe((), "a b a".into(), 7).unwrap();
    driver.commit().unwrap();
    let mut counts = driver.output::<String, i64>("word-counts").read_all().unwrap();
    counts.sort();
    assert_eq!(counts, [("a".into(), 1), ("a".into(), 2), ("b".into(), 1)]);
    let repartitioned = driver.output::<String, String>("app-by-word-repartition").read_records().unwrap();
    assert_eq!(repartitioned.len(), 3);
    assert!(repartitioned.iter().all(|record| record.timestamp == 7));
    let mut changelog = driver.output::<String, i64>("app-counts-changelog").read_all().unwrap();
    changelog.sort();
    assert_eq!(changelog, [("a".into(), 2), ("b".into(), 1)], "one changelog record for each row and commit");
}

#[test]
fn a_cached_store_forwards_each_rows_latest_state_at_a_commit() {
    let topology = word_count(|| Store::kv("counts").cached());
    let mut driver = TestDriver::new(&topology).unwrap().manual_commit();
    driver.input::<(), String>("lines").pipe((), "a b a a".into(), 0).unwrap();
    assert_eq!(driver.output::<String, i64>("word-counts").read_all().unwrap(), []);
    assert_eq!(driver.store::<String, i64>("counts").unwrap().get(&"a".into()).unwrap(), Some(3));
    driver.commit().unwrap();
    let counts = driver.output::<String, i64>("word-counts").read_all().unwrap();
    // In the order of the last updates.
    assert_eq!(counts, [("b".into(), 1), ("a".into(), 3)]);
    driver.commit().unwrap();
    assert_eq!(driver.output::<String, i64>("word-counts").read_all().unwrap(), []);
}

#[test]
fn a_store_without_a_changelog_writes_none_and_begins_anew_after_a_crash() {
    let mut driver = TestDriver::new(&word_count(|| Store::kv("counts").without_changelog())).unwrap();
    driver.input::<(), String>("lines").pipe((), "a a".into(), 0).unwrap();
    driver.crash_and_restore().unwrap();
    driver.input::<(), String>("lines").pipe((), "a".into(), 1).unwrap();
    let counts = driver.output::<String, i64>("word-counts").read_all().unwrap();
    assert_eq!(counts, [("a".into(), 1), ("a".into(), 2), ("a".into(), 1)]);
    assert_eq!(driver.output::<String, i64>("test-counts-changelog").read_all().unwrap(), []);
}

#[test]
fn reduce_and_aggregate_keep_the_latest_timestamp_of_a_row() {
    let mut driver = driver(|b| {
        let stream = b.stream::<String, String>("in");
        let joined = stream.clone().group_by_key(Grouped::auto()).reduce(|l, r| l + &r, Store::kv("joined"));
        joined.to_stream().to("joined-out");
        let lengths = stream.group_by_key(Grouped::auto());
        lengths
            .aggregate(|| 0i64, |_, v, sum| *sum += v.len() as i64, Store::kv("sums"))
            .to_stream()
            .to("sums-out");
    });
    driver.input::<String, String>("in").pipe("k".into(), "ab".into(), 9).unwrap();
    driver.input::<String, String>("in").pipe("k".into(), "c".into(), 4).unwrap();
    assert_eq!(read(&mut driver, "joined-out"), pairs(&[("k", "ab"), ("k", "abc")]));
    let sums = driver.output::<String, i64>("sums-out").read_records().unwrap();
    let sums: Vec<_> = sums.into_iter().map(|record| (record.value, record.timestamp)).collect();
    assert_eq!(sums, [(2, 9), (3, 9)]);
}

#[test]
fn null_keys_and_values_are_not_counted() {
    let mut driver = driver(|b| {
        let stream = b.stream::<Option<String>, Option<String>>("in");
        stream.group_by_key(Grouped::auto()).count(Store::kv("counts")).to_stream().to("out");
    });
    for (key, value) in [(None, Some("v")), (Some("k"), None), (Some("k"), Some("v"))] {
        let (key, value) = (key.map(str::to_owned), value.map(str::to_owned));
        driver.input::<Option<String>, Option<String>>("in").pipe(key, value, 0).unwrap();
    }
    assert_eq!(driver.output::<String, i64>("out").read_all().unwrap(), [("k".to_owned(), 1)]);
}

#[test]
fn tables_pass_deletions_on() {
    let mut driver = driver(|b| {
        let users = b.table_in::<String, String>("users", Store::kv("users-store"));
        users.filter(|_, v| v != "hidden").map_values(|_, v| v.to_uppercase()).to_stream().to("out");
    });
    for value in [Some("ann"), Some("hidden"), None] {
        driver
            .input::<String, Option<String>>("users")
            .pipe("k".into(), value.map(str::to_owned), 0)
            .unwrap();
    }
    let out = driver.output::<String, Option<String>>("out").read_all().unwrap();
    // Once: the filter knows from the store that the second deletion tells nobody anything new.
    assert_eq!(out, [("k".to_owned(), Some("ANN".to_owned())), ("k".to_owned(), None)]);
    assert_eq!(driver.store::<String, String>("users-store").unwrap().all().unwrap(), []);
}

#[test]
fn stores_iterate_in_key_order_over_committed_and_uncommitted_rows() {
    let mut driver = driver(|b| {
        let _ = b.stream::<String, String>("in").to_table(Store::kv("rows"));
    })
    .manual_commit();
    pipe(&mut driver, "in", &[("c", "3"), ("a", "1")]);
    driver.commit().unwrap();
    pipe(&mut driver, "in", &[("b", "2"), ("c", "4")]);
    let store = driver.store::<String, String>("rows").unwrap();
    assert_eq!(store.all().unwrap(), pairs(&[("a", "1"), ("b", "2"), ("c", "4")]));
    assert_eq!(store.range(&"a".into(), &"b".into()).unwrap(), pairs(&[("a", "1"), ("b", "2")]));
    assert_eq!(store.reverse_range(&"b".into(), &"d".into()).unwrap(), pairs(&[("c", "4"), ("b", "2")]));
    assert!(matches!(driver.store::<String, i64>("rows"), Err(DriverError::NoStore { .. })));
}

#[test]
fn unreadable_records_stop_the_task_or_are_left_out() {
    let builder = StreamsBuilder::new();
    builder.stream::<String, i64>("in").to("out");
    let topology = builder.build().unwrap();
    let mut strict = TestDriver::new(&topology).unwrap();
    let error = strict.input::<String, String>("in").pipe("k".into(), "text".into(), 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "task 0_0, node KSTREAM-SOURCE-0000000000: cannot read the value of in-0 at offset 0"
    );
    let lenient = TestDriver::new(&topology).unwrap();
    let mut lenient = lenient.deserialization_handler(DeserializationHandler::LogAndContinue).unwrap();
    lenient.input::<String, String>("in").pipe("k".into(), "text".into(), 0).unwrap();
    lenient.input::<String, i64>("in").pipe("k".into(), 5, 0).unwrap();
    assert_eq!(lenient.output::<String, i64>("out").read_all().unwrap(), [("k".to_owned(), 5)]);
}

#[test]
fn a_panic_in_the_applications_code_is_an_error_with_the_records_place() {
    let mut driver = driver(|b| b.stream::<String, String>("in").for_each(|_, v| assert_ne!(v, "bad")));
    pipe(&mut driver, "in", &[("k", "good")]);
    let error = driver.input::<String, String>("in").pipe("k".into(), "bad".into(), 0).unwrap_err();
    let DriverError::Streams(error) = error else { panic!("{error}") };
    assert!(matches!(&*error, StreamsError::Panicked { position, .. } if position.offset == 1), "{error}");
}

#[test]
fn every_problem_of_a_topology_is_listed() {
    assert_eq!(StreamsBuilder::new().build().unwrap_err().problems, [TopologyError::NoSource]);
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>("in").filter(|_, _| true).named("x").to("no spaces");
    builder
        .stream::<String, String>(Consumed::topics(["in", "other"]))
        .filter(|_, _| true)
        .named("x")
        .to("out");
    let problems = builder.build().unwrap_err().problems;
    assert!(problems.contains(&TopologyError::DuplicateNode { name: "x".into() }));
    assert!(problems.contains(&TopologyError::InvalidName { name: "no spaces".into() }));
    assert!(problems.iter().any(|problem| matches!(problem, TopologyError::OverlappingSources { .. })));
}

#[derive(Debug, Clone)]
enum Step {
    Pipe(u8, i64),
    Commit,
    Restart,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..6u8, -100..100i64).prop_map(|(key, value)| Step::Pipe(key, value)),
        1 => Just(Step::Commit),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Within one sub-topology a commit keeps offsets and state together, so even crashes change no result.
    #[test]
    fn state_equals_a_plain_map_whatever_is_committed_restarted_or_crashed(steps in steps(), cached: bool) {
        let builder = StreamsBuilder::new();
        let stream = builder.stream::<String, i64>("in");
        let store = |name| if cached { Store::kv(name).cached() } else { Store::kv(name) };
        let counts = stream.clone().group_by_key(Grouped::auto()).count(store("counts"));
        counts.to_stream().to("counts-out");
        let sums = stream.group_by_key(Grouped::auto()).reduce(|l, r| l + r, store("sums"));
        sums.to_stream().to("sums-out");
        let mut driver = TestDriver::with_partitions(&builder.build().unwrap(), "app", 2).unwrap().manual_commit();
        let mut model = BTreeMap::<String, (i64, i64)>::new();
        for step in steps {
            match step {
                Step::Pipe(key, value) => {
                    driver.input::<String, i64>("in").pipe(key.to_string(), value, 0).unwrap();
                    let row = model.entry(key.to_string()).or_default();
                    *row = (row.0 + 1, row.1 + value);
                }
                Step::Commit => driver.commit().unwrap(),
                Step::Restart => {
                    driver.commit().unwrap();
                    driver.crash_and_restore().unwrap();
                }
                Step::Crash => driver.crash_and_restore().unwrap(),
            }
        }
        driver.commit().unwrap();
        let mut found = BTreeMap::<String, (i64, i64)>::new();
        for view in driver.stores::<String, i64>("counts").unwrap() {
            found.extend(view.all().unwrap().into_iter().map(|(key, count)| (key, (count, 0))));
        }
        for view in driver.stores::<String, i64>("sums").unwrap() {
            view.all().unwrap().into_iter().for_each(|(key, sum)| found.entry(key).or_default().1 = sum);
        }
        prop_assert_eq!(&found, &model);
        let latest: BTreeMap<_, _> = driver.output::<String, i64>("sums-out").read_all().unwrap().into_iter().collect();
        prop_assert_eq!(latest, model.into_iter().map(|(key, row)| (key, row.1)).collect::<BTreeMap<_, _>>());
    }

    /// Through a repartition topic, clean restarts change no result.
    #[test]
    fn word_counts_survive_clean_restarts(lines in proptest::collection::vec("[a-d ]{0,12}", 0..20), every in 1usize..5) {
        let topology = word_count(|| Store::kv("counts"));
        let mut driver = TestDriver::with_partitions(&topology, "app", 3).unwrap().manual_commit();
        let mut model = BTreeMap::<String, i64>::new();
        for (at, line) in lines.into_iter().enumerate() {
            line.split_whitespace().for_each(|word| *model.entry(word.to_owned()).or_default() += 1);
            driver.input::<(), String>("lines").pipe((), line, 0).unwrap();
            if at % every == 0 {
                driver.commit().unwrap();
                driver.crash_and_restore().unwrap();
            }
        }
        let found: BTreeMap<_, _> =
            driver.output::<String, i64>("word-counts").read_all().unwrap().into_iter().collect();
        prop_assert_eq!(found, model);
    }
}
