//! What a run does, all of it decided by its seed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kafka_client::producer::{Acks, Compression};

use super::random::Random;

/// Which faults a run may choose from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// All of them; each run draws some.
    #[default]
    All,
    /// None: what fails then fails by itself.
    Calm,
    /// Connections only.
    Network,
    /// Brokers that stop and start, in order or not.
    Restarts,
    /// Disks that fill up and tear writes, and the restarts that this calls for.
    Disk,
    /// Records that are deleted by age while producers go on.
    Retention,
}

impl Profile {
    const NAMES: [(&str, Self); 6] = [
        ("all", Self::All),
        ("calm", Self::Calm),
        ("network", Self::Network),
        ("restarts", Self::Restarts),
        ("disk", Self::Disk),
        ("retention", Self::Retention),
    ];
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, profile)| *profile).ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(known, _)| *known).collect();
            format!("unknown profile {name:?}: {}", names.join(", "))
        })
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::NAMES.iter().find(|(_, profile)| profile == self);
        f.write_str(found.map_or("all", |(name, _)| name))
    }
}

/// How often each fault happens: a share of the frames, connects or operations that it may happen to.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// A connection is cut after some byte of a request.
    pub cut_request: f64,
    /// A connection is cut after some byte of an answer.
    pub cut_answer: f64,
    /// From a request on nothing more reaches the broker; the connection stays open.
    pub lose_request: f64,
    /// From an answer on nothing more reaches the client; the connection stays open.
    pub lose_answer: f64,
    /// A request takes long, perhaps longer than the client waits.
    pub late_request: f64,
    /// An answer takes long, perhaps longer than the client waits.
    pub late_answer: f64,
    /// A bit of the last record of a request flips.
    pub corrupt_request: f64,
    /// The broker wrote a batch and says that replicas did not confirm it in time.
    pub error_after_append: f64,
    /// An answer asks the client to be quiet for a while (KIP-219).
    pub throttle: f64,
    /// A connect is refused.
    pub refuse_connect: f64,
    /// A connect never ends.
    pub hang_connect: f64,
    /// How many times the broker stops in order and starts again.
    pub restarts: u32,
    /// How many times the broker is dropped in the middle of whatever it does, and started again.
    pub kills: u32,
    /// How many times the disk fails a few writes.
    pub disk_failures: u32,
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

/// What the network does to prove that the checker notices. Never part of a plan that a seed makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Some produce requests are also written without their producer id: records twice in the log.
    DuplicateBatches,
    /// Some answers claim an offset beside the true one.
    WrongOffsets,
    /// Some requests are corrupted and answered as written.
    AcknowledgeLost,
}

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
        let faults = Faults::draw(profile, &mut random);
        let mut topic_configs = Vec::new();
        let mut broker_configs = Vec::new();
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
        Self {
            seed,
            profile,
            max_records: u32::MAX,
            max_faults: u32::MAX,
            faults,
            chaos,
            end,
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
            sabotage: None,
        }
    }

    /// Whether the topic's configuration has records deleted during the run.
    pub fn deletes_records(&self) -> bool {
        self.topic_configs.iter().any(|(key, _)| key.starts_with("retention."))
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

impl Faults {
    /// Each run draws a few kinds of faults and how frequent they are: with all of them at once, one would hide what
    /// another shows.
    fn draw(profile: Profile, random: &mut Random) -> Self {
        let (network, restarts, disk) = match profile {
            Profile::All => (true, random.chance(0.3), random.chance(0.15)),
            Profile::Calm => (false, false, false),
            Profile::Network | Profile::Retention => (true, false, false),
            Profile::Restarts => (random.chance(0.3), true, false),
            Profile::Disk => (random.chance(0.3), random.chance(0.5), true),
        };
        let density = random.pick(&[0.2, 0.5], 0.2);
        let mut share = |on: bool, shares: &[f64]| {
            let (drawn, share) = (random.chance(density), random.pick(shares, 0.0));
            if on && drawn { share } else { 0.0 }
        };
        let frames = &[0.005, 0.02, 0.1, 0.3];
        let mut faults = Self {
            cut_request: share(network, frames),
            cut_answer: share(network, frames),
            lose_request: share(network, &[0.005, 0.02, 0.1]),
            lose_answer: share(network, &[0.005, 0.02, 0.1]),
            late_request: share(network, frames),
            late_answer: share(network, frames),
            corrupt_request: share(network, &[0.01, 0.05]),
            error_after_append: share(network, frames),
            throttle: share(network, &[0.05, 0.3]),
            refuse_connect: share(network, &[0.1, 0.5]),
            hang_connect: share(network, &[0.05, 0.2]),
            restarts: 0,
            kills: 0,
            disk_failures: 0,
        };
        if restarts {
            (faults.restarts, faults.kills) = random.pick(&[(1, 0), (0, 1), (2, 2), (0, 5), (5, 0)], (1, 1));
        }
        if disk {
            faults.disk_failures = random.between(1, 4) as u32;
            faults.kills += 1;
        }
        faults
    }
}
