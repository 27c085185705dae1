//! What goes wrong in a run: which kinds of faults, and how often.

use std::fmt;
use std::str::FromStr;

use kafka_client::wire::messages::ApiKey;

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
    /// Disks that fill up, tear writes and fail syncs, and the restarts that this calls for.
    Disk,
    /// Records that are deleted by age while producers go on.
    Retention,
    /// Three nodes: leaders that move, nodes that stop and crash, replicas that fall behind.
    Nodes,
    /// Power cuts, under each way to sync.
    Power,
    /// An admin at work: records deleted, topics deleted and made anew, partitions added.
    Topics,
    /// A consumer group whose members come, stall, crash and go while leaders and coordinators move.
    Groups,
    /// A bank: instances that book orders in transactions, in a group, come, crash and go on as zombies.
    Bank,
}

impl Profile {
    const NAMES: [(&str, Self); 11] = [
        ("all", Self::All),
        ("calm", Self::Calm),
        ("network", Self::Network),
        ("restarts", Self::Restarts),
        ("disk", Self::Disk),
        ("retention", Self::Retention),
        ("nodes", Self::Nodes),
        ("power", Self::Power),
        ("topics", Self::Topics),
        ("groups", Self::Groups),
        ("bank", Self::Bank),
    ];

    /// Every profile.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.into_iter().map(|(_, profile)| profile)
    }
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

/// What members of groups ask for.
const STAGES_OF_GROUPS: [ApiKey; 9] = [
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::SyncGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::Fetch,
];

/// What transactions ask for.
const STAGES_OF_TRANSACTIONS: [ApiKey; 8] = [
    ApiKey::FindCoordinator,
    ApiKey::InitProducerId,
    ApiKey::AddPartitionsToTxn,
    ApiKey::AddOffsetsToTxn,
    ApiKey::TxnOffsetCommit,
    ApiKey::EndTxn,
    ApiKey::Produce,
    ApiKey::OffsetFetch,
];

/// How often each fault happens: a share of the frames, connects or operations that it may happen to, or a number.
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
    /// The faults above happen to requests of this API (by its key) and their answers alone: deadlines then pass at one
    /// stage of a send.
    pub only: Option<i16>,
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
    /// How many times all nodes stop in order and start again.
    pub restarts: u32,
    /// How many times all nodes are dropped in the middle of whatever they do, and started again.
    pub kills: u32,
    /// How many times the machines of all nodes lose power.
    pub power_cuts: u32,
    /// How many times a disk fails a few writes.
    pub disk_failures: u32,
    /// How many times a disk cannot sync for a while.
    pub sync_failures: u32,
    /// How many times a node stops in order, and starts again.
    pub node_stops: u32,
    /// How many times a node crashes, and starts again.
    pub node_crashes: u32,
    /// How many times a node's machine loses power.
    pub node_power_cuts: u32,
    /// How many times a group coordinator moves.
    pub coordinator_moves: u32,
    /// How many times a partition's leader moves.
    pub leader_moves: u32,
    /// How many times a node copies nothing for a while.
    pub held_replications: u32,
    /// How many times a node closes all its connections.
    pub node_cuts: u32,
    /// How many times an admin deletes records.
    pub record_deletions: u32,
    /// How many times the topic is deleted, and made anew.
    pub recreations: u32,
    /// How many times the topic gets one more partition.
    pub added_partitions: u32,
}

impl Faults {
    /// Each run draws a few kinds of faults and how frequent they are: with all of them at once, one would hide what
    /// another shows.
    pub(super) fn draw(profile: Profile, nodes: u32, random: &mut Random) -> Self {
        let (network, restarts, disk) = match profile {
            Profile::All => (true, random.chance(0.3), random.chance(0.15)),
            Profile::Calm => (false, false, false),
            Profile::Network | Profile::Retention => (true, false, false),
            Profile::Restarts => (random.chance(0.3), true, false),
            Profile::Disk => (random.chance(0.3), random.chance(0.5), true),
            Profile::Nodes => (random.chance(0.5), random.chance(0.1), random.chance(0.1)),
            Profile::Power => (random.chance(0.3), random.chance(0.3), false),
            Profile::Topics => (random.chance(0.5), random.chance(0.1), false),
            Profile::Groups | Profile::Bank => (random.chance(0.6), random.chance(0.2), false),
        };
        let mut faults = match network {
            true => Self::of_network(profile, random),
            false => Self::default(),
        };
        if restarts {
            (faults.restarts, faults.kills) = random.pick(&[(1, 0), (0, 1), (2, 2), (0, 5), (5, 0)], (1, 1));
        }
        if disk {
            faults.disk_failures = random.between(1, 4) as u32;
            faults.sync_failures = random.pick(&[0, 0, 1, 2], 0);
            faults.kills += 1;
        }
        let mut some = |likely: f64, most: u64| match random.chance(likely) {
            true => random.between(1, most) as u32,
            false => 0,
        };
        if nodes > 1 && profile != Profile::Calm {
            faults.node_stops = some(0.3, 3);
            faults.node_crashes = some(0.4, 6);
            faults.leader_moves = some(0.5, 20);
            faults.held_replications = some(0.4, 5);
            faults.node_cuts = some(0.2, 5);
        }
        let (power, topics) = match profile {
            Profile::All => (0.1, 0.1),
            Profile::Nodes => (0.2, 0.0),
            Profile::Power => (1.0, 0.0),
            Profile::Topics => (0.0, 0.6),
            _ => (0.0, 0.0),
        };
        if nodes > 1 {
            faults.node_power_cuts = some(power * 0.8, 4);
            faults.power_cuts = some(power * 0.4, 2);
        } else {
            faults.power_cuts = some(power, 4);
        }
        if matches!(profile, Profile::Groups | Profile::Bank) {
            faults.coordinator_moves = some(0.5, 10);
        }
        faults.record_deletions = some(topics, 10);
        faults.recreations = some(topics, 3);
        faults.added_partitions = some(topics, 3);
        faults
    }

    fn of_network(profile: Profile, random: &mut Random) -> Self {
        let density = random.pick(&[0.2, 0.5], 0.2);
        let mut share = |shares: &[f64]| {
            let (drawn, share) = (random.chance(density), random.pick(shares, 0.0));
            if drawn { share } else { 0.0 }
        };
        let frames = &[0.005, 0.02, 0.1, 0.3];
        let mut faults = Self {
            cut_request: share(frames),
            cut_answer: share(frames),
            lose_request: share(&[0.005, 0.02, 0.1]),
            lose_answer: share(&[0.005, 0.02, 0.1]),
            late_request: share(frames),
            late_answer: share(frames),
            corrupt_request: share(&[0.01, 0.05]),
            error_after_append: share(frames),
            throttle: share(&[0.05, 0.3]),
            refuse_connect: share(&[0.1, 0.5]),
            hang_connect: share(&[0.05, 0.2]),
            ..Self::default()
        };
        if random.chance(0.2) {
            let stages = match profile {
                Profile::Groups => &STAGES_OF_GROUPS[..],
                Profile::Bank => &STAGES_OF_TRANSACTIONS[..],
                _ => &[ApiKey::ApiVersions, ApiKey::Metadata, ApiKey::InitProducerId, ApiKey::Produce],
            };
            faults.only = Some(random.pick(stages, ApiKey::Produce) as i16);
        }
        faults
    }
}
