//! kafka-admin
