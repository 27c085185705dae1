//! W3C trace context in record headers, so that a trace goes on where the record is consumed.

use std::fmt;
use std::str::FromStr;

use super::interceptor::ProducerInterceptor;
use super::record::Record;

/// The header's name (W3C Trace Context, section 3.2).
pub const TRACEPARENT: &str = "traceparent";

/// A position in a trace: what the `traceparent` header says.
///
/// ```
/// use kafka_client::producer::TraceParent;
/// let parent: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?;
/// assert!(parent.sampled);
/// # Ok::<(), kafka_client::producer::InvalidTraceParent>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Names the trace; not 0.
    pub trace_id: u128,
    /// Names the span that sends; not 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

/// The text is no `traceparent` of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent of W3C trace context")]
pub struct InvalidTraceParent;

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut fields = text.split('-');
        let mut next = |digits: usize| {
            fields
                .next()
                .filter(|field| field.len() == digits)
                .filter(|field| field.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
                .and_then(|field| u128::from_str_radix(field, 16).ok())
                .ok_or(InvalidTraceParent)
        };
        let version = next(2)?;
        let (trace_id, span_id, flags) = (next(32)?, next(16)? as u64, next(2)?);
        if version != 0 || trace_id == 0 || span_id == 0 || fields.next().is_some() {
            return Err(InvalidTraceParent);
        }
        Ok(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// Adds the sender's `traceparent` to each record that has none.
///
/// ```no_run
/// # fn f(client: kafka_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use kafka_client::producer::{TraceContext, TraceParent};
///
/// /// Ask your tracing library, for instance `opentelemetry::Context::current().span().span_context()`.
/// fn current() -> Option<TraceParent> { None }
/// let producer = client.producer().interceptor(TraceContext::new(current)).build()?;
/// # Ok(()) }
/// ```
pub struct TraceContext<F>(F);

impl<F: Fn() -> Option<TraceParent> + Send + Sync> TraceContext<F> {
    /// `current` tells the position of whoever sends; `None` outside of traces.
    pub fn new(current: F) -> Self {
        Self(current)
    }
}

impl<F: Fn() -> Option<TraceParent> + Send + Sync> ProducerInterceptor for TraceContext<F> {
    fn on_send<'a>(&self, record: Record<'a>) -> Record<'a> {
        if record.headers().iter().any(|header| &*header.key == TRACEPARENT) {
            return record;
        }
        match (self.0)() {
            Some(parent) => record.header(TRACEPARENT, parent.to_string()),
            None => record,
        }
    }
}

impl<F> fmt::Debug for TraceContext<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TraceContext")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_written_as_it_was_read() {
        assert_eq!(EXAMPLE.parse::<TraceParent>().unwrap().to_string(), EXAMPLE);
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(text.parse::<TraceParent>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_record_gets_the_senders_position_unless_it_has_one() {
        let interceptor = TraceContext::new(|| EXAMPLE.parse().ok());
        let headers = |record: Record<'_>| interceptor.on_send(record).headers().to_vec();
        let added = headers(Record::to("t"));
        assert_eq!((&*added[0].key, added[0].value.as_deref()), (TRACEPARENT, Some(EXAMPLE.as_bytes())));
        let own = headers(Record::to("t").header(TRACEPARENT, "own"));
        assert_eq!(own[0].value.as_deref(), Some(&b"own"[..]));
        assert_eq!(own.len(), 1);
    }
}
