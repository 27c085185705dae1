//! What to ask a broker next, within the byte budget.

use std::collections::HashSet;

use tokio::time::Instant;

use super::{
    BROKER_BACKOFF, BrokerState, Check, FetchPart, FetchPlan, Fetcher, OVERHEAD_UNIT, Place, Planned,
};
use crate::TopicPartition;

/// Into so many requests the budget is divided, if partitions' worth allows it.
const REQUESTS_IN_BUDGET: usize = 8;

impl Fetcher {
    /// What to ask `broker` next.
    pub(crate) fn plan(&mut self, broker: i32, now: Instant) -> Planned {
        let state = self.brokers.entry(broker).or_default();
        if state.in_flight {
            return Planned::Wait(None);
        }
        if let Some(at) = state.not_before.filter(|at| now < *at) {
            return Planned::Wait(Some(at));
        }
        let mut wake_at: Option<Instant> = None;
        let mut wake = |at: Instant| wake_at = Some(wake_at.map_or(at, |earlier| earlier.min(at)));
        let mut askable: Vec<(u64, &TopicPartition)> = Vec::new();
        let mut sources = HashSet::new();
        for (partition, state) in &mut self.partitions {
            if let Some(preferred) = state.preferred {
                if preferred.until <= now {
                    state.preferred = None;
                    self.sources_changed = true;
                } else if state.leader.is_some_and(|leader| leader.broker == broker) {
                    wake(preferred.until);
                }
            }
            if state.paused {
                continue;
            }
            let Some(source) = state.source() else { continue };
            sources.insert(source);
            if source != broker
                || state.in_flight.is_some()
                || state.error.is_some()
                || !matches!(state.place, Place::At { check: Check::Done, .. })
            {
                continue;
            }
            match state.not_before {
                Some(at) if now < at => wake(at),
                _ => askable.push((state.served, partition)),
            }
        }
        if askable.is_empty() {
            return Planned::Wait(wake_at);
        }
        askable.sort_unstable();
        let order: Vec<TopicPartition> =
            askable.into_iter().map(|(_, partition)| partition.clone()).collect();
        let Some(max_bytes) = self.allowance(sources.len()) else {
            return Planned::Wait(wake_at);
        };
        let reserved = self.with_overhead(max_bytes);

        let id = self.next_id();
        let mut parts = Vec::with_capacity(order.len());
        for partition in order {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            let Place::At { fetch, .. } = state.place else { continue };
            state.in_flight = Some(id);
            parts.push(FetchPart {
                topic_id: state.topic_id,
                epoch: state.epoch,
                offset: fetch.offset,
                leader_epoch: state.leader.map_or(-1, |leader| leader.epoch),
                last_fetched_epoch: fetch.leader_epoch,
                max_bytes: state.max_bytes,
                partition,
            });
        }
        self.reserved += reserved;
        let BrokerState { in_flight, session, .. } = self.brokers.entry(broker).or_default();
        *in_flight = true;
        let session = session.next(&parts);
        Planned::Fetch(FetchPlan { id, broker, max_bytes, reserved, parts, session })
    }

    /// How many bytes one request may bring now: each broker has an equal share of the budget, so that one that
    /// answers slowly does not keep the others from asking. It is asked for in parts, so that some can be read while
    /// others come.
    ///
    /// A broker answers with a first batch that is larger than what was asked for (KIP-74), so less than the largest
    /// batch of late is asked for only while nothing else takes room: then a giant passes alone.
    fn allowance(&mut self, brokers: usize) -> Option<usize> {
        // Of this much, paused partitions can never deprive the others.
        let step = self.config.max_partition_bytes.min(self.config.max_buffered_bytes.div_ceil(8));
        let limit = self.budget.for_fetching().saturating_sub(step).max(1);
        let share = (limit / brokers.max(1)).max(1);
        let largest = self.largest_batch.min(limit);
        let floor = self.config.max_partition_bytes.min(share.div_ceil(2)).max(largest).max(1);
        let wanted = self.config.max_bytes.min(share).min(limit / REQUESTS_IN_BUDGET).max(floor);
        let ask = |fetcher: &Self| {
            let free = limit.saturating_sub(fetcher.budget.used() + fetcher.reserved);
            let ask = wanted.min(free * OVERHEAD_UNIT / (OVERHEAD_UNIT + fetcher.overhead));
            (ask >= floor).then_some(ask)
        };
        if let Some(bytes) = ask(self) {
            return Some(bytes);
        }
        let paused = self.detach_paused();
        if let Some(bytes) = ask(self) {
            return Some(bytes);
        }
        // Paused partitions hold the whole budget. They keep it, and the others go on in small steps.
        (self.reserved == 0 && self.budget.used() <= paused).then_some(step)
    }

    /// What an answer of so many bytes takes from the budget.
    fn with_overhead(&self, bytes: usize) -> usize {
        bytes + bytes / OVERHEAD_UNIT * self.overhead
    }

    /// Takes what paused partitions hold out of the frames it came in, where others are through with the rest of them.
    /// Returns how many bytes paused partitions hold then.
    fn detach_paused(&mut self) -> usize {
        let mut held = 0;
        for state in self.partitions.values_mut().filter(|state| state.paused) {
            for piece in &mut state.pieces {
                let shares_frame =
                    piece.charge.as_ref().is_some_and(|charge| charge.bytes() > 2 * piece.size);
                if shares_frame {
                    piece.detach(self.budget.charge(piece.size + piece.overhead_bytes()));
                }
                held += piece.charge.as_ref().map_or(0, |charge| charge.bytes());
            }
        }
        held
    }

    /// The request failed.
    pub(crate) fn failed(&mut self, plan: &FetchPlan, now: Instant) {
        self.finish(plan);
        let broker = self.brokers.entry(plan.broker).or_default();
        broker.session.failed();
        broker.not_before = Some(now + BROKER_BACKOFF);
        self.needs_metadata = true;
        for part in &plan.parts {
            if let Some(state) = self.partitions.get_mut(&part.partition)
                && state.preferred.take_if(|preferred| preferred.broker == plan.broker).is_some()
            {
                self.sources_changed = true;
            }
        }
    }

    /// The broker refused the request as a whole.
    pub(crate) fn refused(&mut self, plan: &FetchPlan, code: kafka_wire::ErrorCode, now: Instant) {
        if !self.brokers.entry(plan.broker).or_default().session.refused(code) {
            return self.failed(plan, now);
        }
        // Nobody else is at fault, so the whole request goes out at once.
        self.finish(plan);
    }

    pub(super) fn finish(&mut self, plan: &FetchPlan) {
        self.reserved = self.reserved.saturating_sub(plan.reserved);
        self.brokers.entry(plan.broker).or_default().in_flight = false;
        for part in &plan.parts {
            if let Some(state) = self.partitions.get_mut(&part.partition)
                && state.in_flight == Some(plan.id)
            {
                state.in_flight = None;
            }
        }
    }

    /// The sessions to close with their brokers.
    pub(crate) fn open_sessions(&self) -> Vec<(i32, i32)> {
        self.brokers.iter().filter_map(|(&broker, state)| Some((broker, state.session.open_id()?))).collect()
    }
}
