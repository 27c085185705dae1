//! Tables for people and JSON for programs.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// A table whose columns are as wide as their widest cell. Columns of numbers are right-aligned.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    numeric: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A name that begins with `#` marks a column of numbers.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.iter().map(|name| name.strip_prefix('#').unwrap_or(name)).collect(),
            numeric: header.iter().map(|name| name.starts_with('#')).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn print(&self) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(self.render().as_bytes())?;
        Ok(stdout.flush()?)
    }

    fn render(&self) -> String {
        let header: Vec<String> = self.header.iter().map(|name| name.to_uppercase()).collect();
        let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), &numeric) in row.iter().zip(&widths).zip(&self.numeric) {
                let gap = " ".repeat(width - cell.chars().count().min(width));
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match numeric {
                    true => line.extend([gap.as_str(), cell.as_str()]),
                    false => line.extend([cell.as_str(), gap.as_str()]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// One line of JSON on stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(value)
        .map_err(|error| Failure::failed(format!("cannot write the result as JSON: {error}")))?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}

/// One line of text on stdout.
pub(crate) fn print_line(text: impl AsRef<str>) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{}", text.as_ref())?)
}

/// One line on stderr, for people.
pub(crate) fn note(text: impl AsRef<str>) {
    // Nobody misses a note on a closed stderr.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// `1 record`, `2 records`, `5,000,000 records`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(n))
}

/// Digits in groups of three.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1,2,3`, `-` for nothing.
pub(crate) fn list(ids: &[i32]) -> String {
    if ids.is_empty() {
        return "-".to_owned();
    }
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tables_columns_are_aligned_and_its_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&["name", "#partitions", "note"]);
        table.row(["orders".to_owned(), "3".to_owned(), String::new()]);
        table.row(["é".to_owned(), "120".to_owned(), "x".to_owned()]);
        let expected = "NAME    PARTITIONS  NOTE\norders           3\né              120  x\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn counts_read_as_english() {
        assert_eq!(count(1, "record"), "1 record");
        assert_eq!(count(0, "record"), "0 records");
        assert_eq!(count(5_000_000, "record"), "5,000,000 records");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(list(&[]), "-");
        assert_eq!(list(&[1, 2]), "1,2");
    }
}
