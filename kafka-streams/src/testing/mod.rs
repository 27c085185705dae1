//! Testing a topology without a broker: the real tasks, stores and commits on one thread.

mod driver;
mod runner;

pub use driver::{DriverError, TestDriver, TestInput, TestOutput, TestRecord};
pub use runner::{RawInput, SentRecords, TaskRunner};
