"""A member of a consumer group, by kafka-python: prints "partition offset" of each record it reads, and leaves on SIGTERM."""

import signal
import sys

from kafka import KafkaConsumer

server, group, topic = sys.argv[1:]
stopped = False


def stop(_signal, _frame):
    global stopped
    stopped = True


signal.signal(signal.SIGTERM, stop)
consumer = KafkaConsumer(
    topic,
    bootstrap_servers=server,
    group_id=group,
    client_id="kafka-python",
    auto_offset_reset="earliest",
    heartbeat_interval_ms=500,
)
while not stopped:
    for records in consumer.poll(timeout_ms=200).values():
        for record in records:
            print(record.partition, record.offset, flush=True)
consumer.close()
