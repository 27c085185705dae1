//! `buffer.memory`: bytes that records may occupy until they are settled.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::buffers::Buffers;

/// Memory that comes back while somebody waits is handed on in pieces of this size at least. Whoever waits then fills
/// many batches at a time, instead of being woken for each.
const MAX_PIECE: usize = 512 * 1024;

/// The part of all the memory that is kept at most while nobody uses it.
const KEPT_PART: usize = 4;

/// A fair pool of bytes: whoever waits longest is served first, however much others ask for.
#[derive(Debug)]
pub(super) struct Memory {
    free: Arc<Semaphore>,
    total: usize,
    piece: usize,
    state: Mutex<State>,
    /// Used again by the next batches; they are not counted, since every batch that is open or under way is.
    pub(super) buffers: Arc<Buffers>,
}

#[derive(Debug, Default)]
struct State {
    /// Given out, and not handed back to `free`.
    out: usize,
    /// Came back, and is not in `free` yet.
    held_back: usize,
    waiting: usize,
}

/// Bytes of the pool; they go back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    memory: Arc<Memory>,
    pub(super) bytes: usize,
}

impl Memory {
    pub(super) fn new(total: usize) -> Arc<Self> {
        let total = total.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(total)),
            total,
            piece: MAX_PIECE.min(total / 8),
            state: Mutex::default(),
            buffers: Buffers::new(total / KEPT_PART),
        })
    }

    /// Bytes that are free right now, unless others wait for them.
    pub(super) fn try_take(self: &Arc<Self>, bytes: u32) -> Option<Room> {
        self.free.try_acquire_many(bytes).ok()?.forget();
        Some(self.taken(bytes))
    }

    /// Waits in line for bytes; `None` once the pool is closed. Dropping the future leaves the line.
    pub(super) async fn take(self: &Arc<Self>, bytes: u32) -> Option<Room> {
        let _waiting = Waiting::new(self);
        self.free.acquire_many(bytes).await.ok()?.forget();
        Some(self.taken(bytes))
    }

    /// Whether anybody waits.
    pub(super) fn is_exhausted(&self) -> bool {
        self.state.lock().waiting > 0
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Bytes that nobody has.
    pub(super) fn available(&self) -> usize {
        self.free.available_permits() + self.state.lock().held_back
    }

    /// How many callers wait.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting
    }

    /// Nobody gets anything from now on.
    pub(super) fn close(&self) {
        self.free.close();
        self.buffers.clear();
    }

    fn taken(self: &Arc<Self>, bytes: u32) -> Room {
        self.state.lock().out += bytes as usize;
        Room { memory: self.clone(), bytes: bytes as usize }
    }

    fn give_back(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.held_back += bytes;
        // Once everything is back nothing more would come to complete a piece.
        if state.waiting == 0 || state.held_back >= self.piece || state.held_back >= state.out {
            self.hand_on(&mut state);
        }
    }

    fn hand_on(&self, state: &mut State) {
        let bytes = std::mem::take(&mut state.held_back);
        state.out -= bytes.min(state.out);
        self.free.add_permits(bytes);
    }
}

impl Room {
    /// Where the bytes' memory comes from and goes to.
    pub(super) fn buffers(&self) -> &Arc<Buffers> {
        &self.memory.buffers
    }

    /// Gives back what is beyond `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let spare = self.bytes.saturating_sub(bytes);
        self.bytes -= spare;
        if spare > 0 {
            self.memory.give_back(spare);
        }
    }

    /// Joins another room of the same pool to this one.
    pub(super) fn add(&mut self, mut more: Room) {
        self.bytes += std::mem::take(&mut more.bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

/// Counts a caller in line, for as long as it is.
struct Waiting<'a>(&'a Memory);

impl<'a> Waiting<'a> {
    fn new(memory: &'a Memory) -> Self {
        memory.state.lock().waiting += 1;
        Self(memory)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.waiting -= 1;
        if state.waiting == 0 {
            self.0.hand_on(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::pin::pin;

    #[tokio::test]
    async fn a_large_record_is_not_overtaken_by_small_ones() {
        let memory = Memory::new(100);
        let held = memory.try_take(60).unwrap();
        let mut large = pin!(memory.take(80));
        assert!(poll!(&mut large).is_pending());
        assert!(memory.try_take(10).is_none());
        drop(held);
        assert_eq!(large.await.unwrap().bytes, 80);
    }

    #[tokio::test]
    async fn whoever_stops_waiting_leaves_the_line() {
        let memory = Memory::new(100);
        let _held = memory.try_take(60).unwrap();
        {
            let mut large = pin!(memory.take(80));
            assert!(poll!(&mut large).is_pending());
            assert!(memory.is_exhausted());
        }
        assert!(!memory.is_exhausted());
        assert!(memory.try_take(40).is_some());
    }

    #[tokio::test]
    async fn a_waiter_is_woken_for_a_piece_and_not_for_each_batch() {
        let memory = Memory::new(800);
        let mut rooms: Vec<_> = (0..80).map(|_| memory.try_take(10).unwrap()).collect();
        let mut waiting = pin!(memory.take(10));
        assert!(poll!(&mut waiting).is_pending());
        for room in rooms.drain(..9) {
            drop(room);
        }
        assert!(poll!(&mut waiting).is_pending());
        drop(rooms.pop());
        assert!(poll!(&mut waiting).is_ready());
    }

    #[tokio::test]
    async fn what_is_held_back_comes_out_when_nothing_else_will() {
        let memory = Memory::new(800);
        let small = memory.try_take(20).unwrap();
        let mut all = pin!(memory.take(800));
        assert!(poll!(&mut all).is_pending());
        drop(small);
        assert!(poll!(&mut all).is_ready());
    }
}
