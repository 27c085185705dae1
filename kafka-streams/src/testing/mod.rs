//! Testing a topology without a broker: the real tasks, stores and commits on one thread.

mod driver;

pub use driver::{DriverError, TestDriver, TestInput, TestOutput, TestRecord};
