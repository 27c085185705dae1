//! Many records at once.

use std::iter::Peekable;
use std::sync::Arc;

use super::super::delivery::Deliveries;
use super::super::partitioner::Partitioning;
use super::super::record::{Record, TopicRef};
use super::{Accumulator, NotNow, TopicState};

impl Accumulator {
    /// Appends as many records as it can, those that follow each other in a partition under one lock.
    ///
    /// Ends well when there are no more records; else the next one is the one that was not appended.
    pub(in super::super) fn append_all<'a, I: Iterator<Item = Record<'a>>>(
        &self,
        records: &mut Peekable<I>,
        deliveries: &mut Deliveries,
    ) -> Result<(), NotNow> {
        while let Some(record) = records.peek() {
            let topic = match &record.topic {
                TopicRef::Handle(handle) if handle.belongs_to(self) => None,
                _ => Some(self.topics.read().get(record.topic()).cloned().ok_or(NotNow::NeedsTopic)?),
            };
            match (&topic, &record.topic) {
                (Some(topic), _) => self.append_of_topic(topic, records, deliveries)?,
                (None, TopicRef::Handle(handle)) => {
                    // The handle's topic outlives the record that names it.
                    let topic = handle.shared_state();
                    self.append_of_topic(&topic, records, deliveries)?;
                }
                (None, TopicRef::Name(_)) => return Err(NotNow::NeedsTopic),
            }
        }
        Ok(())
    }

    /// [`append_all`](Self::append_all) for the next records as long as they are for one topic.
    fn append_of_topic<'a, I: Iterator<Item = Record<'a>>>(
        &self,
        topic: &TopicState,
        records: &mut Peekable<I>,
        deliveries: &mut Deliveries,
    ) -> Result<(), NotNow> {
        let partitions = topic.partitions.get().ok_or(NotNow::NeedsTopic)?;
        // An application's partitioner is not called under a lock of ours.
        let one_by_one = matches!(self.config.partitioning.kind, Partitioning::Custom(_));
        let mut next_place = None;
        while let Some(record) = records.peek().filter(|record| record.is_for(&topic.name)) {
            let buffer = match next_place.take() {
                Some(buffer) => buffer,
                None => self.place(topic, &partitions, record)?,
            };
            let mut open = buffer.open.lock();
            while let Some(record) = records.peek() {
                self.append_locked(buffer, &mut open, record, &mut None, |taken| {
                    deliveries.push(taken.completion, taken.index, taken.timestamp);
                })?;
                records.next();
                let Some(next) = records.peek().filter(|next| !one_by_one && next.is_for(&topic.name)) else {
                    break;
                };
                let place = self.place(topic, &partitions, next)?;
                if !Arc::ptr_eq(place, buffer) {
                    next_place = Some(place);
                    break;
                }
            }
        }
        Ok(())
    }
}
