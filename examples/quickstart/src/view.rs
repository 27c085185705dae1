//! What a person sees while it runs: a live table on a terminal, plain lines elsewhere, nothing under `--json`.

use std::io::{self, IsTerminal, Stdout, Write};
use std::time::{Duration, Instant};

use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Row, Table};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

use crate::progress::{Progress, Summary};

/// Rows of the live view: a title, the table, the bar.
const HEIGHT: u16 = 15;
const TOP_WORDS: usize = 10;
/// How often plain lines are printed.
const PLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Where progress goes.
pub(crate) enum View {
    Live(Box<Terminal<CrosstermBackend<Stdout>>>),
    Plain { printed_at: Option<Instant> },
    Silent,
}

impl View {
    /// A live view if stdout is a terminal that can show one, plain lines if not.
    pub(crate) fn new(json: bool) -> Self {
        if json {
            return Self::Silent;
        }
        if io::stdout().is_terminal() {
            // Inline, so that the last state stays on the screen and Ctrl-C stays a signal.
            let options = TerminalOptions { viewport: Viewport::Inline(HEIGHT) };
            if let Ok(terminal) = Terminal::with_options(CrosstermBackend::new(io::stdout()), options) {
                return Self::Live(Box::new(terminal));
            }
        }
        Self::Plain { printed_at: None }
    }

    /// Says one line, above the table where there is one.
    pub(crate) fn say(&mut self, text: &str) {
        match self {
            Self::Live(terminal) => {
                let _ = terminal.insert_before(1, |buffer| {
                    buffer.set_string(0, 0, text, Style::default());
                });
            }
            Self::Plain { .. } => print_line(text),
            Self::Silent => {}
        }
    }

    /// Shows how far it is.
    pub(crate) fn update(&mut self, progress: &Progress, now: Instant) {
        match self {
            Self::Live(terminal) => {
                let _ = terminal.draw(|frame| draw(frame, progress, &progress.summary(now)));
            }
            Self::Plain { printed_at } => {
                if printed_at.is_none_or(|at| now.saturating_duration_since(at) >= PLAIN_INTERVAL) {
                    *printed_at = Some(now);
                    print_line(&plain_line(progress, &progress.summary(now)));
                }
            }
            Self::Silent => {}
        }
    }

    /// Leaves the terminal as a shell expects it.
    pub(crate) fn finish(&mut self) {
        if let Self::Live(terminal) = self {
            let _ = terminal.show_cursor();
            print_line("");
        }
    }
}

/// A closed stdout is no reason to stop counting.
fn print_line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn plain_line(progress: &Progress, summary: &Summary) -> String {
    let top: Vec<String> = progress
        .top(3)
        .into_iter()
        .map(|(word, count)| format!("{word} {}", grouped(count.unsigned_abs())))
        .collect();
    format!("{:>3.0} %  {}  top: {}", progress.fraction() * 100.0, rates(summary), top.join(", "))
}

fn rates(summary: &Summary) -> String {
    format!(
        "{} words, {}/s, latency p50 {} p99 {}",
        grouped(summary.words.unsigned_abs()),
        grouped(summary.words_per_second() as u64),
        millis(summary.p50),
        millis(summary.p99),
    )
}

fn draw(frame: &mut Frame<'_>, progress: &Progress, summary: &Summary) {
    let [title, table, bar] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Line::from(rates(summary)).bold(), title);
    let top = progress.top(TOP_WORDS);
    let largest = top.first().map_or(1, |&(_, count)| count.max(1));
    let rows = top.iter().map(|&(word, count)| {
        let length = (40 * count / largest).max(1).unsigned_abs() as usize;
        Row::new([word.to_owned(), grouped(count.unsigned_abs()), "█".repeat(length)])
    });
    let widths = [Constraint::Length(20), Constraint::Length(14), Constraint::Min(10)];
    let table_widget = Table::new(rows, widths)
        .header(Row::new(["word", "count", ""]).style(Style::new().fg(Color::DarkGray)))
        .block(Block::bordered().title(format!(" {} distinct words ", grouped(summary.distinct as u64))));
    frame.render_widget(table_widget, table);
    let label = format!(
        "{} of {} words",
        grouped(summary.words.unsigned_abs()),
        grouped(progress.words_total().unsigned_abs())
    );
    frame.render_widget(
        Gauge::default().ratio(progress.fraction()).label(label).gauge_style(Color::Cyan),
        bar,
    );
}

/// `41207` as `41,207`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A duration in milliseconds as a person reads it.
pub(crate) fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1000, 41_207, 1_234_567].map(grouped),
            ["0", "999", "1,000", "41,207", "1,234,567"]
        );
    }

    #[test]
    fn the_table_shows_the_top_words_and_how_far_it_is() {
        let now = Instant::now();
        let mut progress = Progress::new(2, 8, now);
        progress.record("kafka", 3);
        progress.record("rust", 1);
        let mut terminal = Terminal::new(TestBackend::new(80, HEIGHT)).unwrap();
        terminal
            .draw(|frame| draw(frame, &progress, &progress.summary(now + Duration::from_secs(1))))
            .unwrap();
        let screen = terminal.backend().to_string();
        for part in ["kafka", "rust", "2 distinct words", "4 of 8 words", "4 words, 4/s"] {
            assert!(screen.contains(part), "{part} is missing in\n{screen}");
        }
    }

    #[test]
    fn plain_lines_say_the_same() {
        let now = Instant::now();
        let mut progress = Progress::new(2, 8, now);
        progress.record("kafka", 4);
        let line = plain_line(&progress, &progress.summary(now + Duration::from_secs(2)));
        assert!(line.contains("50 %") && line.contains("4 words, 2/s") && line.contains("kafka 4"), "{line}");
    }
}
