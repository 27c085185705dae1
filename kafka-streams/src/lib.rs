//! kafka-streams
