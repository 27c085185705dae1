//! What members say of the records they hold.

use std::time::Instant;

use kafka_wire::ErrorCode;

use super::{InFlight, RecordState, SharePartition, Transition, owned};

/// What a member says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcknowledgeType {
    /// There is no such record.
    Gap,
    Accept,
    Release,
    Reject,
    /// It needs more time (KIP-1222).
    Renew,
}

impl AcknowledgeType {
    pub(crate) fn from_code(code: i8) -> Option<Self> {
        match code {
            0 => Some(Self::Gap),
            1 => Some(Self::Accept),
            2 => Some(Self::Release),
            3 => Some(Self::Reject),
            4 => Some(Self::Renew),
            _ => None,
        }
    }
}

/// What a member says of a run of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    pub(crate) first: i64,
    /// Inclusive.
    pub(crate) last: i64,
    /// One for all, or one for each.
    pub(crate) types: Vec<AcknowledgeType>,
}

/// Why nothing was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("The batch cannot be acknowledged. The offset {offset} is not acquired.")]
    NotAcquired { offset: i64 },
    #[error("Member is not the owner of offset {offset}.")]
    NotTheOwner { offset: i64 },
    #[error("The offset {offset} is past the acquired records.")]
    PastTheEnd { offset: i64 },
}

impl Refused {
    pub(crate) fn error_code(self) -> ErrorCode {
        match self {
            Self::NotAcquired { .. } | Self::NotTheOwner { .. } => ErrorCode::InvalidRecordState,
            Self::PastTheEnd { .. } => ErrorCode::InvalidRequest,
        }
    }
}

impl Acknowledgement {
    fn type_of(&self, offset: i64) -> AcknowledgeType {
        let at = usize::try_from(offset - self.first).unwrap_or(0);
        self.types.get(at).or(self.types.first()).copied().unwrap_or(AcknowledgeType::Gap)
    }

    /// Runs of one type from `first` to `last`.
    fn runs(&self, first: i64, last: i64) -> Vec<(i64, i64, AcknowledgeType)> {
        if self.types.len() == 1 {
            return vec![(first, last, self.type_of(first))];
        }
        let mut runs: Vec<(i64, i64, AcknowledgeType)> = Vec::new();
        for offset in first..=last {
            let kind = self.type_of(offset);
            match runs.last_mut() {
                Some((_, end, known)) if *known == kind => *end = offset,
                _ => runs.push((offset, offset, kind)),
            }
        }
        runs
    }
}

impl SharePartition {
    /// Takes a member's word on records: on all of them, or on none. What is done already because the start moved past
    /// it is left out.
    pub(crate) fn acknowledge(
        &mut self,
        member: &str,
        acknowledgements: &[Acknowledgement],
        now: Instant,
    ) -> Result<Transition, Refused> {
        let mut transition = self.transition();
        for acknowledgement in acknowledgements {
            if let Err(refused) = self.acknowledge_one(member, acknowledgement, now, &mut transition) {
                self.roll_back(transition);
                return Err(refused);
            }
        }
        self.complete(&mut transition);
        Ok(transition)
    }

    fn acknowledge_one(
        &mut self,
        member: &str,
        acknowledgement: &Acknowledgement,
        now: Instant,
        transition: &mut Transition,
    ) -> Result<(), Refused> {
        if acknowledgement.last < self.start {
            return Ok(());
        }
        if acknowledgement.last >= self.end {
            return Err(Refused::PastTheEnd { offset: acknowledgement.last });
        }
        let from = acknowledgement.first.max(self.start);
        let held: Vec<_> = self.in_flight.within(from, acknowledgement.last).map(owned).collect();
        for run in &held {
            match &run.value.state {
                RecordState::Acquired { member: holder, .. } if **holder == *member => {}
                RecordState::Acquired { .. } => return Err(Refused::NotTheOwner { offset: run.first }),
                _ => return Err(Refused::NotAcquired { offset: run.first }),
            }
        }
        for run in held {
            for (first, last, kind) in acknowledgement.runs(run.first, run.last) {
                let was = super::Run { first, last, value: run.value.clone() };
                let delivery_count = run.value.delivery_count;
                let state = match kind {
                    AcknowledgeType::Accept => RecordState::Acknowledged,
                    AcknowledgeType::Reject | AcknowledgeType::Gap => RecordState::Archived,
                    AcknowledgeType::Release if delivery_count >= self.limits.delivery_count => {
                        RecordState::Archived
                    }
                    AcknowledgeType::Release => RecordState::Available,
                    AcknowledgeType::Renew => RecordState::Acquired {
                        member: member.into(),
                        until: now + self.limits.lock_duration,
                    },
                };
                self.change(transition, was, InFlight { state, delivery_count });
            }
        }
        Ok(())
    }
}
