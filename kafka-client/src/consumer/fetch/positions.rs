//! Where each partition is read: assignment, seeks, pauses, and the offsets that have to be looked up first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;

use super::{
    Currency, Ends, Fetcher, Lookup, PARTITION_BACKOFF, Partition, Place, Position, REPORTED_BACKOFF,
};
use crate::TopicPartition;
use crate::consumer::{ConsumeError, OffsetReset};

impl Fetcher {
    /// Starts reading partitions: from the group's committed offset, or by the reset policy.
    pub(crate) fn assign(
        &mut self,
        partitions: impl IntoIterator<Item = TopicPartition>,
        from_committed: bool,
    ) {
        for partition in partitions {
            let epoch = self.next_id();
            let place = match from_committed {
                true => Some(Place::Committed { asked: false }),
                false => self.reset_place(&partition),
            };
            let mut state = Partition {
                epoch,
                assigned_in: epoch,
                place: place.unwrap_or(Place::Nowhere),
                paused: false,
                leader: None,
                preferred: None,
                topic_id: None,
                in_flight: None,
                served: 0,
                not_before: None,
                pieces: VecDeque::new(),
                handed_to: 0,
                handed_timestamp: None,
                error: None,
                queued: false,
                lease: None,
                max_bytes: self.config.max_partition_bytes,
                ends: None,
            };
            if place.is_none() {
                state.error = Some(ConsumeError::NoOffset { partition: partition.clone(), position: None });
                state.queued = true;
                self.ready.push_back(partition.clone());
            }
            self.partitions.insert(partition, state);
            self.needs_metadata = true;
        }
    }

    /// Stops reading partitions; what is buffered of them is gone.
    pub(crate) fn unassign<'a>(&mut self, partitions: impl IntoIterator<Item = &'a TopicPartition>) {
        for partition in partitions {
            self.partitions.remove(partition);
        }
        self.ready.retain(|partition| self.partitions.contains_key(partition));
    }

    pub(crate) fn assignment(&self) -> BTreeSet<TopicPartition> {
        self.partitions.keys().cloned().collect()
    }

    pub(crate) fn is_assigned(&self, partition: &TopicPartition) -> bool {
        self.partitions.contains_key(partition)
    }

    /// Whether this assignment or seek of a partition is the current one.
    pub(crate) fn is_at(&self, partition: &TopicPartition, epoch: u64) -> bool {
        self.partitions.get(partition).is_some_and(|state| state.epoch == epoch)
    }

    /// Names this assignment of a partition; after the partition went and came back it has another name.
    pub(crate) fn assigned_in(&self, partition: &TopicPartition) -> Option<u64> {
        self.partitions.get(partition).map(|state| state.assigned_in)
    }

    /// Whether records of this assignment and seek still count, and the reader may have them now.
    pub(crate) fn is_current(&self, partition: &TopicPartition, epoch: u64) -> Currency {
        match self.partitions.get(partition) {
            Some(state) if state.epoch == epoch && state.paused => Currency::Paused,
            Some(state) if state.epoch == epoch => Currency::Current,
            _ => Currency::Void,
        }
    }

    pub(crate) fn position(&self, partition: &TopicPartition) -> Option<Position> {
        match self.partitions.get(partition)?.place {
            Place::At { position, .. } => Some(position),
            _ => None,
        }
    }

    pub(crate) fn positions(&self) -> BTreeMap<TopicPartition, Position> {
        self.partitions
            .keys()
            .filter_map(|partition| Some((partition.clone(), self.position(partition)?)))
            .collect()
    }

    pub(crate) fn ends(&self, partition: &TopicPartition) -> Option<Ends> {
        self.partitions.get(partition)?.ends
    }

    /// How many offsets lie between the reader and what it could read, as of the last answer.
    pub(crate) fn lag(&self, partition: &TopicPartition) -> Option<i64> {
        let state = self.partitions.get(partition)?;
        let (Place::At { position, .. }, Some(ends)) = (state.place, state.ends) else { return None };
        Some((ends.readable(self.config.isolation) - position.offset).max(0))
    }

    /// For the metrics of what is handed out.
    pub(crate) fn ends_and_replica(&self, partition: &TopicPartition) -> (Option<Ends>, Option<i32>) {
        match self.partitions.get(partition) {
            Some(state) => (state.ends, state.preferred.map(|preferred| preferred.broker)),
            None => (None, None),
        }
    }

    pub(crate) fn assigned_count(&self) -> usize {
        self.partitions.len()
    }

    /// The next record to read is the one at `offset`. False if the partition is not assigned.
    pub(crate) fn seek(&mut self, partition: &TopicPartition, to: Position) -> bool {
        self.move_to(partition, Place::at(to))
    }

    /// Looks the position up anew. False if the partition is not assigned.
    pub(crate) fn seek_to(&mut self, partition: &TopicPartition, to: OffsetReset) -> bool {
        let to = self.as_looked_up(partition, to);
        self.move_to(partition, Place::Reset { to, asked: false })
    }

    pub(super) fn move_to(&mut self, partition: &TopicPartition, place: Place) -> bool {
        let epoch = self.next_id();
        let Some(state) = self.partitions.get_mut(partition) else { return false };
        state.epoch = epoch;
        state.place = place;
        state.in_flight = None;
        state.not_before = None;
        state.pieces.clear();
        if let Place::At { position, .. } = place {
            state.handed_to = position.offset;
        }
        state.error = None;
        state.max_bytes = self.config.max_partition_bytes;
        true
    }

    /// Keeps what is buffered. False if the partition is not assigned.
    pub(crate) fn pause(&mut self, partition: &TopicPartition) -> bool {
        self.partitions.get_mut(partition).map(|state| state.paused = true).is_some()
    }

    pub(crate) fn resume(&mut self, partition: &TopicPartition) -> bool {
        let Some(state) = self.partitions.get_mut(partition) else { return false };
        state.paused = false;
        self.enqueue(partition);
        true
    }

    pub(crate) fn paused(&self) -> BTreeSet<TopicPartition> {
        self.partitions.iter().filter(|(_, state)| state.paused).map(|(tp, _)| tp.clone()).collect()
    }

    /// The partitions whose committed offset must be read; each is asked for once.
    pub(crate) fn take_committed_lookups(&mut self, now: Instant) -> Vec<(TopicPartition, u64)> {
        let mut lookups = Vec::new();
        for (partition, state) in &mut self.partitions {
            if state.place == (Place::Committed { asked: false }) && state.is_due(now) {
                state.place = Place::Committed { asked: true };
                lookups.push((partition.clone(), state.epoch));
            }
        }
        lookups
    }

    /// The group's committed offset; `None` where it has none.
    pub(crate) fn committed(&mut self, partition: &TopicPartition, epoch: u64, found: Option<Position>) {
        let reset = self.reset_place(partition);
        let Some(state) = self.partitions.get_mut(partition) else { return };
        if state.epoch != epoch || !matches!(state.place, Place::Committed { .. }) {
            return;
        }
        match (found, reset) {
            (Some(position), _) => {
                self.move_to(partition, Place::at(position));
            }
            (None, Some(place)) => state.place = place,
            (None, None) => {
                let error = ConsumeError::NoOffset { partition: partition.clone(), position: None };
                self.report(partition, error, Place::Nowhere);
            }
        }
    }

    /// The partitions whose offset must be looked up by the reset policy or a seek; each is asked for once.
    pub(crate) fn take_resets(&mut self, now: Instant) -> Vec<Lookup> {
        let mut lookups = Vec::new();
        for (partition, state) in &mut self.partitions {
            if let Place::Reset { to, asked: false } = state.place
                && state.is_due(now)
            {
                state.place = Place::Reset { to, asked: true };
                lookups.push(Lookup { partition: partition.clone(), epoch: state.epoch, reset: to });
            }
        }
        lookups
    }

    pub(crate) fn reset_found(&mut self, partition: &TopicPartition, epoch: u64, position: Position) {
        if let Some(state) = self.partitions.get(partition)
            && state.epoch == epoch
            && matches!(state.place, Place::Reset { .. })
        {
            self.move_to(partition, Place::at_checked(position));
        }
    }

    /// The lookup of a committed offset or of a reset brought nothing; it is due again after a pause.
    pub(crate) fn lookup_failed(
        &mut self,
        partition: &TopicPartition,
        epoch: u64,
        now: Instant,
        error: Option<ConsumeError>,
    ) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        if state.epoch != epoch {
            return;
        }
        let pause = if error.is_some() { REPORTED_BACKOFF } else { PARTITION_BACKOFF };
        state.not_before = Some(now + pause);
        match &mut state.place {
            Place::Committed { asked } | Place::Reset { asked, .. } => *asked = false,
            _ => return,
        }
        if let Some(error) = error {
            let place = state.place;
            self.report(partition, error, place);
        }
        self.needs_metadata = true;
    }

    /// When the next lookup that had to wait is due.
    pub(crate) fn lookups_due_at(&self) -> Option<Instant> {
        self.partitions
            .values()
            .filter(|state| state.place.is_open())
            .filter_map(|state| state.not_before)
            .min()
    }

    /// Where the reset policy sends a reader, if there is one.
    pub(super) fn reset_place(&self, partition: &TopicPartition) -> Option<Place> {
        match self.config.reset {
            OffsetReset::None => None,
            to => Some(Place::Reset { to: self.as_looked_up(partition, to), asked: false }),
        }
    }

    /// "Where I was" as the time of the last record that was handed out.
    fn as_looked_up(&self, partition: &TopicPartition, to: OffsetReset) -> OffsetReset {
        match to {
            OffsetReset::LastConsumed => {
                let timestamp = self.partitions.get(partition).and_then(|state| state.handed_timestamp);
                timestamp.map_or(OffsetReset::Earliest, OffsetReset::Timestamp)
            }
            to => to,
        }
    }
}
