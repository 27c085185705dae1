//! Memory that batches are written to, kept for the next ones: a page of memory that was never touched costs more than
//! the records on it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller pieces are what allocators are good at.
const SMALLEST_KEPT: usize = 32 * 1024;
/// A buffer goes to a batch that will fill at least this part of it.
const LARGEST_WASTE: usize = 4;

/// Buffers that wait for another batch; the one that was used last, and is still in the processor's caches, goes first.
#[derive(Debug)]
pub(super) struct Buffers {
    idle: Mutex<Idle>,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct Idle {
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    /// No more than `most_bytes` wait.
    pub(super) fn new(most_bytes: usize) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), most_bytes })
    }

    /// One with room for `bytes`: one that was used before and is not much too large, or a new one.
    pub(super) fn take(&self, bytes: usize) -> Vec<u8> {
        self.take_idle(bytes).unwrap_or_else(|| Vec::with_capacity(size_class(bytes)))
    }

    fn take_idle(&self, bytes: usize) -> Option<Vec<u8>> {
        let fits = bytes..=bytes.saturating_mul(LARGEST_WASTE);
        if *fits.end() < SMALLEST_KEPT {
            return None;
        }
        let mut idle = self.idle.lock();
        let at = idle.buffers.iter().rposition(|buffer| fits.contains(&buffer.capacity()))?;
        let buffer = idle.buffers.remove(at)?;
        idle.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps the buffer, whose contents nobody needs any more, in place of those that nobody wanted for longest.
    pub(super) fn give(&self, buffer: Vec<u8>) {
        if buffer.capacity() < SMALLEST_KEPT || buffer.capacity() > self.most_bytes {
            return;
        }
        let mut unwanted = Vec::new();
        let mut idle = self.idle.lock();
        idle.bytes += buffer.capacity();
        idle.buffers.push_back(buffer);
        while idle.bytes > self.most_bytes {
            let Some(oldest) = idle.buffers.pop_front() else { break };
            idle.bytes -= oldest.capacity();
            unwanted.push(oldest);
        }
        // Given back to the allocator after the lock.
        drop(idle);
    }

    /// The buffer as `Bytes` that come back here when the last of them is dropped.
    pub(super) fn lend(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        if buffer.capacity() < SMALLEST_KEPT {
            return buffer.into();
        }
        Bytes::from_owner(Lent { buffer, home: self.clone() })
    }

    /// Lets go of everything that waits.
    pub(super) fn clear(&self) {
        *self.idle.lock() = Idle::default();
    }
}

/// Eight sizes from each power of two to the next, so that batches whose size drifts can use each other's buffers.
fn size_class(bytes: usize) -> usize {
    if bytes < SMALLEST_KEPT {
        return bytes;
    }
    let step = 1 << (bytes.ilog2() - 3);
    bytes.checked_next_multiple_of(step).unwrap_or(bytes)
}

struct Lent {
    buffer: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_slice_of_it_is_dropped() {
        let buffers = Buffers::new(1 << 20);
        let mut buffer = Vec::with_capacity(64 * 1024);
        buffer.extend_from_slice(b"records");
        let bytes = buffers.lend(buffer);
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert!(buffers.take_idle(64 * 1024).is_none());
        assert_eq!(&slice[..], b"co");
        drop(slice);
        assert!(buffers.take_idle(64 * 1024).is_some());
    }

    #[test]
    fn a_small_batch_does_not_get_a_large_buffer() {
        let buffers = Buffers::new(1 << 20);
        buffers.give(Vec::with_capacity(512 * 1024));
        assert!(buffers.take_idle(1024).is_none());
        assert!(buffers.take_idle(100 * 1024).is_none());
        assert!(buffers.take_idle(600 * 1024).is_none());
        assert!(buffers.take_idle(200 * 1024).is_some());
    }

    #[test]
    fn what_nobody_wants_makes_way() {
        let buffers = Buffers::new(300 * 1024);
        for _ in 0..4 {
            buffers.give(Vec::with_capacity(64 * 1024));
        }
        buffers.give(Vec::with_capacity(200 * 1024));
        assert!(buffers.take_idle(200 * 1024).is_some());
    }

    #[test]
    fn no_more_is_kept_than_was_said() {
        let buffers = Buffers::new(200 * 1024);
        for _ in 0..10 {
            buffers.give(Vec::with_capacity(64 * 1024));
        }
        let kept = std::iter::from_fn(|| buffers.take_idle(64 * 1024)).count();
        assert_eq!(kept, 3);
    }

    #[test]
    fn a_batch_that_is_a_little_larger_than_the_last_one_gets_its_buffer() {
        let buffers = Buffers::new(1 << 20);
        let first = buffers.take(140_000);
        let capacity = first.capacity();
        buffers.give(first);
        assert_eq!(buffers.take(141_000).capacity(), capacity);
        assert!(capacity < 160_000);
    }
}
