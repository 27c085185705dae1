//! Handing out records: one at a time, or what was fetched as it is.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{Cursor, Reader, Shared, Waiting, fold};
use crate::TopicPartition;
use crate::consumer::fetch::{Currency, Next, Position};
use crate::consumer::{ConsumeError, ConsumerRecord, PartitionRecords};

impl Shared {
    /// The next record of the batch at hand, if nothing happened that concerns it: the path of almost every record.
    #[inline]
    pub(in crate::consumer) fn next_at_hand(&self) -> Option<ConsumerRecord> {
        if self.options.acknowledgements {
            return None;
        }
        let mut reader = self.reader.lock();
        let version = self.version.load(Ordering::Acquire);
        let cursor = reader.cursor.as_mut().filter(|cursor| cursor.version == version)?;
        match cursor.records.next()? {
            Ok(record) => {
                reader.polled = true;
                // An explicit commit said that the application is done with what it had before this one.
                reader.busy = true;
                Some(record)
            }
            Err(error) => {
                cursor.failure = Some(error);
                None
            }
        }
    }

    pub(in crate::consumer) async fn next_record(&self) -> Result<Option<ConsumerRecord>, ConsumeError> {
        self.next_with(Self::take_record).await
    }

    pub(in crate::consumer) async fn next_batch(&self) -> Result<Option<PartitionRecords>, ConsumeError> {
        self.next_with(Self::take_batch).await
    }

    async fn next_with<T>(
        &self,
        take: fn(&Self, &mut Reader) -> Option<Result<T, ConsumeError>>,
    ) -> Result<Option<T>, ConsumeError> {
        let mut readable = self.readable.follow();
        let mut waiting = None;
        loop {
            readable.catch_up();
            if let Some(result) = self.come_back(take) {
                if let Some((_, since)) = waiting {
                    self.metrics.waited(since);
                }
                return result.map(Some);
            }
            if self.closed.load(Ordering::Acquire) {
                return Ok(None);
            }
            if waiting.is_none() {
                waiting = Some((Waiting::new(&self.waiting), Instant::now()));
            }
            if readable.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// The application is done with what it got before and wants more.
    fn come_back<T>(
        &self,
        take: fn(&Self, &mut Reader) -> Option<Result<T, ConsumeError>>,
    ) -> Option<Result<T, ConsumeError>> {
        self.metrics.polled();
        let mut reader = self.reader.lock();
        reader.polled = true;
        reader.last_batch = None;
        if std::mem::take(&mut reader.busy) {
            self.returned.tell(());
        }
        if reader.gate {
            return None;
        }
        if let Some(failure) = self.take_failure() {
            return Some(Err(failure));
        }
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        self.revalidate(&mut reader.cursor);
        let taken = take(self, &mut reader)?;
        reader.busy = taken.is_ok();
        Some(taken)
    }

    fn take_record(&self, reader: &mut Reader) -> Option<Result<ConsumerRecord, ConsumeError>> {
        self.take_record_from(&mut reader.cursor, || self.fetcher.lock().next())
    }

    /// The next record of a cursor, or of what `next` brings.
    pub(in crate::consumer) fn take_record_from(
        &self,
        place: &mut Option<Cursor>,
        next: impl Fn() -> Option<Next>,
    ) -> Option<Result<ConsumerRecord, ConsumeError>> {
        if self.must_wait_for_acks() {
            return None;
        }
        loop {
            if let Some(cursor) = place {
                let next = match cursor.failure.take() {
                    Some(error) => Some(Err(error)),
                    None => cursor.records.next(),
                };
                match next {
                    Some(Ok(record)) => {
                        if self.options.acknowledgements {
                            let to =
                                Position { offset: record.offset + 1, leader_epoch: record.leader_epoch };
                            let partition = &cursor.records.records().partition;
                            self.acks.lock().handed_out(partition, record.offset, to);
                        }
                        return Some(Ok(record));
                    }
                    Some(Err(error)) => {
                        self.give_up_cursor(place);
                        return Some(Err(error));
                    }
                    None => self.finish_cursor(place),
                }
            }
            let version = self.version.load(Ordering::Acquire);
            match self.checked(next()?) {
                Ok(records) => *place = Some(Cursor::new(records, version)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn take_batch(&self, reader: &mut Reader) -> Option<Result<PartitionRecords, ConsumeError>> {
        if self.must_wait_for_acks() {
            return None;
        }
        if let Some(error) = reader.cursor.as_mut().and_then(|cursor| cursor.failure.take()) {
            self.give_up_cursor(&mut reader.cursor);
            return Some(Err(error));
        }
        let mut records = match reader.cursor.take() {
            Some(cursor) => cursor.records.into_rest(),
            None => {
                let next = self.fetcher.lock().next()?;
                match self.checked(next) {
                    Ok(records) => records,
                    Err(error) => return Some(Err(error)),
                }
            }
        };
        let before = Position { offset: records.position(), leader_epoch: -1 };
        reader.last_batch = Some((records.partition.clone(), before));
        self.fetcher.lock().read_to(&records.partition, records.epoch, records.end);
        if self.options.acknowledgements {
            self.acks.lock().handed_out(&records.partition, records.position(), records.end);
        }
        // From here on they are the application's.
        records.charge = None;
        self.fetchable.tell(());
        Some(Ok(records))
    }

    /// What was fetched, checked.
    fn checked(&self, next: Next) -> Result<PartitionRecords, ConsumeError> {
        let mut records = match next {
            Next::Records(records) => records,
            Next::Error(error) => return Err(error),
        };
        let (ends, preferred) = self.fetcher.lock().ends_and_replica(&records.partition);
        self.metrics.handed_out(&records, ends, preferred, self.options.isolation);
        if !self.options.check_crcs {
            return Ok(records);
        }
        let Err((offset, source)) = records.verify() else { return Ok(records) };
        let mut fetcher = self.fetcher.lock();
        let epoch = fetcher.refetch(&records.partition, records.epoch, offset, Instant::now());
        if records.batches.is_empty() {
            drop(fetcher);
            let partition = records.partition.clone();
            drop(records);
            self.fetchable.tell(());
            return Err(ConsumeError::CorruptBatch { partition, offset, source });
        }
        // What came before the damage is good; the rest is fetched again.
        records.epoch = epoch.unwrap_or(records.epoch);
        Ok(records)
    }

    /// After a seek, pause or rebalance: may the reader go on with the records at hand?
    pub(in crate::consumer) fn revalidate(&self, place: &mut Option<Cursor>) {
        let version = self.version.load(Ordering::Acquire);
        let Some(cursor) = place else { return };
        if cursor.version == version {
            return;
        }
        let records = cursor.records.records();
        let (partition, epoch) = (records.partition.clone(), records.epoch);
        let mut fetcher = self.fetcher.lock();
        match fetcher.is_current(&partition, epoch) {
            Currency::Current => cursor.version = version,
            Currency::Paused => {
                fold(cursor, &mut fetcher);
                if let Some(cursor) = place.take() {
                    fetcher.put_back(cursor.into_rest());
                }
            }
            Currency::Void => *place = None,
        }
        drop(fetcher);
        self.fetchable.tell(());
    }

    fn finish_cursor(&self, place: &mut Option<Cursor>) {
        let Some(cursor) = place.take() else { return };
        let records = cursor.records.records();
        self.fetcher.lock().read_to(&records.partition, records.epoch, records.end);
        drop(cursor);
        self.fetchable.tell(());
    }

    /// The records at hand cannot be decoded: the position stays where they stopped making sense.
    fn give_up_cursor(&self, place: &mut Option<Cursor>) {
        let Some(cursor) = place.take() else { return };
        let mut fetcher = self.fetcher.lock();
        fold(&cursor, &mut fetcher);
        let records = cursor.records.records();
        let offset = cursor.records.done_to().map_or(records.position, |(offset, _)| offset);
        fetcher.refetch(&records.partition, records.epoch, offset, Instant::now());
        drop(fetcher);
        drop(cursor);
        self.fetchable.tell(());
    }

    /// What is left at hand of a batch goes back to its partition, for another reader. Returns the partition if the
    /// application still works on a record of it.
    pub(in crate::consumer) fn give_back_cursor(&self) -> Option<TopicPartition> {
        let mut reader = self.reader.lock();
        self.revalidate(&mut reader.cursor);
        if reader.busy
            && let Some(cursor) = &reader.cursor
        {
            return Some(cursor.records.records().partition.clone());
        }
        if let Some(cursor) = reader.cursor.take() {
            let mut fetcher = self.fetcher.lock();
            fold(&cursor, &mut fetcher);
            fetcher.put_back(cursor.into_rest());
        }
        None
    }
}
