//! When punctuators are called, on both clocks.

/// Which clock a punctuator waits for; Java's `PunctuationType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PunctuationType {
    /// The largest timestamp of the task's records: stands still while no records come. The first call is at the first
    /// record, the following ones at multiples of the interval.
    StreamTime,
    /// The machine's clock. The first call is one interval after the schedule was made.
    WallClockTime,
}

/// A schedule that a processor made, to end it with
/// [`ProcessorContext::cancel`](super::ProcessorContext::cancel). Java's `Cancellable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schedule(u64);

/// A punctuator of a node and when it is due.
pub(crate) struct Entry {
    id: Schedule,
    pub(crate) node: usize,
    /// The node's own number for what is to be called.
    pub(crate) callback: usize,
    clock: PunctuationType,
    at: i64,
    interval: i64,
}

impl Entry {
    /// Missed times become one call, and later ones stay multiples of the interval (`PunctuationSchedule.next`).
    fn next(&self, now: i64) -> i64 {
        let next = self.at.saturating_add(self.interval);
        if now < next {
            return next;
        }
        let missed = now.saturating_sub(self.at) / self.interval;
        self.at.saturating_add(missed.saturating_add(1).saturating_mul(self.interval))
    }
}

/// The schedules of a task.
pub(crate) struct Schedules {
    waiting: Vec<Entry>,
    made: u64,
    /// The schedule whose punctuator is at work, unless that cancelled it.
    at_work: Option<Schedule>,
    next_stream_time: i64,
    next_wall_time: i64,
}

impl Default for Schedules {
    fn default() -> Self {
        let (next_stream_time, next_wall_time) = (i64::MAX, i64::MAX);
        Self { waiting: Vec::new(), made: 0, at_work: None, next_stream_time, next_wall_time }
    }
}

impl Schedules {
    /// `interval` in milliseconds, at least one; `now` as `clock` has it. From `start` on, if it is given.
    pub(crate) fn add(
        &mut self,
        node: usize,
        callback: usize,
        clock: PunctuationType,
        start: Option<i64>,
        interval: i64,
        now: i64,
    ) -> Schedule {
        self.made += 1;
        let (id, interval) = (Schedule(self.made), interval.max(1));
        let at = match (start, clock) {
            (Some(start), _) => start,
            (None, PunctuationType::StreamTime) => 0,
            (None, PunctuationType::WallClockTime) => now.saturating_add(interval),
        };
        let mut entry = Entry { id, node, callback, clock, at, interval };
        if start.is_some_and(|start| start < now) {
            entry.at = entry.next(now);
        }
        self.waiting.push(entry);
        self.settle();
        id
    }

    pub(crate) fn cancel(&mut self, schedule: Schedule) {
        self.waiting.retain(|entry| entry.id != schedule);
        self.at_work = self.at_work.filter(|id| *id != schedule);
        self.settle();
    }

    /// Whether a punctuator waits for a time that has come.
    #[inline]
    pub(crate) fn is_due(&self, clock: PunctuationType, now: i64) -> bool {
        match clock {
            PunctuationType::StreamTime => self.next_stream_time <= now,
            PunctuationType::WallClockTime => self.next_wall_time <= now,
        }
    }

    /// The punctuator that waited for the earliest time, if that has come.
    pub(crate) fn take_due(&mut self, clock: PunctuationType, now: i64) -> Option<Entry> {
        let due =
            self.waiting.iter().enumerate().filter(|(_, entry)| entry.clock == clock && entry.at <= now);
        let (index, _) = due.min_by_key(|(_, entry)| (entry.at, entry.id.0))?;
        let entry = self.waiting.swap_remove(index);
        self.at_work = Some(entry.id);
        Some(entry)
    }

    /// The punctuator was called: it waits again, unless it was cancelled meanwhile.
    pub(crate) fn done(&mut self, entry: Entry, now: i64) {
        if self.at_work.take().is_some() {
            let at = entry.next(now);
            self.waiting.push(Entry { at, ..entry });
        }
        self.settle();
    }

    fn settle(&mut self) {
        let next = |clock| {
            let times = self.waiting.iter().filter(|entry| entry.clock == clock).map(|entry| entry.at);
            times.min().unwrap_or(i64::MAX)
        };
        self.next_stream_time = next(PunctuationType::StreamTime);
        self.next_wall_time = next(PunctuationType::WallClockTime);
    }
}
