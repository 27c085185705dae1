//! Topologies describe themselves as Java's do. `golden/Describe.java` builds the same ones and wrote the texts.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::time::Duration;

use kafka_streams::dsl::Repartitioned;
use kafka_streams::processor::{FixedKeyProcessorContext, ProcessorContext};
use kafka_streams::{
    Consumed, ForeignKeyJoined, Grouped, JoinWindows, Joined, Optimizations, Produced, SessionWindows,
    SlidingWindows, Store, StreamJoined, StreamsBuilder, TableJoined, TimeWindows, Windowed,
};
use kafka_streams::{FixedKeyProcessor, FixedKeyRecord, Processor, ProcessorResult, Record};

fn check(name: &str, build: impl Fn(&StreamsBuilder)) {
    check_built(name, StreamsBuilder::new(), build);
}

fn check_optimized(name: &str, build: impl Fn(&StreamsBuilder)) {
    check_built(name, StreamsBuilder::new().optimize(Optimizations::all()), build);
}

fn check_built(name: &str, builder: StreamsBuilder, build: impl Fn(&StreamsBuilder)) {
    build(&builder);
    let path = format!("{}/tests/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let expected = std::fs::read_to_string(path).unwrap();
    assert_eq!(builder.build().unwrap().describe().to_string(), expected, "{name}");
}

fn text(builder: &StreamsBuilder, topic: &str) -> kafka_streams::KStream<String, String> {
    builder.stream(topic)
}

fn words(_: &String, line: String) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_word_count_reads_as_in_java() {
    check("word_count", |b| {
        let words = text(b, "lines").flat_map_values(words);
        words.group_by("by-word", |_, v| v.clone()).count(Store::kv("counts")).to_stream().to("word-counts");
    });
    check("word_count_unnamed", |b| {
        let words = text(b, "lines").flat_map_values(words);
        words.group_by(Grouped::auto(), |_, v| v.clone()).count(Store::auto()).to_stream().to("word-counts");
    });
    check("word_count_named_store", |b| {
        let words = text(b, "lines").flat_map_values(words);
        words
            .group_by(Grouped::auto(), |_, v| v.clone())
            .count(Store::kv("counts"))
            .to_stream()
            .to("word-counts");
    });
}

#[test]
fn stateless_operators_read_as_in_java() {
    check("stateless", |b| {
        text(b, "in")
            .filter(|_, _| true)
            .filter_not(|_, _| false)
            .map_values(|_, v| v)
            .map(|k, v| (k, v))
            .flat_map(|k, v| [(k, v)])
            .flat_map_values(|_, v| [v])
            .select_key(|_, v| v.clone())
            .peek(|_, _| {})
            .for_each(|_, _| {});
    });
    check("named", |b| {
        b.stream::<String, String>(Consumed::topics(["in"]).named("source"))
            .filter(|_, _| true)
            .named("keep")
            .map_values(|_, v| v)
            .select_key(|_, v| v.clone())
            .named("rekey")
            .peek(|_, _| {})
            .to(Produced::to("out").named("sink"));
    });
    check("merge", |b| {
        let (left, right) = (text(b, "left"), text(b, "right"));
        left.map_values(|_, v| v).merge(right.filter(|_, _| true)).to("out");
    });
    check("fan_out", |b| {
        let input = text(b, "in");
        input.clone().filter(|_, _| true).to("one");
        input.clone().map_values(|_, v| v).peek(|_, _| {}).to("two");
        input.to("three");
    });
}

#[test]
fn branches_read_as_in_java() {
    check("split", |b| {
        let mut split = text(b, "in").split();
        let (one, two) = (split.branch(|_, _| true), split.branch(|_, _| true));
        let rest = split.default_branch();
        one.map_values(|_, v| v).to("one");
        two.to("two");
        rest.to("rest");
    });
    check("split_named", |b| {
        let mut split = text(b, "in").map(|k, v| (k, v)).split().named("by-size-");
        let small = split.branch_named("small", |_, _| true);
        let second = split.branch(|_, _| true);
        small.group_by_key(Grouped::auto()).count(Store::kv("counts")).to_stream().to("counts-out");
        second.filter(|_, _| true).to("out");
    });
    check("split_merge", |b| {
        let mut split = text(b, "in").split();
        let first = split.branch(|_, _| true);
        let others = split.default_branch_named("others");
        first.map_values(|_, v| v).merge(others).to("out");
    });
}

#[test]
fn sources_read_as_in_java() {
    check("two_independent", |b| {
        text(b, "b").to("b-out");
        text(b, "a").to("a-out");
    });
    check("same_topic_twice", |b| {
        text(b, "in").filter(|_, _| true).to("one");
        text(b, "in").map_values(|_, v| v).to("two");
    });
    check("several_topics", |b| b.stream::<String, String>(["z", "a", "m"]).to("out"));
}

#[test]
fn aggregations_read_as_in_java() {
    check("group_by_key", |b| {
        text(b, "in").group_by_key(Grouped::auto()).count(Store::kv("counts")).to_stream().to("out");
    });
    check("group_by_key_after_map", |b| {
        let mapped = text(b, "in").map(|k, v| (k, v)).map_values(|_, v| v);
        mapped.group_by_key(Grouped::auto()).reduce(|_, r| r, Store::kv("reduced")).to_stream().to("out");
    });
    check("reduce_unnamed", |b| {
        text(b, "in").group_by_key(Grouped::auto()).reduce(|_, r| r, Store::auto()).to_stream().to("out");
    });
    check("aggregate_unnamed", |b| {
        let grouped = text(b, "in").group_by(Grouped::auto(), |_, v| v.clone());
        grouped.aggregate(String::new, |_, _, _| {}, Store::auto()).to_stream().to("out");
    });
    check("aggregate_named", |b| {
        let grouped = text(b, "in").group_by("grouped", |_, v| v.clone());
        let totals = grouped.aggregate(String::new, |_, _, _| {}, Store::kv("sums")).named("totals");
        totals.to_stream().named("changes").to("out");
    });
    check("two_repartitions", |b| {
        let first = text(b, "in").group_by(Grouped::auto(), |_, v| v.clone()).count(Store::kv("first"));
        let again = first.to_stream().select_key(|k, _| k.clone()).map_values(|_, _| String::new());
        again.group_by_key("second").count(Store::kv("second-counts")).to_stream().to("out");
    });
}

#[test]
fn tables_read_as_in_java() {
    check("table", |b| {
        let users = b.table::<String, String>("users");
        users.filter(|_, _| true).map_values(|_, v| v).to_stream().to("out");
    });
    check("table_materialized", |b| {
        let users = b.table_in::<String, String>("users", Store::kv("users-store"));
        users.filter(|_, _| true).filter_not(|_, _| false).to_stream().to("out");
    });
    check("to_table", |b| text(b, "in").to_table(Store::kv("latest")).to_stream().to("out"));
}

#[test]
fn repartitions_read_as_in_java() {
    check("repartition", |b| text(b, "in").repartition(Repartitioned::auto()).to("out"));
    check("repartition_named", |b| {
        let stream = text(b, "in").select_key(|_, v| v.clone()).repartition("by-value");
        stream.group_by_key(Grouped::auto()).count(Store::auto()).to_stream().to("out");
    });
}

const TEN: Duration = Duration::from_millis(10);

fn windowed() -> kafka_streams::serde::SharedSerde<Windowed<String>> {
    Windowed::time_serde(<String as kafka_streams::serde::HasSerde>::serde(), TEN)
}

fn to_out<V: kafka_streams::serde::HasSerde + Send>(table: kafka_streams::KTable<Windowed<String>, V>) {
    let value = Option::<V>::serde();
    table.to_stream().to(Produced::with("out", windowed(), value));
}

use kafka_streams::serde::HasSerde;

#[test]
fn windows_read_as_in_java() {
    check("tumbling", |b| {
        to_out(
            text(b, "in")
                .group_by_key(Grouped::auto())
                .windowed_by(TimeWindows::tumbling(TEN))
                .count(Store::auto()),
        );
    });
    check("hopping_named", |b| {
        let windows = TimeWindows::hopping(TEN, TEN / 2).grace(TEN);
        text(b, "in")
            .group_by("by-value", |_, v| v.clone())
            .windowed_by(windows)
            .reduce(|_, r| r, Store::window("latest"))
            .to_stream_with_key(|w, _| w.key.clone())
            .to("out");
    });
    check("sliding", |b| {
        let sliding = text(b, "in").group_by_key(Grouped::auto()).windowed_by(SlidingWindows::of(TEN));
        to_out(sliding.aggregate(String::new, |_, _, _| {}, Store::auto()));
    });
    check("session", |b| {
        let sessions = text(b, "in")
            .map(|k, v| (k, v))
            .group_by_key(Grouped::auto())
            .windowed_by(SessionWindows::gap(TEN));
        to_out(sessions.reduce(|_, r| r, Store::auto()));
    });
}

#[test]
fn grouped_and_kept_tables_read_as_in_java() {
    let pair = |k: &String, v: String| (k.clone(), v);
    check("table_count", |b| {
        b.table::<String, String>("users")
            .group_by(Grouped::auto(), pair)
            .count(Store::auto())
            .to_stream()
            .to("out");
    });
    check("table_reduce", |b| {
        let kept = b.table::<String, String>("users").filter(|_, _| true);
        kept.group_by("groups", pair).reduce(|_, r| r, |l, _| l, Store::auto()).to_stream().to("out");
    });
    check("table_aggregate", |b| {
        let users = b.table_in::<String, String>("users", Store::kv("users-store")).map_values(|_, v| v);
        users
            .group_by(Grouped::auto(), pair)
            .aggregate(String::new, |_, _, _| {}, |_, _, _| {}, Store::kv("totals"))
            .to_stream()
            .to("out");
    });
}

#[test]
fn joins_of_streams_read_as_in_java() {
    let within = JoinWindows::within(TEN);
    let both = || StreamJoined::<String, String, String>::auto().named("pair").stores_named("kept");
    check("stream_join", |b| {
        text(b, "left").join(text(b, "right"), |_, l, _| l.clone(), within, StreamJoined::auto()).to("out");
    });
    check("stream_left_join", |b| {
        let left = text(b, "left").map(|k, v| (k, v));
        left.left_join(text(b, "right"), |_, l, _| l.clone(), within, StreamJoined::auto()).to("out");
    });
    check("stream_outer_join", |b| {
        let left = text(b, "left");
        let right = text(b, "right").select_key(|_, v| v.clone());
        left.outer_join(right, |_, l, _| l.cloned(), within, StreamJoined::auto()).to("out");
    });
    check("stream_join_named", |b| {
        let left = text(b, "left").map(|k, v| (k, v));
        left.join(text(b, "right"), |_, l, _| l.clone(), within, both()).to("out");
    });
    check("stream_outer_join_named", |b| {
        text(b, "left").outer_join(text(b, "right"), |_, l, _| l.cloned(), within, both()).to("out");
    });
    check("stream_left_join_named", |b| {
        text(b, "left").left_join(text(b, "right"), |_, l, _| l.clone(), within, both()).to("out");
    });
    check("self_join", |b| {
        let stream = text(b, "in");
        stream.clone().join(stream, |_, l, _| l.clone(), within, StreamJoined::auto()).to("out");
    });
}

#[test]
fn joins_with_tables_read_as_in_java() {
    check("stream_table_join", |b| {
        let table = b.table::<String, String>("table");
        text(b, "in").join_table(&table, |_, v, _| v, Joined::auto()).to("out");
    });
    check("stream_table_left_join", |b| {
        let table = b.table::<String, String>("table").filter(|_, _| true);
        text(b, "in").map(|k, v| (k, v)).left_join_table(&table, |_, v, _| v, "enrich").to("out");
    });
    check("stream_table_join_counts", |b| {
        let counts = text(b, "clicks").group_by_key(Grouped::auto()).count(Store::auto());
        text(b, "in").select_key(|_, v| v.clone()).join_table(&counts, |_, v, _| v, Joined::auto()).to("out");
    });
    let table = |b: &StreamsBuilder, topic: &str| b.table::<String, String>(topic);
    check("table_join", |b| {
        table(b, "left")
            .join(table(b, "right"), |_, l, _| l.clone(), TableJoined::auto())
            .to_stream()
            .to("out");
    });
    check("table_left_join", |b| {
        let left = table(b, "left").map_values(|_, v| v);
        left.left_join(table(b, "right"), |_, l, _| l.clone(), "both").to_stream().to("out");
    });
    check("table_outer_join", |b| {
        let left = table(b, "left");
        let right = b.table_in::<String, String>("right", Store::kv("rights"));
        let both = left.outer_join(right, |_, l, _| l.cloned().unwrap_or_default(), Store::kv("both"));
        both.to_stream().to("out");
    });
    check("table_join_chain", |b| {
        let first = table(b, "a").join(table(b, "b"), |_, l, _| l.clone(), TableJoined::auto());
        let second = first.left_join(table(b, "c"), |_, l, _| l.clone(), Store::auto());
        second
            .group_by(Grouped::auto(), |k: &String, v| (k.clone(), v))
            .count(Store::auto())
            .to_stream()
            .to("out");
    });
}

struct Pass;

impl Processor for Pass {
    type KIn = String;
    type VIn = String;
    type KOut = String;
    type VOut = String;

    fn process(&mut self, _: Record<String, String>, _: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        Ok(())
    }
}

struct PassValue;

impl FixedKeyProcessor for PassValue {
    type K = String;
    type VIn = String;
    type VOut = String;

    fn process(
        &mut self,
        _: FixedKeyRecord<String, String>,
        _: &mut FixedKeyProcessorContext<'_, Self>,
    ) -> ProcessorResult {
        Ok(())
    }
}

#[test]
fn processors_read_as_in_java() {
    let store = |b: &StreamsBuilder, name: &str| b.add_store(Store::<String, String>::kv(name));
    check("process", |b| {
        let seen = store(b, "seen");
        let passed = text(b, "in").process(&seen, |_| Pass).group_by_key(Grouped::auto());
        passed.count(Store::kv("counts")).to_stream().to("out");
    });
    check("process_values", |b| {
        let stores = (store(b, "b-store"), store(b, "a-store"));
        let passed = text(b, "in").process_values((&stores.0, &stores.1), |_| PassValue);
        passed.group_by_key(Grouped::auto()).count(Store::kv("counts")).to_stream().to("out");
    });
    check("process_shared_store", |b| {
        let shared = store(b, "shared");
        text(b, "left").process(&shared, |_| Pass).named("writer").to("out");
        text(b, "right").process_values(&shared, |_| PassValue).to("out");
    });
    check("process_without_store", |b| text(b, "in").process((), |()| Pass).named("pass").to("out"));
}

#[test]
fn sinks_and_repartitions_with_options_read_as_in_java() {
    check("sink_by_record", |b| {
        let values = text(b, "in").map_values(|_, v| v);
        values.to(Produced::<String, String>::by_record(|record| record.value.clone()));
    });
    check("repartition_options", |b| {
        let wide = Repartitioned::<String, String>::auto().named("wide").partitions(6);
        text(b, "in").repartition(wide).to("out");
    });
}

#[test]
fn cogroups_read_as_in_java() {
    let append = |_: &String, value: &String, all: &mut String| all.push_str(value);
    check("cogroup", |b| {
        let left = text(b, "left").group_by_key(Grouped::auto()).cogroup(append);
        let both = left.cogroup(text(b, "right").group_by(Grouped::auto(), |_, v| v.clone()), |_, _, _| {});
        both.aggregate(String::new, Store::kv("totals")).to_stream().to("out");
    });
    check("cogroup_windowed", |b| {
        let left = text(b, "left").group_by("lefts", |_, v| v.clone()).cogroup(append);
        let both = left.cogroup(text(b, "right").group_by_key(Grouped::auto()), |_, _, _| {});
        to_out(both.aggregate_in(TimeWindows::tumbling(TEN), String::new, Store::auto()));
    });
}

#[test]
fn patient_joins_read_as_in_java() {
    check("stream_table_grace", |b| {
        let rows = Store::versioned("rows", Duration::from_secs(300));
        let table = b.table_in::<String, String>("table", rows);
        let enrich = Joined::from("enrich").grace(TEN);
        text(b, "in").join_table(&table, |_, l, _| l, enrich).to("out");
        text(b, "in2").left_join_table(&table, |_, l, _| l, Joined::auto().grace(TEN)).to("out");
    });
}

#[test]
fn joins_by_foreign_key_read_as_in_java() {
    let table = |b: &StreamsBuilder, topic: &str| b.table::<String, String>(topic);
    let key = |_: &String, row: &String| Some(row.clone());
    check("fk_join", |b| {
        let orders = table(b, "orders");
        let bills = orders.join_by_foreign_key(table(b, "users"), key, |_, l, _| l.clone(), Store::auto());
        bills.to_stream().to("out");
    });
    check("fk_left_join_named", |b| {
        let joined = ForeignKeyJoined::from("billed").kept_in(Store::kv("bills"));
        let orders = table(b, "orders");
        let bills = orders.left_join_by_foreign_key(table(b, "users"), key, |_, l, _| l.clone(), joined);
        bills.to_stream().to("out");
    });
    check("fk_join_chain", |b| {
        let users = table(b, "users").filter(|_, _| true);
        let orders = table(b, "orders").map_values(|_, v| v);
        let bills = orders.join_by_foreign_key(users, key, |_, l, _| l.clone(), Store::auto());
        let both = bills.join(table(b, "orders-too"), |_, l, _| l.clone(), TableJoined::auto());
        both.group_by(Grouped::auto(), |k, v| (k.clone(), v)).count(Store::auto()).to_stream().to("out");
    });
}

#[test]
fn optimized_self_joins_read_as_in_java() {
    let within = JoinWindows::within(Duration::from_millis(10));
    check_optimized("optimized_self_join", |b| {
        let records = text(b, "in");
        records.clone().join(records, |_, l, _| l.clone(), within, StreamJoined::auto()).to("out");
    });
    check_optimized("optimized_self_join_named", |b| {
        let records = text(b, "in").filter(|_, _| true);
        records.clone().map_values(|_, v| v).to("copies");
        let names = StreamJoined::auto().named("pair").stores_named("kept");
        records.clone().join(records, |_, l, _| l.clone(), within, names).to("out");
    });
    check_optimized("optimized_self_left_join", |b| {
        let records = text(b, "in");
        records.clone().left_join(records, |_, l, _| l.clone(), within, StreamJoined::auto()).to("out");
    });
}

#[test]
fn merged_repartition_topics_read_as_in_java() {
    let by_key = || Grouped::<String, String>::auto();
    check_optimized("optimized_one_group", |b| {
        let records = text(b, "in").select_key(|_, v| v.clone()).filter(|_, _| true);
        records.group_by_key(by_key()).count(Store::auto()).to_stream().to("out");
    });
    check_optimized("optimized_two_groups", |b| {
        let mapped = text(b, "in").map(|k, v| (k, v));
        mapped.clone().group_by_key(by_key()).count(Store::kv("counts")).to_stream().to("counts-out");
        let kept = mapped.clone().filter(|_, _| true);
        kept.group_by_key("second").reduce(|_, r| r, Store::auto()).to_stream().to("out");
        mapped.to("copies");
    });
    check_optimized("optimized_two_groups_named", |b| {
        let mapped = text(b, "in").map(|k, v| (k, v));
        let seen = mapped.clone().peek(|_, _| {});
        seen.group_by_key("first").count(Store::auto()).to_stream().to("counts-out");
        let kept = mapped.filter(|_, _| true);
        kept.group_by_key("second").reduce(|_, r| r, Store::auto()).to_stream().to("out");
    });
    check_optimized("optimized_group_of_new_values", |b| {
        let mapped = text(b, "in").map(|k, v| (k, v));
        let valued = mapped.clone().map_values(|_, v| v);
        valued.group_by_key(by_key()).count(Store::auto()).to_stream().to("counts-out");
        mapped.group_by_key(by_key()).reduce(|_, r| r, Store::auto()).to_stream().to("out");
    });
    check_optimized("optimized_joins", |b| {
        let table = b.table::<String, String>("table");
        let mapped = text(b, "in").select_key(|_, v| v.clone());
        mapped.clone().join_table(&table, |_, l, _| l, Joined::auto()).to("enriched");
        let right = text(b, "right").map(|k, v| (k, v));
        let within = JoinWindows::within(Duration::from_millis(10));
        mapped.clone().join(right, |_, l, _| l.clone(), within, StreamJoined::auto()).to("joined");
        mapped.group_by_key(by_key()).count(Store::auto()).to_stream().to("counts-out");
    });
    check_optimized("optimized_merge", |b| {
        let left = text(b, "left").map(|k, v| (k, v));
        let merged = left.merge(text(b, "right").select_key(|_, v| v.clone()));
        merged.clone().group_by_key(by_key()).count(Store::auto()).to_stream().to("counts-out");
        let kept = merged.filter(|_, _| true);
        kept.group_by_key(by_key()).reduce(|_, r| r, Store::auto()).to_stream().to("out");
    });
    check_optimized("optimized_repartition", |b| {
        let mapped = text(b, "in").map(|k, v| (k, v));
        let apart = mapped.clone().repartition(Repartitioned::auto());
        apart.group_by_key(by_key()).count(Store::auto()).to_stream().to("counts-out");
        mapped.group_by_key(by_key()).reduce(|_, r| r, Store::auto()).to_stream().to("out");
    });
    check_optimized("optimized_to_table", |b| {
        let mapped = text(b, "in").map(|k, v| (k, v));
        mapped.clone().to_table(Store::auto()).to_stream().to("rows");
        mapped.group_by_key(by_key()).reduce(|_, r| r, Store::auto()).to_stream().to("out");
    });
}
