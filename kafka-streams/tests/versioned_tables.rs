//! Tables that know what their rows were (KIP-889, KIP-914).

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::time::Duration;

use kafka_streams::testing::TestDriver;
use kafka_streams::{BufferConfig, Grouped, Joined, KTable, Store, StreamsBuilder, Suppressed, TableJoined};

const HISTORY: Duration = Duration::from_millis(100);

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

fn driver(build: impl FnOnce(&StreamsBuilder, KTable<String, String>)) -> TestDriver {
    let builder = StreamsBuilder::new();
    build(&builder, builder.table_in("rows", Store::versioned("rows-store", HISTORY)));
    TestDriver::new(&builder.build().unwrap()).unwrap()
}

#[test]
fn a_stream_meets_the_rows_of_its_records_times() {
    let mut driver = driver(|builder, rows| {
        // The history is that of the table that the rows are derived from.
        let rows = rows.filter(|_, row| row != "hidden").map_values(|_, row| row.to_uppercase());
        let records = builder.stream::<String, String>("records");
        records
            .left_join_table(
                &rows,
                |_, record, row| format!("{record}{}", row.map_or("-", String::as_str)),
                "j",
            )
            .to("out");
    });
    for (row, time) in [(Some("a"), 10), (Some("c"), 30), (Some("b"), 20), (None, 40), (Some("hidden"), 50)] {
        put(&mut driver, "rows", "k", row, time);
    }
    for time in [5, 15, 25, 35, 45, 55] {
        put(&mut driver, "records", "k", Some("r"), time);
    }
    let expected = ["k=r-@5", "k=rA@15", "k=rB@25", "k=rC@35", "k=r-@45", "k=r-@55"];
    assert_eq!(out(&mut driver), expected);
    driver.crash_and_restore().unwrap();
    put(&mut driver, "records", "k", Some("r"), 25);
    assert_eq!(out(&mut driver), ["k=rB@25"], "the changelog has every version");
    put(&mut driver, "rows", "other", Some("x"), 200);
    put(&mut driver, "rows", "k", Some("late"), 99);
    assert_eq!(driver.dropped_records(), 1);
    put(&mut driver, "records", "k", Some("r"), 25);
    assert_eq!(out(&mut driver), ["k=r-@25"], "so long ago nothing is known");
}

#[test]
fn late_updates_go_on_but_into_no_other_table() {
    let mut driver = driver(|builder, rows| {
        rows.clone().to_stream().to("out");
        let counted =
            rows.clone().group_by(Grouped::auto(), |key, row| (key.clone(), row)).count(Store::kv("counts"));
        drop(counted);
        let other = builder.table::<String, String>("other");
        rows.join(other, |_, l, r| format!("{l}{r}"), TableJoined::from(Store::kv("joined")))
            .to_stream()
            .to("joined-out");
    });
    put(&mut driver, "other", "k", Some("!"), 1);
    put(&mut driver, "rows", "k", Some("new"), 20);
    put(&mut driver, "rows", "k", Some("old"), 10);
    assert_eq!(out(&mut driver), ["k=new@20", "k=old@10"]);
    assert_eq!(driver.dropped_records(), 2, "by the grouping and by the join");
    assert_eq!(
        driver.store::<String, String>("joined").unwrap().get(&"k".into()).unwrap(),
        Some("new!".into())
    );
    assert_eq!(
        driver.store::<String, String>("rows-store").unwrap().get(&"k".into()).unwrap(),
        Some("new".into())
    );
    assert_eq!(driver.store::<String, i64>("counts").unwrap().get(&"k".into()).unwrap(), Some(1));
}

#[test]
fn aggregates_know_what_they_were_too() {
    let builder = StreamsBuilder::new();
    let counts = builder
        .stream::<String, String>("in")
        .group_by_key(Grouped::auto())
        .count(Store::versioned("counts", HISTORY));
    let asked = builder.stream::<String, String>("asked");
    asked.left_join_table(&counts, |_, _, count| format!("{count:?}"), "j").to("out");
    let mut driver = TestDriver::new(&builder.build().unwrap()).unwrap();
    for time in [10, 20, 30] {
        put(&mut driver, "in", "k", Some("x"), time);
    }
    for time in [9, 10, 25, 99] {
        put(&mut driver, "asked", "k", Some("?"), time);
    }
    assert_eq!(out(&mut driver), ["k=None@9", "k=Some(1)@10", "k=Some(2)@25", "k=Some(3)@99"]);
}

#[test]
fn a_versioned_table_is_not_suppressed() {
    let builder = StreamsBuilder::new();
    let rows = builder.table_in::<String, String>("rows", Store::versioned("rows-store", HISTORY));
    let held = Suppressed::until_time_limit(Duration::from_millis(5), BufferConfig::max_records(10));
    rows.suppress(held).to_stream().to("out");
    let error = builder.build().unwrap_err().to_string();
    assert!(error.contains("cannot hold back changes of a versioned table"), "{error}");
}

/// Records wait 10 ms.
fn patient(left: bool) -> TestDriver {
    driver(|builder, rows| {
        let records = builder.stream::<Option<String>, String>("records").map_values(|_, v| v);
        let joined = Joined::from("j").grace(Duration::from_millis(10));
        let rows = rows.map_values(|_, row| row);
        let nullable = rows.to_stream_with_key(|key, _| Some(key.clone()));
        let rows = nullable
            .map_values(|_, row| row.unwrap_or_default())
            .to_table(Store::versioned("nullable", HISTORY));
        match left {
            true => records.left_join_table(
                &rows,
                |_, r, row| format!("{r}{}", row.map_or("-", String::as_str)),
                joined,
            ),
            false => records.join_table(&rows, |_, r, row| format!("{r}{row}"), joined),
        }
        .to("out");
    })
}

#[test]
fn records_wait_for_late_updates_and_meet_them_in_the_order_of_their_times() {
    let mut driver = patient(false);
    put(&mut driver, "rows", "k", Some("a"), 0);
    put(&mut driver, "records", "k", Some("2"), 22);
    put(&mut driver, "records", "k", Some("1"), 21);
    put(&mut driver, "records", "k", Some("x"), 22);
    put(&mut driver, "rows", "k", Some("b"), 22);
    assert!(out(&mut driver).is_empty(), "their time is not over");
    driver.crash_and_restore().unwrap();
    put(&mut driver, "records", "other", Some("-"), 31);
    assert_eq!(out(&mut driver), ["k=1a@21"]);
    put(&mut driver, "records", "other", Some("-"), 40);
    assert_eq!(out(&mut driver), ["k=2b@22", "k=xb@22"]);
    // Too late to wait: joined at once, as it was then.
    put(&mut driver, "records", "k", Some("l"), 20);
    assert_eq!(out(&mut driver), ["k=la@20"]);
    driver.crash_and_restore().unwrap();
    assert!(out(&mut driver).is_empty(), "what was let go does not come back");
}

#[test]
fn records_without_a_key_do_not_wait_in_a_left_join() {
    let mut driver = patient(true);
    let mut records = driver.input::<Option<String>, String>("records");
    records.pipe(None, "n".into(), 5).unwrap();
    records.pipe(Some("k".into()), "r".into(), 6).unwrap();
    let found = driver.output::<Option<String>, String>("out").read_all().unwrap();
    assert_eq!(found, [(None, "n-".to_owned())]);
}

#[test]
fn a_join_waits_no_longer_than_its_table_remembers() {
    for store in [Store::kv("rows-store"), Store::versioned("rows-store", Duration::from_millis(9))] {
        let builder = StreamsBuilder::new();
        let rows = builder.table_in::<String, String>("rows", store);
        let joined = Joined::from("j").grace(Duration::from_millis(10));
        builder.stream::<String, String>("in").join_table(&rows, |_, v, _| v, joined).to("out");
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains("j waits 10 ms for late updates of its table"), "{error}");
    }
}
