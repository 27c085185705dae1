//! Running a topology.

pub(crate) mod task;
