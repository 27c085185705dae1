//! Streams against the cluster.
