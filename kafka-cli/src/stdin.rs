//! Lines of stdin as bytes, read by a thread of its own so that a quiet terminal blocks nothing.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// How much is read at once.
const CHUNK: usize = 256 * 1024;
/// Chunks that wait to be sent; the reader pauses beyond that.
const CHUNKS_AHEAD: usize = 4;
/// No line may be longer: more than any broker takes by default, and a bound on memory.
const MAX_LINE: usize = 64 * 1024 * 1024;

/// Whole lines, each ended by a newline but the last one of the input.
pub(crate) fn lines() -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    std::thread::spawn(move || {
        let mut splitter = Splitter::new(io::stdin().lock());
        while let Some(chunk) = splitter.next_chunk().transpose() {
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Cuts what is read behind the last newline.
struct Splitter<R> {
    input: R,
    buffer: BytesMut,
    ended: bool,
}

impl<R: Read> Splitter<R> {
    fn new(input: R) -> Self {
        Self { input, buffer: BytesMut::new(), ended: false }
    }

    /// The next whole lines, as soon as there is one; `None` at the end.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        while !self.ended {
            let searched = self.buffer.len();
            self.buffer.resize(searched + CHUNK, 0);
            let read = match self.input.read(self.buffer.get_mut(searched..).unwrap_or_default()) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            self.ended = read == 0;
            self.buffer.truncate(searched + read);
            let fresh = self.buffer.get(searched..).unwrap_or_default();
            if let Some(newline) = fresh.iter().rposition(|&byte| byte == b'\n') {
                return Ok(Some(self.buffer.split_to(searched + newline + 1).freeze()));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(io::Error::other(format!("a line is longer than {MAX_LINE} bytes")));
            }
        }
        Ok(Some(std::mem::take(&mut self.buffer).freeze()).filter(|rest| !rest.is_empty()))
    }
}

/// The lines of a chunk, without their newlines.
pub(crate) fn split_lines(chunk: &Bytes) -> impl Iterator<Item = &[u8]> {
    let body = chunk.strip_suffix(b"\n").unwrap_or(chunk);
    body.split(|&byte| byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, as a terminal does.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buffer.len());
            let (head, rest) = self.0.split_at(n);
            buffer[..n].copy_from_slice(head);
            self.0 = rest;
            Ok(n)
        }
    }

    fn read(input: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new(Slow(input, step));
        let mut lines = Vec::new();
        while let Some(chunk) = splitter.next_chunk().unwrap() {
            lines.extend(split_lines(&chunk).map(<[u8]>::to_vec));
        }
        lines
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        for step in [1, 2, 3, 100] {
            assert_eq!(read(b"one\n\ntwo\xff\nthree", step), [&b"one"[..], b"", b"two\xff", b"three"]);
            assert_eq!(read(b"one\n", step), [b"one"]);
            assert_eq!(read(b"\n\n", step), [b"", b""]);
            assert!(read(b"", step).is_empty());
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let mut splitter = Splitter::new(io::repeat(b'x'));
        let error = splitter.next_chunk().unwrap_err();
        assert!(error.to_string().contains("longer"), "{error}");
    }
}
