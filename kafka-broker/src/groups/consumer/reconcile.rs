//! A member's next step towards its target assignment (Kafka's `CurrentAssignmentBuilder`).
//!
//! The rule that everything rests on: a partition is given to a member only once nobody owns it, and whoever has to give
//! one up owns it until it says that it does not.

use std::collections::BTreeMap;

use kafka_wire::Uuid;

use super::super::assignor::Partitions;
use super::member::{Assigned, Current, MemberState};

/// What a member is to become.
pub(super) struct Target<'a> {
    /// The epoch of the target assignment.
    pub(super) epoch: i32,
    pub(super) partitions: &'a Partitions,
    /// Topics were dropped from the target since the member reached the epoch.
    pub(super) narrowed: bool,
}

/// The member's next state, `None` if it stays as it is.
///
/// `owned`: what the member says it owns, if it says so. `is_free`: whether nobody owns a partition.
pub(super) fn next(
    current: &Current,
    target: &Target<'_>,
    owned: Option<&Partitions>,
    is_free: impl Fn(Uuid, i32) -> bool,
) -> Option<Current> {
    let next = match current.state {
        MemberState::Stable if current.epoch == target.epoch && !target.narrowed => return None,
        MemberState::UnrevokedPartitions if still_owns(owned, &current.pending_revocation) => return None,
        _ => advance(current, target, owned, is_free),
    };
    (next != *current).then_some(next)
}

fn still_owns(owned: Option<&Partitions>, revoked: &Assigned) -> bool {
    let Some(owned) = owned else { return true };
    owned.iter().any(|(topic, partitions)| {
        let revoked = revoked.get(topic);
        partitions.iter().any(|partition| revoked.is_some_and(|all| all.contains_key(partition)))
    })
}

fn advance(
    current: &Current,
    target: &Target<'_>,
    owned: Option<&Partitions>,
    is_free: impl Fn(Uuid, i32) -> bool,
) -> Current {
    let is_wanted = |topic: &Uuid, partition: &i32| {
        target.partitions.get(topic).is_some_and(|wanted| wanted.contains(partition))
    };
    let (mut kept, mut revoked) = (Assigned::new(), Assigned::new());
    for (topic, partitions) in &current.assigned {
        for (&partition, &epoch) in partitions {
            let side = if is_wanted(topic, &partition) { &mut kept } else { &mut revoked };
            side.entry(*topic).or_default().insert(partition, epoch);
        }
    }
    if !revoked.is_empty() && still_owns(owned, &revoked) {
        return Current {
            state: MemberState::UnrevokedPartitions,
            assigned: kept,
            pending_revocation: revoked,
            ..current.clone()
        };
    }
    let mut unreleased = false;
    for (topic, partitions) in target.partitions {
        let held = kept.get(topic).map(|held| held.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
        for partition in partitions.iter().filter(|partition| held.binary_search(partition).is_err()) {
            // What this member just gave up is its own until this step is taken, and none of it is wanted here.
            match is_free(*topic, *partition) || is_own(current, *topic, *partition) {
                true => {
                    kept.entry(*topic).or_default().insert(*partition, target.epoch);
                }
                false => unreleased = true,
            }
        }
    }
    Current {
        epoch: target.epoch,
        previous_epoch: if current.epoch == target.epoch { current.previous_epoch } else { current.epoch },
        state: if unreleased { MemberState::UnreleasedPartitions } else { MemberState::Stable },
        assigned: kept,
        pending_revocation: BTreeMap::new(),
    }
}

/// A partition that was to be revoked, was given up, and is wanted again by now.
fn is_own(current: &Current, topic: Uuid, partition: i32) -> bool {
    current.pending_revocation.get(&topic).is_some_and(|all| all.contains_key(&partition))
}
