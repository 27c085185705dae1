//! Raw frames against a broker in memory: every API in every version it serves, and frames that no client should send.

mod connection;
mod groups;
mod hostile;
mod long_poll;
mod records;
mod versions;
