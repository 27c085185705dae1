//! Testing a topology without a broker: the real tasks, stores and commits on one thread.

mod driver;
mod example;
mod runner;

pub use driver::{DriverError, TestDriver, TestInput, TestOutput, TestRecord};
pub use example::{Example, ExampleValue};
pub use runner::{RawInput, SentRecords, TaskRunner};
