//! What is counted: real text, line by line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// A line longer than this is fed in pieces, cut between words, so that any text fits a topic's `max.message.bytes`.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// Folders that hold no text of their own: version control and build output.
const SKIPPED_FOLDERS: [&str; 3] = [".git", "target", "node_modules"];

/// A file is text when its beginning holds no zero byte: what `grep` and `git` go by.
const SNIFFED_BYTES: usize = 8 * 1024;

/// The lines to feed, as slices of the files' bytes.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// Valid UTF-8 each.
    pub(crate) lines: Vec<Bytes>,
    /// Lines that were not UTF-8 and were read lossily.
    pub(crate) lossy_lines: u64,
    /// Files that were read.
    pub(crate) files: u64,
    /// Files that are not text.
    pub(crate) skipped_files: u64,
    /// Bytes of all lines.
    pub(crate) bytes: u64,
}

/// Why the input cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("{path} does not exist; --input takes a file or a folder")]
    Missing { path: PathBuf },
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
}

impl Input {
    /// Reads a file, or every text file below a folder in the order of their paths.
    pub(crate) fn read(path: &Path) -> Result<Self, InputError> {
        let unreadable = |source| InputError::Unreadable { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => InputError::Missing { path: path.to_owned() },
            _ => unreadable(error),
        })?;
        let mut input = Self::default();
        if metadata.is_dir() {
            input.read_folder(path)?;
        } else {
            input.add_file(fs::read(path).map_err(unreadable)?);
        }
        Ok(input)
    }

    fn read_folder(&mut self, folder: &Path) -> Result<(), InputError> {
        let unreadable = |source| InputError::Unreadable { path: folder.to_owned(), source };
        let mut entries = fs::read_dir(folder)
            .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
            .map_err(unreadable)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // Links are not followed: a link to a parent would never end.
            let kind =
                entry.file_type().map_err(|source| InputError::Unreadable { path: path.clone(), source })?;
            if kind.is_dir() && !SKIPPED_FOLDERS.iter().any(|skipped| entry.file_name() == *skipped) {
                self.read_folder(&path)?;
            } else if kind.is_file() {
                let bytes = fs::read(&path).map_err(|source| InputError::Unreadable { path, source })?;
                if bytes.iter().take(SNIFFED_BYTES).any(|&byte| byte == 0) {
                    self.skipped_files += 1;
                } else {
                    self.add_file(bytes);
                }
            }
        }
        Ok(())
    }

    fn add_file(&mut self, bytes: Vec<u8>) {
        self.files += 1;
        let bytes = Bytes::from(bytes);
        for line in bytes.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match std::str::from_utf8(line) {
                Ok(_) => self.add_line(&bytes.slice_ref(line)),
                Err(_) => {
                    self.lossy_lines += 1;
                    self.add_line(&Bytes::from(String::from_utf8_lossy(line).into_owned()));
                }
            }
        }
    }

    fn add_line(&mut self, line: &Bytes) {
        let mut rest = line.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(piece_length(&rest));
            self.bytes += piece.len() as u64;
            self.lines.push(piece);
        }
    }
}

/// How much of `line`, which is valid UTF-8, goes into one record: all of it, or up to the last space that fits. Text
/// without any space is cut between characters, and then the piece is what counts as a word.
fn piece_length(line: &[u8]) -> usize {
    if line.len() <= MAX_LINE_BYTES {
        return line.len();
    }
    let head = &line[..MAX_LINE_BYTES];
    let at_space = head.iter().rposition(|&byte| byte == b' ').map(|at| at + 1);
    let at_character =
        || (0..=MAX_LINE_BYTES).rev().find(|&at| !is_continuation(line[at])).unwrap_or(MAX_LINE_BYTES);
    at_space.unwrap_or_else(at_character).max(1)
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &Input) -> Vec<&str> {
        input.lines.iter().map(|line| std::str::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_split_and_bad_utf8_is_read_lossily_and_counted() {
        let mut input = Input::default();
        input.add_file(b"one two\r\n\nthr\xffee\nlast".to_vec());
        assert_eq!(lines(&input), ["one two", "thr\u{fffd}ee", "last"]);
        assert_eq!((input.lossy_lines, input.files), (1, 1));
    }

    #[test]
    fn endless_lines_are_cut_between_words_and_lose_nothing() {
        let text = "word ".repeat(200_000);
        let mut input = Input::default();
        input.add_file(text.clone().into_bytes());
        assert!(input.lines.len() > 1);
        assert!(input.lines.iter().all(|line| line.len() <= MAX_LINE_BYTES && line.ends_with(b" ")));
        assert_eq!(lines(&input).concat(), text);
    }

    #[test]
    fn endless_words_are_cut_between_characters() {
        let mut input = Input::default();
        input.add_file("ü".repeat(MAX_LINE_BYTES).into_bytes());
        assert!(input.lines.len() > 1);
        assert_eq!(lines(&input).concat().chars().count(), MAX_LINE_BYTES);
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = Input::read(Path::new("/no/such/path")).unwrap_err();
        assert!(error.to_string().contains("/no/such/path"), "{error}");
    }

    #[test]
    fn folders_are_walked_without_binary_files_and_build_output() {
        let folder = std::env::temp_dir().join(format!("quickstart-input-{}", std::process::id()));
        fs::create_dir_all(folder.join("target")).unwrap();
        fs::write(folder.join("a.txt"), "from a").unwrap();
        fs::write(folder.join("b.bin"), b"\0\x01").unwrap();
        fs::write(folder.join("target/c.txt"), "built").unwrap();
        let input = Input::read(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(lines(&input), ["from a"]);
        assert_eq!((input.files, input.skipped_files), (1, 1));
    }
}
