//! Reassignments (KIP-455): a partition's replicas move to other brokers while it is served. Pure, as the elections are.
//!
//! The new replicas join those that are there; once all that are to stay are in sync, the others leave. The rules are
//! those of Kafka's `PartitionReassignmentReplicas` and `PartitionReassignmentRevert`.

use kafka_wire::error_code::ErrorCode;

use super::elections::{allows_unclean, known, record, settled};
use super::image::Image;
use super::record::{MetadataRecord, PartitionState};
use super::topics::{Refusal, check_assignment, refuse};

/// Moves a partition to the brokers in `target`, or takes back (`None`) what was begun.
pub(crate) fn alter(
    image: &Image,
    topic: &str,
    index: i32,
    target: Option<&[i32]>,
    unclean_default: bool,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let (topic_id, state) = known(image, topic, index)?;
    let next = match target {
        Some(target) => {
            check_assignment(image, target, None)?;
            begun(state, target)
        }
        None => reverted(state, topic, index, allows_unclean(image, topic, unclean_default))?,
    };
    Ok(if next == *state { Vec::new() } else { vec![record(topic_id, index, settled(image, state, next))] })
}

/// The new replicas beside the old ones. Replicas that an earlier reassignment was adding stay marked as added, so that
/// taking this one back leads to what was before both.
fn begun(state: &PartitionState, target: &[i32]) -> PartitionState {
    let mut removing: Vec<i32> =
        state.replicas.iter().copied().filter(|node| !target.contains(node)).collect();
    removing.sort_unstable();
    let added = |node: &i32| state.adding.contains(node) || !state.replicas.contains(node);
    let mut adding: Vec<i32> = target.iter().chain(&removing).copied().filter(added).collect();
    adding.sort_unstable();
    let replicas = target.iter().chain(&removing).copied().collect();
    PartitionState { replicas, adding, removing, ..state.clone() }
}

fn reverted(
    state: &PartitionState,
    topic: &str,
    index: i32,
    unclean: bool,
) -> Result<PartitionState, Refusal> {
    if !state.is_reassigned() {
        return refuse(ErrorCode::NoReassignmentInProgress, "No partition reassignment is in progress.");
    }
    let mut next = PartitionState { adding: Vec::new(), removing: Vec::new(), ..state.clone() };
    next.replicas.retain(|node| !state.adding.contains(node));
    next.isr.retain(|node| !state.adding.contains(node));
    match next.replicas.first() {
        Some(&first) if next.isr.is_empty() && unclean => next.isr.push(first),
        Some(_) if !next.isr.is_empty() => {}
        _ => {
            return refuse(
                ErrorCode::InvalidReplicaAssignment,
                format!(
                    "Unable to revert partition assignment for {topic}:{index} because it would require an unclean \
                     leader election."
                ),
            );
        }
    }
    Ok(next)
}

/// Ends a reassignment once every replica that is to stay is in sync; until then the state is as it was.
pub(super) fn completed(mut state: PartitionState) -> PartitionState {
    let stays = |node: &&i32| !state.removing.contains(node);
    let is_complete =
        state.is_reassigned() && state.replicas.iter().filter(stays).all(|node| state.isr.contains(node));
    if is_complete {
        let removing = std::mem::take(&mut state.removing);
        state.adding.clear();
        state.replicas.retain(|node| !removing.contains(node));
        state.isr.retain(|node| !removing.contains(node));
    }
    state
}

#[cfg(test)]
mod tests {
    use super::super::elections::{AlterPartition, alter_partition, tests::*};
    use super::super::record::NO_LEADER;
    use super::*;

    fn asked(image: &mut Image, target: Option<&[i32]>) -> Result<(), ErrorCode> {
        let records = alter(image, "t", 0, target, false).map_err(|refusal| refusal.code)?;
        replay(image, records);
        Ok(())
    }

    fn sorted(nodes: &[i32]) -> Vec<i32> {
        nodes.iter().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// The leader says who is in sync.
    fn in_sync(image: &mut Image, isr: &[i32]) {
        let asked = AlterPartition {
            topic_id: image.topic("t").unwrap().id,
            index: 0,
            node_id: t(image).leader,
            leader_epoch: t(image).leader_epoch,
            partition_epoch: t(image).partition_epoch,
            isr: isr.to_vec(),
        };
        let records = vec![alter_partition(image, &asked).unwrap()];
        replay(image, records);
    }

    #[test]
    fn a_partition_moves_once_its_new_replicas_are_in_sync() {
        let mut image = image(&[1, 2, 3, 4], &[1, 2]);
        asked(&mut image, Some(&[3, 4])).unwrap();
        assert_eq!(t(&image).replicas, [3, 4, 1, 2]);
        assert_eq!((t(&image).adding.as_slice(), t(&image).removing.as_slice()), (&[3, 4][..], &[1, 2][..]));
        assert_eq!((t(&image).leader, t(&image).leader_epoch), (1, 0), "it is served as before");
        in_sync(&mut image, &[1, 2, 3]);
        assert!(t(&image).is_reassigned());
        in_sync(&mut image, &[1, 2, 3, 4]);
        assert_eq!((t(&image).replicas.as_slice(), t(&image).isr.as_slice()), (&[3, 4][..], &[3, 4][..]));
        assert_eq!((t(&image).leader, t(&image).leader_epoch), (3, 1));
        assert!(!t(&image).is_reassigned());
    }

    #[test]
    fn a_new_order_holds_at_once_and_fewer_replicas_fence_those_that_leave() {
        let mut image = image(&[1, 2, 3], &[1, 2, 3]);
        asked(&mut image, Some(&[3, 2, 1])).unwrap();
        assert_eq!((t(&image).replicas.as_slice(), t(&image).leader), (&[3, 2, 1][..], 1));
        asked(&mut image, Some(&[2, 1])).unwrap();
        assert_eq!((t(&image).replicas.as_slice(), sorted(&t(&image).isr)), (&[2, 1][..], vec![1, 2]));
        assert_eq!((t(&image).leader, t(&image).leader_epoch), (1, 1), "3 is not to fetch in the old epoch");
        let before = t(&image).clone();
        asked(&mut image, Some(&[2, 1])).unwrap();
        assert_eq!(*t(&image), before, "what is so already changes nothing");
    }

    #[test]
    fn taking_back_gives_the_replicas_of_before_even_after_a_second_thought() {
        let mut image = image(&[1, 2, 3, 4], &[1, 2]);
        assert_eq!(asked(&mut image, None), Err(ErrorCode::NoReassignmentInProgress));
        asked(&mut image, Some(&[3, 2])).unwrap();
        in_sync(&mut image, &[1, 2]);
        asked(&mut image, Some(&[4, 2])).unwrap();
        asked(&mut image, None).unwrap();
        assert_eq!((sorted(&t(&image).replicas), sorted(&t(&image).isr)), (vec![1, 2], vec![1, 2]));
        assert!(!t(&image).is_reassigned());
    }

    #[test]
    fn impossible_targets_are_refused() {
        let mut image = image(&[1, 2], &[1]);
        for target in [&[][..], &[1, 1], &[7]] {
            assert_eq!(
                asked(&mut image, Some(target)),
                Err(ErrorCode::InvalidReplicaAssignment),
                "{target:?}"
            );
        }
        let missing = alter(&image, "t", 5, Some(&[1]), false).map_err(|refusal| refusal.code);
        assert_eq!(missing, Err(ErrorCode::UnknownTopicOrPartition));
        assert_ne!(t(&image).leader, NO_LEADER);
    }
}
