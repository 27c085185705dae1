//! kafka-broker
