//! Topologies describe themselves as Java's do. `golden/Describe.java` builds the same ones and wrote the texts.

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use kafka_streams::dsl::Repartitioned;
use kafka_streams::{Consumed, Grouped, Produced, Store, StreamsBuilder};

fn check(name: &str, build: impl Fn(&StreamsBuilder)) {
    let builder = StreamsBuilder::new();
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
