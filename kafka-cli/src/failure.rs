//! How a command ends when it does not end well.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command did not do what it was asked to, by exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Exit code 2: an argument that cannot be used.
    Usage(String),
    /// Exit code 130, as shells report a program ended by Ctrl-C.
    Interrupted,
    /// Whoever read stdout has gone away, as `head` does when it has enough. Exit code 0, nothing to say.
    OutputClosed,
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// A failure with its causes, for instance `cannot listen on 127.0.0.1:9092: Address already in use`.
    pub(crate) fn caused(error: &dyn Error) -> Self {
        Self::Failed(with_causes(error))
    }

    /// That of everything that failed, if anything did.
    pub(crate) fn all(messages: Vec<String>) -> Result<(), Self> {
        if messages.is_empty() { Ok(()) } else { Err(Self::Failed(messages.join("\nkafka: "))) }
    }

    /// Says what happened on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        let (message, code) = match self {
            Self::Failed(message) => (Some(message), 1),
            Self::Usage(message) => (Some(message), 2),
            Self::Interrupted => (None, 130),
            Self::OutputClosed => (None, 0),
        };
        if let Some(message) = message {
            // When stderr is closed too there is nobody left to tell.
            let _ = writeln!(io::stderr(), "kafka: {message}");
        }
        ExitCode::from(code)
    }
}

/// An error's message followed by those of its causes that the message does not already contain.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}

/// Of writing to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("cannot write to stdout: {error}")),
        }
    }
}

impl From<kafka_admin::AdminError> for Failure {
    fn from(error: kafka_admin::AdminError) -> Self {
        Self::caused(&error)
    }
}

impl From<kafka_client::RequestError> for Failure {
    fn from(error: kafka_client::RequestError) -> Self {
        Self::caused(&error)
    }
}

impl From<kafka_client::ConfigError> for Failure {
    fn from(error: kafka_client::ConfigError) -> Self {
        Self::Usage(with_causes(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_are_told_once() {
        let inner = Layer { text: "refused", source: None };
        let middle = Layer { text: "no route", source: Some(Box::new(inner)) };
        let outer = Layer { text: "failed: no route", source: Some(Box::new(middle)) };
        assert_eq!(with_causes(&outer), "failed: no route: refused");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(closed, Failure::OutputClosed));
    }
}
