//! Every configuration key of Apache Kafka 4.3's producer, consumer and admin client, and those of librdkafka that have
//! no counterpart there: what values fit, and what becomes of them.

/// A key that is known, though not always supported.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What holds when the key is not given, spelt as a value of the key; empty for nothing.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for the documented table, which a test writes and checks")
    )]
    pub(super) default: &'static str,
    pub(super) meaning: Meaning,
}

/// What is done with a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meaning {
    /// It does what it does for Java's clients.
    Used,
    /// It is used; the text says how its default or its meaning differs from Java's.
    Differs(
        #[cfg_attr(
            not(test),
            expect(dead_code, reason = "for the documented table, which a test writes and checks")
        )]
        &'static str,
    ),
    /// It is checked and then has no effect; the text says why none is needed.
    NoEffect(&'static str),
    /// These values change nothing and are accepted; the text says why others are not.
    Only(&'static [&'static str], &'static str),
    /// No value is accepted; the text says why.
    Refused(&'static str),
}

/// What values of a key look like. Java's `INT` and `LONG` differ in their maximum only.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// `true` or `false`, in any case.
    Flag,
    /// A whole number in a range, and what it counts.
    Number(i64, i64, &'static str),
    /// Milliseconds, with a fraction if need be: librdkafka allows one in `linger.ms`.
    Millis(i64),
    /// A level in a range, or -1 for the codec's own.
    Level(i64, i64),
    /// One of some words.
    Word(&'static [&'static str]),
    /// One of some words, in any case.
    AnyCaseWord(&'static [&'static str]),
    /// One of some words, or a text that starts so and is looked at by whoever reads the key.
    WordOr(&'static [&'static str], &'static str),
    /// Any text.
    Text,
    /// Any text but none.
    Name,
}

use Kind::{AnyCaseWord, Flag, Level, Millis, Name, Number, Text, Word, WordOr};
use Meaning::{Differs, NoEffect, Only, Refused, Used};

const INT: i64 = i32::MAX as i64;
const LONG: i64 = i64::MAX;

const fn key(name: &'static str, kind: Kind, default: &'static str, meaning: Meaning) -> Key {
    Key { name, kind, default, meaning }
}

const fn int_ms(min: i64) -> Kind {
    Number(min, INT, "ms")
}

const fn long_ms(min: i64) -> Kind {
    Number(min, LONG, "ms")
}

const fn int_bytes(min: i64) -> Kind {
    Number(min, INT, "bytes")
}

const SECURITY: &str = "TLS and SASL are not supported yet; connections are plaintext";
const TWO_PHASE_COMMIT: &str = "two-phase commit (KIP-939) is not built: no released broker serves it";
const JVM_INTERCEPTORS: &str =
    "classes of the JVM cannot be loaded; give a Rust interceptor to the producer's builder";
const BYTES_ONLY: &str = "keys and values are bytes; the application encodes and decodes them";
const METRICS: &str = "metrics go to the recorder that the application installs for the `metrics` crate";
const TRACING: &str = "the application's `tracing` subscriber decides what is logged";
const BY_TIME_OUT: &str = "a request without an answer is noticed by request.timeout.ms";

/// What the connection to a cluster reads.
pub(super) static CLIENT: &[Key] = &[
    key("bootstrap.servers", Name, "", Used),
    key(
        "bootstrap.controllers",
        Text,
        "",
        Refused("requests go to brokers; name some of them in bootstrap.servers"),
    ),
    key(
        "client.dns.lookup",
        Word(&["use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"]),
        "use_all_dns_ips",
        Used,
    ),
    key("client.id", Text, "kafka-client-rust", Differs("Java's default is empty")),
    key("config.providers", Text, "", Only(&[""], "values are taken as they stand, and ${...} in them too")),
    key(
        "connections.max.idle.ms",
        long_ms(i64::MIN),
        "540000",
        Differs("Java's admin client has 300000; 0 or less means never"),
    ),
    key("default.api.timeout.ms", int_ms(0), "60000", Used),
    key("enable.metrics.push", Flag, "true", NoEffect("no metrics are pushed to brokers (KIP-714) yet")),
    key("metadata.max.age.ms", long_ms(0), "300000", Used),
    key("metadata.max.idle.ms", long_ms(5000), "300000", Used),
    key("metadata.recovery.rebootstrap.trigger.ms", long_ms(0), "300000", Used),
    key("metadata.recovery.strategy", AnyCaseWord(&["rebootstrap", "none"]), "rebootstrap", Used),
    key("metric.reporters", Text, "org.apache.kafka.common.metrics.JmxReporter", NoEffect(METRICS)),
    key("metrics.num.samples", Number(1, INT, "samples"), "2", NoEffect(METRICS)),
    key("metrics.recording.level", Word(&["INFO", "DEBUG", "TRACE"]), "INFO", NoEffect(METRICS)),
    key("metrics.sample.window.ms", long_ms(0), "30000", NoEffect(METRICS)),
    key(
        "receive.buffer.bytes",
        int_bytes(-1),
        "-1",
        Differs("-1 lets the system size it by the connection's speed; Java's default is 32768 or 65536"),
    ),
    key("reconnect.backoff.max.ms", long_ms(0), "1000", Used),
    key("reconnect.backoff.ms", long_ms(0), "50", Used),
    key(
        "request.timeout.ms",
        int_ms(0),
        "30000",
        Differs("0 is refused: no request could be answered in time"),
    ),
    key("retry.backoff.max.ms", long_ms(0), "1000", Used),
    key("retry.backoff.ms", long_ms(0), "100", Used),
    key(
        "security.protocol",
        AnyCaseWord(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]),
        "PLAINTEXT",
        Only(&["PLAINTEXT"], SECURITY),
    ),
    key("security.providers", Text, "", Refused("classes of the JVM cannot be loaded")),
    key(
        "send.buffer.bytes",
        int_bytes(-1),
        "-1",
        Differs("-1 lets the system size it by the connection's speed; Java's default is 131072"),
    ),
    key("socket.connection.setup.timeout.max.ms", long_ms(i64::MIN), "30000", Used),
    key("socket.connection.setup.timeout.ms", long_ms(i64::MIN), "10000", Used),
];

/// What producers read.
pub(super) static PRODUCER: &[Key] = &[
    key("acks", Word(&["all", "-1", "0", "1"]), "all", Used),
    key("batch.size", int_bytes(0), "16384", Used),
    key("buffer.memory", Number(0, LONG, "bytes"), "33554432", Used),
    key("compression.gzip.level", Level(1, 9), "-1", Used),
    key(
        "compression.lz4.level",
        Level(1, 17),
        "9",
        NoEffect("the encoder for lz4 has one level, a fast one"),
    ),
    key("compression.type", Word(&["none", "gzip", "snappy", "lz4", "zstd"]), "none", Used),
    key("compression.zstd.level", Number(-131_072, 22, ""), "3", Used),
    key("delivery.timeout.ms", int_ms(0), "120000", Used),
    key("enable.idempotence", Flag, "true", Used),
    key("interceptor.classes", Text, "", Only(&[""], JVM_INTERCEPTORS)),
    key("key.serializer", Text, "", NoEffect(BYTES_ONLY)),
    key("linger.ms", Millis(LONG), "5", Differs("a fraction of a millisecond is accepted")),
    key("max.block.ms", long_ms(0), "60000", Used),
    key("max.in.flight.requests.per.connection", Number(1, INT, "requests"), "5", Used),
    key("max.request.size", int_bytes(0), "1048576", Used),
    key("partitioner.adaptive.partitioning.enable", Flag, "true", Used),
    key("partitioner.availability.timeout.ms", long_ms(0), "0", Used),
    key(
        "partitioner.class",
        Text,
        "",
        Differs(
            "a name of librdkafka's `partitioner`, or Java's RoundRobinPartitioner; a Rust one is given to the builder",
        ),
    ),
    key("partitioner.ignore.keys", Flag, "false", Used),
    key("retries", Number(0, INT, "retries"), "2147483647", Differs("for producers only")),
    key("transaction.timeout.ms", int_ms(i64::MIN), "60000", Used),
    key("transaction.two.phase.commit.enable", Flag, "false", Only(&["false"], TWO_PHASE_COMMIT)),
    key("transactional.id", Name, "", Used),
    key("value.serializer", Text, "", NoEffect(BYTES_ONLY)),
];

/// What consumers read.
pub(super) static CONSUMER: &[Key] = &[
    key(
        "allow.auto.create.topics",
        Flag,
        "false",
        Differs("holds for producers too; Java's default is true, and a misspelt name then is a new topic"),
    ),
    key("auto.commit.interval.ms", int_ms(0), "5000", Used),
    key("auto.offset.reset", WordOr(&["latest", "earliest", "none"], "by_duration:"), "latest", Used),
    key("check.crcs", Flag, "true", Used),
    key("client.rack", Text, "", Used),
    key("enable.auto.commit", Flag, "true", Used),
    key(
        "exclude.internal.topics",
        Flag,
        "true",
        Differs("for patterns in classic groups; with KIP-848 the coordinator leaves them out"),
    ),
    key("fetch.max.bytes", int_bytes(0), "52428800", Used),
    key("fetch.max.wait.ms", int_ms(0), "500", Used),
    key("fetch.min.bytes", int_bytes(0), "1", Used),
    key("group.id", Text, "", Used),
    key("group.instance.id", Name, "", Used),
    key(
        "group.protocol",
        AnyCaseWord(&["classic", "consumer"]),
        "",
        Differs(
            "without it, consumer where the cluster has it and no key of classic groups is given, else classic",
        ),
    ),
    key("group.remote.assignor", Text, "", Used),
    key("heartbeat.interval.ms", int_ms(i64::MIN), "3000", Used),
    key(
        "internal.throw.on.fetch.stable.offset.unsupported",
        Flag,
        "false",
        Refused("it is internal to Java's clients"),
    ),
    key("isolation.level", Word(&["read_uncommitted", "read_committed"]), "read_uncommitted", Used),
    key("key.deserializer", Text, "", NoEffect(BYTES_ONLY)),
    key("max.partition.fetch.bytes", int_bytes(0), "1048576", Used),
    key("max.poll.interval.ms", int_ms(1), "300000", Used),
    key(
        "max.poll.records",
        Number(1, INT, "records"),
        "500",
        Differs(
            "for share consumers only; else a call gives one record or one partition's batch, and max.buffered.bytes bounds what is fetched ahead",
        ),
    ),
    key(
        "partition.assignment.strategy",
        Text,
        "org.apache.kafka.clients.consumer.RangeAssignor, org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
        Differs("Kafka's four by name or by Java's class; others of your own are given to the builder"),
    ),
    key("session.timeout.ms", int_ms(i64::MIN), "45000", Used),
    key(
        "share.acknowledgement.mode",
        Word(&["implicit", "explicit"]),
        "explicit",
        Differs("Java's default is implicit, by which a record whose task failed counts as done"),
    ),
    key("share.acquire.mode", AnyCaseWord(&["batch_optimized", "record_limit"]), "batch_optimized", Used),
    key("value.deserializer", Text, "", NoEffect(BYTES_ONLY)),
];

/// librdkafka's, and this client's own, that no key of Java's corresponds to. Read by whom they concern.
pub(super) static OTHERS: &[Key] = &[
    key("api.version.fallback.ms", int_ms(0), "0", NoEffect("versions are always agreed on with the broker")),
    key(
        "api.version.request",
        Flag,
        "true",
        Only(&["true"], "versions are always agreed on with the broker"),
    ),
    key(
        "api.version.request.timeout.ms",
        int_ms(1),
        "10000",
        NoEffect("socket.connection.setup.timeout.ms covers it"),
    ),
    key("batch.num.messages", Number(1, INT, "records"), "10000", NoEffect("batch.size bounds a batch")),
    key("broker.address.family", Word(&["any", "v4", "v6"]), "any", Used),
    key("broker.address.ttl", int_ms(0), "1000", NoEffect("names are resolved anew for each connection")),
    key("broker.version.fallback", Text, "", NoEffect("versions are always agreed on with the broker")),
    key("compression.level", Level(0, 22), "-1", Differs("of whichever codec compression.type names")),
    key("consume.callback.max.messages", Number(0, INT, "records"), "0", NoEffect("there are no callbacks")),
    key(
        "coordinator.query.interval.ms",
        int_ms(1),
        "600000",
        NoEffect("a coordinator is looked for when the one known fails"),
    ),
    key("debug", Text, "", NoEffect(TRACING)),
    key("delivery.report.only.error", Flag, "false", NoEffect("what nobody awaits costs nothing")),
    key(
        "enable.auto.offset.store",
        Flag,
        "true",
        Only(&["true"], "commit offsets of your own with enable.auto.commit=false and commit_offsets"),
    ),
    key("enable.gapless.guarantee", Flag, "false", Differs("on data loss nothing follows the gap")),
    key(
        "enable.partition.eof",
        Flag,
        "false",
        Only(&["false"], "compare positions with end_offsets instead"),
    ),
    key("enable.random.seed", Flag, "true", NoEffect("there is nothing to seed")),
    key("fetch.error.backoff.ms", int_ms(0), "500", NoEffect("retry.backoff.ms does that")),
    key("fetch.queue.backoff.ms", int_ms(0), "1000", NoEffect("fetching goes on as soon as there is room")),
    key("group.protocol.type", Text, "consumer", Only(&["consumer"], "no other type makes a consumer")),
    key("internal.termination.signal", Number(0, 128, ""), "0", NoEffect("no thread is to be signalled")),
    key("log.connection.close", Flag, "true", NoEffect(TRACING)),
    key("log.queue", Flag, "false", NoEffect(TRACING)),
    key("log.thread.name", Flag, "true", NoEffect(TRACING)),
    key("log_level", Number(0, 7, ""), "6", NoEffect(TRACING)),
    key(
        "max.buffered.bytes",
        int_bytes(1),
        "67108864",
        Differs("this client's own: what a consumer fetches ahead of its reader"),
    ),
    key("message.copy.max.bytes", int_bytes(0), "65535", NoEffect("a record is copied once, into its batch")),
    key("offset.store.method", Text, "broker", Only(&["broker"], "offsets are kept by brokers")),
    key("offset.store.path", Text, "", Refused("offsets are kept by brokers")),
    key("offset.store.sync.interval.ms", int_ms(-1), "-1", NoEffect("offsets are kept by brokers")),
    key("plugin.library.paths", Text, "", Refused("no libraries are loaded")),
    key("produce.offset.report", Flag, "false", NoEffect("every acknowledgement has its offset")),
    key(
        "queue.buffering.backpressure.threshold",
        Number(1, INT, "requests"),
        "1",
        NoEffect("max.in.flight.requests.per.connection does that"),
    ),
    key(
        "queue.buffering.max.messages",
        Number(0, INT, "records"),
        "100000",
        NoEffect("buffer.memory bounds what waits"),
    ),
    key(
        "queued.min.messages",
        Number(1, INT, "records"),
        "100000",
        NoEffect("max.buffered.bytes is filled at all times"),
    ),
    key(
        "queuing.strategy",
        Word(&["fifo", "lifo"]),
        "fifo",
        Only(&["fifo"], "records of a partition keep their order"),
    ),
    key(
        "receive.message.max.bytes",
        int_bytes(1000),
        "104857600",
        Differs("the largest answer that is accepted; librdkafka's default is 100000000"),
    ),
    key(
        "reconnect.backoff.jitter.ms",
        int_ms(0),
        "0",
        NoEffect("the jitter is 20 % of reconnect.backoff.ms"),
    ),
    key("socket.blocking.max.ms", int_ms(1), "1000", NoEffect("no socket blocks")),
    key("socket.keepalive.enable", Flag, "true", Only(&["true"], "TCP keep-alive is always on")),
    key("socket.max.fails", Number(0, INT, "failures"), "1", Only(&["1"], BY_TIME_OUT)),
    key("socket.nagle.disable", Flag, "true", Only(&["true"], "TCP_NODELAY is always on")),
    key("statistics.interval.ms", int_ms(0), "0", NoEffect(METRICS)),
    key(
        "sticky.partitioning.linger.ms",
        int_ms(0),
        "10",
        NoEffect("a partition is kept until batch.size bytes went there"),
    ),
    key("topic.blacklist", Text, "", Refused("only topics that are asked for are looked at")),
    key(
        "topic.metadata.propagation.max.ms",
        int_ms(0),
        "30000",
        NoEffect("max.block.ms bounds the wait for a new topic"),
    ),
    key(
        "topic.metadata.refresh.fast.cnt",
        Number(0, INT, ""),
        "10",
        NoEffect("retry.backoff.ms paces refreshes"),
    ),
    key(
        "topic.metadata.refresh.fast.interval.ms",
        int_ms(1),
        "100",
        NoEffect("retry.backoff.ms paces refreshes"),
    ),
    key("topic.metadata.refresh.sparse", Flag, "true", Only(&["true"], "only topics in use are asked for")),
];

/// Beginnings of keys that are all refused for one reason.
pub(super) static REFUSED_FAMILIES: &[(&str, &str)] = &[
    ("ssl.", SECURITY),
    ("ssl_", SECURITY),
    ("sasl.", SECURITY),
    ("https.ca.", SECURITY),
    ("enable.ssl.", SECURITY),
    ("enable.sasl.", SECURITY),
];

/// A spelling of librdkafka's for a key of Java's.
#[derive(Debug)]
pub(super) struct Alias {
    pub(super) name: &'static str,
    pub(super) key: &'static str,
    pub(super) convert: Convert,
}

/// How a value of librdkafka's becomes one of Java's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Convert {
    /// It stays.
    Same,
    /// From KiB to bytes.
    Kibibytes,
    /// One value stands for another: the first for the second.
    Special(&'static str, &'static str),
}

const fn alias(name: &'static str, key: &'static str) -> Alias {
    Alias { name, key, convert: Convert::Same }
}

impl Alias {
    const fn with(mut self, convert: Convert) -> Self {
        self.convert = convert;
        self
    }
}

const NEVER: &str = "9223372036854775807";

pub(super) static ALIASES: &[Alias] = &[
    alias("auto.commit.enable", "enable.auto.commit"),
    alias("compression.codec", "compression.type"),
    alias("fetch.message.max.bytes", "max.partition.fetch.bytes"),
    alias("fetch.wait.max.ms", "fetch.max.wait.ms"),
    alias("max.in.flight", "max.in.flight.requests.per.connection"),
    alias("message.max.bytes", "max.request.size"),
    alias("message.send.max.retries", "retries"),
    // 0 is without a limit there.
    alias("message.timeout.ms", "delivery.timeout.ms").with(Convert::Special("0", "2147483647")),
    alias("metadata.broker.list", "bootstrap.servers"),
    alias("partitioner", "partitioner.class"),
    alias("queue.buffering.max.kbytes", "buffer.memory").with(Convert::Kibibytes),
    alias("queue.buffering.max.ms", "linger.ms"),
    alias("queued.max.messages.kbytes", "max.buffered.bytes").with(Convert::Kibibytes),
    alias("request.required.acks", "acks"),
    // 0 is the system's default there.
    alias("socket.receive.buffer.bytes", "receive.buffer.bytes").with(Convert::Special("0", "-1")),
    alias("socket.send.buffer.bytes", "send.buffer.bytes").with(Convert::Special("0", "-1")),
    alias("socket.timeout.ms", "request.timeout.ms"),
    alias("topic.metadata.refresh.interval.ms", "metadata.max.age.ms").with(Convert::Special("-1", NEVER)),
];

/// Values of librdkafka's that have another name in Java: key, theirs, Java's.
pub(super) static VALUE_ALIASES: &[(&str, &str, &str)] = &[
    ("auto.offset.reset", "smallest", "earliest"),
    ("auto.offset.reset", "beginning", "earliest"),
    ("auto.offset.reset", "largest", "latest"),
    ("auto.offset.reset", "end", "latest"),
    ("auto.offset.reset", "error", "none"),
];

/// Every key, by section.
pub(super) static SECTIONS: [(&str, &[Key]); 4] = [
    ("Clients", CLIENT),
    ("Producers", PRODUCER),
    ("Consumers", CONSUMER),
    ("Of librdkafka, and this client's own", OTHERS),
];

pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|(_, keys)| keys.iter())
}
