// Runs topologies that are written as JSON in Apache Kafka's own TopologyTestDriver: a spec on each line of stdin, what
// came of it on a line of stdout. `src/spec.rs` says what a spec is; `src/ours.rs` is the same interpreter in Rust.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.processor.api.*;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.*;
import org.apache.kafka.streams.test.TestRecord;

@SuppressWarnings({"unchecked", "rawtypes", "deprecation"})
public class Parity {
    static final ObjectMapper JSON = new ObjectMapper();

    /** The spec asks for something that its handles cannot do: no difference, but a spec that means nothing. */
    static class BadSpec extends RuntimeException {
        BadSpec(String what) { super(what); }
    }

    public static void main(String[] arguments) throws Exception {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Path state = Files.createTempDirectory("parity");
        for (String line; (line = in.readLine()) != null; ) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                new Parity(JSON.readTree(line), state, answer).run();
            } catch (BadSpec bad) {
                answer.put("bad", bad.getMessage());
            } catch (Throwable error) {
                answer.putObject("error").put("class", error.getClass().getName()).put("message", String.valueOf(error.getMessage()));
            }
            out.println(JSON.writeValueAsString(answer));
            out.flush();
        }
        delete(state);
    }

    static void delete(Path folder) throws Exception {
        if (!Files.exists(folder)) return;
        try (var files = Files.walk(folder)) {
            for (Path path : files.sorted(Comparator.reverseOrder()).toList()) Files.deleteIfExists(path);
        }
    }

    final JsonNode spec;
    final Path state;
    final ObjectNode answer;
    final StreamsBuilder builder = new StreamsBuilder();
    final Map<String, Object> handles = new HashMap<>();

    Parity(JsonNode spec, Path state, ObjectNode answer) {
        this.spec = spec;
        this.state = state;
        this.answer = answer;
    }

    // ---- values and expressions: null, String (ASCII) or Long

    /** 's' and the text, or 'l' and eight bytes. */
    public static class ValSerde implements Serde<Object> {
        @Override public Serializer<Object> serializer() {
            return (topic, value) -> {
                if (value == null) return null;
                if (value instanceof Long number) return java.nio.ByteBuffer.allocate(9).put((byte) 'l').putLong(number).array();
                byte[] text = ((String) value).getBytes(StandardCharsets.UTF_8);
                return java.nio.ByteBuffer.allocate(text.length + 1).put((byte) 's').put(text).array();
            };
        }

        @Override public Deserializer<Object> deserializer() {
            return (topic, bytes) -> {
                if (bytes == null) return null;
                if (bytes[0] == 'l') return java.nio.ByteBuffer.wrap(bytes).getLong(1);
                return new String(bytes, 1, bytes.length - 1, StandardCharsets.UTF_8);
            };
        }
    }

    /** What an expression sees. */
    record Env(Object key, Object val, Object agg, Object other) {
        static Env of(Object key, Object val) { return new Env(key, val, null, null); }
    }

    static String text(Object value) {
        if (value instanceof Windowed<?> windowed)
            return text(windowed.key()) + "@" + windowed.window().start() + "-" + windowed.window().end();
        return value == null ? "" : value.toString();
    }

    static long number(Object value) {
        if (value instanceof Long number) return number;
        String text = text(value);
        return text.matches("-?[0-9]{1,9}") ? Long.parseLong(text) : text.length();
    }

    static boolean truth(Object value) { return number(value) != 0; }

    static Object plain(Object value) { return value instanceof Windowed<?> ? text(value) : value; }

    static Object eval(JsonNode e, Env env) {
        if (e == null || e.isNull() || e.isMissingNode()) return null;
        if (e.isNumber()) return e.longValue();
        if (e.isObject()) return e.get("s").textValue();
        if (e.isTextual()) {
            return switch (e.textValue()) {
                case "key" -> plain(env.key());
                case "val" -> env.val();
                case "agg" -> env.agg();
                case "other" -> env.other();
                default -> throw new BadSpec("variable " + e.textValue());
            };
        }
        String function = e.get(0).textValue();
        if (function.equals("if")) return eval(e.get(truth(eval(e.get(1), env)) ? 2 : 3), env);
        Object[] a = new Object[e.size() - 1];
        for (int i = 0; i < a.length; i++) a[i] = eval(e.get(i + 1), env);
        return switch (function) {
            case "cat" -> {
                String whole = text(a[0]) + text(a[1]);
                yield whole.substring(Math.max(0, whole.length() - 24));
            }
            case "sub" -> {
                String whole = text(a[0]);
                int from = (int) Math.min(Math.max(number(a[1]), 0), whole.length());
                int to = (int) Math.min(from + Math.max(number(a[2]), 0), whole.length());
                yield whole.substring(from, to);
            }
            case "len" -> (long) text(a[0]).length();
            case "int" -> number(a[0]);
            case "add" -> number(a[0]) + number(a[1]);
            case "mod" -> Math.floorMod(number(a[0]), Math.max(number(a[1]), 1));
            case "eq" -> text(a[0]).equals(text(a[1])) ? 1L : 0L;
            case "lt" -> number(a[0]) < number(a[1]) ? 1L : 0L;
            case "null" -> a[0] == null ? 1L : 0L;
            default -> throw new BadSpec("function " + function);
        };
    }

    // ---- handles

    <T> T get(JsonNode id, Class<T> type) {
        Object handle = handles.get(id.textValue());
        if (!type.isInstance(handle)) throw new BadSpec(id + " is no " + type.getSimpleName());
        return (T) handle;
    }

    KStream<Object, Object> stream(JsonNode op) { return get(op.path("in"), KStream.class); }

    KStream<Object, Object> otherStream(JsonNode op) { return get(op.path("other"), KStream.class); }

    KTable<Object, Object> table(JsonNode op) { return get(op.path("in"), KTable.class); }

    KTable<Object, Object> otherTable(JsonNode op) { return get(op.path("other"), KTable.class); }

    static String name(JsonNode op) { return op.path("name").textValue(); }

    /** Applies an operator with a name or without one. */
    interface WithName<T> { T with(Named name); }
    interface WithoutName<T> { T without(); }

    static <T> T named(JsonNode op, WithoutName<T> without, WithName<T> with) {
        return name(op) == null ? without.without() : with.with(Named.as(name(op)));
    }

    static Duration ms(JsonNode op, String field) { return Duration.ofMillis(op.path(field).longValue()); }

    static <S extends StateStore> Materialized<Object, Object, S> materialized(JsonNode op) {
        JsonNode store = op.path("store");
        Materialized<Object, Object, S> made;
        if (store.has("versioned"))
            made = (Materialized) Materialized.as(Stores.persistentVersionedKeyValueStore(name(store), ms(store, "versioned")));
        else if (store.has("name")) made = Materialized.as(name(store));
        else made = (Materialized) Materialized.with(null, null);
        if (store.has("caching")) made = store.get("caching").booleanValue() ? made.withCachingEnabled() : made.withCachingDisabled();
        if (store.has("retention")) made = made.withRetention(ms(store, "retention"));
        if (store.has("logging") && !store.get("logging").booleanValue()) made = made.withLoggingDisabled();
        return made;
    }

    static Materialized<Object, Object, KeyValueStore<Bytes, byte[]>> keyValue(JsonNode op) { return materialized(op); }
    static Materialized<Object, Object, WindowStore<Bytes, byte[]>> window(JsonNode op) { return materialized(op); }
    static Materialized<Object, Object, SessionStore<Bytes, byte[]>> session(JsonNode op) { return materialized(op); }

    static boolean stored(JsonNode op) { return op.has("store"); }

    static Aggregator<Object, Object, Object> aggregator(JsonNode fn) {
        return (key, value, agg) -> eval(fn, new Env(key, value, agg, null));
    }

    static Initializer<Object> initial(JsonNode op) { return () -> eval(op.get("init"), Env.of(null, null)); }

    static Reducer<Object> reducer(JsonNode fn) { return (agg, value) -> eval(fn, new Env(null, value, agg, null)); }

    static Merger<Object, Object> merger(JsonNode fn) {
        return (key, agg, other) -> eval(fn, new Env(key, null, agg, other));
    }

    static ValueJoinerWithKey<Object, Object, Object, Object> joiner(JsonNode op) {
        return (key, value, other) -> eval(op.get("fn"), new Env(key, value, null, other));
    }

    static ValueJoiner<Object, Object, Object> valueJoiner(JsonNode op) {
        return (value, other) -> eval(op.get("fn"), new Env(null, value, null, other));
    }

    // ---- operators

    void build(JsonNode op) {
        Object made = switch (op.get("op").textValue()) {
            case "stream" -> {
                List<String> topics = new ArrayList<>();
                op.get("topics").forEach(topic -> topics.add(topic.textValue()));
                yield name(op) == null ? builder.stream(topics) : builder.stream(topics, Consumed.as(name(op)));
            }
            case "table" -> {
                String topic = op.get("topic").textValue();
                if (stored(op))
                    yield name(op) == null ? builder.table(topic, keyValue(op)) : builder.table(topic, Consumed.as(name(op)), keyValue(op));
                yield name(op) == null ? builder.table(topic) : builder.table(topic, Consumed.as(name(op)));
            }
            case "global" -> {
                String topic = op.get("topic").textValue();
                yield stored(op) ? builder.globalTable(topic, keyValue(op)) : builder.globalTable(topic);
            }
            case "filter" -> filter(op, true);
            case "filterNot" -> filter(op, false);
            case "mapValues" -> {
                ValueMapperWithKey<Object, Object, Object> map = (key, value) -> eval(op.get("value"), Env.of(key, value));
                if (handles.get(op.path("in").textValue()) instanceof KTable) {
                    KTable<Object, Object> table = table(op);
                    if (stored(op)) yield named(op, () -> table.mapValues(map, keyValue(op)), n -> table.mapValues(map, n, keyValue(op)));
                    yield named(op, () -> table.mapValues(map), n -> table.mapValues(map, n));
                }
                yield named(op, () -> stream(op).mapValues(map), n -> stream(op).mapValues(map, n));
            }
            case "map" -> {
                KeyValueMapper<Object, Object, KeyValue<Object, Object>> map = (key, value) ->
                    KeyValue.pair(eval(op.get("key"), Env.of(key, value)), eval(op.get("value"), Env.of(key, value)));
                yield named(op, () -> stream(op).map(map), n -> stream(op).map(map, n));
            }
            case "selectKey" -> {
                KeyValueMapper<Object, Object, Object> map = (key, value) -> eval(op.get("key"), Env.of(key, value));
                yield named(op, () -> stream(op).selectKey(map), n -> stream(op).selectKey(map, n));
            }
            case "flatMap" -> {
                KeyValueMapper<Object, Object, Iterable<KeyValue<Object, Object>>> map = (key, value) -> {
                    List<KeyValue<Object, Object>> pairs = new ArrayList<>();
                    for (JsonNode pair : op.get("pairs"))
                        pairs.add(KeyValue.pair(eval(pair.get(0), Env.of(key, value)), eval(pair.get(1), Env.of(key, value))));
                    return pairs;
                };
                yield named(op, () -> stream(op).flatMap(map), n -> stream(op).flatMap(map, n));
            }
            case "flatMapValues" -> {
                ValueMapperWithKey<Object, Object, Iterable<Object>> map = (key, value) -> {
                    List<Object> values = new ArrayList<>();
                    for (JsonNode each : op.get("values")) values.add(eval(each, Env.of(key, value)));
                    return values;
                };
                yield named(op, () -> stream(op).flatMapValues(map), n -> stream(op).flatMapValues(map, n));
            }
            case "peek" -> named(op, () -> stream(op).peek((k, v) -> { }), n -> stream(op).peek((k, v) -> { }, n));
            case "foreach" -> {
                stream(op).foreach((k, v) -> { });
                yield null;
            }
            case "merge" -> named(op, () -> stream(op).merge(otherStream(op)), n -> stream(op).merge(otherStream(op), n));
            case "split" -> split(op);
            case "repartition" -> {
                Repartitioned<Object, Object> options = name(op) == null ? Repartitioned.with(null, null) : Repartitioned.as(name(op));
                if (op.has("partitions")) options = options.withNumberOfPartitions(op.get("partitions").intValue());
                yield stream(op).repartition(options);
            }
            case "toTable" -> {
                if (stored(op)) yield named(op, () -> stream(op).toTable(keyValue(op)), n -> stream(op).toTable(n, keyValue(op)));
                yield named(op, () -> stream(op).toTable(), n -> stream(op).toTable(n));
            }
            case "toStream" -> {
                if (!op.has("key")) yield named(op, () -> table(op).toStream(), n -> table(op).toStream(n));
                KeyValueMapper<Object, Object, Object> map = (key, value) -> eval(op.get("key"), Env.of(key, value));
                yield named(op, () -> table(op).toStream(map), n -> table(op).toStream(map, n));
            }
            case "to" -> {
                Produced<Object, Object> options = name(op) == null ? Produced.with(null, null) : Produced.as(name(op));
                JsonNode topic = op.get("topic");
                if (topic.isTextual()) stream(op).to(topic.textValue(), options);
                else stream(op).to((key, value, context) -> text(eval(topic, Env.of(key, value))), options);
                yield null;
            }
            case "groupByKey" -> stream(op).groupByKey(grouped(op));
            case "groupBy" -> {
                if (handles.get(op.path("in").textValue()) instanceof KTable)
                    yield table(op).groupBy((key, value) ->
                        KeyValue.pair(eval(op.get("key"), Env.of(key, value)), eval(op.get("value"), Env.of(key, value))), grouped(op));
                yield stream(op).groupBy((key, value) -> eval(op.get("key"), Env.of(key, value)), grouped(op));
            }
            case "window" -> windowed(op);
            case "count", "reduce", "aggregate" -> aggregate(op);
            case "cogroup" -> {
                CogroupedKStream<Object, Object> all = null;
                for (int i = 0; i < op.get("in").size(); i++) {
                    KGroupedStream<Object, Object> each = get(op.get("in").get(i), KGroupedStream.class);
                    Aggregator<Object, Object, Object> add = aggregator(op.get("fns").get(i));
                    all = all == null ? each.cogroup(add) : all.cogroup(each, add);
                }
                yield all;
            }
            case "join" -> joinStreams(op);
            case "joinTable" -> {
                Joined<Object, Object, Object> options = name(op) == null ? Joined.with(null, null, null) : Joined.as(name(op));
                if (op.has("grace")) options = options.withGracePeriod(ms(op, "grace"));
                yield isLeft(op) ? stream(op).leftJoin(otherTable(op), joiner(op), options) : stream(op).join(otherTable(op), joiner(op), options);
            }
            case "joinGlobal" -> {
                GlobalKTable<Object, Object> other = get(op.path("other"), GlobalKTable.class);
                KeyValueMapper<Object, Object, Object> key = (k, v) -> eval(op.get("key"), Env.of(k, v));
                yield isLeft(op) ? stream(op).leftJoin(other, key, joiner(op)) : stream(op).join(other, key, joiner(op));
            }
            case "joinTables" -> joinTables(op);
            case "joinFk" -> joinForeignKey(op);
            case "suppress" -> suppress(op);
            case "process" -> Library.process(this, op);
            case "processValues" -> Library.processValues(this, op);
            default -> throw new BadSpec("operator " + op.get("op"));
        };
        if (made != null) handles.put(op.get("id").textValue(), made);
    }

    static boolean isLeft(JsonNode op) { return op.path("kind").textValue().equals("left"); }

    /** Serdes of windowed keys are made of this one; Java does not make them of the default serde. */
    static Grouped<Object, Object> grouped(JsonNode op) {
        Grouped<Object, Object> serdes = Grouped.with(new ValSerde(), new ValSerde());
        return name(op) == null ? serdes : serdes.withName(name(op));
    }

    Object filter(JsonNode op, boolean keep) {
        Predicate<Object, Object> test = (key, value) -> truth(eval(op.get("if"), Env.of(key, value)));
        if (handles.get(op.path("in").textValue()) instanceof KTable) {
            KTable<Object, Object> in = table(op);
            if (stored(op)) {
                if (keep) return named(op, () -> in.filter(test, keyValue(op)), n -> in.filter(test, n, keyValue(op)));
                return named(op, () -> in.filterNot(test, keyValue(op)), n -> in.filterNot(test, n, keyValue(op)));
            }
            return keep ? named(op, () -> in.filter(test), n -> in.filter(test, n))
                : named(op, () -> in.filterNot(test), n -> in.filterNot(test, n));
        }
        KStream<Object, Object> in = stream(op);
        return keep ? named(op, () -> in.filter(test), n -> in.filter(test, n))
            : named(op, () -> in.filterNot(test), n -> in.filterNot(test, n));
    }

    /** Branch i (from 1) is the handle ID.i, the default branch ID.0. */
    Object split(JsonNode op) {
        String id = op.get("id").textValue();
        BranchedKStream<Object, Object> split = named(op, () -> stream(op).split(), n -> stream(op).split(n));
        int number = 1;
        for (JsonNode branch : op.get("branches")) {
            String handle = id + "." + number++;
            Predicate<Object, Object> test = (key, value) -> truth(eval(branch.get("if"), Env.of(key, value)));
            split.branch(test, branched(handle, branch));
        }
        if (op.has("default")) split.defaultBranch(branched(id + ".0", op.get("default")));
        else split.noDefaultBranch();
        return null;
    }

    Branched<Object, Object> branched(String handle, JsonNode branch) {
        java.util.function.Consumer<KStream<Object, Object>> keep = stream -> handles.put(handle, stream);
        return name(branch) == null ? Branched.withConsumer(keep) : Branched.withConsumer(keep, name(branch));
    }

    Object windowed(JsonNode op) {
        Object in = handles.get(op.path("in").textValue());
        Duration size = ms(op, "size"), grace = ms(op, "grace");
        EmitStrategy emit = op.path("emit").asText("update").equals("close") ? EmitStrategy.onWindowClose() : EmitStrategy.onWindowUpdate();
        String type = op.get("type").textValue();
        if (type.equals("session")) {
            SessionWindows windows = SessionWindows.ofInactivityGapAndGrace(size, grace);
            if (in instanceof CogroupedKStream cogrouped) return cogrouped.windowedBy(windows);
            return get(op.path("in"), KGroupedStream.class).windowedBy(windows).emitStrategy(emit);
        }
        if (type.equals("sliding")) {
            SlidingWindows windows = SlidingWindows.ofTimeDifferenceAndGrace(size, grace);
            if (in instanceof CogroupedKStream cogrouped) return cogrouped.windowedBy(windows);
            return get(op.path("in"), KGroupedStream.class).windowedBy(windows).emitStrategy(emit);
        }
        Windows windows = switch (type) {
            case "tumbling" -> TimeWindows.ofSizeAndGrace(size, grace);
            case "hopping" -> TimeWindows.ofSizeAndGrace(size, grace).advanceBy(ms(op, "advance"));
            case "unlimited" -> UnlimitedWindows.of().startOn(Instant.ofEpochMilli(op.path("start").longValue()));
            default -> throw new BadSpec("windows " + type);
        };
        if (in instanceof CogroupedKStream cogrouped) return cogrouped.windowedBy(windows);
        return get(op.path("in"), KGroupedStream.class).windowedBy(windows).emitStrategy(emit);
    }

    /** Without a store the overloads without Materialized are called: they number their names otherwise. */
    Object aggregate(JsonNode op) {
        Object in = handles.get(op.path("in").textValue());
        JsonNode fn = op.get("fn"), sub = op.get("sub");
        String kind = op.get("op").textValue();
        boolean plain = !stored(op);
        boolean unnamed = name(op) == null;
        Named named = unnamed ? null : Named.as(name(op));
        if (in instanceof KGroupedStream grouped) {
            Reducer reducer = reducer(fn);
            Aggregator aggregator = aggregator(fn);
            return switch (kind) {
                case "count" -> plain ? (unnamed ? grouped.count() : grouped.count(named))
                    : unnamed ? grouped.count(keyValue(op)) : grouped.count(named, (Materialized) keyValue(op));
                case "reduce" -> plain && unnamed ? grouped.reduce(reducer)
                    : unnamed ? grouped.reduce(reducer, keyValue(op)) : grouped.reduce(reducer, named, keyValue(op));
                default -> plain && unnamed ? grouped.aggregate(initial(op), aggregator)
                    : unnamed ? grouped.aggregate(initial(op), aggregator, keyValue(op))
                    : grouped.aggregate(initial(op), aggregator, named, keyValue(op));
            };
        }
        if (in instanceof TimeWindowedKStream windowed) {
            Reducer reducer = reducer(fn);
            Aggregator aggregator = aggregator(fn);
            return switch (kind) {
                case "count" -> plain ? (unnamed ? windowed.count() : windowed.count(named))
                    : unnamed ? windowed.count(window(op)) : windowed.count(named, (Materialized) window(op));
                case "reduce" -> plain ? (unnamed ? windowed.reduce(reducer) : windowed.reduce(reducer, named))
                    : unnamed ? windowed.reduce(reducer, window(op)) : windowed.reduce(reducer, named, window(op));
                default -> plain ? (unnamed ? windowed.aggregate(initial(op), aggregator) : windowed.aggregate(initial(op), aggregator, named))
                    : unnamed ? windowed.aggregate(initial(op), aggregator, window(op))
                    : windowed.aggregate(initial(op), aggregator, named, window(op));
            };
        }
        if (in instanceof SessionWindowedKStream windowed) {
            Reducer reducer = reducer(fn);
            Aggregator aggregator = aggregator(fn);
            Merger merger = merger(op.get("merge"));
            return switch (kind) {
                case "count" -> plain ? (unnamed ? windowed.count() : windowed.count(named))
                    : unnamed ? windowed.count(session(op)) : windowed.count(named, (Materialized) session(op));
                case "reduce" -> plain ? (unnamed ? windowed.reduce(reducer) : windowed.reduce(reducer, named))
                    : unnamed ? windowed.reduce(reducer, session(op)) : windowed.reduce(reducer, named, session(op));
                default -> plain ? (unnamed ? windowed.aggregate(initial(op), aggregator, merger) : windowed.aggregate(initial(op), aggregator, merger, named))
                    : unnamed ? windowed.aggregate(initial(op), aggregator, merger, session(op))
                    : windowed.aggregate(initial(op), aggregator, merger, named, session(op));
            };
        }
        if (in instanceof KGroupedTable grouped) {
            return switch (kind) {
                case "count" -> plain ? (unnamed ? grouped.count() : grouped.count(named))
                    : unnamed ? grouped.count(keyValue(op)) : grouped.count(named, (Materialized) keyValue(op));
                case "reduce" -> plain && unnamed ? grouped.reduce(reducer(fn), reducer(sub))
                    : unnamed ? grouped.reduce(reducer(fn), reducer(sub), keyValue(op))
                    : grouped.reduce(reducer(fn), reducer(sub), named, keyValue(op));
                default -> plain ? (unnamed ? grouped.aggregate(initial(op), aggregator(fn), aggregator(sub))
                        : grouped.aggregate(initial(op), aggregator(fn), aggregator(sub), named))
                    : unnamed ? grouped.aggregate(initial(op), aggregator(fn), aggregator(sub), keyValue(op))
                    : grouped.aggregate(initial(op), aggregator(fn), aggregator(sub), named, keyValue(op));
            };
        }
        if (!kind.equals("aggregate")) throw new BadSpec("cogroups only aggregate");
        if (in instanceof CogroupedKStream grouped)
            return plain ? (unnamed ? grouped.aggregate(initial(op)) : grouped.aggregate(initial(op), named))
                : unnamed ? grouped.aggregate(initial(op), keyValue(op)) : grouped.aggregate(initial(op), named, keyValue(op));
        if (in instanceof TimeWindowedCogroupedKStream grouped)
            return plain ? (unnamed ? grouped.aggregate(initial(op)) : grouped.aggregate(initial(op), named))
                : unnamed ? grouped.aggregate(initial(op), window(op)) : grouped.aggregate(initial(op), named, window(op));
        if (in instanceof SessionWindowedCogroupedKStream grouped) {
            Merger merger = merger(op.get("merge"));
            return plain ? (unnamed ? grouped.aggregate(initial(op), merger) : grouped.aggregate(initial(op), merger, named))
                : unnamed ? grouped.aggregate(initial(op), merger, session(op)) : grouped.aggregate(initial(op), merger, named, session(op));
        }
        throw new BadSpec(op.path("in") + " cannot be aggregated");
    }

    Object joinStreams(JsonNode op) {
        JoinWindows windows = JoinWindows.ofTimeDifferenceAndGrace(Duration.ZERO, ms(op, "grace"))
            .before(ms(op, "before")).after(ms(op, "after"));
        StreamJoined<Object, Object, Object> options = StreamJoined.with(null, null, null);
        if (name(op) != null) options = options.withName(name(op));
        if (stored(op)) options = options.withStoreName(name(op.get("store")));
        KStream<Object, Object> left = stream(op), right = otherStream(op);
        return switch (op.get("kind").textValue()) {
            case "inner" -> left.join(right, joiner(op), windows, options);
            case "left" -> left.leftJoin(right, joiner(op), windows, options);
            default -> left.outerJoin(right, joiner(op), windows, options);
        };
    }

    Object joinTables(JsonNode op) {
        KTable<Object, Object> left = table(op), right = otherTable(op);
        ValueJoiner<Object, Object, Object> fn = valueJoiner(op);
        if (stored(op)) {
            return switch (op.get("kind").textValue()) {
                case "inner" -> named(op, () -> left.join(right, fn, keyValue(op)), n -> left.join(right, fn, n, keyValue(op)));
                case "left" -> named(op, () -> left.leftJoin(right, fn, keyValue(op)), n -> left.leftJoin(right, fn, n, keyValue(op)));
                default -> named(op, () -> left.outerJoin(right, fn, keyValue(op)), n -> left.outerJoin(right, fn, n, keyValue(op)));
            };
        }
        return switch (op.get("kind").textValue()) {
            case "inner" -> named(op, () -> left.join(right, fn), n -> left.join(right, fn, n));
            case "left" -> named(op, () -> left.leftJoin(right, fn), n -> left.leftJoin(right, fn, n));
            default -> named(op, () -> left.outerJoin(right, fn), n -> left.outerJoin(right, fn, n));
        };
    }

    Object joinForeignKey(JsonNode op) {
        KTable<Object, Object> left = table(op), right = otherTable(op);
        java.util.function.Function<Object, Object> foreign = value -> eval(op.get("fk"), Env.of(null, value));
        ValueJoiner<Object, Object, Object> fn = valueJoiner(op);
        TableJoined<Object, Object> options = name(op) == null ? TableJoined.with(null, null) : TableJoined.as(name(op));
        if (isLeft(op)) return left.leftJoin(right, foreign, fn, options, keyValue(op));
        return left.join(right, foreign, fn, options, keyValue(op));
    }

    Object suppress(JsonNode op) {
        JsonNode until = op.get("until");
        boolean shutdown = op.path("full").asText("emit").equals("shutdown");
        Suppressed.EagerBufferConfig eager = op.has("records") ? Suppressed.BufferConfig.maxRecords(op.get("records").longValue())
            : op.has("bytes") ? Suppressed.BufferConfig.maxBytes(op.get("bytes").longValue()) : null;
        Suppressed.StrictBufferConfig strict = eager == null ? Suppressed.BufferConfig.unbounded() : eager.shutDownWhenFull();
        Suppressed suppressed = until.isNumber()
            ? Suppressed.untilTimeLimit(Duration.ofMillis(until.longValue()), eager == null || shutdown ? strict : eager)
            : Suppressed.untilWindowCloses(strict);
        if (name(op) != null) suppressed = (Suppressed) ((org.apache.kafka.streams.kstream.internals.suppress.NamedSuppressed) suppressed).withName(name(op));
        return table(op).suppress(suppressed);
    }

    // ---- running

    Properties properties() {
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, "test");
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "none:1");
        properties.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
        properties.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, ValSerde.class);
        properties.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, ValSerde.class);
        JsonNode config = spec.path("cfg");
        properties.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, config.path("cache").booleanValue() ? 10_000_000L : 0L);
        properties.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, config.path("optimization").asText("none"));
        properties.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG, config.path("rocksdb").booleanValue()
            ? BuiltInDslStoreSuppliers.RocksDBDslStoreSuppliers.class : BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class);
        properties.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_OUTER_JOIN_SPURIOUS_RESULTS_FIX, 0L);
        properties.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_WINDOWED_AGGREGATION, 0L);
        return properties;
    }

    void run() throws Exception {
        Properties properties = properties();
        Topology topology;
        if (spec.has("papi")) {
            topology = new Topology();
            for (JsonNode node : spec.get("papi")) Library.add(topology, node);
        } else {
            for (JsonNode op : spec.get("ops")) build(op);
            topology = builder.build(properties);
        }
        answer.put("describe", topology.describe().toString());
        ArrayNode steps = answer.putArray("steps");
        try (TopologyTestDriver driver = new TopologyTestDriver(topology, properties, Instant.ofEpochMilli(0))) {
            ValSerde serde = new ValSerde();
            for (JsonNode input : spec.get("input")) {
                String topic = input.get(0).textValue();
                if (topic.equals("@wall")) {
                    driver.advanceWallClockTime(Duration.ofMillis(input.get(1).longValue()));
                } else {
                    Headers headers = new RecordHeaders();
                    if (input.has(4)) headers.add("h", input.get(4).textValue().getBytes(StandardCharsets.UTF_8));
                    driver.createInputTopic(topic, serde.serializer(), serde.serializer())
                        .pipeInput(new TestRecord<>(eval(input.get(1), null), eval(input.get(2), null), headers, input.get(3).longValue()));
                }
                produced(driver, steps.addObject());
            }
            stores(driver, answer.putObject("stores"));
            double dropped = driver.metrics().entrySet().stream()
                .filter(metric -> metric.getKey().name().equals("dropped-records-total"))
                .mapToDouble(metric -> (double) metric.getValue().metricValue()).sum();
            answer.put("dropped", (long) dropped);
        } finally {
            delete(state.resolve("test"));
        }
    }

    static String hex(byte[] bytes) { return bytes == null ? null : HexFormat.of().formatHex(bytes); }

    static void produced(TopologyTestDriver driver, ObjectNode step) {
        for (String topic : new TreeSet<>(driver.producedTopicNames())) {
            ArrayNode records = JSON.createArrayNode();
            driver.createOutputTopic(topic, new ByteArrayDeserializer(), new ByteArrayDeserializer()).readRecordsToList().forEach(record -> {
                ArrayNode each = records.addArray().add(hex(record.key())).add(hex(record.value())).add(record.timestamp());
                ArrayNode headers = each.addArray();
                for (Header header : record.headers()) headers.addArray().add(header.key()).add(hex(header.value()));
            });
            if (!records.isEmpty()) step.set(topic, records);
        }
    }

    static String shown(Object value) { return value == null ? null : (value instanceof Long ? "l" : "s") + text(value); }

    /** Rows as [key, start, end, value, timestamp], the times of windows only where there are windows. */
    static void stores(TopologyTestDriver driver, ObjectNode stores) {
        for (var entry : new TreeMap<>(driver.getAllStateStores()).entrySet()) {
            ArrayNode rows = JSON.createArrayNode();
            try {
                StateStore store = entry.getValue();
                if (store instanceof SessionStore sessions) {
                    try (KeyValueIterator<Windowed<Object>, Object> all = sessions.findSessions(null, null, 0L, Long.MAX_VALUE)) {
                        all.forEachRemaining(row -> row(rows, row.key, row.value));
                    }
                } else if (store instanceof WindowStore windows) {
                    try (KeyValueIterator<Object, Object> all = windows.all()) {
                        all.forEachRemaining(row -> row(rows, row.key, row.value));
                    }
                } else if (store instanceof KeyValueStore map) {
                    try (KeyValueIterator<Object, Object> all = map.all()) {
                        all.forEachRemaining(row -> row(rows, row.key, row.value));
                    }
                } else {
                    continue;
                }
            } catch (RuntimeException error) {
                continue; // a store of an operator's own, with types that are not ours
            }
            stores.set(entry.getKey(), rows);
        }
    }

    static void row(ArrayNode rows, Object key, Object value) {
        ArrayNode row = JSON.createArrayNode();
        if (key instanceof Windowed<?> windowed) row.add(shown(windowed.key())).add(windowed.window().start()).add(windowed.window().end());
        else if (key instanceof String || key instanceof Long) row.add(shown(key));
        else throw new IllegalStateException("a key of an operator's own");
        if (value instanceof ValueAndTimestamp<?> stamped) row.add(shown(stamped.value())).add(stamped.timestamp());
        else if (value instanceof ValueTimestampHeaders<?> stamped) row.add(shown(stamped.value())).add(stamped.timestamp());
        else row.add(shown(value));
        rows.add(row);
    }

    // ---- five processors that both sides have

    static class Library {
        static KStream<Object, Object> process(Parity parity, JsonNode op) {
            ProcessorSupplier<Object, Object, Object, Object> supplier = supplier(op);
            return named(op, () -> parity.stream(op).process(supplier), n -> parity.stream(op).process(supplier, n));
        }

        static KStream<Object, Object> processValues(Parity parity, JsonNode op) {
            String lib = op.get("lib").textValue(), store = op.path("store").path("name").textValue();
            FixedKeyProcessorSupplier<Object, Object, Object> supplier = new FixedKeyProcessorSupplier<>() {
                @Override public FixedKeyProcessor<Object, Object, Object> get() { return new Values(lib, store); }
                @Override public java.util.Set<StoreBuilder<?>> stores() { return Library.stores(store); }
            };
            return named(op, () -> parity.stream(op).processValues(supplier), n -> parity.stream(op).processValues(supplier, n));
        }

        static java.util.Set<StoreBuilder<?>> stores(String name) {
            if (name == null) return java.util.Set.of();
            return java.util.Set.of(Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore(name), new ValSerde(), new ValSerde()));
        }

        static ProcessorSupplier<Object, Object, Object, Object> supplier(JsonNode op) {
            String lib = op.get("lib").textValue(), store = op.path("store").path("name").textValue();
            return new ProcessorSupplier<>() {
                @Override public Processor<Object, Object, Object, Object> get() { return new Records(lib, store); }
                @Override public java.util.Set<StoreBuilder<?>> stores() { return Library.stores(store); }
            };
        }

        /** A node of a topology by hand. */
        static void add(Topology topology, JsonNode node) {
            String name = name(node);
            String[] parents = new String[node.path("parents").size()];
            for (int i = 0; i < parents.length; i++) parents[i] = node.get("parents").get(i).textValue();
            switch (node.get("node").textValue()) {
                case "source" -> topology.addSource(name, node.get("topic").textValue());
                case "sink" -> topology.addSink(name, node.get("topic").textValue(), parents);
                case "processor" -> topology.addProcessor(name, supplier(node), parents);
                default -> throw new BadSpec("node " + node.get("node"));
            }
        }

        /** dedupe, running (sums), streamTick, wallTick and twice. */
        static class Records implements Processor<Object, Object, Object, Object> {
            final String lib, storeName;
            ProcessorContext<Object, Object> context;
            KeyValueStore<Object, Object> store;

            Records(String lib, String storeName) {
                this.lib = lib;
                this.storeName = storeName;
            }

            @Override public void init(ProcessorContext<Object, Object> context) {
                this.context = context;
                if (storeName != null) store = context.getStateStore(storeName);
                if (lib.equals("streamTick")) context.schedule(Duration.ofMillis(10), PunctuationType.STREAM_TIME, this::tick);
                if (lib.equals("wallTick")) context.schedule(Duration.ofMillis(1000), PunctuationType.WALL_CLOCK_TIME, this::tick);
            }

            void tick(long time) {
                List<KeyValue<Object, Object>> rows = new ArrayList<>();
                try (KeyValueIterator<Object, Object> all = store.all()) {
                    all.forEachRemaining(rows::add);
                }
                for (KeyValue<Object, Object> row : rows) {
                    context.forward(new Record<>(row.key, row.value, time));
                    if (lib.equals("streamTick")) store.delete(row.key);
                }
            }

            @Override public void process(Record<Object, Object> record) {
                Object key = record.key() == null ? "" : record.key();
                switch (lib) {
                    case "dedupe" -> {
                        if (store.putIfAbsent(key, record.timestamp()) == null) context.forward(record);
                    }
                    case "running" -> {
                        long sum = number(store.get(key)) + number(record.value());
                        store.put(key, sum);
                        context.forward(record.withValue(sum));
                    }
                    case "streamTick", "wallTick" -> store.put(key, text(record.value()));
                    case "twice" -> {
                        context.forward(record);
                        context.forward(record.withValue(text(record.value()) + "!").withTimestamp(record.timestamp() + 1));
                    }
                    default -> throw new BadSpec("processor " + lib);
                }
            }
        }

        static class Values implements FixedKeyProcessor<Object, Object, Object> {
            final String lib, storeName;
            FixedKeyProcessorContext<Object, Object> context;
            KeyValueStore<Object, Object> store;

            Values(String lib, String storeName) {
                this.lib = lib;
                this.storeName = storeName;
            }

            @Override public void init(FixedKeyProcessorContext<Object, Object> context) {
                this.context = context;
                if (storeName != null) store = context.getStateStore(storeName);
            }

            @Override public void process(FixedKeyRecord<Object, Object> record) {
                Object key = record.key() == null ? "" : record.key();
                switch (lib) {
                    case "dedupe" -> {
                        if (store.putIfAbsent(key, record.timestamp()) == null) context.forward(record);
                    }
                    case "running" -> {
                        long sum = number(store.get(key)) + number(record.value());
                        store.put(key, sum);
                        context.forward(record.withValue(sum));
                    }
                    case "twice" -> {
                        context.forward(record);
                        context.forward(record.withValue(text(record.value()) + "!"));
                    }
                    default -> throw new BadSpec("processor of values " + lib);
                }
            }
        }
    }
}
