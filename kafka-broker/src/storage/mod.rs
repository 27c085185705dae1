//! Where bytes rest. The log knows files by name and position; whether they are in memory, on disk or on a disk that
//! fails is decided here.

mod disk;
mod faulty;
mod memory;

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use disk::Disk;
pub use faulty::MemoryDisk;
#[cfg(test)]
pub(crate) use faulty::{Fault, Faulty};
pub(crate) use memory::Memory;

/// A tree of files below one root. Paths are relative to it, with `/` between folder and file.
pub(crate) trait Storage: Send + Sync + fmt::Debug {
    /// Makes a folder, and the ones above it; an existing one is fine.
    fn create_folder(&self, folder: &str) -> io::Result<()>;
    /// The names in a folder (`""` is the root), in no order.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Opens a file for appending, and makes it if it is missing.
    fn open(&self, path: &str) -> io::Result<Box<dyn File>>;
    /// A small file's whole content, or `None` where there is none.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces a small file so that after a crash either the old or the new content is there, never a part.
    fn replace(&self, path: &str, content: &[u8]) -> io::Result<()>;
    /// Gives a file another name; one that has the name already is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; a missing one is fine.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Removes a folder and all in it; a missing one is fine.
    fn remove_folder(&self, folder: &str) -> io::Result<()>;
    /// Whether anything outlives the broker, so that indexes and snapshots are worth writing.
    fn is_durable(&self) -> bool;
    /// Whether its operations may wait for a device, so that long ones are better done off the threads that serve.
    fn may_block(&self) -> bool;
}

/// A file that only grows, except for [`truncate`](Self::truncate).
pub(crate) trait File: Send + Sync + fmt::Debug {
    /// Appends all of `bytes`, or fails and may leave a part of them behind: the caller truncates.
    fn append(&mut self, bytes: Bytes) -> io::Result<()>;
    /// The bytes from `at` on, at most `len` of them, in pieces that share memory with the file where they can.
    fn read_at(&self, at: u64, len: usize) -> io::Result<Vec<Bytes>>;
    /// The file's length in bytes.
    fn len(&self) -> u64;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// The file as it is now, to be read by whoever needs it for longer than its name lasts.
    fn reader(&self) -> Box<dyn File>;
    /// What makes the file durable, to be used by whoever may wait, without the file.
    fn sync_handle(&self) -> Arc<dyn SyncHandle>;
    /// Takes room on the device for a file that will grow to `bytes`, if that can be had: appends then find it, and a sync
    /// need not write down where it is (`preallocate`).
    fn reserve(&self, _bytes: u64) {}
    /// Lets go of what is in memory only for readers at the end, and of room that was not used, because no more is
    /// appended.
    fn seal(&mut self);
}

/// What a power cut leaves of the bytes at a file's end that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsyncedTail {
    /// So many of them, from the first one on.
    pub kept: u64,
    /// Then so many zeros: the file's length was on disk before its content was.
    pub zeros: u64,
}

/// Makes one file durable.
pub(crate) trait SyncHandle: Send + Sync + fmt::Debug {
    /// Returns when everything appended before the call would survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// Reads exactly `len` bytes as one piece; fewer are an error.
pub(crate) fn read_exact(file: &dyn File, at: u64, len: usize) -> io::Result<Bytes> {
    let mut pieces = file.read_at(at, len)?;
    let found: usize = pieces.iter().map(Bytes::len).sum();
    if found < len {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{found} of {len} bytes at position {at}"),
        ));
    }
    Ok(match pieces.len() {
        1 => pieces.remove(0),
        _ => Bytes::from(pieces.concat()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Append(Vec<u8>),
        Truncate(usize),
        Read(usize, usize),
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 1..3000).prop_map(Step::Append),
            1 => (0usize..20_000).prop_map(Step::Truncate),
            4 => (0usize..20_000, 0usize..5000).prop_map(|(at, len)| Step::Read(at, len)),
            1 => Just(Step::Reopen),
        ]
    }

    fn behaves_like_a_vec(storage: &dyn Storage, steps: Vec<Step>) -> Result<(), TestCaseError> {
        storage.create_folder("t-0").unwrap();
        let mut file = storage.open("t-0/f").unwrap();
        let mut model = Vec::new();
        for step in steps {
            match step {
                Step::Append(bytes) => {
                    model.extend_from_slice(&bytes);
                    file.append(bytes.into()).unwrap();
                }
                Step::Truncate(len) => {
                    let len = len.min(model.len());
                    model.truncate(len);
                    file.truncate(len as u64).unwrap();
                }
                Step::Read(at, len) => {
                    let end = (at + len).min(model.len());
                    let expected = model.get(at..end).unwrap_or_default();
                    prop_assert_eq!(file.read_at(at as u64, len).unwrap().concat(), expected);
                }
                Step::Reopen => {
                    drop(file);
                    file = storage.open("t-0/f").unwrap();
                }
            }
            prop_assert_eq!(file.len(), model.len() as u64);
        }
        storage.remove_folder("t-0").unwrap();
        Ok(())
    }

    proptest! {
        #[test]
        fn files_in_memory_and_on_disk_behave_like_a_vec(steps in proptest::collection::vec(step(), 1..40)) {
            behaves_like_a_vec(&Memory::default(), steps.clone())?;
            let folder = tempfile::tempdir().unwrap();
            behaves_like_a_vec(&Disk::new(folder.path()), steps)?;
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn room_that_was_reserved_and_not_used_is_given_back() {
        use std::os::unix::fs::MetadataExt;
        const RESERVED: u64 = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let mut file = Disk::new(folder.path()).open("f").unwrap();
        let taken = || std::fs::metadata(folder.path().join("f")).unwrap().blocks() * 512;
        file.reserve(RESERVED);
        if taken() == 0 {
            // Not every file system can.
            return;
        }
        file.append(Bytes::from_static(&[7; 5000])).unwrap();
        assert!(taken() >= RESERVED && file.len() == 5000);
        file.seal();
        assert!(taken() < RESERVED, "{}", taken());
        assert_eq!(file.read_at(0, 10_000).unwrap().concat(), [7; 5000]);
    }

    #[test]
    fn small_files_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        for storage in [&disk as &dyn Storage, &Memory::default()] {
            assert_eq!(storage.read("meta").unwrap(), None);
            storage.replace("meta", b"one").unwrap();
            storage.replace("meta", b"2").unwrap();
            assert_eq!(storage.read("meta").unwrap().as_deref(), Some(&b"2"[..]));
            storage.remove("meta").unwrap();
            storage.remove("meta").unwrap();
            assert_eq!(storage.read("meta").unwrap(), None);
        }
    }
}
