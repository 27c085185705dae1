import java.util.Properties;
import java.util.Random;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Sends records in transactions of a given size, as `kafka perf transactions` does: SERVER TOPIC RECORDS PER_TRANSACTION BYTES. */
public class Transactions {
    public static void main(String[] args) {
        String topic = args[1];
        long records = Long.parseLong(args[2]);
        long perTransaction = Long.parseLong(args[3]);
        Properties config = new Properties();
        config.put("bootstrap.servers", args[0]);
        config.put("transactional.id", "perf-java-" + ProcessHandle.current().pid());
        config.put("linger.ms", "5");
        config.put("batch.size", "131072");
        byte[] value = new byte[Integer.parseInt(args[4])];
        Random random = new Random(0);
        for (int i = 0; i < value.length; i++) {
            value[i] = (byte) ('A' + random.nextInt(26));
        }
        ByteArraySerializer bytes = new ByteArraySerializer();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config, bytes, bytes)) {
            producer.initTransactions();
            while (records > 0) {
                long count = Math.min(records, perTransaction);
                producer.beginTransaction();
                for (long i = 0; i < count; i++) {
                    producer.send(new ProducerRecord<>(topic, value));
                }
                producer.commitTransaction();
                records -= count;
            }
        }
    }
}
