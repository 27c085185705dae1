//! What happens to a record that cannot be read or processed (KIP-1033), and where it goes (KIP-1034).

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::{Header, Headers};

use crate::error::StreamsError;
use crate::processor::RawRecord;

/// What to do with an input record whose bytes are not what the topology says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeserializationHandler {
    /// Stop, so that nothing is lost unseen. The default, as Java's `LogAndFailExceptionHandler`.
    #[default]
    Fail,
    /// Log a warning and leave the record out, as Java's `LogAndContinueExceptionHandler`.
    LogAndContinue,
}

/// What to do when the application's code fails with an error: a `try_` operator, a processor or a punctuator
/// (`processing.exception.handler`).
///
/// To go on is to leave the record out at the operator that failed; what other operators made of it before stays.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum ProcessingHandler {
    /// Stop, so that nothing is lost unseen. The default, as Java's `LogAndFailProcessingExceptionHandler`.
    #[default]
    Fail,
    /// Log a warning and leave the record out, as Java's `LogAndContinueProcessingExceptionHandler`.
    LogAndContinue,
    /// Ask this function.
    Custom(Arc<dyn Fn(&FailedRecord<'_>) -> ErrorAction + Send + Sync>),
}

impl ProcessingHandler {
    /// Asks a function.
    pub fn custom(decide: impl Fn(&FailedRecord<'_>) -> ErrorAction + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(decide))
    }
}

impl fmt::Debug for ProcessingHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fail => "Fail",
            Self::LogAndContinue => "LogAndContinue",
            Self::Custom(_) => "Custom",
        })
    }
}

/// What could not be processed, as a [`ProcessingHandler`] sees it.
#[derive(Debug)]
#[non_exhaustive]
pub struct FailedRecord<'a> {
    /// What went wrong, and where: [`StreamsError::Processing`].
    pub error: &'a StreamsError,
    /// The key of the input record that led to it, as it was read; `None` in punctuators too.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a Headers,
    /// Its timestamp, in milliseconds since 1970; -1 in punctuators.
    pub timestamp: i64,
}

/// What a handler decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorAction {
    resume: bool,
    dead_letter: Option<Arc<str>>,
}

impl ErrorAction {
    /// Stops the application.
    pub fn fail() -> Self {
        Self { resume: false, dead_letter: None }
    }

    /// Leaves the record out and goes on.
    pub fn resume() -> Self {
        Self { resume: true, dead_letter: None }
    }

    /// Writes the input record to this topic too, with headers that say what went wrong.
    pub fn dead_letter(mut self, topic: impl AsRef<str>) -> Self {
        self.dead_letter = Some(Arc::from(topic.as_ref()));
        self
    }
}

/// Everything that is decided about errors, for all tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct ErrorHandling {
    pub(crate) deserialization: DeserializationHandler,
    pub(crate) processing: ProcessingHandler,
    /// `errors.dead.letter.queue.topic.name`
    pub(crate) dead_letter: Option<Arc<str>>,
}

/// A decision as a task carries it out.
pub(crate) struct Verdict {
    pub(crate) resume: bool,
    pub(crate) dead_letter: Option<(Arc<str>, DeadLetter)>,
}

pub(crate) struct DeadLetter {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) timestamp: i64,
    pub(crate) headers: Headers,
}

impl ErrorHandling {
    pub(crate) fn decide(&self, error: &StreamsError, record: Option<&RawRecord>) -> Verdict {
        let action = match error {
            StreamsError::Deserialize { .. } => {
                let resume = self.deserialization == DeserializationHandler::LogAndContinue;
                ErrorAction { resume, dead_letter: self.dead_letter.clone() }
            }
            StreamsError::Processing { .. } => match &self.processing {
                ProcessingHandler::Custom(decide) => {
                    let nothing = Headers::default();
                    decide(&FailedRecord {
                        error,
                        key: record.and_then(|record| record.key.as_deref()),
                        value: record.and_then(|record| record.value.as_deref()),
                        headers: record.map_or(&nothing, |record| &record.headers),
                        timestamp: record.map_or(-1, |record| record.timestamp),
                    })
                }
                handler => {
                    let resume = matches!(handler, ProcessingHandler::LogAndContinue);
                    ErrorAction { resume, dead_letter: self.dead_letter.clone() }
                }
            },
            _ => ErrorAction::fail(),
        };
        // A punctuator has no record that a dead letter could be.
        let dead_letter = action.dead_letter.zip(record);
        Verdict {
            resume: action.resume,
            dead_letter: dead_letter.map(|(topic, record)| (topic, dead_letter_of(error, record))),
        }
    }
}

/// The input record with headers of the names and in the order of Java's `ExceptionHandlerUtils`. What Java says with
/// class names and a stack trace is here the kind of error and the chain of its causes.
fn dead_letter_of(error: &StreamsError, record: &RawRecord) -> DeadLetter {
    let (kind, position) = match error {
        StreamsError::Deserialize { position, .. } => ("Deserialize", Some(position)),
        StreamsError::Processing { position, .. } => ("Processing", Some(position)),
        _ => ("Other", None),
    };
    let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let mut trace = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        trace.push_str("\ncaused by: ");
        trace.push_str(&cause.to_string());
        next = cause.source();
    }
    let text =
        |name: &'static str, value: String| Header { key: name.into(), value: Some(Bytes::from(value)) };
    let mut headers = record.headers.to_vec();
    headers.push(text("__streams.errors.exception", kind.to_owned()));
    headers.push(text("__streams.errors.message", cause));
    headers.push(text("__streams.errors.stacktrace", trace));
    if let Some(position) = position {
        headers.push(text("__streams.errors.topic", position.partition.topic.to_string()));
        headers.push(text("__streams.errors.partition", position.partition.partition.to_string()));
        headers.push(text("__streams.errors.offset", position.offset.to_string()));
    }
    DeadLetter {
        key: record.key.clone(),
        value: record.value.clone(),
        timestamp: record.timestamp,
        headers: headers.into_iter().collect(),
    }
}
