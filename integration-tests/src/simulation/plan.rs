//! What a run does, all of it decided by its seed.

use std::time::Duration;

use kafka_client::producer::{Acks, Compression};

use super::bank::BankPlan;
use super::check::{Loss, Promises};
use super::faults::{Faults, Profile};
use super::groups::GroupPlan;
use super::random::Random;

/// When a log's records are on disk for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Whenever the system likes, as Kafka's defaults have it.
    Never,
    /// After `flush.ms`, by a scheduler that looks every `log.flush.scheduler.interval.ms`.
    Interval {
        /// `flush.ms`.
        flush: Duration,
        /// How often the scheduler looks.
        look: Duration,
    },
    /// Before a batch is acknowledged (`flush.messages=1`).
    EveryBatch,
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The faults end, everything is flushed, then producers are closed.
    Flush,
    /// Producers are closed with this deadline while the faults go on.
    Close(Duration),
    /// Producers are dropped while the faults go on; what was sent is still delivered in the background.
    Drop,
}

/// What breaks promises to prove that the checker notices. Never part of a plan that a seed makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Some produce requests are also written without their producer id: records twice in the log.
    DuplicateBatches,
    /// Some answers claim an offset beside the true one.
    WrongOffsets,
    /// Some requests are corrupted and answered as written.
    AcknowledgeLost,
    /// Disks say that they have synced, and have not.
    LyingDisks,
}

/// A timer fires a moment after its time, and an answer takes its way through a few tasks.
pub(super) const SLACK: Duration = Duration::from_millis(50);

/// A producer's settings and everything that happens to it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What everything below follows from.
    pub seed: u64,
    /// Where the seed drew its faults from.
    pub profile: Profile,
    /// Records are sent up to this many; a failing run is shrunk by it.
    pub max_records: u32,
    /// Faults happen up to this many; a failing run is shrunk by it.
    pub max_faults: u32,
    /// How often which fault happens.
    pub faults: Faults,
    /// How long faults happen, at most.
    pub chaos: Duration,
    /// How the run ends.
    pub end: End,
    /// Nodes of the cluster; each holds a replica of everything.
    pub nodes: u32,
    /// Whether a replica that misses records may lead.
    pub unclean: bool,
    /// When records are on disk.
    pub fsync: Fsync,
    /// Partitions of the one topic.
    pub partitions: i32,
    /// The topic's configuration.
    pub topic_configs: Vec<(&'static str, String)>,
    /// The broker's configuration.
    pub broker_configs: Vec<(&'static str, String)>,
    /// Independent producers, each with a client of its own.
    pub producers: u32,
    /// Tasks that send with each producer.
    pub senders: u32,
    /// Records that each task sends.
    pub records: u32,
    /// `acks`.
    pub acks: Acks,
    /// `enable.idempotence`.
    pub idempotent: bool,
    /// `linger.ms`.
    pub linger: Duration,
    /// `batch.size`.
    pub batch_size: usize,
    /// `buffer.memory`.
    pub buffer_memory: usize,
    /// `max.request.size`.
    pub max_request_size: usize,
    /// `max.in.flight.requests.per.connection`.
    pub max_in_flight: usize,
    /// `max.block.ms`.
    pub max_block: Duration,
    /// `request.timeout.ms`.
    pub request_timeout: Duration,
    /// `delivery.timeout.ms`.
    pub delivery_timeout: Duration,
    /// `compression.type`.
    pub compression: Compression,
    /// What an in-memory connection buffers in each direction, in bytes.
    pub pipe_bytes: usize,
    /// The longest ordinary delay of a frame.
    pub latency: Duration,
    /// The longest delay of a late frame.
    pub lateness: Duration,
    /// The group that reads along, if one does.
    pub group: Option<GroupPlan>,
    /// The bank that works beside, if one does.
    pub bank: Option<BankPlan>,
    /// Only to prove that the checker notices.
    pub sabotage: Option<Sabotage>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, profile: Profile) -> Self {
        let mut random = Random::stream(seed, 1);
        let request_timeout = Duration::from_millis(random.pick(&[300, 1000, 3000, 30_000], 1000));
        let linger = Duration::from_millis(random.pick(&[0, 1, 5, 50, 500], 5));
        // `delivery.timeout.ms` below `linger.ms` plus `request.timeout.ms` is refused, as in Java.
        let delivery_timeout =
            linger + request_timeout + random.millis(0, 3000) * random.pick(&[0, 1, 10, 40], 1);
        let batch_size = random.pick(&[0, 100, 400, 1000, 4000, 16_384], 1000);
        let idempotent = random.chance(0.85);
        let acks = match idempotent {
            true => Acks::All,
            false => random.pick(&[Acks::All, Acks::Leader, Acks::Leader, Acks::None], Acks::Leader),
        };
        let chaos = random.millis(100, 2000) * random.pick(&[1, 5, 20], 1);
        let end = match random.below(10) {
            0 | 1 => End::Close(random.millis(0, 5000)),
            2 => End::Drop,
            _ => End::Flush,
        };
        let nodes = match profile {
            Profile::Nodes => 3,
            Profile::All | Profile::Power | Profile::Topics => random.pick(&[1, 1, 3], 1),
            Profile::Groups | Profile::Bank => random.pick(&[1, 3], 1),
            _ => 1,
        };
        let faults = Faults::draw(profile, nodes, &mut random);
        let mut topic_configs = Vec::new();
        let mut broker_configs = Vec::new();
        let unclean = nodes > 1 && random.chance(0.2);
        if nodes > 1 {
            topic_configs.push(("min.insync.replicas", random.between(1, 2).to_string()));
            topic_configs.push(("unclean.leader.election.enable", unclean.to_string()));
            let lag = random.pick(&[50, 500, 5000, 30_000], 500);
            broker_configs.push(("replica.lag.time.max.ms", lag.to_string()));
        }
        let fsync = match random.below(4) {
            0 => Fsync::EveryBatch,
            1 => Fsync::Interval { flush: random.millis(1, 300), look: random.millis(1, 300) },
            _ => Fsync::Never,
        };
        match fsync {
            Fsync::Never => {}
            Fsync::EveryBatch => topic_configs.push(("flush.messages", "1".to_owned())),
            Fsync::Interval { flush, look } => {
                topic_configs.push(("flush.ms", flush.as_millis().to_string()));
                broker_configs.push(("log.flush.scheduler.interval.ms", look.as_millis().to_string()));
            }
        }
        if profile == Profile::Retention || (profile == Profile::All && random.chance(0.15)) {
            topic_configs.push(("retention.ms", random.between(50, 2000).to_string()));
            topic_configs.push(("segment.ms", random.between(20, 1000).to_string()));
            broker_configs.push(("log.retention.check.interval.ms", random.between(20, 500).to_string()));
        }
        if profile == Profile::All && random.chance(0.2) {
            // Full batches are refused and have to be cut (KIP-126).
            topic_configs.push(("max.message.bytes", random.between(150, 3000).to_string()));
        }
        if random.chance(0.1) {
            topic_configs.push(("message.timestamp.type", "LogAppendTime".to_owned()));
        }
        let compression = random.pick(
            &[
                Compression::None,
                Compression::None,
                Compression::None,
                Compression::Snappy,
                Compression::Lz4,
                Compression::Gzip(6),
                Compression::Zstd(3),
            ],
            Compression::None,
        );
        // A larger batch is compressed on another thread, whose pace no seed decides.
        let batch_size = if compression == Compression::None { batch_size } else { batch_size.min(1000) };
        let plan = Self {
            seed,
            profile,
            max_records: u32::MAX,
            max_faults: u32::MAX,
            faults,
            chaos,
            end,
            nodes,
            unclean,
            fsync,
            partitions: random.pick(&[1, 1, 2, 3, 7], 1),
            topic_configs,
            broker_configs,
            producers: random.pick(&[1, 1, 1, 2], 1),
            senders: random.pick(&[1, 1, 2, 4], 1),
            records: random.between(1, 20) as u32 * random.pick(&[1, 4, 10], 1),
            acks,
            idempotent,
            linger,
            batch_size,
            buffer_memory: (batch_size.max(400) * random.between(1, 20) as usize).max(2000),
            max_request_size: random.pick(&[1500, 5000, 1 << 20], 1 << 20),
            max_in_flight: random.between(1, 5) as usize,
            max_block: random.millis(1, 2000) * random.pick(&[1, 10, 100], 10),
            request_timeout,
            delivery_timeout,
            compression,
            pipe_bytes: random.pick(&[64, 1000, 65_536, 65_536], 65_536),
            latency: Duration::from_millis(random.pick(&[0, 1, 5, 40], 1)),
            lateness: request_timeout.mul_f64(random.pick(&[0.5, 1.5, 3.0], 1.5)),
            group: None,
            bank: None,
            sabotage: None,
        };
        match profile {
            Profile::Groups => plan.with_group(),
            Profile::Bank => plan.with_bank(),
            _ => plan,
        }
    }

    /// With a group that reads along. What producers do is simple then: every record shall arrive in the end.
    fn with_group(self) -> Self {
        let mut random = Random::stream(self.seed, 5);
        let group = GroupPlan::draw(&mut random);
        let setting = |key, value: Duration| (key, value.as_millis().to_string());
        let mut broker_configs = vec![
            setting("group.min.session.timeout.ms", Duration::from_millis(1)),
            setting("group.consumer.session.timeout.ms", group.session_timeout),
            setting("group.consumer.heartbeat.interval.ms", group.heartbeat_interval),
            setting(
                "group.consumer.assignment.interval.ms",
                Duration::from_millis(random.pick(&[0, 100, 1000], 0)),
            ),
            setting(
                "group.initial.rebalance.delay.ms",
                Duration::from_millis(random.pick(&[0, 100, 3000], 0)),
            ),
            ("offsets.topic.num.partitions", random.between(1, 3).to_string()),
            (
                "max.incremental.fetch.session.cache.slots",
                random.pick(&[0, 1, 2, 1000, 1000], 1000).to_string(),
            ),
        ];
        let mut topic_configs = Vec::new();
        if self.nodes > 1 {
            let lag = random.pick(&[500, 5000, 30_000], 500);
            broker_configs.push(("replica.lag.time.max.ms", lag.to_string()));
        }
        if random.chance(0.15) {
            topic_configs.push(("retention.ms", random.between(50, 2000).to_string()));
            topic_configs.push(("segment.ms", random.between(20, 1000).to_string()));
            broker_configs.push(("log.retention.check.interval.ms", random.between(20, 500).to_string()));
        }
        let request_timeout = Duration::from_millis(random.pick(&[300, 1000, 3000], 1000));
        Self {
            end: End::Flush,
            unclean: false,
            fsync: Fsync::Never,
            partitions: random.pick(&[1, 2, 4, 7], 1),
            topic_configs,
            broker_configs,
            producers: 1,
            senders: 1,
            records: random.between(20, 150) as u32,
            acks: Acks::All,
            idempotent: true,
            compression: Compression::None,
            max_block: Duration::from_secs(60),
            request_timeout,
            delivery_timeout: Duration::from_secs(120),
            lateness: request_timeout.mul_f64(random.pick(&[0.5, 1.5, 3.0], 1.5)),
            chaos: random.millis(2000, 20_000),
            group: Some(group),
            ..self
        }
    }

    /// With a bank, and hardly anything else.
    fn with_bank(self) -> Self {
        let mut random = Random::stream(self.seed, 6);
        let bank = BankPlan::draw(&mut random);
        let setting = |key, value: Duration| (key, value.as_millis().to_string());
        let mut broker_configs = vec![
            setting("group.min.session.timeout.ms", Duration::from_millis(1)),
            setting("group.consumer.session.timeout.ms", bank.session_timeout),
            setting("group.consumer.heartbeat.interval.ms", bank.session_timeout / 4),
            setting("transaction.abort.timed.out.transaction.cleanup.interval.ms", random.millis(50, 2000)),
            ("offsets.topic.num.partitions", random.between(1, 3).to_string()),
            ("transaction.state.log.num.partitions", random.between(1, 3).to_string()),
        ];
        if self.nodes > 1 {
            let lag = random.pick(&[500, 5000, 30_000], 500);
            broker_configs.push(("replica.lag.time.max.ms", lag.to_string()));
        }
        let request_timeout = Duration::from_millis(random.pick(&[300, 1000, 3000], 1000));
        Self {
            end: End::Flush,
            unclean: false,
            fsync: Fsync::Never,
            partitions: 1,
            topic_configs: Vec::new(),
            broker_configs,
            producers: 1,
            senders: 1,
            records: 5,
            acks: Acks::All,
            idempotent: true,
            compression: Compression::None,
            max_block: Duration::from_secs(60),
            request_timeout,
            delivery_timeout: Duration::from_secs(120),
            lateness: request_timeout.mul_f64(random.pick(&[0.5, 1.5, 3.0], 1.5)),
            chaos: random.millis(2000, 20_000),
            bank: Some(bank),
            ..self
        }
    }

    /// Whether the topic's configuration has records deleted during the run.
    pub fn deletes_by_age(&self) -> bool {
        self.topic_configs.iter().any(|(key, _)| key.starts_with("retention."))
    }

    /// What the settings promise to callers of a run in which the power was cut at those times, and nodes were started
    /// again so often after being down for so long in all.
    pub fn promises(&self, power_cuts: &[Duration], (starts, down): (u32, Duration)) -> Promises {
        let loss = match (self.nodes, self.fsync) {
            // Nobody else has what a leader acknowledged for itself; an unclean leader lacks what others had.
            (2.., _) if self.unclean || self.acks == Acks::Leader => Loss::Any,
            _ if power_cuts.is_empty() => Loss::None,
            (_, Fsync::EveryBatch) => Loss::None,
            // Replicas whose machines lose power one after the other may all lack the same record.
            (2.., _) => Loss::Any,
            (_, Fsync::Interval { flush, look }) => {
                // Whoever starts takes its time anew, and who is down syncs nothing.
                let unsynced_for = Some((flush + look + SLACK) * (starts + 1) + down);
                Loss::PowerCuts { at: power_cuts.to_vec(), unsynced_for }
            }
            (_, Fsync::Never) => Loss::PowerCuts { at: power_cuts.to_vec(), unsynced_for: None },
        };
        Promises {
            idempotent: self.idempotent,
            acknowledged_means_written: self.acks != Acks::None,
            loss,
            kept_until_deleted: !self.deletes_by_age(),
            answered_within: self.delivery_timeout + SLACK,
        }
    }

    /// What somebody types to see this run again.
    pub fn replay_command(&self) -> String {
        let mut command = format!("cargo xtask simulate --seed {}", self.seed);
        if self.profile != Profile::All {
            command += &format!(" --profile {}", self.profile);
        }
        if self.max_records != u32::MAX {
            command += &format!(" --records {}", self.max_records);
        }
        if self.max_faults != u32::MAX {
            command += &format!(" --faults {}", self.max_faults);
        }
        command
    }
}
