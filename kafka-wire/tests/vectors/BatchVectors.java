import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.function.Consumer;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.ByteBufferOutputStream;
import org.apache.kafka.common.utils.Utils;

/**
 * Record batches as Apache Kafka's own builder writes them, and what its own reader finds in them.
 *
 *   java -cp 'JARS/*' BatchVectors.java write FOLDER     writes batches.tsv and murmur2.tsv (cargo xtask vectors)
 *   java -cp 'JARS/*' BatchVectors.java verify FILE      reads batches that others wrote, compares with what the file says
 *
 * A file holds, for each batch, a "batch" line, a "record" line for each record, and a "bytes" line. Long values are named by
 * their length and murmur2.
 */
public class BatchVectors {
    static final long TIME = 1_700_000_000_000L;
    static final Header[] NONE = new Header[0];

    public static void main(String[] args) throws IOException {
        if (args.length == 2 && args[0].equals("write")) {
            Files.write(Path.of(args[1], "batches.tsv"), batches(), StandardCharsets.UTF_8);
            Files.write(Path.of(args[1], "murmur2.tsv"), murmur2(), StandardCharsets.UTF_8);
        } else if (args.length == 2 && args[0].equals("verify")) {
            verify(Files.readAllLines(Path.of(args[1]), StandardCharsets.UTF_8));
        } else {
            System.err.println("write FOLDER, or verify FILE");
            System.exit(2);
        }
    }

    /** How a batch differs from a plain one. */
    static class Options {
        CompressionType type = CompressionType.NONE;
        TimestampType timestampType = TimestampType.CREATE_TIME;
        long logAppendTime = RecordBatch.NO_TIMESTAMP;
        long baseOffset = 0;
        long producerId = RecordBatch.NO_PRODUCER_ID;
        short producerEpoch = RecordBatch.NO_PRODUCER_EPOCH;
        int baseSequence = RecordBatch.NO_SEQUENCE;
        boolean transactional = false;
        boolean control = false;
        int leaderEpoch = RecordBatch.NO_PARTITION_LEADER_EPOCH;
        long deleteHorizon = RecordBatch.NO_TIMESTAMP;

        Options idempotent() {
            producerId = 4_000_000_007L;
            producerEpoch = 3;
            baseSequence = 77;
            return this;
        }
    }

    static List<String> batches() {
        List<String> lines = new ArrayList<>();
        for (CompressionType type : CompressionType.values()) {
            String codec = type.name;
            one(lines, codec + "-plain", with(type, o -> { }), b -> b.append(TIME, bytes("key"), bytes("value"), NONE));
            one(lines, codec + "-headers", with(type, o -> { }), b -> {
                b.append(TIME, bytes("k"), bytes("v"), new Header[] {
                    new RecordHeader("trace", bytes("abc")), new RecordHeader("empty", new byte[0]),
                    new RecordHeader("null", (byte[]) null), new RecordHeader("trace", bytes("again, \u00fc"))});
                b.append(TIME + 1, bytes("k"), bytes("v"), NONE);
            });
            one(lines, codec + "-nulls", with(type, o -> { }), b -> {
                b.append(TIME, (byte[]) null, bytes("no key"), NONE);
                b.append(TIME + 5, bytes("a tombstone"), null, NONE);
                b.append(TIME + 3, (byte[]) null, (byte[]) null, NONE);
                b.append(TIME - 400, new byte[0], new byte[0], NONE);
            });
            one(lines, codec + "-many", with(type, Options::idempotent), b -> {
                for (int i = 0; i < 60; i++) {
                    b.append(TIME + i * 3L, bytes("user-" + i % 17), bytes("clicked on item " + i), NONE);
                }
            });
            one(lines, codec + "-long", with(type, o -> { }), b -> {
                // More than one block of xerial's snappy framing, which are of 32 KiB.
                b.append(TIME, bytes("k"), repeated(type == CompressionType.NONE ? 2_000 : 40_000), NONE);
            });
            one(lines, codec + "-transactional", with(type, o -> o.idempotent().transactional = true), b -> {
                b.append(TIME, bytes("a"), bytes("1"), NONE);
                b.append(TIME, bytes("b"), bytes("2"), NONE);
            });
            one(lines, codec + "-log-append-time", with(type, o -> {
                o.timestampType = TimestampType.LOG_APPEND_TIME;
                o.logAppendTime = TIME + 9_000;
                o.baseOffset = 1_000_000_000_000L;
                o.leaderEpoch = 12;
            }), b -> {
                b.append(TIME, bytes("a"), bytes("1"), NONE);
                b.append(TIME + 4, bytes("b"), bytes("2"), NONE);
            });
        }
        one(lines, "offsets-with-gaps", with(CompressionType.NONE, o -> o.baseOffset = 500), b -> {
            b.appendWithOffset(502, TIME, bytes("a"), bytes("kept"));
            b.appendWithOffset(507, TIME + 1, bytes("b"), bytes("kept"));
            b.overrideLastOffset(509);
        });
        one(lines, "delete-horizon", with(CompressionType.NONE, o -> {
            o.deleteHorizon = TIME + 86_400_000;
            o.baseOffset = 40;
            o.leaderEpoch = 2;
        }), b -> {
            b.append(TIME, bytes("gone"), null, NONE);
            b.append(TIME + 10, bytes("gone too"), null, NONE);
        });
        for (ControlRecordType type : new ControlRecordType[] {ControlRecordType.COMMIT, ControlRecordType.ABORT}) {
            one(lines, "marker-" + type.name().toLowerCase(), with(CompressionType.NONE, o -> {
                o.idempotent().transactional = true;
                o.baseSequence = RecordBatch.NO_SEQUENCE;
                o.control = true;
                o.leaderEpoch = 5;
                o.baseOffset = 9;
            }), b -> b.appendEndTxnMarker(TIME, new EndTransactionMarker(type, 31)));
        }
        one(lines, "sequence-wraps", with(CompressionType.NONE, o -> o.idempotent().baseSequence = Integer.MAX_VALUE), b -> {
            b.append(TIME, bytes("a"), bytes("1"), NONE);
            b.append(TIME, bytes("b"), bytes("2"), NONE);
        });
        return lines;
    }

    static Options with(CompressionType type, Consumer<Options> change) {
        Options options = new Options();
        options.type = type;
        change.accept(options);
        return options;
    }

    static void one(List<String> lines, String name, Options o, Consumer<MemoryRecordsBuilder> fill) {
        ByteBufferOutputStream out = new ByteBufferOutputStream(1024);
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(out, RecordBatch.CURRENT_MAGIC_VALUE,
            Compression.of(o.type).build(), o.timestampType, o.baseOffset, o.logAppendTime, o.producerId, o.producerEpoch,
            o.baseSequence, o.transactional, o.control, o.leaderEpoch, Integer.MAX_VALUE, o.deleteHorizon);
        fill.accept(builder);
        MemoryRecords records = builder.build();
        byte[] bytes = new byte[records.sizeInBytes()];
        records.buffer().get(bytes);
        lines.addAll(describe(name, bytes));
    }

    /** What Kafka's reader finds in one batch. */
    static List<String> describe(String name, byte[] bytes) {
        List<String> lines = new ArrayList<>();
        RecordBatch batch = MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches().iterator().next();
        batch.ensureValid();
        lines.add(String.join("\t", "batch", name, "base_offset=" + batch.baseOffset(), "last_offset=" + batch.lastOffset(),
            "leader_epoch=" + batch.partitionLeaderEpoch(), "max_timestamp=" + batch.maxTimestamp(),
            "producer_id=" + batch.producerId(), "producer_epoch=" + batch.producerEpoch(),
            "base_sequence=" + batch.baseSequence(), "last_sequence=" + batch.lastSequence(), "count=" + batch.countOrNull(),
            "compression=" + batch.compressionType().name,
            "log_append_time=" + (batch.timestampType() == TimestampType.LOG_APPEND_TIME),
            "transactional=" + batch.isTransactional(), "control=" + batch.isControlBatch(),
            "delete_horizon=" + batch.deleteHorizonMs().orElse(-1)));
        for (Record record : batch) {
            StringBuilder headers = new StringBuilder();
            for (Header header : record.headers()) {
                headers.append(hex(bytes(header.key()))).append('=').append(hex(header.value())).append(';');
            }
            lines.add(String.join("\t", "record", "" + record.offset(), "" + record.timestamp(),
                hex(Utils.toNullableArray(record.key())), shortened(Utils.toNullableArray(record.value())), headers.toString()));
        }
        lines.add("bytes\t" + hex(bytes));
        return lines;
    }

    static void verify(List<String> lines) {
        List<String> expected = new ArrayList<>();
        int batches = 0;
        for (String line : lines) {
            expected.add(line);
            if (line.startsWith("bytes\t")) {
                String name = expected.get(0).split("\t")[1];
                List<String> found = describe(name, HexFormat.of().parseHex(line.substring("bytes\t".length())));
                if (!found.equals(expected)) {
                    throw new AssertionError(name + ":\n" + String.join("\n", found) + "\ninstead of\n" + String.join("\n", expected));
                }
                expected.clear();
                batches++;
            }
        }
        System.out.println(batches + " batches read as written");
    }

    static List<String> murmur2() {
        List<String> lines = new ArrayList<>();
        for (int length = 0; length < 40; length++) {
            byte[] key = new byte[length];
            for (int i = 0; i < length; i++) {
                key[i] = (byte) (i * 37 + length * 11);
            }
            int hash = Utils.murmur2(key);
            lines.add(hex(key) + "\t" + hash + "\t" + Utils.toPositive(hash) % 12);
        }
        return lines;
    }

    static byte[] repeated(int length) {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++) {
            bytes[i] = (byte) ("the same again, " + i / 1000).charAt(i % 16);
        }
        return bytes;
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String shortened(byte[] bytes) {
        return bytes == null || bytes.length < 1_000 ? hex(bytes) : "long:" + bytes.length + ":" + Utils.murmur2(bytes);
    }

    static String hex(byte[] bytes) {
        return bytes == null ? "null" : HexFormat.of().formatHex(bytes);
    }
}
