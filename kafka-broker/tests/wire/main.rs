//! Raw frames against a broker in memory: every API in every version it serves, and frames that no client should send.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests say what they expect"
)]

mod altered;
mod compaction;
mod connection;
mod fetch_sessions;
mod groups;
mod groups_consumer;
mod hostile;
mod long_poll;
mod nodes;
mod records;
mod restart;
mod share;
mod transactions;
mod versions;
