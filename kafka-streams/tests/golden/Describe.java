// Prints what Apache Kafka Streams 4.3 says of each topology in `tests/describe.rs`; run with an output folder:
//   java -cp "KAFKA_LIBS/*" Describe.java .
import java.nio.file.*;
import java.util.*;
import java.util.function.Consumer;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.KeyValueStore;

public class Describe {
    static Path folder;

    static void topology(String name, Consumer<StreamsBuilder> build) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        build.accept(builder);
        Files.writeString(folder.resolve(name + ".txt"), builder.build().describe().toString());
    }

    static <K, V> Materialized<K, V, KeyValueStore<Bytes, byte[]>> store(String name) { return Materialized.as(name); }

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
    }
}
