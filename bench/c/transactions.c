/* librdkafka's transactions, for the benchmarks and for the tests on our broker:
 *
 *   produce SERVER TOPIC RECORDS PER_TRANSACTION BYTES
 *   copy SERVER GROUP INPUT OUTPUT RECORDS PER_TRANSACTION ABORT_EVERY
 *
 * `produce` does what `kafka perf transactions` does. `copy` consumes INPUT in a group, writes each record to OUTPUT
 * and commits both as one transaction; every ABORT_EVERYth is aborted first and its records are read again. It ends
 * when RECORDS records are committed. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if __has_include(<librdkafka/rdkafka.h>)
#include <librdkafka/rdkafka.h>
#else
#include <rdkafka.h>
#endif

#define TIMEOUT_MS 30000

static void fail(const char *what, const char *why) {
        fprintf(stderr, "%s: %s\n", what, why);
        exit(1);
}

/* Gives back whether the call succeeded; an error that asks for an abort is left to the caller, any other ends us. */
static int succeeded(const char *what, rd_kafka_error_t *error) {
        if (!error)
                return 1;
        if (!rd_kafka_error_txn_requires_abort(error))
                fail(what, rd_kafka_error_string(error));
        fprintf(stderr, "%s: %s, so it is aborted\n", what, rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
        return 0;
}

static void must(const char *what, rd_kafka_error_t *error) {
        if (!succeeded(what, error))
                exit(1);
}

static rd_kafka_t *create(rd_kafka_type_t type, const char *const settings[][2]) {
        char why[256];
        rd_kafka_conf_t *conf = rd_kafka_conf_new();
        for (; (*settings)[0]; settings++)
                if (rd_kafka_conf_set(conf, (*settings)[0], (*settings)[1], why, sizeof(why)) != RD_KAFKA_CONF_OK)
                        fail((*settings)[0], why);
        rd_kafka_t *client = rd_kafka_new(type, conf, why, sizeof(why));
        if (!client)
                fail("client", why);
        return client;
}

static rd_kafka_t *transactional_producer(const char *server) {
        char id[64];
        snprintf(id, sizeof(id), "librdkafka-%d", (int)getpid());
        const char *const settings[][2] = {{"bootstrap.servers", server}, {"transactional.id", id}, {"linger.ms", "5"},
                                           {"batch.size", "131072"},      {NULL, NULL}};
        rd_kafka_t *producer = create(RD_KAFKA_PRODUCER, settings);
        must("init_transactions", rd_kafka_init_transactions(producer, TIMEOUT_MS));
        return producer;
}

static void write_record(rd_kafka_t *producer, const char *topic, const void *key, size_t key_len, void *value, size_t len) {
        rd_kafka_resp_err_t error;
        while ((error = rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key, key_len),
                                          RD_KAFKA_V_VALUE(value, len), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                          RD_KAFKA_V_END)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
                rd_kafka_poll(producer, 10);
        if (error)
                fail("produce", rd_kafka_err2str(error));
}

static void produce(const char *server, const char *topic, long records, long per_transaction, size_t bytes) {
        rd_kafka_t *producer = transactional_producer(server);
        char *value = malloc(bytes);
        for (size_t at = 0; at < bytes; at++)
                value[at] = (char)('A' + rand() % 26);
        while (records > 0) {
                long count = records < per_transaction ? records : per_transaction;
                must("begin", rd_kafka_begin_transaction(producer));
                for (long sent = 0; sent < count; sent++)
                        write_record(producer, topic, NULL, 0, value, bytes);
                must("commit", rd_kafka_commit_transaction(producer, TIMEOUT_MS));
                records -= count;
        }
        free(value);
        rd_kafka_destroy(producer);
}

/* Reads again what the aborted transaction had read. */
static void rewind_to_committed(rd_kafka_t *consumer) {
        rd_kafka_topic_partition_list_t *assigned;
        rd_kafka_resp_err_t error = rd_kafka_assignment(consumer, &assigned);
        if (!error)
                error = rd_kafka_committed(consumer, assigned, TIMEOUT_MS);
        if (error)
                fail("committed", rd_kafka_err2str(error));
        for (int at = 0; at < assigned->cnt; at++)
                if (assigned->elems[at].offset < 0)
                        assigned->elems[at].offset = RD_KAFKA_OFFSET_BEGINNING;
        must("seek", rd_kafka_seek_partitions(consumer, assigned, TIMEOUT_MS));
        rd_kafka_topic_partition_list_destroy(assigned);
}

/* Commits the records written so far together with where the consumer stands. */
static int commit(rd_kafka_t *producer, rd_kafka_t *consumer) {
        rd_kafka_topic_partition_list_t *positions;
        rd_kafka_resp_err_t error = rd_kafka_assignment(consumer, &positions);
        if (!error)
                error = rd_kafka_position(consumer, positions);
        if (error)
                fail("position", rd_kafka_err2str(error));
        rd_kafka_consumer_group_metadata_t *group = rd_kafka_consumer_group_metadata(consumer);
        int done = succeeded("send_offsets",
                             rd_kafka_send_offsets_to_transaction(producer, positions, group, TIMEOUT_MS)) &&
                   succeeded("commit", rd_kafka_commit_transaction(producer, TIMEOUT_MS));
        rd_kafka_consumer_group_metadata_destroy(group);
        rd_kafka_topic_partition_list_destroy(positions);
        return done;
}

static void copy(const char *server, const char *group, const char *input, const char *output, long records,
                 long per_transaction, long abort_every) {
        const char *const settings[][2] = {{"bootstrap.servers", server},     {"group.id", group},
                                           {"auto.offset.reset", "earliest"}, {"enable.auto.commit", "false"},
                                           {"isolation.level", "read_committed"}, {NULL, NULL}};
        rd_kafka_t *producer = transactional_producer(server);
        rd_kafka_t *consumer = create(RD_KAFKA_CONSUMER, settings);
        rd_kafka_poll_set_consumer(consumer);
        rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_list_add(topics, input, RD_KAFKA_PARTITION_UA);
        rd_kafka_resp_err_t error = rd_kafka_subscribe(consumer, topics);
        rd_kafka_topic_partition_list_destroy(topics);
        if (error)
                fail("subscribe", rd_kafka_err2str(error));
        for (long ends = 1, committed = 0; committed < records; ends++) {
                long copied = 0;
                must("begin", rd_kafka_begin_transaction(producer));
                while (copied < per_transaction && committed + copied < records) {
                        rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 1000);
                        if (!message)
                                continue;
                        if (message->err)
                                fail("consume", rd_kafka_message_errstr(message));
                        write_record(producer, output, message->key, message->key_len, message->payload, message->len);
                        rd_kafka_message_destroy(message);
                        copied++;
                }
                if (ends % abort_every != 0 && commit(producer, consumer)) {
                        committed += copied;
                } else {
                        must("abort", rd_kafka_abort_transaction(producer, TIMEOUT_MS));
                        rewind_to_committed(consumer);
                }
        }
        rd_kafka_consumer_close(consumer);
        rd_kafka_destroy(consumer);
        rd_kafka_destroy(producer);
}

int main(int count, char **arguments) {
        if (count == 7 && !strcmp(arguments[1], "produce"))
                produce(arguments[2], arguments[3], atol(arguments[4]), atol(arguments[5]), (size_t)atol(arguments[6]));
        else if (count == 9 && !strcmp(arguments[1], "copy"))
                copy(arguments[2], arguments[3], arguments[4], arguments[5], atol(arguments[6]), atol(arguments[7]),
                     atol(arguments[8]));
        else
                fail("usage", "produce SERVER TOPIC RECORDS PER_TRANSACTION BYTES | "
                              "copy SERVER GROUP INPUT OUTPUT RECORDS PER_TRANSACTION ABORT_EVERY");
        return 0;
}
