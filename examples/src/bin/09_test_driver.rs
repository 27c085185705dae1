//! Test a topology without a broker: the real tasks, stores and commits, on records and times that the test chooses.
//!
//! In your project this is a `#[test]`; a topology is a plain function, used by the test and by the application.

use std::error::Error;

use kafka_streams::testing::TestDriver;
use kafka_streams::{InvalidTopology, Store, StreamsBuilder, Topology};

/// The sum of each account's payments; refunds and unreadable amounts are left out.
fn balances() -> Result<Topology, InvalidTopology> {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>("payments")
        .map_values(|_, amount| amount.parse::<i64>().unwrap_or_default())
        .filter(|_, amount| *amount > 0)
        .group_by_key("by-account")
        .reduce(|total, amount| total + amount, Store::kv("balances"))
        .to_stream()
        .to("balance-changes");
    builder.build()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut driver = TestDriver::new(&balances()?)?;

    let mut payments = driver.input::<String, String>("payments");
    payments.pipe("ann".to_owned(), "10".to_owned(), 1_000)?;
    payments.pipe("bob".to_owned(), "5".to_owned(), 2_000)?;
    payments.pipe("ann".to_owned(), "a lot".to_owned(), 3_000)?;
    payments.pipe("ann".to_owned(), "7".to_owned(), 4_000)?;

    let changes = driver.output::<String, i64>("balance-changes").read_records()?;
    for change in &changes {
        println!("{} at {} ms: {}", change.key, change.timestamp, change.value);
    }
    let changes: Vec<_> = changes.iter().map(|c| (c.key.as_str(), c.value, c.timestamp)).collect();
    assert_eq!(changes, [("ann", 10, 1_000), ("bob", 5, 2_000), ("ann", 17, 4_000)]);

    // The store can be looked into, and so can what would be its changelog topic.
    let balance = driver.store::<String, i64>("balances")?.get(&"ann".to_owned())?;
    assert_eq!(balance, Some(17));

    // A crash: the tasks are gone, their state comes back from the changelog, and counting goes on.
    driver.crash_and_restore()?;
    driver.input::<String, String>("payments").pipe("ann".to_owned(), "3".to_owned(), 5_000)?;
    let after = driver.output::<String, i64>("balance-changes").read_all()?;
    println!("after a crash: {after:?}");
    assert_eq!(after, [("ann".to_owned(), 20)]);
    Ok(())
}
