//! Memory for large frames that is used again.
//!
//! A reader of large frames gives memory back about as fast as it takes some. General allocators do not hand it from one
//! thread to another, and keep it: with glibc, tasks that move among threads were seen to have twice as much resident as
//! they used.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::{Bytes, BytesMut};

/// Frames from this size on are worth it.
const LARGE_FRAME_BYTES: usize = 128 * 1024;
/// So many sizes lie between a power of two and the next, so that frames of about the same size fit into the same memory.
const SIZES: usize = 16;
/// The most that is kept without use.
const MAX_FREE_BYTES: usize = 64 * 1024 * 1024;
/// After so many small frames one piece of memory that nobody needed meanwhile is let go.
const PATIENCE: usize = 16;

/// Where decoders of one reader get memory from, and where it goes once no slice of a frame is left.
#[derive(Debug, Default)]
pub struct FrameMemory {
    free: Mutex<Vec<BytesMut>>,
    small_frames: AtomicUsize,
}

impl FrameMemory {
    /// An empty buffer with room for so much, or for little more.
    pub(crate) fn take(&self, room: usize) -> BytesMut {
        if room < LARGE_FRAME_BYTES {
            return BytesMut::with_capacity(room);
        }
        self.small_frames.store(0, Ordering::Relaxed);
        let size = rounded_up(room);
        let mut free = self.free();
        let fits = |buffer: &BytesMut| (size..=size + size / 8).contains(&buffer.capacity());
        if let Some(found) = free.iter().position(fits) {
            return free.swap_remove(found);
        }
        // What is taken anew is let go elsewhere.
        let mut let_go = 0;
        while let_go < size
            && let Some(buffer) = free.pop()
        {
            let_go += buffer.capacity();
        }
        drop(free);
        BytesMut::with_capacity(size)
    }

    /// The frame in `buffer`, which comes back when no slice of it is left.
    pub(crate) fn freeze(self: &Arc<Self>, buffer: BytesMut) -> Bytes {
        if buffer.capacity() < LARGE_FRAME_BYTES {
            return buffer.freeze();
        }
        Bytes::from_owner(Lent { buffer, owner: Arc::downgrade(self) })
    }

    /// A frame went by that needed nothing of this.
    pub(crate) fn pass(&self) {
        if self.small_frames.fetch_add(1, Ordering::Relaxed) >= PATIENCE {
            self.small_frames.store(0, Ordering::Relaxed);
            self.free().pop();
        }
    }

    fn give_back(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut free = self.free();
        let kept: usize = free.iter().map(BytesMut::capacity).sum();
        if kept + buffer.capacity() <= MAX_FREE_BYTES {
            free.push(buffer);
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<BytesMut>> {
        // Nothing in here can be left half done.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rounded_up(room: usize) -> usize {
    let step = (room.next_power_of_two() / 2 / SIZES).max(1);
    room.next_multiple_of(step)
}

/// A frame that is in use.
struct Lent {
    buffer: BytesMut,
    /// Who keeps records beyond the life of their reader does not keep what the reader had besides.
    owner: Weak<FrameMemory>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.give_back(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1024 * 1024;

    #[test]
    fn memory_is_used_again_for_frames_of_about_its_size_once_the_last_slice_is_gone() {
        let memory = Arc::new(FrameMemory::default());
        let mut buffer = memory.take(MB + 5);
        buffer.extend_from_slice(b"abc");
        let place = buffer.as_ptr();
        let frame = memory.freeze(buffer);
        let slice = frame.slice(1..);
        drop(frame);
        assert_eq!(&slice[..], b"bc");
        assert_ne!(memory.take(MB + 5).as_ptr(), place);
        drop(slice);
        let again = memory.take(MB + 100);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(again.capacity() <= MB + MB / 8);
    }

    #[test]
    fn what_nobody_needs_is_let_go() {
        let memory = Arc::new(FrameMemory::default());
        let frames: Vec<Bytes> = (0..100).map(|_| memory.freeze(memory.take(MB))).collect();
        drop(frames);
        let free = || memory.free().iter().map(BytesMut::capacity).sum::<usize>();
        assert_eq!(free(), MAX_FREE_BYTES);
        let other = memory.take(4 * MB);
        assert_eq!(free(), MAX_FREE_BYTES - 4 * MB);
        for _ in 0..=64 * (PATIENCE + 1) {
            memory.pass();
        }
        assert_eq!(free(), 0);
        let frame = memory.freeze(other);
        drop(memory);
        drop(frame);
    }

    #[test]
    fn rounding_up_costs_little() {
        for room in [LARGE_FRAME_BYTES, 200_001, MB, MB + 1, 3 * MB - 1, 50 * MB + 12_345] {
            let size = rounded_up(room);
            assert!(size >= room && size - room <= room / SIZES, "{room}: {size}");
        }
    }
}
