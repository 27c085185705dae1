//! A buffer that keeps large payloads out of line, so that a request with record batches is encoded without copying them.
//!
//! `kafka-protocol` encodes a message into one [`BufMut`] and writes the batch bytes with `put_slice`. [`ScatterBuf`]
//! knows which `Bytes` the message holds; when a `put_slice` is exactly one of them (same address, same length), it
//! keeps the handle as a segment of its own instead of copying. The socket then gets all segments in one `writev`.
//!
//! The one module of this crate with `unsafe`: [`BufMut`] is an unsafe trait. The implementation only delegates to the
//! `BytesMut` inside, which upholds the contract; nothing here touches uninitialised memory itself.
#![expect(unsafe_code, reason = "BufMut is an unsafe trait; every method delegates to BytesMut")]

use std::ops::Range;

use bytes::buf::UninitSlice;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::buf::ByteBufMut;

/// Payloads below this size are copied: one more `iovec` costs the kernel about as much as copying them.
const MIN_SCATTERED_BYTES: usize = 512;

/// See the module's documentation.
pub(crate) struct ScatterBuf<'a> {
    inline: BytesMut,
    done: Vec<Bytes>,
    done_bytes: usize,
    payloads: std::slice::Iter<'a, Bytes>,
    next: Option<&'a Bytes>,
}

impl<'a> ScatterBuf<'a> {
    /// `payloads` are the `Bytes` inside the message, in the order in which it encodes them.
    pub(crate) fn new(inline: BytesMut, payloads: &'a [Bytes]) -> Self {
        let mut payloads = payloads.iter();
        let next = next_large(&mut payloads);
        Self { inline, done: Vec::new(), done_bytes: 0, payloads, next }
    }

    /// Everything written so far, as segments in order.
    pub(crate) fn into_segments(mut self) -> Vec<Bytes> {
        if !self.inline.is_empty() {
            self.done.push(self.inline.freeze());
        }
        self.done
    }

    /// How many bytes were written so far.
    pub(crate) fn len(&self) -> usize {
        self.done_bytes + self.inline.len()
    }

    fn keep(&mut self, payload: &Bytes) {
        if !self.inline.is_empty() {
            let inline = self.inline.split().freeze();
            self.done_bytes += inline.len();
            self.done.push(inline);
        }
        self.done_bytes += payload.len();
        self.done.push(payload.clone());
        self.next = next_large(&mut self.payloads);
    }
}

fn next_large<'a>(payloads: &mut std::slice::Iter<'a, Bytes>) -> Option<&'a Bytes> {
    payloads.find(|payload| payload.len() >= MIN_SCATTERED_BYTES)
}

// SAFETY: `remaining_mut`, `chunk_mut` and `advance_mut` delegate to `BytesMut`, whose implementation is sound; the
// overridden `put_slice` either delegates too or does not write into the buffer at all.
unsafe impl BufMut for ScatterBuf<'_> {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.inline.remaining_mut()
    }

    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller's promise about `count` initialised bytes is passed on unchanged.
        unsafe { self.inline.advance_mut(count) }
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.inline.chunk_mut()
    }

    fn put_slice(&mut self, source: &[u8]) {
        match self.next {
            Some(payload) if std::ptr::eq(payload.as_ref(), source) => self.keep(payload),
            _ => self.inline.extend_from_slice(source),
        }
    }
}

impl ByteBufMut for ScatterBuf<'_> {
    fn offset(&self) -> usize {
        self.inline.len()
    }

    fn seek(&mut self, offset: usize) {
        self.inline.resize(offset, 0);
    }

    fn range(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.inline[range]
    }
}
