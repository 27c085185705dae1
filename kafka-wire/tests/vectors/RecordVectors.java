import java.io.IOException;
import java.lang.reflect.Method;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.Type;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.List;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.metadata.MetadataRecordType;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.MessageUtil;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.errors.UnsupportedVersionException;
import org.apache.kafka.metadata.MetadataRecordSerde;
import org.apache.kafka.server.common.ApiMessageAndVersion;

/**
 * Records of Kafka's internal topics as its own classes write them: every field set, in every version.
 *
 *   java -cp 'JARS/*' RecordVectors.java FOLDER     writes records.tsv: kind, name, version, bytes
 */
public class RecordVectors {
    static final String GROUP = "org.apache.kafka.coordinator.group.generated.";
    static final String TRANSACTION = "org.apache.kafka.coordinator.transaction.generated.";
    static final List<String> COORDINATOR = List.of(
        GROUP + "ConsumerGroupCurrentMemberAssignment", GROUP + "ConsumerGroupMemberMetadata", GROUP + "ConsumerGroupMetadata",
        GROUP + "ConsumerGroupPartitionMetadata", GROUP + "ConsumerGroupRegularExpression",
        GROUP + "ConsumerGroupTargetAssignmentMember", GROUP + "ConsumerGroupTargetAssignmentMetadata",
        GROUP + "GroupMetadata", GROUP + "OffsetCommit", TRANSACTION + "TransactionLog");

    /** Counts up, so that no two fields of a record hold the same value. */
    static int next;

    public static void main(String[] args) throws Exception {
        List<String> lines = new ArrayList<>();
        for (String name : COORDINATOR) {
            ApiMessage key = (ApiMessage) filled(Class.forName(name + "Key"), (short) 0);
            line(lines, "key", key, (short) 0, MessageUtil.toCoordinatorTypePrefixedByteBuffer(key));
            Class<?> type = Class.forName(name + "Value");
            Message any = (Message) type.getConstructor().newInstance();
            for (short version = any.lowestSupportedVersion(); version <= any.highestSupportedVersion(); version++) {
                Message value = (Message) filled(type, version);
                line(lines, "value", value, version, MessageUtil.toVersionPrefixedByteBuffer(version, value));
                Message empty = (Message) type.getConstructor().newInstance();
                line(lines, "value", empty, version, MessageUtil.toVersionPrefixedByteBuffer(version, empty));
            }
        }
        for (MetadataRecordType type : MetadataRecordType.values()) {
            for (short version = type.lowestSupportedVersion(); version <= type.highestSupportedVersion(); version++) {
                metadata(lines, (ApiMessage) filled(type.newMetadataRecord().getClass(), version), version);
                metadata(lines, type.newMetadataRecord(), version);
            }
        }
        Files.write(Path.of(args[0], "records.tsv"), lines, StandardCharsets.UTF_8);
    }

    static void metadata(List<String> lines, ApiMessage record, short version) {
        MetadataRecordSerde serde = new MetadataRecordSerde();
        ApiMessageAndVersion message = new ApiMessageAndVersion(record, version);
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer buffer = ByteBuffer.allocate(serde.recordSize(message, cache));
        serde.write(message, cache, new ByteBufferAccessor(buffer));
        buffer.flip();
        line(lines, "metadata", record, version, buffer);
    }

    static void line(List<String> lines, String kind, Message message, short version, ByteBuffer buffer) {
        byte[] bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        lines.add(String.join("\t", kind, message.getClass().getSimpleName(), "" + version, HexFormat.of().formatHex(bytes)));
    }

    /** A message with a value in every field that this version has. */
    static Object filled(Class<?> type, short version) throws Exception {
        next = 0;
        Object message = type.getConstructor().newInstance();
        for (Method setter : setters(type)) {
            Object before = type.getMethod(getter(setter)).invoke(message);
            setter.invoke(message, value(setter.getGenericParameterTypes()[0]));
            if (message instanceof Message m && !writable(m, version)) {
                setter.invoke(message, before);
            }
        }
        return message;
    }

    static boolean writable(Message message, short version) {
        try {
            MessageUtil.toVersionPrefixedByteBuffer(version, message);
            return true;
        } catch (UnsupportedVersionException e) {
            return false;
        }
    }

    static List<Method> setters(Class<?> type) {
        return Arrays.stream(type.getDeclaredMethods())
            .filter(m -> m.getName().startsWith("set") && m.getParameterCount() == 1 && m.getReturnType() == type)
            .sorted(Comparator.comparing(Method::getName)).toList();
    }

    static String getter(Method setter) {
        String name = setter.getName().substring(3);
        return Character.toLowerCase(name.charAt(0)) + name.substring(1);
    }

    @SuppressWarnings("unchecked")
    static Object value(Type type) throws Exception {
        int n = ++next;
        if (type == boolean.class || type == Boolean.class) return true;
        if (type == byte.class || type == Byte.class) return (byte) (n % 100 + 1);
        if (type == short.class || type == Short.class) return (short) n;
        if (type == int.class || type == Integer.class) return 1000 + n;
        if (type == long.class || type == Long.class) return 1_000_000L + n;
        if (type == double.class) return n + 0.5;
        if (type == String.class) return "text-" + n;
        if (type == Uuid.class) return new Uuid(n, 7_000 + n);
        if (type == byte[].class) return ("bytes-" + n).getBytes(StandardCharsets.UTF_8);
        if (type == ByteBuffer.class) return ByteBuffer.wrap(("bytes-" + n).getBytes(StandardCharsets.UTF_8));
        if (type instanceof ParameterizedType list) {
            Type element = list.getActualTypeArguments()[0];
            return new ArrayList<>(List.of(value(element), value(element)));
        }
        Class<?> plain = (Class<?>) type;
        if (Collection.class.isAssignableFrom(plain)) {
            Collection<Object> set = (Collection<Object>) plain.getConstructor().newInstance();
            Type element = ((ParameterizedType) plain.getGenericSuperclass()).getActualTypeArguments()[0];
            set.add(value(element));
            set.add(value(element));
            return set;
        }
        Object nested = plain.getConstructor().newInstance();
        for (Method setter : setters(plain)) {
            setter.invoke(nested, value(setter.getGenericParameterTypes()[0]));
        }
        return nested;
    }
}
