//! What members of both protocols have in common.

use std::sync::Arc;
use std::time::Duration;

use kafka_wire::ErrorCode;

/// The generation of a consumer that is not a member (`Generation.NO_GENERATION`).
pub(crate) const NO_GENERATION: i32 = -1;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Which protocol a consumer's group speaks (`group.protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum GroupProtocol {
    /// The protocol of KIP-848 where the cluster has it, the classic one elsewhere. Options that only the classic
    /// protocol has (assignors of the client, session time-out, heartbeat interval) choose it as well. The default.
    #[default]
    Auto,
    /// JoinGroup, SyncGroup and Heartbeat; a member assigns the partitions.
    Classic,
    /// KIP-848: the coordinator assigns the partitions, and members come and go without stopping the others.
    Consumer,
}

/// What becomes of the membership when a consumer closes (KIP-1092).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum GroupExit {
    /// Static members stay, others leave. The default.
    #[default]
    Default,
    /// The partitions go to the others at once, those of a static member too.
    Leave,
    /// The partitions wait for this member to come back, until its session ends.
    Remain,
}

/// What a member wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topics {
    Named(Vec<Arc<str>>),
    /// Every topic whose whole name matches this expression, in RE2's syntax.
    Matching(Arc<str>),
}

/// What a request about a member must carry to be believed (KIP-447).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The generation, or the member epoch (KIP-848).
    pub generation: i32,
    pub member_id: String,
    pub instance_id: Option<String>,
}

/// Why a request brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No answer: connection lost, timed out, no coordinator known.
    Unanswered,
    Refused(ErrorCode),
}

impl Failure {
    /// Whether another broker may be the one to ask.
    pub(crate) fn is_about_coordinator(self) -> bool {
        matches!(
            self,
            Self::Unanswered | Self::Refused(ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable)
        )
    }
}

/// How long to wait after so many failures in a row; a core has no randomness, so without jitter.
#[derive(Debug, Default)]
pub(crate) struct Pace(u32);

impl Pace {
    pub(crate) fn failed(&mut self) -> Duration {
        let pause = BACKOFF_MIN.saturating_mul(1 << self.0.min(10)).min(BACKOFF_MAX);
        self.0 = self.0.saturating_add(1);
        pause
    }

    pub(crate) fn succeeded(&mut self) {
        self.0 = 0;
    }

    pub(crate) const FIRST: Duration = BACKOFF_MIN;
}
