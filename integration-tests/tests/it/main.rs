//! The suite. `cargo test -p integration-tests` runs it on the embedded broker; `cargo xtask test` also on Apache Kafka.

mod admin_groups;
mod cancel_safety;
mod child_broker;
mod consume;
mod consume_committed;
mod consume_engine;
mod consume_streams;
mod consumer_metrics;
mod cuts;
mod disk_failure;
mod exactly_once;
mod group_liveness;
mod groups;
mod hostile;
mod interop;
mod nodes;
mod produce;
mod quotas;
mod restart;
mod share;
mod share_java;
mod simulation;
mod streams;
mod topics;
mod transactions;
mod transactions_java;
