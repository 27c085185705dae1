// Prints what Apache Kafka Streams 4.3 says of each topology in `tests/describe.rs`; run with an output folder:
//   java -cp "KAFKA_LIBS/*" Describe.java .
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.function.Consumer;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.processor.api.*;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.*;

public class Describe {
    static Path folder;

    static void topology(String name, Consumer<StreamsBuilder> build) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        build.accept(builder);
        Files.writeString(folder.resolve(name + ".txt"), builder.build().describe().toString());
    }

    static <K, V> Materialized<K, V, KeyValueStore<Bytes, byte[]>> store(String name) { return Materialized.as(name); }

    static void optimized(String name, Consumer<StreamsBuilder> build) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        build.accept(builder);
        Properties all = new Properties();
        all.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE);
        Files.writeString(folder.resolve(name + ".txt"), builder.build(all).describe().toString());
    }

    public static void main(String[] arguments) throws Exception {
        folder = Path.of(arguments[0]);
        topology("word_count", b -> b.<String, String>stream("lines")
            .flatMapValues(v -> Arrays.asList(v.split(" ")))
            .groupBy((k, v) -> v, Grouped.as("by-word"))
            .count(store("counts")).toStream().to("word-counts"));
        topology("word_count_unnamed", b -> b.<String, String>stream("lines")
            .flatMapValues(v -> Arrays.asList(v.split(" ")))
            .groupBy((k, v) -> v).count().toStream().to("word-counts"));
        topology("word_count_named_store", b -> b.<String, String>stream("lines")
            .flatMapValues(v -> Arrays.asList(v.split(" ")))
            .groupBy((k, v) -> v).count(store("counts")).toStream().to("word-counts"));
        topology("stateless", b -> b.<String, String>stream("in")
            .filter((k, v) -> true).filterNot((k, v) -> false).mapValues(v -> v).map(KeyValue::pair)
            .flatMap((k, v) -> List.of(KeyValue.pair(k, v))).flatMapValues(v -> List.of(v)).selectKey((k, v) -> v)
            .peek((k, v) -> { }).foreach((k, v) -> { }));
        topology("named", b -> b.<String, String>stream("in", Consumed.as("source"))
            .filter((k, v) -> true, Named.as("keep")).mapValues(v -> v).selectKey((k, v) -> v, Named.as("rekey"))
            .peek((k, v) -> { }).to("out", Produced.as("sink")));
        topology("merge", b -> {
            KStream<String, String> left = b.stream("left");
            KStream<String, String> right = b.stream("right");
            left.mapValues(v -> v).merge(right.filter((k, v) -> true)).to("out");
        });
        topology("fan_out", b -> {
            KStream<String, String> in = b.stream("in");
            in.filter((k, v) -> true).to("one");
            in.mapValues(v -> v).peek((k, v) -> { }).to("two");
            in.to("three");
        });
        topology("split", b -> {
            BranchedKStream<String, String> split = b.<String, String>stream("in").split();
            List<KStream<String, String>> taken = new ArrayList<>();
            split.branch((k, v) -> true, Branched.withConsumer(taken::add));
            split.branch((k, v) -> true, Branched.withConsumer(taken::add));
            split.defaultBranch(Branched.withConsumer(taken::add));
            taken.get(0).mapValues(v -> v).to("one");
            taken.get(1).to("two");
            taken.get(2).to("rest");
        });
        topology("split_named", b -> {
            BranchedKStream<String, String> split = b.<String, String>stream("in").map(KeyValue::pair).split(Named.as("by-size-"));
            List<KStream<String, String>> taken = new ArrayList<>();
            split.branch((k, v) -> true, Branched.withConsumer(taken::add, "small"));
            split.branch((k, v) -> true, Branched.withConsumer(taken::add));
            split.noDefaultBranch();
            taken.get(0).groupByKey().count(store("counts")).toStream().to("counts-out");
            taken.get(1).filter((k, v) -> true).to("out");
        });
        topology("split_merge", b -> {
            BranchedKStream<String, String> split = b.<String, String>stream("in").split();
            List<KStream<String, String>> taken = new ArrayList<>();
            split.branch((k, v) -> true, Branched.withConsumer(taken::add));
            split.defaultBranch(Branched.withConsumer(taken::add, "others"));
            taken.get(0).mapValues(v -> v).merge(taken.get(1)).to("out");
        });
        topology("two_independent", b -> {
            b.stream("b").to("b-out");
            b.stream("a").to("a-out");
        });
        topology("same_topic_twice", b -> {
            b.<String, String>stream("in").filter((k, v) -> true).to("one");
            b.<String, String>stream("in").mapValues(v -> v).to("two");
        });
        topology("several_topics", b -> b.<String, String>stream(List.of("z", "a", "m")).to("out"));
        topology("group_by_key", b -> b.<String, String>stream("in").groupByKey().count(store("counts")).toStream().to("out"));
        topology("group_by_key_after_map", b -> b.<String, String>stream("in").map(KeyValue::pair).mapValues(v -> v)
            .groupByKey().reduce((l, r) -> r, store("reduced")).toStream().to("out"));
        topology("reduce_unnamed", b -> b.<String, String>stream("in").groupByKey().reduce((l, r) -> r).toStream().to("out"));
        topology("aggregate_unnamed", b -> b.<String, String>stream("in").groupBy((k, v) -> v)
            .aggregate(() -> "", (k, v, a) -> a).toStream().to("out"));
        topology("aggregate_named", b -> b.<String, String>stream("in").groupBy((k, v) -> v, Grouped.as("grouped"))
            .aggregate(() -> "", (k, v, a) -> a, Named.as("totals"), store("sums")).toStream(Named.as("changes")).to("out"));
        topology("two_repartitions", b -> b.<String, String>stream("in").groupBy((k, v) -> v).count(store("first"))
            .toStream().selectKey((k, v) -> v).mapValues(v -> "").groupByKey(Grouped.as("second")).count(store("second-counts"))
            .toStream().to("out"));
        topology("table", b -> b.<String, String>table("users").filter((k, v) -> true).mapValues(v -> v).toStream().to("out"));
        topology("table_materialized", b -> b.<String, String>table("users", store("users-store"))
            .filter((k, v) -> true).filterNot((k, v) -> false).toStream().to("out"));
        topology("to_table", b -> b.<String, String>stream("in").toTable(store("latest")).toStream().to("out"));
        topology("repartition", b -> b.<String, String>stream("in").repartition().to("out"));
        topology("repartition_named", b -> b.<String, String>stream("in").selectKey((k, v) -> v)
            .repartition(Repartitioned.as("by-value")).groupByKey().count().toStream().to("out"));
        Duration ten = Duration.ofMillis(10);
        topology("tumbling", b -> b.<String, String>stream("in").groupByKey().windowedBy(TimeWindows.ofSizeWithNoGrace(ten))
            .count().toStream().to("out"));
        topology("hopping_named", b -> b.<String, String>stream("in").groupBy((k, v) -> v, Grouped.as("by-value"))
            .windowedBy(TimeWindows.ofSizeAndGrace(ten, ten).advanceBy(Duration.ofMillis(5)))
            .reduce((l, r) -> r, Materialized.as("latest")).toStream((w, v) -> w.key()).to("out"));
        topology("sliding", b -> b.<String, String>stream("in").groupByKey().windowedBy(SlidingWindows.ofTimeDifferenceWithNoGrace(ten))
            .aggregate(() -> "", (k, v, a) -> a).toStream().to("out"));
        topology("session", b -> b.<String, String>stream("in").map(KeyValue::pair).groupByKey()
            .windowedBy(SessionWindows.ofInactivityGapWithNoGrace(ten)).reduce((l, r) -> r).toStream().to("out"));
        topology("table_count", b -> b.<String, String>table("users").groupBy(KeyValue::pair).count().toStream().to("out"));
        topology("table_reduce", b -> b.<String, String>table("users").filter((k, v) -> true)
            .groupBy(KeyValue::pair, Grouped.as("groups")).reduce((l, r) -> r, (l, r) -> l).toStream().to("out"));
        topology("table_aggregate", b -> b.<String, String>table("users", store("users-store")).mapValues(v -> v)
            .groupBy(KeyValue::pair).aggregate(() -> "", (k, v, a) -> a, (k, v, a) -> a, store("totals")).toStream().to("out"));
        topology("table_filter_materialized", b -> b.<String, String>table("users").filter((k, v) -> true, store("kept"))
            .mapValues(v -> v, Materialized.with(Serdes.String(), Serdes.String())).toStream().to("out"));
        JoinWindows within = JoinWindows.ofTimeDifferenceWithNoGrace(ten);
        topology("stream_join", b -> b.<String, String>stream("left").join(b.<String, String>stream("right"), (l, r) -> l, within).to("out"));
        topology("stream_left_join", b -> b.<String, String>stream("left").map(KeyValue::pair)
            .leftJoin(b.<String, String>stream("right"), (l, r) -> l, within).to("out"));
        topology("stream_outer_join", b -> b.<String, String>stream("left")
            .outerJoin(b.<String, String>stream("right").selectKey((k, v) -> v), (l, r) -> l, within).to("out"));
        topology("stream_join_named", b -> b.<String, String>stream("left").map(KeyValue::pair)
            .join(b.<String, String>stream("right"), (l, r) -> l, within, StreamJoined.<String, String, String>as("kept").withName("pair")).to("out"));
        topology("stream_outer_join_named", b -> b.<String, String>stream("left")
            .outerJoin(b.<String, String>stream("right"), (l, r) -> l, within, StreamJoined.<String, String, String>as("kept").withName("pair")).to("out"));
        topology("stream_left_join_named", b -> b.<String, String>stream("left")
            .leftJoin(b.<String, String>stream("right"), (l, r) -> l, within, StreamJoined.<String, String, String>as("kept").withName("pair")).to("out"));
        topology("self_join", b -> {
            KStream<String, String> in = b.stream("in");
            in.join(in, (l, r) -> l, within).to("out");
        });
        topology("stream_table_join", b -> {
            KTable<String, String> table = b.table("table");
            b.<String, String>stream("in").join(table, (v, row) -> v).to("out");
        });
        topology("stream_table_left_join", b -> {
            KTable<String, String> table = b.<String, String>table("table").filter((k, v) -> true);
            b.<String, String>stream("in").map(KeyValue::pair).leftJoin(table, (v, row) -> v, Joined.as("enrich")).to("out");
        });
        topology("stream_table_join_counts", b -> {
            KTable<String, Long> counts = b.<String, String>stream("clicks").groupByKey().count();
            b.<String, String>stream("in").selectKey((k, v) -> v).join(counts, (v, row) -> v).to("out");
        });
        topology("table_join", b -> b.<String, String>table("left").join(b.<String, String>table("right"), (l, r) -> l).toStream().to("out"));
        topology("table_left_join", b -> b.<String, String>table("left").mapValues(v -> v)
            .leftJoin(b.<String, String>table("right"), (l, r) -> l, Named.as("both")).toStream().to("out"));
        topology("table_outer_join", b -> b.<String, String>table("left")
            .outerJoin(b.<String, String>table("right", store("rights")), (l, r) -> l, store("both")).toStream().to("out"));
        topology("cogroup", b -> b.<String, String>stream("left").groupByKey()
            .<String>cogroup((k, v, a) -> a + v)
            .cogroup(b.<String, String>stream("right").groupBy((k, v) -> v), (k, v, a) -> a)
            .aggregate(() -> "", Materialized.<String, String, KeyValueStore<Bytes, byte[]>>as("totals")).toStream().to("out"));
        topology("cogroup_windowed", b -> b.<String, String>stream("left").groupBy((k, v) -> v, Grouped.as("lefts"))
            .<String>cogroup((k, v, a) -> a + v)
            .cogroup(b.<String, String>stream("right").groupByKey(), (k, v, a) -> a)
            .windowedBy(TimeWindows.ofSizeWithNoGrace(ten)).aggregate(() -> "").toStream().to("out"));
        topology("table_join_chain", b -> {
            KTable<String, String> first = b.<String, String>table("a").join(b.<String, String>table("b"), (l, r) -> l);
            KTable<String, String> second = first.leftJoin(b.<String, String>table("c"), (l, r) -> l, Materialized.with(Serdes.String(), Serdes.String()));
            second.groupBy(KeyValue::pair).count().toStream().to("out");
        });
        topology("fk_join", b -> b.<String, String>table("orders")
            .join(b.<String, String>table("users"), v -> v, (l, r) -> l).toStream().to("out"));
        topology("fk_left_join_named", b -> b.<String, String>table("orders")
            .leftJoin(b.<String, String>table("users"), v -> v, (l, r) -> l, TableJoined.as("billed"), store("bills"))
            .toStream().to("out"));
        topology("fk_join_chain", b -> {
            KTable<String, String> users = b.<String, String>table("users").filter((k, v) -> true);
            KTable<String, String> bills = b.<String, String>table("orders").mapValues(v -> v).join(users, v -> v, (l, r) -> l);
            bills.join(b.<String, String>table("orders-too"), (l, r) -> l).groupBy(KeyValue::pair).count().toStream().to("out");
        });
        topology("stream_table_grace", b -> {
            KTable<String, String> table = b.table("table", Materialized.<String, String>as(
                Stores.persistentVersionedKeyValueStore("rows", Duration.ofMinutes(5))));
            b.<String, String>stream("in").join(table, (l, r) -> l,
                Joined.<String, String, String>as("enrich").withGracePeriod(ten)).to("out");
            b.<String, String>stream("in2").leftJoin(table, (l, r) -> l,
                Joined.<String, String, String>with(null, null, null).withGracePeriod(ten)).to("out");
        });
        topology("process", b -> {
            b.addStateStore(keyValues("seen"));
            b.<String, String>stream("in").process(Pass::new, "seen").groupByKey().count(store("counts")).toStream().to("out");
        });
        topology("process_values", b -> {
            b.addStateStore(keyValues("b-store"));
            b.addStateStore(keyValues("a-store"));
            b.<String, String>stream("in").processValues(PassValue::new, "b-store", "a-store").groupByKey().count(store("counts")).toStream().to("out");
        });
        topology("process_shared_store", b -> {
            b.addStateStore(keyValues("shared"));
            b.<String, String>stream("left").process(Pass::new, Named.as("writer"), "shared").to("out");
            b.<String, String>stream("right").processValues(PassValue::new, "shared").to("out");
        });
        topology("sink_by_record", b -> b.<String, String>stream("in").mapValues(v -> v).to(new ByRecord()));
        topology("repartition_options", b -> b.<String, String>stream("in")
            .repartition(Repartitioned.<String, String>as("wide").withNumberOfPartitions(6)).to("out"));
        topology("process_without_store", b -> b.<String, String>stream("in").process(Pass::new, Named.as("pass")).to("out"));
        optimized("optimized_self_join", b -> {
            KStream<String, String> in = b.stream("in");
            in.join(in, (l, r) -> l, within).to("out");
        });
        optimized("optimized_self_join_named", b -> {
            KStream<String, String> in = b.<String, String>stream("in").filter((k, v) -> true);
            in.mapValues(v -> v).to("copies");
            in.join(in, (l, r) -> l, within, StreamJoined.<String, String, String>as("kept").withName("pair")).to("out");
        });
        optimized("optimized_self_left_join", b -> {
            KStream<String, String> in = b.stream("in");
            in.leftJoin(in, (l, r) -> l, within).to("out");
        });
        optimized("optimized_one_group", b -> b.<String, String>stream("in").selectKey((k, v) -> v).filter((k, v) -> true)
            .groupByKey().count().toStream().to("out"));
        optimized("optimized_two_groups", b -> {
            KStream<String, String> mapped = b.<String, String>stream("in").map(KeyValue::pair);
            mapped.groupByKey().count(store("counts")).toStream().to("counts-out");
            mapped.filter((k, v) -> true).groupByKey(Grouped.as("second")).reduce((l, r) -> r).toStream().to("out");
            mapped.to("copies");
        });
        optimized("optimized_two_groups_named", b -> {
            KStream<String, String> mapped = b.<String, String>stream("in").map(KeyValue::pair);
            mapped.peek((k, v) -> { }).groupByKey(Grouped.as("first")).count().toStream().to("counts-out");
            mapped.filter((k, v) -> true).groupByKey(Grouped.as("second")).reduce((l, r) -> r).toStream().to("out");
        });
        optimized("optimized_group_of_new_values", b -> {
            KStream<String, String> mapped = b.<String, String>stream("in").map(KeyValue::pair);
            mapped.mapValues(v -> v).groupByKey().count().toStream().to("counts-out");
            mapped.groupByKey().reduce((l, r) -> r).toStream().to("out");
        });
        optimized("optimized_joins", b -> {
            KTable<String, String> table = b.table("table");
            KStream<String, String> mapped = b.<String, String>stream("in").selectKey((k, v) -> v);
            mapped.join(table, (l, r) -> l).to("enriched");
            mapped.join(b.<String, String>stream("right").map(KeyValue::pair), (l, r) -> l, within).to("joined");
            mapped.groupByKey().count().toStream().to("counts-out");
        });
        optimized("optimized_merge", b -> {
            KStream<String, String> merged = b.<String, String>stream("left").map(KeyValue::pair)
                .merge(b.<String, String>stream("right").selectKey((k, v) -> v));
            merged.groupByKey().count().toStream().to("counts-out");
            merged.filter((k, v) -> true).groupByKey().reduce((l, r) -> r).toStream().to("out");
        });
        optimized("optimized_repartition", b -> {
            KStream<String, String> mapped = b.<String, String>stream("in").map(KeyValue::pair);
            mapped.repartition().groupByKey().count().toStream().to("counts-out");
            mapped.groupByKey().reduce((l, r) -> r).toStream().to("out");
        });
        optimized("optimized_to_table", b -> {
            KStream<String, String> mapped = b.<String, String>stream("in").map(KeyValue::pair);
            mapped.toTable().toStream().to("rows");
            mapped.groupByKey().reduce((l, r) -> r).toStream().to("out");
        });
    }

    static StoreBuilder<KeyValueStore<String, String>> keyValues(String name) {
        return Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore(name), Serdes.String(), Serdes.String());
    }

    static class ByRecord implements org.apache.kafka.streams.processor.TopicNameExtractor<String, String> {
        public String extract(String key, String value, org.apache.kafka.streams.processor.RecordContext record) { return value; }
        @Override public String toString() { return "closure"; }
    }

    static class Pass implements Processor<String, String, String, String> {
        public void process(Record<String, String> record) { }
    }

    static class PassValue implements FixedKeyProcessor<String, String, String> {
        public void process(FixedKeyRecord<String, String> record) { }
    }
}
