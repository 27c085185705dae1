//! Many records at once.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::super::delivery::Deliveries;
use super::super::partitioner::Partitioning;
use super::super::record::{Record, TopicRef};
use super::{Accumulator, NotNow, Open, PartitionBuffer, TopicState};

/// A record that was not appended, and why. Those behind it were not looked at.
pub(in super::super) type Stopped<'a> = (Record<'a>, NotNow);

/// The partition that got the last record, still locked for the next.
type Held<'p> = Option<(&'p Arc<PartitionBuffer>, MutexGuard<'p, Open>)>;

impl Accumulator {
    /// Appends as many records as it can, those that follow each other in a partition under one lock, unless
    /// `one_by_one`.
    pub(in super::super) fn append_all<'a>(
        &self,
        records: &mut impl Iterator<Item = Record<'a>>,
        one_by_one: bool,
        deliveries: &mut Deliveries,
    ) -> Result<(), Stopped<'a>> {
        // An application's partitioner is not called under a lock of ours.
        let one_by_one = one_by_one || matches!(self.config.partitioning.kind, Partitioning::Custom(_));
        let mut next = records.next();
        while let Some(record) = next {
            let topic = match &record.topic {
                TopicRef::Handle(handle) if handle.belongs_to(self) => Some(handle.shared_state()),
                _ => self.topics.read().get(record.topic()).cloned(),
            };
            let Some(topic) = topic else { return Err((record, NotNow::NeedsTopic)) };
            next = self.append_of_topic(&topic, record, records, one_by_one, deliveries)?;
        }
        Ok(())
    }

    /// [`append_all`](Self::append_all) for the next records as long as they are for one topic; the first that is not
    /// is given back.
    ///
    /// No record is moved on its way from the iterator: that would cost more than encoding it.
    fn append_of_topic<'a>(
        &self,
        topic: &TopicState,
        first: Record<'a>,
        records: &mut impl Iterator<Item = Record<'a>>,
        one_by_one: bool,
        deliveries: &mut Deliveries,
    ) -> Result<Option<Record<'a>>, Stopped<'a>> {
        let Some(partitions) = topic.partitions.get() else { return Err((first, NotNow::NeedsTopic)) };
        let mut held = None;
        if let Err(why) = self.append_held(topic, &partitions, &mut held, &first, deliveries) {
            return Err((first, why));
        }
        if one_by_one {
            return Ok(records.next());
        }
        for record in records {
            if !record.is_for(topic) {
                return Ok(Some(record));
            }
            if let Err(why) = self.append_held(topic, &partitions, &mut held, &record, deliveries) {
                return Err((record, why));
            }
        }
        Ok(None)
    }

    #[inline]
    fn append_held<'p>(
        &self,
        topic: &TopicState,
        partitions: &'p [Arc<PartitionBuffer>],
        held: &mut Held<'p>,
        record: &Record<'_>,
        deliveries: &mut Deliveries,
    ) -> Result<(), NotNow> {
        let buffer = self.place(topic, partitions, record)?;
        let open = match held {
            Some((last, open)) if Arc::ptr_eq(last, buffer) => open,
            _ => {
                // One lock at a time.
                *held = None;
                &mut held.insert((buffer, buffer.open.lock())).1
            }
        };
        self.append_locked(buffer, open, record, &mut None, |taken| {
            deliveries.push(taken.completion, taken.index, taken.timestamp);
        })
    }
}
