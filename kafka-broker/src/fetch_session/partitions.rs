//! The partitions of a fetch, in the order in which they are read.

use std::collections::BTreeMap;

use kafka_wire::Uuid;
use kafka_wire::messages::TopicName;
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_wire::messages::fetch_response::PartitionData;
use rustc_hash::FxHashMap;

/// A partition as a client asks for it, and what it was told last.
#[derive(Debug)]
pub(crate) struct Cached {
    /// Empty where the request names topics by id.
    pub(crate) topic: TopicName,
    /// Nil where the request names topics by name.
    pub(crate) topic_id: Uuid,
    pub(crate) asked: FetchPartition,
    high_watermark: i64,
    log_start_offset: i64,
}

/// Name, id (one of them empty) and index.
type Key = (TopicName, Uuid, i32);

#[derive(Debug, Default)]
pub(crate) struct Partitions {
    by_turn: BTreeMap<u64, Cached>,
    turns: FxHashMap<Key, u64>,
    next_turn: u64,
}

impl Partitions {
    pub(crate) fn len(&self) -> usize {
        self.by_turn.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Cached> {
        self.by_turn.values()
    }

    /// Adds partitions at the end; those that are known keep their turn.
    pub(super) fn update(&mut self, topics: Vec<FetchTopic>) {
        for topic in topics {
            for asked in topic.partitions {
                let key = (topic.topic.clone(), topic.topic_id, asked.partition);
                let known = self.turns.get(&key).and_then(|turn| self.by_turn.get_mut(turn));
                if let Some(known) = known {
                    known.asked = asked;
                    continue;
                }
                let cached = Cached {
                    topic: topic.topic.clone(),
                    topic_id: topic.topic_id,
                    asked,
                    high_watermark: -1,
                    log_start_offset: -1,
                };
                self.push(key, cached);
            }
        }
    }

    pub(super) fn forget(&mut self, topics: &[ForgottenTopic]) {
        for topic in topics {
            for &index in &topic.partitions {
                if let Some(turn) = self.turns.remove(&(topic.topic.clone(), topic.topic_id, index)) {
                    self.by_turn.remove(&turn);
                }
            }
        }
    }

    fn push(&mut self, key: Key, cached: Cached) {
        self.by_turn.insert(self.next_turn, cached);
        self.turns.insert(key, self.next_turn);
        self.next_turn += 1;
    }

    /// Remembers what the answers tell; with `news_only`, those that tell nothing new are taken out. Who was given
    /// records waits behind those who were not, so that a limit starves nobody.
    pub(super) fn note(&mut self, answers: &mut [Option<PartitionData>], news_only: bool) {
        let mut served = Vec::new();
        for ((&turn, cached), answer) in self.by_turn.iter_mut().zip(answers.iter_mut()) {
            let Some(told) = answer else { continue };
            let has_records = told.records.as_ref().is_some_and(|records| !records.is_empty());
            if has_records {
                served.push(turn);
            }
            let is_news = cached.note(told) || has_records;
            if news_only && !is_news {
                *answer = None;
            }
        }
        if !news_only {
            return;
        }
        for turn in served {
            if let Some(cached) = self.by_turn.remove(&turn) {
                let key = (cached.topic.clone(), cached.topic_id, cached.asked.partition);
                self.push(key, cached);
            }
        }
    }
}

impl Cached {
    /// Whether the client has not been told this yet (`CachedPartition.maybeUpdateResponseData`).
    fn note(&mut self, told: &PartitionData) -> bool {
        let has_moved =
            self.high_watermark != told.high_watermark || self.log_start_offset != told.log_start_offset;
        self.high_watermark = told.high_watermark;
        self.log_start_offset = told.log_start_offset;
        if told.error_code != 0 {
            // The end of an error is news too.
            self.high_watermark = -1;
        }
        has_moved
            || told.error_code != 0
            || told.preferred_read_replica.0 >= 0
            || told.diverging_epoch.epoch >= 0
    }
}
