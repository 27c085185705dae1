//! Fetch sessions (KIP-227): what a client fetches is remembered, so that it names only changes and is told only news.
//!
//! Pure: the caller passes requests, answers and the time. A session's partitions are lent to the one request that may
//! be under way in it, so that nothing is copied and no lock is held while the request waits.

mod partitions;
#[cfg(test)]
mod tests;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::FetchRequest;
use kafka_wire::messages::fetch_response::PartitionData;
use rustc_hash::FxHashMap;

pub(crate) use partitions::{Cached, Partitions};

/// Full, and no session afterwards.
const FINAL_EPOCH: i32 = -1;
/// Full, and a session if there is room for one.
const INITIAL_EPOCH: i32 = 0;
/// A session is not evicted for a larger one before it had this long (`min.incremental.fetch.session.eviction.ms`).
const EVICTION_MS: i64 = 120_000;
/// The most partitions that all sessions of a node remember; beyond that, fetches name all of theirs.
const MAX_CACHED_PARTITIONS: usize = 2_000_000;
/// Topics are named by id from this Fetch version on (KIP-516).
const TOPIC_ID_VERSION: i16 = 13;

/// The sessions of one node.
#[derive(Debug)]
pub(crate) struct FetchSessions {
    sessions: FxHashMap<i32, Session>,
    max_sessions: usize,
    cached_partitions: usize,
}

#[derive(Debug)]
struct Session {
    /// The epoch that the next request must have.
    epoch: i32,
    uses_topic_ids: bool,
    created_ms: i64,
    used_ms: i64,
    size: usize,
    /// `None` while a request has them. One that is given up takes them with it; its client begins anew.
    partitions: Option<Partitions>,
}

/// A fetch under way: what to read, and for whom.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) partitions: Partitions,
    kind: Kind,
    uses_topic_ids: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sessionless,
    Full,
    /// A session's next request; its id and the epoch after this request.
    Incremental(i32, i32),
}

impl FetchSessions {
    /// Room for so many sessions (`max.incremental.fetch.session.cache.slots`).
    pub(crate) fn new(max_sessions: usize) -> Self {
        Self { sessions: FxHashMap::default(), max_sessions, cached_partitions: 0 }
    }

    /// Takes a request apart. An error is the answer to the whole request.
    pub(crate) fn begin(
        &mut self,
        request: FetchRequest,
        version: i16,
        now_ms: i64,
    ) -> Result<Context, ErrorCode> {
        let (id, epoch) = (request.session_id, request.session_epoch);
        let uses_topic_ids = version >= TOPIC_ID_VERSION;
        if version < 7 || matches!(epoch, INITIAL_EPOCH | FINAL_EPOCH) {
            self.remove(id);
            let mut partitions = Partitions::default();
            partitions.update(request.topics);
            let kind = if version < 7 || epoch == FINAL_EPOCH { Kind::Sessionless } else { Kind::Full };
            return Ok(Context { partitions, kind, uses_topic_ids });
        }
        let session = self.sessions.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_topic_ids != uses_topic_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let mut partitions = session.partitions.take().ok_or(ErrorCode::InvalidFetchSessionEpoch)?;
        partitions.forget(&request.forgotten_topics_data);
        partitions.update(request.topics);
        session.epoch = next_epoch(epoch);
        session.used_ms = now_ms;
        let next = session.epoch;
        if partitions.is_empty() {
            self.remove(id);
            return Ok(Context { partitions, kind: Kind::Sessionless, uses_topic_ids });
        }
        Ok(Context { partitions, kind: Kind::Incremental(id, next), uses_topic_ids })
    }

    /// Before the answer goes out: notes what it tells and keeps only the news. `answers` are those to the context's
    /// partitions, in order. Returns the session's id, 0 without one.
    ///
    /// `random` makes ids for new sessions.
    pub(crate) fn finish(
        &mut self,
        context: Context,
        answers: &mut [Option<PartitionData>],
        now_ms: i64,
        random: impl FnMut() -> i32,
    ) -> Result<i32, ErrorCode> {
        let Context { mut partitions, kind, uses_topic_ids } = context;
        match kind {
            Kind::Sessionless => Ok(0),
            Kind::Full => {
                partitions.note(answers, false);
                Ok(self.open(partitions, uses_topic_ids, now_ms, random))
            }
            Kind::Incremental(id, epoch) => {
                let session = self.sessions.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
                if session.epoch != epoch {
                    return Err(ErrorCode::InvalidFetchSessionEpoch);
                }
                partitions.note(answers, true);
                let size = partitions.len();
                self.cached_partitions = (self.cached_partitions + size).saturating_sub(session.size);
                session.size = size;
                session.partitions = Some(partitions);
                if self.cached_partitions > MAX_CACHED_PARTITIONS {
                    self.remove(id);
                }
                Ok(id)
            }
        }
    }

    fn open(
        &mut self,
        partitions: Partitions,
        uses_topic_ids: bool,
        now_ms: i64,
        mut random: impl FnMut() -> i32,
    ) -> i32 {
        let size = partitions.len();
        if size == 0 || !self.make_room(size, now_ms) {
            return 0;
        }
        // Any id but 0 will do that no session has; a cache that is not full has free ones.
        let mut id = random() & i32::MAX;
        while id == 0 || self.sessions.contains_key(&id) {
            id = id.wrapping_add(1) & i32::MAX;
        }
        let session = Session {
            epoch: next_epoch(INITIAL_EPOCH),
            uses_topic_ids,
            created_ms: now_ms,
            used_ms: now_ms,
            size,
            partitions: Some(partitions),
        };
        self.sessions.insert(id, session);
        self.cached_partitions += size;
        id
    }

    /// `FetchSessionCacheShard.tryEvict`: the session that was idle longest goes if it is stale; else the smallest one,
    /// if it had its time and the new one is larger.
    fn make_room(&mut self, size: usize, now_ms: i64) -> bool {
        if self.max_sessions == 0 || self.cached_partitions + size > MAX_CACHED_PARTITIONS {
            return false;
        }
        if self.sessions.len() < self.max_sessions {
            return true;
        }
        let idle = self.sessions.iter().min_by_key(|(_, session)| session.used_ms);
        let stale = idle.filter(|(_, session)| now_ms.saturating_sub(session.used_ms) > EVICTION_MS);
        let evictable = self
            .sessions
            .iter()
            .filter(|(_, session)| now_ms.saturating_sub(session.created_ms) > EVICTION_MS);
        let victim = stale.or_else(|| {
            evictable.min_by_key(|(_, session)| session.size).filter(|(_, session)| session.size <= size)
        });
        match victim.map(|(&id, _)| id) {
            Some(id) => {
                self.remove(id);
                true
            }
            None => false,
        }
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.cached_partitions = self.cached_partitions.saturating_sub(session.size);
        }
    }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch.saturating_add(1) }
}
