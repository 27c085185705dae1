use std::sync::Arc;
use std::time::Duration;

use kafka_wire::compression::Compression;

use super::accumulator::AccumulatorConfig;
use super::events::DataLoss;
use super::interceptor::Interceptors;
use super::partitioner::{Partitioning, PartitioningOptions};
use super::sender::{Acks, SenderConfig};
use super::{Producer, ProducerOptions};
use crate::client::Client;
use crate::config::{ConfigError, Properties, bounded, invalid};

/// Options of a [`Producer`]. Defaults are Java's, as of Kafka 4.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `build`"]
pub struct ProducerBuilder {
    client: Client,
    from_properties: Result<(), ConfigError>,
    acks: Acks,
    idempotence: Option<bool>,
    linger: Duration,
    batch_size: usize,
    batch_size_given: bool,
    buffer_memory: usize,
    max_request_size: usize,
    max_in_flight: usize,
    max_block: Duration,
    /// Not said: 120 s, or as long as linger and a request take.
    delivery_timeout: Option<Duration>,
    request_timeout: Option<Duration>,
    compression: Compression,
    retries: u32,
    on_data_loss: DataLoss,
    partitioning: Partitioning,
    ignore_keys: bool,
    adaptive: bool,
    availability_timeout: Duration,
    transactional_id: Option<String>,
    transaction_timeout: Duration,
    pub(super) interceptors: Interceptors,
}

/// Kafka keeps this many batches of a producer to recognise duplicates (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const MAX_IN_FLIGHT: usize = 5;

const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// A batch's length is a signed 32-bit number.
const MAX_BATCH_SIZE: usize = 1 << 30;

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        let mut builder = Self {
            client: client.clone(),
            from_properties: Ok(()),
            acks: Acks::All,
            idempotence: None,
            linger: Duration::from_millis(5),
            batch_size: 16 * 1024,
            batch_size_given: false,
            buffer_memory: 32 * 1024 * 1024,
            max_request_size: 1024 * 1024,
            max_in_flight: MAX_IN_FLIGHT,
            max_block: Duration::from_secs(60),
            delivery_timeout: None,
            request_timeout: None,
            compression: Compression::None,
            retries: u32::MAX,
            on_data_loss: DataLoss::default(),
            partitioning: Partitioning::default(),
            ignore_keys: false,
            adaptive: true,
            availability_timeout: Duration::ZERO,
            transactional_id: None,
            transaction_timeout: TRANSACTION_TIMEOUT,
            interceptors: Interceptors::default(),
        };
        // `build` tells what is wrong with a value, as it does for every other option.
        builder.from_properties = builder.apply(client.properties());
        builder
    }

    fn apply(&mut self, properties: &Properties) -> Result<(), ConfigError> {
        self.transactional_id = properties.get("transactional.id").map(str::to_owned);
        for (key, place) in [
            ("linger.ms", &mut self.linger),
            ("max.block.ms", &mut self.max_block),
            ("transaction.timeout.ms", &mut self.transaction_timeout),
        ] {
            if let Some(span) = properties.millis(key)? {
                *place = span;
            }
        }
        for (key, place) in [
            ("batch.size", &mut self.batch_size),
            ("buffer.memory", &mut self.buffer_memory),
            ("max.request.size", &mut self.max_request_size),
            ("max.in.flight.requests.per.connection", &mut self.max_in_flight),
        ] {
            if let Some(size) = properties.bytes(key)? {
                *place = size;
            }
        }
        // The default gives way to a smaller buffer; a size that was asked for does not.
        self.batch_size_given = properties.get("batch.size").is_some();
        for (key, place) in [
            ("partitioner.ignore.keys", &mut self.ignore_keys),
            ("partitioner.adaptive.partitioning.enable", &mut self.adaptive),
        ] {
            if let Some(flag) = properties.flag(key)? {
                *place = flag;
            }
        }
        if let Some(timeout) = properties.millis("partitioner.availability.timeout.ms")? {
            self.availability_timeout = timeout;
        }
        if let Some(name) = properties.get("partitioner.class").filter(|name| !name.is_empty()) {
            self.partitioning = name
                .parse()
                .map_err(|()| invalid("partitioner.class", name, "a partitioner's name in librdkafka, or RoundRobinPartitioner; give your own to the builder"))?;
        }
        if let Some(retries) = properties.parsed("retries", "a number, 0 or more")? {
            self.retries = retries;
        }
        if properties.flag("enable.gapless.guarantee")? == Some(true) {
            self.on_data_loss = DataLoss::Stop;
        }
        self.delivery_timeout = properties.millis("delivery.timeout.ms")?;
        self.idempotence = properties.flag("enable.idempotence")?;
        if let Some(acks) = properties.get("acks") {
            self.acks = match acks {
                "0" => Acks::None,
                "1" => Acks::Leader,
                "all" | "-1" => Acks::All,
                other => return Err(invalid("acks", other, "0, 1 or all")),
            };
        }
        if let Some(codec) = properties.get("compression.type") {
            self.compression = codec
                .parse()
                .map_err(|_| invalid("compression.type", codec, "none, gzip, snappy, lz4 or zstd"))?;
        }
        self.read_levels(properties)
    }

    fn read_levels(&mut self, properties: &Properties) -> Result<(), ConfigError> {
        let level =
            |key| properties.parsed::<i32>(key, "a level, or -1").map(|level| level.filter(|&n| n != -1));
        let any = level("compression.level")?;
        let gzip = level("compression.gzip.level")?.or(any);
        let zstd = properties.parsed("compression.zstd.level", "a level from -131072 to 22")?.or(any);
        match (&mut self.compression, gzip, zstd) {
            (Compression::Gzip(level), Some(wanted), _) => {
                let wanted = u32::try_from(wanted).ok().filter(|wanted| (1..=9).contains(wanted));
                *level = wanted
                    .ok_or_else(|| invalid("compression.level", any.unwrap_or(0), "1 to 9 for gzip"))?;
            }
            (Compression::Zstd(level), _, Some(wanted)) => *level = wanted,
            _ => {}
        }
        Ok(())
    }

    /// How many brokers acknowledge (`acks`). Default [`Acks::All`]. Anything less turns idempotence off.
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// Whether a retry can write a record twice or out of order (`enable.idempotence`). Default: it cannot, unless
    /// `acks` is less than all or there are no retries.
    pub fn idempotence(mut self, enable: bool) -> Self {
        self.idempotence = Some(enable);
        self
    }

    /// How long an open batch waits for more records before it is sent (`linger.ms`).
    ///
    /// Default 5 ms, as in the Java producer since Kafka 4.0 (KIP-1030). A full batch never waits.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// The size of a full batch in bytes, before compression (`batch.size`). Default 16 KiB. A larger record has a batch
    /// of its own.
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.batch_size = bytes;
        self.batch_size_given = true;
        self
    }

    /// How many bytes of records may wait to be sent and acknowledged (`buffer.memory`). Default 32 MiB. When they are
    /// used up, `send` waits in line.
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.buffer_memory = bytes;
        self
    }

    /// The largest record and, beyond the first batch, the largest request in bytes (`max.request.size`).
    /// Default 1 MiB.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.max_request_size = bytes;
        self
    }

    /// Requests in flight to each broker, and so batches in flight for each partition
    /// (`max.in.flight.requests.per.connection`). Default 5, which is also the most with idempotence.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.max_in_flight = requests;
        self
    }

    /// How long `send` may wait for metadata and for room (`max.block.ms`). Default 60 s.
    pub fn max_block(mut self, limit: Duration) -> Self {
        self.max_block = limit;
        self
    }

    /// How long a record may take from `send` to its acknowledgement, all retries included (`delivery.timeout.ms`).
    /// Default 120 s. No less than `linger` and `request.timeout` together, which a first attempt may take.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = Some(timeout);
        self
    }

    /// How long a produce request may wait for its answer (`request.timeout.ms`). Default the client's, 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    /// How batches are compressed (`compression.type`). Default not at all.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// How often a batch may be sent again (`retries`). Default without a limit: `delivery.timeout` is the better one.
    /// 0 turns idempotence off, which retries safely.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// What to do when a leader lost records that it had acknowledged. Default [`DataLoss::Continue`].
    pub fn on_data_loss(mut self, policy: DataLoss) -> Self {
        self.on_data_loss = policy;
        self
    }

    /// How a partition is chosen for records that name none (`partitioner.class`). Default as Java's producer: murmur2 of
    /// the key, sticky without one.
    pub fn partitioner(mut self, partitioning: Partitioning) -> Self {
        self.partitioning = partitioning;
        self
    }

    /// Whether the default partitioner takes no notice of keys (`partitioner.ignore.keys`). Default no.
    pub fn partitioner_ignore_keys(mut self, ignore: bool) -> Self {
        self.ignore_keys = ignore;
        self
    }

    /// Whether the sticky partitioner prefers partitions with shorter queues
    /// (`partitioner.adaptive.partitioning.enable`). Default yes.
    pub fn partitioner_adaptive(mut self, adaptive: bool) -> Self {
        self.adaptive = adaptive;
        self
    }

    /// The sticky partitioner avoids partitions of a broker that takes no batch for this long
    /// (`partitioner.availability.timeout.ms`). Default 0: it does not.
    pub fn partitioner_availability_timeout(mut self, timeout: Duration) -> Self {
        self.availability_timeout = timeout;
        self
    }

    /// Writes in transactions only, under this id (`transactional.id`): see [`Producer::begin`]. Of all producers with the
    /// same id the last one to begin writes, and fences the others. It should be the same after a restart. Default none.
    pub fn transactional_id(mut self, id: impl Into<String>) -> Self {
        self.transactional_id = Some(id.into());
        self
    }

    /// How long a transaction may be open before its coordinator aborts it and fences the producer
    /// (`transaction.timeout.ms`), in whole milliseconds. Default 60 s; the broker's `transaction.max.timeout.ms` is the
    /// most.
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.transaction_timeout = timeout;
        self
    }

    /// The producer. Its task starts with the first record; nothing connects before.
    pub fn build(self) -> Result<Producer, ConfigError> {
        self.from_properties.clone()?;
        // As in Java, idempotence that nobody asked for gives way.
        let idempotent = self.idempotence.unwrap_or(self.acks == Acks::All && self.retries > 0);
        if idempotent && self.acks != Acks::All {
            return Err(invalid("acks", self.acks.code(), "all, because enable.idempotence is set"));
        }
        if idempotent && self.retries == 0 {
            return Err(invalid("retries", 0, "1 or more, because enable.idempotence is set"));
        }
        if let Some(id) = &self.transactional_id {
            if id.is_empty() {
                return Err(invalid("transactional.id", id, "at least one character"));
            }
            if !idempotent {
                let expected = "true with acks=all and retries, because transactional.id is set";
                return Err(invalid("enable.idempotence", false, expected));
            }
            if self.transaction_timeout < Duration::from_millis(1) {
                let expected = "1 or more";
                return Err(invalid(
                    "transaction.timeout.ms",
                    self.transaction_timeout.as_millis(),
                    expected,
                ));
            }
        }
        if self.max_in_flight == 0 || (idempotent && self.max_in_flight > MAX_IN_FLIGHT) {
            let expected = "1 to 5 (more only without idempotence)";
            return Err(invalid("max.in.flight.requests.per.connection", self.max_in_flight, expected));
        }
        let request_timeout = bounded(self.request_timeout.unwrap_or_else(|| self.client.request_timeout()));
        let linger = bounded(self.linger);
        let shortest = linger.saturating_add(request_timeout);
        let delivery_timeout = match self.delivery_timeout.map(bounded) {
            Some(timeout) if timeout < shortest => {
                let expected = "at least linger.ms plus request.timeout.ms";
                return Err(invalid("delivery.timeout.ms", timeout.as_millis(), expected));
            }
            Some(timeout) => timeout,
            None => DELIVERY_TIMEOUT.max(shortest),
        };
        for (key, bytes) in
            [("buffer.memory", self.buffer_memory), ("max.request.size", self.max_request_size)]
        {
            if bytes == 0 {
                return Err(invalid(key, bytes, "more than 0"));
            }
        }
        if self.batch_size_given && self.batch_size > self.buffer_memory {
            let expected = "at least batch.size; no batch could ever be full";
            return Err(invalid("buffer.memory", self.buffer_memory, expected));
        }
        if self.batch_size > MAX_BATCH_SIZE {
            return Err(invalid("batch.size", self.batch_size, "at most 1 GiB"));
        }
        // Java's default partitioner is the only one that knows the option.
        let kind = match self.partitioning {
            Partitioning::Murmur2Random if self.ignore_keys => Partitioning::Sticky,
            kind => kind,
        };
        let accumulator = AccumulatorConfig {
            batch_size: self.batch_size,
            linger,
            buffer_memory: self.buffer_memory,
            max_request_bytes: self.max_request_size,
            compresses: self.compression != Compression::None,
            transactional: self.transactional_id.is_some(),
            partitioning: PartitioningOptions { kind, adaptive: self.adaptive },
        };
        let sender = SenderConfig {
            acks: self.acks,
            idempotent,
            max_in_flight: self.max_in_flight,
            max_request_bytes: self.max_request_size,
            delivery_timeout,
            retry_backoff: self.client.retry_backoff(),
            compression: self.compression,
            batch_size: self.batch_size,
            retries: self.retries,
            on_data_loss: self.on_data_loss,
            availability_timeout: Some(self.availability_timeout)
                .filter(|limit| !limit.is_zero() && self.adaptive),
            transactional_id: self.transactional_id.map(Arc::from),
        };
        let options = ProducerOptions {
            sender,
            max_block: bounded(self.max_block),
            request_timeout,
            transaction_timeout: bounded(self.transaction_timeout),
            interceptors: self.interceptors,
        };
        Ok(Producer::start(self.client, accumulator, options))
    }
}
