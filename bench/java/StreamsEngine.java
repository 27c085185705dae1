// Java's Streams engine alone, on the topologies of `streams-engine`: one StreamTask, no broker, a MockProducer.
//   java -cp "KAFKA_LIBS/*" StreamsEngine.java RECORDS KEYS COMMIT ROUNDS
// Prints one JSON object: records a second by topology, the best of the rounds.
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.time.Duration;
import java.util.*;
import java.util.function.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.MockProducer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.processor.internals.StreamTask;
import org.apache.kafka.streams.state.*;

public class StreamsEngine {
    record Input(byte[] key, long timestamp) { }

    static final byte[] VALUE = "x".repeat(100).getBytes(StandardCharsets.UTF_8);

    public static void main(String[] a) throws Exception {
        int records = Integer.parseInt(a[0]), commit = Integer.parseInt(a[2]), rounds = Integer.parseInt(a[3]);
        long keys = Long.parseLong(a[1]);
        List<Input> all = records(records, keys), hot = records(records, 1_000);
        List<String> found = new ArrayList<>();
        run(found, "stateless", rounds, 0, all, commit, List.of("in"), b -> stateless(b, 1));
        run(found, "map8", rounds, 0, all, commit, List.of("in"), b -> stateless(b, 8));
        run(found, "count_memory", rounds, 0, all, commit, List.of("in"), b -> count(b, Stores.inMemoryKeyValueStore("counts")));
        run(found, "count_rocksdb", rounds, 0, all, commit, List.of("in"), b -> count(b, Stores.persistentTimestampedKeyValueStore("counts")));
        run(found, "count_hot_cached", rounds, 10 << 20, hot, commit, List.of("in"), b -> count(b, Stores.persistentTimestampedKeyValueStore("counts")));
        run(found, "window_rocksdb", rounds, 0, all, commit, List.of("in"), b -> b.<String, String>stream("in").groupByKey()
            .windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofSeconds(10))).count().toStream()
            .to("out", Produced.with(WindowedSerdes.timeWindowedSerdeFrom(String.class, 10_000), Serdes.Long())));
        run(found, "stream_table_join", rounds, 0, all, commit, List.of("in"), b -> {
            KTable<String, String> table = b.table("table");
            b.<String, String>stream("in").leftJoin(table, (v, row) -> v).to("out");
        });
        run(found, "stream_stream_join", rounds, 0, all, commit, List.of("in", "right"), b -> b.<String, String>stream("in")
            .join(b.<String, String>stream("right"), (l, r) -> l, JoinWindows.ofTimeDifferenceWithNoGrace(Duration.ofMillis(500))).to("out"));
        System.out.println("{" + String.join(", ", found) + "}");
        System.exit(0);
    }

    static void stateless(StreamsBuilder b, int maps) {
        KStream<String, String> s = b.<String, String>stream("in").filter((k, v) -> !v.isEmpty());
        for (int i = 0; i < maps; i++) s = s.mapValues(v -> v.length() > 100 ? v.substring(0, 100) : v);
        s.to("out");
    }

    static void count(StreamsBuilder b, KeyValueBytesStoreSupplier store) {
        b.<String, String>stream("in").groupByKey()
            .count(Materialized.<String, Long>as(store).withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
            .toStream().to("out", Produced.with(Serdes.String(), Serdes.Long()));
    }

    static List<Input> records(int count, long keys) {
        long state = 0x9e3779b97f4a7c15L;
        List<Input> list = new ArrayList<>(count);
        for (int i = 0; i < count; i++) {
            state ^= state << 13; state ^= state >>> 7; state ^= state << 17;
            list.add(new Input(String.format("k%07d", Long.remainderUnsigned(state, keys)).getBytes(StandardCharsets.UTF_8), 1_700_000_000_000L + i));
        }
        return list;
    }

    @SuppressWarnings("unchecked")
    static <T> T field(Object owner, String name) throws Exception {
        Field field = TopologyTestDriver.class.getDeclaredField(name);
        field.setAccessible(true);
        return (T) field.get(owner);
    }

    static void run(List<String> found, String name, int rounds, long cache, List<Input> input, int commit, List<String> topics, Consumer<StreamsBuilder> build) throws Exception {
        double best = 0;
        for (int round = 0; round < rounds; round++) {
            StreamsBuilder b = new StreamsBuilder();
            build.accept(b);
            Properties p = new Properties();
            p.put("application.id", "engine"); p.put("bootstrap.servers", "none:1");
            p.put("default.key.serde", Serdes.String().getClass()); p.put("default.value.serde", Serdes.String().getClass());
            p.put("statestore.cache.max.bytes", cache);
            p.put("max.task.idle.ms", -1L); // an empty topic is not waited for
            p.put("state.dir", Files.createTempDirectory("engine").toString());
            try (TopologyTestDriver driver = new TopologyTestDriver(b.build(), p)) {
                StreamTask task = field(driver, "task");
                MockProducer<byte[], byte[]> producer = field(driver, "producer");
                Map<String, Long> offsets = new HashMap<>();
                long start = System.nanoTime();
                for (int at = 0; at < input.size(); at += 1_000) {
                    List<Input> batch = input.subList(at, Math.min(at + 1_000, input.size()));
                    int share = batch.size() / topics.size();
                    for (int t = 0; t < topics.size(); t++) {
                        TopicPartition tp = new TopicPartition(topics.get(t), 0);
                        List<ConsumerRecord<byte[], byte[]>> list = new ArrayList<>(share);
                        for (Input in : batch.subList(t * share, (t + 1) * share)) {
                            long offset = offsets.merge(tp.topic(), 1L, Long::sum) - 1;
                            list.add(new ConsumerRecord<>(tp.topic(), 0, offset, in.timestamp, TimestampType.CREATE_TIME, 8, 100, in.key, VALUE, new RecordHeaders(), Optional.empty()));
                        }
                        task.addRecords(tp, list);
                    }
                    while (task.process(0)) { }
                    producer.clear();
                    if ((at + 1_000) % commit == 0) { task.prepareCommit(true); task.postCommit(true); producer.clear(); }
                }
                best = Math.max(best, input.size() / ((System.nanoTime() - start) / 1e9));
            }
        }
        System.err.printf("%-20s %,.0f%n", name, best);
        found.add(String.format("\"%s\": %.0f", name, best));
    }
}
